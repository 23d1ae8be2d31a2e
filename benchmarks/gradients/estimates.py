"""How the few-VJP methods' own estimates of their error compare with it."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from benchmarks.gradients.summary import Row

TENSORS = ("noise", "embedding")
HEAD = [
    "method",
    "gradients",
    "estimate",
    *(f"{what}, {t}" for t in TENSORS for what in ("error / estimate", "rank correlation")),
]


def estimate_rows(rows: Sequence[Row]) -> list[list[str]]:
    """A line of the columns of `HEAD` for each method that estimates its error.

    The estimate shown is the median.
    """
    return [[f"`{row.method}`", *_cells(row)] for row in rows if row.estimates]


def _cells(row: Row) -> list[str]:
    estimates = torch.tensor([estimate for estimate, _ in row.estimates], dtype=torch.float64)
    cells = [str(len(estimates)), f"{estimates.median().item():.2g}"]
    for tensor in TENSORS:
        errors = torch.tensor([found[tensor] for _, found in row.estimates], dtype=torch.float64)
        told = errors.isfinite() & (
            estimates > 0
        )  # where every call is asked there is nothing to compare
        if int(told.sum()) < 2:
            cells += ["", ""]
            continue
        quantiles = torch.tensor([0.5, 0.05, 0.95], dtype=torch.float64)
        middle, low, high = (errors[told] / estimates[told]).quantile(quantiles).tolist()
        cells += [
            f"{middle:.2g} ({low:.2g} to {high:.2g})",
            f"{rank_correlation(estimates[told], errors[told]):.2f}",
        ]
    return cells


def rank_correlation(a: Float[Tensor, " numbers"], b: Float[Tensor, " numbers"]) -> float:
    """Spearman's: 1 if the same ones are larger in both.

    NaN of fewer than two, or where one of them is constant.
    """
    ranks = [
        (values[:, None] > values).double().sum(1) + (values[:, None] == values).double().sum(1) / 2
        for values in (a, b)
    ]
    return torch.corrcoef(torch.stack(ranks))[0, 1].item()
