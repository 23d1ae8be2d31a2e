"""`generate(callback=)`: every state on the way there, every costate on the way back."""

import pytest
import torch

from adjointdpm.errors import UnsupportedError
from adjointdpm.pipelines import from_pipeline
from helpers.tiny_pipelines import tiny_pipeline


class Watcher:
    """Keeps what it sees."""

    def __init__(self):
        self.states, self.costates = [], {}

    def __call__(self, step, t, x, denoised):
        self.states.append((step, x.detach().clone()))

    def backward(self, step, t, costate):
        self.costates[step] = costate.clone()


@pytest.fixture
def model(tmp_path):
    return from_pipeline(tiny_pipeline(tmp_path / "tokenizer"))


def test_the_pictures_and_gradients_are_those_without_a_callback(model):
    found = []
    for more in ({}, {"callback": Watcher()}):
        noise = model.noise(1, 3).requires_grad_()
        image = model.generate("red fox", noise, steps=3, sampler="euler", **more)
        found.append((image.detach(), torch.autograd.grad(image.square().sum(), [noise])[0]))
    assert torch.equal(found[0][0], found[1][0])
    torch.testing.assert_close(found[0][1], found[1][1])


def test_the_last_state_is_what_is_decoded_and_the_first_costate_the_noises_gradient(model):
    seen, noise = Watcher(), model.noise(1, 3).requires_grad_()
    image = model.generate("red fox", noise, steps=3, callback=seen)  # the scheduler's equivalent
    assert [step for step, _ in seen.states] == list(range(len(seen.states)))
    assert len(seen.states) == 3
    with torch.no_grad():
        torch.testing.assert_close(model.decode(seen.states[-1][1]), image.detach())
    (gradient,) = torch.autograd.grad(image.square().sum(), [noise])
    torch.testing.assert_close(seen.costates[-1], gradient)
    assert set(seen.costates) >= {-1, 0, 1, 2}


def test_a_callback_and_an_argument_of_the_pipelines_own_call_are_refused(model):
    with pytest.raises(UnsupportedError, match="callback"):
        model.generate("red fox", model.noise(1, 0), steps=2, clip_skip=1, callback=Watcher())
