"""Does a model get better when it is aligned to a classifier? `python -m benchmarks.aligned`.

All weights of the bundled model's UNet are moved towards pictures in which the critic
(`critic.py`) sees what the prompt names. The bundled judge, which had no part in it, then says
what it sees, in pictures of prompts and seeds that were not learned from.

Three quarters of the concepts are learned from, in the captions of `captions`. Measured are all
concepts, in a phrasing that is none of these. `--tuning` is how settings were chosen: it leaves
the last quarter and the seeds of the measurement alone.

How much of what was learned is kept is settled before: the most with which the pictures of a prompt
stay about as far apart as before, of concepts to learn from, with seeds of their own.

Every stage is kept in `work/aligned`: an interrupted run goes on where it was.
"""

import random
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from jaxtyping import Float
from torch import Tensor

from adjointdpm.errors import CheckpointError
from adjointdpm.metrics import FunctionMetric
from adjointdpm.metrics.networks.judge import BUNDLED as JUDGE
from adjointdpm.metrics.networks.judge import Judge
from adjointdpm.metrics.subject_recognition import named_concept
from adjointdpm.optimization.loop import optimize
from adjointdpm.optimization.objective import MetricObjective
from adjointdpm.optimization.renderer import Renderer
from adjointdpm.optimization.settings import Settings
from adjointdpm.pipelines import load
from adjointdpm.runs.folder import RunFolder, png
from adjointdpm.runs.resumable_steps import ResumableSteps, Saved
from adjointdpm.support.files import write_bytes
from adjointdpm.tasks.confidence_intervals import bootstrap_interval, clustered_share_interval
from adjointdpm.variables import Example
from adjointdpm.variables.weights import Weights
from benchmarks import critic
from benchmarks.common import (
    Page,
    PageOnly,
    machine,
    publish,
    read_results,
    run,
    table,
    tell,
    write_results,
)
from training.concepts import BACKGROUNDS, STYLES, load_concepts, with_article

WORK = Path(__file__).parent / "work"
STEPS, GUIDANCE = 20, 5.0
VALIDATION = 12  # one of so many captions validates, whatever the critic says of it
FIRST_SEED = {False: 90_000, True: 50_000}  # of the measurement; by whether settings are tuned
STRENGTHS = (1.0, 0.8, 0.6, 0.4, 0.2)
LEAST_DIVERSITY = 0.9
SEEDS, FIRST_OWN = 3, 130_000  # of the pictures that settle the strength


