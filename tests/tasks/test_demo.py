"""The demo's machinery from end to end on the bundled model, with too few steps to learn much."""

import json
import shutil
from dataclasses import replace

import pytest
from PIL import Image
from safetensors.torch import load_file

from adjointdpm import errors
from adjointdpm.metrics.networks.judge import Judge
from adjointdpm.metrics.subject_recognition import named_concept
from adjointdpm.optimization.loop import Interrupted
from adjointdpm.pipelines import load
from adjointdpm.runs.folder import RunFolder
from adjointdpm.runs.report import write_report
from adjointdpm.tasks import demo as module
from adjointdpm.tasks.demo import AUDITED, HELD_OUT, TRAINING, DemoConfig, Parts, demo
from adjointdpm.tasks.embed import EmbedConfig, embed

SHORT = {"iterations": 3, "batch": 2, "lr": 0.02, "preservation": 0.1, "validate_every": 3}


def small(config: EmbedConfig) -> EmbedConfig:
    return replace(
        config,
        prompts=config.prompts[:2],
        held_out=config.held_out[:2],
        validation=1,
        **SHORT,
    )


@pytest.mark.slow
@pytest.mark.parametrize("gradient", ["exact", "adjoint"])
def test_the_demo_leaves_a_whole_run_folder(tmp_path, gradient: str) -> None:
    config = replace(
        DemoConfig(gradient=gradient, steps=3, only_embed=True).parts(),
        embed=small(DemoConfig(gradient=gradient, steps=3).parts().embed),
    )
    folder = RunFolder.open(tmp_path / "run", {"task": "demo"})
    seen: list[tuple] = []
    result = demo(
        load("tiny"),
        config,
        folder,
        command="adjointdpm demo",
        report=lambda *what: seen.append(what),
    )
    write_report(folder)
    names = {path.name for path in folder.path.iterdir()}
    assert names == {
        "run.json",
        "run.lock",
        "config.yaml",
        "result.json",
        "history.jsonl",
        "images",
        "report.html",
        "learned_embeds.safetensors",
        "README.md",
        "template.json",
        "checkpoint",
    }
    stored = json.loads((folder.path / "result.json").read_text())
    assert stored == json.loads(json.dumps(result))
    needed = {
        "task",
        "metric",
        "held_out",
        "seconds",
        "peak_memory_bytes",
        "network_calls",
        "seed",
        "versions",
    }
    assert needed <= stored.keys()
    assert {"before", "after"} <= stored["metric"].keys() & stored["held_out"].keys()
    assert [done for _, done, *_ in seen] == [0, 0, 1, 2, 3]
    history = folder.read_history()
    assert [record["iteration"] for record in history] == [0, 1, 2, 3]
    assert all(record["gradient_norm"] > 0 for record in history[1:])
    (vector,) = load_file(folder.path / "learned_embeds.safetensors").values()
    assert vector.shape == (1, load("tiny").pipe.text_encoder.config.hidden_size)
    error = stored["gradient"]["error"]
    if gradient == "exact":
        assert stored["gradient"]["exact"]
        assert error == []
        assert stored["network_calls_by_purpose"]["checking the gradient"] == 0
    else:
        assert not stored["gradient"]["exact"]
        assert len(error) == 2
        assert all(-1 <= row["cosine"] <= 1 and row["relative_error"] > 1e-6 for row in error)


