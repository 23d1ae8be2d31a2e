"""The command line: mistakes are one clear line and exit code 2, before anything expensive."""

import sys

import pytest
from PIL import Image

from adjointdpm.cli import terminal
from adjointdpm.errors import AdjointDPMWarning
from helpers.commands import run
from helpers.tiny_pipelines import tiny_pipeline


def test_help_names_the_commands(monkeypatch, capsys) -> None:
    code, out, _ = run(monkeypatch, capsys, "--help")
    assert code == 0
    assert all(
        command in out
        for command in ("demo", "embed", "stylize", "align", "audit", "guide", "generate", "report")
    )


def test_generate_writes_pictures_and_never_overwrites_unasked(
    monkeypatch, capsys, tmp_path
) -> None:
    tiny_pipeline(tmp_path / "tokenizer").save_pretrained(tmp_path / "model")
    arguments = (
        "generate",
        "Red fox!",
        "--model",
        tmp_path / "model",
        "--batch",
        2,
        "--steps",
        2,
        "--seed",
        3,
        "--out",
        tmp_path / "out",
    )
    code, out, _ = run(monkeypatch, capsys, *arguments)
    files = sorted((tmp_path / "out").iterdir())
    assert code == 0
    assert [file.name for file in files] == ["red-fox-3-0.png", "red-fox-3-1.png"]
    assert out.split() == [str(file) for file in files]
    assert Image.open(files[0]).size == Image.open(files[1]).size
    assert files[0].read_bytes() != files[1].read_bytes()
    code, _, err = run(monkeypatch, capsys, *arguments)
    assert code == 2
    assert "--force" in err
    first = files[0].read_bytes()
    files[0].write_bytes(b"")
    assert run(monkeypatch, capsys, *arguments, "--force")[0] == 0
    assert files[0].read_bytes() == first


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("generate", "  "), "prompt is empty"),
        (("generate", "a fox", "--model", "no-such-model"), "no-such-model"),
        (("demo", "--gradient", "exakt"), "exact"),
        (("report", "nothing-here"), "no finished run"),
    ],
)
def test_mistakes_are_one_line_on_stderr(
    monkeypatch, capsys, tmp_path, arguments, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = run(monkeypatch, capsys, *arguments)
    assert code == 2
    assert out == ""
    assert message in err
    assert err.startswith("error: ")
    assert "Traceback" not in err
    assert len(err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_sampler_lists_the_known_ones(monkeypatch, capsys, tmp_path) -> None:
    tiny_pipeline(tmp_path / "tokenizer").save_pretrained(tmp_path / "model")
    code, _, err = run(
        monkeypatch,
        capsys,
        "generate",
        "fox",
        "--model",
        tmp_path / "model",
        "--sampler",
        "oiler",
        "--out",
        tmp_path / "out",
    )
    assert code == 2
    assert "euler" in err
    assert not (tmp_path / "out").exists()


def test_a_run_folder_that_exists_is_refused_before_anything_is_loaded(
    monkeypatch, capsys, tmp_path
) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    for flags in ((), ("--force",), ("--resume",)):
        code, _, err = run(monkeypatch, capsys, "demo", "--out", tmp_path, *flags)
        assert code == 2
        assert str(tmp_path) in err
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_storyboard_that_cannot_be_written_is_refused_before_the_work(
    monkeypatch, capsys, tmp_path
) -> None:
    def work(*_: object, **__: object) -> None:
        raise AssertionError("the demo was run")

    monkeypatch.setattr("adjointdpm.tasks.demo.demo", work)
    for path, message in (
        (tmp_path / "missing" / "story.png", "missing: No such file"),
        (tmp_path, "is a folder"),
    ):
        code, _, err = run(
            monkeypatch,
            capsys,
            "demo",
            "--only-embed",
            "--out",
            tmp_path / "run",
            "--storyboard",
            path,
        )
        assert code == 2
        assert message in err
        assert len(err.splitlines()) == 1


def test_the_command_to_repeat_a_run_leaves_out_what_to_do_with_an_earlier_one(monkeypatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/bin/adjointdpm", "demo", "--force", "--out", "my runs"])
    assert terminal.command_line() == "adjointdpm demo --out 'my runs'"


def test_a_signal_during_a_run_ends_in_its_own_words(monkeypatch, capsys) -> None:
    from adjointdpm.optimization.loop import Interrupted
    from adjointdpm.runs import report

    def interrupted(_: object) -> None:
        raise Interrupted("stopped after iteration 3, saved in x; resume to go on")

    monkeypatch.setattr(
        report, "write_report", interrupted
    )  # of a command that is quick to come there
    code, _, err = run(monkeypatch, capsys, "report", "x")
    assert code == 130
    assert err.strip() == "stopped after iteration 3, saved in x; resume to go on"


@pytest.mark.parametrize(
    ("moved", "judged", "said"), [(0.61, False, True), (0.59, False, False), (0.9, True, False)]
)
def test_pictures_that_nobody_judged_and_that_are_other_drawings_are_to_be_looked_at(
    moved, judged, said
) -> None:
    from adjointdpm.cli.learn import _summary

    held_out = {
        "before": 0.3,
        "after": 0.2,
        "examples": 4,
        "prompts": 2,
        "structure_distance": moved,
    }
    if judged:
        held_out["recognised"] = {"before": 1.0, "after": 1.0}
    result = {
        "metric": {"name": "warm"},
        "held_out": held_out,
        "optimisation": {"best_iteration": 3},
    }
    assert ("look at them" in _summary(result)) == said


@pytest.mark.parametrize(
    ("best", "interval", "said"),
    [
        (3, [-0.2, -0.1], None),
        (3, [-0.2, 0.01], "no gain: the 95 % interval of the change goes from -0.200 to 0.010"),
        (3, None, None),
        (0, [0.0, 0.0], "No iteration improved"),
    ],
)
def test_a_run_that_gained_nothing_says_so(best, interval, said) -> None:
    from adjointdpm.cli.learn import _summary

    held_out = {"before": 0.3, "after": 0.2, "examples": 4, "prompts": 2, "interval": interval}
    result = {
        "metric": {"name": "warm"},
        "held_out": held_out,
        "optimisation": {"best_iteration": best},
    }
    if said:
        result["diagnosis"] = {"cause": "noise", "what": "It is small.", "change": "Take more."}
    text = _summary(result)
    assert ("It is small. Take more.\n" in text) == bool(said)
    assert text.startswith(
        "On 4 pictures of 2 prompts, never used for learning, warm goes from 0.300"
    )
    assert (said in text) if said else ("gain" not in text and "No iteration" not in text)


@pytest.mark.parametrize(
    ("high", "sign", "said"),
    [
        (-0.1, 1, "existing word “black” in its place gets 0.250 by itself.\n"),
        (0.1, 1, "gets 0.250 by itself: what was learned is no better than that.\n"),
        (-0.1, -1, "gets -0.250 by itself.\n"),
    ],
)
def test_what_was_learned_is_told_beside_the_word_that_it_started_from(high, sign, said) -> None:
    from adjointdpm.cli.learn import _summary

    held_out = {"before": 0.3, "existing_word": 0.25, "after": 0.2, "examples": 4, "prompts": 2}
    held_out["since"] = {"existing_word": {"change": -0.05, "interval": [-0.2, high]}}
    result = {
        "metric": {"name": "warm", "sign": sign},
        "held_out": held_out,
        "optimisation": {"best_iteration": 3},
        "story": {"views": {"existing_word": "existing word “black”"}},
    }
    assert said in _summary(result)


@pytest.mark.parametrize(
    ("chosen", "by", "said"),
    [
        (0.0, "guard", "Nothing of what was learned was kept"),
        (0.5, "guard", "Strength 0.5 of what was learned was kept: the least"),
        (0.0, "you", "Strength 0 of what was learned was kept, as you asked"),
    ],
)
def test_a_strength_of_which_nothing_is_left_is_told(chosen, by, said) -> None:
    from adjointdpm.cli.learn import _summary

    result = {
        "metric": {"name": "warm"},
        "held_out": {"before": 0.3, "after": 0.2, "examples": 4, "prompts": 2},
        "optimisation": {"best_iteration": 3},
        "strength": {"chosen": chosen, "by": by, "guard_name": "lost", "curve": []},
    }
    assert said in _summary(result)


@pytest.mark.parametrize(
    ("name", "after", "said"),
    [
        ("recognised", 0.9, False),
        ("recognised", 0.8, True),
        ("resembling", 0.75, False),
        ("resembling", 0.33, True),
    ],
)
def test_content_that_new_prompts_lose_is_told(name, after, said) -> None:
    from adjointdpm.cli.learn import _summary

    held_out = {
        "before": 0.3,
        "after": 0.2,
        "examples": 4,
        "prompts": 2,
        name: {"before": 1.0, "after": after},
    }
    result = {
        "metric": {"name": "warm"},
        "held_out": held_out,
        "optimisation": {"best_iteration": 3},
    }
    assert ("content lost" in _summary(result)) == said
    held_out["same_examples"] = True  # the guard has seen them, and they are one's own choice
    assert "content lost" not in _summary(result)


def test_prompts_of_things_that_the_bundled_model_never_learned_get_a_warning() -> None:
    from adjointdpm.cli.learn import _warn_of_unfamiliar

    _warn_of_unfamiliar(["a noto emoji of a fox", "a pizza"])  # warnings are errors in these tests
    with pytest.warns(AdjointDPMWarning, match="'a rocket', 'a guitar'\\. ") as seen:
        _warn_of_unfamiliar(["a rocket", "a fox", "a guitar", "a rocket"])
    assert len(seen) == 1
    many = [f"thing {i}" for i in range(9)]
    with pytest.warns(AdjointDPMWarning, match="and 5 more"):
        _warn_of_unfamiliar(many)
