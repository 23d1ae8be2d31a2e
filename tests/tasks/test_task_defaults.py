"""What tasks take where nothing is said, and presets that stand for several settings."""

from typing import Any

import pytest

from adjointdpm.errors import InvalidInputError, PromptError, UnknownNameError
from adjointdpm.tasks.align import AlignConfig
from adjointdpm.tasks.audit.config import AuditConfig
from adjointdpm.tasks.embed import EmbedConfig
from adjointdpm.tasks.guide_config import PRESETS, GuideConfig
from adjointdpm.tasks.stylize import StylizeConfig

METRIC = ["color:mood=dusk"]
PROMPTS = [f"a noto emoji of a {name}" for name in ("cat", "dog", "owl", "fox")]


def guide(**changes: Any) -> GuideConfig:
    return GuideConfig(metric=METRIC, prompt="a fox", **changes)


@pytest.mark.parametrize(
    ("learn", "lr", "backtrack", "pictures"),
    [("noise", 0.3, 0, 1), ("both", 0.05, 0, 1), ("embedding", 0.05, 2, 4)],
)
def test_noise_and_embeddings_have_settings_of_their_own(
    learn: str, lr: float, backtrack: int, pictures: int
) -> None:
    config = guide(learn=learn)
    assert (config.lr, config.backtrack, config.pictures) == (lr, backtrack, pictures)
    settings = config.loop_settings()
    assert (settings.lr, settings.backtrack, settings.step_examples) == (lr, backtrack, pictures)
    given = guide(learn=learn, lr=0.3, backtrack=1, pictures=2)
    assert (given.lr, given.backtrack, given.pictures) == (0.3, 1, 2)


@pytest.mark.parametrize("optimizer", ["normalized", "adam", "prodigy", "lbfgs"])
def test_the_learning_rate_is_that_of_what_is_learned_and_of_the_optimizer(optimizer: str) -> None:
    free = optimizer in ("prodigy", "lbfgs")
    learning: dict[str, Any] = {"metric": METRIC, "prompts": PROMPTS, "optimizer": optimizer}
    assert AlignConfig(**learning).lr == (1.0 if free else 0.03)
    assert AlignConfig(**learning, full=True).lr == (1.0 if free else 0.004)
    assert AlignConfig(**learning, full=True, lr=0.2).loop_settings().lr == 0.2
    assert guide(optimizer=optimizer).lr == (1.0 if free else 0.3)


def test_there_is_time_for_smaller_steps_before_a_run_is_given_up() -> None:
    learning: dict[str, Any] = {"metric": METRIC, "prompts": PROMPTS}
    configs = [
        AlignConfig(**learning),
        StylizeConfig(style="x.png", prompts=PROMPTS),
        EmbedConfig(token="<x>", **learning),
        guide(learn="embedding"),
    ]
    settings = [config.loop_settings() for config in configs]
    assert all(0 < s.backtrack < s.patience for s in settings)


@pytest.mark.parametrize(
    ("learn", "iterations", "patience"),
    [("noise", 90, 30), ("both", 90, 30), ("embedding", 30, 15)],
)
def test_noise_has_further_to_go(learn: str, iterations: int, patience: int) -> None:
    settings = guide(learn=learn).loop_settings()
    assert (settings.iterations, settings.patience) == (iterations, patience)
    given = guide(learn=learn, iterations=5, patience=3).loop_settings()
    assert (given.iterations, given.patience) == (5, 3)


@pytest.mark.parametrize(("steps", "last"), [(1, 1), (4, 2), (20, 5), (50, 13)])
def test_tasks_differentiate_the_last_quarter_of_the_steps(steps: int, last: int) -> None:
    learning = {"metric": METRIC, "prompts": PROMPTS, "steps": steps}
    configs = [guide(steps=steps), EmbedConfig(token="<x>", **learning), AlignConfig(**learning)]
    assert {config.gradient for config in configs} == {f"truncated:last={last}"}
    assert guide(gradient="exact").gradient == "exact"
    assert AuditConfig(prompts=PROMPTS).gradient == "exact"


def test_a_preset_is_its_settings_and_nothing_that_contradicts_them() -> None:
    config = guide(preset="reno")
    assert {name: getattr(config, name) for name in PRESETS["reno"]} == PRESETS["reno"]
    assert config.loop_settings().regularisers == {"norm": 0.01}
    assert guide(preset="reno", optimizer="sgd", seed=3).seed == 3
    for name, value in {"lr": 0.1, "optimizer": "adam", "learn": "both", "clip": 2.0}.items():
        with pytest.raises(InvalidInputError, match=rf"{name}={value!r} contradicts preset='reno'"):
            guide(preset="reno", **{name: value})
    with pytest.raises(UnknownNameError, match="choose one of reno"):
        guide(preset="dflow")


def test_a_batch_is_no_larger_than_the_training_set_unless_it_was_asked_for() -> None:
    few: dict[str, Any] = {"metric": METRIC, "prompts": PROMPTS, "token": "<x>"}
    assert EmbedConfig(**few).batch == 3  # one of four is held out
    assert EmbedConfig(**few, seeds_per_prompt=2).batch == 4
    with pytest.raises(PromptError, match="a batch of 5"):
        EmbedConfig(**few, batch=5)


def test_stylize_needs_a_picture_and_prompts_alone() -> None:
    config = StylizeConfig(style="style.png", prompts=PROMPTS)
    assert config.optimizer == "normalized"
    assert config.strength == "auto"
