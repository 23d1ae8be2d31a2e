"""gradient: what a metric asks of the noise, by several gradient methods side by side."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from adjointdpm.engine.gradients import resolve as resolve_gradient
from adjointdpm.engine.stats import stats
from adjointdpm.errors import AdjointDPMError, InvalidInputError, PromptError
from adjointdpm.metrics import Metric
from adjointdpm.optimization.renderer import Renderer
from adjointdpm.pipelines.base import DiffusionModel
from adjointdpm.runs.folder import RunFolder
from adjointdpm.runs.provenance import package_versions, peak_memory_bytes
from adjointdpm.tasks.config import Sampling, settings_of
from adjointdpm.tasks.learning import check_metric, renderer
from adjointdpm.variables import Example
from adjointdpm.variables.freezing import frozen

EXACT = "exact"


@dataclass(frozen=True, kw_only=True)
class GradientProbeConfig(Sampling):
    """Which gradients are compared.

    Args:
        prompt: what to draw.
        metric: what is differentiated: NAME, NAME:key=value,… or file.py:function.
        method: a gradient method to compare with the exact one. Without any: adjoint, five backward
            passes, and the last quarter of the steps.
        seed: of the noise.

    Raises:
        PromptError: no prompt.
        InvalidInputError: no metric, or several.
        UnknownNameError: an unknown method.

    """

    prompt: str
    metric: list[str]
    method: list[str] = field(default_factory=list)
    seed: int = 0

    def __post_init__(self) -> None:
        self.check_sampling()
        if not self.prompt.strip():
            raise PromptError("the prompt is empty; say what the picture should show")
        if len(self.metric) != 1:
            raise InvalidInputError(f"metric={self.metric!r} must be one metric")
        if not self.method:
            last = max(2, -(-self.steps // 4))
            some = ["adjoint", f"interpolated:vjps={min(5, self.steps)}", f"truncated:last={last}"]
            object.__setattr__(self, "method", some)
        for method in self.method:
            resolve_gradient(method)


def gradient(
    model: Any,
    config: GradientProbeConfig,
    folder: RunFolder,
    *,
    metric: Metric,
    command: str = "",
    report: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Draw a picture, and write the gradient of its metric with respect to the noise as pictures.

    `images/picture.png` is the picture; `images/METHOD.png` shows a gradient, red where more of the
    noise raises the metric and blue where it lowers it, on one scale for all methods.

    Args:
        model: what `adjointdpm.load` returns.
        config: what to compare.
        folder: where results are written.
        metric: what is differentiated.
        command: the command line that repeats it.
        report: called with the name of each method before its turn.

    Returns:
        What `result.json` holds: by method the relative error, the cosine, seconds, network calls
        and backward passes, or why the method cannot be used; and the size of the costates.

    """
    started, example = time.perf_counter(), Example(config.prompt, config.seed)
    render = renderer(model, config)
    check_metric(render, metric, [example])
    rows: dict[str, dict[str, Any]] = {}
    value = math.nan
    gradients: dict[str, Tensor] = {}
    with frozen(model.pipe):
        for name in [EXACT, *(method for method in config.method if method != EXACT)]:
            report(name)
            try:
                value, gradients[name], rows[name] = _differentiated(render, metric, example, name)
            except AdjointDPMError as error:
                if name == EXACT:
                    raise
                rows[name] = {"reason": str(error)}
        folder.write_images(["picture"], render.look([example]))
        report("the costates")
        sizes = _costate_sizes(model, config, metric, example)
    pictures = _write_maps(folder, gradients)
    for name, found in gradients.items():
        rows[name] |= _errors(found, gradients[EXACT]) | {"picture": pictures[name]}
    result = {
        "task": "gradient",
        "metric": {"name": metric.name, "sign": metric.sign, "value": value},
        "picture": "images/picture.png",
        "methods": rows,
        "costates": sizes,
        "seconds": time.perf_counter() - started,
        "peak_memory_bytes": peak_memory_bytes(),
        "command": command,
        "versions": package_versions(),
        "config": settings_of(config),
    }
    folder.write_result(result)
    return result


