"""Metrics: what they measure, what they refuse, and that a useless one is refused at once."""

import functools
import math

import pytest
import torch

from adjointdpm import errors, metrics
from adjointdpm.metrics import ColorStatistics, Structure, WeightedSum, structure_distance


def picture(seed: int = 0, size: int = 32) -> torch.Tensor:
    coarse = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(coarse, (size, size), mode="nearest")


@pytest.mark.parametrize(
    "metric",
    [ColorStatistics("dusk"), ColorStatistics("teal", spread=0.05), Structure(picture(3, 64))],
)
def test_every_metric_passes_its_own_probe(metric: metrics.Metric) -> None:
    metrics.probe(metric)


def test_color_distance_is_zero_for_a_picture_in_the_target_colour_and_grows_away_from_it() -> None:
    metric = ColorStatistics(red=0.2, green=0.4, blue=0.6)
    color = torch.tensor([0.2, 0.4, 0.6]).view(1, 3, 1, 1)
    shades = torch.cat([color.expand(1, 3, 8, 8) + offset for offset in (0.0, 0.1, 0.2)])
    scores = metric(shades)
    assert scores[0] < 1e-3
    # A grey offset changes luma alone, by itself.
    torch.testing.assert_close(scores[1:], torch.tensor([0.1, 0.2]), atol=1e-4, rtol=0)


def test_spread_penalises_colourful_pictures_only_when_it_is_given() -> None:
    gray = torch.full((1, 3, 8, 8), 0.5)
    colorful = gray.clone()
    colorful[:, 0, :4], colorful[:, 0, 4:] = 0.9, 0.1  # the same mean colour
    free, narrow = (
        ColorStatistics(red=0.5, green=0.5, blue=0.5),
        ColorStatistics(red=0.5, green=0.5, blue=0.5, spread=0.0),
    )
    torch.testing.assert_close(free(colorful), free(gray), atol=1e-4, rtol=0)
    assert narrow(colorful) > narrow(gray) + 0.1


def test_structure_distance_ignores_colour_and_sees_another_drawing() -> None:
    plain = picture(0)
    recolored = 1 - 0.7 * plain.flip(1)  # other colours, dark and light swapped, less contrast
    assert structure_distance(plain, plain) < 1e-3
    assert structure_distance(recolored, plain) < 0.05
    assert (
        structure_distance(picture(1), plain) > 0.3
    )  # the grids of blocks coincide, what they hold does not


def test_the_structure_of_a_video_is_the_mean_over_its_frames() -> None:
    frames, others = (torch.cat([picture(seed) for seed in seeds]) for seeds in ((0, 1), (2, 1)))
    together = structure_distance(frames[None], others[None])
    assert together.shape == (1,)
    assert together.item() == pytest.approx(structure_distance(frames, others).mean().item())
    assert together > 0.1


def test_a_weighted_sum_adds_up() -> None:
    first, second = ColorStatistics("dusk"), ColorStatistics("teal")
    images = picture()
    torch.testing.assert_close(
        WeightedSum([first, second], [2, -1])(images), 2 * first(images) - second(images)
    )
    with pytest.raises(errors.InvalidInputError, match="weights"):
        WeightedSum([first], [1, 2])


def test_names_and_options_are_read_from_text() -> None:
    assert metrics.resolve("color:mood=dusk,spread=0.1") == ColorStatistics("dusk", spread=0.1)
    with pytest.raises(errors.UnknownNameError, match="color"):
        metrics.resolve("colour")
    with pytest.raises(errors.UnknownNameError, match="dusk"):
        metrics.resolve("color:mood=dawn")
    with pytest.raises(errors.InvalidInputError, match="mood"):
        metrics.resolve("color:moods=dusk")
    with pytest.raises(errors.InvalidInputError, match="key=value"):
        metrics.resolve("color:dusk")
    with pytest.raises(errors.InvalidInputError, match=r"\[0, 1\]"):
        metrics.resolve("color:red=255,green=0,blue=0")


