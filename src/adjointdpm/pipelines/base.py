"""What the user holds: a diffusers pipeline whose pictures can be differentiated."""

import copy
import inspect
import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from adjointdpm.engine.denoiser import Denoiser, network_dtype
from adjointdpm.engine.gradients import Auto, AutogradMethod, Checkpoint, GradientMethod
from adjointdpm.engine.gradients import resolve as resolve_gradient
from adjointdpm.engine.problem import Callback
from adjointdpm.engine.samplers import Sampler
from adjointdpm.engine.samplers import resolve as resolve_sampler
from adjointdpm.engine.sampling import sample
from adjointdpm.engine.seeded_noise import standard_normal
from adjointdpm.engine.tree import Tree
from adjointdpm.errors import AdjointDPMWarning, UnsupportedError
from adjointdpm.pipelines.any_pipeline import AnyPipeline
from adjointdpm.pipelines.checks import (
    Layout,
    batch_size,
    check_batch_fits,
    check_count,
    check_either,
    check_encoded,
    check_guidance,
    check_prompts,
    check_seeds,
    check_tensor,
)
from adjointdpm.pipelines.examples import Encoded, expand_batch
from adjointdpm.pipelines.native_loop.native_call import call_by_any_method
from adjointdpm.pipelines.native_loop.recorded_network import RecordedNetwork
from adjointdpm.pipelines.native_samplers import (
    native_equivalent,
    native_support,
    schedule_and_prediction,
)
from adjointdpm.pipelines.own_call.finite_stages import FiniteStages, is_finite
from adjointdpm.pipelines.own_call.missing_weights import check_weights
from adjointdpm.pipelines.own_call.pipeline_call import call_parameters
from adjointdpm.pipelines.schedulers import (
    Generators,
    SchedulerLoop,
    blocked_gradients,
    check_scheduler,
)


