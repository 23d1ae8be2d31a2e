"""The tables of `pipeline_memory.py`."""

from typing import Any

from benchmarks.common import table
from benchmarks.released_sizes import SIZES

GB = 10**9
BFLOAT16 = 2


def page_text(found: dict[str, Any], cases: list[str]) -> str:
    """Measured and computed."""
    texts: list[str] = []
    if lines := [found["measured"][name] for name in cases if name in found["measured"]]:
        texts.append(_measured(lines))
    if needs := {name: found["computed"][name] for name in SIZES if name in found["computed"]}:
        texts.append(_methods(needs))
        texts.append(_decoders(needs))
    return "\n\n".join(texts)


def _measured(lines: list[dict[str, Any]]) -> str:
    rows: list[list[str]] = []
    for line in lines:
        case = line["case"]
        what = f"{SIZES[case['size']].title}, {case['side']}×{case['side']}"
        row = [what, case["dtype"], "picture" if case["decoded"] else "latent"]
        row.append("yes" if case["inner"] else "no")
        need = _computed_growth(line)
        weights = sum(line["computed"][part]["weights"] for part in ("network", "decoder"))
        row += [_gb(weights), _gb(need)]
        if "failed" in line:
            rows.append([*row, f"ended: {line['failed']}", "", "", "", ""])
            continue
        grown = line["resident_peak"] - line["resident_before"]
        row += [_gb(line["live_peak"]), f"{line['live_peak'] / need:.3f}"]
        row += [f"{_gb(grown)} ({grown / need:.2f})", _gb(line["resident_peak"])]
        rows.append([*row, f"{line['seconds']:.0f} ({line['threads']})"])
    head = ["one guided step", "dtype", "gradient of the", "inner checkpointing", "weights, GB"]
    head += ["computed, GB", "tensors measured, GB", "ratio", "growth of resident memory, GB"]
    head += ["resident at its peak, GB", "seconds (threads)"]
    return (
        f"**Measured** with `python -m benchmarks.pipeline_memory` on {lines[-1]['machine']}:\n\n"
        f"{table(head, rows)}"
    )


def _computed_growth(line: dict[str, Any]) -> int:
    """The larger of what the network's call and the decoder's need, which do not live together."""
    end = " inner" if line["case"]["inner"] else ""
    parts = ["network", "decoder"] if line["case"]["decoded"] else ["network"]
    return max(line["computed"][f"{part}{end}"]["peak"] for part in parts)


def _methods(needs: dict[str, Any]) -> str:
    rows: list[list[str]] = []
    for name, need in needs.items():
        size, network, inner = SIZES[name], need["network"], need["network inner"]
        weights, count = size.copies * network["weights"], network["weights"] // BFLOAT16
        state = BFLOAT16 * size.rows
        for extent in size.state:
            state *= extent
        once = weights + network["peak"]
        graphs = size.steps * size.calls * network["graph"]
        all_graphs = weights + graphs + network["peak"] - network["graph"]
        parameters = f"{size.copies} × {count / GB:.2f}" if size.copies > 1 else f"{count / GB:.2f}"
        row = [size.title, size.sample, parameters, _gb(weights), _gb(network["graph"])]
        row += [f"{size.steps} × {size.calls}", _gb(all_graphs), _gb(once + size.steps * state)]
        rows.append([*row, _gb(once), _gb(weights + inner["peak"] + size.steps * state)])
    head = ["network", "sample", "weights, 10⁹", "weights, GB", "graph of one call, GB"]
    head += ["steps × calls", "`Backprop()`, GB", "`Checkpoint()`, GB", "`Truncated(last=1)`, GB"]
    head += ["`Checkpoint()` with inner checkpointing, GB"]
    return (
        "**Computed**, for a gradient of the latent with weights in bfloat16, text encoders left "
        f"out; each figure includes the weights:\n\n{table(head, rows)}"
    )


def _decoders(needs: dict[str, Any]) -> str:
    rows: list[list[str]] = []
    for name, need in needs.items():
        decoder, inner = need["decoder"], need["decoder inner"]
        row = [SIZES[name].title, SIZES[name].sample, _gb(decoder["weights"])]
        row += [_gb(decoder["graph"]), _gb(decoder["peak"])]
        rows.append([*row, "not offered" if inner is None else _gb(inner["peak"])])
    head = ["decoder of", "sample", "weights, GB", "graph, GB", "at its peak, GB"]
    head += ["with inner checkpointing, GB"]
    return (
        "**Decoders**, which a gradient of the sample needs besides, computed in bfloat16; with "
        "`Checkpoint()` their graph is gone before the network's first one is made, so that the "
        f"larger of the two counts:\n\n{table(head, rows)}"
    )


def _gb(size: float) -> str:
    return f"{size / GB:.3g}" if size < 100 * GB else f"{size / GB:.0f}"
