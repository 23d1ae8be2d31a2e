"""`--previews` of the learning commands, and `generate --learned` with what they have learned."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from peft import LoraConfig, get_peft_model_state_dict
from PIL import Image

from adjointdpm.pipelines import from_pipeline
from helpers.commands import EMBED, SMALL, run

DRAW = ("generate", "--model", "model", "--batch", 1, "--steps", 2, "--seed", 4, "--device", "cpu")


def drawn(folder: str) -> bytes:
    (file,) = Path(folder).glob("*.png")
    return Image.open(file).tobytes()


def picture_of(pipe, prompt: str) -> bytes:
    """The picture of a stock pipeline's own call."""
    pipe.set_progress_bar_config(disable=True)
    noise = from_pipeline(pipe).noise(1, 4)
    (image,) = pipe(prompt, latents=noise, num_inference_steps=2).images
    return image.tobytes()


@pytest.mark.slow
def test_previews_add_pictures_and_states_and_change_nothing_else(
    files, monkeypatch, capsys
) -> None:
    for folder, more in (("plain", ()), ("watched", ("--previews",))):
        words = (*EMBED, *SMALL, "--lr", 0.1, "--validation", 2, "--strength", 1)
        words += ("--out", folder, *more)
        code, _, err = run(monkeypatch, capsys, *words)
        assert code == 0, err
    metrics = [
        json.loads(Path(f, "result.json").read_text())["metric"] for f in ("plain", "watched")
    ]
    assert metrics[0] == metrics[1]
    learned = [Path(f, "learned_embeds.safetensors").read_bytes() for f in ("plain", "watched")]
    assert learned[0] == learned[1]
    assert not list(Path("plain/images").glob("look_*"))
    assert not Path("plain/states").exists()
    history = map(json.loads, Path("watched/history.jsonl").read_text().splitlines())
    looks = [record["iteration"] for record in history if "validation" in record]
    names = [f"look_{i:04d}_{n:02d}.png" for i in looks for n in range(2)]
    assert sorted(path.name for path in Path("watched/images").glob("look_*")) == names
    states = sorted(Path("watched/states").iterdir())
    assert [int(path.name) for path in states] == looks
    held = [(path / "learned_embeds.safetensors").read_bytes() for path in states]
    assert len(set(held)) == len(held)  # it learned something between two looks
    assert learned[0] in held


@pytest.mark.slow
def test_a_learned_word_is_drawn_as_stock_diffusers_draws_it(files, monkeypatch, capsys) -> None:
    assert run(monkeypatch, capsys, *EMBED, *SMALL, "--lr", 0.3, "--out", "word")[0] == 0
    words = (*DRAW, "red fox <t>", "--learned", "word", "--out", "drawn")
    code, _, err = run(monkeypatch, capsys, *words)
    assert code == 0, err
    pipe = StableDiffusionPipeline.from_pretrained("model", safety_checker=None)
    pipe.load_textual_inversion("word/learned_embeds.safetensors", token="<t>")
    expected = picture_of(pipe, "red fox <t>")
    assert drawn("drawn") == expected
    assert run(monkeypatch, capsys, *DRAW, "red fox", "--out", "plain")[0] == 0
    assert drawn("plain") != expected
    code, _, err = run(monkeypatch, capsys, *words[:-1], "other", "--strength", 0.5)
    assert code == 2
    assert "is for a LoRA" in err


def test_a_lora_is_drawn_with_at_the_strength_that_is_asked_for(files, monkeypatch, capsys) -> None:
    pipe = StableDiffusionPipeline.from_pretrained("model", safety_checker=None)
    pipe.unet.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v"]))
    layers = get_peft_model_state_dict(pipe.unet)
    torch.manual_seed(0)
    layers = {name: torch.randn_like(tensor) for name, tensor in layers.items()}
    StableDiffusionPipeline.save_lora_weights("lora", unet_lora_layers=layers)
    assert run(monkeypatch, capsys, *DRAW, "red fox", "--out", "plain")[0] == 0
    pictures = []
    for strength in (0, 1, 0.5):
        folder = f"at{strength}"
        words = (*DRAW, "red fox", "--learned", "lora", "--strength", strength, "--out", folder)
        code, _, err = run(monkeypatch, capsys, *words)
        assert code == 0, err
        pictures.append(drawn(folder))
        stock = StableDiffusionPipeline.from_pretrained("model", safety_checker=None)
        stock.load_lora_weights("lora", adapter_name="stock")
        stock.set_adapters(["stock"], [strength])
        assert drawn(folder) == picture_of(stock, "red fox")
    assert pictures[0] == drawn("plain")
    assert len(set(pictures)) == 3


@pytest.mark.parametrize("name", ["nowhere", "prompts.txt", "."])
def test_a_folder_without_a_result_is_one_sentence(files, monkeypatch, capsys, name: str) -> None:
    code, _, err = run(monkeypatch, capsys, *DRAW, "fox", "--learned", name, "--out", "drawn")
    assert code == 2
    assert "holds neither" in err
    assert not Path("drawn").exists()