class DiffusionModel(ABC):
    """A differentiable pipeline, made by `load` or `from_pipeline`.

    Each family of pipelines is a subclass. The pipeline stays the user's: nothing in it is changed,
    and what the user changes in it (weights, adapters, `pipe.scheduler`) counts from the next call
    on.

    Attributes:
        pipe: the diffusers pipeline.
        scheduler_loop: how the family's pipelines call their scheduler.

    """

    scheduler_loop: ClassVar[type[SchedulerLoop]] = SchedulerLoop

    def __init__(self, pipe: Any) -> None:
        self.pipe = pipe
        self._warned: set[str] = set()
        self._recorded: dict[str, RecordedNetwork] = {}
        self._check_pipeline()

    # What a family provides.

    @property
    @abstractmethod
    def network(self) -> nn.Module:
        """The denoiser as `network(x, t, cond) -> output`.

        t is in the unit of the scheduler's timesteps. It is the same object as long as the pipeline
        has the same network.
        """

    @property
    @abstractmethod
    def latent_shape(self) -> tuple[int, ...]:
        """The shape of one sample's noise at the pipeline's default size, for example (C, H, W)."""

    @property
    @abstractmethod
    def noise_layout(self) -> Layout:
        """The layout of noise of any size, for example ("B", 4, "H", "W")."""

    @property
    @abstractmethod
    def encoded_layouts(self) -> dict[str, Layout]:
        """The layout of each tensor that `encode` returns, by name."""

    @abstractmethod
    def encode(self, prompts: str | Sequence[str]) -> Encoded:
        """Encode prompts as the pipeline itself does.

        The result is differentiable in the text encoder's weights and token embeddings.

        Args:
            prompts: one string (B = 1) or a list of B strings.

        Returns:
            Tensors with leading dimension B, by the names under which the pipeline's `__call__`
            takes them: `model.generate(noise=noise, **model.encode("a cat"))`.

        Raises:
            PromptError: neither a string nor a non-empty list of strings, or the pipeline has no
                text encoder.

        """

    @abstractmethod
    def decode(self, latents: Float[Tensor, "batch *shape"]) -> Float[Tensor, "batch *sample"]:
        """Turn latents into samples, pictures `[B, 3, H, W]` for example; differentiable.

        Returns:
            Samples of about [0, 1], not clamped, in the dtype of `latents`.

        Raises:
            InvalidTypeError, ShapeError: `latents` are no floating-point tensor of this layout.

        """

    @abstractmethod
    def conditioning(
        self,
        encoded: Encoded,
        negative: str | list[str] | Encoded | None,
        guidance_scale: float,
    ) -> tuple[Tree, Tree, float]:
        """Return what `Denoiser` needs besides the network: cond, null_cond and guidance scale.

        Where the pipeline would not guide, the scale is 1 and null_cond is None.

        Args:
            encoded: the prompts, as `encode` returns them.
            negative: the negative prompt or prompts, or those encoded, by the names of `encoded`.
            guidance_scale: as the pipeline takes it.

        """

    # What all families share.

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """The shape of one sample at the pipeline's default size, for example (3, H, W)."""
        latents = torch.zeros((1, *self.latent_shape), dtype=self.dtype, device=self.device)
        with torch.no_grad():
            return tuple(self.decode(latents).shape[1:])

    def __call__(
        self,
        *,
        noise: Float[Tensor, "batch *shape"] | None = None,
        gradient: GradientMethod | str = "exact",
        output: str = "sample",
        sampler: Sampler | str | None = None,
        **arguments: Any,
    ) -> Tensor:
        """Run the pipeline's own `__call__`; as `AnyPipeline.__call__`, for every pipeline."""
        return call_by_any_method(
            self.pipe, arguments, noise, gradient, output, sampler, self._recorded
        )

    @property
    def device(self) -> torch.device:
        """Where the pipeline runs its networks."""
        return torch.device(self.pipe._execution_device)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of noise, state and samples: float64 for a float64 network, else float32."""
        return torch.promote_types(torch.float32, network_dtype(self.network) or torch.float32)

    @property
    def _is_half(self) -> bool:
        """Whether a network computes in float16."""
        parts = [p for p in self.pipe.components.values() if isinstance(p, nn.Module)]
        return any(network_dtype(part) is torch.float16 for part in parts)

    def noise(
        self, batch: int, seed: int, offset: int = 0, **arguments: Any
    ) -> Float[Tensor, "batch *shape"]:
        """Initial noise of unit variance, for `generate` and for the pipeline's own `latents`.

        Sample i depends on (seed, offset + i) alone, whatever the batch, the device or the process;
        so a process that makes the pictures 8 to 11 of a run asks for `noise(4, seed, offset=8)`.

        Args:
            batch: B, at least 1.
            seed: any non-negative int.
            offset: the number of the first sample.
            arguments: further ones of the pipeline's call; height and width decide the shape.

        Returns:
            `[B, *latent_shape]`, or the shape that the pipeline draws for `arguments`, in float32
            (float64 for a float64 pipeline) on the pipeline's device. Cast it to pass it to a
            half-precision pipeline itself.

        """
        if arguments:
            return AnyPipeline(self.pipe).noise(batch, seed, offset, **arguments)
        check_count(batch, "batch", least=1)
        check_count(seed, "seed", least=0)
        check_count(offset, "offset", least=0)
        check_batch_fits((batch, *self.latent_shape), self.device)
        like = torch.empty((batch, *self.latent_shape), dtype=self.dtype, device=self.device)
        return standard_normal(like, seed, stream=0, first=offset)

    def generate(
        self,
        prompt: str | Sequence[str] | None = None,
        noise: Float[Tensor, "batch *shape"] | None = None,
        *,
        negative_prompt: str | Sequence[str] | None = None,
        steps: int = 50,
        guidance_scale: float | Tensor | None = None,
        sampler: Sampler | str | None = None,
        gradient: GradientMethod | str = "exact",
        generator: Generators | None = None,
        seeds: Sequence[int] | None = None,
        callback: Callback | None = None,
        **encoded: Any,
    ) -> Float[Tensor, "batch *sample"]:
        """Draw pictures that can be differentiated.

        Gradients reach the noise, the encoded prompts, and every weight and adapter of the pipeline
        that requires grad. Without `sampler` the pipeline's own scheduler makes the picture that
        `pipe(prompt, latents=noise)` makes, except for the pipeline's last clamp, which would zero
        gradients. The decoder is part of the differentiated function: with `gradient="exact"` its
        graph is kept and every call of the denoiser is recomputed, so that only one network's graph
        is in memory at a time. Under `torch.no_grad` nothing is kept.

        A pipeline in float16 needs a scaled loss: inside its networks gradients below 6e-8 become
        0, and those of a mean over many pixels are smaller than that. Multiply the loss so that its
        largest gradient with respect to the pictures is about 1, and divide the gradients that come
        back, or use `torch.amp.GradScaler`; or load the pipeline in bfloat16, which has the range
        of float32. The library's tasks and `optimize` scale by themselves.

        Args:
            prompt: a string for the whole batch, or a list of B. This or `encoded`.
            noise: `[B, …]`, unit variance, as `noise()` makes it; its size sets the picture's. All
                states have its dtype. None: the samples of seed 0, the same at every call.
            negative_prompt: a string for the whole batch, or a list of B; None is "".
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
                draws from a CPU generator seeded with i, so that a repeated call draws the same,
                also with other noise or weights. Native samplers have their own seed.
            seeds: one non-negative int for each sample, instead of `generator`. What a stochastic
                scheduler or native sampler draws for a sample then depends on its seed (and on the
                native sampler's own), not on its place in the batch. They may be the seeds that the
                noise was made from: the draws are different.
            callback: sees every state, and with two methods every costate, as in `sample`; it needs
                a native sampler, as gradient methods do that solve an ODE of their own.
            **encoded: encoded prompts in place of `prompt`, by the names that `encode` gives them
                (`prompt_embeds` for Stable Diffusion), and encoded negative prompts, by the same
                names with `negative_` in front. Any other argument of the pipeline's call
                (`guidance_rescale`, `clip_skip`, …) makes the picture by that call itself, for
                which there are no native samplers.

        Returns:
            What `decode` makes, for example `[B, 3, H', W']`: about [0, 1], not clamped, in the
            dtype of the noise.

        Raises:
            PromptError: no prompt, two prompts, or something that is not one.
            ShapeError, DeviceError: tensors or lists that do not fit the model or each other.
            UnsupportedError: the gradient method cannot differentiate this scheduler or sampler; or
                the guidance scale is a tensor and the network was distilled for guidance, which
                takes it as a number.
            ScheduleError: zero terminal SNR with epsilon prediction.
            InvalidInputError, InvalidTypeError: another argument out of range, of the wrong type,
                or unknown.
            NonFiniteError: the pictures hold NaN or infinite values.

        Warns:
            AdjointDPMWarning: once, if something in the pipeline blocks gradients or is left out.

        """
        method = resolve_gradient(gradient)
        self._check_pipeline()
        if further := self._further(encoded):
            general = {"prompt": prompt, "guidance_scale": guidance_scale, "seeds": seeds}
            general |= {"negative_prompt": negative_prompt, "generator": generator} | encoded
            general = {name: value for name, value in general.items() if value is not None}
            _check_general(further, sampler, method, guidance_scale)
            if callback is not None:
                raise UnsupportedError(
                    f"a callback sees the states of a native sampler, and {further[0]} is for the "
                    f"pipeline's own call; leave one of the two out"
                )
            return self._general().generate(noise=noise, steps=steps, gradient=method, **general)
        if seeds is not None:
            seeds = check_seeds(seeds, generator)
        loop = self.scheduler_loop(self.pipe.scheduler, steps, self.device)
        scale = self._guidance(guidance_scale)
        positive, negative = self._check_prompts(prompt, negative_prompt, encoded)
        batch = self._check_batch(noise, positive, negative, seeds)

        x = self.noise(batch, seed=0) if noise is None else noise
        rows = positive if isinstance(positive, dict) else self.encode(positive)
        cond, null_cond, scale = self.conditioning(expand_batch(rows, batch), negative, scale)
        if isinstance(guidance_scale, Tensor):
            scale = _as_input(guidance_scale, null_cond)

        grid = None
        solves = callback is not None or not isinstance(method, AutogradMethod)
        if sampler is None and solves:
            try:
                sampler, grid = native_equivalent(loop.scheduler)
            except UnsupportedError:
                if callback is not None or not isinstance(method, Auto):
                    raise
                method = method.exact  # which takes every scheduler
        if isinstance(method, Checkpoint):
            method = self._leave_room_to_decode(method, x)
        if sampler is None:
            assert isinstance(method, AutogradMethod)
            denoiser = Denoiser(self.network, guidance_scale=scale, null_cond=null_cond)
            denoiser.check_cond(cond, batch)
            stages = FiniteStages(self._is_half)
            call = stages.watched("denoiser", method.wrap(denoiser, loop.calls))
            own = loop.generators(batch, seeds)
            latents = loop.run(
                lambda x, t: call(x, t, cond, null_cond), x, generator or own, stages.step
            )
            samples = self.decode(latents)
            stages.check(samples, "the decoder")
            return samples

        schedule, prediction = schedule_and_prediction(loop.scheduler)
        denoiser = Denoiser(self.network, prediction, scale, null_cond)
        if seeds is not None:
            sampler = resolve_sampler(sampler).for_samples(seeds)
        solve: dict[str, Any] = {"schedule": schedule, "steps": steps, "grid": grid}
        watched: dict[str, Any] = solve | {"callback": callback}
        latents = sample(denoiser, x, cond=cond, sampler=sampler, gradient=method, **watched)
        samples = self.decode(latents)
        stages = FiniteStages(self._is_half)
        if not is_finite(samples.detach()):
            with torch.no_grad():
                look = stages.solver(resolve_sampler(sampler))
                sample(denoiser, x, cond=cond, sampler=sampler, callback=look, **solve)
        stages.check(samples, "the decoder")
        return samples

    def supports(self, **arguments: Any) -> dict[str, dict[str, bool | str]]:
        """What works with this pipeline: True, or the reason why not, by kind and name.

        Args:
            arguments: of a call; nothing depends on them here.

        """
        return AnyPipeline(self.pipe).supports() | native_support(self.pipe.scheduler)

    def _further(self, arguments: dict[str, Any]) -> list[str]:
        """The arguments that only the pipeline's own call takes."""
        known = {f"{prefix}{name}" for name in self.encoded_layouts for prefix in ("", "negative_")}
        return [n for n in arguments if n not in known and n in call_parameters(self.pipe)]

    def _general(self) -> AnyPipeline:
        """The same pipeline by its own call, without the safety checker, which has no gradient."""
        pipe = copy.copy(self.pipe)
        if getattr(pipe, "safety_checker", None) is not None:
            vars(pipe)["safety_checker"] = None
        return AnyPipeline(pipe)

    def _leave_room_to_decode(self, method: Checkpoint, x: Tensor) -> Checkpoint:
        """Make the decoder's graph the one that is always kept, at the cost of the budget.

        The backward pass needs the decoder's graph first, so the last network call can be
        recomputed like the others.
        """
        budget = method.budget_bytes(x.device)
        if budget is not None and torch.is_grad_enabled():
            budget -= method.measured_bytes(self.decode, x)
        return method.without_last(budget if budget and budget > 0 else None)

    def _guidance(self, scale: float | Tensor | None) -> float:
        """The scale as a number that says whether the pipeline guides."""
        if isinstance(scale, Tensor):
            return 2.0  # a tensor always guides
        default = inspect.signature(type(self.pipe).__call__).parameters["guidance_scale"].default
        return check_guidance(default if scale is None else scale)

    def _check_prompts(
        self, prompt: Any, negative: Any, encoded: dict[str, Tensor | None]
    ) -> tuple[str | list[str] | Encoded, str | list[str] | Encoded | None]:
        """Return the prompts and the negative prompts, each as text or encoded."""
        given, negative_given = check_encoded(encoded, self.encoded_layouts, self.device)
        check_either("prompt", prompt, self.encoded_layouts, given)
        check_either(
            "negative_prompt",
            negative,
            [f"negative_{name}" for name in self.encoded_layouts],
            negative_given,
            required=False,
        )
        if negative is not None:
            negative = check_prompts(negative, "negative_prompt")
        return given or check_prompts(prompt), negative_given or negative

    def _check_batch(
        self,
        noise: Tensor | None,
        positive: str | list[str] | Encoded,
        negative: str | list[str] | Encoded | None,
        seeds: list[int] | None,
    ) -> int:
        """Return the batch size on which all agree."""
        if noise is not None:
            check_tensor(noise, "noise", self.noise_layout, self.device)
        sizes = {"noise": None if noise is None else len(noise)}
        for prefix, prompts in (("", positive), ("negative_", negative)):
            if isinstance(prompts, dict):
                sizes |= {f"{prefix}{name}": len(rows) for name, rows in prompts.items()}
            elif isinstance(prompts, list):
                sizes[f"{prefix}prompt"] = len(prompts)
        return batch_size(sizes | {"seeds": None if seeds is None else len(seeds)})

    def _check_pipeline(self) -> None:
        check_weights(self.pipe)
        check_scheduler(self.pipe.scheduler, self.scheduler_loop.needs)
        concerns = blocked_gradients(self.pipe.scheduler)
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


def _check_general(
    further: list[str], sampler: Any, method: GradientMethod, guidance_scale: Any
) -> None:
    """Raise UnsupportedError for what does not go together with the pipeline's own call."""
    listed = ", ".join(further)
    if sampler is not None or not isinstance(method, AutogradMethod):
        raise UnsupportedError(
            f"{listed}: arguments of the pipeline's own call, which steps its own scheduler; leave "
            'them out, or use sampler=None and a gradient method such as "exact"'
        )
    if isinstance(guidance_scale, Tensor):
        raise UnsupportedError(
            f"{listed}: the pipeline's own call takes guidance_scale as a number"
        )


def _as_input(guidance_scale: Tensor, null_cond: Tree) -> Tensor:
    """A guidance scale that is a tensor, which `Denoiser` guides with."""
    if null_cond is None:
        raise UnsupportedError(
            "this pipeline's network was distilled for guidance and takes the scale as a number, "
            "not as a tensor"
        )
    return guidance_scale