@pytest.mark.slow
def test_all_three_parts_have_a_folder_a_report_and_a_place_in_the_picture(tmp_path) -> None:
    pytest.importorskip("efficientnet_lite_pytorch")
    whole = DemoConfig(steps=3).parts()
    assert whole.stylize is not None
    assert whole.audit is not None
    config = Parts(
        embed=small(whole.embed),
        stylize=replace(
            whole.stylize,
            prompts=whole.stylize.prompts[:2],
            held_out=whole.stylize.held_out[:2],
            validation=1,
            **SHORT,
        ),
        audit=replace(
            whole.audit,
            prompts=whole.audit.prompts[:2],
            clean_seeds=2,
            least_right=0.01,
            iterations=2,
            steps=12,
        ),
    )
    folder = RunFolder.open(tmp_path / "run", {"task": "demo"})
    result = demo(load("tiny"), config, folder)
    html = write_report(folder).read_text()
    assert [part["folder"] for part in result["parts"]] == ["stylize", "audit"]
    for part in result["parts"]:
        assert (folder.path / part["folder"] / "report.html").is_file()
        assert f'href="{part["folder"]}/report.html"' in html
    single = json.loads((folder.path / "stylize" / "result.json").read_text())
    assert result["network_calls"] > single["network_calls"]
    picture = Image.open(folder.path / result["storyboard"])
    assert picture.height > 5 * 112


@pytest.mark.parametrize("part", ["stylize", "audit"])
def test_an_interruption_says_that_later_parts_start_anew(tmp_path, monkeypatch, part: str) -> None:
    def stop(*_: object, **__: object) -> None:
        raise Interrupted("stopped after iteration 3, saved in x; resume to go on")

    monkeypatch.setattr(module, "embed", lambda *_, **__: {})
    monkeypatch.setattr(module, part, stop)
    config = DemoConfig().parts()
    config = config if part == "stylize" else replace(config, stylize=None)
    with pytest.raises(Interrupted, match=f"stopped in {part}; .* start anew"):
        demo(
            load("tiny"),
            config,
            RunFolder.open(tmp_path / "run", {"task": "demo", "model": "tiny"}),
        )


def test_a_part_of_an_earlier_demo_gives_way_whatever_is_left_of_it(tmp_path) -> None:
    folder = RunFolder.open(tmp_path / "run", {"task": "demo", "model": "tiny"})
    for _ in range(2):
        part = module._part(folder, "stylize", ())
        part.write_result({})
        part.write_history([{"iteration": 0}])
        (part.path / ".config.yaml.0123abcd").write_text("tas")
        (part.path / ".run.json.0123abcd").write_text("{")
    shutil.rmtree(part.path)
    part.path.mkdir()
    (part.path / ".config.yaml.0123abcd").write_text("tas")
    assert module._part(folder, "stylize", ()).write_result({}).is_file()


def test_the_sets_share_no_prompt_and_no_seed() -> None:
    training, validation, held_out = DemoConfig(seed=1).parts().embed.sets()
    assert not {e.prompt for e in training} & {e.prompt for e in held_out}
    seeds = [example.seed for part in (training, validation, held_out) for example in part]
    assert len(set(seeds)) == len(seeds)
    other = [example.seed for part in DemoConfig(seed=2).parts().embed.sets() for example in part]
    assert not set(seeds) & set(other)


def test_the_judge_knows_every_concept_of_the_demo() -> None:
    assert set(TRAINING) | set(HELD_OUT) <= set(Judge.load().concepts)
    assert all(named_concept(prompt, Judge.load().concepts) for prompt in AUDITED)
    assert not set(TRAINING) & set(HELD_OUT)


@pytest.mark.parametrize(
    "change",
    [
        {"prompts": []},
        {"prompts": ["a"], "held_out": []},
        {"prompts": [" "]},
        {"held_out": ["a noto emoji of a swan"], "prompts": ["a noto emoji of a swan"] * 2},
    ],
)
def test_bad_lists_of_prompts_are_refused(change: dict) -> None:
    with pytest.raises(errors.PromptError):
        replace(DemoConfig().parts().embed, **change)


def test_a_token_that_exists_is_refused_before_anything_is_drawn(tmp_path) -> None:
    config = replace(small(DemoConfig().parts().embed), token="fox")
    model = load("tiny")
    calls = []
    model.pipe.unet.register_forward_hook(lambda *_: calls.append(1))
    with pytest.raises(errors.PromptError, match="exists"):
        embed(model, config, RunFolder.open(tmp_path / "run", {}))
    assert calls == []
