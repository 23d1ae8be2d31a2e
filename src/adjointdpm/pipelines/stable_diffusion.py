"""Stable Diffusion 1.x and 2.x: a UNet that sees text, in the latent space of a VAE."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from adjointdpm.engine.tree import Tree
from adjointdpm.errors import InvalidTypeError, ModelError, PromptError, UnsupportedError
from adjointdpm.pipelines.arguments.cut_prompts import with_watched_tokenizers
from adjointdpm.pipelines.base import DiffusionModel
from adjointdpm.pipelines.checks import Layout, check_layout, check_prompts
from adjointdpm.pipelines.examples import Encoded
from adjointdpm.pipelines.own_call.moving_weights import (
    check_frozen,
    keeping_weights,
    moves_weights,
)
from adjointdpm.pipelines.schedulers import ScaledSchedulerLoop


class UNet(nn.Module):
    """A diffusers UNet as `network(x, t, cond)`, `cond` its other tensor arguments by name."""

    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self.unet = unet
        self.weights_move = False

    @property
    def dtype(self) -> torch.dtype:
        """What the UNet computes in."""
        return self.unet.dtype  # pyright: ignore[reportReturnType]

    def forward(
        self,
        x: Float[Tensor, "batch channel height width"],
        t: Float[Tensor, " batch"],
        cond: dict[str, Any],
    ) -> Tensor:
        """The UNet's output, in its own prediction.

        Raises:
            InvalidTypeError: `cond` is no dict.

        """
        if not isinstance(cond, dict):
            raise InvalidTypeError(
                "this network takes its tensors by name, as model.conditioning(...) gives them, "
                f"but cond is {type(cond).__name__}; an "
                'embedding alone is {"encoder_hidden_states": embedding}'
            )
        if self.weights_move and torch.is_grad_enabled():
            check_frozen("unet", self.unet)
        with keeping_weights(self.weights_move):
            return self.unet(x, t, **cond, return_dict=False)[0]


class StableDiffusion(DiffusionModel):
    """`diffusers.StableDiffusionPipeline`."""

    scheduler_loop = ScaledSchedulerLoop

    def __init__(self, pipe: Any) -> None:
        missing = [
            name for name in ("unet", "vae", "scheduler") if getattr(pipe, name, None) is None
        ]
        if missing:
            raise ModelError(
                f"the pipeline has no {' and no '.join(missing)}; load it with all its components"
            )
        channels, latent_channels = pipe.unet.config.in_channels, pipe.vae.config.latent_channels
        if channels != latent_channels:
            raise ModelError(
                f"the UNet takes {channels} channels and the VAE has {latent_channels}: an "
                f"inpainting or otherwise conditioned UNet, which needs more than a prompt"
            )
        scale = getattr(pipe.vae.config, "scaling_factor", None)
        if not (isinstance(scale, int | float) and math.isfinite(scale) and scale):
            raise ModelError(
                f"the VAE's config.json has scaling_factor={scale!r}, which must be a finite "
                "number other than 0; correct it, or save or download the model again"
            )
        length = getattr(getattr(pipe, "tokenizer", None), "model_max_length", 1)
        if not (isinstance(length, int) and 0 < length < 2**31):
            raise ModelError(
                f"the tokenizer's longest prompt (model_max_length) is {length!r} tokens; its "
                f"tokenizer_config.json may be missing or damaged"
            )
        self._network = UNet(pipe.unet)
        super().__init__(pipe)

    @property
    def network(self) -> UNet:
        """The pipeline's UNet."""
        if self._network.unet is not self.pipe.unet:
            self._network = UNet(self.pipe.unet)
        return self._network

    def _check_pipeline(self) -> None:
        super()._check_pipeline()
        self.network.weights_move = moves_weights([self.pipe.unet])

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(C, H, W): the UNet's channels and its `sample_size`."""
        size = self.pipe.unet.config.sample_size
        sides = (size, size) if isinstance(size, int) else size
        match sides:
            case [int(height), int(width)] if height > 0 and width > 0:
                return self.pipe.unet.config.in_channels, height, width
        raise ModelError(
            f"the UNet's config.json has sample_size={size!r}, which must be one or two ints of at "
            "least 1; correct it, or pass height and width"
        )

    @property
    def sample_shape(self) -> tuple[int, int, int]:
        """(3, H, W): the VAE's factor times the latents' size."""
        _, height, width = self.latent_shape
        return 3, height * self.pipe.vae_scale_factor, width * self.pipe.vae_scale_factor

    @property
    def noise_layout(self) -> Layout:
        """[B, C, H, W] with the UNet's channels."""
        return "B", self.pipe.unet.config.in_channels, "H", "W"

    @property
    def encoded_layouts(self) -> dict[str, Layout]:
        """`prompt_embeds`, `[B, L, D]` with the width of the UNet's cross-attention."""
        return {"prompt_embeds": ("B", "L", self.pipe.unet.config.cross_attention_dim)}

    def encode(
        self, prompts: str | Sequence[str]
    ) -> dict[str, Float[Tensor, "batch length width"]]:
        """As `DiffusionModel.encode`: `prompt_embeds`, with the tokenizer's length as L."""
        texts = check_prompts(prompts)
        self._check_text_encoder()
        pipe = with_watched_tokenizers(self.pipe)
        with keeping_weights(moves_weights([self.pipe.text_encoder])):
            return {"prompt_embeds": pipe.encode_prompt(texts, self.device, 1, False)[0]}

    def decode(
        self, latents: Float[Tensor, "batch channel height width"]
    ) -> Float[Tensor, "batch 3 pixels_y pixels_x"]:
        """As `DiffusionModel.decode`, from scaled latents: those of `output_type="latent"`."""
        vae = self.pipe.vae
        check_layout(latents, "latents", ("B", vae.config.latent_channels, "H", "W"))
        dtype = latents.dtype if torch.is_autocast_enabled(latents.device.type) else vae.dtype
        scaled = (latents / vae.config.scaling_factor).to(dtype)
        with keeping_weights(moves_weights([vae])):
            pictures = vae.decode(scaled, return_dict=False)[0]
        return pictures.to(latents.dtype) / 2 + 0.5

    def conditioning(
        self,
        encoded: Encoded,
        negative: str | list[str] | Encoded | None,
        guidance_scale: float,
    ) -> tuple[Tree, Tree, float]:
        """The UNet's keyword arguments, as the pipeline passes them."""
        unet, embeds = self.pipe.unet, encoded["prompt_embeds"]
        if unet.config.encoder_hid_dim_type == "ip_image_proj":
            raise UnsupportedError(
                "the pipeline has an IP-Adapter, whose image prompts are not supported; call "
                "pipe.unload_ip_adapter() first"
            )
        cond: dict[str, Tensor] = {"encoder_hidden_states": embeds}
        if unet.config.time_cond_proj_dim is not None:
            # Distilled for guidance: the scale is an input of the network (Meng et al. 2022, arXiv
            # 2210.03142).
            scales = torch.full((len(embeds),), guidance_scale - 1)
            cond["timestep_cond"] = self.pipe.get_guidance_scale_embedding(
                scales, unet.config.time_cond_proj_dim
            ).to(embeds)
            return cond, None, 1.0
        if guidance_scale <= 1:
            return cond, None, 1.0
        return (
            cond,
            {"encoder_hidden_states": self._negative_embeds(negative, embeds)},
            guidance_scale,
        )

    def _negative_embeds(
        self, negative: str | list[str] | Encoded | None, embeds: Tensor
    ) -> Tensor:
        if isinstance(negative, dict):
            return negative["prompt_embeds"]
        self._check_text_encoder()
        longest = getattr(self.pipe.text_encoder.config, "max_position_embeddings", None)
        if longest is not None and embeds.shape[1] > longest:
            raise PromptError(
                f"prompt_embeds has {embeds.shape[1]} tokens and the text encoder takes {longest}, "
                "so it cannot make a negative prompt of that length; pass negative_prompt_embeds "
                "in the shape of prompt_embeds, or guidance_scale=1"
            )
        texts = negative if isinstance(negative, list) else [negative or ""]
        # The pipeline pads them to the length of the embeddings that they stand beside.
        pipe = with_watched_tokenizers(self.pipe)
        return pipe.encode_prompt(
            None, self.device, 1, True, negative_prompt=texts, prompt_embeds=embeds[: len(texts)]
        )[1]

    def _check_text_encoder(self) -> None:
        if self.pipe.text_encoder is None or self.pipe.tokenizer is None:
            raise PromptError(
                "the pipeline has no text encoder or tokenizer; pass prompt_embeds and "
                "negative_prompt_embeds"
            )
