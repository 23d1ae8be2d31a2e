"""guide: the lines in its report draw its pictures, from every start and with every sampler; and
what it refuses.
"""

import json
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from adjointdpm import errors
from adjointdpm.metrics.picture_resemblance import PictureResemblance
from adjointdpm.pipelines import from_pipeline, load
from adjointdpm.pipelines.loading import BUNDLED
from adjointdpm.runs.folder import RunFolder, png
from adjointdpm.support.picture_files import read_picture
from adjointdpm.tasks.guide import _Watched, guide
from adjointdpm.tasks.guide_config import GuideConfig
from helpers.tiny_pipelines import tiny_pipeline

PROMPT = "a noto emoji of a lion"
SHORT = {
    "iterations": 2,
    "batch": 1,
    "lr": 0.02,
    "preservation": 0.1,
    "patience": 2,
    "tracker": [],
}


def run_lines(folder: Path, lines: list[str], monkeypatch) -> dict:
    """The names that the lines leave behind, run in the folder with a stock pipeline `pipe`."""
    pipe = StableDiffusionPipeline.from_pretrained(BUNDLED["tiny"], local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    names: dict = {"pipe": pipe}
    monkeypatch.chdir(folder)
    exec("\n".join(lines), names)
    return names


def pixels(image: Image.Image) -> Tensor:
    return torch.tensor(list(image.convert("RGB").tobytes()), dtype=torch.int)


class _Asked(Exception):
    """Ends a run that has said how it would be judged."""


@pytest.mark.parametrize(
    ("learn", "from_picture", "expected"),
    [
        ("noise", False, True),
        ("both", False, True),
        ("embedding", False, False),  # it is measured on other seeds
        ("embedding", True, True),
    ],
)
def test_a_picture_that_is_judged_itself_must_show_its_subject_clearly(
    tmp_path, monkeypatch, learn: str, from_picture: bool, expected: bool
) -> None:
    asked = {}

    def ask(recognise, pictures, **settings):
        asked.update(settings)
        raise _Asked

    monkeypatch.setattr("adjointdpm.tasks.guide.judge_guard", ask)
    model, start = load("tiny"), {}
    if from_picture:
        (tmp_path / "mine.png").write_bytes(png(torch.rand(3, 64, 64)))
        start["picture"] = str(tmp_path / "mine.png")
        monkeypatch.setattr("adjointdpm.tasks.guide._inverted", lambda *_: model.noise(1, 0))
    config = GuideConfig(metric=["color:mood=teal"], prompt=PROMPT, learn=learn, **SHORT, **start)
    with pytest.raises(_Asked):
        guide(
            model,
            config,
            RunFolder.open(tmp_path / "run", {}),
            recognise=lambda images, prompts: [True] * len(images),
        )
    assert asked["clearly"] is expected


@pytest.mark.slow
@pytest.mark.parametrize("learn", ["noise", "embedding", "both"])
def test_a_run_that_starts_from_a_picture_leaves_all_that_draws_it(
    tmp_path, monkeypatch, learn: str
) -> None:
    model = load("tiny")
    with torch.no_grad():
        picture = model.generate(PROMPT, model.noise(1, 9), steps=10, guidance_scale=1.0)[0].clamp(
            0, 1
        )
    (tmp_path / "mine.png").write_bytes(png(picture))
    config = GuideConfig(
        metric=["color:mood=teal"],
        prompt=PROMPT,
        learn=learn,
        picture=str(tmp_path / "mine.png"),
        steps=10,
        **SHORT,
    )
    folder = RunFolder.open(tmp_path / "run", {"task": "guide"})
    result = guide(model, config, folder)
    *lines, last = result["story"]["code"]
    drawn = run_lines(folder.path, [*lines, f"drawn = {last}"], monkeypatch)["drawn"]
    (row,) = result["pictures"]
    assert (pixels(Image.open(row["after"])) - pixels(drawn.images[0])).abs().max() <= 1
    saved = load_file(folder.path / "noise.safetensors")
    assert torch.equal(saved["noise"], saved["start"]) == (learn == "embedding")
    with torch.no_grad():
        before = model.generate(PROMPT, saved["start"], steps=10, guidance_scale=1.0)[0].clamp(0, 1)
    assert (before - read_picture(folder.path / row["before"])).abs().max() <= 0.6 / 255


@pytest.mark.slow
@pytest.mark.parametrize(
    ("learn", "sampler"), [("noise", "heun"), ("both", "ancestral"), ("noise", "reversible_euler")]
)
def test_with_another_sampler_the_lines_draw_with_it(
    tmp_path, monkeypatch, learn: str, sampler: str
) -> None:
    config = GuideConfig(
        metric=["color:mood=dusk"],
        prompt=PROMPT,
        pictures=2,
        learn=learn,
        steps=3,
        guidance_scale=3.0,
        sampler=sampler,
        **SHORT,
    )
    folder = RunFolder.open(tmp_path / "run", {"task": "guide"})
    result = guide(load("tiny"), config, folder)
    assert sampler in result["story"]["use"]
    images = run_lines(folder.path, result["story"]["code"], monkeypatch)["images"]
    assert len(images) == 2
    for image, row in zip(images, result["pictures"], strict=True):
        assert (
            image.clamp(0, 1) - read_picture(folder.path / row["after"])
        ).abs().max() <= 1.1 / 255


@pytest.mark.parametrize("sampler", ["heun", "reversible_euler", "euler"])
def test_a_picture_is_not_taken_with_a_sampler_that_would_draw_another(sampler: str) -> None:
    with pytest.raises(
        errors.UnsupportedError, match=rf"sampler='{sampler}'.*'x\.png'.*leave the sampler out"
    ):
        GuideConfig(
            metric=["color:mood=dusk"],
            prompt="a",
            picture="x.png",
            sampler=sampler,
        )


def test_how_much_of_an_embedding_is_kept_is_chosen_on_seeds_that_nothing_else_sees() -> None:
    config = GuideConfig(prompt=PROMPT, metric=["color:mood=dusk"], learn="embedding", seed=3)
    seen = {example.seed for part in config.sets() for example in part}
    chosen_on = [example.seed for example in config.strength_examples()]
    assert len(set(chosen_on)) == 8
    assert not seen & set(chosen_on)
    for other in ("noise", "both"):
        assert not GuideConfig(
            prompt=PROMPT, metric=["color:mood=dusk"], learn=other
        ).strength_examples()


@pytest.mark.slow
def test_a_judge_that_loses_the_subject_leaves_less_of_an_embedding(tmp_path) -> None:
    model = load("tiny")
    config = GuideConfig(
        prompt=PROMPT,
        metric=["color:mood=dusk"],
        learn="embedding",
        pictures=2,
        steps=4,
        **SHORT | {"lr": 0.3, "batch": 2},
    )
    calls: list[int] = []

    def recognise(images: Tensor, prompts: list[str]) -> list[bool]:
        """Lost from the strength 0.75 on: it is asked once for each strength."""
        if len(images) == 8:
            calls.append(len(calls))
            return [calls[-1] < 3] * 8
        return [True] * len(images)

    result = guide(
        model, config, RunFolder.open(tmp_path / "run", {"task": "guide"}), recognise=recognise
    )
    assert result["optimisation"]["best_iteration"] > 0
    assert 0 < result["strength"]["chosen"] <= 0.5
    assert result["strength"]["by"] == "guard"


@pytest.mark.parametrize("learn", ["noise", "embedding", "both"])
@pytest.mark.parametrize("preservation", [0.1, 0.0])
def test_without_a_judge_another_drawing_is_not_kept_unless_one_asks_for_it(
    tmp_path, monkeypatch, learn: str, preservation: float
) -> None:
    asked = []

    def ask(self, images: Tensor, prompts: list[str]) -> list[bool]:
        asked.append(len(images))
        return real(self, images, prompts)

    real = PictureResemblance.__call__
    monkeypatch.setattr(PictureResemblance, "__call__", ask)
    changes = {"preservation": preservation, "steps": 2, "guidance_scale": 2.0}
    config = GuideConfig(
        metric=["color:mood=teal"], prompt="red fox", learn=learn, **SHORT | changes
    )
    model = from_pipeline(tiny_pipeline(tmp_path))
    guide(model, config, RunFolder.open(tmp_path / "run", {}))
    first = json.loads((tmp_path / "run" / "history.jsonl").read_text().splitlines()[0])
    guarded = bool(preservation) and learn != "noise"  # another noise is meant to draw another
    assert bool(asked) == guarded
    assert ("guard" in first["validation"]) == guarded
    if guarded:
        assert first["validation"]["guard"] == 0  # the untouched picture is itself


@pytest.mark.parametrize(
    ("gradient", "optimizer"),
    [("exact", "normalized"), ("truncated:last=2", "normalized"), ("exact", "lbfgs")],
)
def test_a_picture_that_was_looked_at_is_not_drawn_once_more_for_its_gradient(
    tmp_path, monkeypatch, gradient: str, optimizer: str
) -> None:
    """The run is the same, number for number, in fewer calls of the network."""
    model, found = from_pipeline(tiny_pipeline(tmp_path / "pipe")), []
    for once_more in (False, True):
        if once_more:
            monkeypatch.delattr("adjointdpm.tasks.guide._Watched.__call__")
        config = GuideConfig(
            prompt=PROMPT,
            metric=["color:mood=dusk"],
            learn="both",
            gradient=gradient,
            optimizer=optimizer,
            steps=5,
            iterations=4,
            backtrack=1,
            tracker=[],
        )
        folder = RunFolder.open(
            tmp_path / f"run{once_more}", {"task": "guide"}, artefacts=config.artefacts
        )
        history = []
        result = guide(model, config, folder, on_record=history.append)
        looks = [[record[name] for name in ("training", "validation")] for record in history[1:]]
        found.append((looks, result["held_out"], result["network_calls_by_purpose"]["optimising"]))
    (*once, calls), (*again, more) = found
    assert once == again
    # Where it went back, it is somewhere else than it looked at.
    backs = sum("step_scale" in record for record in history)
    assert more - calls >= 5 * (4 - backs)


@pytest.mark.parametrize(("batch", "expected"), [(1, set()), (2, {2})])
def test_no_look_holds_a_graph_of_more_pictures_than_a_step_does(
    tmp_path, monkeypatch, batch: int, expected: set[int]
) -> None:
    held, former = set(), _Watched.__call__

    def call(self, examples, variable):
        images = former(self, examples, variable)
        held.update(len(kept) for *_, kept in self._ready)
        return images

    monkeypatch.setattr(_Watched, "__call__", call)
    settings = SHORT | {"batch": batch, "iterations": 1}
    config = GuideConfig(
        prompt=PROMPT, metric=["color:mood=dusk"], steps=3, pictures=2, learn="both", **settings
    )
    folder = RunFolder.open(tmp_path / "run", {"task": "guide"}, artefacts=config.artefacts)
    guide(from_pipeline(tiny_pipeline(tmp_path / "pipe")), config, folder)
    assert held == expected
