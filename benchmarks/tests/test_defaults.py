"""Defaults: which cells there are, when one passes, and that a stopped run goes on."""

import json
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
import typer

from adjointdpm import metrics
from adjointdpm.cli import app
from adjointdpm.errors import UnknownNameError
from benchmarks import common
from benchmarks.defaults import __main__ as defaults
from benchmarks.defaults import own_metrics
from benchmarks.defaults.cells import METRICS, SEEDS, TASKS, WORDS, Cell, cells, prompts, supply
from benchmarks.defaults.page import page_of
from benchmarks.defaults.verdict import verdict
from benchmarks.user_process import Finished, run_as_user

EMBED = Cell("embed", "sepia", SEEDS[0])


def facts(before=1.0, after=0.4, **changes):
    change = after - before
    return {
        "command": [],
        "code": 0,
        "limit": 300,
        "seconds": 60.0,
        "cpu_seconds": 70.0,
        "error": "",
        "code_version": "one",
        "before": before,
        "after": after,
        "change": change,
        "interval": [change - 0.1, change + 0.1],
        "examples": 10,
        "recognised": [1.0, 0.9],
        "iterations": 20,
        "best_iteration": 15,
        "stopped": "",
        "config": {"iterations": 20},
        **changes,
    }


def test_the_table_is_as_large_as_it_claims():
    every = cells()
    assert len(METRICS) >= 12
    assert METRICS.keys() == WORDS.keys()
    assert len(every) == len({cell.name for cell in every}) == len(METRICS) * 8 * len(SEEDS)
    assert sum(cell.command != "align" for cell in every) >= 100
    counts = Counter(cell.task for cell in every)
    assert counts["stylize"] == 2 * len(SEEDS)
    assert all(counts[task] == len(METRICS) * len(SEEDS) for task in TASKS if "guide" in task)
    assert counts["embed-own-model"] == len(METRICS) * len(SEEDS)


def test_a_beginning_of_the_table_is_one_seed_with_all_tasks_of_a_metric():
    first = cells()[:8]
    assert {(cell.metric, cell.seed) for cell in first} == {("sepia", SEEDS[0])}
    assert [cell.task for cell in first] == [task for task in TASKS if "stylize" not in task]


def test_patterns_choose_cells():
    assert [cell.name for cell in cells(["embed/sepia/*"])] == [
        f"embed/sepia/{seed}" for seed in SEEDS
    ]
    assert {cell.task for cell in cells(["guide-*"])} == {t for t in TASKS if "guide" in t}
    own = cells(["*-own-model/*"])
    assert all("--model" in cell.arguments() for cell in own)
    assert {cell.judged_here for cell in own if cell.metric == "text"} == {False}
    assert not any(cell.judged_here for cell in cells(["embed/*"]))


def test_every_command_line_is_one_that_the_program_takes():
    group = typer.main.get_command(app)
    for cell in cells():
        command = group.commands.get(cell.command)
        if command is None:
            assert cell.command == "align"
            continue
        arguments = cell.arguments()
        assert arguments[0] == cell.command
        for setting in ([], *cell.grid()):
            command.make_context(cell.command, [*arguments[1:], *setting])


def test_a_command_line_has_no_flag_with_a_default_but_the_seed():
    needed = {"--prompts", "--prompt", "--metric", "--style", "--token", "--learn", "--model"}
    for cell in cells():
        flags = {word for word in cell.arguments() if word.startswith("--")}
        assert flags - needed == {"--seed", "--out"}


def test_the_metrics_work_on_pictures(tmp_path, monkeypatch):
    supply(tmp_path)
    monkeypatch.chdir(tmp_path)
    written = prompts()
    assert len(set(written)) == 40
    assert (tmp_path / "prompts.txt").read_text().splitlines() == written
    for name, text in METRICS.items():
        metric = metrics.resolve(text)
        assert metric.name, name
        metrics.probe(metric, 64, 64, prompts=written[:2])


