"""What an audit finds, written as it comes: a line for each example, and sums for the curve."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adjointdpm.errors import OutputError
from adjointdpm.runs.folder import RunFolder
from adjointdpm.support.strict_json import strict_json
from adjointdpm.tasks.audit.block_attack import Cost
from adjointdpm.tasks.audit.setting import Setting
from adjointdpm.tasks.audit.shared_blocks import SharedBlocks
from adjointdpm.tasks.confidence_intervals import share_interval

FINDINGS = "findings.jsonl"


@dataclass
class Tally:
    """Sums over the examples of one target and budget; no example is kept.

    Args:
        target, budget: of the attack.
        count: examples.
        sums: by name.
        naturalness: by name.

    """

    target: str | None
    budget: float
    count: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    naturalness: dict[str, float] = field(default_factory=dict)
    history: list[int] = field(default_factory=list)

    def add(self, row: dict[str, Any]) -> None:
        """Take in what was found for an example."""
        self.count += 1
        hits = {
            "success": row["success"],
            "fooled": row["fooled"],
            "agrees": row["fooled"] and row["judge_agrees"],
            "random": row.get("random_search", False),
            "known": row["transfer"] is not None,
            "transfers": row["transfer"] or False,
            "steps": row["steps"],
        }
        for name, value in hits.items():
            self.sums[name] = self.sums.get(name, 0) + (value or 0)
        for name, value in row["naturalness"].items():
            self.naturalness[name] = self.naturalness.get(name, 0.0) + abs(value)

    def add_history(self, fooled: Sequence[int], length: int) -> None:
        """Take in how many of a block were fooled before each step; the last number stays."""
        padded = [fooled[min(i, len(fooled) - 1)] for i in range(length)]
        self.history = [a + b for a, b in zip(self.history or [0] * length, padded, strict=True)]

    def row(self, setting: Setting, calls: int, cost: Cost, budgets: int) -> dict[str, Any]:
        """A row of `success`; the cost is that of this budget and the smaller ones."""
        count, sums = self.count, self.sums
        found = {
            "target": self.target,
            "budget": self.budget,
            "rate": sums["success"] / count,
            "interval": share_interval(int(sums["success"]), count),
            "examples": count,
            "fooled": sums["fooled"] / count,
            "random_search": None,
            "transfer": None,
            "transfer_of": None,
            "judge_agrees": None,
            "iterations": sums["steps"] / count,
            "naturalness": {key: value / count for key, value in self.naturalness.items()},
            "network_calls": calls,
            "forward_equivalents": budgets * cost.pictures,
        }
        if setting.recognise is not None:
            found["judge_agrees"] = sums["agrees"] / max(1, sums["fooled"])
        if setting.second is not None:
            known = int(sums["known"])
            found |= {"transfer": sums["transfers"] / max(1, known), "transfer_of": known}
        if setting.config.random_search:
            found |= {
                "random_search": sums["random"] / count,
                "random_tries": budgets * cost.tries,
                "random_interval": share_interval(int(sums["random"]), count),
            }
        return found


class FindingsLog:
    """`findings.jsonl` and `history.jsonl`, written block by block; the main process keeps them."""

    def __init__(
        self, folder: RunFolder, setting: Setting, shared: SharedBlocks, names: Sequence[str]
    ) -> None:
        self.folder, self.setting, self.shared, self.names = folder, setting, shared, names
        self.path = folder.path / FINDINGS
        self.tallies = {view: Tally(t.name, b) for t, b, view in setting.views}
        self.calls = dict.fromkeys(self.tallies, 0)
        self.network_calls, self.written = 0, 0

    def catch_up(self) -> None:
        """Write what is new, in the order of the blocks.

        Raises:
            OutputError: the file cannot be written.

        """
        if not self.folder.writable:
            return
        new = []
        while self.written + len(new) < len(self.names):
            name = self.names[self.written + len(new)]
            if not self.shared.done(name):
                break
            new.append(self.shared.facts(name))
        if not new:
            return
        try:
            with self.path.open("a" if self.written else "w", encoding="utf-8") as file:
                for facts in new:
                    file.writelines(strict_json(row) + "\n" for row in facts["findings"])
        except OSError as error:
            raise OutputError(f"cannot write {self.path}: {error}") from error
        for facts in new:
            self._sum_up(facts)
        self.written += len(new)
        self.folder.write_history(self.history())

    def _sum_up(self, facts: dict[str, Any]) -> None:
        self.network_calls += facts["calls"]
        for finding in facts["findings"]:
            for row in finding["attacks"]:
                self.tallies[row["view"]].add(row)
        for view, fooled in facts["history"].items():
            self.tallies[view].add_history(fooled, self.setting.config.iterations + 1)
            self.calls[view] += facts["calls_by_view"][view]

    def history(self) -> list[dict[str, Any]]:
        """How many examples are fooled before each step, by target and budget."""
        records = []
        for tally in self.tallies.values():
            targeted = {} if tally.target is None else {"target": tally.target}
            for iteration, fooled in enumerate(tally.history):
                step = {"budget": tally.budget, "iteration": iteration, "fooled": fooled}
                records.append(targeted | step)
                if fooled == tally.count:
                    break
        return records

    def rows(self, cost: Cost) -> list[dict[str, Any]]:
        """What `result.json` calls `success`: a row for each target and budget."""
        budgets = self.setting.config.budget
        return [
            tally.row(self.setting, self.calls[view], cost, 1 + budgets.index(tally.budget))
            for view, tally in self.tallies.items()
        ]

    def findings(self) -> Iterator[dict[str, Any]]:
        """The lines of the file."""
        return read_findings_file(self.path)


def read_findings_file(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of `findings.jsonl`, one after the other."""
    with path.open(encoding="utf-8") as file:
        yield from map(json.loads, file)
