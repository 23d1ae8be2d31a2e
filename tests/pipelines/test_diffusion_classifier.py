"""The score of a picture for a prompt is what stock diffusers' parts give."""

import pytest
import torch
from diffusers import AutoencoderTiny, DDIMScheduler, EDMEulerScheduler

from adjointdpm import load
from adjointdpm.engine.stats import stats
from adjointdpm.errors import ShapeError, UnsupportedError
from adjointdpm.pipelines import from_pipeline
from adjointdpm.pipelines.any_pipeline import AnyPipeline
from adjointdpm.pipelines.diffusion_classifier import OTHERS, DiffusionClassifier
from helpers.tiny_pipelines import tiny_pipeline

PICTURES = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("seed", [0, 3])
@torch.no_grad()
def test_it_compares_the_errors_that_stock_parts_give(tmp_path, prediction: str, seed: int) -> None:
    pipe = tiny_pipeline(tmp_path)
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, prediction_type=prediction)
    prompt, vae = "a green apple", pipe.vae
    found = DiffusionClassifier(from_pipeline(pipe), prompt, seed=seed)(PICTURES)
    embeds = [pipe.encode_prompt(text, "cpu", 1, False)[0] for text in (prompt, *OTHERS)]
    latents = vae.encode(2 * PICTURES - 1).latent_dist.mode() * vae.config.scaling_factor
    expected = torch.zeros(2, 4)
    for number, one in enumerate(latents):
        source = torch.Generator().manual_seed(seed)
        for place, level in enumerate((300, 450, 599, 749)):
            time, noise = torch.tensor([level]), torch.randn(1, *one.shape, generator=source)
            state = pipe.scheduler.add_noise(one[None], noise, time)
            wanted = {
                "epsilon": noise,
                "sample": one[None],
                "v_prediction": pipe.scheduler.get_velocity(one[None], noise, time),
            }[prediction]
            errors = [(pipe.unet(state, time, e)[0] - wanted).square().mean() for e in embeds]
            expected[number, place] = 1 - errors[0] / torch.stack(errors[1:]).mean()
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert found.abs().max() > 1e-6


@torch.no_grad()
def test_the_bundled_model_knows_its_pictures_by_their_prompts() -> None:
    model, prompts = load("tiny"), ["a noto emoji of a fox", "a twemoji emoji of a cookie"]
    pictures = torch.cat(
        [model.generate(p, model.noise(1, 5), steps=10, guidance_scale=5.0) for p in prompts]
    )
    asks = [DiffusionClassifier(model, prompt) for prompt in prompts]
    scores = torch.stack([ask(pictures.clamp(0, 1)).mean(1) for ask in asks])
    own, other = scores.diagonal(), scores.flip(0).diagonal()
    assert (own > 0.2).all()
    assert (other < own - 0.2).all()


def test_it_asks_four_times_for_each_picture(tmp_path) -> None:
    ask = DiffusionClassifier(from_pipeline(tiny_pipeline(tmp_path)), "an owl")
    with stats(memory=False) as cost:
        ask(PICTURES)
    assert cost.network_calls == 4 * len(PICTURES)


def test_colours_beyond_what_is_shown_count_as_shown(tmp_path) -> None:
    ask = DiffusionClassifier(from_pipeline(tiny_pipeline(tmp_path)), "an owl")
    wild = PICTURES * 9 - 4
    assert torch.equal(ask(wild), ask(wild.clamp(0, 1)))


def test_an_autoencoder_without_a_spread_is_taken(tmp_path) -> None:
    pipe = tiny_pipeline(tmp_path)
    channels = pipe.vae.config.latent_channels
    pipe.vae = AutoencoderTiny(
        latent_channels=channels,
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
    ).eval()
    assert DiffusionClassifier(from_pipeline(pipe), "an owl")(PICTURES).isfinite().all()


def test_it_computes_in_the_networks_precision(tmp_path) -> None:
    pipe = tiny_pipeline(tmp_path)
    full = DiffusionClassifier(from_pipeline(pipe), "an owl")(PICTURES)
    pipe.to(dtype=torch.bfloat16)
    half = DiffusionClassifier(from_pipeline(pipe), "an owl")(PICTURES)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, full, atol=0.02, rtol=0)


def test_what_it_cannot_ask_it_says_at_once(tmp_path) -> None:
    pipe = tiny_pipeline(tmp_path)
    with pytest.raises(UnsupportedError, match="Stable Diffusion 1 and 2"):
        DiffusionClassifier(AnyPipeline(pipe), "an owl")
    with pytest.raises(ShapeError, match="multiples"):
        DiffusionClassifier(from_pipeline(pipe), "an owl")(PICTURES[..., :15])
    pipe.scheduler = EDMEulerScheduler()
    with pytest.raises(UnsupportedError, match="table"):
        DiffusionClassifier(from_pipeline(pipe), "an owl")


@pytest.mark.parametrize("seed", [0, 1])
def test_its_gradient_is_that_of_finite_differences(tmp_path, seed: int) -> None:
    pipe = tiny_pipeline(tmp_path).to(dtype=torch.float64)
    ask = DiffusionClassifier(from_pipeline(pipe), "an owl", seed=seed)
    source = torch.Generator().manual_seed(seed)
    images = torch.rand(2, 3, 16, 16, dtype=torch.float64, generator=source) * 0.9 + 0.05
    direction = torch.randn(2, 3, 16, 16, dtype=torch.float64, generator=source)
    scores = ask(images.requires_grad_())
    weights = torch.randn(2, 4, dtype=torch.float64, generator=source)
    (gradient,) = torch.autograd.grad((weights * scores).sum(), images)
    with torch.no_grad():
        up, down = (ask(images + step * direction) for step in (1e-5, -1e-5))
        torch.testing.assert_close(scores.detach(), ask(images))
    slope = (weights * (up - down) / 2e-5).sum()
    assert (gradient * direction).sum().item() == pytest.approx(slope.item(), rel=1e-5)


def test_float16_holds_its_gradient(tmp_path) -> None:
    pipe, found = tiny_pipeline(tmp_path), []
    for dtype in (torch.float32, torch.float16):
        pipe.to(dtype=dtype)
        images = PICTURES.clone().requires_grad_()
        score = DiffusionClassifier(from_pipeline(pipe), "an owl")(images).sum()
        found.append(torch.autograd.grad(score, images)[0].flatten())
    full, half = found
    assert torch.cosine_similarity(full, half, 0) > 0.99
    assert half.norm().item() == pytest.approx(full.norm().item(), rel=0.05)
