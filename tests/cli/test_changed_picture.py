"""A reference picture that has changed since a run began: the run does not go on with another."""

from pathlib import Path

from PIL import Image

from helpers.commands import EMBED, SMALL, run


def test_a_resumed_run_refuses_another_picture(files: Path, monkeypatch, capsys) -> None:
    Image.new("RGB", (16, 16), (200, 40, 40)).save("style.png")
    metric = "reference:reference=style.png"
    embed = [metric if part == "metric.py:score" else part for part in EMBED]
    command = (*embed, *SMALL, "--out", "run")
    code, _, err = run(monkeypatch, capsys, *command)
    assert code == 0, err
    result = Path("run/result.json").read_bytes()
    Image.new("RGB", (16, 16), (40, 40, 200)).save("style.png")
    code, _, err = run(monkeypatch, capsys, *command, "--resume")
    assert code == 2
    assert "began with another content of style.png" in err
    assert Path("run/result.json").read_bytes() == result
    Image.new("RGB", (16, 16), (200, 40, 40)).save("style.png")
    assert run(monkeypatch, capsys, *command, "--resume")[0] == 0
