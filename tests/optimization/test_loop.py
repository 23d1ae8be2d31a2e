"""The loop: it learns, stops, keeps the best, and an interrupted run that is resumed gives the same
bits.
"""

import os
import signal
from dataclasses import replace
from typing import ClassVar

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from adjointdpm import errors, metrics
from adjointdpm.optimization.averaging import Average
from adjointdpm.optimization.loop import Interrupted, Settings, _minibatch, optimize
from adjointdpm.optimization.objective import MetricObjective
from adjointdpm.optimization.renderer import Renderer
from adjointdpm.optimization.state import LoopState
from adjointdpm.runs.checkpoints import Checkpoints
from adjointdpm.runs.folder import RunFolder
from adjointdpm.runs.trackers import Trackers, flatten
from adjointdpm.variables import Example
from helpers.toys import REDDISH, Recolored, Tint, ToyModel

TRAINING = [Example("a", seed) for seed in range(5)]
VALIDATION = [Example("a", seed) for seed in range(100, 103)]
SETTINGS = Settings(
    iterations=12,
    batch=2,
    lr=0.1,
    preservation=0.5,
    validate_every=3,
    patience=5,
    checkpoint_every=4,
)


def run(variable: Tint, settings: Settings = SETTINGS, metric=REDDISH, **kwargs):
    return optimize(
        MetricObjective(Renderer(ToyModel()), metric),
        variable,
        TRAINING,
        VALIDATION,
        settings,
        **kwargs,
    )


def without_times(history: list[dict]) -> list[dict]:
    return [{k: v for k, v in record.items() if k != "seconds"} for record in history]


def test_the_metric_falls_and_the_best_state_is_kept() -> None:
    variable = Tint()
    outcome = run(variable)
    looks = {
        record["iteration"]: record["validation"]
        for record in outcome.history
        if "validation" in record
    }
    assert list(looks) == [0, 3, 6, 9, 12]
    assert looks[12]["metric"] < 0.7 * looks[0]["metric"]
    assert outcome.best_iteration == min(looks, key=lambda i: looks[i]["objective"])
    assert variable.color[0] > 0.3 > variable.color[1]


EVERYTHING = {"accumulate": 2, "ema": 0.9, "distance": 0.1, "lr_schedule": "cosine"}


HALVING = {"optimizer": "normalized", "backtrack": 1, "lr": 3.0, "validate_every": 1}


@pytest.mark.parametrize("extra", [{}, EVERYTHING, HALVING])
def test_an_interrupted_run_resumed_equals_an_uninterrupted_one_bit_for_bit(
    tmp_path, extra: dict
) -> None:
    whole, parts, again = Tint(), Tint(), Tint()
    settings = replace(SETTINGS, **extra)
    expected = run(whole, settings)
    seen: list[dict] = []

    def stop_at_six(history: list[dict]) -> None:
        seen[:] = history
        if history[-1]["iteration"] == 6:
            os.kill(os.getpid(), signal.SIGTERM)

    checkpoints = Checkpoints(tmp_path / "checkpoint")
    with pytest.raises(Interrupted, match="iteration 6"):
        run(parts, settings, checkpoints=checkpoints, on_history=stop_at_six)
    outcome = run(again, settings, checkpoints=checkpoints, resume=True)
    assert torch.equal(again.color, whole.color)
    assert without_times(outcome.history) == without_times(expected.history)
    assert outcome.best_iteration == expected.best_iteration


def test_a_finished_run_resumed_with_nothing_left_to_do_returns_its_result(tmp_path) -> None:
    first, second = Tint(), Tint()
    expected = run(first, checkpoints=Checkpoints(tmp_path))
    outcome = run(second, checkpoints=Checkpoints(tmp_path), resume=True)
    assert torch.equal(first.color, second.color)
    assert outcome.history == expected.history


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_taken(tmp_path) -> None:
    run(Tint(), checkpoints=Checkpoints(tmp_path))
    newest = sorted(tmp_path.iterdir())[-1]
    newest.write_bytes(newest.read_bytes()[:100])
    with pytest.warns(errors.AdjointDPMWarning, match=newest.name):
        _, facts = Checkpoints(tmp_path).read()
    assert facts["iteration"] == 8
    for file in tmp_path.iterdir():
        file.write_bytes(b"")
    with (
        pytest.warns(errors.AdjointDPMWarning),
        pytest.raises(errors.CheckpointError, match=newest.name),
    ):
        Checkpoints(tmp_path).read()


