"""Tiny language models, those that see pictures, and their processors."""

from collections.abc import Callable
from typing import Any

import transformers
from torch import nn
from transformers.models.t5gemma.configuration_t5gemma import T5GemmaModuleConfig

from benchmarks.pipelines.parts.encoders import (
    VISION_TOKENS,
    VOCABULARY,
    WIDTH,
    language_model,
    word_tokenizer,
)
from benchmarks.pipelines.parts.processors import PictureAndTextProcessor

TEXT: dict[str, Any] = {
    "hidden_size": WIDTH,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "vocab_size": 100,
}
VISION: dict[str, Any] = {"hidden_size": WIDTH, "intermediate_size": 32}


def _siglip2(cls: Any) -> nn.Module:
    sizes: dict[str, Any] = {"num_hidden_layers": 1, "num_attention_heads": 2, "patch_size": 8}
    return cls(transformers.Siglip2VisionConfig(**VISION, **sizes, num_patches=16))


def _qwen3_vl(cls: Any, **changes: Any) -> nn.Module:
    text = TEXT | {"rope_parameters": {"mrope_section": [2, 1, 1], "rope_type": "default"}}
    vision = VISION | {"depth": 1, "num_heads": 2, "out_hidden_size": WIDTH}
    vision |= {"num_position_embeddings": 16, "deepstack_visual_indexes": [0]}
    return cls(
        transformers.Qwen3VLConfig(
            text_config=text | changes, vision_config=vision, **VISION_TOKENS
        )
    )


def _mistral3(cls: Any, **changes: Any) -> nn.Module:
    vision: dict[str, Any] = VISION | {
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "head_dim": 8,
    }
    vision |= {"image_size": 28, "patch_size": 14}
    text: dict[str, Any] = TEXT | changes
    return cls(
        transformers.Mistral3Config(
            text_config=transformers.MistralConfig(**text),
            vision_config=transformers.PixtralVisionConfig(**vision),
        )
    )


def _t5_gemma(cls: Any) -> nn.Module:
    sizes: dict[str, Any] = TEXT | {"vocab_size": VOCABULARY, "pad_token_id": 0}
    config = T5GemmaModuleConfig(**sizes)
    config.dropout_rate = 0.0
    return cls(config)


def _processor(patch_size: int) -> Any:
    return PictureAndTextProcessor(word_tokenizer(), patch_size)


# The class's name, and what makes a part of it from the class and its overrides.
MAKERS: dict[str, Callable[..., Any]] = {
    "Siglip2VisionModel": _siglip2,
    "Qwen3VLModel": _qwen3_vl,
    "Qwen3VLForConditionalGeneration": _qwen3_vl,
    "Mistral3Model": _mistral3,
    "Mistral3ForConditionalGeneration": _mistral3,
    "T5GemmaEncoder": _t5_gemma,
    "GlmModel": language_model,
    "LlamaForCausalLM": language_model,
    "SmolLM3ForCausalLM": language_model,
    "Qwen3Model": language_model,
    "GemmaPreTrainedModel": lambda cls: language_model(transformers.GemmaModel),
    "Qwen2VLProcessor": lambda cls: _processor(14),
    "Qwen2_5_VLProcessor": lambda cls: _processor(14),
    "Qwen3VLProcessor": lambda cls: _processor(16),
    "AutoProcessor": lambda cls: _processor(14),
    "Siglip2ImageProcessorPil": lambda cls: cls(patch_size=8, max_num_patches=16),
}
