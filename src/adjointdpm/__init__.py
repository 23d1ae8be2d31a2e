"""Gradients through a diffusion sampler, in the memory of one network call."""
