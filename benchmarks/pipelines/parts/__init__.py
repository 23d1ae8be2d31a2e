"""Tiny parts of every kind of pipeline, with random weights: a registry by class.

`assemble` reads a pipeline's constructor and fills it from the registry, so that a new pipeline of
known parts takes no line here, and a new part one.
"""

import inspect
import types
import typing
from typing import Any

import diffusers
import torch
from torch import nn

from benchmarks.pipelines.parts import (
    autoencoders,
    encoders,
    transformers,
    unets,
    video_and_audio,
    vision_language,
)
from benchmarks.pipelines.parts.encoders import WIDTH, word_tokenizer

__all__ = ["WIDTH", "assemble", "component"]

NEEDED = ("transformer", "text_encoder_2", "tokenizer_2")  # also where a constructor has a default
MAKERS = encoders.MAKERS | vision_language.MAKERS
CONFIGS = unets.CONFIGS | transformers.CONFIGS | video_and_audio.CONFIGS | autoencoders.CONFIGS


def component(cls: Any, seed: int = 0, **overrides: Any) -> Any:
    """One part, from the registry.

    Raises:
        LookupError: none is registered for the class.

    """
    name = cls.__name__
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if name in CONFIGS:
            made = cls(**(CONFIGS[name] | overrides))
        elif name in MAKERS:
            made = MAKERS[name](cls, **overrides)
        elif "Tokenizer" in name:
            made = word_tokenizer(ends=True)
        elif name == "KarrasDiffusionSchedulers":
            made = diffusers.DDIMScheduler(clip_sample=False, set_alpha_to_one=False)
        elif issubclass(cls, diffusers.SchedulerMixin):
            clips = "clip_sample" in inspect.signature(cls.__init__).parameters
            made = cls(**({"clip_sample": False} if clips else {}) | overrides)
        else:
            raise LookupError(f"no tiny {name} is registered")
        if not isinstance(made, nn.Module):
            return made
        # Layers that start at zero make every gradient zero, which proves nothing.
        for parameter in made.parameters():
            if not parameter.detach().any():
                nn.init.normal_(parameter, std=0.1)
    return made.eval()


def assemble(cls: Any, networks: dict[str, dict[str, Any]] | None = None, **given: Any) -> Any:
    """A pipeline of tiny parts.

    Args:
        cls: its class.
        networks: configuration that differs from the registry's, by the part's name; a part named
            here is made even if the constructor does without.
        given: parts or other arguments of the constructor that are not to be looked up.

    """
    hints = typing.get_type_hints(cls.__init__)
    parts: dict[str, Any] = {}
    needed = {*NEEDED, *(networks or {})}
    for seed, (name, parameter) in enumerate(inspect.signature(cls.__init__).parameters.items()):
        if name in ("self", "args", "kwargs"):
            continue
        if name in given:
            parts[name] = given[name]
        elif name in ("safety_checker", "watermarker"):
            parts[name] = None
        elif name not in needed and parameter.default is not inspect.Parameter.empty:
            parts[name] = parameter.default
        else:
            parts[name] = component(_class(hints[name]), seed, **(networks or {}).get(name, {}))
    return cls(**parts)


def _class(hint: Any) -> Any:
    """The first class of an annotation that may be a union."""
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        return _class(typing.get_args(hint)[0])
    return hint
