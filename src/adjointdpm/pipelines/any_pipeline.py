"""A model made of any diffusers pipeline: noise, prompts, pictures and gradients through them."""

import ast
import inspect
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from adjointdpm.engine.gradients import GradientMethod
from adjointdpm.engine.samplers import Sampler
from adjointdpm.engine.samplers import resolve as resolve_sampler
from adjointdpm.engine.seeded_noise import standard_normal
from adjointdpm.errors import InvalidInputError, UnsupportedError
from adjointdpm.pipelines.arguments.generation import generation_arguments
from adjointdpm.pipelines.checks import check_batch_fits, check_count, check_prompts, check_seeds
from adjointdpm.pipelines.native_loop.native_call import call_by_any_method, native_support
from adjointdpm.pipelines.native_loop.recorded_network import RecordedNetwork
from adjointdpm.pipelines.own_call.decoding import Decoding
from adjointdpm.pipelines.own_call.initial_noise import NoiseSource, drawing_from
from adjointdpm.pipelines.own_call.missing_weights import check_weights
from adjointdpm.pipelines.own_call.modular import as_pipeline, is_modular
from adjointdpm.pipelines.own_call.pipeline_call import (
    call_parameters,
    call_pipeline,
    check_arguments,
    copies,
    draws_in_prepare,
)
from adjointdpm.pipelines.own_call.rejected_arguments import rejected_by
from adjointdpm.pipelines.own_call.twin import twin_of

ENCODER = "encode_prompt"
LINES = "usage() of the variable says lines of stock code that load it"
DECIDED = (
    "a check at run time decides; supports(**arguments), with those of a call, runs it without a "
    "solve"
)


