"""`load` and `from_pipeline`: from a name, a folder, a hub id or a pipeline to a model.

Only safetensors are read, and no code that comes with a model is run.
"""

import importlib
import json
import os
import warnings
from pathlib import Path
from typing import Any

import diffusers
from torch import nn

from adjointdpm.errors import AdjointDPMWarning, ModelError
from adjointdpm.pipelines.any_pipeline import AnyPipeline
from adjointdpm.pipelines.base import DiffusionModel
from adjointdpm.pipelines.network_configs import check_configs
from adjointdpm.pipelines.own_call.missing_weights import (
    check_finite,
    check_loaded,
    check_weights,
)
from adjointdpm.pipelines.own_call.modular import is_modular
from adjointdpm.pipelines.stable_diffusion import StableDiffusion
from adjointdpm.pipelines.weight_files import check_readable, check_regular, missing_weights
from adjointdpm.pipelines.weight_report import weight_report
from adjointdpm.support.hub import is_hub_id, is_reachable, is_unreachable, why_no_hub_id
from adjointdpm.support.quiet_loading import quiet_loading

# The pipeline classes that are known: a new family is a file in this folder and a line here.
FAMILIES: dict[str, type[DiffusionModel]] = {
    "StableDiffusionPipeline": StableDiffusion,
}
BUNDLED = {"tiny": Path(__file__).parent / "tiny"}
INDEX = "model_index.json"
# What a pipeline's parts may be. No pipelines: a pipeline inside one would have an index of its
# own.
COMPONENTS = {
    "diffusers": ("ModelMixin", "SchedulerMixin"),
    "transformers": (
        "PreTrainedModel",
        "PreTrainedTokenizerBase",
        "FeatureExtractionMixin",
        "ImageProcessingMixin",
    ),
}
# Old pipelines name these so; diffusers knows what is meant.
FORMER = (
    ["stable_diffusion", "StableDiffusionSafetyChecker"],
    ["transformers", "CLIPFeatureExtractor"],
)
REFUSED = {
    "use_safetensors": (None, True),
    "trust_remote_code": (None, False),
    "custom_pipeline": (None,),
    "custom_revision": (None,),
}


def load(
    name_or_path: str | os.PathLike[str], **pipeline_kwargs: Any
) -> DiffusionModel | AnyPipeline:
    """Load a pipeline and make it differentiable.

    The weights are frozen (`requires_grad=False`), so that a gradient with respect to noise or a
    prompt pays for nothing else. To train weights, call `model.pipe.unet.requires_grad_()` or add
    an adapter. Only safetensors files are read, and code in a model's repository is never run. A
    bundled name or a folder causes no network access.

    Args:
        name_or_path: "tiny", the bundled model; or a folder in diffusers' layout; or a hub id
            "owner/model", which is looked up only if the working directory has nothing called
            "owner". Write "./tiny" for a folder with the name of a bundled model.
        **pipeline_kwargs: for the pipeline's `from_pretrained`, for example `torch_dtype`,
            `variant`, `safety_checker=None`.

    Raises:
        ModelError: no such model or folder, a folder that holds no pipeline, a pipeline of an
            unknown class or with parts that are not diffusers' or transformers' own, or weights
            that cannot be read.
        ScheduleError: its scheduler has zero terminal SNR with epsilon prediction.

    Warns:
        AdjointDPMWarning: once, if something in the pipeline blocks gradients or is left out; and
            if a weight file holds tensors that the model has no place for.

    """
    for name, allowed in REFUSED.items():
        if pipeline_kwargs.get(name) not in allowed:
            raise ModelError(
                f"load({name}={pipeline_kwargs[name]!r}) is refused: only safetensors are read, "
                f"and no code that comes with a model is run"
            )
    source, local = _locate(name_or_path)
    kwargs = {**pipeline_kwargs, "use_safetensors": True}
    if local or not is_reachable():  # then it may still be in the cache
        kwargs["local_files_only"] = True
    with quiet_loading(progress=_takes_seconds(source, local)):
        return _load(source, local, kwargs)


