"""The files of a metric's model: in the user's folder or on the hub; only safetensors are read."""

from collections.abc import Sequence
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from adjointdpm.errors import ModelError
from adjointdpm.support.hub import is_hub_id, is_reachable, why_no_hub_id

_PICKLES = (".bin", ".pt", ".pth", ".ckpt")
WEIGHTS = ("model.safetensors", "model.safetensors.index.json")

#: What to do with a pickled state dict that one trusts; it runs outside this library.
CONVERSION = (
    "convert it once, if you trust it: state = torch.load({source!r}, map_location='cpu', "
    "weights_only=True); safetensors.torch.save_file({{name: value.contiguous() for name, value in "
    "state.items()}}, {target!r})"
)


def located(source: str | Path, what: str) -> tuple[str, bool]:
    """Where a model is, and whether that is a folder.

    Args:
        source: a folder, or a hub id "owner/model".
        what: the model, for the message: "a CLIP model".

    Raises:
        ModelError: neither a folder nor what could be a hub id, see `is_hub_id`.

    """
    folder = Path(source).expanduser()
    if folder.is_dir():
        return str(folder), True
    if not is_hub_id(str(source)):
        raise ModelError(
            f"there is no folder {str(source)!r} with {what}; {why_no_hub_id(str(source))}"
        )
    return str(source), False


def check_folder(
    folder: str | Path, what: str, *needed: Sequence[str], conversion: str = ""
) -> None:
    """Raise ModelError unless a folder holds what is needed, of each of `needed` one alternative.

    An alternative may be several files, with a "+" between them. If weights are missing and there
    are pickled ones, the message says how to convert them.

    Args:
        folder: where the files must be.
        what: the model, for the message.
        needed: names of files.
        conversion: how to convert pickled weights; by default by hand.

    """
    names = {file.name for file in Path(folder).iterdir()}
    for alternatives in needed:
        if any(names >= {*alternative.split("+")} for alternative in alternatives):
            continue
        pickled = sorted(name for name in names if name.endswith(_PICKLES))
        if pickled and alternatives[0].endswith(".safetensors"):
            source, target = (str(Path(folder) / name) for name in (pickled[0], alternatives[0]))
            raise ModelError(
                f"{str(folder)!r} holds {what} as a pickle only ({pickled[0]}), which is never "
                f"read; {conversion or CONVERSION.format(source=source, target=target)}"
            )
        wanted = ", or ".join(name.replace("+", " and ") for name in alternatives)
        raise ModelError(f"{str(folder)!r} is no folder of {what}: it lacks {wanted}")


def read_weights(path: Path, what: str) -> dict[str, Tensor]:
    """The tensors of a safetensors file by name.

    Raises:
        ModelError: there is no such file, it is a pickle, or it cannot be read.

    """
    path = path.expanduser()
    if path.suffix in _PICKLES:
        advice = CONVERSION.format(source=str(path), target=str(path.with_suffix(".safetensors")))
        raise ModelError(f"{str(path)!r} is a pickle, which is never read; {advice}")
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{what} cannot be read from {str(path)!r}: {error}") from error


def hub_file(source: str, name: str, what: str) -> Path:
    """A file of a model on the hub, downloaded if need be.

    Raises:
        ModelError: it cannot be had.

    """
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(source, name, local_files_only=not is_reachable()))
    except Exception as error:  # the client raises errors of a dozen kinds
        raise ModelError(
            f"{source!r} on the hub gives no {name} of {what}: {type(error).__name__}: "
            f"{str(error).splitlines()[0]}; if it is a pickle there, download it, and "
            + CONVERSION.format(source="the pickle", target=name)
        ) from error