class AnyPipeline:
    """A pipeline of any diffusers class, differentiable; made by `load` or `from_pipeline`.

    The pipeline stays the user's: each call runs on a shallow copy, and nothing in the pipeline is
    changed. Calls from several threads do not disturb each other, as long as no thread changes the
    pipeline's weights or settings meanwhile.

    Attributes:
        pipe: the diffusers pipeline; of a modular one, a copy that takes its blocks' inputs.

    """

    def __init__(self, pipe: Any) -> None:
        self.pipe = as_pipeline(pipe) if is_modular(pipe) else pipe
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._recorded: dict[str, RecordedNetwork] = {}

    def __call__(
        self,
        *,
        noise: Float[Tensor, "batch *shape"] | None = None,
        gradient: GradientMethod | str = "exact",
        output: str = "sample",
        sampler: Sampler | str | None = None,
        **arguments: Any,
    ) -> Tensor:
        """Run the pipeline's own `__call__`; the result has its graph and is not clamped.

        With a native sampler, or a gradient method that solves an ODE itself (`Adjoint`,
        `Interpolated`, `Reversible`, `Auto`), a native solve takes the place of the pipeline's
        loop, at the same times. See `call_by_any_method`.

        Args:
            noise: the initial noise, as `noise()` makes it; None lets the pipeline draw.
            gradient: any gradient method or its name.
            sampler: a native sampler or its name; None steps by the pipeline's scheduler.
            output: "sample", or "latent" for what the pipeline hands to its decoder.
            arguments: the pipeline's own, with its own defaults; all but `output_type` and
                `return_dict`.

        Returns:
            Pictures `[B, 3, H, W]` about [0, 1]; videos `[B, F, 3, H, W]`; sound `[B, C, T]`; what
            else there is in its own layout.

        Raises:
            AdjointDPMError: see `call_pipeline`.

        """
        return call_by_any_method(
            self.pipe, arguments, noise, gradient, output, sampler, self._recorded
        )

    @property
    def device(self) -> torch.device:
        """Where the pipeline runs its networks."""
        return torch.device(self.pipe._execution_device)

    @property
    def dtype(self) -> torch.dtype:
        """Of `noise`: float32, or float64 for a float64 pipeline."""
        found = [m.dtype for m in self.pipe.components.values() if isinstance(m, nn.Module)]
        return torch.float64 if torch.float64 in found else torch.float32

    def noise(
        self, batch: int, seed: int, offset: int = 0, **arguments: Any
    ) -> Float[Tensor, "batch *shape"]:
        """Initial noise of unit variance, in the shape that the pipeline draws for `arguments`.

        Sample i depends on (seed, offset + i) alone, whatever the batch, device or process.

        Args:
            batch: B, at least 1.
            seed: any non-negative int.
            offset: the number of the first sample.
            arguments: of the pipeline, as for the call that takes the noise (height, num_frames,
                image, …).

        Raises:
            InvalidTypeError, InvalidInputError: an argument is not an int, or out of range.
            UnsupportedError: the pipeline draws no noise for these arguments.

        """
        check_count(batch, "batch", least=1)
        check_count(seed, "seed", least=0)
        check_count(offset, "offset", least=0)
        shape = self._noise_shape(arguments)
        check_batch_fits((batch, *shape), self.device)
        like = torch.empty((batch, *shape), dtype=self.dtype, device=self.device)
        return standard_normal(like, seed, stream=0, first=offset)

    def encode(self, prompts: str | Sequence[str], **arguments: Any) -> dict[str, Any]:
        """What the pipeline's text encoders make of prompts, differentiable.

        Args:
            prompts: one string or a list of B.
            arguments: further ones of the pipeline's `encode_prompt`.

        Returns:
            Tensors by the names under which the pipeline's `__call__` takes them, such as
            "prompt_embeds" and "pooled_prompt_embeds".

        Raises:
            PromptError: neither a string nor a non-empty list of strings.
            UnsupportedError: the pipeline has no `encode_prompt`, or does not take what it returns.

        """
        texts = check_prompts(prompts)
        method = getattr(type(self.pipe), ENCODER, None)
        if method is None:
            raise UnsupportedError(
                f"{type(self.pipe).__name__} has no {ENCODER}; pass its own arguments to the model"
            )
        parameters = inspect.signature(inspect.unwrap(method)).parameters
        names = call_parameters(self.pipe)
        known = {
            # A copy: Z-Image writes its chat template into the list that it is given.
            "prompt": texts if isinstance(texts, str) else [*texts],
            "device": self.device,
            "num_images_per_prompt": 1,
            "num_videos_per_prompt": 1,
            "batch_size": 1 if isinstance(texts, str) else len(texts),
            "_cut_context": True,  # as Kandinsky 3 calls its own
            "num_waveforms_per_prompt": 1,
            "do_classifier_free_guidance": "negative_prompt_embeds" in names,
        }
        given = {name: value for name, value in known.items() if name in parameters} | arguments
        for name, parameter in parameters.items():
            if name not in ("self", *given) and parameter.default is parameter.empty:
                given[name] = None
        twin = twin_of(self.pipe, lambda name, network: network)
        found = getattr(twin, ENCODER)(**given)
        found = found if isinstance(found, tuple) else (found,)
        named = zip(_returned_names(method), found, strict=False)
        encoded = {
            name: value for name, value in named if name and name in names and value is not None
        }
        self._check_taken(twin, given, encoded, parameters)
        return encoded

    @torch.no_grad()
    def _check_taken(
        self, twin: Any, given: dict[str, Any], encoded: dict[str, Any], parameters: Any
    ) -> None:
        """Check that the pipeline takes encoded prompts as they are; a few encode them further."""
        if "prompt_embeds" not in parameters or "prompt_embeds" not in encoded:
            return
        ours = {name: value for name, value in encoded.items() if name in parameters}
        try:
            found = getattr(twin, ENCODER)(**given | {"prompt": None} | ours)
            found = found if isinstance(found, tuple) else (found,)
            again = found[_returned_names(getattr(type(self.pipe), ENCODER)).index("prompt_embeds")]
            pairs = zip(tree_leaves(again), tree_leaves(encoded["prompt_embeds"]), strict=True)
            same = all(torch.equal(new, old) for new, old in pairs)
        except RuntimeError:  # a width that no longer fits
            same = False
        except (TypeError, ValueError, AssertionError):  # its `__call__` skips it then
            return
        if not same:
            raise UnsupportedError(
                f"{type(self.pipe).__name__} encodes prompt_embeds further, so what its {ENCODER} "
                "returns cannot stand for a prompt; pass the prompt itself"
            )

    def decode(self, latents: Float[Tensor, "batch *shape"], **arguments: Any) -> Tensor:
        """Samples of what the loop ends with: `decode(model(…, output="latent"), …)` is `model(…)`.

        The pipeline's own code decodes, after a loop of one step without gradients, which makes
        nothing but the sizes.

        Args:
            latents: in the layout of `output="latent"`; differentiable.
            arguments: those of the call that decide the sample's size (height, num_frames, …).

        Raises:
            ShapeError: latents of another shape than these arguments give.
            UnsupportedError: the pipeline has no scheduler.
            AdjointDPMError: see `call_pipeline`.

        """
        batch, names = len(latents), call_parameters(self.pipe)
        text = "" if "prompt" in names and "prompt_embeds" not in arguments else None
        given = generation_arguments(self.pipe, batch, text, 1, None, None, arguments)
        if "class_labels" in names:
            given.setdefault("class_labels", [0] * batch)
        run = Decoding(type(self.pipe).__name__, latents)
        return call_pipeline(self.pipe, given, networks=run)

    def generate(
        self,
        prompt: str | Sequence[str] | None = None,
        noise: Float[Tensor, "batch *shape"] | None = None,
        *,
        steps: int = 50,
        guidance_scale: float | None = None,
        sampler: Sampler | str | None = None,
        gradient: GradientMethod | str = "exact",
        seeds: Sequence[int] | None = None,
        **arguments: Any,
    ) -> Tensor:
        """Samples of prompts, by the pipeline's own scheduler or a native sampler.

        Args:
            prompt: a string for the whole batch, or a list of B; None where other arguments say
                what to draw. A class-conditional pipeline takes names or numbers of classes, an
                unconditional one nothing.
            noise: as `noise()` makes it; None: the samples of seed 0.
            steps: the pipeline's `num_inference_steps`.
            guidance_scale: None is the pipeline's default.
            sampler: a native sampler or its name, in place of the scheduler; see `__call__`.
            gradient: see `__call__`.
            seeds: what a stochastic scheduler draws for each sample depends on its seed alone.
            arguments: further ones of the pipeline.

        Raises:
            AdjointDPMError: see `__call__`.

        """
        batch = len(noise) if noise is not None else _batch(prompt, seeds, arguments)
        given = generation_arguments(
            self.pipe, batch, prompt, steps, guidance_scale, seeds, arguments
        )
        if noise is None and "latents" not in given:
            noise = self.noise(batch, 0, **arguments)
        if sampler is not None and seeds is not None:
            sampler = resolve_sampler(sampler).for_samples(check_seeds(seeds, None))
        return self(noise=noise, gradient=gradient, sampler=sampler, **given)

    def supports(
        self, noise: Float[Tensor, "batch *shape"] | None = None, **arguments: Any
    ) -> dict[str, dict[str, bool | str]]:
        """What works with this pipeline: True, or the reason why not, by kind and name.

        Args:
            noise: as for a call.
            arguments: of a call, for which native samplers and the gradient methods that need them
                are tried: the pipeline runs up to the end of its loop, and its networks run in the
                first step only. Without any, nothing is run, and they are said to be undecided.

        """
        names = call_parameters(self.pipe)
        exact = {name: True for name in ("Checkpoint", "Backprop", "Truncated", "Auto")}
        native = repeated = DECIDED
        if arguments:
            native, repeated = native_support(self.pipe, arguments, noise)
        others = dict.fromkeys(("Adjoint", "Interpolated", "Reversible"), repeated)
        lora = any("Lora" in cls.__name__ for cls in type(self.pipe).__mro__)
        tokens = hasattr(self.pipe, "load_textual_inversion")
        embeds = "prompt_embeds" in names and hasattr(self.pipe, ENCODER)
        return {
            "gradient methods": {**exact, **others},
            "native samplers": {"all": native},
            "variables": {
                "noise": True if self._draws_noise else "the pipeline draws no initial noise",
                "prompt embedding": True if embeds else "the pipeline takes no prompt_embeds",
                "weights": True,
            },
            "artefacts": {
                "LoRA": True if lora else f"the pipeline has no LoRA loader; {LINES}",
                "token": True
                if tokens
                else f"the pipeline has no loader for learned tokens; {LINES}",
            },
        }

    @property
    def _draws_noise(self) -> bool:
        try:
            self._noise_shape({})
        except Exception:  # whatever the pipeline wants besides
            return draws_in_prepare(self.pipe)
        return True

    def _noise_shape(self, arguments: Mapping[str, Any]) -> tuple[int, ...]:
        """The shape of one sample's noise: the pipeline's own code is run up to its draw."""
        key = repr([(name, _kind(value)) for name, value in sorted(arguments.items())])
        if key not in self._shapes:
            self._shapes[key] = self._drawn_shape(dict(arguments))
        return self._shapes[key]

    def _drawn_shape(self, arguments: dict[str, Any]) -> tuple[int, ...]:
        check_weights(self.pipe)
        names = call_parameters(self.pipe)
        check_arguments(self.pipe, arguments, names)
        given = copies(arguments)
        if "prompt" in names:
            given.setdefault("prompt", None if "prompt_embeds" in given else "")
        if "class_labels" in names:
            given.setdefault("class_labels", [0])
        if "generator" in names:  # so that the user's random numbers are left alone
            given.setdefault("generator", torch.Generator().manual_seed(0))
        if "output_type" in names:
            given["output_type"] = "pt"
        source = _FirstDraw(None, everywhere=not draws_in_prepare(self.pipe))
        try:
            with torch.no_grad(), drawing_from(source), rejected_by(self.pipe):
                twin_of(self.pipe, lambda name, network: network)(**given)
        except _Drawn as drawn:
            return drawn.shape[1:]
        raise UnsupportedError(
            f"{type(self.pipe).__name__} draws no initial noise for these arguments"
        )


