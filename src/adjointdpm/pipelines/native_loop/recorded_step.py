"""What is noted of one step of a pipeline's loop."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec, keystr, tree_flatten, tree_flatten_with_path


@dataclass
class Call:
    """One call of a network, its arguments and its results as flat lists.

    Attributes:
        names: where the arguments' leaves stand, for messages.
        spec, form: of the containers of arguments and results.
        autocast: whether it was on.
        settings: of the network, after the call.

    """

    name: str
    network: nn.Module
    leaves: list[Any]
    names: list[str]
    spec: TreeSpec
    autocast: bool
    found: list[Any] = field(default_factory=list)
    form: Any = None
    settings: Any = None

    def returns(self, tree: Any) -> None:
        """Note what the network returned."""
        self.found, self.form = tree_flatten(tree)
        self.settings = settings_of(self.network)

    @property
    def shapes(self) -> list[Any]:
        """The arguments' shapes, None for what is no tensor."""
        return [tuple(x.shape) if isinstance(x, Tensor) else None for x in self.leaves]

    @property
    def outputs(self) -> list[Tensor]:
        """The tensors among what the network returned."""
        return [x for x in self.found if isinstance(x, Tensor)]


def settings_of(network: nn.Module) -> tuple[Any, ...]:
    """All numbers, switches and names in a network, its attention processors and LoRA scales.

    Pipelines change some of them in their loop, such as GLIGEN, which switches layers off.
    """
    found: list[Any] = []
    for part in network.modules():
        own = vars(part)
        found.append(_plain(own))
        scales, processor = own.get("scaling"), getattr(part, "processor", None)
        if isinstance(scales, dict):
            found.append(_plain(scales))
        if processor is not None:
            found.append((id(processor), _plain(vars(processor))))
    return tuple(found)


def _plain(values: dict[str, Any]) -> tuple[Any, ...]:
    kinds = (bool, int, float, str, type(None))
    return tuple((key, value) for key, value in values.items() if type(value) in kinds)


def recorded_call(name: str, network: nn.Module, args: Any, kwargs: Any) -> Call:
    """The call before it is made, since a network may change the containers that it gets."""
    paths, spec = tree_flatten_with_path((args, kwargs))
    leaves = [leaf for _, leaf in paths]
    device = next((x.device.type for x in leaves if isinstance(x, Tensor)), "cpu")
    names = [f"{name}{keystr(path[1:])}" for path, _ in paths]
    return Call(name, network, leaves, names, spec, torch.is_autocast_enabled(device))


@dataclass
class Step:
    """One step of the scheduler: its arguments, and the network calls before it."""

    output: Tensor
    timestep: Any
    state: Tensor
    calls: list[Call]
