"""Rewards: their scores are the official code's, and what they cannot read is refused clearly."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from adjointdpm import errors, metrics
from adjointdpm.metrics import HPS, Aesthetic, ClipScore, ImageReward, PickScore
from adjointdpm.metrics.networks.open_clip_names import renamed_open_clip
from adjointdpm.metrics.networks.preprocessing import MEAN, STD, Preprocessing
from helpers.reward_models import SIZE, OpenClip, clip_folder, image_reward_folder, picture

SHAPES = [(32, 32), (64, 64), (24, 24), (48, 80), (81, 47), (33, 100), (20, 57)]
PROMPTS = ["a red fox", "fox", "red"]


def processor() -> CLIPImageProcessorPil:
    return CLIPImageProcessorPil(
        size={"shortest_edge": SIZE}, crop_size={"height": SIZE, "width": SIZE}
    )


def resized_by_pillow(image: Tensor, height: int, width: int) -> Tensor:
    """Pillow's own bicubic filter, on numbers that are not rounded to 8 bits."""
    bands = [Image.fromarray(band.numpy().astype(np.float32), "F") for band in image]
    return torch.stack(
        [
            torch.from_numpy(np.array(band.resize((width, height), Image.Resampling.BICUBIC)))
            for band in bands
        ]
    )


def unrounded(image: Tensor) -> Tensor:
    """What the processor makes of a picture, but for the rounding in its resize: Pillow resizes
    numbers that are not bytes, and the processor does the rest.
    """
    height, width = image.shape[1:]
    short = min(height, width)
    size = [SIZE if side == short else int(SIZE * side / short) for side in (height, width)]
    wide = resized_by_pillow(image * 255, *size)
    return processor()([wide], do_resize=False, return_tensors="pt").pixel_values[0]


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(("height", "width"), SHAPES)
def test_pixels_are_the_processor_s(seed, height, width) -> None:
    images = picture(seed, height, width)
    pixels = Preprocessing(SIZE)(images)[0]
    torch.testing.assert_close(pixels, unrounded(images[0]), rtol=0, atol=1e-4)
    # With all of the processor: Pillow rounds twice, once each way, to 1/255, here divided by STD.
    whole = processor()((images[0] * 255).byte(), return_tensors="pt").pixel_values[0]
    rounding = 0.0 if (height, width) == (SIZE, SIZE) else 1.2 / 255 / min(STD)
    torch.testing.assert_close(pixels, whole, rtol=0, atol=1e-4 + rounding)


@pytest.mark.parametrize(("height", "width"), SHAPES)
def test_squashed_pixels_are_blip_s_processor_s(height, width) -> None:
    image = picture(3, height, width)[0]
    settings = {"size": {"height": SIZE, "width": SIZE}, "do_center_crop": False}
    found = Preprocessing.read(settings, SIZE)
    wide = resized_by_pillow(image * 255, SIZE, SIZE)
    expected = BlipImageProcessorPil()([wide], do_resize=False, return_tensors="pt").pixel_values[0]
    torch.testing.assert_close(found(image[None])[0], expected, rtol=0, atol=1e-4)


def test_a_picture_that_is_not_square_gets_black_bars_for_hps() -> None:
    image = picture(1, 24, 81)[0]
    pixels = Preprocessing(SIZE, "pad")(image[None])[0]
    inner = resized_by_pillow(image, round(24 * SIZE / 81), SIZE)
    black = -torch.tensor(MEAN) / torch.tensor(STD)
    rows = (SIZE - len(inner[0])) // 2
    shown = pixels[:, rows : rows + len(inner[0])]
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    torch.testing.assert_close(shown, (inner - mean) / std, rtol=0, atol=1e-4)
    torch.testing.assert_close(pixels[:, :rows], black.view(3, 1, 1).expand(3, rows, SIZE))
    assert (pixels[:, rows + len(inner[0]) :] == black.view(3, 1, 1)).all()


def test_settings_of_a_processor_that_cannot_be_followed_are_refused() -> None:
    old = {"size": 40, "crop_size": SIZE, "image_mean": [0.5] * 3, "image_std": [0.25] * 3}
    found = Preprocessing.read(old, SIZE)
    assert (found.short, found.size, found.mean) == (40, SIZE, (0.5, 0.5, 0.5))
    for settings in (
        {"resample": 2},
        {"do_normalize": False},
        {"crop_size": 16},
        {"size": {"shortest_edge": 16}},
        {"size": {"height": 16, "width": SIZE}, "do_center_crop": False},
    ):
        with pytest.raises(errors.ModelError, match=r"preprocessor_config\.json"):
            Preprocessing.read(settings, SIZE)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(("height", "width"), SHAPES)
