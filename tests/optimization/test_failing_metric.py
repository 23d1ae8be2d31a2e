"""A run whose metric fails late goes on, once it is mended, as if nothing had happened."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from adjointdpm import errors, metrics
from adjointdpm.optimization.loop import Interrupted, Outcome, Settings, optimize
from adjointdpm.optimization.objective import MetricObjective
from adjointdpm.optimization.renderer import Renderer
from adjointdpm.pipelines import from_pipeline
from adjointdpm.runs.checkpoints import Checkpoints
from adjointdpm.variables import Example, Noise
from helpers.tiny_pipelines import tiny_pipeline

EXAMPLES = [Example("red fox", seed) for seed in range(2)]
LOOP = Settings(
    iterations=4,
    batch=1,
    lr=0.05,
    preservation=0.0,
    validate_every=2,
    checkpoint_every=9,
    patience=9,
)


class Failing(metrics.Metric):
    """Blue, with an exception at one of its calls."""

    def __init__(self, at: int, failure: BaseException | None) -> None:
        self.at, self.failure, self.calls = at, failure, 0

    def __call__(self, samples: Any, /, prompts: Any = None) -> Tensor:
        """Score, or fail."""
        self.calls += 1
        if self.calls == self.at and self.failure is not None:
            raise self.failure
        return samples[:, 2].mean((1, 2)) + 0 * torch.rand(len(samples))


def learn(
    path: Path, metric: metrics.Metric, history: list, *, resume: bool = False
) -> tuple[Tensor, Outcome]:
    model = from_pipeline(tiny_pipeline(path))
    noise = Noise(EXAMPLES, torch.cat([model.noise(1, e.seed) for e in EXAMPLES]))
    former = list(history)
    outcome = optimize(
        MetricObjective(Renderer(model, 2, 1.0), metric),
        noise,
        EXAMPLES,
        EXAMPLES,
        LOOP,
        checkpoints=Checkpoints(path / "checkpoint"),
        history=former,
        resume=resume,
        on_history=lambda records: history.__setitem__(slice(None), records),
    )
    return noise.noise.detach().clone(), outcome


def course(outcome: Outcome) -> list[dict[str, Any]]:
    return [{k: v for k, v in record.items() if k != "seconds"} for record in outcome.history]


# The calls: a look of one, two steps, a look, two steps, a look.
@pytest.mark.parametrize(
    ("at", "failure"),
    [
        (2, RuntimeError("in a step")),
        (4, RuntimeError("in a look")),
        (5, SystemExit(0)),
        (7, BaseException("in the last look")),
        (4, KeyboardInterrupt()),
    ],
)
def test_it_ends_as_a_run_that_never_failed(tmp_path, at: int, failure: BaseException) -> None:
    whole, wanted = learn(tmp_path / "whole", Failing(0, None), [])
    history: list = []
    stopped = isinstance(failure, KeyboardInterrupt)
    with pytest.raises(Interrupted if stopped else errors.MetricError) as raised:
        learn(tmp_path / "cut", Failing(at, failure), history)
    told = "\n".join([str(raised.value), *getattr(raised.value, "__notes__", [])])
    assert "is saved in" in told
    assert "--resume" in told
    noise, outcome = learn(tmp_path / "cut", Failing(0, None), history, resume=True)
    assert torch.equal(noise, whole)
    assert course(outcome) == course(wanted)


def test_a_failure_before_the_first_record_saves_nothing(tmp_path) -> None:
    with pytest.raises(errors.MetricError, match="first"):
        learn(tmp_path, Failing(1, RuntimeError("first")), [])
    assert not (tmp_path / "checkpoint").exists()


def test_nan_after_the_probe_is_an_error(tmp_path) -> None:
    class Late(Failing):
        def __call__(self, samples: Any, /, prompts: Any = None) -> Tensor:
            scores = super().__call__(samples, prompts)
            return scores * float("nan") if self.calls > 4 else scores

    with pytest.raises(errors.MetricError, match=r"NaN or infinite scores: \[nan"):
        learn(tmp_path, Late(0, None), [])
