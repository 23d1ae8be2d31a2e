"""What the tests of the package, of the benchmarks and of the training scripts share.

The package is imported inside the fixtures only: the import hook has to be there first.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import helpers.shape_checks

if TYPE_CHECKING:
    from adjointdpm.pipelines.base import DiffusionModel
    from adjointdpm.runs.folder import RunFolder

helpers.shape_checks.install("adjointdpm")


def pytest_configure(config: pytest.Config) -> None:
    """Warnings of the package are errors. Said in pyproject.toml it is imported before the hook."""
    config.addinivalue_line("filterwarnings", "error::adjointdpm.errors.AdjointDPMWarning")
    # Tiny tokenizers read so little that most templates of chat models are cut.
    config.addinivalue_line("filterwarnings", "ignore::adjointdpm.errors.CutPromptWarning")
    # Nor do tiny models draw what the prompt says, or learn in two iterations.
    config.addinivalue_line("filterwarnings", "ignore::adjointdpm.errors.NoGainWarning")


@pytest.fixture(autouse=True)
def _shapes_are_checked_anew() -> None:
    helpers.shape_checks.calls.clear()


@pytest.fixture
def restored_state() -> Iterator[None]:
    """Commands change settings of the process; a test must not leave them to the next."""
    import torch

    before, threads = dict(os.environ), torch.get_num_threads()
    yield
    torch.set_flush_denormal(False)
    torch.set_num_threads(threads)
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="session")
def tiny() -> DiffusionModel:
    """The bundled model, loaded once. Only for tests that leave it as they found it."""
    from adjointdpm import load

    return load("tiny")


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """A finished run with made-up figures."""
    from helpers.finished_run import finished_run

    return finished_run(tmp_path / "run")
