"""What the documentation claims: which methods go together, and that tables are those of the
measurements.
"""

import lzma
import re
from pathlib import Path

import pytest
import torch

import adjointdpm as adj
from adjointdpm.engine.gradients import GradientMethod
from adjointdpm.engine.samplers import SAMPLERS, Sampler
from benchmarks.common import BEGIN, END
from benchmarks.gradients.registration import Registration
from benchmarks.gradients.report import markdown, setting_pages
from benchmarks.gradients.results import Results

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def adjoint_column() -> dict[str, str]:
    rows = [
        line.split("|")[1:-1]
        for line in README.splitlines()
        if line.startswith("| `") and line.count("|") == 6
    ]
    return {match[1]: row[-1].strip() for row in rows if (match := re.match(r" `(\w+)\(", row[0]))}


def test_every_registered_sampler_is_in_the_table():
    assert set(adjoint_column()) == {type(factory()).__name__ for factory in SAMPLERS.values()}


class Plain(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(3, 3)

    def forward(self, x: torch.Tensor, t: torch.Tensor, cond: object) -> torch.Tensor:
        return self.linear(x)


def solve(sampler: Sampler, method: GradientMethod) -> None:
    x = adj.sample(
        Plain(),
        torch.randn(2, 3),
        schedule=adj.NoiseSchedule.linear(),
        steps=3,
        sampler=sampler,
        gradient=method,
    )
    x.sum().backward()


@pytest.mark.parametrize("factory", SAMPLERS.values())
@pytest.mark.parametrize("states", ["solved", "stored"])
def test_the_adjoint_takes_the_samplers_that_the_table_says(factory, states):
    sampler = factory()
    solve(sampler, adj.Checkpoint())
    solve(sampler, adj.Truncated(1))
    solve(sampler, adj.Interpolated(2))
    match adjoint_column()[type(sampler).__name__]:
        case "yes":
            solve(sampler, adj.Adjoint(states))
        case "rule":
            solve(sampler, adj.Adjoint(states, sampler=adj.Heun()))
            with pytest.raises(adj.errors.UnsupportedError, match="name one"):
                solve(sampler, adj.Adjoint(states))
        case "no":
            for method in (adj.Adjoint(states), adj.Adjoint(states, sampler=adj.Heun())):
                with pytest.raises(adj.errors.UnsupportedError, match="adds noise"):
                    solve(sampler, method)
        case other:
            raise AssertionError(other)


def test_the_ten_lines_run():
    code = re.findall(r"```python\n(import adjointdpm.*?)```", README, re.DOTALL)
    assert len(code) == 1
    names: dict[str, object] = {}
    exec(code[0].replace("steps=50", "steps=2"), names)
    assert all(names[name].grad.abs().sum() > 0 for name in ("noise", "embeds"))  # type: ignore[attr-defined]


def test_the_gradient_benchmark_pages_hold_what_was_measured(tmp_path):
    """`python -m benchmarks.gradients --minutes 0 --resume --page docs/gradients.md` rewrites it
    from kept measurements.
    """
    kept = tmp_path / "measurements.jsonl"
    kept.write_bytes(
        lzma.decompress((ROOT / "benchmarks" / "results" / "gradients.jsonl.xz").read_bytes())
    )
    lines = list(Results(kept, resume=True))
    page = (ROOT / "docs" / "gradients.md").read_text("utf-8")
    assert page.split(BEGIN)[1].split(END)[0].strip() == markdown(lines, Registration()).strip()
    written = {
        path.name: path.read_text("utf-8") for path in (ROOT / "docs" / "gradients").iterdir()
    }
    assert written == setting_pages(lines, Registration())
