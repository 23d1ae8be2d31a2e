"""The pages under docs/ hold what was measured: `--page-only` writes them again, byte for byte."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from adjointdpm.errors import OutputError
from benchmarks import (
    aligned,
    audit_memory,
    common,
    documented_commands,
    effect,
    few_vjps,
    inversion,
    memory,
    overhead,
    page_speed,
    pipeline_cost,
    pipeline_memory,
    resemblance,
    stability,
    style_references,
    stylize,
    task_gradients,
    vocabulary,
)
from benchmarks.defaults import __main__ as defaults
from benchmarks.pipelines import __main__ as all_pipelines
from benchmarks.soak import __main__ as soak
from fuzz import __main__ as fuzz

BENCHMARKS = Path(common.__file__).parent
DOCS = Path(__file__).parents[2] / "docs"
WRITERS = {
    "commands": documented_commands.main,
    "defaults": defaults.main,
    "aligned": aligned.main,
    "guides/audit": audit_memory.main,
    "effect": effect.main,
    "faults": fuzz.main,
    "few-vjps": few_vjps.main,
    "inversion": inversion.main,
    "memory": memory.main,
    "guides/app": page_speed.main,
    "overhead": overhead.main,
    "pipeline-cost": pipeline_cost.main,
    "pipeline-memory": pipeline_memory.main,
    "pipelines": all_pipelines.main,
    "interruption": soak.main,
    "resemblance": resemblance.main,
    "style-references": style_references.main,
    "stylize": stylize.main,
    "task-gradients": task_gradients.main,
    "vocabulary": vocabulary.main,
}


@pytest.fixture
def nothing_is_measured(monkeypatch):
    def refuse(name, content):
        raise AssertionError(f"{name} was measured again")

    pipelines = (pipeline_cost, pipeline_memory)
    commands = (defaults, documented_commands, task_gradients)
    inside = (audit_memory, few_vjps, inversion, memory, overhead, page_speed)
    tiny = (aligned, effect, resemblance, style_references, stylize, vocabulary)
    for module in (common, *inside, *tiny, *pipelines, *commands):
        monkeypatch.setattr(module, "write_results", refuse)


@pytest.mark.usefixtures("nothing_is_measured")
@pytest.mark.parametrize("name", WRITERS)
def test_a_page_is_written_from_kept_results(name, tmp_path):
    committed = (DOCS / f"{name}.md").read_text("utf-8")
    page = tmp_path / "page.md"
    before, after = committed.split(common.BEGIN)[0], committed.split(common.END)[1]
    page.write_text(f"{before}{common.BEGIN}\nold\n{common.END}{after}", "utf-8")
    WRITERS[name](page=page, page_only=True)
    assert page.read_text("utf-8") == committed


def test_the_stability_page_is_written_from_kept_results(tmp_path):
    page = shutil.copy(DOCS / "stability.md", tmp_path / "page.md")
    stability.report(page, tmp_path / "figure.png")
    assert page.read_text("utf-8") == (DOCS / "stability.md").read_text("utf-8")
    assert (tmp_path / "figure.png").stat().st_size > 1000


def test_a_page_without_marks_is_refused_before_anything_is_measured(tmp_path):
    page = tmp_path / "page.md"
    with pytest.raises(OutputError, match="does not exist"):
        common.check_page(page)
    page.write_text(f"{common.END} then {common.BEGIN} and {common.BEGIN}")
    with pytest.raises(OutputError, match="once each"):
        common.check_page(page)
    page.write_text(f"a\n{common.BEGIN}\nold\n{common.END}\nb\n")
    assert common.check_page(page) == page
    common.fill(page, "new")
    assert page.read_text() == f"a\n{common.BEGIN}\n\nnew\n\n{common.END}\nb\n"


def test_results_that_do_not_exist_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(common, "RESULTS", tmp_path)
    assert not common.has_results("nothing")
    with pytest.raises(OutputError, match=r"nothing\.json"):
        common.read_results("nothing")
    common.write_results("nothing", [1])
    assert common.read_results("nothing") == [1]


def test_a_mistake_is_one_line_and_exit_code_2(tmp_path):
    command = [sys.executable, "-m", "benchmarks.memory", "--page", str(tmp_path / "none.md")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=DOCS.parent, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: the page ")
    assert done.stderr.count("\n") == 1


def test_the_readme_names_every_module_page_and_results_file():
    readme = (BENCHMARKS / "README.md").read_text("utf-8")
    for path in [*BENCHMARKS.glob("[a-z]*.py"), *(BENCHMARKS / "results").iterdir()]:
        command = f"`python -m benchmarks.{path.stem} "
        assert path.name in readme or command in readme, path
    for name in (*WRITERS, "stability", "gradients", "gallery", "audit"):
        assert f"[{name}.md](../docs/{name}.md)" in readme
