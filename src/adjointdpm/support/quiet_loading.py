"""Keep diffusers and transformers quiet about what no user can act on while a model is loaded."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import diffusers
import transformers

# One says that an image processor falls back to its variant without torchvision, which is all we
# need; the other that it looks for weights elsewhere, which the error says that follows.
_TALKATIVE = {
    "transformers.utils.import_utils": "requires torchvision",
    "diffusers.models.modeling_utils": "An error occurred while trying to fetch",
}


@contextmanager
def quiet_loading(*, progress: bool) -> Iterator[None]:
    """Silence what nobody can act on, and progress bars unless `progress`, inside the block.

    Other messages come through, and the user's own settings are restored afterwards.
    """
    libraries = [diffusers.utils.logging, transformers.utils.logging]
    shown = [] if progress else [lib for lib in libraries if lib.is_progress_bar_enabled()]
    loggers = [logging.getLogger(name) for name in _TALKATIVE]
    for logger in loggers:
        logger.addFilter(_is_of_use)
    for library in shown:
        library.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            # Versions of diffusers before know no other name of it.
            warnings.filterwarnings("ignore", message="`torch_dtype` is deprecated")
            yield
    finally:
        for logger in loggers:
            logger.removeFilter(_is_of_use)
        for library in shown:
            library.enable_progress_bar()


def _is_of_use(record: logging.LogRecord) -> bool:
    return _TALKATIVE.get(record.name, "\0") not in record.getMessage()
