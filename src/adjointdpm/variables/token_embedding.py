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
from torch import Tensor, nn

from adjointdpm.errors import PromptError
from adjointdpm.pipelines.any_pipeline import AnyPipeline
from adjointdpm.pipelines.examples import Example, Inputs
from adjointdpm.support.checks import check_int, check_number
from adjointdpm.support.files import write_bytes
from adjointdpm.support.limits import LARGEST_COUNTS
from adjointdpm.support.safetensors_bytes import save
from adjointdpm.variables.base import Variable, check_tensors
from adjointdpm.variables.networks import TextEncoder, text_encoders, unwrapped

FILE = "learned_embeds.safetensors"
LONGEST = 2**16  # tokenizers without a limit say 10^30, which does not fit into an int
_NEUTRAL = ("style", "picture", "image")


class TokenEmbedding(Variable):
    """A new token with learned vectors (textual inversion, Gal et al. 2022, arXiv 2208.01618).

    Inside the context the pipeline's tokenizers know the token and its text encoders look the
    learned vectors up, so that they get gradients. Leaving the context puts all back. Prompts are
    placed in `template`.

    Args:
        pipe: a diffusers pipeline with text encoders that look words up in a table.
        token: the new token, such as "<dusk>"; it must not exist yet.
        initial: an existing word, where the vectors start. At least one tokenizer must have it as
            one token; in the table of another they start at the mean of its tokens.
        template: how prompts use the token, with the fields {prompt} and {token} and no others.
        vectors: how many vectors the token stands for in each encoder; more than one become
            `<t> <t>_1 …`, as in diffusers.
        max_norm: bound on each vector's norm, in units of the largest norm in the vocabulary.
            Vectors longer than any word's drown out the prompt's other words.

    Attributes:
        parts: the text encoders and their tokenizers.
        learned: the vectors `[vectors, D]` of each text encoder, by its name in the pipeline.

    Raises:
        PromptError: the token exists, is no single word, or is changed by a tokenizer before it
            is looked up; `initial` is one token nowhere, the template lacks a field or has others,
            or the pipeline has no such text encoder.
        InvalidInputError: `vectors` < 1 or `max_norm` <= 0.

    """

    artefacts = (FILE,)

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
        check_number("max_norm", max_norm, above=0)
        _check_vectors(pipe, vectors)
        if not token or token != token.strip() or any(c.isspace() for c in token):
            raise PromptError(f"token {token!r} must be one word without spaces, such as <dusk>")
        _check_template(template)
        self.pipe, self.token, self.template, self.initial = pipe, token, template, initial
        self.tokens = [token, *(f"{token}_{i}" for i in range(1, vectors))]
        self.parts = text_encoders(pipe)
        if not self.parts:
            raise PromptError(
                f"{type(pipe).__name__} has no text encoder that looks words up in a table, so it "
                "cannot learn a token"
            )
        for part in self.parts:
            _check_new(self.tokens, getattr(pipe, part.tokenizer))
            self._check_read(part)
        pieces = [initial_ids(getattr(pipe, part.tokenizer), initial) for part in self.parts]
        if all(len(ids) != 1 for ids in pieces):
            raise PromptError(
                f"initial word {initial!r} is {len(pieces[0])} tokens for this model; choose a "
                f"word that is exactly one"
            )
        self.longest_words: list[float] = []
        self._typical_words: list[float] = []
        self.learned: dict[str, Float[Tensor, "vectors dim"]] = {}
        for part, ids in zip(self.parts, pieces, strict=True):
            table: Tensor = _table(pipe, part.encoder).weight.detach()
            self.longest_words.append(table.norm(dim=1).max().item())
            self._typical_words.append(table.float().square().mean(1).sqrt().median().item())
            start = table[ids].float().mean(0)
            self.learned[part.encoder] = start.repeat(vectors, 1).clone().requires_grad_()
        self.max_norm = max_norm
        self.project()
        self.first_values()
        self._restore: list[tuple[TextEncoder, Any, nn.Module]] = []

    @property
    def vectors(self) -> Float[Tensor, "vectors dim"]:
        """The learned vectors of the first text encoder."""
        return self.learned[self.parts[0].encoder]

    @vectors.setter
    def vectors(self, value: Float[Tensor, "vectors dim"]) -> None:
        self.learned[self.parts[0].encoder] = value

    @property
    def longest_word(self) -> float:
        """The largest norm in the first text encoder's vocabulary."""
        return self.longest_words[0]

    def tensors(self) -> dict[str, Tensor]:
        """`vectors`, `[vectors, D]`; of several text encoders, those of each by its name."""
        return {"vectors": self.vectors} if len(self.parts) == 1 else dict(self.learned)

    def units(self) -> dict[str, Tensor]:
        """The root mean square of a typical word's vector, for each learned vector on its own."""
        names = list(self.tensors())
        return {
            name: torch.full((len(vectors), 1), size, device=vectors.device)
            for name, vectors, size in zip(
                names, self.learned.values(), self._typical_words, strict=True
            )
        }

    def check(self, examples: Sequence[Example]) -> None:
        """Check that a text encoder reads the whole token in every prompt, and only as placed.

        Raises:
            PromptError: a prompt is so long that the tokenizers cut the token off, holds it itself,
                also within another word, or the pipeline changes prompts so that they no longer
                hold it.

        """
        prompts = self._placed([example.prompt for example in examples])
        self._check_length(prompts)
        if self._restore and not _is_clip_alone(self.pipe, self.parts):
            self._check_seen(prompts[0])

    def apply(self, inputs: Inputs) -> Inputs:
        """Place the prompts in the template.

        A token of several vectors is replaced by its parts, by the pipeline itself if it does so.

        Raises:
            PromptError: see `check`.

        """
        prompts = self._placed(inputs.prompts)
        self._check_length(prompts)
        return replace(inputs, prompts=prompts)

    @torch.no_grad()
    def project(self) -> None:
        """Shorten vectors that are longer than the bound."""
        for vectors, longest in zip(self.learned.values(), self.longest_words, strict=True):
            norms = vectors.norm(dim=1, keepdim=True)
            vectors.mul_((self.max_norm * longest / norms).clamp(max=1))

    def save(self, folder: Path) -> Path:
        """Write `learned_embeds.safetensors`; `usage` says how it is loaded.

        With one text encoder the only key is the token, and `pipe.load_textual_inversion` reads
        it. With several the keys are those that trainers use: clip_l, clip_g, t5; or else the
        encoder's name in the pipeline.
        """
        content = save(self._saved(), metadata={"format": "pt", "token": self.token})
        return write_bytes(folder / FILE, content)

    def usage(self) -> list[str]:
        """Lines that load the token into a stock pipeline `pipe`."""
        if len(self.parts) == 1 and _loads_tokens(self.pipe):
            return [f'pipe.load_textual_inversion("{FILE}", token="{self.token}")']
        lines = ["from safetensors.torch import load_file", f'state = load_file("{FILE}")']
        for part, key in zip(self.parts, self._saved(), strict=True):
            if _loads_tokens(self.pipe):
                parts = f"text_encoder=pipe.{part.encoder}, tokenizer=pipe.{part.tokenizer}"
                lines.append(
                    f'pipe.load_textual_inversion(state["{key}"], token="{self.token}", {parts})'
                )
                continue
            encoder, tokenizer = f"pipe.{part.encoder}", f"pipe.{part.tokenizer}"
            size = f"{encoder}.get_input_embeddings().num_embeddings"
            lines += [
                f"{tokenizer}.add_tokens({self.tokens})",
                f"{encoder}.resize_token_embeddings(max(len({tokenizer}), {size}))",
                f"ids = {tokenizer}.convert_tokens_to_ids({self.tokens})",
                f"table = {encoder}.get_input_embeddings().weight.data",
                f'table[ids] = state["{key}"].to(table)',
            ]
        return lines

    def check_saved(self, folder: Path) -> None:
        """As `Variable.check_saved`."""
        check_tensors(folder / FILE, self._saved())

    def written(self, prompt: str) -> str:
        """A prompt as a stock pipeline takes it, with the token in it."""
        return self._placed([prompt])[0]

    def _saved(self) -> dict[str, Tensor]:
        tensors = [v.detach().cpu().contiguous() for v in self.learned.values()]
        if len(tensors) == 1:
            return {self.token: tensors[0]}
        return dict(zip(_keys(self.pipe, self.parts), tensors, strict=True))

    def _placed(self, prompts: Sequence[str]) -> list[str]:
        token = self.token if _loads_tokens(self.pipe) else " ".join(self.tokens)
        return [self.template.format(prompt=prompt, token=token) for prompt in prompts]

    def _check_read(self, part: TextEncoder) -> None:
        """Check that a tokenizer that knows the token finds all of it in a prompt."""
        tokenizer = extended(getattr(self.pipe, part.tokenizer), self.tokens)
        found = self._found(tokenizer, self._placed(["a"])[0])
        lacking = [token for token in self.tokens if not found[token]]
        if lacking:
            raise PromptError(
                f"the pipeline's {part.tokenizer} changes the token before it looks it up, and "
                f"{', '.join(lacking)} would never be learned ({len(lacking)} of "
                f"{len(self.tokens)} vectors); choose a plain token in lower case, such as "
                f"{self.token.lower() if self.token.lower() != self.token else '<dusk>'}"
            )

    def _found(self, tokenizer: Any, prompt: str) -> Counter[str]:
        """How often an extended tokenizer finds each of the token's parts in a prompt."""
        ids = tokenizer(self._expanded(prompt, tokenizer), verbose=False).input_ids
        own = dict(zip(tokenizer.convert_tokens_to_ids(self.tokens), self.tokens, strict=True))
        return Counter(own[i] for i in ids if i in own)

    def _expanded(self, prompt: str, tokenizer: Any) -> str:
        """A prompt as the pipeline hands it to a tokenizer: with all parts of the token."""
        expand = getattr(self.pipe, "maybe_convert_prompt", None)
        return expand(prompt, tokenizer) if expand else prompt

    def _check_alone(self, prompts: Sequence[str]) -> None:
        """Check that prompts hold the token only where the template places it."""
        fields = string.Formatter().parse(self.template)
        placed = sum(name == "token" for _, name, *_ in fields)
        for prompt in dict.fromkeys(prompts):
            for part in self.parts:
                found = self._found(getattr(self.pipe, part.tokenizer), prompt)
                if any(count > placed for count in found.values()):
                    raise PromptError(
                        f"prompt {prompt!r} holds {self.token} more often than the template "
                        f"{self.template!r} places it, perhaps within a word: the learned vectors "
                        "would be looked up there too; leave the token out of the prompts, or "
                        "choose one that is in none of them, such as <dusk>"
                    )

    def _check_length(self, prompts: Sequence[str]) -> None:
        if not self._restore:  # outside of the context the tokenizers do not know the token
            return
        self._check_alone(prompts)
        for prompt in dict.fromkeys(prompts):
            cut = [self._cut(getattr(self.pipe, part.tokenizer), prompt) for part in self.parts]
            if all(cut):
                length, limit = cut[0] or (0, 0)
                raise PromptError(
                    f"prompt {prompt!r} is {length} tokens long and the model reads {limit}, "
                    f"so that {self.token} is cut off and "
                    "nothing can be learned from it; shorten the prompt, or put the token first, "
                    'as in template="{token} {prompt}"'
                )

    def _cut(self, tokenizer: Any, prompt: str) -> tuple[int, int] | None:
        """How long a prompt is and how much is read, if a part of the token is cut off."""
        limit = tokenizer.model_max_length
        own = set(tokenizer.convert_tokens_to_ids(self.tokens))
        text = self._expanded(prompt, tokenizer)
        whole = tokenizer(text, verbose=False).input_ids  # verbose: it would warn of the length
        read = tokenizer(text, truncation=True, max_length=min(limit, LONGEST)).input_ids
        if Counter(i for i in read if i in own) == Counter(i for i in whole if i in own):
            return None
        return len(whole), limit

    def _check_seen(self, prompt: str) -> None:
        """Encode a prompt as the pipeline does, and look whether the token comes up."""
        for part in self.parts:
            _table(self.pipe, part.encoder).seen = 0
        try:
            with torch.no_grad():
                AnyPipeline(self.pipe).encode(prompt)
        except Exception:  # it wants arguments that are not known here; the first picture will tell
            return
        if not any(_table(self.pipe, part.encoder).seen for part in self.parts):
            raise PromptError(
                f"{type(self.pipe).__name__} changes the prompt {prompt!r} before it reads it, and "
                f"{self.token} is not in it any more; choose a token in lower case, such as <dusk>"
            )

    def __enter__(self) -> Self:
        try:
            for part in self.parts:
                self._extend(part)
        except BaseException:
            self.__exit__()
            raise
        return self

    def _extend(self, part: TextEncoder) -> None:
        """Let one tokenizer know the token, and one text encoder look its vectors up."""
        known, encoder = getattr(self.pipe, part.tokenizer), getattr(self.pipe, part.encoder)
        table = encoder.get_input_embeddings()
        tokenizer = extended(known, self.tokens)
        first = tokenizer.convert_tokens_to_ids(self.token)
        self._restore.append((part, known, table))
        setattr(self.pipe, part.tokenizer, tokenizer)
        encoder.set_input_embeddings(_ExtendedTable(table, self.learned[part.encoder], first))

    def __exit__(self, *_: object) -> None:
        for part, tokenizer, table in self._restore:
            setattr(self.pipe, part.tokenizer, tokenizer)
            getattr(self.pipe, part.encoder).set_input_embeddings(table)
        self._restore = []


