"""Tiny text and picture encoders, tokenizers and image processors."""

import inspect
import json
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import diffusers
import transformers
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
from torch import nn
from transformers import CLIPTokenizer

WIDTH = 16  # of every text encoder
WORDS = ["<pad>", "</s>", "<unk>", "a", "red", "fox", "owl", "blurry"]
SPECIAL = [
    *("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>"),
    *("<|image_pad|>", "<|video_pad|>"),
]
VOCABULARY = len(WORDS) + len(SPECIAL)
VISION_TOKENS: dict[str, Any] = {  # their ids, by their names in configurations
    f"{name}_token_id": len(WORDS) + 2 + i
    for i, name in enumerate(("vision_start", "vision_end", "image", "video"))
}
LEXEMES = Regex(r"\w+|[^\w\s]+|\n")  # pipelines count the tokens of their templates, lines too
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


def _clip(cls: Any, length: int = 8) -> nn.Module:
    return cls(_clip_config(length))


def _clip_config(length: int = 8) -> Any:
    return transformers.CLIPTextConfig(
        vocab_size=100,
        hidden_size=WIDTH,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=length,
        projection_dim=WIDTH,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )


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


def _vision(cls: Any, **changes: Any) -> nn.Module:
    return cls(_vision_config(**changes))


def language_model(cls: Any, **changes: Any) -> nn.Module:
    """A decoder of text, by its class."""
    sizes: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": WIDTH,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 512,
        "pad_token_id": 0,
        "bos_token_id": 0,
        "eos_token_id": 1,
    }
    return cls(cls.config_class(**(sizes | changes)))


def _qwen_vl(cls: Any) -> nn.Module:
    text: dict[str, Any] = {"hidden_size": WIDTH, "intermediate_size": 32, "num_hidden_layers": 2}
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
        transformers.Qwen2_5_VLConfig(text_config=text, vision_config=vision, **VISION_TOKENS)
    )


def _bert(cls: Any) -> nn.Module:
    sizes: dict[str, Any] = {"hidden_size": WIDTH, "intermediate_size": 32, "num_hidden_layers": 1}
    return cls(transformers.BertConfig(vocab_size=VOCABULARY, **sizes, num_attention_heads=2))


def word_tokenizer(ends: bool = False) -> Any:
    """A tokenizer of whole words, as any class that only wraps one; it knows chat templates.

    Args:
        ends: whether each text ends with a token of its own, so that none is empty.

    """
    inner = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Split(LEXEMES, "removed", invert=True)
    inner.add_special_tokens(SPECIAL)
    if ends:
        inner.post_processor = processors.TemplateProcessing(
            single="$A </s>", special_tokens=[("</s>", WORDS.index("</s>"))]
        )
    made = transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )
    made.model_max_length = 8
    made.chat_template = CHAT
    return made


def _ended(cls: Any) -> Any:
    """The same with an end after each text, so that no text is empty."""
    made = word_tokenizer()
    end = [("</s>", WORDS.index("</s>"))]
    made.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=end
    )
    return made


@cache
def _clip_tokenizer() -> Any:
    return tiny_tokenizer(Path(tempfile.mkdtemp()))


def _vision_config(**changes: Any) -> Any:
    sizes: dict[str, Any] = {"hidden_size": WIDTH, "intermediate_size": 32, "num_hidden_layers": 1}
    sizes |= {"num_attention_heads": 2, "image_size": 16, "patch_size": 8, "projection_dim": WIDTH}
    return transformers.CLIPVisionConfig(**(sizes | changes))


def _roberta(cls: Any) -> nn.Module:
    """XLM-RoBERTa with a projection: Kandinsky's and AltDiffusion's."""
    sizes: dict[str, Any] = {"hidden_size": WIDTH, "intermediate_size": 32, "num_hidden_layers": 1}
    projection = {"transformerDimSize": WIDTH, "imageDimSize": WIDTH, "project_dim": WIDTH}
    taken = inspect.signature(cls.config_class.__init__).parameters
    return cls(
        cls.config_class(
            vocab_size=VOCABULARY,
            **sizes,
            **{name: value for name, value in projection.items() if name in taken},
            num_attention_heads=2,
            max_position_embeddings=16,
            pad_token_id=0,
        )
    )


def _depth(cls: Any) -> nn.Module:
    """A depth estimator (DPT on a plain ViT)."""
    sizes: dict[str, Any] = {"hidden_size": WIDTH, "intermediate_size": 32, "num_hidden_layers": 4}
    return cls(
        transformers.DPTConfig(
            **sizes,
            num_attention_heads=2,
            image_size=32,
            patch_size=8,
            backbone_out_indices=[0, 1, 2, 3],
            neck_hidden_sizes=[8, 8, 8, 8],
            fusion_hidden_size=8,
        )
    )


def ldm_bert() -> nn.Module:
    """The text encoder of LDMTextToImage, whose annotation is a base class."""
    from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import (
        LDMBertConfig,
        LDMBertModel,
    )

    made = LDMBertModel(
        LDMBertConfig(
            vocab_size=VOCABULARY,
            max_position_embeddings=77,
            encoder_layers=1,
            encoder_ffn_dim=32,
            encoder_attention_heads=2,
            head_dim=8,
            d_model=WIDTH,
        )
    )
    return made.eval()


