"""All weights of a network, or some of them, learned."""

import json
import os
import re
import shutil
import uuid
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from adjointdpm.errors import AdjointDPMWarning, InvalidInputError, InvalidTypeError, OutputError
from adjointdpm.variables.base import Variable
from adjointdpm.variables.freezing import Flags, freeze, unfreeze
from adjointdpm.variables.networks import denoiser, unwrapped


class Weights(Variable):
    """The weights of one of a pipeline's networks, or some of them.

    Inside the context the network's parameters hold the learned values, and nothing else in the
    pipeline requires grad; outside they hold the original values. The parameters stay the same
    objects, so that compiled networks and optimisers made inside the context keep working; only
    their storage is exchanged, never copied. Do not call `backward` inside `disabled()` on a graph
    made outside of it: it would read the original values.

    Args:
        pipe: a diffusers pipeline.
        part: the network's name in the pipeline; None is the network of the loop.
        only: a regular expression. The weights whose names contain a match are learned: "attn2"
            means the cross-attentions of a UNet. None: all.

    Raises:
        InvalidInputError: no such part, a part with adapters, an expression that cannot be read or
            that no name matches.
        InvalidTypeError: the weights are in float16, in which optimisers' steps are NaN, or
            quantised.

    Warns:
        AdjointDPMWarning: the weights are in bfloat16, in which most small steps are rounded away.

    """

    def __init__(self, pipe: Any, part: str | None = None, only: str | None = None) -> None:
        part = denoiser(pipe)[0] if part is None else part
        network = unwrapped(pipe.components.get(part))
        if not isinstance(network, nn.Module):
            parts = [
                name
                for name, component in pipe.components.items()
                if isinstance(component, nn.Module)
            ]
            raise InvalidInputError(
                f"the pipeline has no network {part!r}; it has {', '.join(parts)}"
            )
        if getattr(network, "peft_config", None):
            raise InvalidInputError(
                f"the pipeline's {part} has adapters, which its own format cannot hold; fuse or "
                f"unload them first"
            )
        self.pipe, self.part, self.network = pipe, part, network
        self.artefacts = (part,)
        self._parameters = _matching(network, only)
        _check_continuous(self._parameters)
        half = [p.dtype for p in self._parameters.values() if torch.finfo(p.dtype).bits < 32]
        if torch.float16 in half:
            raise InvalidTypeError(
                f"{half.count(torch.float16)} of the weights to learn are in float16, in which the "
                "smallest numbers of an optimiser are 0 and its steps NaN; load the pipeline in "
                f"float32, or learn a LoRA, which keeps its own weights in float32"
            )
        if half:
            warnings.warn(
                f"{len(half)} of the weights to learn are in half precision, in which most small "
                f"steps are rounded away; load the pipeline in float32, or learn a LoRA",
                AdjointDPMWarning,
                stacklevel=2,
            )
        self._learned = {
            name: parameter.detach().clone() for name, parameter in self._parameters.items()
        }
        self._original = {name: parameter.detach() for name, parameter in self._parameters.items()}
        self._flags: Flags | None = None
        self._in_place = False  # whether the parameters hold the learned values

    def tensors(self) -> dict[str, Tensor]:
        """The learned weights by the network's own names; inside the context, its parameters."""
        self._note()
        return dict(self._parameters if self._in_place else self._learned)

    def first_values(self) -> dict[str, Tensor]:
        """The original values; not a copy."""
        return (
            self._original
            if self._in_place
            else {name: parameter.detach() for name, parameter in self._parameters.items()}
        )

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """Inside, the network holds the original values."""
        with self._holding(learned=False):
            yield

    def save(self, folder: Path) -> Path:
        """Write the network into a folder with the part's name.

        `UNet2DConditionModel.from_pretrained` reads that of a UNet.

        Raises:
            OutputError: the disk is full, or the folder cannot be written to; an older folder is as
                it was.

        """

        def write(path: Path) -> None:
            self.network.save_pretrained(path)  # pyright: ignore[reportCallIssue]
            config = path / "config.json"
            facts = json.loads(config.read_text("utf-8"))
            facts.pop(
                "_name_or_path", None
            )  # the folder that it was loaded from is nobody else's business
            config.write_text(json.dumps(facts, indent=2, sort_keys=True) + "\n", "utf-8")

        with self._holding(learned=True):
            return _write_folder(folder / self.part, write)

    def usage(self) -> list[str]:
        """Lines that load the network into a stock pipeline `pipe`."""
        cls = type(self.network)
        return [
            f"from {cls.__module__.split('.')[0]} import {cls.__name__}",
            f'network = {cls.__name__}.from_pretrained("{self.part}", '
            f"torch_dtype=pipe.{self.part}.dtype)",
            f"pipe.{self.part} = network.to(pipe.{self.part}.device)",
        ]

    def check_saved(self, folder: Path) -> None:
        """As `Variable.check_saved`, one tensor after the other: networks are large."""
        path, missing = folder / self.part, set(self._learned)
        with self._holding(learned=True):
            expected = self.network.state_dict()
            for file in sorted(path.glob("*.safetensors")):
                with safe_open(file, "pt") as saved:
                    for name in saved.keys():  # noqa: SIM118 - it is no mapping
                        value = expected.get(name)
                        if value is None or not torch.equal(saved.get_tensor(name), value.cpu()):
                            raise OutputError(f"{file} was written, and read back {name} differs")
                        missing.discard(name)
        if missing:
            raise OutputError(f"{path} was written, and {sorted(missing)[0]} is not in it")

    def __enter__(self) -> Self:
        if self._flags is not None:
            raise InvalidInputError(f"these weights are in the pipeline's {self.part} already")
        self._flags = freeze(self.pipe)
        self._swap(learned=True)
        for parameter in self._parameters.values():
            parameter.requires_grad_()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._flags is not None
        self._swap(learned=False)
        for parameter in self._parameters.values():
            parameter.grad = None
        unfreeze(self._flags)
        self._flags = None

    @contextmanager
    def _holding(self, learned: bool) -> Iterator[None]:
        before = self._in_place
        self._swap(learned)
        try:
            yield
        finally:
            self._swap(before)

    def _swap(self, learned: bool) -> None:
        """Let the parameters hold the learned or the original values."""
        if learned == self._in_place:
            return
        self._note()
        values = self._learned if learned else self._original
        for name, parameter in self._parameters.items():
            parameter.data = values[name].to(parameter.data)
        self._in_place = learned

    def _note(self) -> None:
        # `pipe.to(...)` may have given the parameters another storage.
        held = self._learned if self._in_place else self._original
        held.update({name: parameter.detach() for name, parameter in self._parameters.items()})


