"""What an audit says in words: its story, and its verdict on the victim."""

from collections.abc import Sequence
from typing import Any

from adjointdpm.tasks.audit.clean_test import CleanTest
from adjointdpm.tasks.audit.setting import Setting, Target
from adjointdpm.tasks.learning import Story


def verdict(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """At which budget half the prompts are fooled, along the gradient and by random search.

    Args:
        rows: those of one target, smallest budget first.

    Returns:
        `half_at` and `random_half_at`, the smallest budget tried within which at least half are
        fooled, or None; and `text`.

    """
    searched = rows[-1]["random_search"] is not None
    half = next((row for row in rows if row["rate"] >= 0.5), None)
    random = next((row for row in rows if searched and row["random_search"] >= 0.5), None)
    last = rows[-1]
    aim = "fooled" if last["target"] is None else f"taken for “{last['target']}”"
    if half is None:
        text = (
            f"Fewer than half of the {last['examples']} prompts are {aim} within a budget of "
            f"{last['budget']:g}, the largest tried: {last['rate']:.0%}"
        )
    else:
        text = (
            f"Half of the {last['examples']} prompts are {aim} within a budget of "
            f"{half['budget']:g} ({half['rate']:.0%})"
        )
    if random is not None:
        text += (
            f"; random search of the same cost needs {random['budget']:g} "
            f"({random['random_search']:.0%})"
        )
    elif searched:
        text += (
            f"; random search of the same cost fools {last['random_search']:.0%} within "
            f"{last['budget']:g}"
        )
    found = {"half_at": half and half["budget"], "random_half_at": random and random["budget"]}
    return {"target": last["target"], **found, "text": f"{text}."}


def tell_story(
    setting: Setting,
    clean: CleanTest,
    rows: Sequence[dict[str, Any]],
    verdicts: Sequence[dict[str, Any]],
    replay: str,
) -> Story:
    """The words of the report."""
    config, victim = setting.config, setting.victim
    counted = "An attack counts as a success only if an independent judge still sees what the "
    counted = f"{counted}prompt names." if setting.recognise is not None else ""
    first = [
        (budget, view) for target, budget, view in setting.views if target == setting.targets[0]
    ]
    views = {view: f"budget {budget:g}" for budget, view in first}
    return Story(
        title=f"How easily {victim.name} is fooled",
        lead="Harmless prompts, and the initial noise moved a little, along the gradient through "
        f"{config.steps} sampler steps, until the victim sees {_aims(setting)}. Nobody painted "
        f"these pictures: the model draws them from a noise close to the one it started from. "
        f"{' '.join(one['text'] for one in verdicts)} {counted}".strip(),
        views={"before": f"clean: {victim.name} is right"} | views,
        how=_how(setting, clean, rows),
        use="Purpose: to measure and mend a classifier. Every finding can be replayed. The folder "
        "`training_pictures` holds the clean pictures and the findings by their true class, as "
        "torchvision's `ImageFolder` reads them, to train the victim on"
        + (": all but those that the judge refused." if setting.recognise is not None else ".")
        + " Keep some findings aside, to test with:",
        code=[replay],
    )


def _aims(setting: Setting) -> str:
    """What the victim shall see."""

    def aim(target: Target) -> str:
        if target.name is None:
            return f"anything but the right class ({len(setting.victim.groups)} classes)"
        return f"“{target.name}”"

    return ", and then ".join(map(aim, setting.targets))


def _how(setting: Setting, clean: CleanTest, rows: Sequence[dict[str, Any]]) -> list[str]:
    config = setting.config
    aside = len(setting.set_aside)
    words = []
    if aside:
        some = "; ".join(setting.set_aside[:10])
        words = [
            f"Set aside: {aside} of {len(config.prompts)} prompts, which name nothing that the "
            f"victim has a class for ({some}{'; …' if aside > 10 else ''})."
        ]
    unit = "largest change of any number in the noise"
    if config.within == "l2":
        unit = "root mean square, in standard deviations of the noise"
    searched = ""
    if config.random_search:
        searched = (
            f" Random search draws {rows[0]['random_tries']} noises at the edge of each, which "
            f"costs as many network calls (a VJP is two)."
        )
    several = ""
    if len(config.budget) > 1:
        several = (
            " What is fooled within a budget stays as it is; the others go on from there within "
            "the next, along the gradient as well as in random search."
        )
    return [
        *words,
        f"Of {len(setting.labels)} prompts, the victim gets {len(clean.examples)} right on at "
        f"least {config.least_right:.0%} of {config.clean_seeds} clean pictures; only these are "
        f"attacked, each from one clean picture that it gets right.",
        f"Budget: {unit}. At most {config.iterations} steps of projected gradient descent on the "
        f"difference of logits for each budget.{searched}{several}",
    ]
