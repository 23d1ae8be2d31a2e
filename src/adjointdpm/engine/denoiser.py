"""From what a network predicts to (x̂_0, ε), with classifier-free guidance in one batched call."""

import inspect
import math
from collections.abc import Callable
from contextlib import nullcontext
from numbers import Real
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from adjointdpm.engine.inplace_changes import change_counts, check_unchanged
from adjointdpm.engine.stats import count_vjp, network_call, running
from adjointdpm.engine.torch_internals import uncompiled
from adjointdpm.engine.tree import Tree, leaves, others, paths, replace_leaves, tree_map
from adjointdpm.errors import (
    InvalidInputError,
    InvalidTypeError,
    NetworkOutputError,
    ShapeError,
    UnknownNameError,
)
from adjointdpm.support.torch_modes import call_keeping_modes

Prediction = Literal["epsilon", "v_prediction", "sample", "flow"]


class Denoiser(nn.Module):
    """A network, what it predicts, and how it is guided.

    With x_t = α x_0 + σ ε the network predicts

    - "epsilon": ε,
    - "sample": x_0,
    - "v_prediction": (α ε − σ x_0)/√(α² + σ²) (Salimans and Ho 2022, arXiv 2202.00512),
    - "flow": ε − x_0.

    Guidance is null + w (conditional − null) (Ho and Salimans 2022, arXiv 2207.12598). It is on
    when w ≠ 1.

    Args:
        network: `network(x, t, cond) -> tensor of x's shape`; x `[B, …]`, t float `[B]` in the
            schedule's unit, cond a tree of tensors `[B, …]` or None.
        prediction: what the network returns.
        guidance_scale: w, a float or a floating-point tensor, scalar or `[B]`, which may require
            grad. Guidance with a tensor is always on, also at 1.
        null_cond: the unconditional `cond`: the same tree, each tensor with leading dimension B or
            1. Needed when guidance is on.

    Raises:
        InvalidTypeError: the network is not callable or is a `Denoiser` itself, or the guidance
            scale is neither a number nor a floating-point tensor.
        UnknownNameError: the prediction is unknown.
        ShapeError: the guidance scale has more than one dimension.
        InvalidInputError: guidance without `null_cond`, or a guidance scale that is not finite.

    """

    def __init__(
        self,
        network: Callable[..., Tensor],
        prediction: Prediction = "epsilon",
        guidance_scale: float | Tensor = 1.0,
        null_cond: Tree = None,
    ) -> None:
        super().__init__()
        if not callable(network):
            raise InvalidTypeError(
                "the denoiser must be callable as denoiser(x, t, cond), but it is "
                f"{type(network).__name__}"
            )
        _check_signature(network)
        if prediction not in get_args(Prediction):
            raise UnknownNameError(
                f"prediction={prediction!r} is unknown; choose one of "
                f"{', '.join(get_args(Prediction))}"
            )
        if isinstance(uncompiled(network), Denoiser):
            raise InvalidTypeError(
                "the network is a Denoiser already; to compile one, compile what it holds: "
                "Denoiser(torch.compile(network))"
            )
        if wrong := others(null_cond):
            raise InvalidTypeError(
                "null_cond must be a tensor, or nested tuples, lists and dicts of tensors; it "
                f"holds {wrong[0]!r:.60}"
            )
        _check_guidance(guidance_scale)
        self.guided = isinstance(guidance_scale, Tensor) or guidance_scale != 1.0
        if self.guided and null_cond is None:
            raise InvalidInputError(
                f"guidance_scale={guidance_scale} needs null_cond, the conditioning of the "
                f"unconditional branch"
            )
        self.network = network
        self.prediction: Prediction = prediction
        self.guidance_scale = guidance_scale
        self.null_cond = null_cond

    def forward(
        self,
        x: Float[Tensor, "batch *shape"],
        t: Float[Tensor, " batch"],
        cond: Tree = None,
        null_cond: Tree = None,
        guidance_scale: float | Tensor | None = None,
    ) -> Float[Tensor, "batch *shape"]:
        """The network's guided output, in its own prediction.

        Args:
            x, t, cond: as for the network.
            null_cond: used in place of the denoiser's own, so that it can be differentiated.
            guidance_scale: likewise.

        Raises:
            NetworkOutputError: the network did not return a real tensor of the shape of x.
            ChangedTensorError: the network changed x or the conditioning in place.

        """
        null_cond = self.null_cond if null_cond is None else null_cond
        given = [x, *leaves(cond), *leaves(null_cond)]
        before = change_counts(given)
        with network_call(self.network, [*given, t]) if running else nullcontext():
            if self.guided:
                pairs = zip(leaves(null_cond), leaves(cond), strict=True)
                both = [
                    torch.cat([null.expand(len(x), *null.shape[1:]).to(text.dtype), text])
                    for null, text in pairs
                ]
                doubled = replace_leaves(cond, both)
                null, text = self._call(torch.cat([x, x]), torch.cat([t, t]), doubled).chunk(2)
                scale = self.guidance_scale if guidance_scale is None else guidance_scale
                output = null + _as_factor(scale, x) * (text - null)
            else:
                output = self._call(x, t, cond)
        # A changed input would also change the sampler's state and the user's own tensors, and a
        # recomputation would start from something else.
        check_unchanged(
            given,
            before,
            "the network changed its input in place; work on a copy, as in x = x * a instead of x "
            "*= a",
        )
        return output

    def split(self, output: Tensor, x: Tensor, alpha: Any, sigma: Any) -> tuple[Tensor, Tensor]:
        """(x̂_0, ε) from the network's output at the state x, such that x = α x̂_0 + σ ε.

        Args:
            output: what the network predicted.
            x: the state.
            alpha, sigma: α and σ at its time, numbers or scalar tensors.

        """
        match self.prediction:
            case "epsilon":
                return (x - sigma * output) / alpha, output
            case "sample":
                return output, (x - alpha * output) / sigma
            case "v_prediction":
                norm = (alpha**2 + sigma**2) ** 0.5
                x = x / norm**2
                return alpha * x - (sigma / norm) * output, sigma * x + (alpha / norm) * output
            case "flow":
                total = alpha + sigma
                return (x - sigma * output) / total, (x + alpha * output) / total

    def check_cond(self, cond: Tree, batch: int) -> None:
        """Check that `null_cond` and the guidance scale fit `cond` and this batch size.

        Raises:
            ShapeError: they do not.

        """
        if not self.guided:
            return
        scale = self.guidance_scale
        if isinstance(scale, Tensor) and scale.ndim and len(scale) not in (1, batch):
            raise ShapeError(
                f"guidance_scale has shape {tuple(scale.shape)}; it must be a scalar or [B] = "
                f"[{batch}], the batch of noise"
            )
        null, text = leaves(self.null_cond), leaves(cond)
        if len(null) != len(text):
            raise ShapeError(
                f"null_cond holds {len(null)} tensors and cond {len(text)}; guidance needs the "
                f"same tree in both"
            )
        if paths(self.null_cond) != paths(cond):
            raise ShapeError(
                f"null_cond has its tensors at {', '.join(paths(self.null_cond))} and cond at "
                f"{', '.join(paths(cond))}; guidance needs the same tree in both"
            )
        for a, b in zip(null, text, strict=True):
            if a.shape[1:] != b.shape[1:] or a.shape[0] not in (1, batch):
                raise ShapeError(
                    f"null_cond has a tensor of shape {tuple(a.shape)} where cond has "
                    f"{tuple(b.shape)}; it must match, with a leading dimension of 1 or {batch}"
                )

    def _network_dtype(self, x: Tensor) -> torch.dtype | None:
        """The dtype of the weights, to which inputs are cast; None leaves them as they are."""
        if not isinstance(self.network, nn.Module) or torch.is_autocast_enabled(x.device.type):
            return None
        return network_dtype(self.network)

    def _call(self, x: Tensor, t: Tensor, cond: Tree) -> Tensor:
        dtype = self._network_dtype(x)
        given = (x, t, cond)
        if dtype is not None:  # t keeps its precision: bfloat16 cannot hold t = 999
            cond = tree_map(lambda c: c.to(dtype) if c.is_floating_point() else c, cond)
            given = (x.to(dtype), t, cond)
        output = call_keeping_modes(self.network, "the network", NetworkOutputError, *given)
        if not isinstance(output, Tensor):
            raise NetworkOutputError(
                f"the network returned {type(output).__name__} instead of a tensor; wrap a "
                "diffusers model as lambda x, t, c: unet(x, t, c).sample, or in an nn.Module that "
                f"does that"
            )
        if output.shape != x.shape:
            raise NetworkOutputError(
                f"the network returned shape {tuple(output.shape)} for an input of shape "
                f"{tuple(x.shape)}; they must be equal"
            )
        if not output.is_floating_point():
            raise NetworkOutputError(
                f"the network returned {output.dtype} instead of a floating-point tensor"
            )
        # A copy, since a CUDA graph (torch.compile's "reduce-overhead") writes its next output over
        # this one; guidance makes a copy anyway.
        return (count_vjp(output) if running else output).to(
            x.dtype, copy=output.is_cuda and not self.guided
        )


