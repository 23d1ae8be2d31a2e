"""The tasks on every family: what they leave draws the same picture in a fresh stock pipeline."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import adjointdpm as adj
from adjointdpm.engine.stats import stats
from adjointdpm.metrics.base import FunctionMetric
from adjointdpm.pipelines.arguments.stock_latents import stock_latents
from adjointdpm.pipelines.own_call.pipeline_call import call_parameters
from adjointdpm.runs.folder import RunFolder
from adjointdpm.runs.report import write_report
from adjointdpm.support.picture_files import read_picture
from adjointdpm.tasks import align as align_module
from adjointdpm.tasks import embed as embed_module
from adjointdpm.tasks.audit.config import AuditConfig
from adjointdpm.tasks.audit.noise_file import read_findings, replay
from adjointdpm.tasks.audit.task import audit
from adjointdpm.tasks.audit.victims import Victim
from adjointdpm.tasks.embed import EmbedConfig, embed
from adjointdpm.tasks.guide import guide
from adjointdpm.tasks.guide_config import GuideConfig
from adjointdpm.tasks.learning import renderer
from adjointdpm.tasks.stylize import StylizeConfig, stylize
from benchmarks.pipelines.cases import CASES, build

FAMILIES = (
    "StableDiffusionPipeline",
    "StableDiffusionXLPipeline",
    "StableDiffusion3Pipeline",
    "FluxPipeline",
    "Flux2KleinPipeline",
    "QwenImagePipeline",
    "SanaPipeline",
    "PixArtSigmaPipeline",
    "ZImagePipeline",
    "DiTPipeline",
    "DDPMPipeline",
)
WITHOUT_TEXT = ("DiTPipeline", "DDPMPipeline")
BOTH = [(name, False) for name in FAMILIES] + [
    (name, True) for name in ("StableDiffusionXLPipeline", "FluxPipeline", "DDPMPipeline")
]
SAID = ("prompt", "class_labels", "batch_size", "num_inference_steps", "guidance_scale")
SHORT: dict[str, Any] = {
    "steps": 2,
    "iterations": 2,
    "lr": 0.02,
    "validate_every": 1,
    "tracker": ["none"],
}
LEARNING: dict[str, Any] = SHORT | {"batch": 1, "validation": 1, "preservation": 0, "lr": 2e-3}


def darkness(images: Tensor, prompts: list[str]) -> Tensor:
    """Lower is better: redder, less blue; each prompt's pictures weigh the same."""
    assert len(prompts) == len(images)
    assert all(isinstance(prompt, str) for prompt in prompts)
    return (images[:, 2] - images[:, 0]).mean((1, 2)) + images.square().mean((1, 2, 3))


METRIC = FunctionMetric(darkness, "darkness")


def arguments(name: str) -> dict[str, Any]:
    """What the case says besides prompts and settings of the tasks."""
    given = {key: value for key, value in CASES[name].arguments.items() if key not in SAID}
    return {key: value[0] if key == "negative_prompt" else value for key, value in given.items()}


def prompts(name: str) -> list[str]:
    return ["3", "1", "2"] if name == "DiTPipeline" else ["red fox", "a owl", "fox"]


class Stock:
    """A stock pipeline that the lines of a report can call; it keeps what it drew, unrounded."""

    def __init__(self, pipe: Any, **more: Any) -> None:
        self.pipe, self.more = pipe, more

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        with torch.no_grad():
            return self.pipe(*args, **kwargs, **self.more, output_type="pt", return_dict=False)[0]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.pipe, name)


def run_lines(lines: list[str], folder: Path, monkeypatch: Any, **names: Any) -> dict[str, Any]:
    """What the lines leave behind, run in the folder; the last value is called `drawn`."""
    monkeypatch.chdir(folder)
    *first, last = lines
    exec("\n".join([*first, f"drawn = {last}" if last[0] != " " else last]), names)
    return names


def opened(folder: Path, task: str) -> RunFolder:
    return RunFolder.open(folder / "run", {"task": task})


def saved_pictures(folder: RunFolder, result: dict[str, Any], view: str) -> Tensor:
    return torch.stack([read_picture(folder.path / row[view]) for row in result["pictures"]])


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("learn", ["noise", "embedding"])
def test_guide_saves_what_the_lines_of_its_report_draw_again(
    name: str, learn: str, tmp_path, monkeypatch
) -> None:
    if learn == "embedding" and name in WITHOUT_TEXT:
        pytest.skip("no text encoder")
    model, count = adj.from_pipeline(build(name)), 2
    config = GuideConfig(
        metric=["color:mood=dusk"],
        prompt=prompts(name)[0],
        pictures=count,
        learn=learn,
        pipeline_arg=arguments(name),
        **SHORT | ({"lr": 2e-3, "preservation": 0} if learn == "embedding" else {}),
    )
    folder = opened(tmp_path, "guide")
    result = guide(model, config, folder, metric=METRIC)
    assert result["held_out"]["before"] != result["held_out"]["after"]
    write_report(folder)
    pipe = build(name)
    if learn == "embedding":  # the lines draw with noise of their own: give them the run's
        examples = config.sets().held_out
        noise = torch.cat([renderer(model, config).noise_of(example) for example in examples])
        given = {"prompt": [config.prompt] * count, "num_inference_steps": 2} | arguments(name)
        given |= {"negative_prompt": ["blurry"] * count} if "negative_prompt" in given else {}
        pipe = Stock(pipe, latents=stock_latents(build(name), noise, given))
    elif "latents" in call_parameters(pipe):
        pipe = Stock(pipe)
    else:
        assert "this library" in result["story"]["use"]
    names = run_lines(result["story"]["code"], folder.path, monkeypatch, pipe=pipe)
    drawn = names["images" if name in WITHOUT_TEXT else "drawn"].clamp(0, 1)
    assert (drawn - saved_pictures(folder, result, "after")).abs().max() < 0.6 / 255


