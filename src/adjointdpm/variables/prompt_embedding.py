"""The text encoder's output for one prompt, learned."""

import math
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors.torch import save
from torch import Tensor

from adjointdpm.errors import InvalidInputError, PromptError
from adjointdpm.pipelines.base import DiffusionModel
from adjointdpm.support.files import write_bytes
from adjointdpm.variables.base import Inputs, Variable


class PromptEmbedding(Variable):
    """A learned embedding that stands for one prompt, wherever it is asked for; other prompts are
    encoded as usual. Starts as its encoding.

    Args:
        model: whose text encoder is used.
        prompt: the prompt.
        max_change: bound on the change of each token's vector: its root mean square, relative to
            that of the whole encoding. None: free.

    Raises:
        PromptError: `prompt` is no string, or the pipeline has no text encoder.
        InvalidInputError: `max_change` is not positive and finite.

    """

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
            encoded = model.encode(prompt)
        self._dtype = encoded.dtype
        self.prompt_embeds: Float[Tensor, "1 length width"] = (
            encoded.detach()
            .to(torch.promote_types(torch.float32, encoded.dtype), copy=True)
            .requires_grad_()
        )
        self.first_values()

    def tensors(self) -> dict[str, Tensor]:
        """`prompt_embeds`, `[1, L, D]`, in float32 at least."""
        return {"prompt_embeds": self.prompt_embeds}

    def apply(self, inputs: Inputs) -> Inputs:
        """Embeddings in the prompts' place, the learned one wherever the prompt is the learned one."""
        learned = self.prompt_embeds.to(self._dtype)[0]
        if inputs.prompt_embeds is not None:
            others = list(inputs.prompt_embeds)
        else:
            unknown = sorted({prompt for prompt in inputs.prompts if prompt != self.prompt})
            with torch.no_grad():
                encoded = (
                    dict(zip(unknown, self.model.encode(unknown), strict=True)) if unknown else {}
                )
            others = [encoded.get(prompt, learned) for prompt in inputs.prompts]
        rows = [
            learned if prompt == self.prompt else other
            for prompt, other in zip(inputs.prompts, others, strict=True)
        ]
        return replace(inputs, prompt_embeds=torch.stack(rows))

    @torch.no_grad()
    def project(self) -> None:
        """Take back what is more than `max_change`, for each token."""
        if self.max_change is None:
            return
        start = self.first_values()["prompt_embeds"].to(self.prompt_embeds)
        change = self.prompt_embeds - start
        size = change.square().mean(-1, keepdim=True).sqrt()
        allowed = self.max_change * start.square().mean().sqrt()
        self.prompt_embeds.copy_(start + change * (allowed / size).clamp(max=1))

    def save(self, folder: Path) -> Path:
        """Write `prompt_embeds.safetensors`, whose one tensor stock diffusers takes as
        `pipe(prompt_embeds=...)`; float32.
        """
        content = save(
            {"prompt_embeds": self.prompt_embeds.detach().float().cpu().contiguous()},
            metadata={"format": "pt", "prompt": self.prompt},
        )
        return write_bytes(folder / "prompt_embeds.safetensors", content)
