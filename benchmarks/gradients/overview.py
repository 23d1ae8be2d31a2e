"""Every setting in one line: the figures that are compared most."""

from collections.abc import Sequence

from benchmarks.common import table
from benchmarks.gradients.registration import Registration, Setting
from benchmarks.gradients.summary import Figures, Group, Row

# Heading -> the name of the method, given shares of the sampler's steps.
COMPARED = {
    "`Interpolated`, N/5": lambda s: f"Interpolated(vjps={s(0.2)})",
    "`Interpolated`, 2N/5": lambda s: f"Interpolated(vjps={s(0.4)})",
    "adjoint on stored states, Euler, 2N/5 steps": lambda s: (
        f'Adjoint("stored", Euler(), steps={s(0.4)})'
    ),
    "FlowGrad, 2N/5": lambda s: f"FlowGrad(vjps={s(0.4)})",
    "`Truncated`, N/2": lambda s: f"Truncated(last={s(0.5)})",
    "the paper's adjoint, states solved back, Heun": lambda s: 'Adjoint("solved", Heun())',
    "torchdiffeq, Euler, all times": lambda s: 'torchdiffeq.odeint_adjoint("euler", all times)',
}
OF_THE_ODE = "exact against the ODE"


def overview(groups: Sequence[Group], registration: Registration, part: str = "inputs") -> str:
    """Make the table of median errors for noise / embedding, or for LoRA / weights.

    N and shares count network calls.

    Settings without these methods are left out. It is empty if that leaves none.

    Args:
        groups: all that was measured.
        registration: its settings.
        part: "inputs" or "weights".

    """
    settings = {(s.sampler, s.calls, s.guidance): s for s in registration.settings()}
    tensors = ("noise", "embedding") if part == "inputs" else ("lora", "weights")
    rows = []
    for group in groups:
        found = {row.method: row for row in group.rows}
        named = _names(settings[group.sampler, group.calls, group.guidance])
        cells = [_errors(found.get(name), "exact", tensors) for name in named] + [
            _errors(found.get("Checkpoint()"), "ode", tensors)
        ]
        if any(cells):
            where = [group.model, group.sampler, str(group.calls), f"{group.guidance:g}"]
            rows.append([*where, _pairs(group, part), *cells])
    if not rows:
        return ""
    head = ["model", "sampler", "N", "guidance", "pairs", *COMPARED, OF_THE_ODE]
    if not any(row[-1] for row in rows):
        head, rows = head[:-1], [row[:-1] for row in rows]
    return table(head, rows)


def _names(setting: Setting) -> list[str]:
    def share(part: float) -> int:
        return max(1, round(part * setting.steps))

    return [name(share) for name in COMPARED.values()]


def _errors(row: Row | None, reference: str, tensors: Sequence[str]) -> str:
    found: list[Figures | None] = [
        None if row is None else row.relative.get((t, reference, "all")) for t in tensors
    ]
    if not any(found):
        return ""
    return " / ".join("–" if figures is None else f"{figures[0]:.2g}" for figures in found)


def _pairs(group: Group, part: str) -> str:
    """How many pictures approximate methods were measured on.

    Of a sampler that has none, it is how many all methods were.
    """
    approximate = [row for row in group.rows if not row.exact]
    counts = [
        row.pairs.get(part, 0) for row in approximate or group.rows if any(row.pairs.values())
    ]
    if not counts:
        return ""
    fewest, most = min(counts), max(counts)
    return f"{most}" if fewest == most else f"{fewest} to {most}"