def stock_call(name: str, pipe: Any, prompt: str, noise: Tensor, given: dict[str, Any]) -> Tensor:
    """What a stock pipeline draws from noise, unrounded; by this library where it takes none."""
    own = arguments(name) | given
    if "latents" not in call_parameters(pipe):
        asked = None if name == "DDPMPipeline" else prompt
        with torch.no_grad():
            return adj.from_pipeline(pipe).generate(asked, noise, steps=2, seeds=[0])
    asked = {"prompt": [prompt], "num_inference_steps": 2} | own
    latents = stock_latents(pipe, noise, asked)
    own["generator"] = [torch.Generator().manual_seed(0)]
    return Stock(pipe, latents=latents)(prompt=prompt, num_inference_steps=2, **own)


@pytest.mark.parametrize(("name", "full"), BOTH)
def test_stylize_leaves_what_a_fresh_stock_pipeline_draws_the_same_picture_with(
    name: str, full: bool, tmp_path, monkeypatch
) -> None:
    kind = "Weights" if full else "LoRA"
    made = []
    cls = getattr(align_module, kind)
    monkeypatch.setattr(align_module, kind, lambda *a, **k: made.append(cls(*a, **k)) or made[0])
    model = adj.from_pipeline(build(name))
    texts = prompts(name)
    config = StylizeConfig(
        style="style.png",
        prompts=texts[:2],
        held_out=texts[2:],
        full=full,
        pipeline_arg=arguments(name),
        seed=2,  # networks with random weights need not gain on other pictures than they learn from
        **LEARNING,
    )
    folder = opened(tmp_path, "stylize")
    result = stylize(model, config, folder, metric=METRIC)
    write_report(folder)
    assert result["held_out"]["before"] != result["held_out"]["after"]
    render = renderer(model, config)
    example = config.sets().held_out[0]
    with made[0] as variable, torch.no_grad():
        noise = render.noise_of(example)
        expected = model.generate(
            None if name == "DDPMPipeline" else example.prompt,
            noise,
            steps=2,
            generator=[torch.Generator().manual_seed(0)],
            **render.arguments,
        ).clamp(0, 1)
        assert variable.tensors()
    *lines, last = result["story"]["code"]
    names = run_lines([*lines, "None"], folder.path, monkeypatch, pipe=build(name))
    drawn = stock_call(name, names["pipe"], example.prompt, noise, {}).clamp(0, 1)
    assert (drawn - expected).abs().max() < 1e-5
    assert last.startswith("pipe(")


@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in WITHOUT_TEXT])
def test_embed_leaves_a_token_that_a_fresh_stock_pipeline_draws_the_same_picture_with(
    name: str, tmp_path, monkeypatch
) -> None:
    made = []
    cls = embed_module.TokenEmbedding
    keep = lambda *a, **k: made.append(cls(*a, **k)) or made[0]  # noqa: E731
    monkeypatch.setattr(embed_module, "TokenEmbedding", keep)
    monkeypatch.setattr(keep, "artefacts", cls.artefacts, raising=False)
    model = adj.from_pipeline(build(name))
    config = EmbedConfig(
        metric=["color:mood=dusk"],
        token="<new>",
        template="{prompt} {token}",
        prompts=["red fox", "fox"],
        held_out=["red"],
        pipeline_arg=arguments(name),
        **LEARNING | {"lr": 0.05},
    )
    folder = opened(tmp_path, "embed")
    result = embed(model, config, folder, metric=METRIC)
    write_report(folder)
    render, example = renderer(model, config), config.sets().held_out[0]
    noise, seed = render.noise_of(example), [torch.Generator().manual_seed(0)]
    given = {"steps": 2, "generator": seed, **render.arguments}
    with torch.no_grad():
        plain = model.generate(example.prompt, noise, **given).clamp(0, 1)
        seed[0].manual_seed(0)
        with made[0] as token:
            prompt = token.written(example.prompt)
            expected = model.generate(prompt, noise, **given).clamp(0, 1)
    assert (expected - plain).abs().max() > 1e-5
    *lines, last = result["story"]["code"]
    assert repr(prompt) in last
    stock = build(name)
    for part in [part for part in stock.components if part.startswith("tokenizer")]:
        # The registry has one CLIP tokenizer for all, and loading a token changes it.
        setattr(stock, part, copy.deepcopy(getattr(stock, part)))
    names = run_lines([*lines, "None"], folder.path, monkeypatch, pipe=stock)
    drawn = stock_call(name, names["pipe"], prompt, noise, {}).clamp(0, 1)
    assert (drawn - expected).abs().max() < 1e-5


