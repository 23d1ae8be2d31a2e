"""Flags made from dataclasses, and what turns the flags of every command into a model.

A field is a flag of the same name and default. The first sentence of its entry under `Args` is the
flag's help.
"""

import inspect
import warnings
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

import typer
from rich.markup import escape

from adjointdpm.cli.config_file import PROMPTS, read_config
from adjointdpm.cli.prompts import PromptSource
from adjointdpm.errors import UnknownNameError
from adjointdpm.optimization.settings import Settings
from adjointdpm.support.argument_help import argument_help
from adjointdpm.support.devices import usable_device
from adjointdpm.tasks.config import NAME_VALUE, PROMPT_FILE, Sampling

T = TypeVar("T")
_NO_PROMPTS = PromptSource([])  # as a run's config.yaml has it where there are none
_DTYPES = ("float32", "bfloat16", "float16", "float64")


@dataclass(frozen=True, kw_only=True)
class Folder:
    """Where a task's results are written.

    Args:
        out: the run folder.
        resume: go on with the run in --out.
        force: replace what an earlier run wrote.

    """

    out: Path = Path("runs")
    resume: bool = False
    force: bool = False


@dataclass(frozen=True, kw_only=True)
class Run(Folder):
    """What a task works with, and where its results are written.

    Args:
        model: "tiny" (bundled), a folder of a diffusers pipeline, or a hub id.
        device: where the model runs: cpu, cuda, cuda:1 or mps; without it, a GPU if there is one.
        dtype: precision of the model: float32, bfloat16, float16 or float64.
        variant: of the model's weight files, such as fp16 in model.fp16.safetensors.
        config: a YAML file with values for these flags, which flags override. The config.yaml of a
            run repeats it.

    """

    model: str = "tiny"
    device: str | None = None
    dtype: str = "float32"
    variant: str | None = None
    config: Path | None = None

    def loading(self) -> dict[str, str | None]:
        """What says how the model is loaded, as far as it decides the result."""
        return {"model": self.model, "dtype": self.dtype, "variant": self.variant}


# Titles in --help: of all flags of a class, and of flags that stand elsewhere.
_PANELS = {Sampling: "Sampler", Settings: "Optimisation", Folder: "Run", Run: "Run"}
_MOVED = {"seed": "Run", "tracker": "Run", "previews": "Run"}


@dataclass(frozen=True)
class Flags:
    """The values that a command was called with.

    Args:
        context: typer's, which knows where each value comes from.
        values: by name of the flag.

    """

    context: typer.Context
    values: Mapping[str, Any]

    def build(self, cls: type[T], **changes: Any) -> T:
        """The dataclass with its flags' values, some of them changed."""
        given = dict(changes)
        for item in fields(cls):  # pyright: ignore[reportArgumentType]
            value = self.values.get(item.name)
            # What has no value is left to the dataclass.
            if (
                item.name in given
                or value is None
                or (value == _NO_PROMPTS and item.default_factory is list)
            ):
                continue
            if isinstance(value, PromptSource):
                value = value.read(_flag(item.name))
            given[item.name] = value
        return cls(**given)

    def source(self, name: str) -> str:
        """Where a value comes from: COMMANDLINE, DEFAULT_MAP (a --config file) or DEFAULT."""
        found = self.context.get_parameter_source(name)
        return "DEFAULT" if found is None else found.name


def command(
    *groups: type, panel: str = "What to learn", **defaults: Any
) -> Callable[[Callable[[Flags], None]], Callable[..., None]]:
    """Make a function of `Flags` a command whose flags are the fields of dataclasses.

    Args:
        groups: the dataclasses.
        panel: the title in --help of the flags that have none of their own.
        defaults: defaults that differ from those of the fields.

    """

    def decorate(function: Callable[[Flags], None]) -> Callable[..., None]:
        name = function.__name__
        changed = {"out": Path("runs", name)} | defaults
        parameters = {
            item.name: _parameter(group, item, panel, changed)
            for group in groups
            for item in fields(group)
            if item.init
        }
        titles = [panel, *_PANELS.values()]
        ordered = sorted(
            parameters.values(),
            key=lambda p: titles.index(get_args(p.annotation)[-1].rich_help_panel),
        )

        def run(context: typer.Context, **values: Any) -> None:
            function(Flags(context, values))

        run.__name__, run.__doc__ = name, function.__doc__
        context = inspect.Parameter(
            "context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context
        )
        run.__signature__ = inspect.Signature([context, *ordered])  # pyright: ignore[reportFunctionMemberAccess]
        return run

    return decorate


def option(cls: type, name: str, panel: str | None = None, **more: Any) -> Any:
    """The typer option of a field."""
    (kind,) = [item.type for item in fields(cls) if item.name == name]
    text = argument_help(cls, name)
    if get_origin(kind) is list or NAME_VALUE in get_args(kind):
        text += " Repeatable."
    return typer.Option(*more.pop("names", ()), help=escape(text), rich_help_panel=panel, **more)


def _parameter(
    cls: type, item: Field[Any], panel: str, changed: Mapping[str, Any]
) -> inspect.Parameter:
    """The parameter that typer makes the flag from."""
    default = changed[item.name] if item.name in changed else _default(item)
    more: dict[str, Any] = {}
    kind = get_type_hints(cls, include_extras=True)[item.name]
    if PROMPT_FILE in get_args(kind):
        kind, more = PromptSource, {"parser": PromptSource, "metavar": PROMPTS}
        if default is not MISSING:
            kind, default = PromptSource | None, None
    elif NAME_VALUE in get_args(kind):
        kind, more = list[str], {"metavar": NAME_VALUE}
    elif item.name == "config":
        more = {"callback": read_config, "is_eager": True}
    elif kind is bool and default is False:
        more = {"names": (_flag(item.name),)}  # no --no-… where that is the default
    home = [base for base in cls.__mro__ if item.name in getattr(base, "__annotations__", {})][-1]
    panel = _MOVED.get(item.name) or _PANELS.get(home, panel)
    more["show_default"] = default not in ("", [], None)
    return inspect.Parameter(
        item.name,
        inspect.Parameter.KEYWORD_ONLY,
        annotation=Annotated[kind, option(cls, item.name, panel, **more)],
        default=inspect.Parameter.empty if default is MISSING else default,
    )


def _default(item: Field[Any]) -> Any:
    return item.default if item.default_factory is MISSING else item.default_factory()


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def load_model(
    name: str, device: str | None = None, dtype: str = "float32", variant: str | None = None
) -> Any:
    """The model on the device, in the dtype, from the weight files of a variant.

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
        # The argument is called "dtype" in newer versions of diffusers, but not in the oldest that
        # is supported.
        warnings.filterwarnings("ignore", message=".*torch_dtype", category=FutureWarning)
        given = {} if dtype == "float32" else {"torch_dtype": getattr(torch, dtype)}
        model = load(name, **given | ({} if variant is None else {"variant": variant}))
    model.pipe.to(device)
    return model


def check_device(device: str) -> None:
    """Check that torch can use the device here.

    Raises:
        UnknownNameError: it cannot.

    """
    usable_device("--device ", device)


# For commands whose flags are written out.
Resume = Annotated[bool, option(Folder, "resume", names=("--resume",))]
Force = Annotated[bool, option(Folder, "force", names=("--force",))]
