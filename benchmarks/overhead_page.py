"""The tables of `overhead.py`: what was measured, and what follows for a whole solve."""

from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

from benchmarks.common import table

Line = dict[str, Any]


def page_text(lines: Sequence[Line]) -> str:
    """All tables, one set for each machine, size and dtype."""
    texts: list[str] = []
    places = dict.fromkeys(
        (line["machine"], line["device"], line["size"], line["dtype"]) for line in lines
    )
    for place in places:
        mine = [
            line
            for line in lines
            if (line["machine"], line["device"], line["size"], line["dtype"]) == place
        ]
        texts.append(_place(place, mine))
    return "\n\n".join(texts)


def _place(place: tuple[str, str, str, str], lines: Sequence[Line]) -> str:
    machine, device, size, dtype = place
    on = "" if device == "cpu" else f" with {device}"
    clock = (
        "processor time of the process"
        if device == "cpu"
        else "wall time, all work on the GPU done"
    )
    texts = [
        f"Measured with `python -m benchmarks.overhead` on {machine}{on}; size `{size}`, network "
        f"in {dtype}; seconds are {clock}."
    ]
    parts: dict[str, Callable[[list[Line], list[Line]], str]] = {
        "step": _step,
        "arithmetic": _arithmetic,
        "layers": _layers,
        "runs": _runs,
    }
    steps = [line for line in lines if line["part"] == "step"]
    for part, text in parts.items():
        if mine := [line for line in lines if line["part"] == part]:
            texts.append(text(mine, steps))
    return "\n\n".join(texts)


def _step(lines: list[Line], _: list[Line]) -> str:
    rows: list[list[str]] = []
    for line in lines:
        outside = [ours - inside for ours, inside in zip(line["ours"], line["inside"], strict=True)]
        share = median(o / i for o, i in zip(outside, line["inside"], strict=True))
        rows.append(
            [
                str(line["steps"]),
                f"{line['calls']}, {line['vjps']}",
                str(line["rounds"]),
                f"{median(line['ours']):.4g}",
                f"{median(line['direct']):.4g}",
                _spread(line["ours"], line["direct"]),
                _spread(line["ours_wall"], line["direct_wall"]),
                f"{1e3 * median(outside):.1f}",
                f"{100 * share:.3f} %",
            ]
        )
    head = [
        "steps",
        "network calls, VJPs",
        "pairs",
        "`sample` and VJP, s",
        "network alone, s",
        "difference of totals",
        "the same, wall time",
        "outside of the network, ms",
        "share of the time inside",
    ]
    last = lines[-1]
    note = ""
    if network := _network(lines):
        forward, both = network
        work = (
            last["forward_products"] / forward / last["product_rate"],
            _work(last, 0, 1) / both / last["product_rate"],
        )
        note = (
            f"\n\nOne guided network call takes F = {forward:.3g} s, with VJP F + B = {both:.3g} "
            f"s. The matrix products in them would take "
            f"{100 * work[0]:.0f} % and {100 * work[1]:.0f} % of that at the rate of one large "
            f"product, {last['product_rate'] / 1e12:.3g} TFLOP/s. Resident memory at its peak: "
            f"{last['peak_resident'] / 1e9:.1f} GB."
        )
    text = (
        "**Few guided steps**, `Checkpoint()`, beside the same network calls made by hand; "
        "medians, in brackets least and most:"
    )
    return f"{text}\n\n{table(head, rows)}{note}"


def _arithmetic(lines: list[Line], steps: list[Line]) -> str:
    network = _network(steps)
    rows: list[list[str]] = []
    for line in lines:
        outside = median(line["outside"])
        row = [
            f"`{line['method']}`",
            str(line["steps"]),
            f"{1e3 * outside:.0f}",
            f"{1e3 * outside / line['steps']:.2f}",
        ]
        if network:
            floor = line["forward_calls"] * network[0] + line["pull_calls"] * network[1]
            row += [f"{floor:.3g}", f"{100 * outside / floor:.2g} %"]
        rows.append(row)
    head = ["method", "N", "outside of the network, ms", "per step, ms"]
    head += ["network alone, s", "share"] if network else []
    text = (
        "**Whole solves, outside of the network**: N steps at the size of the latent with a "
        "network that does next to nothing"
    )
    text += ", and what it is of the time that the real network needs" if network else ""
    return f"{text}:\n\n{table(head, rows)}"