def test_own_metrics_fall_where_they_should():
    picture = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    gray, flat = picture.mean(1, keepdim=True).expand_as(picture), torch.full_like(picture, 0.5)
    assert (own_metrics.brightness(picture / 2) < own_metrics.brightness(picture)).all()
    assert (own_metrics.saturation(picture) < own_metrics.saturation(gray)).all()
    mirrored = (picture + picture.flip(-1)) / 2
    assert own_metrics.symmetry(mirrored).max() < 1e-6 < own_metrics.symmetry(picture).min()
    assert (own_metrics.sharpness(picture) < own_metrics.sharpness(flat)).all()
    framed = flat.clone()
    framed[:, :, 8:-8, 8:-8] = 0.9
    # The border's mean is 0.5, the middle's 0.9.
    torch.testing.assert_close(own_metrics.vignette(framed), torch.full((2,), -0.4))
    dim = torch.full((2, 3, 32, 32), 0.25)
    torch.testing.assert_close(
        own_metrics.evening(dim, ["a noto emoji", "a twemoji emoji"]), torch.tensor([0.0, 0.2])
    )


def test_a_cell_passes_or_says_why_not():
    def reasons(*grid, **changes):
        return verdict(facts(**changes), grid, 3).reasons

    assert reasons() == []
    assert "no gain" in reasons(interval=[-0.7, 0.01])[0]
    assert "80% instead of 100%" in reasons(recognised=[1.0, 0.8])[0]
    assert reasons(recognised=[0.5, 0.4]) == []  # ten points, up to rounding
    assert reasons(recognised=[0.5, 0.9]) == []
    assert "exit code 2: error: no" in reasons(code=2, error="error: no")[0]
    assert "time limit of 300 s" in reasons(code=None)[0]
    assert "takes 301 s" in reasons(seconds=900.0, cpu_seconds=301.0)[0]
    assert reasons(seconds=900.0, cpu_seconds=280.0) == []
    assert len(reasons(interval=[-0.7, 0.01], recognised=[1.0, 0.5])) == 2
    no_judge = facts()
    del no_judge["recognised"]
    assert verdict(no_judge, [], 3).passed


def test_a_cell_is_compared_with_the_best_run_that_keeps_the_subjects():
    good, garbage = facts(after=0.1), facts(after=-1.0, recognised=[1.0, 0.2])
    stopped = {"code": None, "limit": 3600, "seconds": 3600.0, "cpu_seconds": 3600.0}
    found = verdict(facts(after=0.4), [good, garbage, stopped], 3)
    assert found.share == pytest.approx(0.6 / 0.9)
    assert found.share_of_any == pytest.approx(0.3)
    assert found.passed
    assert found.complete
    found = verdict(facts(after=0.5), [good], 3)
    assert found.reasons == ["56% of what the grid's best run gains"]
    assert not found.complete
    assert verdict(facts(), [garbage], 3).share is None
    assert verdict(facts(), [facts(after=1.2)], 3).share is None  # the grid gains nothing either


@pytest.mark.parametrize(
    ("after", "least", "grid", "enough"),
    [
        (0.4, 0.0, [], True),  # no grid can gain more than 1
        (0.5, 0.0, [], None),
        (0.5, 0.2, [], True),
        (0.5, None, [], None),
        (0.5, 0.0, [0.3, 0.4], True),
        (0.5, 0.0, [0.3], None),  # the other run may gain more
        (0.5, 0.0, [0.1], False),
    ],
)
def test_the_least_value_of_a_metric_stands_in_for_a_grid(after, least, grid, enough):
    runs = [facts(after=value) for value in grid]
    assert verdict(facts(after=after), runs, 2, least).enough is enough


