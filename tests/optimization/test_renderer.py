"""Pictures of examples: the same in every batch, scored as training sees them, and with a pipeline
that pays for nothing else.
"""

from collections.abc import Callable
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

from adjointdpm import errors, metrics
from adjointdpm.optimization.loop import Settings, optimize
from adjointdpm.optimization.objective import MetricObjective
from adjointdpm.optimization.renderer import Renderer
from adjointdpm.pipelines import from_pipeline
from adjointdpm.pipelines.base import DiffusionModel
from adjointdpm.runs.folder import RunFolder
from adjointdpm.tasks.embed import EmbedConfig, embed
from adjointdpm.variables import Example, LoRA, Noise, TokenEmbedding, Variable, Weights
from helpers.schedulers import scheduler_with_torchsde
from helpers.tiny_pipelines import STABLE_DIFFUSION_BETAS, tiny_pipeline

EXAMPLES = [Example("red fox", seed) for seed in (0, 1, 7, 3)]
DRAWING = {  # scheduler, native sampler
    "euler ancestral": (diffusers.EulerAncestralDiscreteScheduler(**STABLE_DIFFUSION_BETAS), None),
    "ddpm": (diffusers.DDPMScheduler(**STABLE_DIFFUSION_BETAS, clip_sample=False), None),
    "sde": (scheduler_with_torchsde()(**STABLE_DIFFUSION_BETAS), None),
    "sde with a seed": (
        scheduler_with_torchsde()(**STABLE_DIFFUSION_BETAS, noise_sampler_seed=3),
        None,
    ),
    "native": (None, "ancestral"),
}


@pytest.fixture
def model(tmp_path) -> DiffusionModel:
    """As `from_pipeline` takes it: every weight requires grad."""
    return from_pipeline(tiny_pipeline(tmp_path))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", DRAWING)
def test_an_example_looks_the_same_in_every_batch_whatever_the_scheduler_draws(
    tmp_path, name: str
) -> None:
    scheduler, sampler = DRAWING[name]
    model = from_pipeline(tiny_pipeline(tmp_path))
    model.pipe.scheduler = scheduler or model.pipe.scheduler
    render = Renderer(model, 4, 1.0, sampler)
    together, alone, turned = (
        render.look(EXAMPLES),
        render.look(EXAMPLES[2:3]),
        render.look(EXAMPLES[::-1]),
    )
    torch.testing.assert_close(alone[0], together[2], atol=1e-5, rtol=0)
    torch.testing.assert_close(turned.flip(0), together, atol=1e-5, rtol=0)
    noise = model.noise(1, 0).expand(2, -1, -1, -1)
    with torch.no_grad():
        different = model.generate(
            "red fox", noise, steps=4, guidance_scale=1.0, sampler=sampler, seeds=[0, 1]
        )
        same = model.generate(
            "red fox", noise, steps=4, guidance_scale=1.0, sampler=sampler, seeds=[5, 5]
        )
    assert (different[0] - different[1]).abs().max() > 1e-3
    torch.testing.assert_close(same[0], same[1], atol=1e-5, rtol=0)


def test_a_seed_s_draws_are_not_the_noise_that_somebody_makes_of_it(tmp_path) -> None:
    drawn: list[Tensor] = []

    class Watched(diffusers.DDPMScheduler):
        def step(self, *args: Any, generator: Any = None, **kwargs: Any) -> Any:
            drawn.append(torch.randn(4, 8, 8, generator=generator[0]))
            return super().step(*args, generator=generator, **kwargs)

    model = from_pipeline(tiny_pipeline(tmp_path))
    model.pipe.scheduler = Watched(**STABLE_DIFFUSION_BETAS, clip_sample=False)
    with torch.no_grad():
        model.generate("fox", steps=2, guidance_scale=1.0, seeds=[7])
    for noise in (
        torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(7)),
        model.noise(1, 7)[0],
    ):
        assert all((draw * noise).mean().abs() < 0.3 for draw in drawn)


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"seeds": [1]}, errors.ShapeError, "seeds has 1"),
        ({"seeds": 3}, errors.InvalidTypeError, "seeds=3"),
        ({"seeds": [0, -1]}, errors.InvalidInputError, r"seeds\[1\]=-1"),
        ({"seeds": [0, 1.5]}, errors.InvalidTypeError, r"seeds\[1\]=1.5"),
        (
            {"seeds": [0, 1], "generator": torch.Generator()},
            errors.InvalidInputError,
            "generator or seeds",
        ),
    ],
)
def test_bad_seeds_are_refused(model, arguments: dict, kind: type, message: str) -> None:
    with pytest.raises(kind, match=message):
        model.generate("fox", model.noise(2, 0), steps=1, **arguments)


