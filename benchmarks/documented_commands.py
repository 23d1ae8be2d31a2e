"""Every command of the README and of the guides is run, and its output kept.

`python -m benchmarks.documented_commands --page docs/commands.md`

The commands of one document run in their order in one scratch folder, which holds a copy of
`examples/` and the files that the document itself writes out (code blocks with a title). A document
whose commands and files are the same as before is not run again. Where a document shows a command's
output, it is replaced by what the command prints now.
"""

import hashlib
import re
import shlex
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from adjointdpm.support.files import write_text
from benchmarks.common import (
    Page,
    PageOnly,
    check_known,
    has_results,
    machine,
    publish,
    read_results,
    run,
    tell,
    usable_cores,
    write_results,
)
from benchmarks.user_process import ADJOINTDPM, Finished, run_as_user, stop_all

ROOT = Path(__file__).parents[1]
RESULTS = "documented-commands"
DOCUMENTS = ("README.md", "docs/start/*.md", "docs/guides/*.md")
#: Lines of a command's output on the page: its last ones.
LINES = 12
_BLOCK = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_TITLE = re.compile(r'title="([^"]+)"')
#: Why a command is not run here, by what its words hold.
REASONS = {
    "accelerate": "it takes several processes",
    "torchrun": "it takes several processes",
    "…": "it is not written out",
}


@dataclass(frozen=True)
class Document:
    """What one file tells its reader to type.

    Args:
        name: its path from the repository's root.
        commands: in their order, each in one line.
        files: those that it writes out, by name.

    """

    name: str
    commands: list[str]
    files: dict[str, str]

    @property
    def key(self) -> str:
        """A hash of all that decides what its commands print, but for the library."""
        examples = [p.read_bytes().hex() for p in sorted(EXAMPLES.iterdir()) if p.is_file()]
        text = repr((self.commands, sorted(self.files.items()), examples))
        return hashlib.sha256(text.encode()).hexdigest()[:12]


EXAMPLES = ROOT / "examples"


def documents(root: Path = ROOT) -> list[Document]:
    """The README and the guides that hold commands of this library."""
    paths = [path for pattern in DOCUMENTS for path in sorted(root.glob(pattern))]
    found = [read_document(str(path.relative_to(root)), path.read_text("utf-8")) for path in paths]
    return [document for document in found if document.commands]


def read_document(name: str, text: str) -> Document:
    """The commands and files of a page."""
    commands: list[str] = []
    files = {}
    for language, options, body in _BLOCK.findall(text):
        if language == "console":
            commands += [one.command for one in typed(body) if is_ours(one.command)]
        elif title := _TITLE.search(options):
            files[title[1]] = body
    return Document(name, commands, files)


@dataclass
class Typed:
    """One command of a console block.

    Args:
        lines: as they stand in the block.
        output: the lines that the block shows below them.

    """

    lines: list[str]
    output: list[str]

    @property
    def command(self) -> str:
        """The command in one line, without its comment."""
        joined = " ".join(line.removesuffix("\\").strip() for line in self.lines)
        return shlex.join(shlex.split(joined.removeprefix("$ "), comments=True))


def typed(block: str) -> list[Typed]:
    """What is typed in a console block: lines after `$`, continued ones joined."""
    found: list[Typed] = []
    for line in block.splitlines():
        if line.startswith("$ "):
            found.append(Typed([line], []))
        elif found and not found[-1].output and found[-1].lines[-1].endswith("\\"):
            found[-1].lines.append(line)
        elif found:
            found[-1].output.append(line)
    return found


def with_outputs(text: str, runs: Sequence[dict[str, Any]]) -> str:
    """A page whose blocks show what its commands print now, where they showed an output before."""
    outputs = {run["command"]: shown(run) for run in runs if run.get("code") == 0}

    def block(match: re.Match[str]) -> str:
        if match[1] != "console":
            return match[0]
        lines = []
        for entry in typed(match[3]):
            known = outputs.get(entry.command)
            lines += entry.lines + (known if known and entry.output else entry.output)
        return f"```console{match[2]}\n" + "".join(f"{line}\n" for line in lines) + "```"

    return _BLOCK.sub(block, text)


def shown(run: dict[str, Any]) -> list[str]:
    """The last lines that a command printed."""
    return ["…"] * (run["lines"] > len(run["output"])) + run["output"]


def is_ours(command: str) -> bool:
    """Whether a command runs this library, and not pip, make or cat."""
    words = shlex.split(command)
    return "adjointdpm" in words or (words[0] == "python" and words[1].startswith("examples/"))


def why_not(command: str) -> str | None:
    """The reason for which a command is not run here."""
    words = shlex.split(command)
    if words[:2] == ["adjointdpm", "app"]:
        return "it serves a page until it is stopped"
    for mark, reason in REASONS.items():
        if any(mark in word for word in words):
            return reason
    named = [words[i + 1] for i, word in enumerate(words[:-1]) if word in ("--model", "inspect")]
    other = [name for name in named if name != "tiny"]
    return f"it takes a model that is not bundled, {other[0]}" if other else None


