"""Modular pipelines, whose call is a tree of blocks, in the form of any other pipeline."""

import copy
import inspect
import types
from typing import Any

from diffusers import ModularPipeline
from diffusers.modular_pipelines import PipelineState

from adjointdpm.errors import UnsupportedError
from adjointdpm.pipelines.own_call.twin import differentiable_class

RESULTS = ("images", "videos", "audio")  # the names under which blocks leave their samples


def is_modular(pipe: Any) -> bool:
    """Whether a pipeline is made of blocks."""
    return isinstance(pipe, ModularPipeline)


def as_pipeline(pipe: Any) -> Any:
    """A shallow copy whose `__call__` takes the blocks' inputs and returns a tuple of samples.

    Raises:
        UnsupportedError: the blocks make no pictures, videos or sound.

    """
    outputs = [output.name for output in pipe.blocks.outputs]
    found = [name for name in RESULTS if name in outputs]
    if not found:
        raise UnsupportedError(
            f"the blocks of {type(pipe).__name__} make {', '.join(outputs) or 'nothing'}, and none "
            f"of {', '.join(RESULTS)}; add a block that decodes"
        )
    made = copy.copy(pipe)
    made.__class__ = _callable_class(type(pipe), _inputs(pipe), found[0])
    return made


def _inputs(pipe: Any) -> tuple[tuple[str, Any], ...]:
    """Names and defaults of what the blocks take."""
    return tuple((given.name, given.default) for given in pipe.blocks.inputs if given.name)


def _callable_class(cls: type, inputs: tuple[tuple[str, Any], ...], result: str) -> type:
    defaults = dict(inputs)

    def run(self: Any, **given: Any) -> tuple[Any, ...]:
        state = PipelineState()
        latent = given.get("output_type") == "latent"
        given.pop("return_dict", None)
        for name, value in (defaults | given).items():
            state.set(name, value)
        # Not by the class's own `__call__`, which switches gradients off in its body.
        _, state = _differentiable(self._blocks)(self, state)
        return (state.get("latents" if latent else result),)

    kinds = inspect.Parameter.KEYWORD_ONLY
    names = dict.fromkeys([*defaults, "output_type"])
    parameters = [inspect.Parameter(n, kinds, default=defaults.get(n)) for n in names]
    own = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    vars(run)["__signature__"] = inspect.Signature([own, *parameters])
    body = {"__call__": run}
    return types.new_class(cls.__name__, (cls,), exec_body=lambda space: space.update(body))


def _differentiable(block: Any) -> Any:
    """A copy of a block and of the blocks inside it, whose methods run without `no_grad`."""
    made = copy.copy(block)
    vars(made)["_progress_bar_config"] = {"disable": True}
    inner = getattr(block, "sub_blocks", None)
    if inner:
        made.sub_blocks = type(inner)((name, _differentiable(b)) for name, b in inner.items())
    made.__class__ = differentiable_class(type(block))
    return made
