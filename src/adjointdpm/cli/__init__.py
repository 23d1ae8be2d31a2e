"""The command line: flags, and what the terminal shows. The work is done by `adjointdpm.tasks`."""

import sys
from typing import Any

import typer
from typer.core import TyperGroup

from adjointdpm.cli import app as page
from adjointdpm.cli import audit, demo, gradient, inspection, learn, pictures
from adjointdpm.cli.arguments import Command, check_text, refused_path
from adjointdpm.cli.terminal import in_words, say, warnings_in_a_line
from adjointdpm.errors import AdjointDPMError
from adjointdpm.support.memory import out_of_memory
from adjointdpm.support.user_code import blamed_file, failed_in_model


class _Commands(TyperGroup):
    """Says where an interrupted run was saved: typer itself ends without a word."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as interrupt:
            say(str(interrupt) or "interrupted")
            sys.exit(130)


app = typer.Typer(
    cls=_Commands,
    help="Teach a diffusion model from nothing but a score of its pictures.\n\n"
    "You bring a model and a metric, a function that scores pictures. adjointdpm draws pictures, "
    "sends the score back through every sampler step, and improves a token, a LoRA, all weights or "
    "the initial noise. It takes the memory of a single network call, and stock diffusers loads "
    "what was learned.\n\n"
    "Start with `adjointdpm demo`: it takes the bundled model and a few minutes.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_show_locals=False,
)
for command in (
    demo.demo,
    learn.embed,
    learn.stylize,
    learn.align,
    audit.audit,
    learn.guide,
    pictures.generate,
    gradient.gradient,
    inspection.inspect,
    pictures.report,
    page.app,
):
    app.command(cls=Command)(command)


def main() -> None:
    """Run the command line.

    A mistake of the user's is one line on stderr and exit code 2; an interruption is exit code 130.
    A warning of this library is one line too.
    """
    try:
        check_text(sys.argv[1:])
        with warnings_in_a_line():
            app(standalone_mode=True)
    except AdjointDPMError as error:
        say(f"error: {in_words(error)}", "red")
        sys.exit(2)
    except Exception as error:
        # A mistake in a file of the user's, wherever it shows; no memory; what the system refuses
        # to do with a path, such as one that is too long; or a model that cannot be run.
        blamed = blamed_file(error) or out_of_memory(error) or refused_path(error)
        blamed = blamed or failed_in_model(error)
        if blamed is None:
            raise
        say(f"error: {blamed}", "red")
        sys.exit(2)
