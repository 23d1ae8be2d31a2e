"""Picture files: what is read, and what is refused before it is decoded."""

import random

import numpy as np
import pytest
import torch
from PIL import Image

from adjointdpm.errors import InvalidInputError
from adjointdpm.support.picture_files import read_picture


def colors(height: int = 12, width: int = 9, channels: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def test_a_png_comes_back_bit_by_bit(tmp_path) -> None:
    pixels = colors()
    Image.fromarray(pixels).save(tmp_path / "a.png")
    picture = read_picture(tmp_path / "a.png")
    assert picture.dtype == torch.float32
    torch.testing.assert_close(picture, torch.from_numpy(pixels).permute(2, 0, 1) / 255)
    torch.testing.assert_close(read_picture(str(tmp_path / "a.png")), picture)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_other_formats_are_read_whatever_the_files_are_called(tmp_path, kind) -> None:
    Image.new("RGB", (16, 8), (255, 128, 0)).save(tmp_path / "a.bin", kind)
    picture = read_picture(tmp_path / "a.bin")
    assert picture.shape == (3, 8, 16)
    torch.testing.assert_close(
        picture.mean((1, 2)), torch.tensor([1.0, 0.5, 0.0]), atol=0.03, rtol=0
    )


def test_transparency_is_laid_on_white_and_gray_becomes_rgb(tmp_path) -> None:
    Image.new("RGBA", (8, 8), (0, 0, 255, 0)).save(tmp_path / "clear.png")
    Image.new("RGBA", (8, 8), (0, 0, 0, 51)).save(tmp_path / "faint.png")
    Image.new("L", (8, 8), 51).save(tmp_path / "gray.png")
    palette = Image.new("P", (8, 8), 0)
    palette.putpalette([255, 0, 0])
    palette.save(tmp_path / "palette.png", transparency=0)
    values = [
        read_picture(tmp_path / f"{name}.png").mean((1, 2)).tolist()
        for name in ("clear", "faint", "gray", "palette")
    ]
    torch.testing.assert_close(
        torch.tensor(values), torch.tensor([[1.0] * 3, [0.8] * 3, [0.2] * 3, [1.0] * 3])
    )


def test_a_photograph_is_turned_upright(tmp_path) -> None:
    pixels = colors()
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    upright = torch.from_numpy(np.rot90(pixels, -1).copy()).permute(2, 0, 1) / 255
    torch.testing.assert_close(read_picture(tmp_path / "a.png"), upright)


def test_files_that_are_no_pictures_are_refused_by_name(tmp_path) -> None:
    with pytest.raises(InvalidInputError, match=r"none\.png does not exist"):
        read_picture(tmp_path / "none.png")
    with pytest.raises(InvalidInputError, match="does not exist"):
        read_picture(tmp_path)
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(InvalidInputError, match=r"text\.png cannot be read as PNG, JPEG, WEBP"):
        read_picture(tmp_path / "text.png")
    Image.new("RGB", (9, 9)).save(tmp_path / "a.bmp")
    with pytest.raises(InvalidInputError, match="cannot be read"):
        read_picture(tmp_path / "a.bmp")


def test_sizes_are_checked_in_the_header(tmp_path, monkeypatch) -> None:
    Image.new("RGB", (1, 1)).save(tmp_path / "dot.png")
    with pytest.raises(InvalidInputError, match="1×1 pixels; it needs at least 8×8"):
        read_picture(tmp_path / "dot.png")
    Image.new("1", (4001, 4000)).save(tmp_path / "large.png")
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    with pytest.raises(InvalidInputError, match="4001×4000 pixels; more than 16 megapixels"):
        read_picture(tmp_path / "large.png")


def test_a_decompression_bomb_is_refused(tmp_path) -> None:
    Image.new("1", (20000, 20000)).save(tmp_path / "bomb.png")
    assert (tmp_path / "bomb.png").stat().st_size < 100_000
    with pytest.raises(InvalidInputError, match=r"bomb\.png"):
        read_picture(tmp_path / "bomb.png")


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, about the damage
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_damaged_files_are_read_or_refused_but_never_anything_else(tmp_path, kind) -> None:
    file, draw = tmp_path / "a", random.Random(0)
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "title"
    Image.fromarray(colors(30, 40)).save(file, kind, exif=exif)
    whole, refused = file.read_bytes(), 0
    for i in range(200):
        damaged = bytearray(whole[: draw.randrange(len(whole))] if i % 2 else whole)
        for _ in range(draw.randrange(1, 8) if damaged and not i % 2 else 0):
            damaged[draw.randrange(min(len(damaged), 200))] = draw.randrange(256)
        file.write_bytes(damaged)
        try:
            assert read_picture(file).isfinite().all()
        except InvalidInputError:
            refused += 1
    assert refused > 50
