"""Native solves in place of a pipeline's loop: equal to it, with its gradients, or refused."""

import functools
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

import adjointdpm as adj
from adjointdpm.pipelines.any_pipeline import AnyPipeline
from benchmarks.pipelines.cases import build, case_for, denoiser, shaping
from helpers.mixtures import relative_error

# Classes whose loop is a denoiser, a schedule and conditioning, and arguments that differ.
READ: dict[str, dict[str, Any]] = {
    "StableDiffusionPipeline": {"guidance_rescale": 0.0, "eta": 0.0},
    "StableDiffusionXLPipeline": {},
    "StableDiffusionImg2ImgPipeline": {"strength": 0.8, "num_inference_steps": 5},
    "StableDiffusionControlNetPipeline": {},
    "StableDiffusionAdapterPipeline": {},
    "StableDiffusionPAGPipeline": {},
    "AnimateDiffPipeline": {},
    "StableDiffusion3Pipeline": {},
    "FluxPipeline": {},
    "Flux2KleinPipeline": {},
    "ChromaPipeline": {},
    "QwenImagePipeline": {"true_cfg_scale": 1.0},
    "ZImagePipeline": {},
    "AuraFlowPipeline": {},
    "PixArtSigmaPipeline": {},
    "SanaPipeline": {},
    "DiTPipeline": {},
    "WanPipeline": {},
    "CogVideoXPipeline": {},
    "LTXPipeline": {},
}
# Its scheduler is another one than Euler's rule.
REPEATED_BY = {"SanaPipeline": "dpm_solver_pp"}
# Rounding alone moves the gradient of Wan's tiny network by 5e-5, differently on each machine.
TOLERANCES = {"WanPipeline": 5e-4}
FEW = ["StableDiffusionXLPipeline", "FluxPipeline", "ZImagePipeline", "WanPipeline", "DiTPipeline"]


def call_of(name: str) -> dict[str, Any]:
    return {**case_for(name).arguments, **READ.get(name, {})}


def noise_of(model: AnyPipeline, name: str) -> Tensor:
    given = shaping(name)
    return model.noise(2, 1, **given | {k: v for k, v in READ.get(name, {}).items() if k in given})


def largest_weight(pipe: Any) -> Tensor:
    return max((p for p in denoiser(pipe).parameters() if p.ndim > 1), key=torch.Tensor.numel)


def loss(samples: Tensor) -> Tensor:
    return (samples * torch.linspace(-1, 1, samples.numel()).view_as(samples)).sum()


@pytest.mark.parametrize("name", READ)
def test_a_native_sampler_repeats_the_pipeline_and_its_gradients(name: str) -> None:
    pipe = build(name)
    model, weight = AnyPipeline(pipe), largest_weight(pipe).requires_grad_()
    noise = noise_of(model, name).requires_grad_()
    found = []
    for sampler in (None, REPEATED_BY.get(name, "euler")):
        torch.manual_seed(3)  # what img2img draws is drawn by the pipeline itself
        samples = model(noise=noise, sampler=sampler, **call_of(name))
        found.append((samples.detach(), *torch.autograd.grad(loss(samples), [noise, weight])))
    own, native = found
    assert (own[0] - native[0]).abs().max() < 1e-5 * max(1.0, float(own[0].abs().max()))
    for exact, ours in zip(own[1:], native[1:], strict=True):
        assert exact.norm() > 0
        assert relative_error(ours, exact) < TOLERANCES.get(name, 1e-5)


@pytest.mark.parametrize("name", ["StableDiffusionXLPipeline", "FluxPipeline", "WanPipeline"])
def test_gradients_reach_encoded_prompts(name: str) -> None:
    model = AnyPipeline(build(name))
    given = {k: v for k, v in call_of(name).items() if k != "prompt"}
    lengths = {k: v for k, v in given.items() if k == "max_sequence_length"}
    encoded = model.encode(["red fox", "owl"], **lengths)
    for tensor in encoded.values():
        tensor.requires_grad_(tensor.is_floating_point())
    wanted = [tensor for tensor in encoded.values() if tensor.requires_grad]
    noise = noise_of(model, name)
    exact = torch.autograd.grad(loss(model(noise=noise, **given, **encoded)), wanted)
    assert all(gradient.norm() > 0 for gradient in exact[:1])
    for method in ("exact", adj.Adjoint("stored"), adj.Interpolated(vjps=99)):
        samples = model(noise=noise, sampler="euler", gradient=method, **given, **encoded)
        ours = torch.autograd.grad(loss(samples), wanted)
        for mine, full in zip(ours, exact, strict=True):
            assert relative_error(mine, full) < TOLERANCES.get(name, 1e-5)


