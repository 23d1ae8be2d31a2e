"""Values and types in Python: a tensor, a refusal, and no raw error out of this library's depth."""

from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random
from typing import Any

from fuzz.verdict import Verdict

TITLE = "values in Python"
#: Written as Python, since a case is kept as text.
_VALUES = ["None", "0", "1", "-1", "2", "10**9", "10**30", "1.5", "nan", "inf", "True", "''", "'x'"]
_VALUES += ["'exact'", "'euler'", "b'x'", "[]", "[1, 2]", "{}", "(1,)", "object()", "1j", "torch"]
_VALUES += ["torch.zeros(0)", "torch.zeros(2, 4, 8, 8)", "torch.tensor(float('nan'))", "set()"]
_VALUES += ["torch.zeros(1, 4, 8, 8, dtype=torch.int64)", "torch.zeros(1, 4, 8, 8, device='meta')"]
_VALUES += ["torch.zeros(1, 4, 8, 8, dtype=torch.complex64)", "torch.zeros(1, 4, 8, 8).to_sparse()"]
_VALUES += ["[None]", "['a fox', 'an owl']", "['a fox', 3]", "'\\ud800'", "'a' * 10**5", "range(3)"]
_VALUES += [
    "lambda *a: None",
    "lambda *a, **k: torch.zeros(3)",
    "numpy.zeros(3)",
    "Path('x')",
    "'\\0'",
]
_VALUES += [
    "torch.float16",
    "torch.device('cpu')",
    "[float('nan')]",
    "torch.arange(3)",
    "Fraction(1, 3)",
]
_VALUES += ["numpy.int64(2)", "numpy.float32(2)", "torch.tensor(2)", "torch.tensor([3., 1.])"]

#: Calls by name, and the values that are right, written as Python.
CALLS: dict[str, dict[str, str]] = {
    "adj.sample": {
        "denoiser": "lambda x, t, cond: 0.1 * x",
        "noise": "torch.ones(1, 4, 8, 8)",
        "schedule": "adj.NoiseSchedule.linear()",
        "steps": "2",
        "cond": "None",
        "sampler": "adj.Euler()",
        "gradient": "adj.Checkpoint()",
        "callback": "None",
        "grid": "None",
    },
    "adj.Denoiser": {
        "network": "lambda x, t, cond: x",
        "prediction": "'epsilon'",
        "guidance_scale": "1.0",
        "null_cond": "None",
    },
    "adj.NoiseSchedule.linear": {"beta_min": "0.1", "beta_max": "20.0"},
    "adj.NoiseSchedule.edm": {"sigma_min": "0.1", "sigma_max": "20.0"},
    "adj.NoiseSchedule.flow_matching": {"shift": "1.0"},
    "adj.NoiseSchedule.from_alphas_cumprod": {"alphas_cumprod": "torch.linspace(0.9, 0.1, 9)"},
    "adj.NoiseSchedule.from_scheduler": {"scheduler": "model.pipe.scheduler"},
    "adj.grids.karras": {"schedule": "adj.NoiseSchedule.linear()", "steps": "3"},
    "adj.grids.leading": {"schedule": "table", "steps": "3"},
    "adj.grids.trailing": {"schedule": "table", "steps": "3"},
    "adj.grids.linspace": {"schedule": "table", "steps": "3"},
    "adj.grids.log_snr": {"schedule": "table", "steps": "3"},
    "adj.Ancestral": {"eta": "1.0", "seed": "0"},
    "adj.AdamsBashforth": {"order": "2"},
    "adj.DPMSolverPP": {"order": "2"},
    "adj.Truncated": {"last": "1"},
    "adj.Interpolated": {"vjps": "2"},
    "adj.Adjoint": {"states": "'solved'", "sampler": "None", "steps": "None"},
    "adj.Auto": {"tolerance": "0.01", "memory_budget": "None"},
    "adj.Checkpoint": {"memory_budget": "None"},
    "adj.load": {"name_or_path": "'model'"},
    "adj.from_pipeline": {"pipe": "model.pipe"},
    "model.noise": {"batch": "1", "seed": "0"},
    "model.encode": {"prompts": "'red fox'"},
    "model.decode": {"latents": "torch.ones(1, 4, 8, 8)"},
    "model.generate": {
        "prompt": "'red fox'",
        "noise": "model.noise(1, 0)",
        "steps": "2",
        "guidance_scale": "2.0",
        "sampler": "None",
        "gradient": "'exact'",
        "negative_prompt": "None",
        "seeds": "None",
    },
    "model": {
        "prompt": "'red fox'",
        "num_inference_steps": "2",
        "height": "16",
        "output": "'sample'",
    },
}


def cases(pick: Random) -> dict[str, Any]:
    """A call, and one or two of its arguments changed."""
    name = pick.choice([*CALLS, "model.generate", "adj.sample", "model.generate", "model"])
    names = pick.sample(sorted(CALLS[name]), min(len(CALLS[name]), pick.randint(1, 2)))
    return {"call": name, "changes": {key: pick.choice(_VALUES) for key in names}}


def run(case: dict[str, Any], inputs: Path) -> Verdict:
    """The verdict on a case."""
    import torch

    from adjointdpm.errors import AdjointDPMError

    Path("model").symlink_to(inputs / "model")
    names = dict(_names())
    call: Callable[..., Any] = eval(case["call"], names)
    given = CALLS[case["call"]] | case["changes"]
    values = {key: eval(text, names) for key, text in given.items()}
    try:
        found = call(**values)
    except AdjointDPMError as error:
        return Verdict("refused" if str(error).strip() else "nothing made", str(error))
    except Exception as error:
        # The pipeline's own call fails in its own way.
        if case["call"] == "model" and _fails_alike(names["model"].pipe, values, error):
            return Verdict("refused", str(error))
        raise
    for tensor in _tensors(found):
        if tensor.is_floating_point() and not torch.isfinite(tensor).all() and not _asked(case):
            return Verdict("different", f"{case}: not finite")
    return Verdict("worked")


def _fails_alike(pipe: Any, values: dict[str, Any], error: Exception) -> bool:
    """Whether the stock pipeline raises the same of the same arguments."""
    try:
        pipe(**{key: value for key, value in values.items() if key != "output"})
    except Exception as own:
        return type(own) is type(error)
    return False


def _asked(case: dict[str, Any]) -> bool:
    """Whether the user's own values are not finite."""
    text = " ".join(case["changes"].values())
    return any(word in text for word in ("nan", "inf", "10**30", "complex"))


def _names() -> Mapping[str, Any]:
    from fractions import Fraction

    import numpy
    import torch

    import adjointdpm as adj
    from adjointdpm import cli

    del cli
    return {
        "adj": adj,
        "torch": torch,
        "numpy": numpy,
        "Path": Path,
        "Fraction": Fraction,
        "nan": float("nan"),
        "inf": float("inf"),
        "model": adj.load("model"),
        "table": adj.NoiseSchedule.from_alphas_cumprod(torch.linspace(0.99, 0.01, 100)),
    }


def _tensors(found: Any) -> list[Any]:
    import torch

    if isinstance(found, torch.Tensor):
        return [found]
    if isinstance(found, dict):
        return [tensor for value in found.values() for tensor in _tensors(value)]
    return []
