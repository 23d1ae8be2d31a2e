"""The table: which metrics, tasks and seeds there are, and the grid that they are compared with.

None of these pictures, prompts and seeds may be used to choose a default, and none of the metrics
but those in `LIKE_TUNING`. Where a failure here led to another rule, its metric belongs there.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from itertools import product
from pathlib import Path

from adjointdpm.pipelines.loading import BUNDLED
from adjointdpm.runs.folder import png
from adjointdpm.support.files import write_bytes, write_text
from adjointdpm.tasks.demo import prompts_of
from adjointdpm.tasks.guide_config import LEARNED
from benchmarks.defaults import own_metrics
from benchmarks.reference_pictures import PICTURES
from training.concepts import load_concepts

SEEDS = (101, 102)
#: What `--metric` is given; the two Gram metrics are the `--style` of stylize.
METRICS = {
    "sepia": "color:mood=sepia",
    "brightness": "own.py:brightness",
    "gram-gingham": "gram:reference=gingham.png",
    "evening": "own.py:evening",
    "classifier": "classifier:target=917",
    "symmetry": "own.py:symmetry",
    "picture": "reference:reference=sky.png",
    "saturation": "own.py:saturation",
    "text": "similarity:text=a strawberry",
    "sharpness": "own.py:sharpness",
    "blue": "color:red=0.3,green=0.35,blue=0.8",
    "gram-dots": "gram:reference=dots.png",
    "vignette": "own.py:vignette",
    "golden-hour": "color:mood=golden_hour",
}
WORDS = {
    "sepia": "a bundled mood of colours",
    "brightness": "own function of one argument: dark pictures",
    "gram-gingham": "Gram distance to a woven cloth",
    "evening": "own function of two arguments: how dim depends on the prompt",
    "classifier": "cross-entropy of an ImageNet classifier for “comic book”",
    "symmetry": "own function of one argument: like its mirror image",
    "picture": "mean squared distance to a picture, an evening sky",
    "saturation": "own function of one argument: full colours",
    "text": "similarity to a text. No CLIP is bundled, so its stand-in is measured, the bundled "
    "judge's cross-entropy for the thing that the text names; the judge cannot judge these cells",
    "sharpness": "own function of one argument: neighbouring pixels differ",
    "blue": "a mean colour given by numbers",
    "gram-dots": "Gram distance to printed dots",
    "vignette": "own function of one argument: dark borders, bright middle",
    "golden-hour": "a bundled mood of colours",
}
#: What no picture can be below, for each metric; 0 where nothing is said.
LEAST = {"sharpness": -2.0, "vignette": -1.0}
#: Settings were tried on metrics like these, with other prompts and seeds, or a failure in this
#: table led to another rule (blue, evening, gram-dots, gram-gingham, picture, saturation): they
#: count apart.
LIKE_TUNING = (
    "sepia",
    "brightness",
    "saturation",
    "sharpness",
    "vignette",
    "evening",
    "gram-gingham",
    "picture",
    "symmetry",
    "classifier",
    "gram-dots",
    "blue",
    "golden-hour",
)
#: A copy of the bundled model. The program takes it for somebody's own, and has no judge for it.
OWN_MODEL = "own-model"
#: What each task's command line begins with. Metrics of Gram matrices are learned by stylize, all
#: others by align.
_TASKS = {
    "embed": ["embed"],
    "guide-noise": ["guide", "--learn", "noise"],
    "guide-prompt": [
        "guide",
        "--learn",
        *(name for name in LEARNED if name not in ("noise", "both")),
    ],
    "guide-both": ["guide", "--learn", "both"],
    "stylize": ["stylize"],
    "align": ["align"],
}
#: Where noise moves, the model itself guards a picture, whoever's it is: a copy does the same.
_ALIKE = ("guide-noise", "guide-both")
TASKS = _TASKS | {
    f"{task}-{OWN_MODEL}": [*words, "--model", OWN_MODEL]
    for task, words in _TASKS.items()
    if task not in _ALIKE
}

#: The grid: the flags of its runs, beside ten times the iterations of the default run.
_ADAM = ["--optimizer", "adam", "--lr"]
RATES = {
    "embed": ("0.03", "0.1", "0.3"),
    "guide-noise": ("0.02", "0.1", "0.3"),
    "guide-prompt": ("0.01", "0.03", "0.1"),
    "guide-both": ("0.02", "0.1", "0.3"),
    "stylize": ("3e-4", "1e-3", "1e-2"),
    "align": ("3e-4", "1e-3", "1e-2"),
}
TEMPLATES = (
    "{prompt} on a {token} background",
    "{token} {prompt}",
    "{prompt} in {token} style",
)
FACTOR = 10
#: Looks without a gain after which a run of the grid ends; guide looks at every iteration.
PATIENCE = {"embed": "20", "guide": "100", "stylize": "20", "align": "20"}


@dataclass(frozen=True)
class Cell:
    """One task for one metric and one seed."""

    task: str
    metric: str
    seed: int

    @property
    def name(self) -> str:
        """How results and `--only` call it."""
        return f"{self.task}/{self.metric}/{self.seed}"

    @property
    def command(self) -> str:
        """The command of `adjointdpm`."""
        return TASKS[self.task][0]

    @property
    def judged_here(self) -> bool:
        """Whether the program has no judge for it, and the benchmark asks one.

        The stand-in for a text's similarity is the judge's own verdict.
        """
        return OWN_MODEL in TASKS[self.task] and self.metric != "text"

    def arguments(self) -> list[str]:
        """The command line after `adjointdpm`, without flags that have a default but the seed."""
        command, metric = TASKS[self.task], METRICS[self.metric]
        given = ["--seed", str(self.seed), "--out", self.name.replace("/", "-")]
        if self.command == "guide":
            return [*command, "--prompt", self._prompt(), "--metric", metric, *given]
        learning = [*command, "--prompts", "prompts.txt", *given]
        if self.command == "stylize":
            return [*learning, "--style", metric.removeprefix("gram:reference=")]
        token = ["--token", f"<{self.metric}>"] if self.command == "embed" else []
        return [*learning, "--metric", metric, *token]

    def grid(self) -> list[list[str]]:
        """The flags of each run of the cell's grid, beside its iterations."""
        patience = ["--patience", PATIENCE[self.command]]
        rate_of = RATES[self.task.removesuffix(f"-{OWN_MODEL}")]
        rates = [[*_ADAM, rate, *patience] for rate in rate_of]
        if self.command != "embed":
            return rates
        return [[*rate, "--template", text] for text, rate in product(TEMPLATES, rates)]

    def _prompt(self) -> str:
        """One of the prompts, another for each metric and seed."""
        every = prompts()
        place = 7 * list(METRICS).index(self.metric) + 19 * SEEDS.index(self.seed)
        return every[place % len(every)]


def cells(only: Sequence[str] = ()) -> list[Cell]:
    """The cells that one of the patterns names, or all: a seed first, metric by metric."""
    every = [
        Cell(task, metric, seed)
        for seed, metric, task in product(SEEDS, METRICS, TASKS)
        if TASKS[task][0] != ("align" if metric.startswith("gram") else "stylize")
    ]
    return [c for c in every if not only or any(fnmatch(c.name, pattern) for pattern in only)]


def prompts() -> list[str]:
    """Forty prompts of things that the bundled model knows; ten of them are held out."""
    return prompts_of([concept.name for concept in load_concepts() if concept.familiar][:40])


def supply(folder: Path) -> None:
    """Write the files that the command lines name."""
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "prompts.txt", "\n".join(prompts()) + "\n")
    shutil.copytree(BUNDLED["tiny"], folder / OWN_MODEL, dirs_exist_ok=True)
    write_text(folder / "own.py", Path(own_metrics.__file__).read_text("utf-8"))
    for name, draw in PICTURES.items():
        write_bytes(folder / f"{name}.png", png(draw()))