def test_a_users_own_function_is_a_metric(tmp_path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("def score(images):\n    return images.mean((1, 2, 3))\n")
    metric = metrics.resolve(f"{file}:score")
    metrics.probe(metric)
    assert metric(torch.ones(2, 3, 8, 8)).tolist() == [1.0, 1.0]
    with pytest.raises(errors.MetricError, match="score"):
        metrics.resolve(f"{file}:other")
    with pytest.raises(errors.MetricError, match="does not exist"):
        metrics.resolve(f"{tmp_path / 'none.py'}:score")
    file.write_text("1 / 0")
    with pytest.raises(errors.MetricError, match="ZeroDivisionError"):
        metrics.resolve(f"{file}:score")


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: x.mean(), "shape"),
        (lambda x: x.mean((1, 2, 3)).tolist(), "list"),
        (lambda x: x.mean((1, 2, 3)) * math.nan, "NaN"),
        (lambda x: x.detach().mean((1, 2, 3)), "blocks gradients"),
        (lambda x: (x.mean((1, 2, 3)) > 0.5).float(), "blocks gradients"),
        (lambda x: x.clamp(0.99, 1).mean((1, 2, 3)), "zero"),
        (lambda x: (x - x.detach()).square().sum((1, 2, 3)).sqrt(), "NaN"),
        (lambda x: torch.ones(len(x), requires_grad=True) * 1, "does not depend"),
        (lambda x: x.reshape(7, -1).mean(1), "failed"),
    ],
)
def test_a_metric_that_could_teach_nothing_is_refused(function, message: str) -> None:
    with pytest.raises(errors.MetricError, match=message):
        metrics.probe(metrics.resolve(function))


def test_a_picture_too_small_for_the_metric_is_refused() -> None:
    with pytest.raises(errors.MetricError, match="8×8"):
        metrics.probe(Structure(picture(0)), 4, 4)


def test_a_metric_file_that_was_just_changed_is_read_again(tmp_path):
    path = tmp_path / "metric.py"
    for value in (1, 2):  # as long a file, within the same second
        path.write_text(f"def score(images):\n    return images.mean((1, 2, 3)) * {value}\n")
        assert metrics.resolve(f"{path}:score")(torch.ones(1, 3, 8, 8)).item() == value
    assert [child.name for child in tmp_path.iterdir()] == ["metric.py"]


def by_prompt(images: torch.Tensor, prompts: list[str] | None) -> torch.Tensor:
    """A score that tells which prompt each sample came with."""
    lengths = [0.0 if prompts is None else float(len(prompt)) for prompt in prompts or images]
    return images.flatten(1).mean(1) + torch.tensor(lengths)


class Prompted:
    """A user's own object that scores."""

    def __init__(self, weight: float = 1.0) -> None:
        self.weight = weight

    def __call__(self, images: torch.Tensor, texts: list[str]) -> torch.Tensor:
        return self.weight * by_prompt(images, texts)

    def score(self, images: torch.Tensor, *, prompts: list[str]) -> torch.Tensor:
        return self(images, prompts)


class PromptedNetwork(torch.nn.Module):
    def forward(self, images: torch.Tensor, texts: list[str]) -> torch.Tensor:
        return by_prompt(images, texts)


def scaled(images: torch.Tensor, scale: float = 2.0) -> torch.Tensor:
    return scale * images.flatten(1).mean(1)


def third(images: torch.Tensor, scale: float, *, prompts: list[str]) -> torch.Tensor:
    return scale * by_prompt(images, prompts)


@pytest.mark.parametrize(
    "function",
    [
        by_prompt,
        lambda images, texts: by_prompt(images, texts),
        lambda images, scale=1.0, prompts=None: scale * by_prompt(images, prompts),
        Prompted(),
        Prompted,
        Prompted().score,
        PromptedNetwork(),
        functools.partial(third, scale=1.0),
    ],
)
def test_a_function_of_two_arguments_gets_the_prompts(function) -> None:
    metric = metrics.resolve(function)
    images = torch.zeros(3, 3, 8, 8)
    assert metric(images, prompts=["a", "bcd", ""]).tolist() == [1.0, 3.0, 0.0]
    assert metric(images, ["ab", "c", "d"]).tolist() == [2.0, 1.0, 1.0]
    both = WeightedSum([metric, metrics.resolve(scaled)], [2.0, 1.0])
    assert both(images + 1, prompts=["a", "bcd", ""]).tolist() == [6.0, 10.0, 4.0]
    metrics.probe(metric)


