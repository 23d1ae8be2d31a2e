"""Train the benchmark's second model on Fashion-MNIST: `python -m training.fashion`.

It takes ten minutes on two cores.

Nothing in this library is tuned on it. Class-conditional epsilon prediction in pixels, padded to
32×32; a classifier for the metrics comes from the same script. Steps, seed and threads are fixed,
so that the same processor and torch make the same weights again, bit for bit. The data are those of
the Debian package dataset-fashion-mnist (`apt-get install dataset-fashion-mnist`, MIT).
"""

import gzip
import json
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F
import typer
from safetensors.torch import save
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from adjointdpm import Denoiser, Euler, grids, sample
from adjointdpm.support.files import write_bytes, write_text
from benchmarks.gradients.fashion import (
    CLASSES,
    SIDE,
    FashionClassifier,
    FashionNetwork,
    fashion_schedule,
)
from training.steps import set_rate, take_step, update_average

DATA = Path("/usr/share/datasets/fashion-mnist")
WORK = Path(__file__).parent / "work" / "fashion"
DROPPED = 0.15  # of the examples say no class, for guidance
THREADS = 2  # the order of sums, and with it their last digits, depends on it


def read(data: Path, part: str) -> tuple[Tensor, Tensor]:
    """Pictures `[n, 1, 32, 32]` in [−1, 1] and labels `[n]` of "train" or "t10k".

    The files are IDX files (yann.lecun.com/exdb/mnist).
    """
    pictures = np.frombuffer(
        gzip.decompress((data / f"{part}-images-idx3-ubyte.gz").read_bytes()), np.uint8, offset=16
    )
    labels = np.frombuffer(
        gzip.decompress((data / f"{part}-labels-idx1-ubyte.gz").read_bytes()), np.uint8, offset=8
    )
    square = torch.from_numpy(pictures.copy()).view(-1, 1, 28, 28)
    return F.pad(square, [(SIDE - 28) // 2] * 4).float() / 127.5 - 1, torch.from_numpy(
        labels.astype(np.int64)
    )


def train_classifier(
    pictures: Tensor, labels: Tensor, steps: int, generator: torch.Generator
) -> FashionClassifier:
    """On pictures with some noise, so that it also reads generated ones."""
    classifier = FashionClassifier()
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=3e-3)
    for step in range(steps):
        set_rate(optimizer, 3e-3 * (1 - step / steps))
        picks = torch.randint(len(pictures), (128,), generator=generator)
        x = pictures[picks]
        x = x + 0.2 * torch.rand(len(x), 1, 1, 1, generator=generator) * torch.randn(
            x.shape, generator=generator
        )
        loss = F.cross_entropy(classifier(x), labels[picks])
        take_step(optimizer, loss)
    return classifier.eval().requires_grad_(False)


def train_network(
    pictures: Tensor, labels: Tensor, steps: int, batch: int, generator: torch.Generator
) -> FashionNetwork:
    """Returns the moving average of the weights."""
    network, average = FashionNetwork(), FashionNetwork().requires_grad_(False)
    average.load_state_dict(network.state_dict())
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, betas=(0.9, 0.99))
    schedule = fashion_schedule()
    for step in range(1, steps + 1):
        set_rate(optimizer, 2e-3 * (1 - (step - 1) / steps) * min(1.0, step / 100))
        picks = torch.randint(len(pictures), (batch,), generator=generator)
        # One noise level out of every stretch of the schedule.
        t = (1000 * (torch.arange(batch) + torch.rand(batch, generator=generator)) / batch).floor()
        alpha, sigma = (
            f(t.double()).float().view(-1, 1, 1, 1) for f in (schedule.alpha, schedule.sigma)
        )
        noise = torch.randn(batch, 1, SIDE, SIDE, generator=generator)
        named = torch.where(
            torch.rand(batch, generator=generator) < DROPPED, len(CLASSES), labels[picks]
        )
        # Products in bfloat16 take two thirds of the time where there are matrix units; the fused
        # attention would undo that on a CPU.
        with torch.autocast("cpu", torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
            output = network(alpha * pictures[picks] + sigma * noise, t, network.classes(named))
        loss = F.mse_loss(output.float(), noise)
        take_step(optimizer, loss)
        update_average(average.parameters(), (p.detach() for p in network.parameters()), step)
        if step % 100 == 0:
            print(f"step {step} of {steps}, epsilon mse {loss.item():.4f}", flush=True)
    return average.eval()


def judged(
    network: FashionNetwork, classifier: FashionClassifier, each: int = 8, guidance: float = 3.0
) -> float:
    """The share of generated pictures in which the classifier sees the class that was asked for.

    DDIM draws them in 20 steps.
    """
    labels = torch.arange(len(CLASSES)).repeat(each)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(len(labels), 1, SIDE, SIDE, generator=generator)
    with torch.no_grad():
        table = network.classes.weight
        denoiser = Denoiser(network, guidance_scale=guidance, null_cond=table[len(CLASSES) :])
        schedule = fashion_schedule()
        x = sample(
            denoiser,
            noise,
            schedule=schedule,
            cond=table[labels],
            grid=grids.leading(schedule, 20),
            sampler=Euler(),
        )
        return (classifier(x).argmax(1) == labels).float().mean().item()


def main(
    steps: Annotated[int, typer.Option(help="Of the diffusion model.")] = 5000,
    classifier_steps: Annotated[int, typer.Option(help="Of the classifier.")] = 10000,
    batch: int = 48,
    seed: int = 0,
    data: Path = DATA,
    folder: Path = WORK,
) -> None:
    """Train both networks.

    They are written to `network.safetensors` and `classifier.safetensors`, what was measured to
    `facts.json`.
    """
    if not data.is_dir():
        raise SystemExit(
            f"{data} does not exist; apt-get install dataset-fashion-mnist puts the data there, or "
            f"name another folder with --data"
        )
    started = time.monotonic()
    torch.set_num_threads(THREADS)
    torch.manual_seed(seed)
    torch.set_flush_denormal(True)
    generator = torch.Generator().manual_seed(seed)
    pictures, labels = read(data, "train")
    classifier = train_classifier(pictures, labels, classifier_steps, generator)
    network = train_network(pictures, labels, steps, batch, generator)
    unseen, truth = read(data, "t10k")
    with torch.no_grad():
        right = (
            (torch.cat([classifier(x) for x in unseen.split(500)]).argmax(1) == truth)
            .float()
            .mean()
            .item()
        )
    facts = {
        "minutes": round((time.monotonic() - started) / 60, 1),
        "seed": seed,
        "steps": steps,
        "classifier_steps": classifier_steps,
        "parameters": sum(p.numel() for p in network.parameters()),
        "classifier_accuracy": right,
        "generated_recognised": judged(network, classifier),
    }
    for name, module in (("network", network), ("classifier", classifier)):
        write_bytes(
            folder / f"{name}.safetensors",
            save({k: v.contiguous() for k, v in module.state_dict().items()}),
        )
    write_text(folder / "facts.json", json.dumps(facts) + "\n")
    print(json.dumps(facts))


if __name__ == "__main__":
    typer.run(main)
