"""Adversarial initial noise: move it, within a budget, until a victim misreads the picture; and
random search, to compare with.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from adjointdpm.errors import InvalidInputError, MetricError
from adjointdpm.metrics import structure_distance
from adjointdpm.optimization.float16_scaling import GradientScale, uses_float16
from adjointdpm.optimization.renderer import Renderer
from adjointdpm.runs.resumable_steps import Once, Saved, unsaved
from adjointdpm.tasks.audit.victims import Victim
from adjointdpm.variables import Example, Noise
from adjointdpm.variables.freezing import frozen

# Whether each picture may count as a success, whatever the victim sees in it: whether a judge still
# sees what the prompt names.
Accept = Callable[[Float[Tensor, "n 3 height width"], Sequence[str]], list[bool]]
_SHELL_REACH = 0.4  # stands in for the budget of noise that has none
_MOMENTUM = 0.5


@dataclass(frozen=True)
class Findings:
    """What an attack found, one row an example.

    Args:
        noise: where it ended, at the first success if there was one.
        pictures: what the model draws from it, clamped and rounded to 8 bits, so that the verdict
            is that on a saved file.
        verdicts: the victim's group for these pictures.
        fooled: the victim errs (untargeted), or sees the target.
        iterations: gradient steps, or random tries, that were spent.

    """

    noise: Float[Tensor, "n channel height width"]
    pictures: Float[Tensor, "n 3 pixels_y pixels_x"]
    verdicts: Int[Tensor, " n"]
    fooled: Bool[Tensor, " n"]
    iterations: Int[Tensor, " n"]


@dataclass(frozen=True)
class Goal:
    """What counts as fooling the victim.

    Args:
        victim: who is fooled.
        labels: the right group of each example.
        target: the group that the victim shall see; None is any wrong one.

    """

    victim: Victim
    labels: Int[Tensor, " n"]
    target: int | None = None

    def rows(self, index: Tensor) -> "Goal":
        """The same for some of the examples."""
        return Goal(self.victim, self.labels[index], self.target)

    def fooled(self, verdicts: Int[Tensor, " n"]) -> Bool[Tensor, " n"]:
        """Whether each verdict is what was aimed at."""
        return verdicts != self.labels if self.target is None else verdicts == self.target

    def margin(self, images: Float[Tensor, "n 3 height width"]) -> Float[Tensor, " n"]:
        """Negative when the victim is fooled: difference of logits (Carlini and Wagner 2017, arXiv
        1608.04644, f₆).
        """
        logits = self.victim.logits(images)
        wanted = (
            self.labels if self.target is None else torch.full_like(self.labels, self.target)
        ).to(logits.device)
        chosen = logits.gather(1, wanted[:, None])[:, 0]
        others = logits.scatter(1, wanted[:, None], -torch.inf).amax(1)
        return chosen - others if self.target is None else others - chosen


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
    """Projected gradient descent on the margin (Madry et al. 2018, arXiv 1706.06083), each example
    on its own and until it succeeds.

    A step goes along the running sum of normalised gradients (momentum: Dong et al. 2018, arXiv
    1710.06081), or along its sign for `linf`. The gradient turns within a fraction of the budget,
    so that steps begin long, to leave where the start happens to lie, and end short (as in Croce
    and Hein 2020, arXiv 2003.01690, but by a fixed rule): see `step_length`.

    Args:
        render: draws the examples; its gradient method differentiates.
        goal: the victim and what to make of it.
        examples: rows of `noise`, in its order.
        noise: where the attack starts and how far it may go; holds the result afterwards.
        iterations: gradient steps at most.
        batch: examples in one graph.
        preservation: weight of the structure distance to what the model draws from the noise at its
            start, which keeps the drawing.
        accept: an example goes on until a picture that fools the victim is accepted too; None
            accepts all.
        on_iteration: called with a number of iterations and how many examples fool the victim after
            them: 0 first, then as it goes on.
        once: does and keeps each batch of each iteration, so that an interruption costs no more
            than that.

    Raises:
        InvalidInputError: `iterations` < 1.
        MetricError: no gradient reaches the noise.

    """
    if iterations < 1:
        raise InvalidInputError(f"an attack takes iterations >= 1, not {iterations}")
    (values,) = noise.tensors().values()
    count = len(examples)
    fooled, spent = torch.zeros(count, dtype=torch.bool), torch.zeros(count, dtype=torch.long)
    velocity, float16 = torch.zeros_like(values), uses_float16(render.model)

    def draw_clean() -> Saved:
        # Unclamped, as those that are compared with them: at the start nothing is to be preserved
        # yet.
        return {
            "clean": torch.cat([images.float().cpu() for _, images in render.draw(examples, noise)])
        }, {}

    clean = once("clean", draw_clean)[0]["clean"] if preservation > 0 else torch.empty(0)

    def step(rows: Tensor, length: float) -> Saved:
        """One batch: where its noises go, and how fast, and which are at a success and so stay."""
        part = [examples[i] for i in rows.tolist()]
        pictures = torch.empty(0)

        def draw() -> tuple[Tensor, Tensor]:
            nonlocal pictures
            images = render(part, noise)
            pictures = as_saved(images)
            loss = goal.rows(rows).margin(images)
            if preservation > 0:
                loss = loss + preservation * structure_distance(images, clean[rows].to(images))
            return images, loss.sum()

        (gradient,) = GradientScale().gradients(draw, [values], float16)
        if gradient is None:
            raise MetricError(
                f"no gradient of victim {goal.victim.name} reaches the noise; the victim or the "
                f"model detaches it"
            )
        hits = _succeeds(goal.rows(rows), pictures, part, accept)
        going = (~hits).nonzero()[:, 0]
        with torch.no_grad():
            moved, speed = values[rows], velocity[rows]
            speed[going] = _MOMENTUM * speed[going] + _normalised(gradient[rows[going]])
            moved[going] -= length * (
                speed[going].sign() if noise.within == "linf" else _normalised(speed[going])
            )
        return {"noise": moved, "velocity": speed, "fooled": hits}, {}

    for iteration in range(iterations):
        length = step_length(iteration, iterations) * (
            _SHELL_REACH if noise.budget is None else noise.budget
        )
        active = (~fooled).nonzero()[:, 0]
        if len(active) == 0:
            break
        for number, rows in enumerate(active.split(batch)):
            with frozen(render.model.pipe):
                after, _ = once(f"{iteration}-{number}", partial(step, rows, length))
            with torch.no_grad():
                values[rows], velocity[rows] = (
                    after["noise"].to(values),
                    after["velocity"].to(velocity),
                )
            fooled[rows] = after["fooled"]
            spent[rows[~after["fooled"]]] += 1
        noise.project()
        on_iteration(iteration, int(fooled.sum()))
    pictures = as_saved(render.look(examples, noise))
    if not fooled.all():  # what the last step did is seen only now
        on_iteration(iterations, int(_succeeds(goal, pictures, examples, accept).sum()))
    verdicts = goal.victim.verdicts(pictures)
    return Findings(values.detach().clone(), pictures, verdicts, goal.fooled(verdicts), spent)


def random_search(
    render: Renderer,
    goal: Goal,
    examples: Sequence[Example],
    noise: Noise,
    *,
    tries: int,
    seed: int = 0,
    accept: Accept | None = None,
    once: Once = unsaved,
) -> Findings:
    """Random noises at the edge of the same budget, until one fools the victim (and `accept` takes
    its picture).

    `once` does and keeps each try: whom it fools. Its noises are drawn anew in any case, since
    those of later tries follow them.
    """
    (values,) = noise.tensors().values()
    start = values.detach().clone()
    found, fooled = start.clone(), torch.zeros(len(examples), dtype=torch.bool)
    spent = torch.zeros(len(examples), dtype=torch.long)
    generator = torch.Generator().manual_seed(seed)

    def look(active: Tensor) -> Saved:
        part = [examples[i] for i in active.tolist()]
        return {
            "fooled": _succeeds(goal.rows(active), as_saved(render.look(part, noise)), part, accept)
        }, {}

    for number in range(tries):
        active = (~fooled).nonzero()[:, 0]
        if len(active) == 0:
            break
        with torch.no_grad():
            values.copy_(start)
            values += 1e3 * torch.randn(start.shape, generator=generator).to(
                start
            )  # far out, so that the projection puts it on the edge
        noise.project()
        tried, _ = once(str(number), partial(look, active))
        fooled[active], spent[active] = tried["fooled"], spent[active] + 1
        found[active] = values.detach()[active]
    with torch.no_grad():
        values.copy_(found)
    pictures = as_saved(render.look(examples, noise))
    return Findings(found, pictures, goal.victim.verdicts(pictures), fooled, spent)


def step_length(iteration: int, iterations: int) -> float:
    """Share of the budget: from a half (more, if the edge could not be reached in so few steps) in
    equal stages down towards zero.
    """
    return max(0.5, 2 / (iterations + 1)) * (1 - iteration / iterations)


def as_saved(images: Float[Tensor, "n 3 height width"]) -> Float[Tensor, "n 3 height width"]:
    """Clamped to [0, 1] and rounded to 8 bits, as a PNG file holds them; on the CPU."""
    return (images.detach().float().cpu().clamp(0, 1) * 255).round() / 255


def _succeeds(
    goal: Goal, pictures: Tensor, examples: Sequence[Example], accept: Accept | None
) -> Bool[Tensor, " n"]:
    hits = goal.fooled(goal.victim.verdicts(pictures))
    if accept is None:
        return hits
    return hits & torch.tensor(accept(pictures, [example.prompt for example in examples]))


def _normalised(
    x: Float[Tensor, "n channel height width"],
) -> Float[Tensor, "n channel height width"]:
    """Each with a root mean square of 1."""
    rms = x.flatten(1).square().mean(1).sqrt().clamp(min=1e-30)
    return x / rms[:, None, None, None]
