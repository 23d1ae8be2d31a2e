"""Pictures of an audit: files that are written as they come, by whichever process draws them."""

from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from adjointdpm.runs.folder import png
from adjointdpm.support.files import safe_name, write_bytes
from adjointdpm.support.picture_files import read_picture


@dataclass(frozen=True)
class PictureStore:
    """The pictures in `images/`, and those to train a victim on.

    `training_pictures/CLASS/*.png` is a folder as torchvision's `ImageFolder` reads it.

    Args:
        path: the run folder.
        classes: the victim's names of its groups.

    """

    path: Path
    classes: list[str]

    def name(self, number: int, view: str) -> str:
        """The path of a picture within the run folder; `number` is that of its prompt."""
        return f"images/{number:05d}_{view}.png"

    def write(self, number: int, view: str, picture: Float[Tensor, "3 height width"]) -> str:
        """Write a picture in [0, 1]; return its path within the run folder."""
        name = self.name(number, view)
        write_bytes(self.path / name, png(picture))
        return name

    def read(self, number: int, view: str) -> Float[Tensor, "3 height width"]:
        """A picture as it was written, to the bit if it had 8 bits."""
        return read_picture(self.path / self.name(number, view))

    def add_to_training(self, number: int, view: str, group: int) -> None:
        """Copy a picture to those to train on, labelled with its true class."""
        source = self.path / self.name(number, view)
        target = self.path / "training_pictures" / self.folder_of(group) / source.name
        write_bytes(target, source.read_bytes())

    def folder_of(self, group: int) -> str:
        """The name of a class as a folder."""
        names = [safe_name(name) for name in self.classes]
        # Case is ignored: on some systems "Cat" and "cat" are one folder.
        same = [name.lower() for name in names].count(names[group].lower())
        return names[group] if same == 1 else f"{names[group]}_{group}"