def run_document(
    document: Document,
    folder: Path,
    limit: float,
    threads: int,
    former: Sequence[dict[str, Any]] = (),
) -> list[dict[str, Any]] | None:
    """Run a document's commands but those with a former result; None if somebody stopped one."""
    known = {run["command"]: run for run in former}
    shutil.copytree(EXAMPLES, folder / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    for name, content in document.files.items():
        (folder / name).write_text(content, "utf-8")
    found = []
    for command in document.commands:
        if reason := why_not(command):
            found.append({"command": command, "not_run": reason})
            continue
        if command in known:
            found.append(known[command])
            continue
        tell(f"{document.name}: {command}")
        words = shlex.split(command)
        program = ADJOINTDPM if words[0] == "adjointdpm" else [sys.executable]
        finished = run_as_user([*program, *words[1:]], folder, limit, threads)
        if finished.interrupted:
            return None
        found.append({"command": command} | _facts(finished, limit))
    return found


def _facts(finished: Finished, limit: float) -> dict[str, Any]:
    lines = finished.output.rstrip().splitlines()
    return {
        "code": finished.code,
        "seconds": finished.seconds,
        "cpu_seconds": finished.cpu_seconds,
        "limit": limit,
        "lines": len(lines),
        "output": lines[-LINES:],
        "error": finished.why[:500] if finished.code != 0 else "",
    }


def page_of(content: dict[str, Any]) -> str:
    """The page: each document's commands with what they print."""
    if not content["documents"]:
        return "Nothing has been run yet."
    runs = [run for document in content["documents"].values() for run in document["runs"]]
    done = [run for run in runs if "code" in run]
    good = sum(run["code"] == 0 for run in done)
    parts = [
        f"**{good} of {len(done)} commands that were run end without an error**; "
        f"{len(runs) - len(done)} are not run, with the reason beside them."
    ]
    for name, document in content["documents"].items():
        link = f"../{name}" if not name.startswith("docs/") else name.removeprefix("docs/")
        title = "index.md" if name == "README.md" else link
        parts += [f"## [{name}]({title})", *(_section(run) for run in document["runs"])]
    parts.append(f"Measured on {content['machine']}; {content['threads']} thread(s).")
    return "\n\n".join(parts)


def _section(run: dict[str, Any]) -> str:
    if "not_run" in run:
        return f"```console\n$ {run['command']}\n```\n\nNot run: {run['not_run']}."
    lines = shown(run)
    if run["code"] != 0:
        lines.append(run["error"])
    block = "\n".join(["```console", f"$ {run['command']}", *lines, "```"])
    if run["code"] is None:
        how = f"**Stopped** at the limit of {run['limit']:.0f} s."
    elif run["code"]:
        how = f"**Failed**: exit code {run['code']}, after {run['seconds']:.0f} s."
    else:
        how = f"{run['seconds']:.0f} s, {run['cpu_seconds']:.0f} s of processor time."
    return f"{block}\n\n{how}"


def main(
    only: Annotated[
        list[str] | None, typer.Option(help="A document, such as README.md. Repeatable.")
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="Also what has not changed.")] = False,
    holding: Annotated[
        str | None,
        typer.Option(help="With --again: commands with this text; others keep their outputs."),
    ] = None,
    limit: Annotated[float, typer.Option(help="Seconds of one command.")] = 900,
    threads: Annotated[int | None, typer.Option(help="Of each process; all cores.")] = None,
    page: Page = None,
    page_only: PageOnly = False,
) -> None:
    """Run the documents whose commands have changed, and make the page."""
    every = documents()
    check_known("--only", only or [], [document.name for document in every])
    if not page_only:
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that no process is left
        kept = _kept()
        used = threads or usable_cores()
        for document in every:
            former = kept["documents"].get(document.name)
            chosen = document.name in only if only else True
            if not chosen or (former and former["key"] == document.key and not again):
                continue
            runs = former["runs"] if former and holding else []
            kept_runs = [run for run in runs if holding and holding not in run["command"]]
            found = _in_scratch(document, limit, used, kept_runs)
            if found is None:
                break
            kept["documents"][document.name] = {"key": document.key, "runs": found}
            kept |= {"machine": machine(), "threads": used}
            _write(kept, every)
            _show(document, found)
    publish(page_of(_kept()), page)


def _kept() -> dict[str, Any]:
    return read_results(RESULTS) if has_results(RESULTS) else {"documents": {}}


def _in_scratch(
    document: Document, limit: float, threads: int, former: Sequence[dict[str, Any]]
) -> list[dict[str, Any]] | None:
    with tempfile.TemporaryDirectory() as scratch:
        try:
            return run_document(document, Path(scratch), limit, threads, former)
        except BaseException:
            stop_all()
            raise


def _show(document: Document, runs: Sequence[dict[str, Any]]) -> None:
    """Put what a document's commands print into its console blocks."""
    path = ROOT / document.name
    if path.is_file():
        write_text(path, with_outputs(path.read_text("utf-8"), runs))


def _write(kept: dict[str, Any], every: Sequence[Document]) -> None:
    """Keep the documents that there are, in their order."""
    found = kept["documents"]
    kept["documents"] = {d.name: found[d.name] for d in every if d.name in found}
    write_results(RESULTS, kept)


if __name__ == "__main__":
    run(main)
