"""Loading what a run has learned into a pipeline: a token, or a LoRA."""

from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from adjointdpm.errors import InvalidInputError, UnsupportedError
from adjointdpm.support.checks import check_number

TOKEN, LORA = "learned_embeds.safetensors", "pytorch_lora_weights.safetensors"
_ADAPTER = "learned"


def load_learned(pipe: Any, path: Path, strength: float = 1.0) -> None:
    """Load a run's token or LoRA into a pipeline, by the pipeline's own loaders.

    Args:
        pipe: of diffusers; it is changed.
        path: the run folder, or the file in it.
        strength: of a LoRA: 1 is what was learned, 0 the untouched model.

    Raises:
        InvalidInputError: no such file there, or a strength for a token.
        UnsupportedError: the pipeline has no loader for it.

    """
    check_number("strength", strength)
    files = [path] if path.is_file() else [path / TOKEN, path / LORA]
    found = next((file for file in files if file.is_file() and file.name in (TOKEN, LORA)), None)
    if found is None:
        raise InvalidInputError(f"{path} holds neither {TOKEN} nor {LORA}; name a run that has one")
    loader = "load_textual_inversion" if found.name == TOKEN else "load_lora_weights"
    if not hasattr(pipe, loader):
        raise UnsupportedError(
            f"{type(pipe).__name__} has no {loader}, so {found} cannot be loaded into it; the "
            f"run's report has lines that do"
        )
    if found.name == LORA:
        pipe.load_lora_weights(str(found.parent), weight_name=LORA, adapter_name=_ADAPTER)
        pipe.set_adapters([_ADAPTER], [strength])
        return
    if strength != 1:
        raise InvalidInputError(f"strength={strength:g} is for a LoRA; a token is there or not")
    pipe.load_textual_inversion(str(found), token=_token(found))


def _token(path: Path) -> str:
    """The token that a file of one text encoder holds."""
    try:
        with safe_open(str(path), "pt") as file:
            names, facts = list(file.keys()), file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise InvalidInputError(f"{path} cannot be read: {error}") from error
    if len(names) != 1:
        raise UnsupportedError(
            f"{path} holds vectors for {len(names)} text encoders ({', '.join(sorted(names))}); "
            f"the run's report has lines that load them"
        )
    return facts.get("token", names[0])