@pytest.mark.parametrize("name", FEW)
@pytest.mark.parametrize("method", [adj.Adjoint("stored"), adj.Interpolated(vjps=99)])
def test_methods_that_solve_themselves_take_the_schedulers_steps(name: str, method: Any) -> None:
    pipe = build(name)
    model, weight = AnyPipeline(pipe), largest_weight(pipe).requires_grad_()
    noise = noise_of(model, name).requires_grad_()
    exact = torch.autograd.grad(loss(model(noise=noise, **call_of(name))), [noise, weight])
    samples = model(noise=noise, gradient=method, **call_of(name))
    for ours, full in zip(torch.autograd.grad(loss(samples), [noise, weight]), exact, strict=True):
        assert relative_error(ours, full) < TOLERANCES.get(
            name, 1e-5
        )  # for Euler both are the discrete gradient


def test_few_vjps_and_solved_states_come_close() -> None:
    model = AnyPipeline(build("FluxPipeline"))
    given = call_of("FluxPipeline") | {"num_inference_steps": 24}
    noise = noise_of(model, "FluxPipeline").requires_grad_()
    (exact,) = torch.autograd.grad(loss(model(noise=noise, **given)), noise)
    errors = {}
    for method in ("adjoint", "interpolated:vjps=8", "interpolated:vjps=2", "truncated:last=2"):
        samples = model(noise=noise, gradient=method, **given)
        (ours,) = torch.autograd.grad(loss(samples), noise)
        errors[method] = relative_error(ours, exact)
    assert errors["adjoint"] < 0.1
    assert errors["interpolated:vjps=8"] < 0.2 * errors["interpolated:vjps=2"]


def test_samplers_of_second_order_are_closer_to_a_fine_solution() -> None:
    model = AnyPipeline(build("FluxPipeline"))
    noise, given = noise_of(model, "FluxPipeline"), call_of("FluxPipeline")

    @torch.no_grad()
    def latents(steps: int, sampler: Any) -> Tensor:
        given["num_inference_steps"] = steps
        return model(noise=noise, sampler=sampler, output="latent", **given)

    fine = latents(160, adj.Midpoint())
    euler = relative_error(latents(40, "euler"), fine)
    for sampler in (adj.Heun(), adj.Midpoint(), adj.DPMSolverPP(), adj.AdamsBashforth(2)):
        assert relative_error(latents(40, sampler), fine) < 0.9 * euler, sampler


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("DDIMScheduler", {"set_alpha_to_one": True}),
        ("DDIMScheduler", {"prediction_type": "v_prediction", "timestep_spacing": "trailing"}),
        ("EulerDiscreteScheduler", {"timestep_spacing": "leading", "steps_offset": 1}),
        ("EulerDiscreteScheduler", {"final_sigmas_type": "sigma_min"}),
        ("DPMSolverMultistepScheduler", {}),
        ("DPMSolverMultistepScheduler", {"use_flow_sigmas": True, "flow_shift": 3.0}),
    ],
)
def test_the_sampler_that_repeats_a_scheduler_is_found(kind: str, options: dict[str, Any]) -> None:
    pipe = build("StableDiffusionXLPipeline")
    if options.get("use_flow_sigmas"):
        options = options | {"prediction_type": "flow_prediction"}
    pipe.scheduler = getattr(diffusers, kind)(
        **({"clip_sample": False} if kind == "DDIMScheduler" else {}), **options
    )
    model = AnyPipeline(pipe)
    noise = model.noise(2, 1).requires_grad_()
    given = call_of("StableDiffusionXLPipeline") | {"num_inference_steps": 5}
    found = []
    for method in ("exact", adj.Interpolated(vjps=99)):
        samples = model(noise=noise, gradient=method, **given)
        found.append((samples.detach(), *torch.autograd.grad(loss(samples), noise)))
    assert (found[0][0] - found[1][0]).abs().max() < 1e-4
    assert relative_error(found[1][1], found[0][1]) < 1e-4


@pytest.mark.parametrize("name", ["StableDiffusionXLPipeline", "DiTPipeline"])
def test_gradients_equal_finite_differences_in_float64(name: str) -> None:
    model = AnyPipeline(build(name).to(torch.float64))
    noise = noise_of(model, name)
    direction = torch.randn(noise.shape, generator=torch.Generator().manual_seed(0)).double()

    def value(step: float) -> float:
        with torch.no_grad():
            at = noise + step * direction
            return loss(model(noise=at, sampler="heun", **call_of(name))).item()

    noise.requires_grad_()
    (gradient,) = torch.autograd.grad(
        loss(model(noise=noise, sampler="heun", **call_of(name))), noise
    )
    difference = (value(1e-5) - value(-1e-5)) / 2e-5
    assert abs((gradient * direction).sum().item() - difference) < 1e-6 * abs(difference)


