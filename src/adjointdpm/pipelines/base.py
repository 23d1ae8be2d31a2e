"""What the user holds: a diffusers pipeline whose pictures can be differentiated."""

import inspect
import warnings
import weakref
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from adjointdpm.engine.denoiser import Denoiser
from adjointdpm.engine.gradients import Auto, AutogradMethod, Checkpoint, GradientMethod
from adjointdpm.engine.gradients import resolve as resolve_gradient
from adjointdpm.engine.samplers import Sampler
from adjointdpm.engine.samplers import resolve as resolve_sampler
from adjointdpm.engine.sampling import sample
from adjointdpm.engine.seeded_noise import standard_normal
from adjointdpm.engine.tree import Tree
from adjointdpm.errors import AdjointDPMWarning, UnsupportedError
from adjointdpm.pipelines import schedulers
from adjointdpm.pipelines.checks import (
    batch_size,
    check_count,
    check_either,
    check_guidance,
    check_prompts,
    check_seeds,
    check_tensor,
)
from adjointdpm.pipelines.native import native_equivalent, schedule_and_prediction


class DiffusionModel(ABC):
    """A pipeline, differentiable; made by `load` or `from_pipeline`. A family of pipelines is a
    subclass.

    The pipeline stays the user's: nothing in it is changed, and what is changed in it (weights,
    adapters, `pipe.scheduler`) counts from the next call on.

    Attributes:
        pipe: the diffusers pipeline.

    """

    def __init__(self, pipe: Any) -> None:
        self.pipe = pipe
        self._warned: set[str] = set()
        self._last_decoder: _Decoder | None = None
        self._check_pipeline()

    # What a family provides.

    @property
    @abstractmethod
    def network(self) -> nn.Module:
        """`network(x, t, cond) -> output`, t in the unit of the scheduler's timesteps; one object
        for one network of the pipeline.
        """

    @property
    @abstractmethod
    def latent_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the noise for a picture of the pipeline's default size."""

    @property
    @abstractmethod
    def embedding_width(self) -> int:
        """D of the prompt embeddings `[B, L, D]`."""

    @abstractmethod
    def encode(self, prompts: str | Sequence[str]) -> Float[Tensor, "batch length width"]:
        """Prompt embeddings as the pipeline itself makes them, differentiable in the text encoder's
        weights and token embeddings.

        Args:
            prompts: one string (B = 1) or a list of B strings.

        Raises:
            PromptError: neither a string nor a non-empty list of strings, or the pipeline has no
                text encoder.

        """

    @abstractmethod
    def decode(
        self, latents: Float[Tensor, "batch channel height width"]
    ) -> Float[Tensor, "batch 3 pixels_y pixels_x"]:
        """Pictures of about [0, 1], not clamped, in the dtype of `latents`; differentiable.

        Raises:
            InvalidTypeError, ShapeError: `latents` are no floating-point tensor of this layout.

        """

    @abstractmethod
    def conditioning(
        self,
        embeds: Float[Tensor, "batch length width"],
        negative: str | list[str] | Tensor | None,
        guidance_scale: float,
    ) -> tuple[Tree, Tree, float]:
        """(cond, null_cond, guidance scale) for `Denoiser`; a scale of 1 where the pipeline would
        not guide, with no `null_cond` then.
        """

    # What all families share.

    @property
    def device(self) -> torch.device:
        """Where the pipeline runs its networks."""
        return torch.device(self.pipe._execution_device)

    @property
    def dtype(self) -> torch.dtype:
        """Of `noise`, and so of the state and the pictures: float32, or float64 for a float64
        pipeline.
        """
        return torch.promote_types(torch.float32, self.pipe.unet.dtype)

    def noise(
        self, batch: int, seed: int, offset: int = 0
    ) -> Float[Tensor, "batch channel height width"]:
        """Initial noise of unit variance, for `generate` and for the pipeline's own `latents`.

        Sample i depends on (seed, offset + i) alone, whatever the batch, the device or the process;
        so a process that makes the pictures 8 to 11 of a run asks for `noise(4, seed, offset=8)`.

        Args:
            batch: B, at least 1.
            seed: any non-negative int.
            offset: the number of the first sample.

        Returns:
            `[B, C, H, W]` in float32 (float64 for a float64 pipeline) on the pipeline's device.
            Cast it to pass it to a half-precision pipeline itself.

        Raises:
            InvalidTypeError, InvalidInputError: an argument is not an int, or out of range.

        """
        check_count(batch, "batch", least=1)
        check_count(seed, "seed", least=0)
        check_count(offset, "offset", least=0)
        like = torch.empty((batch, *self.latent_shape), dtype=self.dtype, device=self.device)
        return standard_normal(like, seed, stream=0, first=offset)

    def generate(
        self,
        prompt: str | Sequence[str] | None = None,
        noise: Float[Tensor, "batch channel height width"] | None = None,
        *,
        prompt_embeds: Float[Tensor, "batch length width"] | None = None,
        negative_prompt: str | Sequence[str] | None = None,
        negative_prompt_embeds: Float[Tensor, "batch length width"] | None = None,
        steps: int = 50,
        guidance_scale: float | Tensor | None = None,
        sampler: Sampler | str | None = None,
        gradient: GradientMethod | str = "exact",
        generator: schedulers.Generators | None = None,
        seeds: Sequence[int] | None = None,
    ) -> Float[Tensor, "batch 3 pixels_y pixels_x"]:
        """Pictures, differentiable in the noise, the prompt embeddings, and every weight and
        adapter of the pipeline that requires grad.

        Without `sampler` the pipeline's own scheduler makes the picture that `pipe(prompt,
        latents=noise)` makes, apart from the pipeline's last clamp, which would zero gradients. The
        decoder is part of the differentiated function: with `gradient="exact"` its graph is the one
        that is kept, and every call of the denoiser is recomputed, so that one network's graph is
        alive at a time. Under `torch.no_grad` nothing is kept.

        A pipeline in float16 needs a scaled loss: inside its networks gradients below 6e-8 become
            0, and those of a mean over many pixels
        are below that. Multiply the loss so that its gradient with respect to the pictures is about
        1 at its largest, and divide the gradients that come back, or let `torch.amp.GradScaler` do
        both; or load the pipeline in bfloat16, which has the range of float32. The library's own
        tasks and `optimize` scale by themselves.

        Args:
            prompt: a string for the whole batch, or a list of B. This or `prompt_embeds`.
            noise: `[B, C, H, W]`, unit variance, as `noise()` makes it; H and W set the picture's
                size. State arithmetic is in its dtype. None: the samples of seed 0, the same at
                every call.
            prompt_embeds: `[B, L, D]`, as `encode` makes them.
            negative_prompt: a string for the whole batch, or a list of B; None is "".
            negative_prompt_embeds: `[B, L, D]`.
            steps: the scheduler's `num_inference_steps`, or the native sampler's steps.
            guidance_scale: w of null + w (text - null), in one batched call; guidance is off at w
                <= 1 as in the pipeline. None: the default of the pipeline's class (7.5 for Stable
                Diffusion). A floating-point tensor, scalar or `[B]`, may require grad, and guides
                at every w.
            sampler: a native sampler, on its default grid, instead of the pipeline's scheduler.
            gradient: a gradient method or its name. One that solves an ODE of its own (`Adjoint`)
                needs a native sampler; without one it is given the sampler and grid that equal the
                pipeline's scheduler, where there are such.
            generator: for stochastic schedulers, as the pipeline's own argument. None: sample i
                draws from a CPU generator seeded with i, so that a repeated call, with other noise
                or weights too, meets the same draws. Native samplers bring their own seed.
            seeds: one non-negative int for each sample, in place of `generator`: what a stochastic
                scheduler or native sampler draws for a sample then depends on its seed (and the
                native sampler's own), wherever in whichever batch it is drawn. They may be the
                seeds that the noise was made from: the draws are others.

        Returns:
            `[B, 3, H', W']`, about [0, 1], not clamped, in the dtype of the noise.

        Raises:
            PromptError: no prompt, two prompts, or something that is not one.
            ShapeError, DeviceError: tensors or lists that do not fit the model or each other.
            UnsupportedError: the gradient method cannot differentiate this scheduler or sampler; or
                the guidance scale is a tensor and the network was distilled for guidance, which
                takes it as a number.
            ScheduleError: zero terminal SNR with epsilon prediction.
            InvalidInputError, InvalidTypeError: another argument out of range or of the wrong type.

        Warns:
            AdjointDPMWarning: once, if something in the pipeline blocks gradients or is left out.

        """
        method = resolve_gradient(gradient)
        self._check_pipeline()
        if seeds is not None:
            seeds = check_seeds(seeds, generator)
        scheduler = schedulers.start(self.pipe.scheduler, steps, self.device)
        default = inspect.signature(type(self.pipe).__call__).parameters["guidance_scale"].default
        # A tensor always guides: 2 stands for it where only that is asked.
        scale = (
            2.0
            if isinstance(guidance_scale, Tensor)
            else check_guidance(default if guidance_scale is None else guidance_scale)
        )
        texts, negative = self._check_prompts(
            prompt, prompt_embeds, negative_prompt, negative_prompt_embeds
        )
        batch = self._check_batch(
            noise, prompt_embeds, negative_prompt_embeds, texts, negative, seeds
        )

        x = self.noise(batch, seed=0) if noise is None else noise
        embeds = (
            prompt_embeds
            if prompt_embeds is not None
            else self.encode(texts if texts is not None else "")
        )
        cond, null_cond, scale = self.conditioning(embeds.expand(batch, -1, -1), negative, scale)
        if isinstance(guidance_scale, Tensor):
            if null_cond is None:
                raise UnsupportedError(
                    "this pipeline's network was distilled for guidance and takes the scale as a "
                    "number, not as a tensor"
                )
            scale = guidance_scale

        grid = None
        if sampler is None and not isinstance(method, AutogradMethod):
            try:
                sampler, grid = native_equivalent(scheduler)
            except UnsupportedError:
                if not isinstance(method, Auto):
                    raise
                method = method.exact  # which takes every scheduler
        if isinstance(method, Checkpoint):
            method = _DecoderLast(method, self._decoder)
        if sampler is None:
            assert isinstance(method, AutogradMethod)
            denoiser = Denoiser(self.network, guidance_scale=scale, null_cond=null_cond)
            denoiser.check_cond(cond, batch)
            call = method.wrap(denoiser, len(scheduler.timesteps))
            own = schedulers.sample_generators(scheduler, batch, seeds)
            arguments = self.pipe.prepare_extra_step_kwargs(generator or own, 0.0)
            return self.decode(
                schedulers.run(scheduler, lambda x, t: call(x, t, cond, null_cond), x, arguments)
            )

        schedule, prediction = schedule_and_prediction(scheduler)
        denoiser = Denoiser(self.network, prediction, scale, null_cond)
        if seeds is not None:
            sampler = resolve_sampler(sampler).for_samples(seeds)
        return self.decode(
            sample(
                denoiser,
                x,
                schedule=schedule,
                cond=cond,
                steps=steps,
                grid=grid,
                sampler=sampler,
                gradient=method,
            )
        )

    @property
    def _decoder(self) -> "_Decoder":
        """One object for one VAE of the pipeline, for what a memory budget remembers of it."""
        if self._last_decoder is None or self._last_decoder.vae is not self.pipe.vae:
            self._last_decoder = _Decoder(self)
        return self._last_decoder

    def _check_prompts(
        self, prompt: Any, embeds: Tensor | None, negative: Any, negative_embeds: Tensor | None
    ) -> tuple[str | list[str] | None, str | list[str] | Tensor | None]:
        check_either(prompt, embeds)
        check_either(negative, negative_embeds, "negative_prompt", required=False)
        texts = None if prompt is None else check_prompts(prompt)
        if negative_embeds is not None:
            return texts, negative_embeds
        return texts, None if negative is None else check_prompts(negative, "negative_prompt")

    def _check_batch(
        self,
        noise: Tensor | None,
        embeds: Tensor | None,
        negative_embeds: Tensor | None,
        texts: str | list[str] | None,
        negative: str | list[str] | Tensor | None,
        seeds: list[int] | None,
    ) -> int:
        width = {"D": self.embedding_width}
        if noise is not None:
            check_tensor(
                noise, "noise", ("B", "C", "H", "W"), {"C": self.latent_shape[0]}, self.device
            )
        if embeds is not None:
            check_tensor(embeds, "prompt_embeds", ("B", "L", "D"), width, self.device)
        if negative_embeds is not None:
            length = width if embeds is None else width | {"L": embeds.shape[1]}
            check_tensor(
                negative_embeds, "negative_prompt_embeds", ("B", "L", "D"), length, self.device
            )
        return batch_size(
            {
                "noise": None if noise is None else len(noise),
                "prompt": len(texts) if isinstance(texts, list) else None,
                "prompt_embeds": None if embeds is None else len(embeds),
                "negative_prompt": len(negative) if isinstance(negative, list) else None,
                "negative_prompt_embeds": None if negative_embeds is None else len(negative_embeds),
                "seeds": None if seeds is None else len(seeds),
            }
        )

    def _check_pipeline(self) -> None:
        schedulers.check_prediction(self.pipe.scheduler)
        concerns = schedulers.blocked_gradients(self.pipe.scheduler)
        if getattr(self.pipe, "safety_checker", None) is not None:
            concerns.append(
                "the pipeline's safety checker blacks pictures out after decoding, which cannot be "
                "differentiated; generate() leaves it out. Pass safety_checker=None when loading "
                "if that is what you want, and screen the pictures that you publish"
            )
        for concern in concerns:
            if concern not in self._warned:
                self._warned.add(concern)
                warnings.warn(concern, AdjointDPMWarning, stacklevel=4)


class _Decoder(nn.Module):
    """A model's `decode`, with the weights that it uses."""

    def __init__(self, model: DiffusionModel) -> None:
        super().__init__()
        self.vae = model.pipe.vae
        self._model = weakref.ref(model)

    def forward(self, latents: Tensor) -> Tensor:
        model = self._model()
        assert model is not None
        return model.decode(latents)


@dataclass(frozen=True)
class _DecoderLast(AutogradMethod):
    """Checkpointing for a solve whose last network call is the decoder's: that graph is kept, and
    counts in a memory budget.
    """

    checkpoint: Checkpoint
    decoder: _Decoder

    def wrap(self, fn: Any, calls: int) -> Any:
        return self.checkpoint.wrap(fn, calls, after=self.decoder)
