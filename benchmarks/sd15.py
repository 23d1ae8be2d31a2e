"""The architecture of Stable Diffusion 1.5 with random weights.

There is nothing to download, and the time does not depend on the weights' values.
"""

import statistics
from dataclasses import dataclass
from functools import cache

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import adjointdpm as adj
from adjointdpm.pipelines.stable_diffusion import UNet
from benchmarks.inside import clock

GUIDANCE = 5.0
TOKENS = 77


@dataclass(frozen=True)
class Size:
    """What differs between the networks.

    These are channels of each level, layers a level, width of the text, side of the latent.
    """

    channels: tuple[int, ...]
    layers: int
    text_width: int
    side: int


SIZES = {
    "sd15": Size((320, 640, 1280, 1280), 2, 768, 64),  # 860 million weights, a picture of 512×512
    "thin": Size(
        (32, 64, 128, 128), 2, 64, 8
    ),  # the same layers in the same order, so as many operations, each of them cheap
    "small": Size((32, 64), 1, 32, 8),  # for tests
}


@dataclass
class Workload:
    """A guided sampling problem in float32 around a frozen network in a dtype of its own.

    Noise and text want gradients.
    """

    network: nn.Module
    noise: Float[Tensor, "batch 4 side side"]
    text: Float[Tensor, "batch tokens width"]
    null: Float[Tensor, "batch tokens width"]
    dtype: torch.dtype
    schedule: adj.NoiseSchedule

    @property
    def cond(self) -> dict[str, Tensor]:
        """The conditioning, as `sample` gets it."""
        return {"encoder_hidden_states": self.text}

    def denoiser(self, network: nn.Module | None = None) -> adj.Denoiser:
        """The guided denoiser around `network`, or the workload's own."""
        null = {"encoder_hidden_states": self.null}
        return adj.Denoiser(
            self.network if network is None else network, guidance_scale=GUIDANCE, null_cond=null
        )

    def inputs(
        self,
    ) -> tuple[
        Float[Tensor, "rows 4 side side"],
        Float[Tensor, " rows"],
        Float[Tensor, "rows tokens width"],
    ]:
        """States, times and texts of one guided network call, detached, in its dtype."""
        x, both = torch.cat([self.noise, self.noise]), torch.cat([self.null, self.text])
        times = torch.full((len(x),), 500.0, device=x.device)
        return x.detach().to(self.dtype), times, both.detach().to(self.dtype)


def build_unet(size: Size, device: torch.device, dtype: torch.dtype) -> UNet2DConditionModel:
    """Stable Diffusion 1.5's UNet at a size, with the weights of its initialisation, frozen."""
    levels = len(size.channels)
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)  # never a copy in float32 beside it
    try:
        with device:
            unet = UNet2DConditionModel(
                sample_size=size.side,
                in_channels=4,
                out_channels=4,
                down_block_types=(*["CrossAttnDownBlock2D"] * (levels - 1), "DownBlock2D"),
                up_block_types=("UpBlock2D", *["CrossAttnUpBlock2D"] * (levels - 1)),
                block_out_channels=size.channels,
                layers_per_block=size.layers,
                cross_attention_dim=size.text_width,
                attention_head_dim=8,  # diffusers' name for the number of heads
            )
    finally:
        torch.set_default_dtype(default)
    return unet.requires_grad_(False).eval()


@dataclass(frozen=True)
class Variant:
    """How the network is run.

    Attributes:
        batch: pictures; guidance makes two rows of each.
        channels_last: whether convolutions work on channels last, as cuDNN's fastest ones do.
        mode: torch.compile's, "none" for no compilation.

    """

    batch: int = 1
    channels_last: bool = False
    mode: str = "none"


PLAIN = Variant()


def make_workload(
    size: Size,
    device: torch.device,
    dtype: torch.dtype,
    network: nn.Module | None = None,
    variant: Variant = PLAIN,
) -> Workload:
    """Build the workload with its network, or around a given one."""
    torch.manual_seed(0)
    if network is None:
        unet = build_unet(size, device, dtype)
        if variant.channels_last:
            unet.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        network = UNet(unet)
        mode = variant.mode
        if mode != "none":
            network = torch.compile(network, mode=mode)  # pyright: ignore[reportAssignmentType]
    assert isinstance(network, nn.Module)
    scheduler = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    noise = torch.randn(variant.batch, 4, size.side, size.side, device=device).requires_grad_()
    text, null = torch.randn(2, variant.batch, TOKENS, size.text_width, device=device)
    return Workload(
        network,
        noise,
        text.clone().requires_grad_(),
        null,
        dtype,
        adj.NoiseSchedule.from_scheduler(scheduler),
    )


@cache
def products(size: Size) -> tuple[float, float]:
    """Floating-point operations in the matrix products of one guided call for one picture.

    The first number is forwards, the second backwards to state and text.

    Nothing is run.
    """
    work = make_workload(size, torch.device("meta"), torch.float32)
    x, t, text = work.inputs()
    wanted = [x.requires_grad_(), text.requires_grad_()]
    with FlopCounterMode(display=False) as forward:
        output = work.network(x, t, {"encoder_hidden_states": text})
    with FlopCounterMode(display=False) as backward:
        torch.autograd.grad(output, wanted, torch.zeros_like(output))
    return float(forward.get_total_flops()), float(backward.get_total_flops())


def product_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations a second in one large matrix product, the median of ten."""
    n = 8192 if device.type == "cuda" else 2048
    now, a = clock(device), torch.randn(n, n, device=device, dtype=dtype)
    seconds: list[float] = []
    for _ in range(12):
        started = now()
        torch.mm(a, a)
        seconds.append(now() - started)
    return 2 * n**3 / statistics.median(seconds[2:])
