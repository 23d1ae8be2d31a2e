"""Memory of a gradient through pipelines at their released sizes: measured, and computed.

`python -m benchmarks.pipeline_memory --page docs/pipeline-memory.md`

What fits this machine is measured with random weights, in a process each that is ended if it grows
too large. What does not is computed from shapes. Lines of `results/pipeline-memory.json` that are
there already are kept; `--again` measures them anew.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any

import diffusers
import psutil
import torch
import typer
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from adjointdpm.pipelines.any_pipeline import AnyPipeline
from benchmarks.common import (
    Page,
    PageOnly,
    check_known,
    has_results,
    machine,
    publish,
    read_results,
    run,
    tell,
    write_results,
)
from benchmarks.live_bytes import LiveBytes, Need, need_of
from benchmarks.memory import peak_resident, restart_peak_resident
from benchmarks.pipeline_memory_page import page_text
from benchmarks.random_weights import random_network
from benchmarks.released_sizes import SIZES, Released

NAME = "pipeline-memory"
GB = 10**9
DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
SPARE = GB  # that is always left to others
TEXT_PARTS = ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")
WARM_UP = 128  # side of a first picture
# So that glibc gives back what is freed: it would keep blocks of up to 32 MiB.
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": str(2**22)}


@dataclass(frozen=True)
class Case:
    """One guided step with its gradient.

    Attributes:
        size: of `SIZES`.
        side: of the picture, in pixels.
        dtype: of the network.
        inner: whether network and decoder have their own gradient checkpointing on.
        decoded: whether the gradient is of the picture, or else of the latent.

    """

    size: str
    side: int
    dtype: str = "bfloat16"
    inner: bool = False
    decoded: bool = False

    @property
    def released(self) -> Released:
        """The network at this case's side."""
        found, latent = SIZES[self.size], self.side // 8
        shape = (*found.state[:2], latent, latent)
        return replace(found, state=shape, latent=shape)


CASES = {
    "sdxl-512": Case("sdxl", 512),
    "sd35-medium-512": Case("sd35-medium", 512),
    "sdxl": Case("sdxl", 1024),
    "sdxl-inner": Case("sdxl", 1024, inner=True),
    "sdxl-decoded": Case("sdxl", 1024, inner=True, decoded=True),
    "sdxl-float32": Case("sdxl", 1024, "float32", inner=True),
}


# Computed.


def computed(size: Released, dtype: torch.dtype) -> dict[str, Any]:
    """What one call of a network and of its decoder needs, without and with checkpointing."""
    found: dict[str, Any] = {}
    parts = {
        "network": (size.network, size.config, size.run),
        "decoder": (size.decoder, size.decoder_config, size.decode),
    }
    for part, (cls, config, call) in parts.items():
        for inner in (False, True):
            need = _need(cls, config, call, dtype, inner)
            found[f"{part}{' inner' if inner else ''}"] = None if need is None else asdict(need)
    return found


def _need(
    cls: Any,
    config: dict[str, Any],
    call: Callable[[Any], tuple[Tensor, Tensor]],
    dtype: torch.dtype,
    inner: bool,
) -> Need | None:
    with FakeTensorMode(), _default(dtype):
        network: Any = cls(**config).requires_grad_(False).eval()
        if inner and not network._supports_gradient_checkpointing:
            return None
        if inner:
            network.enable_gradient_checkpointing()
        return need_of(network, lambda: call(network))


@contextmanager
def _default(dtype: torch.dtype) -> Any:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


# Measured.


def measure(case: Case) -> dict[str, Any]:
    """Build the pipeline in this process and differentiate one guided step."""
    pipe = _pipeline(case)
    networks = [part for part in pipe.components.values() if isinstance(part, nn.Module)]
    for network in networks if case.inner else []:
        network.enable_gradient_checkpointing()  # pyright: ignore[reportCallIssue]
    model, dtype = AnyPipeline(pipe), DTYPES[case.dtype]
    given = _arguments(case, dtype)

    def gradient(side: int) -> tuple[Tensor, Tensor]:
        shape: dict[str, Any] = {"height": side, "width": side}
        noise = model.noise(1, 0, **given, **shape).requires_grad_()
        output = "sample" if case.decoded else "latent"
        steps: dict[str, Any] = {"num_inference_steps": 1, "guidance_scale": 5.0}
        found = model(noise=noise, output=output, **steps, **given, **shape)
        (of_noise,) = torch.autograd.grad(0.5 * found.float().square().mean(), noise)
        return found, of_noise

    gradient(WARM_UP)  # what the libraries load and keep
    before, started, busy = restart_peak_resident(), time.perf_counter(), time.process_time()
    with LiveBytes() as live:
        found, of_noise = gradient(case.side)
    return {
        "seconds": time.perf_counter() - started,
        "processor_seconds": time.process_time() - busy,
        "threads": torch.get_num_threads(),
        "resident_before": before,
        "resident_peak": peak_resident(),
        "live_peak": live.peak,
        "gradient_norm": of_noise.norm().item(),
        "finite": bool(found.isfinite().all() and of_noise.isfinite().all()),
    }


