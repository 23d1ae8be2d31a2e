"""Flags that several commands share, and what turns them into a model."""

import warnings
from pathlib import Path
from typing import Annotated, Any

import typer

from adjointdpm.cli.config_file import read_config
from adjointdpm.cli.prompts import PromptSource
from adjointdpm.errors import UnknownNameError

_DTYPES = ("float32", "bfloat16", "float16", "float64")

Model = Annotated[
    str, typer.Option(help='"tiny" (bundled), a folder of a diffusers pipeline, or a hub id.')
]
Prompts = Annotated[
    PromptSource,
    typer.Option(parser=PromptSource, metavar="FILE", help="Training prompts, one a line."),
]
HeldOut = Annotated[
    PromptSource | None,
    typer.Option(
        parser=PromptSource,
        metavar="FILE",
        help="Prompts for the final measurement; without it, every fourth of --prompts is held "
        "out.",
    ),
]
Metrics = Annotated[
    list[str],
    typer.Option(
        "--metric", help="NAME[:key=value,…] or file.py:function; lower is better. Repeatable."
    ),
]
Weights = Annotated[list[float], typer.Option("--weight", help="One for each --metric.")]
Steps = Annotated[
    int, typer.Option(min=1, help="Sampler steps, all of which the gradient runs through.")
]
GuidanceScale = Annotated[
    float | None, typer.Option(help="Classifier-free guidance; without it, the pipeline's default.")
]
Sampler = Annotated[
    str | None,
    typer.Option(help="A native sampler such as euler; without it, the pipeline's own scheduler."),
]
Iterations = Annotated[int, typer.Option(min=1, help="Optimiser steps at most.")]
Batch = Annotated[int, typer.Option(min=1, help="Pictures in one graph.")]
Accumulate = Annotated[int, typer.Option(min=1, help="Graphs per optimiser step.")]
LearningRate = Annotated[float, typer.Option("--lr", help="Of Adam.")]
Preservation = Annotated[
    float, typer.Option(min=0, help="Weight of the distance to the untouched model's drawing.")
]
Ema = Annotated[
    float,
    typer.Option(min=0, help="Decay of the moving average that is kept; 0 keeps the last values."),
]
Distance = Annotated[
    float,
    typer.Option(min=0, help="Weight of a regulariser: how far what is learned is from its start."),
]
Likelihood = Annotated[
    float, typer.Option(min=0, help="Weight of a regulariser: how unlikely the noise is.")
]
Clip = Annotated[float, typer.Option(help="The gradient is scaled down to this norm.")]
Schedule = Annotated[
    str,
    typer.Option("--lr-schedule", help="constant, or cosine: down to 0 after the last iteration."),
]
ValidateEvery = Annotated[
    int, typer.Option(min=1, help="Iterations between looks at the validation pictures.")
]
Patience = Annotated[
    int,
    typer.Option(
        min=1, help="Stop after this many looks without a better objective; the best state is kept."
    ),
]
CheckpointEvery = Annotated[int, typer.Option(min=1, help="Iterations between checkpoints.")]
Gradient = Annotated[
    str, typer.Option(help="exact, adjoint, auto, truncated:last=K, interpolated:vjps=M, …")
]
Seed = Annotated[int, typer.Option(help="Fixes everything random.", min=0)]
Device = Annotated[
    str | None, typer.Option(help="cpu, cuda, cuda:1, mps; without it, a GPU if there is one.")
]
Dtype = Annotated[str, typer.Option(help=f"Of the model: {', '.join(_DTYPES)}.")]
Trackers = Annotated[
    list[str],
    typer.Option(
        "--tracker", help="tensorboard, or what Accelerate offers; none for none. Repeatable."
    ),
]
Out = Annotated[Path, typer.Option(help="The run folder.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")]
Force = Annotated[bool, typer.Option("--force", help="Replace what an earlier run wrote.")]
Config = Annotated[
    Path | None,
    typer.Option(
        help="A YAML file with values for these flags, or the config.yaml of a run, to repeat it; "
        "flags override it.",
        callback=read_config,
        is_eager=True,
    ),
]


def load_model(name: str, device: str | None = None, dtype: str = "float32") -> Any:
    """The model on the device, in the dtype.

    Raises:
        UnknownNameError: a dtype or device that torch does not have.

    """
    import torch

    from adjointdpm.pipelines import load
    from adjointdpm.support.distributed import Processes

    if dtype not in _DTYPES:
        raise UnknownNameError(f"--dtype {dtype!r} is unknown; choose one of {', '.join(_DTYPES)}")
    device = str(Processes().device) if device is None else device
    check_device(device)
    with warnings.catch_warnings():
        # It is "dtype" in newer versions of diffusers, which the oldest that is supported does not
        # know.
        warnings.filterwarnings("ignore", message=".*torch_dtype", category=FutureWarning)
        model = load(name, **({} if dtype == "float32" else {"torch_dtype": getattr(torch, dtype)}))
    model.pipe.to(device)
    return model


def check_device(device: str) -> None:
    """Check that torch can use the device here.

    Raises:
        UnknownNameError: it cannot.

    """
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UnknownNameError(
            f"--device {device!r} cannot be used here: {str(error).splitlines()[0]}"
        ) from error
