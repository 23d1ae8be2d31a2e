"""A valid call of every public function, class and method, to put wrong values into."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

import adjointdpm as adj
from adjointdpm import grids, metrics, pipelines, variables
from adjointdpm.metrics import networks
from adjointdpm.variables import Example

#: What no argument, or hardly any, can be. Those that an argument can be are accepted.
WRONG: dict[str, Any] = {
    "None": None,
    "an int": 3,
    "a negative int": -1,
    "a bool": True,
    "a float": 0.5,
    "nan": float("nan"),
    "a complex": 1j,
    "a text": "nonsense",
    "an empty text": "",
    "a surrogate": "\ud800",
    "bytes": b"abc",
    "a list": [],
    "a list of texts": ["a", "b"],
    "a list of objects": [object()],
    "a tuple": (1, "a"),
    "a dict": {"a": 1},
    "an object": object(),
    "a class": int,
    "a function": lambda: None,
    "a module": nn.Identity(),
    "a tensor": torch.zeros(2),
    "a tensor of ints": torch.zeros(2, 3, 8, 8, dtype=torch.long),
    "a complex tensor": torch.zeros(2, 3, 8, 8, dtype=torch.complex64),
    "no numbers": torch.zeros(0, 3, 8, 8),
    "a meta tensor": torch.zeros(2, 3, 8, 8, device="meta"),
    "an array": np.zeros((2, 3)),
}


class PublicCall(NamedTuple):
    """A callable, and arguments that it takes."""

    name: str
    function: Callable[..., Any]
    arguments: dict[str, Any]


def denoise(x: torch.Tensor, t: torch.Tensor, cond: Any) -> torch.Tensor:
    """A denoiser."""
    return 0.5 * x


def public_calls(model: Any) -> Iterator[PublicCall]:
    """Every public callable with valid arguments, by keyword."""
    pictures, schedule = torch.rand(2, 3, 16, 16), adj.NoiseSchedule.linear()
    alphas = torch.linspace(0.99, 0.01, 20)
    noise, two = torch.randn(2, 3, 8, 8), [Example("red fox", 0), Example("fox", 1)]
    color, judge = metrics.ColorStatistics("dusk"), networks.Judge.load()
    start = model.noise(2, 0)
    tensor = schedule.t_max * torch.ones(2)

    def call(name: str, function: Callable[..., Any], /, **arguments: Any) -> PublicCall:
        return PublicCall(name, function, arguments)

    yield call(
        "sample",
        adj.sample,
        denoiser=denoise,
        noise=noise,
        schedule=schedule,
        cond=None,
        steps=2,
        grid=None,
        sampler="euler",
        gradient="exact",
        callback=None,
    )
    yield call("load", adj.load, name_or_path="tiny")
    yield call("from_pipeline", adj.from_pipeline, pipe=model.pipe)
    yield call(
        "Denoiser",
        adj.Denoiser,
        network=denoise,
        prediction="epsilon",
        guidance_scale=1.0,
        null_cond=None,
    )
    yield call("AdamsBashforth", adj.AdamsBashforth, order=2)
    yield call("Adjoint", adj.Adjoint, states="solved", sampler=None, steps=None)
    yield call("Ancestral", adj.Ancestral, eta=1.0, seed=0, samples=None)
    yield call("Auto", adj.Auto, tolerance=0.01, memory_budget=None)
    yield call("Checkpoint", adj.Checkpoint, memory_budget=None)
    yield call("DPMSolverPP", adj.DPMSolverPP, order=2)
    yield call("Interpolated", adj.Interpolated, vjps=2)
    yield call("ReversibleEuler", adj.ReversibleEuler, coupling=0.95, gap=None)
    yield call("Truncated", adj.Truncated, last=1)
    yield call("stats", adj.stats, memory=True)
    made = adj.NoiseSchedule
    yield call("from_alphas_cumprod", made.from_alphas_cumprod, alphas_cumprod=alphas)
    yield call("from_scheduler", made.from_scheduler, scheduler=model.pipe.scheduler)
    yield call("linear", made.linear, beta_min=0.1, beta_max=20.0)
    yield call("edm", made.edm, sigma_min=0.01, sigma_max=80.0)
    yield call("flow_matching", made.flow_matching, shift=1.0)
    yield call("schedule.alpha", schedule.alpha, t=tensor)
    yield call("schedule.sigma", schedule.sigma, t=tensor)
    yield call("grids.karras", grids.karras, schedule=schedule, steps=2, rho=7.0)
    for grid in (grids.log_snr, grids.linspace, grids.trailing):
        yield call(f"grids.{grid.__name__}", grid, schedule=schedule, steps=2)
    table = made.from_alphas_cumprod(alphas)
    yield call("grids.leading", grids.leading, schedule=table, steps=2, offset=1)
    yield call("Euler.calls", adj.Euler().calls, steps=2)

    yield call(
        "generate",
        model.generate,
        prompt="red fox",
        noise=start,
        prompt_embeds=None,
        negative_prompt=None,
        negative_prompt_embeds=None,
        steps=1,
        guidance_scale=2.0,
        sampler=None,
        gradient="exact",
    )
    yield call("noise", model.noise, batch=1, seed=0, offset=0)
    yield call("encode", model.encode, prompts="red fox")
    yield call("decode", model.decode, latents=start)
    for name in ("invert", "invert_exactly"):
        yield call(
            name,
            getattr(pipelines, name),
            model=model,
            images=torch.rand(1, *model.sample_shape),
            prompt="red fox",
            steps=1,
            guidance_scale=1.0,
        )

    yield call("resolve", metrics.resolve, metric="color:mood=dusk")
    yield call("resolve_weighted", metrics.resolve_weighted, specs=[color, color], weights=[1, 1])
    yield call("score", metrics.score, metric=color, samples=pictures, prompts=None, draw=None)
    yield call(
        "probe",
        metrics.probe,
        metric=color,
        height=8,
        width=8,
        device="cpu",
        dtype=torch.float32,
        prompts=["a", "b"],
        frames=None,
    )
    yield call("check_samples", metrics.check_samples, metric=color, samples=pictures)
    yield call("check_scores", metrics.check_scores, metric=color, scores=torch.ones(2), batch=2)
    yield call("check_place", metrics.check_place, device="cpu", dtype="float32")
    yield call(
        "placed_elsewhere", metrics.placed_elsewhere, metric=color, device="cpu", dtype="float32"
    )
    yield call(
        "structure_distance", metrics.structure_distance, images=pictures, reference=pictures
    )
    yield call(
        "ColorStatistics",
        metrics.ColorStatistics,
        mood=None,
        red=0.5,
        green=0.5,
        blue=0.5,
        spread=0.1,
    )
    yield call("Classifier", metrics.Classifier, target=0, away=None, network="judge")
    yield call("EffectPair", metrics.EffectPair, before=pictures[0], after=pictures[1])
    yield call("FunctionMetric", metrics.FunctionMetric, function=lambda x: x, label="x")
    yield call("OnDevice", metrics.OnDevice, metric=color, device=None, dtype=None)
    yield call("Reference", metrics.Reference, reference=pictures[0], distance="l2")
    yield call("SafetyFilter", metrics.SafetyFilter, threshold=0.8, cross=True)
    yield call("Structure", metrics.Structure, reference=pictures[:1])
    yield call("TextSimilarity", metrics.TextSimilarity, text="red fox", model="nowhere")
    yield call("GramStyle", metrics.GramStyle, reference=pictures[0], size=64)
    for reward in (metrics.HPS, metrics.ImageReward, metrics.PickScore, metrics.ClipScore):
        yield call(reward.__name__, reward, model="nowhere")
    yield call("Aesthetic", metrics.Aesthetic, model="nowhere", head="nowhere")
    yield call("WeightedSum", metrics.WeightedSum, metrics=[color], weights=[1.0], spreads=[1.0])
    yield call("load_network", networks.load_network, name="judge")
    yield call("class_groups", networks.class_groups, network=judge)
    yield call("class_indices", networks.class_indices, network=judge, wanted=0)
    yield call("placed", networks.placed, network=judge, images=pictures)
    yield call("class_logits", networks.class_logits, network=judge, images=pictures, what="it")
    yield call("Example", Example, prompt="red fox", seed=0)

    yield call("Inputs", variables.Inputs, examples=two, prompts=["a", "b"], noise=start)
    yield call("Noise", variables.Noise, examples=two, start=start, within="l2", budget=0.5)
    free = variables.Noise(two, start)
    yield call("Joint", variables.Joint, parts=[free])
    yield call("Noise.apply", free.apply, inputs=variables.Inputs(two, ["a", "b"], start))
    yield call("Noise.check", free.check, examples=two)
    yield call("Noise.load_tensors", free.load_tensors, tensors=free.tensors())
    yield call(
        "LoRA",
        variables.LoRA,
        pipe=model.pipe,
        rank=2,
        alpha=1.0,
        target_modules=None,
        seed=0,
        name="adjointdpm",
    )
    yield call(
        "PromptEmbedding", variables.PromptEmbedding, model=model, prompt="red fox", max_change=0.5
    )
    yield call(
        "TokenEmbedding",
        variables.TokenEmbedding,
        pipe=model.pipe,
        token="<t>",
        initial="fox",
        template="{prompt} {token}",
        vectors=1,
        max_norm=1.0,
    )
    yield call("Weights", variables.Weights, pipe=model.pipe, part=None, only=None)
