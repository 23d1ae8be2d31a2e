"""Networks whose hooks cast or move their weights around every call (layerwise casting, offload).

A graph keeps the weights that its backward pass needs, but these hooks put other values into them
as soon as the call is over.
"""

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext

from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from adjointdpm.errors import UnsupportedError

CASTING, GROUPS = "layerwise_casting", "group_offloading"  # diffusers' names of its hooks


def moves_weights(networks: Iterable[nn.Module]) -> bool:
    """Whether hooks of diffusers or accelerate change the weights of a network around its calls."""
    return any(
        "_hf_hook" in vars(part) or _hooked(part, CASTING) or _hooked(part, GROUPS)
        for network in networks
        for part in network.modules()
    )


def keeping_weights(moving: bool) -> AbstractContextManager[object]:
    """Within the block graphs keep the weights' values of the call, if `moving`.

    Autograd keeps a weight itself. Here it keeps an alias, of which the values stay.
    """
    return saved_tensors_hooks(Tensor.detach, _same) if moving else nullcontext()


def check_frozen(name: str, network: nn.Module) -> None:
    """Check that no weight requires grad that a hook casts or moves.

    Raises:
        UnsupportedError: one does: its gradient belongs to a copy that is gone after the call.

    """
    groups = any(_hooked(part, GROUPS) for part in network.modules())
    for part in network.modules():
        how = _how_it_moves(part, groups)
        trained = [n for n, p in part.named_parameters(recurse=False) if p.requires_grad]
        if how and trained:
            raise UnsupportedError(
                f"{trained[0]!r} of a {type(part).__name__} in the network {name!r} requires grad, "
                f"but {how} puts another tensor in its place at every call; freeze the network "
                "(requires_grad_(False)) and train a LoRA that is added afterwards, or load it "
                "without that"
            )


def _how_it_moves(part: nn.Module, groups: bool) -> str | None:
    if groups:
        return "group offloading"
    if _hooked(part, CASTING):
        return "layerwise casting"
    if getattr(vars(part).get("_hf_hook"), "offload", False) is True:
        return "sequential offloading"
    return None


def _hooked(part: nn.Module, name: str) -> bool:
    registry = vars(part).get("_diffusers_hook")
    return registry is not None and registry.get_hook(name) is not None


def _same(tensor: Tensor) -> Tensor:
    return tensor
