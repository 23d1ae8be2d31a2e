"""Every kind of pipeline: the stock sample, its own call's gradients, and nothing changed."""

import inspect
import sys
from typing import Any

import pytest
import torch
from torch import Tensor

import adjointdpm as adj
from adjointdpm.pipelines.any_pipeline import AnyPipeline
from adjointdpm.pipelines.own_call.pipeline_call import call_parameters
from benchmarks.pipelines.cases import CASES, build, denoiser, shaping
from helpers.mixtures import relative_error

# One of each kind; `python -m benchmarks.pipelines` compares every class.
KINDS = (
    *("StableDiffusionPipeline", "StableDiffusionXLPipeline", "StableDiffusionImg2ImgPipeline"),
    *("StableDiffusionInpaintPipeline", "StableDiffusionControlNetPipeline"),
    *("StableDiffusionAdapterPipeline", "StableDiffusionPAGPipeline", "DDPMPipeline"),
    *("LatentConsistencyModelPipeline", "AnimateDiffPipeline", "StableDiffusion3Pipeline"),
    *("FluxPipeline", "Flux2KleinPipeline", "ChromaPipeline", "QwenImagePipeline"),
    *("ZImagePipeline", "AuraFlowPipeline", "Lumina2Pipeline", "PixArtSigmaPipeline"),
    *("SanaPipeline", "DiTPipeline", "WanPipeline", "CogVideoXPipeline", "LTXPipeline"),
    *("StableAudioPipeline", "StableDiffusionGLIGENPipeline"),
    # copies its scheduler, writes new states into the old, ends in numpy for a safety checker
    *("SkyReelsV2DiffusionForcingPipeline", "Kandinsky5T2VPipeline", "CosmosTextToWorldPipeline"),
)


def largest_weight(pipe: Any) -> Tensor:
    return max((p for p in denoiser(pipe).parameters() if p.ndim > 1), key=torch.Tensor.numel)


def arguments(name: str, pipe: Any) -> dict[str, Any]:
    given = {k: [*v] if isinstance(v, list) else v for k, v in CASES[name].arguments.items()}
    if "generator" in call_parameters(pipe):
        given["generator"] = torch.Generator().manual_seed(7)
    return given


def answer_draws(monkeypatch, pipe: Any, noise: Tensor) -> None:
    """Stock code draws `noise` where it draws something of that shape first."""
    for cls in type(pipe).__mro__:
        module = sys.modules[cls.__module__]
        original = getattr(module, "randn_tensor", None)
        if original is None:
            continue

        def draw(shape, *args, original=original, **kwargs):
            if tuple(shape) == tuple(noise.shape) and not answered:
                answered.append(True)
                return noise.clone()
            return original(shape, *args, **kwargs)

        monkeypatch.setattr(module, "randn_tensor", draw)
    answered: list[bool] = []


def stock(name: str, pipe: Any, monkeypatch) -> Tensor:
    """The pipeline's own call as it is written, with gradients; clamped where it clamps."""
    given = arguments(name, pipe)
    if "output_type" in call_parameters(pipe):
        given["output_type"] = "pt"
    ends: list[Tensor] = []
    to_numpy = torch.Tensor.numpy
    # Some end in numpy: what they hand to it stands for what they return.
    monkeypatch.setattr(
        torch.Tensor, "numpy", lambda x: to_numpy(x.detach() if not ends.append(x) else x)
    )
    torch.manual_seed(3)
    found = inspect.unwrap(type(pipe).__call__)(pipe, **given, return_dict=False)[0]
    found = torch.stack(found) if isinstance(found, list) and torch.is_tensor(found[0]) else found
    return found if torch.is_tensor(found) and found.requires_grad else ends[-1].permute(0, 3, 1, 2)


def loss(samples: Tensor) -> Tensor:
    return (samples * torch.linspace(-1, 1, samples.numel()).view_as(samples)).sum()


@pytest.mark.parametrize("name", KINDS)
def test_samples_and_gradients_are_those_of_the_stock_call(name: str, monkeypatch) -> None:
    pipe = build(name)
    model, weight = AnyPipeline(pipe), largest_weight(pipe).requires_grad_()
    noise = model.noise(CASES[name].count, 1, **shaping(name)).requires_grad_()

    torch.manual_seed(3)
    samples = model(noise=noise, **arguments(name, pipe))
    assert tuple(samples.shape) == CASES[name].shape
    ours = torch.autograd.grad(loss(samples.clamp(0, 1)), [noise, weight])

    answer_draws(monkeypatch, pipe, noise)
    expected = stock(name, pipe, monkeypatch)
    assert (samples.clamp(0, 1) - expected.clamp(0, 1)).abs().max() < 1e-4
    theirs = torch.autograd.grad(loss(expected.clamp(0, 1)), [noise, weight])
    for mine, full in zip(ours, theirs, strict=True):
        assert full.norm() > 0
        assert relative_error(mine, full) < 1e-5


