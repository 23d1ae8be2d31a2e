"""How a learned variable is measured on prompts and seeds that it never saw."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from adjointdpm.metrics import Metric, WeightedSum, structure_distance
from adjointdpm.metrics import score as checked_score
from adjointdpm.metrics.lost_subject import stills
from adjointdpm.metrics.picture_resemblance import PictureResemblance
from adjointdpm.metrics.subject_recognition import Recogniser
from adjointdpm.tasks.confidence_intervals import bootstrap_interval, clustered_share_interval
from adjointdpm.variables import Example


@torch.no_grad()
def evaluate(
    metric: Metric,
    examples: Sequence[Example],
    views: Mapping[str, Tensor],
    recognise: Recogniser | None = None,
    score: Callable[[Metric, Tensor, Sequence[str]], Tensor] = checked_score,
) -> dict[str, Any]:
    """Measure whether the effect is there and the content survived; means over the examples.

    Args:
        metric: what was optimised, or another.
        examples: what was drawn.
        views: the same examples drawn several times, by name: "before" by the untouched model,
            "after" with what was learned, and any controls; pictures `[B, 3, H, W]`, or videos.
        recognise: a judge of content.
        score: a metric's scores of pictures and prompts; `Renderer.score` takes the pictures to
            where the metric was trained with.

    Returns:
        Each view's mean metric under the view's name, the number of `examples` and of different
        `prompts`, and

        - `change`: from before to after, with a 95 % bootstrap `interval` over prompts, each with
          all its seeds (over the seeds if there is one prompt).
        - `since`: where there are controls, the change and interval from each of them to after, by
          the control's name: what was learned is worth no more than that.
        - `structure_distance`: of after to before; as a yardstick, `structure_distance_unrelated`
          is that of before to the next example's before.
        - `distinctness`: mean distance between pictures after, relative to before.
        - `diversity`: mean distance between the pictures of one prompt after, relative to before;
          where a prompt has several seeds.
        - `parts`: each metric of a weighted sum by name: its mean by view, unweighted, its
          `weight`, its `spread`, and its `sign`, −1 for a reward, whose means are negated.
        - `recognised`: with a judge, the share of each view's pictures in which it sees the
          prompt's subject; `recognised_interval`, 95 %, is over prompts too.
        - `resembling`: without a judge, and with several prompts, the share of each view's pictures
          that resemble the untouched picture of their own prompt; see `PictureResemblance`.

    """
    prompts = [example.prompt for example in examples]
    scores = {name: score(metric, images, prompts) for name, images in views.items()}
    before, after = views["before"], views["after"]
    result: dict[str, Any] = {name: values.mean().item() for name, values in scores.items()}

    def change_from(view: str) -> dict[str, Any]:
        change = scores["after"] - scores[view]
        interval = bootstrap_interval(change.tolist(), of=prompts)
        return {"change": change.mean().item(), "interval": interval}

    controls = [view for view in views if view not in ("before", "after")]
    if controls:
        result["since"] = {view: change_from(view) for view in controls}
    result |= change_from("before") | {
        "examples": len(examples),
        "prompts": len(set(prompts)),
        "structure_distance": structure_distance(after, before).mean().item(),
        "structure_distance_unrelated": structure_distance(before.roll(1, 0), before).mean().item(),
        "distinctness": _spread(after) / max(_spread(before), 1e-8),
    }
    spread = prompt_spread(before, prompts)
    if spread is not None:
        result["diversity"] = (prompt_spread(after, prompts) or 0.0) / max(spread, 1e-8)
    if isinstance(metric, WeightedSum):
        result["parts"] = {
            part.name: {
                name: score(part, images, prompts).mean().item() for name, images in views.items()
            }
            | {"weight": weight, "spread": spread, "sign": part.sign}
            for part, weight, spread in zip(
                metric.metrics,
                metric.weights,
                metric.spreads or [1.0] * len(metric.weights),
                strict=True,
            )
        }
    shown = {name: stills(images) for name, images in views.items()}
    if recognise is None:
        if (resembles := PictureResemblance.to(shown["before"], prompts)) is not None:
            result["resembling"] = {
                name: sum(resembles(images, prompts)) / len(prompts)
                for name, images in shown.items()
            }
    else:
        hits = {name: recognise(images, prompts) for name, images in shown.items()}
        result["recognised"] = {name: sum(found) / len(found) for name, found in hits.items()}
        result["recognised_interval"] = {
            name: clustered_share_interval(found, prompts) for name, found in hits.items()
        }
    return result


def prompt_spread(images: Tensor, prompts: Sequence[str]) -> float | None:
    """Mean distance between pictures of one prompt, over prompts with several; None without any."""
    groups = [
        [i for i, p in enumerate(prompts) if p == prompt] for prompt in dict.fromkeys(prompts)
    ]
    spreads = [_spread(images[group]) for group in groups if len(group) > 1]
    return sum(spreads) / len(spreads) if spreads else None


def _spread(images: Tensor) -> float:
    """Mean distance between pictures, each less its mean colour: of drawings, not of moods."""
    flat = (images - images.mean((-2, -1), keepdim=True)).flatten(1)
    return torch.pdist(flat).mean().item() if len(flat) > 1 else 0.0