def _load(source: str, local: bool, kwargs: dict[str, Any]) -> DiffusionModel | AnyPipeline:
    """Read the index, check the parts, and only then load them."""
    if local:
        check_regular(source)
    index = _read_index(source, local, kwargs)
    class_name = index.get("_class_name")
    pipeline_class = _pipeline_class(source, class_name)
    _check_parts(source, index, pipeline_class)
    networks = [name for name, value in index.items() if _is_network(value)]
    if local:
        own = [name for name in networks if name not in kwargs]
        check_readable(source, own)
        check_configs(source, {name: (index[name][0], index[name][1]) for name in own})
    try:
        with weight_report() as report:
            pipe = pipeline_class.from_pretrained(source, **kwargs)
    except ModelError as error:
        raise ModelError(f"{source!r}: {error}") from error
    except MemoryError:
        raise
    except Exception as error:  # tokenizers raises no other class
        hint = missing_weights(source, networks, kwargs.get("variant")) if local else ""
        if not local and "safetensors" in str(error):
            hint = 'its weights may be of a variant (variant="fp16", --variant fp16)'
        raise ModelError(
            f"{source!r} could not be loaded: {f'{hint}. ' if hint else ''}{error}"
        ) from error
    report.check_complete(source)
    check_loaded(pipe, source)
    for note in report.notes(source):
        warnings.warn(note, AdjointDPMWarning, stacklevel=3)
    for component in pipe.components.values():
        if isinstance(component, nn.Module):
            component.requires_grad_(False)
    return from_pipeline(pipe)


def _takes_seconds(source: str, local: bool) -> bool:
    """Whether loading takes long enough for a progress bar: a download, or more than a gigabyte."""
    files = Path(source).rglob("*.safetensors") if local else ()
    return not local or sum(file.stat().st_size for file in files) > 1e9


def from_pipeline(pipe: Any) -> DiffusionModel | AnyPipeline:
    """Make a pipeline differentiable.

    The pipeline is used as it is. Its weights keep their `requires_grad`, and every weight that
    requires grad (after diffusers' `from_pretrained`, all of them) costs its gradient in every
    backward pass; `pipe.unet.requires_grad_(False)`, and the same for the other networks, avoids
    that.

    Args:
        pipe: a loaded diffusers pipeline, modular ones too. One of a family with a file of its own
            (or of a subclass that keeps its `__call__`) has more; any other runs its own
            `__call__`.

    Raises:
        ModelError: not a pipeline, an incomplete one of a family, or one whose
            weights are missing, NaN or infinite.
        ScheduleError: its scheduler has zero terminal SNR with epsilon prediction.

    Warns:
        AdjointDPMWarning: once, if something in the pipeline blocks gradients or is left out.

    """
    if is_modular(pipe):
        model = AnyPipeline(pipe)
        check_finite(model.pipe)
        return model
    if not isinstance(pipe, diffusers.DiffusionPipeline):
        raise ModelError(
            f"from_pipeline takes a diffusers pipeline, not {type(pipe).__name__}; to load one by "
            f"name use adjointdpm.load"
        )
    check_weights(pipe)
    check_finite(pipe)
    for cls in type(pipe).__mro__:
        if (
            cls.__name__ in FAMILIES
            and type(pipe).__call__ is getattr(diffusers, cls.__name__).__call__
        ):
            return FAMILIES[cls.__name__](pipe)
    return AnyPipeline(pipe)


def _pipeline_class(source: str, name: object) -> Any:
    """The class of diffusers that an index names.

    Raises:
        ModelError: diffusers has no pipeline of that name.

    """
    found = getattr(diffusers, name, None) if isinstance(name, str) else None
    if not (isinstance(found, type) and issubclass(found, diffusers.DiffusionPipeline)):
        raise ModelError(
            f"{source!r}: its {INDEX} names the pipeline class {name!r}, which diffusers "
            f"{diffusers.__version__} does not have"
        )
    return found


