"""A thing that a classifier knows and the model's vocabulary lacks becomes a token.

`python -m benchmarks.vocabulary --page docs/vocabulary.md`

Concepts that the bundled model never saw are learned from the cross-entropy of the critic
(`critic.py` says how far critic and judge are independent) and judged by the bundled judge, on
sentences, backgrounds, a style and seeds that nothing was optimised on. Each is compared with

- the existing word whose pictures the judge takes for the concept most often, found among all
  familiar concepts on training seeds,
- the concept's own name, spelled in the pieces that the tokenizer has,
- textual inversion of as many vectors from real pictures of the concept in the training styles, for
  as long as the critic's run took,
- and, for scale, real pictures that went through the autoencoder.

The gap goes from the existing word to textual inversion; where that teaches the model nothing there
is none, and the share of the way to real pictures says more. Results are saved after every concept;
an interrupted run goes on after the last.

The intervals are over held-out sentences, each with all its seeds, of tokens learned once; another
optimisation seed may end elsewhere (`--seed`). The settings (vectors, bound, template) were chosen
in short trials on pear, tangerine, sandwich and coral, looking at the judge's verdicts too, on the
held-out sentences with other seeds: pear and tangerine are not quite untouched.
"""

import re
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from safetensors.torch import load_file
from torch import Tensor

from adjointdpm.metrics.networks.judge import Judge
from adjointdpm.optimization.renderer import Renderer
from adjointdpm.pipelines import load
from adjointdpm.runs.folder import RunFolder
from adjointdpm.tasks.config import number
from adjointdpm.tasks.embed import EmbedConfig, embed
from adjointdpm.tasks.learning import renderer
from adjointdpm.variables import TokenEmbedding
from benchmarks import critic
from benchmarks.common import (
    Page,
    PageOnly,
    check_known,
    has_results,
    machine,
    publish,
    read_results,
    run,
    table,
    tell,
    write_results,
)
from benchmarks.gap import Triple, gap_interval, gap_share, pooled, share_text
from benchmarks.real_pictures import from_pool
from benchmarks.textual_inversion import encode_pictures, learn_from_pictures
from training.concepts import STYLES as ALL_STYLES
from training.concepts import load_concepts, with_article

WORK = Path(__file__).parent / "work"
STYLES = ("noto", "twemoji")  # that tokens are learned in
# The token comes last: in front of other words it changes how all of them are read, and in trials
# learning then made little headway.
TEMPLATE = "{prompt} {token}"
HELD_OUT = (
    "a fluent emoji of {thing}",
    "a fluent emoji of {thing} on a blue background",
    "{name}, fluent style on a pink background",
    "a noto emoji of {thing} on a green background",
    "a twemoji emoji of {thing} on a yellow background",
    "{name}, noto style on a purple background",
)
ARMS = {
    "nearest": "existing word",
    "own_name": "own name",
    "learned": "learned",
    "inverted": "textual inversion",
    "real": "real pictures",
}
DRAWING = (
    "model",
    "steps",
    "guidance_scale",
    "seed",
    "critic",
)  # the settings that decide how existing words are drawn and judged
SCREENING_SEEDS = 2  # of each style
TRIAL_SEEDS = 1000  # the first of the held-out seeds, which the trials have used
UNSEEN = slice(0, 3)  # variants in the pool that judge and critic were not trained on


def training_prompt(style: str) -> str:
    """What stands before the token."""
    return f"a {style} emoji of a"


def held_out_prompts(name: str, thing: str) -> list[str]:
    """Sentences never optimised on; `thing` is the name with its article."""
    return [sentence.format(name=name, thing=thing) for sentence in HELD_OUT]


def one_token_words(tokenizer: Any, words: Sequence[str]) -> list[str]:
    """Those where a token of one vector can start."""
    return [word for word in words if len(tokenizer(word, add_special_tokens=False).input_ids) == 1]


def nearest_word(
    nearness: Mapping[str, Mapping[str, float]], concept: str, among: Sequence[str] | None = None
) -> str:
    """The word whose pictures come nearest to the concept; `nearness` is by word and concept."""
    return max(among if among is not None else nearness, key=lambda word: nearness[word][concept])


