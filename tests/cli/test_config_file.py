"""`--config` with the config.yaml of a run folder repeats that run, whatever settings it had."""

import json
import shlex
from pathlib import Path

import pytest
import torch
import yaml
from safetensors import safe_open

from adjointdpm.runs.folder import png
from adjointdpm.tasks.demo import reference_pattern
from helpers.commands import run

VICTIM = """
import torch
class Net(torch.nn.Module):
    classes = ["fox", "red"]
    def forward(self, images):
        return torch.stack([0.9 - images[:, 0].mean((1, 2)), torch.zeros(len(images))], 1)
def build():
    return Net()
"""
METRIC = ("--metric", "metric.py:score")
COMMON = "--model model --device cpu --steps 2 --guidance-scale 2.5 --sampler euler --seed 3"
LOOP = (
    f"{COMMON} --iterations 2 --lr 0.01 --clip 0.7 --preservation 0.3 --ema 0.5 --distance 0.1 "
    f"--checkpoint-every 1 --patience 1"
)
SETS = (
    f"{LOOP} --lr-schedule cosine --accumulate 2 --batch 1 --validate-every 1 --prompts prompts.txt"
)

# What each command learns, and flags: every one that decides the result differs from its default in
# at least one of them.
RUNS = {
    "embed": (
        "learned_embeds.safetensors",
        f"{SETS} --metric metric.py:score --metric metric.py:score --weight 1 --weight 0.5 --token "
        f"<t> --initial fox --vectors 2 --template '{{token}} {{prompt}}' --max-norm 0.9 --tracker "
        f"none --gradient truncated:last=1 --dtype float64",
    ),
    "stylize": (
        "pytorch_lora_weights.safetensors",
        f"{SETS} --style style.png --rank 2 --alpha 3 --target-module conv1 --target-module to_q "
        f"--metric metric.py:score --weight 1 --weight 0.5",
    ),
    "align": (
        "pytorch_lora_weights.safetensors",
        f"{SETS} --metric metric.py:score --guard guard.py:blue --guard-bound 9 --clip-reward 0.1 "
        f"--strength 0.5 --strength-pictures 2 --kl 0.5 --rank 2 --alpha 3 --validation 2",
    ),
    "guide": (
        "noise.safetensors",
        f"{LOOP} --metric metric.py:score --weight 2 --prompt 'red fox' --likelihood 0.1 --learn "
        f"both --within l2 --budget 0.5 --pictures 4 --batch 2",
    ),
    "audit": (
        "adversarial_0.4.safetensors",
        f"{COMMON} --prompts foxes.txt --victim victim.py:build --transfer victim.py:build "
        "--target red --budget 0.4 --budget 0.2 --within linf --clean-seeds 2 --least-right 0.4 "
        f"--iterations 1 --batch 1 --preservation 0.1 --no-random-search",
    ),
}


@pytest.fixture
def folder(files) -> Path:
    """A folder with all that the runs need; the working directory."""
    Path("style.png").write_bytes(png(reference_pattern()))
    Path("victim.py").write_text(VICTIM)
    Path("guard.py").write_text("def blue(images):\n    return images[:, 2].mean((1, 2))\n")
    Path("foxes.txt").write_text("fox\nfo fox\n")
    return files


