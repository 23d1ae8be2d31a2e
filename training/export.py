# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# (diffusers annotates tuples and outputs too narrowly for its own documented use)
"""Write the bundled pipeline in half precision, for diffusers: `python -m training.export`."""

import shutil
from pathlib import Path

import torch
import typer
from diffusers import AutoencoderKL, StableDiffusionPipeline
from diffusers.utils import logging
from safetensors.torch import load_file
from transformers import CLIPTokenizer

from training.concepts import load_concepts
from training.data import WORK
from training.steps import forget_source
from training.text_unet import (
    MAX_TOKENS,
    build_scheduler,
    build_text_encoder,
    build_tokenizer,
    build_unet,
)
from training.vae import build

TINY = Path(__file__).parents[1] / "src" / "adjointdpm" / "pipelines" / "tiny"
LIMIT = 25_000_000  # bytes, of everything in the folder


def pipeline(untrained: bool = False, folder: Path = WORK) -> StableDiffusionPipeline:
    """The pipeline with the averaged weights in `folder`; what is untrained gets fresh ones."""
    if (WORK / "tokenizer").exists() and not untrained:
        tokenizer = load_tokenizer(WORK / "tokenizer")
    else:
        tokenizer = build_tokenizer(
            [c for c in load_concepts() if not c.withheld], WORK / "tokenizer"
        )
    text_encoder, unet = build_text_encoder(tokenizer), build_unet()
    if not untrained:
        weights = load_file(folder / "average.safetensors")
        for name, module in {"text_encoder": text_encoder, "unet": unet}.items():
            module.load_state_dict(
                {
                    k.removeprefix(f"{name}."): v
                    for k, v in weights.items()
                    if k.startswith(f"{name}.")
                }
            )
    vae = AutoencoderKL.from_pretrained(WORK / "vae") if (WORK / "vae").exists() else build()
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        image_encoder=None,
        requires_safety_checker=False,
    )


def load_tokenizer(folder: Path) -> CLIPTokenizer:
    """The tokenizer from its vocabulary and merges."""
    return CLIPTokenizer(
        str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=MAX_TOKENS
    )


def main(untrained: bool = False, folder: Path = WORK) -> None:
    """Write to a temporary folder, move each part into place, and refuse a large folder."""
    logging.set_verbosity_error()
    temporary = WORK / "tiny.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    pipeline(untrained, folder).to(torch.float16).save_pretrained(
        temporary, safe_serialization=True
    )
    # transformers loads in the dtype named here, diffusers in float32
    config = temporary / "text_encoder" / "config.json"
    config.write_text(config.read_text().replace('"dtype": "float16"', '"dtype": "float32"'))
    forget_source(temporary / "vae" / "config.json")
    for name in ("vocab.json", "merges.txt"):  # for readers without `tokenizers`
        shutil.copy(WORK / "tokenizer" / name, temporary / "tokenizer" / name)
    for source in sorted(temporary.rglob("*")):
        target = TINY / source.relative_to(temporary)
        if source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            source.replace(target)
    shutil.rmtree(temporary)
    size = sum(f.stat().st_size for f in TINY.rglob("*") if f.is_file())
    print(f"{TINY}: {size:,} bytes")
    if size > LIMIT:
        raise SystemExit(f"the folder holds {size:,} bytes, more than {LIMIT:,}")


if __name__ == "__main__":
    typer.run(main)