def encoding_arguments(pipe: Any, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a call's arguments that also decide how a prompt is encoded."""
    method = getattr(type(pipe), ENCODER, None)
    if method is None:
        return {}
    names = inspect.signature(inspect.unwrap(method)).parameters
    return {name: value for name, value in arguments.items() if name in names}


def check_family(model: object, use: str) -> None:
    """Raise UnsupportedError if `use` needs more of a pipeline than its own call."""
    if isinstance(model, AnyPipeline):
        raise UnsupportedError(
            f"{use} works with Stable Diffusion 1 and 2, and this is a "
            f"{type(model.pipe).__name__}; generate, and the model itself, "
            "model(noise=noise, **arguments), take every pipeline"
        )


class _Drawn(BaseException):  # blocks log every Exception on its way
    """The pipeline has asked for its initial noise."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape


class _FirstDraw(NoiseSource):
    def draw(self, original: Any, shape: Any, *args: Any, **kwargs: Any) -> Tensor:
        if not self.preparing:
            return original(shape, *args, **kwargs)
        raise _Drawn(tuple(shape))


def _returned_names(method: Any) -> list[str | None]:
    """The names of what a method returns, in its last return statement."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(method))))
    returns = [n.value for n in ast.walk(tree) if isinstance(n, ast.Return) and n.value is not None]
    last = max(returns, key=lambda value: value.lineno)
    return [getattr(e, "id", None) for e in (last.elts if isinstance(last, ast.Tuple) else [last])]


def _batch(prompt: Any, seeds: Sequence[int] | None, arguments: Mapping[str, Any]) -> int:
    for given in (prompt, seeds, arguments.get("prompt_embeds"), arguments.get("class_labels")):
        if given is not None and not isinstance(given, str):
            if not hasattr(given, "__len__") or len(given) == 0:
                raise InvalidInputError(f"{given!r} must be a list with one entry a sample")
            return len(given)
    return 1


def _kind(value: Any) -> Any:
    return ("tensor", tuple(value.shape)) if isinstance(value, Tensor) else value
