"""Gradients through float16: as in float32 whatever the size of the loss, in every place that takes
one, and bit for bit after resuming.
"""

import math
import os
import signal
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

import adjointdpm as adj
from adjointdpm import errors, metrics
from adjointdpm.metrics import WeightedSum
from adjointdpm.optimization import float16_scaling as gradient_scale
from adjointdpm.optimization.float16_scaling import GradientScale, uses_float16
from adjointdpm.optimization.gradient_check import gradient_error
from adjointdpm.optimization.loop import Interrupted, Outcome, Settings, optimize
from adjointdpm.optimization.objective import MetricObjective
from adjointdpm.optimization.renderer import Renderer
from adjointdpm.runs.checkpoints import Checkpoints
from adjointdpm.tasks.audit.attack import attack
from adjointdpm.tasks.audit.goal import Goal
from adjointdpm.tasks.audit.victims import Victim
from adjointdpm.variables import Example, Noise, TokenEmbedding
from helpers.toys import REDDISH, Tint, ToyModel

TRAINING = [Example("a", seed) for seed in range(5)]
VALIDATION = [Example("a", seed) for seed in range(100, 102)]


class Through(torch.autograd.Function):
    """The identity, whose gradient is multiplied by `gain` and then by its inverse, in float16 each
    time.
    """

    @staticmethod
    def forward(ctx, x: Tensor, gain: float) -> Tensor:
        ctx.gain = gain
        return x.clone()

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return (gradient.half() * ctx.gain).float() / ctx.gain, None


class Half(ToyModel):
    """A toy whose gradient passes through float16."""

    def __init__(self, gain: float = 1.0) -> None:
        super().__init__()
        self.gain, self.drawn = gain, 0
        self.pipe.components = {"unet": nn.Linear(1, 1).half()}

    def generate(self, prompt, noise: Tensor, **kwargs) -> Tensor:
        self.drawn += noise.requires_grad
        return super().generate(prompt, Through.apply(noise, self.gain), **kwargs)


def weighted(weight: float) -> metrics.Metric:
    return WeightedSum([REDDISH], [weight])


def learn(
    model: ToyModel, variable: Tint, metric: metrics.Metric = REDDISH, iterations: int = 6, **kwargs
) -> Outcome:
    settings = Settings(
        iterations=iterations,
        batch=2,
        lr=0.1,
        preservation=0.0,
        validate_every=3,
        checkpoint_every=1,
        patience=9,
    )
    return optimize(
        MetricObjective(Renderer(model), metric), variable, TRAINING, VALIDATION, settings, **kwargs
    )


def norms(outcome: Outcome) -> list[float]:
    return [record["gradient_norm"] for record in outcome.history[1:]]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.torch_dtype. is deprecated:FutureWarning")
@pytest.mark.parametrize("weight", [1 / 64, 2.0**-30])
def test_the_bundled_model_in_float16_learns_as_in_float32_whatever_the_weight(
    weight: float,
) -> None:
    found = {}
    for dtype in (torch.float32, torch.float16):
        model = adj.load("tiny", torch_dtype=dtype)
        token = TokenEmbedding(model.pipe, "<x>", "gray")
        examples = [Example("a noto emoji of an owl", 0)]
        with token:
            metric = metrics.resolve_weighted(["color:mood=dusk"], [weight])
            settings = Settings(iterations=1, batch=1, preservation=0.0)
            outcome = optimize(
                MetricObjective(Renderer(model, 3, 1.0), metric),
                token,
                examples,
                examples,
                settings,
            )
        found[dtype] = norms(outcome)[0] / weight
    assert found[torch.float16] == pytest.approx(found[torch.float32], rel=0.05)


@pytest.mark.parametrize("gain", [1.0, 2.0**-13, 2.0**-22, 2.0**-30, 2.0**12, 2.0**26])
def test_it_finds_a_scale_at_which_nothing_is_lost(gain: float) -> None:
    model = Half(gain)
    plain, half = norms(learn(ToyModel(), Tint())), norms(learn(model, Tint()))
    assert half == pytest.approx(plain, rel=2e-2)
    assert model.drawn <= 6 + 14  # and keeps it


