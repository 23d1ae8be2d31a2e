"""Picture files: what is read, and what is refused before it is decoded."""

import os
import random
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from adjointdpm.errors import InvalidInputError
from adjointdpm.pipelines.arguments.call_arguments import PictureFile
from adjointdpm.support.picture_files import open_picture, read_picture


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


@pytest.mark.parametrize("turned", [1, 6])
def test_gray_of_16_bits_keeps_its_tones(tmp_path, turned: int) -> None:
    values = np.linspace(0, 65535, 20 * 30).astype(np.uint16).reshape(20, 30)
    exif = Image.Exif()
    exif[0x0112] = turned
    Image.fromarray(values).save(tmp_path / "deep.png", exif=exif)
    expected = torch.from_numpy((values if turned == 1 else np.rot90(values, -1)) / 65535).float()
    picture = read_picture(tmp_path / "deep.png")
    torch.testing.assert_close(picture, expected.expand(3, -1, -1), atol=1e-6, rtol=0)
    assert abs(picture.mean().item() - 0.5) < 1e-3
    eight = torch.from_numpy(np.array(open_picture(tmp_path / "deep.png"))).permute(2, 0, 1) / 255
    torch.testing.assert_close(eight, picture, atol=0.5 / 255 + 1e-6, rtol=0)


def test_the_transparent_gray_of_16_bits_is_white(tmp_path) -> None:
    values = np.full((8, 8), 300, np.uint16)
    values[:4] = 65535 // 2
    Image.fromarray(values).save(tmp_path / "deep.png", transparency=300)
    picture = read_picture(tmp_path / "deep.png")
    torch.testing.assert_close(picture[0, :4], torch.full((4, 8), 32767 / 65535))
    assert bool((picture[:, 4:] == 1).all())


def rgb16(pixels: np.ndarray) -> bytes:
    """A PNG of 16 bits in each colour, which Pillow does not write."""
    height, width, _ = pixels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = zlib.crc32(kind + data).to_bytes(4, "big")
        return len(data).to_bytes(4, "big") + kind + data + check

    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([16, 2, 0, 0, 0])
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def test_colours_of_16_bits_are_not_clipped(tmp_path) -> None:
    pixels = np.linspace(0, 65535, 16 * 16 * 3).reshape(16, 16, 3).astype(np.uint16)
    (tmp_path / "deep.png").write_bytes(rgb16(pixels))
    expected = torch.from_numpy(pixels / 65535).permute(2, 0, 1).float()
    torch.testing.assert_close(read_picture(tmp_path / "deep.png"), expected, atol=1 / 255, rtol=0)


@pytest.mark.parametrize(
    ("mode", "color", "expected"),
    [
        ("1", 1, (1.0, 1.0, 1.0)),
        ("LA", (51, 255), (0.2, 0.2, 0.2)),
        ("LA", (0, 51), (0.8, 0.8, 0.8)),
        ("PA", None, (1.0, 0.0, 0.0)),
    ],
)
def test_every_mode_of_png_is_read_as_it_is_seen(tmp_path, mode, color, expected) -> None:
    if mode == "PA":
        picture = Image.new("P", (8, 8), 0)
        picture.putpalette([255, 0, 0, 0, 255, 0])
        picture.info["transparency"] = bytes([255, 0])
        picture.save(tmp_path / "a.png", transparency=bytes([255, 0]))
    else:
        Image.new(mode, (8, 8), color).save(tmp_path / "a.png")
    read = read_picture(tmp_path / "a.png").mean((1, 2))
    torch.testing.assert_close(read, torch.tensor(expected), atol=1e-3, rtol=0)


def test_inks_are_read_as_colours(tmp_path) -> None:
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "inks.jpg", quality=100)
    for picture in (
        read_picture(tmp_path / "inks.jpg"),
        torch.from_numpy(np.array(open_picture(tmp_path / "inks.jpg"))).permute(2, 0, 1) / 255,
    ):
        torch.testing.assert_close(
            picture.mean((1, 2)), torch.tensor([1.0, 0.0, 0.0]), atol=0.02, rtol=0
        )


def test_pipes_and_devices_are_refused_at_once(tmp_path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    for path in (tmp_path / "pipe.png", "/dev/zero"):
        with pytest.raises(InvalidInputError, match="no regular file"):
            read_picture(path)


def test_a_pictures_argument_is_read_alike_and_its_code_opens_the_same(tmp_path) -> None:
    clear, plain = tmp_path / "clear.png", tmp_path / "plain.png"
    Image.new("RGBA", (8, 8), (0, 0, 255, 0)).save(clear)
    Image.fromarray(colors()).save(plain)
    for path in (clear, plain):
        file = PictureFile(str(path))
        found = torch.from_numpy(np.array(file.picture)).permute(2, 0, 1) / 255
        torch.testing.assert_close(found, read_picture(path))
        imports, expression = file.as_code()
        names: dict = {}
        exec(imports, names)
        assert eval(expression, names).tobytes() == file.picture.tobytes()
    assert "adjointdpm" not in "".join(PictureFile(str(plain)).as_code())
