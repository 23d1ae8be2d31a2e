"""The second model, which nothing is tuned on: clothes from Fashion-MNIST, in pixels, by class.

`training/fashion.py` makes it.
"""

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import UNet2DModel
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from adjointdpm.engine.schedules import NoiseSchedule
from adjointdpm.engine.seeded_noise import standard_normal
from adjointdpm.engine.tree import Tree
from adjointdpm.errors import ModelError
from adjointdpm.tasks.demo import reference_pattern
from benchmarks.gradients.registration import Pair
from benchmarks.gradients.workload import Workload

SIDE = 32  # 28 pixels, padded by 2
CLASSES = (
    "t-shirt",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)
BRIGHTNESS = 0.5  # the mean that the smooth metric aims at; a class's own are about 0.15 to 0.4


class FashionNetwork(nn.Module):
    """ε of pictures `[B, 1, 32, 32]` in [−1, 1], given a class embedding.

    It is a small UNet on 2×2 blocks of pixels.

    The number after the last class's is no class, for guidance.
    """

    def __init__(self) -> None:
        super().__init__()
        self.classes = nn.Embedding(
            len(CLASSES) + 1, 4 * 32
        )  # the width of the UNet's own embedding of time
        self.unet = UNet2DModel(
            sample_size=SIDE // 2,
            in_channels=4,
            out_channels=4,
            block_out_channels=(32, 64, 96),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
            attention_head_dim=16,
            norm_num_groups=16,
            class_embed_type="identity",
        )

    def forward(
        self,
        x: Float[Tensor, "batch 1 height width"],
        t: Float[Tensor, " batch"],
        cond: Float[Tensor, "batch width"],
    ) -> Float[Tensor, "batch 1 height width"]:
        """Predicted noise."""
        blocks = self.unet(F.pixel_unshuffle(x, 2), t, class_labels=cond, return_dict=False)[0]
        return F.pixel_shuffle(blocks, 2)


class FashionClassifier(nn.Module):
    """A small convolutional classifier of pictures in [−1, 1].

    The style metric uses its feature maps.
    """

    def __init__(self) -> None:
        super().__init__()
        widths = (1, 24, 48, 96)
        self.levels = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 3, 2, 1), nn.GroupNorm(8, b), nn.SiLU())
            for a, b in pairwise(widths)
        )
        self.head = nn.Linear(widths[-1], len(CLASSES))

    def features(self, x: Float[Tensor, "B 1 H W"]) -> list[Float[Tensor, "B C h w"]]:
        """Maps at strides 2, 4 and 8."""
        maps = []
        for level in self.levels:
            x = level(x)
            maps.append(x)
        return maps

    def forward(self, x: Float[Tensor, "B 1 H W"]) -> Float[Tensor, "B K"]:
        """Unnormalised log-probabilities of `CLASSES`."""
        return self.head(self.features(x)[-1].mean((2, 3)))


def fashion_schedule() -> NoiseSchedule:
    """DDPM's: β linear from 1e-4 to 0.02 in 1000 entries (Ho et al. 2020, arXiv 2006.11239)."""
    return NoiseSchedule.from_alphas_cumprod(
        torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)
    )


class FashionWorkload(Workload):
    """The model in the benchmark; losses are of pixels."""

    name = "fashion"

    def __init__(
        self, network: FashionNetwork, classifier: FashionClassifier, metrics: Mapping[str, str]
    ) -> None:
        self.network: nn.Module = network.eval().requires_grad_(False)
        self._table = network.classes.weight.detach()
        self.classifier = classifier.eval().requires_grad_(False)
        self.metrics = metrics
        self.schedule = fashion_schedule()

    def noise(self, pairs: Sequence[Pair]) -> Tensor:
        like = self._table.new_empty(1, 1, SIDE, SIDE)
        return torch.cat([standard_normal(like, pair.seed, stream=0) for pair in pairs])

    def conditioning(self, pairs: Sequence[Pair], guidance: float) -> tuple[Tree, Tree, float]:
        table = self._table
        cond = table[[CLASSES.index(pair.target) for pair in pairs]]
        return (cond, None, 1.0) if guidance == 1 else (cond, table[len(CLASSES) :], guidance)

    def losses(self, metric: str, x: Tensor, pairs: Sequence[Pair]) -> Tensor:
        match self.metrics[metric]:
            case "brightness":
                return ((x / 2 + 0.5).mean((1, 2, 3)) - BRIGHTNESS).square()
            case "classifier":
                targets = torch.tensor(
                    [CLASSES.index(pair.target) for pair in pairs], device=x.device
                )
                return F.cross_entropy(self.classifier(x), targets, reduction="none")
            case "gram":
                return sum(
                    (
                        (g - r).square().sum((1, 2)) / r.square().sum()
                        for g, r in zip(self._grams(x), self._reference, strict=True)
                    ),
                    start=x.new_zeros(len(x)),
                )
            case other:
                raise ModelError(f"fashion has no metric {other!r}")

    @property
    def weights(self) -> dict[str, nn.Parameter]:
        """The UNet's weights.

        The class table is the embedding's source, and not part of the network's call.
        """
        return {
            name: weight
            for name, weight in self.network.named_parameters()
            if name.startswith("unet.")
        }

    @cached_property
    def _reference(self) -> list[Tensor]:
        picture = reference_pattern(SIDE).mean(0)[None, None].to(self._table)
        return self._grams(2 * picture - 1)

    def _grams(self, x: Tensor) -> list[Tensor]:
        maps = [m.flatten(2) for m in self.classifier.features(x)]
        return [m @ m.mT / m.shape[2] for m in maps]


def load_fashion(folder: Path, metrics: Mapping[str, str], device: str = "cpu") -> FashionWorkload:
    """What `training/fashion.py` wrote.

    Raises:
        ModelError: nothing to read there.

    """
    network, classifier = FashionNetwork(), FashionClassifier()
    try:
        for module, name in ((network, "network"), (classifier, "classifier")):
            module.load_state_dict(load_file(folder / f"{name}.safetensors"))
    except (OSError, RuntimeError, SafetensorError) as error:
        raise ModelError(
            f"no Fashion-MNIST model in {folder} ({error}); python -m training.fashion makes it in "
            f"ten minutes"
        ) from error
    return FashionWorkload(network.to(device), classifier.to(device), metrics)


def facts(folder: Path) -> dict[str, float]:
    """What the training script measured of its model; empty where it says nothing."""
    path = folder / "facts.json"
    return json.loads(path.read_text()) if path.is_file() else {}
