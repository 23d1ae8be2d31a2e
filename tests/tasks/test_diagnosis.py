"""Why a run gains nothing: on records made up for each cause, and on real runs."""

import math
import warnings
from dataclasses import replace

import pytest
import torch

from adjointdpm import metrics
from adjointdpm.errors import NoGainWarning
from adjointdpm.optimization.loop import optimize
from adjointdpm.optimization.objective import MetricObjective
from adjointdpm.optimization.renderer import Renderer
from adjointdpm.optimization.settings import Settings
from adjointdpm.pipelines import load
from adjointdpm.tasks.diagnosis import Seen, diagnose, diagnose_end
from adjointdpm.tasks.watch import Watch, WatchedMetric
from adjointdpm.variables import Example, Noise, TokenEmbedding, Variable

SETTINGS = Settings(iterations=20, lr=0.05, preservation=0.2)
SEEN = Seen(pictures=10, flat=0, spread=0.2, change=0.05)
BAD = {"change": 0.01, "interval": [-0.02, 0.04]}
KEPT = 2  # the iteration whose state was kept


def records(*objectives: float, moved: float = 0.5, metrics=None, norm: float = 0.1) -> list[dict]:
    """A history that looks at the validation pictures in every iteration."""
    return [
        {
            "iteration": i,
            "gradient_norm": norm,
            "moved": moved * i / max(1, len(objectives) - 1),
            "validation": {"objective": value, "metric": (metrics or objectives)[i]},
        }
        for i, value in enumerate(objectives)
    ]


def cause(history: list[dict], seen: Seen = SEEN, settings: Settings = SETTINGS) -> str | None:
    found = diagnose(history, seen, settings)
    return None if found is None else found.cause


def test_a_run_that_gains_has_no_diagnosis() -> None:
    assert cause(records(0.5, 0.49, 0.47, 0.44)) is None
    assert diagnose_end(records(0.5, 0.4), SEEN, SETTINGS, {"change": -0.1}, KEPT) is None
    assert (
        diagnose_end(records(0.5, 0.5), SEEN, SETTINGS, {**BAD, "interval": [-2, -1]}, KEPT) is None
    )


def test_a_patient_run_may_pass_through_worse_states() -> None:
    patient = replace(SETTINGS, iterations=90, patience=30)
    assert cause(records(0.5, *[0.9] * 14), settings=patient) is None
    assert cause(records(0.5, *[0.9] * 15), settings=patient) == "step too large"
    assert cause(records(0.5, 0.51, 0.5, moved=9.0), settings=patient) == "step too large"


def test_a_slow_fall_counts_for_what_it_comes_to_by_the_end() -> None:
    slow = records(0.5, 0.499, 0.498)  # 0.002 of a spread of 0.2 in 2 iterations: 10 % in 20
    assert cause(slow) is None
    assert diagnose(slow, SEEN, Settings(iterations=2, lr=0.05)) is None  # nothing else is wrong
    assert diagnose_end(slow, SEEN, Settings(iterations=2), BAD, KEPT).cause == "unclear"


def test_nothing_is_said_before_the_first_step() -> None:
    assert cause(records(0.5)) is None
    assert cause([]) is None


@pytest.mark.parametrize(
    ("history", "seen", "expected"),
    [
        (records(0.5, 0.5, 0.5), Seen(10, 5, 0.2), "flat metric"),
        (records(0.5, 0.5, 0.5, norm=0.0), Seen(10, 10, 0.0), "flat metric"),
        (records(0.5, 0.5, 0.5, norm=0.0), SEEN, "no influence"),
        (records(0.5, 0.5, 0.5), Seen(10, 0, 0.2, change=0.001), "no influence"),
        (records(0.5, 0.5, 0.5), Seen(10, 0, 0.2, change=0.001, acts=True), "step too small"),
        (records(0.5, 0.5, 0.5, moved=1e-5), SEEN, "step too small"),
        (records(0.5, 0.7, 0.7), SEEN, "step too large"),
        (records(0.5, 0.51, 0.5, moved=9.0), SEEN, "step too large"),
        (records(0.5, 0.51, 0.5, metrics=[0.5, 0.4, 0.45]), SEEN, "content"),
        (records(0.5, 0.9, 0.8, metrics=[0.5, 0.4, 0.45]), SEEN, "content"),
    ],
)
def test_every_cause_is_told_from_the_others(history, seen: Seen, expected: str) -> None:
    # A loop that lowers the content's weight by itself is still given the time to.
    assert cause(history, seen) == (None if expected == "content" else expected)
    early = diagnose(history, seen, replace(SETTINGS, relax=False))
    assert early is not None
    assert early.cause == expected
    at_end = diagnose_end(history, seen, SETTINGS, BAD, KEPT)
    assert at_end is not None
    assert at_end.cause == expected


def test_a_loop_that_went_back_took_no_steps_that_are_too_small() -> None:
    history = records(0.5, 0.5, 0.5, moved=1e-5)
    history[-1]["step_scale"] = 0.5
    assert cause(history) is None


