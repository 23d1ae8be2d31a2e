"""The demo: a word for a mood that the bundled model has no word for, learned from the mood's colours alone."""

from collections.abc import Callable, Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor

from adjointdpm.judge import Judge
from adjointdpm.optimize import Record, Settings
from adjointdpm.rendering import Example
from adjointdpm.run_folder import RunFolder
from adjointdpm.tasks.embed import EmbedConfig, embed
from adjointdpm.tasks.evaluation import Recogniser

TOKEN = "<dusk>"
# The twenty one-word concepts (singular, countable) that `training/evaluate.py` finds drawn best, shuffled by random.Random(0).
TRAINING = ("frog", "pineapple", "parrot", "owl", "bear", "penguin", "koala", "cat")
HELD_OUT = ("cookie", "duck", "crab", "dolphin", "cow", "tiger", "crocodile", "panda", "doughnut", "carrot", "lion", "lemon")
STYLES = ("noto", "twemoji", "fluent")
TOP = 5


def demo_config(gradient: str = "exact", seed: int = 0, iterations: int = 12, steps: int = 50) -> EmbedConfig:
    """The demo's settings; they were chosen on training prompts."""
    return EmbedConfig(
        token=TOKEN,
        initial="gray",
        metric="color:mood=dusk",
        prompts=_prompts(TRAINING),
        held_out=_prompts(HELD_OUT),
        template="{prompt} on a {token} background",
        steps=steps,
        guidance_scale=5.0,
        gradient=gradient,
        seed=seed,
        optimisation=Settings(iterations=iterations, batch=2, learning_rate=0.05, preservation=0.2, validate_every=4, seed=seed),
    )


def demo(
    model: Any,
    config: EmbedConfig,
    folder: RunFolder,
    *,
    command: str = "",
    resume: bool = False,
    on_record: Callable[[Record], None] = lambda record: None,
) -> dict[str, Any]:
    """`embed` with the bundled judge, which knows the concepts of the prompts and has no part in the metric."""
    return embed(
        model, config, folder, task="demo", command=command, recognise=judge_prompts(Judge.load()), resume=resume, on_record=on_record
    )


def judge_prompts(judge: Judge) -> Recogniser:
    """Whether the concept that a prompt ends with is among the judge's first five."""
    concepts = {name: index for index, name in enumerate(judge.concepts)}

    def recognise(images: Float[Tensor, "batch 3 height width"], examples: Sequence[Example]) -> list[bool]:
        best = judge.concept_logits(images).topk(TOP).indices.tolist()
        return [concepts[example.prompt.split()[-1]] in found for example, found in zip(examples, best, strict=True)]

    return recognise


def _prompts(concepts: Sequence[str]) -> list[str]:
    return [f"a {STYLES[i % len(STYLES)]} emoji of {'an' if name[0] in 'aeiou' else 'a'} {name}" for i, name in enumerate(concepts)]
