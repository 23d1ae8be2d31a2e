"""Tiny text and picture encoders, tokenizers and image processors."""

import json
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn
from transformers import CLIPTokenizer

from benchmarks.pipelines.parts.processors import PictureAndTextProcessor

WIDTH = 16  # of every text encoder
WORDS = ["<pad>", "</s>", "<unk>", "a", "red", "fox", "owl", "blurry"]
SPECIAL = [
    *("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>"),
    *("<|image_pad|>", "<|video_pad|>"),
]
VOCABULARY = len(WORDS) + len(SPECIAL)
CHAT = (  # content is a text, or a list of texts and pictures
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% if m['content'] is string %}"
    "{{ m['content'] }}{% else %}{% for c in m['content'] %}{% if c['type'] == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ c['text'] }}{% endif %}{% endfor %}"
    "{% endif %}<|im_end|>\n{% endfor %}"
)


def tiny_tokenizer(folder: Path) -> CLIPTokenizer:
    """Characters and a few merges, padded to 8 tokens."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    vocabulary = [
        "<|startoftext|>",
        "<|endoftext|>",
        *letters,
        *(f"{letter}</w>" for letter in letters),
        "re",
        "red</w>",
        "fo",
        "fox</w>",
    ]
    merges = ["r e", "re d</w>", "f o", "fo x</w>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(vocabulary)}))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]))
    return CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=8)


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
    sizes: dict[str, Any] = {
        "d_model": width,
        "d_kv": 8,
        "d_ff": 32,
        "num_layers": 2,
        "num_heads": 2,
    }
    return cls(config(vocab_size=VOCABULARY, **sizes))


def _vision(cls: Any) -> nn.Module:
    sizes: dict[str, Any] = {"hidden_size": WIDTH, "intermediate_size": 32, "num_hidden_layers": 1}
    return cls(
        transformers.CLIPVisionConfig(
            **sizes, num_attention_heads=2, image_size=32, patch_size=8, projection_dim=WIDTH
        )
    )


def _llm(cls: Any) -> nn.Module:
    sizes: dict[str, Any] = {"hidden_size": WIDTH, "intermediate_size": 32, "num_hidden_layers": 2}
    config = cls.config_class(
        vocab_size=VOCABULARY,
        **sizes,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=512,
        pad_token_id=0,
        bos_token_id=0,
        eos_token_id=1,
    )
    return cls(config)


def _qwen_vl(cls: Any) -> nn.Module:
    text: dict[str, Any] = {"hidden_size": WIDTH, "intermediate_size": 32, "num_hidden_layers": 1}
    text |= {"num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": 100}
    text |= {
        "rope_scaling": {"mrope_section": [1, 1, 2], "rope_type": "default", "type": "default"}
    }
    vision: dict[str, Any] = {
        "depth": 1,
        "hidden_size": WIDTH,
        "intermediate_size": 32,
        "num_heads": 2,
    }
    vision |= {"out_hidden_size": WIDTH}
    return cls(
        transformers.Qwen2_5_VLConfig(text_config=text, vision_config=vision, **_vision_tokens())
    )


def _bert(cls: Any) -> nn.Module:
    sizes: dict[str, Any] = {"hidden_size": WIDTH, "intermediate_size": 32, "num_hidden_layers": 1}
    return cls(transformers.BertConfig(vocab_size=VOCABULARY, **sizes, num_attention_heads=2))


def _siglip(cls: Any) -> nn.Module:
    sizes: dict[str, Any] = {"hidden_size": WIDTH, "intermediate_size": 32, "num_hidden_layers": 1}
    sizes |= {"num_attention_heads": 2, "patch_size": 8}
    if "Siglip2" in cls.__name__:
        return cls(transformers.Siglip2VisionConfig(**sizes, num_patches=16))
    return cls(transformers.SiglipVisionConfig(**sizes, image_size=32))


def _qwen3_vl(cls: Any) -> nn.Module:
    text: dict[str, Any] = {"hidden_size": WIDTH, "intermediate_size": 32, "num_hidden_layers": 2}
    text |= {"num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": 100, "head_dim": 8}
    text |= {"rope_parameters": {"mrope_section": [2, 1, 1], "rope_type": "default"}}
    vision: dict[str, Any] = {"depth": 1, "hidden_size": WIDTH, "intermediate_size": 32}
    vision |= {"num_heads": 2, "out_hidden_size": WIDTH, "num_position_embeddings": 16}
    vision |= {"deepstack_visual_indexes": [0]}
    return cls(
        transformers.Qwen3VLConfig(text_config=text, vision_config=vision, **_vision_tokens())
    )


def _mistral3(cls: Any) -> nn.Module:
    text: dict[str, Any] = {"hidden_size": WIDTH, "intermediate_size": 32, "num_hidden_layers": 2}
    text |= {"num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": 100, "head_dim": 8}
    vision: dict[str, Any] = {"hidden_size": WIDTH, "intermediate_size": 32}
    vision |= {"num_hidden_layers": 1, "num_attention_heads": 2, "head_dim": 8}
    vision |= {"image_size": 28, "patch_size": 14}
    return cls(
        transformers.Mistral3Config(
            text_config=transformers.MistralConfig(**text),
            vision_config=transformers.PixtralVisionConfig(**vision),
        )
    )


def _t5_gemma(cls: Any) -> nn.Module:
    from transformers.models.t5gemma.configuration_t5gemma import T5GemmaModuleConfig

    sizes: dict[str, Any] = {"hidden_size": WIDTH, "intermediate_size": 32, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": VOCABULARY}
    module = T5GemmaModuleConfig(**sizes, head_dim=8, pad_token_id=0)
    return cls(module)


def _vision_tokens() -> dict[str, int]:
    """The ids of the tokens that stand for pictures, by their names in configurations."""
    names = ("vision_start", "vision_end", "image", "video")
    return {f"{n}_token_id": len(WORDS) + 2 + i for i, n in enumerate(names)}


def word_tokenizer(ends: bool = True) -> Any:
    """A tokenizer of whole words, as any class that only wraps one; it knows chat templates."""
    inner = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.add_special_tokens(SPECIAL)
    if ends:  # as T5's does; an empty prompt has one token then
        inner.post_processor = processors.TemplateProcessing(
            single="$A </s>", special_tokens=[("</s>", 1)]
        )
    made = transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )
    made.model_max_length = 8
    made.chat_template = CHAT
    return made


@cache
def _clip_tokenizer() -> Any:
    return tiny_tokenizer(Path(tempfile.mkdtemp()))


def _processor(cls: Any, patch_size: int = 14) -> Any:
    return PictureAndTextProcessor(word_tokenizer(ends=False), patch_size)


def _crop(cls: Any) -> Any:
    return cls(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})


# The class's name, and what makes a part of it from the class and its overrides.
MAKERS: dict[str, Callable[..., Any]] = {
    "CLIPTextModel": _clip,
    "CLIPTextModelWithProjection": _clip,
    "T5EncoderModel": _t5,
    "UMT5EncoderModel": _t5,
    "CLIPVisionModel": _vision,
    "CLIPVisionModelWithProjection": _vision,
    "Qwen2_5_VLForConditionalGeneration": _qwen_vl,
    "BertModel": _bert,
    "Gemma2PreTrainedModel": lambda cls: _llm(transformers.Gemma2Model),
    "PreTrainedModel": lambda cls: _llm(transformers.Qwen3Model),
    "Qwen3ForCausalLM": _llm,
    "CLIPTokenizer": lambda cls: _clip_tokenizer(),
    "CLIPImageProcessor": _crop,
    "CLIPImageProcessorPil": _crop,
    "SiglipVisionModel": _siglip,
    "Siglip2VisionModel": _siglip,
    "Qwen3VLModel": _qwen3_vl,
    "Qwen3VLForConditionalGeneration": _qwen3_vl,
    "Mistral3Model": _mistral3,
    "Mistral3ForConditionalGeneration": _mistral3,
    "T5GemmaEncoder": _t5_gemma,
    "GlmModel": _llm,
    "LlamaForCausalLM": _llm,
    "SmolLM3ForCausalLM": _llm,
    "Qwen3Model": _llm,
    "GemmaPreTrainedModel": lambda cls: _llm(transformers.GemmaModel),
    "Qwen2VLProcessor": _processor,
    "Qwen3VLProcessor": lambda cls: _processor(cls, 16),
    "AutoProcessor": _processor,
    "SiglipImageProcessorPil": lambda cls: cls(size={"height": 32, "width": 32}),
    "Siglip2ImageProcessorPil": lambda cls: cls(patch_size=8, max_num_patches=16),
}
