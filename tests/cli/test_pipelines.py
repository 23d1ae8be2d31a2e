"""The command line on pipelines of any class: their own arguments, variants, what they read."""

import json
import re
from pathlib import Path

import pytest
import yaml
from PIL import Image

from adjointdpm.pipelines import description
from benchmarks.pipelines.cases import build
from helpers.commands import run

SHORT = ("--steps", 2, "--iterations", 2, "--tracker", "none", "--device", "cpu")
SIZE = ("--pipeline-arg", "height=16", "--pipeline-arg", "width=16")
METRIC = (
    "def score(images, prompts):\n"
    "    assert len(images) == len(prompts)\n"
    "    return (images[:, 2] - images[:, 0]).mean((1, 2))\n"
)


@pytest.fixture
def there(tmp_path, monkeypatch) -> Path:
    """The working directory, with a metric of two arguments."""
    monkeypatch.chdir(tmp_path)
    Path("metric.py").write_text(METRIC)
    Path("prompts.txt").write_text("red fox\nfox\na owl\nred\n")
    return tmp_path


def test_guide_on_sdxl_with_a_users_metric(there, monkeypatch, capsys) -> None:
    build("StableDiffusionXLPipeline").save_pretrained("sdxl")
    flags = ("--model", "sdxl", "--prompt", "red fox", "--metric", "metric.py:score")
    code, out, err = run(monkeypatch, capsys, "guide", *flags, *SHORT, "--out", "run")
    assert (code, "Learned" in out) == (0, True), err
    assert Path("run/report.html").is_file()
    assert json.loads(Path("run/result.json").read_text())["network_calls"] > 0


def test_arguments_of_the_pipeline_are_kept_repeated_and_read_from_a_config(
    there, monkeypatch, capsys
) -> None:
    build("FluxPipeline").save_pretrained("flux")
    flags = ("--model", "flux", "--prompt", "red fox", "--metric", "metric.py:score", *SHORT)
    more = (*SIZE, "--pipeline-arg", "max_sequence_length=8", "--learn", "embedding")
    code, _, err = run(monkeypatch, capsys, "guide", *flags, *more, "--out", "run")
    assert code == 0, err
    result = json.loads(Path("run/result.json").read_text())
    assert "height=16" in result["command"]
    assert "height=16, width=16" in result["story"]["code"][-1]
    kept = yaml.safe_load(Path("run/config.yaml").read_text())
    assert kept["pipeline_arg"] == ["height=16", "width=16", "max_sequence_length=8"]
    assert Image.open("run/" + result["pictures"][0]["after"]).size == (16, 16)
    kept["pipeline_arg"] = {"height": 16, "width": 16, "max_sequence_length": 8}
    Path("again.yaml").write_text(yaml.safe_dump(kept))
    code, _, err = run(monkeypatch, capsys, "guide", "--config", "again.yaml", "--out", "again")
    assert code == 0, err
    again = json.loads(Path("again/result.json").read_text())
    assert again["held_out"]["after"] == result["held_out"]["after"]


def test_generate_takes_what_each_pipeline_reads(there, monkeypatch, capsys) -> None:
    for name in ("DDPMPipeline", "DiTPipeline", "AnimateDiffPipeline"):
        build(name).save_pretrained(name)
    short = ("--steps", 2, "--batch", 1, "--device", "cpu", "--out", "drawn")
    model = ("generate", "--model")
    code, out, err = run(monkeypatch, capsys, *model, "DDPMPipeline", *short)
    assert (code, out.strip()) == (0, "drawn/ddpmpipeline-0-0.png"), err
    code, out, err = run(monkeypatch, capsys, *model, "DiTPipeline", "3", *short)
    assert code == 0, err
    flags = (*model, "AnimateDiffPipeline", "red fox", *short, *SIZE)
    code, out, err = run(monkeypatch, capsys, *flags, "--pipeline-arg", "num_frames=2")
    assert code == 0, err
    assert Image.open(out.strip()).size == (32, 16)  # two frames side by side
    for flags, message in (
        (("DiTPipeline",), "DiTPipeline reads class labels: say what to draw"),
        (("DiTPipeline", "tench"), "has none called 'tench': a prompt is a number from 0 to"),
        (("DDPMPipeline", "a cat"), "DDPMPipeline takes no prompt"),
        (("DDPMPipeline", "--guidance-scale", 3), "DDPMPipeline takes no guidance_scale"),
        (("DDPMPipeline", "--pipeline-arg", "etta=1"), "takes no argument 'etta'"),
    ):
        code, _, err = run(monkeypatch, capsys, *model, *flags, *short, "--force")
        assert (code, message in err) == (2, True), err


