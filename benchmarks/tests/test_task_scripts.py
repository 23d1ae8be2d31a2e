"""The benchmarks of the task `embed`: their arithmetic, controls, textual inversion and tables,
without the training data.
"""

import json
import math
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import adjointdpm as adj
from adjointdpm.errors import ModelError, PromptError
from adjointdpm.metrics import Classifier, FunctionMetric
from adjointdpm.metrics.networks.judge import Judge
from adjointdpm.pipelines import from_pipeline
from adjointdpm.tasks.demo import DemoConfig
from adjointdpm.tasks.embed import EmbedConfig
from adjointdpm.variables import Example, TokenEmbedding
from benchmarks import critic, effect, real_pictures, stylize, vocabulary
from benchmarks.gap import Triple, gap_interval, gap_share, pooled, share_text
from benchmarks.pipelines.parts.encoders import tiny_tokenizer
from benchmarks.textual_inversion import denoising_loss, encode_pictures, learn_from_pictures
from helpers.tiny_pipelines import tiny_pipeline


@pytest.fixture
def model(tmp_path):
    return from_pipeline(tiny_pipeline(tmp_path))


# The share of a gap.


def test_the_share_is_that_of_the_means():
    assert gap_share([Triple(1.0, 0.5, 0.0), Triple(3.0, 1.5, 1.0)]) == pytest.approx(
        (2 - 1) / (2 - 0.5)
    )
    assert gap_share([Triple(1.0, -0.5, 0.0)]) == 1.5  # further than the goal
    assert gap_share([Triple(1.0, 2.0, 0.0)]) == -1  # the other way


def test_without_a_gap_there_is_no_share():
    assert gap_share([Triple(1.0, 0.5, 1.0)]) is None
    assert gap_share([Triple(1.0, 0.5, 2.0)]) is None
    assert gap_interval([[Triple(1.0, 0.5, 1.0)] * 5]) is None
    assert share_text(None, None) == "no gap"


def test_the_interval_covers_the_true_share_about_as_often_as_it_says():
    draw, covered = random.Random(1), 0
    for _ in range(60):
        group = [
            Triple(1 + draw.gauss(0, 0.2), 0.4 + draw.gauss(0, 0.2), draw.gauss(0, 0.2))
            for _ in range(24)
        ]
        low, high = gap_interval([group], rounds=300) or (math.nan, math.nan)
        covered += low <= 0.6 <= high
    assert 52 <= covered <= 60


def test_an_interval_over_groups_is_wider_where_groups_differ():
    groups = [[Triple(1.0, reached, 0.0)] * 10 for reached in (0.1, 0.5, 0.9)]
    low, high = gap_interval(groups) or (math.nan, math.nan)
    assert low == pytest.approx(0.1)
    assert high == pytest.approx(0.9)
    assert gap_interval([pooled(groups)]) == gap_interval([pooled(groups)])
    inside = gap_interval([pooled(groups)]) or (math.nan, math.nan)
    assert inside[1] - inside[0] < high - low
    assert gap_share(pooled(groups)) == pytest.approx(0.5)


def test_pictures_of_one_prompt_are_drawn_together():
    group = [Triple(1.0, reached, 0.0) for reached in (0.1, 0.9)] * 8
    low, high = gap_interval([group], of=[["one", "other"] * 8]) or (math.nan, math.nan)
    assert (low, high) == pytest.approx((0.1, 0.9))
    assert gap_interval([group], of=[list(range(16))]) == gap_interval([group])
    inside = gap_interval([group]) or (math.nan, math.nan)
    assert low < inside[0] < inside[1] < high


def test_a_gap_that_some_draws_turn_round_bounds_nothing():
    group = [Triple(1.0, 0.5, 0.0), Triple(0.0, 0.5, 0.9), Triple(1.0, 0.5, 0.9)]
    assert gap_share(group) is not None
    assert gap_interval([group]) is None
    assert share_text(0.5, None) == "50% [unbounded]"
    assert share_text(0.5, [0.25, 1.0]) == "50% [25%, 100%]"


