"""Networks at full size with random weights, in seconds."""

from typing import Any

import torch
from torch import Tensor, nn

BLOCK = 2**20  # random numbers that are repeated: drawing billions would take minutes


def random_network(cls: Any, config: dict[str, Any], dtype: torch.dtype) -> nn.Module:
    """A frozen network whose matrices keep the scale of what they are applied to."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device("meta"):
            network = cls(**config)
    finally:
        torch.set_default_dtype(default)
    network.to_empty(device="cpu").requires_grad_(False).eval()
    block = torch.randn(BLOCK, generator=torch.Generator().manual_seed(0)).to(dtype)
    for name, tensor in network.named_parameters():
        if tensor.ndim > 1:
            _repeat(tensor, block)
            tensor.mul_(tensor[0].numel() ** -0.5)
        else:
            tensor.fill_(1.0 if name.endswith("weight") else 0.0)
    for tensor in network.buffers():
        if tensor.is_floating_point():
            _repeat(tensor, block)
    return network


def _repeat(tensor: Tensor, block: Tensor) -> None:
    for part in tensor.view(-1).split(BLOCK):
        part.copy_(block[: len(part)])
