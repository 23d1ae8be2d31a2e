"""Adversarial initial noise, moved within a budget until a victim misreads the picture."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from jaxtyping import Int
from torch import Tensor

from adjointdpm.errors import MetricError
from adjointdpm.metrics import structure_distance
from adjointdpm.optimization.float16_scaling import GradientScale, uses_float16
from adjointdpm.optimization.normalized_descent import normalised
from adjointdpm.optimization.renderer import Renderer
from adjointdpm.runs.resumable_steps import Once, Saved, unsaved
from adjointdpm.support.checks import check_int
from adjointdpm.tasks.audit.goal import Accept, Findings, Goal, as_saved, succeeds
from adjointdpm.variables import Example, Noise
from adjointdpm.variables.freezing import frozen

_SHELL_REACH = 0.4  # stands in for the budget of noise that has none
_MOMENTUM = 0.5


def attack(
    render: Renderer,
    goal: Goal,
    examples: Sequence[Example],
    noise: Noise,
    *,
    iterations: int,
    batch: int,
    preservation: float = 0.0,
    accept: Accept | None = None,
    on_iteration: Callable[[int, int], None] = lambda iteration, fooled: None,
    once: Once = unsaved,
) -> Findings:
    """Projected gradient descent on the margin, each example on its own until it succeeds.

    After Madry et al. 2018 (arXiv 1706.06083). A step goes along the running sum of normalised
    gradients (momentum: Dong et al. 2018, arXiv 1710.06081), or along its sign for `linf`. Steps
    begin long, to leave the start, and end short (as in Croce and Hein 2020, arXiv 2003.01690, but
    by a fixed rule): see `step_length`.

    Args:
        render: draws the examples; its gradient method differentiates.
        goal: the victim, and what counts as fooling it.
        examples: one for each row of `noise`, in its order.
        noise: where the attack starts and how far it may go; holds the result afterwards. It may
            start from what a smaller budget found.
        iterations: gradient steps at most.
        batch: examples in one graph.
        preservation: weight of the structure distance to the picture of the start noise.
        accept: an example goes on until a picture that fools the victim is accepted too; None
            accepts all.
        on_iteration: called with an iteration, from 0, and how many examples fool the victim
            before its step; and at the end, if any had not, with `iterations` and the final number.
        once: does and keeps each batch of each iteration; an interruption costs no more than that.

    Raises:
        InvalidInputError, InvalidTypeError: `iterations` is no int of at least 1.
        MetricError: no gradient reaches the noise.

    """
    check_int("iterations", iterations, 1)
    descent = _Descent(render, goal, examples, noise, preservation, accept, once)
    for iteration in range(iterations):
        if descent.fooled.all():
            break
        descent.iterate(iteration, step_length(iteration, iterations), batch)
        on_iteration(iteration, int(descent.fooled.sum()))
    pictures = as_saved(render.look(examples, noise))
    if not descent.fooled.all():  # what the last step did is seen only now
        on_iteration(iterations, int(succeeds(goal, pictures, examples, accept).sum()))
    verdicts = goal.victim.verdicts(pictures)
    moved = noise.noise.detach().clone()
    return Findings(moved, pictures, verdicts, goal.fooled(verdicts), descent.spent)


class _Descent:
    """The state of an attack: noises, their velocities, and who is fooled after how many steps."""

    def __init__(
        self,
        render: Renderer,
        goal: Goal,
        examples: Sequence[Example],
        noise: Noise,
        preservation: float,
        accept: Accept | None,
        once: Once,
    ) -> None:
        self.render, self.goal, self.examples, self.noise = render, goal, examples, noise
        self.preservation, self.accept, self.once = preservation, accept, once
        self.velocity = torch.zeros_like(noise.noise)
        self.fooled = torch.zeros(len(examples), dtype=torch.bool)
        self.spent = torch.zeros(len(examples), dtype=torch.long)
        if preservation > 0:
            self.clean = once("clean", self._draw_clean)[0]["clean"]

    def iterate(self, iteration: int, share: float, batch: int) -> None:
        """One step, of a share of the budget, for all examples that have not succeeded."""
        budget = _SHELL_REACH if self.noise.budget is None else self.noise.budget
        active = (~self.fooled).nonzero()[:, 0]
        for number, rows in enumerate(active.split(batch)):
            with frozen(self.render.model.pipe):
                step = partial(self._step, rows, share * budget)
                after, _ = self.once(f"{iteration}-{number}", step)
            with torch.no_grad():
                self.noise.noise[rows] = after["noise"].to(self.noise.noise)
                self.velocity[rows] = after["velocity"].to(self.velocity)
            self.fooled[rows] = after["fooled"]
            self.spent[rows[~after["fooled"]]] += 1
        self.noise.project()

    def _draw_clean(self) -> Saved:
        # Unclamped, like the pictures that are compared with them: at the start nothing is to be
        # preserved yet.
        start = Noise(self.examples, self.noise.start, within="free")
        drawn = [images.float().cpu() for _, images in self.render.draw(self.examples, start)]
        return {"clean": torch.cat(drawn)}, {}

    def _step(self, rows: Int[Tensor, " part"], length: float) -> Saved:
        """One batch: noises and velocities after the step, and which have succeeded and stay."""
        part, goal = [self.examples[i] for i in rows.tolist()], self.goal.rows(rows)
        pictures = torch.empty(0)

        def draw() -> tuple[Tensor, Tensor]:
            nonlocal pictures
            images = self.render(part, self.noise)
            pictures = as_saved(images)
            loss = goal.margin(images)
            if self.preservation > 0:
                distance = structure_distance(images, self.clean[rows].to(images))
                loss = loss + self.preservation * distance
            return images, loss.sum()

        float16 = uses_float16(self.render.model)
        (gradient,) = GradientScale().gradients(draw, [self.noise.noise], float16)
        if gradient is None:
            raise MetricError(
                f"no gradient of victim {goal.victim.name} reaches the noise; the victim or the "
                f"model detaches it"
            )
        hits = succeeds(goal, pictures, part, self.accept)
        going = (~hits).nonzero()[:, 0]
        each = self.noise.units()["noise"][rows[going]]
        with torch.no_grad():
            moved, speed = self.noise.noise[rows], self.velocity[rows]
            speed[going] = _MOMENTUM * speed[going] + normalised(gradient[rows[going]], each)
            linf = self.noise.within == "linf"
            step = speed[going].sign() if linf else normalised(speed[going], each)
            moved[going] -= length * step
        return {"noise": moved, "velocity": speed, "fooled": hits}, {}


def step_length(iteration: int, iterations: int) -> float:
    """A step's length as a share of the budget, in equal stages down towards zero.

    The first is a half, or more if the edge could not be reached in so few steps.
    """
    return max(0.5, 2 / (iterations + 1)) * (1 - iteration / iterations)
