"""A family with flow matching, samples of any rank and two encodings needs no special case."""

from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

import adjointdpm as adj
from adjointdpm import errors
from adjointdpm.engine.gradients.checkpoint import graph_bytes
from adjointdpm.pipelines.schedulers import SchedulerLoop
from adjointdpm.variables import Example, Inputs, Noise, PromptEmbedding, Variable
from helpers.flow_family import SHAPES, FlowFamily, FlowPipeline

STEPS = 5
SCHEDULERS = {
    "plain": {"shift": 3.0},
    "karras": {"use_karras_sigmas": True},
    "stochastic": {"stochastic_sampling": True},
}
each_shape = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
each_scheduler = pytest.mark.parametrize("config", SCHEDULERS.values(), ids=SCHEDULERS)


def relative_error(ours: Any, theirs: Any) -> float:
    a, b = (torch.cat([g.flatten() for g in gradients]) for gradients in (ours, theirs))
    assert b.norm() > 0
    return float((a - b).norm() / b.norm())


@each_shape
@each_scheduler
def test_samples_and_gradients_are_those_of_the_pipeline(shape, config) -> None:
    pipe = FlowPipeline(shape, FlowMatchEulerDiscreteScheduler(**config))
    model = FlowFamily(pipe)
    noise = model.noise(2, seed=3).requires_grad_()
    assert noise.shape == (2, *shape)
    encoded = {n: t.detach().requires_grad_() for n, t in model.encode(["a fox", "owl"]).items()}
    null = {
        f"negative_{n}": t.detach().requires_grad_() for n, t in model.encode(["", "red"]).items()
    }
    arguments = {**encoded, **null, "guidance_scale": 3.0}

    def generators() -> list[torch.Generator]:
        return [torch.Generator().manual_seed(i) for i in range(2)]

    ours = model.generate(noise=noise, steps=STEPS, generator=generators(), **arguments)
    theirs = pipe(noise, num_inference_steps=STEPS, generator=generators(), **arguments).images
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-6)
    leaves = [noise, *encoded.values(), *null.values(), *pipe.transformer.parameters()]
    gradients = [torch.autograd.grad(x.square().sum(), leaves) for x in (ours, theirs)]
    for mine, plain in zip(*gradients, strict=True):
        assert relative_error([mine], [plain]) < 1e-5


