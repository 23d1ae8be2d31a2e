"""Copies of networks for other devices and dtypes: neither stale nor kept for ever."""

import gc
import weakref

import torch
from torch import nn

from adjointdpm.metrics.networks import placed

IMAGES = torch.rand(1, 3, 2, 2, generator=torch.Generator().manual_seed(0)).double()


def test_a_copy_follows_what_its_network_becomes() -> None:
    linear, norm = nn.Linear(12, 2), nn.BatchNorm1d(2)
    network = nn.Sequential(nn.Flatten(), linear, norm).requires_grad_(False).eval()

    def same() -> bool:
        return torch.allclose(
            placed(network, IMAGES)(IMAGES), network(IMAGES.float()).double(), atol=1e-6
        )

    assert same()
    linear.bias[1] += 5
    assert same()
    linear.weight = nn.Parameter(torch.randn(2, 12), requires_grad=False)
    assert same()
    network.load_state_dict(
        {name: value + 1 for name, value in network.state_dict().items()}, assign=True
    )
    assert same()
    assert norm.running_mean is not None
    norm.running_mean.mul_(3)
    assert same()
    kept = placed(network, IMAGES)
    assert placed(network, IMAGES) is kept
    norm.train()
    assert [module.training for module in placed(network, IMAGES).children()] == [
        False,
        False,
        True,
    ]


def test_a_network_of_inference_tensors_is_copied_too() -> None:
    with torch.inference_mode():
        network = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    double = placed(network, IMAGES)
    assert double(IMAGES).dtype == torch.float64
    assert placed(network, IMAGES) is double


def test_a_copy_goes_with_its_network() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    copied = weakref.ref(placed(network, IMAGES))
    gc.collect()
    assert copied() is not None
    del network
    gc.collect()
    assert copied() is None
