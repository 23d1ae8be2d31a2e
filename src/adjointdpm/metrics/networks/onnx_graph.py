"""ONNX files as differentiable modules: an interpreter of the operators that classifiers need."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adjointdpm.errors import ModelError


class OnnxGraph(nn.Module):
    """The graph of an ONNX file, with one input and one output.

    Operators are those of github.com/onnx/onnx/blob/main/docs/Operators.md. Weights are buffers and
    follow `.to`; what the file calls float32 is then their dtype. Shapes are computed on the CPU.

    Args:
        file: an ONNX file.
        logits: leave out a Softmax at the end.

    Raises:
        ImportError: the package onnx is missing.
        ModelError: not an ONNX file, or it has an operator that is not known here.

    """

    def __init__(self, file: Path, *, logits: bool = False) -> None:
        super().__init__()
        import onnx
        from google.protobuf.message import DecodeError

        try:
            graph = onnx.load(file).graph
        except (OSError, DecodeError) as error:
            raise ModelError(f"{file} cannot be read as an ONNX file: {error}") from error
        nodes = list(graph.node)
        self._output = graph.output[0].name
        if logits and nodes[-1].op_type == "Softmax":
            self._output = nodes.pop().input[0]
        if unknown := sorted({node.op_type for node in nodes} - _OPERATORS.keys()):
            raise ModelError(f"{file} has operators that are not known: {', '.join(unknown)}")
        for tensor in graph.initializer:
            self.register_buffer(tensor.name, torch.tensor(onnx.numpy_helper.to_array(tensor)))
        self._input = graph.input[0].name
        self._nodes = [
            (node.op_type, list(filter(None, node.input)), node.output[0], _attributes(node))
            for node in nodes
        ]
        self._last_use = {
            name: index for index, (_, inputs, _, _) in enumerate(self._nodes) for name in inputs
        }

    def forward(self, x: Tensor) -> Tensor:
        """Run the graph."""
        values = {**dict(self.named_buffers()), self._input: x}
        for index, (operator, inputs, output, attributes) in enumerate(self._nodes):
            values[output] = _OPERATORS[operator](*(values[name] for name in inputs), **attributes)
            for name in set(inputs):
                if self._last_use[name] == index:
                    del values[name]  # or every intermediate result would stay in memory to the end
        return values[self._output]


def _attributes(node: Any) -> dict[str, Any]:
    import onnx

    found = {
        attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute
    }
    return {
        name: torch.tensor(onnx.numpy_helper.to_array(v)) if isinstance(v, onnx.TensorProto) else v
        for name, v in found.items()
    }


def _cast(x: Tensor, to: int) -> Tensor:
    dtype = {1: torch.float32, 7: torch.int64}[to]  # TensorProto.DataType
    return x if x.is_floating_point() and dtype.is_floating_point else x.to(dtype)


def _conv(x: Tensor, weight: Tensor, bias: Tensor | None = None, **attributes: Any) -> Tensor:
    strides, pads, dilations, group = (
        attributes[name] for name in ("strides", "pads", "dilations", "group")
    )
    return F.conv2d(_pad(x, pads), weight, bias, strides, 0, dilations, group)


def _max_pool(
    x: Tensor, *, kernel_shape: Any, strides: Any, pads: Any, dilations: Any, ceil_mode: int
) -> Tensor:
    return F.max_pool2d(
        _pad(x, pads, -torch.inf), kernel_shape, strides, 0, dilations, bool(ceil_mode)
    )


def _pad(
    x: Tensor, pads: Sequence[int] | Tensor, value: Any = 0.0, *, mode: bytes = b"constant"
) -> Tensor:
    amounts = [int(amount) for amount in pads]
    # ONNX: all beginnings, then all ends; torch: a pair for each dimension, the last one first.
    half = len(amounts) // 2
    pairs = reversed(list(zip(amounts[:half], amounts[half:], strict=True)))
    flat = [amount for pair in pairs for amount in pair]
    if not any(flat):
        return x
    if mode == b"constant":
        return F.pad(x, flat, value=float(value))
    # Of height and width, the only ones for which torch has it.
    return F.pad(x, flat[:4], mode={b"edge": "replicate"}[mode])


def _divide(x: Tensor, y: Tensor) -> Tensor:
    return x / y if x.is_floating_point() else torch.div(x, y, rounding_mode="trunc")


def _slice(x: Tensor, starts: Tensor, ends: Tensor, axes: Tensor, steps: Tensor) -> Tensor:
    for start, end, axis, step in zip(
        *(t.tolist() for t in (starts, ends, axes, steps)), strict=True
    ):
        positions = range(x.shape[axis])[start:end:step]  # torch itself has no negative steps
        x = x.index_select(axis, torch.tensor(positions))
    return x


_OPERATORS: dict[str, Callable[..., Any]] = {
    "Add": torch.add,
    "Cast": _cast,
    "Concat": lambda *xs, axis: torch.cat(xs, axis),
    "Constant": lambda value: value,
    "ConstantOfShape": lambda shape, value: value.expand(shape.tolist()),
    "Conv": _conv,
    "Div": _divide,
    "Gather": lambda x, index, axis=0: x[(slice(None),) * axis + (index,)],
    "Identity": lambda x: x,
    "MatMul": torch.matmul,
    "MaxPool": _max_pool,
    "Mul": torch.mul,
    "Pad": _pad,
    "ReduceMean": lambda x, axes, keepdims=1: x.mean(axes, bool(keepdims)),
    "Relu": torch.relu,
    "Reshape": lambda x, shape, allowzero=0: x.reshape(shape.tolist()),
    "Shape": lambda x: torch.tensor(x.shape),
    "Slice": _slice,
    "Softmax": lambda x, axis=-1: x.softmax(axis),
    "Sub": torch.sub,
    "Transpose": lambda x, perm: x.permute(perm),
    "Unsqueeze": lambda x, axes: x.unsqueeze(axes.item()),
}