def test_a_run_resumed_from_the_checkpoint_before_a_damaged_one_gives_the_same_bits(
    tmp_path,
) -> None:
    whole, again = Tint(), Tint()
    settings = replace(SETTINGS, **EVERYTHING)
    expected = run(whole, settings, checkpoints=Checkpoints(tmp_path))
    newest = sorted(tmp_path.iterdir())[-1]
    newest.write_bytes(newest.read_bytes()[:-7])
    with pytest.warns(errors.AdjointDPMWarning, match=newest.name):
        outcome = run(
            again,
            settings,
            checkpoints=Checkpoints(tmp_path),
            resume=True,
        )
    assert torch.equal(again.color, whole.color)
    assert without_times(outcome.history) == without_times(expected.history)
    assert outcome.history[8] == expected.history[8]  # read,
    assert outcome.history[9]["seconds"] != expected.history[9]["seconds"]  # computed again


def test_a_checkpoint_with_another_average_is_refused(tmp_path) -> None:
    run(Tint(), checkpoints=Checkpoints(tmp_path))
    with pytest.raises(errors.CheckpointError, match="another ema"):
        run(Tint(), replace(SETTINGS, ema=0.5), checkpoints=Checkpoints(tmp_path), resume=True)


def test_resuming_with_anothers_checkpoint_is_an_error(tmp_path) -> None:
    run(Tint(), checkpoints=Checkpoints(tmp_path))
    other = Tint()
    other.color = torch.zeros(4, requires_grad=True)
    with pytest.raises(errors.CheckpointError, match="another run"):
        run(other, checkpoints=Checkpoints(tmp_path), resume=True)


@pytest.mark.filterwarnings(
    "ignore:the gradient of .* is exactly 0"
)  # so far off that the colours are saturated
def test_it_stops_early_when_nothing_gets_better() -> None:
    settings = Settings(
        iterations=50, lr=100.0, validate_every=1, patience=2
    )  # jumps far past the optimum
    variable = Tint()
    outcome = run(variable, settings)
    assert outcome.history[-1]["iteration"] < 50
    assert "no better" in outcome.stopped
    looks = {record["iteration"]: record["validation"]["objective"] for record in outcome.history}
    assert looks[outcome.best_iteration] == min(looks.values())


def test_preservation_holds_the_drawing() -> None:
    def drift(weight: float) -> float:
        variable, render = Tint(), Renderer(ToyModel())
        run(variable, Settings(iterations=12, lr=0.5, preservation=weight, patience=9))
        return (
            metrics.structure_distance(render.look(VALIDATION, variable), render.look(VALIDATION))
            .mean()
            .item()
        )

    assert drift(5.0) < drift(0.0)


def test_without_preservation_no_plain_picture_is_drawn() -> None:
    class Counting(ToyModel):
        drawn = 0

        def noise(self, batch: int, seed: int) -> torch.Tensor:
            self.drawn += batch
            return super().noise(batch, seed)

    def drawn(preservation: float) -> int:
        model = Counting()
        settings = Settings(iterations=1, batch=2, preservation=preservation)
        outcome = optimize(
            MetricObjective(Renderer(model), REDDISH), Tint(), TRAINING, VALIDATION, settings
        )
        assert ("drift" in outcome.history[0]["validation"]) == (preservation > 0)
        return model.drawn

    assert drawn(0.0) == 2 * len(VALIDATION) + 2
    assert (
        drawn(1.0) == drawn(0.0) + len(VALIDATION) + 2
    )  # of the pool, only what one iteration uses


