"""The tasks' commands: what they refuse, config files, and a run on a user's own pipeline."""

import json
import socket
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file

from helpers.audits import FACTS
from helpers.commands import EMBED, SMALL, run


def test_embed_on_a_users_own_pipeline_and_metric(files, monkeypatch, capsys) -> None:
    code, out, err = run(monkeypatch, capsys, *EMBED, *SMALL, "--out", "run")
    assert code == 0, err
    assert "On 16 pictures of one prompt, never used for learning" in out
    result = json.loads(Path("run/result.json").read_text())
    assert result["config"]["prompts"] == ["red fox", "red", "fo re"]
    assert result["config"]["held_out"] == ["fox"]
    assert "recognised" not in result["held_out"]
    assert Path("run/learned_embeds.safetensors").is_file()
    assert "no independent judge" in Path("run/report.html").read_text()
    code, _, err = run(monkeypatch, capsys, *EMBED, *SMALL, "--out", "run")
    assert code == 2
    assert "--resume" in err
    assert run(monkeypatch, capsys, *EMBED, *SMALL, "--out", "run", "--resume")[0] == 0


def test_a_configuration_file_gives_defaults_that_flags_override(
    files, monkeypatch, capsys
) -> None:
    values = {
        "model": "model",
        "prompts": "prompts.txt",
        "metric": "metric.py:score",
        "token": "<t>",
        "initial": "fox",
        "template": "{prompt} {token}",
        "steps": 3,
    }
    values |= {
        "iterations": 1,
        "guidance-scale": 2.0,
        "tracker": "none",
        "device": "cpu",
        "gradient": "truncated:last=1",
    }
    Path("run.yaml").write_text(yaml.safe_dump(values))
    code, _, err = run(
        monkeypatch, capsys, "embed", "--config", "run.yaml", "--steps", 2, "--out", "run"
    )
    assert code == 0, err
    config = json.loads(Path("run/result.json").read_text())["config"]
    assert (config["steps"], config["guidance_scale"], config["gradient"]) == (
        2,
        2.0,
        "truncated:last=1",
    )
    Path("run.yaml").write_text("stepz: 3\n")
    code, _, err = run(monkeypatch, capsys, "embed", "--config", "run.yaml")
    assert code == 2
    assert "stepz" in err
    assert "steps" in err


@pytest.mark.parametrize("command", ["embed", "audit"])
def test_a_users_code_runs_once_a_command(files, monkeypatch, capsys, command: str) -> None:
    once = "with open('ran', 'a') as file:\n    file.write('x')\n"
    Path("code.py").write_text(
        f"import torch\n{once}"
        "def score(images):\n    return images[:, 0].mean((1, 2))\n\n"
        "class Net(torch.nn.Module):\n    classes = ['fox', 'owl']\n"
        "    def forward(self, images):\n"
        "        return torch.stack([1 + images.mean((1, 2, 3)), images.mean((1, 2, 3))], 1)\n\n"
        "def build():\n    return Net()\n"
    )
    Path("foxes.txt").write_text("fox\n")
    arguments = {
        "embed": (*EMBED, *SMALL, "--metric", "code.py:score"),
        "audit": (
            *("audit", "--model", "model", "--prompts", "foxes.txt", "--victim", "code.py:build"),
            *("--steps", 1, "--iterations", 1, "--clean-seeds", 1, "--budget", 0.1),
            *("--no-random-search", "--device", "cpu"),
        ),
    }
    code, _, err = run(monkeypatch, capsys, *arguments[command], "--out", "run")
    assert code == 0, err
    assert Path("ran").read_text() == "x"


