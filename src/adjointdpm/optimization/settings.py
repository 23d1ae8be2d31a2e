"""How the loop runs: plain values, checked when they are given."""

import math
from dataclasses import dataclass

from adjointdpm.errors import UnknownNameError
from adjointdpm.optimization.optimizers import check_optimizer
from adjointdpm.support.checks import check_number
from adjointdpm.support.limits import check_counts, check_seed

#: What the learning rate does over a run.
SCHEDULES = ("constant", "linear", "cosine")

_LARGEST_LR = 1000.0
_LARGEST_WEIGHT = 1e6

#: Former names of settings, and what they are called now: a config file that uses one is told so.
RENAMED: dict[str, str] = {
    "learning_rate": "lr",
    "schedule": "lr_schedule",
    "max_gradient_norm": "clip",
}


@dataclass(frozen=True)
class Settings:
    """How the loop runs.

    Args:
        iterations: optimiser steps at most.
        batch: examples drawn in one graph; memory grows with it.
        accumulate: graphs per optimiser step. A step uses batch · accumulate examples, whatever the
            number of processes they are shared out over.
        optimizer: the optimiser: normalized, adam, sgd, prodigy or lbfgs. See `OPTIMIZERS`.
        lr: the learning rate, which each optimiser takes in its own way. See `OPTIMIZERS`.
        lr_schedule: "constant"; or "linear" or "cosine" (Loshchilov & Hutter 2017): from lr down to
            0 after the last iteration.
        clip: the gradient is scaled down to this norm; that of "lbfgs" never is.
        ema: decay in [0, 1) of an exponential moving average of what is learned. It is the average
            that is then validated, kept and saved. 0 is none; the decay of step k is min(ema, (1 +
            k) / (10 + k)), so that the start is soon forgotten.
        preservation: weight of the structure distance to the plain picture of the same prompt and
            seed, for a metric of usual spread; see `content_weight`. A metric alone is
            over-optimised: every prompt ends as the same picture. With 0 the plain pictures are not
            drawn, and no record has a "drift".
        kl: weight of how far the changed network's predictions are from the untouched one's, on the
            sampler's own way: up to the steps' weights, the KL divergence. See `PredictionDrift`.
        distance: weight of the variable's own distance from where it started.
        norm: weight of the negative logarithm of how often natural noise has such a norm (ReNO,
            Eyring et al. 2024, arXiv 2406.04312); of noise variables only.
        likelihood: weight of how unlikely what is learned is as noise; of noise variables only.
        relax: lower the weights of preservation and kl where they cost all that the metric gains
            and the guard, if there is one, is no worse than it may be.
        backtrack: after so many looks without a better objective, go back to the best state and
            halve the learning rate; 0: never.
        validate_every: iterations between looks at the validation examples.
        patience: stop after this many looks without a better objective; the best state is returned
            in any case.
        checkpoint_every: iterations between checkpoints.
        seed: of the order in which examples are used.

    Raises:
        InvalidTypeError, InvalidInputError: a value that is no such number, or out of range.
        UnknownNameError: an unknown schedule or optimiser.

    """

    iterations: int = 20
    batch: int = 2
    lr: float = 0.05
    clip: float = 1.0
    preservation: float = 1.0
    validate_every: int = 5
    patience: int = 2
    checkpoint_every: int = 5
    seed: int = 0
    accumulate: int = 1
    ema: float = 0.0
    kl: float = 0.0
    distance: float = 0.0
    likelihood: float = 0.0
    norm: float = 0.0
    lr_schedule: str = "constant"
    optimizer: str = "adam"
    backtrack: int = 0
    relax: bool = True

    def __post_init__(self) -> None:
        check_counts(
            self,
            "iterations",
            "batch",
            "accumulate",
            "validate_every",
            "patience",
            "checkpoint_every",
        )
        check_counts(self, "backtrack", least=0)
        check_seed(self.seed)
        check_number("clip", self.clip, above=0)
        why = "a learning rate of 1 moves what is learned by about its own size in one step"
        check_number("lr", self.lr, above=0)
        check_number("lr", self.lr, most=_LARGEST_LR, why=why)
        for name in ("preservation", "kl", "distance", "likelihood", "norm"):
            value = getattr(self, name)
            check_number(name, value, least=0)
            check_number(name, value, most=_LARGEST_WEIGHT, why="the metric itself weighs 1")
        check_number(
            "ema", self.ema, least=0, below=1, why="0.99 averages about the last 100 iterations"
        )
        check_optimizer(self.optimizer)
        if self.lr_schedule not in SCHEDULES:
            raise UnknownNameError(
                f"lr_schedule {self.lr_schedule!r} is unknown; choose from {', '.join(SCHEDULES)}"
            )

    @property
    def step_examples(self) -> int:
        """Examples of one optimiser step, over all processes."""
        return self.batch * self.accumulate

    @property
    def regularisers(self) -> dict[str, float]:
        """The weights of those that are asked for."""
        names = ("distance", "likelihood", "norm")
        return {name: getattr(self, name) for name in names if getattr(self, name)}

    def lr_at(self, iteration: int, begun: int = 0) -> float:
        """The learning rate of the step after `iteration` steps, of a schedule begun at `begun`.

        It depends on nothing else, so that a resumed run needs no state for it.
        """
        done = (iteration - begun) / (self.iterations - begun)
        if self.lr_schedule == "constant":
            return self.lr
        if self.lr_schedule == "linear":
            return self.lr * (1 - done)
        return self.lr * 0.5 * (1 + math.cos(math.pi * done))
