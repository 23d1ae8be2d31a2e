"""What is refused of a command line before a command reads it."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from typer.core import TyperCommand

from adjointdpm.errors import InvalidInputError


def check_text(words: Sequence[str]) -> None:
    """Check that a command line is text.

    Raises:
        InvalidInputError: a word holds bytes that are not UTF-8; no result could name it, and no
            tokenizer reads it.

    """
    for number, word in enumerate(words, 1):
        try:
            word.encode("utf-8")
        except UnicodeEncodeError as error:
            raise InvalidInputError(
                f"argument {number} of the command line, {word!a}, holds bytes that are no "
                f"UTF-8 text; write it in UTF-8, or rename the file"
            ) from error


def refused_path(error: Exception) -> str | None:
    """What to say of a file or folder that the system refuses; None of any other error."""
    if str(error).startswith("Symlink loop from"):  # a RuntimeError before Python 3.13
        return f"{error}: it leads to itself; choose another file or folder"
    if not isinstance(error, OSError) or error.filename is None:
        return None
    path = error.filename.decode() if isinstance(error.filename, bytes) else str(error.filename)
    shown = path if len(path) <= 100 else f"{path[:100]}…"
    return f"{shown} cannot be used: {error.strerror}; choose another file or folder"


class Command(TyperCommand):
    """A command that takes each flag once, unless the flag is a list."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the command line.

        Raises:
            InvalidInputError: a flag that has one value is given twice.

        """
        _, _, order = self.make_parser(ctx).parse_args(args=list(args))
        for option, count in Counter(order).items():
            if count > 1 and not getattr(option, "multiple", False) and option.name != "help":
                raise InvalidInputError(
                    f"{option.opts[0]} is given {count} times, and only one of its values can be "
                    f"used; leave the others out"
                )
        return super().parse_args(ctx, args)
