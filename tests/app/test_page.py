"""The page in a real browser, with the bundled model."""

import json
import time
from pathlib import Path

import pytest
from PIL import Image, ImageChops

from helpers.page_steps import TABS, fill, more, open_tab, run, start, status

pytestmark = pytest.mark.slow


def test_a_guided_run_ends_with_another_picture_and_a_lower_metric(page, served):
    _, runs, queue = served
    time.sleep(1)
    fill(page, Prompt="a noto emoji of a cat", Steps=4)
    more(page)
    fill(page, Iterations=3, Lr=0.3)
    start(page)
    asked = time.monotonic()
    page.locator(".adp-pair img").first.wait_for()
    # 3 s on two idle cores; tests share theirs.
    assert time.monotonic() - asked < 60
    text = status(page, "is done", "error")
    assert "is done" in text
    (job,) = queue.jobs()
    folder = runs / job.name
    result = json.loads((folder / "result.json").read_text())
    assert result["metric"]["after"] < result["metric"]["before"]
    with (
        Image.open(folder / "images" / "untouched_00.png") as before,
        Image.open(folder / "images" / "iteration_0003.png") as after,
    ):
        assert ImageChops.difference(before, after).getbbox() is not None
    shown = page.locator(".adp-pair img")
    assert shown.nth(0).get_attribute("src") != shown.nth(1).get_attribute("src")
    assert page.locator(".adp-strip img").count() == 4
    assert page.locator(".adp-curve svg").count() == 1
    command = page.locator(".adp-command").filter(visible=True).first.inner_text()
    assert command.startswith("adjointdpm guide ")
    # Any state can be kept: its picture and its noise.
    keep = page.get_by_role("button", name="Keep this state")
    page.wait_for_timeout(1500)
    with page.expect_download() as waiting:
        keep.click()
    assert waiting.value.suggested_filename.endswith(".zip")


def test_stop_stops_and_go_on_goes_on_also_after_the_page_was_closed(page, served, browser):
    _, runs, queue = served
    fill(page, Prompt="a noto emoji of an owl", Steps=4)
    more(page)
    fill(page, Iterations=300)
    start(page)
    status(page, "iteration 1 ", "iteration 2 ")
    page.get_by_role("button", name="Stop", exact=True).filter(visible=True).focus()
    page.keyboard.press("Enter")
    assert "was stopped" in status(page, "was stopped", "error", "is done")
    job = queue.newest("guide")
    done = len((runs / job.name / "history.jsonl").read_text().splitlines())
    page.get_by_role("button", name="Go on").filter(visible=True).click()
    status(page, "of 300")
    page.context.close()  # the run goes on without anybody who looks
    end = time.monotonic() + 120
    while len((runs / job.name / "history.jsonl").read_text().splitlines()) < done + 2:
        assert time.monotonic() < end
        time.sleep(0.3)
    again = browser.new_page()
    again.goto(served[0])
    again.locator(".adp-status").first.wait_for()
    assert job.name in again.locator(".adp-status").first.inner_text()
    queue.stop(job.name)
    assert "was stopped" in status(again, "was stopped")
    again.close()


def test_a_bad_prompt_shows_its_sentence(page):
    fill(page, Prompt=" ")
    start(page)
    said = page.get_by_role("alert").filter(visible=True).first
    said.wait_for()
    assert "the prompt must be one line of text" in said.inner_text()


def test_a_metric_that_raises_shows_its_sentence(page):
    fill(page, Prompt="a noto emoji of a dog", Steps=4)
    page.get_by_label("Metric").filter(visible=True).first.click()
    page.get_by_role("option", name="raises.py:score").click()
    start(page)
    said = page.locator(".adp-problem").filter(visible=True).first
    said.wait_for()
    assert "the scale is broken" in said.inner_text()
    assert "Traceback" not in page.content()


def test_a_learned_word_loads_in_stock_diffusers(page, served, tmp_path: Path):
    open_tab(page, "A word")
    start(page, "Draw")
    said = page.get_by_role("alert").filter(visible=True).first
    said.wait_for()
    assert "no run yet" in said.inner_text()
    fill(page, Prompts="a noto emoji of a cat\na noto emoji of a dog\na noto emoji of an owl")
    fill(page, Token="<dusk>", Iterations=1, Steps=2)
    more(page)
    fill(page, Initial="blue", Template="{token} {prompt}", Validation=1)
    run(page, "Learn the word")
    fill(page, Prompt_to_draw="<dusk> a noto emoji of a lemon", How_many=2, Sampler_steps=2)
    run(page, "Draw", place=1)
    page.get_by_role("img", name="<dusk> a noto emoji of a lemon, 1").wait_for()
    with page.expect_download() as waiting:
        page.get_by_role("button", name="Download learned_embeds").click()
    path = tmp_path / "learned_embeds.safetensors"
    waiting.value.save_as(path)
    assert "load_textual_inversion" in page.locator(".cm-content").filter(visible=True).inner_text()

    from diffusers import StableDiffusionPipeline

    from adjointdpm.pipelines.loading import BUNDLED

    pipe = StableDiffusionPipeline.from_pretrained(BUNDLED["tiny"], safety_checker=None)
    pipe.load_textual_inversion(str(path), token="<dusk>")
    assert "<dusk>" in pipe.tokenizer.get_vocab()


def test_every_tab_opens_and_gradients_are_shown(page):
    for name in TABS:
        open_tab(page, name)
    open_tab(page, "Gradient")
    fill(page, Steps=3)
    start(page, "Differentiate")
    assert "is done" in status(page, "is done", "error")
    page.locator(".adp-table").filter(visible=True).first.wait_for()
    page.wait_for_timeout(1000)
    text = page.locator(".adp-table").filter(visible=True).first.inner_text()
    assert "exact" in text
    assert "adjoint" in text
    # A large error is explained where it stands.
    panel = page.get_by_role("tabpanel").filter(visible=True)
    assert "solves the states back" in panel.inner_text()
