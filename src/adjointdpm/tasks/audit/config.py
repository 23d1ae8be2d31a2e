"""The settings of an audit."""

from dataclasses import dataclass, field

from adjointdpm.errors import InvalidInputError, PromptError, UnknownNameError
from adjointdpm.support.checks import check_int, check_number
from adjointdpm.tasks.audit.noise_file import noise_file_name
from adjointdpm.tasks.config import Prompts, Sampling, check_prompts


@dataclass(frozen=True, kw_only=True)
class AuditConfig(Sampling):
    """What `audit` does.

    Args:
        victim: the classifier: efficientnet-lite0, open-nsfw:threshold=0.8, or file.py:function
            that returns a torch module. See `load_victim`.
        prompts: what the model draws, one prompt a line; each names something that the victim has a
            class for.
        target: the class that the victim shall see; without it, any wrong one.
        budget: how far the noise may move.
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
        InvalidInputError, InvalidTypeError, UnknownNameError: a budget that is not positive, or
            another value that is out of range, of another type, or unknown.

    """

    victim: str = "efficientnet-lite0"
    prompts: Prompts
    target: str | None = None
    budget: list[float] = field(default_factory=lambda: [0.1, 0.2, 0.3])
    within: str = "l2"
    transfer: str | None = None
    clean_seeds: int = 20
    least_right: float = 0.8
    random_search: bool = True
    iterations: int = 10
    batch: int = 4
    preservation: float = 0.0
    steps: int = 20
    seed: int = 0

    def __post_init__(self) -> None:
        self.check_sampling()
        check_prompts(self.prompts, "prompts")
        repeated = sorted({prompt for prompt in self.prompts if self.prompts.count(prompt) > 1})
        if repeated:
            raise PromptError(f"prompts given twice: {repeated}; each counts once")
        if self.within not in ("l2", "linf"):
            raise UnknownNameError(f"within={self.within!r} is unknown; choose l2 or linf")
        if not self.budget:
            raise InvalidInputError("budget=[] must be a list of at least one number")
        for budget in self.budget:
            check_number("budget", budget, above=0, why="a budget of 0 leaves the noise as it is")
        object.__setattr__(self, "budget", sorted(self.budget))
        for name in ("clean_seeds", "iterations", "batch"):
            check_int(name, getattr(self, name), 1)
        check_number("least_right", self.least_right, above=0, most=1)
        check_number("preservation", self.preservation, least=0)

    @property
    def artefacts(self) -> tuple[str, ...]:
        """The adversarial noise of each budget."""
        return tuple(map(noise_file_name, self.budget))
