"""What the site has besides its pages: command line and metrics, written by the code itself.

Used by mkdocs (`hooks` in mkdocs.yml). Nothing here needs more than the package and mkdocs.
"""

import inspect
import re
from pathlib import Path
from typing import Any

import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from adjointdpm.cli import app
from adjointdpm.metrics import METRICS

ROOT = Path(__file__).parents[1]
# mkdocstrings: what a metric says of itself, without its methods.
METRIC = """## {name}

::: {path}
    options: {{members: [], show_root_heading: false, show_root_toc_entry: false}}
"""
COMMANDS = """# Command line

A flag has the same name in a `--config` file and in Python. `adjointdpm COMMAND --help` prints the
same as this page.
"""
METRICS_PAGE = """# Metrics

On the command line and in Python a metric is named by `NAME:option=value,option=value`, for example
`--metric color:mood=dusk`. A value that holds a comma stands in quotes:
`--metric 'similarity:text="a red fox, asleep"'`. Lower is better. A function of your own is
`file.py:function`: see [your own metric](../guides/metric.md).

| name | what it scores | options |
|---|---|---|
{rows}

{parts}
"""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages, and those whose home is the repository's top folder."""
    pages = {
        "reference/cli.md": command_line(),
        "reference/metrics.md": metrics(),
        "contributing.md": top_level("CONTRIBUTING.md"),
        "changelog.md": top_level("CHANGELOG.md"),
    }
    for path, content in pages.items():
        files.append(File.generated(config, path, content=content))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Turn links to files of the repository that are no pages into plain text."""
    outside = r"\((?:\.\./)+(?:src|benchmarks|training|examples)/[^)]*\)"
    return re.sub(r"\[([^\]]*)\]" + outside, r"\1", markdown)


def on_page_content(html: str, **_: Any) -> str:
    """Show tokens such as <dusk> in docstrings, which Markdown takes for tags."""
    return re.sub(r"&quot;<(\w+)>&quot;|\"<(\w+)>\"", lambda m: f'"&lt;{m[1] or m[2]}&gt;"', html)


def top_level(name: str) -> str:
    """A page of the repository's top folder, its links as seen from docs/."""
    text = (ROOT / name).read_text("utf-8").replace("](docs/", "](")
    text = text.replace("](CHANGELOG.md", "](changelog.md")
    return re.sub(r"\]\((src|benchmarks|training|examples)/", r"](../\1/", text)


def command_line() -> str:
    """Every command with its flags, as typer has them."""
    group: Any = typer.main.get_command(app)
    return "\n".join([COMMANDS, *(_command(*item) for item in group.commands.items())])


def _command(name: str, command: Any) -> str:
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option" and not p.hidden]
    usage = " ".join(["adjointdpm", name, *(p.name.upper() for p in arguments), "[OPTIONS]"])
    rows = "\n".join(_flag(p) for p in (*arguments, *options))
    paragraphs = inspect.cleandoc(command.help or "").split("\n\n")
    text = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
    table = f"| flag | default | what it is |\n|---|---|---|\n{rows}"
    return f"## adjointdpm {name}\n\n{text}\n\n```console\n$ {usage}\n```\n\n{table}\n"


def _flag(parameter: Any) -> str:
    argument = parameter.param_type_name == "argument"
    names = [parameter.name.upper()] if argument else [*parameter.opts, *parameter.secondary_opts]
    default = parameter.default() if callable(parameter.default) else parameter.default
    if isinstance(default, list | tuple):
        default = ", ".join(map(str, default))
    unset = default in (None, "") or default is False or "UNSET" in repr(default)
    shown = "**required**" if parameter.required else "" if unset else f"`{default}`"
    called = ", ".join(f"`{name}`" for name in names)
    return f"| {called} | {shown} | {_cell(getattr(parameter, 'help', None) or '')} |"


def metrics() -> str:
    """The table of the registered metrics, and what each of them says of itself."""
    rows, parts = [], []
    for name, build in sorted(METRICS.items()):
        options = ", ".join(
            f"`{p.name}`" if p.default is p.empty else f"`{p.name}={p.default}`"
            for p in inspect.signature(build).parameters.values()
        )
        summary = (inspect.getdoc(build) or "").split("\n\n")[0]
        rows.append(f"| [`{name}`](#{name}) | {_cell(summary)} | {_cell(options)} |")
        parts.append(METRIC.format(name=name, path=f"{build.__module__}.{build.__qualname__}"))
    return METRICS_PAGE.format(rows="\n".join(rows), parts="\n".join(parts))


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