def test_pickscore_and_clip_are_transformers_logits(tmp_path, seed, height, width) -> None:
    model, images = clip_folder(tmp_path, seed), picture(seed, height, width, 3)
    pixels = torch.stack([unrounded(image) for image in images])
    pick = PickScore(str(tmp_path))
    tokens = pick._clip.reader.tokenizer(PROMPTS, padding=True, return_tensors="pt")
    logits = model(**tokens, pixel_values=pixels).logits_per_image.diagonal()
    assert logits.std() > 0.1
    for metric in (pick, ClipScore(str(tmp_path))):
        torch.testing.assert_close(-metric(images, prompts=PROMPTS), logits, rtol=0, atol=1e-4)
    if (height, width) == (SIZE, SIZE):  # nothing is rounded: all of the processor
        whole = processor()(list((images * 255).byte()), return_tensors="pt").pixel_values
        logits = model(**tokens, pixel_values=whole).logits_per_image.diagonal()
        torch.testing.assert_close(-pick(images, prompts=PROMPTS), logits, rtol=0, atol=1e-4)


@pytest.mark.parametrize("seed", [0, 1])
def test_hps_reads_the_names_of_openclip(tmp_path, seed) -> None:
    clip_folder(tmp_path, seed)
    torch.manual_seed(seed)
    tokenizer = metrics.resolve(f"hps:model={tmp_path}")._clip.reader.tokenizer  # pyright: ignore
    official = OpenClip(len(tokenizer)).eval().requires_grad_(False)
    config = json.loads((tmp_path / "config.json").read_text())
    for part in ("text_config", "vision_config"):
        config[part]["hidden_act"] = "gelu"
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file(official.state_dict(), tmp_path / "model.safetensors")
    images = picture(seed, SIZE, SIZE, 3)
    ids = tokenizer(PROMPTS, padding=True, return_tensors="pt").input_ids
    last = (ids == tokenizer.eos_token_id).int().argmax(1)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    seen, read = official.visual((images - mean) / std), official.encode_text(ids, last)
    expected = 100 * F.cosine_similarity(seen, read)
    metric = HPS(str(tmp_path))
    torch.testing.assert_close(-metric(images, prompts=PROMPTS), expected, rtol=0, atol=1e-3)
    # The same once converted to transformers' own layout.
    save_file(renamed_open_clip(official.state_dict()), tmp_path / "model.safetensors")
    torch.testing.assert_close(HPS(str(tmp_path))(images, PROMPTS), metric(images, PROMPTS))
    wide = picture(seed, 20, 60)
    assert not torch.allclose(metric(wide, prompts=["fox"]), metric(wide[..., 20:40], ["fox"]))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_image_reward_is_the_official_network_s(tmp_path, seed) -> None:
    official, tokenizer = image_reward_folder(tmp_path, seed)
    metric = metrics.resolve(f"imagereward:model={tmp_path}")
    prompts = ["a red fox", "an owl", "a blue fox on a red owl"]
    tokens = tokenizer(prompts, padding="max_length", max_length=35, return_tensors="pt")
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    images = picture(seed, SIZE, SIZE, 3)
    expected = official((images - mean) / std, tokens.input_ids, tokens.attention_mask)
    torch.testing.assert_close(-metric(images, prompts=prompts), expected, rtol=1e-4, atol=1e-4)
    assert expected.std() > 1e-2
    # torchvision, which the official code crops with, rounds the margin of 3 pixels to 2.
    wide = picture(seed, SIZE, SIZE + 3, 3)
    torch.testing.assert_close(
        metric(wide, prompts=prompts), metric(wide[..., 2 : 2 + SIZE], prompts=prompts)
    )