@dataclass(frozen=True)
class Learning:
    """What is learned and how.

    Args:
        captions: drawn by the untouched model; the critic says which of them to learn from.
        margin: a picture with a lower cross-entropy than this teaches nothing.
        iterations, batch, rate, ema: of the optimisation.
        gradient: the gradient method.
        tuning: whether to leave the held-out concepts and seeds alone.

    """

    captions: int
    margin: float
    iterations: int
    batch: int
    rate: float
    ema: float
    gradient: str
    tuning: bool

    def settings(self) -> Settings:
        """Of the loop."""
        return Settings(
            iterations=self.iterations,
            batch=self.batch,
            lr=self.rate,
            lr_schedule="cosine",
            ema=self.ema,
            preservation=0.0,
            validate_every=max(1, self.iterations // 2),
            patience=self.iterations,
            checkpoint_every=5,
        )


def concepts(tuning: bool) -> tuple[list[str], list[str]]:
    """Those to learn from and those to hold out."""
    familiar = [concept.name for concept in load_concepts() if concept.familiar]
    training = [name for i, name in enumerate(familiar) if i % 4 != 3]
    if tuning:
        return [name for i, name in enumerate(training) if i % 3 != 2], training[2::3]
    return training, familiar[3::4]


def captions(names: Sequence[str], count: int) -> list[Example]:
    """Every concept in every style equally often, in three phrasings, each with a new seed."""
    draw, examples, waiting = random.Random(0), [], []
    colors = [name for name in BACKGROUNDS if name != "white"]
    while len(examples) < count:
        if not waiting:
            waiting = [(name, style) for name in names for style in STYLES]
            draw.shuffle(waiting)
        name, style = waiting.pop()
        text = draw.choice(
            [
                f"{name}, {style} style",
                f"{name}, {style} style on a {draw.choice(colors)} background",
                f"a {style} emoji of {with_article(name)} on a {draw.choice(colors)} background",
            ]
        )
        examples.append(Example(text, len(examples)))
    return examples


def held_out(names: Sequence[str], first_seed: int) -> list[Example]:
    """The prompts of the model's card, which `captions` never says; no two share a noise."""
    prompts = [f"a {style} emoji of {with_article(name)}" for name in names for style in STYLES]
    return [Example(prompt, first_seed + i) for i, prompt in enumerate(prompts)]


@torch.no_grad()
def verdicts(images: Float[Tensor, "B 3 H W"], prompts: Sequence[str]) -> dict[str, list[Any]]:
    """What the judge sees of each picture's concept and style, and the critic's cross-entropy."""
    judge = Judge.load()
    wanted = [judge.concepts.index(str(named_concept(p, judge.concepts))) for p in prompts]
    drawn = [judge.styles.index(str(named_concept(p, judge.styles))) for p in prompts]
    first = judge.concept_logits(images).topk(5).indices
    return {
        "top1": (first[:, 0] == torch.tensor(wanted)).tolist(),
        "top5": (first == torch.tensor(wanted)[:, None]).any(1).tolist(),
        "style": (judge.style_logits(images).argmax(1) == torch.tensor(drawn)).tolist(),
        "critic": critic.named(images, prompts).tolist(),
    }


def spreads(images: Float[Tensor, "B 3 H W"], prompts: Sequence[str]) -> dict[str, float]:
    """Each prompt's mean root-mean-square distance between two of its pictures, if it has two."""
    found = {}
    for prompt in dict.fromkeys(prompts):
        own = images[[i for i, other in enumerate(prompts) if other == prompt]].flatten(1)
        if len(own) == 1:
            continue
        found[prompt] = torch.pdist(own).mean().item() / own.shape[1] ** 0.5
    return found


def diversity(
    before: Mapping[str, float], after: Mapping[str, float], prompts: Sequence[str]
) -> tuple[float, float, float]:
    """How far apart pictures of a prompt are, after by before: the mean, and its interval."""
    ratios = [after[prompt] / before[prompt] for prompt in dict.fromkeys(prompts)]
    low, high = bootstrap_interval(ratios)
    return sum(ratios) / len(ratios), low, high


@dataclass
class Run:
    """The stages of one run, each kept in a folder when it is done.

    Args:
        learning: see there.
        folder: keeps them.

    """

    learning: Learning
    folder: RunFolder

    def __post_init__(self) -> None:
        self.steps = ResumableSteps(self.folder.path / "checkpoint", True, lambda: False)
        self.model = load("tiny")
        self.render = Renderer(
            self.model, STEPS, GUIDANCE, gradient=self.learning.gradient, chunk=24
        )
        self.variable = Weights(self.model.pipe)

    def measure(self, seeds: int) -> dict[str, Any]:
        """Learn, and draw as many pictures of each held-out prompt before and after."""
        training, others = concepts(self.learning.tuning)
        drawn = captions(training, self.learning.captions)
        validation = drawn[: len(drawn) // VALIDATION]
        chosen, screened = self.screen(drawn, len(validation))
        learned = self.learn(chosen, validation)
        curve = self.settle_strength(training)
        first, names = FIRST_SEED[self.learning.tuning], [*training, *others]
        rounds = [held_out(names, first + 1000 * k) for k in range(seeds)]
        pairs = [
            self.draw(f"held-out-{k}", examples, curve["strength"])
            for k, examples in enumerate(rounds)
        ]
        views = {view: torch.cat([pair[view] for pair in pairs]) for view in ("before", "after")}
        prompts = [example.prompt for examples in rounds for example in examples]
        return {
            "prompts": prompts,
            "unseen": [named_concept(prompt, names) in others for prompt in prompts],
            "screened": screened,
            **learned,
            **curve,
            "verdicts": {view: verdicts(images, prompts) for view, images in views.items()},
            "spread": {view: spreads(images, prompts) for view, images in views.items()},
            "views": views,
        }

    def screen(
        self, examples: Sequence[Example], apart: int
    ) -> tuple[list[Example], dict[str, int]]:
        """The examples that teach something: the critic's cross-entropy is above the margin.

        The first `apart` are not among them.
        """

        def look() -> Saved:
            tell(f"drawing {len(examples)} captions")
            losses = [
                critic.named(images, [example.prompt for example in part])
                for part, images in self.render.draw(examples)
            ]
            return {"loss": torch.cat(losses)}, {}

        (tensors, _), _ = self.steps.once("screening", look)
        above = (tensors["loss"] > self.learning.margin).tolist()
        chosen = [example for example, teaches in zip(examples, above, strict=True) if teaches]
        chosen = [example for example in chosen if example not in examples[:apart]]
        return chosen, {"drawn": len(examples), "apart": apart, "chosen": len(chosen)}

    def learn(self, chosen: Sequence[Example], validation: Sequence[Example]) -> dict[str, Any]:
        """Optimise; afterwards the variable holds what was learned."""
        margin, folder = self.learning.margin, self.folder

        def reward(images: Tensor, prompts: Sequence[str]) -> Tensor:
            return (critic.named(images, prompts) - margin).clamp(min=0)

        def note(records: list[dict[str, Any]]) -> None:
            folder.write_history(records)
            tell(str(records[-1]))

        def optimise() -> Saved:
            with self.variable:
                outcome = optimize(
                    MetricObjective(self.render, FunctionMetric(reward, "critic")),
                    self.variable,
                    chosen,
                    validation,
                    self.learning.settings(),
                    checkpoints=folder.checkpoints,
                    resume=any(folder.checkpoints.folder.glob("state-*")),
                    on_history=note,
                )
            return self.variable.tensors(), {
                "history": outcome.history,
                "best_iteration": outcome.best_iteration,
            }

        (tensors, facts), _ = self.steps.once("learning", optimise)
        self.variable.load_tensors(tensors)
        return facts

    def settle_strength(self, names: Sequence[str]) -> dict[str, Any]:
        """Keep the most that leaves pictures as far apart as they may be, and tell the curve.

        The whole interval of the diversity must be above the least that it may be. No caption says
        what is behind the subject: that is what pictures of a prompt differ in most.
        """
        captioned = [f"{name}, {style} style" for name in names for style in STYLES]
        every = [prompt for prompt in captioned for _ in range(SEEDS)]
        examples = [Example(prompt, FIRST_OWN + i) for i, prompt in enumerate(every)]
        learned = {name: tensor.clone() for name, tensor in self.variable.tensors().items()}
        rows: list[dict[str, float]] = []
        for strength in STRENGTHS:
            self.variable.load_tensors(learned)
            self.variable.load_tensors(self.variable.at_strength(strength))
            views = self.draw("plain-captions", examples, strength)
            before, after = (spreads(views[view], every) for view in ("before", "after"))
            ratio, low, high = diversity(before, after, every)
            losses = {f"critic {v}": critic.named(views[v], every).mean().item() for v in views}
            rows.append({"strength": strength, "diversity": ratio, "low": low, "high": high})
            rows[-1] |= losses
            if low >= LEAST_DIVERSITY:
                break
        return {"curve": rows, "strength": rows[-1]["strength"]}

    def draw(
        self, name: str, examples: Sequence[Example], strength: float
    ) -> dict[str, Float[Tensor, "B 3 H W"]]:
        """Pictures before and after, in the 256 tones of a file.

        Args:
            name: of these examples.
            examples: what is drawn.
            strength: of what the variable holds.

        """
        return {
            "before": self.look(f"{name}-before", examples, None),
            "after": self.look(f"{name}-at-{strength:g}", examples, self.variable),
        }

    def look(
        self, name: str, examples: Sequence[Example], variable: Weights | None
    ) -> Float[Tensor, "B 3 H W"]:
        """Pictures without or with what was learned."""

        def draw() -> Saved:
            tell(f"drawing {name}: {len(examples)} pictures")
            with self.variable if variable else nullcontext():
                images = self.render.look(examples, variable)
            return {"images": (255 * images).round().byte()}, {}

        (tensors, _), _ = self.steps.once(name, draw)
        return tensors["images"].float() / 255


def open_folder(learning: Learning, name: str) -> RunFolder:
    """The folder of an interrupted run of the same settings, or a new one."""
    facts = {"benchmark": "aligned", **asdict(learning), "critic": critic.fingerprint()}
    try:
        return RunFolder.open(WORK / name, facts, resume=True)
    except CheckpointError:
        return RunFolder.open(WORK / name, facts, force=True)


# Pages.


def shares(content: Mapping[str, Any], rows: Sequence[int], of: str) -> dict[str, list[float]]:
    """By view, the held-out pictures' verdicts as numbers."""
    return {
        view: [float(found[of][i]) for i in rows] for view, found in content["verdicts"].items()
    }


def row(label: str, content: Mapping[str, Any], rows: Sequence[int]) -> list[str]:
    """A line of the table, of some of the held-out pictures."""
    prompts = [content["prompts"][i] for i in rows]
    cells = [label, str(len(rows))]
    for of in ("top1", "top5", "style"):
        hits = shares(content, rows, of)
        before, after = (sum(hits[view]) / len(rows) for view in ("before", "after"))
        change = [b - a for a, b in zip(hits["before"], hits["after"], strict=True)]
        low, high = (100 * end for end in bootstrap_interval(change, of=prompts))
        cells.append(f"{before:.1%} → {after:.1%} [{low:+.1f}, {high:+.1f}]")
    spread = content["spread"]
    if not spread["before"]:
        return [*cells, "–"]
    return [*cells, _with_interval(diversity(spread["before"], spread["after"], prompts))]


def _with_interval(found: tuple[float, float, float]) -> str:
    mean, low, high = found
    return f"{mean:.3f} [{low:.3f}, {high:.3f}]"


def report(content: Mapping[str, Any]) -> str:
    """The table of `results/aligned.json`, the course, and how it was made."""
    learning, unseen = content["learning"], content["unseen"]
    head = [
        "held-out pictures of",
        "pictures",
        "judge: top 1",
        "judge: top 5",
        "judge: style",
        "diversity, after / before",
    ]
    groups = {
        "concepts that were learned from": [i for i, new in enumerate(unseen) if not new],
        "concepts that were not": [i for i, new in enumerate(unseen) if new],
        "all": list(range(len(unseen))),
    }
    rows = [row(label, content, chosen) for label, chosen in groups.items()]
    hits = [bool(hit) for hit in content["verdicts"]["after"]["top1"]]
    low, high = clustered_share_interval(hits, content["prompts"])
    looks = [record for record in content["history"] if "validation" in record]
    course = [[str(look["iteration"]), f"{look['validation']['objective']:.3f}"] for look in looks]
    kept = [
        [
            f"{point['strength']:g}",
            f"{point['critic before']:.3f} → {point['critic after']:.3f}",
            _with_interval((point["diversity"], point["low"], point["high"])),
        ]
        for point in content["curve"]
    ]
    screened, seconds = content["screened"], sum(r.get("seconds", 0) for r in content["history"])
    return (
        f"{table(head, rows)}\n\n"
        f"In brackets: 95 % bootstrap intervals over prompts, of a change in points, of diversity "
        f"as a ratio. Top 1 of all pictures afterwards: {sum(hits) / len(hits):.1%} "
        f"[{low:.1%}, {high:.1%}].\n\n"
        f"{table(['iteration', 'clipped cross-entropy, validation pictures'], course)}\n\n"
        f"Strength {content['strength']:g} was kept: the most with which the whole interval of the "
        f"diversity is above {LEAST_DIVERSITY:g} in {SEEDS} pictures of every concept to learn "
        f"from in every style, with other prompts and seeds.\n\n"
        f"{table(['strength', 'critic: cross-entropy', 'diversity, after / before'], kept)}\n\n"
        f"Learned: all weights of the UNet, {learning['iterations']} iterations of "
        f"{learning['batch']} pictures, Adam with learning rate {learning['rate']:g} (cosine), "
        f"gradient `{learning['gradient']}`, {STEPS} DDIM steps, guidance {GUIDANCE:g}; "
        f"iteration {content['best_iteration']} was kept. Of {screened['drawn']} captions, "
        f"{screened['apart']} validated; learned from were the {screened['chosen']} others whose "
        f"picture has a cross-entropy above {learning['margin']:g}. The optimisation took "
        f"{seconds / 60:.0f} minutes; critic {content['critic']}, judge {content['judge']}; "
        f"{content['machine']}."
    )


def grid(content: Mapping[str, Any], views: Mapping[str, Tensor], path: Path) -> None:
    """Pictures before and below them after, one column each.

    First come held-out concepts, chosen by position alone, and below them pictures in which the
    judge missed the subject before.
    """
    columns, count = 16, len(content["prompts"])
    unseen = [i for i in range(count) if content["unseen"][i]]
    missed = [i for i, hit in enumerate(content["verdicts"]["before"]["top1"]) if not hit]
    lines = []
    for chosen in (unseen, missed):
        shown = chosen[:: max(1, len(chosen) // columns)][:columns]
        lines += [torch.cat(list(views[view][shown]), 2) for view in ("before", "after")]
    width = max(line.shape[2] for line in lines)
    padded = [torch.nn.functional.pad(x, (0, width - x.shape[2], 2, 2), value=1.0) for x in lines]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, png(torch.cat(padded, 1)))


def main(
    drawn: Annotated[int, typer.Option(help="Captions that are drawn first.")] = 432,
    margin: Annotated[float, typer.Option(help="Cross-entropy that is good enough.")] = 0.2,
    iterations: int = 48,
    batch: int = 4,
    rate: Annotated[float, typer.Option(help="Of Adam.")] = 5e-5,
    ema: float = 0.0,
    gradient: str = "exact",
    seeds: Annotated[int, typer.Option(help="Pictures of each held-out prompt.", min=1)] = 4,
    tuning: Annotated[
        bool, typer.Option("--tuning", help="On the concepts that are learned from alone.")
    ] = False,
    name: Annotated[str, typer.Option(help="Of the file in results/.")] = "aligned",
    page: Page = None,
    picture: Annotated[Path | None, typer.Option(help="Where pictures are shown.")] = None,
    page_only: PageOnly = False,
) -> None:
    """Align the bundled model, measure, and write `results/NAME.json`."""
    if not page_only:
        learning = Learning(drawn, margin, iterations, batch, rate, ema, gradient, tuning)
        measure(learning, seeds, name, picture)
    publish(report(read_results(name)), page)


def measure(learning: Learning, seeds: int, name: str, picture: Path | None) -> None:
    """Run what the run's folder does not hold."""
    content = Run(learning, open_folder(learning, name)).measure(seeds)
    views = content.pop("views")
    facts = {
        "learning": asdict(learning),
        "critic": critic.fingerprint(),
        "judge": critic.fingerprint(JUDGE),
        "machine": machine(),
    }
    write_results(name, facts | content)
    if picture is not None:
        grid(content, views, picture)


if __name__ == "__main__":
    run(main)
