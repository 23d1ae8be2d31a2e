"""Tiny networks that make videos and sound: configurations by class."""

from typing import Any

from benchmarks.pipelines.parts.encoders import WIDTH

HEADS = {"num_attention_heads": 2, "attention_head_dim": 8}
WAN = HEADS | {
    "in_channels": 4,
    "out_channels": 4,
    "attention_head_dim": 12,
    "text_dim": WIDTH,
    "freq_dim": 16,
    "ffn_dim": 32,
    "num_layers": 2,
    "rope_max_seq_len": 32,
}
BLOCKS_3D = {
    "sample_size": 8,
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "cross_attention_dim": WIDTH,
    "norm_num_groups": 4,
    "down_block_types": ("CrossAttnDownBlock3D", "DownBlock3D"),
    "up_block_types": ("UpBlock3D", "CrossAttnUpBlock3D"),
}
HUNYUAN = HEADS | {
    "in_channels": 4,
    "out_channels": 4,
    "num_layers": 1,
    "num_single_layers": 1,
    "num_refiner_layers": 1,
    "text_embed_dim": WIDTH,
    "pooled_projection_dim": WIDTH,
    "rope_axes_dim": (2, 2, 4),
}
COSMOS = {
    "in_channels": 4,
    "out_channels": 4,
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "num_layers": 2,
    "mlp_ratio": 2,
    "text_embed_dim": WIDTH,
    "adaln_lora_dim": 4,
    "max_size": (4, 16, 16),
    "concat_padding_mask": False,  # the mask is resized by torchvision
}

CONFIGS: dict[str, dict[str, Any]] = {
    "WanTransformer3DModel": WAN,
    "WanVACETransformer3DModel": WAN | {"vace_layers": [0, 1], "vace_in_channels": 12},
    "WanAnimateTransformer3DModel": WAN
    | {
        "in_channels": 12,
        "latent_channels": 4,
        "image_dim": WIDTH,
        "motion_encoder_size": 16,
        "motion_style_dim": 8,
        "motion_dim": 4,
        "motion_encoder_dim": 8,
        "motion_encoder_channel_sizes": {"4": 8, "8": 8, "16": 8},
        "face_encoder_hidden_dim": 8,
        "face_encoder_num_heads": 2,
        "inject_face_latents_blocks": 2,
    },
    "ChronoEditTransformer3DModel": WAN | {"in_channels": 9, "image_dim": WIDTH},
    "SkyReelsV2Transformer3DModel": WAN,
    "AnyFlowTransformer3DModel": WAN,
    "AnyFlowFARTransformer3DModel": WAN | {"chunk_partition": (1, 2)},
    "HeliosTransformer3DModel": {k: v for k, v in WAN.items() if k != "rope_max_seq_len"}
    | {"rope_dim": (4, 4, 4)},
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
    "LTXVideoTransformer3DModel": HEADS
    | {
        "in_channels": 8,
        "out_channels": 8,
        "cross_attention_dim": 16,
        "num_layers": 1,
        "caption_channels": WIDTH,
    },
    "LTXLatentUpsamplerModel": {
        "in_channels": 8,
        "mid_channels": 32,
        "num_blocks_per_stage": 1,
    },
    "SparseControlNetModel": {
        "block_out_channels": (8, 16),
        "down_block_types": ("CrossAttnDownBlockMotion", "DownBlockMotion"),
        "layers_per_block": 1,
        "cross_attention_dim": WIDTH,
        "attention_head_dim": 4,
        "norm_num_groups": 4,
        "motion_num_attention_heads": 2,
        "motion_max_seq_length": 8,
        "conditioning_embedding_out_channels": (4, 8),
    },
    "UNet3DConditionModel": BLOCKS_3D | {"attention_head_dim": 4},
    "I2VGenXLUNet": BLOCKS_3D | {"num_attention_heads": 2},
    "LatteTransformer3DModel": HEADS
    | {
        "in_channels": 4,
        "out_channels": 8,
        "sample_size": 8,
        "patch_size": 2,
        "num_layers": 1,
        "cross_attention_dim": 16,
        "caption_channels": WIDTH,
        "attention_bias": True,
        "num_embeds_ada_norm": 1000,
        "norm_type": "ada_norm_single",
        "norm_elementwise_affine": False,
        "video_length": 2,
    },
    "AllegroTransformer3DModel": HEADS
    | {
        "attention_head_dim": 12,
        "num_layers": 1,
        "cross_attention_dim": 24,
        "caption_channels": WIDTH,
        "sample_height": 8,
        "sample_width": 8,
        "sample_frames": 4,
    },
    "MochiTransformer3DModel": HEADS
    | {
        "num_layers": 2,
        "pooled_projection_dim": 16,
        "in_channels": 12,
        "text_embed_dim": WIDTH,
        "time_embed_dim": 8,
        "max_sequence_length": 8,
    },
    "SanaVideoTransformer3DModel": HEADS
    | {
        "in_channels": 4,
        "out_channels": 4,
        "attention_head_dim": 12,
        "num_layers": 2,
        "num_cross_attention_heads": 2,
        "cross_attention_head_dim": 12,
        "cross_attention_dim": 24,
        "caption_channels": WIDTH,
        "sample_size": 8,
        "rope_max_seq_len": 32,
    },
    "HunyuanVideoTransformer3DModel": HUNYUAN,
    "HunyuanVideoFramepackTransformer3DModel": HUNYUAN
    | {"has_image_proj": True, "image_proj_dim": WIDTH, "has_clean_x_embedder": True},
    "HunyuanVideo15Transformer3DModel": HEADS
    | {
        "in_channels": 9,
        "out_channels": 4,
        "num_layers": 1,
        "num_refiner_layers": 1,
        "text_embed_dim": WIDTH,
        "text_embed_2_dim": WIDTH,
        "image_embed_dim": WIDTH,
        "rope_axes_dim": (2, 2, 4),
        "target_size": 16,
        "task_type": "t2v",
    },
    "EasyAnimateTransformer3DModel": HEADS
    | {
        "in_channels": 4,
        "out_channels": 4,
        "attention_head_dim": 16,
        "num_layers": 1,
        "mmdit_layers": 1,
        "text_embed_dim": WIDTH,
        "time_embed_dim": 8,
        "time_position_encoding_type": "3d_rope",
        "sample_width": 8,
        "sample_height": 8,
        "patch_size": 2,
    },
    "CosmosTransformer3DModel": COSMOS,
    "UNet1DModel": {
        "sample_size": 16,
        "sample_rate": 16,
        "extra_in_channels": 64,
        "block_out_channels": (32, 32, 32),
    },
}
