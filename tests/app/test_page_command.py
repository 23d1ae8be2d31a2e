"""`adjointdpm app` as a command: models of one's own, and a password off this machine."""

import json

import pytest
import torch

import adjointdpm as adj
from adjointdpm.app.job_queue import JobQueue
from helpers.page_steps import TABS, fill, more, open_tab, run, served_by_command, start

pytestmark = pytest.mark.slow


@pytest.fixture
def opened(browser):
    """Opens a URL; the page's errors end up in a list."""
    contexts = []

    def at(url):
        context = browser.new_context(viewport={"width": 1280, "height": 800})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(45_000)
        page.goto(url)
        return page

    yield at
    for context in contexts:
        context.close()


def tabs(page) -> list[str]:
    page.get_by_role("button", name="Run", exact=True).wait_for()
    return [text.strip() for text in page.get_by_role("tab").filter(visible=True).all_inner_texts()]


def test_a_saved_pipeline_is_drawn_with_and_guided(opened, tmp_path):
    folder, runs = tmp_path / "own", tmp_path / "runs"
    adj.load("tiny").pipe.save_pretrained(folder)
    with served_by_command(runs, f"--model={folder}") as (url, _):
        page = opened(url)
        assert tabs(page) == list(TABS)
        fill(page, Prompt="a noto emoji of a cat", Steps=2)
        more(page)
        fill(page, Iterations=1, Lr=0.3)
        run(page)
        job = JobQueue(runs).newest("guide")
        assert f"--model={folder}" in job.arguments
        result = json.loads((runs / job.name / "result.json").read_text())
        assert result["metric"]["after"] < result["metric"]["before"]


def test_a_model_that_reads_nothing_is_offered_what_it_supports(opened, tmp_path):
    from diffusers import DDIMPipeline, DDIMScheduler, UNet2DModel

    torch.manual_seed(0)
    network = UNet2DModel(
        sample_size=16,
        layers_per_block=1,
        block_out_channels=(32, 32),
        norm_num_groups=8,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )
    folder, runs = tmp_path / "plain", tmp_path / "runs"
    DDIMPipeline(network, DDIMScheduler()).save_pretrained(folder)
    with served_by_command(runs, f"--model={folder}") as (url, _):
        page = opened(url)
        assert tabs(page) == [name for name in TABS if name not in ("A word", "Align")]
        more(page)
        panel = page.get_by_role("tabpanel").filter(visible=True)
        assert "metrics see it" in panel.inner_text()
        assert panel.get_by_label("Guidance scale").count() == 0
        page.get_by_label("Learn", exact=True).click()
        (only,) = page.get_by_role("option").filter(visible=True).all_inner_texts()
        assert "noise" in only
        page.keyboard.press("Escape")
        page.get_by_label("Gradient", exact=True).click()
        assert not any("adjoint" in text for text in page.get_by_role("option").all_inner_texts())
        page.keyboard.press("Escape")
        fill(page, Steps=2, Iterations=1)
        run(page)
        open_tab(page, "Gradient")
        fill(page, Steps=2)
        run(page, "Differentiate")
        open_tab(page, "Generate")
        assert page.get_by_label("Prompt to draw").filter(visible=True).count() == 0
        fill(page, How_many=1, Sampler_steps=2)
        run(page, "Draw")
        assert len(list((runs / JobQueue(runs).newest("generate").name).glob("*.png"))) == 1


def log_in(page, password: str) -> None:
    page.get_by_label("username").fill("adjointdpm")
    page.get_by_label("password").fill(password)
    page.get_by_role("button", name="Login").click()


def test_off_this_machine_the_page_asks_for_its_password(opened, tmp_path):
    words = ("--host=0.0.0.0", "--password=correct horse")
    with served_by_command(tmp_path / "runs", *words) as (url, printed):
        assert "correct horse" not in "".join(printed)
        page = opened(url)
        log_in(page, "wrong horse")
        page.get_by_text("Incorrect").first.wait_for()
        assert page.get_by_role("button", name="Run", exact=True).count() == 0
        # Nothing of the page is given without it.
        for path in ("config", "gradio_api/info", "gradio_api/queue/data?session_hash=a"):
            assert page.request.get(f"{url}{path}").status == 401, path
        assert page.request.post(f"{url}gradio_api/queue/join", data={}).status == 401
        assert page.request.post(f"{url}gradio_api/upload").status == 401
        assert "The user is adjointdpm" in page.content()
        log_in(page, "correct horse")
        page.get_by_role("button", name="Run", exact=True).wait_for()
        fill(page, Prompt=" ")
        start(page)
        page.get_by_role("alert").filter(visible=True).first.wait_for()


def test_a_password_is_made_where_none_is_given(tmp_path):
    with served_by_command(tmp_path / "runs", "--host=0.0.0.0") as (_, printed):
        (line,) = [line for line in printed if line.startswith("User adjointdpm")]
        assert len(line.split()[-1]) >= 12
