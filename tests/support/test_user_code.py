"""Whatever a user's code does, the program goes on as it was, or says what happened and where."""

import os
import random
import re
import signal
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from adjointdpm import errors, metrics
from adjointdpm.metrics import networks
from adjointdpm.support import slow_calls
from adjointdpm.support.process_state import fixed_draw, own_random_numbers
from adjointdpm.support.user_code import blamed_file, file_and_function, load_function, user_code

PICTURES = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def metric(folder: Path, body: str, top: str = "import torch") -> metrics.Metric:
    """The metric `score` of a file with this body."""
    lines = body.replace("\n", "\n    ")
    (folder / "mine.py").write_text(f"{top}\n\ndef score(images):\n    {lines}\n")
    return metrics.resolve(f"{folder / 'mine.py'}:score")


def test_a_dataclass_with_postponed_annotations_works_in_a_metric_file(tmp_path) -> None:
    made = metric(
        tmp_path,
        "return images.mean((1, 2, 3)) * Scale().by",
        "from __future__ import annotations\nfrom dataclasses import dataclass\n"
        "@dataclass\nclass Scale:\n    by: float = 2.0",
    )
    torch.testing.assert_close(metrics.score(made, PICTURES), 2 * PICTURES.mean((1, 2, 3)))
    assert load_function(
        tmp_path / "mine.py", "score", "metric", errors.MetricError
    ).__module__ in (sys.modules)


def test_a_file_may_import_its_neighbours_and_be_called_like_an_installed_module(tmp_path) -> None:
    (tmp_path / "neighbour_of_json.py").write_text("FACTOR = 3\n")
    path = tmp_path / "json.py"
    path.write_text("from neighbour_of_json import FACTOR\ndef score(images):\n    return FACTOR\n")
    assert load_function(path, "score", "metric", errors.MetricError)(None) == 3
    assert sys.modules["json"].__file__ != str(path)
    assert not (tmp_path / "__pycache__").joinpath("json.cpython-311.pyc").exists()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("raise ValueError('odd')", r"ValueError: odd \(.*mine\.py, line 4, in score: raise"),
        ("import sys; sys.exit(0)", r"called sys\.exit\(0\) .*mine\.py, line 4"),
        ("raise SystemExit", r"called sys\.exit\(None\)"),
        ("raise BaseException('all')", r"BaseException: all .*line 4"),
        ("input()", "EOFError|OSError"),
        ("return images.mean((1, 2, 3)) * 1j", "complex64"),
        ("return None", "NoneType"),
        ("return (images.mean((1, 2, 3)), 0)", "returned tuple.*return the tensor alone"),
        ("return {'score': images.mean((1, 2, 3))}", "returned dict"),
        ("return 0.5", "returned float"),
        ("return images.mean((1, 2, 3)).numpy()", "returned ndarray"),
        ("return torch.ones(2, dtype=torch.long)", "int64"),
        ("return images.mean((1, 2, 3)) > 0", "bool"),
        ("return images.mean((1, 2, 3)).to_sparse()", "layout"),
        ("return torch.ones(2, device='meta')", "meta"),
        ("return images.mean((1, 2, 3)) / 0", "NaN or infinite"),
        ("return images.mean()", r"shape \(\)"),
        ("return images.mean((2, 3))", r"shape \(2, 3\)"),
    ],
)
def test_what_a_metric_does_wrong_is_an_error_of_one_line(
    tmp_path, monkeypatch, body: str, message: str
) -> None:
    monkeypatch.setattr("sys.stdin", open(os.devnull))  # noqa: SIM115
    with pytest.raises(errors.MetricError, match=message) as raised:
        metrics.score(metric(tmp_path, body), PICTURES)
    assert "mine.py:score" in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_scores_of_any_precision_are_taken_in_float32_at_least(tmp_path, dtype) -> None:
    scores = metrics.score(metric(tmp_path, f"return images.mean((1, 2, 3)).to({dtype})"), PICTURES)
    assert scores.dtype == torch.promote_types(dtype, torch.float32)


CHANGES = {
    "gradients are recorded": ("torch.set_grad_enabled(False)", torch.is_grad_enabled),
    "default dtype": ("torch.set_default_dtype(torch.float64)", torch.get_default_dtype),
    "default device": ("torch.set_default_device('meta')", torch.get_default_device),
    "threads": ("torch.set_num_threads(torch.get_num_threads() + 1)", torch.get_num_threads),
    "deterministic": (
        "torch.use_deterministic_algorithms(True)",
        torch.are_deterministic_algorithms_enabled,
    ),
    "float32 products": (
        "torch.set_float32_matmul_precision('medium')",
        torch.get_float32_matmul_precision,
    ),
    "anomalies": ("torch.autograd.set_detect_anomaly(True)", torch.is_anomaly_enabled),
    "autocast": ("torch.set_autocast_enabled('cpu', True)", torch.is_autocast_enabled),
    "working directory": ("import os; os.chdir('/')", os.getcwd),
    "SIGINT": (
        "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)",
        lambda: signal.getsignal(signal.SIGINT),
    ),
    "sys.stdout": ("import sys, io; sys.stdout = io.StringIO()", lambda: sys.stdout),
}


@pytest.mark.parametrize("what", CHANGES)
@pytest.mark.parametrize("at", ["import", "call"])
def test_settings_of_the_process_are_set_back_with_a_warning(tmp_path, what: str, at: str) -> None:
    code, get = CHANGES[what]
    before = get()
    top, body = f"import torch\n{code}" if at == "import" else "import torch", "return 1"

    def run() -> None:
        made = metric(tmp_path, body if at == "import" else f"{code}\n{body}", top)
        with user_code("mine.py", errors.MetricError):
            made(PICTURES)

    with pytest.warns(errors.AdjointDPMWarning, match=f"mine.py.* changed .*{what}"):
        run()
    assert get() == before


