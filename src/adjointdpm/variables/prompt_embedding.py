"""The text encoder's output for one prompt, learned."""

import math
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from adjointdpm.errors import InvalidInputError, PromptError
from adjointdpm.pipelines.base import DiffusionModel
from adjointdpm.pipelines.examples import Encoded, Inputs
from adjointdpm.support.files import write_bytes
from adjointdpm.variables.base import Variable


class PromptEmbedding(Variable):
    """A learned encoding of one prompt, used wherever that prompt is asked for.

    Other prompts are encoded as usual. It starts as the prompt's own encoding.

    Args:
        model: whose text encoder is used.
        prompt: the prompt.
        max_change: bound on the change of each token's vector: its root mean square, relative to
            that of the whole encoding. None: free.

    Attributes:
        encoding: what `model.encode(prompt)` returned: one row a tensor, by argument name.
        embeds: the learned tensors in the place of its floating-point tensors, in float32 at least.

    Raises:
        PromptError: `prompt` is no string, or the pipeline has no text encoder.
        InvalidInputError: `max_change` is not positive and finite.

    """

    artefacts = ("prompt_embeds.safetensors",)

    def __init__(self, model: DiffusionModel, prompt: str, max_change: float | None = None) -> None:
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
        self.embeds: Encoded = {
            name: rows.to(
                torch.promote_types(torch.float32, rows.dtype), copy=True
            ).requires_grad_()
            for name, rows in self.encoding.items()
            if rows.is_floating_point()
        }
        self.first_values()

    def tensors(self) -> dict[str, Tensor]:
        """The learned tensors by the pipeline's argument names, for example `prompt_embeds`."""
        return dict(self.embeds)

    def apply(self, inputs: Inputs) -> Inputs:
        """Put encoded prompts in place of the prompts, with the learned encoding among them."""
        learned = {
            name: (self.embeds[name].to(rows) if name in self.embeds else rows)[0]
            for name, rows in self.encoding.items()
        }
        others = self._others(inputs)
        rows = [
            learned if prompt == self.prompt else other
            for prompt, other in zip(inputs.prompts, others, strict=True)
        ]
        encoded = {name: torch.stack([row[name] for row in rows]) for name in learned}
        return replace(inputs, encoded=encoded)

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

        Stock diffusers takes its tensors as arguments: `pipe(**load_file(path))`.
        """
        learned = {name: embeds.float() for name, embeds in self.embeds.items()}
        tensors = {
            name: tensor.detach().cpu().contiguous()
            for name, tensor in {**self.encoding, **learned}.items()
        }
        content = save(tensors, metadata={"format": "pt", "prompt": self.prompt})
        return write_bytes(folder / self.artefacts[0], content)


def _rows(encoded: Encoded) -> list[Encoded]:
    """Encoded prompts, taken apart."""
    return [dict(zip(encoded, row, strict=True)) for row in zip(*encoded.values(), strict=True)]
