"""Nothing of other libraries reaches the user's terminal."""

import logging
import subprocess
import sys

import diffusers
import pytest
import transformers

from adjointdpm.support.quiet_loading import quiet_loading


@pytest.mark.parametrize(
    "code",
    [
        "import adjointdpm as adj; adj.load('tiny')",
        "import sys; sys.argv = ['adjointdpm', 'generate', 'a fox', '--steps', '1', '--batch', '1',"
        " '--device', 'cpu']; from adjointdpm.cli import main; main()",
    ],
)
def test_stderr_is_empty(tmp_path, code: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {sys.path!r}; {code}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


@pytest.mark.parametrize("library", [diffusers, transformers])
@pytest.mark.parametrize("progress", [True, False])
def test_the_users_settings_are_restored_and_other_messages_come_through(
    library, progress: bool
) -> None:
    settings, notice = library.utils.logging, "`X` requires torchvision (not installed)"
    settings.enable_progress_bar()
    heard: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: heard.append(record.getMessage())
    logger = logging.getLogger("transformers.utils.import_utils")
    logger.addHandler(handler)
    logger.setLevel(logging.WARNING)  # an earlier command may have silenced all of transformers
    try:
        with quiet_loading(progress=progress):
            assert settings.is_progress_bar_enabled() == progress
            logger.warning(notice)
            logger.warning("this matters")
        logger.warning(notice)
    finally:
        logger.removeHandler(handler)
        logger.setLevel(logging.NOTSET)
    assert heard == ["this matters", notice]
    assert settings.is_progress_bar_enabled()
    settings.disable_progress_bar()
    with quiet_loading(progress=False):
        pass
    assert not settings.is_progress_bar_enabled()
    settings.enable_progress_bar()
