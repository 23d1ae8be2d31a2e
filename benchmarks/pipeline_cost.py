"""What the general adapter costs beside the networks of a pipeline.

`python -m benchmarks.pipeline_cost --page docs/pipeline-cost.md`

Each family, and the comparison with the adapter of Stable Diffusion, is one line of
`results/pipeline-cost.json`; what is measured again replaces its line.
"""

import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Annotated, Any

import torch
import typer
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

import adjointdpm as adj
from adjointdpm.pipelines.any_pipeline import AnyPipeline
from benchmarks.common import (
    Page,
    PageOnly,
    check_known,
    has_results,
    machine,
    publish,
    read_results,
    run,
    table,
    tell,
    write_results,
)
from benchmarks.pipeline_workloads import FAMILIES, Family

Line = dict[str, Any]
TINY = "tiny"
TINY_STEPS, TINY_GUIDANCE = 20, 5.0
PROMPT = "a noto emoji of a red apple"
AIM = 1.08
ALL = (*FAMILIES, TINY)


class Call:
    """One network call of a pipeline, on arguments that are ready."""

    def __init__(self, network: nn.Module, args: Any, kwargs: Any) -> None:
        flat, self._form = tree_flatten((args, kwargs))
        self._network = network
        self._flat = [x.detach().clone() if isinstance(x, Tensor) else x for x in flat]
        self.wanted = [i for i, x in enumerate(flat) if isinstance(x, Tensor) and x.requires_grad]

    def forward(self) -> None:
        """Without a graph."""
        with torch.no_grad():
            self._run(self._flat)

    def with_graph(self, wanted: list[int]) -> tuple[Tensor, list[Tensor]]:
        """The output with its graph, and the arguments in which that ends."""
        given = list(self._flat)
        for place in wanted:
            given[place] = given[place].detach().requires_grad_()
        return self._run(given), [given[place] for place in wanted]

    def _run(self, flat: list[Any]) -> Tensor:
        args, kwargs = tree_unflatten(flat, self._form)
        found = self._network(*args, **kwargs)
        return tree_flatten(found)[0][0]


def calls_of(model: AnyPipeline, network: nn.Module, arguments: dict[str, Any]) -> list[Call]:
    """The network calls that one run of a pipeline makes, in their order."""
    found: list[Call] = []

    def note(module: nn.Module, args: Any, kwargs: Any) -> None:
        found.append(Call(network, args, kwargs))

    handle = network.register_forward_pre_hook(note, with_kwargs=True)
    try:
        model(output="latent", **arguments)
    finally:
        handle.remove()
    return found


def by_hand(calls: list[Call]) -> tuple[float, float, float]:
    """Processor seconds of all calls: without a graph, with one, and of their backward passes."""
    wanted, plain, graph, backward = calls[0].wanted, 0.0, 0.0, 0.0
    for call in calls:
        plain += spent(call.forward)
    for call in reversed(calls):
        began = time.process_time()
        output, ends = call.with_graph(wanted)
        cotangent = torch.ones_like(output)
        between = time.process_time()
        torch.autograd.grad(output, ends, cotangent)
        graph, backward = graph + between - began, backward + time.process_time() - between
    return plain, graph, backward


def spent(action: Callable[[], object]) -> float:
    """Seconds of this process's processor time: others share the cores."""
    began = time.process_time()
    action()
    return time.process_time() - began


def measure_family(family: Family, steps: int, rounds: int) -> Line:
    """Runs with their gradient for the noise, each beside the same network calls made by hand."""
    pipe = family.build()
    network = getattr(pipe, "unet", None) or pipe.transformer
    model = AnyPipeline(pipe)
    given: dict[str, Any] = family.arguments | {"num_inference_steps": steps}
    noise = model.noise(1, 0, **family.arguments).requires_grad_()
    calls = calls_of(model, network, given | {"noise": noise})
    line: Line = {"calls": len(calls), "ours": [], "plain": [], "graph": [], "backward": []}

    def ours() -> None:
        def gradient() -> None:
            latents = model(noise=noise, output="latent", **given)
            torch.autograd.grad(0.5 * latents.square().sum(), noise)

        line["ours"].append(spent(gradient))

    def direct() -> None:
        for name, seconds in zip(("plain", "graph", "backward"), by_hand(calls), strict=True):
            line[name].append(seconds)

    _take_turns(ours, direct, rounds)
    return line


