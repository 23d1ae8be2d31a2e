"""What a GPU spends its time on: matrix products, attention, and everything else."""

import re
from collections.abc import Callable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

ATTENTION = re.compile("flash|fmha|sdpa|attention", re.IGNORECASE)
PRODUCTS = re.compile("gemm|conv|cutlass|xmma|nvjet|wgrad|dgrad|fprop|cudnn", re.IGNORECASE)


def kernel_seconds(action: Callable[[], object]) -> dict[str, float]:
    """Seconds of GPU time in matrix products, attention and the rest, and the number of kernels.

    The kernels' names tell which is which. Convolutions are matrix products.

    Copies and conversions of memory count as the rest, those that prepare a convolution too.
    """
    action()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as record:
        action()
        torch.cuda.synchronize()
    found = {"products": 0.0, "attention": 0.0, "rest": 0.0, "kernels": 0.0}
    events: Any = record.events()
    for event in events:
        if event.device_type != torch.autograd.DeviceType.CUDA or event.is_user_annotation:
            continue
        found[kind(event.name)] += event.device_time / 1e6
        found["kernels"] += 1
    return found


def kind(name: str) -> str:
    """What a kernel does, by its name."""
    if ATTENTION.search(name):
        return "attention"
    layout = re.search("nchwToNhwc|nhwcToNchw|transpose", name, re.IGNORECASE)
    return "products" if PRODUCTS.search(name) and not layout else "rest"
