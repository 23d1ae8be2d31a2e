"""Two real processes give what one gives; they draw different pictures, stop together and fail
together.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from adjointdpm import errors, metrics
from adjointdpm.engine.gradients import Auto, resolve
from adjointdpm.optimization.auto_agreement import adopt, agreed
from adjointdpm.optimization.loop import Interrupted, Settings, optimize
from adjointdpm.optimization.objective import MetricObjective
from adjointdpm.optimization.renderer import Renderer
from adjointdpm.runs.folder import RunFolder
from adjointdpm.runs.trackers import flatten
from adjointdpm.support.distributed import Processes
from adjointdpm.variables import Example
from helpers.toys import REDDISH, Tint, ToyModel
from helpers.two_processes import run_in_two_processes

TRAINING = [Example("a", seed) for seed in range(5)]
VALIDATION = [Example("a", seed) for seed in range(100, 103)]
CASES = {  # name -> settings; a step uses 2, 3, 4 and 1 examples
    "even": {"batch": 2, "ema": 0.9, "distance": 0.1},
    "uneven": {"batch": 3, "lr_schedule": "cosine"},
    "accumulated": {"batch": 1, "accumulate": 4, "preservation": 0.0},
    "one process draws nothing": {"batch": 1},
}


def settings(**changes: Any) -> Settings:
    values = {
        "iterations": 6,
        "lr": 0.1,
        "preservation": 0.5,
        "validate_every": 2,
        "patience": 9,
        "checkpoint_every": 2,
    }
    return Settings(**values | changes)


class Recording(ToyModel):
    """Remembers the seeds of what it draws."""

    def __init__(self) -> None:
        super().__init__()
        self.seeds: list[int] = []

    def noise(self, batch: int, seed: int) -> Tensor:
        self.seeds.append(seed)
        return super().noise(batch, seed)


def learn(
    variable: Tint,
    changes: dict[str, Any],
    model: ToyModel | None = None,
    metric: metrics.Metric = REDDISH,
    **kwargs: Any,
):
    return optimize(
        MetricObjective(Renderer(model or ToyModel()), metric),
        variable,
        TRAINING,
        VALIDATION,
        settings(**changes),
        **kwargs,
    )


def case(name: str) -> dict[str, Any]:
    """One case, as plain values."""
    variable, model, told = Tint(), Recording(), []
    variable.color.data += 0.1 * Processes().index  # to be overwritten by the main process's
    outcome = learn(
        variable, CASES[name], model, on_history=lambda history: told.append(len(history))
    )
    return {
        "color": variable.color.tolist(),
        "history": outcome.history,
        "seeds": model.seeds,
        "told": told,
    }


def refusal(function: Callable[[], object]) -> list[str]:
    try:
        function()
    except (Exception, Interrupted) as error:
        return [type(error).__name__, str(error)]
    return ["nothing"]


def failures(out: Path) -> dict[str, Any]:
    """What goes wrong in one process, as all see it."""
    processes = Processes()
    other = processes.index == 1

    def bad_scores(x: Tensor) -> Tensor:
        return x.mean((1, 2, 3)) / (0 if other else 1)

    def full_disk(_: object) -> None:
        raise errors.OutputError("disk full")

    def fail() -> None:
        raise KeyError("x")

    return {
        "folder": refusal(lambda: RunFolder.open(out, {})),
        "metric": refusal(lambda: learn(Tint(), {}, metric=metrics.resolve(bad_scores))),
        "history": refusal(lambda: learn(Tint(), {}, on_history=full_disk)),
        "other": refusal(lambda: processes.from_main(fail)),
    }


def interrupted(out: Path) -> dict[str, Any]:
    """The second process alone is asked to stop; then both resume."""
    processes, steps = Processes(), 0

    def stop_in_step_three(x: Tensor) -> Tensor:
        nonlocal steps
        steps += x.requires_grad
        if processes.index == 1 and x.requires_grad and steps == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return REDDISH(x)

    folder = RunFolder.open(out / "run", {"seed": 0})
    kwargs: dict[str, Any] = {"checkpoints": folder.checkpoints, "on_history": folder.write_history}
    how = refusal(
        lambda: learn(Tint(), CASES["even"], metric=metrics.resolve(stop_in_step_three), **kwargs)
    )
    processes.wait()
    variable = Tint()
    folder = RunFolder.open(out / "run", {"seed": 0}, resume=True)
    outcome = learn(
        variable,
        CASES["even"],
        resume=True,
        **kwargs,
    )
    return {
        "how": how,
        "color": variable.color.tolist(),
        "history": outcome.history,
        "writable": folder.writable,
    }


def primitives(out: Path) -> dict[str, Any]:
    processes = Processes()
    total = torch.tensor([1.0, 10.0]) * (processes.index + 1)
    processes.sum_([total])
    mine = processes.share(list("abcde"))
    picture = processes.share(torch.arange(6.0).view(3, 2).tolist())[:1] if processes.index else []
    folder = RunFolder.open(out / "primitives", {})
    (path,) = folder.write_images([f"by_{processes.index}"], torch.zeros(1, 3, 4, 4))
    folder.write_result({"by": processes.index})
    processes.wait()
    return {
        "count": processes.count,
        "sum": total.tolist(),
        "mine": list(mine),
        "gathered": processes.gather(mine),
        "tensor": processes.gather(torch.tensor(picture)).tolist(),
        "any": [processes.any(processes.index == 1), processes.any(False)],
        "from_main": processes.from_main(lambda: processes.index),
        "image": path.exists(),
        "result": json.loads((folder.path / "result.json").read_text()),
    }


def choices() -> list[dict[str, Any]]:
    """What `Auto` goes on with where each process had decided for itself: the process counts whose
    examples need most.
    """
    network, processes = nn.Identity(), Processes()
    render = Renderer(SimpleNamespace(network=network), gradient=Auto(0.1))

    def measured(vjps: int | None, alarms: int = 0) -> dict[str, Any]:
        return {
            "vjps": vjps,
            "reason": f"{vjps} by {processes.index}",
            "errors": {"few": 0.05},
            "estimate": 0.1,
            "alarms": alarms,
        }

    first = {
        "second needs more": measured(2),
        "second needs all": measured(4),
        "second alone": None,
        "second gave up": measured(5),
        "second measured again": measured(5, alarms=3),
        "second alarmed": measured(6, alarms=1),
    }
    second = {
        "second needs more": measured(3),
        "second needs all": measured(None),
        "second alone": measured(4),
        "second gave up": measured(5, alarms=3),
        "second measured again": measured(9),
        "second alarmed": measured(6, alarms=2),
    }
    adopt(
        render,
        {
            kind: facts
            for kind, facts in (second if processes.index else first).items()
            if facts is not None
        },
    )
    found = agreed(render, processes)
    return [found, resolve(render.gradient).decisions(network)]  # pyright: ignore[reportAttributeAccessIssue]


_LEVELS = 128  # more than any letter: pictures stay within [0, 1]


def prompted() -> dict[str, Any]:
    """Which prompt and picture the metric sees together, here and with everybody's share."""
    examples, seen = [Example(text, seed) for seed, text in enumerate("abcde")], []

    class Named(ToyModel):
        def generate(self, prompt, noise, **_):  # pyright: ignore[reportIncompatibleMethodOverride]
            levels = torch.tensor([float(ord(text)) for text in prompt]).view(-1, 1, 1, 1)
            return (super().generate(prompt, noise) + levels) / _LEVELS

    def score(images: Tensor, prompts: list[str]) -> Tensor:
        means = _LEVELS * images.mean((1, 2, 3))
        seen.extend(zip(prompts, means.floor().tolist(), strict=True))
        return means

    values = settings(iterations=2, batch=2, accumulate=2)
    objective = MetricObjective(Renderer(Named()), metrics.resolve(score))
    optimize(objective, Tint(), examples, examples[:3], values)
    return {"seen": seen}


