"""A shallow copy of a pipeline whose `__call__` can be differentiated; the pipeline stays as it is.

The copy shares all weights. What differs: methods run as written, without their `no_grad`
decorator; the networks of the loop are recomputed in the backward pass; schedulers keep their state
to themselves; pictures are not clamped.
"""

import collections
import copy
import functools
import inspect
import types
from collections.abc import Callable
from functools import cache
from typing import Any

import diffusers
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import nn
from transformers import PreTrainedTokenizerBase

from adjointdpm.engine.shallow_copy import shallow_copy
from adjointdpm.pipelines.arguments.cut_prompts import watch_encoding, watched
from adjointdpm.pipelines.own_call.autoencoder_twin import autoencoder_twin
from adjointdpm.pipelines.own_call.initial_noise import draws_noise, with_own_draws
from adjointdpm.pipelines.own_call.network_state import alone_with
from adjointdpm.pipelines.own_call.tokenizer_twin import tokenizer_twin
from adjointdpm.pipelines.schedulers import _twin as scheduler_twin

Call = Callable[..., Any]
LORA_SCALE = "scale_lora_layers"  # the function of diffusers that changes a network's LoRA scales
Wrap = Callable[[str, nn.Module], Call]  # name and network -> what runs in place of its forward


def twin_of(pipe: Any, wrap: Wrap, quiet: bool = True) -> Any:
    """The copy.

    Args:
        pipe: a diffusers pipeline.
        wrap: makes what is called in place of a network of the loop.
        quiet: without the pipeline's own progress bars.

    """
    return _twin(pipe, wrap, {}, quiet, "")


def _twin(pipe: Any, wrap: Wrap, seen: dict[int, Any], quiet: bool, prefix: str) -> Any:
    made = copy.copy(pipe)
    for name, value in list(vars(made).items()):
        full = f"{prefix}{name}"
        if id(value) in seen:
            vars(made)[name] = seen[id(value)]
        elif isinstance(value, nn.Module) and is_recomputed(value):
            vars(made)[name] = seen[id(value)] = _network_twin(value, full, wrap)
        elif isinstance(value, PreTrainedTokenizerBase):
            vars(made)[name] = seen[id(value)] = tokenizer_twin(watched(name, value))
        elif isinstance(value, diffusers.ModelMixin):
            vars(made)[name] = seen[id(value)] = autoencoder_twin(value)
        elif isinstance(value, SchedulerMixin):
            vars(made)[name] = seen[id(value)] = scheduler_twin(value)
        elif isinstance(value, diffusers.DiffusionPipeline):
            vars(made)[name] = seen[id(value)] = _twin(value, wrap, seen, quiet, f"{full}.")
        elif hasattr(value, "denormalize") or hasattr(value, "_image_processor"):
            vars(made)[name] = seen[id(value)] = _unclamped(value)
    if quiet:
        vars(made)["_progress_bar_config"] = {"disable": True}
    vars(made)["maybe_free_model_hooks"] = lambda: _offload(pipe)
    made.__class__ = differentiable_class(type(pipe))
    watch_encoding(made)
    return made


def _network_twin(network: nn.Module, name: str, wrap: Wrap) -> nn.Module:
    made = shallow_copy(network)
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    for kind in hooks:  # they run with the network itself, which is called below
        vars(made)[kind] = collections.OrderedDict()
    vars(made)["_compiled_call_impl"] = None
    vars(made)["forward"] = wrap(name, network)
    return made


def is_recomputed(network: nn.Module) -> bool:
    """Whether a module is a network of the loop: a denoiser, ControlNet, adapter or prior.

    Autoencoders keep their graph, which is needed first in the backward pass. So do text encoders:
    pipelines change those around their one call (the scale of a LoRA), and a second run would find
    another network.
    """
    inner = getattr(network, "_orig_mod", network)
    return isinstance(inner, diffusers.ModelMixin) and not callable(getattr(inner, "decode", None))


def _offload(pipe: Any) -> None:
    """What a pipeline does at its end: move networks away that were brought for its call.

    The pipeline's own method takes all hooks off and puts others on.
    """
    for part in pipe.components.values():
        if hasattr(part, "_diffusers_hook") and hasattr(part, "_reset_stateful_cache"):
            part._reset_stateful_cache()
    for hook in getattr(pipe, "_all_hooks", ()):
        hook.offload()


@cache
def differentiable_class(cls: type) -> type:
    """A subclass of a pipeline's class whose methods run as written, without `no_grad`."""
    body: dict[str, Any] = {}
    for name in dir(cls):
        found = inspect.getattr_static(cls, name, None)
        static = isinstance(found, staticmethod)
        function = found.__func__ if isinstance(found, staticmethod) else found
        written: Any = inspect.unwrap(function) if _without_gradients(function) else function
        scales = _names(written) & {LORA_SCALE}
        if written is not function or draws_noise(written) or scales:
            own = with_own_draws(written, name)
            own = _one_thread_at_a_time(own) if scales else own
            body[name] = staticmethod(own) if static else own
    return types.new_class(cls.__name__, (cls,), exec_body=lambda space: space.update(body))


def swaps_processors(pipe: Any) -> bool:
    """Whether a pipeline swaps the attention processors of its networks while it runs."""
    written = inspect.unwrap(type(pipe).__call__)
    return any("set_" in name and "attn_processor" in name for name in _names(written))


def _names(function: Any) -> set[str]:
    return set(getattr(getattr(function, "__code__", None), "co_names", ()))


def _one_thread_at_a_time(method: Any) -> Any:
    """A method that changes text encoders around their call, for one thread at a time."""

    @functools.wraps(method)
    def alone(self: Any, *args: Any, **kwargs: Any) -> Any:
        parts = [p for name, p in self.components.items() if name.startswith("text_encoder")]
        with alone_with([part for part in parts if isinstance(part, nn.Module)]):
            return method(self, *args, **kwargs)

    return alone


def _without_gradients(function: Any) -> bool:
    """Whether `torch.no_grad()` decorates a function."""
    code = getattr(function, "__code__", None)
    return hasattr(function, "__wrapped__") and getattr(code, "co_name", "") == "decorate_context"


def _unclamped(processor: Any) -> Any:
    """An image or video processor whose tensors keep their values outside of [0, 1].

    Numpy and PIL pictures are clamped as ever: bytes are made of them.
    """
    made = copy.copy(processor)
    if hasattr(made, "denormalize"):
        vars(made)["denormalize"] = _denormalized
    if hasattr(made, "denormalize") and hasattr(made, "postprocess"):
        unclamped = made.postprocess

        @functools.wraps(unclamped)
        def postprocess(image: Any, output_type: str = "pil", *args: Any, **kwargs: Any) -> Any:
            run = unclamped if output_type == "pt" else processor.postprocess
            return run(image, output_type, *args, **kwargs)

        vars(made)["postprocess"] = postprocess
    inner = getattr(made, "_image_processor", None)
    if inner is not None:
        vars(made)["_image_processor"] = _unclamped(inner)
    return made


def _denormalized(images: Any) -> Any:
    return images * 0.5 + 0.5
