"""NAME=VALUE becomes an argument of the pipeline's call, typed by its signature; or is an error."""

from typing import Any

import pytest
import torch
from PIL import Image

import adjointdpm as adj
from adjointdpm import errors
from adjointdpm.pipelines.arguments.call_arguments import (
    PictureFile,
    call_arguments,
    loaded,
    plain_arguments,
)
from benchmarks.pipelines.cases import build


@pytest.fixture(scope="module")
def flux() -> Any:
    return build("FluxPipeline")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("height=512", 512),
        ("true_cfg_scale=4", 4.0),
        ("true_cfg_scale=1e-3", 1e-3),
        ("negative_prompt=blurry, = and no", "blurry, = and no"),
        ("negative_prompt=no", "no"),
        ("negative-prompt=12", "12"),
        ("sigmas=[1.0, 0.5]", [1.0, 0.5]),
        ("joint_attention_kwargs={scale: 0.5}", {"scale": 0.5}),
        ("height=null", None),
    ],
)
def test_a_text_gets_the_type_of_the_signature(flux, text: str, value: Any) -> None:
    (found,) = call_arguments(flux, [text]).values()
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["hight=512"], r"'hight'; the closest are height"),
        (["height=tall"], r"height=tall must be int"),
        (["height=1.5"], r"height=1\.5 must be int"),
        (["height"], r"'height' must be NAME=VALUE"),
        (["height=1", "height=2"], r"height is given twice"),
        (["num_inference_steps=3"], r"num_inference_steps is set by the task.*steps"),
        (["prompt=a"], r"prompt is set by the task"),
        (["output_type=pil"], r"output_type is set by the model"),
        ({"prompt_embed": 1}, r"'prompt_embed'; the closest are prompt_embeds"),
    ],
)
def test_what_cannot_be_an_argument_is_said(flux, given: Any, message: str) -> None:
    with pytest.raises(errors.InvalidInputError, match=message):
        call_arguments(flux, given)


def test_a_file_stands_for_a_picture(tmp_path) -> None:
    pipe = build("StableDiffusionImg2ImgPipeline")
    Image.new("RGB", (4, 2), (255, 0, 0)).save(tmp_path / "red.png")
    found = call_arguments(pipe, [f"image={tmp_path / 'red.png'}", "strength=0.5"])
    assert isinstance(found["image"], PictureFile)
    assert loaded(found)["image"].size == (4, 2)
    with pytest.raises(errors.InvalidInputError, match=r"picture none\.png does not exist"):
        call_arguments(pipe, ["image=none.png"])


def test_values_in_python_are_taken_as_they_are_and_kept_as_plain_ones(flux) -> None:
    embeds = torch.ones(1, 8, 16)
    given = {"prompt_embeds": embeds, "height": 16, "sigmas": (1.0, 0.5)}
    assert call_arguments(flux, given)["prompt_embeds"] is embeds
    plain = plain_arguments(given)
    assert plain["height"] == 16
    assert plain["prompt_embeds"] == "<Tensor (1, 8, 16)>"


@pytest.mark.parametrize("side", ["height", "width"])
def test_one_side_that_would_be_ignored_is_refused(side: str) -> None:
    model = adj.load("tiny")
    with pytest.raises(errors.InvalidInputError, match=f"would ignore {side}=128 alone.*pass both"):
        model.noise(1, 0, **{side: 128})
    with pytest.raises(errors.InvalidInputError, match="pass both"):
        model.generate("a fox", steps=1, **{side: 128})
    with pytest.raises(errors.InvalidInputError, match="pass both"):
        call_arguments(model.pipe, [f"{side}=128"])
    assert model.noise(1, 0, height=128, width=96).shape == (1, 4, 32, 24)


def test_one_side_is_taken_where_the_pipeline_takes_it() -> None:
    model = adj.from_pipeline(build("FluxPipeline"))
    assert model.noise(1, 0, height=32, width=16).shape != model.noise(1, 0, width=16).shape
