"""Fixtures of the tests of the command line."""

from pathlib import Path

import pytest

from helpers.tiny_pipelines import tiny_pipeline


@pytest.fixture(autouse=True)
def _restored_state(restored_state: None) -> None:
    """Every test here restores the settings of the process."""


@pytest.fixture
def files(tmp_path, monkeypatch) -> Path:
    """A folder with prompts, a metric and a small pipeline; the working directory."""
    monkeypatch.chdir(tmp_path)
    tiny_pipeline(tmp_path / "tokenizer").save_pretrained(tmp_path / "model")
    Path("prompts.txt").write_text("# colours\nred fox\n\nfox\nred\nfo re\n")
    Path("empty.txt").write_text("\n# nothing\n\n")
    Path("metric.py").write_text(
        "def score(images):\n    return images[:, 0].mean((1, 2))\n\ndef wrong(images):\n    "
        "return images.mean()\n\n"
        "def blocked(images):\n    return images.detach().mean((1, 2, 3))\n"
    )
    Path("text.png").write_text("no picture")
    return tmp_path
