"""The largest values of settings, and why: beyond them a run takes all memory, or never ends."""

from typing import Any

from adjointdpm.support.checks import check_int

_LONG = "each iteration draws pictures, so more would take months"
#: Why pictures are counted.
MANY = "sets of pictures take their seeds from ranges of a million, which must not overlap"

#: Settings that count something: the largest number, and the reason.
LARGEST_COUNTS: dict[str, tuple[int, str]] = {
    "steps": (10_000, "samplers converge within hundreds of steps"),
    "iterations": (1_000_000, _LONG),
    "accumulate": (100_000, "that many batches are drawn for each step of the optimiser"),
    "batch": (100_000, "a batch is drawn at once, and must fit into memory"),
    "validate_every": (1_000_000, _LONG),
    "patience": (1_000_000, _LONG),
    "checkpoint_every": (1_000_000, _LONG),
    "backtrack": (1_000_000, _LONG),
    "retry_after": (1_000_000, _LONG),
    "seeds_per_prompt": (100_000, MANY),
    "held_out_seeds": (100_000, MANY),
    "clean_seeds": (100_000, MANY),
    "validation": (100_000, MANY),
    "strength_pictures": (100_000, MANY),
    "pictures": (100_000, MANY),
    "rank": (4096, "hardly a layer is wider, and a LoRA of a layer's width learns all of it"),
    "vectors": (1000, "text encoders read fewer tokens than that"),
}
# The seeds of a run's pictures begin at three millions times its seed.
LARGEST_SEED = 2**40


def check_counts(config: Any, *names: str, least: int = 1) -> None:
    """Check that settings are whole numbers from `least` to the largest that makes sense.

    Raises:
        InvalidTypeError, InvalidInputError: one is no int, or out of range.

    """
    for name in names:
        check_count(name, getattr(config, name), least)


def check_count(name: str, value: object, least: int = 1) -> None:
    """Check one of these settings; see `check_counts`."""
    most, why = LARGEST_COUNTS[name]
    check_int(name, value, least, most=most, why=why)


def check_seed(seed: object) -> None:
    """Check the seed of a run.

    Raises:
        InvalidTypeError, InvalidInputError: no int, below 0, or so large that the seeds of the
            run's pictures would not fit into 64 bits.

    """
    why = "the seeds of a run's pictures, three millions times that, must fit into 64 bits"
    check_int("seed", seed, 0, most=LARGEST_SEED, why=why)
