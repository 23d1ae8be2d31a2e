"""Several metrics of a task are weighed by their spread over the untouched model's pictures."""

import json

import pytest
import torch
from torch import Tensor

from adjointdpm.cli.learn import _summary
from adjointdpm.metrics import OnDevice, WeightedSum, resolve
from adjointdpm.runs.folder import RunFolder
from adjointdpm.runs.report import write_report
from adjointdpm.tasks.guide import guide
from adjointdpm.tasks.guide_config import GuideConfig
from adjointdpm.tasks.learning import renderer
from adjointdpm.tasks.metric_spreads import PICTURES, _examples
from adjointdpm.variables import Example

SHORT = {"iterations": 1, "steps": 2, "guidance_scale": 1.0, "tracker": [], "preservation": 0.0}
METRICS = """
def bright(images):
    return 1000 * images.mean((1, 2, 3))


def red(images):
    return images[:, 0].mean((1, 2))
"""
OWN_REWARD = """
from adjointdpm.metrics import Reward


class Redness(Reward):
    def reward(self, images, prompts):
        assert len(prompts) == len(images)
        return images[:, 0].mean((1, 2))
"""


@pytest.fixture
def config(tmp_path) -> GuideConfig:
    (tmp_path / "mine.py").write_text(METRICS)
    names = [f"{tmp_path}/mine.py:{name}" for name in ("bright", "red")]
    return GuideConfig(metric=names, prompt="a noto emoji of a lion", weight=[1, 2], **SHORT)  # pyright: ignore


def plain_pictures(tiny, config: GuideConfig) -> Tensor:
    with torch.no_grad():
        return renderer(tiny, config).look(_examples(config.sets().training))


def test_the_spread_is_that_of_the_untouched_pictures_and_is_told(tiny, config, tmp_path) -> None:
    folders = [RunFolder.open(tmp_path / name, {"task": "guide"}) for name in ("one", "two")]
    result, again = (guide(tiny, config, folder) for folder in folders)
    pictures = plain_pictures(tiny, config)
    assert len(pictures) == PICTURES
    parts = result["held_out"]["parts"]
    for name, weight in zip(("mine.py:bright", "mine.py:red"), (1, 2), strict=True):
        expected = resolve(f"{tmp_path}/{name}")(pictures).std().item()
        assert parts[name]["spread"] == pytest.approx(expected, rel=0.006)
        assert (parts[name]["weight"], parts[name]["sign"]) == (weight, 1)
    total = sum(part["weight"] * part["before"] / part["spread"] for part in parts.values())
    assert result["held_out"]["before"] == pytest.approx(total, rel=1e-4)
    for key in ("metric", "held_out"):
        assert result[key] == again[key]
    assert "standard deviation over 8 pictures" in write_report(folders[0]).read_text()
    assert f"{parts['mine.py:bright']['spread']:g}" in result["story"]["how"][-1]


def test_a_single_metric_stays_itself(tiny, config, tmp_path) -> None:
    one = GuideConfig(metric=config.metric[1:], prompt=config.prompt, **SHORT)  # pyright: ignore
    result = guide(tiny, one, RunFolder.open(tmp_path / "run", {"task": "guide"}))
    assert result["metric"]["name"] == "mine.py:red"
    assert "spread" not in json.dumps(result["story"])


def test_few_examples_are_filled_up_with_other_seeds() -> None:
    found = _examples([Example("a", 5), Example("b", 6), Example("a", 5)])
    assert found[:4] == [Example("a", 5), Example("b", 6), Example("a", 7), Example("b", 8)]
    assert len({*found}) == PICTURES
    many = [Example("a", seed) for seed in range(20)]
    assert _examples(many) == many[:PICTURES]


def test_metrics_in_bfloat16_learn_in_a_task(tiny, config, tmp_path) -> None:
    half = GuideConfig(
        metric=config.metric,
        prompt=config.prompt,
        reward_device="cpu",
        reward_dtype="bfloat16",
        **SHORT,  # pyright: ignore
    )
    result = guide(tiny, half, RunFolder.open(tmp_path / "run", {"task": "guide"}))
    assert set(result["held_out"]["parts"]) == {"mine.py:bright", "mine.py:red"}
    both = WeightedSum([OnDevice(resolve(name)) for name in config.metric], [1, 1])
    assert both.name == WeightedSum([resolve(name) for name in config.metric], [1, 1]).name


def test_a_user_s_own_reward_rises_in_the_report_and_the_summary(tiny, config, tmp_path) -> None:
    (tmp_path / "own.py").write_text(OWN_REWARD)
    mine = GuideConfig(metric=[f"{tmp_path}/own.py:Redness"], prompt=config.prompt, **SHORT)  # pyright: ignore
    folder = RunFolder.open(tmp_path / "run", {"task": "guide"})
    result = guide(tiny, mine, folder)
    before, after = (result["held_out"][view] for view in ("before", "after"))
    assert result["metric"]["sign"] == -1
    assert after < before < 0  # what is minimised
    for text in (_summary(result), write_report(folder).read_text()):
        assert f"{-before:.3f}" in text
        assert f"{-after:.3f}" in text
        assert f"{before:.3f}" not in text
        assert "higher is better" in text
