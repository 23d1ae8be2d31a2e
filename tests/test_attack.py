"""Adversarial noise on a toy whose best attack is known in closed form."""

import pytest
import torch
from torch import Tensor, nn

from adjointdpm import errors
from adjointdpm.adversarial import read_findings, write_findings
from adjointdpm.attack import Goal, as_saved, attack, random_search
from adjointdpm.rendering import Renderer
from adjointdpm.variables import Example, Noise
from adjointdpm.victims import Victim, load_victim
from toys import ToyModel

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
    victim.threshold = (plain * victim.direction).sum((1, 2, 3)).max().item() + 0.02  # all clean pictures are "low"
    named = Victim("linear", victim, ["low", "high"], [(0,), (1,)])
    start = torch.cat([render.model.noise(1, e.seed) for e in EXAMPLES])
    return render, Goal(named, torch.zeros(6, dtype=torch.long)), plain, start


@pytest.mark.parametrize("within", ["l2", "linf"])
def test_the_attack_succeeds_within_its_budget_where_random_search_does_not(setting, within: str) -> None:
    render, goal, plain, start = setting
    noise = Noise(EXAMPLES, start, within=within, budget=0.5)  # pyright: ignore[reportArgumentType]
    found = attack(render, goal, EXAMPLES, noise, iterations=10, batch=4, plain=plain)
    change = found.noise - start
    reach = change.flatten(1).square().mean(1).sqrt() if within == "l2" else change.abs().flatten(1).amax(1)
    assert (reach <= 0.5 * (1 + 1e-5)).all()
    assert found.fooled.float().mean() > 0.8
    assert torch.equal(found.fooled, goal.victim.logits(found.pictures).argmax(1) == 1)
    searched = random_search(render, goal, EXAMPLES, Noise(EXAMPLES, start, within=within, budget=0.5), tries=10)  # pyright: ignore[reportArgumentType]
    assert searched.fooled.sum() < found.fooled.sum()
    assert (searched.iterations[~searched.fooled] == 10).all()


def test_each_example_is_attacked_on_its_own(setting) -> None:
    render, goal, plain, start = setting
    together = attack(render, goal, EXAMPLES, Noise(EXAMPLES, start, within="l2", budget=0.4), iterations=6, batch=3, plain=plain)
    for i, example in enumerate(EXAMPLES[:3]):
        row = torch.tensor([i])
        noise = Noise([example], start[row], within="l2", budget=0.4)
        alone = attack(render, goal.rows(row), [example], noise, iterations=6, batch=1, plain=plain[row])
        torch.testing.assert_close(alone.noise[0], together.noise[i], atol=1e-5, rtol=1e-4)
        assert alone.iterations[0] == together.iterations[i]


def test_an_example_that_is_fooled_is_left_where_it_is(setting) -> None:
    render, goal, plain, start = setting
    done = Goal(goal.victim, torch.ones(6, dtype=torch.long))  # every clean picture is already wrong
    found = attack(render, done, EXAMPLES, Noise(EXAMPLES, start, within="l2", budget=0.4), iterations=3, batch=6, plain=plain)
    assert torch.equal(found.noise, start)
    assert (found.iterations == 0).all()
    assert found.fooled.all()


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


def test_findings_come_back_from_their_file(setting, tmp_path) -> None:
    render, goal, plain, start = setting
    noise = Noise(EXAMPLES, start, within="l2", budget=0.3)
    found = attack(render, goal, EXAMPLES, noise, iterations=2, batch=6, plain=plain)
    path = write_findings(tmp_path / "x.safetensors", EXAMPLES, goal, found, noise, {"steps": 3})
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
    head = "import torch\nclass Net(torch.nn.Module):\n    def forward(self, x):\n        return x.mean((2, 3))\n"
    (tmp_path / "good.py").write_text(head + "def build():\n    net = Net()\n    net.classes = ['fox', 'owl', 'cat']\n    return net\n")
    (tmp_path / "bad.py").write_text(head + "def build():\n    return Net()\n")
    victim = load_victim(f"{tmp_path / 'good.py'}:build", ["a fox"])
    assert victim.label("an owl at night") == 1
    with pytest.raises(errors.PromptError, match="spaceship"):
        victim.label("a spaceship")
    with pytest.raises(errors.ModelError, match="classes"):
        load_victim(f"{tmp_path / 'bad.py'}:build", ["a fox"])
