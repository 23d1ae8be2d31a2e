"""`python -m benchmarks.gradients`: what is claimed about gradients, measured again."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from adjointdpm.cli import options
from adjointdpm.cli.terminal import console, quiet, tell
from adjointdpm.errors import AdjointDPMError

app = typer.Typer(help="Measure what the documentation claims.")


@app.command()
def gradients(
    models: Annotated[list[str], typer.Option(help="tiny or fashion. Repeatable.")] = ["tiny"],  # noqa: B006 - typer copies it
    guidance: Annotated[
        list[float],
        typer.Option(help="Guidance scales; without it, all registered ones. Repeatable."),
    ] = [],  # noqa: B006
    steps: Annotated[
        list[int],
        typer.Option(help="N, network calls; without it, all registered ones. Repeatable."),
    ] = [],  # noqa: B006
    samplers: Annotated[
        list[str], typer.Option(help="Registered samplers; without it, all. Repeatable.")
    ] = [],  # noqa: B006
    methods: Annotated[
        list[str], typer.Option(help="Only methods with this in their names. Repeatable.")
    ] = [],  # noqa: B006
    pairs: Annotated[
        int | None, typer.Option(min=1, help="How many of the registered pairs, from the first.")
    ] = None,
    parts: Annotated[
        list[str],
        typer.Option(help="inputs (noise, embedding) or weights (LoRA, weights too). Repeatable."),
    ] = ["inputs"],  # noqa: B006
    errors: Annotated[bool, typer.Option(help="Measure errors.")] = True,
    ode: Annotated[
        bool, typer.Option(help="Also against the converged ODE, which takes long.")
    ] = True,
    costs: Annotated[bool, typer.Option(help="Measure costs; for an idle machine.")] = True,
    minutes: Annotated[
        float | None,
        typer.Option(min=0, help="Stop after this time; 0 only writes the tables again."),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Pictures in one pass.")] = 4,
    competitors: Annotated[
        Path | None,
        typer.Option(
            help="benchmarks/competitors.py: other libraries' methods, those that are installed."
        ),
    ] = None,
    fashion: Annotated[Path, typer.Option(help="Where training/fashion.py put its model.")] = Path(
        "training/work/fashion"
    ),
    registration: Annotated[Path | None, typer.Option(help="Another registration file.")] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 1,
    out: Annotated[Path, typer.Option(help="Folder for measurements, tables and figure.")] = Path(
        "runs/bench-gradients"
    ),
    page: Annotated[
        Path | None,
        typer.Option(
            help="Page that the figures are written into, such as docs/gradients.md; the tables of "
            "each setting go into a folder beside it."
        ),
    ] = None,
    figure: Annotated[
        Path | None, typer.Option(help="Also draw the figure here, an SVG or PNG.")
    ] = None,
    resume: options.Resume = False,
    force: options.Force = False,
) -> None:
    """Error of every gradient method against exact and against the converged ODE, and what each
    costs; as registered beforehand.
    """
    quiet()
    import torch

    from adjointdpm.errors import UnknownNameError
    from benchmarks.gradients.figure import check_figure
    from benchmarks.gradients.methods import registered as registered_methods
    from benchmarks.gradients.registration import REGISTERED, Registration
    from benchmarks.gradients.report import check_page
    from benchmarks.gradients.results import Results
    from benchmarks.gradients.run import Selection

    options.check_device(device)
    if page is not None:
        check_page(page)
    if figure is not None:
        check_figure(figure)
    torch.set_num_threads(threads)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = (
        False  # float32 is float32
    )
    registered = Registration(registration or REGISTERED)
    known: dict[str, tuple[list[Any], list[Any]]] = {
        "--models": (models, registered.models),
        "--parts": (parts, ["inputs", "weights"]),
        "--guidance": (guidance, [float(g) for g in registered.content["guidance"]]),
        "--steps": (steps, registered.content["calls"]),
        "--samplers": (samplers, list(registered.content["samplers"])),
    }
    for flag, (given, allowed) in known.items():
        for value in given:
            if value not in allowed:
                raise UnknownNameError(
                    f"{flag} {value} is not registered; choose of {', '.join(map(str, allowed))}"
                )
    selection = Selection(
        guidance=guidance or None,
        calls=steps or None,
        samplers=samplers or None,
        methods=methods or None,
        pairs=pairs,
        parts=parts,  # pyright: ignore[reportArgumentType]
        batch=batch,
        ode=ode,
        extra=None if competitors is None else _competitors(competitors),
    )
    names = {
        m.name
        for s in registered.settings()
        for m in [*registered_methods(registered.content, s), *(selection.extra or _none)(s)]
    }
    for text in methods:
        if not any(text in name for name in names):
            raise UnknownNameError(
                f"--methods {text!r} is in the name of no method; there are: "
                f"{', '.join(sorted(names))}"
            )
    results = Results(out / "measurements.jsonl", resume=resume, force=force)
    complete = _measure(
        models, registered, selection, results, minutes, device, fashion, errors, costs
    )
    _write(registered, results, out, page, figure)
    tell(
        f"Measurements: {results.path}\nTables: {out / 'gradients.md'}"
        + ("" if complete else "\nTime is up; go on with --resume")
    )


def _measure(
    models: list[str],
    registered: Any,
    selection: Any,
    results: Any,
    minutes: float | None,
    device: str,
    fashion: Path,
    errors: bool,
    costs: bool,
) -> bool:
    """Whether everything selected is there now."""
    from benchmarks.gradients.cost import measure_costs
    from benchmarks.gradients.report import machine
    from benchmarks.gradients.run import Clock, check_weights, measure_errors

    clock = Clock(minutes)
    if clock.over:
        return True
    results.add({"kind": "run", "registration": registered.digest, "machine": machine(device)}, {})
    for name in models:
        workload = _workload(name, registered.metrics(name), device, fashion)
        check_weights(workload, registered, results)
        if costs and not measure_costs(
            workload, registered, selection, results, clock, report=console.print
        ):
            return False
        if errors and not measure_errors(
            workload, registered, selection, results, clock, report=console.print
        ):
            return False
    return True


def _workload(name: str, metrics: dict[str, str], device: str, fashion: Path) -> Any:
    if name == "fashion":
        from benchmarks.gradients.fashion import load_fashion

        return load_fashion(fashion, metrics, device)
    from benchmarks.gradients.tiny import load_tiny

    return load_tiny(metrics, device)


def _none(setting: Any) -> list[Any]:
    return []


def _competitors(path: Path) -> Any:
    from adjointdpm.errors import InvalidInputError
    from adjointdpm.support.user_code import load_function

    return load_function(path, "competitors", "competitors", InvalidInputError)


def _write(
    registered: Any, results: Any, out: Path, page: Path | None, figure: Path | None
) -> None:
    import json

    from adjointdpm.support.files import write_text
    from benchmarks.gradients.figure import draw
    from benchmarks.gradients.report import as_json, fill, markdown, setting_pages
    from benchmarks.gradients.summary import summarise

    lines = list(results)
    groups = summarise(lines, registered)
    text = markdown(lines, registered)
    write_text(out / "gradients.md", text + "\n")
    write_text(out / "result.json", json.dumps(as_json(lines, registered), indent=1) + "\n")
    draw(groups, out / "gradients.svg", registered)
    if figure is not None:
        draw(groups, figure, registered)
    pages = setting_pages(lines, registered)
    for folder in [out / "gradients", *([] if page is None else [page.with_suffix("")])]:
        for name, content in pages.items():
            write_text(folder / name, content)
    if page is not None:
        fill(page, markdown(lines, registered, page.stem))


def main() -> None:
    """Run the benchmark; a mistake of the user's is one line on stderr and exit code 2."""
    try:
        app()
    except AdjointDPMError as error:
        console.print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
