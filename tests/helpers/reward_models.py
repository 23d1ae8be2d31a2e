"""Tiny random models in the layouts that rewards read."""

import json
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import BertConfig, BertModel, BertTokenizer, CLIPConfig, CLIPModel

from benchmarks.pipelines.parts.encoders import tiny_tokenizer

SIZE = 32


def clip_config(words: int = 60, act: str = "quick_gelu") -> CLIPConfig:
    shape = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "hidden_act": act,
    }
    special = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    return CLIPConfig(
        text_config=shape | special | {"vocab_size": words, "max_position_embeddings": 8},
        vision_config=shape | {"image_size": SIZE, "patch_size": 8},
        projection_dim=8,
        logit_scale_init_value=3.0,
    )


def clip_folder(folder: Path, seed: int = 0, processor: dict[str, Any] | None = None) -> CLIPModel:
    """Write a CLIP model, its tokenizer and its processor's settings; return the model."""
    tokenizer = tiny_tokenizer(folder)
    torch.manual_seed(seed)
    model = CLIPModel(clip_config(len(tokenizer))).eval().requires_grad_(False)
    for weight in model.parameters():  # of a size at which pictures and words make a difference
        if weight.ndim > 1:
            weight.copy_(0.3 * torch.randn(weight.shape))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    size = {"size": {"shortest_edge": SIZE}, "crop_size": {"height": SIZE, "width": SIZE}}
    (folder / "preprocessor_config.json").write_text(
        json.dumps(size if processor is None else processor)
    )
    return model


def picture(seed: int, height: int, width: int, batch: int = 1) -> Tensor:
    """On the 8-bit grid, and so far inside [0, 1] that a bicubic filter does not leave it."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(batch, 3, 6, 6, generator=generator)
    smooth = F.interpolate(coarse, (height, width), mode="bilinear")
    noisy = 0.3 + 0.35 * smooth + 0.05 * torch.rand(smooth.shape, generator=generator)
    return (noisy * 255).round() / 255


class OpenClipBlock(nn.Module):
    """As OpenCLIP writes it: torch's own attention, pre-norm."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = nn.Sequential()
        self.mlp.add_module("c_fc", nn.Linear(width, 2 * width))
        self.mlp.add_module("gelu", nn.GELU())
        self.mlp.add_module("c_proj", nn.Linear(2 * width, width))

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False, attn_mask=mask)[0]
        return x + self.mlp(self.ln_2(x))


class OpenClipTransformer(nn.Module):
    def __init__(self, width: int, heads: int, layers: int) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(OpenClipBlock(width, heads) for _ in range(layers))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        for block in self.resblocks:
            x = block(x, mask)
        return x