def network_dtype(network: nn.Module) -> torch.dtype | None:
    """The dtype that a network computes in: of its weights, unless it says so itself.

    One that stores its weights in another dtype (layerwise casting) says so by its `dtype`.
    """
    own = getattr(network, "dtype", None)
    if isinstance(own, torch.dtype):
        return own
    weight = next((p for p in network.parameters() if p.is_floating_point()), None)
    return None if weight is None else weight.dtype


def _as_factor(scale: float | Tensor, x: Tensor) -> float | Tensor:
    """The guidance scale in a shape and dtype that multiplies tensors like x."""
    if not isinstance(scale, Tensor):
        return scale
    if not scale.ndim:
        return scale.to(x.dtype)
    return scale.to(x.device, x.dtype).reshape(-1, *[1] * (x.ndim - 1))


def _check_signature(network: Callable[..., Tensor]) -> None:
    try:
        signature = inspect.signature(
            network.forward if isinstance(network, nn.Module) else network
        )
    except (TypeError, ValueError):  # some builtins have no signature
        return
    try:
        signature.bind(None, None, None)
    except TypeError:
        raise InvalidTypeError(
            f"the denoiser is called as denoiser(x, t, cond), and {type(network).__name__} takes "
            f"{signature}; wrap it, as in lambda x, t, cond: network(x)"
        ) from None


def _check_guidance(scale: object) -> None:
    if isinstance(scale, Tensor):
        if not scale.is_floating_point():
            raise InvalidTypeError(
                f"guidance_scale has dtype {scale.dtype}; it must be floating point"
            )
        if scale.ndim > 1:
            raise ShapeError(
                f"guidance_scale has shape {tuple(scale.shape)}; it must be a scalar or [B]"
            )
        finite = bool(torch.isfinite(scale.detach()).all())
    elif isinstance(scale, bool) or not isinstance(scale, Real):
        raise InvalidTypeError(f"guidance_scale={scale!r} must be a number or a tensor")
    else:
        finite = math.isfinite(scale)
    if not finite:
        raise InvalidInputError(f"guidance_scale={scale} must be finite")
