"""What a page may send, and what is refused."""

import os
from pathlib import Path

import pytest
from PIL import Image

from adjointdpm.app import security
from adjointdpm.errors import InvalidInputError


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../x", "a/b", "/etc", "..\\x", ".app", "a\0b", "a/../../x"],
)
def test_a_run_is_a_folder_directly_below_the_runs(tmp_path, name):
    with pytest.raises(InvalidInputError):
        security.run_folder(tmp_path, name)


def test_a_link_that_leads_out_of_the_runs_is_no_run(tmp_path):
    runs = tmp_path / "runs"
    runs.mkdir()
    (runs / "link").symlink_to(tmp_path)
    with pytest.raises(InvalidInputError, match="outside"):
        security.run_folder(runs, "link")
    assert security.run_folder(runs, "mine") == runs / "mine"


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "images/../../secret", "a\0b"])
def test_what_a_run_names_stays_inside_it(tmp_path, name):
    with pytest.raises(InvalidInputError):
        security.inside(tmp_path, name)
    assert security.inside(tmp_path, "images/a.png") == tmp_path / "images" / "a.png"


def test_names_are_new_and_hold_nothing_but_words(tmp_path):
    name = security.new_name(tmp_path, "guide", "../../etc/passwd; rm -rf <b>")
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
    (tmp_path / name).mkdir()
    assert security.new_name(tmp_path, "guide", "../../etc/passwd; rm -rf <b>") == f"{name}-2"
    assert security.new_name(tmp_path, "guide", "日本語" * 50)


def test_an_upload_is_written_anew_as_a_picture(tmp_path):
    source = tmp_path / "in.jpg"
    exif = Image.Exif()
    exif[0x010E] = "a secret description"
    Image.new("RGB", (20, 10), "red").save(source, exif=exif)
    kept = security.kept_picture(tmp_path / "uploads", source)
    assert kept.parent == tmp_path / "uploads"
    assert kept.suffix == ".png"
    assert b"secret" not in kept.read_bytes()
    with Image.open(kept) as image:
        assert image.size == (20, 10)
    assert security.kept_picture(tmp_path / "uploads", source) == kept


def test_an_upright_picture_stays_upright(tmp_path):
    source = tmp_path / "in.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.new("RGB", (20, 10)).save(source, exif=exif)
    with Image.open(security.kept_picture(tmp_path, source)) as image:
        assert image.size == (10, 20)


@pytest.mark.parametrize("content", [b"", b"<svg onload=alert(1)>", b"import os", b"GIF89a" * 9])
def test_what_is_no_picture_is_refused(tmp_path, content):
    source = tmp_path / "x.png"
    source.write_bytes(content)
    with pytest.raises(InvalidInputError, match="picture"):
        security.kept_picture(tmp_path / "uploads", source)
    assert not (tmp_path / "uploads").exists()


def test_a_picture_of_another_format_is_refused(tmp_path):
    source = tmp_path / "x.png"
    Image.new("RGB", (20, 20)).save(source, "BMP")
    with pytest.raises(InvalidInputError):
        security.kept_picture(tmp_path / "uploads", source)


def test_pictures_that_would_fill_the_memory_are_refused_unread(tmp_path, monkeypatch):
    source = tmp_path / "x.png"
    Image.new("1", (5000, 4000)).save(source)
    with pytest.raises(InvalidInputError, match="megapixels"):
        security.kept_picture(tmp_path / "uploads", source)
    monkeypatch.setattr(security, "LARGEST_UPLOAD", 10)
    with pytest.raises(InvalidInputError, match="MB"):
        security.kept_picture(tmp_path / "uploads", source)


def test_a_fifo_in_the_place_of_a_picture_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "x.png")
    with pytest.raises(InvalidInputError):
        security.kept_picture(tmp_path / "uploads", tmp_path / "x.png")


@pytest.mark.parametrize("text", ["a\x1b[31mb", "a\0b", "x" * 30_000])
def test_texts_hold_what_a_form_can_make(text):
    with pytest.raises(InvalidInputError):
        security.checked_text(text, "the prompt")
    assert security.checked_text("  a cat \n", "the prompt") == "a cat"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.8.0.1"])
def test_this_machine_needs_no_password(host):
    assert security.is_loopback(host)
    assert security.password_for(host, None) is None


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.4", "example.org", ""])
def test_every_other_address_has_one(host):
    assert not security.is_loopback(host)
    made = [security.password_for(host, None) for _ in range(2)]
    assert made[0] != made[1]
    assert all(password is not None and len(password) >= 12 for password in made)
    assert security.password_for(host, "correct horse") == "correct horse"
    with pytest.raises(InvalidInputError, match="8 characters"):
        security.password_for(host, "short")


def test_run_folder_of_a_path_object(tmp_path):
    assert security.run_folder(Path(tmp_path), "a-b_c 1") == tmp_path / "a-b_c 1"
