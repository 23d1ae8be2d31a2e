"""One exception class for each kind of mistake.

Every message says what was wrong, with which value, and what to do.
"""


class AdjointDPMError(Exception):
    """Base class of every error that this library raises on purpose."""


class InvalidInputError(AdjointDPMError, ValueError):
    """An argument has a value that cannot be used: not finite, out of range, empty, unknown."""


class InvalidTypeError(AdjointDPMError, TypeError):
    """An argument has the wrong type or dtype."""


class ShapeError(InvalidInputError):
    """A tensor has a shape that does not fit the others."""


class DeviceError(InvalidInputError):
    """Tensors that must be together lie on different devices."""


class ScheduleError(InvalidInputError):
    """A noise schedule is impossible, or cannot be used with this prediction or ODE form."""


class GridError(InvalidInputError):
    """A time grid does not decrease, or leaves its schedule."""


class NetworkOutputError(InvalidInputError):
    """The network did not return a tensor of its input's shape."""


class UnsupportedError(InvalidInputError):
    """Two choices do not go together, such as a gradient method and a sampler."""


class ReversalError(AdjointDPMError, RuntimeError):
    """A sampler that was run backwards did not arrive where it had started."""


class CapturedTensorError(UnsupportedError):
    """The denoiser uses a tensor that requires grad and that this gradient method cannot reach."""


class ChangedTensorError(AdjointDPMError, RuntimeError):
    """A tensor was changed in place while a solve or its backward pass still needed it."""


class NonFiniteError(AdjointDPMError, RuntimeError):
    """A sample holds NaN or infinite values; the message names the stage where they began."""


class UnknownNameError(InvalidInputError):
    """A name that is not registered; the message lists those that are."""


class ModelError(InvalidInputError):
    """A model folder or pipeline that cannot be used."""


class PromptError(InvalidInputError):
    """A prompt, a token or a list of prompts that cannot be used."""


class MetricError(InvalidInputError):
    """A metric returned NaN or the wrong shape, or blocks gradients."""


class OutputError(AdjointDPMError, ValueError):
    """A run folder or file that cannot be written or would be overwritten."""


class CheckpointError(AdjointDPMError, ValueError):
    """A saved state that is missing, corrupted, or belongs to another run."""


class AdjointDPMWarning(UserWarning):
    """Something works, but probably not as intended, such as a pipeline that clips samples."""


class NoGainWarning(AdjointDPMWarning):
    """A run gains nothing, or will not; the message says why and what to change."""


class CutPromptWarning(AdjointDPMWarning):
    """A model does not see all of a prompt: it is too long, or has words without a token."""
