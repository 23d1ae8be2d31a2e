"""What a model's folder holds in place of the weights that were asked for, in words."""

import re
from collections.abc import Iterable
from pathlib import Path

from safetensors import SafetensorError, safe_open

from adjointdpm.errors import ModelError

SAFE = "safetensors"
_WEIGHTS = re.compile(
    r"(?:diffusion_pytorch_model|pytorch_model|model)"
    r"(?:\.(?P<variant>[A-Za-z]\w*))?(?:-\d+-of-\d+)?(?:\.(?P<late>[A-Za-z]\w*))?"
    r"\.(?P<kind>safetensors|bin)"
)


def missing_weights(source: str, parts: Iterable[str], variant: str | None) -> str:
    """Why parts of a folder have no weights to load, and what to do; "" if all have.

    Args:
        source: the folder of a pipeline.
        parts: the names of its networks.
        variant: of the weights that were asked for.

    """
    names = {part: _weight_files(Path(source) / part) for part in parts}
    variants = {v for files in names.values() for v, kind in files.values() if kind == SAFE}
    if variant is not None and variant not in variants:
        known = ", ".join(repr(v) for v in sorted(filter(None, variants)))
        return f"it has no variant {variant!r}; " + (
            f"choose {known}, or none" if known else "leave the variant out"
        )
    advice: dict[str, list[str]] = {}
    for part, files in names.items():
        if not any(kind == SAFE and v in (variant, None) for v, kind in files.values()):
            advice.setdefault(_advice(source, files), []).append(part)
    return "; ".join(f"{', '.join(found)}: {text}" for text, found in advice.items())


def check_readable(source: str, parts: Iterable[str]) -> None:
    """Check that the weight files of a folder are whole, by their headers and sizes.

    Raises:
        ModelError: one is not; the message names it.

    """
    for part in parts:
        for file in sorted((Path(source) / part).glob(f"*.{SAFE}")):
            try:
                with safe_open(file, "pt"):
                    pass
            except (SafetensorError, OSError) as error:
                raise ModelError(
                    f"{file} is damaged or cut off ({error}); save or download it again"
                ) from error


def check_regular(source: str) -> None:
    """Check that a folder holds files and folders only: a pipe or a device is read for ever.

    Raises:
        ModelError: something else is in it; the message names it.

    """
    for path in sorted(Path(source).rglob("*")):
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise ModelError(f"{path} is no file but a pipe or device, which may never end")


def _advice(source: str, files: dict[str, tuple[str | None, str]]) -> str:
    """What to do about a part without the weights that were asked for."""
    others = sorted(v for v, kind in files.values() if kind == SAFE and v is not None)
    if others:
        return (
            f"weights of variant {others[0]!r} only; load them with variant={others[0]!r} "
            f"(--variant {others[0]})"
        )
    if not files:
        return "no weight files (.safetensors)"
    return (
        "weights in .bin files only, which are pickles and are never read; if you trust them, "
        f'convert them once: diffusers.DiffusionPipeline.from_pretrained("{source}", '
        'use_safetensors=False).save_pretrained("converted")'
    )


def _weight_files(folder: Path) -> dict[str, tuple[str | None, str]]:
    """The variant and the kind of each weight file in a folder."""
    names = sorted(file.name for file in folder.glob("*"))
    return {name: _read(name) for name in names if _WEIGHTS.fullmatch(name)}


def _read(name: str) -> tuple[str | None, str]:
    """The variant and the kind of a weight file."""
    match = _WEIGHTS.fullmatch(name)
    assert match is not None
    return match["variant"] or match["late"], match["kind"]
