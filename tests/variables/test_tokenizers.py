"""Learned tokens with the kinds of tokenizers that text encoders come with, trained here."""

import copy
from collections.abc import Sequence
from string import ascii_lowercase
from typing import Any

import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import nn

from adjointdpm.pipelines.any_pipeline import AnyPipeline
from adjointdpm.variables import Example, TokenEmbedding
from adjointdpm.variables.token_embedding import initial_ids, neutral_word
from benchmarks.pipelines.cases import build, shaping
from benchmarks.pipelines.check import arguments_of
from benchmarks.pipelines.parts import WIDTH

CORPUS = ["a red fox in the snow", "an owl at night, a red owl", "a painting of a fox and an owl"]
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m['content'] }}<|im_end|>{% endfor %}"
SIZES: dict[str, Any] = {"hidden_size": WIDTH, "intermediate_size": 32, "num_hidden_layers": 2}


def sentencepiece(words: Sequence[str] = ("a", "red", "fox", "owl", "an")) -> Any:
    """T5's kind: unigrams, with the space as a letter of its own."""
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    letters = [(letter, -9.0) for letter in f"{ascii_lowercase},<>_0123456789▁"]
    inner = Tokenizer(models.Unigram([*special, *((f"▁{w}", -2.0) for w in words), *letters], 2))
    inner.pre_tokenizer = pre_tokenizers.Metaspace()
    return _wrapped(inner)


def byte_level() -> Any:
    """The kind of Qwen: merges of bytes."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,  # 256 bytes, and merges
        special_tokens=["<pad>", "</s>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    inner.train_from_iterator(CORPUS * 20, trainer)
    return _wrapped(inner)


def byte_fallback() -> Any:
    """Gemma's kind: merges of letters, with the space replaced by a letter."""
    inner = Tokenizer(models.BPE(unk_token="<unk>"))
    inner.normalizer = normalizers.Replace(" ", "▁")
    trainer = trainers.BpeTrainer(vocab_size=90, special_tokens=["<pad>", "</s>", "<unk>"])
    inner.train_from_iterator(CORPUS * 20, trainer)
    return _wrapped(inner)


def _wrapped(inner: Tokenizer) -> Any:
    made = transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", eos_token="</s>"
    )
    made.model_max_length = 64
    made.chat_template = TEMPLATE
    return made


def t5(rows: int) -> nn.Module:
    config = transformers.T5Config(
        vocab_size=rows, d_model=WIDTH, d_kv=8, d_ff=32, num_layers=2, num_heads=2
    )
    return transformers.T5EncoderModel(config)


def llm(cls: Any, rows: int) -> nn.Module:
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 8}
    return cls(cls.config_class(vocab_size=rows, **SIZES, **heads, max_position_embeddings=64))


def t5_parts(spare_rows: int) -> tuple[Any, nn.Module]:
    tokenizer = sentencepiece()
    return tokenizer, t5(len(tokenizer) + spare_rows)


def llm_parts(cls: Any, tokenizer: Any, spare_rows: int) -> tuple[Any, nn.Module]:
    return tokenizer, llm(cls, len(tokenizer) + spare_rows)


# What differs in the pipeline's names, and how a tokenizer and its encoder are made; real tables
# have more rows than the tokenizer has tokens, or as many.
KINDS = {
    "PixArtSigmaPipeline": ("", lambda: t5_parts(9)),
    "FluxPipeline": ("_2", lambda: t5_parts(0)),
    "ZImagePipeline": ("", lambda: llm_parts(transformers.Qwen3Model, byte_level(), 9)),
    "Flux2KleinPipeline": ("", lambda: llm_parts(transformers.Qwen3ForCausalLM, byte_level(), 0)),
    "SanaPipeline": ("", lambda: llm_parts(transformers.Gemma2Model, byte_fallback(), 0)),
}


