"""The gradient benchmark: how far every method is from exact, and what each percent costs; run by
`python -m benchmarks.gradients`.
"""
