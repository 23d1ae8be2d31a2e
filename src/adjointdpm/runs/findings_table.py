"""All findings of an audit as a table that filters and turns pages, for the report.

The rows lie in the page as JSON; a few lines of script show a page of them. Texts are set as text,
never as HTML, and pictures are files of the run folder.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from markupsafe import Markup

from adjointdpm.runs.folder import RunFolder
from adjointdpm.runs.untrusted import file_of, inside

_MOST_BYTES = 2**30
_PAGE = Path(__file__).parent / "findings_table.html"


def findings_table(folder: RunFolder, result: dict[str, Any]) -> Markup | None:
    """The table of `findings.jsonl`; None where a run has no such file.

    Raises:
        OSError, ValueError, KeyError: the file is missing, damaged, or names pictures elsewhere.

    """
    if "findings" not in result:
        return None
    rows = [
        _row(finding) for finding in _lines(file_of(folder.path, result["findings"], _MOST_BYTES))
    ]
    # "<" would end the script, or begin a comment.
    data = json.dumps(rows, separators=(",", ":")).replace("<", "\\u003c")
    return Markup(_PAGE.read_text(encoding="utf-8").replace("FINDINGS", data))


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        yield from map(json.loads, file)


def _row(finding: dict[str, Any]) -> list[Any]:
    """Prompt, seed, class and clean picture; and what came of each attack."""
    return [
        str(finding["prompt"]),
        int(finding["seed"]),
        str(finding["label"]),
        inside(finding["picture"]),
        [
            [
                "" if row["target"] is None else f"{row['target']} ",
                f"{row['budget']:g}",
                str(row["verdict"]),
                int(row["success"]),
                inside(row["picture"]),
            ]
            for row in finding["attacks"]
        ],
    ]