def test_plain_pictures_are_the_untouched_models() -> None:
    model = ToyModel()
    with Recolored(model) as variable:
        variable.color.data += torch.tensor([3.0, -3.0, 0.0])
        outcome = optimize(
            MetricObjective(Renderer(model), REDDISH), variable, TRAINING, VALIDATION, SETTINGS
        )
    assert outcome.history[0]["validation"]["drift"] > 0.1


@pytest.mark.parametrize("split", [{"batch": 1, "accumulate": 3}, {"batch": 2, "accumulate": 2}])
def test_accumulated_steps_are_those_of_the_larger_batch(split: dict) -> None:
    whole, parts = Tint(), Tint()
    expected = run(
        whole, replace(SETTINGS, batch=split["batch"] * split["accumulate"], distance=0.1)
    )
    outcome = run(parts, replace(SETTINGS, **split, distance=0.1))
    torch.testing.assert_close(parts.color, whole.color, rtol=1e-5, atol=1e-7)
    for record, other in zip(outcome.history, expected.history, strict=True):
        assert flatten(record | {"seconds": 0}) == pytest.approx(
            flatten(other | {"seconds": 0}), rel=1e-5, abs=1e-6
        )  # drift is 1 − a number near 1


def test_a_graph_holds_a_batch_and_no_more() -> None:
    sizes = []

    def note(images: torch.Tensor) -> torch.Tensor:
        if images.requires_grad:
            sizes.append(len(images))
        return REDDISH(images)

    run(Tint(), Settings(iterations=1, batch=2, accumulate=2), metrics.resolve(note))
    assert sizes == [2, 2]


def test_the_average_is_what_is_validated_kept_and_projected() -> None:
    class Recording(Tint):
        iterates: ClassVar[list[torch.Tensor]] = []
        projected = 0

        def project(self) -> None:
            self.projected += 1

    def remember(history: list[dict]) -> None:
        variable.iterates.append(variable.color.detach().clone())

    variable = Recording()
    settings = Settings(iterations=3, lr=0.1, ema=0.5, validate_every=1, patience=9)
    outcome = run(variable, settings, on_history=remember)
    average = variable.iterates[0]
    for k, iterate in enumerate(variable.iterates[1:], start=1):
        decay = min(0.5, (1 + k) / (10 + k))
        average = decay * average + (1 - decay) * iterate
    assert outcome.best_iteration == 3
    torch.testing.assert_close(variable.color.detach(), average)
    assert not torch.allclose(variable.color, variable.iterates[-1])
    seen = REDDISH(Renderer(ToyModel()).look(VALIDATION, variable)).mean().item()
    assert outcome.history[-1]["validation"]["metric"] == pytest.approx(seen)
    assert variable.projected == 3 + 4  # every iterate, and the average at every look


def test_a_regulariser_holds_the_variable_back_and_is_recorded() -> None:
    free, held = Tint(), Tint()
    run(free)
    outcome = run(held, replace(SETTINGS, distance=1.0))
    assert held.color.norm() < 0.7 * free.color.norm()
    values = outcome.history[-1]["training"]
    assert values["objective"] == pytest.approx(
        values["metric"] + SETTINGS.preservation * values["drift"] + values["distance"]
    )


def test_a_regulariser_that_the_variable_does_not_have_is_refused_before_anything_is_drawn() -> (
    None
):
    class NoPictures(ToyModel):
        def generate(self, *_, **__) -> torch.Tensor:
            raise AssertionError("drawn")

    with pytest.raises(errors.InvalidInputError, match=r"likelihood.*Tint.*distance"):
        optimize(
            MetricObjective(Renderer(NoPictures()), REDDISH),
            Tint(),
            TRAINING,
            VALIDATION,
            replace(SETTINGS, likelihood=0.1),
        )


