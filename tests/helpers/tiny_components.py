"""Tiny parts of every kind of pipeline, with random weights: a registry by class.

`assemble` reads a pipeline's constructor and fills it from the registry, so that a new pipeline of
known parts takes no line here, and a new part one.
"""

import inspect
import tempfile
import types
import typing
from functools import cache
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn

from helpers.tiny_pipelines import tiny_tokenizer

WIDTH = 16  # of every text encoder
NEEDED = ("transformer", "text_encoder_2", "tokenizer_2")  # also where a constructor has a default
WORDS = ["<pad>", "</s>", "<unk>", "a", "red", "fox", "owl", "blurry"]

_UNET = {
    "sample_size": 8,
    "in_channels": 4,
    "out_channels": 4,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "cross_attention_dim": WIDTH,
    "attention_head_dim": 4,
    "norm_num_groups": 4,
}
_HEADS = {"num_attention_heads": 2, "attention_head_dim": 8}
_ROPE = {"axes_dims_rope": (2, 2, 4)}

NETWORKS: dict[str, dict[str, Any]] = {
    "UNet2DConditionModel": _UNET,
    "UNet2DModel": {
        "sample_size": 8,
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
        "norm_num_groups": 4,
        "attention_head_dim": 4,
    },
    "ControlNetModel": {
        key: value
        for key, value in _UNET.items()
        if key not in ("sample_size", "out_channels", "up_block_types")
    }
    | {"conditioning_embedding_out_channels": (4, 8)},
    "MotionAdapter": {
        "block_out_channels": (8, 16),
        "motion_layers_per_block": 1,
        "motion_num_attention_heads": 2,
        "motion_norm_num_groups": 4,
        "motion_max_seq_length": 8,
        "use_motion_mid_block": False,
    },
    "T2IAdapter": {"channels": [8, 16], "num_res_blocks": 1, "downscale_factor": 2},
    "SD3Transformer2DModel": _HEADS
    | {
        "sample_size": 8,
        "in_channels": 4,
        "out_channels": 4,
        "num_layers": 2,
        "joint_attention_dim": 2 * WIDTH,
        "caption_projection_dim": 16,
        "pooled_projection_dim": 2 * WIDTH,
        "pos_embed_max_size": 8,
    },
    "FluxTransformer2DModel": _HEADS
    | _ROPE
    | {
        "in_channels": 16,
        "num_layers": 1,
        "num_single_layers": 1,
        "joint_attention_dim": WIDTH,
        "pooled_projection_dim": WIDTH,
    },
    "ChromaTransformer2DModel": _HEADS
    | _ROPE
    | {
        "in_channels": 16,
        "num_layers": 1,
        "num_single_layers": 1,
        "joint_attention_dim": WIDTH,
        "approximator_num_channels": 8,
        "approximator_hidden_dim": 16,
        "approximator_layers": 1,
    },
    "QwenImageTransformer2DModel": _HEADS
    | _ROPE
    | {
        "in_channels": 16,
        "out_channels": 4,
        "num_layers": 2,
        "joint_attention_dim": WIDTH,
    },
    "WanTransformer3DModel": _HEADS
    | {
        "in_channels": 4,
        "out_channels": 4,
        "attention_head_dim": 12,
        "text_dim": WIDTH,
        "freq_dim": 16,
        "ffn_dim": 32,
        "num_layers": 2,
        "rope_max_seq_len": 32,
    },
    "StableAudioDiTModel": {
        "sample_size": 4,
        "in_channels": 3,
        "num_layers": 2,
        "attention_head_dim": 8,
        "num_key_value_attention_heads": 2,
        "num_attention_heads": 2,
        "out_channels": 3,
        "cross_attention_dim": 16,
        "time_proj_dim": 8,
        "global_states_input_dim": 16,
        "cross_attention_input_dim": 8,
    },
    "StableAudioProjectionModel": {
        "text_encoder_dim": WIDTH,
        "conditioning_dim": 8,
        "min_value": 0,
        "max_value": 32,
    },
    "PixArtTransformer2DModel": _HEADS
    | {
        "num_layers": 2,
        "sample_size": 8,
        "cross_attention_dim": 16,
        "caption_channels": WIDTH,
        "norm_num_groups": 4,
        "use_additional_conditions": False,
    },
    "SanaTransformer2DModel": _HEADS
    | {
        "in_channels": 4,
        "out_channels": 4,
        "num_layers": 2,
        "num_cross_attention_heads": 2,
        "cross_attention_head_dim": 8,
        "cross_attention_dim": 16,
        "caption_channels": WIDTH,
        "sample_size": 8,
    },
    "ZImageTransformer2DModel": {
        "in_channels": 4,
        "dim": 16,
        "n_layers": 2,
        "n_refiner_layers": 1,
        "n_heads": 2,
        "n_kv_heads": 2,
        "cap_feat_dim": WIDTH,
        "axes_dims": [2, 2, 4],
        "axes_lens": [64, 16, 16],
    },
    "Lumina2Transformer2DModel": {
        "sample_size": 8,
        "in_channels": 4,
        "out_channels": 4,
        "hidden_size": 16,
        "num_layers": 1,
        "num_refiner_layers": 1,
        "num_attention_heads": 2,
        "num_kv_heads": 1,
        "multiple_of": 8,
        "scaling_factor": 1.0,
        "axes_dim_rope": (2, 2, 4),
        "axes_lens": (64, 16, 16),
        "cap_feat_dim": WIDTH,
    },
    "Flux2Transformer2DModel": _HEADS
    | {
        "in_channels": 16,
        "num_layers": 1,
        "num_single_layers": 1,
        "joint_attention_dim": 3 * WIDTH,
        "timestep_guidance_channels": 8,
        "axes_dims_rope": (2, 2, 2, 2),
        "guidance_embeds": False,
    },
    "AutoencoderKLFlux2": {
        "block_out_channels": (8, 16),
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "latent_channels": 4,
        "norm_num_groups": 4,
        "layers_per_block": 1,
        "sample_size": 16,
    },
    "DiTTransformer2DModel": _HEADS
    | {
        "num_layers": 2,
        "sample_size": 8,
        "out_channels": 8,
        "norm_num_groups": 4,
        "num_embeds_ada_norm": 1000,
    },
    "CogVideoXTransformer3DModel": {
        "num_attention_heads": 2,
        "attention_head_dim": 16,
        "in_channels": 4,
        "out_channels": 4,
        "time_embed_dim": 4,
        "text_embed_dim": WIDTH,
        "num_layers": 1,
        "sample_width": 8,
        "sample_height": 8,
        "sample_frames": 5,
        "max_text_seq_length": 8,
    },
    "LTXVideoTransformer3DModel": _HEADS
    | {
        "in_channels": 8,
        "out_channels": 8,
        "cross_attention_dim": 16,
        "num_layers": 1,
        "caption_channels": WIDTH,
    },
    "AuraFlowTransformer2DModel": _HEADS
    | {
        "sample_size": 8,
        "num_mmdit_layers": 1,
        "num_single_dit_layers": 1,
        "joint_attention_dim": WIDTH,
        "caption_projection_dim": 16,
        "pos_embed_max_size": 64,
    },
    "HunyuanDiT2DModel": _HEADS
    | {
        "in_channels": 4,
        "patch_size": 2,
        "sample_size": 8,
        "hidden_size": 16,
        "num_layers": 2,
        "cross_attention_dim": WIDTH,
        "cross_attention_dim_t5": WIDTH,
        "pooled_projection_dim": 16,
        "text_len": 8,
        "text_len_t5": 256,
    },
    "UNetSpatioTemporalConditionModel": {
        "sample_size": 8,
        "block_out_channels": (32, 64),
        "layers_per_block": 1,
        "down_block_types": ("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        "up_block_types": ("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 24,
        "cross_attention_dim": WIDTH,
        "num_attention_heads": (2, 2),
        "num_frames": 2,
    },
    "AutoencoderKL": {
        "block_out_channels": (8, 16),
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "latent_channels": 4,
        "norm_num_groups": 4,
        "layers_per_block": 1,
        "sample_size": 16,
        "shift_factor": 0.1,
    },
    "AutoencoderKLTemporalDecoder": {
        "block_out_channels": (32, 32),
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "latent_channels": 4,
        "layers_per_block": 1,
        "sample_size": 16,
    },
    "AutoencoderKLWan": {
        "base_dim": 4,
        "z_dim": 4,
        "dim_mult": [1, 1],
        "num_res_blocks": 1,
        "temperal_downsample": [False],
        "latents_mean": [0.0] * 4,
        "latents_std": [1.0] * 4,
        "scale_factor_spatial": 2,
        "scale_factor_temporal": 1,
    },
    "AutoencoderKLQwenImage": {
        "base_dim": 4,
        "z_dim": 4,
        "dim_mult": [1, 1],
        "num_res_blocks": 1,
        "temperal_downsample": [False],
        "latents_mean": [0.0] * 4,
        "latents_std": [1.0] * 4,
    },
    "AutoencoderDC": {
        "latent_channels": 4,
        "attention_head_dim": 2,
        "encoder_block_types": ("ResBlock", "EfficientViTBlock"),
        "decoder_block_types": ("ResBlock", "EfficientViTBlock"),
        "encoder_block_out_channels": (8, 8),
        "decoder_block_out_channels": (8, 8),
        "encoder_qkv_multiscales": ((), (5,)),
        "decoder_qkv_multiscales": ((), (5,)),
        "encoder_layers_per_block": (1, 1),
        "decoder_layers_per_block": (1, 1),
        "upsample_block_type": "interpolate",
        "downsample_block_type": "stride_conv",
        "encoder_out_shortcut": False,
        "decoder_in_shortcut": False,
    },
    "AutoencoderOobleck": {
        "encoder_hidden_size": 6,
        "downsampling_ratios": [1, 2],
        "decoder_channels": 3,
        "decoder_input_channels": 3,
        "channel_multiples": [2, 4],
        "sampling_rate": 4,
    },
    "AutoencoderKLCogVideoX": {
        "down_block_types": ("CogVideoXDownBlock3D",) * 4,
        "up_block_types": ("CogVideoXUpBlock3D",) * 4,
        "block_out_channels": (8, 8, 8, 8),
        "latent_channels": 4,
        "layers_per_block": 1,
        "norm_num_groups": 2,
    },
    "AutoencoderKLLTXVideo": {
        "latent_channels": 8,
        "block_out_channels": (8, 8, 8, 8),
        "decoder_block_out_channels": (8, 8, 8, 8),
        "layers_per_block": (1, 1, 1, 1, 1),
        "decoder_layers_per_block": (1, 1, 1, 1, 1),
        "spatio_temporal_scaling": (True, True, False, False),
        "decoder_spatio_temporal_scaling": (True, True, False, False),
        "patch_size": 1,
        "encoder_causal": True,
        "decoder_causal": False,
    },
    "VQModel": {
        "block_out_channels": (8, 16),
        "down_block_types": ("DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
        "up_block_types": ("AttnUpDecoderBlock2D", "UpDecoderBlock2D"),
        "latent_channels": 4,
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "norm_type": "spatial",
        "num_vq_embeddings": 12,
        "vq_embed_dim": 4,
    },
}


def _clip(cls: Any) -> nn.Module:
    config = transformers.CLIPTextConfig(
        vocab_size=100,
        hidden_size=WIDTH,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=8,
        projection_dim=WIDTH,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    return cls(config)


def _t5(cls: Any, width: int = WIDTH) -> nn.Module:
    config = transformers.UMT5Config if "UMT5" in cls.__name__ else transformers.T5Config
    sizes = {"d_model": width, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2}
    return cls(config(vocab_size=len(WORDS), **sizes))


def _vision(cls: Any) -> nn.Module:
    sizes = {"hidden_size": WIDTH, "intermediate_size": 32, "num_hidden_layers": 1}
    return cls(
        transformers.CLIPVisionConfig(
            **sizes, num_attention_heads=2, image_size=32, patch_size=8, projection_dim=WIDTH
        )
    )


def _llm(cls: Any) -> nn.Module:
    sizes = {"hidden_size": WIDTH, "intermediate_size": 32, "num_hidden_layers": 2}
    config = cls.config_class(
        vocab_size=len(WORDS),
        **sizes,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=64,
    )
    return cls(config)


def _qwen_vl(cls: Any) -> nn.Module:
    text = {"hidden_size": WIDTH, "intermediate_size": 32, "num_hidden_layers": 1}
    text |= {"num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": 100}
    text |= {
        "rope_scaling": {"mrope_section": [1, 1, 2], "rope_type": "default", "type": "default"}
    }
    vision = {"depth": 1, "hidden_size": WIDTH, "intermediate_size": 32, "num_heads": 2}
    vision |= {"out_hidden_size": WIDTH}
    return cls(transformers.Qwen2_5_VLConfig(text_config=text, vision_config=vision))


def _bert(cls: Any) -> nn.Module:
    sizes = {"hidden_size": WIDTH, "intermediate_size": 32, "num_hidden_layers": 1}
    return cls(transformers.BertConfig(vocab_size=len(WORDS), **sizes, num_attention_heads=2))


def word_tokenizer() -> Any:
    """A tokenizer of whole words, as any class that only wraps one; it knows chat templates."""
    inner = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    made = transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )
    made.model_max_length = 8
    made.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    return made


@cache
def _clip_tokenizer() -> Any:
    return tiny_tokenizer(Path(tempfile.mkdtemp()))


def component(cls: Any, seed: int = 0, **overrides: Any) -> Any:
    """One part, from the registry."""
    name = cls.__name__
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if name in NETWORKS:
            made = cls(**(NETWORKS[name] | overrides))
        elif name in ("CLIPTextModel", "CLIPTextModelWithProjection"):
            made = _clip(cls)
        elif name in ("T5EncoderModel", "UMT5EncoderModel"):
            made = _t5(cls, **overrides)
        elif name.startswith("CLIPVisionModel"):
            made = _vision(cls)
        elif name == "Qwen2_5_VLForConditionalGeneration":
            made = _qwen_vl(cls)
        elif name == "BertModel":
            made = _bert(cls)
        elif name == "Gemma2PreTrainedModel":
            made = _llm(transformers.Gemma2Model)
        elif name in ("PreTrainedModel", "Qwen3ForCausalLM"):
            made = _llm(transformers.Qwen3Model if name == "PreTrainedModel" else cls)
        elif name == "CLIPTokenizer":
            return _clip_tokenizer()
        elif "Tokenizer" in name:
            return word_tokenizer()
        elif name.startswith("CLIPImageProcessor"):
            return cls(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
        elif name == "KarrasDiffusionSchedulers":
            return diffusers.DDIMScheduler(clip_sample=False, set_alpha_to_one=False)
        elif issubclass(cls, diffusers.SchedulerMixin):
            plain = {"clip_sample": False} if "DDPM" in name or "DDIM" in name else {}
            return cls(**(plain if "Wuerstchen" not in name else {}))
        else:
            raise LookupError(f"no tiny {name} is registered")
        # Layers that start at zero make every gradient zero, which proves nothing.
        for parameter in made.parameters():
            if not parameter.detach().any():
                nn.init.normal_(parameter, std=0.1)
    return made.eval()


def assemble(cls: Any, networks: dict[str, dict[str, Any]] | None = None, **given: Any) -> Any:
    """A pipeline of tiny parts.

    Args:
        cls: its class.
        networks: configuration that differs from the registry's, by the part's name.
        given: parts or other arguments of the constructor that are not to be looked up.

    """
    hints = typing.get_type_hints(cls.__init__)
    parts: dict[str, Any] = {}
    for seed, (name, parameter) in enumerate(inspect.signature(cls.__init__).parameters.items()):
        if name in ("self", "args", "kwargs"):
            continue
        if name in given:
            parts[name] = given[name]
        elif name == "safety_checker":
            parts[name] = None
        elif name not in NEEDED and parameter.default is not inspect.Parameter.empty:
            parts[name] = parameter.default
        else:
            parts[name] = component(_class(hints[name]), seed, **(networks or {}).get(name, {}))
    return cls(**parts)


def _class(hint: Any) -> Any:
    """The first class of an annotation that may be a union."""
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        return _class(typing.get_args(hint)[0])
    return hint
