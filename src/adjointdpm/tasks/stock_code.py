"""Lines of code in reports that draw with the stock pipeline, without this library."""

from collections.abc import Mapping, Sequence
from typing import Any

from adjointdpm.pipelines.arguments.call_arguments import PictureFile, call_arguments
from adjointdpm.pipelines.arguments.generation import generation_arguments, is_encoded, is_prompt
from adjointdpm.pipelines.arguments.prompting import NOTHING, reads
from adjointdpm.pipelines.own_call.pipeline_call import call_parameters
from adjointdpm.tasks.config import Sampling


def drawing_lines(
    pipe: Any,
    config: Sampling,
    prompts: Sequence[str] = (),
    given: Mapping[str, str] | None = None,
    encoded: Sequence[str] = (),
) -> list[str]:
    """Lines that draw prompts with a stock pipeline `pipe`, as the run did.

    Args:
        pipe: the pipeline that the run drew with.
        config: how it drew.
        prompts: what to draw; none where they are encoded.
        given: further arguments by name, as code; `**` stands for those of a mapping.
        encoded: the names of the arguments in that mapping.

    """
    given = dict(given or {})
    read = list(prompts) if not encoded and reads(pipe) != NOTHING else None
    own = call_arguments(pipe, config.pipeline_arg)
    own = {name: value for name, value in own.items() if not is_encoded(name, encoded)}
    batch = max(1, len(prompts))
    arguments = generation_arguments(
        pipe, batch, read, config.steps, config.guidance_scale, None, own
    )
    arguments.pop("generator", None)
    if arguments.get("batch_size") == 1:
        del arguments["batch_size"]
    shown = {name: as_code(name, value) for name, value in arguments.items()}
    words = [f"**{given.pop('**')}"] if "**" in given else []
    names = call_parameters(pipe)
    negative = names["negative_prompt"].default if "negative_prompt" in names else None
    if "negative_prompt_embeds" in encoded and negative is not None:  # it would be a second one
        given["negative_prompt"] = "None"
    if "prompt" in shown and next(iter(names)) == "prompt":
        words.append(shown.pop("prompt"))
    first = [name for name in ("prompt", "class_labels") if name in shown]
    named = {name: shown.pop(name) for name in first} | given | shown
    words += [f"{name}={value}" for name, value in named.items()]
    files = [value for value in arguments.values() if isinstance(value, PictureFile)]
    imports = dict.fromkeys(file.as_code()[0] for file in files)
    return [*imports, f"pipe({', '.join(words)})"]


def as_code(name: str, value: Any) -> str:
    """A value as Python code; what has no such form goes by its own name."""
    if isinstance(value, PictureFile):
        return value.as_code()[1]
    if isinstance(value, list) and len(value) == 1 and is_prompt(name):
        return repr(value[0])
    if isinstance(value, list) and len(value) > 1 and all(x == value[0] for x in value):
        return f"[{value[0]!r}] * {len(value)}"
    plain = (bool, int, float, str, list, tuple, dict, type(None))
    return repr(value) if isinstance(value, plain) else name
