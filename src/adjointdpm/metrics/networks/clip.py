"""CLIP: pictures and texts in one space.

Radford et al. (2021, arXiv 2103.00020); from a user's own folder or hub id.
"""

from pathlib import Path
from typing import Any

import torch.nn.functional as F
from jaxtyping import Float
from safetensors import SafetensorError
from torch import Tensor, nn

from adjointdpm.errors import ModelError
from adjointdpm.metrics.networks.resize import resized
from adjointdpm.support.hub import is_hub_id, why_no_hub_id

# Mean and standard deviation of the pixels, R, G, B, with which all of OpenAI's and most others'
# CLIP models were trained.
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


class Clip(nn.Module):
    """The two encoders of a CLIP model in transformers' layout; only safetensors are read.

    Args:
        source: a folder, which causes no network access, or a hub id "owner/model".

    Raises:
        ModelError: there is no CLIP model; or neither a folder nor what could be a hub id, see
            `is_hub_id`.

    """

    def __init__(self, source: str | Path) -> None:
        super().__init__()
        local = Path(source).expanduser().is_dir()
        if not local and not is_hub_id(str(source)):
            raise ModelError(
                f"there is no folder {str(source)!r} with a CLIP model; "
                f"{why_no_hub_id(str(source))}"
            )
        from transformers import CLIPModel, CLIPTokenizer

        where = str(Path(source).expanduser()) if local else str(source)
        try:
            self.model: Any = CLIPModel.from_pretrained(
                where, use_safetensors=True, local_files_only=local
            )
            self.tokenizer = CLIPTokenizer.from_pretrained(where, local_files_only=local)
        except (OSError, ValueError, TypeError, KeyError, RuntimeError, SafetensorError) as error:
            raise ModelError(
                f"{str(source)!r} is no folder or hub id of a CLIP model in transformers' layout: "
                f"{error}"
            ) from error
        self.eval().requires_grad_(False)

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B D"]:
        """Unit vectors of images in [0, 1] of at least 8×8 pixels."""
        mean, std = (images.new_tensor(values).view(3, 1, 1) for values in (MEAN, STD))
        pixels = (
            resized(images, self.model.config.vision_config.image_size, "bicubic") - mean
        ) / std
        return F.normalize(self.model.get_image_features(pixels).pooler_output, dim=1)

    def encode(self, text: str) -> Float[Tensor, " D"]:
        """Unit vector of a text, which is cut off where the model's context ends."""
        tokens = self.tokenizer(
            text,
            truncation=True,
            max_length=self.model.config.text_config.max_position_embeddings,
            return_tensors="pt",
        )
        return F.normalize(
            self.model.get_text_features(**tokens.to(self.model.device)).pooler_output[0], dim=0
        )
