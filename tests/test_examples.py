"""The examples run, with small settings, on the bundled model."""

import runpy
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
STYLE = str(ROOT / "benchmarks" / "gallery" / "style.png")
FEW = ["--steps", "2", "--iterations", "2"]
# What each is given, and what it must then print.
RUNS = {
    "learn_token": (FEW, "learned_embeds.safetensors"),
    "learn_lora": ([STYLE, *FEW], "pytorch_lora_weights.safetensors"),
    "learn_noise": (FEW, "learn-noise.png"),
    "own_metric": (["--steps", "2"], "symmetry, "),
    "own_denoiser": (["--steps", "6", "--iterations", "4"], "center "),
    "own_sampler": (["--steps", "3"], "relative difference"),
}


def run(name: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")


def test_every_example_is_short_and_tested():
    scripts = {path.stem: path for path in EXAMPLES.glob("*.py")}
    assert set(scripts) == set(RUNS)
    for path in scripts.values():
        assert len(path.read_text("utf-8").splitlines()) <= 60, path


@pytest.mark.parametrize("name", RUNS)
def test_an_example_runs(name, monkeypatch, tmp_path, capsys):
    arguments, printed = RUNS[name]
    if name.startswith("learn_"):
        arguments = [*arguments, "--out", str(tmp_path / "out")]
    run(name, arguments, monkeypatch)
    assert printed in capsys.readouterr().out
    if name.startswith("learn_"):
        assert (tmp_path / "out" / printed).stat().st_size > 100


def test_the_own_sampler_has_the_exact_gradient(monkeypatch, capsys):
    run("own_sampler", ["--steps", "3"], monkeypatch)
    assert float(capsys.readouterr().out.split(":")[-1]) < 1e-4


@pytest.mark.slow
def test_the_notebook_runs(monkeypatch):
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))
    monkeypatch.setenv("ADJOINTDPM_NOTEBOOK_STEPS", "2")
    notebook = nbformat.read(EXAMPLES / "first_gradient.ipynb", as_version=4)
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    pictures = [
        output
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if "image/png" in output.get("data", {})
    ]
    assert len(pictures) >= 3


def test_the_notebook_is_committed_without_outputs():
    nbformat = pytest.importorskip("nbformat")
    notebook = nbformat.read(EXAMPLES / "first_gradient.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)