@pytest.mark.parametrize("weight", [2.0**-40, 1.0, 2.0**60])
def test_what_is_reported_does_not_depend_on_the_scale(weight: float) -> None:
    outcome = learn(Half(), Tint(), weighted(weight), iterations=1)
    plain = learn(ToyModel(), Tint(), iterations=1)
    assert norms(outcome)[0] / weight == pytest.approx(norms(plain)[0], rel=1e-2)


def test_without_float16_nothing_is_scaled_or_drawn_twice() -> None:
    model = Half(2.0**26)
    model.pipe.components = {"unet": nn.Linear(1, 1)}
    with pytest.raises(errors.MetricError, match=r"became (inf|nan)"):
        learn(model, Tint())
    assert model.drawn == 1


@pytest.mark.parametrize(("gain", "warned"), [(math.inf, False), (0.0, True)])
def test_what_no_scale_can_mend_ends(gain: float, warned: bool) -> None:
    class Broken(Half):
        def generate(self, prompt, noise: Tensor, **kwargs) -> Tensor:
            if noise.requires_grad:
                noise.register_hook(lambda gradient: gradient * gain)
            return super().generate(prompt, noise, **kwargs)

    model = Broken()
    if warned:
        with pytest.warns(errors.AdjointDPMWarning, match="with respect to color is exactly 0"):
            learn(model, Tint(), iterations=1)
    else:
        with pytest.raises(errors.MetricError, match=r"became (inf|nan)"):
            learn(model, Tint())
    assert model.drawn < 12


def test_a_metric_that_is_not_finite_is_no_matter_of_scale() -> None:
    model = Half()
    metric = metrics.resolve(lambda x: (x - x.detach()).square().sum((1, 2, 3)).sqrt())
    with pytest.raises(errors.MetricError, match="nan"):
        learn(model, Tint(), metric)
    assert model.drawn == 1


def test_it_goes_back_with_time(monkeypatch) -> None:
    monkeypatch.setattr(gradient_scale, "_STEADY", 3)
    for largest, path in (
        (2.0**-2, [0.25, 0.25, 0.5, 0.5, 0.5, 1.0, 1.0, 1.0, 1.0]),
        (2.0, [2.0, 2.0, 1.0, 1.0]),
    ):
        scale, seen = GradientScale(largest), []
        for _ in path:
            scale.step_done()
            seen.append(scale.largest)
        assert seen == path


