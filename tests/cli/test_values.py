"""Values of flags and of --config files: bounds with reasons, and nothing read otherwise."""

import os
from pathlib import Path

import pytest

from helpers.commands import EMBED, SMALL, run

GENERATE = ("generate", "red fox", "--model", "model", "--device", "cpu")


@pytest.mark.parametrize(
    ("flag", "value", "reason"),
    [
        ("steps", 10**9, "within hundreds of steps"),
        ("iterations", 10**9, "months"),
        ("batch", 10**9, "fit into memory"),
        ("vectors", 100_000, "fewer tokens"),
        ("vectors", 7, "reads no more tokens"),
        ("seeds-per-prompt", 10**7, "must not overlap"),
        ("seed", -1, "at least 0"),
        ("seed", 2**62, "64 bits"),
        ("lr", 1e30, "at most 1000"),
        ("preservation", 1e30, "at most 1e+06"),
        ("guidance-scale", 1e30, "at most 1000"),
        ("device", "meta", "cannot be used here"),
        ("device", "hpu", "cannot be used here"),
        ("device", "", "cannot be used here"),
        ("reward-device", "meta", "cannot be used here"),
    ],
)
def test_a_value_beyond_its_bound_is_refused_with_the_reason(
    files, monkeypatch, capsys, flag: str, value: object, reason: str
) -> None:
    small = [word for pair in zip(SMALL[::2], SMALL[1::2], strict=True) for word in pair]
    if f"--{flag}" in small:
        place = small.index(f"--{flag}")
        del small[place : place + 2]
    code, _, err = run(monkeypatch, capsys, *EMBED, *small, f"--{flag}", value)
    assert code == 2
    assert reason in " ".join(err.split())
    assert not Path("runs/embed/result.json").exists()


@pytest.mark.parametrize("what", ["generate", "embed"])
def test_more_pictures_than_memory_holds_are_refused(files, monkeypatch, capsys, what) -> None:
    monkeypatch.setattr("adjointdpm.support.memory.free_bytes", lambda device: 1000)
    monkeypatch.setattr("adjointdpm.support.memory._LITTLE", 0)
    words = {
        "generate": (*GENERATE, "--batch", 2, "--steps", 1),
        "embed": (*EMBED, *SMALL, "--batch", 2),
    }
    code, _, err = run(monkeypatch, capsys, *words[what])
    assert code == 2
    assert "of memory, and 1e-06 GB are free" in err


@pytest.mark.parametrize(
    "twice",
    [
        ("--steps", 4, "--steps", 3),
        ("--token", "<v>", "--token", "<u>"),
        ("--out", "a", "--out", "b"),
    ],
)
def test_a_flag_that_has_one_value_is_given_once(files, monkeypatch, capsys, twice) -> None:
    code, _, err = run(monkeypatch, capsys, *EMBED, *twice)
    assert code == 2
    assert "is given" in err
    assert "leave the others out" in err


def test_a_flag_that_is_a_list_is_given_as_often_as_one_likes(files, monkeypatch, capsys) -> None:
    words = ("--target-module", "to_q", "--target-module", "to_k", "--prompts", "prompts.txt")
    words += ("--metric", "metric.py:score", "--model", "model", "--validation", 1, "--rank", 1)
    monkeypatch.setattr(
        "adjointdpm.cli.learn._learn", lambda task, made, *a, **k: found.append(made)
    )
    found: list = []
    code, _, err = run(monkeypatch, capsys, "align", *words, *SMALL, "--guard", "none")
    assert code == 0, err
    assert found[0].target_module == ["to_q", "to_k"]


@pytest.mark.parametrize("word", ["o\udcff/x", "\udcff"])
@pytest.mark.parametrize("flag", ["--out", "--prompt", "--metric", "--model", "--device"])
def test_bytes_that_are_no_text_are_refused_before_the_run(
    files, monkeypatch, capsys, flag: str, word: str
) -> None:
    words = ("guide", "--prompt", "red fox", "--metric", "metric.py:score", "--model", "model")
    place = words.index(flag) if flag in words else len(words)
    words = (*words[:place], *words[place + 2 :], flag, word)
    code, _, err = run(monkeypatch, capsys, *words)
    assert code == 2
    assert r"\udcff" in err
    assert "UTF-8" in err


@pytest.mark.parametrize("flag", ["--prompts", "--config", "--metric"])
@pytest.mark.parametrize("device", ["fifo", "/dev/zero", "/dev/full"])
def test_pipes_and_devices_are_not_read(files, monkeypatch, capsys, flag, device) -> None:
    os.mkfifo("fifo")
    words = [*EMBED]
    if flag in words:
        place = words.index(flag)
        del words[place : place + 2]
    name = f"{device}:score" if flag == "--metric" else device
    code, _, err = run(monkeypatch, capsys, *words, flag, name)
    assert code == 2
    assert device in err


BASE = {
    "model": "model",
    "prompts": "prompts.txt",
    "metric": "metric.py:score",
    "token": "<t>",
    "initial": "fox",
    "template": '"{prompt} {token}"',
    "steps": "2",
    "iterations": "1",
    "guidance_scale": "2",
    "tracker": "none",
    "device": "cpu",
}


