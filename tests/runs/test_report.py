"""The report: one file, everything in it, nothing loaded from elsewhere."""

import importlib
import json
import re
import sys

import pytest
from PIL import Image

from adjointdpm import errors
from adjointdpm.runs import report_curves
from adjointdpm.runs.folder import RunFolder
from adjointdpm.runs.report import read_result, write_report
from adjointdpm.runs.storyboard import Band, write_storyboard


def test_it_loads_nothing_from_elsewhere_and_shows_every_picture(folder: RunFolder) -> None:
    html = write_report(folder).read_text()
    sources = re.findall(r'(?:src|href)\s*=\s*"([^"]*)"', html)
    assert len([source for source in sources if source.startswith("data:image/png;base64,")]) == 6
    assert all(source.startswith(("data:", "#")) for source in sources)
    assert "<script" not in html
    assert "@import" not in html


def test_it_states_the_figures_the_cost_the_gradients_error_and_the_command(
    folder: RunFolder,
) -> None:
    html = write_report(folder).read_text()
    for text in (
        "0.613 → 0.123",
        "75% → 70%",
        "90%",
        "2 min 05 s",
        "4321",
        "1.23 GB",
        "0.9877",
        "Through 50 sampler steps",
        "<code>purple</code>",
        "adjointdpm demo --gradient adjoint",
    ):
        assert text in html, text


def change(folder: RunFolder, **values: dict | list) -> None:
    """Change the result: a dict updates the one that is there."""
    path = folder.path / "result.json"
    result = json.loads(path.read_text())
    for key, value in values.items():
        result[key] = value if isinstance(value, list) else result[key] | value
    path.write_text(json.dumps(result))


def test_an_approximate_gradient_comes_with_its_own_estimate_if_there_is_one(
    folder: RunFolder,
) -> None:
    assert "estimated its own relative error" not in write_report(folder).read_text()
    change(folder, gradient={"estimate": 0.0321})
    assert "estimated its own relative error at 0.032" in write_report(folder).read_text()


def test_the_parts_of_a_weighted_sum_have_a_row_each(folder: RunFolder) -> None:
    change(
        folder,
        held_out={"parts": {"color": {"before": 0.111, "existing_word": 0.222, "after": 0.333}}},
    )
    assert (
        "<td>part: color</td><td>0.111</td><td>0.222</td><td>0.333</td>"
        in write_report(folder).read_text()
    )


def test_pictures_of_one_prompt_are_not_called_pictures_of_several(folder: RunFolder) -> None:
    assert "different prompts" in write_report(folder).read_text()
    rows = read_result(folder)["pictures"]
    change(
        folder,
        pictures=[row | {"prompt": "an owl"} for row in rows],
        config={"prompts": ["an owl", "an owl"]},
    )
    change(folder, optimisation={"validation_examples": 2})
    html = write_report(folder).read_text()
    assert "different prompts" not in html
    assert "distance between prompts" not in html
    assert "Training prompts: an owl.</p>" in html
    assert "best on 2 validation" in html


def test_an_approximate_gradient_that_nobody_measured_says_so(folder: RunFolder) -> None:
    change(folder, gradient={"error": []})
    assert "was not measured in this run" in write_report(folder).read_text()


def test_what_users_wrote_is_escaped(folder: RunFolder) -> None:
    html = write_report(folder).read_text()
    assert "<b>fox" not in html
    assert "&lt;b&gt;fox" in html
    assert "<dusk>" not in html
    assert "<i>" not in html
    assert "<code>&lt;dusk&gt;</code>" in html


def test_an_exact_gradient_is_called_exact(folder: RunFolder) -> None:
    path = folder.path / "result.json"
    result = json.loads(path.read_text())
    result["gradient"] |= {"method": "exact", "exact": True, "error": []}
    path.write_text(json.dumps(result))
    html = write_report(folder).read_text()
    assert "It is exact" in html
    assert "approximate" not in html


def test_the_storyboard_shows_before_above_after(folder: RunFolder, tmp_path) -> None:
    result = read_result(folder)
    band = Band(folder, result, {"before": "untouched", "after": "with <dusk>"})
    picture = Image.open(write_storyboard([band], tmp_path / "story.png", columns=2))
    assert picture.size == (108 + 118 + 112 + 8, 118 + 112 + 16)
    shown = picture.crop((108, 8 + 118, 108 + 112, 8 + 118 + 112))
    assert (
        shown.tobytes()
        == Image.open(folder.path / result["pictures"][0]["after"])
        .convert("RGB")
        .resize((112, 112), 1)
        .tobytes()
    )
    (folder.path / result["pictures"][1]["before"]).unlink()
    with pytest.raises(errors.OutputError, match="cannot be read"):
        write_storyboard([band], tmp_path / "story.png")