def _crop(cls: Any) -> Any:
    return cls(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})


def _siglip(cls: Any) -> nn.Module:
    sizes: dict[str, Any] = {"hidden_size": WIDTH, "intermediate_size": 32, "num_hidden_layers": 1}
    return cls(
        transformers.SiglipVisionConfig(**sizes, num_attention_heads=2, image_size=32, patch_size=8)
    )


def _gemma3(cls: Any) -> nn.Module:
    sizes: dict[str, Any] = {"hidden_size": WIDTH, "intermediate_size": 32, "num_hidden_layers": 2}
    text = sizes | {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8}
    text |= {"vocab_size": VOCABULARY}
    vision = sizes | {"num_attention_heads": 2, "image_size": 32, "patch_size": 8}
    tokens: dict[str, Any] = {"boi_token_index": 1, "eoi_token_index": 2, "image_token_index": 3}
    config = transformers.Gemma3Config(
        text_config=text, vision_config=vision, mm_tokens_per_image=4, **tokens
    )
    return cls(config)


def _qwen_text(cls: Any) -> nn.Module:
    whole: Any = _qwen_vl(transformers.Qwen2_5_VLForConditionalGeneration)
    return whole.model.language_model


def _clap_text(cls: Any) -> Any:
    sizes: dict[str, Any] = {"hidden_size": WIDTH, "intermediate_size": 32, "num_hidden_layers": 1}
    config = transformers.ClapTextConfig(
        vocab_size=VOCABULARY,
        **sizes,
        num_attention_heads=2,
        projection_dim=WIDTH,
        max_position_embeddings=64,
    )
    return cls(config)


def _clap(cls: Any) -> nn.Module:
    text = _clap_text(transformers.ClapTextModelWithProjection).config
    audio = transformers.ClapAudioConfig(
        spec_size=64,
        window_size=4,
        num_mel_bins=64,
        hidden_size=WIDTH,
        projection_dim=WIDTH,
        depths=[1, 1],
        num_attention_heads=[1, 1],
        num_hidden_layers=2,
        patch_embeds_hidden_size=8,
        mlp_ratio=1.0,
    )
    config = transformers.ClapConfig(
        text_config=text.to_dict(), audio_config=audio.to_dict(), projection_dim=WIDTH
    )
    return cls(config)


def _gpt2(cls: Any) -> nn.Module:
    config = transformers.GPT2Config(vocab_size=100, n_embd=WIDTH, n_layer=1, n_head=2)
    config.max_new_tokens = 4
    return cls(config)


def _vocoder(cls: Any) -> nn.Module:
    config = transformers.SpeechT5HifiGanConfig(
        model_in_dim=8,
        sampling_rate=16,
        upsample_initial_channel=8,
        upsample_rates=[2, 2],
        upsample_kernel_sizes=[4, 4],
        resblock_kernel_sizes=[3],
        resblock_dilation_sizes=[[1, 3]],
        normalize_before=False,
    )
    return cls(config)


def _t5gemma(cls: Any) -> nn.Module:
    sizes: dict[str, Any] = {"hidden_size": WIDTH, "intermediate_size": 32, "num_hidden_layers": 1}
    sizes |= {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8}
    config = transformers.T5GemmaConfig(
        encoder=sizes, decoder=sizes, vocab_size=VOCABULARY, is_encoder_decoder=False
    )
    return cls(config)


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
    "Gemma2PreTrainedModel": lambda cls: language_model(transformers.Gemma2Model),
    "PreTrainedModel": lambda cls: language_model(transformers.Qwen3Model),
    "Qwen3ForCausalLM": language_model,
    "CLIPTokenizer": lambda cls: _clip_tokenizer(),
    "CLIPImageProcessor": _crop,
    "CLIPImageProcessorPil": _crop,
    "MultilingualCLIP": _roberta,
    "RobertaSeriesModelWithTransformation": _roberta,
    "PaintByExampleImageEncoder": _vision,
    "DPTForDepthEstimation": _depth,
    "DPTImageProcessorPil": lambda cls: cls(size={"height": 32, "width": 32}),
    "PythonBackend": lambda cls: word_tokenizer(),  # LDMTextToImage's tokenizer
    "CLIPProcessor": lambda cls: cls(_crop(transformers.CLIPImageProcessorPil), _clip_tokenizer()),
    "XLMRobertaTokenizer": _ended,
    "LlamaModel": language_model,
    "SiglipVisionModel": _siglip,
    "Gemma3ForConditionalGeneration": _gemma3,
    "Qwen2_5_VLTextModel": _qwen_text,
    "ClapTextModelWithProjection": _clap_text,
    "ClapModel": _clap,
    "ClapFeatureExtractor": lambda cls: cls(feature_size=64),
    "GPT2LMHeadModel": _gpt2,
    "SpeechT5HifiGan": _vocoder,
    "T5GemmaEncoderModel": _t5gemma,
    "SiglipImageProcessorPil": lambda cls: cls(size={"height": 32, "width": 32}),
    "ClassifierFreeGuidance": lambda cls: cls(guidance_scale=3.0),
    "BaseGuidance": lambda cls: diffusers.ClassifierFreeGuidance(guidance_scale=3.0),
}
