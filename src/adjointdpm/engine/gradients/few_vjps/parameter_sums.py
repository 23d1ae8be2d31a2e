"""Gradients for conditioning and weights: sums over all calls, known at a few of them."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from adjointdpm.engine.gradients.few_vjps.jacobian_model import JacobianModel, projection
from adjointdpm.engine.numerics import norms, positive

Found = Sequence[Tensor | None]
Place = tuple[int, int]  # (step, stage)


class Quadrature:
    """Σ_k (∂x̂_0/∂θ)ᵀ b_k over all calls k for every input θ, from the terms at the nodes.

    The length of a term is modelled as (1 − j) ‖b‖, which is exact for Gaussian data whose mean is
    θ. Between two nodes the ratio to the model is interpolated geometrically, and the direction of
    the term linearly, both in log ρ. Beyond a node towards the data its ratio to the model is kept;
    towards the noise its ratio to ‖b‖, since 1 − j grows to 1 there and says nothing if it is small
    at the node. Terms of nodes are scaled to b as it is corrected later.

    Args:
        model: knows b and j of every call.
        groups: the indices of inputs that share one length, and whether they hold one row per
            sample, each with a length of its own.
        add: takes the gradients of all inputs, and the weight of each: one number, or one per
            sample.

    """

    def __init__(
        self,
        model: JacobianModel,
        groups: Sequence[tuple[Sequence[int], bool]],
        add: Callable[[Found, Sequence[Tensor]], None],
    ) -> None:
        self._model, self._nodes, self._groups, self._add = model, model.nodes, groups, add
        self._terms: dict[Place, Found] = {}
        self._weights: dict[Place, list[Tensor]] = {}  # of a node's terms, one a group
        self._lengths: dict[Place, list[Tensor]] = {}  # likewise; two stretches need them
        self._latest: dict[int, int] = {}  # by stage, the last node that can be carried over

    def asked(self, step: int, stage: int, found: Found) -> None:
        """Add the terms at a node."""
        self._terms[step, stage] = found

    def settle(self, node: int) -> None:
        """Add the calls between `node` and the node behind it, now that b is final there.

        With −1 all calls that are left are added.
        """
        for stage in range(self._nodes.stages):
            latest, here = self._latest.pop(stage, None), (node, stage)
            if here in self._terms:
                self._weights[here] = [self._own(here, by_sample) for _, by_sample in self._groups]
            carried = here in self._model.asked_with
            if carried or node < 0:
                end = len(self._nodes.calls) if latest is None else latest
                self._fill(
                    range(node + 1, end),
                    stage,
                    [(n, stage) for n in (latest, node if carried else None) if n is not None],
                )
            kept = node if carried else latest if node >= 0 else None
            if kept is not None:
                self._latest[stage] = kept
            for place in [place for place in self._terms if place[1] == stage and place[0] != kept]:
                self._release(place)

    def _release(self, place: Place) -> None:
        weights, found = self._weights.pop(place), self._terms.pop(place)
        self._lengths.pop(place, None)
        by_number = {
            i: weight
            for (numbers, _), weight in zip(self._groups, weights, strict=True)
            for i in numbers
        }
        self._add(found, [by_number[i] for i in range(len(found))])

    def _own(self, place: Place, by_sample: bool) -> Tensor:
        """The weight of a node's own term."""
        asked, met = self._model.asked_with.get(place), self._model.latest.get(place)
        return (
            torch.ones(()) if asked is None or met is None else _multiple(met[0], asked, by_sample)
        )

    def _fill(self, steps: range, stage: int, ends: Sequence[Place]) -> None:
        """Increase the weights of `ends`, two nodes or one, by the calls of `steps`.

        These lie between the two nodes, or beyond the one.
        """
        calls = [
            step
            for step in steps
            if step not in self._nodes.chosen and stage < len(self._nodes.calls[step])
        ]
        if not calls or not ends:
            return
        met = {step: self._model.latest.pop((step, stage)) for step in calls}
        asked = [self._model.asked_with[end] for end in ends]
        noisier = len(ends) == 1 and calls[-1] < ends[0][0]  # than the only node
        for g, (_, by_sample) in enumerate(self._groups):
            lengths = [self._lengths_of(end)[g] for end in ends]
            sizes = [
                _size(b, None if noisier else self._model.log_odds(*end), by_sample)
                for b, end in zip(asked, ends, strict=True)
            ]
            ratios = [
                (positive(length) / size).log() for length, size in zip(lengths, sizes, strict=True)
            ]
            # Where one term vanishes, take the ratio of the other.
            ratios = [
                torch.where(length > 0, ratio, ratios[-1 - k])
                for k, (length, ratio) in enumerate(zip(lengths, ratios, strict=True))
            ]
            for step, (b, log_odds) in met.items():
                share = (
                    1.0
                    if len(ends) == 1
                    else self._nodes.between(step, stage, ends[0][0], ends[1][0])
                )
                shares = [share, 1 - share][: len(ends)]
                ratio = torch.stack(
                    [part * value for part, value in zip(shares, ratios, strict=True)]
                ).sum(0)
                size = _size(b, None if noisier else log_odds, by_sample) * ratio.exp()
                for end, part, length, basis in zip(ends, shares, lengths, asked, strict=True):
                    sign = _multiple(b, basis, by_sample).sign()
                    weight = part * sign * size / positive(length)
                    # Any multiple of a term that vanishes is zero, but this weight may be infinite.
                    self._weights[end][g] = self._weights[end][g] + torch.where(
                        length > 0, weight, 0.0
                    )

    def _lengths_of(self, place: Place) -> list[Tensor]:
        if place not in self._lengths:
            terms = self._terms[place]
            self._lengths[place] = [
                _length([terms[i] for i in numbers], by_sample)
                for numbers, by_sample in self._groups
            ]
        return self._lengths[place]


def _multiple(vector: Tensor, basis: Tensor, by_sample: bool) -> Float[Tensor, "*batch"]:
    """The multiple of `basis` that comes closest to `vector`: one per sample, or one for all."""
    return (
        projection(vector, basis).flatten()
        if by_sample
        else projection(vector[None], basis[None]).squeeze()
    )


def _size(b: Tensor, log_odds: Tensor | None, by_sample: bool) -> Float[Tensor, "*batch"]:
    """(1 − j) ‖b‖, or ‖b‖ without the odds of j, for each sample or for the whole batch."""
    sizes = _norms([b], True)
    sizes = sizes if log_odds is None else sizes * torch.sigmoid(-log_odds.flatten())
    return positive(sizes if by_sample else sizes.norm())


def _length(terms: Found, by_sample: bool) -> Float[Tensor, "*batch"]:
    found = [term for term in terms if term is not None]
    return _norms(found, by_sample) if found else torch.zeros((), dtype=torch.float64)


def _norms(tensors: Sequence[Tensor], by_sample: bool) -> Float[Tensor, "*batch"]:
    """The norm of all tensors together, for each sample or for the whole batch."""
    found = torch.stack([norms(t if by_sample else t[None]) for t in tensors]).norm(dim=0)
    return found if by_sample else found.squeeze()