def worker(out: Path) -> None:
    """What each of the two processes does."""
    results: dict[str, Any] = {name: case(name) for name in CASES}
    results |= {
        "choices": choices(),
        "prompted": prompted(),
        "primitives": primitives(out),
        "interrupted": interrupted(out),
        "failures": failures(out),
    }
    (out / f"results-{Processes().index}.json").write_text(json.dumps(results))


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> list[dict[str, Any]]:
    """The results of two processes on this machine's CPU."""
    out = tmp_path_factory.mktemp("two")
    run_in_two_processes(__file__, out, timeout=120)
    return [json.loads((out / f"results-{rank}.json").read_text()) for rank in (0, 1)]


def assert_same_history(one: list[dict], other: list[dict]) -> None:
    assert len(one) == len(other)
    for record, wanted in zip(one, other, strict=True):
        assert flatten(record | {"seconds": 0}) == pytest.approx(
            flatten(wanted | {"seconds": 0}), rel=1e-5, abs=1e-6
        )


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_two_processes_learn_what_one_learns(two, name: str) -> None:
    alone = case(name)
    assert (
        two[0][name]["color"]
        == two[1][name]["color"]
        == pytest.approx(alone["color"], rel=1e-5, abs=1e-7)
    )
    for result in two:
        assert_same_history(result[name]["history"], alone["history"])
    assert {"validation", "training"} <= alone["history"][-1].keys()
    assert two[0][name]["told"] == alone["told"]
    assert two[1][name]["told"] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_no_picture_is_drawn_twice(two, name: str) -> None:
    drawn = two[0][name]["seeds"] + two[1][name]["seeds"]
    assert sorted(drawn) == sorted(case(name)["seeds"])


