"""Frozen networks for metrics and audits, `[B, 3, H, W]` in [0, 1] -> `[B, K]`.

A new network is a file here and a line in `NETWORKS`.
"""

import functools
from collections.abc import Callable

import torch
from torch import nn

from adjointdpm.errors import InvalidTypeError, ModelError, UnknownNameError
from adjointdpm.metrics.networks.calling import class_logits
from adjointdpm.metrics.networks.class_names import Wanted, class_groups, class_indices
from adjointdpm.metrics.networks.clip import Clip
from adjointdpm.metrics.networks.efficientnet import EfficientNetLite0
from adjointdpm.metrics.networks.imagenet_names import IMAGENET
from adjointdpm.metrics.networks.judge import Judge
from adjointdpm.metrics.networks.onnx_graph import OnnxGraph
from adjointdpm.metrics.networks.open_nsfw import OpenNSFW
from adjointdpm.metrics.networks.placement import placed
from adjointdpm.support.argument_types import explain_types
from adjointdpm.support.user_code import file_and_function, load_function, user_code

NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "efficientnet-lite0": EfficientNetLite0,
    "open-nsfw": OpenNSFW,
    "judge": Judge.load,
}


def load_network(name: str) -> nn.Module:
    """A network by name, float32 on the CPU, in evaluation mode and with frozen weights.

    A known network is loaded once and shared: use `placed` to have it elsewhere, not `.to`.

    Args:
        name: one of `NETWORKS`; or `file.py:function`, the user's own, which is called and returns
            a module images -> logits. Names for its classes can be given as its attribute
            `classes`, see `class_groups`.

    Raises:
        UnknownNameError: no network has that name; the message lists those there are.
        ModelError: its package is not installed; or the file is missing, fails, or returns
            something else.

    """
    if not isinstance(name, str):
        raise InvalidTypeError(
            f"network={name!r} must be one of {', '.join(NETWORKS)}, or file.py:function"
        )
    if named := file_and_function(name):
        build = load_function(*named, "network", ModelError)
        with user_code(f"network {name!r}", ModelError):
            return _built(name, build)
    if name not in NETWORKS:
        raise UnknownNameError(
            f"network {name!r} is unknown; choose one of {', '.join(NETWORKS)}, or file.py:function"
        )
    return _known(name)


@functools.cache
def _known(name: str) -> nn.Module:
    try:
        return _built(name, NETWORKS[name])
    except ImportError as error:
        raise ModelError(
            f"network {name!r} needs a package that is missing ({error}): pip install "
            f'"adjointdpm[judges]"'
        ) from error


def _built(name: str, build: Callable[[], object]) -> nn.Module:
    # Weights are drawn at random before they are loaded; that must not shift the random numbers of
    # a run.
    with torch.random.fork_rng(devices=[]):
        network = build()
    if not isinstance(network, nn.Module):
        raise ModelError(
            f"network {name!r} is a {type(network).__name__}; the function must return a "
            f"torch.nn.Module, images -> logits"
        )
    return network.eval().requires_grad_(False)


__all__ = [
    "IMAGENET",
    "NETWORKS",
    "Clip",
    "EfficientNetLite0",
    "Judge",
    "OnnxGraph",
    "OpenNSFW",
    "Wanted",
    "class_groups",
    "class_indices",
    "class_logits",
    "load_network",
    "placed",
]

explain_types(globals(), __all__)
