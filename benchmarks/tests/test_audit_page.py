"""The tables of docs/audit.md, from results made up here."""

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from benchmarks import audit_page

ROW = {
    "budget": 0.1,
    "rate": 0.5,
    "interval": [0.25, 0.75],
    "random_search": 0.125,
    "random_interval": [0.05, 0.3],
    "random_tries": 48,
    "forward_equivalents": 47.8,
    "fooled": 0.6,
    "judge_agrees": 0.9,
    "transfer": 0.2,
    "transfer_of": 5,
    "iterations": 4.2,
    "naturalness": {"rms_change": 0.09},
}


def result(target: str | None, **changes: object) -> dict:
    return {
        "success": [ROW | changes],
        "config": {
            "target": target,
            "iterations": 12,
            "gradient": "exact",
            "prompts": ["a", "b", "c"],
        },
        "victim": {"name": "somebody", "groups": ["x", "y"]},
        "held_out": {"examples": 2},
        "seconds": 90.0,
        "network_calls": 1234,
    }


@pytest.fixture
def runs(tmp_path) -> list[Path]:
    folders = []
    for name, content in (
        ("plain", result(None)),
        ("targeted", result("dog", random_search=None, judge_agrees=None, transfer=None)),
    ):
        folders.append(tmp_path / name)
        folders[-1].mkdir()
        (folders[-1] / "result.json").write_text(json.dumps(content))
    return folders


def test_a_page_holds_the_tables_of_all_runs_and_keeps_its_text(runs, tmp_path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- measured: begin -->\nold\n<!-- measured: end -->\nafter\n")
    app = typer.Typer()
    app.command()(audit_page.main)
    done = CliRunner().invoke(app, [*map(str, runs), "--page", str(page)])
    assert done.exit_code == 0, done.output
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert text.index("untargeted") < text.index("targeted at “dog”")
    assert "| 0.1 | 50% [25%, 75%] | 12% [5%, 30%] | 60% | 90% | 20% of 5 | 4.2 | 0.090 |" in text
    assert "| 0.1 | 50% [25%, 75%] | – | 60% | – | – | 4.2 | 0.090 |" in text
    assert text.count("random search draws 48") == 1
    assert "47.8 pictures" in text


def test_a_table_says_what_it_is_of() -> None:
    text = audit_page.section(result("dog"))
    assert text.startswith("**somebody, targeted at “dog”**, 12 steps, gradient `exact`:")
    assert "Of 3 prompts, 2 are attacked" in text
    assert "2 minutes, 1234 network calls" in text