def _pipeline(case: Case) -> Any:
    size, dtype = case.released, DTYPES[case.dtype]
    network: Any = random_network(size.network, size.config, dtype)
    vae: Any = random_network(size.decoder, size.decoder_config, dtype)
    texts: dict[str, Any] = dict.fromkeys(TEXT_PARTS)
    if case.size == "sdxl":
        scheduler: Any = diffusers.EulerDiscreteScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"
        )
        return diffusers.StableDiffusionXLPipeline(
            vae=vae, unet=network, scheduler=scheduler, **texts
        )
    return diffusers.StableDiffusion3Pipeline(
        transformer=network,
        vae=vae,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        text_encoder_3=texts["text_encoder"],
        tokenizer_3=texts["tokenizer"],
        **texts,
    )


def _arguments(case: Case, dtype: torch.dtype) -> dict[str, Any]:
    tokens, width, pooled = (77, 2048, 1280) if case.size == "sdxl" else (333, 4096, 2048)
    draw = torch.Generator().manual_seed(1)
    shapes = {"prompt_embeds": (1, tokens, width), "pooled_prompt_embeds": (1, pooled)}
    shapes |= {f"negative_{name}": shape for name, shape in shapes.items()}
    return {name: torch.randn(shape, generator=draw).to(dtype) for name, shape in shapes.items()}


def measured_apart(name: str, limit: int, threads: int) -> dict[str, Any]:
    """`measure` in a process of its own, which is ended if it holds more than `limit` bytes."""
    command = [sys.executable, "-m", "benchmarks.pipeline_memory", "--only", name]
    command += ["--threads", str(threads)]
    environment = os.environ | ALLOCATOR
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    watched, stopped, most = psutil.Process(child.pid), "", 0
    while child.poll() is None and not stopped:
        try:
            held = watched.memory_info().rss
        except psutil.NoSuchProcess:
            break
        most = max(most, held)
        if held > limit:
            stopped = f"it held more than {limit / GB:.0f} GB"
        elif psutil.virtual_memory().available < SPARE:
            stopped = f"the machine had less than {SPARE / GB:.0f} GB left, at {held / GB:.1f} GB"
        time.sleep(0.05)
    if stopped:
        child.kill()
    text, _ = child.communicate()
    if stopped or child.returncode:
        return {"failed": stopped or f"exit code {child.returncode}", "resident_peak": most}
    return json.loads(text.splitlines()[-1])


# The command line.


def main(
    sizes: Annotated[
        list[str] | None, typer.Option(help=f"To compute: {', '.join(SIZES)}.")
    ] = None,
    cases: Annotated[
        list[str] | None, typer.Option(help=f"To measure: {', '.join(CASES)}.")
    ] = None,
    limit: Annotated[float, typer.Option(help="GB that a measured process may hold.")] = 17.5,
    threads: Annotated[int, typer.Option(help="Of a measured process.")] = 1,
    again: Annotated[bool, typer.Option(help="Also what is in the results already.")] = False,
    only: Annotated[str | None, typer.Option(help="Measure one case in this process.")] = None,
    page: Page = None,
    page_only: PageOnly = False,
) -> None:
    """Compute, measure, print the tables, and write `results/pipeline-memory.json`."""
    if only is not None:
        torch.set_num_threads(threads)
        print(json.dumps(measure(CASES[only])))
        return
    check_known("--sizes", sizes or (), SIZES)
    check_known("--cases", cases or (), CASES)
    found = read_results(NAME) if has_results(NAME) else {"computed": {}, "measured": {}}
    for name in [] if page_only else sizes or SIZES:
        if again or name not in found["computed"]:
            found["computed"][name] = computed(SIZES[name], torch.bfloat16)
            tell(f"{name}: {found['computed'][name]}")
            write_results(NAME, found)
    for name in [] if page_only else cases or CASES:
        if again or "seconds" not in found["measured"].get(name, {}):
            case = CASES[name]
            line: dict[str, Any] = {"machine": machine(), "case": asdict(case)}
            line["computed"] = computed(case.released, DTYPES[case.dtype])
            line |= measured_apart(name, int(limit * GB), threads)
            found["measured"][name] = line
            tell(f"{name}: {line}")
            write_results(NAME, found)
    publish(page_text(found, list(CASES)), page)


if __name__ == "__main__":
    run(main)
