"""Keep diffusers and transformers quiet about what no user can act on while a model is loaded."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import diffusers
import transformers

# Says that an image processor falls back to its variant without torchvision, which is all we need.
_TALKATIVE = "transformers.utils.import_utils"


@contextmanager
def quiet_loading(*, progress: bool) -> Iterator[None]:
    """Silence the notice about torchvision, and progress bars unless `progress`, inside the block.

    Other messages come through, and the user's own settings are restored afterwards.
    """
    libraries = [diffusers.utils.logging, transformers.utils.logging]
    shown = [] if progress else [lib for lib in libraries if lib.is_progress_bar_enabled()]
    logger = logging.getLogger(_TALKATIVE)
    logger.addFilter(_is_of_use)
    for library in shown:
        library.disable_progress_bar()
    try:
        yield
    finally:
        logger.removeFilter(_is_of_use)
        for library in shown:
            library.enable_progress_bar()


def _is_of_use(record: logging.LogRecord) -> bool:
    return "requires torchvision" not in record.getMessage()
