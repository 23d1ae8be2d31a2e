"""A PyTorch module as a JAX function.

Every ATen operation of its exported graph is replaced by its JAX counterpart.

`torch.export` writes a module down as a list of a few dozen elementary operations with the weights
as inputs. Running that list on JAX arrays gives the same function of the same weights, equal to
rounding, which `jax.jit` compiles and `jax.vjp` differentiates. An operation that is not in the
table below is an error that names it.
"""

import operator
from collections.abc import Callable, Sequence
from typing import Any

import jax  # pyright: ignore[reportMissingImports]
import jax.numpy as jnp  # pyright: ignore[reportMissingImports]
import torch
from torch import Tensor, fx, nn
from torch.export.graph_signature import InputKind

from adjointdpm.errors import UnsupportedError

Arrays = dict[str, jax.Array]  # by name


def to_jax(module: nn.Module, example: tuple[Tensor, ...]) -> Callable[..., jax.Array]:
    """`f(weights, *inputs)` on JAX arrays.

    `weights` are by parameter name, as `arrays(module.named_parameters())` makes them.

    Args:
        module: takes tensors and returns one.
        example: inputs of the shapes and dtypes that it will get; others need an export of their
            own.

    Raises:
        UnsupportedError: the module uses an operation that is not known here.

    """
    program = torch.export.export(module, example).run_decompositions()
    unknown = {
        str(n.target)
        for n in program.graph.nodes
        if n.op == "call_function" and n.target not in OPERATIONS
    }
    if unknown:
        raise UnsupportedError(
            "these operations have no JAX counterpart in benchmarks/jax_network.py: "
            f"{', '.join(sorted(unknown))}"
        )
    constants = {**program.state_dict, **program.constants}
    specs = program.graph_signature.input_specs
    interpreter = _Interpreter(program.graph_module)

    def function(weights: Arrays, *inputs: jax.Array) -> jax.Array:
        given = iter(inputs)
        values = []
        for spec in specs:
            if spec.kind == InputKind.USER_INPUT:
                values.append(next(given))
            elif spec.kind == InputKind.PARAMETER:
                values.append(weights[str(spec.target)])
            else:
                values.append(array(constants[str(spec.target)]))
        (result,) = interpreter.run(*values)
        return result

    return function


def array(tensor: Tensor) -> jax.Array:
    """A copy for JAX."""
    return jnp.asarray(tensor.detach().cpu().numpy())


def arrays(tensors: Any) -> Arrays:
    """Copies, by name."""
    return {name: array(tensor) for name, tensor in tensors}


class _Interpreter(fx.Interpreter):
    """Runs a graph of ATen operations on JAX arrays."""

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        return OPERATIONS[target](*args, **kwargs)


def _dtype(dtype: torch.dtype | None, like: jax.Array) -> Any:
    return like.dtype if dtype is None else str(dtype).removeprefix("torch.")


