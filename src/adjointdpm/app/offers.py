"""What the page offers for a model: only what works with it."""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from adjointdpm.errors import ModelError
from adjointdpm.pipelines.arguments.prompting import CLASSES, NOTHING, TEXT

#: Texts that name gradient methods, by the method's class.
_GRADIENTS = {
    "Checkpoint": "exact",
    "Adjoint": "adjoint",
    "Interpolated": "interpolated:vjps=10",
    "Auto": "auto",
}


@dataclass(frozen=True)
class Offers:
    """What works with a model; the defaults are those of the bundled one.

    Args:
        reads: what it reads of a prompt: text, class labels, or nothing.
        embedding: whether a prompt's embedding can be learned for it.
        guidance: the setting of its guidance; none if it has none.
        token: whether a token can be learned for it.
        lora: whether a LoRA can.
        gradients: texts that name gradient methods.
        samplers: native samplers.

    """

    reads: str = TEXT
    embedding: bool = True
    guidance: Sequence[str] = ("guidance_scale",)
    token: bool = True
    lora: bool = True
    gradients: Sequence[str] = ("exact", "adjoint", "interpolated:vjps=10", "auto")
    samplers: Sequence[str] = (
        "euler",
        "heun",
        "midpoint",
        "runge_kutta_4",
        "adams_bashforth",
        "dpm_solver_pp",
        "ancestral",
        "reversible_euler",
    )

    @classmethod
    def read(cls, facts: Mapping[str, Any]) -> "Offers":
        """From what `adjointdpm inspect --json` prints."""
        supports = facts["supports"]
        methods, artefacts = supports["gradient methods"], supports["artefacts"]
        return cls(
            facts["reads"],
            supports["variables"].get("prompt embedding") is True,
            tuple(name for name in cls.guidance if name in facts["arguments"]),
            artefacts.get("token") is True,
            artefacts.get("LoRA") is True,
            tuple(text for name, text in _GRADIENTS.items() if methods.get(name) is True),
            tuple(name for name, works in supports["native samplers"].items() if works is True),
        )

    def prompts(self, examples: str) -> str:
        """What stands in a form at first, in place of texts that the model cannot read.

        Args:
            examples: texts, one a line. A model that reads nothing keeps them: metrics see them.

        """
        if self.reads != CLASSES:
            return examples
        return "\n".join(str(number) for number, _ in enumerate(examples.splitlines()))

    @property
    def prompt_info(self) -> str:
        """What a prompt is to the model."""
        if self.reads == CLASSES:
            return "The number or the name of a class."
        if self.reads == NOTHING:
            return "The model reads none; metrics see it."
        return "What to draw."


def offers_for(words: Sequence[str]) -> Offers:
    """Ask `adjointdpm inspect` about a model.

    Args:
        words: of the command line, that say which.

    Raises:
        ModelError: it cannot be loaded.

    """
    if not words:
        return Offers()
    name = words[0].removeprefix("--model=")
    command = [sys.executable, "-m", "adjointdpm", "inspect", name, "--json", *words[1:]]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["it ended without a word"]
        raise ModelError(said[-1].removeprefix("error: "))
    return Offers.read(json.loads(done.stdout))
