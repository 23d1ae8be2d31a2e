"""One pipeline class: the adapter against full backpropagation of the stock call."""

import functools
import inspect
import time
import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import allow_mutation_on_saved_tensors

from adjointdpm.errors import (
    AdjointDPMError,
    InvalidInputError,
    InvalidTypeError,
    UnsupportedError,
)
from adjointdpm.pipelines.any_pipeline import AnyPipeline
from adjointdpm.pipelines.own_call.pipeline_call import call_parameters
from benchmarks.pipelines.cases import REASONS, build, case_for, shaping
from benchmarks.pipelines.stock import SEED, recomputed_networks, stock_samples

SAMPLE_TOLERANCE = 1e-4  # largest difference of a sample in [0, 1]
GRADIENT_TOLERANCE = 1e-5  # ‖ours − theirs‖ / ‖theirs‖
TENSORS = 3  # weights looked at in each network: its largest matrices


@dataclass
class Finding:
    """What was found about one class.

    Attributes:
        status: "exact", "wrong", "zero" (full backpropagation gives zero as well, which shows
            nothing), "refused" (the adapter says that it cannot) or "not run".
        why: in words, unless exact.
        family: the package of diffusers that the class is in.
        sample: the sample's shape.
        noise: the noise's shape; None where the pipeline draws none.
        sample_error: largest difference to the stock sample.
        errors: relative errors of gradients, by what they are of.
        zero: what full backpropagation gives no gradient for.
        calls: network calls forward, and in both passes.
        artefacts, native: what the model says of artefacts and native samplers.
        seconds: for all of it.

    """

    name: str
    family: str
    status: str = "not run"
    why: str = ""
    sample: list[int] | None = None
    noise: list[int] | None = None
    sample_error: float | None = None
    errors: dict[str, float] = field(default_factory=dict)
    zero: list[str] = field(default_factory=list)
    calls: tuple[int, int] | None = None
    artefacts: dict[str, bool | str] = field(default_factory=dict)
    native: dict[str, bool | str] = field(default_factory=dict)
    seconds: float = 0.0


def check(name: str, family: str) -> dict[str, Any]:
    """Build the class from tiny parts, run it, and compare."""
    warnings.simplefilter("ignore")
    started, finding = time.perf_counter(), Finding(name, family)
    if name in REASONS:
        return asdict(Finding(name, family, why=REASONS[name]))
    try:
        pipe = build(name)
        _compare(finding, pipe)
    except UnsupportedError as error:
        finding.status, finding.why = "refused", _line(error)
    except (LookupError, InvalidInputError, InvalidTypeError) as error:
        finding.why = _line(error)
    except Exception as error:  # whatever a pipeline of any kind raises
        finding.status = "wrong" if isinstance(error, AdjointDPMError) else "not run"
        finding.why = f"{type(error).__name__}: {_line(error)}"
    finding.seconds = round(time.perf_counter() - started, 1)
    return asdict(finding)


def arguments_of(name: str, pipe: Any) -> dict[str, Any]:
    """The case's arguments, with a generator where the class takes one."""
    given = _fresh(case_for(name).arguments)
    if "generator" in call_parameters(pipe):
        given["generator"] = torch.Generator().manual_seed(7)
    return given


def loss(samples: Tensor) -> Tensor:
    """A different weight for every value."""
    weights = torch.linspace(-1, 1, samples.numel(), dtype=samples.dtype)
    return (samples * weights.view_as(samples)).sum()


def clamped_as(samples: Tensor, stock: Tensor) -> Tensor:
    """The samples in the range that the stock pipeline clamps to; as they are if it does not."""
    low, high = stock.min(), stock.max()
    return samples.clamp(0 if low >= 0 else -1, 1) if low >= -1 and high <= 1 else samples


def largest_weights(pipe: Any) -> dict[str, list[Tensor]]:
    """The largest matrices of each network of the loop, by the network's name."""
    found = {}
    for name, network in recomputed_networks(pipe).items():
        matrices = [p for p in network.parameters() if p.ndim > 1 and p.is_floating_point()]
        found[name] = sorted(matrices, key=Tensor.numel, reverse=True)[:TENSORS]
    return found