def former_results(
    saved: Mapping[str, Any] | None, settings: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The screening and the rows of an earlier run.

    Each is empty unless all settings that it depends on are the same.
    """
    same = [
        key for key in settings if saved is not None and saved["settings"].get(key) == settings[key]
    ]
    screening = dict(saved["screening"]) if saved is not None and set(DRAWING) <= set(same) else {}
    rows = dict(saved["rows"]) if saved is not None and len(same) == len(settings) else {}
    return screening, rows


def triples(
    row: Mapping[str, Any],
    sentences: Collection[int] = range(len(HELD_OUT)),
    goal: str = "inverted",
) -> list[Triple]:
    """What each held-out picture of these sentences lacks of certainty.

    That is with the nearest word, as learned, and at the goal.

    Real pictures have no prompt and no seed in common with the others: for them it is what they
    lack on average.
    """
    arms = {arm: [1 - p for p in row["arms"][arm]["judge"]] for arm in ("nearest", "learned", goal)}
    if goal == "real":
        arms[goal] = [_mean(arms[goal])] * len(arms["learned"])
    return [
        Triple(*values)
        for i, values in zip(_sentences(row), zip(*arms.values(), strict=True), strict=True)
        if i in sentences
    ]


@torch.no_grad()
def verdicts(judges: Mapping[str, Judge], images: Tensor, concept: str) -> dict[str, list[Any]]:
    """The probability that each judge gives the concept, picture by picture.

    Beside it, whether the concept is among the bundled judge's first five.
    """
    found: dict[str, list[Any]] = {}
    for name, judge in judges.items():
        logits, index = judge.concept_logits(images), judge.concepts.index(concept)
        found[name] = logits.softmax(1)[:, index].tolist()
        if name == "judge":
            found["top5"] = (logits.topk(5).indices == index).any(1).tolist()
    return found


@torch.no_grad()
def screen(
    render: Renderer, judges: Mapping[str, Judge], withheld: Sequence[str], first_seed: int
) -> dict[str, Any]:
    """How near every familiar concept's pictures are to each withheld one; higher is nearer.

    By judge, word and concept.

    The judge's mean probability, which is also what the arms are compared by; the critic's mean
    log-probability, which is what learning starts from, negated.
    """
    found: dict[str, Any] = {name: {} for name in judges}
    for word in (concept.name for concept in load_concepts() if concept.familiar):
        prompts = [f"a {style} emoji of {with_article(word)}" for style in STYLES] * SCREENING_SEEDS
        images = render.look(number(prompts, first_seed))
        for name, judge in judges.items():
            certainty = judge.concept_logits(images).log_softmax(1)
            mean = (certainty.exp() if name == "judge" else certainty).mean(0).tolist()
            found[name][word] = {
                concept: mean[judge.concepts.index(concept)] for concept in withheld
            }
        tell(f"drew {word}")
    return found


def invert(
    model: Any, token: TokenEmbedding, concept: str, seconds: float, seed: int
) -> dict[str, Any]:
    """Textual inversion of real pictures in the training styles.

    Captions also name their backgrounds, so that the token need not.
    """
    images, labels = from_pool(concept, STYLES)
    captions = [
        TEMPLATE.format(prompt=training_prompt(style), token=token.token)
        + ("" if background == "white" else f" on a {background} background")
        for style, background in labels
    ]
    with token:
        done = learn_from_pictures(
            model, token, captions, encode_pictures(model, images), seconds=seconds, seed=seed
        )
    last = done.losses[-100:]
    return {
        "pictures": len(images),
        "steps": done.steps,
        "seconds": done.seconds,
        "last_loss": sum(last) / len(last),
    }


@torch.no_grad()
def through_the_autoencoder(model: Any, concept: str) -> Tensor:
    """Real pictures that no judge was trained on.

    They go through the autoencoder, as if a generator with perfect latents drew them.
    """
    images, _ = from_pool(concept, list(ALL_STYLES), UNSEEN)
    return model.decode(encode_pictures(model, images)).clamp(0, 1)


def measure(
    model: Any,
    concept: str,
    config: EmbedConfig,
    nearest: str,
    judges: Mapping[str, Judge],
    seeds: int,
    minutes: float,
) -> dict[str, Any]:
    """Learn one concept in both ways, and judge the pictures of all arms."""
    started = time.perf_counter()
    folder = RunFolder.open(
        WORK / f"vocabulary-{config.token.strip('<>')}",
        {"task": "embed", "model": "tiny", **asdict(config)},
        artefacts=config.artefacts,
        force=True,
    )

    def show(record: dict[str, Any]) -> None:
        values = record.get("validation") or record["training"]
        tell(
            f"{concept}: iteration {record['iteration']} of {config.iterations}, "
            f"cross-entropy {values['metric']:.3f}"
        )

    result = embed(model, config, folder, on_record=show)
    tokens = {
        arm: TokenEmbedding(
            model.pipe,
            config.token,
            result["config"]["initial"],
            template=result["config"]["template"],
            vectors=config.vectors,
            max_norm=config.max_norm,
        )
        for arm in ("learned", "inverted")
    }
    tokens["learned"].load_tensors(
        {"vectors": load_file(folder.path / result["artefact"])[config.token]}
    )
    inversion = invert(
        model,
        tokens["inverted"],
        concept,
        60 * minutes or result["seconds_optimising"],
        config.seed,
    )
    tell(
        f"{concept}: textual inversion made {inversion['steps']} steps, loss "
        f"{inversion['last_loss']:.4f}"
    )

    images = draw_arms(model, concept, config, nearest, tokens, seeds)
    for arm in tokens:
        folder.write_images([f"{arm}_{i:02d}" for i in range(len(images[arm]))], images[arm])
    return {
        "initial": config.initial,
        "nearest": nearest,
        "arms": {arm: verdicts(judges, images[arm], concept) for arm in ARMS},
        "inversion": inversion,
        "best_iteration": result["optimisation"]["best_iteration"],
        "critic_cross_entropy": result["metric"],
        "seconds_optimising": result["seconds_optimising"],
        "seconds": time.perf_counter() - started,
    }


def draw_arms(
    model: Any,
    concept: str,
    config: EmbedConfig,
    nearest: str,
    tokens: Mapping[str, TokenEmbedding],
    seeds: int,
) -> dict[str, Tensor]:
    """Draw the held-out sentences with each name of the concept, on `seeds` seeds."""
    render, first = renderer(model, config), config.sets().held_out[0].seed + TRIAL_SEEDS

    def look(name: str, thing: str) -> Tensor:
        return render.look(number(held_out_prompts(name, thing) * seeds, first))

    images = {
        "nearest": look(nearest, with_article(nearest)),
        "own_name": look(concept, with_article(concept)),
        "real": through_the_autoencoder(model, concept),
    }
    for arm, token in tokens.items():
        with token:
            images[arm] = look(config.token, f"a {config.token}")
    return images


def report(rows: Mapping[str, Mapping[str, Any]], title: str) -> str:
    """The judge's mean probability and top-5 rate by concept and arm.

    Beside them, the share of the gap closed.
    """
    head = [
        "concept",
        *ARMS.values(),
        "the critic on learned",
        "gap closed (goal ≥ 50 %)",
        "way to real pictures",
        "minutes",
    ]
    lines = []
    for concept, row in rows.items():
        cells = {arm: _cell(values) for arm, values in row["arms"].items()}
        cells["nearest"] = f"{row['nearest']}: {cells['nearest']}"
        certain = _mean(row["arms"]["learned"]["critic"])
        lines.append(
            [
                f"{concept} (from {row['initial']})",
                *(cells[arm] for arm in ARMS),
                f"{certain:.2f}",
                _way([row]),
                _way([row], goal="real"),
                f"{row['seconds'] / 60:.0f}",
            ]
        )
    together = {
        arm: {
            key: [value for row in rows.values() for value in row["arms"][arm][key]]
            for key in ("judge", "top5", "critic")
        }
        for arm in ARMS
    }
    ways = [_way(list(rows.values())), _way(list(rows.values()), goal="real")]
    lines.append(
        [
            "all",
            *(_cell(together[arm]) for arm in ARMS),
            f"{_mean(together['learned']['critic']):.2f}",
            *ways,
            "",
        ]
    )
    parts = [title, "The judge's mean probability of the concept (top-5 rate).", table(head, lines)]
    fluent = {i for i, sentence in enumerate(HELD_OUT) if "fluent" in sentence}
    others = set(range(len(HELD_OUT))) - fluent
    for text, sentences in (
        ("the style that no token was learned in", fluent),
        ("the styles that tokens were learned in", others),
    ):
        parts.append(f"Gap closed on sentences in {text}: {_way(list(rows.values()), sentences)}.")
    return "\n\n".join(parts)


def _way(
    rows: Sequence[Mapping[str, Any]],
    sentences: Collection[int] = range(len(HELD_OUT)),
    goal: str = "inverted",
) -> str:
    """The share of the gap closed, over concepts and within each over sentences."""
    groups = [triples(row, sentences, goal) for row in rows]
    kept = [[sentence for sentence in _sentences(row) if sentence in sentences] for row in rows]
    return share_text(gap_share(pooled(groups)), gap_interval(groups, of=kept))


def _sentences(row: Mapping[str, Any]) -> list[int]:
    """Which sentence each held-out picture is of.

    First come all of them with one seed, then all with the next.
    """
    return [i % len(HELD_OUT) for i in range(len(row["arms"]["learned"]["judge"]))]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _cell(values: Mapping[str, Sequence[float]]) -> str:
    return f"{_mean(values['judge']):.2f} ({_mean(values['top5']):.0%})"


def main(
    concepts: Annotated[
        str, typer.Option(help="Withheld concepts, with commas.")
    ] = "pear,watermelon,tangerine,snake,kangaroo",
    iterations: int = 40,
    steps: int = 20,
    rate: float = 0.05,
    vectors: int = 4,
    max_norm: Annotated[
        float,
        typer.Option(help="Bound on each vector's norm, in units of the vocabulary's largest."),
    ] = 3.0,
    seeds: Annotated[int, typer.Option(help="Held-out seeds of each sentence.")] = 4,
    minutes: Annotated[
        float,
        typer.Option(help="Of textual inversion; 0: as long as learning from the critic took."),
    ] = 0.0,
    seed: int = 0,
    name: Annotated[str, typer.Option(help="Name of the file in results/.")] = "vocabulary",
    page: Page = None,
    page_only: PageOnly = False,
) -> None:
    """Measure, print the table, and write `results/vocabulary.json` after every concept."""
    withheld = [concept.name for concept in load_concepts() if concept.withheld]
    chosen = re.split(r"\s*,\s*", concepts)
    check_known("--concepts", chosen, withheld)
    if not page_only:
        settings = {
            "model": "tiny",
            "steps": steps,
            "guidance_scale": 5.0,
            "iterations": iterations,
            "rate": rate,
            "vectors": vectors,
            "max_norm": max_norm,
            "held_out_seeds": seeds,
            "minutes": minutes,
            "seed": seed,
            "critic": critic.fingerprint(),
        }
        measure_all(chosen, withheld, settings, name)
    content = read_results(name)
    publish(report(content["rows"], title(content)), page)


def config_of(concept: str, initial: str, settings: Mapping[str, Any]) -> EmbedConfig:
    """How a concept is learned from the critic, starting at a word."""
    iterations, seed = settings["iterations"], settings["seed"]
    return EmbedConfig(
        token=f"<{concept.replace(' ', '-')}>",
        initial=initial,
        template=TEMPLATE,
        vectors=settings["vectors"],
        max_norm=settings["max_norm"],
        metric=[critic.metric(concept)],
        prompts=[training_prompt(style) for style in STYLES],
        held_out=[training_prompt("fluent")],
        seeds_per_prompt=iterations,  # no training picture is used twice
        steps=settings["steps"],
        guidance_scale=settings["guidance_scale"],
        seed=seed,
        iterations=iterations,
        lr=settings["rate"],
        preservation=0,
        lr_schedule="cosine",
        validate_every=10,
        patience=iterations,
        tracker=[],
    )


def measure_all(
    concepts: Sequence[str], withheld: Sequence[str], settings: dict[str, Any], name: str
) -> None:
    """Measure the concepts that `results/NAME.json` does not hold, and write it after each."""
    screening, rows = former_results(read_results(name) if has_results(name) else None, settings)
    model, judges = load("tiny"), {"judge": Judge.load(), "critic": Judge.load(critic.FOLDER)}
    facts = {"machine": machine(), "settings": settings}
    if not screening:
        config = config_of(concepts[0], "cat", settings)
        first_seed = config.sets().training[0].seed
        screening = screen(renderer(model, config), judges, withheld, first_seed)
        write_results(name, {**facts, "screening": screening, "rows": rows})
    words = one_token_words(model.pipe.tokenizer, list(screening["critic"]))
    for concept in concepts:
        if concept in rows:
            tell(f"{concept}: was measured before")
            continue
        # The judge chooses the control, in the control's favour. It has no say in where learning
        # starts.
        initial = nearest_word(screening["critic"], concept, words)
        nearest = nearest_word(screening["judge"], concept)
        tell(f"{concept}: starts at {initial}; the nearest word is {nearest}")
        config = config_of(concept, initial, settings)
        seeds, minutes = settings["held_out_seeds"], settings["minutes"]
        rows[concept] = measure(model, concept, config, nearest, judges, seeds, minutes)
        write_results(name, {**facts, "screening": screening, "rows": rows})


def title(content: Mapping[str, Any]) -> str:
    """How the results were made, and where."""
    settings = content["settings"]
    return (
        f"model `{settings['model']}`, {settings['steps']} DDIM steps, guidance "
        f"{settings['guidance_scale']:g}, {settings['iterations']} iterations with exact "
        f"gradients, {settings['vectors']} vectors; {len(HELD_OUT)} held-out sentences × "
        f"{settings['held_out_seeds']} seeds a concept; 95 % bootstrap intervals over sentences, "
        f"and for all concepts over concepts too; {content['machine']}."
    )


if __name__ == "__main__":
    run(main)
