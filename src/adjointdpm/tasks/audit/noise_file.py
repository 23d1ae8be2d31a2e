"""Files of adversarial noise: everything that replays a finding, in one safetensors file."""

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from adjointdpm.errors import CheckpointError, ModelError
from adjointdpm.metrics.networks import NETWORKS
from adjointdpm.optimization.renderer import Renderer
from adjointdpm.pipelines.arguments.call_arguments import call_arguments, loaded
from adjointdpm.pipelines.loading import BUNDLED
from adjointdpm.runs.untrusted import file_of
from adjointdpm.support import tensor_file
from adjointdpm.support.files import safe_name
from adjointdpm.tasks.audit.goal import as_saved
from adjointdpm.tasks.audit.victims import load_victim
from adjointdpm.variables import Example, Noise
from adjointdpm.variables.base import check_tensors

_FORMAT = "adjointdpm-adversarial-noise"
_MOST_STEPS = 100_000
_MOST_BYTES = 2**34  # of one file


@dataclass(frozen=True)
class Adversarial:
    """What such a file holds.

    Args:
        examples: the prompts, with the seeds of the noises that the attack started from.
        noise, start: `[n, …]`.
        facts: `model`, `victim`, `target`, `prompts`, `steps`, `guidance_scale`, `sampler`,
            `pipeline_arg`, and by example `labels` and `verdicts`.

    """

    examples: list[Example]
    noise: Float[Tensor, "n *shape"]
    start: Float[Tensor, "n *shape"]
    facts: dict[str, Any]


def noise_folder_name(budget: float, target: str | None = None) -> str:
    """The folder of such files, where there are more noises than one file should hold."""
    words = [] if target is None else [safe_name(target)]
    return "_".join(["adversarial", *words, f"{budget:g}"])


def noise_file_name(budget: float, target: str | None = None) -> str:
    """The file of the noises that were found within a budget."""
    return f"{noise_folder_name(budget, target)}.safetensors"


def write_findings(
    path: Path,
    examples: Sequence[Example],
    noise: Float[Tensor, "n *shape"],
    start: Float[Tensor, "n *shape"],
    facts: dict[str, Any],
) -> Path:
    """Write the noises of an attack, and what it takes to draw and to judge them again.

    Args:
        path: the file.
        examples: the prompts, with the seeds of the noises that the attack started from.
        noise, start: where it ended and started.
        facts: see `Adversarial`; and `within` and `budget`.

    """
    tensors = {"noise": noise.float(), "start": start.float()}
    tensor_file.write(path, tensors, facts | {"format": _FORMAT, "examples": examples})
    check_tensors(path, tensors)
    return path


def noise_files(path: Path) -> list[Path]:
    """The files of a folder of adversarial noise, in their order; of a file, the file alone.

    Raises:
        CheckpointError: the folder holds none.

    """
    if not path.is_dir():
        return [path]
    found = sorted(path.glob("*.safetensors"))
    try:
        found = [file_of(path, file.name, _MOST_BYTES) for file in found]
    except (OSError, ValueError) as error:
        raise CheckpointError(f"the folder {path}: {error}") from error
    if not found:
        raise CheckpointError(f"the folder {path} holds no files of adversarial noise")
    return found


def read_findings(path: Path) -> Adversarial:
    """Read what `write_findings` wrote.

    Raises:
        CheckpointError: the file is missing, damaged, or something else; or what the replay needs
            of it is missing or impossible.

    """
    try:
        tensors, facts = tensor_file.read(path, _FORMAT)
        facts.setdefault("pipeline_arg", [])
        _check_facts(facts)
        examples = [Example(*example) for example in facts.pop("examples")]
        for name in ("noise", "start"):
            shape, count = tuple(tensors[name].shape), len(examples)
            finite = tensors[name].is_floating_point() and tensors[name].isfinite().all()
            if len(shape) < 2 or shape[0] != count or 0 in shape or not finite:
                raise ValueError(f"its {name} must be finite numbers [{count}, …], not {shape}")
        if tensors["noise"].shape != tensors["start"].shape:
            raise ValueError("its noise and its start must have one shape")
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path} is no file of adversarial noise that could be replayed: {error}"
        ) from error
    return Adversarial(examples, tensors["noise"], tensors["start"], facts)


def chosen(found: Adversarial, what: Literal["model", "victim"], given: str | None = None) -> str:
    """The model or the victim to replay with.

    It is what the user gives, or else what the file names if that comes with this package. A victim
    may be code, and a model may be looked up on the network: a file from somebody else must not
    decide that.

    Raises:
        ModelError: nothing is given, and the file names something else; the message says what.

    """
    recorded = found.facts[what]
    if given is not None:
        return given
    if _is_bundled(what, recorded):
        return recorded
    raise ModelError(
        f"the file was made with the {what} {recorded!r}, which does not come with this package: a "
        "file may not choose what is run or looked up. If you trust it, name it yourself: "
        f"--{what} {shlex.quote(recorded or what.upper())}"
    )


