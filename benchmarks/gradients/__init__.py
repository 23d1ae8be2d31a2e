"""The gradient benchmark: how far every method is from exact, and what each percent costs.

`python -m benchmarks.gradients` runs it.
"""
