"""Stand-ins for processors of text and pictures: the real ones need torchvision or hub files."""

from collections.abc import Sequence
from typing import Any

import torch
import transformers

IMAGE_TOKEN = "<|image_pad|>"
SIDE = 56  # of every picture, in pixels, once it is resized


class PictureAndTextProcessor:
    """Tokens of texts, patches of pictures, and as many picture tokens as there are patches.

    It answers as the processors of vision language models do.

    Args:
        tokenizer: of the texts; it knows the picture's token.
        patch_size: of the vision tower, in pixels; it takes two by two patches as one token.

    """

    def __init__(self, tokenizer: Any, patch_size: int = 14) -> None:
        self.tokenizer = tokenizer
        side = SIDE // (2 * patch_size) * 2 * patch_size
        self.image_processor = transformers.Qwen2VLImageProcessorPil(
            min_pixels=side**2, max_pixels=side**2, patch_size=patch_size
        )
        self.image_token = IMAGE_TOKEN
        self.image_token_id = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)

    def __call__(
        self, text: Any = None, images: Any = None, videos: Any = None, **given: Any
    ) -> transformers.BatchFeature:
        """Inputs of the model, by name."""
        texts = [text] if isinstance(text, str) else list(text)
        found: dict[str, Any] = {}
        if images is not None:
            pictures = self.image_processor(images=_pictures(images), return_tensors="pt")
            counts = [int(grid.prod()) // 4 for grid in pictures["image_grid_thw"]]
            texts, found = _with_patches(texts, counts), dict(pictures)
        tokens = self.tokenizer(texts, **given)
        found |= dict(tokens)
        found.pop("token_type_ids", None)
        if isinstance(found["input_ids"], torch.Tensor):
            found["mm_token_type_ids"] = (found["input_ids"] == self.image_token_id).int()
        return transformers.BatchFeature(found)

    def apply_chat_template(self, messages: Any, tokenize: bool = False, **given: Any) -> Any:
        """Text or tokens of one conversation or of several."""
        given["tokenize"] = tokenize
        if tokenize and isinstance(messages[0], dict):
            messages = [messages]
        return self.tokenizer.apply_chat_template(messages, **given)

    def batch_decode(self, *args: Any, **given: Any) -> list[str]:
        """Texts of tokens."""
        return self.tokenizer.batch_decode(*args, **given)

    def decode(self, *args: Any, **given: Any) -> str:
        """The text of tokens."""
        return self.tokenizer.decode(*args, **given)


def _pictures(images: Any) -> list[Any]:
    """A flat list of pictures, on the scale that a vision tower's processor reads."""
    found: list[Any] = []
    for image in images if isinstance(images, list | tuple | torch.Tensor) else [images]:
        found.extend(_pictures(image) if isinstance(image, list | tuple) else [image])
    return [x.clamp(0, 1).mul(255).byte() if isinstance(x, torch.Tensor) else x for x in found]


def _with_patches(texts: Sequence[str], counts: Sequence[int]) -> list[str]:
    """Texts in which each picture's token stands once for each of its patches."""
    left, made = list(counts), []
    for text in texts:
        parts = text.split(IMAGE_TOKEN)
        whole = parts[0]
        for part in parts[1:]:
            whole += IMAGE_TOKEN * left.pop(0) + part
        made.append(whole)
    return made