@torch.no_grad()
def replay(model: Any, found: Adversarial, victim: str | None = None) -> list[dict[str, Any]]:
    """Draw the pictures again and ask the victim again.

    Args:
        model: what `adjointdpm.load` returns.
        found: what `read_findings` returns.
        victim: as `load_victim` takes it; None for the one on file, see `chosen`.

    Returns:
        A row for each example: `prompt`, `seed`, `label`, `was` (the verdict on file), `now` (the
        verdict on the new picture), and `picture`, `[3, H, W]`.

    Raises:
        ModelError: the victim on file is not bundled, and none is given.
        CheckpointError: the noise on file is not of this model.

    """
    facts = found.facts
    judge = load_victim(chosen(found, "victim", victim), facts["prompts"])
    arguments = loaded(call_arguments(model.pipe, facts["pipeline_arg"]))
    settings = (facts["steps"], facts["guidance_scale"], facts["sampler"])
    render = Renderer(model, *settings, arguments=arguments)
    own, shape = render.noise_of(found.examples[0]).shape[1:], found.noise.shape[1:]
    if own != shape:
        raise CheckpointError(
            f"the file's noise has shape {tuple(shape)} for each example, and the model starts "
            f"from {tuple(own)}; name the model that the file was made with"
        )
    noise = Noise(found.examples, found.noise, within="free")
    pictures = as_saved(render.look(found.examples, noise))
    now = [judge.groups[i] for i in judge.verdicts(pictures).tolist()]
    rows = zip(found.examples, facts["labels"], facts["verdicts"], now, pictures, strict=True)
    return [
        {"prompt": e.prompt, "seed": e.seed, "label": label, "was": was, "now": is_, "picture": p}
        for e, label, was, is_, p in rows
    ]


def replay_command(path: Path | str, model: str, victim: str) -> str:
    """The command line that replays a file, with what the file may not choose."""
    named_again = [("model", model), ("victim", victim)]
    flags = [
        word
        for what, name in named_again
        if not _is_bundled(what, name)
        for word in (f"--{what}", name or what.upper())
    ]
    return shlex.join(["adjointdpm", "audit", "--replay", str(path), *flags])


def _is_bundled(what: str, name: str) -> bool:
    return name in BUNDLED if what == "model" else name.partition(":")[0] in NETWORKS


def _check_facts(facts: dict[str, Any]) -> None:
    """Raise ValueError unless all facts are there and of their kind, in lists of one length."""
    kinds = {
        "a text": ("model", "victim"),
        "a text or null": ("target", "sampler"),
        "arguments": ("pipeline_arg",),
        "a list of texts": ("prompts", "labels", "verdicts"),
        f"a whole number from 1 to {_MOST_STEPS}": ("steps",),
        "a number or null": ("guidance_scale",),
        "a list of prompts and seeds": ("examples",),
    }
    for kind, names in kinds.items():
        for name in names:
            if name not in facts or not _is(kind, facts[name]):
                raise ValueError(f"{name} must be {kind}, not {facts.get(name, 'missing')!r}")
    # Not needed for a replay, but nobody should trust a file that says nonsense of itself.
    if facts.get("within", "l2") not in ("l2", "linf"):
        raise ValueError(f"within must be l2 or linf, not {facts['within']!r}")
    budget = facts.get("budget", 1.0)
    if not _is("a number or null", budget) or not (budget or 0) > 0:
        raise ValueError(f"budget must be a positive number, not {budget!r}")
    if not facts["examples"]:
        raise ValueError("it holds no examples")
    if not len(facts["examples"]) == len(facts["labels"]) == len(facts["verdicts"]):
        raise ValueError("it has not one label and one verdict for each example")


def _is(kind: str, value: Any) -> bool:
    match kind, value:
        case ("a text" | "a text or null", str()) | ("a text or null" | "a number or null", None):
            return True
        case str(), int() if kind.startswith("a whole number"):
            return not isinstance(value, bool) and 0 < value <= _MOST_STEPS
        case "a number or null", int() | float():
            return not isinstance(value, bool) and math.isfinite(value)
        case "arguments", list():
            return all(isinstance(item, str) for item in value)
        case "arguments", dict():
            return all(isinstance(name, str) for name in value)
        case "a list of texts", list():
            return all(isinstance(item, str) for item in value)
        case "a list of prompts and seeds", list():
            return all(
                isinstance(item, list) and [type(part) for part in item] == [str, int]
                for item in value
            )
    return False