@pytest.mark.parametrize(
    ("name", "method", "forward", "backward"),
    [  # one step of the pipeline is read, then N; the last one's graph is kept
        ("FluxPipeline", "exact", 1 + 4, 3),
        ("FluxPipeline", adj.Interpolated(vjps=2), 1 + 4, 1),
        ("WanPipeline", "exact", 2 * (1 + 4), 2 * 3),
    ],
)
def test_network_calls(name: str, method: Any, forward: int, backward: int) -> None:
    pipe = build(name)
    model = AnyPipeline(pipe)
    counts: list[int] = []
    denoiser(pipe).register_forward_hook(lambda *_: counts.append(1))
    noise = noise_of(model, name).requires_grad_()
    given = call_of(name) | {"num_inference_steps": 4}
    samples = model(noise=noise, sampler="euler", gradient=method, **given)
    assert len(counts) == forward
    loss(samples).backward()
    assert len(counts) == forward + backward


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("StableDiffusionPipeline", {"guidance_rescale": 0.5, "eta": 0.0}, "no weighted sum"),
    ("StableDiffusionPipeline", {"guidance_rescale": 0.01, "eta": 0.0}, "no weighted sum"),
    ("QwenImagePipeline", {"true_cfg_scale": 2.0}, "no weighted sum"),
    ("Lumina2Pipeline", {}, "no weighted sum"),
    ("StableDiffusionInpaintPipeline", {}, "changes the state between"),
    ("StableAudioPipeline", {}, "neither a table nor"),
    (  # switches its grounding layers off after two steps of five
        "StableDiffusionGLIGENPipeline",
        {"num_inference_steps": 5, "gligen_scheduled_sampling_beta": 0.4},
        "changes its network",
    ),
    ("FluxPipeline", {"num_inference_steps": 1}, "one step says too little"),
    ("FluxPipeline", {"callback_on_step_end": lambda *_: {}}, "callback_on_step_end"),
]


@pytest.mark.parametrize(("name", "different", "why"), REFUSED)
def test_a_loop_that_is_more_is_refused_and_auto_is_exact(
    name: str, different: dict[str, Any], why: str
) -> None:
    model = AnyPipeline(build(name))
    given = {**case_for(name).arguments, **different}
    if name == "QwenImagePipeline":
        given |= {"negative_prompt": None, **encoded_twice(model)}
        given.pop("prompt")
    noise = model.noise(2, 1, **shaping(name)).requires_grad_()
    for choice in ({"sampler": "euler"}, {"gradient": "adjoint"}):
        with pytest.raises(adj.errors.UnsupportedError, match=why):
            model(noise=noise, **choice, **given)
    torch.manual_seed(3)
    (exact,) = torch.autograd.grad(loss(model(noise=noise, **given)), noise)
    torch.manual_seed(3)
    (auto,) = torch.autograd.grad(loss(model(noise=noise, gradient="auto", **given)), noise)
    assert torch.equal(auto, exact)


def encoded_twice(model: AnyPipeline) -> dict[str, Any]:
    """Prompts and negative prompts for guidance with a scale of its own."""
    embeds = model.encode(["red fox", "owl"], max_sequence_length=8)
    other = model.encode(["blurry", "a"], max_sequence_length=8)
    return embeds | {f"negative_{name}": value for name, value in other.items()}


def test_a_guidance_scale_that_wants_a_gradient_is_refused() -> None:
    model = AnyPipeline(build("SanaPipeline"))
    scale = torch.tensor(3.0, requires_grad=True)
    given = call_of("SanaPipeline") | {"guidance_scale": scale}
    with pytest.raises(adj.errors.UnsupportedError, match="a tensor that requires grad"):
        model(noise=noise_of(model, "SanaPipeline"), sampler="euler", **given)