def extended(tokenizer: Any, tokens: Sequence[str]) -> Any:
    """A copy of a tokenizer that knows new tokens."""
    made = copy.deepcopy(tokenizer)
    made.add_tokens(list(tokens))
    return made


def _table(pipe: Any, encoder: str) -> Any:
    return getattr(pipe, encoder).get_input_embeddings()


def _loads_tokens(pipe: Any) -> bool:
    return hasattr(pipe, "load_textual_inversion")


def _is_clip_alone(pipe: Any, parts: Sequence[TextEncoder]) -> bool:
    """Whether the tokenizer alone tells what is read: CLIP's takes any case and has a length."""
    return len(parts) == 1 and _kind(pipe, parts[0]) == "clip"


def _kind(pipe: Any, part: TextEncoder) -> str:
    name = type(unwrapped(getattr(pipe, part.encoder))).__name__
    return "clip" if name.startswith("CLIPText") else "t5" if "T5" in name else ""


def _keys(pipe: Any, parts: Sequence[TextEncoder]) -> list[str]:
    """The names of several encoders' vectors in a file, as trainers for SDXL and Flux use them."""
    clips = iter(("clip_l", "clip_g"))
    kinds = [_kind(pipe, part) for part in parts]
    keys = [
        next(clips, part.encoder) if kind == "clip" else kind or part.encoder
        for part, kind in zip(parts, kinds, strict=True)
    ]
    return keys if len(set(keys)) == len(keys) else [part.encoder for part in parts]