def test_inspect_prints_tables_and_json(there, monkeypatch, capsys) -> None:
    build("StableDiffusionXLPipeline").save_pretrained("sdxl", variant="fp16")
    code, out, err = run(monkeypatch, capsys, "inspect", "sdxl", "--variant", "fp16", "--json")
    assert code == 0, err
    facts = json.loads(out)
    assert (facts["class"], facts["reads"]) == ("StableDiffusionXLPipeline", "text")
    assert facts["noise"] == [1, 4, 8, 8]
    assert facts["networks"]["unet"]["dtypes"] == ["float32"]
    assert facts["arguments"]["guidance_scale"] == "5.0"
    assert facts["supports"]["artefacts"]["LoRA"] is True
    code, out, _ = run(monkeypatch, capsys, "inspect", "sdxl", "--variant", "fp16")
    assert (code, "UNet2DConditionModel" in out) == (0, True)
    code, _, err = run(monkeypatch, capsys, "inspect", "sdxl")
    assert (code, "--variant fp16" in err) == (2, True)


@pytest.mark.parametrize("flag", [(), ("--json",)])
def test_inspect_prints_no_terminal_escapes(there, monkeypatch, capsys, flag) -> None:
    folder = "m\x1b]0;title\x07\x1b[31m"
    build("StableDiffusionXLPipeline").save_pretrained(folder)
    facts = {"noise": "\x1b[2J[red]none", "scheduler": "\x1b[31mX"}
    describe = description.describe
    monkeypatch.setattr(description, "describe", lambda *a, **k: describe(*a, **k) | facts)
    code, out, err = run(monkeypatch, capsys, "inspect", folder, *flag)
    assert code == 0, err
    assert "\x1b" not in out + err
    assert "\x07" not in out + err
    assert "[red]none" in out


@pytest.mark.filterwarnings("always::adjointdpm.errors.CutPromptWarning")
def test_a_prompt_that_is_cut_off_is_said_once(there, monkeypatch, capsys) -> None:
    build("ZImagePipeline").save_pretrained("z")
    flags = ("--model", "z", *SIZE, "--pipeline-arg", "max_sequence_length=8")
    prompt = "red fox owl a red fox owl a red blurry owl"
    short = ("--steps", 2, "--batch", 2, "--device", "cpu", "--out", "drawn")
    code, _, err = run(monkeypatch, capsys, "generate", prompt, *flags, *short)
    assert code == 0, err
    assert err.count("tokens long") == 1
    said = " ".join(err.split())
    assert re.search(r"is \d+ tokens long, and the pipeline's tokenizer reads 8; cut off: '", said)
    assert "red blurry owl" in said.partition("cut off")[2]


def test_embed_is_refused_where_nothing_reads_text(there, monkeypatch, capsys) -> None:
    build("DDPMPipeline").save_pretrained("ddpm")
    flags = ("--model", "ddpm", "--prompts", "prompts.txt", "--metric", "metric.py:score")
    code, _, err = run(monkeypatch, capsys, "embed", *flags, "--token", "<t>", *SHORT)
    assert (code, "this DDPMPipeline has none" in err) == (2, True), err


def test_a_sampler_that_the_pipeline_cannot_take_is_refused_before_a_picture(
    there, monkeypatch, capsys
) -> None:
    build("ZImagePipeline").save_pretrained("z")
    flags = ("--model", "z", "--prompt", "red fox", "--metric", "metric.py:score", *SIZE, *SHORT)
    code, _, err = run(monkeypatch, capsys, "guide", *flags, "--sampler", "heun", "--out", "run")
    assert (code, "error" in err) == (2, True), err
    assert not list(Path("run").glob("images/*"))