@pytest.mark.slow
def test_every_look_at_the_validation_examples_is_shared_out(two) -> None:
    shares = [
        {seed for seed in result["accumulated"]["seeds"] if seed >= 100} for result in two
    ]  # a run without plain pictures
    assert shares == [{100}, {101, 102}]


@pytest.mark.slow
def test_a_stop_request_in_one_process_stops_both_after_the_same_step_and_the_run_resumes(
    two,
) -> None:
    alone = case("even")
    for result in two:
        kind, message = result["interrupted"]["how"]
        assert kind == "Interrupted"
        assert "after iteration 3" in message
        assert result["interrupted"]["color"] == two[0]["even"]["color"]  # bit for bit
        assert_same_history(result["interrupted"]["history"], alone["history"])
    assert [result["interrupted"]["writable"] for result in two] == [True, False]


@pytest.mark.slow
def test_what_fails_in_one_process_fails_in_both(two) -> None:
    seen = [result["failures"] for result in two]
    for name, kind, text in (
        ("folder", "OutputError", "not empty"),
        ("metric", "MetricError", "infinite"),
        ("history", "OutputError", "disk full"),
    ):
        for result in seen:
            assert result[name][0] == kind
            assert text in result[name][1]
    assert "(in process 0)" in seen[1]["folder"][1]
    assert "(in process 1)" in seen[0]["metric"][1]
    assert seen[1]["other"] == ["RuntimeError", "KeyError: 'x' (in process 0)"]


@pytest.mark.slow
def test_both_go_on_with_what_the_more_demanding_process_decided(two) -> None:
    for result in two:
        for decided in result["choices"]:
            found = {kind: (facts["vjps"], facts["alarms"]) for kind, facts in decided.items()}
            assert found == {
                "second needs more": (3, 0),
                "second needs all": (None, 0),
                "second alone": (4, 0),
                "second gave up": (5, 3),
                "second measured again": (9, 0),
                "second alarmed": (6, 2),
            }


@pytest.mark.slow
def test_the_metric_of_each_process_sees_the_prompts_of_its_share(two) -> None:
    shares = [result["prompted"]["seen"] for result in two]
    assert all(level == ord(prompt) for share in shares for prompt, level in share)
    together = [prompt for share in shares for prompt, _ in share]
    assert sorted(together) == sorted(prompt for prompt, _ in prompted()["seen"])
    assert min(map(len, shares)) > 0


@pytest.mark.slow
def test_the_primitives(two) -> None:
    first, second = (result["primitives"] for result in two)
    assert (first["mine"], second["mine"]) == (["a", "b"], ["c", "d", "e"])
    assert (first["image"], second["image"]) == (True, False)
    for result in (first, second):
        assert result["count"] == 2
        assert result["sum"] == [3.0, 30.0]
        assert result["gathered"] == list("abcde")
        assert result["tensor"] == [[2.0, 3.0]]
        assert result["any"] == [True, False]
        assert result["from_main"] == 0
        assert result["result"] == {"by": 0}


def test_one_process_shares_with_nobody() -> None:
    processes, values = Processes(), torch.ones(2)
    processes.sum_([values])
    processes.copy_from_main_([values])
    assert (processes.count, processes.index, processes.is_main) == (1, 0, True)
    assert processes.share([1, 2, 3]) == processes.gather([1, 2, 3]) == [1, 2, 3]
    assert values.tolist() == [1.0, 1.0]
    with pytest.raises(KeyError), processes.together():
        raise KeyError


@pytest.mark.slow
def test_the_package_runs_as_a_module() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "adjointdpm", "--help"],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert "demo" in done.stdout


if __name__ == "__main__":
    worker(Path(sys.argv[1]))