class Blue(nn.Module):
    """Tells bluish pictures from others."""

    def forward(self, images: Tensor) -> Tensor:
        blue = (images[:, 2] - images[:, 0]).mean((1, 2))
        return torch.stack([-blue, blue], 1)


@pytest.mark.parametrize("name", FAMILIES)
def test_audit_finds_noise_that_its_file_replays(name: str, tmp_path, monkeypatch) -> None:
    texts = prompts(name)[:2]
    with torch.no_grad():
        model = adj.from_pipeline(build(name))
        given = arguments(name)
        asked = None if name == "DDPMPipeline" else texts
        seen = model.generate(asked, model.noise(2, 0, **given), steps=2, **given)
    scores = Blue()(seen)
    victim = Victim("blue", Blue(), [texts[0], "something else"], [(0,), (1,)], 0.0)
    assert scores.isfinite().all()
    monkeypatch.setattr(Victim, "label", lambda self, prompt: int(scores[0].argmax()))
    config = AuditConfig(
        victim="blue.py:build",
        prompts=texts[:1],
        budget=[5.0],
        clean_seeds=3,
        least_right=0.3,
        steps=2,
        iterations=2,
        pipeline_arg=given,
    )
    folder = opened(tmp_path, "audit")
    result = audit(model, config, folder, victim=victim)
    write_report(folder)
    found = read_findings(folder.path / result["artefact"])
    assert found.noise.shape[1:] == model.noise(1, 0, **given).shape[1:]
    assert (found.noise != found.start).any()
    monkeypatch.setattr("adjointdpm.tasks.audit.noise_file.load_victim", lambda *a: victim)
    rows = replay(adj.from_pipeline(build(name)), found, "blue.py:build")
    assert [row["now"] for row in rows] == [row["was"] for row in rows]
    assert json.loads(json.dumps(result))["config"]["pipeline_arg"] == json.loads(json.dumps(given))


def flicker(videos: Tensor) -> Tensor:
    """Lower is better: less change from frame to frame."""
    return videos.diff(dim=1).square().mean((1, 2, 3, 4))


def guide_of(name: str, folder: RunFolder, metric: FunctionMetric) -> dict[str, Any]:
    """A short run of guide on a pipeline, with the arguments of its case."""
    config = GuideConfig(
        metric=["color:mood=dusk"], prompt="red fox", pipeline_arg=arguments(name), **SHORT
    )
    return guide(adj.from_pipeline(build(name)), config, folder, metric=metric)


def test_a_video_is_guided_by_a_metric_of_videos_and_shown_as_frames(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(flicker, "takes_videos", True, raising=False)
    folder = opened(tmp_path, "guide")
    result = guide_of("AnimateDiffPipeline", folder, FunctionMetric(flicker, "flicker"))
    write_report(folder)
    assert result["held_out"]["after"] < result["held_out"]["before"]
    shown = read_picture(folder.path / result["pictures"][0]["after"])
    frames = CASES["AnimateDiffPipeline"].arguments["num_frames"]
    assert shown.shape == (3, 16, 16 * frames)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("AnimateDiffPipeline", "scores pictures .*, not videos"),
        ("StableAudioPipeline", "neither pictures .* nor videos"),
    ],
)
def test_what_a_metric_of_pictures_cannot_score_is_refused_before_anything_is_learned(
    name: str, message: str, tmp_path
) -> None:
    folder = opened(tmp_path, "guide")
    with pytest.raises(adj.errors.MetricError, match=message):
        guide_of(name, folder, METRIC)
    assert not (folder.path / "history.jsonl").exists()


def test_an_audit_of_videos_is_refused(tmp_path) -> None:
    name = "AnimateDiffPipeline"
    config = AuditConfig(
        victim="blue.py:build", prompts=["red fox"], steps=2, pipeline_arg=arguments(name)
    )
    victim = Victim("blue", Blue(), ["red fox", "something else"], [(0,), (1,)], 0.0)
    model = adj.from_pipeline(build(name))
    with pytest.raises(adj.errors.UnsupportedError, match="looks at pictures"):
        audit(model, config, opened(tmp_path, "audit"), victim=victim)


@pytest.mark.parametrize("gradient", ["exact", "backprop"])
def test_calls_and_backward_passes_of_a_pipelines_networks_are_counted(gradient: str) -> None:
    pipe, called = build("FluxPipeline"), []
    pipe.transformer.register_forward_hook(lambda *_: called.append(1))
    model, given = adj.from_pipeline(pipe), arguments("FluxPipeline")
    noise = model.noise(1, 0, **given).requires_grad_()
    with stats() as counts:
        model.generate("fox", noise, steps=3, gradient=gradient, **given).sum().backward()
    assert counts.network_calls == len(called) == (6 if gradient == "exact" else 3)
    assert counts.vjps == 3
