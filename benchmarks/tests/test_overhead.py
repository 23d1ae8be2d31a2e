"""The benchmark of overheads: what its clock counts, what it compares with, and its lines and page,
at a tiny size.
"""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

import adjointdpm as adj
from benchmarks import common, overhead, sd15
from benchmarks.inside import Inside
from benchmarks.kernels import kind
from helpers.mixtures import relative_error

CPU = torch.device("cpu")
SMALL = sd15.SIZES["small"]


@pytest.fixture(scope="module")
def work():
    return sd15.make_workload(SMALL, CPU, torch.float32)


class Ticking(torch.autograd.Function):
    """Three seconds forwards and seven backwards, on a clock of its own."""

    @staticmethod
    def forward(ctx, x, text, clock):
        clock.seconds += 3
        ctx.save_for_backward(x, text)
        ctx.clock = clock
        return 0.1 * x + text.mean()

    @staticmethod
    def backward(ctx, gradient):
        _, text = ctx.saved_tensors
        ctx.clock.seconds += 7
        return 0.1 * gradient, gradient.sum().expand_as(text) / text.numel(), None


class TickingNetwork(nn.Module):
    def __init__(self, clock):
        super().__init__()
        self.clock = clock

    def forward(self, x, t, cond):
        return Ticking.apply(x, cond["encoder_hidden_states"], self.clock)


@pytest.mark.parametrize(
    ("method", "forwards", "backwards"),
    [
        (adj.Backprop(), 4, 4),
        (adj.Checkpoint(), 7, 4),
        (adj.Interpolated(2), 5, 2),
        (adj.Truncated(1), 4, 1),
    ],
    ids=repr,
)
def test_the_clock_counts_the_network_and_nothing_else(method, forwards, backwards):
    clock = SimpleNamespace(seconds=0.0)
    work = sd15.make_workload(SMALL, CPU, torch.float32, network=TickingNetwork(clock))
    inside = Inside(work.network, lambda: clock.seconds)

    def outside(step, t, x, denoised):
        clock.seconds += 1000

    x = adj.sample(
        work.denoiser(inside),
        work.noise,
        schedule=work.schedule,
        cond=work.cond,
        steps=4,
        gradient=method,
        callback=outside,
    )
    torch.autograd.grad(x.sum(), [work.noise, work.text], allow_unused=True)
    assert (inside.calls, inside.vjps) == (forwards, backwards)
    assert inside.seconds == 3 * forwards + 7 * backwards
    assert clock.seconds == inside.seconds + 4000


def test_the_clock_changes_no_gradient(work):
    inside = Inside(work.network, lambda: 0.0)
    for ours, expected in zip(
        *(overhead.solve(work, work.denoiser(n), adj.Checkpoint(), 3) for n in (inside, None)),
        strict=True,
    ):
        assert relative_error(ours, expected) < 1e-6


@pytest.mark.parametrize("case", overhead.cases(5), ids=lambda case: case.name)
def test_what_is_made_by_hand_is_what_the_method_calls(case, work):
    with adj.stats() as counts:
        overhead.solve(work, work.denoiser(), case.method, 5)
    assert counts.network_calls == case.forwards + case.pulls
    assert counts.vjps == case.pulls


def test_cheap_layers_are_as_many_as_real_ones():
    meta = torch.device("meta")
    real, thin = (
        sd15.build_unet(sd15.SIZES[name], meta, torch.bfloat16) for name in ("sd15", "thin")
    )
    assert [type(m) for m in real.modules()] == [type(m) for m in thin.modules()]
    assert (
        sum(p.numel() for p in real.parameters()) == 859_520_964
    )  # what the published weights hold


def test_operations_are_counted_without_running():
    forward, backward = sd15.products(SMALL)
    assert (
        0 < forward < backward < 2 * forward
    )  # frozen weights: about one product back for each forwards, two in attention


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setattr(common, "RESULTS", tmp_path)
    monkeypatch.setitem(sd15.SIZES, "thin", SMALL)  # seconds less
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- measured: begin -->\n<!-- measured: end -->\nafter\n")
    settings = {
        "size": "small",
        "device": "cpu",
        "steps": [1, 2],
        "layer_steps": 2,
        "run_steps": 3,
        "compile": ["none"],
        "rounds": 2,
    }

    def run(**options):
        overhead.main(**{**settings, "dtype": "bfloat16", **options}, page=page)
        return common.read_results("overhead"), page.read_text()

    return run


