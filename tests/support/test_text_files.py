"""Text files of every encoding: read as what they say, or refused by name."""

import os
from pathlib import Path

import pytest

from adjointdpm.cli.prompts import PromptSource
from adjointdpm.errors import InvalidInputError, PromptError
from adjointdpm.support.text_files import LARGEST, read_lines, read_text

TEXT = "# a list\na fox\nein Wölfchen\n"


def write(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    return str(path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_prompts_are_the_same_whatever_editor_saved_them(tmp_path, encoding, end) -> None:
    file = write(tmp_path / "p.txt", TEXT.replace("\n", end).encode(encoding))
    assert PromptSource(file).read() == ["a fox", "ein Wölfchen"]


def test_marks_in_files_that_were_put_together_are_left_out(tmp_path) -> None:
    content = "a fox\n".encode("utf-8-sig") + "# of the second file\n".encode("utf-8-sig")
    file = write(tmp_path / "p.txt", content + "an owl\n".encode("utf-8-sig"))
    assert PromptSource(file).read() == ["a fox", "an owl"]


def test_only_line_ends_part_prompts(tmp_path) -> None:
    file = write(tmp_path / "p.txt", "a fox\u2028in snow\n\u3000an owl\x0cat night\n".encode())
    assert PromptSource(file).read() == ["a fox\u2028in snow", "an owl\x0cat night"]


@pytest.mark.parametrize(
    ("encoding", "message"),
    [
        ("utf-16", "it is UTF-16; save the file as UTF-8"),
        ("utf-32", "it is UTF-32; save the file as UTF-8"),
        ("utf-16-le", "zero bytes.*save the file as UTF-8|not UTF-8"),
        ("latin-1", r"line 3 is not UTF-8 \(byte 0xf6\); save the file as UTF-8"),
    ],
)
def test_other_encodings_say_what_to_do(tmp_path, encoding: str, message: str) -> None:
    file = write(tmp_path / "p.txt", TEXT.encode(encoding))
    with pytest.raises(PromptError, match=message) as caught:
        PromptSource(file).read("--held-out")
    assert str(caught.value).startswith(f"--held-out {file}")


def test_what_never_ends_is_not_read(tmp_path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/zero", tmp_path):
        with pytest.raises(InvalidInputError, match="no regular file"):
            read_text(path, "--prompts")
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(LARGEST + 1)
    with pytest.raises(InvalidInputError, match=f"{LARGEST + 1} bytes; more than {LARGEST}"):
        read_lines(tmp_path / "huge", "--prompts")
    with pytest.raises(InvalidInputError, match="cannot be read: No such file"):
        read_text(tmp_path / "none", "--prompts")
    with pytest.raises(InvalidInputError, match="cannot be read"):
        read_text("a\0b", "--prompts")
