"""How much of a visual effect a learned token brings: `python -m benchmarks.effect`.

It takes the extras `training` and `judges`.

The effect is known only to a metric. A token for it is learned with the demo's settings and
measured on prompts and seeds that nothing was optimised on, against real pictures of the effect:
emoji drawings of the same concepts and styles on a background of the mood's own colour, which is
what an artist would hand in for "a lion on a dusk background". 100 % of the gap is as far from the
mood as these are.

The intervals are over held-out prompts, each with all its seeds, drawn with one learned token;
another optimisation seed may end elsewhere (`--seed`).
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from jaxtyping import Float
from torch import Tensor

from adjointdpm import metrics
from adjointdpm.metrics import MOODS, Metric
from adjointdpm.metrics.networks.judge import Judge
from adjointdpm.metrics.subject_recognition import SubjectJudge
from adjointdpm.pipelines import load
from adjointdpm.runs.folder import RunFolder
from adjointdpm.support.picture_files import read_picture
from adjointdpm.tasks.confidence_intervals import bootstrap_interval
from adjointdpm.tasks.demo import DemoConfig, reference_pattern
from adjointdpm.tasks.embed import EmbedConfig, embed
from adjointdpm.tasks.learning import renderer
from adjointdpm.variables import Example
from benchmarks.common import (
    Page,
    PageOnly,
    check_known,
    machine,
    publish,
    read_results,
    run,
    table,
    tell,
    write_results,
)
from benchmarks.gap import Triple, gap_interval, gap_share, share_text
from benchmarks.real_pictures import on_background
from training.concepts import BACKGROUNDS

WORK = Path(__file__).parent / "work"
# an effect like the moods: the texture of the demo's style reference, as a Gram metric sees it
PATTERN = "pattern"
SCREENING_STEPS = 20


def effect_of(name: str) -> tuple[str, Float[Tensor, "3 H W"]]:
    """The metric of an effect as text, and the background that its real pictures have."""
    if name != PATTERN:
        return f"color:mood={name}", torch.tensor(MOODS[name]).view(3, 1, 1)
    pattern = reference_pattern()
    (path,) = RunFolder(WORK).write_images([PATTERN], pattern[None])
    return f"gram:reference={path}", pattern


@torch.no_grad()
def best_word(metric: Metric, screened: Mapping[str, Tensor], prompts: Sequence[str]) -> str:
    """The existing word whose pictures, one of each prompt, the metric likes best."""
    return min(screened, key=lambda word: metric(screened[word], prompts=prompts).mean().item())


def screen(model: Any, config: EmbedConfig, words: Sequence[str]) -> dict[str, Tensor]:
    """Pictures of the training examples with each existing word in the token's place."""
    render = renderer(model, replace(config, steps=min(config.steps, SCREENING_STEPS)))
    return {word: render.look(in_place(config, config.sets().training, word)) for word in words}


def in_place(config: EmbedConfig, examples: Sequence[Example], word: str) -> list[Example]:
    """Examples with an existing word in the token's place."""
    assert config.template is not None
    return [Example(config.template.format(prompt=e.prompt, token=word), e.seed) for e in examples]


def triples(scores: Mapping[str, Sequence[float]], view: str) -> list[Triple]:
    """How far from the effect each held-out example is: plain, in a view, and the real picture."""
    return [
        Triple(*values)
        for values in zip(scores["plain"], scores[view], scores["real"], strict=True)
    ]


def measure(
    model: Any, name: str, config: EmbedConfig, judge: Judge, screened: Mapping[str, Tensor]
) -> dict[str, Any]:
    """Learn the token of one effect and measure it."""
    text, background = effect_of(name)
    config = replace(config, token=f"<{name}>", metric=[text])
    folder = RunFolder.open(
        WORK / f"effect-{name}",
        {"task": "embed", "model": "tiny", **asdict(config)},
        artefacts=config.artefacts,
        force=True,
    )
    recognise, metric, examples = (
        SubjectJudge(judge),
        metrics.resolve(text),
        config.sets().held_out,
    )
    result = embed(
        model,
        config,
        folder,
        recognise=recognise,
        on_record=lambda record: tell(
            f"{name}: iteration {record['iteration']} of {config.iterations}"
        ),
    )
    views = {
        view: torch.stack([read_picture(folder.path / row[key]) for row in result["pictures"]])
        for view, key in {"plain": "before", "initial": "existing_word", "learned": "after"}.items()
    }
    word = best_word(metric, screened, [e.prompt for e in config.sets().training])
    views["best_word"] = renderer(model, config).look(in_place(config, examples, word))
    views["real"] = on_background(examples, background, judge.concepts)
    prompts = [example.prompt for example in examples]
    with torch.no_grad():
        scores = {view: metric(images, prompts=prompts).tolist() for view, images in views.items()}
        hits = {view: recognise(images, prompts) for view, images in views.items()}
    fall = [
        float(before) - float(after)
        for before, after in zip(hits["plain"], hits["learned"], strict=True)
    ]
    shares = {view: triples(scores, view) for view in ("initial", "best_word", "learned")}
    return {
        "effect": name,
        "metric": metric.name,
        "initial": config.initial,
        "best_word": word,
        "scores": scores,
        "hits": hits,
        "share": {view: gap_share(values) for view, values in shares.items()},
        "interval": {view: gap_interval([values], of=[prompts]) for view, values in shares.items()},
        "fall": sum(fall) / len(fall),
        "fall_interval": bootstrap_interval(fall, of=prompts),
        "distinctness": result["held_out"]["distinctness"],
        "best_iteration": result["optimisation"]["best_iteration"],
        "seconds": result["seconds"],
        "seconds_optimising": result["seconds_optimising"],
    }


