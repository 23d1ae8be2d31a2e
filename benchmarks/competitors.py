"""What users have today, as methods of the gradient benchmark.

`python -m benchmarks.gradients --competitors benchmarks/competitors.py` measures them.

Needs the dependency group `bench`; what is not installed is left out.
"""

import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
from diffusers import DDIMScheduler
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from adjointdpm.engine.denoiser import Denoiser
from adjointdpm.engine.gradients import Backprop, Checkpoint, GradientMethod, Interpolated
from adjointdpm.engine.problem import Problem
from adjointdpm.engine.schedules import TableSchedule
from adjointdpm.errors import UnsupportedError
from benchmarks.gradients.methods import Method
from benchmarks.gradients.registration import Setting

Rule = Literal["euler", "midpoint"]
Outputs = Literal["all", "ends"]
RULES: tuple[Rule, ...] = ("euler", "midpoint")
OUTPUTS: tuple[Outputs, ...] = ("all", "ends")


def competitors(setting: Setting) -> list[Method]:
    """Those that are installed and can solve this setting: DDIM on the sampler's own grid."""
    if setting.sampler != "ddim":
        return []
    found = [
        _method(
            "torch.utils.checkpoint around scheduler steps",
            "checkpointed loop",
            CheckpointedLoop,
            exact=True,
        )
    ]
    few = Interpolated(round(0.4 * setting.calls))
    for name, method in {
        "Backprop()": Backprop(),
        "Checkpoint()": Checkpoint(),
        f"Interpolated(vjps={few.vjps})": few,
    }.items():
        family = "interpolated" if method is few else "exact"
        found.append(
            _method(
                f"{name} with torch.compile",
                family,
                partial(Compiled, method),
                exact=method is not few,
                compiled=True,
            )
        )
    if importlib.util.find_spec("torchdiffeq") is not None:
        for rule in RULES:
            for outputs in OUTPUTS:
                name = f'torchdiffeq.odeint_adjoint("{rule}", {outputs} times)'
                found.append(
                    _method(name, "torchdiffeq", partial(TorchdiffeqAdjoint, rule, outputs))
                )
    if all(importlib.util.find_spec(name) is not None for name in ("jax", "diffrax")):
        found += _diffrax(setting.steps)
    return found


def _diffrax(steps: int) -> list[Method]:
    if torch.get_num_threads() == 1:  # XLA reads this once, when it starts
        os.environ.setdefault(
            "XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
        )
    from benchmarks.diffrax_adjoints import DiffraxAdjoint

    checkpoint, backsolve = "diffrax.RecursiveCheckpointAdjoint", "diffrax.BacksolveAdjoint"
    found = [
        _method(
            f"{checkpoint}()",
            "diffrax",
            partial(DiffraxAdjoint, "checkpoint"),
            exact=True,
            compiled=True,
        )
    ]
    every = partial(DiffraxAdjoint, "checkpoint", checkpoints=steps)
    found.append(
        _method(f"{checkpoint}(checkpoints={steps})", "diffrax", every, exact=True, compiled=True)
    )
    for rule in RULES:
        for outputs in OUTPUTS:
            name = f'{backsolve}("{rule}", {outputs} times)'
            found.append(
                _method(
                    name,
                    "diffrax",
                    partial(DiffraxAdjoint, "backsolve", rule, outputs),
                    compiled=True,
                )
            )
    return found


def _method(
    name: str,
    family: str,
    make: Callable[[], GradientMethod],
    exact: bool = False,
    compiled: bool = False,
) -> Method:
    return Method(name, family, lambda _: make(), exact, compiled=compiled)