def test_the_share_of_subjects_that_survive_a_style_has_an_interval_over_prompts():
    held_out = {
        "before": 0.9,
        "after": 0.45,
        "change": -0.45,
        "interval": [-0.5, -0.4],
        "examples": 24,
        "distinctness": 1.0,
    }
    held_out |= {
        "recognised": {"before": 1.0, "after": 0.75},
        "recognised_interval": {"before": [0.8, 1.0], "after": [0.41, 0.93]},
    }
    arm = {
        "result": {"held_out": held_out, "optimisation": {"best_iteration": 3, "iterations": 5}},
        "history": [{"iteration": 0}, {"iteration": 1, "seconds": 60.0}],
    }
    (line,) = stylize.rows({"exact": arm})
    assert "100% → 75% [41%, 93%]" in line


# Real pictures.


def test_a_drawing_is_put_on_any_background():
    drawing, alpha = np.full((64, 64, 3), (200, 40, 90)), np.zeros((64, 64, 1))
    alpha[:32], alpha[32:48] = 1.0, 0.5
    black, white = (np.round(alpha * drawing + (1 - alpha) * v).astype(np.uint8) for v in (0, 255))
    background = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0))
    opaque = torch.from_numpy(alpha).permute(2, 0, 1).float()
    expected = opaque * torch.tensor([200, 40, 90]).view(3, 1, 1) / 255 + (1 - opaque) * background
    torch.testing.assert_close(
        real_pictures.composed(black, white, background), expected, rtol=0, atol=4e-3
    )


def test_what_a_prompt_shows_is_read_off_it():
    concepts, styles = ["apple", "green apple", "lion"], ["noto", "fluent"]
    assert real_pictures.subject("a noto emoji of a green apple", concepts, styles) == (
        "green apple",
        "noto",
    )
    with pytest.raises(PromptError, match="must name a concept and a style"):
        real_pictures.subject("a lion", concepts, styles)


# The critic.


def write_judge(folder: Path, widths: tuple[int, ...] = (8, 8, 8, 16)) -> None:
    folder.mkdir(parents=True)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_file(
            Judge(["a", "b", "c"], ["x", "y"], widths).state_dict(), folder / "model.safetensors"
        )
    (folder / "config.json").write_text(
        json.dumps({"concepts": ["a", "pig nose", "c"], "styles": ["x", "y"], "widths": widths})
    )


def test_the_critic_is_a_classifier_with_gradients_and_names(tmp_path):
    write_judge(tmp_path / "critic")
    network = critic.Concepts(tmp_path / "critic")
    images = torch.rand(2, 3, 64, 64).requires_grad_()
    loss = Classifier(target="pig nose", network=network)(images)
    logits = Judge.load(tmp_path / "critic").concept_logits(images)
    torch.testing.assert_close(loss, -logits.log_softmax(1)[:, 1])
    (gradient,) = torch.autograd.grad(loss.sum(), images)
    assert gradient.flatten(1).norm(dim=1).min() > 0


def test_two_critics_have_two_fingerprints(tmp_path):
    write_judge(tmp_path / "one")
    write_judge(tmp_path / "two", (16, 8, 8, 16))
    assert critic.fingerprint(tmp_path / "one") != critic.fingerprint(tmp_path / "two")
    with pytest.raises(ModelError, match=r"training/judges\.py"):
        critic.fingerprint(tmp_path / "none")


def test_the_metric_names_a_function_of_the_critics_file():
    assert (
        critic.metric("pear")
        == f"classifier:network={Path(critic.__file__).resolve()}:load,target=pear"
    )


