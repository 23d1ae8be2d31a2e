"""What a pipeline reads of a prompt: text, the name or number of a class, or nothing."""

import difflib
from collections.abc import Sequence
from typing import Any

from adjointdpm.errors import PromptError, UnsupportedError
from adjointdpm.pipelines.own_call.pipeline_call import call_parameters

TEXT, CLASSES, NOTHING = "text", "class labels", "nothing"


def reads(pipe: Any) -> str:
    """`TEXT`, `CLASSES` (a class-conditional pipeline) or `NOTHING` (an unconditional one)."""
    names = call_parameters(pipe)
    if "prompt" in names:
        return TEXT
    return CLASSES if "class_labels" in names else NOTHING


def prompt_arguments(pipe: Any, prompts: Sequence[str]) -> dict[str, Any]:
    """Prompts as the pipeline's `__call__` takes them.

    Raises:
        PromptError: the pipeline takes no prompt, or has no such class.

    """
    kind = reads(pipe)
    if kind == TEXT:
        return {"prompt": list(prompts)}
    if kind == CLASSES:
        return {"class_labels": [_class_number(pipe, prompt) for prompt in prompts]}
    raise PromptError(f"{type(pipe).__name__} takes no prompt")


def check_reads_text(pipe: Any, use: str) -> None:
    """Raise UnsupportedError if a pipeline has no text encoder for `use` to learn in."""
    encoders = [part for name, part in pipe.components.items() if name.startswith("text_encoder")]
    if reads(pipe) != TEXT or not any(encoder is not None for encoder in encoders):
        raise UnsupportedError(
            f"{use} learns what a text encoder reads, and this {type(pipe).__name__} has none; "
            "stylize, audit and guide work without one"
        )


def _class_number(pipe: Any, prompt: str) -> int:
    """The class that a prompt names, or whose number it is."""
    count, labels = _class_count(pipe), getattr(pipe, "labels", None) or {}
    text = prompt.strip()
    if text.isdecimal() and (count is None or int(text) < count):
        return int(text)
    known = {name.lower(): number for name, number in labels.items()}
    if text.lower() in known:
        return known[text.lower()]
    numbers = "a number" if count is None else f"a number from 0 to {count - 1}"
    close = difflib.get_close_matches(text.lower(), known, n=3)
    close = [name for name in labels if name.lower() in close]
    hint = f"; the closest names are {', '.join(map(repr, close))}" if close else ""
    names = ", or one of its class names" if labels else ""
    raise PromptError(
        f"{type(pipe).__name__} draws classes, and has none called {prompt!r}: a prompt is "
        f"{numbers}{names}{hint}"
    )


def _class_count(pipe: Any) -> int | None:
    """The number of classes that the network knows, if its config says so."""
    network = getattr(pipe, "transformer", None) or getattr(pipe, "unet", None)
    config = getattr(network, "config", {})
    for name in ("num_embeds_ada_norm", "num_class_embeds"):
        if config.get(name) is not None:
            return config[name]
    return None
