"""Measure again what is claimed about gradients: `python -m benchmarks.gradients`."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from adjointdpm.cli.terminal import quiet
from adjointdpm.errors import InvalidInputError, UnknownNameError
from adjointdpm.support.files import write_text
from adjointdpm.support.user_code import load_function
from benchmarks.common import (
    FASHION,
    FashionFolder,
    Page,
    check_device,
    check_known,
    fill,
    machine,
    run,
    tell,
)
from benchmarks.gradients.cost import measure_costs
from benchmarks.gradients.fashion import load_fashion
from benchmarks.gradients.figure import check_figure, draw
from benchmarks.gradients.methods import registered as registered_methods
from benchmarks.gradients.registration import REGISTERED, Registration
from benchmarks.gradients.report import as_json, markdown, setting_pages
from benchmarks.gradients.results import Line, Results, kept_lines
from benchmarks.gradients.run import Clock, Selection, check_weights, measure_errors
from benchmarks.gradients.summary import summarise
from benchmarks.gradients.tiny import load_tiny
from benchmarks.gradients.workload import Workload

app = typer.Typer(help="Measure what the documentation claims.")


@app.command()
def gradients(
    models: Annotated[
        list[str] | None,
        typer.Option(help="tiny or fashion. Repeatable.", show_default="tiny"),
    ] = None,
    guidance: Annotated[
        list[float] | None,
        typer.Option(help="Guidance scales; without it, all registered ones. Repeatable."),
    ] = None,
    steps: Annotated[
        list[int] | None,
        typer.Option(help="N, network calls; without it, all registered ones. Repeatable."),
    ] = None,
    samplers: Annotated[
        list[str] | None, typer.Option(help="Registered samplers; without it, all. Repeatable.")
    ] = None,
    methods: Annotated[
        list[str] | None,
        typer.Option(help="Only methods with this in their names. Repeatable."),
    ] = None,
    pairs: Annotated[
        int | None, typer.Option(min=1, help="How many of the registered pairs, from the first.")
    ] = None,
    parts: Annotated[
        list[str] | None,
        typer.Option(
            help="inputs (noise, embedding) or weights (LoRA, weights too). Repeatable.",
            show_default="inputs",
        ),
    ] = None,
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
    fashion: FashionFolder = FASHION,
    registration: Annotated[Path | None, typer.Option(help="Another registration file.")] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 1,
    out: Annotated[Path, typer.Option(help="Folder for measurements, tables and figure.")] = Path(
        "runs/bench-gradients"
    ),
    page: Page = None,
    figure: Annotated[
        Path | None, typer.Option(help="Also draw the figure here, an SVG or PNG.")
    ] = None,
    page_only: Annotated[
        bool,
        typer.Option(
            "--page-only",
            help="Measure nothing; write tables, figure and page from the kept results.",
        ),
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the measurements in --out.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Throw away the measurements in --out.")
    ] = False,
) -> None:
    """Measure the error of every gradient method and its cost, as registered beforehand.

    Errors are against the exact gradient and against that of the converged ODE. The tables of
    each setting go into a folder beside the page.
    """
    quiet()
    check_device(device)
    if figure is not None:
        check_figure(figure)
    registered = Registration(registration or REGISTERED)
    if page_only:
        _write(registered, kept_lines(), out, page, figure)
        return
    torch.set_num_threads(threads)
    # float32 is float32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    chosen, parts = models or ["tiny"], parts or ["inputs"]
    _check_registered(registered, chosen, parts, guidance, steps, samplers)
    selection = Selection(
        guidance=guidance or None,
        calls=steps or None,
        samplers=samplers or None,
        methods=methods or None,
        pairs=pairs,
        parts=parts,  # pyright: ignore[reportArgumentType] - checked above
        batch=batch,
        ode=ode,
        extra=None if competitors is None else _competitors(competitors),
    )
    _check_methods(registered, selection)
    results = Results(out / "measurements.jsonl", resume=resume, force=force)
    job = _Job(registered, selection, results, device, fashion, errors, costs)
    complete = job.measure(chosen, Clock(minutes))
    _write(registered, list(results), out, page, figure)
    print(f"Measurements: {results.path}")
    if not complete:
        print("Time is up; go on with --resume")


def _check_registered(
    registered: Registration,
    models: list[str],
    parts: list[str],
    guidance: list[float] | None,
    steps: list[int] | None,
    samplers: list[str] | None,
) -> None:
    check_known("--models", models, registered.models)
    check_known("--parts", parts, ["inputs", "weights"])
    check_known("--guidance", guidance or (), map(float, registered.content["guidance"]))
    check_known("--steps", steps or (), registered.content["calls"])
    check_known("--samplers", samplers or (), registered.content["samplers"])


def _check_methods(registered: Registration, selection: Selection) -> None:
    """Check that each of the texts in `selection.methods` is in a method's name."""
    names = {
        method.name
        for setting in registered.settings()
        for method in [
            *registered_methods(registered.content, setting),
            *(selection.extra(setting) if selection.extra is not None else ()),
        ]
    }
    for text in selection.methods or ():
        if not any(text in name for name in names):
            raise UnknownNameError(
                f"--methods {text!r} is in the name of no method; there are: "
                f"{', '.join(sorted(names))}"
            )


@dataclass(frozen=True)
class _Job:
    """What to measure, and where it goes."""

    registered: Registration
    selection: Selection
    results: Results
    device: str
    fashion: Path
    errors: bool
    costs: bool

    def measure(self, models: list[str], clock: Clock) -> bool:
        """Whether everything selected is there now."""
        if clock.over:
            return True
        where = {"registration": self.registered.digest, "machine": machine(self.device)}
        self.results.add({"kind": "run", **where}, {})
        wanted = [measure_costs] * self.costs + [measure_errors] * self.errors
        for name in models:
            workload = self._workload(name)
            check_weights(workload, self.registered, self.results)
            for measure in wanted:
                if not measure(
                    workload, self.registered, self.selection, self.results, clock, report=tell
                ):
                    return False
        return True

    def _workload(self, name: str) -> Workload:
        metrics = self.registered.metrics(name)
        if name == "fashion":
            return load_fashion(self.fashion, metrics, self.device)
        return load_tiny(metrics, self.device)


def _competitors(path: Path) -> Any:
    return load_function(path, "competitors", "competitors", InvalidInputError)


def _write(
    registered: Registration, lines: list[Line], out: Path, page: Path | None, figure: Path | None
) -> None:
    """Write tables and figure into `out`, and into the page and its folder."""
    groups = summarise(lines, registered)
    write_text(out / "gradients.md", markdown(lines, registered) + "\n")
    write_text(out / "result.json", json.dumps(as_json(lines, registered), indent=1) + "\n")
    for path in [out / "gradients.svg", *([] if figure is None else [figure])]:
        draw(groups, path, registered)
    pages = setting_pages(lines, registered)
    for folder in [out / "gradients", *([] if page is None else [page.with_suffix("")])]:
        for name, content in pages.items():
            write_text(folder / name, content)
    if page is not None:
        fill(page, markdown(lines, registered, page.stem))
    print(f"Tables: {out / 'gradients.md'}")


if __name__ == "__main__":
    run(app)