def test_what_is_drawn_is_unclamped_and_what_is_shown_is_not(model) -> None:
    model.pipe.unet.double()
    model.pipe.vae.double()
    render = Renderer(model, 3, 1.0, chunk=3)
    parts = list(render.draw(EXAMPLES))
    assert [part for part, _ in parts] == [EXAMPLES[:3], EXAMPLES[3:]]
    drawn = torch.cat([images for _, images in parts])
    assert drawn.dtype == torch.float64
    assert not drawn.requires_grad
    assert drawn.min() < 0  # otherwise this test says nothing
    shown = render.look(EXAMPLES)
    assert shown.dtype == torch.float32
    torch.testing.assert_close(shown, drawn.clamp(0, 1).float())


def flat(images: Tensor) -> Tensor:
    return images.square().mean((1, 2, 3))


def test_an_untouched_drawing_has_not_drifted_and_both_curves_are_the_same_quantity(model) -> None:
    with LoRA(model.pipe, rank=1) as lora:
        settings = Settings(iterations=1, batch=2, lr=1e-9, preservation=1.0)
        outcome = optimize(
            MetricObjective(Renderer(model, 3, 1.0), metrics.resolve(flat)),
            lora,
            EXAMPLES[:2],
            EXAMPLES[:2],
            settings,
        )
    validation, training = outcome.history[0]["validation"], outcome.history[1]["training"]
    assert training["drift"] == pytest.approx(0, abs=1e-5)
    assert validation["drift"] == pytest.approx(0, abs=1e-5)
    assert training["metric"] == pytest.approx(validation["metric"], rel=1e-5)


def config(**changes: Any) -> EmbedConfig:
    values: dict[str, Any] = {
        "token": "<x>",
        "initial": "red",
        "template": "{prompt} {token}",
        "gradient": "exact",
        "metric": ["color:mood=dusk"],
        "prompts": ["red fox", "fox"],
        "held_out": ["red"],
        "validation": 1,
        "steps": 1,
        "guidance_scale": 1.0,
        "iterations": 1,
        "batch": 2,
        "preservation": 0.0,
        "tracker": [],
    }
    return EmbedConfig(**values | changes)


METRIC = """
import torch
seen = []
net = torch.nn.Linear(3, 1).to(DTYPE).requires_grad_(False)
def score(images):
    seen.append((images.dtype, images.device, len(images), images.requires_grad))
    return net(images.mean((2, 3)))[:, 0]
"""