def _compare(finding: Finding, pipe: Any) -> None:
    name, model = finding.name, AnyPipeline(pipe)
    with torch.no_grad():
        called = _called(model, arguments_of(name, pipe), case_for(name).output)
    weights = {n: found for n, found in largest_weights(pipe).items() if n in called}
    inputs: dict[str, list[Tensor]] = {f"weights of {n}": found for n, found in weights.items()}
    for tensors in weights.values():
        for tensor in tensors:
            tensor.requires_grad_()
    noise = _noise(model, name)
    if noise is not None:
        finding.noise = list(noise.shape)
        inputs["noise"] = [noise]
    given = arguments_of(name, pipe)
    for argument, value in given.items():
        constant = argument in case_for(name).constant
        if isinstance(value, Tensor) and value.is_floating_point() and not constant:
            given[argument] = value.clone().requires_grad_()
            inputs[argument] = [given[argument]]
    _compare_call(finding, model, given, noise, inputs)
    _compare_encoded(finding, model, given, noise)
    supported = model.supports(None if noise is None else noise.detach(), **_fresh(given))
    finding.artefacts, finding.native = supported["artefacts"], supported["native samplers"]


def _compare_call(
    finding: Finding,
    model: AnyPipeline,
    given: Mapping[str, Any],
    noise: Tensor | None,
    inputs: dict[str, list[Tensor]],
) -> None:
    """Samples and gradients of one call, ours and theirs; the worse of several calls counts."""
    flat = [x for tensors in inputs.values() for x in tensors]
    counts = _Counts(model.pipe)
    torch.manual_seed(SEED)
    output = case_for(finding.name).output
    samples = model(noise=noise, output=output, **_fresh(given))
    forward = counts.calls
    counts.stop()
    latent = {"output_type": "latent"} if output == "latent" else {}
    expected, theirs = _full_backpropagation(model.pipe, {**given, **latent}, noise, flat)
    counts = _Counts(model.pipe)
    clamped = clamped_as(samples, expected)
    ours = torch.autograd.grad(loss(clamped), flat, allow_unused=True)
    both = forward + counts.calls
    counts.stop()
    if finding.calls is None:
        finding.sample, finding.calls = list(samples.shape), (forward, both)
    largest = max(1.0, expected.abs().max().item())
    error = (clamped - expected).abs().max().item() / largest
    finding.sample_error = max(error, finding.sample_error or 0.0)
    bad, zero = [], []
    if not error < SAMPLE_TOLERANCE:
        bad.append(f"the sample differs by {error:.1e}")
    at = 0
    for what, tensors in inputs.items():
        part = slice(at, at := at + len(tensors))
        mine, full = _joined(ours[part], tensors), _joined(theirs[part], tensors)
        if full.norm() == 0:
            zero.append(what)
            if mine.norm() != 0:
                bad.append(f"the gradient of {what} should be 0")
            continue
        finding.errors[what] = ((mine - full).norm() / full.norm()).item()
        if not finding.errors[what] < GRADIENT_TOLERANCE:
            bad.append(f"the gradient of {what} is off by {finding.errors[what]:.1e}")
    if both > 2 * forward:
        bad.append(f"{both} network calls, {forward} of them forward")
    if bad or finding.status == "wrong":
        finding.status, finding.why = "wrong", "; ".join(filter(None, [finding.why, *bad]))
        return
    finding.zero = sorted({*finding.zero, *zero})
    nothing = not finding.errors or "noise" in finding.zero
    finding.status = "zero" if nothing else "exact"
    if finding.zero:
        finding.why = f"full backpropagation gives 0 for {', '.join(finding.zero)}"


def _full_backpropagation(
    pipe: Any, given: Mapping[str, Any], noise: Tensor | None, inputs: list[Tensor]
) -> tuple[Tensor, tuple[Tensor | None, ...]]:
    """The stock samples, and the gradient of their loss."""

    def run() -> tuple[Tensor, tuple[Tensor | None, ...]]:
        found = stock_samples(pipe, _fresh(given), noise)
        return found, torch.autograd.grad(loss(found), inputs, allow_unused=True)

    try:
        return run()
    except RuntimeError as error:
        if "inplace operation" not in str(error):
            raise
    # The pipeline writes into tensors that its backward pass needs: autograd keeps copies of those.
    with allow_mutation_on_saved_tensors():
        return run()


