"""The settings of an audit."""

from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise

from adjointdpm.errors import InvalidInputError, PromptError, UnknownNameError
from adjointdpm.support.checks import check_number
from adjointdpm.support.limits import check_counts, check_seed
from adjointdpm.tasks.audit.noise_file import noise_file_name, noise_folder_name
from adjointdpm.tasks.config import Prompts, Sampling, check_prompts

ANY = "any"  # as a target: whatever is wrong
# Beyond several standard deviations of the noise, a budget allows any noise and means nothing.
_LARGEST_BUDGET = 10.0


@dataclass(frozen=True, kw_only=True)
class AuditConfig(Sampling):
    """What `audit` does.

    Args:
        victim: the classifier: efficientnet-lite0, open-nsfw:threshold=0.8, or file.py:function
            that returns a torch module. See `load_victim`.
        prompts: what the model draws, one prompt a line; each names something that the victim has a
            class for.
        target: the class that the victim shall see; without it, any wrong one. Several are
            attacked one after the other, and "any" among them is any wrong one.
        budget: how far the noise may move. Of several, a larger one goes on from where a smaller
            one ended.
        within: the norm of the budget: l2 or linf. l2 is the root mean square change, in units of
            the noise's standard deviation.
        transfer: a second victim, which no gradient comes from.
        clean_seeds: clean pictures of each prompt that the victim is tested on.
        least_right: the share of them that the victim must get right for the prompt to count.
        random_search: compare with random search that may call the network as often.
        iterations: gradient steps for each example and budget.
        batch: examples in one graph; memory grows with it.
        preservation: weight of the structure distance to the clean picture.
        seed: fixes everything random.

    Raises:
        PromptError: no prompts, blank or repeated ones.
        InvalidInputError, InvalidTypeError, UnknownNameError: a budget that is not positive, above
            10 or given twice, a target given twice, or another value that is out of range, of
            another type, or unknown.

    """

    victim: str = "efficientnet-lite0"
    prompts: Prompts
    target: list[str] = field(default_factory=list)
    budget: list[float] = field(default_factory=lambda: [0.05, 0.1, 0.2, 0.3])
    within: str = "l2"
    transfer: str | None = None
    clean_seeds: int = 20
    least_right: float = 0.8
    random_search: bool = True
    iterations: int = 10
    batch: int = 4
    preservation: float = 0.0
    steps: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        self.check_sampling()
        check_prompts(self.prompts, "prompts")
        repeated = sorted(prompt for prompt, count in Counter(self.prompts).items() if count > 1)
        if repeated:
            raise PromptError(f"prompts given twice: {repeated}; each counts once")
        self._check_targets()
        if self.within not in ("l2", "linf"):
            raise UnknownNameError(f"within={self.within!r} is unknown; choose l2 or linf")
        self._check_budgets()
        check_counts(self, "clean_seeds", "iterations", "batch")
        check_seed(self.seed)
        check_number("least_right", self.least_right, above=0, most=1)
        check_number("preservation", self.preservation, least=0)

    def _check_targets(self) -> None:
        given = [self.target] if isinstance(self.target, str) else list(self.target or ())
        object.__setattr__(self, "target", given)
        names = Counter(noise_file_name(1.0, target or ANY) for target in self.targets)
        twice = [t for t in given if names[noise_file_name(1.0, t)] > 1]
        if twice:
            raise InvalidInputError(f"target={given!r}: {twice[0]!r} is there twice; leave one out")

    def _check_budgets(self) -> None:
        if not self.budget:
            raise InvalidInputError("budget=[] must be a list of at least one number")
        for budget in self.budget:
            check_number("budget", budget, above=0, why="a budget of 0 leaves the noise as it is")
            why = "noise has a standard deviation of 1, so a larger budget allows any other noise"
            check_number("budget", budget, most=_LARGEST_BUDGET, why=why)
        budgets = sorted(self.budget)
        for smaller, larger in pairwise(budgets):
            if f"{smaller:g}" == f"{larger:g}":
                raise InvalidInputError(
                    f"budget={smaller!r} and budget={larger!r} are too close to tell apart; leave "
                    f"one out"
                )
        object.__setattr__(self, "budget", budgets)

    @property
    def targets(self) -> list[str | None]:
        """What each attack aims at; None is any wrong class."""
        return [None if name == ANY else name for name in self.target] or [None]

    @property
    def file_words(self) -> list[str | None]:
        """What names the files of each target; those of the first need no word."""
        return [None, *(target or ANY for target in self.targets[1:])]

    @property
    def artefacts(self) -> tuple[str, ...]:
        """Adversarial noise of each target and budget, findings, and pictures to train on."""
        return (
            *(
                name(budget, word)
                for word in self.file_words
                for budget in self.budget
                for name in (noise_file_name, noise_folder_name)
            ),
            "findings.jsonl",
            "training_pictures",
        )
