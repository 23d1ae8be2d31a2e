"""Arguments that a pipeline itself refuses, as errors of this library."""

import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diffusers
import transformers

import adjointdpm
from adjointdpm.errors import AdjointDPMError, InvalidInputError, InvalidTypeError
from adjointdpm.pipelines.own_call import last_tensor
from adjointdpm.support.memory import out_of_memory

_PACKAGES = {Path(package.__file__ or "").parent for package in (diffusers, transformers)}
_OURS = Path(adjointdpm.__file__ or "").parent
# What lies between the pipeline's code and what it asks for: other libraries, Python's own, and
# what is on the way to every function of torch.
_LIBRARIES = {Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib", "platlib")}
_PASSES_ON = Path(last_tensor.__file__)


@contextmanager
def rejected_by(pipe: Any, networks: Any = None) -> Iterator[None]:
    """Turn what a pipeline raises about its arguments into errors of this library.

    Those are exceptions that code of diffusers or transformers raises, or lets torch raise, before
    a network of the loop has run.

    Args:
        pipe: the pipeline.
        networks: knows whether one has run (`started`); None: none has.

    Raises:
        InvalidInputError, InvalidTypeError: with the pipeline's own sentence.

    """
    try:
        yield
    except Exception as error:
        started = networks is not None and networks.started
        if started or isinstance(error, AdjointDPMError) or not _is_theirs(error):
            raise
        kind = InvalidTypeError if isinstance(error, TypeError) else InvalidInputError
        # A sentence that was written for users, or what Python says where nobody expected it.
        written = isinstance(error, ValueError | TypeError)
        text = str(error) if written else f"{type(error).__name__}: {error}"
        raise kind(f"{type(pipe).__name__} refuses its arguments: {text}") from error


def _is_theirs(error: BaseException) -> bool:
    """Whether the pipeline's code was at work, not ours or the user's, and memory was left."""
    if out_of_memory(error) is not None:
        return False
    theirs, trace = False, error.__traceback__
    while trace is not None:
        file = Path(trace.tb_frame.f_code.co_filename)
        if not _PACKAGES.isdisjoint(file.parents):
            theirs = True
        elif file != _PASSES_ON and (_OURS in file.parents or not _is_library(file)):
            theirs = False
        trace = trace.tb_next
    return theirs


def _is_library(file: Path) -> bool:
    return not file.is_absolute() or not _LIBRARIES.isdisjoint(file.parents)