def test_facts_are_those_of_result_json(tmp_path, monkeypatch):
    result = {
        "held_out": {
            "before": 1.0,
            "after": 0.5,
            "change": -0.5,
            "interval": [-0.6, -0.4],
            "examples": 10,
            "recognised": {"before": 1.0, "existing_word": 0.5, "after": 0.9},
            "since": {"existing_word": {"change": -0.1, "interval": [-0.2, 0.1]}},
        },
        "optimisation": {"iterations": 12, "best_iteration": 10, "stopped": "patience"},
        "config": {"iterations": 20, "lr": 0.05, "template": "{prompt} {token}", "prompts": ["a"]},
    }
    (tmp_path / "result.json").write_text(json.dumps(result))
    found = defaults.facts_of(Finished(0, 60.0, 50.0, "", ""), tmp_path)
    assert found["recognised"] == [1.0, 0.9]
    assert found["beyond_word"] == {"change": -0.1, "interval": [-0.2, 0.1]}
    assert found["config"] == {"iterations": 20, "lr": 0.05, "template": "{prompt} {token}"}
    assert verdict(found | {"limit": 300}, [], 1).passed
    del result["held_out"]["recognised"]
    (tmp_path / "result.json").write_text(json.dumps(result))
    assert "recognised" not in defaults.facts_of(Finished(0, 60.0, 50.0, "", ""), tmp_path)
    rows = [{"prompt": "a fox", "before": "a.png", "after": "b.png"}] * 2
    (tmp_path / "result.json").write_text(
        json.dumps(
            result
            | {"pictures": rows, "held_out": result["held_out"] | {"resembling": {"after": 0.8}}}
        )
    )
    monkeypatch.setattr(defaults, "read_picture", lambda path: torch.zeros(3, 64, 64))
    monkeypatch.setattr(defaults, "recogniser_for", lambda prompts: lambda i, p: [True, False])
    judged = defaults.facts_of(Finished(0, 60.0, 50.0, "", ""), tmp_path, judge=True)
    assert judged["recognised"] == [0.5, 0.5]
    assert judged["resembling"] == 0.8
    failed = defaults.facts_of(Finished(2, 1.0, 1.0, "out", "warning\nerror: no\n"), tmp_path)
    assert failed["error"] == "error: no"
    assert "before" not in failed


@pytest.fixture
def scratch_results(tmp_path, monkeypatch):
    monkeypatch.setattr(common, "RESULTS", tmp_path)
    monkeypatch.setattr(defaults, "WORK", tmp_path / "work")
    return tmp_path


def test_a_stopped_run_goes_on(scratch_results, monkeypatch):
    ran = []

    def run(task, folder, limit, threads):
        ran.append(task.name)
        if len(ran) == 3:
            raise KeyboardInterrupt
        return facts() | ({"asked_iterations": task.iterations} if task.iterations else {})

    monkeypatch.setattr(defaults.Task, "run", run)
    guided = [f"guide-{learned}/sepia/101" for learned in ("noise", "prompt", "both")]
    with pytest.raises(KeyboardInterrupt):
        defaults.main(only=guided)
    assert len(common.read_results("defaults")["runs"]) == 2
    defaults.main(only=guided)
    assert [name.split("/")[0] for name in ran] == [
        "guide-noise",
        "guide-prompt",
        "guide-both",
        "guide-both",
    ]
    ran.clear()
    defaults.main(only=guided)
    assert ran == []
    monkeypatch.setattr(defaults, "code_version", lambda: "one")
    defaults.main(only=guided, stale=True)
    assert ran == []
    monkeypatch.setattr(defaults, "code_version", lambda: "other")
    defaults.main(only=guided, stale=True, minutes=0)
    assert ran == []
    ran += ["", "", ""]  # past the interruption
    defaults.main(only=guided, grid=True, jobs=2)
    assert len(ran) == 3 + 9
    kept = common.read_results("defaults-grid")["runs"]
    assert {run["asked_iterations"] for run in kept.values()} == {200}
    assert all("--lr" in name for name in kept)


