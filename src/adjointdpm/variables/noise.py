"""The noise that a picture starts from, learned: one tensor for each example."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, cast, get_args

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from adjointdpm.errors import (
    CheckpointError,
    InvalidInputError,
    InvalidTypeError,
    ShapeError,
    UnknownNameError,
)
from adjointdpm.pipelines.examples import Example, Inputs
from adjointdpm.support import tensor_file
from adjointdpm.support.schema import Facts, check_facts
from adjointdpm.variables.base import Variable, check_tensors

Within = Literal["free", "shell", "spectrum", "linf", "l2"]
FORMAT = "adjointdpm-noise"
LAYOUT = 9.0  # see `Noise`: three times the amplitude


class _ExampleFacts(Facts):
    prompt: str
    seed: int


class _NoiseFacts(Facts):
    examples: list[_ExampleFacts]
    within: str
    budget: float | None


class Noise(Variable):
    """One learned noise for each example, in place of the one that its seed gives.

    The model itself is not changed. Natural noise of d numbers lies close to the sphere of radius
    sqrt(d), where nearly all of a normal distribution's mass is; pictures from far off it become
    flat or garish. `within` therefore says where each noise must stay:

    - "free": anywhere. The regulariser "likelihood" can hold it instead.
    - "shell": at the norm of its start.
    - "spectrum": at the energy of its start in every octave of spatial frequencies from two cycles
      per picture on; below, in what decides colours and layout, at no more than `LAYOUT` times the
      energy of natural noise, or that of its start if it is larger. On the shell most metrics pull
      the noise towards something smooth, and what it takes from its detail the picture lacks. Noise
      without height and width stays on the shell.
    - "linf": no number further than `budget` from its start, as in adversarial attacks.
    - "l2": the root mean square change, ‖z − z0‖ / sqrt(d), at most `budget`; noise has unit
      variance, so 0.1 is a tenth of its own size.

    Args:
        examples: whose noise is learned, each once.
        start: `[n, …]` with the channels second, unit variance, in their order; what
            `DiffusionModel.noise` makes. Learned in float32 at least.
        within: see above.
        budget: for "linf" and "l2".

    Raises:
        UnknownNameError: another `within`.
        InvalidInputError: no examples or one of them twice; `start` not finite; a budget that is
            missing, or has no use, or is not positive and finite.
        ShapeError, InvalidTypeError: `start` is not such a tensor.

    """

    artefacts = ("noise.safetensors",)

    def __init__(
        self,
        examples: Sequence[Example],
        start: Float[Tensor, "n *shape"],
        within: Within | str = "spectrum",
        budget: float | None = None,
    ) -> None:
        _check(examples, start, within, budget)
        self.examples = [Example(*example) for example in examples]
        self.within = cast(Within, within)
        self.budget = budget
        self._row = {example: row for row, example in enumerate(self.examples)}
        self.start = start.detach().to(torch.promote_types(torch.float32, start.dtype), copy=True)
        self.noise = self.start.clone().requires_grad_()

    def tensors(self) -> dict[str, Tensor]:
        """`noise`, in the shape of `start`."""
        return {"noise": self.noise}

    def first_values(self) -> dict[str, Tensor]:
        """`start`, not a copy."""
        return {"noise": self.start}

    def check(self, examples: Sequence[Example]) -> None:
        """Check that each has a noise.

        Raises:
            InvalidInputError: an example that has none.

        """
        unknown = [example for example in examples if example not in self._row]
        if unknown:
            raise InvalidInputError(
                f"no noise was learned for prompt {unknown[0].prompt!r} with seed "
                f"{unknown[0].seed}; there is one for each of the {len(self.examples)} examples "
                f"that it was made for, and for no other"
            )

    def apply(self, inputs: Inputs) -> Inputs:
        """Put the learned noise in.

        Raises:
            InvalidInputError: an example that has none.

        """
        self.check(inputs.examples)
        return replace(
            inputs,
            noise=self.noise[[self._row[example] for example in inputs.examples]].to(inputs.noise),
        )

    @torch.no_grad()
    def project(self) -> None:
        """Move each noise to the nearest point of the set that `within` names."""
        noise, start = self.noise, self.start.to(self.noise)
        if self.within == "spectrum" and noise.ndim > 3:
            noise.copy_(_in_spectrum(noise, start))
        elif self.within in ("shell", "spectrum"):
            norm = _norms(noise)
            noise.copy_(torch.where(norm > 0, noise * (_norms(start) / norm), start))
        elif self.within == "linf":
            assert self.budget is not None
            noise.copy_(start + (noise - start).clamp(-self.budget, self.budget))
        elif self.within == "l2":
            assert self.budget is not None
            change = noise - start
            allowed = self.budget * math.sqrt(start[0].numel())
            noise.copy_(start + change * (allowed / _norms(change)).clamp(max=1))

    def units(self) -> dict[str, Tensor]:
        """The standard deviation of noise, 1, for each example on its own."""
        count, *rest = self.noise.shape
        return {"noise": torch.ones(count, *[1] * len(rest), device=self.noise.device)}

    def regularisers(self) -> dict[str, Float[Tensor, ""]]:
        """As `Variable.regularisers`, with one that says how natural the noise is.

        Returns:
            "distance"; "likelihood": the mean over the examples of

                ((‖z‖²/d − 1)² · d/2 + Σ_c mean_c² · d/C) / (1 + C),

            how far the norm and the C channels' means are from those of a standard normal, in units
            of their own spread: every term, and so the whole, is 1 on average for natural noise,
            and grows with the square of the deviation; "norm": the mean over the examples of ½‖z‖²
            − (d − 1) ln ‖z‖, the negative logarithm of the density of natural noise's norm up to a
            constant (ReNO, Eyring et al. 2024, arXiv 2406.04312).

        """
        count, channels, d = *self.noise.shape[:2], self.noise[0].numel()
        norm = (self.noise.flatten(1).square().mean(1) - 1).square() * d / 2
        means = self.noise.reshape(count, channels, -1).mean(2).square().sum(1) * (d / channels)
        square = self.noise.flatten(1).square().sum(1)
        return super().regularisers() | {
            "likelihood": (norm + means).sum() / (count * (1 + channels)),
            "norm": (square / 2 - (d - 1) / 2 * square.log()).mean(),
        }

    @torch.no_grad()
    def naturalness(self) -> list[dict[str, float]]:
        """Measure how natural each noise still looks, in the order of the examples.

        Returns:
            For each: `norm_ratio`, ‖z‖/sqrt(d), 1 ± 1/sqrt(2d) for natural noise; `rms_change` and
            `max_change` from its start, in units of its standard deviation; `kurtosis`, mean z⁴ /
            (mean z²)², 3 ± sqrt(24/d); `autocorrelation_horizontal` and
            `autocorrelation_vertical`, along the last dimension and the one before it, 0 ±
            1/sqrt(d): structure that is drawn into the noise shows there. The channels are no such
            dimension, so noise `[C, T]` has only the first.

        """
        return [
            _naturalness(noise, start) for noise, start in zip(self.noise, self.start, strict=True)
        ]

    def save(self, folder: Path) -> Path:
        """Write `noise.safetensors`: the tensors `noise` and `start`, in float32.

        The examples, `within` and `budget` are its facts.
        """
        tensors = {"noise": self.noise.float(), "start": self.start.float()}
        facts = {
            "format": FORMAT,
            "examples": [example._asdict() for example in self.examples],
            "within": self.within,
            "budget": self.budget,
        }
        return tensor_file.write(folder / self.artefacts[0], tensors, facts)

    def usage(self) -> list[str]:
        """Lines after which `noise` holds the `latents` of a stock pipeline."""
        return [
            "from safetensors.torch import load_file",
            f'noise = load_file("{self.artefacts[0]}")["noise"]',
        ]

    def check_saved(self, folder: Path) -> None:
        """As `Variable.check_saved`."""
        saved = {"noise": self.noise.float(), "start": self.start.float()}
        check_tensors(folder / self.artefacts[0], saved)

    @staticmethod
    def read(
        path: Path | str,
    ) -> tuple[list[Example], Float[Tensor, "n *shape"], Tensor, dict[str, Any]]:
        """Read what `save` wrote.

        `model.generate(examples[i].prompt, noise[i : i + 1])` draws a picture again.

        Returns:
            The examples; their learned noise and its start, `[n, …]` in float32 on the CPU; and
            {"within", "budget"}.

        Raises:
            CheckpointError: the file is missing or damaged, or is something else.

        """
        try:
            tensors, read = tensor_file.read(path, FORMAT)
            found = check_facts(_NoiseFacts, read)
            examples = [Example(row.prompt, row.seed) for row in found.examples]
            facts = {"within": found.within, "budget": found.budget}
            noise, start = tensors["noise"], tensors["start"]
            for tensor in (noise, start):
                _check(examples, tensor, facts["within"], facts["budget"])
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{path} cannot be read as learned noise: {error}") from error
        return examples, noise, start, facts


def _check(examples: Sequence[Example], start: Tensor, within: str, budget: float | None) -> None:
    if within not in get_args(Within):
        raise UnknownNameError(
            f"within={within!r} is unknown; choose one of {', '.join(get_args(Within))}"
        )
    if within in ("linf", "l2"):
        if budget is None:
            raise InvalidInputError(
                f'within="{within}" needs a budget: how far each noise may go, where 1 is its own '
                f"standard deviation"
            )
        if (
            isinstance(budget, bool)
            or not isinstance(budget, int | float)
            or not 0 < budget < math.inf
        ):
            raise InvalidInputError(
                f"budget={budget!r} must be a positive, finite number; with 0 nothing could be "
                f"learned"
            )
    elif budget is not None:
        raise InvalidInputError(
            f'budget={budget!r} has no use within="{within}"; choose "linf" or "l2", or leave it '
            f"out"
        )
    dense = isinstance(start, Tensor) and start.layout == torch.strided
    if not dense or not start.is_floating_point():
        raise InvalidTypeError(
            "start must be a dense floating point tensor [n, …], as model.noise makes it"
        )
    if not examples:
        raise InvalidInputError("noise is learned for examples, and there are none")
    example, times = Counter(examples).most_common(1)[0]
    if times > 1:
        raise InvalidInputError(f"example {tuple(example)} is there twice; each has one noise")
    if start.ndim < 2 or len(start) != len(examples) or start.numel() == 0:
        raise ShapeError(
            f"start has shape {tuple(start.shape)}; {len(examples)} examples need "
            f"[{len(examples)}, …], as model.noise makes it"
        )
    if not bool(torch.isfinite(start).all()):
        raise InvalidInputError("start holds NaN or infinite values")


def _norms(x: Float[Tensor, "n *shape"]) -> Float[Tensor, "n *ones"]:
    return x.flatten(1).norm(dim=1).reshape(-1, *[1] * (x.ndim - 1))


def _in_spectrum(
    noise: Float[Tensor, "n *shape height width"], start: Float[Tensor, "n *shape height width"]
) -> Float[Tensor, "n *shape height width"]:
    """The nearest noise with the energy of `start` in every octave but the lowest; see `Noise`."""
    octave = _octaves(noise.shape[-2], noise.shape[-1]).to(noise.device)
    spectrum = torch.fft.fft2(noise, norm="ortho")
    found, wanted = (_energies(x, octave) for x in (spectrum, torch.fft.fft2(start, norm="ortho")))
    natural = noise[0, ..., 0, 0].numel() * (octave == 0).sum()
    # A start that a picture was inverted to may be further from natural than that.
    most = wanted[:, 0].clamp(min=LAYOUT * natural)
    wanted[:, 0] = torch.minimum(found[:, 0], most)
    factor = torch.where(found > 0, (wanted / found).sqrt(), 1)[:, octave]
    factor = factor.reshape(len(noise), *[1] * (noise.ndim - 3), *octave.shape)
    return torch.fft.ifft2(spectrum * factor, norm="ortho").real


def _energies(
    spectrum: Shaped[Tensor, "n *shape height width"], octave: Int[Tensor, "height width"]
) -> Float[Tensor, "n octaves"]:
    power = spectrum.abs().square().flatten(1, -3).sum(1)
    sums = torch.zeros(len(power), int(octave.max()) + 1, device=power.device, dtype=power.dtype)
    return sums.index_add_(1, octave.flatten(), power.flatten(1))


def _octaves(height: int, width: int) -> Int[Tensor, "height width"]:
    """Of each frequency: 0 up to one cycle per picture, 1 for two, 2 for three and four."""
    rows, columns = (torch.fft.fftfreq(size).mul(size).abs() for size in (height, width))
    cycles = torch.maximum(rows[:, None], columns[None, :])
    return cycles.clamp(min=1).log2().sub(1e-4).ceil().long()


def _naturalness(
    noise: Float[Tensor, "channel *size"], start: Float[Tensor, "channel *size"]
) -> dict[str, float]:
    # On the CPU, as some devices have no float64.
    z, change = noise.cpu().double(), (noise - start.to(noise)).cpu().double()
    power = z.square().mean().clamp(min=1e-12)
    values = {
        "norm_ratio": power.sqrt().item(),
        "rms_change": change.square().mean().sqrt().item(),
        "max_change": change.abs().max().item(),
        "kurtosis": (z.pow(4).mean() / power.square()).item(),
    }
    for axis, name in ((z.ndim - 1, "horizontal"), (z.ndim - 2, "vertical")):
        if axis > 0:  # the first dimension holds the channels
            lines = z.movedim(axis, 0)
            products = lines[1:] * lines[:-1]
            mean = products.sum() / max(products.numel(), 1)
            values[f"autocorrelation_{name}"] = (mean / power).item()
    return values