def test_nothing_of_the_random_run_gets_into_a_sample() -> None:
    """LCM decodes the other thing that its scheduler returns, which equals the state at the end."""
    model = AnyPipeline(build("LatentConsistencyModelPipeline"))
    given = call_of("LatentConsistencyModelPipeline")
    noise = noise_of(model, "LatentConsistencyModelPipeline").requires_grad_()
    samples = model(noise=noise, sampler="euler", **given)
    assert samples.isfinite().all()
    (gradient,) = torch.autograd.grad(loss(samples), noise)
    assert gradient.norm() > 0

    pipe = model.pipe
    original = type(pipe.scheduler).step

    class Other(type(pipe.scheduler)):
        @functools.wraps(original)
        def step(self, *args: Any, **kwargs: Any) -> Any:
            state, denoised = original(self, *args, **kwargs)
            return state, denoised + 1

    pipe.scheduler = Other.from_config(pipe.scheduler.config)
    with pytest.raises(adj.errors.UnsupportedError, match="more of its loop"):
        model(noise=noise, sampler="euler", **given)


@pytest.mark.parametrize("name", ["FluxPipeline", "StableDiffusionPAGPipeline"])
def test_the_pipeline_stays_as_it_was(name: str) -> None:
    pipe = build(name)
    model, network = AnyPipeline(pipe), denoiser(pipe)
    before = [{key: id(v) for key, v in vars(part).items()} for part in (pipe, network)]
    steps = {k: v for k, v in vars(pipe.scheduler).items() if not torch.is_tensor(v)}
    noise = noise_of(model, name).requires_grad_()
    loss(model(noise=noise, sampler="heun", **call_of(name))).backward()
    assert [{key: id(v) for key, v in vars(part).items()} for part in (pipe, network)] == before
    assert {k: v for k, v in vars(pipe.scheduler).items() if not torch.is_tensor(v)} == steps
    assert all(p.grad is None for p in network.parameters())


def test_auto_remembers_what_it_measured(caplog) -> None:
    model = AnyPipeline(build("FluxPipeline"))
    noise = noise_of(model, "FluxPipeline").requires_grad_()
    auto = adj.Auto(tolerance=1.0)
    given = call_of("FluxPipeline") | {"num_inference_steps": 6}
    counts: list[int] = []
    model.pipe.transformer.register_forward_hook(lambda *_: counts.append(1))
    for _ in range(2):
        loss(model(noise=noise, gradient=auto, **given)).backward()
        counts.append(-1)
    first, second = (
        counts[: counts.index(-1)],
        counts[counts.index(-1) + 1 : -1],
    )
    assert len(second) < len(first)
    assert len(auto.choices) == 1


def test_generate_takes_native_samplers_and_seeds() -> None:
    model = AnyPipeline(build("StableDiffusionXLPipeline"))
    noise = model.noise(2, 1)

    def draw(rows: list[int], seeds: list[int]) -> Tensor:
        prompts = ["red fox", "owl"]
        return model.generate(
            [prompts[i] for i in rows],
            noise[rows],
            steps=3,
            guidance_scale=3.0,
            sampler=adj.Ancestral(eta=1.0, seed=0),
            seeds=seeds,
        )

    with torch.no_grad():
        both, swapped = draw([0, 1], [5, 6]), draw([1, 0], [6, 5])
    assert (both - swapped[[1, 0]]).abs().max() < 1e-5
    assert (both - draw([0, 1], [7, 8])).abs().max() > 1e-3


def test_bfloat16_networks() -> None:
    name = "FluxPipeline"
    pipe = build(name)
    model = AnyPipeline(pipe)
    noise = noise_of(model, name).requires_grad_()
    (exact,) = torch.autograd.grad(loss(model(noise=noise, **call_of(name))), noise)
    pipe.to(torch.bfloat16)
    samples = model(noise=noise, gradient=adj.Adjoint("stored"), **call_of(name))
    (ours,) = torch.autograd.grad(loss(samples.float()), noise)
    assert ours.dtype == torch.float32
    assert torch.nn.functional.cosine_similarity(ours.flatten(), exact.flatten(), 0) > 0.9


def test_supports_tells_what_the_check_found() -> None:
    for name, native, repeated in (
        ("FluxPipeline", True, True),
        ("DDPMPipeline", True, "DDPMScheduler"),
        ("Lumina2Pipeline", "no weighted sum", "no weighted sum"),
    ):
        pipe = build(name)
        model = AnyPipeline(pipe)
        counts: list[int] = []
        denoiser(pipe).register_forward_hook(lambda *_, c=counts: c.append(1))
        undecided = model.supports()
        assert not counts
        assert "run time" in str(undecided["native samplers"]["all"])
        found = model.supports(**case_for(name).arguments)
        assert len(counts) <= 2
        for said, wanted in (
            (found["native samplers"]["all"], native),
            (found["gradient methods"]["Adjoint"], repeated),
        ):
            assert said is True if wanted is True else wanted in str(said)