@pytest.mark.parametrize("name", KINDS)
def test_networks_run_twice_and_the_pipeline_stays_as_it_was(name: str) -> None:
    pipe = build(name)
    model, network = AnyPipeline(pipe), denoiser(pipe)
    parts = {key: id(value) for key, value in vars(pipe).items()}
    inner = {key: id(value) for key, value in vars(network).items()}
    steps = {k: v for k, v in vars(pipe.scheduler).items() if not torch.is_tensor(v)}
    counts = []
    network.register_forward_hook(lambda *_: counts.append(1))
    noise = model.noise(CASES[name].count, 1, **shaping(name)).requires_grad_()
    samples = model(noise=noise, **arguments(name, pipe))
    forward = len(counts)
    loss(samples).backward()
    assert 0 < forward < len(counts) <= 2 * forward
    assert {key: id(value) for key, value in vars(pipe).items()} == parts
    assert {key: id(value) for key, value in vars(network).items()} == inner
    assert {k: v for k, v in vars(pipe.scheduler).items() if not torch.is_tensor(v)} == steps
    assert type(pipe).__name__ == name
    assert all(p.grad is None for p in network.parameters())


@pytest.mark.parametrize("name", ["StableDiffusionXLPipeline", "FluxPipeline", "ZImagePipeline"])
def test_encoded_prompts_draw_what_the_prompts_draw(name: str) -> None:
    model = AnyPipeline(build(name))
    noise = model.noise(CASES[name].count, 1, **shaping(name))
    given = arguments(name, model.pipe)
    with torch.no_grad():
        expected = model(noise=noise, **given)
        given.pop("prompt")
        lengths = {"max_sequence_length": 8} if "max_sequence_length" in given else {}
        encoded = model.encode(["red fox", "owl"], **lengths)
        found = model(noise=noise, **given, **encoded)
    assert (found - expected).abs().max() < 1e-5
    with torch.enable_grad():
        tensors = {
            key: value.requires_grad_() if torch.is_tensor(value) else value
            for key, value in encoded.items()
        }
        if torch.is_tensor(tensors["prompt_embeds"]):
            loss(model(noise=noise, **given, **tensors)).backward()
            assert tensors["prompt_embeds"].grad.norm() > 0


@pytest.mark.parametrize(
    ("name", "shift", "tolerance"),
    [
        ("StableDiffusionXLPipeline", 1e-5, 1e-6),
        ("PixArtSigmaPipeline", 1e-5, 1e-6),
        ("FluxPipeline", 1e-3, 1e-3),  # its scheduler steps in float32 whatever the state
    ],
)
def test_gradients_equal_finite_differences_in_float64(name, shift, tolerance) -> None:
    pipe = build(name).to(torch.float64)
    model = AnyPipeline(pipe)
    torch.manual_seed(0)
    noise = model.noise(CASES[name].count, 1, **shaping(name))
    direction = torch.randn_like(noise)
    assert noise.dtype == torch.float64

    def value(step: float) -> float:
        with torch.no_grad():
            return loss(model(noise=noise + step * direction, **arguments(name, pipe))).item()

    expected = (value(shift) - value(-shift)) / (2 * shift)
    noise.requires_grad_()
    loss(model(noise=noise, **arguments(name, pipe))).backward()
    assert (noise.grad * direction).sum().item() == pytest.approx(expected, rel=tolerance)


@pytest.mark.parametrize("name", KINDS)
def test_without_gradients_the_samples_are_the_same(name: str) -> None:
    pipe = build(name)
    model = AnyPipeline(pipe)
    noise = model.noise(CASES[name].count, 1, **shaping(name))
    found = []
    for grad in (False, True):
        torch.manual_seed(3)
        with torch.set_grad_enabled(grad):
            found.append(model(noise=noise.clone().requires_grad_(), **arguments(name, pipe)))
    assert not found[0].requires_grad
    assert torch.equal(found[0], found[1])


def test_budgets_keep_graphs_and_truncated_runs_no_early_network_again() -> None:
    pipe = build("FluxPipeline")
    model = AnyPipeline(pipe)
    given = arguments("FluxPipeline", pipe)
    exact, calls = None, {}
    for method in (adj.Checkpoint(), adj.Checkpoint(memory_budget=10**9), adj.Truncated(last=1)):
        counts: list[int] = []
        handle = pipe.transformer.register_forward_hook(lambda *_, c=counts: c.append(1))
        noise = model.noise(2, 1, **shaping("FluxPipeline")).requires_grad_()
        loss(model(noise=noise, gradient=method, **given)).backward()
        handle.remove()
        calls[repr(method)] = len(counts)
        if exact is None:
            exact = noise.grad
        elif isinstance(method, adj.Checkpoint):
            assert torch.equal(noise.grad, exact)
        else:
            assert relative_error(noise.grad, exact) > 1e-3
    assert list(calls.values()) == [6, 4, 4]  # the budget costs one call, which measures a graph


