"""What gradients are taken of: a model, its registered pictures and their losses."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn

from adjointdpm.engine.denoiser import Denoiser
from adjointdpm.engine.schedules import NoiseSchedule
from adjointdpm.engine.tree import Tree
from benchmarks.gradients.registration import Pair

LORA_TARGETS = ("to_q", "to_k", "to_v", "to_out.0")
LORA_RANK = 4


class Workload(ABC):
    """A model in the benchmark; weights come frozen.

    Attributes:
        name: the registered name.
        network: `network(x, t, cond)`.
        schedule: its noise schedule.
        prediction: what the network predicts.

    """

    name: str
    network: nn.Module
    schedule: NoiseSchedule

    @abstractmethod
    def noise(self, pairs: Sequence[Pair]) -> Float[Tensor, "pairs *shape"]:
        """Initial noise; that of a pair depends on its seed alone."""

    @abstractmethod
    def conditioning(self, pairs: Sequence[Pair], guidance: float) -> tuple[Tree, Tree, float]:
        """(cond, null_cond, guidance scale) for `Denoiser`.

        `cond` holds one tensor, the embedding `[pairs, …]`.
        """

    @abstractmethod
    def losses(
        self, metric: str, x: Float[Tensor, "pairs *shape"], pairs: Sequence[Pair]
    ) -> Float[Tensor, " pairs"]:
        """The registered metric of each sample x_0; differentiable.

        Samples are decoded first if the model works on latents.
        """

    def denoiser(self, pairs: Sequence[Pair], guidance: float) -> tuple[Denoiser, Tree]:
        """The guided network, and the conditioning of these pairs."""
        cond, null_cond, scale = self.conditioning(pairs, guidance)
        return Denoiser(self.network, guidance_scale=scale, null_cond=null_cond), cond

    @property
    def weights(self) -> dict[str, nn.Parameter]:
        """All weights of the network."""
        return dict(self.network.named_parameters())

    @property
    def digest(self) -> str:
        """The first 12 hexadecimal digits of the SHA-256 of all weights.

        Measurements of another training are told apart by it.
        """
        found = hashlib.sha256()
        for name, weight in sorted(self.weights.items()):
            found.update(name.encode())
            found.update(weight.detach().cpu().flatten().view(torch.uint8).numpy().tobytes())
        return found.hexdigest()[:12]

    @contextmanager
    def trainable(self) -> Iterator[list[Tensor]]:
        """Inside, all weights of the network require grad."""
        weights = list(self.weights.values())
        for weight in weights:
            weight.requires_grad_()
        try:
            yield list[Tensor](weights)
        finally:
            for weight in weights:
                weight.requires_grad_(False)

    def adapter(self) -> AbstractContextManager[list[Tensor]] | None:
        """A context in which a LoRA is part of the network, for measuring what it costs.

        None where there is no such thing.
        """
        return None


def lora_matrices(workload: Workload) -> dict[str, Float[Tensor, "rank inputs"]]:
    """A of a LoRA at its start, by the name of the weight that it changes.

    B is zero then, and only B has a gradient.

    Uniform in ±1/√inputs, which is what peft draws, from seed 0.
    """
    generator = torch.Generator().manual_seed(0)
    found = {}
    for name, module in workload.network.named_modules():
        if isinstance(module, nn.Linear) and any(
            name == target or name.endswith(f".{target}") for target in LORA_TARGETS
        ):
            uniform = torch.rand(LORA_RANK, module.in_features, generator=generator) * 2 - 1
            found[f"{name}.weight"] = (uniform * module.in_features**-0.5).to(module.weight)
    return found