def _layers(lines: list[Line], steps: list[Line]) -> str:
    network = _network(steps)
    rows: list[list[str]] = []
    for line in lines:
        more = [
            (ours - direct) / line["steps"]
            for ours, direct in zip(line["ours"], line["direct"], strict=True)
        ]
        row = [f"`{line['method']}`", str(line["steps"]), str(line["rounds"])]
        row += [f"{1e3 * median(line['ours']):.0f}", f"{1e3 * median(line['direct']):.0f}"]
        row.append(f"{1e3 * median(more):.1f} ({1e3 * min(more):.1f} … {1e3 * max(more):.1f})")
        if network:
            forwards, pulls = (
                len(line[name]) / line["rounds"] / line["steps"] for name in ("forwards", "pulls")
            )
            floor = forwards * network[0] + pulls * network[1]
            row += [f"{1e3 * floor:.0f}", f"{100 * median(more) / floor:.2f} %"]
        rows.append(row)
    head = [
        "method",
        "N",
        "pairs",
        "`sample` and VJP, ms",
        "network alone, ms",
        "difference per step, ms",
    ]
    head += ["network alone at full size, ms a step", "share"] if network else []
    text = (
        "**As many operations, each of them cheap**: all that is done around them, in the network "
        "too"
    )
    return f"{text}:\n\n{table(head, rows)}"


def _runs(lines: list[Line], _: list[Line]) -> str:
    rows: list[list[str]] = []
    work: dict[tuple[str, ...], list[str]] = {}
    for line in sorted(
        lines, key=lambda line: (line["batch"], line["compile"] != "none", line["compile"])
    ):
        variant = [
            str(line["batch"]),
            line["compile"],
            "last" if line["channels_last"] else "first",
        ]
        first = [*variant, f"`{line['method']}`", str(line["steps"])]
        if "failed" in line:
            need = line["graph_bytes"] * line["steps"] / 1e9
            failure = f"{line['failed']}: {line['steps']} graphs are {need:.0f} GB"
            rows.append([*first, failure, "", "", "", ""])
            continue
        seconds = median(line["seconds"])
        forward, pull = median(line["forwards"]), median(line["pulls"])
        least = _work(line, line["forward_calls"], line["pull_calls"]) / line["product_rate"]
        floor = line["forward_calls"] * forward + line["pull_calls"] * pull
        first.append(f"{seconds:.2f} ({min(line['seconds']):.2f} … {max(line['seconds']):.2f})")
        first += [f"{1e3 * forward:.1f}, {1e3 * pull:.1f}", f"{line['peak_bytes'] / 1e9:.1f}"]
        rows.append([*first, f"{seconds / floor:.2f}", f"{seconds / least:.1f}"])
        if "kernels" in line:
            work[tuple(variant)] = _kernel_cells(line)
    head = [
        "pictures",
        "torch.compile",
        "channels",
        "method",
        "N",
        "seconds",
        "F and F + B alone, ms",
        "peak, GB",
    ]
    head += ["times the network alone", "times its matrix products"]
    text = (
        "**Whole solves with the network**, medians, in brackets least and "
        f"most:\n\n{table(head, rows)}"
    )
    if work:
        head = ["pictures", "torch.compile", "channels"]
        kinds = ("products at the rate of a large one", "products", "attention", "the rest")
        head += [f"{kind}, {call}" for kind in kinds for call in ("F", "F + B")]
        shown = table(head, [[*variant, *cells] for variant, cells in work.items()])
        text += (
            "\n\n**What the GPU does in one guided network call**, milliseconds of its time by "
            f"the kernels' names:\n\n{shown}"
        )
    return text


def _kernel_cells(line: Line) -> list[str]:
    """Milliseconds of matrix products at the best rate, and of kernels of each kind."""
    products = [_work(line, *calls) / line["product_rate"] for calls in ((1, 0), (0, 1))]
    kernels = [line["kernels"][name] for name in ("forward", "pull")]
    kinds = ("products", "attention", "rest")
    return [f"{1e3 * value:.1f}" for value in [*products, *(k[n] for n in kinds for k in kernels)]]


def _spread(ours: Sequence[float], direct: Sequence[float]) -> str:
    ratios = [100 * (a / b - 1) for a, b in zip(ours, direct, strict=True)]
    return f"{median(ratios):+.1f} % ({min(ratios):+.1f} … {max(ratios):+.1f})"


def _network(steps: Sequence[Line]) -> tuple[float, float] | None:
    """Seconds of one network call without a graph, and with its VJP.

    None if they were not measured.
    """
    forwards = [value for line in steps for value in line["forwards"] + line["forward_once"]]
    pulls = [value for line in steps for value in line["pulls"]]
    return (median(forwards), median(pulls)) if forwards and pulls else None


def _work(line: Line, forwards: int, pulls: int) -> float:
    """Floating-point operations of so many network calls without and with VJP."""
    return forwards * line["forward_products"] + pulls * (
        line["forward_products"] + line["backward_products"]
    )