def test_steps_that_are_too_long_are_taken_back_and_halved() -> None:
    settings = replace(SETTINGS, **HALVING, patience=12)
    backtracked, plain = Tint(), Tint()
    outcome = run(backtracked, settings)
    without = run(plain, replace(settings, backtrack=0))
    scales = [record["step_scale"] for record in outcome.history if "step_scale" in record]
    assert scales == [0.5**k for k in range(1, len(scales) + 1)]
    assert len(scales) >= 2
    best = [
        min(r["validation"]["objective"] for r in history)
        for history in (outcome.history, without.history)
    ]
    assert best[0] < best[1] - 0.05


def test_a_gain_of_next_to_nothing_counts_as_none() -> None:
    state = LoopState(Tint(), None, None, Average(Tint(), 0.0))  # pyright: ignore[reportArgumentType]
    counts = []
    for objective in (1.0, 0.5, 0.4995, 0.499, 0.3):
        state.consider(objective)
        counts.append(state.progress.looks_without_progress)
    assert counts == [0, 0, 1, 2, 0]
    assert state.progress.best_objective == 0.3


def test_the_linear_schedule_falls_to_zero() -> None:
    settings = replace(SETTINGS, lr_schedule="linear", iterations=4)
    assert [settings.lr_at(i) for i in range(4)] == pytest.approx([0.1, 0.075, 0.05, 0.025])


def test_the_cosine_schedule_falls_to_zero() -> None:
    settings = replace(SETTINGS, lr_schedule="cosine")
    rates = [settings.lr_at(i) for i in (0, 6, 12)]
    assert rates == pytest.approx([0.1, 0.05, 0.0])
    assert replace(SETTINGS, lr_schedule="constant").lr_at(6) == 0.1


def test_trackers_get_the_values_of_every_iteration(tmp_path) -> None:
    folder = RunFolder.open(tmp_path / "run", {})
    outcome = run(Tint(), trackers=folder.trackers(["tensorboard"]))
    (file,) = (tmp_path / "run" / "trackers").rglob("events.*")
    events = EventAccumulator(str(file.parent)).Reload()
    expected = [(record["iteration"], flatten(record)) for record in outcome.history]
    tags = {tag for _, values in expected for tag in values} - {"iteration"}
    assert {
        "training/metric",
        "training/drift",
        "training/objective",
        "validation/metric",
        "gradient_norm",
    } < tags
    assert set(events.Tags()["scalars"]) == tags
    for tag in tags:
        logged = [(event.step, event.value) for event in events.Scalars(tag)]
        assert logged == [
            (i, pytest.approx(values[tag], rel=1e-6)) for i, values in expected if tag in values
        ]


def test_trackers_that_do_not_exist_are_refused(tmp_path) -> None:
    with pytest.raises(errors.UnknownNameError, match=r"tensorbord.*tensorboard"):
        RunFolder.open(tmp_path / "run", {}).trackers(["tensorbord"])
    with pytest.raises(errors.InvalidInputError, match="not installed"):
        Trackers(["aim"], tmp_path)


def test_each_example_is_used_once_before_any_comes_again() -> None:
    drawn = [
        example for iteration in range(5) for example in _minibatch(TRAINING, 2, iteration, seed=3)
    ]
    assert sorted(drawn[:5]) == sorted(TRAINING)
    assert sorted(drawn[5:]) == sorted(TRAINING)
    assert drawn[:5] != drawn[5:]


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: x.mean(), "shape"),
        (lambda x: x.mean((1, 2, 3)) / 0, "infinite"),
        (lambda x: x.detach().mean((1, 2, 3)), "blocks gradients"),
    ],
)
def test_a_metric_that_breaks_during_the_run_is_an_error(function, message: str) -> None:
    with pytest.raises(errors.MetricError, match=message):
        run(Tint(), Settings(preservation=0.0), metrics.resolve(function))


def test_a_gradient_that_is_not_finite_is_an_error() -> None:
    metric = metrics.resolve(lambda x: (x - x.detach()).square().sum((1, 2, 3)).sqrt())
    with pytest.raises(errors.MetricError, match="nan"):
        run(Tint(), metric=metric)


MORE_BAD = [
    {"accumulate": 0},
    {"ema": 1.0},
    {"distance": -1},
    {"likelihood": float("nan")},
    {"lr_schedule": "step"},
]


