"""CLIP: pictures and texts in one space.

Radford et al. (2021, arXiv 2103.00020); from a user's own folder or hub id.
"""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from adjointdpm.errors import ModelError
from adjointdpm.metrics.networks.model_files import WEIGHTS, check_folder, located, read_weights
from adjointdpm.metrics.networks.open_clip_names import has_open_clip_names, renamed_open_clip
from adjointdpm.metrics.networks.preprocessing import Preprocessing
from adjointdpm.metrics.networks.prompt_reader import PromptReader
from adjointdpm.support.hub import is_reachable
from adjointdpm.support.quiet_loading import quiet_loading

_WHAT = "a CLIP model"
_TOKENIZER = ("tokenizer.json", "vocab.json+merges.txt")
_CONVERSION = (
    "convert it once, if you trust it: transformers.CLIPModel.from_pretrained({folder!r}, "
    "use_safetensors=False).save_pretrained({target!r})"
)


class Clip(nn.Module):
    """The two encoders of a CLIP model in transformers' layout; only safetensors are read.

    The weights may also bear the names of OpenCLIP, in a folder's `model.safetensors`.

    Args:
        source: a folder, which causes no network access, or a hub id "owner/model".

    Attributes:
        size: pixels a side that the network takes.
        reader: of texts.

    Raises:
        ModelError: there is no CLIP model, it lacks a file or a tensor, or is pickled; or neither a
            folder nor what could be a hub id, see `is_hub_id`.

    """

    def __init__(self, source: str | Path) -> None:
        super().__init__()
        from transformers import CLIPTokenizer

        where, local = located(source, _WHAT)
        if local:
            advice = _CONVERSION.format(folder=where, target=where)
            check_folder(where, _WHAT, ["config.json"], WEIGHTS, _TOKENIZER, conversion=advice)
        try:
            self.model: Any = _model(where, local)
            tokenizer = CLIPTokenizer.from_pretrained(
                where, local_files_only=local or not is_reachable()
            )
        except (OSError, ValueError, TypeError, KeyError, RuntimeError, SafetensorError) as error:
            if isinstance(error, ModelError):
                raise
            advice = _CONVERSION.format(folder=where, target="converted")
            hint = (
                "" if local else f"; pickled weights are never read; {advice}, tokenizer beside it"
            )
            raise ModelError(
                f"{str(source)!r} is no folder or hub id of a CLIP model in transformers' layout "
                f"with safetensors: {error}{hint}"
            ) from error
        config = self.model.config
        self.reader = PromptReader(tokenizer, config.text_config.max_position_embeddings)
        self.size: int = config.vision_config.image_size
        self._settings = _processor_settings(where, local)
        self.eval().requires_grad_(False)

    @cached_property
    def preprocessing(self) -> Preprocessing:
        """What the model's own processor does, from `preprocessor_config.json`; else as OpenAI's.

        Raises:
            ModelError: it does something that cannot be followed.

        """
        return Preprocessing.read(self._settings, self.size)

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B D"]:
        """Unit vectors of images in [0, 1] of at least 8×8 pixels, squashed to a square."""
        return self.image_vectors(images, Preprocessing(self.size, "squash"))

    def image_vectors(
        self, images: Float[Tensor, "B 3 H W"], preprocessing: Preprocessing | None = None
    ) -> Float[Tensor, "B D"]:
        """Unit vectors of images in [0, 1] of at least 8×8 pixels; by default cropped as usual."""
        pixels = (preprocessing or self.preprocessing)(images)
        return F.normalize(self.model.get_image_features(pixels).pooler_output, dim=1)

    def encode(self, text: str) -> Float[Tensor, " D"]:
        """Unit vector of a text, which is cut off where the model's context ends."""
        return self.text_vectors([text], "similarity")[0]

    @torch.no_grad()
    def text_vectors(self, texts: Sequence[str], metric: str) -> Float[Tensor, "B D"]:
        """Unit vectors of texts; see `PromptReader` for those that are too long."""
        tokens = self.reader(texts, metric)
        features = self.model.get_text_features(**tokens.to(self.model.device)).pooler_output
        return F.normalize(features, dim=1)

    def cosines(
        self,
        images: Float[Tensor, "B 3 H W"],
        texts: Sequence[str],
        metric: str,
        preprocessing: Preprocessing | None = None,
    ) -> Float[Tensor, " B"]:
        """Cosine of each picture with its text."""
        return (self.image_vectors(images, preprocessing) * self.text_vectors(texts, metric)).sum(1)

    @property
    def logit_scale(self) -> Tensor:
        """What CLIP multiplies cosines by."""
        return self.model.logit_scale.exp()


def _model(where: str, local: bool) -> Any:
    """The `CLIPModel`, with every tensor from the file."""
    from transformers import CLIPConfig, CLIPModel

    given: dict[str, Any] = {
        "use_safetensors": True,
        "local_files_only": local or not is_reachable(),
    }
    given["dtype"] = torch.float32
    path = Path(where, WEIGHTS[0])
    if local and path.is_file():
        with safe_open(path, "pt") as file:
            names = set(file.keys())
        if has_open_clip_names(names):
            state = renamed_open_clip(read_weights(path, _WHAT))
            config = CLIPConfig.from_pretrained(where)
            given = {"state_dict": state, "config": config, "dtype": torch.float32}
    with quiet_loading(progress=False):
        loaded: Any = CLIPModel.from_pretrained(
            None if "state_dict" in given else where, output_loading_info=True, **given
        )
        model, info = loaded
    if missing := sorted({*info["missing_keys"], *(key[0] for key in info["mismatched_keys"])}):
        raise ModelError(
            f"{where!r}: the weights of the CLIP model lack {', '.join(missing[:3])}"
            f"{' and others' if len(missing) > 3 else ''}, or have them in another shape"
        )
    return model


def _processor_settings(where: str, local: bool) -> dict[str, Any]:
    """What `preprocessor_config.json` says; nothing if there is none."""
    from transformers import ImageProcessingMixin

    try:
        return ImageProcessingMixin.get_image_processor_dict(
            where, local_files_only=local or not is_reachable()
        )[0]
    except OSError:
        return {}
