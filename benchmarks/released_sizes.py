"""Networks in the sizes in which they are released, and what their pipelines call them with.

Arguments that are not written out are the classes' defaults, which are the released ones. The
others are those of the released `config.json` files; the number of weights, which the page shows,
agrees with what is published.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import diffusers
import torch
from torch import Tensor, nn

UNET = {
    "sample_size": 128,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "block_out_channels": (320, 640, 1280),
    "layers_per_block": 2,
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
SD35 = {"qk_norm": "rms_norm", "joint_attention_dim": 4096, "pooled_projection_dim": 2048}
SD35_LARGE = SD35 | {
    "num_layers": 38,
    "num_attention_heads": 38,
    "caption_projection_dim": 2432,
    "pos_embed_max_size": 192,
}
SD35_MEDIUM = SD35 | {
    "num_layers": 24,
    "num_attention_heads": 24,
    "caption_projection_dim": 1536,
    "pos_embed_max_size": 384,
    "dual_attention_layers": tuple(range(13)),
}
VAE = {  # Stable Diffusion's, SDXL's, SD3's and Flux's
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
}


@dataclass(frozen=True)
class Released:
    """A network in its released size.

    Attributes:
        title: for the table.
        network: its class.
        config: what differs from the class's defaults.
        state: of one sample, as the pipeline keeps it.
        rows: of one network call; two where guidance is one call.
        arguments: makes those of the call, from the state with its rows.
        calls: of the network in a step.
        steps: the pipeline's default.
        sample: what is drawn, for the table.
        decoder, decoder_config, latent: of its autoencoder, and what that decodes.
        copies: networks of this size that the pipeline holds.

    """

    title: str
    network: type[nn.Module]
    config: dict[str, Any]
    state: tuple[int, ...]
    rows: int
    arguments: Callable[[Tensor], dict[str, Any]]
    calls: int
    steps: int
    sample: str
    decoder: type[nn.Module]
    decoder_config: dict[str, Any]
    latent: tuple[int, ...]
    copies: int = 1

    def run(self, network: nn.Module) -> tuple[Tensor, Tensor]:
        """One call; the state that it is called with, and the output."""
        x = torch.empty(self.rows, *self.state[1:], requires_grad=True)
        return x, network(**self.arguments(x), return_dict=False)[0]

    def decode(self, autoencoder: Any) -> tuple[Tensor, Tensor]:
        """The decoder's call; its latent, and the sample."""
        latent = torch.empty(self.latent, requires_grad=True)
        return latent, autoencoder.decode(latent, return_dict=False)[0]


def _sdxl(x: Tensor) -> dict[str, Any]:
    rows = len(x)
    return {
        "sample": x,
        "timestep": torch.tensor(500.0),
        "encoder_hidden_states": torch.empty(rows, 77, 2048),
        "added_cond_kwargs": {
            "text_embeds": torch.empty(rows, 1280),
            "time_ids": torch.empty(rows, 6),
        },
    }


def _sd3(x: Tensor) -> dict[str, Any]:
    return {
        "hidden_states": x,
        "timestep": torch.empty(len(x)),
        "encoder_hidden_states": torch.empty(len(x), 77 + 256, 4096),
        "pooled_projections": torch.empty(len(x), 2048),
    }


def _flux(x: Tensor) -> dict[str, Any]:
    return {
        "hidden_states": x,
        "timestep": torch.empty(1),
        "guidance": torch.empty(1),
        "pooled_projections": torch.empty(1, 768),
        "encoder_hidden_states": torch.empty(1, 512, 4096),
        "txt_ids": torch.empty(512, 3),
        "img_ids": torch.empty(x.shape[1], 3),
    }


def _qwen(x: Tensor) -> dict[str, Any]:
    return {
        "hidden_states": x,
        "timestep": torch.empty(1),
        "encoder_hidden_states": torch.empty(1, 256, 3584),
        "img_shapes": [[(1, 64, 64)]],
    }


def _wan(x: Tensor) -> dict[str, Any]:
    return {
        "hidden_states": x,
        "timestep": torch.empty(1),
        "encoder_hidden_states": torch.empty(1, 512, 4096),
    }


def _image(title: str, config: dict[str, Any]) -> Released:
    return Released(
        title,
        diffusers.SD3Transformer2DModel,
        config,
        (1, 16, 128, 128),
        2,
        _sd3,
        calls=1,
        steps=28,
        sample="1024×1024",
        decoder=diffusers.AutoencoderKL,
        decoder_config=VAE | {"latent_channels": 16},
        latent=(1, 16, 128, 128),
    )


def _video(title: str, config: dict[str, Any], copies: int = 1) -> Released:
    return Released(
        title,
        diffusers.WanTransformer3DModel,
        config,
        (1, 16, 21, 60, 104),
        1,
        _wan,
        calls=2,
        steps=50,
        sample="81 frames of 832×480",
        decoder=diffusers.AutoencoderKLWan,
        decoder_config={},
        latent=(1, 16, 21, 60, 104),
        copies=copies,
    )


SIZES = {
    "sdxl": Released(
        "SDXL",
        diffusers.UNet2DConditionModel,
        UNET,
        (1, 4, 128, 128),
        2,
        _sdxl,
        calls=1,
        steps=50,
        sample="1024×1024",
        decoder=diffusers.AutoencoderKL,
        decoder_config=VAE,
        latent=(1, 4, 128, 128),
    ),
    "sd35-medium": _image("SD3.5 medium", SD35_MEDIUM),
    "sd35-large": _image("SD3.5 large", SD35_LARGE),
    "flux": Released(
        "Flux.1 dev",
        diffusers.FluxTransformer2DModel,
        {"guidance_embeds": True},
        (1, 4096, 64),
        1,
        _flux,
        calls=1,
        steps=28,
        sample="1024×1024",
        decoder=diffusers.AutoencoderKL,
        decoder_config=VAE | {"latent_channels": 16},
        latent=(1, 16, 128, 128),
    ),
    "qwen-image": Released(
        "Qwen-Image",
        diffusers.QwenImageTransformer2DModel,
        {},
        (1, 4096, 64),
        1,
        _qwen,
        calls=2,
        steps=50,
        sample="1024×1024",
        decoder=diffusers.AutoencoderKLQwenImage,
        decoder_config={},
        latent=(1, 16, 1, 128, 128),
    ),
    "wan-1.3b": _video(
        "Wan 2.1 1.3B", {"num_layers": 30, "num_attention_heads": 12, "ffn_dim": 8960}
    ),
    "wan-14b": _video("Wan 2.1 14B", {}),
    "wan-2.2": _video("Wan 2.2 A14B", {}, copies=2),
}
