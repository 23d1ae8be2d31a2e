"""Where a pipeline draws its initial noise, a caller's noise is handed to it instead."""

import functools
import inspect
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from torch import Tensor

from adjointdpm.errors import ShapeError

DRAW = "randn_tensor"  # the function of diffusers by which its pipelines draw
PREPARE = "prepare_latents"  # the method in which most of them do


class NoiseSource:
    """What answers a pipeline's draws during one call.

    Args:
        noise: taken in place of the first draw of initial noise; None leaves all draws alone.

    Attributes:
        shape: that the pipeline asked for, once it has.
        used: whether the noise was handed over.

    """

    def __init__(self, noise: Tensor | None, everywhere: bool) -> None:
        self.noise, self.used = noise, False
        self.shape: tuple[int, ...] | None = None
        self.preparing = everywhere  # some pipelines draw other noise before they prepare latents

    def draw(
        self, original: Callable[..., Tensor], shape: Any, *args: Any, **kwargs: Any
    ) -> Tensor:
        """The caller's noise for the first draw, in the dtype asked for; `original` for others.

        Raises:
            ShapeError: the pipeline draws noise of another shape.

        """
        if self.noise is None or self.used or not self.preparing:
            return original(shape, *args, **kwargs)
        self.shape = tuple(shape)
        if self.shape != tuple(self.noise.shape):
            raise ShapeError(
                f"noise has shape {tuple(self.noise.shape)}; for these arguments the pipeline "
                f"draws {self.shape} (model.noise(batch, seed, **arguments) makes that)"
            )
        self.used = True
        given = inspect.signature(original).bind(shape, *args, **kwargs).arguments
        # A copy: some pipelines write into it.
        return self.noise.to(given.get("device"), given.get("dtype")).clone()


_current: ContextVar[NoiseSource | None] = ContextVar("noise", default=None)


@contextmanager
def drawing_from(source: NoiseSource) -> Iterator[None]:
    """Within the block, and this thread, methods made by `with_own_draws` draw from `source`."""
    token = _current.set(source)
    try:
        yield
    finally:
        _current.reset(token)


def with_own_draws(function: Any, name: str) -> Any:
    """`function`, a method of a pipeline as written, asking the current source for its draws.

    The module is left as it is: the method gets global names of its own, in which the function that
    draws is another.
    """
    if not isinstance(function, types.FunctionType):
        return function
    globals_ = function.__globals__
    if isinstance(globals_.get(DRAW), types.FunctionType):
        original = globals_[DRAW]

        def draw(shape: Any, *args: Any, **kwargs: Any) -> Tensor:
            source = _current.get()
            if source is None:
                return original(shape, *args, **kwargs)
            return source.draw(original, shape, *args, **kwargs)

        globals_ = {**globals_, DRAW: draw}
    copy = types.FunctionType(
        function.__code__, globals_, function.__name__, function.__defaults__, function.__closure__
    )
    copy.__kwdefaults__ = function.__kwdefaults__
    copy.__dict__.update(function.__dict__)
    copy.__doc__, copy.__module__ = function.__doc__, function.__module__
    copy.__annotations__, copy.__qualname__ = function.__annotations__, function.__qualname__
    return _marked(copy) if name == PREPARE else copy


def _marked(prepare: Any) -> Any:
    @functools.wraps(prepare)  # pipelines look at signatures
    def marked(*args: Any, **kwargs: Any) -> Any:
        source = _current.get()
        if source is None or source.preparing:
            return prepare(*args, **kwargs)
        source.preparing = True
        try:
            return prepare(*args, **kwargs)
        finally:
            source.preparing = False

    return marked


def draws_noise(function: Any) -> bool:
    """Whether a method as written calls the function that draws."""
    return isinstance(function, types.FunctionType) and DRAW in function.__code__.co_names
