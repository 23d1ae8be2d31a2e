"""A learned token is looked up whole, and nowhere else than where the template places it."""

import pytest
import torch

import adjointdpm as adj
from adjointdpm.errors import PromptError
from adjointdpm.variables import Example, Inputs, TokenEmbedding


@pytest.fixture(scope="module")
def model():
    return adj.load("tiny")


def gradient_norms(model, variable: TokenEmbedding, prompt: str = "a fox") -> torch.Tensor:
    with variable:
        inputs = variable.apply(Inputs([Example(prompt, 0)], [prompt], model.noise(1, 0)))
        picture = model.generate(list(inputs.prompts), inputs.noise, steps=1, gradient="backprop")
        picture.square().sum().backward()
    assert variable.vectors.grad is not None
    return variable.vectors.grad.norm(dim=1)


@pytest.mark.parametrize("token", ["<teal>", "<dusk-1>", "zqx", "<Teal>"])
@pytest.mark.parametrize("vectors", [1, 2, 3])
def test_every_vector_is_learned_or_the_token_is_refused(model, token: str, vectors: int) -> None:
    if token == "<Teal>" and vectors > 1:  # the tokenizer lowercases, and diffusers does not
        with pytest.raises(PromptError, match=r"<Teal>_1.* would never be learned.*such as <teal>"):
            TokenEmbedding(model.pipe, token, "gray", vectors=vectors)
        return
    variable = TokenEmbedding(model.pipe, token, "gray", vectors=vectors)
    assert bool((gradient_norms(model, variable) > 0).all())


@pytest.mark.parametrize(
    ("token", "prompt"),
    [
        ("zqx", "a fox by the zqxian sea"),
        ("zqx", "a fozqx"),
        ("<teal>", "a fox in <teal> and red"),
        ("<teal>", "a fox in <TEAL>"),
        ("<teal>", "a <teal>_1 fox"),
    ],
)
def test_prompts_that_hold_the_token_themselves_are_refused(model, token, prompt) -> None:
    variable = TokenEmbedding(model.pipe, token, "gray", vectors=2)
    with variable:
        variable.check([Example("a fox", 0)])
        with pytest.raises(PromptError, match=r"more often than the template.*within a word"):
            variable.check([Example("a fox", 0), Example(prompt, 1)])
        with pytest.raises(PromptError, match="more often than the template"):
            variable.apply(Inputs([Example(prompt, 0)], [prompt], model.noise(1, 0)))


def test_a_template_may_place_the_token_twice(model) -> None:
    variable = TokenEmbedding(
        model.pipe, "<teal>", "gray", template="{token} {prompt} in {token}", vectors=2
    )
    with variable:
        variable.check([Example("a fox", 0)])
    wrong = TokenEmbedding(model.pipe, "zqx", "gray", template="{prompt} of zqxia in {token}")
    with wrong, pytest.raises(PromptError, match="within a word"):
        wrong.check([Example("a fox", 0)])
