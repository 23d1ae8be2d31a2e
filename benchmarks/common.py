"""What the benchmarks share: the machine, tables, kept results, pages, and the command line."""

import importlib.metadata
import json
import os
import platform
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from jaxtyping import Float
from torch import Tensor

from adjointdpm.errors import AdjointDPMError, OutputError, UnknownNameError
from adjointdpm.support.files import write_text

RESULTS = Path(__file__).parent / "results"
MIB = 2**20
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"


def machine(device: str | torch.device = "cpu") -> str:
    """Describe in one line what measures here: processor, cores, threads and versions."""
    name, info = platform.processor(), Path("/proc/cpuinfo")
    if info.is_file():
        lines = info.read_text().splitlines()
        names = (line.split(":")[1].strip() for line in lines if line.startswith("model name"))
        name = next(names, name)
    if torch.device(device).type == "cuda":
        name = f"{torch.cuda.get_device_name(device)} beside {name}"
    packages = ("torch", "diffusers", "transformers", "adjointdpm")
    versions = ", ".join(f"{package} {importlib.metadata.version(package)}" for package in packages)
    return (
        f"{name}, {os.cpu_count()} cores of which {torch.get_num_threads()} used, "
        f"Python {platform.python_version()}, {versions}"
    )


def usable_cores() -> int:
    """How many cores this process may use: fewer than there are, if it is bound to some."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_device(device: str) -> None:
    """Check that torch can use the device here.

    Raises:
        UnknownNameError: it cannot.

    """
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UnknownNameError(
            f"--device {device!r} cannot be used here: {str(error).splitlines()[0]}"
        ) from error


def check_known(flag: str, given: Iterable[Any], known: Iterable[Any]) -> None:
    """Check that every value given for a flag is a known one.

    Raises:
        UnknownNameError: one is not.

    """
    known = list(known)
    for value in given:
        if value not in known:
            raise UnknownNameError(
                f"{flag} {value} is unknown; choose from {', '.join(map(str, known))}"
            )


# Figures.


def relative_errors(
    value: Float[Tensor, "batch *shape"], reference: Float[Tensor, "batch *shape"]
) -> Float[Tensor, " batch"]:
    """‖value − reference‖ / ‖reference‖ of each sample."""
    difference = (value - reference).flatten(1).norm(dim=1)
    return difference / reference.flatten(1).norm(dim=1)


def two_figures(first: float, second: float) -> str:
    """A median and another quantile for a table."""
    return f"{first:.2g} ({second:.2g})"


def median_and_95th(values: Sequence[float]) -> str:
    """Median (95th percentile) for a table."""
    quantiles = torch.tensor([0.5, 0.95], dtype=torch.float64)
    median, high = torch.tensor(values, dtype=torch.float64).quantile(quantiles).tolist()
    return two_figures(median, high)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


# Kept results.


def has_results(name: str) -> bool:
    """Whether `results/name.json` exists."""
    return (RESULTS / f"{name}.json").is_file()


def read_results(name: str) -> Any:
    """Read `results/name.json`.

    Raises:
        OutputError: it does not exist.

    """
    path = RESULTS / f"{name}.json"
    if not path.is_file():
        raise OutputError(f"{path} does not exist: nothing has been measured under this name yet")
    return json.loads(path.read_text("utf-8"))


def write_results(name: str, content: Any) -> None:
    """Write `results/name.json`."""
    write_text(RESULTS / f"{name}.json", json.dumps(content) + "\n")


# Pages.


def check_page(page: Path | None) -> Path | None:
    """Check that `fill` can be used on a page, before anything is measured for it.

    Raises:
        OutputError: the page does not exist, or does not hold each of the two marks once.

    """
    if page is not None:
        _around(page)
    return page


def fill(page: Path, content: str) -> None:
    """Put `content` between the two `measured` marks of a page; the text around them stays.

    Raises:
        OutputError: as `check_page`.

    """
    before, after = _around(page)
    write_text(page, f"{before}{BEGIN}\n\n{content}\n\n{END}{after}")


def publish(content: str, page: Path | None) -> None:
    """Print what was measured, and put it into the page if there is one."""
    print(content)
    if page is not None:
        fill(page, content)


def _around(page: Path) -> tuple[str, str]:
    """The text before and after the marks of a page."""
    if not page.is_file():
        raise OutputError(
            f"the page {page} does not exist; make a text file with the lines {BEGIN} and {END}"
        )
    text = page.read_text("utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise OutputError(f"{page} needs the marks {BEGIN} and {END}, once each")
    return text.split(BEGIN)[0], text.split(END)[1]


# The command line.

Page = Annotated[
    Path | None, typer.Option(help="Page that the tables are written into.", callback=check_page)
]
PageOnly = Annotated[
    bool, typer.Option("--page-only", help="Measure nothing; make tables of the kept results.")
]
FashionFolder = Annotated[Path, typer.Option(help="Where training/fashion.py put its model.")]
FASHION = Path("training/work/fashion")


def tell(text: str) -> None:
    """Print a line on progress to stderr."""
    print(text, file=sys.stderr, flush=True)


def run(command: Callable[..., Any]) -> None:
    """Run a benchmark's function, or its Typer app, on the command line.

    A mistake of the user's is one line on stderr and exit code 2.
    """
    try:
        command() if isinstance(command, typer.Typer) else typer.run(command)
    except AdjointDPMError as error:
        tell(f"error: {error}")
        sys.exit(2)