def test_what_holds_the_loop_back_can_be_set(files, monkeypatch, capsys) -> None:
    flags = {
        "distance": 0.1,
        "clip": 0.5,
        "checkpoint-every": 1,
        "ema": 0.5,
        "lr": 0.01,
        "preservation": 0.3,
        "patience": 1,
    }
    words = [word for name, value in flags.items() for word in (f"--{name}", value)]
    code, _, err = run(
        monkeypatch,
        capsys,
        *EMBED,
        *SMALL,
        *words,
        "--validate-every",
        1,
        "--lr-schedule",
        "cosine",
        "--out",
        "run",
    )
    assert code == 0, err
    result = json.loads(Path("run/result.json").read_text())
    wanted = {name.replace("-", "_"): value for name, value in flags.items()} | {
        "validate_every": 1,
        "lr_schedule": "cosine",
    }
    assert wanted.items() <= result["config"].items()
    assert wanted.items() <= result["optimisation"]["settings"].items()
    assert (
        "distance" in json.loads(Path("run/history.jsonl").read_text().splitlines()[1])["training"]
    )
    guide = ("guide", "--model", "model", "--prompt", "fox", "--metric", "metric.py:score", *SMALL)
    code, _, err = run(
        monkeypatch, capsys, *guide, "--likelihood", 0.2, "--distance", 0.1, "--out", "noise"
    )
    assert code == 0, err
    assert (
        "likelihood"
        in json.loads(Path("noise/history.jsonl").read_text().splitlines()[1])["training"]
    )
    code, _, err = run(
        monkeypatch, capsys, *guide, "--likelihood", 0.2, "--learn", "embedding", "--out", "words"
    )
    assert code == 2
    assert "likelihood" in err


def test_without_an_initial_word_the_token_starts_at_one_that_the_program_chooses(
    files, monkeypatch, capsys
) -> None:
    place = EMBED.index("--initial")
    given = (*EMBED[:place], *EMBED[place + 2 :], *SMALL, "--out", "run")
    code, _, err = run(monkeypatch, capsys, *given)
    assert code == 0, err
    result = json.loads(Path("run/result.json").read_text())
    assert result["config"]["initial"] in ("red", "fox")  # the only words of one token
    assert run(monkeypatch, capsys, *given, "--resume")[0] == 0


@pytest.mark.slow
def test_guide_takes_its_prompt_from_a_file_and_its_pictures_in_batches(
    files, monkeypatch, capsys
) -> None:
    Path("one.txt").write_text("# one\nred fox\n")
    flags = ("guide", "--model", "model", "--metric", "metric.py:score", *SMALL, "--pictures", 4)
    histories = []
    for name, more in (
        ("file", ("--prompts", "one.txt", "--batch", 2)),
        ("text", ("--prompt", "red fox")),
    ):
        code, _, err = run(monkeypatch, capsys, *flags, *more, "--out", name)
        assert code == 0, err
        histories.append(
            [json.loads(line) for line in Path(name, "history.jsonl").read_text().splitlines()]
        )
    assert len(histories[0]) == 3
    for one, other in zip(*histories, strict=True):
        assert one["validation"]["metric"] == pytest.approx(other["validation"]["metric"], rel=1e-4)


def test_a_command_that_was_refused_can_be_put_right_without_further_flags(
    files, monkeypatch, capsys
) -> None:
    code, _, err = run(monkeypatch, capsys, *EMBED, *SMALL, "--token", "red", "--out", "run")
    assert code == 2
    assert "exists" in err
    assert run(monkeypatch, capsys, *EMBED, *SMALL, "--out", "run")[0] == 0


REFUSED = [
    (("--token", "red"), "exists"),
    (("--initial", "foxes"), "tokens"),
    (("--template", "{prompt}"), "template"),
    (("--metric", "metric.py:blocked"), "blocks gradients"),
    (("--likelihood", 0.5), "likelihood"),
    (("--picture", "text.png"), "text.png"),
    (("--target-module", "nothing"), "nothing"),
]