# Textual inversion.


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
def test_the_denoising_loss_reaches_the_vectors_and_equals_finite_differences(model, prediction):
    for part in (model.pipe.unet, model.pipe.vae, model.pipe.text_encoder):
        part.double()
    model.pipe.scheduler.register_to_config(prediction_type=prediction)
    token = TokenEmbedding(model.pipe, "<new>", "fox")
    token.vectors = token.vectors.detach().double().requires_grad_()  # finite differences need it
    generator = torch.Generator().manual_seed(0)
    latents, noise = (
        torch.randn(2, 4, 8, 8, generator=generator, dtype=torch.float64) for _ in range(2)
    )
    direction = torch.randn(token.vectors.shape, generator=generator, dtype=torch.float64)

    def loss():
        return denoising_loss(
            model, ["red <new>", "<new>"], latents, torch.tensor([100, 700]), noise
        )

    with token:
        (gradient,) = torch.autograd.grad(loss(), [token.vectors])
        ends = []
        with torch.no_grad():
            for sign in (1, -2):
                token.vectors.add_(sign * 1e-6 * direction)
                ends.append(loss())
        slope = (ends[0] - ends[1]) / 2e-6
    assert gradient.norm() > 0
    torch.testing.assert_close((gradient * direction).sum(), slope, rtol=1e-4, atol=0)


def test_the_loss_is_the_training_loss_of_the_scheduler(model):
    latents, noise, t = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8), torch.tensor([3, 900])
    alpha = model.pipe.scheduler.alphas_cumprod[t].view(2, 1, 1, 1)
    noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
    output = model.pipe.unet(noisy, t, model.encode(["red fox", "fox"])["prompt_embeds"]).sample
    torch.testing.assert_close(
        denoising_loss(model, ["red fox", "fox"], latents, t, noise),
        (output - noise).square().mean(),
    )


def test_learning_from_pictures_stays_within_the_bound_and_leaves_the_model(model):
    before = {name: tensor.clone() for name, tensor in model.pipe.text_encoder.state_dict().items()}
    vocabulary_size = len(model.pipe.tokenizer)
    token = TokenEmbedding(model.pipe, "<new>", "fox", max_norm=0.9)
    start = token.vectors.detach().clone()
    with token:
        done = learn_from_pictures(
            model,
            token,
            ["red <new>"] * 4,
            torch.randn(4, 4, 8, 8),
            seconds=math.inf,
            steps=5,
            batch=4,
            rate=0.1,
        )
    assert done.steps == len(done.losses) == 5
    assert not torch.equal(token.vectors, start)
    assert token.vectors.norm() <= 0.9 * token.longest_word * (1 + 1e-6)
    after = model.pipe.text_encoder.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert len(model.pipe.tokenizer) == vocabulary_size


def test_learning_from_pictures_lowers_the_loss(tiny):
    prompt = "a noto emoji of a {} on a red background"
    with torch.no_grad():
        pictures = tiny.generate(
            [prompt.format("lemon")] * 4, tiny.noise(4, seed=0), steps=5, guidance_scale=5.0
        ).clamp(0, 1)
    latents, t = encode_pictures(tiny, pictures), torch.tensor([300, 500, 700, 900])
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
    with TokenEmbedding(tiny.pipe, "<new>", "cat") as token:
        captions = [prompt.format("<new>")] * 4
        with torch.no_grad():
            before = denoising_loss(tiny, captions, latents, t, noise).item()
        learn_from_pictures(
            tiny, token, captions, latents, seconds=math.inf, steps=15, batch=4, rate=0.03
        )
        with torch.no_grad():
            after = denoising_loss(tiny, captions, latents, t, noise).item()
            named = denoising_loss(tiny, [prompt.format("lemon")] * 4, latents, t, noise).item()
    assert named < before  # a cat's word is no good for lemons
    assert after < before - 0.3 * (before - named)


def test_learning_from_pictures_is_repeatable_and_stops_by_the_clock(model):
    latents, found = torch.randn(4, 4, 8, 8), []
    for _ in range(2):
        with TokenEmbedding(model.pipe, "<new>", "fox") as token:
            learn_from_pictures(
                model, token, ["<new>"] * 4, latents, seconds=math.inf, steps=3, batch=2
            )
        found.append(token.vectors.detach().clone())
    assert torch.equal(*found)
    with TokenEmbedding(model.pipe, "<new>", "fox") as token:
        done = learn_from_pictures(model, token, ["<new>"] * 4, latents, seconds=0.3, batch=2)
    assert done.steps >= 1
    assert done.seconds >= 0.3