def test_a_change_smaller_than_its_noise_is_said_to_be() -> None:
    found = diagnose_end(records(0.5, 0.4, 0.3), SEEN, SETTINGS, BAD, KEPT)
    assert found is not None
    assert found.cause == "noise"
    assert "-0.020" in found.what
    assert "--preservation below 0.2" in found.change
    free = diagnose_end(
        records(0.5, 0.4, 0.3), SEEN, replace(SETTINGS, preservation=0.0), BAD, KEPT
    )
    assert free is not None
    assert "--preservation" not in free.change


def test_states_that_the_guard_refuses_are_said_to_be() -> None:
    looks = records(0.5, 0.4, 0.3)
    for record in looks:
        record["validation"]["guard"] = float(record["iteration"] > 0)
    found = diagnose_end(looks, SEEN, SETTINGS, BAD, 0)
    assert found is not None
    assert found.cause == "guard"
    assert "--preservation 0" in found.change


def test_advice_on_the_learning_rate_goes_the_right_way() -> None:
    small = diagnose(records(0.5, 0.5, 0.5, moved=1e-5), SEEN, SETTINGS)
    large = diagnose(records(0.5, 0.51, 0.5, moved=9.0), SEEN, SETTINGS)
    assert small is not None
    assert large is not None
    assert float(small.change.split()[-1].rstrip(".")) > SETTINGS.lr
    assert float(large.change.split()[-1].rstrip(".")) < SETTINGS.lr


def test_a_watched_metric_scores_as_before_and_counts_pictures_without_a_gradient() -> None:
    def bright(images):
        return (images.mean((1, 2, 3)) - 0.5).clamp(min=0)

    plain, watched = metrics.resolve(bright), WatchedMetric(metrics.resolve(bright))
    images = torch.stack([torch.full((3, 8, 8), v) for v in (0.2, 0.4, 0.8)]).requires_grad_()
    expected, found = plain(images), watched(images)
    assert torch.equal(expected, found)
    gradients = [torch.autograd.grad(x.sum(), images)[0] for x in (expected, found)]
    assert torch.equal(*gradients)
    assert (watched.pictures, watched.flat) == (3, 2)
    with torch.no_grad():
        watched(images)
        watched.end_look()
        watched(images + 0.25)
        watched.end_look()
        watched(images)
        watched.end_look()  # back at the start
    assert math.isclose(watched.change or 0, 0.25, abs_tol=1e-6)
    assert watched.seen.spread == pytest.approx(torch.tensor([0, 0, 0.3]).std(correction=0))


TRAINING = [Example(f"a noto emoji of a {word}", i) for i, word in enumerate(["cat", "owl"])]
LOOKED_AT = [Example("a noto emoji of a bear", 7), Example("a twemoji emoji of a frog", 8)]


def warm(images):
    red, green, blue = images.mean((2, 3)).unbind(1)
    return blue - red + green / 2


def darker_than_most(images):
    """Differentiable on the pictures of a probe, and 0 on the model's, which are brighter."""
    return (0.45 - images.mean((1, 2, 3))).clamp(min=0)


def black_is_enough(images):
    """Its clamp is passed by one picture in some only."""
    return images.mean((1, 2, 3)).clamp(min=0.999)


@pytest.fixture(scope="module")
def model():
    return load("tiny")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("metric", "template", "changes", "acts", "expected"),
    [
        (darker_than_most, "{prompt} on a {token} background", {}, True, "flat metric"),
        (black_is_enough, "{prompt} on a {token} background", {}, True, "flat metric"),
        (warm, "{prompt} in {token} style", {"lr": 0.02}, False, "no influence"),
        (warm, "{prompt} on a {token} background", {"lr": 1e-6}, True, "step too small"),
    ],
)
def test_real_runs_that_gain_nothing_say_why_early(
    model, metric, template: str, changes: dict, acts: bool, expected: str
) -> None:
    token = TokenEmbedding(model.pipe, "<x>", "gray", template=template)
    settings = Settings(**{"iterations": 5, "preservation": 0.0, "validate_every": 2} | changes)
    check_told_early(model, metric, token, settings, acts, expected)


@pytest.mark.slow
def test_noise_that_is_thrown_far_away_in_a_step_is_said_to_be(model) -> None:
    def white(images):  # as the drawings' background is
        return (images - 1).square().mean((1, 2, 3))

    start = torch.cat([model.noise(1, example.seed) for example in TRAINING])
    noise = Noise(TRAINING, start, within="free")
    settings = Settings(iterations=5, preservation=0.0, validate_every=2, lr=1e3)
    check_told_early(model, white, noise, settings, None, "step too large", looked_at=TRAINING)


def check_told_early(
    model, metric, variable: Variable, settings: Settings, acts, expected: str, looked_at=LOOKED_AT
) -> None:
    """A run of a few iterations warns once, and names the expected cause."""
    watch = Watch(metrics.resolve(metric), variable, settings, acts=acts)
    objective = MetricObjective(Renderer(model, 4, 5.0), watch.watched)
    with variable, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        outcome = optimize(
            objective, variable, TRAINING, looked_at, settings, on_history=watch.note
        )
    told = [w for w in caught if "nothing is gained" in str(w.message)]
    found = watch.diagnosis(outcome.history)
    assert found is not None
    assert found.cause == expected
    assert len(told) == 1  # once
    assert issubclass(told[0].category, NoGainWarning)
    assert found.change.split(",")[0][:20] in str(told[0].message)
