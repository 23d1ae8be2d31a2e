"""The attack on a block of examples: every target and budget, with random search beside it.

The budgets come in ascending order. An example that is fooled within one stays as it is; the
others go on from where they are. Random search is held to the same: it goes on with those that it
has not fooled yet.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from adjointdpm.runs.resumable_steps import Once, Saved
from adjointdpm.tasks.audit.attack import attack
from adjointdpm.tasks.audit.clean_test import CleanExample
from adjointdpm.tasks.audit.goal import Findings, Goal
from adjointdpm.tasks.audit.picture_store import PictureStore
from adjointdpm.tasks.audit.random_search import random_search
from adjointdpm.tasks.audit.setting import Setting, Target, label_of
from adjointdpm.variables import Noise


@dataclass(frozen=True)
class Cost:
    """What an attack within one budget costs at most, in pictures without gradient.

    Args:
        pictures: what it costs.

    """

    pictures: float

    @property
    def tries(self) -> int:
        """Random noises that cost as much."""
        return math.ceil(self.pictures - 1e-9)  # a cost such as 3.9 is not exact in binary


Tell = Callable[[str, float], None]  # what is going on, and the share of the block that is done


def attack_block(
    setting: Setting,
    cost: Cost,
    block: list[CleanExample],
    pictures: PictureStore,
    tell: Tell,
    once: Once,
) -> Saved:
    """Attack the examples of a block, write their pictures, and say what was found.

    Returns:
        The noises by view, each in the order of the block; and the facts `findings`, one for each
        example, and by view `history` and `calls`.

    """
    findings = [
        {
            "number": e.number,
            "prompt": e.example.prompt,
            "seed": e.example.seed,
            "label": setting.victim.groups[e.label],
            "picture": pictures.name(e.number, "clean"),
            "attacks": [],
        }
        for e in block
    ]
    for e in block:
        pictures.add_to_training(e.number, "clean", e.label)
    noises: dict[str, Tensor] = {}
    facts: dict[str, dict[str, Any]] = {"history": {}, "calls_by_view": {}}
    for number, target in enumerate(setting.targets):
        rows = [i for i, e in enumerate(block) if e.label != target.group]
        if not rows:
            continue
        attacked = _BlockAttack(setting, cost, target, [block[i] for i in rows], pictures, once)
        for budget in setting.config.budget:
            view = target.view(budget, number == 0)
            done = partial(_share_done, setting, view)
            found = attacked.run(budget, view, lambda what, part, at=done: tell(what, at(part)))
            for i, row in zip(rows, found, strict=True):
                findings[i]["attacks"].append(row)
            noises[view] = attacked.noise.clone()
            facts["history"][view] = attacked.history[view]
            facts["calls_by_view"][view] = attacked.calls[view]
    return noises, facts | {"findings": findings}


def _share_done(setting: Setting, view: str, part: float) -> float:
    views = [name for _, _, name in setting.views]
    return (views.index(view) + part) / len(views)


class _BlockAttack:
    """The attacks of one target on a block: where each example is, and what random search found."""

    def __init__(
        self,
        setting: Setting,
        cost: Cost,
        target: Target,
        block: list[CleanExample],
        pictures: PictureStore,
        once: Once,
    ) -> None:
        self.setting, self.cost, self.target = setting, cost, target
        self.block, self.pictures, self.once = block, pictures, once
        self.examples = [e.example for e in block]
        labels = torch.tensor([e.label for e in block])
        self.goal = Goal(setting.victim, labels, target.group)
        self.start = torch.cat([setting.render.noise_of(e) for e in self.examples])
        self.noise = self.start.to(torch.promote_types(torch.float32, self.start.dtype)).clone()
        self.steps = torch.zeros(len(block), dtype=torch.long)
        self.success = torch.zeros(len(block), dtype=torch.bool)
        self.random = torch.zeros(len(block), dtype=torch.bool)
        self.tries = 0
        self.rows: list[dict[str, Any]] = [{} for _ in block]
        self.history: dict[str, list[int]] = {}
        self.calls: dict[str, int] = {}
        self.known = self._known_to_second()

    def run(self, budget: float, view: str, tell: Tell) -> list[dict[str, Any]]:
        """Attack those that are not fooled yet; a row for each example."""
        going = (~self.success).nonzero()[:, 0]
        self.history[view], self.calls[view] = [len(self.block)], 0
        if len(going) > 0:
            self._attack(going, budget, view, tell)
        rows = [row | {"budget": budget, "view": view} for row in self.rows]
        if self.setting.config.random_search:
            self._search(budget, view, tell)
            for row, hit in zip(rows, self.random.tolist(), strict=True):
                row |= {"random_search": hit, "random_tries": self.tries}
        return rows

    def _noise(self, rows: Tensor, budget: float) -> Noise:
        """The noise of some examples, as learned so far, within a budget."""
        examples = [self.examples[i] for i in rows.tolist()]
        within = self.setting.config.within
        noise = Noise(examples, self.start[rows], within=within, budget=budget)
        with torch.no_grad():
            noise.noise.copy_(self.noise[rows])
        return noise

    def _attack(self, going: Tensor, budget: float, view: str, tell: Tell) -> None:
        config, noise = self.setting.config, self._noise(going, budget)
        history: list[int] = []
        before = len(self.block) - len(going)

        def progress(iteration: int, fooled: int) -> None:
            history.append(before + fooled)
            what = f"budget {budget:g}: {before + fooled} of {len(self.block)} fooled"
            tell(what, iteration / config.iterations / (1 + config.random_search))

        def work() -> Saved:
            found = attack(
                self.setting.render,
                self.goal.rows(going),
                noise.examples,
                noise,
                iterations=config.iterations,
                batch=config.batch,
                preservation=config.preservation,
                accept=self.setting.recognise,
                on_iteration=progress,
                once=lambda part, make: self.once(f"attack-{view}/{part}", make),
            )
            return asdict(found), {"history": history}

        tensors, facts = self.once(f"attack-{view}", work)
        self.history[view], self.calls[view] = facts["history"], facts.get("calls", 0)
        self._take(going, Findings(**tensors), budget, view)

    def _take(self, going: Tensor, found: Findings, budget: float, view: str) -> None:
        """Take over what an attack found: noises, rows, and pictures on disk."""
        agrees = self._judged(found.pictures, going)
        success = found.fooled if agrees is None else found.fooled & agrees
        with torch.no_grad():
            self.noise[going] = found.noise.to(self.noise)
        self.steps[going] += found.iterations
        self.success[going] = success
        natural = self._noise(going, budget).naturalness()
        transfers = self._transfers(found.pictures, going)
        for j, i in enumerate(going.tolist()):
            number, label = self.block[i].number, self.block[i].label
            self.rows[i] = {
                "target": self.target.name,
                "verdict": self.setting.victim.groups[int(found.verdicts[j])],
                "fooled": bool(found.fooled[j]),
                "judge_agrees": None if agrees is None else bool(agrees[j]),
                "success": bool(success[j]),
                "steps": int(self.steps[i]),
                "transfer": bool(transfers[j]) if success[j] and self.known[i] else None,
                "naturalness": natural[j],
                "picture": self.pictures.write(number, view, found.pictures[j]),
            }
            if success[j]:
                self.pictures.add_to_training(number, view, label)

    def _judged(self, pictures: Tensor, going: Tensor) -> Tensor | None:
        if self.setting.recognise is None:
            return None
        prompts = [self.examples[i].prompt for i in going.tolist()]
        return torch.tensor(self.setting.recognise(pictures, prompts), dtype=torch.bool)

    def _search(self, budget: float, view: str, tell: Tell) -> None:
        """Let random search go on, with as many network calls as the attack has at most."""
        going = (~self.random).nonzero()[:, 0]
        first, self.tries = self.tries, self.tries + self.cost.tries
        if len(going) == 0:
            return
        tell(f"budget {budget:g}: random search", 0.5)

        def work() -> Saved:
            noise = self._noise(going, budget)
            found = random_search(
                self.setting.render,
                self.goal.rows(going),
                noise.examples,
                noise,
                tries=self.cost.tries,
                first=first,
                seed=self.setting.config.seed,
                accept=self.setting.recognise,
                once=lambda part, make: self.once(f"random-{view}/{part}", make),
            )
            return {"fooled": found.fooled}, {}

        self.random[going] = self.once(f"random-{view}", work)[0]["fooled"]

    def _known_to_second(self) -> list[bool]:
        """Which clean pictures the second victim gets right: no other error is a transfer."""
        second = self.setting.second
        if second is None:
            return [False] * len(self.block)
        plain = torch.stack([self.pictures.read(e.number, "clean") for e in self.block])
        seen = second.verdicts(plain).tolist()
        return [
            label_of(second, e.example.prompt) == v for e, v in zip(self.block, seen, strict=True)
        ]

    def _transfers(self, pictures: Float[Tensor, "n 3 height width"], going: Tensor) -> list[bool]:
        """Whether the second victim errs too."""
        second = self.setting.second
        if second is None:
            return [False] * len(pictures)
        labels = [label_of(second, self.examples[i].prompt) for i in going.tolist()]
        seen = second.verdicts(pictures).tolist()
        return [v != label for v, label in zip(seen, labels, strict=True)]