def _check_new(tokens: Sequence[str], tokenizer: Any) -> None:
    known = tokenizer.get_vocab()
    for name in tokens:
        if name in known or f"{name}</w>" in known:  # byte-pair encodings mark the ends of words
            raise PromptError(
                f"token {name!r} exists in this model's vocabulary; choose another name"
            )


def initial_ids(tokenizer: Any, word: str) -> list[int]:
    """The ids of a word's tokens, as in the middle of a sentence."""
    alone, within = (
        tokenizer(text, add_special_tokens=False).input_ids for text in (word, f" {word}")
    )
    return within if len(within) <= len(alone) else alone


def _check_vectors(pipe: Any, vectors: int) -> None:
    """Check that text encoders read so many vectors; each is one token of every prompt."""
    most, why = LARGEST_COUNTS["vectors"]
    check_int("vectors", vectors, 1, most=most, why=why)
    for part in text_encoders(pipe):
        # Two tokens mark the start and the end, and one is left for the prompt itself.
        room = getattr(getattr(pipe, part.tokenizer), "model_max_length", most) - 3
        why = f"{part.tokenizer} reads no more tokens of a prompt than that, beside its marks"
        check_int("vectors", vectors, most=max(1, room), why=why)


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
        if len(initial_ids(tokenizer, word)) == 1:
            return word
    raise PromptError(
        "no word of the prompts is one token for this model; name an initial word that is"
    )


