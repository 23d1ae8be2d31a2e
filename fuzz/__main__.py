"""Faulty inputs by the thousand: none may end in a traceback, a hang, or a wrong result.

`python -m fuzz --page docs/faults.md`

Cases are drawn from a seed, so that `python -m fuzz KIND --only 17 --verbose` runs one again.
"""

import functools
import itertools
import math
import os
import re
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.common import (
    Page,
    PageOnly,
    check_known,
    has_results,
    publish,
    read_results,
    run,
    tell,
)
from fuzz.drawing import KINDS, draw, kind
from fuzz.inputs import make_inputs, make_runs
from fuzz.page import RESULTS, kept_beside, page_of
from fuzz.sandbox import Limits, run_all
from fuzz.verdict import Verdict


def main(
    kinds: Annotated[list[str] | None, typer.Argument(help="Kinds; without any, all.")] = None,
    seed: Annotated[int, typer.Option(help="What the cases are drawn from.")] = 0,
    cases: Annotated[int | None, typer.Option(help="Of each kind; without it, a full run.")] = None,
    only: Annotated[list[int] | None, typer.Option(help="Numbers of cases to run.")] = None,
    jobs: Annotated[int, typer.Option(help="Cases that run at once.")] = 2,
    seconds: Annotated[float, typer.Option(help="Time limit of one case.")] = 60,
    minutes: Annotated[
        float, typer.Option(help="For all kinds together: each begins no case after its share.")
    ] = math.inf,
    inputs: Annotated[
        Path | None, typer.Option(help="Where what cases start from is kept for the next time.")
    ] = None,
    verbose: Annotated[bool, typer.Option("--verbose", help="Print every verdict.")] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the counts as results.")] = False,
    page: Page = None,
    page_only: PageOnly = False,
) -> None:
    """Run faulty inputs, print those that end badly, and count the ends of each kind."""
    check_known("kind", kinds or [], KINDS)
    if page_only:
        publish(page_of(read_results(RESULTS)), page)
        return
    found, began, kept = {}, time.monotonic(), {}
    before = read_results(RESULTS) if has_results(RESULTS) else None
    with tempfile.TemporaryDirectory(prefix="fuzz-inputs-") as folder:
        prepare()
        inputs = make_inputs((inputs or Path(folder, "inputs")).absolute())
        names = list(kinds or KINDS)
        for place, name in enumerate(names):
            drawn = draw(name, cases or KINDS[name], seed)
            numbers = only or range(len(drawn))
            chosen = {number: drawn[number] for number in numbers}
            share = (began + 60 * minutes - time.monotonic()) / (len(names) - place)
            limits = Limits(seconds)
            found[name] = run_kind(name, chosen, inputs, limits, jobs, verbose, share)
            tell(f"{name}: {dict(found[name])}")
            if keep or page is not None:
                seconds_in_all = time.monotonic() - began
                kept = kept_beside(
                    before, {"seed": seed, "seconds": seconds_in_all, "kinds": found}
                )
    if keep or page is not None:
        publish(page_of(kept), page)
    if any(end not in ("worked", "refused") for ends in found.values() for end in ends):
        raise SystemExit(1)


def run_kind(
    name: str,
    chosen: dict[int, dict[str, Any]],
    inputs: Path,
    limits: Limits,
    jobs: int,
    verbose: bool = False,
    within: float = math.inf,
) -> Counter[str]:
    """Run cases of a kind, print those that end badly, and count their ends.

    Args:
        name: of the kind.
        chosen: cases by number.
        inputs: folder of what they start from.
        limits: what each may take.
        jobs: how many run at once.
        verbose: print every verdict.
        within: seconds after which no case begins.

    """
    module, ends = kind(name), Counter[str]()
    if getattr(module, "NEEDS_RUNS", False):
        make_runs(inputs, jobs)
    works = [functools.partial(module.run, case, inputs) for case in chosen.values()]
    numbers, end = list(chosen), time.monotonic() + within
    in_time = itertools.takewhile(lambda _: time.monotonic() < end, works)
    for place, verdict, took in run_all(in_time, limits, jobs):
        ends[verdict.end] += 1
        number = numbers[place]
        if verbose or not verdict.good:
            tell(f"\n{name} {number} ({took:.1f} s): {verdict.end}")
            tell(_short(str(chosen[number])))
            tell(shown(verdict))
    return ends


def shown(verdict: Verdict) -> str:
    """What is printed of a verdict: its end, where a traceback names the fault."""
    return _short("\n".join(verdict.why.splitlines()[-14:]))[-2500:]


def _short(text: str) -> str:
    """A text without long rows of the same letters."""
    return re.sub(r"(.{1,4}?)\1{30,}", r"\1…", text)


def prepare() -> None:
    """Import once what every case needs, which would be seconds in each of their processes."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # `run_all` ends the case at work
    os.environ |= {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1", "OMP_NUM_THREADS": "1"}
    os.environ.pop("COLUMNS", None)
    import torch

    torch.set_num_threads(1)
    import adjointdpm
    from adjointdpm.cli.terminal import quiet

    quiet()
    model = adjointdpm.load("tiny")
    with torch.no_grad():
        model.generate("a fox", model.noise(1, 0), steps=1)


if __name__ == "__main__":
    run(main)
