"""The text encoder's output for one prompt, learned."""

import math
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from adjointdpm.errors import InvalidInputError, PromptError, UnsupportedError
from adjointdpm.pipelines.any_pipeline import AnyPipeline
from adjointdpm.pipelines.base import DiffusionModel
from adjointdpm.pipelines.examples import Encoded, Inputs
from adjointdpm.support.files import write_bytes
from adjointdpm.support.safetensors_bytes import save
from adjointdpm.variables.base import Variable, as_unit, check_tensors


class PromptEmbedding(Variable):
    """A learned encoding of one prompt, used wherever that prompt is asked for.

    Other prompts are encoded as usual. It starts as the prompt's own encoding. Masks and encoded
    negative prompts are handed on as they are.

    Args:
        model: whose text encoder is used.
        prompt: the prompt.
        max_change: bound on the change of each token's vector: its root mean square, relative to
            that of the whole encoding. None: free.

    Attributes:
        encoding: what `model.encode(prompt)` returned: one row a tensor, by argument name.
        embeds: the learned tensors in the place of its floating-point tensors, in float32 at least;
            `[1, …]`, also where the pipeline takes a list with one tensor a prompt.

    Raises:
        PromptError: `prompt` is no string, or the pipeline has no text encoder.
        UnsupportedError: the pipeline takes no encoded prompts.
        InvalidInputError: `max_change` is not positive and finite.

    """

    artefacts = ("prompt_embeds.safetensors",)

    def __init__(
        self, model: DiffusionModel | AnyPipeline, prompt: str, max_change: float | None = None
    ) -> None:
        if not isinstance(prompt, str):
            raise PromptError(f"prompt={prompt!r} must be one string; its embedding is learned")
        if max_change is not None and (
            isinstance(max_change, bool) or not 0 < max_change < math.inf
        ):
            raise InvalidInputError(
                f"max_change={max_change!r} must be a positive, finite number, or None for no bound"
            )
        self.model, self.prompt, self.max_change = model, prompt, max_change
        with torch.no_grad():
            self.encoding: Encoded = model.encode(prompt)
        self._lists = [name for name, rows in self.encoding.items() if isinstance(rows, list)]
        self.embeds: dict[str, Tensor] = {
            name: torch.stack([*rows])
            .to(torch.promote_types(torch.float32, rows[0].dtype), copy=True)
            .requires_grad_()
            for name, rows in self.encoding.items()
            if not name.startswith("negative_") and len(rows) and rows[0].is_floating_point()
        }
        self.first_values()

    def tensors(self) -> dict[str, Tensor]:
        """The learned tensors by the pipeline's argument names, for example `prompt_embeds`."""
        return dict(self.embeds)

    def units(self) -> dict[str, Tensor]:
        """The root mean square of a typical token's encoding: the median over the tokens."""
        return {
            name: as_unit(start.square().mean(-1).sqrt().median().item(), start)
            for name, start in self.first_values().items()
        }

    def apply(self, inputs: Inputs) -> Inputs:
        """Put encoded prompts in place of the prompts, with the learned encoding among them."""
        learned = {
            name: self.embeds[name][0].to(rows[0]) if name in self.embeds else rows[0]
            for name, rows in self.encoding.items()
            if len(rows)
        }
        others = self._others(inputs)
        rows = [
            learned if prompt == self.prompt else other
            for prompt, other in zip(inputs.prompts, others, strict=True)
        ]
        encoded = {name: self._joined(name, [row[name] for row in rows]) for name in learned}
        return replace(inputs, encoded=encoded)

    def _joined(self, name: str, rows: list[Tensor]) -> Tensor | list[Tensor]:
        if name in self._lists:
            return rows
        if len({row.shape for row in rows}) > 1:
            raise UnsupportedError(
                f"prompts of different lengths have {name} of different shapes here, and cannot "
                f"stand in one batch with the learned one; draw {self.prompt!r} alone"
            )
        return torch.stack(rows)

    def _others(self, inputs: Inputs) -> list[Encoded]:
        """The encoded prompt of each example, which may be empty for the learned prompt."""
        if inputs.encoded is not None:
            return _rows(inputs.encoded)
        unknown = sorted(set(inputs.prompts) - {self.prompt})
        with torch.no_grad():
            rows = _rows(self.model.encode(unknown)) if unknown else []
        known = dict(zip(unknown, rows, strict=True))
        return [known.get(prompt, {}) for prompt in inputs.prompts]

    @torch.no_grad()
    def project(self) -> None:
        """Shorten every change of a token's vector that is larger than `max_change` allows."""
        if self.max_change is None:
            return
        for name, embeds in self.embeds.items():
            start = self.first_values()[name].to(embeds)
            change = embeds - start
            size = change.square().mean(-1, keepdim=True).sqrt()
            allowed = self.max_change * start.square().mean().sqrt()
            embeds.copy_(start + change * (allowed / size).clamp(max=1))

    def save(self, folder: Path) -> Path:
        """Write `prompt_embeds.safetensors`, in float32.

        Stock diffusers takes its tensors as arguments: `pipe(**load_file(path))`; see `usage`.
        """
        content = save(self._saved(), metadata={"format": "pt", "prompt": self.prompt})
        return write_bytes(folder / self.artefacts[0], content)

    def usage(self) -> list[str]:
        """Lines after which `embeds` holds arguments of a stock pipeline."""
        lists = [name for name in self._lists if name in self._saved()]
        half = [n for n in self.embeds if self.encoding[n][0].dtype in (torch.half, torch.bfloat16)]
        return [
            *(["import torch"] if half else []),
            "from safetensors.torch import load_file",
            f'embeds = load_file("{self.artefacts[0]}", device=str(pipe.device))',
            *(f'embeds["{n}"] = embeds["{n}"].to({self.encoding[n][0].dtype})' for n in half),
            *(f'embeds["{name}"] = [*embeds["{name}"]]' for name in lists),
        ]

    def check_saved(self, folder: Path) -> None:
        """As `Variable.check_saved`."""
        check_tensors(folder / self.artefacts[0], self._saved())

    def _saved(self) -> dict[str, Tensor]:
        return {
            name: (self.embeds[name].float() if name in self.embeds else torch.stack([*rows]))
            .detach()
            .cpu()
            .contiguous()
            for name, rows in self.encoding.items()
            if len(rows)
        }


def _rows(encoded: Encoded) -> list[Encoded]:
    """Encoded prompts, taken apart."""
    filled = {name: rows for name, rows in encoded.items() if len(rows)}
    return [dict(zip(filled, row, strict=True)) for row in zip(*filled.values(), strict=True)]
