"""The benchmark of four styles: its pictures, its commands and its table."""

import pytest
import torch

from adjointdpm.cli import app
from benchmarks.style_references import LIKE_TUNING, REFERENCES, command, report

FACTS = {
    "before": 1.0,
    "after": 0.5,
    "change": -0.5,
    "interval": [-0.6, -0.4],
    "examples": 24,
    "recognised": {"before": 1.0, "after": 0.92},
    "recognised_interval": {"before": [0.8, 1.0], "after": [0.7, 1.0]},
    "diversity": 0.9,
    "strength": 1.25,
    "cpu_seconds": 170.4,
}


@pytest.mark.parametrize("name", REFERENCES)
def test_a_reference_is_the_same_picture_in_every_run(name: str) -> None:
    picture = REFERENCES[name]()
    assert picture.shape == (3, 64, 64)
    assert 0 <= picture.min() < picture.max() <= 1
    assert picture.std() > 0.1
    assert torch.equal(picture, REFERENCES[name]())


def test_commands_say_nothing_but_what_is_learned_from_what() -> None:
    named = {"--prompts", "--held-out", "--style", "--out"}
    words = command("waves")
    assert {word for word in words if word.startswith("--")} == named
    assert words[0] in {
        found.callback.__name__ for found in app.registered_commands if found.callback
    }


def test_the_table_shows_each_run_and_marks_what_was_tuned_on() -> None:
    runs = {"waves": FACTS, "bricks": FACTS | {"strength": None}}
    lines = report({"runs": runs, "machine": "a machine"}).splitlines()
    assert len(lines) == 6
    assert lines[2].startswith("| waves | 1.000 → 0.500 | -50% [-60%, -40%] | 100% → 92%")
    assert lines[2].endswith("| 0.90 | 1.25 | 170 |")
    assert "bricks" in LIKE_TUNING
    assert lines[3].startswith("| bricks* | 1.000")
    assert lines[3].endswith("| – | 170 |")
    assert "24 pictures" in lines[-1]
    assert "a machine" in lines[-1]
