"""Tiny transformers that make pictures: configurations by class."""

from typing import Any

from benchmarks.pipelines.parts.encoders import WIDTH

HEADS = {"num_attention_heads": 2, "attention_head_dim": 8}
ROPE = {"axes_dims_rope": (2, 2, 4)}

CONFIGS: dict[str, dict[str, Any]] = {
    "SD3Transformer2DModel": HEADS
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
    "FluxTransformer2DModel": HEADS
    | ROPE
    | {
        "in_channels": 16,
        "num_layers": 1,
        "num_single_layers": 1,
        "joint_attention_dim": WIDTH,
        "pooled_projection_dim": WIDTH,
    },
    "ChromaTransformer2DModel": HEADS
    | ROPE
    | {
        "in_channels": 16,
        "num_layers": 1,
        "num_single_layers": 1,
        "joint_attention_dim": WIDTH,
        "approximator_num_channels": 8,
        "approximator_hidden_dim": 16,
        "approximator_layers": 1,
    },
    "QwenImageTransformer2DModel": HEADS
    | ROPE
    | {
        "in_channels": 16,
        "out_channels": 4,
        "num_layers": 2,
        "joint_attention_dim": WIDTH,
    },
    "PixArtTransformer2DModel": HEADS
    | {
        "num_layers": 2,
        "sample_size": 8,
        "cross_attention_dim": 16,
        "caption_channels": WIDTH,
        "norm_num_groups": 4,
        "use_additional_conditions": False,
    },
    "SanaTransformer2DModel": HEADS
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
    "Flux2Transformer2DModel": HEADS
    | {
        "in_channels": 16,
        "num_layers": 1,
        "num_single_layers": 1,
        "joint_attention_dim": 3 * WIDTH,
        "timestep_guidance_channels": 8,
        "axes_dims_rope": (2, 2, 2, 2),
        "guidance_embeds": False,
    },
    "DiTTransformer2DModel": HEADS
    | {
        "num_layers": 2,
        "sample_size": 8,
        "out_channels": 8,
        "norm_num_groups": 4,
        "num_embeds_ada_norm": 1000,
    },
    "AuraFlowTransformer2DModel": HEADS
    | {
        "sample_size": 8,
        "num_mmdit_layers": 1,
        "num_single_dit_layers": 1,
        "joint_attention_dim": WIDTH,
        "caption_projection_dim": 16,
        "pos_embed_max_size": 64,
    },
    "HunyuanDiT2DModel": HEADS
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
}