@pytest.mark.parametrize(("mistake", "message"), REFUSED)
def test_force_keeps_the_old_run_when_the_new_one_is_refused(
    files, monkeypatch, capsys, mistake, message: str
) -> None:
    Image.new("RGB", (32, 32), "teal").save("style.png")
    commands = {
        "--metric": ("guide", "--model", "model", "--prompt", "fox"),
        "--likelihood": (
            "guide",
            "--model",
            "model",
            "--prompt",
            "fox",
            "--metric",
            "metric.py:score",
            "--learn",
            "embedding",
        ),
        "--picture": (
            "guide",
            "--model",
            "model",
            "--prompt",
            "fox",
            "--metric",
            "metric.py:score",
        ),
        "--target-module": (
            "stylize",
            "--model",
            "model",
            "--prompts",
            "prompts.txt",
            "--style",
            "style.png",
        ),
    }
    assert (
        run(monkeypatch, capsys, *EMBED, *SMALL, "--tracker", "tensorboard", "--out", "run")[0] == 0
    )
    before = {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()}
    command = (
        *commands.get(mistake[0], EMBED),
        *SMALL,
        "--tracker",
        "tensorboard",
        "--out",
        "run",
        "--force",
        *mistake,
    )
    code, _, err = run(monkeypatch, capsys, *command)
    assert code == 2, err
    assert message in err
    assert {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("what", "asked"), [("model", "somebody/model"), ("victim", "victim.py:build")]
)
def test_a_replay_takes_code_and_foreign_models_from_the_user_alone(
    files, monkeypatch, capsys, what: str, asked: str
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("network access")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    head = (
        "import torch\nopen('ran', 'w')\nclass Net(torch.nn.Module):\n    classes = ['red', "
        "'fox']\n"
    )
    Path("victim.py").write_text(
        head
        + "    def forward(self, x):\n        return x.mean((2, 3))[:, :2]\n"
        + "def build():\n    return Net()\n"
    )
    facts = FACTS | {
        "examples": [["red fox", 0]],
        "labels": ["red"],
        "verdicts": ["fox"],
        "steps": 1,
        what: asked,
    }
    noise = {"noise": torch.zeros(1, 4, 8, 8), "start": torch.zeros(1, 4, 8, 8)}
    save_file(
        noise,
        "found.safetensors",
        {"facts": json.dumps({"format": "adjointdpm-adversarial-noise"} | facts)},
    )
    code, _, err = run(monkeypatch, capsys, "audit", "--replay", "metric.py")
    assert code == 2
    assert "metric.py" in err
    code, _, err = run(
        monkeypatch, capsys, "audit", "--replay", "found.safetensors", "--target", "dog"
    )
    assert code == 2
    assert "no --target" in err
    code, _, err = run(monkeypatch, capsys, "audit", "--replay", "found.safetensors")
    assert code == 2
    assert f"--{what} {asked}" in err
    assert not Path("ran").exists()
    code, out, err = run(
        monkeypatch,
        capsys,
        "audit",
        "--replay",
        "found.safetensors",
        "--victim",
        "victim.py:build",
        "--model",
        "model",
    )
    assert code == 0, err
    assert "red fox (seed 0)" in out


def test_force_replaces_a_run(files, monkeypatch, capsys) -> None:
    assert run(monkeypatch, capsys, *EMBED, *SMALL, "--out", "run")[0] == 0
    flags = (
        "--prompt",
        "fox",
        "--metric",
        "metric.py:score",
        "--out",
        "run",
        "--tracker",
        "tensorboard",
    )
    code, _, err = run(monkeypatch, capsys, "guide", "--model", "model", *SMALL, *flags, "--force")
    assert code == 0, err
    assert json.loads(Path("run/result.json").read_text())["task"] == "guide"
    assert not Path("run/learned_embeds.safetensors").exists()
    assert Path("run/noise.safetensors").is_file()
    assert list(Path("run/trackers").rglob("events.*"))
    code, _, err = run(monkeypatch, capsys, "guide", "--model", "model", *SMALL, *flags, "--resume")
    assert code == 0, err


@pytest.mark.parametrize(
    ("metric", "judged"), [("color:mood=dusk", True), ("similarity:text=an owl", False)]
)
def test_the_judge_does_not_judge_what_was_optimised_for_it(
    files, monkeypatch, capsys, metric: str, judged: bool
) -> None:
    flags = (
        "--prompt",
        "a noto emoji of an owl",
        "--metric",
        metric,
        "--iterations",
        1,
        "--steps",
        1,
        "--tracker",
        "none",
    )
    code, out, err = run(monkeypatch, capsys, "guide", *flags, "--device", "cpu", "--out", "run")
    assert code == 0, err
    result = json.loads(Path("run/result.json").read_text())
    assert ("recognised" in result["held_out"]) == judged
    # Of a picture drawn in one step the model itself cannot tell what it shows.
    assert (result["guard"] is not None) == judged
    assert ("the guard: share of" in Path("run/report.html").read_text()) == judged
    assert ("independent judge finds" in out) == judged
    assert ("It gave no gradient" in Path("run/report.html").read_text()) == judged


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((*EMBED, "--prompts", "empty.txt"), "no prompts"),
        ((*EMBED, "--prompts", "missing.txt"), "missing.txt"),
        ((*EMBED, "--token", "red"), "exists"),
        ((*EMBED, "--metric", "metric.py:wrong", "--weight", 1, "--weight", 1), "shape"),
        ((*EMBED, "--metric", "nothing"), "nothing"),
        ((*EMBED, "--weight", 1, "--weight", 2), "weights"),
        ((*EMBED, "--gradient", "truncated"), "last="),
        ((*EMBED, "--device", "quantum"), "quantum"),
        ((*EMBED, "--dtype", "int3"), "int3"),
        (
            ("stylize", "--model", "model", "--prompts", "prompts.txt", "--style", "text.png"),
            "text.png",
        ),
        (
            ("stylize", "--model", "model", "--prompts", "prompts.txt", "--style", "none.png"),
            "none.png",
        ),
        (("audit", "--model", "model"), "--prompts"),
        (("audit", "--model", "model", "--prompts", "prompts.txt", "--victim", "nobody"), "nobody"),
        (("audit", "--model", "model", "--prompts", "prompts.txt", "--budget", 0), "budget of 0"),
        (("audit", "--replay", "metric.py", "--target", "dog"), "no --out"),
        (
            ("guide", "--model", "model", "--prompt", "fox", "--metric", "metric.py:blocked"),
            "blocks gradients",
        ),
        (("guide", "--model", "model", "--metric", "metric.py:score"), "--prompts FILE"),
        (
            (
                "guide",
                "--model",
                "model",
                "--metric",
                "metric.py:score",
                "--prompts",
                "prompts.txt",
            ),
            "one prompt",
        ),
        (
            (
                "guide",
                "--model",
                "model",
                "--metric",
                "metric.py:score",
                "--prompt",
                "fox",
                "--pictures",
                3,
                "--batch",
                2,
            ),
            "divide",
        ),
        (("guide", "--model", "model", "--prompt", " ", "--metric", "metric.py:score"), "blank"),
        (
            (
                "guide",
                "--model",
                "model",
                "--prompt",
                "fox",
                "--metric",
                "metric.py:score",
                "--within",
                "l2",
            ),
            "budget",
        ),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing_behind(
    files, monkeypatch, capsys, arguments, message: str
) -> None:
    before = sorted(files.iterdir())
    command, *flags = arguments
    small = () if command == "audit" else SMALL
    code, out, err = run(monkeypatch, capsys, command, "--out", "run", *small, *flags)
    assert code == 2, err
    assert out == ""
    assert message in err.replace("\n", " ")
    assert "Traceback" not in err
    left = [path for path in sorted(files.iterdir()) if path not in before]
    assert all(path.name in ("run", "__pycache__") for path in left)
    assert not (files / "run" / "result.json").exists()


def test_missing_flags_are_named(files, monkeypatch, capsys) -> None:
    code, _, err = run(
        monkeypatch,
        capsys,
        "embed",
        "--model",
        "model",
        "--prompts",
        "prompts.txt",
        "--metric",
        "metric.py:score",
    )
    assert code == 2
    assert "--token" in err