def made(name: str, dtype: torch.dtype) -> Any:
    """A pipeline whose text is read by such a tokenizer."""
    pipe = build(name)
    number, parts = KINDS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tokenizer, encoder = parts()
    setattr(pipe, f"tokenizer{number}", tokenizer)
    setattr(pipe, f"text_encoder{number}", encoder.eval().requires_grad_(False))
    pipe.tokenizer = copy.deepcopy(pipe.tokenizer)  # CLIP's is shared between pipelines
    for part in pipe.components.values():
        if isinstance(part, nn.Module):
            part.to(dtype)
    return pipe


@torch.no_grad()
def draw(name: str, pipe: Any, prompts: list[str]) -> torch.Tensor:
    model = AnyPipeline(pipe)
    given = arguments_of(name, pipe) | {"prompt": prompts, "max_sequence_length": 24}
    given = {key: value for key, value in given.items() if key != "negative_prompt"}
    return model(noise=model.noise(2, 1, **shaping(name)), **given)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", KINDS)
def test_a_token_of_two_vectors_draws_the_same(name, dtype, tmp_path, monkeypatch) -> None:
    pipe = made(name, dtype)
    settings = {"template": "a {token}, {prompt}", "vectors": 2, "max_norm": 9.0}
    token = TokenEmbedding(pipe, "<x>", "fox", **settings)
    generator = torch.Generator().manual_seed(0)
    for tensor in token.tensors().values():
        tensor.data.add_(torch.randn(tensor.shape, generator=generator), alpha=0.5)
    prompts = [token.written("red fox"), token.written("an owl")]
    with token:
        token.check([Example("red fox", 0)])
        learned = draw(name, pipe, prompts)
    assert (draw(name, pipe, prompts) - learned).abs().max() > 1e-4
    token.save(tmp_path)
    token.check_saved(tmp_path)
    monkeypatch.chdir(tmp_path)
    stock = made(name, dtype)
    exec("\n".join(token.usage()), {"pipe": stock})
    assert (draw(name, stock, prompts) - learned).abs().max() < 1e-5


def test_a_word_starts_as_in_the_middle_of_a_sentence() -> None:
    tokenizer = byte_level()
    (inside,) = tokenizer(" fox", add_special_tokens=False).input_ids
    assert initial_ids(tokenizer, "fox") == [inside]
    assert tokenizer("a fox", add_special_tokens=False).input_ids[-1] == inside
    assert neutral_word(tokenizer, ["a red fox"]) in ("fox", "red")


def test_a_word_of_several_pieces_starts_at_their_mean() -> None:
    pipe = made("FluxPipeline", torch.float32)
    pipe.tokenizer_2 = sentencepiece(["red"])
    (first,), pieces = initial_ids(pipe.tokenizer, "fox"), initial_ids(pipe.tokenizer_2, "fox")
    assert len(pieces) > 1
    token = TokenEmbedding(pipe, "<x>", "fox", max_norm=9.0)
    for encoder, ids in (("text_encoder", [first]), ("text_encoder_2", pieces)):
        words = getattr(pipe, encoder).get_input_embeddings().weight
        torch.testing.assert_close(token.learned[encoder][0], words[ids].mean(0))


def test_an_encoder_that_cannot_be_changed_leaves_the_first_as_it_was(monkeypatch) -> None:
    pipe = build("FluxPipeline")
    token = TokenEmbedding(pipe, "<x>", "fox")
    before = pipe.tokenizer, pipe.text_encoder.get_input_embeddings(), pipe.tokenizer_2

    def broken(table: nn.Module) -> None:
        raise RuntimeError("no place")

    monkeypatch.setattr(pipe.text_encoder_2, "set_input_embeddings", broken)
    with pytest.raises(RuntimeError, match="no place"), token:
        pass
    assert pipe.tokenizer is before[0]
    assert pipe.text_encoder.get_input_embeddings() is before[1]


def test_prompts_that_a_pipeline_writes_into_stay_as_they_are() -> None:
    prompts = ["red fox", "an owl"]
    pipe = made("ZImagePipeline", torch.float32)
    first = AnyPipeline(pipe).encode(prompts)["prompt_embeds"]
    assert prompts == ["red fox", "an owl"]
    again = AnyPipeline(pipe).encode(prompts)["prompt_embeds"]
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))
