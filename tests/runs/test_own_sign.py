"""A reward is minimised as its negative, and reported as itself."""

import json

from adjointdpm.runs.folder import RunFolder
from adjointdpm.runs.own_sign import in_own_sign
from adjointdpm.runs.report import read_result, write_report

VIEWS = ["before", "existing_word", "after"]


def reward(folder: RunFolder) -> dict:
    """Make the run one of a reward, which rises from 0.6125 to 0.9."""
    result = read_result(folder)
    result["metric"] |= {"name": "pickscore", "sign": -1, "before": -20.0, "after": -22.5}
    result["held_out"] |= {
        "before": -20.125,
        "existing_word": -21.0,
        "after": -22.25,
        "change": -2.125,
        "interval": [-3.5, -0.5],
        "since": {"existing_word": {"change": -1.25, "interval": [-1.5, -0.125]}},
        "parts": {
            "pickscore": {view: -1.25 for view in VIEWS} | {"sign": -1},
            "color": {view: 0.75 for view in VIEWS},
        },
    }
    (folder.path / "result.json").write_text(json.dumps(result))
    return result


def test_a_reward_rises(folder: RunFolder) -> None:
    result = reward(folder)
    own = in_own_sign(result, VIEWS)
    assert own["held_out"]["change"] == 2.125
    assert own["held_out"]["interval"] == [0.5, 3.5]
    assert own["metric"]["after"] == 22.5
    assert own["held_out"]["since"]["existing_word"]["interval"] == [0.125, 1.5]
    assert result["held_out"]["after"] == -22.25  # what it was made of is as it was
    text = write_report(folder).read_text()
    assert "20.125 → 22.250" in text
    assert "higher is better" in text
    assert "lower is better" not in text
    assert "<td>part: pickscore</td><td>1.250</td>" in text
    assert "<td>part: color</td><td>0.750</td>" in text
    assert "went from 20.000 to 22.500" in text
    assert "[0.500, 3.500]" in text
    assert "to last it is 1.250, [0.125, 1.500]" in text
    assert "-22" not in text.split("</style>")[-1].split("<svg")[0]


def test_other_metrics_are_as_they_were(folder: RunFolder) -> None:
    result = read_result(folder)
    assert in_own_sign(result, VIEWS) == result
    assert "lower is better" in write_report(folder).read_text()


def test_the_curve_of_strengths_has_the_signs_of_metric_and_guard(folder: RunFolder) -> None:
    result = reward(folder)
    rows = [
        {"strength": s, "metric": -20.0 - s, "guard": -4.0 - s, "diversity": 1.0, "kl": 0.1 * s}
        for s in (0.0, 1.0)
    ]
    result["strength"] = {
        "chosen": 1.0,
        "by": "guard",
        "curve": rows,
        "examples": 4,
        "guard_name": "hps",
        "guard_limit": -3.75,
        "guard_sign": -1,
    }
    (folder.path / "result.json").write_text(json.dumps(result))
    text = write_report(folder).read_text()
    assert "<td>1 (kept)</td><td>21.000</td><td>5.000</td>" in text
    assert "guard is at least 3.750" in text
    assert "hps (higher is better)" in text
    assert "metric (lower" not in text
