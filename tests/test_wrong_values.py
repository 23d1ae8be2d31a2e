"""A wrong value for any argument of any public function is an error of this package's."""

import inspect
import re
import warnings

import pytest
import torch

import adjointdpm as adj
from adjointdpm import errors, grids, metrics, pipelines, variables
from adjointdpm.metrics import networks
from adjointdpm.support.argument_types import explaining
from helpers.public_calls import WRONG, PublicCall, public_calls
from helpers.tiny_pipelines import tiny_pipeline

# They draw pictures where a value is accepted, or read large files.
SLOW = {"generate", "invert", "invert_exactly", "load"}


@pytest.fixture(scope="module")
def calls(tmp_path_factory) -> dict[str, PublicCall]:
    model = pipelines.from_pipeline(tiny_pipeline(tmp_path_factory.mktemp("model")))
    return {call.name: call for call in public_calls(model)}


NAMES = [
    *re.findall(r'call\(\s*"([^"]+)"', inspect.getsource(public_calls)),
    *("invert", "invert_exactly", "HPS", "ImageReward", "PickScore", "ClipScore"),
    *(f"grids.{name}" for name in ("log_snr", "linspace", "trailing")),
]


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in NAMES],
)
def test_a_wrong_value_is_accepted_or_an_error_that_says_so(calls, name: str) -> None:
    call, raw = calls[name], []
    for argument in call.arguments:
        for what, value in WRONG.items():
            if callable(value) and argument in ("callback", "denoiser"):
                continue  # that is code of the user's, and raises what it raises
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    call.function(**{**call.arguments, argument: value})
            except errors.AdjointDPMError as error:
                if not str(error).strip():
                    raw.append(f"{argument} = {what}: no message")
            except Exception as error:
                raw.append(f"{argument} = {what}: {type(error).__name__}: {error}")
    assert not raw


def test_every_public_function_and_class_is_among_them(calls) -> None:
    tried = {call.function for call in calls.values()}
    tried |= {getattr(call.function, "__self__", None).__class__ for call in calls.values()}
    left = {
        name
        for module in (adj, metrics, networks, pipelines, variables)
        for name in module.__all__
        if callable(found := getattr(module, name)) and found not in tried
    }
    # Without arguments, abstract, protocols, what is returned, and networks from their files.
    left -= {"Backprop", "Heun", "Midpoint", "Reversible", "RungeKutta4", "Euler"}
    left -= {"Metric", "Reward", "Variable", "SamplingObserver", "Stats", "DiffusionModel"}
    left -= {"Clip", "EfficientNetLite0", "Judge", "OnnxGraph", "OpenNSFW", "NoiseSchedule"}
    assert not left
    assert set(NAMES) == calls.keys()


def test_the_message_names_the_argument_its_value_and_what_it_must_be() -> None:
    with pytest.raises(
        errors.InvalidTypeError, match=r"Weights: pipe=3 must be a diffusers pipeline.*type int"
    ):
        variables.Weights(3)
    with pytest.raises(errors.InvalidTypeError, match=r"metrics=.*each of it a Metric.*list"):
        metrics.WeightedSum(["color:mood=dusk"], [1.0])
    table = adj.NoiseSchedule.from_alphas_cumprod(torch.linspace(0.9, 0.1, 9))
    with pytest.raises(TypeError, match="offset='one' must be an int"):
        grids.leading(table, 2, offset="one")
    with pytest.raises(errors.InvalidInputError, match="surrogate"):
        explaining(lambda text: text.encode())("\ud800")


def test_an_error_of_right_arguments_stays_what_it_is() -> None:
    def fails(x: torch.Tensor, t: torch.Tensor, cond: None) -> torch.Tensor:
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine") as raised:
        adj.sample(fails, torch.ones(1, 2), schedule=adj.NoiseSchedule.linear(), steps=1)
    assert not isinstance(raised.value, errors.AdjointDPMError)