def test_an_unfinished_run_has_no_report(tmp_path) -> None:
    with pytest.raises(errors.OutputError, match="no finished run") as error:
        write_report(RunFolder.open(tmp_path / "new", {}))
    assert str(error.value).count("no finished run") == 1


def test_an_audits_report_has_a_curve_and_a_row_for_each_budget(folder: RunFolder) -> None:
    path = folder.path / "result.json"
    result = json.loads(path.read_text())
    row = {
        "budget": 0.1,
        "rate": 0.5,
        "interval": [0.2, 0.8],
        "fooled": 0.6,
        "random_search": None,
        "transfer": None,
        "transfer_of": None,
    }
    row |= {"judge_agrees": 0.9, "iterations": 4.5, "naturalness": {"norm_ratio": 1.01}}
    result["success"] = [
        row,
        row
        | {
            "budget": 0.3,
            "rate": 0.9,
            "interval": [0.6, 0.98],
            "random_search": 0.31,
            "transfer": 0.25,
            "transfer_of": 4,
        },
    ]
    del result["optimisation"]
    path.write_text(json.dumps(result))
    html = write_report(folder).read_text()
    for text in (
        "Success by budget",
        "20% – 80%",
        "on 2 prompts (95 % interval 60% – 98%)",
        "31%",
        "25% of 4",
        "norm ratio",
        "1.010",
        "<svg",
    ):
        assert text in html, text


@pytest.mark.parametrize("audited", [False, True])
def test_without_matplotlib_a_report_lacks_its_curves_and_says_so(
    folder: RunFolder, monkeypatch, audited: bool
) -> None:
    if audited:
        test_an_audits_report_has_a_curve_and_a_row_for_each_budget(folder)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    importlib.reload(report_curves)  # a module of its own must not need it either
    html = write_report(folder).read_text()
    assert "<svg" not in html
    assert html.count("Left out: the curves need matplotlib") == 1
    assert "adjointdpm[plots]" in html
    assert "The curves are of pictures" not in html


def test_a_run_folder_is_never_overwritten_unasked(tmp_path) -> None:
    config = {"task": "embed", "model": "tiny", "seed": 0, "nested": {"steps": 5}}
    folder = RunFolder.open(tmp_path / "run", config)
    folder.write_history([{"iteration": 0}])
    with pytest.raises(errors.OutputError, match="--resume"):
        RunFolder.open(tmp_path / "run", config)
    assert RunFolder.open(tmp_path / "run", config, resume=True).read_history() == [
        {"iteration": 0}
    ]
    with pytest.raises(errors.CheckpointError, match="seed: 0 then, 1 now"):
        RunFolder.open(tmp_path / "run", config | {"seed": 1}, resume=True)
    assert RunFolder.open(tmp_path / "run", config, force=True).read_history() == []


def test_force_does_not_delete_what_is_no_run(tmp_path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(errors.OutputError, match="no run"):
        RunFolder.open(tmp_path, {}, force=True)
    with pytest.raises(errors.OutputError, match="is a file"):
        RunFolder.open(tmp_path / "thesis.tex", {})
    assert (tmp_path / "thesis.tex").exists()


@pytest.mark.parametrize("left", [None, (), ("run.lock",), (".run.json.x1",)])
def test_a_run_that_was_killed_before_it_wrote_anything_is_resumed_from_its_start(
    tmp_path, left
) -> None:
    path = tmp_path / "run"
    if left is not None:
        path.mkdir()
        for name in left:
            (path / name).touch()
    folder = RunFolder.open(path, {"seed": 1}, resume=True)
    assert not folder.has_saved
    assert (path / "config.yaml").read_text() == "seed: 1\n"


def test_resuming_something_else_is_an_error(tmp_path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(errors.CheckpointError, match=r"no run.*choose another --out"):
        RunFolder.open(tmp_path, {}, resume=True)
    assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]


def test_a_history_line_that_was_cut_off_is_left_out(tmp_path) -> None:
    folder = RunFolder.open(tmp_path / "run", {})
    (folder.path / "history.jsonl").write_text('{"iteration": 0}\n{"itera')
    assert folder.read_history() == [{"iteration": 0}]