@dataclass(frozen=True)
class TorchdiffeqAdjoint(GradientMethod):
    """`torchdiffeq.odeint_adjoint` on the ODE in the noise form, with the sampler's grid.

    This is how the official AdjointDPM code works.

    github.com/HanshuYAN/AdjointDPM asks for the state at every time of the grid (`outputs="all"`),
    so torchdiffeq keeps N states and starts every interval of its way back from the stored one.
    With `outputs="ends"` it keeps one state and solves all others back, which is the method as the
    paper describes it. Unlike that code, this calls the network at the continuous time of each
    stage, not at the nearest time of the grid, and asks for the gradients that are wanted.
    """

    rule: Rule
    outputs: Outputs

    def solve(self, problem: Problem) -> Float[Tensor, "batch *shape"]:
        """Solve dy/dρ = ε from ρ_max to ρ_min."""
        from torchdiffeq import odeint_adjoint  # pyright: ignore[reportMissingImports] - of the group `bench`, which lint does without

        schedule, denoiser = problem.schedule, problem.denoiser
        alpha = schedule.alpha(problem.plan.grid)
        rho = schedule.rho(problem.plan.grid).to(problem.start)

        def velocity(r: Tensor, y: Tensor) -> Tensor:
            t = schedule.time(r.detach().to("cpu", torch.float64))
            a, s = schedule.alpha(t).item(), schedule.sigma(t).item()
            x = y * a
            output = problem.predict(x, t)
            return denoiser.split(output, x, a, s)[1]

        def grid(function: Any, y: Tensor, t: Tensor) -> Tensor:
            # torchdiffeq turns time round, and negates it, as it needs it.
            turned = (rho, rho.flip(0), -rho, -rho.flip(0))
            return next(g for g in turned if g[0] == t[0] and g[-1] == t[-1])

        wanted = tuple(t for t in [*problem.inputs, *denoiser.parameters()] if t.requires_grad)
        times, options = (
            (rho, None) if self.outputs == "all" else (rho[[0, -1]], {"grid_constructor": grid})
        )
        y = odeint_adjoint(
            velocity,
            problem.start / alpha[0].item(),
            times,
            method=self.rule,
            options=options,
            adjoint_params=wanted,
        )
        assert isinstance(y, Tensor)
        return y[-1] * alpha[-1].item()


@dataclass(frozen=True)
class Compiled(GradientMethod):
    """One of our own methods around the same network, compiled.

    It shows what a compiler is worth, beside frameworks that bring one.

    Args:
        method: the method.
        backend: `torch.compile`'s; "inductor" needs a C++ compiler, and minutes for the first call
            of each kind.

    """

    method: GradientMethod
    backend: str = "inductor"

    def solve(self, problem: Problem) -> Float[Tensor, "batch *shape"]:
        """Solve with the compiled network."""
        denoiser = problem.denoiser
        key = (id(denoiser.network), self.backend)
        if key not in _networks:
            _networks[key] = torch.compile(denoiser.network, backend=self.backend)
        compiled = Denoiser(
            _networks[key], denoiser.prediction, denoiser.guidance_scale, denoiser.null_cond
        )
        return self.method.solve(replace(problem, denoiser=compiled))


_networks: dict[tuple[int, str], Any] = {}  # networks live as long as the benchmark


@dataclass(frozen=True)
class CheckpointedLoop(GradientMethod):
    """A loop over diffusers' DDIM scheduler with `torch.utils.checkpoint` around each step.

    AlignProp's and DRaFT's trainers do it so.
    """

    def solve(self, problem: Problem) -> Float[Tensor, "batch *shape"]:
        """Sample with the scheduler whose table and times are the problem's."""
        if not isinstance(problem.schedule, TableSchedule):
            raise UnsupportedError("diffusers' DDIM scheduler needs a table of noise levels")
        cumulative = problem.schedule.alphas_cumprod
        betas = 1 - cumulative / torch.cat([cumulative.new_ones(1), cumulative[:-1]])
        scheduler = DDIMScheduler(
            num_train_timesteps=len(cumulative),
            trained_betas=betas.numpy(),  # pyright: ignore[reportArgumentType]
            clip_sample=False,
            set_alpha_to_one=False,
            steps_offset=1,
            timestep_spacing="leading",
        )
        scheduler.set_timesteps(problem.plan.steps)
        if scheduler.timesteps.tolist() != problem.plan.grid[:-1].tolist():
            raise UnsupportedError("the scheduler's timesteps are not those of the problem's grid")
        denoiser = problem.denoiser

        def step(x: Tensor, t: Tensor) -> Tensor:
            output = denoiser(
                x,
                t.to(x.device, torch.float32).expand(len(x)),
                problem.cond,
                problem.null_cond,
                problem.guidance_scale,
            )
            return scheduler.step(output, t, x, return_dict=False)[0]  # pyright: ignore[reportArgumentType, reportReturnType]

        x = problem.start
        for t in scheduler.timesteps:
            x = checkpoint(step, x, t, use_reentrant=False)
            assert isinstance(x, Tensor)
        return x