def measure_tiny(rounds: int) -> Line:
    """Whole pictures of a prompt with their gradient, through both adapters."""
    special: Any = adj.load(TINY)
    general = AnyPipeline(special.pipe)
    noise = special.noise(1, 0).requires_grad_()
    line: Line = {"ours": [], "special": []}
    found: dict[str, Tensor] = {}

    def run_of(name: str, model: Any) -> Callable[[], None]:
        def gradient() -> None:
            pictures = model.generate(
                PROMPT, noise, steps=TINY_STEPS, guidance_scale=TINY_GUIDANCE, gradient="exact"
            )
            (found[name],) = torch.autograd.grad(0.5 * pictures.square().sum(), noise)

        return lambda: line[name].append(spent(gradient))

    _take_turns(run_of("ours", general), run_of("special", special), rounds)
    difference = (found["ours"] - found["special"]).norm() / found["special"].norm()
    return line | {"difference": difference.item()}


def _take_turns(first: Callable[[], None], second: Callable[[], None], rounds: int) -> None:
    """One after the other, and they take turns in being first."""
    for done in range(rounds):
        for action in (first, second) if done % 2 == 0 else (second, first):
            action()


# The page.


def report(content: list[Line]) -> str:
    """The tables."""
    order = sorted(content, key=lambda line: ALL.index(line["name"]))
    families = [line for line in order if line["name"] != TINY]
    texts = [_families(families)] if families else []
    texts += [_tiny(line) for line in order if line["name"] == TINY]
    return "\n\n".join(texts)


def _families(lines: list[Line]) -> str:
    rows: list[list[str]] = []
    for line in lines:
        parts = [line[name] for name in ("plain", "graph", "backward")]
        floor = [sum(seconds) for seconds in zip(*parts, strict=True)]
        least = [2 * p + b for p, _, b in zip(*parts, strict=True)]
        once = [f"{1e3 * median(seconds) / line['calls']:.0f}" for seconds in parts]
        family = FAMILIES[line["name"]]
        cells = [family.title, str(line["steps"]), str(line["calls"]), *once]
        cells += [f"{median(line['ours']):.2f}", f"{median(floor):.2f}"]
        rows.append([*cells, _ratio(line["ours"], floor), _ratio(line["ours"], least)])
    head = ["pipeline", "steps", "network calls", "F, ms", "F with graph, ms", "B, ms"]
    head += ["adapter, s", "by hand, s", "ratio", "ratio to N (2F + B)"]
    missed = [line["name"] for line, row in zip(lines, rows, strict=True) if _first(row[-2]) > AIM]
    verdict = (
        f"The aim of {AIM} is met by all."
        if not missed
        else f"The aim of {AIM} is missed by {', '.join(missed)}."
    )
    sizes = "\n".join(f"- {FAMILIES[x['name']].title}: {FAMILIES[x['name']].size}." for x in lines)
    return (
        f"Measured with `python -m benchmarks.pipeline_cost` on {lines[0]['machine']}.\n\n"
        f"{table(head, rows)}\n\n{verdict}\n\n{sizes}"
    )


def _tiny(line: Line) -> str:
    head = ["pictures of", "general adapter, s", "Stable Diffusion's own, s", "ratio"]
    head += ["difference of the gradients"]
    row = [
        f"`{TINY}`, {TINY_STEPS} steps, guidance {TINY_GUIDANCE:g}",
        f"{median(line['ours']):.2f}",
        f"{median(line['special']):.2f}",
        _ratio(line["ours"], line["special"]),
        f"{line['difference']:.1e}",
    ]
    return f"On {line['machine']}:\n\n{table(head, [row])}"


def _ratio(ours: Sequence[float], floor: Sequence[float]) -> str:
    """The median of the rounds' ratios, in brackets least and most."""
    ratios = [a / b for a, b in zip(ours, floor, strict=True)]
    return f"{median(ratios):.3f} ({min(ratios):.3f} … {max(ratios):.3f})"


def _first(cell: str) -> float:
    return float(cell.split()[0])


def main(
    parts: Annotated[
        list[str] | None, typer.Option(help=f"Of {', '.join(ALL)}; without it, all.")
    ] = None,
    steps: Annotated[int, typer.Option(help="Sampler steps of the families.")] = 10,
    rounds: Annotated[int, typer.Option(help="Pairs, of which the median is taken.")] = 7,
    page: Page = None,
    page_only: PageOnly = False,
) -> None:
    """Measure, print the tables, and write `results/pipeline-cost.json`, which grows by lines."""
    torch.set_num_threads(1)
    chosen = parts or list(ALL)
    check_known("--parts", chosen, ALL)
    lines: list[Line] = read_results("pipeline-cost") if has_results("pipeline-cost") else []
    for name in [] if page_only else chosen:
        measured = (
            measure_tiny(rounds)
            if name == TINY
            else {"steps": steps} | measure_family(FAMILIES[name], steps, rounds)
        )
        line = {"name": name, "machine": machine(), "rounds": rounds} | measured
        lines = [*(old for old in lines if old["name"] != name), line]
        tell(f"{name}: {line}")
        write_results("pipeline-cost", lines)
    publish(report(lines), page)


if __name__ == "__main__":
    run(main)
