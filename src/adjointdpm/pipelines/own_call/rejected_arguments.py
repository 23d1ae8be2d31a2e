"""Arguments that a pipeline itself refuses, as errors of this library."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diffusers
import transformers

from adjointdpm.errors import AdjointDPMError, InvalidInputError, InvalidTypeError

_PACKAGES = {Path(package.__file__ or "").parent for package in (diffusers, transformers)}


@contextmanager
def rejected_by(pipe: Any, networks: Any = None) -> Iterator[None]:
    """Turn what a pipeline raises about its arguments into errors of this library.

    Those are a ValueError or TypeError that code of diffusers or transformers raises before a
    network of the loop has run.

    Args:
        pipe: the pipeline.
        networks: knows whether one has run (`started`); None: none has.

    Raises:
        InvalidInputError, InvalidTypeError: with the pipeline's own sentence.

    """
    try:
        yield
    except (ValueError, TypeError) as error:
        started = networks is not None and networks.started
        if started or isinstance(error, AdjointDPMError) or not _is_theirs(error):
            raise
        kind = InvalidTypeError if isinstance(error, TypeError) else InvalidInputError
        raise kind(f"{type(pipe).__name__} refuses its arguments: {error}") from error


def _is_theirs(error: BaseException) -> bool:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return False
    return not _PACKAGES.isdisjoint(Path(trace.tb_frame.f_code.co_filename).parents)
