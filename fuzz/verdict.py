"""What came of a case, and how a command is run to find out."""

import re
import sys
import traceback
from dataclasses import dataclass

#: Good ends, and then the faults in the order of the table.
GOOD = ("worked", "refused")
FAULTS = ("traceback", "hang", "memory", "different", "nothing made", "crash")

_MESSAGE = re.compile(r"[^\W\d_]{2,}")


@dataclass(frozen=True)
class Verdict:
    """What came of a case.

    Args:
        end: one of `GOOD` or `FAULTS`.
        why: the message, the traceback or the difference.

    """

    end: str
    why: str = ""

    @property
    def good(self) -> bool:
        """Whether the input was used rightly or refused clearly."""
        return self.end in GOOD


@dataclass(frozen=True)
class Done:
    """A command that came to its end.

    Args:
        code: its exit code.
        text: what it printed, to either stream.

    """

    code: int
    text: str

    @property
    def verdict(self) -> Verdict:
        """What the exit code and the text say; what was made is for others to judge."""
        if "Traceback (most recent call last)" in self.text:
            return Verdict("traceback", self.text)
        if self.code not in (0, 2):
            return Verdict("crash", f"exit code {self.code}: {self.text}")
        if "\x1b" in self.text:
            return Verdict("different", f"a terminal escape was printed: {self.text!r}")
        if self.code == 0:
            return Verdict("worked", self.text)
        # The operating system had to refuse the memory, for the program did not.
        if "ran out of memory" in self.text:
            return Verdict("memory", self.text)
        if not _MESSAGE.search(self.text):
            return Verdict("nothing made", "exit code 2 without a word")
        return Verdict("refused", self.text)


def command(*arguments: object) -> Done:
    """Run a command in this process, whose output goes to a file; what it raises passes through."""
    from adjointdpm import cli

    sys.argv = ["adjointdpm", *map(str, arguments)]
    sys.stdout.flush()
    sys.stderr.flush()
    with open("/proc/self/fd/1", "r+b", buffering=0) as file:
        began = file.seek(0, 2)
        try:
            cli.main()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        sys.stdout.flush()
        sys.stderr.flush()
        file.seek(began)
        return Done(code, file.read().decode("utf-8", "replace"))


def raised(error: BaseException) -> Verdict:
    """The verdict on an exception that nobody turned into a message."""
    text = "".join(traceback.format_exception(error))
    memory = isinstance(error, MemoryError) or "can't allocate memory" in text
    return Verdict("memory" if memory else "traceback", text)
