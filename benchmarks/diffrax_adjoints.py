"""diffrax's gradients of the same ODE, as methods of the gradient benchmark.

They go through a JAX copy of the same network.

Needs the dependency group `bench`.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import diffrax  # pyright: ignore[reportMissingImports]
import jax  # pyright: ignore[reportMissingImports]
import jax.numpy as jnp  # pyright: ignore[reportMissingImports]
import numpy as np
import torch
from jax import lax  # pyright: ignore[reportMissingImports]
from jaxtyping import Float
from torch import Tensor, nn

from adjointdpm.engine.denoiser import Denoiser
from adjointdpm.engine.gradients import GradientMethod
from adjointdpm.engine.problem import Problem
from adjointdpm.engine.stats import running
from adjointdpm.engine.tree import Tree, leaves, replace_leaves
from adjointdpm.errors import UnsupportedError
from benchmarks.jax_network import Arrays, array, to_jax

# Counting calls into Python from within a computation; where that runs beside Python instead of in
# its place, each can wait for the other.
jax.config.update("jax_cpu_enable_async_dispatch", False)
jax.config.update("jax_default_matmul_precision", "highest")  # float32 is float32, on a GPU too

Rule = Literal["euler", "midpoint"]
_compiled: dict[Any, "_Compiled"] = {}


@dataclass(frozen=True)
class DiffraxAdjoint(GradientMethod):
    """`diffrax.diffeqsolve` on the ODE in the noise form, dy/dρ = ε, with the sampler's grid.

    `RecursiveCheckpointAdjoint` differentiates the solver's own steps, which with Euler are the
    sampler's: exact. `BacksolveAdjoint` solves the adjoint ODE back; with `outputs="ends"` it has
    the last state alone to start from, with "all" a stored one at every time of the grid. The
    network is called at the continuous time of each stage.

    Args:
        adjoint: which of the two.
        rule: solver, there and back.
        outputs: what the solve returns, and so what `BacksolveAdjoint` has on its way back.
        checkpoints: states that `RecursiveCheckpointAdjoint` keeps; None is its default, about log
            N.

    """

    adjoint: Literal["checkpoint", "backsolve"]
    rule: Rule = "euler"
    outputs: Literal["all", "ends"] = "ends"
    checkpoints: int | None = None

    def solve(self, problem: Problem) -> Float[Tensor, "batch *shape"]:
        """Solve dy/dρ = ε from ρ_max to ρ_min; compiled at the first solve of a kind.

        Raises:
            UnsupportedError: a guidance scale that is a tensor, or a state or weights that are not
                float32.

        """
        denoiser = problem.denoiser
        if isinstance(denoiser.guidance_scale, Tensor) or isinstance(
            problem.guidance_scale, Tensor
        ):
            raise UnsupportedError(
                "benchmarks/diffrax_adjoints.py takes guidance scales that are numbers"
            )
        named = [
            ("start", problem.start),
            *_named("cond", problem.cond),
            *_named("null", problem.null_cond),
        ]
        named += [
            (f"denoiser.{name}", weight) for name, weight in denoiser.named_parameters()
        ]  # as in _Epsilon
        if wrong := {tensor.dtype for _, tensor in named} - {torch.float32}:
            raise UnsupportedError(
                f"benchmarks/diffrax_adjoints.py takes float32, and this problem has {wrong.pop()}"
            )
        wanted = frozenset(
            name for name, tensor in named if tensor.requires_grad and torch.is_grad_enabled()
        )
        shapes = tuple((name, tuple(tensor.shape)) for name, tensor in named)
        key = (
            self,
            id(denoiser.network),
            denoiser.guidance_scale,
            shapes,
            wanted,
            tuple(problem.plan.grid.tolist()),
        )
        if key not in _compiled:
            _compiled[key] = _Compiled(self, problem, wanted)
        return _Solve.apply(
            _compiled[key], [name for name, _ in named], *(tensor for _, tensor in named)
        )


def _named(name: str, tree: Tree) -> list[tuple[str, Tensor]]:
    return [(f"{name}.{i}", tensor) for i, tensor in enumerate(leaves(tree))]


class _Epsilon(nn.Module):
    """The right-hand side with all that it depends on as arguments, guidance included."""

    def __init__(self, denoiser: Denoiser, cond: Tree, null_cond: Tree) -> None:
        super().__init__()
        self.denoiser, self.cond, self.null_cond, self.count = (
            denoiser,
            cond,
            null_cond,
            len(leaves(cond)),
        )

    def forward(
        self, x: Tensor, t: Tensor, alpha: Tensor, sigma: Tensor, *conditioning: Tensor
    ) -> Tensor:
        cond = replace_leaves(self.cond, list(conditioning[: self.count]))
        null_cond = replace_leaves(self.null_cond, list(conditioning[self.count :]))
        output = self.denoiser(x, t.expand(len(x)), cond, null_cond)
        return self.denoiser.split(output, x, alpha, sigma)[1]


class _Compiled:
    """The compiled solve of one kind of problem.

    `run` solves; `run_and_pull` also returns the pullback. Both take JAX arrays by name.
    """

    def __init__(self, method: DiffraxAdjoint, problem: Problem, wanted: frozenset[str]) -> None:
        schedule, start = problem.schedule, problem.start
        alpha = schedule.alpha(problem.plan.grid)
        ends = schedule.rho(problem.plan.grid)
        rho = torch.cat(
            [ends, (ends[1:] + ends[:-1]) / 2]
        )  # all times at which Euler's and the midpoint rule call the network
        times = schedule.time(rho)
        table = [
            array(values.float())
            for values in (rho, times, schedule.alpha(times), schedule.sigma(times))
        ]
        conditioning = [*leaves(problem.cond), *leaves(problem.null_cond)]
        module = _Epsilon(problem.denoiser, problem.cond, problem.null_cond)
        with _uncounted():
            epsilon = to_jax(
                module,
                (
                    start.detach(),
                    *(torch.ones(()) for _ in range(3)),
                    *(c.detach() for c in conditioning),
                ),
            )
        inputs = [
            name for name, _ in (*_named("cond", problem.cond), *_named("null", problem.null_cond))
        ]
        first, last = alpha[0].item(), alpha[-1].item()

        def solve(some: Arrays, others: Arrays) -> jax.Array:
            def field(r: jax.Array, y: jax.Array, args: tuple[Arrays, Arrays]) -> jax.Array:
                given = {
                    **args[0],
                    **{
                        name: lax.bitcast_convert_type(value, jnp.float32)
                        for name, value in args[1].items()
                    },
                }
                i = jnp.argmin(jnp.abs(table[0] + r))
                t, a, s = (values[i] for values in table[1:])
                return -_counted(epsilon(given, y * a, t, a, s, *(given[name] for name in inputs)))

            rest = {name: value for name, value in some.items() if name != "start"}
            y = (some | others)["start"] / first
            # BacksolveAdjoint differentiates with respect to every floating-point argument, wanted
            # or not, but not to integers.
            fixed = {
                name: lax.bitcast_convert_type(value, jnp.int32) for name, value in others.items()
            }
            # In −ρ, which runs up: it hands its own keyword arguments on without turning them round
            # where time runs down.
            return _diffeqsolve(method, field, array(-ends.float()), y, (rest, fixed)) * last

        def pull(some: Arrays, others: Arrays) -> Any:
            return jax.vjp(lambda values: solve(values, others), some)

        self.wanted = wanted
        self.module = module  # whose network is known by its address, while it lives
        self.run = jax.jit(solve)
        self.run_and_pull = jax.jit(pull)
        self.apply = jax.jit(lambda pullback, cotangent: pullback(cotangent)[0])


def _diffeqsolve(
    method: DiffraxAdjoint,
    field: Callable[..., jax.Array],
    times: jax.Array,
    y: jax.Array,
    args: Any,
) -> jax.Array:
    solver = {"euler": diffrax.Euler, "midpoint": diffrax.Midpoint}[method.rule]()
    steps = len(times) - 1
    if method.adjoint == "checkpoint":
        adjoint: Any = diffrax.RecursiveCheckpointAdjoint(method.checkpoints)
    elif method.outputs == "ends":
        adjoint = diffrax.BacksolveAdjoint(stepsize_controller=diffrax.StepTo(times[::-1]))
    else:  # one step from each stored state to the one before: its end cuts a longer one short
        adjoint = diffrax.BacksolveAdjoint(
            stepsize_controller=diffrax.ConstantStepSize(), dt0=times[0]
        )
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(field),
        solver,
        t0=times[0],
        t1=times[-1],
        dt0=None,
        y0=y,
        args=args,
        saveat=diffrax.SaveAt(ts=times) if method.outputs == "all" else diffrax.SaveAt(t1=True),
        stepsize_controller=diffrax.StepTo(times),
        adjoint=adjoint,
        max_steps=steps,
    )
    return solution.ys[-1]


class _Solve(torch.autograd.Function):
    """A node of PyTorch's graph whose forward and backward passes run in JAX."""

    @staticmethod
    def forward(ctx: Any, compiled: _Compiled, names: list[str], *tensors: Tensor) -> Tensor:
        some: Arrays = {}
        others: Arrays = {}
        for name, tensor in zip(names, tensors, strict=True):
            (some if name in compiled.wanted else others)[name] = array(tensor)
        if some:
            x, ctx.pullback = compiled.run_and_pull(some, others)
        else:
            x = compiled.run(some, others)
        jax.effects_barrier()  # the counts
        ctx.compiled, ctx.names, ctx.device = compiled, names, tensors[0].device
        return _tensor(x, ctx.device)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> Any:
        found = ctx.compiled.apply(ctx.pullback, array(cotangents[0]))
        jax.effects_barrier()
        return (
            None,
            None,
            *(_tensor(found[name], ctx.device) if name in found else None for name in ctx.names),
        )


def _tensor(value: jax.Array, device: torch.device) -> Tensor:
    return torch.from_numpy(np.array(value)).to(device)


def _add_call() -> None:
    for count in running:
        count.network_calls += 1


def _add_vjp() -> None:
    for count in running:
        count.vjps += 1


def _count_call(value: jax.Array) -> jax.Array:
    jax.debug.callback(_add_call)
    return value


def _counted_forward(value: jax.Array) -> tuple[jax.Array, None]:
    return _count_call(value), None


def _counted_backward(_: None, cotangent: jax.Array) -> tuple[jax.Array]:
    jax.debug.callback(_add_vjp)
    return (cotangent,)


# The network's output itself, by which its calls and VJPs get into `stats`; some 50 µs each.
_counted = jax.custom_vjp(_count_call)
_counted.defvjp(_counted_forward, _counted_backward)


@contextmanager
def _uncounted() -> Iterator[None]:
    """Exporting a network calls it, which is no part of a solve."""
    before = list(running)
    running.clear()
    try:
        yield
    finally:
        running[:] = before