class _ExtendedTable(nn.Module):
    """An embedding table, and learned vectors for the ids from `first` on."""

    def __init__(self, table: nn.Module, vectors: Tensor, first: int) -> None:
        super().__init__()
        self.table, self.first = table, first
        self.seen = 0  # how many of the ids looked up were new
        self._vectors = [
            vectors
        ]  # in a list: the learned tensor is not a parameter of the text encoder

    @property
    def num_embeddings(self) -> int:
        """The old table's, for code that asks."""
        return self.table.num_embeddings  # pyright: ignore[reportReturnType]

    @property
    def weight(self) -> Tensor:
        """The old table's weights, for code that asks an embedding for its dtype or device."""
        return self.table.weight  # pyright: ignore[reportReturnType]

    def forward(self, ids: Int[Tensor, "batch length"]) -> Float[Tensor, "batch length dim"]:
        (vectors,) = self._vectors
        new = (ids >= self.first) & (ids < self.first + len(vectors))
        known = self.table(ids.masked_fill(new, 0))
        if not torch.compiler.is_compiling():
            self.seen += int(new.sum())
        scale = getattr(self.table, "embed_scale", 1.0)  # Gemma's tables scale what they look up
        learned = vectors.to(known)[(ids - self.first).clamp(0, len(vectors) - 1)] * scale
        return torch.where(new[..., None], learned, known)
