"""What diffusers and transformers find wrong with weight files while they load a pipeline.

Both only log it, as tables and advice for people who train: a tensor that a file lacks is drawn at
random, and one that no layer takes is left out.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import diffusers
import transformers

from adjointdpm.errors import ModelError
from adjointdpm.pipelines.own_call.missing_weights import count, listed

_alone = threading.RLock()  # what is put in place of others' functions is one thread's


@dataclass(frozen=True)
class WeightReport:
    """Tensors by part of the pipeline: those that its files lack, and those that nothing takes."""

    missing: dict[str, list[str]] = field(default_factory=dict)
    unused: dict[str, list[str]] = field(default_factory=dict)

    def check_complete(self, source: str) -> None:
        """Check that no file lacks a tensor.

        Raises:
            ModelError: one does; the message names the part and the tensor.

        """
        for part, names in self.missing.items():
            raise ModelError(
                f"{source!r}: the weights of {part} lack {count(names)}: {listed(names)}; save or "
                "download them again"
            )

    def notes(self, source: str) -> list[str]:
        """A sentence for each part whose files hold tensors that nothing takes."""
        return [
            f"{source!r}: the weights of {part} hold {count(names)} that its config has no place "
            f"for: {listed(names)}; stock diffusers leaves them out too, so pictures are made "
            "without them: check that config and weights belong together"
            for part, names in self.unused.items()
        ]


@contextmanager
def weight_report() -> Iterator[WeightReport]:
    """Inside, what this thread loads is reported, in place of the libraries' own messages.

    Raises:
        ModelError: a file has a tensor of another shape than its model.

    """
    report = WeightReport()
    here = threading.get_ident()

    def note(path: Any, missing: Any, unused: Any, mismatched: Any) -> None:
        part = Path(str(path)).name
        for shape in sorted(mismatched):
            raise ModelError(
                f"the weights of {part} do not fit its config: {shape[0]} has the shape "
                f"{tuple(shape[1])} in the file and {tuple(shape[2])} in the model"
            )
        if missing:
            report.missing[part] = sorted(missing)
        if unused:
            report.unused[part] = sorted(unused)

    with _alone, _transformers_reports_to(note, here), _diffusers_reports_to(note, here):
        yield report


@contextmanager
def _transformers_reports_to(note: Callable[..., None], thread: int) -> Iterator[None]:
    place, name = transformers.modeling_utils, "log_state_dict_report"
    own = getattr(place, name, None)
    if own is None:  # of another version: its messages come through, and other checks are left
        yield
        return

    def report(*args: Any, **kwargs: Any) -> None:
        info = kwargs.get("loading_info")
        if threading.get_ident() != thread or info is None:
            own(*args, **kwargs)
            return
        path = kwargs.get("pretrained_model_name_or_path")
        mismatched = () if kwargs.get("ignore_mismatched_sizes") else info.mismatched_keys
        note(path, info.missing_keys, info.unexpected_keys, mismatched)
        if info.error_msgs or info.conversion_errors:
            own(*args, **kwargs)

    with _in_place_of(place, name, report):
        yield


@contextmanager
def _diffusers_reports_to(note: Callable[..., None], thread: int) -> Iterator[None]:
    place, name = diffusers.ModelMixin, "_load_pretrained_model"
    own = vars(place).get(name)
    if own is None:
        yield
        return
    logger = diffusers.utils.logging.get_logger("diffusers.models.modeling_utils")

    def load(cls: Any, model: Any, state: Any, files: Any, path: Any, *args: Any, **kw: Any) -> Any:
        if threading.get_ident() != thread:
            return own.__func__(cls, model, state, files, path, *args, **kw)
        level = logger.level
        logger.setLevel("ERROR")  # its warnings are what is noted here
        try:
            found = own.__func__(cls, model, state, files, path, *args, **kw)
        except (ValueError, RuntimeError) as error:
            why = (
                str(error).partition(" If you want to instead")[0].replace("load  because", "load:")
            )
            raise ModelError(f"the weights of {Path(str(path)).name} do not fit: {why}") from error
        finally:
            logger.setLevel(level)
        note(path, *found[1:3], () if kw.get("ignore_mismatched_sizes") else found[3])
        return found

    with _in_place_of(place, name, classmethod(load)):
        yield


@contextmanager
def _in_place_of(place: Any, name: str, value: Any) -> Iterator[None]:
    own = vars(place)[name]
    setattr(place, name, value)
    try:
        yield
    finally:
        setattr(place, name, own)