def test_a_second_run_that_differs_is_an_error_that_names_the_network() -> None:
    pipe = build("FluxPipeline")
    model = AnyPipeline(pipe)
    noise = model.noise(2, 1, **shaping("FluxPipeline")).requires_grad_()
    samples = model(noise=noise, **arguments("FluxPipeline", pipe))
    pipe.transformer.register_forward_hook(lambda module, inputs, output: (output[0] * 1.5,))
    with pytest.raises(adj.errors.AdjointDPMError, match="'transformer' gave another result"):
        loss(samples).backward()


def test_a_network_that_is_called_without_gradients_is_an_error() -> None:
    pipe = build("FluxPipeline")
    original = pipe.transformer.forward
    pipe.transformer.forward = torch.no_grad()(original)
    model = AnyPipeline(pipe)
    noise = model.noise(2, 1, **shaping("FluxPipeline")).requires_grad_()
    with pytest.raises(adj.errors.UnsupportedError, match="'transformer' without gradients"):
        model(noise=noise, **arguments("FluxPipeline", pipe))
    assert pipe.transformer.forward is not original
    pipe.transformer.forward = original
    assert model(noise=noise, **arguments("FluxPipeline", pipe)).requires_grad


def test_wrong_arguments_are_named_before_anything_runs() -> None:
    pipe = build("FluxPipeline")
    model = AnyPipeline(pipe)
    counts: list[int] = []
    pipe.transformer.register_forward_hook(lambda *_: counts.append(1))
    given = arguments("FluxPipeline", pipe)
    with pytest.raises(adj.errors.InvalidInputError, match=r"guidance_scal.*guidance_scale"):
        model(guidance_scal=2.0)
    for name in ("output_type", "return_dict"):
        with pytest.raises(adj.errors.InvalidInputError, match="output="):
            model(**{name: "pt"})
    with pytest.raises(adj.errors.ShapeError, match=r"draws \(2, 4, 8, 8\)"):
        model(noise=torch.randn(2, 4, 4, 4), **given)
    assert not counts


def test_noise_of_a_sample_depends_on_its_seed_and_number_alone() -> None:
    model = AnyPipeline(build("WanPipeline"))
    all_of_them = model.noise(4, 3, num_frames=5, height=16, width=16)
    assert all_of_them.ndim == 5
    some = model.noise(2, 3, offset=2, num_frames=5, height=16, width=16)
    assert torch.equal(some, all_of_them[2:])


def test_an_interrupted_call_leaves_the_pipeline_usable() -> None:
    pipe = build("StableDiffusionPAGPipeline")
    model = AnyPipeline(pipe)
    given = arguments("StableDiffusionPAGPipeline", pipe)
    noise = model.noise(2, 1).requires_grad_()
    before = {name: type(p) for name, p in pipe.unet.attn_processors.items()}

    def stop(*_: Any) -> Any:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        model(noise=noise, **given, callback_on_step_end=stop)
    first = model(noise=noise, **arguments("StableDiffusionPAGPipeline", pipe))
    assert {name: type(p) for name, p in pipe.unet.attn_processors.items()} == before
    again = AnyPipeline(pipe)(noise=noise, **arguments("StableDiffusionPAGPipeline", pipe))
    assert torch.equal(first, again)


