"""Measurements behind the documentation: each is run as `python -m benchmarks.NAME`."""
