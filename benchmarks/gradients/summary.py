"""From lines to figures: medians and 95th percentiles over pictures, and what they cost."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from benchmarks.gradients.registration import Registration
from benchmarks.gradients.results import Line

Figures = tuple[float, float]  # median, 95th percentile
TENSORS = ("noise", "embedding", "lora", "weights")


@dataclass
class Row:
    """One method in one setting.

    Attributes:
        relative: by (tensor, reference, metric or "all"), the relative errors' median and 95th
            percentile.
        cosine: likewise; median and 5th percentile.
        pairs: by part, how many registered pairs it was measured on.
        ode_pairs: likewise, on how many of these beside the converged ODE.
        failed: on how many it raised an error.
        message: what the first of them said.
        costs: by learned tensors ("inputs", "lora", "weights").
        estimates: for every picture and metric, the relative error that the method itself
            estimated, and by tensor the true one.

    """

    method: str
    family: str
    exact: bool
    relative: dict[tuple[str, str, str], Figures] = field(default_factory=dict)
    cosine: dict[tuple[str, str, str], Figures] = field(default_factory=dict)
    pairs: dict[str, int] = field(default_factory=dict)
    ode_pairs: dict[str, int] = field(default_factory=dict)
    failed: int = 0
    message: str = ""
    calls: float | None = None
    vjps: float | None = None
    costs: dict[str, "Cost"] = field(default_factory=dict)
    estimates: list[tuple[float, dict[str, float]]] = field(default_factory=list)


@dataclass(frozen=True)
class Cost:
    """What one solve costs: medians over rounds.

    Attributes:
        to_backprop: seconds over those of full backpropagation beside it.
        to_forward: seconds over those of one network forward.
        to_floor: seconds over those of its network calls and VJPs, measured alone: cF + vB, (N −
            1)(2F + B) + F + B for checkpointing.
        with_sums: the same with the v − 1 sums of two gradients added to the floor.
        calls, vjps: network calls and vector-Jacobian products.
        bytes_held: the peak of what network graphs hold.
        graph_bytes: of one of them.
        rounds: how many.

    """

    to_backprop: float
    to_forward: float
    to_floor: float
    with_sums: float
    seconds: float
    calls: int
    vjps: int
    bytes_held: int
    graph_bytes: int
    rounds: int


@dataclass(frozen=True)
class Group:
    """The rows of one setting of one model."""

    model: str
    sampler: str
    guidance: float
    calls: int
    rows: list[Row]


def summarise(lines: Iterable[Line], registration: Registration) -> list[Group]:
    """All settings of which anything was measured; lines of another registration are left out."""
    current = [line for line in lines if line["registration"] == registration.digest]
    groups: dict[tuple[str, str, float, int], dict[str, list[Line]]] = {}
    for line in current:
        if line["kind"] in ("errors", "cost"):
            setting = (line["model"], line["sampler"], line["guidance"], line["calls"])
            groups.setdefault(setting, {}).setdefault(line["method"], []).append(line)
    order = {name: i for i, name in enumerate(registration.content["samplers"])}
    ordered = sorted(groups, key=lambda g: (g[0] != "tiny", g[0], order.get(g[1], 99), -g[3], g[2]))
    return [
        Group(*setting, rows=[_row(name, found) for name, found in groups[setting].items()])
        for setting in ordered
    ]


def judged(group: Group, registration: Registration) -> bool:
    """Whether it is the setting in which the goals are judged."""
    where = registration.content["goals"]["judged_at"]
    return (group.sampler, group.calls, group.guidance) == (
        where["sampler"],
        where["calls"],
        where["guidance"],
    )


def doubts(
    lines: Iterable[Line], registration: Registration
) -> dict[tuple[str, float, int, str], Figures]:
    """How far half as many steps of the converged solution are from all of them.

    The keys are (model, guidance, N, tensor).
    """
    values: dict[tuple[str, float, int, str], list[float]] = {}
    for line in lines:
        if line["kind"] == "doubt" and line["registration"] == registration.digest:
            for by_tensor in line["errors"].values():
                for tensor, by_reference in by_tensor.items():
                    if tensor in ("noise", "embedding") and line["part"] != "inputs":
                        continue  # the same once more
                    key = (line["model"], line["guidance"], line["calls"], tensor)
                    values.setdefault(key, []).append(by_reference["ode"][0])
    ordered = sorted(values, key=lambda key: (key[0] != "tiny", key[0], -key[2], key[1]))
    return {key: _figures(values[key], 0.95) for key in ordered}


def others(lines: Iterable[Line], registration: Registration) -> int:
    """How many lines were measured under another registration."""
    return sum(line["registration"] != registration.digest for line in lines)


def _row(name: str, lines: Sequence[Line]) -> Row:
    row = Row(name, lines[0]["family"], lines[0]["exact"])
    samples: dict[tuple[str, str, str], list[tuple[float, float]]] = {}
    rounds: dict[str, list[Line]] = {}
    for line in lines:
        if "failed" in line:
            row.failed += 1
            row.message = row.message or line["failed"]
            continue
        if line["kind"] == "cost":
            rounds.setdefault(line["part"], []).append(line)
            continue
        for counted in (row.pairs, row.ode_pairs) if line["ode"] else (row.pairs,):
            counted[line["part"]] = counted.get(line["part"], 0) + 1
        row.calls, row.vjps = line.get("network_calls", row.calls), line.get("vjps", row.vjps)
        for metric, by_tensor in line["errors"].items():
            estimate = line.get("estimates", {}).get(metric) if line["part"] == "inputs" else None
            if estimate is not None:
                row.estimates.append(
                    (
                        estimate,
                        {
                            tensor: by_reference["exact"][0]
                            for tensor, by_reference in by_tensor.items()
                        },
                    )
                )
            for tensor, by_reference in by_tensor.items():
                if tensor in ("noise", "embedding") and line["part"] != "inputs":
                    continue  # measured with the inputs, on more pictures
                for reference, value in by_reference.items():
                    for group in (metric, "all"):
                        samples.setdefault((tensor, reference, group), []).append(tuple(value))
    for key, values in samples.items():
        relative, cosine = zip(*values, strict=True)
        row.relative[key], row.cosine[key] = _figures(relative, 0.95), _figures(cosine, 0.05)
    row.costs = {part: cost for part, found in rounds.items() if (cost := _cost(found)) is not None}
    return row


def _cost(lines: Sequence[Line]) -> Cost | None:
    counted = next((line for line in lines if "network_calls" in line), None)
    if counted is None:
        return None

    def median(ratio: Any) -> float:
        return statistics.median(ratio(line) for line in lines)

    def floor(line: Line, sums: bool = False) -> float:
        backward = line["forward_backward"] - line["forward"]
        added = (counted["vjps"] - 1) * line["sum"] if sums else 0.0
        return counted["network_calls"] * line["forward"] + counted["vjps"] * backward + added

    return Cost(
        to_backprop=median(lambda line: line["seconds"] / line["backprop"]),
        to_forward=median(lambda line: line["seconds"] / line["forward"]),
        to_floor=median(lambda line: line["seconds"] / floor(line)),
        with_sums=median(lambda line: line["seconds"] / floor(line, sums=True)),
        seconds=median(lambda line: line["seconds"]),
        calls=counted["network_calls"],
        vjps=counted["vjps"],
        bytes_held=counted["peak_bytes_held"],
        graph_bytes=counted["graph_bytes"],
        rounds=len(lines),
    )


def _figures(values: Sequence[float], other: float) -> Figures:
    """Median and another quantile; numbers that are not finite count as the worst."""
    worst = float("inf") if other > 0.5 else -1.0
    found = torch.tensor(values, dtype=torch.float64).nan_to_num(nan=worst, posinf=worst)
    if bool(found.isinf().any()):  # interpolation between infinities is not a number
        return tuple(
            found.sort().values[[round(q * (len(found) - 1)) for q in (0.5, other)]].tolist()
        )  # pyright: ignore[reportReturnType]
    return found.quantile(0.5).item(), found.quantile(other).item()