def test_a_metric_always_sees_the_device_and_dtype_that_the_model_draws_in(
    model, tmp_path, monkeypatch
) -> None:
    for part in (model.pipe.unet, model.pipe.vae, model.pipe.text_encoder):
        part.double()
    source = tmp_path / "metric.py"
    source.write_text(METRIC.replace("DTYPE", "torch.float64"))
    settled = config(metric=[f"{source}:score"], held_out_seeds=9)
    metric = settled.resolve_metric()
    monkeypatch.setattr(EmbedConfig, "resolve_metric", lambda self: metric)
    embed(model, settled, RunFolder.open(tmp_path / "run", {"task": "embed"}))
    seen = metric.function.__globals__["seen"]  # pyright: ignore[reportAttributeAccessIssue]
    assert {(dtype, device) for dtype, device, *_ in seen} == {(torch.float64, model.device)}
    assert max(count for *_, count, _ in seen) == 8  # in chunks
    assert {(count, differentiated) for *_, count, differentiated in seen if differentiated} == {
        (2, True)
    }  # the probe and the step
    source.write_text(METRIC.replace("DTYPE", "torch.float32"))
    model.pipe.unet.register_forward_hook(lambda *_: pytest.fail("a picture was drawn"))
    monkeypatch.undo()
    with pytest.raises(errors.MetricError, match=r"failed on pictures .* in torch\.float64 on cpu"):
        embed(model, settled, RunFolder.open(tmp_path / "other", {"task": "embed"}))


VARIABLES: dict[str, Callable[[DiffusionModel], Variable]] = {
    "token": lambda model: TokenEmbedding(model.pipe, "<x>", "red"),
    "noise": lambda model: Noise(EXAMPLES, torch.cat([model.noise(1, e.seed) for e in EXAMPLES])),
    "lora": lambda model: LoRA(model.pipe, rank=1),
    "weights": lambda model: Weights(model.pipe, only="attn2"),
}


@pytest.mark.parametrize("make", VARIABLES.values(), ids=VARIABLES)
def test_while_it_learns_nothing_else_requires_grad_and_afterwards_all_is_as_it_was(
    model, make
) -> None:
    model.pipe.vae.decoder.conv_in.requires_grad_(False)
    weights = [
        p
        for part in (model.pipe.unet, model.pipe.vae, model.pipe.text_encoder)
        for p in part.parameters()
    ]
    flags = [p.requires_grad for p in weights]
    assert {True, False} == set(flags)
    variable = make(model)
    learned: set[int] = set()

    def score(images: Tensor) -> Tensor:
        if images.requires_grad:
            now = [
                p
                for part in (model.pipe.unet, model.pipe.vae, model.pipe.text_encoder)
                for p in part.parameters()
            ]
            assert {id(p) for p in now if p.requires_grad} <= learned
            seen.append(len(images))
        if broken:
            raise errors.MetricError("broken")
        return images.square().mean((1, 2, 3))

    seen: list[int] = []
    broken = False
    settings = Settings(iterations=1, batch=2, preservation=0.0)
    objective = MetricObjective(Renderer(model, 2, 1.0), metrics.resolve(score))
    with variable:
        learned = {id(tensor) for tensor in variable.tensors().values()}
        inside = [p.requires_grad for p in weights]
        optimize(objective, variable, EXAMPLES, EXAMPLES[:1], settings)
        assert seen == [2]
        assert [p.requires_grad for p in weights] == inside
        assert all(p.grad is None for p in weights if id(p) not in learned)
        broken = True
        with pytest.raises(errors.MetricError, match="broken"):
            optimize(objective, variable, EXAMPLES, EXAMPLES[:1], settings)
        assert [p.requires_grad for p in weights] == inside
    assert [p.requires_grad for p in weights] == flags
    assert all(p.grad is None for p in weights)


def test_a_token_that_any_prompt_cuts_off_is_refused_before_a_picture_is_drawn(
    model, tmp_path
) -> None:
    model.pipe.unet.register_forward_hook(lambda *_: pytest.fail("a picture was drawn"))
    for where, prompt in (
        ("prompts", ["fox", "a red owl"]),
        ("held_out", ["a red owl"]),
    ):  # 2 + 5 tokens, and the new one: 8 are read
        embedded = config(**{where: prompt}, template="{prompt} x {token}")
        with pytest.raises(
            errors.PromptError,
            match=r"'a red owl x <x>' is 9 tokens.*reads 8.*<x> is cut off.*token first",
        ):
            embed(model, embedded, RunFolder.open(tmp_path / where, {"task": "embed"}))
