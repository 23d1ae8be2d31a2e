"""What is learned from a dropped picture, drawn with afterwards, and loaded by stock diffusers."""

import json

import pytest
from PIL import Image

from helpers.page_steps import choose, fill, more, open_tab, run, start

pytestmark = pytest.mark.slow
PROMPTS = "a noto emoji of a cat\na noto emoji of a dog\na noto emoji of an owl"


def drop(page, path) -> None:
    """Put a picture into the metric's field, and wait until it is shown."""
    panel = page.get_by_role("tabpanel").filter(visible=True)
    panel.locator("input[type=file]").first.set_input_files(str(path))
    panel.locator("img[src*='file=']").first.wait_for()


@pytest.fixture
def stripes(tmp_path):
    """A picture with a style: red and black stripes."""
    image = Image.new("RGB", (64, 64), "black")
    for left in range(0, 64, 8):
        image.paste("red", (left, 0, left + 4, 64))
    image.save(tmp_path / "stripes.jpg")
    return tmp_path / "stripes.jpg"


def test_a_style_is_learned_from_a_dropped_picture_and_drawn_with(page, served, stripes, tmp_path):
    _, runs, queue = served
    open_tab(page, "Align")
    choose(page, "Metric", "The style of a picture")
    start(page, "Align")
    page.get_by_role("alert").filter(visible=True).first.wait_for()
    assert "drop the picture" in page.get_by_role("alert").filter(visible=True).first.inner_text()
    drop(page, stripes)
    fill(page, Prompts=PROMPTS, Iterations=1, Steps=2)
    more(page)
    fill(page, Batch=1, Strength=1, Strength_pictures=1, Validation=1, Held_out_seeds=1)
    run(page, "Align")
    job = queue.newest("stylize")
    result = json.loads((runs / job.name / "result.json").read_text())
    assert result["task"] == "stylize"
    # The picture was written anew within the runs folder.
    assert any("--style=" in word and str(runs) in word for word in job.arguments)
    # Drawn with what was learned, at two strengths: 0 is the untouched model.
    fill(page, Prompt_to_draw="a noto emoji of a cat", How_many=1, Sampler_steps=2)
    drawn = []
    for scale in (0, 2):
        page.get_by_label("number input for Scale of the LoRA").filter(visible=True).fill(
            str(scale)
        )
        page.keyboard.press("Tab")
        run(page, "Draw", place=1)
        job = queue.newest("generate")
        assert f"--strength={scale}" in job.arguments
        assert any(word.startswith("--learned=") for word in job.arguments)
        (picture,) = (runs / job.name).glob("*.png")
        drawn.append(picture.read_bytes())
    assert drawn[0] != drawn[1]
    # The file of the page loads in stock diffusers.
    button = page.get_by_role("button", name="Download pytorch_lora_weights").filter(visible=True)
    with page.expect_download() as waiting:
        button.click()
    path = tmp_path / waiting.value.suggested_filename
    waiting.value.save_as(path)
    from diffusers import StableDiffusionPipeline

    from adjointdpm.pipelines.loading import BUNDLED

    pipe = StableDiffusionPipeline.from_pretrained(BUNDLED["tiny"], safety_checker=None)
    pipe.load_lora_weights(str(path.parent), weight_name=path.name)
    assert pipe.get_active_adapters()


def test_a_picture_to_be_like_guides_from_a_dropped_file(page, served, stripes):
    _, runs, queue = served
    choose(page, "Metric", "Like a picture")
    drop(page, stripes)
    fill(page, Prompt="a noto emoji of a cat", Steps=2)
    more(page)
    fill(page, Iterations=2, Lr=0.3)
    run(page)
    result = json.loads((runs / queue.newest("guide").name / "result.json").read_text())
    assert result["metric"]["name"].startswith("reference:")
    assert result["metric"]["after"] < result["metric"]["before"]


def test_what_is_no_picture_shows_its_sentence(page, tmp_path):
    path = tmp_path / "a.png"
    path.write_text("<svg onload=alert(1)>")
    choose(page, "Metric", "Like a picture")
    page.locator("input[type=file]").first.set_input_files(str(path))
    page.wait_for_timeout(1500)
    start(page)
    said = page.get_by_role("alert").filter(visible=True).first
    said.wait_for()
    assert "picture" in said.inner_text()
    assert "Traceback" not in page.content()
