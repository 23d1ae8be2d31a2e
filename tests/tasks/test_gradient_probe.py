"""`adjointdpm gradient`: gradients beside each other, against autograd on the pipeline."""

import json
from pathlib import Path

import pytest
import torch

import adjointdpm as adj
from helpers.commands import run
from helpers.tiny_pipelines import tiny_pipeline

WORDS = ("gradient", "--prompt", "red fox", "--steps", 4, "--device", "cpu")


def score(images):
    return images[:, 0].mean((1, 2))


@pytest.fixture(autouse=True)
def model(tmp_path, monkeypatch, restored_state) -> None:
    """A small pipeline and a metric, in the working directory."""
    monkeypatch.chdir(tmp_path)
    tiny_pipeline(tmp_path / "tokenizer").save_pretrained(tmp_path / "model")
    Path("metric.py").write_text("def score(images):\n    return images[:, 0].mean((1, 2))\n")


def result_of(monkeypatch, capsys, *more) -> dict:
    words = (*WORDS, "--model", "model", "--metric", "metric.py:score", "--out", "run", *more)
    code, out, err = run(monkeypatch, capsys, *words)
    assert code == 0, err
    assert "exact" in out
    return json.loads(Path("run/result.json").read_text())


def test_methods_are_compared_with_the_exact_gradient(monkeypatch, capsys) -> None:
    result = result_of(monkeypatch, capsys)
    rows = result["methods"]
    assert list(rows) == ["exact", "adjoint", "interpolated:vjps=4", "truncated:last=2"]
    model = adj.load("model")
    found = {}
    for name in rows:
        noise = model.noise(1, 0).requires_grad_()
        value = score(model.generate("red fox", noise, steps=4, gradient=name)).sum()
        (found[name],) = torch.autograd.grad(value, [noise])
        error = (found[name] - found["exact"]).norm() / found["exact"].norm()
        assert rows[name]["relative_error"] == pytest.approx(error.item(), rel=1e-3, abs=1e-6)
        assert rows[name]["size"] == pytest.approx(found[name].norm().item(), rel=1e-4)
        assert Path("run", rows[name]["picture"]).is_file()
    assert rows["exact"]["relative_error"] == 0
    assert rows["truncated:last=2"]["vjps"] < rows["exact"]["vjps"]
    # The costate at the start is the gradient with respect to the noise; there is one a state.
    costates = result["costates"]
    assert [row["step"] for row in costates] == list(range(len(costates)))
    assert len(costates) in (4, 5)
    assert costates[0]["size"] == pytest.approx(rows["exact"]["size"], rel=1e-3)


def test_the_exact_gradient_is_that_of_finite_differences(monkeypatch, capsys) -> None:
    size = result_of(monkeypatch, capsys, "--method", "exact")["methods"]["exact"]["size"]
    pipe = adj.load("model", dtype=torch.float64)
    noise = pipe.noise(1, 0).double().requires_grad_()
    (gradient,) = torch.autograd.grad(
        score(pipe.generate("red fox", noise, steps=4)).sum(), [noise]
    )
    way, step = gradient / gradient.norm(), 1e-4
    with torch.no_grad():
        up, down = (
            score(pipe.generate("red fox", noise + sign * step * way, steps=4)).sum()
            for sign in (1, -1)
        )
    assert size == pytest.approx(((up - down) / (2 * step)).item(), rel=1e-3)


def test_a_method_that_cannot_be_used_says_why_and_the_others_stay(monkeypatch, capsys) -> None:
    some = ("--sampler", "ancestral", "--method", "adjoint", "--method", "truncated:last=1")
    rows = result_of(monkeypatch, capsys, *some)["methods"]
    assert rows["adjoint"]["reason"]
    assert "relative_error" in rows["truncated:last=1"]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--method", "exactt"), "exactt"),
        (("--metric", "color:mood=dusk"), "one metric"),
        (("--resume",), "no --resume"),
        (("--prompt", " "), "prompt"),
        (("--steps", 0), "steps"),
    ],
)
def test_mistakes_are_one_sentence(monkeypatch, capsys, more, said) -> None:
    words = (*WORDS[:3], *(("--steps", 4) if "--steps" not in more else ()))
    words = tuple(word for word in words if more[0] != "--prompt" or word not in WORDS[1:3])
    words = (*words, "--model", "model", "--metric", "metric.py:score", "--out", "run", *more)
    code, _, err = run(monkeypatch, capsys, *words)
    assert code == 2
    assert said in err
    assert "Traceback" not in err
    assert not Path("run").exists()