def _check_continuous(parameters: dict[str, nn.Parameter]) -> None:
    """Check that weights are numbers that small steps can change."""
    for name, weight in parameters.items():
        if not weight.is_floating_point() or weight.itemsize < 2:
            raise InvalidTypeError(
                f"the weight {name} is quantised ({str(weight.dtype).removeprefix('torch.')}), and "
                "small steps do not change it; learn a LoRA, load the pipeline without "
                "quantisation, or choose other weights (only=…)"
            )


def _matching(network: nn.Module, only: str | None) -> dict[str, nn.Parameter]:
    named = dict(network.named_parameters())
    if only is None:
        return named
    try:
        found = {name: parameter for name, parameter in named.items() if re.search(only, name)}
    except re.error as error:
        raise InvalidInputError(f"only={only!r} is no regular expression: {error}") from error
    if not found:
        some = list(named)[:: max(1, len(named) // 8)]
        raise InvalidInputError(
            f"only={only!r} is found in no weight's name; names are such as {', '.join(some)}"
        )
    return found


def _write_folder(path: Path, write: Callable[[Path], None]) -> Path:
    """Let `write` fill a new folder, then put it or its files in place of those at `path`.

    At no moment is there nothing at `path`, if there was something before.
    """
    temporary = path.parent / f".{path.name}.{uuid.uuid4().hex}"
    try:
        temporary.mkdir(parents=True)
        write(temporary)
        if path.is_dir():
            _move_files(temporary, path)
        else:
            temporary.rename(path)
    except (OSError, SafetensorError) as error:
        raise OutputError(
            f"cannot write {path}: {error}; what was there before is untouched"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return path


def _move_files(source: Path, target: Path) -> None:
    """Put the files of one folder in place of those of another.

    Weights that are spread over several files have an index. The old one is deleted first and the
    new one is moved last, because without it nobody can load a mixture of old and new weights.
    """
    index = "*.index.json"
    for old in target.glob(index):
        old.unlink()
    new = sorted(source.iterdir(), key=lambda file: file.match(index))
    for file in new:
        os.replace(file, target / file.name)
    for old in target.glob("*.safetensors"):
        if old.name not in {file.name for file in new}:
            old.unlink()