@pytest.mark.slow
def test_every_part_writes_its_lines_and_the_page_is_made_of_them(run):
    lines, page = run(parts=["step", "arithmetic", "layers", "runs"])
    assert [line["part"] for line in lines] == ["arithmetic"] * 3 + ["layers"] * 3 + [
        "step"
    ] * 2 + ["runs"] * 3
    steps = [line for line in lines if line["part"] == "step"]
    assert [(line["calls"], line["vjps"]) for line in steps] == [(1, 1), (3, 2)]
    for line in steps:
        assert all(
            0 < inside < ours for inside, ours in zip(line["inside"], line["ours"], strict=True)
        )
        assert len(line["direct"]) == line["rounds"] == 2
    assert all(min(line["outside"]) > 0 for line in lines if line["part"] == "arithmetic")
    assert all(
        line["peak_bytes"] > 0 and min(line["seconds"]) > 0
        for line in lines
        if line["part"] == "runs"
    )
    assert page.startswith("before\n")
    assert page.endswith("after\n")
    assert page.count("\n| --- |") == 4


def test_what_is_measured_again_replaces_its_line_and_no_other(run):
    first, _ = run(parts=["arithmetic"])
    second, _ = run(parts=["arithmetic"], run_steps=4)
    third, page = run(parts=["arithmetic"], dtype="float32", run_steps=4)
    again, _ = run(parts=["arithmetic"], run_steps=4)
    assert (len(first), len(second), len(third), len(again)) == (3, 6, 9, 9)
    assert again[:3] == first
    assert all(a["outside"] != b["outside"] for a, b in zip(again[3:6], second[3:], strict=True))
    assert again[6:] == third[6:]
    assert page.count("Measured with") == 2
    _, rewritten = run(page_only=True, parts=None)
    assert rewritten.count("Measured with") == 2


def test_a_run_that_does_not_fit_is_said(run, monkeypatch):
    solve = overhead.solve

    def short_of_memory(work, denoiser, method, steps):
        if isinstance(method, adj.Backprop) and steps == 3:
            raise torch.OutOfMemoryError("no")
        return solve(work, denoiser, method, steps)

    monkeypatch.setattr(overhead, "solve", short_of_memory)
    lines, page = run(parts=["runs"], rounds=1)
    assert [line.get("failed") for line in lines] == [None, None, "out of memory"]
    assert lines[2]["graph_bytes"] > 0
    assert "out of memory: 3 graphs are" in page


def test_time_limits_the_pairs_and_one_is_always_made(work):
    line = overhead.measure_pairs(work, CPU, overhead.cases(2)[0], 2, rounds=50, limit=0.0)
    assert (line["rounds"], line["calls"], line["vjps"]) == (1, 3, 2)
    assert (
        len(line["ours"]) == len(line["direct"]) == len(line["forwards"]) == 1
    )  # forwards: N − 1 of them


def test_a_compiled_network_has_lines_of_its_own(run):
    with torch.compiler.set_stance(
        "force_eager"
    ):  # all that is ours around a compiled module, without minutes of compiling it
        lines, page = run(parts=["runs"], compile=["default"], rounds=1)
    assert [line["compile"] for line in lines] == ["default"] * 3
    assert not any("failed" in line for line in lines)
    assert page.count("| default |") == 3


def test_an_unknown_part_is_refused(run):
    with pytest.raises(
        adj.errors.UnknownNameError, match="--parts stpe is unknown; choose from step"
    ):
        run(parts=["stpe"])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("nvjet_sm90_tst_128x128_64x4_2x1_v_bz_TNT", "products"),
        (
            "sm80_xmma_fprop_implicit_gemm_bf16bf16_bf16f32_f32_nhwckrsc_nhwc_tilesize128x128x64",
            "products",
        ),
        ("void flash_fwd_kernel<Flash_fwd_kernel_traits<64, 128, 64, 4>>", "attention"),
        ("cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16_knob", "attention"),
        ("void cudnn::engines_precompiled::nchwToNhwcKernel<__nv_bfloat16>", "rest"),
        ("void at::native::vectorized_elementwise_kernel<4, at::native::CUDAFunctor_add>", "rest"),
        ("triton_red_fused_native_group_norm_silu_5", "rest"),
    ],
)
def test_kernels_are_told_apart_by_name(name, expected):
    assert kind(name) == expected
