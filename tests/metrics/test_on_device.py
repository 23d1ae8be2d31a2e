"""A metric elsewhere: the same scores, and the gradient comes back to the pictures."""

import pytest
import torch
from torch import Tensor, nn

from adjointdpm import errors, metrics
from adjointdpm.metrics import Classifier, FunctionMetric, OnDevice, WeightedSum, placed_elsewhere


class Net(nn.Module):
    """Smooth, so that bfloat16 is the only error."""

    classes = ("a", "b")

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.SiLU(), nn.Flatten(), nn.LazyLinear(2))
        self.layers(torch.zeros(1, 3, 8, 8))
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)


def picture(batch: int = 2) -> Tensor:
    return torch.rand(batch, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def scored(metric, images: Tensor) -> tuple[Tensor, Tensor]:
    images = images.clone().requires_grad_()
    scores = metric(images, prompts=["x"] * len(images))
    (gradient,) = torch.autograd.grad(scores.sum(), images)
    return scores.detach(), gradient


@pytest.mark.parametrize("dtype", [None, "float32"])
def test_the_same_place_changes_nothing(dtype) -> None:
    metric = Classifier(0, network=Net())
    elsewhere = placed_elsewhere(metric, "cpu", dtype)
    assert isinstance(elsewhere, OnDevice)
    assert elsewhere.name == metric.name
    assert elsewhere.smallest == metric.smallest
    assert placed_elsewhere(metric, None, None) is metric
    for mine, other in zip(scored(elsewhere, picture()), scored(metric, picture()), strict=True):
        assert torch.equal(mine, other)


def test_in_bfloat16_scores_and_gradients_agree_to_its_eight_bits() -> None:
    metric = Classifier(0, network=Net())
    seen = []

    def watch(images: Tensor) -> Tensor:
        seen.append(images.dtype)
        return metric(images)

    for original in (metric, FunctionMetric(watch, "watch")):
        elsewhere = placed_elsewhere(original, None, "bfloat16")
        metrics.probe(elsewhere, 8, 8)
        (scores, gradient), (exact, expected) = (
            scored(one, picture()) for one in (elsewhere, metric)
        )
        assert scores.dtype == gradient.dtype == torch.float32
        torch.testing.assert_close(scores, exact, rtol=0.05, atol=0.02)
        assert not torch.equal(scores, exact)
        error = (gradient - expected).norm() / expected.norm()
        assert 0 < error < 0.05
    assert set(seen) == {torch.bfloat16}


def test_networks_that_resize_work_in_bfloat16() -> None:
    image = torch.rand(1, 3, 80, 60, generator=torch.Generator().manual_seed(1))
    exact = metrics.resolve("classifier:target=owl,network=judge")
    half = placed_elsewhere(exact, None, "bfloat16")
    torch.testing.assert_close(half(image), exact(image), rtol=0.1, atol=0.1)


def test_each_metric_of_a_sum_goes_by_itself() -> None:
    metric = Classifier(0, network=Net())
    both = placed_elsewhere(WeightedSum([metric, metric], [1, 2], [1, 4]), "cpu", "bfloat16")
    assert isinstance(both, WeightedSum)
    assert all(isinstance(part, OnDevice) for part in both.metrics)
    one = placed_elsewhere(metric, "cpu", "bfloat16")
    torch.testing.assert_close(both(picture()), 1.5 * one(picture()))


def test_places_that_torch_does_not_have_are_refused() -> None:
    with pytest.raises(errors.UnknownNameError, match=r"reward_dtype='float16'.*bfloat16"):
        metrics.check_place(None, "float16")
    with pytest.raises(errors.UnknownNameError, match="reward_device='gpu'"):
        metrics.check_place("gpu", None)
    assert metrics.check_place("cpu", "bfloat16") == (torch.device("cpu"), torch.bfloat16)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_gradient_comes_back_from_a_gpu() -> None:
    metric = Classifier(0, network=Net())
    elsewhere = placed_elsewhere(metric, "cuda", "float32")
    for mine, other in zip(scored(elsewhere, picture()), scored(metric, picture()), strict=True):
        assert mine.device.type == "cpu"
        torch.testing.assert_close(mine, other, rtol=1e-3, atol=1e-4)