def test_its_random_numbers_are_its_own_and_fixed_where_scores_are_compared(tmp_path) -> None:
    made = metric(
        tmp_path,
        "torch.manual_seed(5) if images[0, 0, 0, 0] > 2 else None\n"
        "return torch.rand(2) + random.random() + np.random.rand()",
        "import random\nimport numpy as np\nimport torch",
    )
    torch.manual_seed(1), random.seed(1), np.random.seed(1)  # noqa: NPY002
    want = torch.rand(3), random.random(), np.random.rand()  # noqa: NPY002
    torch.manual_seed(1), random.seed(1), np.random.seed(1)  # noqa: NPY002
    free = [metrics.score(made, PICTURES), metrics.score(made, PICTURES + 9)]
    fixed = [metrics.score(made, PICTURES, draw=draw) for draw in ("a", "a", "b")]
    assert torch.equal(torch.rand(3), want[0])
    assert (random.random(), np.random.rand()) == want[1:]  # noqa: NPY002
    assert not torch.equal(*free)
    assert torch.equal(fixed[0], fixed[1])
    assert not torch.equal(fixed[1], fixed[2])
    with fixed_draw("a"), own_random_numbers():
        assert not torch.equal(torch.rand(3), want[0])


def test_what_it_changes_in_place_is_its_own(tmp_path) -> None:
    for code in ("images.clamp_(0.4, 0.6)", "images.data.zero_()", "images.detach_()"):
        pictures = PICTURES.clone().requires_grad_() * 1
        metrics.score(metric(tmp_path, f"{code}\nreturn images.mean((1, 2, 3))"), pictures)
        assert torch.equal(pictures.detach(), PICTURES)
        assert pictures.grad_fn is not None


def test_an_interruption_stays_one(tmp_path) -> None:
    with pytest.raises(KeyboardInterrupt):
        metrics.score(metric(tmp_path, "raise KeyboardInterrupt"), PICTURES)


def test_a_failing_backward_pass_is_found_by_the_file_that_it_came_through(tmp_path) -> None:
    top = (
        "import torch\nclass Odd(torch.autograd.Function):\n"
        "    @staticmethod\n    def forward(ctx, x):\n        return x.clone()\n"
        "    @staticmethod\n    def backward(ctx, g):\n        raise KeyError('deep')"
    )
    made = metric(tmp_path, "return Odd.apply(images).mean((1, 2, 3))", top)
    with pytest.raises(errors.MetricError, match=r"backward pass: KeyError.*line 8, in backward"):
        metrics.probe(made)
    with pytest.raises(KeyError) as raised:
        metrics.score(made, PICTURES.clone().requires_grad_()).sum().backward()
    assert re.search(r"mine\.py failed: KeyError.*line 8", blamed_file(raised.value) or "")
    with pytest.raises(ZeroDivisionError) as raised:
        1 / 0  # noqa: B018
    assert blamed_file(raised.value) is None


def test_a_file_that_silences_warnings_does_not_silence_ours(tmp_path) -> None:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("default")
        metric(tmp_path, "return 1", "import warnings\nwarnings.filterwarnings('ignore')")
        warnings.warn("hear", errors.AdjointDPMWarning, stacklevel=1)
    assert [str(warning.message) for warning in seen] == ["hear"]


def test_a_call_that_takes_long_is_said_to_with_its_line(monkeypatch, recwarn) -> None:
    monkeypatch.setattr(slow_calls, "PATIENCE", 0.2)
    monkeypatch.setattr(slow_calls, "_LOOK_EVERY", 0.05)
    with user_code("metric slow.py:score", errors.MetricError):
        end = time.monotonic() + 9
        while not recwarn.list and time.monotonic() < end:
            time.sleep(0.05)
    (said,) = [str(warning.message) for warning in recwarn.list]
    assert re.search(r"metric slow\.py:score has been running for \d s, at .*Ctrl-C", said)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a.py:f", ("a.py", "f")),
        (r"C:\x\m.py:score", (r"C:\x\m.py", "score")),
        ("a:b/m.py:score", ("a:b/m.py", "score")),
        (r"C:\x\m.py", (r"C:\x\m.py", "")),
        ("color:mood=dusk", None),
    ],
)
def test_the_file_is_split_from_the_function_at_the_last_colon(text: str, found) -> None:
    named = file_and_function(text)
    assert found == (named and (str(named[0]), named[1]))


NETWORK = "import torch\nclass Net(torch.nn.Module):\n    classes = ['fox', 'red']\n    def forward"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("raise ValueError('odd')", r"ValueError: odd .*line 5, in forward"),
        ("import sys; sys.exit(0)", r"sys\.exit\(0\)"),
        ("return (torch.zeros(2, 2),)", "returned tuple.*logits"),
        ("return torch.zeros(2)", r"shape \(2,\)"),
        ("return torch.zeros(2, 2) * 1j", "complex64"),
        ("return torch.zeros(2, 2) / 0", "NaN"),
    ],
)
def test_what_a_network_does_wrong_is_an_error_too(tmp_path, body: str, message: str) -> None:
    path = tmp_path / "net.py"
    path.write_text(f"{NETWORK}(self, images):\n        {body}\ndef build():\n    return Net()\n")
    network = networks.load_network(f"{path}:build")
    with pytest.raises(errors.ModelError, match=message):
        networks.class_logits(network, PICTURES, "victim net.py:build")
    path.write_text("def build():\n    raise SystemExit(0)\n")
    with pytest.raises(errors.ModelError, match="line 2, in build"):
        networks.load_network(f"{path}:build")
