"""Sharded weights: exact methods keep to the hooks of the library that shards, others refuse."""

from pathlib import Path

import pytest

from adjointdpm.engine.gradients.autograd.managed_weights import who_manages
from helpers.two_processes import run_in_two_processes


@pytest.mark.slow
def test_sharded_gradients_are_those_of_whole_weights(tmp_path: Path) -> None:
    script = Path(__file__).with_name("sharded_gradients.py")
    run_in_two_processes(str(script), tmp_path, timeout=300)
    assert {file.name for file in tmp_path.iterdir()} == {"done-0", "done-1"}


def test_parameters_of_deepspeed_are_known_by_their_mark() -> None:
    from torch import nn

    network = nn.Linear(2, 2)
    assert who_manages(network) is None
    assert who_manages(lambda x, t, c: network(x)) is None
    network.weight.ds_id = 3  # pyright: ignore[reportAttributeAccessIssue]
    assert who_manages(network) == "DeepSpeed"
    assert who_manages(lambda x, t, c: network(x)) == "DeepSpeed"
