"""Where a result came from: its command line, package versions, and the memory that it took."""

import importlib.metadata
import platform
import resource
import shlex
import sys

_PACKAGES = ("adjointdpm", "torch", "diffusers", "transformers")


def command_line() -> str:
    """The command line that repeats this run, without flags about an earlier run in its folder."""
    arguments = [word for word in sys.argv[1:] if word not in ("--resume", "--force")]
    return shlex.join(["adjointdpm", *arguments])


def package_versions() -> dict[str, str]:
    """The versions of Python and of the packages that a result depends on."""
    versions = {name: importlib.metadata.version(name) for name in _PACKAGES}
    return {"python": platform.python_version()} | versions


def peak_memory_bytes() -> int:
    """The most memory that this process has held so far.

    With a GPU, what torch allocated there; else resident memory, libraries included.
    """
    import torch  # here, so that the command line starts without it

    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated()
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
