"""The model itself as guard of a single picture."""

import shutil
from typing import Any

import pytest
import torch

from adjointdpm import load
from adjointdpm.metrics import score
from adjointdpm.metrics.subject_recognition import SubjectJudge
from adjointdpm.pipelines import from_pipeline
from adjointdpm.pipelines.any_pipeline import AnyPipeline
from adjointdpm.runs.folder import RunFolder
from adjointdpm.tasks.guide import guide
from adjointdpm.tasks.guide_config import GuideConfig
from adjointdpm.tasks.judge_guard import judge_guard
from adjointdpm.tasks.prompt_fit import Misfit, PromptFit
from helpers.tiny_pipelines import tiny_pipeline

PROMPT = "a noto emoji of a fox"
LEVELS = torch.tensor([0.1, 0.0, -0.1])


@torch.no_grad()
def test_a_picture_without_its_subject_is_refused() -> None:
    model = load("tiny")
    fox, other = (
        model.generate(prompt, model.noise(1, 5), steps=10, guidance_scale=5.0)
        for prompt in (PROMPT, "a twemoji emoji of a cookie")
    )
    fit = PromptFit.to(model, fox, PROMPT)
    assert fit is not None
    pictures = torch.cat([fox, fox.flip(-1), other, torch.full_like(fox, 0.9)])
    assert fit(pictures, [PROMPT] * 4) == [True, True, False, False]
    guard = judge_guard(fit, 1, looks=None, clearly=True)
    start, *later = ({"guard": x, "guard_error": 0.0} for x in guard.metric(pictures).tolist())
    assert [guard.accepts(look, start) for look in later] == [True, False, False]
    assert "no longer takes for" in guard.metric.name


def test_a_picture_is_kept_down_to_a_share_of_the_untouched_score() -> None:
    def score(images: torch.Tensor) -> torch.Tensor:
        return torch.tensor([0.5, 0.3, 0.3, 0.1])[:, None] + LEVELS

    def other(images: torch.Tensor) -> torch.Tensor:
        return torch.tensor([0.3, 0.3, 0.2, 0.3])[:, None] + LEVELS

    anything: Any = [score, other]
    fit = PromptFit(anything, 0.4 + LEVELS)
    assert fit(torch.zeros(4, 3, 8, 8), [PROMPT] * 4) == [True, True, False, False]


def test_what_a_picture_lacks_of_its_fit_is_held_and_no_more() -> None:
    asked = []

    class Known:
        """Scores that are the picture's brightness, left and right, whatever the noise."""

        def with_seed(self, seed: int) -> "Known":
            asked.append(seed)
            return self

        def __call__(self, images: torch.Tensor) -> torch.Tensor:
            asked.append("with gradient" if torch.is_grad_enabled() else "without")
            return images.unflatten(-1, (2, 4)).mean((1, 2, 4))

    known: Any = [Known()]
    left = torch.tensor([0.6, 0.41, 0.32, 0.2, 0.0, 0.9]).view(6, 1, 1, 1).repeat(1, 3, 8, 4)
    right = left.clone()
    right[-1] = 0.2  # as bright as another, in one half: the other does not make up for it
    images = torch.cat([left, right], -1)
    fit = PromptFit(known, torch.tensor([0.5, 0.5]))
    misfit = Misfit(fit)
    found = misfit(images.requires_grad_())
    expected = torch.tensor([0.0, 0.0, 0.16, 0.4, 0.8, 0.2]) / 0.15
    torch.testing.assert_close(found, expected)
    (gradient,) = torch.autograd.grad(found.sum(), images)
    slopes = -torch.tensor([[0.0, 0, 1, 1, 1, 0], [0, 0, 1, 1, 1, 1]]).T / 0.15
    torch.testing.assert_close(gradient.unflatten(-1, (2, 4)).sum((1, 2, 4)), slopes)
    first, *rest = asked
    assert rest == ["with gradient"]
    misfit(images)
    assert asked[2] != first  # another noise
    clip = images.detach()[:, None].repeat(1, 3, 1, 1, 1)
    clip[:, [0, 2]] = 0
    torch.testing.assert_close(misfit(clip), expected)
    assert asked[4:] == ["without"]
    assert fit(images, [PROMPT] * 6) == [True, True, False, False, False, True]
    assert len(asked) == 5  # the answer on the same pictures is remembered
    assert fit(images[1:3], [PROMPT] * 2) == [True, False]
    assert len(asked) == 6


