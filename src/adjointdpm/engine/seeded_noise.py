"""Noise that depends on a seed and a sample's number alone."""

import torch
from jaxtyping import Float
from torch import Tensor


def standard_normal(
    like: Float[Tensor, "batch *shape"], seed: int, stream: int, first: int = 0
) -> Float[Tensor, "batch *shape"]:
    """Standard normal noise in the shape, dtype and device of `like`.

    Sample i depends on (seed, stream, first + i) alone, whatever the batch, device or process: it
    is drawn on the CPU in float32.
    """
    generator = torch.Generator("cpu")
    samples = []
    for i in range(first, first + len(like)):
        generator.manual_seed(mix(seed, stream, i))
        samples.append(torch.randn(like.shape[1:], generator=generator))
    return torch.stack(samples).to(like.device, like.dtype)


def mix(*words: int) -> int:
    """One 64-bit seed from several integers (the finaliser of SplitMix64, Steele et al. 2014)."""
    mask = (1 << 64) - 1
    state = 0
    for word in words:
        state = (state + word + 0x9E3779B97F4A7C15) & mask
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & mask
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & mask
        state ^= state >> 31
    return state