def report(rows: Sequence[Mapping[str, Any]], title: str) -> str:
    """The table; the goals stand in its head."""
    head = [
        "effect",
        "distance to it: plain, learned, real",
        "gap closed (goal ≥ 60 %)",
        "by the word it started at",
        "by the best existing word",
        "top 5: plain, learned, real",
        "fall in points (goal ≤ 10)",
        "distinctness (goal ≥ 0.7)",
        "minutes",
    ]
    lines = []
    for row in rows:
        mean = {view: sum(values) / len(values) for view, values in row["scores"].items()}
        top5 = {view: sum(found) / len(found) for view, found in row["hits"].items()}
        share = {
            view: share_text(row["share"][view], row["interval"][view]) for view in row["share"]
        }
        low, high = row["fall_interval"]
        lines.append(
            [
                row["effect"],
                ", ".join(f"{mean[view]:.3f}" for view in ("plain", "learned", "real")),
                share["learned"],
                f"{row['initial']}: {share['initial']}",
                f"{row['best_word']}: {share['best_word']}",
                ", ".join(f"{top5[view]:.0%}" for view in ("plain", "learned", "real")),
                f"{100 * row['fall']:.0f} [{100 * low:.0f}, {100 * high:.0f}]",
                f"{row['distinctness']:.2f}",
                f"{row['seconds'] / 60:.0f}",
            ]
        )
    return f"{title}\n\n{table(head, lines)}"


def main(
    effects: Annotated[
        str, typer.Option(help=f"Moods of {', '.join(MOODS)}, or {PATTERN}, with commas.")
    ] = "dusk,sepia",
    iterations: int = 8,
    steps: int = 50,
    held_out_seeds: int = 2,
    held_out_prompts: int = 12,
    initial: Annotated[
        str, typer.Option(help="Where the tokens start; the demo's word if it is left out.")
    ] = "",
    seed: int = 0,
    name: Annotated[str, typer.Option(help="Name of the file in results/.")] = "effect",
    page: Page = None,
    page_only: PageOnly = False,
) -> None:
    """Measure, print the table, and write `results/effect.json`."""
    chosen = re.split(r"\s*,\s*", effects)
    check_known("--effects", chosen, (*MOODS, PATTERN))
    if not page_only:
        demo = DemoConfig(seed=seed, iterations=iterations, steps=steps).parts().embed
        config = replace(
            demo,
            held_out=demo.held_out[:held_out_prompts],
            held_out_seeds=held_out_seeds,
            initial=initial or demo.initial,
        )
        measure_all(chosen, config, name)
    content = read_results(name)
    publish(report(content["rows"], f"{content['settings']}; {content['machine']}."), page)


def measure_all(effects: Sequence[str], config: EmbedConfig, name: str) -> None:
    """Measure one effect after the other, and write `results/NAME.json` after each."""
    model, judge = load("tiny"), Judge.load()
    tell("drawing the existing words")
    screened = screen(model, config, list(BACKGROUNDS))
    settings = (
        f"model `tiny`, {config.steps} DDIM steps, guidance {config.guidance_scale:g}, "
        f"{config.iterations} iterations with exact gradients; "
        f"{len(config.held_out)} held-out prompts × {config.held_out_seeds} seeds; "
        "95 % bootstrap intervals over the prompts"
    )
    facts = {"machine": machine(), "settings": settings, "seed": config.seed}
    rows: list[dict[str, Any]] = []
    for effect in effects:
        rows.append(measure(model, effect, config, judge, screened))
        write_results(name, {**facts, "rows": rows})


if __name__ == "__main__":
    run(main)
