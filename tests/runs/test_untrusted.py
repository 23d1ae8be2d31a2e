"""Folders of other people: nothing outside is read or written, and nothing in them acts."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from adjointdpm import errors
from adjointdpm.cli.terminal import printable
from adjointdpm.runs.folder import RunFolder, png
from adjointdpm.runs.report import write_report
from adjointdpm.runs.untrusted import inside
from adjointdpm.support.strict_json import strict_json
from helpers.commands import run


def change(folder: RunFolder, path: str, value: Any) -> None:
    """Put a value into `result.json`, at a path such as pictures/0/before."""
    file = folder.path / "result.json"
    found = result = json.loads(file.read_text())
    *way, last = [int(part) if part.isdecimal() else part for part in path.split("/")]
    for part in way:
        found = found[part]
    found[last] = value
    file.write_text(json.dumps(result))


PATHS = [
    "../secret.png",
    "images/../../secret.png",
    "../../../../etc/passwd",
    "/etc/passwd",
    "javascript:alert(1)",
    "data:text/html,x",
    "file:///etc/passwd",
    "//host/x.png",
    "..\\secret.png",
    "C:\\secret.png",
    "images/x\x1b[2J.png",
    "",
    ".",
    None,
    3,
    ["images"],
]


@pytest.mark.parametrize("path", PATHS)
def test_a_path_that_leads_out_is_refused(folder: RunFolder, path: object) -> None:
    (folder.path.parent / "secret.png").write_bytes(png(torch.zeros(3, 4, 4)))
    change(folder, "pictures/0/before", path)
    with pytest.raises(errors.OutputError) as raised:
        write_report(folder)
    assert not (folder.path / "report.html").exists()
    assert "\x1b" not in str(raised.value)


@pytest.mark.parametrize("path", [p for p in PATHS if p not in ("", ".")])
def test_a_link_that_leads_out_is_refused(folder: RunFolder, path: object) -> None:
    part = {"folder": path, "title": "t", "lead": "l", "summary": "s"}
    change(folder, "parts", [part])
    with pytest.raises(errors.OutputError):
        write_report(folder)


def test_links_are_relative_and_quoted(folder: RunFolder) -> None:
    part = {"folder": 'a "b"/c', "title": "t", "lead": "l", "summary": "s"}
    change(folder, "parts", [part])
    links = re.findall(r'href="([^"]*)"', write_report(folder).read_text())
    assert [link for link in links if link[0] != "#"] == ["a%20%22b%22/c/report.html"]


@pytest.mark.parametrize("name", ["result.json", "history.jsonl", "images/0_before.png", "images"])
def test_a_symbolic_link_that_leads_out_is_not_read(folder: RunFolder, name: str) -> None:
    there = folder.path.parent / "elsewhere"
    os.rename(folder.path / name, there)
    (folder.path / name).symlink_to(there)
    with pytest.raises(errors.OutputError, match="leads out of the run folder"):
        write_report(folder)


def test_a_link_within_the_folder_and_a_link_to_it_are_fine(folder: RunFolder) -> None:
    os.rename(folder.path / "images", folder.path / "pictures")
    (folder.path / "images").symlink_to("pictures")
    (folder.path.parent / "link").symlink_to(folder.path)
    assert write_report(RunFolder(folder.path.parent / "link")).exists()


def test_a_report_that_is_a_link_is_replaced_and_not_followed(folder: RunFolder) -> None:
    outside = folder.path.parent / "precious.txt"
    outside.write_text("mine")
    (folder.path / "report.html").symlink_to(outside)
    assert "<html" in write_report(folder).read_text()
    assert outside.read_text() == "mine"


def test_pipes_and_what_is_no_picture_are_not_read(folder: RunFolder) -> None:
    (folder.path / "images" / "text.png").write_text("secret")
    os.mkfifo(folder.path / "images" / "pipe.png")
    for name, message in (("text", "no PNG"), ("pipe", "no regular file")):
        change(folder, "pictures/0/before", f"images/{name}.png")
        with pytest.raises(errors.OutputError, match=message):
            write_report(folder)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("story", "text"),
        ("story/views", 3),
        ("pictures", {"a": 1}),
        ("pictures/0", None),
        ("held_out", []),
        ("held_out/before", "much"),
        ("held_out/before", None),
        ("optimisation/settings", None),
        ("optimisation/settings/optimizer", "magic"),
        ("seconds", "long"),
        ("seconds", 1e400),
        ("versions", 1),
        ("parts", 7),
        ("metric/sign", "x"),
        ("config", None),
    ],
)
def test_a_result_of_other_kinds_is_an_error_of_one_line(
    folder: RunFolder, path: str, value: object
) -> None:
    change(folder, path, value)
    try:
        write_report(folder)
    except errors.OutputError as error:
        assert str(folder.path) in str(error)  # noqa: PT017 - it may also be shown as it is


def test_nesting_without_end_is_an_error(folder: RunFolder) -> None:
    (folder.path / "result.json").write_text("[" * 100_000)
    with pytest.raises(errors.OutputError, match="no finished run"):
        write_report(folder)


def test_a_run_with_a_link_that_leads_out_is_not_resumed(tmp_path) -> None:
    RunFolder.open(tmp_path / "run", {"task": "demo"}).close()
    (tmp_path / "outside").mkdir()
    (tmp_path / "run" / "images").symlink_to(tmp_path / "outside")
    with pytest.raises(errors.CheckpointError, match=r"run/images is a link .*outside"):
        RunFolder.open(tmp_path / "run", {"task": "demo"}, resume=True)


def test_a_config_runs_no_python_file_of_its_run_folder(
    folder: RunFolder, monkeypatch, capsys
) -> None:
    code = "open('ran', 'w').close()\ndef score(images):\n    return images.mean((1, 2, 3))\n"
    evil = folder.path / "evil.py"
    evil.write_text(code)
    monkeypatch.chdir(folder.path.parent)
    config = folder.path / "config.yaml"
    for metric in (f"{evil}:score", "run/evil.py:score", f"classifier:target=1,network={evil}:f"):
        config.write_text(f"task: align\nmetric: ['{metric}']\nprompts: [a, b, c]\n")
        status, _, err = run(monkeypatch, capsys, "align", "--config", str(config), "--out", "new")
        assert status == 2
        assert "Python file inside the run folder" in " ".join(err.split())
    assert not Path("ran").exists()


def test_what_a_terminal_would_obey_is_written_out() -> None:
    assert printable("a\x1b[31m\x07\x9b\u202eb\ud800\r\nc") == (
        "a\\x1b[31m\\x07\\x9b\\u202eb\\ud800\\r\nc"
    )


def test_messages_are_printed_without_escapes(monkeypatch, capsys, tmp_path) -> None:
    path = tmp_path / "x\x1b[31my.yaml"
    path.write_text('task: "\\e[2Jevil"\n')
    status, out, err = run(monkeypatch, capsys, "align", "--config", str(path))
    assert status == 2
    assert "\x1b" not in out + err


def test_json_has_no_nan_and_no_infinity() -> None:
    text = strict_json({"a": [float("nan"), 1.5, (float("-inf"), {"b": float("inf")})]})
    assert json.loads(text, parse_constant=lambda name: pytest.fail(name)) == {
        "a": [None, 1.5, [None, {"b": None}]]
    }
    assert inside("images/a b.png") == "images/a b.png"


def test_results_and_records_are_strict_json(tmp_path) -> None:
    folder = RunFolder.open(tmp_path / "run", {"task": "demo"})
    folder.write_result({"metric": {"after": float("nan")}})
    folder.write_history([{"iteration": 0, "norm": float("inf")}])
    for name in ("result.json", "history.jsonl"):
        text = (folder.path / name).read_text()
        json.loads(text, parse_constant=lambda name: pytest.fail(name))
