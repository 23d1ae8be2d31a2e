"""Cost and memory of pipelines: what is counted is what there is."""

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from adjointdpm.pipelines.any_pipeline import AnyPipeline
from benchmarks import pipeline_memory
from benchmarks.live_bytes import LiveBytes, need_of
from benchmarks.pipeline_cost import by_hand, calls_of
from benchmarks.pipelines.cases import CASES, build
from benchmarks.random_weights import random_network


def test_live_bytes_are_those_of_the_tensors_that_exist() -> None:
    given = torch.ones(1000)
    with LiveBytes() as live:
        kept = given + 1
        view = kept[:10]
        assert live.now == 4000
        for _ in range(3):
            torch.ones(500)
        assert live.now == 4000
        del kept
        assert live.now == 4000
        del view
        assert live.now == 0
    assert live.peak == 4000 + 2000


@pytest.mark.parametrize("inner", [False, True])
def test_shapes_alone_need_what_real_tensors_need(inner: bool) -> None:
    def need():
        network = nn.Sequential(nn.Linear(64, 256), nn.GELU(), nn.Linear(256, 64))
        network.requires_grad_(False)

        def call():
            x = torch.empty(32, 64, requires_grad=True)
            if inner:
                y = torch.utils.checkpoint.checkpoint(network, x, use_reentrant=False)
            else:
                y = network(x)
            return x, y

        return need_of(network, call)

    with FakeTensorMode():
        fake = need()
    assert fake == need()
    assert fake.weights == 4 * (2 * 64 * 256 + 256 + 64)
    assert fake.graph == 4 * 32 * (64 + 64 + (0 if inner else 256))
    assert fake.peak > fake.graph


def test_calls_by_hand_are_those_of_the_pipeline() -> None:
    pipe = build("QwenImagePipeline")
    model = AnyPipeline(pipe)
    noise = model.noise(2, 1, height=16, width=16).requires_grad_()
    given = dict(CASES["QwenImagePipeline"].arguments) | {"noise": noise}
    calls = calls_of(model, pipe.transformer, given)
    assert len(calls) == 6  # three steps, two texts
    assert len(calls[0].wanted) == 1
    output, ends = calls[0].with_graph(calls[0].wanted)
    (gradient,) = torch.autograd.grad(output.sum(), ends)
    assert gradient.norm() > 0
    assert all(seconds > 0 for seconds in by_hand(calls))


def test_random_networks_are_frozen_and_keep_the_scale() -> None:
    network = random_network(nn.Linear, {"in_features": 3000, "out_features": 1000}, torch.bfloat16)
    assert not any(p.requires_grad for p in network.parameters())
    out = network(torch.randn(64, 3000, dtype=torch.bfloat16)).float()
    assert 0.8 < out.std() < 1.2


def test_a_process_that_grows_too_large_is_ended() -> None:
    found = pipeline_memory.measured_apart("sdxl-512", limit=10**8, threads=1)
    assert "more than 0 GB" in found["failed"]
    assert found["resident_peak"] > 10**8
