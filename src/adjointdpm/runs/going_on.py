"""Say that a run which failed can go on, once what failed is mended."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from adjointdpm.errors import AdjointDPMError


@contextmanager
def told_how_to_go_on(checkpoints: Path) -> Iterator[None]:
    """Add to an error of the block that the work until then is saved, if it is.

    Args:
        checkpoints: the folder of what a run saves.

    """
    try:
        yield
    except AdjointDPMError as error:
        if checkpoints.is_dir() and any(checkpoints.iterdir()):
            say_how_to_go_on(error, checkpoints)
        raise


def say_how_to_go_on(failure: BaseException, checkpoints: Path) -> None:
    """Add to an exception where the work until then is saved."""
    failure.add_note(
        f"What was done until then is saved in {checkpoints}: mend what failed, and go on with "
        f"--resume."
    )