@pytest.mark.parametrize(
    "function",
    [
        lambda images: images.flatten(1).mean(1),
        scaled,
        lambda images, *others, **named: images.flatten(1).mean(1) + len(others) + len(named),
        functools.partial(third, scale=1.0, prompts=["", ""]),
        torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(0)),
    ],
)
def test_a_function_of_one_argument_gets_pictures_alone(function) -> None:
    images = torch.rand(2, 3, 8, 8)
    metric = metrics.resolve(function)
    assert torch.equal(metric(images, prompts=["a", "b"]), metric(images))


def test_a_function_that_cannot_do_without_prompts_is_probed_with_some(tmp_path) -> None:
    seen: list[list[str]] = []

    def remember(images: torch.Tensor, prompts: list[str]) -> torch.Tensor:
        seen.append(list(prompts))
        return images.mean((1, 2, 3))

    metrics.probe(metrics.resolve(remember))
    assert len(seen[0]) == 2
    assert all(" " in prompt for prompt in seen[0])
    metrics.probe(metrics.resolve(remember), prompts=["a fox", "an owl", "a pear"])
    metrics.probe(metrics.resolve(remember), prompts=["a fox"])
    assert seen[1:] == [["a fox", "a pear"], ["a fox", "a fox"]]
    file = tmp_path / "mine.py"
    file.write_text(
        "def score(images, prompts):\n"
        "    assert len(images) == len(prompts)\n"
        "    return images.mean((1, 2, 3)) * len(prompts[0])\n"
    )
    metric = metrics.resolve(f"{file}:score")
    assert metric(torch.ones(1, 3, 8, 8), prompts=["abc"]).tolist() == [3.0]


class Steadiness(metrics.Metric):
    """How much a video's frames differ."""

    takes_videos = True

    def __call__(self, samples, /, prompts=None):
        return samples.flatten(1).var(1)


def steadiness(videos: torch.Tensor) -> torch.Tensor:
    return videos.flatten(1).var(1)


steadiness.takes_videos = True  # pyright: ignore[reportFunctionMemberAccess]


@pytest.mark.parametrize("metric", [Steadiness(), metrics.resolve(steadiness)])
def test_a_metric_that_takes_videos_gets_them(metric) -> None:
    videos = torch.rand(2, 5, 3, 8, 8)
    metrics.check_samples(metric, videos)
    metrics.check_samples(metric, videos[:, 0])
    metrics.probe(metric, 16, 16, frames=5)
    both = WeightedSum([metric, Steadiness()], [1, 1])
    assert both.takes_videos
    assert torch.allclose(both(videos), 2 * Steadiness()(videos))
    with pytest.raises(errors.MetricError, match=r"\(2, 5, 4, 8, 8\).*videos"):
        metrics.check_samples(metric, torch.rand(2, 5, 4, 8, 8))


def test_a_metric_of_pictures_refuses_videos() -> None:
    videos = torch.rand(2, 5, 3, 8, 8)
    plain = ColorStatistics("dusk")
    for refuse in (
        lambda: metrics.check_samples(plain, videos),
        lambda: metrics.probe(plain, frames=5),
        lambda: WeightedSum([Steadiness(), plain], [1, 1])(videos),
    ):
        with pytest.raises(
            errors.MetricError, match=r"color:mood=dusk scores pictures.*takes_videos"
        ):
            refuse()
    assert not WeightedSum([Steadiness(), plain], [1, 1]).takes_videos


def test_a_class_that_cannot_be_made_is_refused() -> None:
    class Needy:
        def __init__(self, weight: float) -> None:
            raise AssertionError(weight)

    with pytest.raises(errors.MetricError, match=r"Needy\(\) failed"):
        metrics.resolve(Needy)
