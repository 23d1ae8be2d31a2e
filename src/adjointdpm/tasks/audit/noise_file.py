"""Files of adversarial noise: everything that replays a finding, in one safetensors file."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Float
from pydantic import AfterValidator, Field, PositiveFloat
from torch import Tensor

from adjointdpm.errors import CheckpointError, ModelError
from adjointdpm.metrics.networks import NETWORKS
from adjointdpm.optimization.renderer import Renderer
from adjointdpm.pipelines.arguments.call_arguments import call_arguments, loaded
from adjointdpm.pipelines.loading import BUNDLED
from adjointdpm.runs.untrusted import file_of
from adjointdpm.support import tensor_file
from adjointdpm.support.files import safe_name
from adjointdpm.support.limits import LARGEST_COUNTS
from adjointdpm.support.schema import Facts, check_facts
from adjointdpm.tasks.audit.goal import as_saved
from adjointdpm.tasks.audit.victims import load_victim
from adjointdpm.variables import Example, Noise
from adjointdpm.variables.base import check_tensors

_FORMAT = "adjointdpm-adversarial-noise"
_MOST_STEPS = LARGEST_COUNTS["steps"][0]
LARGEST = 2**31  # bytes of a file
_OLD: dict[str, Any] = {"pipeline_arg": []}  # what files of the first versions lack


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
        found = [file_of(path, file.name, LARGEST) for file in found]
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
        contents = tensor_file.look(path, _FORMAT, check=lambda facts: _check_facts(_OLD | facts))
        facts = _OLD | contents.facts
        examples = [Example(*example) for example in facts.pop("examples")]
        _check_shapes(contents.shapes, len(examples), contents.size)
        tensors, _ = tensor_file.read(path, _FORMAT)
        for name in ("noise", "start"):
            if not (tensors[name].is_floating_point() and tensors[name].isfinite().all()):
                raise ValueError(f"its {name} must be finite numbers")
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path} is no file of adversarial noise that could be replayed: {error}"
        ) from error
    return Adversarial(examples, tensors["noise"], tensors["start"], facts)


def _check_shapes(shapes: tensor_file.Shapes, count: int, size: int) -> None:
    """Raise ValueError unless there is a noise and a start for each example, and room for them."""
    if size > LARGEST:
        raise ValueError(f"it has {size / 1e9:.1f} GB, and no audit writes more than 2 GB")
    for name in ("noise", "start"):
        shape = shapes.get(name)
        if shape is None:
            raise ValueError(f"its {name} is missing")
        if len(shape) < 2 or shape[0] != count or 0 in shape:
            raise ValueError(f"its {name} must be finite numbers [{count}, …], not {shape}")
    if shapes["noise"] != shapes["start"]:
        raise ValueError("its noise and its start must have one shape")


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


def _check_example(example: list[Any]) -> list[Any]:
    if [type(part) for part in example] != [str, int] or not 0 <= example[1] < 2**63:
        raise ValueError("must be a prompt and a seed")
    return example


class FindingsFacts(Facts):
    """What a file says beside its tensors; see `Adversarial`."""

    model: str
    victim: str
    target: str | None
    prompts: Annotated[list[str], Field(min_length=1)]
    steps: Annotated[int, Field(ge=1, le=_MOST_STEPS)]
    guidance_scale: float | None
    sampler: str | None
    pipeline_arg: list[str] | dict[str, Any]
    examples: Annotated[
        list[Annotated[list[Any], AfterValidator(_check_example)]], Field(min_length=1)
    ]
    labels: list[str]
    verdicts: list[str]
    # Not needed for a replay, but nobody should trust a file that says nonsense of itself.
    within: Literal["l2", "linf"] = "l2"
    budget: PositiveFloat = 1.0


def _check_facts(facts: dict[str, Any]) -> None:
    """Raise CheckpointError unless all facts are of their kind, in lists of one length."""
    found = check_facts(FindingsFacts, facts)
    if not len(found.examples) == len(found.labels) == len(found.verdicts):
        raise CheckpointError("it has not one label and one verdict for each example")