def test_a_run_that_somebody_stopped_is_not_kept(scratch_results, monkeypatch):
    monkeypatch.setattr(defaults, "run_as_user", lambda *args: Finished(-15, 1.0, 1.0, "", ""))
    defaults.main(only=["guide-noise/sepia/101"])
    assert not common.has_results("defaults")


def test_a_pattern_that_names_no_cell_is_a_mistake(scratch_results):
    with pytest.raises(UnknownNameError, match="nothing"):
        defaults.main(only=["nothing/*"])


def test_the_page_shows_what_was_found():
    failed = facts(after=1.1, interval=[-0.1, 0.3])
    runs = {cell.name: facts() for cell in cells()[:6]} | {
        EMBED.name: failed,
        "guide-noise/text/101": facts(examples=1, code=None) | {"seconds": 290.0},
    }
    kept = {"runs": runs, "machine": "a machine", "threads": 1, "commands": ["embed", "guide"]}
    page = page_of(kept, {"runs": {}})
    assert "**5 of 7 cells pass (71%)**" in page
    assert "217 of 224 cells have not been run" in page
    assert "no command `align`, `stylize`" in page
    assert "has been run for no cell" in page
    assert "- `embed/sepia/101`: no gain: the change is +0.100, from -0.100 to +0.300" in page
    assert "- `guide-noise/text/101`: stopped at the time limit of 300 s" in page
    assert (
        "| 1.000 → 0.400 | -0.600 [-0.700, -0.500] | ≥ 60% | 100% → 90% | 15 of 20 | 60 |" in page
    )
    cell = cells()[1]
    setting = cell.grid()[0]
    grid = {" ".join([cell.name, *setting]): facts(after=0.2, asked_iterations=200)}
    page = page_of(kept, {"runs": grid})
    assert "| 75% (1 of 3 runs) |" in page
    assert "in full for 0 of 7 cells, in part for 1" in page
    assert "given 200 iterations and made 20" in page


def test_the_page_says_what_a_word_adds_to_the_one_it_started_from():
    since = [{"change": -x, "interval": [-1.0, high]} for x, high in ((0.06, -0.01), (0.3, 0.1))]
    runs = {
        f"embed/sepia/{seed}": facts() | {"beyond_word": found}
        for seed, found in zip(SEEDS, since, strict=True)
    }
    kept = {"runs": runs, "machine": "a machine", "threads": 1, "commands": ["embed"]}
    page = page_of(kept, {"runs": {}})
    assert "adds 30% in the median of 2 cells (from 10% to 50%)" in page
    assert "In 1 of them the token is surely" in page
    runs["embed/sepia/101"] = runs["embed/sepia/102"] = facts()
    assert "learning adds" not in page_of(kept, {"runs": {}})


def test_a_process_runs_as_a_users_would_and_stops_at_its_limit(tmp_path):
    code = "import os, sys; print(os.getcwd(), os.environ['OMP_NUM_THREADS']); sys.exit('no')"
    found = run_as_user([sys.executable, "-c", code], tmp_path, 30, 1)
    assert (found.code, found.why, found.interrupted) == (1, "no", False)
    assert found.output.split() == [str(tmp_path.resolve()), "1"]
    assert found.cpu_seconds > 0
    code = "import time; print('on', flush=True); time.sleep(60)"
    found = run_as_user([sys.executable, "-c", code], tmp_path, 1.5, 1)
    assert (found.code, found.output, found.interrupted) == (None, "on\n", False)
    assert found.seconds < 30
    code = "import os; os.kill(os.getpid(), 15)"
    assert run_as_user([sys.executable, "-c", code], tmp_path, 30, 1).interrupted


def test_the_library_is_that_of_this_checkout(tmp_path):
    code = "import adjointdpm; print(adjointdpm.__file__)"
    found = run_as_user([sys.executable, "-c", code], tmp_path, 60, 1)
    assert Path(found.output.strip()).is_relative_to(defaults.SOURCE)
