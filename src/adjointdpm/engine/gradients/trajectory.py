"""The states of a forward run, readable at any time in between."""

import torch
from jaxtyping import Float
from torch import Tensor

from adjointdpm.engine.ode import Form, regular_form
from adjointdpm.engine.schedules import NoiseSchedule


class Trajectory:
    """The sampler's states and velocities at its grid times: 2N latents, no network graphs.

    Between grid times it evaluates the cubic Hermite polynomial of u = x / scale in the interval's
    own clock, with an error of O(h⁴). The clean end has no velocity, since no sampler calls the
    network there. So the last interval is a parabola, with an error of O(h³) in that interval
    alone, which does not lower the order.
    """

    def __init__(self, schedule: NoiseSchedule, grid: Float[Tensor, " times"]) -> None:
        self.schedule = schedule
        self.grid = grid.detach()
        self._states: list[Tensor] = []
        self._outputs: list[tuple[Tensor, Tensor]] = []  # (x̂_0, ε)

    def record(self, step: int, x: Tensor, data: Tensor, noise: Tensor) -> None:
        """Remember the state that `step` starts from, and (x̂_0, ε) there."""
        assert step == len(self._states)
        self._states.append(x)
        self._outputs.append((data, noise))

    def finish(self, x: Tensor) -> None:
        """Remember the last state."""
        self._states.append(x)

    def at(self, t: Tensor) -> Tensor:
        """The state at time t, exact at grid times."""
        # The grid decreases: searchsorted wants it the other way round.
        right = int(torch.searchsorted(-self.grid, -t))
        if self.grid[right] == t:
            return self._states[right]
        left = right - 1
        start, end = self.grid[left], self.grid[right]
        form = regular_form(self.schedule, start)
        first, last, here = (form.clock(self.schedule, time) for time in (start, end, t))
        h, s = (last - first).item(), ((here - first) / (last - first)).item()
        u0, u1 = (
            self._states[i] / form.scale(self.schedule, time).item()
            for i, time in ((left, start), (right, end))
        )
        v0 = self._velocity(form, left)
        if right == len(self._outputs):
            u = (1 - s * s) * u0 + s * s * u1 + (h * s * (1 - s)) * v0
        else:
            v1 = self._velocity(form, right)
            u = (
                ((1 + 2 * s) * (1 - s) ** 2) * u0
                + (s * s * (3 - 2 * s)) * u1
                + (h * s * (1 - s) ** 2) * v0
                - (h * s * s * (1 - s)) * v1
            )
        return u * form.scale(self.schedule, t).item()

    def _velocity(self, form: Form, index: int) -> Tensor:
        data, noise = self._outputs[index]
        return form.velocity(self.schedule, self.grid[index], data, noise)
