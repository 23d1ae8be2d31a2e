"""Flags are the fields of the config dataclasses: their names, defaults and help."""

from dataclasses import MISSING, fields
from typing import Any

import pytest
import typer

from adjointdpm import errors
from adjointdpm.cli import app
from adjointdpm.cli.options import Run, option
from adjointdpm.tasks.align import AlignConfig
from adjointdpm.tasks.audit.config import AuditConfig
from adjointdpm.tasks.embed import EmbedConfig
from adjointdpm.tasks.guide_config import GuideConfig
from adjointdpm.tasks.stylize import StylizeConfig

COMMANDS = typer.main.get_command(app).commands  # pyright: ignore[reportAttributeAccessIssue]
CONFIGS = {
    "embed": EmbedConfig,
    "stylize": StylizeConfig,
    "align": AlignConfig,
    "guide": GuideConfig,
    "audit": AuditConfig,
}
SAMPLER = {"guidance_scale": None, "sampler": None, "gradient": "", "seed": 0}
LOOP = {
    "steps": 20,
    "ema": 0.0,
    "distance": 0.0,
    "clip": 1.0,
    "checkpoint_every": 5,
    "weight": [],
    "tracker": ["tensorboard"],
}
MINIBATCHES = {
    "batch": 2,
    "accumulate": 1,
    "lr_schedule": "linear",
    "validate_every": 5,
    "patience": 2,
    "held_out": [],
}
# What people's scripts rely on.
DEFAULTS: dict[str, dict[str, Any]] = {
    "embed": SAMPLER
    | LOOP
    | MINIBATCHES
    | {
        "initial": None,
        "template": None,
        "vectors": 1,
        "batch": 4,
        "validate_every": 4,
        "patience": 3,
        "max_norm": 2.0,
        "lr": 0.5,
        "preservation": 0.3,
    },
    "stylize": SAMPLER
    | LOOP
    | MINIBATCHES
    | {
        "metric": [],
        "full": False,
        "rank": 8,
        "alpha": None,
        "target_module": [],
        "lr": None,
        "patience": 6,
        "preservation": 0.5,
    },
    "align": SAMPLER
    | LOOP
    | MINIBATCHES
    | {
        "lr": None,
        "patience": 6,
        "full": False,
        "rank": 8,
        "guard": None,
        "guard_bound": None,
        "clip_reward": None,
        "strength": "auto",
        "held_out_seeds": None,
        "held_out": [],
    },
    "guide": SAMPLER
    | LOOP
    | {
        "prompt": "",
        "prompts": [],
        "learn": "noise",
        "within": "spectrum",
        "budget": None,
        "picture": None,
        "pictures": None,
        "batch": None,
        "iterations": None,
        "patience": None,
        "lr": None,
        "preservation": 0.2,
        "likelihood": 0.0,
    },
    "audit": SAMPLER
    | {
        "victim": "efficientnet-lite0",
        "target": [],
        "budget": [0.05, 0.1, 0.2, 0.3],
        "within": "l2",
        "transfer": None,
        "clean_seeds": 20,
        "least_right": 0.8,
        "random_search": True,
        "steps": 10,
        "iterations": 10,
        "batch": 4,
        "preservation": 0.0,
    },
}


def default(item: Any) -> Any:
    return item.default if item.default_factory is MISSING else item.default_factory()


@pytest.mark.parametrize("command", CONFIGS)
def test_flags_are_fields_with_their_names_and_defaults(command: str) -> None:
    flags = {flag.name: flag for flag in COMMANDS[command].params}
    for item in (*fields(CONFIGS[command]), *fields(Run)):
        if not item.init:
            assert item.name not in flags
            continue
        assert f"--{item.name.replace('_', '-')}" in flags[item.name].opts
        wanted = default(item)
        if item.name in ("prompts", "held_out", "out"):  # a file; and a folder for each command
            continue
        assert flags[item.name].required == (wanted is MISSING)
        assert wanted is MISSING or flags[item.name].default in (wanted, wanted or None)


@pytest.mark.parametrize("command", CONFIGS)
def test_defaults_are_those_that_people_rely_on(command: str) -> None:
    found = {item.name: default(item) for item in fields(CONFIGS[command])}
    assert DEFAULTS[command].items() <= found.items()


@pytest.mark.parametrize("command", COMMANDS)
def test_every_flag_says_what_it_is_for(command: str) -> None:
    for flag in COMMANDS[command].params:
        assert flag.name == "context" or len(flag.help) > 8, flag.name


def test_flags_stand_under_titles() -> None:
    titles = {flag.name: flag.rich_help_panel for flag in COMMANDS["embed"].params}
    assert titles["token"] == titles["prompts"] == "What to learn"
    assert titles["steps"] == titles["gradient"] == "Sampler"
    assert titles["lr"] == titles["preservation"] == "Optimisation"
    assert titles["model"] == titles["tracker"] == titles["config"] == "Run"


def test_help_is_the_first_sentence_of_the_nearest_entry() -> None:
    assert option(GuideConfig, "batch").help == "Pictures in one graph; by default all of them."
    assert option(EmbedConfig, "batch").help != option(GuideConfig, "batch").help
    assert "See" not in option(GuideConfig, "within").help


def test_without_held_out_prompts_every_fourth_is_held_out() -> None:
    prompts = ["a", "b", "c", "d", "e", "f"]
    config = EmbedConfig(token="<t>", metric=["color:mood=dusk"], prompts=prompts)
    assert (config.prompts, config.held_out) == (["a", "c", "d", "e"], ["b", "f"])
    with pytest.raises(errors.PromptError, match=r"one prompt.*--held-out"):
        EmbedConfig(token="<t>", metric=["color:mood=dusk"], prompts=["a"], batch=1)


@pytest.mark.parametrize("name", ["steps", "iterations", "batch", "validation", "held_out_seeds"])
def test_counts_below_one_are_refused(name: str) -> None:
    with pytest.raises(errors.InvalidInputError, match=f"{name}=0"):
        EmbedConfig(token="<t>", metric=["color:mood=dusk"], prompts=["a", "b"], **{name: 0})
