"""`inspect`: what a pipeline is, what its call takes, and what works with it."""

import json
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from adjointdpm.cli.options import Run, load_model, option
from adjointdpm.cli.terminal import printable, quiet
from adjointdpm.tasks.config import NAME_VALUE, Sampling


def inspect(
    model: Annotated[str, typer.Argument(help='"tiny", a folder of a pipeline, or a hub id.')],
    pipeline_arg: Annotated[
        list[str] | None, option(Sampling, "pipeline_arg", metavar=NAME_VALUE)
    ] = None,
    device: Annotated[str | None, option(Run, "device")] = None,
    dtype: Annotated[str, option(Run, "dtype")] = Run.dtype,
    variant: Annotated[str | None, option(Run, "variant")] = None,
    run: Annotated[
        bool, typer.Option("--run", help="Run a first step, to see whether native samplers work.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Show what a pipeline is, what its call takes, and what works with it."""
    quiet()
    from adjointdpm.pipelines.arguments.call_arguments import call_arguments, loaded
    from adjointdpm.pipelines.description import describe

    found = load_model(model, device, dtype, variant)
    facts = describe(found, run, **loaded(call_arguments(found.pipe, pipeline_arg or [])))
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
        return
    facts, console = _harmless(facts), Console()
    noise = facts["noise"]
    noise = escape(f"[{', '.join(map(str, noise))}]") if isinstance(noise, list) else noise
    console.print(
        f"[bold]{facts['class']}[/bold], reads {facts['reads']}; noise of one sample: {noise}",
        highlight=False,
    )
    name = printable(Path(model).name)
    for table in (_networks(facts, name), _arguments(facts), _supports(facts)):
        console.print(table)


def _harmless(facts: Any) -> Any:
    """The facts without what a terminal or rich would obey: names may come from others' files."""
    match facts:
        case dict():
            return {_harmless(name): _harmless(value) for name, value in facts.items()}
        case list():
            return [_harmless(value) for value in facts]
        case str():
            return escape(printable(facts))
        case _:
            return facts


def _networks(facts: dict[str, Any], name: str) -> Table:
    table = Table("part", "class", "parameters", "precision", title=f"Networks of {escape(name)}")
    for part, network in facts["networks"].items():
        count = _count(network["parameters"])
        table.add_row(part, network["class"], count, ", ".join(network["dtypes"]))
    if facts["scheduler"] is not None:
        table.add_row("scheduler", facts["scheduler"], "", "")
    return table


def _arguments(facts: dict[str, Any]) -> Table:
    table = Table("argument", "default", title="Arguments of its call (--pipeline-arg NAME=VALUE)")
    for name, default in facts["arguments"].items():
        table.add_row(name, "required" if default is None else default)
    return table


def _supports(facts: dict[str, Any]) -> Table:
    table = Table("kind", "name", "works", title="What works", show_lines=False)
    for kind, entries in facts["supports"].items():
        for i, (works, group) in enumerate(groupby(entries, key=lambda name: entries[name])):
            said = "[green]yes[/green]" if works is True else str(works)
            table.add_row(kind if i == 0 else "", ", ".join(group), said)
        table.add_section()
    return table


def _count(parameters: int) -> str:
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if parameters >= size:
            return f"{parameters / size:.3g} {unit}"
    return str(parameters)
