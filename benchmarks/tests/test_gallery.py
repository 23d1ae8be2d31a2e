"""The gallery: its commands are ones that the command line takes, and its page shows what the runs
left.
"""

import json
from pathlib import Path

import pytest
import typer.main
from PIL import Image

from adjointdpm.cli import app
from adjointdpm.runs.folder import RunFolder
from benchmarks import gallery


@pytest.mark.parametrize("name", gallery.COMMANDS)
def test_its_commands_are_understood(name: str) -> None:
    task, *flags = gallery.arguments(name)
    command = typer.main.get_command(app).commands[task]  # pyright: ignore[reportAttributeAccessIssue]
    context = command.make_context(task, flags)
    assert Path(context.params["out"]) == gallery.RUNS / name
    for flag in ("prompts", "held_out"):
        if context.params.get(flag) is not None:
            assert (gallery.ROOT / context.params[flag].given).is_file()
    with pytest.raises(Exception, match="No such option"):
        command.make_context(task, [*flags, "--nonsense"])


def test_the_page_shows_every_run(folder: RunFolder, tmp_path, monkeypatch) -> None:
    (tmp_path / "images").mkdir()
    monkeypatch.setattr(gallery, "DOCS", tmp_path)
    monkeypatch.setattr(gallery, "ROOT", folder.path)
    page = gallery.text({"word": folder})
    assert (
        "`color:mood=dusk` on 2 held-out pictures: 0.613 before, 0.300 with the existing word, "
        "0.123 after" in page
    )
    assert (
        "independent judge finds the subject in 75% before and 70% after. 125 s, 4321 network calls"
        in page
    )
    assert "--token '<dusk>'" in page
    assert "images/gallery-word.png" in page
    assert Image.open(tmp_path / "images" / "gallery-word.png").height > 3 * gallery.SIDE


@pytest.mark.parametrize("own", [None, "images/0_before.png"])
def test_the_way_of_a_picture_starts_and_ends_where_the_run_did(
    folder: RunFolder, tmp_path, monkeypatch, own: str | None
) -> None:
    monkeypatch.setattr(gallery, "ROOT", folder.path)
    steps = []
    for i in range(21):
        path = folder.path / "images" / f"iteration_{i:04d}.png"
        Image.new("RGB", (16, 16), (10 * i, 0, 0)).save(path)
        steps.append(f"images/{path.name}")
    Path(tmp_path / "way.png").write_bytes(gallery.way(folder, {"trajectory": steps}, own))
    strip = Image.open(tmp_path / "way.png")
    reds = [
        strip.getpixel((column * (gallery.SIDE + 6) + 5, 5))[0] for column in range(gallery.COLUMNS)
    ]  # pyright: ignore[reportOptionalSubscript, reportIndexIssue]
    way = reds if own is None else reds[1:]
    assert (way[0], way[-1]) == (0, 200)
    assert way == sorted(way)


def test_an_audit_is_told_by_its_success(folder: RunFolder) -> None:
    result = json.loads((folder.path / "result.json").read_text())
    result["success"] = [{"budget": 0.1, "rate": 0.5, "interval": [0.2, 0.8]}]
    assert "Success on 2 prompts [95 % interval], budget 0.1: 50% [20%, 80%]." in gallery.measured(
        result
    )