def _convolution(
    x: jax.Array,
    weight: jax.Array,
    bias: jax.Array | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> jax.Array:
    """A convolution as one matrix product with the patches.

    XLA's own is an order of magnitude slower within a loop on a CPU, as in solvers.
    """
    if transposed or groups != 1 or set(dilation) != {1}:
        raise UnsupportedError(
            "convolutions that are transposed, grouped or dilated have no JAX counterpart in "
            "benchmarks/jax_network.py"
        )
    x = jnp.pad(x, ((0, 0), (0, 0), *((p, p) for p in padding))).transpose(0, 2, 3, 1)
    channels, _, rows, columns = weight.shape
    height, width = (
        (size - kernel) // step + 1
        for size, kernel, step in zip(x.shape[1:3], (rows, columns), stride, strict=True)
    )
    ends = (stride[0] * (height - 1) + 1, stride[1] * (width - 1) + 1)
    shifted = [
        x[:, i : i + ends[0] : stride[0], j : j + ends[1] : stride[1]]
        for i in range(rows)
        for j in range(columns)
    ]
    patches = jnp.concatenate(shifted, 3)
    y = patches.reshape(-1, patches.shape[3]) @ weight.transpose(2, 3, 1, 0).reshape(-1, channels)
    y = y if bias is None else y + bias
    return y.reshape(-1, height, width, channels).transpose(0, 3, 1, 2)


def _normalise(x: jax.Array, axes: Sequence[int], eps: float) -> jax.Array:
    mean = x.mean(axes, keepdims=True)
    return (x - mean) * jax.lax.rsqrt(jnp.square(x - mean).mean(axes, keepdims=True) + eps)


def _group_norm(
    x: jax.Array,
    weight: jax.Array,
    bias: jax.Array,
    batch: int,
    channels: int,
    size: int,
    groups: int,
    eps: float,
) -> tuple[jax.Array]:
    y = _normalise(x.reshape(batch, groups, -1), (2,), eps).reshape(x.shape)
    shape = (channels, *[1] * (x.ndim - 2))
    return (y * weight.reshape(shape) + bias.reshape(shape),)


def _layer_norm(
    x: jax.Array, shape: Sequence[int], weight: jax.Array, bias: jax.Array, eps: float
) -> tuple[jax.Array]:
    return (_normalise(x, tuple(range(-len(shape), 0)), eps) * weight + bias,)


def _expand(x: jax.Array, shape: Sequence[int]) -> jax.Array:
    own = [1] * (len(shape) - x.ndim) + list(x.shape)
    return jnp.broadcast_to(x, [a if b == -1 else b for a, b in zip(own, shape, strict=True)])


def _slice(
    x: jax.Array, axis: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> jax.Array:
    size = x.shape[axis]
    return jax.lax.slice_in_dim(x, *slice(start, end, step).indices(size)[:2], step, axis)


def _split(x: jax.Array, sizes: Sequence[int], axis: int = 0) -> list[jax.Array]:
    ends = [sum(sizes[:i]) for i in range(1, len(sizes))]
    return jnp.split(x, ends, axis)


def _upsample_nearest(
    x: jax.Array, size: Sequence[int] | None, scales: Sequence[float] | None
) -> jax.Array:
    factors = (
        [int(s) for s in scales]
        if scales is not None
        else [a // b for a, b in zip(size or (), x.shape[2:], strict=True)]
    )
    return jnp.repeat(jnp.repeat(x, factors[0], 2), factors[1], 3)


_aten = torch.ops.aten
OPERATIONS: dict[Any, Callable[..., Any]] = {
    operator.getitem: operator.getitem,
    _aten._assert_tensor_metadata.default: lambda *_, **__: None,
    _aten._to_copy.default: lambda x, dtype=None, **_: x.astype(_dtype(dtype, x)),
    _aten._softmax.default: lambda x, axis, half: jax.nn.softmax(x, axis),
    _aten.add.Tensor: lambda a, b: a + b,
    _aten.addmm.default: lambda bias, a, b: bias + a @ b,
    _aten.any.dim: lambda x, axis, keepdims=False: jnp.any(x, axis, keepdims=keepdims),
    _aten.arange.start_step: lambda start, end, step=1, dtype=None, **_: jnp.arange(
        start, end, step, dtype=_dtype(dtype, jnp.zeros(0, int))
    ),
    _aten.bmm.default: jnp.matmul,
    _aten.cat.default: lambda tensors, axis=0: jnp.concatenate(tensors, axis),
    _aten.clone.default: lambda x, **_: x,
    _aten.convolution.default: _convolution,
    _aten.cos.default: jnp.cos,
    _aten.div.Tensor: lambda a, b: a / b,
    _aten.eq.Scalar: lambda a, b: a == b,
    _aten.exp.default: jnp.exp,
    _aten.expand.default: lambda x, shape, **_: _expand(x, shape),
    _aten.full.default: lambda shape, value, dtype=None, **_: jnp.full(
        shape, value, _dtype(dtype, jnp.zeros(0))
    ),
    _aten.full_like.default: lambda x, value, dtype=None, **_: jnp.full(
        x.shape, value, _dtype(dtype, x)
    ),
    _aten.gelu.default: lambda x, approximate="none": jax.nn.gelu(x, approximate == "tanh"),
    _aten.logical_not.default: jnp.logical_not,
    _aten.mm.default: jnp.matmul,
    _aten.mul.Scalar: lambda a, b: a * b,
    _aten.mul.Tensor: lambda a, b: a * b,
    _aten.native_group_norm.default: _group_norm,
    _aten.native_layer_norm.default: _layer_norm,
    _aten.permute.default: jnp.transpose,
    _aten.sigmoid.default: jax.nn.sigmoid,
    _aten.sin.default: jnp.sin,
    _aten.slice.Tensor: _slice,
    _aten.split.Tensor: lambda x, size, axis=0: _split(x, [size] * -(-x.shape[axis] // size), axis),
    _aten.split_with_sizes.default: _split,
    _aten.sub.Tensor: lambda a, b: a - b,
    _aten.unsqueeze.default: jnp.expand_dims,
    _aten.upsample_nearest2d.vec: _upsample_nearest,
    _aten.view.default: lambda x, shape: jnp.reshape(x, shape),
    _aten.where.self: jnp.where,
}
