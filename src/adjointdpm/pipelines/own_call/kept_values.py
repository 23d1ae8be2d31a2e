"""Pipelines that write over what their own backward pass needs, made differentiable."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

# Plain backpropagation through these fails: they change saved tensors in place.
WRITE_OVER_SAVED = ("StableDiffusionPanoramaPipeline", "MarigoldNormalsPipeline")


def kept_values(pipe: Any) -> AbstractContextManager[Any]:
    """Within the block, what the graph saves is a copy, for pipelines that would write over it.

    Networks of the loop are recomputed and save little; the decoder's graph takes twice the memory.
    """
    if not any(cls.__name__ in WRITE_OVER_SAVED for cls in type(pipe).__mro__):
        return nullcontext()
    return torch.autograd.graph.saved_tensors_hooks(_copied, lambda tensor: tensor)


def _copied(tensor: Tensor) -> Tensor:
    return tensor if tensor.is_leaf and tensor.requires_grad else tensor.detach().clone()
