"""The benchmark of alignment: its prompts, its metric, its figures, and that it goes on."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from adjointdpm.errors import PromptError
from adjointdpm.metrics.networks.judge import Judge
from adjointdpm.variables import Example
from benchmarks import aligned, common, critic


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A critic with the judge's classes and random weights."""
    judge, folder = Judge.load(), tmp_path / "critic"
    folder.mkdir()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = Judge(judge.concepts, judge.styles, (8, 8, 8, 16))
    save_file(made.state_dict(), folder / "model.safetensors")
    (folder / "config.json").write_text(
        json.dumps({"concepts": made.concepts, "styles": made.styles, "widths": (8, 8, 8, 16)})
    )
    monkeypatch.setattr(critic, "FOLDER", folder)
    return folder


def test_the_critic_reads_subject_and_style_from_the_prompt(folder) -> None:
    judge, images = Judge.load(folder), torch.rand(3, 3, 64, 64)
    fox, dog = (judge.concepts.index(name) for name in ("fox", "hot dog"))
    noto = judge.styles.index("noto")
    concept, style = judge.concept_logits(images), judge.style_logits(images)
    wanted = F.cross_entropy(concept, torch.tensor([fox, dog, fox]), reduction="none")
    wanted[:2] += F.cross_entropy(style[:2], torch.tensor([noto, noto]), reduction="none")
    prompts = ["a noto emoji of a fox", "hot dog, noto style", "a fox on a red background"]
    torch.testing.assert_close(critic.named(images, prompts), wanted)
    with pytest.raises(PromptError, match="names nothing"):
        critic.named(images[:1], ["a noto emoji of nothing"])


@pytest.mark.parametrize("tuning", [False, True])
def test_nothing_that_is_measured_was_learned_from(tuning) -> None:
    training, others = aligned.concepts(tuning)
    assert not set(training) & set(others)
    learned = aligned.captions(training, 500)
    first, names = aligned.FIRST_SEED[tuning], [*training, *others]
    measured = [e for k in range(4) for e in aligned.held_out(names, first + 1000 * k)]
    assert not {e.prompt for e in learned} & {e.prompt for e in measured}
    assert len({e.seed for e in [*learned, *measured]}) == 500 + 3 * 4 * len(names)
    assert not any("white" in e.prompt for e in learned)


def test_settings_are_chosen_without_the_pictures_of_the_measurement() -> None:
    training, others = aligned.concepts(tuning=False)
    chosen_on = aligned.concepts(tuning=True)
    assert sorted([*chosen_on[0], *chosen_on[1]]) == sorted(training)
    assert not {*chosen_on[0], *chosen_on[1]} & set(others)
    assert len(training) == 3 * len(others)


def test_all_concepts_and_styles_are_learned_from_equally_often() -> None:
    names = aligned.concepts(tuning=False)[0]
    styles = [e.prompt for e in aligned.captions(names, 2 * 3 * len(names))]
    for style in ("noto", "twemoji", "fluent"):
        assert sum(style in prompt for prompt in styles) == 2 * len(names)


def test_the_spread_of_a_prompt_is_the_distance_of_its_own_pictures() -> None:
    images = torch.stack([torch.full((3, 2, 2), v) for v in (0.0, 0.5, 1.0, 0.25)])
    found = aligned.spreads(images, ["a", "b", "a", "b"])
    assert found == pytest.approx({"a": 1.0, "b": 0.25})
    assert aligned.spreads(images[:2], ["a", "b"]) == {}  # one picture has no other


def test_a_row_says_how_many_points_were_gained() -> None:
    hits = {"before": [True, False, False, True], "after": [True, True, True, True]}
    content = {
        "prompts": ["a", "a", "b", "b"],
        "verdicts": {view: dict.fromkeys(("top1", "top5", "style"), h) for view, h in hits.items()},
        "spread": {"before": {"a": 0.5, "b": 0.4}, "after": {"a": 0.4, "b": 0.4}},
    }
    cells = aligned.row("all", content, range(4))
    assert cells[:2] == ["all", "4"]
    assert cells[2] == "50.0% → 100.0% [+50.0, +50.0]"  # both prompts gain one of two pictures
    assert cells[5] == "0.900 [0.800, 1.000]"
    without = content | {"spread": {"before": {}, "after": {}}}
    assert aligned.row("all", without, range(4))[5] == "–"


@pytest.mark.usefixtures("folder")
def test_a_run_that_is_started_again_draws_nothing_twice(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(common, "RESULTS", tmp_path)
    monkeypatch.setattr(aligned, "WORK", tmp_path / "work")
    monkeypatch.setattr(aligned, "STEPS", 2)
    monkeypatch.setattr(aligned, "concepts", lambda tuning: (["fox", "owl"], ["dog"]))
    learning = aligned.Learning(
        captions=12,
        margin=0.1,
        iterations=2,
        batch=2,
        rate=1e-3,
        ema=0.0,
        gradient="exact",
        tuning=False,
    )
    aligned.measure(learning, 2, "first", tmp_path / "grid.png")
    first = common.read_results("first")
    assert first["screened"] == {"drawn": 12, "apart": 1, "chosen": 11}
    assert len(first["prompts"]) == 3 * 3 * 2
    assert first["verdicts"]["before"]["critic"] != first["verdicts"]["after"]["critic"]
    assert "| all | 18 |" in aligned.report(first)
    assert (tmp_path / "grid.png").stat().st_size > 1000

    def refuse(*args: object) -> None:
        raise AssertionError("drawn again")

    monkeypatch.setattr(aligned.Renderer, "_generate", refuse)
    aligned.measure(learning, 2, "first", None)
    assert common.read_results("first") == first


def test_the_most_is_kept_that_leaves_pictures_apart(monkeypatch) -> None:
    """Pictures that are drawn closer by a fifth of the strength."""
    monkeypatch.setattr(critic, "named", lambda images, prompts: images.mean((1, 2, 3)))
    names, strength = aligned.concepts(tuning=False)[0], torch.ones(1)
    asked: list[Example] = []

    class Moved:
        def tensors(self) -> dict[str, torch.Tensor]:
            return {"w": strength}

        def at_strength(self, share: float) -> dict[str, torch.Tensor]:
            return {"w": strength * share}

        def load_tensors(self, tensors: dict[str, torch.Tensor]) -> None:
            strength.copy_(tensors["w"])

    class Drawn(aligned.Run):
        def __init__(self) -> None:
            self.variable = Moved()  # type: ignore[assignment]

        def draw(self, name, examples, share) -> dict[str, torch.Tensor]:
            asked[:] = examples
            generator = torch.Generator().manual_seed(0)
            before = torch.rand(len(examples), 3, 8, 8, generator=generator)
            return {"before": before, "after": before * (1 - 0.2 * share)}

    found = Drawn().settle_strength(names)
    assert found["strength"] == 0.4
    assert strength.item() == pytest.approx(0.4)  # of what was learned, not of the last try
    kept = {row["strength"]: row["diversity"] for row in found["curve"]}
    assert kept == pytest.approx({1.0: 0.8, 0.8: 0.84, 0.6: 0.88, 0.4: 0.92})
    first = aligned.FIRST_SEED[False]
    measured = [e for k in range(4) for e in aligned.held_out(names, first + 1000 * k)]
    assert not {e.seed for e in asked} & {e.seed for e in measured}
    assert not {e.prompt for e in asked} & {e.prompt for e in measured}
