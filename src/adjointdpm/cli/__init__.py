"""The command line: thin, and quick to say what it can do, since torch and diffusers are imported
inside the commands.
"""

import sys
from typing import Any

import typer
from typer.core import TyperGroup

from adjointdpm.cli import audit, demo, learn, pictures
from adjointdpm.cli.terminal import console
from adjointdpm.errors import AdjointDPMError


class _Commands(TyperGroup):
    """Says where an interrupted run was saved: typer itself ends without a word."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as interrupt:
            console.print(
                str(interrupt) or "interrupted", markup=False, highlight=False, soft_wrap=True
            )
            sys.exit(130)


app = typer.Typer(
    cls=_Commands,
    help="Gradients through a diffusion sampler, in the memory of one network call.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_show_locals=False,
)
for command in (
    demo.demo,
    learn.embed,
    learn.stylize,
    audit.audit,
    learn.guide,
    pictures.generate,
    pictures.report,
):
    app.command()(command)


def main() -> None:
    """Run the command line; a mistake of the user's is one line on stderr and exit code 2, an
    interruption 130.
    """
    try:
        app(standalone_mode=True)
    except AdjointDPMError as error:
        console.print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(2)
