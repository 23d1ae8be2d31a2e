"""A new token, learned (textual inversion)."""

import copy
import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import torch
from jaxtyping import Float, Int
from safetensors.torch import save
from torch import Tensor, nn

from adjointdpm.errors import InvalidInputError, PromptError
from adjointdpm.pipelines.examples import Example, Inputs
from adjointdpm.support.files import write_bytes
from adjointdpm.variables.base import Variable

_NEUTRAL = ("style", "picture", "image")


class TokenEmbedding(Variable):
    """A new token with learned vectors (textual inversion, Gal et al. 2022, arXiv 2208.01618).

    Inside the context the pipeline's tokenizer knows the token and its text encoder looks the
    learned vectors up, so that they get gradients. Leaving the context puts both back. Prompts are
    placed in `template`.

    Args:
        pipe: a diffusers pipeline with `tokenizer` and `text_encoder` (CLIP).
        token: the new token, such as "<dusk>"; it must not exist yet.
        initial: an existing word of exactly one token, where the vectors start.
        template: how prompts use the token, with the fields {prompt} and {token} and no others.
        vectors: how many vectors the token stands for; more than one become `<t> <t>_1 …`, as in
            diffusers.
        max_norm: bound on each vector's norm, in units of the largest norm in the vocabulary.
            Vectors longer than any word's drown out the prompt's other words.

    Raises:
        PromptError: the token exists or is no single word, `initial` is not exactly one token, or
            the template lacks a field or has others.
        InvalidInputError: `vectors` < 1 or `max_norm` <= 0.

    """

    artefacts = ("learned_embeds.safetensors",)

    def __init__(
        self,
        pipe: Any,
        token: str,
        initial: str,
        *,
        template: str = "{prompt} {token}",
        vectors: int = 1,
        max_norm: float = 1.0,
    ) -> None:
        if vectors < 1 or max_norm <= 0:
            raise InvalidInputError(
                f"a token needs vectors >= 1 and max_norm > 0, not {vectors} and {max_norm}"
            )
        if not token or token != token.strip() or any(c.isspace() for c in token):
            raise PromptError(f"token {token!r} must be one word without spaces, such as <dusk>")
        _check_template(template)
        self.pipe, self.token, self.template = pipe, token, template
        self.tokens = [token, *(f"{token}_{i}" for i in range(1, vectors))]
        known = pipe.tokenizer.get_vocab()
        for name in self.tokens:
            if (
                name in known or f"{name}</w>" in known
            ):  # byte-pair encodings mark the ends of words
                raise PromptError(
                    f"token {name!r} exists in this model's vocabulary; choose another name"
                )
        ids = pipe.tokenizer(initial, add_special_tokens=False).input_ids
        if len(ids) != 1:
            raise PromptError(
                f"initial word {initial!r} is {len(ids)} tokens for this model; choose a word that "
                f"is exactly one"
            )
        table: Tensor = pipe.text_encoder.get_input_embeddings().weight.detach()
        self.initial = initial
        self.longest_word = table.norm(dim=1).max().item()
        self.longest = max_norm * self.longest_word
        self.vectors: Float[Tensor, "vectors dim"] = (
            table[ids[0]].float().repeat(vectors, 1).clone().requires_grad_()
        )
        self.project()
        self.first_values()
        self._restore: tuple[Any, nn.Module] | None = None

    def tensors(self) -> dict[str, Tensor]:
        """`vectors`, `[vectors, D]`."""
        return {"vectors": self.vectors}

    def check(self, examples: Sequence[Example]) -> None:
        """Check that the text encoder reads the whole token in every example's prompt.

        Raises:
            PromptError: a prompt is so long that the tokenizer cuts the token off.

        """
        self._check_length(self._placed([example.prompt for example in examples]))

    def apply(self, inputs: Inputs) -> Inputs:
        """Place the prompts in the template.

        The pipeline itself replaces a token of several vectors by its parts.

        Raises:
            PromptError: see `check`.

        """
        prompts = self._placed(inputs.prompts)
        self._check_length(prompts)
        return replace(inputs, prompts=prompts)

    @torch.no_grad()
    def project(self) -> None:
        """Shorten vectors that are longer than the bound."""
        norms = self.vectors.norm(dim=1, keepdim=True)
        self.vectors.mul_((self.longest / norms).clamp(max=1))

    def save(self, folder: Path) -> Path:
        """Write `learned_embeds.safetensors`, which `pipe.load_textual_inversion` reads."""
        content = save(
            {self.token: self.vectors.detach().cpu().contiguous()}, metadata={"format": "pt"}
        )
        return write_bytes(folder / self.artefacts[0], content)

    def _placed(self, prompts: Sequence[str]) -> list[str]:
        return [self.template.format(prompt=prompt, token=self.token) for prompt in prompts]

    def _check_length(self, prompts: Sequence[str]) -> None:
        if self._restore is None:  # outside of the context the tokenizer does not know the token
            return
        tokenizer, limit = self.pipe.tokenizer, self.pipe.tokenizer.model_max_length
        own = set(tokenizer.convert_tokens_to_ids(self.tokens))
        for prompt in dict.fromkeys(prompts):
            text = self.pipe.maybe_convert_prompt(prompt, tokenizer)
            whole = tokenizer(text, verbose=False).input_ids  # verbose: it would warn of the length
            read = tokenizer(text, truncation=True, max_length=limit).input_ids
            if Counter(i for i in read if i in own) != Counter(i for i in whole if i in own):
                raise PromptError(
                    f"prompt {prompt!r} is {len(whole)} tokens long and the model reads {limit}, "
                    f"so that {self.token} is cut off and "
                    "nothing can be learned from it; shorten the prompt, or put the token first, "
                    'as in template="{token} {prompt}"'
                )

    def __enter__(self) -> Self:
        encoder, table = self.pipe.text_encoder, self.pipe.text_encoder.get_input_embeddings()
        self._restore = self.pipe.tokenizer, table
        tokenizer = copy.deepcopy(self.pipe.tokenizer)
        tokenizer.add_tokens(self.tokens)
        first = tokenizer.convert_tokens_to_ids(self.token)
        self.pipe.tokenizer = tokenizer
        encoder.set_input_embeddings(_ExtendedTable(table, self.vectors, first))
        return self

    def __exit__(self, *_: object) -> None:
        assert self._restore is not None
        self.pipe.tokenizer, table = self._restore
        self.pipe.text_encoder.set_input_embeddings(table)
        self._restore = None


