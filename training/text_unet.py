# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# (diffusers annotates tuples and outputs too narrowly for its own documented use)
"""Train the text encoder and the UNet of the bundled model.

`python -m training.text_unet --minutes 60`
"""

import json
import math
import random
import shutil
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import typer
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from training.concepts import BACKGROUNDS, STYLES, Concept, caption, load_concepts
from training.data import WORK
from training.steps import encode, set_rate, take_step, update_average

MAX_TOKENS = 20
SHOWN_STYLE = 0.9  # of the captions name the style
ALL_KERNELS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
SHOWN_BACKGROUND = 0.6  # of the captions of coloured backgrounds name the colour


def build_scheduler() -> DDIMScheduler:
    """Stable Diffusion 1.x's schedule and settings."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="epsilon",
        timestep_spacing="leading",
    )


def build_unet() -> UNet2DConditionModel:
    """A UNet of Stable Diffusion's layout, 9.3 M parameters."""
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        mid_block_type="UNetMidBlock2DCrossAttn",
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(48, 96, 192),
        layers_per_block=1,
        attention_head_dim=6,  # the number of heads, in spite of its name
        cross_attention_dim=128,
        norm_num_groups=16,
    )


def build_tokenizer(concepts: list[Concept], folder: Path) -> CLIPTokenizer:
    """A CLIP tokenizer whose byte-pair encoding is learned from the captions.

    Withheld names stay spellable by their pieces.
    """
    styles = [*STYLES, None]
    texts = [
        caption(c.name, s, b, random.Random(i))
        for c in concepts
        for s in styles
        for i, b in enumerate(BACKGROUNDS)
    ]
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token="<|endoftext|>"))
    bpe.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    bpe.decoder = decoders.BPEDecoder(suffix="</w>")
    trainer = trainers.BpeTrainer(
        vocab_size=900,
        special_tokens=["<|startoftext|>", "<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        end_of_word_suffix="</w>",
    )
    bpe.train_from_iterator(texts, trainer)
    folder.mkdir(parents=True, exist_ok=True)
    bpe.model.save(str(folder))
    tokenizer = CLIPTokenizer(
        str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=MAX_TOKENS
    )
    return tokenizer


def build_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """A two-layer CLIP text encoder of width 128."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=128,
            intermediate_size=512,
            projection_dim=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=MAX_TOKENS,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


class Captions:
    """Token ids of every phrasing, made once."""

    def __init__(
        self, concepts: list[Concept], tokenizer: CLIPTokenizer, phrasings: int = 3
    ) -> None:
        styles, colours = [*STYLES, None], [*BACKGROUNDS, None]
        rng = random.Random(0)
        texts = [
            caption(c.name, s, b, rng)
            for c in concepts
            for s in styles
            for b in colours
            for _ in range(phrasings)
        ]
        ids = tokenizer(
            [*texts, ""],
            padding="max_length",
            max_length=MAX_TOKENS,
            truncation=True,
            return_tensors="pt",
        ).input_ids
        self.empty = ids[-1]
        self.ids = ids[:-1].view(len(concepts), len(styles), len(colours), phrasings, MAX_TOKENS)

    def sample(self, labels: np.ndarray, rng: np.random.Generator, dropped: float = 0.1) -> Tensor:
        """One caption for each row of (concept, style, background).

        Some leave out the style, the background, or everything.
        """
        n = len(labels)
        style = np.where(rng.random(n) < SHOWN_STYLE, labels[:, 1], len(STYLES))
        named = (labels[:, 2] > 0) & (rng.random(n) < SHOWN_BACKGROUND) | (rng.random(n) < 0.1)
        background = np.where(named, labels[:, 2], len(BACKGROUNDS))
        ids = self.ids[labels[:, 0], style, background, rng.integers(self.ids.shape[3], size=n)]
        ids[torch.from_numpy(rng.random(n) < dropped)] = self.empty
        return ids


def build(concepts: list[Concept], start: Path | None) -> tuple[CLIPTokenizer, torch.nn.ModuleDict]:
    """The tokenizer, and text encoder and UNet: fresh, or those of an exported pipeline."""
    if start is None:
        tokenizer = build_tokenizer([c for c in concepts if not c.withheld], WORK / "tokenizer")
    else:
        tokenizer = CLIPTokenizer.from_pretrained(start / "tokenizer")
    text_encoder, unet = build_text_encoder(tokenizer), build_unet()
    if start is not None:
        theirs = CLIPTextModel.from_pretrained(start / "text_encoder", dtype=torch.float32)
        text_encoder.load_state_dict(theirs.state_dict())
        theirs = UNet2DConditionModel.from_pretrained(start / "unet", torch_dtype=torch.float32)
        unet.load_state_dict(theirs.state_dict())
    unet.to(memory_format=torch.channels_last)
    return tokenizer, torch.nn.ModuleDict({"text_encoder": text_encoder, "unet": unet})


def loss_weights() -> tuple[Tensor, Tensor]:
    """ᾱ of every time, and the weight of its squared error in epsilon.

    The weight of the x0 loss is min(snr + 1, 5): the "truncated SNR + 1" of Salimans & Ho 2022
    (arXiv 2202.00512) bounded as in min-SNR (Hang et al. 2023, arXiv 2303.09556). Against plain
    min-SNR it weighs the noisy steps more, where the shape of the whole is decided.
    """
    alphas = build_scheduler().alphas_cumprod
    snr = alphas / (1 - alphas)
    return alphas, ((snr + 1).clamp(max=5) / snr).clamp(max=10)


def squared_error(
    model: torch.nn.ModuleDict,
    latents: Tensor,
    noise: Tensor,
    times: Tensor,
    alphas: Tensor,
    tokens: Tensor,
    bf16: bool,
) -> Tensor:
    """Mean squared error in epsilon of each latent with its noise."""
    a = alphas[:, None, None, None]
    # torch 2.13's fused attention takes 40 % of a step in bfloat16 on a CPU; plain products use the
    # matrix units.
    with (
        torch.autocast("cpu", torch.bfloat16, enabled=bf16),
        sdpa_kernel(SDPBackend.MATH if bf16 else ALL_KERNELS),
    ):
        states = model["text_encoder"](tokens).last_hidden_state
        output = model["unet"](a.sqrt() * latents + (1 - a).sqrt() * noise, times, states).sample
    return F.mse_loss(output.float(), noise, reduction="none").mean((1, 2, 3))


def save(
    folder: Path,
    model: torch.nn.Module,
    average: dict[str, Tensor],
    optimizer: torch.optim.Optimizer,
    spent: float,
    step: int,
) -> None:
    """Write all that `restore` needs; the averaged weights are what is exported."""
    state = {
        f"{i}.{k}": v
        for i, p in enumerate(model.parameters())
        for k, v in optimizer.state[p].items()
    }
    found = {"model": model.state_dict(), "average": average, "optimizer": state}
    for name, tensors in found.items():
        save_file({k: v.contiguous() for k, v in tensors.items()}, folder / f"{name}.tmp")
        shutil.move(folder / f"{name}.tmp", folder / f"{name}.safetensors")
    (folder / "progress.json").write_text(json.dumps({"spent": spent, "step": step}))


def restore(
    source: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[dict[str, Tensor], float, int]:
    """Load what `save` wrote; returns averaged weights, seconds spent and steps made."""
    model.load_state_dict(load_file(source / "model.safetensors"))
    moments = load_file(source / "optimizer.safetensors")
    for i, p in enumerate(model.parameters()):
        if f"{i}.exp_avg" in moments:
            names = ("step", "exp_avg", "exp_avg_sq")
            optimizer.state[p] = {k: moments[f"{i}.{k}"] for k in names}
    progress = json.loads((source / "progress.json").read_text())
    return load_file(source / "average.safetensors"), progress["spent"], progress["step"]


def main(
    minutes: float = 60.0,
    batch: int = 32,
    rate: float = 1e-3,
    decay: float = 0.999,
    seed: int = 0,
    resume: bool = False,
    bf16: bool = False,
    familiar: bool = False,
    max_steps: int = 0,
    source: Path = WORK,
    folder: Path = WORK,
    start: Path | None = None,
) -> None:
    """Train by the clock; the averaged weights go to `folder` every two minutes.

    Beside them lies all that a run resumed from there (`source`) needs.

    `--familiar` finishes on the few concepts that everyone knows: clear pictures of those are worth
    more than blurred ones of all. `--start` takes weights, tokenizer and autoencoder from an
    exported pipeline, such as the bundled one, with a fresh optimiser.
    """
    torch.manual_seed(seed)
    torch.set_flush_denormal(True)
    rng = np.random.default_rng(seed + int(resume))
    concepts = load_concepts()
    pool = np.load(WORK / "pool.npz")
    chosen = [c.familiar if familiar else not c.withheld for c in concepts]
    trained = np.array([chosen[c] for c in pool["labels"][:, 0]])
    labels = pool["labels"][trained].astype(np.int64)
    latents = encode(
        AutoencoderKL.from_pretrained(start / "vae" if start else WORK / "vae"),
        pool["images"][trained],
    )
    tokenizer, model = build(concepts, start)
    captions = Captions(concepts, tokenizer)
    print(
        f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters, {len(latents)} "
        f"pictures, {len(tokenizer)} tokens",
        flush=True,
    )
    average = {k: v.detach().clone() for k, v in model.state_dict().items()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=1e-2, betas=(0.9, 0.99))
    alphas, weights = loss_weights()
    spent, step = 0.0, 0
    if resume:
        average, spent, step = restore(source, model, optimizer)
    folder.mkdir(parents=True, exist_ok=True)
    first, began, saved, running = step, time.time() - spent, time.time(), 0.0
    while (spent := time.time() - began) < 60 * minutes and not (max_steps and step >= max_steps):
        progress = spent / (60 * minutes)
        set_rate(optimizer, rate * (1 - progress) * min(1.0, (step + 1) / 200))
        picks = rng.integers(len(latents), size=batch)
        x = latents[picks]
        # one of every stretch
        t = torch.from_numpy(1000 * (np.arange(batch) + rng.random(batch)) / batch).long()
        noise = torch.randn_like(x)
        tokens = captions.sample(labels[picks], rng)
        error = squared_error(model, x, noise, t, alphas[t], tokens, bf16)
        loss = (error * weights[t]).mean()
        take_step(optimizer, loss)
        floating = {k: v for k, v in model.state_dict().items() if v.is_floating_point()}
        update_average((average[k] for k in floating), floating.values(), step, decay)
        step += 1
        running += (error.mean().item() - running) / min(step - first, 200)
        if step % 100 == 0:
            print(
                f"{progress:6.1%} step {step} epsilon mse {running:.4f} "
                f"({(time.time() - began) / step:.3f} s a step)",
                flush=True,
            )
        if time.time() - saved > 120:
            saved = time.time()
            save(folder, model, average, optimizer, spent, step)
        if not math.isfinite(running):
            raise SystemExit("the loss is not finite")
    save(folder, model, average, optimizer, spent, step)


if __name__ == "__main__":
    typer.run(main)