def test_pictures_become_scaled_latents(model):
    images = torch.rand(18, 3, 16, 16)
    latents = encode_pictures(model, images)
    alone = (
        model.pipe.vae.encode(2 * images[17:] - 1).latent_dist.mean
        * model.pipe.vae.config.scaling_factor
    )
    torch.testing.assert_close(latents[17:], alone, rtol=1e-4, atol=1e-5)


# The effect.


def test_the_best_word_is_the_one_that_the_metric_likes_best():
    darkness = FunctionMetric(lambda images: images.mean((1, 2, 3)), "brightness")
    assert (
        effect.best_word(
            darkness,
            {"white": torch.ones(2, 3, 8, 8), "black": torch.zeros(2, 3, 8, 8)},
            ["a fox", "an owl"],
        )
        == "black"
    )


def test_an_effects_pictures_stand_on_its_own_colour():
    text, background = effect.effect_of("dusk")
    assert text == "color:mood=dusk"
    metric = adj.metrics.resolve(text)
    assert metric(background.expand(1, 3, 64, 64)).item() < 1e-3


def test_an_effect_is_measured_against_real_pictures(tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(effect, "WORK", tmp_path)
    monkeypatch.setattr(
        effect,
        "on_background",
        lambda examples, background, concepts: background.expand(len(examples), 3, 64, 64),
    )
    demo = DemoConfig(iterations=1, steps=2).parts().embed
    config = replace(demo, held_out=demo.held_out[:2], prompts=demo.prompts[:2], validation=1)
    screened = effect.screen(tiny, config, ["red", "black"])
    row = effect.measure(tiny, "dusk", config, Judge.load(), screened)
    assert row["best_word"] in screened
    assert {view: len(values) for view, values in row["scores"].items()} == dict.fromkeys(
        ("plain", "initial", "learned", "best_word", "real"), 2
    )
    assert max(row["scores"]["real"]) < 1e-3
    plain, learned, real = (sum(row["scores"][view]) for view in ("plain", "learned", "real"))
    assert row["share"]["learned"] == pytest.approx((plain - learned) / (plain - real))
    result = json.loads((tmp_path / "effect-dusk" / "result.json").read_text())
    assert result["held_out"]["before"] == pytest.approx(
        plain / 2, abs=2e-3
    )  # scores are of the saved pictures, in 8 bits
    assert row["distinctness"] == result["held_out"]["distinctness"]
    text = effect.report([row], "title")
    assert text.startswith("title\n\n| effect |")
    assert f"| {result['config']['initial']}: " in text
    assert "iteration 1 of 1" in capsys.readouterr().err


# The vocabulary.


def test_a_token_starts_at_a_word_of_one_token(tmp_path):
    assert vocabulary.one_token_words(
        tiny_tokenizer(tmp_path), ["red", "owl", "fox", "red fox"]
    ) == ["red", "fox"]


def test_the_nearest_word_comes_nearest_to_the_concept():
    nearness = {
        "lemon": {"pear": 0.2, "snake": 0.0},
        "green apple": {"pear": 0.3, "snake": 0.0},
        "eel": {"pear": 0.0, "snake": 0.4},
    }
    assert vocabulary.nearest_word(nearness, "pear") == "green apple"
    assert vocabulary.nearest_word(nearness, "pear", ["lemon", "eel"]) == "lemon"
    assert vocabulary.nearest_word(nearness, "snake") == "eel"


def test_held_out_sentences_are_none_that_tokens_are_learned_on():
    learned_on = {f"a {style} emoji of a <pear>" for style in vocabulary.STYLES}
    sentences = vocabulary.held_out_prompts("<pear>", "a <pear>")
    assert learned_on.isdisjoint(sentences)
    assert all(sentence.count("<pear>") == 1 and "{" not in sentence for sentence in sentences)
    assert any("fluent" in sentence for sentence in sentences)
    assert "fluent" not in vocabulary.STYLES


def test_results_are_taken_over_only_from_the_same_settings():
    settings = dict.fromkeys(vocabulary.DRAWING, 1) | {"iterations": 40}
    saved = {"settings": settings, "screening": {"judge": {}}, "rows": {"pear": {}}}
    assert vocabulary.former_results(None, settings) == ({}, {})
    assert vocabulary.former_results(saved, dict(settings)) == ({"judge": {}}, {"pear": {}})
    assert vocabulary.former_results(saved, settings | {"iterations": 20}) == ({"judge": {}}, {})
    assert vocabulary.former_results(saved, settings | {"critic": 2}) == ({}, {})


def test_the_gap_goes_from_the_nearest_word_to_textual_inversion():
    count = len(vocabulary.HELD_OUT)
    certain = {"nearest": 0.1, "own_name": 0.0, "learned": 0.5, "inverted": 0.9, "real": 1.0}
    arms = {
        arm: {"judge": [p] * count, "top5": [p > 0.3] * count, "critic": [0.7] * count}
        for arm, p in certain.items()
    }
    row = {"initial": "lemon", "nearest": "green apple", "arms": arms, "seconds": 90.0}
    assert gap_share(vocabulary.triples(row)) == pytest.approx(0.5)
    assert gap_share(vocabulary.triples(row, goal="real")) == pytest.approx(0.4 / 0.9)
    assert len(vocabulary.triples(row, [0, 2])) == 2
    text = vocabulary.report({"pear": row}, "title")
    assert (
        vocabulary._sentences({"arms": {"learned": {"judge": [0.5] * 2 * count}}})
        == [*range(count)] * 2
    )
    assert (
        "| pear (from lemon) | green apple: 0.10 (0%) | 0.00 (0%) | 0.50 (100%) | 0.90 (100%) | "
        "1.00 (100%) | 0.70 | 50% [50%, 50%] |" in text
    )
    assert text.count("50% [50%, 50%]") == 4  # the concept, all concepts, both kinds of styles


def test_a_concept_is_learned_in_both_ways_and_judged(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(vocabulary, "WORK", tmp_path)
    monkeypatch.setattr(vocabulary, "HELD_OUT", vocabulary.HELD_OUT[:2])
    pictures = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    labels = [("noto", "white"), ("noto", "red"), ("twemoji", "blue")]
    monkeypatch.setattr(
        vocabulary, "from_pool", lambda concept, styles, variants=slice(None): (pictures, labels)
    )
    config = EmbedConfig(
        token="<pear>",
        initial="lemon",
        metric=["classifier:network=judge,target=pear"],
        prompts=["a noto emoji of a"],
        held_out=["a fluent emoji of a"],
        seeds_per_prompt=2,
        validation=1,
        steps=2,
        guidance_scale=5.0,
        iterations=1,
        batch=1,
        preservation=0,
        validate_every=1,
        tracker=[],
    )
    judges = {"judge": Judge.load(), "critic": Judge.load()}
    row = vocabulary.measure(tiny, "pear", config, "green apple", judges, seeds=1, minutes=0.005)
    assert {arm: len(values["judge"]) for arm, values in row["arms"].items()} == dict(
        nearest=2, own_name=2, learned=2, inverted=2, real=3
    )
    assert row["inversion"]["steps"] >= 1
    assert row["arms"]["learned"]["judge"] != row["arms"]["nearest"]["judge"]
    assert json.dumps(row)
    assert "<pear>" not in tiny.pipe.tokenizer.get_vocab()


def test_examples_get_an_existing_word_in_the_tokens_place():
    config = DemoConfig(iterations=1, steps=2).parts().embed
    assert effect.in_place(config, [Example("a noto emoji of a lion", 3)], "red") == [
        Example("a noto emoji of a lion on a red background", 3)
    ]
