"""align on a tiny pipeline: its guards, its strength, and what stock diffusers draws with it."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from adjointdpm import errors
from adjointdpm.metrics import FunctionMetric, TextSimilarity, resolve
from adjointdpm.metrics.base import Metric
from adjointdpm.optimization.guard import Guard
from adjointdpm.optimization.renderer import Renderer
from adjointdpm.pipelines import from_pipeline
from adjointdpm.runs.folder import RunFolder
from adjointdpm.runs.report import write_report
from adjointdpm.support.picture_files import read_picture
from adjointdpm.tasks.align import AlignConfig, align
from adjointdpm.tasks.config import settings_of
from adjointdpm.tasks.evaluation import evaluate
from adjointdpm.tasks.strength import FURTHER, STRENGTHS, settle_strength
from adjointdpm.tasks.stylize import StylizeConfig
from adjointdpm.variables import Example, LoRA, Weights
from helpers.tiny_pipelines import tiny_pipeline

PROMPTS = ["red fox", "fox", "red", "fo re"]
SHORT: dict[str, Any] = {
    "prompts": PROMPTS,
    "steps": 2,
    "guidance_scale": 2.0,
    "iterations": 2,
    "validate_every": 1,
    "validation": 2,
    "strength_pictures": 4,
    "lr": 0.05,
    "kl": 0.0,
    "tracker": ["none"],
}


def red(images: Tensor) -> Tensor:
    """Lower is better: red."""
    return -images[:, 0].mean((1, 2))


def uneven(images: Tensor) -> Tensor:
    """Lower is better: channels that are alike."""
    return images.mean((2, 3)).std(1)


RED, UNEVEN = FunctionMetric(red, "red"), FunctionMetric(uneven, "uneven")


def run(folder: Path, name: str, recognise: Any = None, **changes: Any) -> tuple[Path, dict]:
    """A run on a new model: its folder and its result, as it was written."""
    given = SHORT | {"metric": ["color:mood=dusk"], "guard": "none"} | changes
    config = AlignConfig(**given)
    where = RunFolder.open(folder / name, {"task": "align"}, artefacts=config.artefacts)
    model = from_pipeline(tiny_pipeline(folder))
    align(model, config, where, metric=RED, recognise=recognise)
    write_report(where)
    return where.path, json.loads((where.path / "result.json").read_text())


def drawn(folder: Path, pipe: Any, row: dict[str, Any]) -> Tensor:
    """What a stock pipeline draws for a row of a result."""
    noise = from_pipeline(tiny_pipeline(folder)).noise(1, row["seed"])
    images = pipe(
        row["prompt"],
        latents=noise,
        num_inference_steps=2,
        guidance_scale=2.0,
        output_type="pt",
    ).images
    return images[0]


def test_a_strength_that_is_baked_in_is_the_adapter_at_that_strength(tmp_path) -> None:
    whole, _ = run(tmp_path, "whole", strength="1")
    half, result = run(tmp_path, "half", strength="0.5")
    assert result["strength"]["by"] == "you"
    assert [row["strength"] for row in result["strength"]["curve"]] == [0.0, 0.5]
    pipes = []
    for path, scale in ((whole, 0.5), (half, 1.0), (whole, 1.0)):
        pipe = tiny_pipeline(tmp_path)
        pipe.load_lora_weights(path, weight_name="pytorch_lora_weights.safetensors")
        pipe.set_adapters(pipe.get_active_adapters(), [scale])
        pipes.append(pipe)
    row = result["pictures"][0]
    scaled, baked, full = (drawn(tmp_path, pipe, row) for pipe in pipes)
    assert (scaled - baked).abs().max() < 1e-5
    assert (full - baked).abs().max() > 1e-3
    assert (baked - read_picture(half / row["after"])).abs().max() < 0.6 / 255


def test_weights_are_taken_in_part(tmp_path) -> None:
    whole, _ = run(tmp_path, "whole", full=True, lr=1e-3, strength="1")
    part, result = run(tmp_path, "part", full=True, lr=1e-3, strength="0.25")
    base = tiny_pipeline(tmp_path).unet.state_dict()
    one, some = (
        load_file(path / "unet" / "diffusion_pytorch_model.safetensors") for path in (whole, part)
    )
    assert any((one[name] - base[name]).abs().max() > 1e-4 for name in base)
    for name, start in base.items():
        assert torch.allclose(some[name], start + 0.25 * (one[name] - start), atol=1e-6)
    pipe = tiny_pipeline(tmp_path)
    pipe.unet = type(pipe.unet).from_pretrained(part / "unet")
    row = result["pictures"][0]
    picture = read_picture(part / row["after"])
    assert (drawn(tmp_path, pipe, row) - picture).abs().max() < 0.6 / 255


def test_the_result_holds_the_curve_the_diversity_and_the_guard(tmp_path) -> None:
    path, result = run(
        tmp_path, "run", guard="color:mood=dusk", guard_bound=1.0, metric=["red"], kl=0.01
    )
    found = result["strength"]
    assert [row["strength"] for row in found["curve"]] == [*STRENGTHS, *FURTHER][
        : len(found["curve"])
    ]
    assert len(found["curve"]) >= len(STRENGTHS)
    assert all(
        {"strength", "metric", "guard", "diversity", "kl"} == row.keys() for row in found["curve"]
    )
    first = found["curve"][0]
    assert first["diversity"] == 1
    assert first["kl"] == 0
    assert found["curve"][-1]["kl"] > 0
    assert found["guard_limit"] > first["guard"]
    kept = next(row for row in found["curve"] if row["strength"] == found["chosen"])
    assert kept["guard"] <= found["guard_limit"]
    assert result["held_out"]["diversity"] > 0
    assert result["held_out"]["examples"] == 16  # a prompt, as many seeds
    assert result["optimisation"]["settings"]["kl"] == 0.01
    report = (path / "report.html").read_text()
    assert "What it costs: the strength" in report
    assert f"{found['chosen']:g} (kept)" in report


@pytest.mark.parametrize("cls", [LoRA, Weights])
def test_the_guard_bounds_the_strength(cls, tmp_path) -> None:
    """The largest gain is at the largest strength, unless the guard is worse there."""
    model = from_pipeline(tiny_pipeline(tmp_path))
    examples = [Example(prompt, seed) for seed, prompt in enumerate(PROMPTS[:2] * 2)]
    variable, render = cls(model.pipe), Renderer(model, 2)
    with variable:
        source = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for tensor in variable.tensors().values():
                tensor += 0.05 * torch.randn(tensor.shape, generator=source)
        learned = {name: t.detach().clone() for name, t in variable.tensors().items()}
        with variable.disabled():
            plain = render.look(examples)

        def away(images: Tensor) -> Tensor:
            """How far pictures are from the untouched ones, negative: better the further."""
            return -(images - plain).square().mean((1, 2, 3))

        def changed(images: Tensor) -> Tensor:
            return -away(images)

        chosen = {}
        metric = FunctionMetric(away, "away")
        for bound in (1e9, None, 0.0):
            variable.load_tensors(learned)
            size = changed(render.look(examples, variable)).mean().item()
            guard = Guard(FunctionMetric(changed, "changed"), size / 2 if bound is None else bound)
            found = settle_strength(render, variable, metric, examples, guard)
            chosen[bound] = found["chosen"]
            more = {row["strength"] for row in found["curve"]} - {*STRENGTHS, *FURTHER}
            assert len(more) == (bound is None)
            expected = next(r for r in found["curve"] if r["strength"] == found["chosen"])
            now = render.score(metric, render.look(examples, variable), [""] * 4).mean().item()
            assert now == pytest.approx(expected["metric"], rel=1e-4, abs=1e-9)
        lenient = FunctionMetric(lambda images: images.new_zeros(len(images)), "lenient")
        variable.load_tensors(learned)
        finer = FunctionMetric(changed, "changed")
        found = settle_strength(
            render, variable, metric, examples, Guard(lenient, size / 2, finer=finer)
        )
        assert found["guard_name"] == "changed"
        assert found["chosen"] == chosen[None]
        assert chosen[1e9] == FURTHER[-1]
        assert 0 < chosen[None] < 1
        assert chosen[0.0] == 0
        variable.load_tensors(learned)
        assert settle_strength(render, variable, metric, examples, None)["chosen"] == 1


@pytest.mark.parametrize(
    ("lost", "aim", "chosen", "limit"),
    [
        ((0.0, 0.0, 0.08, 0.16), None, 0.75, 0.1),
        ((0.0, 0.0, 0.08, 0.16), 0.05, 0.5, 0.05),
        ((0.0, 0.08, 0.08, 0.16), 0.05, 0.75, 0.1),  # the aim would leave nothing
        ((0.08, 0.08, 0.08, 0.16), 0.05, 0.75, 0.05),
        ((0.0, 0.2, 0.3, 0.4), 0.05, 0.0, 0.1),
    ],
)
def test_the_strength_is_chosen_with_room_to_the_bound(lost, aim, chosen, limit) -> None:
    from adjointdpm.tasks.strength import _best

    curve = [
        {"strength": s, "metric": 1 - s, "guard": share, "guard_error": 0.0}
        for s, share in zip((0.0, 0.5, 0.75, 1.0), lost, strict=True)
    ]
    strength, guard = _best(curve, Guard(UNEVEN, 0.1, aim=aim))
    assert strength == chosen
    assert guard.bound == limit


def test_a_larger_strength_must_gain_something_by_it() -> None:
    from adjointdpm.tasks.strength import _best

    def chosen(*metric: float) -> float:
        curve = [
            {"strength": s, "metric": value, "guard": 0.0, "guard_error": 0.0}
            for s, value in zip((0.0, 0.5, 1.0, 1.25), metric, strict=True)
        ]
        return _best(curve, Guard(UNEVEN, 0.1))[0]

    assert chosen(1.0, 0.5, 0.12, 0.1) == 1.0
    assert chosen(1.0, 0.5, 0.2, 0.1) == 1.25
    assert chosen(-1.0, -0.9, -1.2, -1.1) == 1.0  # metrics may be negative
    assert chosen(1.0, 1.1, 1.2, 1.3) == 0.0


def test_where_every_strength_loses_too_much_the_least_is_lost() -> None:
    from adjointdpm.tasks.strength import _best

    curve = [
        {"strength": s, "metric": 1 - s, "guard": 0.5 - s / 4, "guard_error": 0.0}
        for s in (0.0, 0.5, 1.0)
    ]
    assert _best(curve, Guard(UNEVEN, 0.1, untouched=0.0, aim=0.05))[0] == 1.0


@pytest.mark.parametrize("strength", [0.0, 1.0])
def test_the_ends_of_the_scale_are_exact(strength: float, tmp_path) -> None:
    variable = Weights(from_pipeline(tiny_pipeline(tmp_path)).pipe)
    with variable:
        with torch.no_grad():
            for tensor in variable.tensors().values():
                tensor += 0.1 * torch.randn_like(tensor)
        wanted = variable.first_values() if strength == 0 else variable.tensors()
        found = variable.at_strength(strength)
        assert all(torch.equal(found[name], wanted[name]) for name in found)


def test_the_judge_is_the_guard_where_there_is_one(tmp_path) -> None:
    """A judge that finds nothing in what is learned leaves nothing of it."""
    asked: list[Tensor] = []

    def recognise(images: Tensor, prompts: Any) -> list[bool]:
        asked.append(images)
        assert images.amin() >= 0
        assert images.amax() <= 1
        return [bool((image - other).abs().max() < 1e-6) for image in images for other in [image]]

    _, result = run(tmp_path, "run", recognise, guard=None)
    assert "judge" in result["strength"]["guard_name"]
    assert result["strength"]["by"] == "guard"
    assert result["strength"]["guard_limit"] == pytest.approx(0.1)
    assert asked


def test_what_pleases_a_learned_network_without_a_guard_is_a_warning() -> None:
    class Reward(Metric):
        sign = -1

        def __call__(self, samples: Any, /, prompts: Any = None) -> Tensor:
            return -samples.mean((1, 2, 3))

    from adjointdpm.tasks.align import _warn_if_hackable

    with pytest.warns(errors.AdjointDPMWarning, match="--guard"):
        _warn_if_hackable(Reward())
    assert TextSimilarity.hackable
    assert not resolve("color:mood=dusk").hackable
    _warn_if_hackable(RED)  # warnings are errors in these tests


def test_without_a_guard_all_of_it_is_kept(tmp_path) -> None:
    _, result = run(tmp_path, "run")
    assert result["strength"]["by"] == "default"
    assert result["strength"]["chosen"] == 1
    assert "guard_name" not in result["strength"]


def test_diversity_is_that_of_a_prompts_pictures() -> None:
    source = torch.Generator().manual_seed(0)
    before = torch.rand(4, 3, 8, 8, generator=source)
    examples = [Example("a", 0), Example("a", 1), Example("b", 2), Example("b", 3)]
    gray = before.mean((1, 2, 3), keepdim=True)
    half = before * 0.5
    alike = before[[0, 0, 2, 2]]  # prompts still differ, a prompt's pictures do not
    for after, expected in ((half, 0.5), (alike, 0.0), (before + gray, 1.0)):
        found = evaluate(UNEVEN, examples, {"before": before, "after": after})
        assert found["diversity"] == pytest.approx(expected, abs=1e-5)
    assert evaluate(UNEVEN, examples, {"before": before, "after": alike})["distinctness"] > 0.5
    alone = [Example(name, 0) for name in "abcd"]
    assert "diversity" not in evaluate(UNEVEN, alone, {"before": before, "after": half})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"strength": "much"}, "strength"),
        ({"strength": "2.5"}, "strength"),
        ({"strength": "-0.1"}, "strength"),
        ({"strength": "nan"}, "strength"),
        ({"strength_pictures": 0}, "strength_pictures"),
        ({"guard": "color:mood=dusk"}, "optimised itself"),
        ({"guard": "none", "guard_bound": 0.1}, "guard_bound"),
        ({"guard_bound": -1.0}, "guard_bound"),
        ({"clip_reward": float("nan")}, "clip_reward"),
        ({"kl": -1.0}, "kl"),
        ({"full": True, "rank": 4}, "rank"),
        ({"prompts": ["fox"]}, "held_out"),
    ],
)
def test_bad_settings_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(errors.AdjointDPMError, match=message):
        AlignConfig(**SHORT | {"metric": ["color:mood=dusk"]} | changes)


def test_a_guard_by_another_name_that_is_optimised_is_refused() -> None:
    config = AlignConfig(**SHORT, metric=["mine"], guard="color:mood=dusk")
    with pytest.raises(errors.InvalidInputError, match="optimised itself"):
        config.resolve_guard(resolve("color:mood=dusk"), None)


def test_a_bound_without_a_guard_is_refused() -> None:
    config = AlignConfig(**SHORT, metric=["color:mood=dusk"], guard_bound=0.1)
    with pytest.raises(errors.InvalidInputError, match="there is none"):
        config.resolve_guard(RED, None)


def test_strength_is_chosen_on_pictures_of_its_own() -> None:
    config = AlignConfig(**SHORT, metric=["color:mood=dusk"])
    sets, own = config.sets(), config.strength_examples()
    seeds = {example.seed for part in sets for example in part}
    assert len(own) == 4
    assert not seeds & {example.seed for example in own}
    assert {example.prompt for example in own} <= set(config.prompts)
    assert len({example.prompt for example in own}) == 3  # and one of them twice


def test_stylize_is_align_with_a_style() -> None:
    assert issubclass(StylizeConfig, AlignConfig)
    style = StylizeConfig(style="style.png", prompts=PROMPTS)
    names = settings_of(style).keys() - settings_of(AlignConfig(**SHORT, metric=["a"])).keys()
    assert names == {"style"}
    assert StylizeConfig(style="a.png", prompts=PROMPTS, strength=0.5).wanted_strength == 0.5  # pyright: ignore[reportArgumentType]


def test_one_strength_more_is_tried_half_way_to_the_next_that_loses_too_much() -> None:
    from adjointdpm.tasks.strength import _half_way

    def between(*lost: float, aim: float | None = None) -> float | None:
        curve = [
            {"strength": s, "metric": 1 - s, "guard": share, "guard_error": 0.0}
            for s, share in zip((0.0, 0.5, 0.75, 1.0), lost, strict=True)
        ]
        return _half_way(curve, Guard(UNEVEN, 0.1, aim=aim))

    assert between(0.0, 0.0, 0.2, 0.3) == 0.625
    assert between(0.0, 0.0, 0.05, 0.3) == 0.875
    assert between(0.0, 0.0, 0.08, 0.3, aim=0.05) == 0.625
    assert between(0.0, 0.0, 0.0, 0.0) is None  # nothing larger was drawn
    assert between(0.0, 0.3, 0.3, 0.3) is None  # nothing is kept


def test_the_strength_is_chosen_on_as_many_prompts_as_can_be_and_some_have_two_pictures() -> None:
    def prompts(count: int, pictures: int) -> list[str]:
        names = [f"a {chr(97 + i)}" for i in range(count)]
        config = AlignConfig(
            prompts=names, held_out=["z"], metric=["color:mood=dusk"], strength_pictures=pictures
        )
        examples = config.strength_examples()
        assert len({example.seed for example in examples}) == pictures
        return [example.prompt for example in examples]

    many, few = prompts(26, 24), prompts(15, 24)
    assert (len(many), len(set(many)), len(set(few))) == (24, 18, 15)
    assert max(map(many.count, many)) == 2
    assert prompts(1, 1) == ["a a"]


def test_where_no_judge_knows_the_prompts_untouched_pictures_guard_the_content(tmp_path) -> None:
    _, result = run(tmp_path, "run", guard=None, prompts=PROMPTS[:2], held_out=PROMPTS[2:])
    found = result["strength"]
    assert found["by"] == "guard"
    assert "resemble" in found["guard_name"]
    assert found["curve"][0]["guard"] == 0  # untouched pictures resemble themselves
    assert result["held_out"]["resembling"]["before"] == 1
    assert "recognised" not in result["held_out"]
    _, unguarded = run(tmp_path, "alone", guard=None, prompts=PROMPTS[:1], held_out=PROMPTS[1:])
    assert unguarded["strength"]["by"] == "default"


def test_a_judge_is_asked_before_untouched_pictures(tmp_path) -> None:
    _, result = run(tmp_path, "run", lambda images, prompts: [True] * len(images), guard=None)
    assert "judge" in result["strength"]["guard_name"]
    assert "resembling" not in result["held_out"]
