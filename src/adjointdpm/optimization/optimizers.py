"""The optimisers that the loop can use, by name, and their way into a checkpoint and back."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from adjointdpm.errors import UnknownNameError, UnsupportedError
from adjointdpm.optimization.normalized_descent import NormalizedDescent


def _prodigy(tensors: Sequence[Tensor], lr: float) -> Optimizer:
    try:
        from prodigyopt import Prodigy
    except ImportError as error:
        raise UnsupportedError(
            f"optimizer 'prodigy' needs a package that is missing ({error}): pip install prodigyopt"
        ) from error
    return Prodigy(tensors, lr=lr)


#: What makes each optimiser, from the tensors that it changes and `lr`; a new one is a line here.
#:
#: - normalized: see `NormalizedDescent`. `lr` is the length of a step, as a share of what is
#:   natural: of the noise's standard deviation, a word's vector, the weights.
#: - adam: Kingma & Ba (2015, arXiv 1412.6980).
#: - sgd: with Nesterov's momentum of 0.9.
#: - prodigy: Mishchenko & Defazio (2024, arXiv 2306.06101). It finds its own step size, and `lr`
#:   multiplies that: 1 is the usual choice.
#: - lbfgs: one direction an iteration, with a line search for the strong Wolfe conditions, which
#:   costs several gradients. It is meant for runs in which every iteration uses the same examples.
#:   `lr` is where the search starts: 1 is the usual choice.
OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    "normalized": NormalizedDescent,
    "adam": torch.optim.Adam,
    "sgd": partial(torch.optim.SGD, momentum=0.9, nesterov=True),
    "prodigy": _prodigy,
    "lbfgs": partial(
        torch.optim.LBFGS,
        max_iter=1,
        line_search_fn="strong_wolfe",
        # The defaults take the small gradients of large tensors for the end of the descent.
        tolerance_grad=0.0,
        tolerance_change=0.0,
    ),
}

#: Those that find the size of their steps, which `lr` multiplies.
_FREE_OF_LR = ("prodigy", "lbfgs")


def usual_lr(optimizer: str, natural: float) -> float:
    """The usual `lr` of an optimiser: 1 if it finds its own steps, else `natural`."""
    return 1.0 if optimizer in _FREE_OF_LR else natural


def check_optimizer(name: str) -> None:
    """Raise UnknownNameError unless there is an optimiser of that name."""
    if name not in OPTIMIZERS:
        raise UnknownNameError(
            f"optimizer {name!r} is unknown; choose one of {', '.join(OPTIMIZERS)}"
        )


def make_optimizer(
    name: str, tensors: Sequence[Tensor], lr: float, units: Sequence[Tensor] = ()
) -> Optimizer:
    """The optimiser of that name for the tensors, whose natural sizes are `units`, or else 1.

    Raises:
        UnknownNameError: there is none of that name.
        UnsupportedError: its package is not installed.

    """
    check_optimizer(name)
    ones = [torch.ones([1] * tensor.ndim) for tensor in tensors]
    more = {"units": units or ones} if name == "normalized" else {}
    return OPTIMIZERS[name](list(tensors), lr=lr, **more)


def pack_state(optimizer: Optimizer) -> tuple[dict[str, Tensor], Any]:
    """An optimiser's state as tensors by name, and as JSON with those names in their places."""
    tensors: dict[str, Tensor] = {}

    def pack(value: Any, path: str) -> Any:
        if isinstance(value, Tensor):
            tensors[path] = value
            return {"tensor": path}
        if isinstance(value, dict):
            return {str(key): pack(item, f"{path}/{key}") for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [pack(item, f"{path}/{i}") for i, item in enumerate(value)]
        return value

    facts = pack(optimizer.state_dict(), "optimizer")
    return tensors, facts


def unpack_state(optimizer: Optimizer, tensors: dict[str, Tensor], facts: Any) -> None:
    """Give an optimiser the state that `pack_state` returned."""

    def unpack(value: Any) -> Any:
        if isinstance(value, dict):
            if value.keys() == {"tensor"}:
                return tensors[value["tensor"]]
            return {key: unpack(item) for key, item in value.items()}
        return [unpack(item) for item in value] if isinstance(value, list) else value

    state = unpack(facts)
    state["state"] = {int(index): slots for index, slots in state["state"].items()}
    optimizer.load_state_dict(state)