def _differentiated(
    render: Renderer, metric: Metric, example: Example, method: str
) -> tuple[float, Tensor, dict[str, Any]]:
    """The metric, its gradient by a method, and what that cost."""
    noise = render.noise_of(example).detach().requires_grad_()
    started = time.perf_counter()
    with stats(memory=False) as counted:
        images = render.with_gradient(method).draw_from(example, noise)
        value = metric(images, prompts=[example.prompt]).sum()
        (found,) = torch.autograd.grad(value, [noise])
    cost = {
        "seconds": time.perf_counter() - started,
        "network_calls": counted.network_calls,
        "vjps": counted.vjps,
    }
    return value.item(), found.float().cpu(), cost


def _errors(found: Tensor, exact: Tensor) -> dict[str, float]:
    """How far a gradient is from the exact one."""
    size = max(exact.norm().item(), 1e-30)
    cosine = torch.nn.functional.cosine_similarity(found.flatten(), exact.flatten(), dim=0)
    return {
        "relative_error": (found - exact).norm().item() / size,
        "cosine": cosine.item(),
        "size": found.norm().item(),
    }


def _write_maps(folder: RunFolder, gradients: Mapping[str, Tensor]) -> dict[str, str]:
    """Write every gradient as a picture, on the exact one's scale; return their paths."""
    scale = _flat(gradients[EXACT]).abs().quantile(0.99).clamp_min(1e-30)
    paths = {}
    for i, (name, found) in enumerate(gradients.items()):
        shown = (_flat(found) / scale).clamp(-1, 1)
        # White is nothing, red is up, blue is down.
        rgb = torch.stack([1 + shown.clamp_max(0), 1 - shown.abs(), 1 - shown.clamp_min(0)])
        (path,) = folder.write_images([f"gradient_{i:02d}"], rgb[None])
        paths[name] = str(path.relative_to(folder.path))
    return paths


def _flat(found: Float[Tensor, "one *shape"]) -> Float[Tensor, "height width"]:
    """The sum over channels, of whatever shape the noise has."""
    if found.ndim < 4:  # packed latents have no rows and columns
        return found.flatten(0, -2)
    return found[0].flatten(0, -3).sum(0)


@dataclass
class _Costates:
    """Sees the costates of a solve."""

    sizes: list[dict[str, float]] = field(default_factory=list)

    def __call__(self, step: int, t: float, x: Tensor, denoised: Tensor) -> None:
        """Take no note of the way there."""

    def backward(self, step: int, t: float, costate: Tensor) -> None:
        """Note the size of ∂L/∂x after `step`; −1 is the noise."""
        self.sizes.append({"step": step + 1, "t": t, "size": costate.float().norm().item()})


def _costate_sizes(
    model: Any, config: GradientProbeConfig, metric: Metric, example: Example
) -> list[dict[str, float]]:
    """|∂metric/∂x| at every state, from the noise on; empty where the states cannot be watched."""
    if not isinstance(model, DiffusionModel) or config.pipeline_arg:
        return []
    seen, noise = _Costates(), model.noise(1, example.seed).requires_grad_()
    try:
        images = model.generate(
            example.prompt,
            noise,
            steps=config.steps,
            guidance_scale=config.guidance_scale,
            sampler=config.sampler,
            seeds=[example.seed],
            callback=seen,
        )
    except AdjointDPMError:
        return []
    torch.autograd.grad(metric(images, prompts=[example.prompt]).sum(), [noise])
    return sorted(seen.sizes, key=lambda row: row["step"])


def table_of(result: Mapping[str, Any]) -> list[Sequence[str]]:
    """The rows of a table: method, relative error, cosine, network calls, backward passes, time."""
    rows: list[Sequence[str]] = []
    for name, found in result["methods"].items():
        if "reason" in found:
            rows.append((name, found["reason"], "", "", "", ""))
            continue
        rows.append(
            (
                name,
                f"{found['relative_error']:.3g}",
                f"{found['cosine']:.4f}",
                str(found["network_calls"]),
                str(found["vjps"]),
                f"{found['seconds']:.2f} s",
            )
        )
    return rows
