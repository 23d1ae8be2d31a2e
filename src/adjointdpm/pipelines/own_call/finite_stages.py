"""Where NaN or infinite values began, in a run whose sample has some."""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_flatten_with_path

from adjointdpm.engine.torch_internals import in_functorch_transform
from adjointdpm.errors import AdjointDPMWarning, NonFiniteError

HALF = (
    "; it computes in float16, where what exceeds 65504 is infinite: load the pipeline with "
    "torch_dtype=torch.bfloat16 or float32 (--dtype bfloat16, --dtype float32)"
)


class FiniteStages:
    """Notes, for each stage of a run, whether what it made is finite.

    A note is one number on the stage's device. Nothing waits for it unless the sample is not
    finite.

    Args:
        half: whether networks compute in float16, also where what they make is cast.

    """

    def __init__(self, half: bool = False) -> None:
        self._half = half
        self._notes: list[tuple[str, Tensor, bool]] = []
        self._calls: dict[str, int] = {}

    @property
    def started(self) -> bool:
        """Whether a network has run."""
        return bool(self._calls)

    def network(self, name: str, arguments: Any, outputs: Any) -> None:
        """Note a network's call, and what it is given."""
        number = self._calls[name] = self._calls.get(name, 0) + 1
        given = [
            (f"its argument {_path(path)}", value.detach())
            for path, value in tree_flatten_with_path(arguments)[0]
            if isinstance(value, Tensor) and value.is_floating_point()
        ]
        if number == 1:
            before = f"before the first call of the network {name!r}"
            for shown, value in given:  # masks may hold infinite values
                self._note(f"{before}: {shown} holds NaN", ~value.isnan().any(), value)
        else:
            before = f"between calls {number - 1} and {number} of the network {name!r}"
            for shown, value in given[:1]:  # the state; the others are the same at every call
                self._note(f"{before}: {shown}", value.isfinite().all(), value)
        self.note(f"in call {number} of the network {name!r}", outputs)

    def watched(self, name: str, network: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """`network`, each call of which is noted."""

        def call(*args: Any) -> Tensor:
            output = network(*args)
            self.network(name, (args, {}), output)
            return output

        return call

    def solver(self, sampler: Any) -> Callable[[int, Any, Tensor, Tensor], None]:
        """What notes the steps of a native sampler; its `callback`."""

        def look(step: int, t: Any, x: Tensor, denoised: Tensor) -> None:
            self.note(f"in step {step + 1} of {type(sampler).__name__}, in the network", denoised)
            self.note(f"in step {step + 1} of {type(sampler).__name__}", x)

        return look

    def step(self, number: int, scheduler: str, outputs: Any) -> None:
        """Note step `number` of the scheduler of this name."""
        self.note(f"in step {number} of {scheduler}", outputs)

    def note(self, stage: str, outputs: Any) -> None:
        """Note what a stage made."""
        for value in tree_flatten(outputs)[0]:
            if isinstance(value, Tensor) and value.is_floating_point():
                self._note(stage, value.detach().isfinite().all(), value)

    def _note(self, stage: str, fine: Tensor, value: Tensor) -> None:
        self._notes.append((stage, fine, self._half or value.dtype is torch.float16))

    def check(self, sample: Tensor, last: str) -> None:
        """Check that a sample is finite; warn of pictures without anything on them.

        Args:
            sample: what the run made.
            last: the stage that made it.

        Raises:
            NonFiniteError: it is not; the message names the stage where that began.

        Warns:
            AdjointDPMWarning: a picture is all black or all white.

        """
        values = sample.detach()
        if is_finite(values):
            _warn_of_flat(values)
            return
        rows = values.flatten(1).isfinite().all(1) if values.ndim > 1 else values.isfinite()
        half = self._half or values.dtype is torch.float16
        notes = [*self._notes, (f"in {last}", torch.tensor(False), half)]
        stage, _, half = next(note for note in notes if not bool(note[1]))
        raise NonFiniteError(
            f"{int((~rows).sum())} of {len(rows)} samples hold NaN or infinite values; they began "
            f"{stage}{HALF if half else ''}"
        )


def is_finite(values: Tensor) -> bool:
    """Whether all values are finite; True inside torch.func, which does not let one look."""
    return in_functorch_transform(values) or bool(values.isfinite().all())


def _warn_of_flat(samples: Tensor) -> None:
    """Warn of pictures and videos whose every value is cut off at 0, or at 1, on saving."""
    if samples.ndim not in (4, 5) or samples.shape[-3] != 3 or in_functorch_transform(samples):
        return
    lowest, highest = samples.flatten(1).aminmax(dim=1)
    for shade, flat in (("black", highest <= 0), ("white", lowest >= 1)):
        count = int(flat.sum())
        if count:
            warnings.warn(
                f"{count} of {len(samples)} samples are {shade} all over: no value is "
                f"{'above 0' if shade == 'black' else 'below 1'}, so nothing can be seen or "
                "learned from them. The weights of the decoder or denoiser may be damaged, the "
                "guidance scale too large, or a safety checker may have blacked them out",
                AdjointDPMWarning,
                stacklevel=2,
            )


def _path(path: Any) -> str:
    """The name of an argument, given as ((positional, …), {name: …})."""
    keys: list[Any] = [getattr(key, "key", getattr(key, "idx", None)) for key in path]
    kind, first, *rest = keys
    shown = repr(first) if kind == 1 else f"number {first + 1}"
    return shown + "".join(f"[{key!r}]" for key in rest)