def test_a_resumed_run_goes_on_with_the_scale_and_gives_the_same_bits(
    tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(gradient_scale, "_STEADY", 3)

    def run(variable: Tint, folder: str, stop: int | None = None, **kwargs) -> Outcome:
        def keep(history: list[dict]) -> None:
            if history[-1]["iteration"] == stop:
                os.kill(os.getpid(), signal.SIGTERM)
            records[:] = history

        return learn(
            Half(2.0**26),
            variable,
            iterations=12,
            checkpoints=Checkpoints(tmp_path / folder),
            on_history=keep,
            **kwargs,
        )

    records: list[dict] = []
    whole, parts, again = Tint(), Tint(), Tint()
    expected = run(whole, "whole")
    with pytest.raises(Interrupted):
        run(parts, "parts", stop=5)
    _, facts = Checkpoints(tmp_path / "parts").read()
    assert facts["objective"]["largest"] < 1
    outcome = run(again, "parts", resume=True)
    assert torch.equal(again.color, whole.color)
    assert norms(outcome) == norms(expected)
    assert (
        Checkpoints(tmp_path / "parts").read()[1]["objective"]
        == Checkpoints(tmp_path / "whole").read()[1]["objective"]
    )


def test_all_processes_go_on_with_the_smallest_scale_and_one_that_moves_is_enough() -> None:
    scale = GradientScale(1.0, 7)
    others = [(0.25, 3, True)]
    processes = SimpleNamespace(gather=lambda mine: [*mine, *others], is_main=True)
    objective = MetricObjective(
        Renderer(ToyModel()),
        REDDISH,
        scale=scale,
        processes=processes,  # pyright: ignore[reportArgumentType]
    )
    objective.variable = Tint()
    objective._agree(False)
    assert (scale.largest, scale.steady) == (0.25, 4)
    others[0] = (4.0, 0, False)
    with pytest.warns(errors.AdjointDPMWarning, match=r"gradient of color:red.* is exactly 0"):
        objective._agree(False)
    assert (scale.largest, scale.steady) == (0.25, 5)


def test_a_gradient_of_zero_is_said_and_names_the_metric() -> None:
    def hinge(x: Tensor) -> Tensor:
        return (x.mean((1, 2, 3)) - 5).relu()  # which every picture passes

    with pytest.warns(
        errors.AdjointDPMWarning, match="gradient of hinge with respect to color is exactly 0"
    ):
        learn(ToyModel(), Tint(), metrics.resolve(hinge), iterations=1)


def test_nothing_is_learned_in_float16_itself() -> None:
    variable, model = Tint(), Half()
    variable.color = torch.zeros(3, dtype=torch.float16, requires_grad=True)
    with pytest.raises(errors.InvalidTypeError, match="color of Tint is in float16"):
        learn(model, variable)
    assert model.drawn == 0


def test_the_error_of_a_gradient_is_measured_in_float16_too() -> None:
    (row,) = gradient_error(Renderer(Half()), Tint(), weighted(2.0**-20), TRAINING[:1])
    assert row["relative_error"] == 0
    assert row["cosine"] == pytest.approx(1)


class Faint(nn.Module):
    """Logits whose gradient float16 cannot hold."""

    def forward(self, images: Tensor) -> Tensor:
        score = (images.mean((1, 2, 3)) - 1) * 2.0**-40
        return torch.stack([torch.zeros_like(score), score], 1)


def test_an_attack_moves_the_noise_as_in_float32() -> None:
    goal = Goal(
        Victim("faint", Faint(), ["low", "high"], [(0,), (1,)]), torch.zeros(5, dtype=torch.long)
    )
    found = []
    for model in (ToyModel(), Half()):
        start = torch.cat([model.noise(1, e.seed) for e in TRAINING])
        noise = Noise(TRAINING, start, within="l2", budget=0.3)
        found.append(
            attack(Renderer(model), goal, TRAINING, noise, iterations=2, batch=3).noise - start
        )
    assert found[0].square().mean().sqrt() > 0.2
    torch.testing.assert_close(found[1], found[0], atol=1e-2, rtol=0)


def test_a_victim_that_detaches_is_named() -> None:
    class Detached(Faint):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images.detach())

    goal = Goal(
        Victim("detached", Detached(), ["low", "high"], [(0,), (1,)]),
        torch.zeros(5, dtype=torch.long),
    )
    noise = Noise(TRAINING, torch.cat([ToyModel().noise(1, e.seed) for e in TRAINING]))
    with pytest.raises(errors.MetricError, match="victim detached"):
        attack(Renderer(ToyModel()), goal, TRAINING, noise, iterations=1, batch=5)


def test_float16_is_found_in_any_part_and_under_autocast() -> None:
    model = SimpleNamespace(
        pipe=SimpleNamespace(
            components={"unet": nn.Linear(1, 1), "vae": nn.Linear(1, 1), "tokenizer": None}
        )
    )
    assert not uses_float16(model)
    with torch.autocast("cpu", torch.bfloat16):
        assert not uses_float16(model)
    with torch.autocast("cpu", torch.float16):
        assert uses_float16(model)
    model.pipe.components["vae"].half()
    assert uses_float16(model)