def _check_template(template: str) -> None:
    advice = (
        f"template {template!r} must contain {{prompt}} and {{token}}, and no other fields; write "
        f"{{{{ and }}}} for braces in the prompt"
    )
    try:
        fields = {name for _, name, _, _ in string.Formatter().parse(template) if name is not None}
        template.format(prompt="", token="")
    except (ValueError, LookupError, AttributeError) as error:
        raise PromptError(f"{advice} ({error})") from error
    if fields != {"prompt", "token"}:
        raise PromptError(advice)


def neutral_word(tokenizer: Any, prompts: Sequence[str]) -> str:
    """Find an existing word of one token for a new token to start from.

    It is a general word, or else the longest such word of the prompts.

    Raises:
        PromptError: there is none.

    """
    words = sorted(
        {word for prompt in prompts for word in prompt.split()}, key=lambda word: (-len(word), word)
    )
    for word in (*_NEUTRAL, *words):
        if len(tokenizer(word, add_special_tokens=False).input_ids) == 1:
            return word
    raise PromptError(
        "no word of the prompts is one token for this model; name an initial word that is"
    )


class _ExtendedTable(nn.Module):
    """An embedding table, and learned vectors for the ids from `first` on."""

    def __init__(self, table: nn.Module, vectors: Tensor, first: int) -> None:
        super().__init__()
        self.table, self.first = table, first
        self._vectors = [
            vectors
        ]  # in a list: the learned tensor is not a parameter of the text encoder

    @property
    def weight(self) -> Tensor:
        """The old table's weights, for code that asks an embedding for its dtype or device."""
        return self.table.weight  # pyright: ignore[reportReturnType]

    def forward(self, ids: Int[Tensor, "batch length"]) -> Float[Tensor, "batch length dim"]:
        (vectors,) = self._vectors
        new = ids >= self.first
        known = self.table(ids.masked_fill(new, 0))
        learned = vectors.to(known)[(ids - self.first).clamp(min=0)]
        return torch.where(new[..., None], learned, known)
