"""What a pipeline is and takes, as plain values."""

from typing import Any

from torch import nn

from adjointdpm.errors import AdjointDPMError
from adjointdpm.pipelines.arguments.generation import generation_arguments
from adjointdpm.pipelines.arguments.prompting import CLASSES, TEXT, reads
from adjointdpm.pipelines.own_call.pipeline_call import call_parameters

SET_BY_MODEL = ("output_type", "return_dict")


def describe(model: Any, run: bool = False, **arguments: Any) -> dict[str, Any]:
    """The pipeline's class, networks, call and noise, and what works with it.

    Args:
        model: what `adjointdpm.load` returns.
        run: run the networks' first step, by which it is decided whether native samplers work.
        arguments: of the pipeline's call, for which the noise's shape is told.

    Returns:
        `class`, `scheduler`; `reads`: "text", "class labels" or "nothing"; `networks`: by name,
        each with `class`, `parameters` and `dtypes`; `arguments`: the defaults by name as Python
        code, None where one is required; `noise`: the shape of one sample's noise, or why there is
        none; `supports`: as the model's own method.

    """
    pipe = model.pipe
    networks = {n: part for n, part in pipe.components.items() if isinstance(part, nn.Module)}
    scheduler = getattr(pipe, "scheduler", None)
    return {
        "class": type(pipe).__name__,
        "reads": reads(pipe),
        "scheduler": None if scheduler is None else type(scheduler).__name__,
        "networks": {name: _network(part) for name, part in networks.items()},
        "arguments": {
            name: None if p.default is p.empty else repr(p.default)
            for name, p in call_parameters(pipe).items()
            if name not in SET_BY_MODEL and p.kind is not p.VAR_KEYWORD
        },
        "noise": _noise(model, arguments),
        "supports": model.supports(**(_trial(pipe, arguments) if run else {})),
    }


def _trial(pipe: Any, arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a short call for one sample."""
    prompt = {TEXT: "a", CLASSES: "0"}.get(reads(pipe))
    return generation_arguments(pipe, 1, prompt, 4, None, None, arguments)


def _network(part: nn.Module) -> dict[str, Any]:
    weights = list(part.parameters())
    return {
        "class": type(part).__name__,
        "parameters": sum(weight.numel() for weight in weights),
        "dtypes": sorted({str(weight.dtype).removeprefix("torch.") for weight in weights}),
    }


def _noise(model: Any, arguments: dict[str, Any]) -> list[int] | str:
    try:
        return list(model.noise(1, 0, **arguments).shape)
    except AdjointDPMError as error:
        return str(error)
    except Exception as error:  # whatever the pipeline wants besides: a picture, for example
        return f"not without further arguments ({type(error).__name__}: {error})"