def _locate(name_or_path: str | os.PathLike[str]) -> tuple[str, bool]:
    """(where to load from, whether that is a folder)."""
    if not isinstance(name_or_path, str | os.PathLike) or not os.fspath(name_or_path):
        raise ModelError(f"load({name_or_path!r}): {_known()}")
    if isinstance(name_or_path, str) and name_or_path in BUNDLED:
        folder = BUNDLED[name_or_path]
        if not (folder / INDEX).is_file():
            raise ModelError(
                f"the bundled model {name_or_path!r} is not in this installation ({folder}); "
                f"install adjointdpm again"
            )
        return str(folder), True
    path = Path(name_or_path).expanduser()
    if path.is_dir():
        if not any(path.iterdir()):
            raise ModelError(f"the folder {path} is empty; {_known()}")
        if not (path / INDEX).is_file():
            raise ModelError(
                f"the folder {path} has no {INDEX}, so it is no diffusers pipeline; "
                f"pipe.save_pretrained(folder) writes one"
            )
        return str(path), True
    if path.exists():
        raise ModelError(
            f"{path} is a file; pass the folder of a diffusers pipeline (diffusers' "
            f"from_single_file and save_pretrained convert it)"
        )
    if isinstance(name_or_path, str) and is_hub_id(name_or_path):
        return name_or_path, False
    raise ModelError(
        f"there is no model {os.fspath(name_or_path)!r}; {why_no_hub_id(os.fspath(name_or_path))}; "
        f"{_known()}"
    )


def _read_index(source: str, local: bool, kwargs: dict[str, Any]) -> dict[str, Any]:
    """The pipeline's index, before any weights are read."""
    try:
        if local:
            index = json.loads((Path(source) / INDEX).read_text("utf-8"))
        else:
            hub = (
                "cache_dir",
                "force_download",
                "proxies",
                "token",
                "revision",
                "local_files_only",
            )
            index = diffusers.DiffusionPipeline.load_config(
                source, **{name: kwargs[name] for name in hub if name in kwargs}
            )
    except (OSError, ValueError) as error:
        if local:
            raise ModelError(f"{Path(source) / INDEX} cannot be read: {error}") from error
        why = (
            "the hub cannot be reached, and it is not in the cache"
            if is_unreachable(error)
            else str(error)
        )
        raise ModelError(
            f"{source!r} is no folder, and as a hub id it cannot be read: {why}; {_known()}"
        ) from error
    return index if isinstance(index, dict) else {}


def _check_parts(source: str, index: dict[str, Any], pipeline_class: Any) -> None:
    """Check that all parts are of classes that come with diffusers or transformers.

    diffusers takes a part of class [L, C] from L.py in the part's own folder if there is such a
    file, or from any module L that can be imported. Neither may happen.

    Raises:
        ModelError: a part is of another class, or has such a file.

    """
    _, settings = pipeline_class._get_signature_keys(pipeline_class)
    for name, value in index.items():
        if (
            name.startswith("_")
            or name in settings  # an argument of the constructor, which diffusers loads nothing for
            or value is None
            or value == [None, None]
            or isinstance(value, bool | int | float)
        ):
            continue
        if value not in FORMER and not _is_known(value):
            raise ModelError(
                f"{source!r}: its {INDEX} says that {name} is {json.dumps(value)}, which is no "
                "model, scheduler, tokenizer or image processor of this installation of diffusers "
                f"or transformers; code that comes with a model is never run"
            )
        code = Path(source) / name / f"{value[0]}.py"
        if code.exists():
            raise ModelError(
                f"{source!r}: {code} would be run in place of the library's own {name}; delete it "
                f"if you do not need it"
            )


def _is_network(value: Any) -> bool:
    """Whether a part has weights."""
    if not (isinstance(value, list) and len(value) == 2 and value[0] in COMPONENTS):
        return False
    found = getattr(importlib.import_module(value[0]), str(value[1]), None)
    return isinstance(found, type) and issubclass(found, nn.Module)


def _is_known(value: Any) -> bool:
    if (
        not isinstance(value, list)
        or len(value) != 2
        or not all(isinstance(part, str) for part in value)
    ):
        return False
    if value[0] not in COMPONENTS:
        return _is_pipelines_own(*value)
    library = importlib.import_module(value[0])
    try:
        found = getattr(library, value[1], None)
    except (
        ImportError,
        RuntimeError,
    ):  # of libraries that import their parts when these are asked for
        return False
    return isinstance(found, type) and issubclass(
        found, tuple(getattr(library, base) for base in COMPONENTS[value[0]])
    )


def _is_pipelines_own(module: str, name: str) -> bool:
    """Whether a part's class stands beside a pipeline in diffusers itself, as a few do."""
    found = getattr(getattr(diffusers.pipelines, module, None), name, None)
    return isinstance(found, type) and issubclass(found, nn.Module)


def _known() -> str:
    return (
        f"known are the bundled {', '.join(map(repr, BUNDLED))}, a folder with a {INDEX}, or a hub "
        f"id 'owner/model'"
    )