@pytest.mark.parametrize(
    "bad",
    [
        {"iterations": 0},
        {"batch": 1.5},
        {"lr": -1},
        {"preservation": -0.1},
        {"patience": 0},
        *MORE_BAD,
    ],
)
def test_settings_out_of_range_are_refused(bad: dict) -> None:
    kinds = (errors.InvalidInputError, errors.InvalidTypeError)
    with pytest.raises(kinds, match=next(iter(bad))):
        Settings(**bad)


def test_no_examples_is_an_error() -> None:
    with pytest.raises(errors.PromptError):
        optimize(MetricObjective(Renderer(ToyModel()), REDDISH), Tint(), [], VALIDATION, SETTINGS)


def test_a_failed_write_leaves_the_old_checkpoint(tmp_path, monkeypatch) -> None:
    checkpoints = Checkpoints(tmp_path)
    old = checkpoints.write(1, {"x": torch.ones(1)}, {})

    def full(*_) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(errors.OutputError, match="No space left"):
        checkpoints.write(1, {"x": torch.zeros(1)}, {})
    assert [path.name for path in tmp_path.iterdir()] == [old.name]
    assert checkpoints.read()[0]["x"] == 1


class Colored(ToyModel):
    """Draws a picture whose mean tells for which prompt it was drawn."""

    def generate(self, prompt, noise, **_):
        levels = torch.tensor([LEVELS[text] for text in prompt]).view(-1, 1, 1, 1)
        return 0.01 * super().generate(prompt, noise) + levels


LEVELS = {"a": 0.2, "b": 0.4, "c": 0.6}
PROMPTED = [Example(prompt, seed) for seed, prompt in enumerate("abcab")]


@pytest.mark.parametrize("preservation", [0.0, 0.5])
def test_a_metric_of_two_arguments_sees_the_prompt_of_each_picture(preservation: float) -> None:
    seen = []

    def score(images: torch.Tensor, prompts: list[str]) -> torch.Tensor:
        levels = torch.tensor([LEVELS[prompt] for prompt in prompts])
        means = images.mean((1, 2, 3))
        assert (means - levels).abs().max() < 0.02
        seen.append((list(prompts), images.requires_grad))
        return means

    settings = Settings(iterations=3, batch=2, accumulate=2, preservation=preservation)
    objective = MetricObjective(Renderer(Colored(), chunk=2), metrics.resolve(score))
    optimize(objective, Tint(), PROMPTED, PROMPTED[:3], settings)
    assert {len(prompts) for prompts, _ in seen} == {1, 2}
    learned = [prompt for prompts, graph in seen if graph for prompt in prompts]
    assert len(learned) == 12
    assert set(learned) == set("abc")
    looked = [prompt for prompts, graph in seen if not graph for prompt in prompts]
    assert looked == list("abc") * 2


def test_the_renderer_scores_chunks_with_their_own_prompts() -> None:
    render = Renderer(Colored(), chunk=2)
    render.model.device, render.model.dtype = "cpu", torch.float32
    metric = metrics.resolve(
        lambda images, prompts: (
            images.mean((1, 2, 3)) - torch.tensor([LEVELS[text] for text in prompts])
        )
    )
    prompts = [example.prompt for example in PROMPTED]
    scores = render.score(metric, render.look(PROMPTED), prompts)
    assert scores.shape == (5,)
    assert scores.abs().max() < 0.02
    with pytest.raises(errors.MetricError, match="not videos"):
        render.score(metric, torch.rand(5, 2, 3, 8, 8), prompts)
    steadiness = type("Steadiness", (), {"takes_videos": True})
    steadiness.__call__ = lambda self, videos, prompts: videos.flatten(1).var(1) + len(prompts)
    scores = render.score(metrics.resolve(steadiness), torch.ones(5, 2, 3, 8, 8), prompts)
    assert scores.tolist() == [2.0, 2.0, 2.0, 2.0, 1.0]
