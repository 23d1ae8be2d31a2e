"""How much a model itself takes pictures for what a prompt says."""

from collections.abc import Sequence
from copy import copy
from typing import Any, Self

import torch
from jaxtyping import Float
from torch import Tensor

from adjointdpm.engine.denoiser import Denoiser, Prediction
from adjointdpm.pipelines.any_pipeline import check_family
from adjointdpm.pipelines.inversion import encode_pictures
from adjointdpm.pipelines.native_samplers import schedule_and_prediction

_LEVELS = (0.3, 0.45, 0.6, 0.75)  # of the noisiest time: between detail and what nobody sees
#: Things that a picture might show instead.
OTHERS = ("a cat", "a car", "a house")


class DiffusionClassifier:
    """How much better a network denoises pictures with their prompt than with other ones.

    Pictures are noised at four levels. The score at each is 1 − e/ē, where e is the squared error
    of the prediction with the prompt and ē that with the others, their mean. It is below 1, about 0
    where the prompt says no more of a picture than the others do, and negative where it says less.
    Little noise asks for detail, and much for the whole. All pictures get the same noise, so scores
    of two can be compared. This is the diffusion classifier of Li et al. (2023, arXiv 2303.16203),
    with one draw of noise.

    Args:
        model: what `adjointdpm.load` returns.
        prompt: what the pictures should show.
        others: prompts of other things.
        seed: of the noise.

    Raises:
        UnsupportedError: the pipeline's class has no family, or its scheduler no table of noise
            levels.
        ScheduleError: no noise schedule can be read from its scheduler.

    """

    def __init__(
        self, model: Any, prompt: str, others: Sequence[str] = OTHERS, seed: int = 0
    ) -> None:
        check_family(model, "DiffusionClassifier")
        self.schedule, predicted = schedule_and_prediction(model.pipe.scheduler)
        self.prediction: Prediction = predicted
        self.model, self.prompts, self.seed = model, [prompt, *others], seed

    def with_seed(self, seed: int) -> Self:
        """The same with another draw of the noise."""
        other = copy(self)
        other.seed = seed
        return other

    def __call__(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch levels"]:
        """The scores of each picture, in float32 at least on the CPU, with their gradients.

        Args:
            images: within [0, 1], where colours beyond are taken, of a size that the autoencoder
                takes. If they require a gradient, the scores' are found level by level on the way,
                so that no more than one level's graph is held; they have no second derivative.

        Raises:
            ShapeError: their size is no multiple of the autoencoder's factor.
            UnsupportedError: the network needs more than a prompt.

        """
        latents = encode_pictures(self.model, images.clamp(0, 1).to(self.model.device))
        with torch.no_grad():
            cond, _, _ = self.model.conditioning(self.model.encode(self.prompts), None, 1.0)
        return torch.stack([self._scores(one[None], cond) for one in latents]).cpu()

    def _scores(self, latents: Tensor, cond: Any) -> Tensor:
        source = torch.Generator().manual_seed(self.seed)
        noises = [torch.randn(latents.shape, generator=source).to(latents) for _ in _LEVELS]
        wanted, size = torch.is_grad_enabled() and latents.requires_grad, latents.numel()
        start = latents.detach().requires_grad_(wanted)
        scores: list[Tensor] = []
        gradients: list[Tensor] = []
        for level, noise in zip(_LEVELS, noises, strict=True):
            found = self._score_at(level, start, noise, cond)
            scores.append(found.detach())
            if wanted:  # enlarged on the way, so that float16 can hold it
                gradients.append(torch.autograd.grad(size * found, start)[0] / size)
        if not wanted:
            return torch.stack(scores)
        moved = (latents - latents.detach())[None]
        return torch.stack(scores) + (moved * torch.stack(gradients)).flatten(1).sum(1)

    def _score_at(self, level: float, latents: Tensor, noise: Tensor, cond: Any) -> Tensor:
        denoiser, count = Denoiser(self.model.network, self.prediction), len(self.prompts)
        time = torch.tensor([level * self.schedule.t_max], dtype=torch.float64).round()
        alpha, sigma = self.schedule.alpha(time).item(), self.schedule.sigma(time).item()
        state = (alpha * latents + sigma * noise).to(self.model.network.dtype)
        states = state.expand(count, *state.shape[1:])
        times = time.float().to(state.device).expand(count)
        output = denoiser(states, times, cond).to(latents.dtype)
        _, found = denoiser.split(output, states.to(latents.dtype), alpha, sigma)
        errors = (found - noise).square().flatten(1).mean(1)
        return 1 - errors[0] / errors[1:].mean()
