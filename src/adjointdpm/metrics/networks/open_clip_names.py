"""A CLIP checkpoint with the tensor names of OpenCLIP, under those of transformers."""

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

_WHOLE = {
    "logit_scale": "logit_scale",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
}
_NORMS = {
    "ln_final": "text_model.final_layer_norm",
    "visual.ln_pre": "vision_model.pre_layrnorm",  # transformers spells it so
    "visual.ln_post": "vision_model.post_layernorm",
}
_IN_BLOCK = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
# Matrices that multiply from the right there and are linear layers here.
_PROJECTIONS = {
    "text_projection": "text_projection.weight",
    "visual.proj": "visual_projection.weight",
}
_BLOCK = re.compile(r"(visual\.)?transformer\.resblocks\.(\d+)\.(.+)\.?(weight|bias)")


def has_open_clip_names(names: Iterable[str]) -> bool:
    """Whether tensors are named as OpenCLIP names them."""
    return "visual.conv1.weight" in names


def renamed_open_clip(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors as a `CLIPModel` of transformers names and shapes them.

    Queries, keys and values, one matrix in OpenCLIP, become three. Names that are not known are
    kept, so that loading tells of them.
    """
    found: dict[str, Tensor] = {}
    for name, value in state.items():
        layer, _, kind = name.rpartition(".")
        if name in _PROJECTIONS:
            found[_PROJECTIONS[name]] = value.T.contiguous()
        elif block := _BLOCK.fullmatch(name):
            found |= _in_block(block, value)
        elif layer in _NORMS:
            found[f"{_NORMS[layer]}.{kind}"] = value
        else:
            found[_WHOLE.get(name, name)] = value
    return found


def _in_block(block: re.Match[str], value: Tensor) -> dict[str, Tensor]:
    visual, number, inner, kind = block.groups()
    prefix = f"{'vision' if visual else 'text'}_model.encoder.layers.{number}"
    inner = inner.rstrip("._")
    if inner == "attn.in_proj":
        return {
            f"{prefix}.self_attn.{letter}_proj.{kind}": part.contiguous()
            for letter, part in zip("qkv", value.chunk(3), strict=True)
        }
    return {f"{prefix}.{_IN_BLOCK.get(inner, inner)}.{kind}": value}
