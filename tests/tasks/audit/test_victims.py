"""What a victim's verdict means where the names of its classes overlap, and how its classes are
read.
"""

from itertools import combinations
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from adjointdpm.errors import InvalidInputError, ModelError, PromptError
from adjointdpm.metrics.networks import IMAGENET, class_indices
from adjointdpm.metrics.networks.class_names import class_groups, without_overlap
from adjointdpm.tasks.audit import victims
from adjointdpm.tasks.audit.victims import Victim, load_victim

OVERLAPPING = [
    pair for pair in combinations(IMAGENET, 2) if set(IMAGENET[pair[0]]) & set(IMAGENET[pair[1]])
]
SAME = [("hedgehog", "porcupine"), ("orange", "tangerine")]


class Sure(nn.Module):
    """Is certain of one of 1000 classes; `classes` is whatever a test says."""

    def __init__(self, index: int = 0, classes: Any = ()) -> None:
        super().__init__()
        self.index, self.classes = index, classes

    def forward(self, images: Tensor) -> Tensor:
        return torch.eye(1000)[[self.index] * len(images)]


@pytest.fixture
def load(monkeypatch):
    """Load a victim whose network is another."""

    def load(network: nn.Module, prompts: list[str], name: str = "efficientnet-lite0") -> Victim:
        monkeypatch.setattr(victims, "load_network", lambda _: network)
        return load_victim(name, prompts)

    return load


def verdict(victim: Victim) -> str:
    return victim.groups[int(victim.verdicts(torch.rand(1, 3, 8, 8)))]


def test_the_names_overlap_in_the_ways_that_are_known() -> None:
    assert len(OVERLAPPING) == 27
    for a, b in OVERLAPPING:
        one, other = set(IMAGENET[a]), set(IMAGENET[b])
        assert one < other or other < one or (one == other and (a, b) in SAME)


@pytest.mark.parametrize("pair", [pair for pair in OVERLAPPING if pair not in SAME], ids="-".join)
def test_a_network_that_is_sure_of_an_owl_says_owl_and_not_bird(
    load, pair: tuple[str, str]
) -> None:
    narrow, wide = sorted(pair, key=lambda name: len(IMAGENET[name]))
    for index in IMAGENET[wide]:
        victim = load(Sure(index), [f"a {narrow}", f"a {wide}"])
        assert verdict(victim) == (narrow if index in IMAGENET[narrow] else wide)


def test_of_three_names_in_each_other_the_narrowest_has_the_class(load) -> None:
    prompts = ["a bird", "a chicken", "a rooster"]
    assert [verdict(load(Sure(index), prompts)) for index in (7, 8, 9)] == [
        "rooster",
        "chicken",
        "bird",
    ]


@pytest.mark.parametrize("pair", SAME, ids="-".join)
def test_two_names_of_the_same_classes_are_refused_with_the_prompts_that_name_them(
    load, pair: tuple[str, str]
) -> None:
    prompts = ["an owl", *(f"a noto emoji of one {name}" for name in pair)]
    with pytest.raises(PromptError) as refused:
        load(Sure(), prompts)
    assert all(repr(prompt) in str(refused.value) for prompt in prompts[1:])
    assert "owl" not in str(refused.value)


def test_a_name_that_narrower_ones_leave_nothing_is_refused(load) -> None:
    with pytest.raises(
        PromptError, match=r"'chicken' \(named by 'a chicken'\) has no class of its own"
    ) as refused:
        load(Sure(), ["a chicken", "a hen", "a rooster", "an owl"])
    assert "'a hen'" in str(refused.value)
    assert "'a rooster'" in str(refused.value)


def test_names_that_do_not_overlap_keep_their_classes() -> None:
    groups = {"b": (3, 1), "a": (0, 2)}
    assert without_overlap(groups) == groups
    assert list(without_overlap(groups)) == ["b", "a"]


def test_names_of_one_size_that_share_a_class_are_refused() -> None:
    with pytest.raises(
        InvalidInputError, match="'a' and 'b' cannot be told apart: class 1 is in both"
    ):
        without_overlap({"a": (0, 1), "b": (1, 2)})
    assert without_overlap({"a": (0, 1), "b": (1, 2), "c": (1,)}) == {
        "a": (0,),
        "b": (2,),
        "c": (1,),
    }


CLASSES = [
    (["cat", "dog"], {"cat": (0,), "dog": (1,)}),
    (
        ("crane", "dog", "crane"),
        {"crane": (0, 2), "dog": (1,)},
    ),  # ImageNet has a bird and a machine of that name
    (
        {"cat": (281, 282), "dog": [151], "owl": 24},
        {"cat": (281, 282), "dog": (151,), "owl": (24,)},
    ),
]


@pytest.mark.parametrize(("classes", "groups"), CLASSES, ids=["list", "repeated", "mapping"])
def test_a_victims_classes_are_those_that_a_metric_sees(load, classes: Any, groups: dict) -> None:
    network = Sure(0, classes)
    victim = load(network, ["a cat"], "mine.py:build")
    assert dict(zip(victim.groups, victim.members, strict=True)) == class_groups(network) == groups
    for name, indices in groups.items():
        assert class_indices(network, name) == indices
        for index in indices:
            assert verdict(load(Sure(index, classes), ["a cat"], "mine.py:build")) == name


def test_a_users_mapping_may_have_names_within_names(load) -> None:
    victim = load(Sure(5, {"bird": range(4, 8), "owl": 5}), [], "mine.py:build")
    assert victim.members == [(4, 6, 7), (5,)]
    with pytest.raises(ModelError, match=r"mine\.py:build.*'a' and 'b'"):
        load(Sure(0, {"a": 5, "b": 5}), [], "mine.py:build")


@pytest.mark.parametrize(
    "classes",
    [10, "cat", {"cat": ()}, {"cat": -1}, {"cat": True}, {"cat": ["x"]}, {3: 4}, [1, 2]],
    ids=repr,
)
def test_classes_that_say_nothing_are_refused(load, classes: Any) -> None:
    with pytest.raises(ModelError, match="classes"):
        load(Sure(0, classes), ["a cat"], "mine.py:build")
    with pytest.raises(ModelError, match="classes"):
        class_indices(Sure(0, classes), "cat")