def test_what_is_lacking_at_a_step_is_found_again_by_a_resumed_run() -> None:
    seeds = []

    class Known:
        def with_seed(self, seed: int) -> "Known":
            seeds.append(seed)
            return self

        def __call__(self, images: torch.Tensor) -> torch.Tensor:
            return images.mean((2, 3))

    known: Any = [Known(), Known()]
    misfit = Misfit(PromptFit(known, torch.full((3,), 0.5)))
    images = torch.rand(1, 3, 8, 8, requires_grad=True)
    for step in ("step 1", "step 2", "step 1"):
        score(misfit, images, [PROMPT], step)
    assert seeds[:2] == seeds[4:]
    assert len(set(seeds)) == 4


@pytest.mark.parametrize(
    ("scores", "draws"),
    [
        ((0.4, 0.4, 0.4, 0.4), 1),
        ((0.4, 0.4, 0.4, 0.33), 1),  # a deviation of 0.035; 0.134 to the bound
        ((0.4, 0.4, 0.4, 0.27), 3),  # 0.065; 0.129
        ((0.4, 0.4, 0.4, 0.2), None),
        ((-0.4, -0.4, -0.4, -0.4), None),
    ],
)
def test_the_more_a_score_varies_the_more_draws_of_the_noise_are_asked(
    monkeypatch, scores: tuple[float, ...], draws: int | None
) -> None:
    class Known:
        def __init__(self, model: Any, prompt: str, *, seed: int) -> None:
            self.seed = seed

        def __call__(self, images: torch.Tensor) -> torch.Tensor:
            return torch.tensor([[scores[self.seed] - 0.1, scores[self.seed] + 0.1]])

    monkeypatch.setattr("adjointdpm.tasks.prompt_fit.DiffusionClassifier", Known)
    fit = PromptFit.to(None, torch.zeros(1, 3, 8, 8), PROMPT)
    assert (None if fit is None else len(fit.scores)) == draws
    if fit is not None:
        mean = sum(scores[:draws]) / (draws or 1)
        torch.testing.assert_close(fit.untouched, torch.tensor([mean - 0.1, mean + 0.1]))


def test_a_model_that_cannot_tell_is_not_asked(tmp_path) -> None:
    pipe, pictures = tiny_pipeline(tmp_path), torch.rand(1, 3, 16, 16)
    assert PromptFit.to(from_pipeline(pipe), pictures, PROMPT) is None  # an untrained network
    assert PromptFit.to(AnyPipeline(pipe), pictures, PROMPT) is None
    pipe.unet.config.encoder_hid_dim_type = "ip_image_proj"  # needs a picture beside the prompt
    assert PromptFit.to(from_pipeline(pipe), pictures, PROMPT) is None


class Judge:
    """Has never seen what it is asked for."""

    concepts = ("owl", "fox")

    def concept_logits(self, images: torch.Tensor) -> torch.Tensor:
        return torch.tensor([9.0, 0.0]).expand(len(images), 2)


@pytest.mark.parametrize("judged", [False, True])
@pytest.mark.parametrize(
    ("learn", "preservation", "asked"),
    [("noise", 0.2, True), ("both", 0.2, True), ("noise", 0.0, False), ("embedding", 0.2, False)],
)
def test_the_model_itself_guards_a_single_picture(
    tmp_path, monkeypatch, judged: bool, learn: str, preservation: float, asked: bool
) -> None:
    """A judge has no part in it then, and says in the end what it finds."""
    judge: Any = Judge()
    recognisers = []

    def note(recognise, pictures, **settings):
        recognisers.append(recognise)
        return judge_guard(recognise, pictures, **settings)

    monkeypatch.setattr("adjointdpm.tasks.guide.judge_guard", note)
    config = GuideConfig(
        prompt=PROMPT,
        metric=["color:mood=dusk"],
        learn=learn,
        steps=4,
        iterations=1,
        preservation=preservation,
        tracker=[],
    )
    folder = RunFolder.open(tmp_path / "run", {"task": "guide"}, artefacts=config.artefacts)
    looks = []

    def look(record: dict[str, Any]) -> None:
        looks.append(record["validation"])

    told = SubjectJudge(judge, 1) if judged else None
    result = guide(load("tiny"), config, folder, recognise=told, on_record=look)
    assert any(isinstance(recognise, PromptFit) for recognise in recognisers) is asked
    assert len(recognisers) == (asked or judged or learn != "noise")
    assert ("recognised" in result["held_out"]) is judged
    assert ["misfit" in values for values in looks] == [asked] * 2
    assert ["drift" in values for values in looks] == [learn == "embedding"] * 2
    shutil.rmtree(folder.path)
