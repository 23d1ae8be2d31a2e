"""The learned prompt embedding: which rows it takes, its bound, and stock diffusers drawing from
its file.
"""

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors import safe_open
from safetensors.torch import load_file

from adjointdpm import errors
from adjointdpm.pipelines import from_pipeline
from adjointdpm.pipelines.base import DiffusionModel
from adjointdpm.variables import Example, Inputs, PromptEmbedding
from helpers.tiny_pipelines import WIDTH, tiny_pipeline


@pytest.fixture
def model(tmp_path) -> DiffusionModel:
    return from_pipeline(tiny_pipeline(tmp_path))


def inputs(*prompts: str, embeds: torch.Tensor | None = None) -> Inputs:
    return Inputs(
        [Example(prompt, 0) for prompt in prompts],
        prompts,
        torch.zeros(len(prompts), 4, 8, 8),
        None if embeds is None else {"prompt_embeds": embeds},
    )


def moved(variable: PromptEmbedding) -> PromptEmbedding:
    with torch.no_grad():
        variable.embeds["prompt_embeds"].add_(
            torch.randn(
                variable.embeds["prompt_embeds"].shape, generator=torch.Generator().manual_seed(1)
            )
        )
    return variable


def test_it_starts_as_the_prompt_s_own_encoding(model) -> None:
    variable = PromptEmbedding(model, "red fox")
    assert variable.embeds["prompt_embeds"].shape == (1, 8, WIDTH)
    assert variable.embeds["prompt_embeds"].is_leaf
    prompts = ["owl", "red fox", "", "owl"]
    torch.testing.assert_close(
        variable.apply(inputs(*prompts)).encoded["prompt_embeds"],
        model.encode(prompts)["prompt_embeds"],
    )


def test_it_takes_the_rows_of_its_prompt_and_no_others(model) -> None:
    variable = moved(PromptEmbedding(model, "red fox"))
    embeds = variable.apply(inputs("owl", "red fox", "fox red", "red fox")).encoded["prompt_embeds"]
    assert torch.equal(embeds[1], variable.embeds["prompt_embeds"][0])
    assert torch.equal(embeds[3], variable.embeds["prompt_embeds"][0])
    torch.testing.assert_close(embeds[[0, 2]], model.encode(["owl", "fox red"])["prompt_embeds"])
    embeds.sum().backward()
    assert torch.equal(
        variable.embeds["prompt_embeds"].grad, torch.full_like(variable.embeds["prompt_embeds"], 2)
    )
    assert all(
        p.grad is None for p in model.pipe.text_encoder.parameters()
    )  # the others' encoding is not differentiated
    assert not variable.apply(inputs("owl")).encoded["prompt_embeds"].requires_grad


def test_embeddings_that_are_there_already_stay_for_other_prompts(model) -> None:
    variable = PromptEmbedding(model, "red fox")
    given = torch.randn(2, 8, WIDTH, requires_grad=True)
    embeds = variable.apply(inputs("owl", "red fox", embeds=given)).encoded["prompt_embeds"]
    assert torch.equal(embeds, torch.cat([given[:1], variable.embeds["prompt_embeds"]]))
    embeds.sum().backward()
    assert given.grad[0].all()


def test_the_change_stays_bounded_for_each_token(model) -> None:
    variable = moved(PromptEmbedding(model, "red fox", max_change=0.1))
    start = model.encode("red fox")["prompt_embeds"].detach()
    with torch.no_grad():
        variable.embeds["prompt_embeds"][0, 0] = start[0, 0] + 1e-3
    kept = variable.embeds["prompt_embeds"][0, 0].detach().clone()
    direction = (variable.embeds["prompt_embeds"] - start).detach()
    variable.project()
    change = (variable.embeds["prompt_embeds"] - start).detach()
    sizes = change.square().mean(-1).sqrt() / start.square().mean().sqrt()
    torch.testing.assert_close(sizes[0, 1:], torch.full((7,), 0.1))
    torch.testing.assert_close(variable.embeds["prompt_embeds"][0, 0].detach(), kept)
    torch.testing.assert_close(
        torch.nn.functional.cosine_similarity(change, direction, dim=-1),
        torch.ones(1, 8),
        atol=1e-3,
        rtol=0,
    )


def test_without_a_bound_it_is_free(model) -> None:
    variable = moved(PromptEmbedding(model, "red fox"))
    before = variable.embeds["prompt_embeds"].detach().clone()
    variable.project()
    assert torch.equal(variable.embeds["prompt_embeds"], before)


def test_a_half_precision_pipeline_gets_its_own_dtype_and_learns_in_float32(model) -> None:
    model.pipe.text_encoder.bfloat16()
    variable = PromptEmbedding(model, "red fox")
    assert variable.embeds["prompt_embeds"].dtype == torch.float32
    assert variable.apply(inputs("red fox")).encoded["prompt_embeds"].dtype == torch.bfloat16


def test_stock_diffusers_draws_the_same_picture_from_the_file(model, tmp_path) -> None:
    variable = moved(PromptEmbedding(model, "red fox"))
    noise = model.noise(1, 0)
    embeds = variable.apply(inputs("red fox")).encoded["prompt_embeds"]
    mine = model.generate(noise=noise, prompt_embeds=embeds, steps=2, guidance_scale=3.0).clamp(
        0, 1
    )
    path = variable.save(tmp_path)
    with safe_open(path, "pt") as file:
        assert file.metadata()["prompt"] == "red fox"
    model.pipe.save_pretrained(tmp_path / "stock")
    pipe = StableDiffusionPipeline.from_pretrained(tmp_path / "stock", local_files_only=True)
    theirs = pipe(
        **load_file(path),
        latents=noise,
        num_inference_steps=2,
        guidance_scale=3.0,
        output_type="pt",
    ).images
    torch.testing.assert_close(torch.as_tensor(theirs).float(), mine.detach(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("max_change", [0.0, -1.0, float("inf"), float("nan"), True])
def test_bad_bounds_are_refused(model, max_change: float) -> None:
    with pytest.raises(errors.InvalidInputError, match="max_change"):
        PromptEmbedding(model, "red fox", max_change)


def test_one_prompt_is_learned_and_it_needs_a_text_encoder(model) -> None:
    with pytest.raises(errors.PromptError, match="one string"):
        PromptEmbedding(model, ["red fox"])
    model.pipe.text_encoder = None
    with pytest.raises(errors.PromptError, match="text encoder"):
        PromptEmbedding(model, "red fox")