def content(path: Path) -> dict[str, torch.Tensor]:
    with safe_open(path, "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no mapping


def config_of(name: str) -> dict:
    return yaml.safe_load(Path(name, "config.yaml").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("command", RUNS)
def test_the_config_of_a_run_repeats_it_bit_for_bit(
    folder, monkeypatch, capsys, command: str
) -> None:
    if command == "stylize":
        pytest.importorskip("efficientnet_lite_pytorch")
    artefact, flags = RUNS[command]
    code, _, err = run(monkeypatch, capsys, command, *shlex.split(flags), "--out", "first")
    assert code == 0, err
    for name in ("prompts.txt", "foxes.txt"):
        Path(name).unlink()  # a run's config holds the prompts themselves
    code, _, err = run(
        monkeypatch,
        capsys,
        command,
        "--config",
        "first/config.yaml",
        "--out",
        "again",
        "--device",
        "cpu",
    )
    assert code == 0, err
    assert Path("again/config.yaml").read_text() == Path("first/config.yaml").read_text()
    first, again = content(Path("first", artefact)), content(Path("again", artefact))
    assert first.keys() == again.keys()
    assert all(torch.equal(first[key], again[key]) for key in first)


@pytest.mark.slow
def test_a_flag_overrides_the_config_of_a_run(folder, monkeypatch, capsys) -> None:
    small = (
        "--model",
        "model",
        "--device",
        "cpu",
        "--steps",
        2,
        "--iterations",
        1,
        "--tracker",
        "none",
        *METRIC,
    )
    assert (
        run(
            monkeypatch,
            capsys,
            "guide",
            *small,
            "--prompt",
            "red fox",
            "--pictures",
            2,
            "--out",
            "first",
        )[0]
        == 0
    )
    Path("one.txt").write_text("fox\n")
    for name, flags, prompt in (
        ("text", ("--prompt", "fo"), "fo"),
        ("file", ("--prompts", "one.txt"), "fox"),
    ):
        more = ("--iterations", 3, "--pictures", 3, "--tracker", "tensorboard", "--out", name)
        code, _, err = run(
            monkeypatch,
            capsys,
            "guide",
            "--config",
            "first/config.yaml",
            "--device",
            "cpu",
            *flags,
            *more,
        )
        assert code == 0, err
        config = config_of(name)
        assert (config["prompt"], config["prompts"], config["pictures"]) == (prompt, [], 3)
        assert config["tracker"] == ["tensorboard"]
        assert config["steps"] == 2
        # What the first run had not been given follows the flags: all pictures in a batch.
        settings = json.loads(Path(name, "result.json").read_text())["optimisation"]["settings"]
        chosen = {"iterations": 3, "batch": 3, "accumulate": 1}
        assert chosen.items() <= settings.items()


def test_prompts_of_the_config_and_of_flags_mix_without_a_new_split(
    folder, monkeypatch, capsys
) -> None:
    flags = (
        "--model",
        "model",
        "--device",
        "cpu",
        *METRIC,
        "--token",
        "<t>",
        "--initial",
        "fox",
        "--template",
        "{prompt} {token}",
        "--batch",
        2,
        "--steps",
        1,
        "--iterations",
        1,
    )
    Path("listed.yaml").write_text(
        yaml.safe_dump({"prompts": ["red fox", "fox", "red", "fo re"], "tracker": "none"})
    )
    code, _, err = run(
        monkeypatch, capsys, "embed", *flags, "--config", "listed.yaml", "--out", "first"
    )
    assert code == 0, err
    assert (config_of("first")["prompts"], config_of("first")["held_out"]) == (
        ["red fox", "red", "fo re"],
        ["fox"],
    )
    Path("other.txt").write_text("fo\nre\nred re\n")
    given = (
        "--config",
        "first/config.yaml",
        "--device",
        "cpu",
        "--prompts",
        "other.txt",
        "--out",
        "second",
    )
    code, _, err = run(monkeypatch, capsys, "embed", *given)
    assert code == 0, err
    assert (config_of("second")["prompts"], config_of("second")["held_out"]) == (
        ["fo", "re", "red re"],
        ["fox"],
    )


RUN = {
    "task": "embed",
    "model": "model",
    "metric": ["metric.py:score"],
    "token": "<t>",
    "prompts": ["fox", "red"],
    "held_out": ["fo"],
}
# What other commands have of it.
BASE = {"guide": ("model", "metric", "prompts"), "audit": ("model", "prompts")}


@pytest.mark.parametrize(
    ("command", "change", "messages"),
    [
        ("stylize", {}, ("`embed`", "`stylize`")),
        ("generate", {}, ("--config",)),
        ("embed", {"task": "demo"}, ("`demo`", "`embed`")),
        ("embed", {"likelihood": 0.5}, ("unknown likelihood", "distance")),
        ("embed", {"optimisation": {"lr": 0.5}}, ("`optimisation`", "beside the other keys")),
        ("embed", {"learning_rate": 0.5}, ("`learning_rate` is now called `lr`",)),
        ("embed", {"schedule": "cosine"}, ("`schedule` is now called `lr_schedule`",)),
        ("embed", {"max-gradient-norm": 1}, ("`max_gradient_norm` is now called `clip`",)),
        ("embed", {"weights": [1], "trackers": []}, ("`tracker`; `weights` is now", "`weight`")),
        ("stylize", {"task": "stylize", "target_modules": []}, ("now called `target_module`",)),
        ("audit", {"task": "audit", "budgets": [1]}, ("`budgets` is now called `budget`",)),
        ("audit", {"task": "audit", "search": False}, ("now called `random_search`",)),
        ("embed", {"colour": "red"}, ("unknown colour",)),
        ("embed", {"prompts": []}, ("--prompts", "[]")),
        ("embed", {"held_out": ["fo", " "]}, ("--held-out", "blank")),
        ("embed", {"held_out": ["fox"]}, ("both trained on and held out",)),
        ("guide", {"task": "guide"}, ("one prompt", "not 2")),
        ("guide", {"task": "guide", "prompts": ["fox"], "prompt": "red"}, ("one prompt",)),
        ("guide", {"task": "guide", "prompts": ["fox"], "accumulate": 3}, ("accumulate",)),
        (
            "guide",
            {"task": "guide", "prompts": ["fox"], "pictures": 3, "batch": 2},
            ("batch=2", "pictures=3"),
        ),
    ],
)
def test_a_config_that_cannot_be_repeated_is_refused_before_anything_is_loaded(
    folder, monkeypatch, capsys, command: str, change: dict, messages: tuple[str, ...]
) -> None:
    values = {key: RUN[key] for key in BASE.get(command, RUN)} | change
    Path("run.yaml").write_text(yaml.safe_dump(values))
    code, out, err = run(monkeypatch, capsys, command, "--config", "run.yaml", "--out", "out")
    assert code == 2
    assert out == ""
    assert all(message in err for message in messages), err
    assert not Path("out").exists()
