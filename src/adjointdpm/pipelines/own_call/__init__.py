"""One differentiable call of a pipeline's own `__call__`."""
