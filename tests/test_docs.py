"""What the documentation claims: its code runs, and its tables are those of the code."""

import lzma
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml

import adjointdpm as adj
from adjointdpm.engine.gradients import GRADIENTS, GradientMethod
from adjointdpm.engine.samplers import SAMPLERS, Sampler
from adjointdpm.metrics import METRICS
from adjointdpm.pipelines.loading import FAMILIES
from benchmarks.common import BEGIN, END
from benchmarks.gradients.registration import Registration
from benchmarks.gradients.report import markdown, setting_pages
from benchmarks.gradients.results import Results

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
README = (ROOT / "README.md").read_text("utf-8")
RUNNABLE = "<!-- runnable -->"
PAGES = sorted([*DOCS.rglob("*.md"), *ROOT.glob("*.md")])
RUNNABLE_PAGES = [page for page in PAGES if RUNNABLE in page.read_text("utf-8")]
SLOW = ("gradient-method", "algorithm", "tasks")  # of them: each takes more than some seconds
EXTENDING = sorted(set((DOCS / "extending").glob("*.md")) - {DOCS / "extending" / "index.md"})


def page_name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def python_blocks(page: Path) -> list[str]:
    return re.findall(r"^```python[^\n]*\n(.*?)^```", page.read_text("utf-8"), re.DOTALL | re.M)


def first_words(page: Path, columns: int) -> dict[str, list[str]]:
    """Rows of the page's tables of so many columns whose first cell is `Name(…)`, by that name."""
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in page.read_text("utf-8").splitlines()
        if line.startswith("| `") and line.count("|") == columns + 1
    ]
    return {match[1]: row for row in rows if (match := re.match(r"`(\w+)\(", row[0]))}


@pytest.fixture
def registries() -> Iterator[None]:
    """What a page registers is forgotten after it."""
    kept = [(registry, dict(registry)) for registry in (SAMPLERS, GRADIENTS, METRICS, FAMILIES)]
    yield
    for registry, before in kept:
        registry.clear()
        registry.update(before)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "page",
    [pytest.param(p, marks=[pytest.mark.slow] * (p.stem in SLOW)) for p in RUNNABLE_PAGES],
    ids=map(page_name, RUNNABLE_PAGES),
)
def test_the_code_of_a_page_runs_from_top_to_bottom(page, registries, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "docs"}
    for block in python_blocks(page):
        exec(compile(block, page_name(page), "exec"), names)


def test_every_page_on_extending_is_run_and_short():
    assert len(EXTENDING) == 5
    pages = [*EXTENDING, ROOT / "CONTRIBUTING.md"]
    assert set(pages) <= set(RUNNABLE_PAGES)
    for page in pages:
        assert len([line for line in python_blocks(page)[0].splitlines() if line.strip()]) <= 30


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_every_picture_exists(page):
    for picture in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", page.read_text("utf-8")):
        assert (page.parent / picture).is_file(), picture


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 120


def test_the_readmes_code_runs():
    code = re.findall(r"```python\n(import adjointdpm.*?)```", README, re.DOTALL)
    assert len(code) == 1
    names: dict[str, object] = {}
    exec(code[0].replace("steps=50", "steps=2"), names)
    assert all(names[name].grad.abs().sum() > 0 for name in ("noise", "embeds"))  # type: ignore[attr-defined]


def test_the_readme_links_to_files_that_exist():
    for link in re.findall(r"\]\(([^)#]+)[^)]*\)", README):
        assert "://" in link or (ROOT / link).exists(), link


def test_every_registered_gradient_method_is_in_the_table():
    table = first_words(DOCS / "guides" / "gradient-method.md", columns=4)
    options = {"truncated": {"last": 1}, "interpolated": {"vjps": 2}}
    methods = {type(build(**options.get(name, {}))).__name__ for name, build in GRADIENTS.items()}
    assert methods == set(table)


def adjoint_column() -> dict[str, str]:
    rows = first_words(DOCS / "reference" / "samplers.md", columns=5)
    return {name: row[-1] for name, row in rows.items()}


def test_every_registered_sampler_is_in_the_table():
    assert set(adjoint_column()) == {type(factory()).__name__ for factory in SAMPLERS.values()}


