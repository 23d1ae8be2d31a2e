"""The command line in the test's own process, and arguments of a short run."""

import sys

import pytest

from adjointdpm import cli

EMBED = (
    "embed",
    "--model",
    "model",
    "--prompts",
    "prompts.txt",
    "--metric",
    "metric.py:score",
    "--token",
    "<t>",
    "--initial",
    "fox",
    "--template",  # weights at random heed no word: a choice of the program's would be an error
    "{prompt} {token}",
)
SMALL = (
    "--steps",
    2,
    "--iterations",
    2,
    "--guidance-scale",
    2,
    "--tracker",
    "none",
    "--device",
    "cpu",
)


LISTS = ("--metric", "--tracker")


def run(monkeypatch, capsys, *arguments: object) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of the command line.

    Flags of `EMBED` and `SMALL` that are given again further on are those.
    """
    words = list(map(str, arguments))
    for constants in (EMBED[1:], SMALL):
        for flag, value in zip(constants[::2], map(str, constants[1::2]), strict=True):
            first = words.index(flag) if words.count(str(flag)) > 1 else len(words)
            if flag not in LISTS and words[first : first + 2] == [flag, value]:
                del words[first : first + 2]
    monkeypatch.setattr(sys, "argv", ["adjointdpm", *words])
    with pytest.raises(SystemExit) as exit_info:
        cli.main()
    code = exit_info.value.code
    out, err = capsys.readouterr()
    return code if isinstance(code, int) else 0, out, err