def test_the_loop_alone_runs_a_network_as_diffusers_does() -> None:
    torch.manual_seed(0)
    network = torch.nn.Linear(3, 3)
    noise = torch.randn(2, 3, requires_grad=True)
    calls = []

    def velocity(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        calls.append(t)
        return network(x).tanh() + t[:, None] / 1000

    scheduler = FlowMatchEulerDiscreteScheduler(shift=2.0)
    loop = SchedulerLoop(scheduler, STEPS, torch.device("cpu"))
    call = adj.Checkpoint().wrap(velocity, loop.calls)
    ours = loop.run(call, noise, loop.generators(2, None))
    assert len(calls) == loop.calls == STEPS
    x = noise
    scheduler.set_timesteps(STEPS)
    for t in scheduler.timesteps:
        x = scheduler.step(velocity(x, t.expand(2)), t, x, return_dict=False)[0]
    assert torch.equal(ours, x)
    leaves = [noise, *network.parameters()]
    exact, plain = (torch.autograd.grad(y.square().sum(), leaves) for y in (ours, x))
    assert relative_error(exact, plain) < 1e-6


@each_shape
def test_one_row_serves_a_batch_and_what_is_drawn_depends_on_the_seed_alone(shape) -> None:
    pipe = FlowPipeline(shape, FlowMatchEulerDiscreteScheduler(stochastic_sampling=True))
    model = FlowFamily(pipe)
    noise = model.noise(3, seed=0)
    with torch.no_grad():
        three = model.generate("a fox", noise, steps=STEPS, seeds=[4, 5, 6])
        last = model.generate("a fox", noise[2:], steps=STEPS, seeds=[6])
        other = model.generate("a fox", noise[2:], steps=STEPS, seeds=[7])
    torch.testing.assert_close(three[2:], last)
    assert (last - other).abs().max() > 1e-4


@each_shape
def test_noise_and_encodings_of_any_layout_are_learned(shape, tmp_path) -> None:
    model = FlowFamily(FlowPipeline(shape))
    examples = [Example("a fox", 0), Example("an owl", 1)]
    noise = Noise(examples, torch.cat([model.noise(1, e.seed) for e in examples]))
    embedding = PromptEmbedding(model, "a fox")
    assert embedding.tensors().keys() == {"prompt_embeds", "pooled_prompt_embeds"}
    given = Inputs(examples, [e.prompt for e in examples], noise.start)

    def draw(variable: Variable | None = None) -> torch.Tensor:
        inputs = given if variable is None else variable.apply(given)
        prompts = list(inputs.prompts) if inputs.encoded is None else None
        return model.generate(prompts, inputs.noise, steps=3, **(inputs.encoded or {}))

    plain = draw().detach()
    torch.testing.assert_close(draw(embedding).detach(), plain)
    for variable in (noise, embedding):
        with variable:
            tensors = list(variable.tensors().values())
            gradients = torch.autograd.grad(draw(variable).square().sum(), tensors)
            assert all(bool(g.abs().max() > 0) for g in gradients)
            with torch.no_grad():
                for tensor, gradient in zip(tensors, gradients, strict=True):
                    tensor.sub_(gradient / gradient.abs().max())
            variable.project()
            changed = (draw(variable).detach() - plain).flatten(1).abs().amax(1) > 1e-4
            assert changed.tolist() == [True, variable is noise]
        variable.save(tmp_path)
    held = noise.noise.detach().clone()
    noise.project()
    torch.testing.assert_close(noise.noise.detach(), held)
    shell = Noise(examples, noise.start, within="shell")
    with torch.no_grad():
        shell.noise.mul_(2)
    shell.project()
    torch.testing.assert_close(shell.noise.detach(), noise.start)
    assert noise.regularisers().keys() == {"distance", "likelihood", "norm"}
    assert ("autocorrelation_vertical" in noise.naturalness()[0]) == (len(shape) > 2)
    assert torch.equal(Noise.read(tmp_path / "noise.safetensors")[1], held)


def test_a_memory_budget_counts_any_decoder() -> None:
    pipe = FlowPipeline(SHAPES["video"])
    model = FlowFamily(pipe)
    cond, null, _ = model.conditioning(model.encode("a fox"), None, 4.0)
    both = tuple(torch.cat(rows).detach() for rows in zip(null, cond, strict=True))
    noise = model.noise(1, seed=0)
    network = graph_bytes(
        lambda x: pipe.transformer(torch.cat([x, x]), torch.zeros(2), *both), noise
    )
    decoder = graph_bytes(model.decode, noise)
    calls = 0

    def count(*_: Any) -> None:
        nonlocal calls
        calls += 1

    pipe.transformer.register_forward_pre_hook(count)
    for budget, kept in ((1, 0), (decoder + 2.5 * network, 2), (10**9, STEPS)):
        x = noise.clone().requires_grad_()
        drawn = model.generate("a fox", x, steps=STEPS, gradient=adj.Checkpoint(int(budget)))
        calls = 0
        drawn.sum().backward()
        assert calls == STEPS - kept


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"pooled_prompt_embeds": torch.zeros(1, 4)}, errors.PromptError, "together"),
        (
            {"prompt": "a", "negative_prompt_embeds": torch.zeros(1, 8, 6)},
            errors.PromptError,
            "negative_prompt_embeds and negative_pooled_prompt_embeds together",
        ),
        ({"prompt_embeds": torch.zeros(1, 8, 5)}, errors.ShapeError, r"takes \[B, L, 6\]"),
        ({"prompt": "a", "clip_skip": 1}, errors.InvalidTypeError, "pooled_prompt_embeds"),
        ({"prompt": "a", "noise": torch.zeros(1, 4, 9)}, errors.ShapeError, r"\[B, 3, X, Y, Z\]"),
    ],
)
def test_what_does_not_fit_the_family_is_refused(arguments, error, message) -> None:
    with pytest.raises(error, match=message):
        FlowFamily(FlowPipeline(SHAPES["video"])).generate(steps=2, **arguments)


def test_methods_that_solve_themselves_say_that_they_cannot_step_flow_matching() -> None:
    model = FlowFamily(FlowPipeline(SHAPES["picture"]))
    noise = model.noise(1, seed=0).requires_grad_()
    with pytest.raises(errors.UnsupportedError, match=r"FlowMatchEulerDiscreteScheduler.*exact"):
        model.generate("a fox", noise, steps=2, gradient="adjoint")
    with pytest.raises(errors.UnsupportedError, match="leave sampler=None"):
        model.generate("a fox", noise, steps=2, sampler="heun")
    exact, auto = (
        torch.autograd.grad(
            model.generate("a fox", noise, steps=2, gradient=method).square().sum(), noise
        )
        for method in ("exact", "auto")
    )
    torch.testing.assert_close(auto, exact)