class OpenClipVision(nn.Module):
    def __init__(self, width: int, size: int, patch: int, out: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, patch, patch, bias=False)
        self.class_embedding = nn.Parameter(torch.randn(width))
        self.positional_embedding = nn.Parameter(torch.randn((size // patch) ** 2 + 1, width))
        self.ln_pre, self.ln_post = nn.LayerNorm(width), nn.LayerNorm(width)
        self.transformer = OpenClipTransformer(width, 2, 2)
        self.proj = nn.Parameter(torch.randn(width, out))

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.conv1(pixels).flatten(2).mT
        first = self.class_embedding.expand(len(x), 1, -1)
        x = torch.cat([first, x], 1) + self.positional_embedding
        return self.ln_post(self.transformer(self.ln_pre(x))[:, 0]) @ self.proj


class OpenClip(nn.Module):
    """A model as OpenCLIP lays it out, to see that renamed weights compute the same."""

    def __init__(self, words: int, width: int = 16, context: int = 8, out: int = 8) -> None:
        super().__init__()
        self.visual = OpenClipVision(width, SIZE, 8, out)
        self.transformer = OpenClipTransformer(width, 2, 2)
        self.token_embedding = nn.Embedding(words, width)
        self.positional_embedding = nn.Parameter(torch.randn(context, width))
        self.ln_final = nn.LayerNorm(width)
        self.text_projection = nn.Parameter(torch.randn(width, out))
        self.logit_scale = nn.Parameter(torch.tensor(3.0))

    def encode_text(self, ids: Tensor, last: Tensor) -> Tensor:
        x = self.token_embedding(ids) + self.positional_embedding[: ids.shape[1]]
        mask = torch.full((ids.shape[1],) * 2, -torch.inf).triu(1)
        x = self.ln_final(self.transformer(x, mask))
        return x[torch.arange(len(x)), last] @ self.text_projection


class BlipViT(nn.Module):
    """BLIP's picture encoder under its official names."""

    def __init__(self, width: int = 128, layers: int = 2, patch: int = 16) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.randn(1, 1, width))
        self.pos_embed = nn.Parameter(torch.randn(1, (SIZE // patch) ** 2 + 1, width))
        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv2d(3, width, patch, patch)
        self.blocks = nn.ModuleList()
        for _ in range(layers):
            block = nn.Module()
            block.norm1, block.norm2 = (nn.LayerNorm(width, eps=1e-6) for _ in range(2))
            block.attn, block.mlp = nn.Module(), nn.Module()
            block.attn.qkv, block.attn.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
            block.mlp.fc1, block.mlp.fc2 = nn.Linear(width, 96), nn.Linear(96, width)
            self.blocks.append(block)
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.patch_embed.proj(pixels).flatten(2).mT  # pyright: ignore
        x = torch.cat([self.cls_token.expand(len(x), 1, -1), x], 1) + self.pos_embed
        for block in self.blocks:
            y: Any = block.attn.qkv(block.norm1(x))  # pyright: ignore
            q, k, v = y.unflatten(2, (3, -1, 64)).permute(2, 0, 3, 1, 4)
            mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
            x = x + block.attn.proj(mixed)  # pyright: ignore
            x = x + block.mlp.fc2(F.gelu(block.mlp.fc1(block.norm2(x))))  # pyright: ignore
        return self.norm(x)


class OfficialImageReward(nn.Module):
    """ImageReward as the official code has it; BERT of transformers reads the text."""

    def __init__(self, words: int) -> None:
        super().__init__()
        self.blip: Any = nn.Module()
        self.blip.visual_encoder = BlipViT()
        config = BertConfig(
            vocab_size=words,
            hidden_size=64,
            num_hidden_layers=2,
            num_attention_heads=1,
            intermediate_size=96,
            max_position_embeddings=40,
            is_decoder=True,
            add_cross_attention=True,
            type_vocab_size=1,
        )
        # BERT's cross-attention reads vectors of its own width only.
        self.blip.text_encoder = BertModel(config, add_pooling_layer=False)
        for layer in self.blip.text_encoder.encoder.layer:
            attention = layer.crossattention.self
            attention.key, attention.value = nn.Linear(128, 64), nn.Linear(128, 64)
        self.mlp = nn.Module()
        self.mlp.layers = nn.Sequential(
            nn.Linear(64, 32),
            nn.Dropout(0.2),
            nn.Linear(32, 16),
            nn.Dropout(0.2),
            nn.Linear(16, 8),
            nn.Dropout(0.1),
            nn.Linear(8, 4),
            nn.Linear(4, 1),
        )

    def forward(self, pixels: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        seen = self.blip.visual_encoder(pixels)
        both_ways = (1 - mask[:, None, None].float()).expand(-1, 1, ids.shape[1], -1)
        read = self.blip.text_encoder(
            ids, attention_mask=both_ways * torch.finfo().min, encoder_hidden_states=seen
        )
        rewards = self.mlp.layers(read.last_hidden_state[:, 0])[:, 0]  # pyright: ignore
        return (rewards - 0.16717362830052426) / 1.0333394966054072


def image_reward_folder(folder: Path, seed: int = 0) -> tuple[OfficialImageReward, Any]:
    """Write the official state dict and a BERT tokenizer; return the official model and it."""
    folder.mkdir(parents=True, exist_ok=True)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "blue", "fox", "owl", "on"]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    torch.manual_seed(seed)
    model = OfficialImageReward(len(words)).eval().requires_grad_(False)
    for name, weight in model.named_parameters():
        if weight.ndim > 1 and "embeddings" not in name:
            weight.copy_(torch.randn(weight.shape) * 1.5 / weight.shape[-1] ** 0.5)
    state = {
        name: value.clone()
        for name, value in model.state_dict().items()
        if "token_type" not in name
    }
    # BLIP's BERT has no token types: what they add to each word goes into the positions.
    text = "blip.text_encoder.embeddings."
    types = model.state_dict()[f"{text}token_type_embeddings.weight"]
    state[f"{text}position_embeddings.weight"] += types[0]
    state["blip.vision_proj.weight"] = torch.zeros(4, 128)  # the checkpoint has them, unused
    save_file(state, folder / "model.safetensors")
    return model, BertTokenizer.from_pretrained(folder)