class Plain(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(3, 3)

    def forward(self, x: torch.Tensor, t: torch.Tensor, cond: object) -> torch.Tensor:
        return self.linear(x)


def solve(sampler: Sampler, method: GradientMethod) -> None:
    x = adj.sample(
        Plain(),
        torch.randn(2, 3),
        schedule=adj.NoiseSchedule.linear(),
        steps=3,
        sampler=sampler,
        gradient=method,
    )
    x.sum().backward()


@pytest.mark.parametrize("factory", SAMPLERS.values())
@pytest.mark.parametrize("states", ["solved", "stored"])
def test_the_adjoint_takes_the_samplers_that_the_table_says(factory, states):
    sampler = factory()
    solve(sampler, adj.Checkpoint())
    solve(sampler, adj.Truncated(1))
    solve(sampler, adj.Interpolated(2))
    match adjoint_column()[type(sampler).__name__]:
        case "yes":
            solve(sampler, adj.Adjoint(states))
        case "rule":
            solve(sampler, adj.Adjoint(states, sampler=adj.Heun()))
            with pytest.raises(adj.errors.UnsupportedError, match="name one"):
                solve(sampler, adj.Adjoint(states))
        case "no":
            for method in (adj.Adjoint(states), adj.Adjoint(states, sampler=adj.Heun())):
                with pytest.raises(adj.errors.UnsupportedError, match="adds noise"):
                    solve(sampler, method)
        case other:
            raise AssertionError(other)


def test_the_generated_pages_name_every_command_and_metric(monkeypatch):
    pytest.importorskip("mkdocs")
    monkeypatch.syspath_prepend(str(DOCS))
    import hooks  # type: ignore[import-not-found]

    commands = hooks.command_line()
    for name in ("demo", "embed", "stylize", "audit", "guide", "generate", "report"):
        assert f"\n## adjointdpm {name}\n" in commands
    assert "| `--lr` |" in commands
    assert "| `--token` | **required** |" in commands
    metrics = hooks.metrics()
    assert all(f"| [`{name}`](#{name}) |" in metrics for name in METRICS)


def test_links_out_of_the_docs_become_text(monkeypatch):
    pytest.importorskip("mkdocs")
    monkeypatch.syspath_prepend(str(DOCS))
    import hooks  # type: ignore[import-not-found]

    text = "see [`a.py`](../benchmarks/a.py) and [this](few-vjps.md)"
    assert hooks.on_page_markdown(text) == "see `a.py` and [this](few-vjps.md)"


def test_tokens_in_docstrings_are_no_tags(monkeypatch):
    pytest.importorskip("mkdocs")
    monkeypatch.syspath_prepend(str(DOCS))
    import hooks  # type: ignore[import-not-found]

    assert hooks.on_page_content('such as "<dusk>".') == 'such as "&lt;dusk&gt;".'
    assert hooks.on_page_content("<p>text</p>") == "<p>text</p>"


def test_the_issue_templates_are_forms():
    templates = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
    forms = {p.stem: yaml.safe_load(p.read_text("utf-8")) for p in templates if p.stem != "config"}
    assert set(forms) == {"bug", "pipeline", "question"}
    for form in forms.values():
        assert {"name", "description", "body"} <= set(form)
        labels = [field["attributes"]["label"] for field in form["body"]]
        assert len(labels) == len(set(labels)) >= 3


@pytest.mark.slow
def test_the_gradient_benchmark_pages_hold_what_was_measured(tmp_path):
    """They are what is written from kept measurements.

    `python -m benchmarks.gradients --minutes 0 --resume --page docs/gradients.md` does that.
    """
    kept = tmp_path / "measurements.jsonl"
    kept.write_bytes(
        lzma.decompress((ROOT / "benchmarks" / "results" / "gradients.jsonl.xz").read_bytes())
    )
    lines = list(Results(kept, resume=True))
    page = (ROOT / "docs" / "gradients.md").read_text("utf-8")
    assert page.split(BEGIN)[1].split(END)[0].strip() == markdown(lines, Registration()).strip()
    written = {
        path.name: path.read_text("utf-8") for path in (ROOT / "docs" / "gradients").iterdir()
    }
    assert written == setting_pages(lines, Registration())
