"""The learned token: its gradient, its bounds, what it leaves behind, and stock diffusers reading
it.
"""

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file

from adjointdpm import errors
from adjointdpm.pipelines import from_pipeline
from adjointdpm.variables import Example, Inputs, TokenEmbedding
from helpers.tiny_pipelines import tiny_pipeline


@pytest.fixture
def pipe(tmp_path) -> StableDiffusionPipeline:
    pipe = tiny_pipeline(tmp_path)
    for part in (pipe.unet, pipe.vae, pipe.text_encoder):
        part.requires_grad_(False)
    return pipe


def inputs(prompt: str) -> Inputs:
    return Inputs([Example(prompt, 0)], [prompt], torch.zeros(1, 4, 8, 8))


def draw(pipe: StableDiffusionPipeline, prompt: str, **kwargs) -> torch.Tensor:
    model = from_pipeline(pipe)
    return model.generate(prompt, model.noise(1, 0), steps=2, guidance_scale=3.0, **kwargs)


@pytest.mark.parametrize("vectors", [1, 2])
def test_the_gradient_reaches_the_vectors_and_equals_finite_differences(pipe, vectors: int) -> None:
    for part in (pipe.unet, pipe.vae, pipe.text_encoder):
        part.double()
    variable = TokenEmbedding(pipe, "<t>", "fox", vectors=vectors, max_norm=100.0)
    variable.vectors = variable.vectors.detach().double().requires_grad_()
    direction = torch.randn(
        variable.vectors.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    with variable:
        (prompt,) = variable.apply(inputs("red")).prompts

        def loss() -> torch.Tensor:
            return draw(pipe, prompt).square().sum()

        (gradient,) = torch.autograd.grad(loss(), variable.vectors)
        with torch.no_grad():
            ends = []
            for sign in (1, -1):
                variable.vectors.add_(sign * 1e-5 * direction)
                ends.append(loss())
                variable.vectors.sub_(sign * 1e-5 * direction)
    slope = (ends[0] - ends[1]) / 2e-5
    assert (gradient.norm(dim=1) > 0).all()
    torch.testing.assert_close((gradient * direction).sum(), slope, rtol=1e-5, atol=1e-9)


def test_it_starts_as_the_initial_word(pipe) -> None:
    expected = draw(pipe, "red fox")
    with TokenEmbedding(pipe, "<t>", "fox", max_norm=100.0):
        torch.testing.assert_close(draw(pipe, "red <t>"), expected)


def test_the_pipeline_is_as_it_was_afterwards(pipe) -> None:
    before, tokenizer, table = (
        draw(pipe, "red fox"),
        pipe.tokenizer,
        pipe.text_encoder.get_input_embeddings(),
    )
    vocabulary = dict(tokenizer.get_vocab())
    with pytest.raises(RuntimeError, match="stop"), TokenEmbedding(pipe, "<t>", "fox"):
        raise RuntimeError("stop")
    assert pipe.tokenizer is tokenizer
    assert pipe.text_encoder.get_input_embeddings() is table
    assert pipe.tokenizer.get_vocab() == vocabulary
    assert torch.equal(draw(pipe, "red fox"), before)


@pytest.mark.parametrize("vectors", [1, 3])
def test_stock_diffusers_loads_it_and_draws_the_same_picture(pipe, tmp_path, vectors: int) -> None:
    variable = TokenEmbedding(pipe, "<dusk>", "fox", vectors=vectors)
    with torch.no_grad():
        variable.vectors.copy_(
            torch.randn(variable.vectors.shape, generator=torch.Generator().manual_seed(1))
        )
    variable.project()
    with variable:
        noise = from_pipeline(pipe).noise(1, 0)
        (prompt,) = variable.apply(inputs("red")).prompts
        mine = draw(pipe, prompt).clamp(0, 1)
    path = variable.save(tmp_path)
    assert load_file(path)["<dusk>"].shape == variable.vectors.shape
    pipe.save_pretrained(tmp_path / "stock")
    stock = StableDiffusionPipeline.from_pretrained(tmp_path / "stock", local_files_only=True)
    stock.load_textual_inversion(
        str(tmp_path), weight_name=path.name, token="<dusk>", local_files_only=True
    )
    theirs = stock(
        "red <dusk>", latents=noise, num_inference_steps=2, guidance_scale=3.0, output_type="pt"
    ).images
    torch.testing.assert_close(torch.as_tensor(theirs).float(), mine.detach(), atol=1e-4, rtol=0)


def test_the_norm_stays_bounded(pipe) -> None:
    variable = TokenEmbedding(pipe, "<t>", "fox", max_norm=0.5)
    longest = pipe.text_encoder.get_input_embeddings().weight.norm(dim=1).max().item()
    with torch.no_grad():
        variable.vectors.mul_(100)
    variable.project()
    assert variable.vectors.norm().item() == pytest.approx(0.5 * longest, rel=1e-5)
    inside = (variable.vectors * 0.5).detach().clone()
    with torch.no_grad():
        variable.vectors.mul_(0.5)
    variable.project()
    assert torch.equal(variable.vectors.detach(), inside)


@pytest.mark.parametrize(
    ("vectors", "fits", "cut"), [(1, "a b c d e", "a b c d e f"), (3, "a b c", "a b c d")]
)
def test_a_prompt_that_leaves_no_room_for_the_whole_token_is_refused(
    pipe, vectors: int, fits: str, cut: str
) -> None:
    variable = TokenEmbedding(pipe, "<t>", "fox", vectors=vectors)
    first = TokenEmbedding(pipe, "<u>", "fox", vectors=vectors, template="{token} {prompt}")
    assert variable.apply(inputs(cut)).prompts == [
        f"{cut} <t>"
    ]  # outside of the context no model reads it
    with variable, first:
        for check in (
            lambda prompt: variable.check([Example(prompt, 0)]),
            lambda prompt: variable.apply(inputs(prompt)),
        ):
            check(fits)
            with pytest.raises(
                errors.PromptError, match=rf"'{cut} <t>' is 9 tokens.*reads 8.*<t> is cut off"
            ):
                check(cut)
        first.check([Example(cut, 0)])


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (("fox</w>", "red"), {}, "exists"),
        (("<t>", "foxes"), {}, "exactly one"),
        (("two words", "fox"), {}, "one word"),
        (("", "fox"), {}, "one word"),
        (("<t>", "fox"), {"template": "{prompt}"}, "template"),
        (
            ("<t>", "fox"),
            {"template": "{prompt} {token} {style}"},
            r"'\{prompt\} \{token\} \{style\}' must contain.*style",
        ),
        (("<t>", "fox"), {"template": "{prompt} {token} {}"}, "template"),
        (("<t>", "fox"), {"template": "{prompt.x} {token}"}, "template"),
        (("<t>", "fox"), {"template": "{prompt:d} {token}"}, "template"),
        (("<t>", "fox"), {"template": "{{prompt}} {{token}}"}, "template"),
        (("<t>", "fox"), {"template": "{prompt} {token} {"}, "template"),
        (("<t>", "fox"), {"vectors": 0}, "vectors"),
        (("<t>", "fox"), {"max_norm": 0.0}, "max_norm"),
    ],
)
def test_bad_tokens_are_refused(pipe, arguments, options: dict, message: str) -> None:
    with pytest.raises(errors.InvalidInputError, match=message):
        TokenEmbedding(pipe, *arguments, **options)


def test_a_word_that_the_tokenizer_knows_is_no_new_token(pipe) -> None:
    with pytest.raises(errors.PromptError, match="exists"):
        TokenEmbedding(pipe, "red", "fox")
