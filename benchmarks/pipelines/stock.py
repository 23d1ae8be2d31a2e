"""The oracle: a pipeline's own call as diffusers wrote it, with plain backpropagation."""

import inspect
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import diffusers
import torch
from diffusers.utils import BaseOutput
from torch import Tensor, nn

NUMPY_ONLY = ("StableDiffusionLDM3DPipeline",)
SEED = 3  # of what a pipeline draws without a generator


def stock_samples(pipe: Any, arguments: Mapping[str, Any], noise: Tensor | None) -> Tensor:
    """What `pipe(**arguments)` makes, with the graph of every operation in it.

    Only decorators that switch gradients off are taken away, from its class and from those of the
    pipelines inside it, and its first draw of the noise's shape is answered with `noise`.

    Returns:
        Pictures and what else there is, clamped where the pipeline clamps; channels first.

    """
    given = dict(arguments)
    names = inspect.signature(inspect.unwrap(type(pipe).__call__)).parameters
    if "output_type" in names:
        given.setdefault("output_type", "np" if type(pipe).__name__ in NUMPY_ONLY else "pt")
    if "return_dict" in names:
        given["return_dict"] = False
    ends: list[Tensor] = []
    to_numpy = torch.Tensor.numpy

    def seen(tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
        ends.append(tensor)  # some end in numpy: what they hand to it stands for what they return
        return to_numpy(tensor.detach(), *args, **kwargs)

    torch.manual_seed(SEED)
    with ExitStack() as stack:
        for part in _pipelines(pipe):
            stack.enter_context(_differentiable(type(part)))
        if noise is not None:
            stack.enter_context(_answered(pipe, noise))
        stack.enter_context(patch.object(torch.Tensor, "numpy", seen))
        found = pipe(**given)
    found = found if isinstance(found, Tensor) else found[0]
    if isinstance(found, BaseOutput):  # of a pipeline inside
        found = found[0]
    while isinstance(found, list) and found and isinstance(found[0], list):
        found = found[0]
    if isinstance(found, list) and found and isinstance(found[0], Tensor):
        found = torch.stack(found)
    if isinstance(found, Tensor) and (found.requires_grad or not ends):
        return found
    last = next((end for end in reversed(ends) if end.requires_grad), ends[-1] if ends else None)
    if last is None:
        raise TypeError(f"the stock call returned {type(found).__name__} and no tensor")
    return last.movedim(-1, -3) if last.ndim >= 4 and last.shape[-1] in (1, 3, 6) else last


def recomputed_networks(pipe: Any, prefix: str = "") -> dict[str, nn.Module]:
    """Denoisers, ControlNets, priors and adapters by name, also those of pipelines inside."""
    found: dict[str, nn.Module] = {}
    for name, part in vars(pipe).items():
        if isinstance(part, diffusers.DiffusionPipeline):
            found |= recomputed_networks(part, f"{prefix}{name}.")
        elif isinstance(part, diffusers.ModelMixin) and not callable(getattr(part, "decode", None)):
            found[f"{prefix}{name}"] = part
    seen: dict[int, str] = {}
    return {n: p for n, p in found.items() if seen.setdefault(id(p), n) == n}


def _pipelines(pipe: Any) -> list[Any]:
    inner = [p for p in vars(pipe).values() if isinstance(p, diffusers.DiffusionPipeline)]
    return [pipe, *(part for own in inner for part in _pipelines(own))]


@contextmanager
def _differentiable(cls: type) -> Iterator[None]:
    """Within the block, methods of a class run without their `no_grad` decorator."""
    with ExitStack() as stack:
        for base in cls.__mro__:
            for name, method in list(vars(base).items()):
                function = method.__func__ if isinstance(method, staticmethod) else method
                code = getattr(function, "__code__", None)
                if not hasattr(function, "__wrapped__") or code is None:
                    continue
                if code.co_name == "decorate_context":
                    plain: Any = inspect.unwrap(function)
                    plain = staticmethod(plain) if isinstance(method, staticmethod) else plain
                    stack.enter_context(patch.object(base, name, plain))
        yield


@contextmanager
def _answered(pipe: Any, noise: Tensor) -> Iterator[None]:
    """Within the block, stock code gets `noise` where it first draws something of its shape."""
    answered: list[bool] = []
    with ExitStack() as stack:
        modules = {cls.__module__ for part in _pipelines(pipe) for cls in type(part).__mro__}
        for name in modules:
            module = sys.modules[name]
            original = getattr(module, "randn_tensor", None)
            if original is None:
                continue

            def draw(shape: Any, *args: Any, original: Any = original, **kwargs: Any) -> Tensor:
                if tuple(shape) == tuple(noise.shape) and not answered:
                    answered.append(True)
                    return noise.clone()
                return original(shape, *args, **kwargs)

            stack.enter_context(patch.object(module, "randn_tensor", draw))
        yield