def _noise(model: AnyPipeline, name: str) -> Tensor | None:
    """Noise for the case; None where the pipeline draws none."""
    try:
        return model.noise(case_for(name).count, 1, **shaping(name)).requires_grad_()
    except UnsupportedError:
        return None


def _compare_encoded(
    finding: Finding, model: AnyPipeline, given: Mapping[str, Any], noise: Tensor | None
) -> None:
    """The same with prompts that were encoded before, where the class takes such."""
    names = call_parameters(model.pipe)
    encoder = getattr(type(model.pipe), "encode_prompt", None)
    if encoder is None or not (given.get("prompt") and "prompt_embeds" in names):
        return
    takes = inspect.signature(inspect.unwrap(encoder)).parameters
    further = {
        k: v for k, v in given.items() if k in takes and (k == "chi_prompt" or "prompt" not in k)
    }
    left = {k: v for k, v in given.items() if k not in ("prompt", "negative_prompt")}
    left |= {} if names["prompt"].default is None else {"prompt": None}
    try:
        with torch.no_grad():
            encoded = model.encode(given["prompt"], **further)
            torch.manual_seed(SEED)
            drawn = model(noise=noise, **_fresh(left), **encoded)
            torch.manual_seed(SEED)
            of_text = {k: v for k, v in given.items() if k != "negative_prompt"}
            error = (drawn - model(noise=noise, **_fresh(of_text))).abs().max().item()
        if "negative_prompt_embeds" in encoded:  # some defaults are a second one
            left |= {"negative_prompt": None} if "negative_prompt" in names else {}
    except Exception as failure:
        finding.why = f"encoded prompts: {type(failure).__name__}: {_line(failure)}"
        return
    if not error < SAMPLE_TOLERANCE:
        finding.status = "wrong"
        finding.why = f"{finding.why}; encoded prompts draw another sample (by {error:.1e})"
    for tensor in (tensors := _floats(encoded)):
        tensor.requires_grad_()
    try:
        _compare_call(finding, model, left | encoded, noise, {"prompt": tensors})
    except AdjointDPMError:
        raise
    except Exception as failure:  # the stock call does not take embeddings that want a gradient
        finding.why = f"encoded prompts: {type(failure).__name__}: {_line(failure)}"


def _floats(encoded: Mapping[str, Any]) -> list[Tensor]:
    found = []
    for value in encoded.values():
        for x in value if isinstance(value, list | tuple) else [value]:
            if isinstance(x, Tensor) and x.is_floating_point():
                found.append(x)
    return found


def _fresh(given: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments for one more run: its generator starts where the other run's did, in new lists."""
    return {
        name: torch.Generator().manual_seed(7)
        if isinstance(value, torch.Generator)
        else list(value)  # some pipelines write into it
        if isinstance(value, list)
        else value
        for name, value in given.items()
    }


def _joined(gradients: tuple[Tensor | None, ...], tensors: list[Tensor]) -> Tensor:
    pairs = zip(gradients, tensors, strict=True)
    return torch.cat([(torch.zeros_like(x) if g is None else g).flatten() for g, x in pairs])


class _Counts:
    """Calls of the networks of the loop."""

    def __init__(self, pipe: Any) -> None:
        self.by_name: Counter[str] = Counter()
        self._handles = [
            network.register_forward_hook(functools.partial(self._count, name))
            for name, network in recomputed_networks(pipe).items()
        ]

    @property
    def calls(self) -> int:
        return self.by_name.total()

    def _count(self, name: str, *_: Any) -> None:
        self.by_name[name] += 1

    def stop(self) -> None:
        for handle in self._handles:
            handle.remove()


def _called(model: AnyPipeline, given: Mapping[str, Any], output: str) -> set[str]:
    """The networks that a call runs; some parts are only there to be copied from."""
    counts = _Counts(model.pipe)
    model(output=output, **_fresh(given))
    counts.stop()
    return set(counts.by_name)


def _line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [""])[0][:300]
