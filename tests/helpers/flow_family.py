"""A family that is not Stable Diffusion: flow matching, samples of any rank, two encodings.

`FlowPipeline` is written as diffusers writes its flow-matching pipelines; `FlowFamily` makes it
differentiable.
"""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor, nn

from adjointdpm.pipelines.base import DiffusionModel
from adjointdpm.pipelines.checks import Layout, check_layout, check_prompts
from adjointdpm.pipelines.examples import Encoded

WIDTH = 6
POOLED = 4


class Transformer(nn.Module):
    """A velocity for every position of a sample `[C, *size]`, whatever the rank."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.inside = nn.Linear(channels, 16)
        self.text = nn.Linear(WIDTH, 16)
        self.pooled = nn.Linear(POOLED, 16)
        self.outside = nn.Linear(16, channels)

    def forward(self, x: Tensor, timestep: Tensor, prompt: Tensor, pooled: Tensor) -> Tensor:
        hidden = self.text(prompt).mean(1) + self.pooled(pooled) + timestep[:, None] / 1000
        ones = [1] * (x.ndim - 2)
        positions = self.inside(x.movedim(1, -1)) + hidden.reshape(len(x), *ones, -1)
        return self.outside(positions.tanh()).movedim(-1, 1)


class FlowPipeline:
    """Draws samples of the shape `shape`; nothing in it is under `no_grad`."""

    def __init__(self, shape: Sequence[int], scheduler: Any = None, seed: int = 0) -> None:
        self.shape, self._execution_device = tuple(shape), torch.device("cpu")
        self.scheduler = scheduler or FlowMatchEulerDiscreteScheduler(shift=3.0)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.transformer = Transformer(shape[0])
            self.vae = nn.Linear(shape[0], 3)
            self.text_encoder = nn.Embedding(128, WIDTH + POOLED)
        networks = {"transformer": self.transformer, "vae": self.vae}
        self.components: dict[str, Any] = networks | {"text_encoder": self.text_encoder}

    def encode_prompt(self, prompts: list[str]) -> tuple[Tensor, Tensor]:
        letters = torch.tensor([[ord(c) % 128 for c in text.ljust(8)[:8]] for text in prompts])
        table = self.text_encoder(letters)
        return table[..., :WIDTH], table[..., WIDTH:].mean(1)

    def decode(self, latents: Tensor) -> Tensor:
        return self.vae(latents.movedim(1, -1)).movedim(-1, 1).tanh() / 2 + 0.5

    def __call__(
        self,
        latents: Tensor,
        prompt_embeds: Tensor,
        pooled_prompt_embeds: Tensor,
        negative_prompt_embeds: Tensor,
        negative_pooled_prompt_embeds: Tensor,
        num_inference_steps: int,
        guidance_scale: float = 4.0,
        generator: Any = None,
    ) -> SimpleNamespace:
        self.scheduler.set_timesteps(num_inference_steps)
        prompt = torch.cat([negative_prompt_embeds, prompt_embeds])
        pooled = torch.cat([negative_pooled_prompt_embeds, pooled_prompt_embeds])
        for t in self.scheduler.timesteps:
            both = torch.cat([latents, latents])
            null, text = self.transformer(both, t.expand(len(both)), prompt, pooled).chunk(2)
            velocity = null + guidance_scale * (text - null)
            latents = self.scheduler.step(
                velocity, t, latents, generator=generator, return_dict=False
            )[0]
        return SimpleNamespace(images=self.decode(latents))


class Velocity(nn.Module):
    """The transformer as `network(x, t, cond)`."""

    def __init__(self, transformer: nn.Module) -> None:
        super().__init__()
        self.transformer = transformer

    def forward(self, x: Tensor, t: Tensor, cond: tuple[Tensor, Tensor]) -> Tensor:
        return self.transformer(x, t, *cond)


class FlowFamily(DiffusionModel):
    """`FlowPipeline`, differentiable: all that a family has to say."""

    def __init__(self, pipe: Any) -> None:
        self._network = Velocity(pipe.transformer)
        super().__init__(pipe)

    @property
    def network(self) -> nn.Module:
        return self._network

    @property
    def latent_shape(self) -> tuple[int, ...]:
        return self.pipe.shape

    @property
    def noise_layout(self) -> Layout:
        return ("B", self.pipe.shape[0], *"XYZ"[: len(self.pipe.shape) - 1])

    @property
    def encoded_layouts(self) -> dict[str, Layout]:
        return {"prompt_embeds": ("B", "L", WIDTH), "pooled_prompt_embeds": ("B", POOLED)}

    def encode(self, prompts: str | Sequence[str]) -> Encoded:
        texts = check_prompts(prompts)
        rows = self.pipe.encode_prompt([texts] if isinstance(texts, str) else texts)
        return dict(zip(self.encoded_layouts, rows, strict=True))

    def decode(self, latents: Tensor) -> Tensor:
        check_layout(latents, "latents", self.noise_layout)
        return self.pipe.decode(latents)

    def conditioning(
        self, encoded: Encoded, negative: str | list[str] | Encoded | None, guidance_scale: float
    ) -> tuple[Any, Any, float]:
        cond = tuple(encoded.values())
        if guidance_scale <= 1:
            return cond, None, 1.0
        null = negative if isinstance(negative, dict) else self.encode(negative or "")
        return cond, tuple(null.values()), guidance_scale


SHAPES = {"sound": (4, 9), "picture": (4, 6, 5), "video": (3, 2, 4, 5)}
