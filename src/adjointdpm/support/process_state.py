"""What holds for the whole process, and must be found again after code of somebody else's ran."""

import os
import random
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from hashlib import sha256
from typing import Any, NamedTuple

import numpy as np
import torch

from adjointdpm.errors import AdjointDPMWarning


class _Setting(NamedTuple):
    """A setting of the whole process."""

    name: str
    get: Callable[[], Any]
    set: Callable[[Any], Any]


def _attribute(name: str, owner: object, attribute: str) -> _Setting:
    return _Setting(name, lambda: getattr(owner, attribute), lambda v: setattr(owner, attribute, v))


def _flushes_denormal() -> bool:
    # torch does not tell; the smallest numbers do.
    return float(torch.full((), 1e-40, dtype=torch.float32, device="cpu") * 0.5) == 0


def _set_device(device: torch.device) -> None:
    # None, since any device puts a mode in the way of every call of torch.
    torch.set_default_device(None if device.type == "cpu" else device)


def _here() -> str | None:
    with suppress(OSError):
        return os.getcwd()
    return None


def _signal(number: int) -> _Setting:
    return _Setting(
        f"the handler of {signal.Signals(number).name}",
        lambda: signal.getsignal(number),
        lambda handler: signal.signal(number, handler),
    )


# The default device is the first: it decides where the other settings' tensors are made.
_SETTINGS = (
    _Setting("the default device", torch.get_default_device, _set_device),
    _Setting("whether gradients are recorded", torch.is_grad_enabled, torch.set_grad_enabled),
    _Setting("the default dtype", torch.get_default_dtype, torch.set_default_dtype),
    _Setting("the number of threads", torch.get_num_threads, torch.set_num_threads),
    _Setting(
        "the choice of deterministic algorithms",
        torch.get_deterministic_debug_mode,
        torch.set_deterministic_debug_mode,
    ),
    _Setting(
        "the precision of float32 products",
        torch.get_float32_matmul_precision,
        torch.set_float32_matmul_precision,
    ),
    _Setting(
        "the detection of anomalies",
        torch.is_anomaly_enabled,
        lambda mode: torch.autograd.set_detect_anomaly(mode, torch.is_anomaly_check_nan_enabled()),
    ),
    _Setting("the rounding of tiny numbers to 0", _flushes_denormal, torch.set_flush_denormal),
    *(
        _Setting(
            f"autocast on {kind}",
            lambda kind=kind: torch.is_autocast_enabled(kind),
            lambda on, kind=kind: torch.set_autocast_enabled(kind, on),
        )
        for kind in ("cpu", "cuda")
    ),
    *(
        _attribute(f"torch.backends.cudnn.{name}", torch.backends.cudnn, name)
        for name in ("enabled", "benchmark", "deterministic")
    ),
    _Setting("the working directory", _here, lambda path: path is not None and os.chdir(path)),
    _attribute("sys.stdout", sys, "stdout"),
    _attribute("sys.stderr", sys, "stderr"),
)
# Only the main thread may change these.
_SIGNALS = (_signal(signal.SIGINT), _signal(signal.SIGTERM))


@contextmanager
def kept_settings(what: str) -> Iterator[None]:
    """Set back what the block changes of the whole process's settings.

    Args:
        what: whose code runs in the block, as the warning calls it.

    Warns:
        AdjointDPMWarning: something was changed; the message says what.

    """
    in_main = threading.current_thread() is threading.main_thread()
    settings = (*_SETTINGS, *_SIGNALS) if in_main else _SETTINGS
    before = [setting.get() for setting in settings]
    try:
        yield
    finally:
        changed = []
        for setting, value in zip(settings, before, strict=True):
            if setting.get() != value:
                setting.set(value)
                changed.append(setting.name)
    if changed:
        warnings.warn(
            f"{what} changed {', '.join(changed)}, which holds for the whole program; it was set "
            f"back. Change it within your code only, as in `with torch.no_grad():`",
            AdjointDPMWarning,
            stacklevel=3,
        )


# The state that other code's random numbers were left in.
_theirs: list[Any] = []
_fixed: ContextVar[str | None] = ContextVar("draw", default=None)


@contextmanager
def fixed_draw(draw: str | None) -> Iterator[None]:
    """Within the block, `own_random_numbers` are always the same, those that `draw` stands for.

    With None they are what they are without this.
    """
    if draw is None:
        yield
        return
    token = _fixed.set(draw)
    try:
        yield
    finally:
        _fixed.reset(token)


@contextmanager
def own_random_numbers() -> Iterator[None]:
    """Give the block a sequence of random numbers of its own: torch's, numpy's and Python's.

    What it draws or seeds does not shift the program's random numbers. It goes on where the last
    such block ended, except within `fixed_draw`.
    """
    before, draw = _random_states(), _fixed.get()
    if draw is not None or not _theirs:
        _seed(int.from_bytes(sha256((draw or "").encode()).digest()[:8], "little"))
    else:
        _restore(_theirs[0])
    try:
        yield
    finally:
        if draw is None:
            _theirs[:] = [_random_states()]
        _restore(before)


def _random_states() -> tuple[Any, ...]:
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return torch.get_rng_state(), cuda, np.random.get_state(), random.getstate()  # noqa: NPY002


def _restore(states: tuple[Any, ...]) -> None:
    torch_state, cuda, numpy_state, python_state = states
    torch.set_rng_state(torch_state)
    if cuda:
        torch.cuda.set_rng_state_all(cuda)
    np.random.set_state(numpy_state)  # noqa: NPY002
    random.setstate(python_state)


def _seed(seed: int) -> None:
    # Not torch.manual_seed, which also seeds devices that are not in use yet, once they are.
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    random.seed(seed)
