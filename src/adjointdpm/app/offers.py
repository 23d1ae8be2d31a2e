"""What the page offers for a model: only what works with it."""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from adjointdpm.errors import ModelError

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
        reads_text: whether it reads prompts.
        token: whether a token can be learned for it.
        lora: whether a LoRA can.
        gradients: texts that name gradient methods.
        samplers: native samplers.

    """

    reads_text: bool = True
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
            facts["reads"] == "text",
            artefacts.get("token") is True,
            artefacts.get("LoRA") is True,
            tuple(text for name, text in _GRADIENTS.items() if methods.get(name) is True),
            tuple(name for name, works in supports["native samplers"].items() if works is True),
        )


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
