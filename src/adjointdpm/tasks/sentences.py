"""Sentences that place a new token in a prompt: what was seen of each, and the one that is used."""

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from adjointdpm.errors import CheckpointError
from adjointdpm.runs.folder import RunFolder
from adjointdpm.support.distributed import Processes
from adjointdpm.support.files import write_text

FILE = "template.json"
_LITTLE = 1 / 3  # change, see `Sentence`, below which tokens were seen to learn nothing


@dataclass(frozen=True)
class Sentence:
    """What was seen of one sentence.

    Args:
        template: the sentence.
        change: mean absolute difference between pictures with different words in the token's
            place, as a share of that between pictures of different prompts.
        objectives: mean objective of the pictures with each word, metric and content together; of
            those words alone, if there are such, that leave the subjects in the pictures.
        losing: the same of the other words, if there are both.
        loses: whether every word loses subjects.
        refused: why the sentence cannot be used.
        learned: the objective after a few steps in it, see `SentenceTrial`; None: not tried.

    """

    template: str
    change: float = 0.0
    objectives: Mapping[str, float] = field(default_factory=dict)
    refused: str = ""
    learned: float | None = None
    loses: bool = False
    losing: Mapping[str, float] = field(default_factory=dict)

    @property
    def acts(self) -> bool:
        """Whether a word in the token's place changes the picture enough to learn from it."""
        return self.change >= _LITTLE

    @property
    def spread(self) -> float:
        """Standard deviation of the objective over the words."""
        return statistics.pstdev(self.objectives.values()) if self.objectives else 0.0

    @property
    def promise(self) -> float:
        """The objective that can be hoped for: the best word's, less what words differ by."""
        return min(self.objectives.values()) - self.spread

    @property
    def best_word(self) -> str:
        """The word with the lowest objective."""
        return min(self.objectives, key=lambda word: self.objectives[word])


@dataclass(frozen=True)
class Choice:
    """The sentence that is used, and all that were tried.

    Args:
        template: the one that is used.
        initial: the word that the token starts at.
        own: whether the user named it.
        sentences: what was seen of each, the best first.
        lost: the share of validation pictures with that word that do not show their subject, or
            half where it is unclear; None: nobody can tell.
        limit: the share that may be lost.
        seconds, network_calls: what the probe took.

    """

    template: str
    initial: str
    own: bool
    sentences: Sequence[Sentence]
    lost: float | None = None
    limit: float | None = None
    seconds: float = 0.0
    network_calls: int = 0

    @property
    def acts(self) -> bool:
        """Whether a word in the token's place changes the picture enough to learn from it."""
        return self.used.acts

    @property
    def used(self) -> Sentence:
        """What was seen of the sentence that is used."""
        return next(s for s in self.sentences if s.template == self.template)

    def as_facts(self) -> dict[str, Any]:
        """Plain values, as `template.json` and `result.json` hold them."""
        rows = [asdict(s) | {"spread": s.spread} for s in self.sentences]
        return asdict(self) | {"sentences": rows}


def chosen_template(probe: Callable[[], Choice], folder: RunFolder, resume: bool) -> Choice:
    """The sentence of a run: a resumed one's own, else what the probe finds in the main process.

    Raises:
        PromptError: see `TemplateProbe.choose`.
        CheckpointError: the file of a resumed run cannot be read.
        OutputError: the choice cannot be written.

    """
    path = folder.path / FILE

    def choose() -> Choice:
        if resume and path.exists():
            return _read(path.read_text(encoding="utf-8"), str(path))
        choice = probe()
        folder.begin()
        write_text(path, json.dumps(choice.as_facts(), indent=2) + "\n")
        return choice

    return Processes().from_main(choose)


def _read(text: str, where: str) -> Choice:
    try:
        facts = json.loads(text)
        for row in facts["sentences"]:
            row.pop("spread")
        return Choice(**facts | {"sentences": [Sentence(**row) for row in facts["sentences"]]})
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{where} does not say which sentence the run uses ({error}); start anew with --force"
        ) from error
