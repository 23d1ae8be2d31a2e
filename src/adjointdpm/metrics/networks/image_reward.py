"""The network of ImageReward: BLIP reads the prompt while it looks at the picture.

Xu et al. (2023, arXiv 2304.05977), put together from the BLIP classes of transformers.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from adjointdpm.errors import ModelError
from adjointdpm.metrics.networks.model_files import (
    check_folder,
    hub_file,
    located,
    read_weights,
)
from adjointdpm.metrics.networks.preference_head import PreferenceHead
from adjointdpm.metrics.networks.preprocessing import Preprocessing
from adjointdpm.metrics.networks.prompt_reader import PromptReader
from adjointdpm.support.hub import is_reachable

_WHAT = "an ImageReward model"
_WEIGHTS = "model.safetensors"
# Scores of the training set, by which the official code standardises.
_MEAN, _STD = 0.16717362830052426, 1.0333394966054072
_TOKENS = 35
_PER_HEAD = 64  # channels of an attention head in every BLIP
# Official names of the picture encoder's tensors -> those of transformers.
_RENAMED = (
    (r"^cls_token$", "embeddings.class_embedding"),
    (r"^pos_embed$", "embeddings.position_embedding"),
    (r"^patch_embed\.proj\.", "embeddings.patch_embedding."),
    (r"^norm\.", "post_layernorm."),
    (r"^blocks\.(\d+)\.norm([12])\.", r"encoder.layers.\1.layer_norm\2."),
    (r"^blocks\.(\d+)\.attn\.proj\.", r"encoder.layers.\1.self_attn.projection."),
    (r"^blocks\.(\d+)\.attn\.qkv\.", r"encoder.layers.\1.self_attn.qkv."),
    (r"^blocks\.(\d+)\.mlp\.", r"encoder.layers.\1.mlp."),
)


class ImageRewardNetwork(nn.Module):
    """A picture encoder, a text encoder with cross-attention to it, and a head.

    Its sizes are those of the weights. The text encoder's tensors have the same names in the
    official checkpoint and in transformers, the picture encoder's are renamed.

    Args:
        source: a folder, or a hub id, with the official state dict as `model.safetensors` and the
            tokenizer of bert-base-uncased.

    Raises:
        ModelError: a file or a tensor is missing, or the weights are pickled.

    """

    def __init__(self, source: str | Path) -> None:
        super().__init__()
        from transformers import BertTokenizer

        where, local = located(source, _WHAT)
        if local:
            check_folder(where, _WHAT, [_WEIGHTS], ["tokenizer.json", "vocab.txt"])
        path = Path(where, _WEIGHTS) if local else hub_file(where, _WEIGHTS, _WHAT)
        state = read_weights(path, _WHAT)
        try:
            self.vision: Any = _vision(_within(state, "blip.visual_encoder."))
            self.text: Any = _text(_within(state, "blip.text_encoder."))
            self.head = PreferenceHead(_within(state, "mlp."))
            tokenizer = BertTokenizer.from_pretrained(
                where, local_files_only=local or not is_reachable()
            )
        except (OSError, KeyError, RuntimeError, ValueError) as error:
            raise ModelError(f"{str(source)!r} is not {_WHAT}: {error}") from error
        self.reader = PromptReader(tokenizer, _TOKENS)
        self.preprocessing = Preprocessing(self.vision.config.image_size, rounds=True)
        self.eval().requires_grad_(False)

    def forward(
        self, images: Float[Tensor, "B 3 H W"], prompts: Sequence[str]
    ) -> Float[Tensor, " B"]:
        """Standardised reward of images in [0, 1] of at least 8×8 pixels; higher is better."""
        seen = self.vision(self.preprocessing(images)).last_hidden_state
        tokens = self.reader(prompts, "imagereward").to(images.device)
        read = self.text(
            input_ids=tokens.input_ids,
            attention_mask=tokens.attention_mask,
            encoder_hidden_states=seen,
        ).last_hidden_state
        return (self.head(read[:, 0]) - _MEAN) / _STD


def _within(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin so, without it.

    Raises:
        ModelError: there are none.

    """
    found = {name[len(prefix) :]: value for name, value in state.items() if name.startswith(prefix)}
    if not found:
        raise ModelError(f"no tensor's name begins with {prefix!r}")
    return found


def _vision(state: Mapping[str, Tensor]) -> nn.Module:
    from transformers import BlipVisionConfig
    from transformers.models.blip.modeling_blip import BlipVisionModel

    patches, width = state["pos_embed"].shape[1:]
    patch = state["patch_embed.proj.weight"].shape[-1]
    config = BlipVisionConfig(
        hidden_size=width,
        intermediate_size=len(state["blocks.0.mlp.fc1.weight"]),
        num_hidden_layers=_count(state, r"blocks\.(\d+)\."),
        num_attention_heads=width // _PER_HEAD,
        image_size=patch * round((patches - 1) ** 0.5),
        patch_size=patch,
        layer_norm_eps=1e-6,
    )
    renamed = {}
    for name, value in state.items():
        for pattern, new in _RENAMED:
            name = re.sub(pattern, new, name)
        renamed[name] = value
    return _filled(BlipVisionModel(config), renamed)


def _text(state: Mapping[str, Tensor]) -> nn.Module:
    from transformers import BlipTextConfig
    from transformers.models.blip.modeling_blip_text import BlipTextModel

    state = {name: value for name, value in state.items() if not name.endswith("position_ids")}
    words, width = state["embeddings.word_embeddings.weight"].shape
    config = BlipTextConfig(
        vocab_size=words,
        hidden_size=width,
        encoder_hidden_size=state["encoder.layer.0.crossattention.self.key.weight"].shape[1],
        intermediate_size=len(state["encoder.layer.0.intermediate.dense.weight"]),
        num_hidden_layers=_count(state, r"encoder\.layer\.(\d+)\."),
        num_attention_heads=width // _PER_HEAD,
        max_position_embeddings=len(state["embeddings.position_embeddings.weight"]),
        is_decoder=True,  # which gives it cross-attention; it reads in both directions all the same
    )
    return _filled(BlipTextModel(config, add_pooling_layer=False), state)


def _count(state: Mapping[str, Tensor], pattern: str) -> int:
    return 1 + max(int(found[1]) for name in state if (found := re.match(pattern, name)))


def _filled(network: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
    """The network with these weights, in float32; RuntimeError names what does not fit."""
    network.load_state_dict(state)
    return network.to(torch.float32)
