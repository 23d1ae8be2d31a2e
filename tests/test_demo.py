"""The demo's machinery from end to end on the bundled model, with too few steps to learn much."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from adjointdpm import errors
from adjointdpm.judge import Judge
from adjointdpm.models import load
from adjointdpm.optimize import Settings
from adjointdpm.rendering import Example
from adjointdpm.report import write_report
from adjointdpm.run_folder import RunFolder
from adjointdpm.tasks.demo import HELD_OUT, TRAINING, demo, demo_config, judge_prompts
from adjointdpm.tasks.embed import EmbedConfig


def small(config: EmbedConfig) -> EmbedConfig:
    settings = Settings(iterations=3, batch=2, learning_rate=0.02, preservation=0.1, validate_every=3)
    return replace(config, prompts=config.prompts[:2], held_out=config.held_out[:2], validation=1, optimisation=settings)


@pytest.mark.parametrize("gradient", ["exact", "adjoint"])
def test_the_demo_leaves_a_whole_run_folder(tmp_path, gradient: str) -> None:
    config = small(demo_config(gradient, steps=3))
    folder = RunFolder.open(tmp_path / "run", {"task": "demo"})
    seen: list[dict] = []
    result = demo(load("tiny"), config, folder, command="adjointdpm demo", on_record=seen.append)
    write_report(folder)
    names = {path.name for path in folder.path.iterdir()}
    assert names == {"config.yaml", "result.json", "history.jsonl", "images", "report.html", "learned_embeds.safetensors", "checkpoint"}
    stored = json.loads((folder.path / "result.json").read_text())
    assert stored == json.loads(json.dumps(result))
    needed = {"task", "metric", "held_out", "seconds", "peak_memory_bytes", "network_calls", "seed", "versions"}
    assert needed <= stored.keys()
    assert {"before", "after"} <= stored["metric"].keys() & stored["held_out"].keys()
    assert [record["iteration"] for record in seen] == [0, 1, 2, 3]
    assert folder.read_history() == seen
    assert all(record["gradient_norm"] > 0 for record in seen[1:])
    (vector,) = load_file(folder.path / "learned_embeds.safetensors").values()
    assert vector.shape == (1, load("tiny").embedding_width)
    error = stored["gradient"]["error"]
    if gradient == "exact":
        assert stored["gradient"]["exact"]
        assert error == []
        assert stored["network_calls_by_purpose"]["checking the gradient"] == 0
    else:
        assert not stored["gradient"]["exact"]
        assert len(error) == 2
        assert all(-1 <= row["cosine"] <= 1 and row["relative_error"] > 1e-6 for row in error)


def test_the_sets_share_no_prompt_and_no_seed() -> None:
    training, validation, held_out = demo_config(seed=1).examples()
    assert not {e.prompt for e in training} & {e.prompt for e in held_out}
    seeds = [example.seed for part in (training, validation, held_out) for example in part]
    assert len(set(seeds)) == len(seeds)
    other = [example.seed for part in demo_config(seed=2).examples() for example in part]
    assert not set(seeds) & set(other)


def test_the_judge_knows_every_concept_of_the_demo() -> None:
    assert set(TRAINING) | set(HELD_OUT) <= set(Judge.load().concepts)
    assert not set(TRAINING) & set(HELD_OUT)


def test_the_judge_is_asked_for_the_prompts_own_concept() -> None:
    class Fixed:
        concepts = (*"abcdefg", "fox")

        def concept_logits(self, images: torch.Tensor) -> torch.Tensor:
            return torch.arange(8.0).expand(len(images), 8)  # "fox" first, then g f e d

    recognise = judge_prompts(Fixed())  # pyright: ignore[reportArgumentType]
    examples = [Example("a noto emoji of a fox", 0), Example("an a", 0), Example("a d", 0)]
    assert recognise(torch.zeros(3, 3, 4, 4), examples) == [True, False, True]


@pytest.mark.parametrize(
    "change",
    [
        {"prompts": []},
        {"held_out": []},
        {"prompts": [" "]},
        {"held_out": ["a noto emoji of a swan"], "prompts": ["a noto emoji of a swan"] * 2},
    ],
)
def test_bad_lists_of_prompts_are_refused(change: dict) -> None:
    with pytest.raises(errors.PromptError):
        replace(demo_config(), **change)


def test_a_token_that_exists_is_refused_before_anything_is_drawn(tmp_path) -> None:
    config = replace(small(demo_config()), token="fox")
    model = load("tiny")
    calls = []
    model.pipe.unet.register_forward_hook(lambda *_: calls.append(1))
    with pytest.raises(errors.PromptError, match="exists"):
        demo(model, config, RunFolder.open(tmp_path / "run", {}))
    assert calls == []
