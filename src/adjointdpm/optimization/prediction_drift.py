"""How far a changed network's predictions are from the untouched one's, where the sampler goes."""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from adjointdpm.errors import InvalidInputError
from adjointdpm.optimization.float16_scaling import GradientScale
from adjointdpm.variables import Variable

_CALLS = 2  # of the network, on the way from noise to sample, that are compared


@dataclass(frozen=True)
class NetworkCall:
    """One call that a pipeline made of its network, with nothing of its graph.

    Args:
        args, kwargs: what the network got.
        outputs: the tensors that it returned.

    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: list[Tensor]


class PredictionDrift:
    """Squared distance of predictions to the untouched model's, relative to their size.

    The states are those of the changed model's own way, and are not differentiated. Up to the
    weights of the steps this is the KL divergence between the ways that a sampler with noise takes
    with both models: that of step k is ‖μ − μ_base‖² / (2 s_k²), and its mean μ is linear in the
    prediction. All steps weigh the same here. A few calls of each drawing are compared, chosen at
    random. The calls are those that the pipeline makes while it draws anyway, so that this works
    for every pipeline and costs three further calls for each that is compared.

    Args:
        pipe: the pipeline that draws.
        variable: changes one network, as `LoRA` and `Weights` do.

    Raises:
        InvalidInputError: the variable changes no network.

    """

    def __init__(self, pipe: Any, variable: Variable) -> None:
        network = pipe.components.get(getattr(variable, "part", ""))
        if not isinstance(network, nn.Module):
            raise InvalidInputError(
                f"kl compares the predictions of a changed network, and {type(variable).__name__} "
                f"changes none; set kl=0"
            )
        self.network, self.variable = network, variable

    @contextmanager
    def watching(self, key: str) -> Iterator[list[NetworkCall]]:
        """Fill the list with some calls that the network gets inside, chosen by `key`."""
        chosen: list[NetworkCall] = []
        source, seen = random.Random(key), 0

        def note(network: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            nonlocal seen
            seen += 1
            place = seen - 1 if seen <= _CALLS else source.randrange(seen)
            if place < _CALLS:
                taken, named = tree_map(_copied, args), tree_map(_copied, kwargs)
                call = NetworkCall(taken, named, [_copied(x) for x in _predictions(output)])
                chosen[place : place + 1] = [call]

        handle = self.network.register_forward_hook(note, with_kwargs=True)
        try:
            yield chosen
        finally:
            handle.remove()

    @torch.no_grad()
    def value(self, calls: Sequence[NetworkCall]) -> float:
        """The mean over calls that were made with the variable in place."""
        found = [_distance(call.outputs, self._untouched(call)) for call in calls]
        return sum(distance.item() for distance in found) / len(found)

    def gradients(
        self,
        calls: Sequence[NetworkCall],
        tensors: Sequence[Tensor],
        scale: GradientScale,
        float16: bool,
    ) -> tuple[float, list[Tensor | None]]:
        """The mean over the calls, and its gradient at their states; one graph at a time."""
        total = 0.0
        gradients: list[Tensor | None] = [None] * len(tensors)
        for call in calls:
            base = self._untouched(call)
            distances: list[Tensor] = []

            def predict(
                call: NetworkCall = call,
                base: list[Tensor] = base,
                distances: list[Tensor] = distances,
            ) -> tuple[Tensor, Tensor]:
                made = _predictions(self.network(*call.args, **call.kwargs))
                flat = torch.cat([x.flatten() for x in made])
                parts = torch.split(flat, [x.numel() for x in made])
                shaped = [part.view(x.shape) for part, x in zip(parts, made, strict=True)]
                distances[:] = [_distance(shaped, base) / len(calls)]
                return flat, distances[0]

            found = scale.gradients(predict, tensors, float16)
            total += distances[0].item()
            gradients = [_sum(a, b) for a, b in zip(gradients, found, strict=True)]
        return total, gradients

    @torch.no_grad()
    def _untouched(self, call: NetworkCall) -> list[Tensor]:
        with self.variable.disabled():
            return _predictions(self.network(*call.args, **call.kwargs))


def _predictions(output: Any) -> list[Tensor]:
    """A network's main output: one tensor of the batch, or one of each example."""
    found = [x for x in tree_leaves(output) if isinstance(x, Tensor) and x.is_floating_point()]
    return [x for x in found if x.shape == found[0].shape]


def _distance(outputs: Sequence[Tensor], base: Sequence[Tensor]) -> Tensor:
    """Squared distance over squared size, the mean over rows."""
    changed, plain = (torch.cat([x.float().flatten(1) for x in given]) for given in (outputs, base))
    size = plain.square().sum(1).clamp_min(1e-6 * plain.shape[1])
    return ((changed - plain).square().sum(1) / size).mean()


def _copied(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else value


def _sum(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return a if b is None else b if a is None else a + b