def head_file(path: Path, width: int = 8, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    sizes, state = [width, 32, 16, 8, 4, 1], {}
    for i, inputs, outputs in zip((0, 2, 4, 6, 7), sizes, sizes[1:], strict=False):
        weight = torch.randn(outputs, inputs, generator=generator)
        state[f"layers.{i}.weight"] = weight / inputs**0.5
        state[f"layers.{i}.bias"] = torch.randn(outputs, generator=generator)
    save_file(state, path)
    return state


@pytest.mark.parametrize("seed", [0, 1])
def test_the_aesthetic_score_is_the_head_s_verdict_on_the_unit_vector(tmp_path, seed) -> None:
    model, state = clip_folder(tmp_path, seed), head_file(tmp_path / "head.safetensors", seed=seed)
    metric = metrics.resolve(f"aesthetic:model={tmp_path},head={tmp_path}/head.safetensors")
    images = picture(seed, 48, 80, 2)
    pixels = torch.stack([unrounded(image) for image in images])
    x = F.normalize(model.get_image_features(pixels).pooler_output, dim=1)
    for i in (0, 2, 4, 6, 7):
        x = x @ state[f"layers.{i}.weight"].T + state[f"layers.{i}.bias"]
    torch.testing.assert_close(-metric(images), x[:, 0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(metric(images, prompts=["a", "b"]), metric(images))
    head_file(tmp_path / "other.safetensors", width=9)
    with pytest.raises(errors.ModelError, match="belongs to another model"):
        Aesthetic(str(tmp_path), str(tmp_path / "other.safetensors"))


REWARDS = {
    "pickscore": lambda folder: clip_folder(folder) and PickScore(str(folder)),
    "hps": lambda folder: clip_folder(folder) and HPS(str(folder)),
    "clip": lambda folder: clip_folder(folder) and ClipScore(str(folder)),
    "imagereward": lambda folder: image_reward_folder(folder) and ImageReward(str(folder)),
    "aesthetic": lambda folder: (
        clip_folder(folder)
        and head_file(folder / "head.safetensors")
        and Aesthetic(str(folder), str(folder / "head.safetensors"))
    ),
}


@pytest.mark.parametrize("name", REWARDS)
def test_gradients_agree_with_finite_differences_and_lead_to_more_reward(tmp_path, name) -> None:
    metric = REWARDS[name](tmp_path)
    metrics.probe(metric)
    assert metric.sign == -1
    assert name in metrics.METRICS
    assert metric.name.startswith(name)
    images = picture(5, 40, 56, 2).double().requires_grad_()
    prompts = ["a red fox", "fox"]
    direction = torch.randn(images.shape, generator=torch.Generator().manual_seed(1)).double()
    (gradient,) = torch.autograd.grad(metric(images, prompts=prompts).sum(), images)
    h = 1e-6
    with torch.no_grad():
        there, back = (
            metric(images + sign * h * direction, prompts=prompts).sum() for sign in (1, -1)
        )
        assert (gradient * direction).sum().item() == pytest.approx(
            (there - back).item() / (2 * h), rel=1e-5
        )
        step = 1e-3 * gradient / gradient.abs().amax((1, 2, 3), keepdim=True)
        assert (metric(images - step, prompts=prompts) < metric(images, prompts=prompts)).all()


@pytest.mark.parametrize("name", ["pickscore", "hps", "clip", "imagereward"])
def test_prompts_are_needed_and_those_cut_off_are_told_of_once(tmp_path, name) -> None:
    metric, images = REWARDS[name](tmp_path), picture(0, SIZE, SIZE, 2)
    for prompts in (None, ["fox"]):
        with pytest.raises(errors.MetricError, match="with their prompts"):
            metric(images, prompts=prompts)
    long = "red fox " * 40
    with pytest.warns(errors.CutPromptWarning, match=f"red fox red.*metric {name}") as seen:
        metric(images, prompts=["fox", long])
    assert len(seen) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        metric(images.double(), prompts=[long, long])
        metric(images, prompts=["a red fox", "fox"])


@pytest.mark.parametrize("name", REWARDS)
def test_models_that_lack_something_are_refused(tmp_path, name) -> None:
    REWARDS[name](tmp_path)
    build = {"aesthetic": lambda f: Aesthetic(str(f), str(f / "head.safetensors"))}.get(
        name, lambda f: metrics.METRICS[name](str(f))
    )
    weights = tmp_path / "model.safetensors"
    state = load_file(weights)
    for gone in {"pickscore": ["vision_model.pre_layrnorm.bias"]}.get(name, sorted(state)[-1:]):
        if name == "imagereward":
            gone = "mlp.layers.7.bias"
        save_file({key: value for key, value in state.items() if key != gone}, weights)
        with pytest.raises(errors.ModelError, match=gone.removeprefix("mlp.")):
            build(tmp_path)
    weights.write_bytes(b"no safetensors")
    with pytest.raises(errors.ModelError):
        build(tmp_path)
    weights.unlink()
    with pytest.raises(errors.ModelError, match=r"lacks model\.safetensors"):
        build(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(
        errors.ModelError, match=rf"pickle only \(pytorch_model\.bin\).*convert.*{tmp_path}"
    ):
        build(tmp_path)
    save_file(state, weights)
    for file in ("vocab.txt", "vocab.json", "tokenizer.json"):
        (tmp_path / file).unlink(missing_ok=True)
    with pytest.raises(errors.ModelError, match=r"lacks tokenizer\.json, or vocab"):
        build(tmp_path)
    for name_of_nothing in ("nowhere", str(tmp_path / "none")):
        with pytest.raises(errors.ModelError, match="there is no folder"):
            build(Path(name_of_nothing))


def test_a_pickled_head_is_refused_with_the_conversion(tmp_path) -> None:
    clip_folder(tmp_path)
    with pytest.raises(errors.ModelError, match=r"is a pickle.*save_file.*head\.safetensors"):
        Aesthetic(str(tmp_path), str(tmp_path / "head.pth"))
    with pytest.raises(errors.ModelError, match="cannot be read"):
        Aesthetic(str(tmp_path), str(tmp_path / "none.safetensors"))
    save_file({"layers.0.weight": torch.zeros(4, 8)}, tmp_path / "part.safetensors")
    with pytest.raises(errors.ModelError, match=r"layers\.0\.bias"):
        Aesthetic(str(tmp_path), str(tmp_path / "part.safetensors"))


def test_a_model_must_be_named() -> None:
    for name in ("pickscore", "hps", "clip", "imagereward", "aesthetic"):
        with pytest.raises(errors.InvalidInputError, match="needs model="):
            metrics.resolve(name)
