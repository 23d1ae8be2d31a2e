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
        "text_len": 77,
        "text_len_t5": 256,
    },
    "FluxControlNetModel": HEADS
    | ROPE
    | {
        "in_channels": 16,
        "num_layers": 1,
        "num_single_layers": 1,
        "joint_attention_dim": WIDTH,
        "pooled_projection_dim": WIDTH,
    },
    "SD3ControlNetModel": HEADS
    | {
        "sample_size": 8,
        "in_channels": 4,
        "out_channels": 4,
        "num_layers": 1,
        "joint_attention_dim": 2 * WIDTH,
        "caption_projection_dim": 16,
        "pooled_projection_dim": 2 * WIDTH,
        "pos_embed_max_size": 8,
    },
    "SanaControlNetModel": HEADS
    | {
        "in_channels": 4,
        "out_channels": 4,
        "num_layers": 1,
        "num_cross_attention_heads": 2,
        "cross_attention_head_dim": 8,
        "cross_attention_dim": 16,
        "caption_channels": WIDTH,
        "sample_size": 8,
    },
    "QwenImageControlNetModel": HEADS
    | ROPE
    | {
        "in_channels": 16,
        "out_channels": 4,
        "num_layers": 1,
        "joint_attention_dim": WIDTH,
    },
    "ZImageControlNetModel": {
        "control_layers_places": [0, 1],
        "control_in_dim": 4,
        "dim": 16,
        "n_refiner_layers": 1,
        "n_heads": 2,
        "n_kv_heads": 2,
    },
    "HunyuanDiT2DControlNetModel": HEADS
    | {
        "in_channels": 4,
        "patch_size": 2,
        "sample_size": 8,
        "hidden_size": 16,
        "transformer_num_layers": 4,
        "cross_attention_dim": WIDTH,
        "cross_attention_dim_t5": WIDTH,
        "pooled_projection_dim": 16,
        "text_len": 77,
        "text_len_t5": 256,
    },
    "BriaTransformer2DModel": HEADS
    | ROPE
    | {"in_channels": 16, "num_layers": 1, "num_single_layers": 1, "joint_attention_dim": WIDTH},
    "BriaFiboTransformer2DModel": HEADS
    | ROPE
    | {
        "in_channels": 16,
        "num_layers": 1,
        "num_single_layers": 1,
        "joint_attention_dim": 2 * WIDTH,
        "text_encoder_dim": WIDTH,
    },
    "BriaFibo2Transformer2DModel": {
        "in_channels": 4,
        "dim": 16,
        "n_layers": 2,
        "n_refiner_layers": 1,
        "n_heads": 2,
        "cap_feat_dim": WIDTH,
        "injection_layer_ids": (1,),
        "perceiver_num_layers": 1,
        "min_num_gist_tokens": 4,
        "max_num_gist_tokens": 8,
        "gist_step": 2,
        "gist_min_text_len": 4,
        "gist_max_text_len": 64,
        "axes_dims": (2, 2, 4),
        "axes_lens": (128, 16, 16),
    },
    "CogView3PlusTransformer2DModel": HEADS
    | {
        "in_channels": 4,
        "out_channels": 4,
        "num_layers": 2,
        "text_embed_dim": WIDTH,
        "time_embed_dim": 16,
        "condition_dim": 4,
        "pos_embed_max_size": 8,
        "sample_size": 8,
    },
    "CogView4Transformer2DModel": HEADS
    | {
        "in_channels": 4,
        "out_channels": 4,
        "num_layers": 2,
        "text_embed_dim": WIDTH,
        "time_embed_dim": 16,
        "condition_dim": 4,
        "pos_embed_max_size": 8,
        "sample_size": 8,
        "rope_axes_dim": (4, 4),
    },
    "ErnieImageTransformer2DModel": {
        "hidden_size": 16,
        "num_attention_heads": 2,
        "num_layers": 2,
        "ffn_hidden_size": 32,
        "in_channels": 16,
        "out_channels": 16,
        "text_in_dim": WIDTH,
        "rope_axes_dim": (2, 2, 4),
    },
    "LuminaNextDiT2DModel": {
        "sample_size": 8,
        "in_channels": 4,
        "hidden_size": 16,
        "num_layers": 2,
        "num_attention_heads": 2,
        "num_kv_heads": 1,
        "multiple_of": 8,
        "cross_attention_dim": WIDTH,
    },
    "HiDreamImageTransformer2DModel": HEADS
    | {
        "patch_size": 2,
        "in_channels": 4,
        "out_channels": 4,
        "num_layers": 1,
        "num_single_layers": 1,
        "caption_channels": [WIDTH, WIDTH],
        "text_emb_dim": 2 * WIDTH,
        "num_routed_experts": 2,
        "num_activated_experts": 1,
        "axes_dims_rope": (2, 2, 4),
        "max_resolution": (8, 8),
        "llama_layers": [0, 1],
        "force_inference_output": True,
    },
    "OmniGenTransformer2DModel": {
        "hidden_size": 16,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "intermediate_size": 32,
        "num_layers": 2,
        "pad_token_id": 0,
        "vocab_size": 100,
        "max_position_embeddings": 512,
        "original_max_position_embeddings": 512,
        "pos_embed_max_size": 8,
        "time_step_dim": 8,
        "rope_scaling": {"long_factor": [1.0] * 4, "short_factor": [1.0] * 4, "type": "su"},
    },
    "OvisImageTransformer2DModel": HEADS
    | ROPE
    | {
        "in_channels": 16,
        "out_channels": 16,
        "num_layers": 1,
        "num_single_layers": 1,
        "joint_attention_dim": WIDTH,
    },
    "PRXTransformer2DModel": {
        "in_channels": 4,
        "context_in_dim": WIDTH,
        "hidden_size": 16,
        "mlp_ratio": 2.0,
        "num_heads": 2,
        "depth": 2,
        "axes_dim": [4, 4],
    },
    "NucleusMoEImageTransformer2DModel": HEADS
    | ROPE
    | {
        "in_channels": 16,
        "out_channels": 4,
        "num_layers": 2,
        "joint_attention_dim": WIDTH,
        "moe_enabled": True,
        "dense_moe_strategy": "leave_first_block_dense",
        "num_experts": 2,
        "moe_intermediate_dim": 16,
        "capacity_factors": 1.0,
    },
    "Krea2Transformer2DModel": HEADS
    | {
        "in_channels": 16,
        "num_layers": 2,
        "num_key_value_heads": 1,
        "intermediate_size": 32,
        "timestep_embed_dim": 8,
        "text_hidden_dim": WIDTH,
        "num_text_layers": 2,
        "text_num_attention_heads": 2,
        "text_num_key_value_heads": 1,
        "text_intermediate_size": 32,
        "num_layerwise_text_blocks": 1,
        "num_refiner_text_blocks": 1,
        "axes_dims_rope": (2, 2, 4),
    },
    "Ideogram4Transformer2DModel": HEADS
    | {
        "in_channels": 16,
        "num_layers": 2,
        "intermediate_size": 32,
        "adaln_dim": 8,
        "llm_features_dim": 13 * WIDTH,
        "mrope_section": (2, 1, 1),
    },
    "GlmImageTransformer2DModel": HEADS
    | {
        "in_channels": 4,
        "out_channels": 4,
        "num_layers": 2,
        "text_embed_dim": WIDTH,
        "time_embed_dim": 16,
        "condition_dim": 4,
        "prior_vq_quantizer_codebook_size": 16,
    },
    "HunyuanImageTransformer2DModel": HEADS
    | {
        "in_channels": 4,
        "out_channels": 4,
        "num_layers": 1,
        "num_single_layers": 1,
        "num_refiner_layers": 1,
        "text_embed_dim": WIDTH,
        "text_embed_2_dim": WIDTH,
        "rope_axes_dim": (4, 4),
    },
    "QwenImage21Transformer2DModel": HEADS
    | ROPE
    | {"in_channels": 4, "out_channels": 4, "num_layers": 2, "context_in_dim": WIDTH},
    "LongCatImageTransformer2DModel": HEADS
    | ROPE
    | {
        "in_channels": 64,
        "num_layers": 1,
        "num_single_layers": 1,
        "joint_attention_dim": WIDTH,
        "pooled_projection_dim": WIDTH,
    },
    "JoyImageEditTransformer3DModel": {
        "in_channels": 4,
        "hidden_size": 16,
        "num_attention_heads": 2,
        "text_dim": WIDTH,
        "num_layers": 2,
        "rope_dim_list": [2, 2, 4],
    },
    "JoyImageEditPlusTransformer3DModel": {
        "in_channels": 4,
        "hidden_size": 16,
        "num_attention_heads": 2,
        "text_dim": WIDTH,
        "num_layers": 2,
        "rope_dim_list": [2, 2, 4],
    },
    "ReduxImageEncoder": {"redux_dim": WIDTH, "txt_in_features": WIDTH},
}
