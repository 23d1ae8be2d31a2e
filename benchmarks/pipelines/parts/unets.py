"""Tiny UNets, their ControlNets and adapters: configurations by class."""

from typing import Any

from benchmarks.pipelines.parts.encoders import WIDTH

UNET = {
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

# What SDXL's UNet and ControlNets have besides, with two text encoders.
SDXL_UNET = {
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 6 * 8 + WIDTH,
    "cross_attention_dim": 2 * WIDTH,
}

CONFIGS: dict[str, dict[str, Any]] = {
    "UNet2DConditionModel": UNET,
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
        for key, value in UNET.items()
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
}