def test_a_callback_sees_tensors_with_a_graph() -> None:
    pipe = build("StableDiffusionPipeline")
    model, seen = AnyPipeline(pipe), []

    def look(_: Any, step: int, t: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        seen.append(tensors["latents"])
        return tensors

    noise = model.noise(2, 1).requires_grad_()
    model(noise=noise, callback_on_step_end=look, **arguments("StableDiffusionPipeline", pipe))
    assert len(seen) == 3
    (gradient,) = torch.autograd.grad(seen[1].sum(), noise)
    assert gradient.norm() > 0


def test_two_models_in_two_threads_do_not_disturb_each_other() -> None:
    from concurrent.futures import ThreadPoolExecutor

    pipe = build("FluxPipeline")
    model = AnyPipeline(pipe)

    def gradient(seed: int) -> Tensor:
        noise = model.noise(2, seed, **shaping("FluxPipeline")).requires_grad_()
        loss(AnyPipeline(pipe)(noise=noise, **arguments("FluxPipeline", pipe))).backward()
        return noise.grad

    expected = [gradient(seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(gradient, [*range(4)] * 6))  # tokenizers: one in ten failed
    for one, other in zip(found, expected * 6, strict=True):
        assert relative_error(one, other) < 1e-5


@pytest.mark.parametrize(
    "name", ["StableDiffusionXLPipeline", "FluxPipeline", "PixArtSigmaPipeline"]
)
def test_bfloat16_networks_give_float32_noise_a_gradient(name: str) -> None:
    pipe = build(name)
    model = AnyPipeline(pipe)
    noise = model.noise(CASES[name].count, 1, **shaping(name)).requires_grad_()
    loss(model(noise=noise, **arguments(name, pipe))).backward()
    exact, noise.grad = noise.grad, None
    pipe.to(torch.bfloat16)
    assert AnyPipeline(pipe).noise(1, 0, **shaping(name)).dtype == torch.float32
    loss(model(noise=noise, **arguments(name, pipe)).float()).backward()
    assert noise.grad.dtype == torch.float32
    assert torch.nn.functional.cosine_similarity(noise.grad.flatten(), exact.flatten(), 0) > 0.9


def test_compiled_networks_give_the_same_gradient() -> None:
    pipe = build("FluxPipeline")
    model = AnyPipeline(pipe)
    found = []
    for compiled in (False, True):
        if compiled:
            pipe.transformer = torch.compile(pipe.transformer, backend="aot_eager")
        noise = model.noise(2, 1, **shaping("FluxPipeline")).requires_grad_()
        loss(model(noise=noise, **arguments("FluxPipeline", pipe))).backward()
        found.append(noise.grad)
    assert relative_error(found[1], found[0]) < 1e-5


def test_memory_grows_by_states_and_not_by_graphs() -> None:
    pipe = build("StableDiffusionXLPipeline")
    model = AnyPipeline(pipe)
    held = {}
    for steps in (3, 12):
        given = arguments("StableDiffusionXLPipeline", pipe) | {"num_inference_steps": steps}
        noise = model.noise(2, 1).requires_grad_()
        kept: set[int] = set()
        size = [0]

        def pack(tensor: Tensor, kept=kept, size=size) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in kept:
                kept.add(storage.data_ptr())
                size[0] += storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            model(noise=noise, output="latent", **given)
        held[steps] = size[0]
    states = 9 * 8 * noise.nbytes  # a step's: state, two outputs, their sum, the doubled input
    assert held[12] - held[3] <= states


@pytest.mark.parametrize("name", ["FluxPipeline", "DiTPipeline", "WanPipeline"])
def test_a_saved_pipeline_of_any_class_is_loaded(name: str, tmp_path) -> None:
    pipe = build(name)
    pipe.save_pretrained(tmp_path / "model")
    model = adj.load(tmp_path / "model")
    assert type(model.pipe).__name__ == name
    noise = model.noise(CASES[name].count, 1, **shaping(name))
    assert not any(p.requires_grad for p in denoiser(model.pipe).parameters())
    with torch.no_grad():
        expected = AnyPipeline(pipe)(noise=noise, **arguments(name, pipe))
        found = model(noise=noise, **arguments(name, pipe))
    assert (found - expected).abs().max() < 1e-5


def test_generate_takes_prompts_or_labels_or_nothing() -> None:
    for name in ("FluxPipeline", "DiTPipeline", "DDPMPipeline"):
        model = adj.from_pipeline(build(name))
        given = {
            k: v for k, v in CASES[name].arguments.items() if k in ("class_labels", *shaping(name))
        }
        prompt = {"prompt": ["red fox", "owl"]} if name == "FluxPipeline" else {}
        noise = model.noise(CASES[name].count, 1, **shaping(name)).requires_grad_()
        samples = model.generate(noise=noise, steps=2, seeds=[4, 5], **prompt, **given)
        assert len(samples) == 2
        samples.sum().backward()
        assert noise.grad.norm() > 0


def test_what_a_pipeline_supports_is_told_with_reasons() -> None:
    flux = adj.from_pipeline(build("FluxPipeline")).supports()
    assert flux["gradient methods"]["Checkpoint"] is True
    assert "run time" in str(flux["gradient methods"]["Adjoint"])
    assert flux["artefacts"] == {"LoRA": True, "token": True}
    dit = adj.from_pipeline(build("DiTPipeline")).supports()
    assert "no LoRA loader" in dit["artefacts"]["LoRA"]
    assert "prompt_embeds" in dit["variables"]["prompt embedding"]


def test_a_family_runs_its_own_call_too(tmp_path) -> None:
    pipe = build("StableDiffusionPipeline")
    pipe.scheduler.config["clip_sample"]
    model = adj.from_pipeline(pipe)
    assert not isinstance(model, AnyPipeline)
    noise = model.noise(2, 1)
    with torch.no_grad():
        found = model(noise=noise, prompt=["red fox", "owl"], num_inference_steps=3)
        expected = model.generate(["red fox", "owl"], noise, steps=3)
    assert (found - expected).abs().max() < 1e-5