def config(*lines: str, **changes: str) -> None:
    entries = BASE | changes
    Path("run.yaml").write_text("\n".join([*(f"{k}: {v}" for k, v in entries.items()), *lines]))


@pytest.mark.parametrize(
    ("text", "value"), [("no", "no"), ("on", "on"), ("010", "010"), ("12:30", "12:30"), ("~", None)]
)
def test_a_text_in_a_config_file_is_what_is_written(
    files, monkeypatch, capsys, text: str, value: str | None
) -> None:
    monkeypatch.setattr(
        "adjointdpm.cli.learn._learn", lambda task, made, *a, **k: found.append(made)
    )
    found: list = []
    config(initial=text)
    code, _, err = run(monkeypatch, capsys, "embed", "--config", "run.yaml")
    assert code == 0, err
    assert found[0].initial == value


def test_numbers_in_a_config_file_are_those_of_the_flags(files, monkeypatch, capsys) -> None:
    monkeypatch.setattr(
        "adjointdpm.cli.learn._learn", lambda task, made, *a, **k: found.append(made)
    )
    found: list = []
    config(steps="010", lr="1e-3", clip="1e1", weight="[1]", pipeline_arg="{height: 16, eta: 0.5}")
    code, _, err = run(monkeypatch, capsys, "embed", "--config", "run.yaml")
    assert code == 0, err
    assert (found[0].steps, found[0].lr, found[0].clip, found[0].weight) == (10, 1e-3, 10.0, [1.0])
    assert found[0].pipeline_arg == ["height=16", "eta=0.5"]


@pytest.mark.parametrize(
    ("key", "text", "reason"),
    [
        ("batch", "yes", "batch"),
        ("steps", "2\nsteps: 3", "'steps' stands there twice"),
        ("validate_every", "1\nvalidate-every: 3", "twice"),
        ("pipeline_arg", "{height: 16, height: 24}", "'height' stands there twice"),
        ("steps", "[2, 3]", "steps must be one value, not a list"),
        ("steps", "{a: 1}", "steps must be one value, not a mapping"),
        ("weight", "[[1]]", "weight must be one value, not a list"),
        ("token", "!!python/object:os.system {}", "token must be one value"),
        ("token", "!!binary aGk=", "token must be plain, without the tag 'binary'"),
        ("token", r'"\ud800"', "surrogate pair"),
        ("token", r'"\0"', "no text"),
        ("steps", "&a [*a]", "steps must be one value"),
        ("lr", ".nan", "lr=nan"),
        ("seed", "9" * 5000, "seed"),
        ("<<", "{steps: 3}", "unknown <<"),
        ("[1]", "2", "must be one value"),
    ],
)
def test_what_a_config_file_may_not_hold_is_named(
    files, monkeypatch, capsys, key: str, text: str, reason: str
) -> None:
    config(**{key: text})
    code, _, err = run(monkeypatch, capsys, "embed", "--config", "run.yaml")
    assert code == 2
    assert reason in " ".join(err.split())


@pytest.mark.parametrize(
    "text", ["", "[]", "text", "[" * 100_000, "- 1", "a: b: c", "--- 1\n--- 2"]
)
def test_a_config_file_that_holds_no_flags_is_refused(files, monkeypatch, capsys, text) -> None:
    Path("run.yaml").write_text(text)
    code, _, err = run(monkeypatch, capsys, "embed", "--config", "run.yaml")
    assert code == 2
    assert "--config run.yaml" in " ".join(err.split())


@pytest.mark.parametrize(
    ("budgets", "reason"),
    [((0.2, 0.2000000001), "too close to tell apart"), ((1e30,), "at most 10"), ((0,), "above 0")],
)
def test_budgets_that_collide_or_mean_nothing_are_refused(
    files, monkeypatch, capsys, budgets: tuple[float, ...], reason: str
) -> None:
    words = [word for budget in budgets for word in ("--budget", budget)]
    more = ("--model", "model", "--victim", "metric.py:score", "--prompts", "prompts.txt")
    code, _, err = run(monkeypatch, capsys, "audit", *more, *words)
    assert code == 2
    assert reason in err or (reason == "above 0" and "positive" in err)


@pytest.mark.parametrize("flag", ["--model", "--out", "--prompts", "--metric", "--config"])
def test_a_path_that_is_too_long_is_refused_in_a_line(files, monkeypatch, capsys, flag) -> None:
    words = [*EMBED]
    if flag in words:
        place = words.index(flag)
        del words[place : place + 2]
    name = "x" * 300 + (".py:score" if flag == "--metric" else "")
    code, _, err = run(monkeypatch, capsys, *words, *SMALL, flag, name)
    assert code == 2
    assert any(words in err for words in ("too long", "does not exist", "has 300 bytes"))
    assert "xxx" in err


def test_a_link_to_itself_is_refused_in_a_line(files, monkeypatch, capsys) -> None:
    Path("loop").symlink_to("loop")
    for words in (
        ("report", "loop"),
        (*EMBED, *SMALL, "--out", "loop"),
        (*GENERATE, "--out", "loop"),
    ):
        code, _, err = run(monkeypatch, capsys, *words)
        assert code == 2
        assert "loop" in err
