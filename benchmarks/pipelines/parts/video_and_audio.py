"""Tiny networks that make videos and sound: configurations by class."""

from typing import Any

from benchmarks.pipelines.parts.encoders import WIDTH

HEADS = {"num_attention_heads": 2, "attention_head_dim": 8}

CONFIGS: dict[str, dict[str, Any]] = {
    "WanTransformer3DModel": HEADS
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
}
