"""`app`: the playground in the browser."""

from pathlib import Path
from typing import Annotated

import typer

from adjointdpm.cli.options import Run, option
from adjointdpm.cli.terminal import console, quiet


def app(
    model: Annotated[str, option(Run, "model")] = Run.model,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            help="A metric of your own for the page's menus, file.py:function or NAME:key=value,… "
            "Repeatable."
        ),
    ] = None,
    victim: Annotated[
        list[str] | None,
        typer.Option(help="A classifier of your own to audit, file.py:function. Repeatable."),
    ] = None,
    device: Annotated[str | None, option(Run, "device")] = None,
    dtype: Annotated[str, option(Run, "dtype")] = Run.dtype,
    variant: Annotated[str | None, option(Run, "variant")] = None,
    out: Annotated[Path, typer.Option(help="Folder of the run folders.")] = Path("runs/app"),
    host: Annotated[
        str,
        typer.Option(
            help="Address to serve at; other than this machine's own asks for a password."
        ),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 7860,
    password: Annotated[
        str | None,
        typer.Option(
            envvar="ADJOINTDPM_PASSWORD",
            help="Password of the page, for the user adjointdpm. Without it, off this machine, one "
            "is made and printed.",
        ),
    ] = None,
) -> None:
    """Open the playground: a page on this machine that runs these commands and shows them live.

    It needs the extra `app`, and sends nothing anywhere.
    """
    from adjointdpm.app.job_queue import JobQueue
    from adjointdpm.app.security import password_for
    from adjointdpm.app.server import Address, check_gradio, check_runs, open_page
    from adjointdpm.app.worker import ensure_worker

    check_gradio()
    password_for(host, password)  # a short one is refused now
    queue = JobQueue(check_runs(out))
    ensure_worker(queue)  # it loads what the runs need while the page is made
    from adjointdpm import metrics
    from adjointdpm.app.offers import offers_for
    from adjointdpm.app.server import USER
    from adjointdpm.app.session import Session

    for text in metric or []:
        metrics.resolve(text)  # a mistake is said now, and not at the first run
    given = {"model": model, "device": device, "dtype": dtype, "variant": variant}
    usual = {"model": Run.model, "device": None, "dtype": Run.dtype, "variant": None}
    words = [f"--{name}={value}" for name, value in given.items() if value != usual[name]]
    if words:
        quiet()
        console.print(f"looking at {model} …", markup=False, highlight=False)
    session = Session(queue, words, offers_for(words), metric or [], victim or [])
    page, url, secret = open_page(session, Address(host=host, port=port, password=password))
    typer.echo(f"The page is at {url}; Ctrl-C closes it, and what runs goes on.")
    if secret is not None:
        typer.echo(f"User {USER}, password {secret if password is None else 'as you gave it'}")
    page.block_thread()
