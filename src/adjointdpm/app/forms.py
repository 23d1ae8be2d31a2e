"""Controls made from the settings of the tasks, and command lines made from the controls."""

import math
import types
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import gradio as gr

from adjointdpm.app.offers import Offers
from adjointdpm.app.security import checked_text
from adjointdpm.errors import InvalidInputError
from adjointdpm.pipelines.arguments.prompting import TEXT
from adjointdpm.support.argument_help import argument_help

#: What the page never sets, since text there may name a file to be run or read.
NEVER = frozenset(
    {
        "metric",
        "weight",
        "guard",
        "victim",
        "transfer",
        "pipeline_arg",
        "tracker",
        "picture",
        "style",
        "prompts",
        "held_out",
        "reward_device",
        "reward_dtype",
        "out",
        "config",
        "model",
    }
)
_EMPTY = "as usual"


@dataclass(frozen=True)
class Setting:
    """A setting of a task, as a control.

    Args:
        cls: the settings' class.
        name: the field.
        default: what the control shows at first.
        choices: what a menu offers, in place of free input.
        label: in place of the name.

    """

    cls: type
    name: str
    default: Any = None
    choices: Sequence[str] = ()
    label: str = ""

    def __post_init__(self) -> None:
        if self.name in NEVER:
            raise ValueError(f"{self.name} may not be set by a page")

    def control(self) -> gr.components.Component:
        """The control; call it where it shall stand."""
        label = self.label or self.name.replace("_", " ")
        words: dict[str, Any] = {
            "label": f"{label[0].upper()}{label[1:]}",
            "info": argument_help(self.cls, self.name),
        }
        if self.choices:
            chosen = self.choices[0] if self.default is None else self.default
            return gr.Dropdown(list(self.choices), value=chosen, **words)
        kind, value = _kind(self.cls, self.name), self.shown
        if kind is bool:
            return gr.Checkbox(value=bool(value), **words)
        if kind in (int, float) and value is not None and not self.is_list:
            return gr.Number(value=value, precision=0 if kind is int else None, **words)
        return gr.Textbox(value=value or "", placeholder=_EMPTY, max_lines=1, **words)

    @property
    def is_list(self) -> bool:
        """Whether the field takes several values."""
        hint = _hint(self.cls, self.name)
        return list in (get_origin(hint), *map(get_origin, get_args(hint)))

    @property
    def usual(self) -> Any:
        """The field's own default."""
        return _default(_field(self.cls, self.name))

    @property
    def shown(self) -> Any:
        """What the control shows at first."""
        value = self.usual if self.default is None else self.default
        return " ".join(map(str, value)) if isinstance(value, list) else value

    def words(self, value: Any) -> list[str]:
        """The words of the command line for what the control holds; none for the default."""
        kind, flag = _kind(self.cls, self.name), f"--{self.name.replace('_', '-')}"
        if value in (None, "", _EMPTY):
            return []
        if self.choices and value not in self.choices:
            raise InvalidInputError(f"{self.name}={value!r} must be one of {self.choices}")
        if kind is bool:
            negative = f"--no-{self.name.replace('_', '-')}"
            return [] if bool(value) == self.usual else [flag if value else negative]
        if self.is_list:
            text = checked_text(value, self.name)
            if text == self.shown and self.default is None:
                return []
            parts = text.split()
            if kind in (int, float):
                parts = [f"{checked_number(self.name, kind, part):.10g}" for part in parts]
            return [f"{flag}={part}" for part in parts]
        if kind in (int, float):
            value = checked_number(self.name, kind, value)
            same = self.usual is not None and value == self.usual
            return [] if same else [f"{flag}={value:.10g}" if kind is float else f"{flag}={value}"]
        text = checked_text(value, self.name)
        if text == self.shown and self.default is None:
            return []
        return [f"{flag}={text}"]


def settings(cls: type, *names: str, **choices: Sequence[str]) -> list[Setting]:
    """Some settings of a class, with the menus of some."""
    return [Setting(cls, name, choices=choices.get(name, ())) for name in names]


def words_of(given: Sequence[Setting], values: Sequence[Any]) -> list[str]:
    """The words of the command line for what the controls hold."""
    return [
        word for setting, value in zip(given, values, strict=True) for word in setting.words(value)
    ]


def prompt_lines(text: object, what: str = "prompts") -> list[str]:
    """The prompts of a text, one a line."""
    lines = checked_text(text, what).splitlines()
    return [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]


def checked_number(name: str, kind: type, value: object) -> int | float:
    """A number of a control, which is text where nothing stands for the usual one.

    Raises:
        InvalidInputError: it is none, or not a whole one where one is wanted.

    """
    try:
        if isinstance(value, bool):
            raise ValueError
        number = float(str(value))
        if not math.isfinite(number) or (kind is int and number != int(number)):
            raise ValueError
    except ValueError:
        wanted = "a whole number" if kind is int else "a number"
        raise InvalidInputError(f"{name}={value!r} must be {wanted}") from None
    return int(number) if kind is int else number


def _field(cls: type, name: str) -> Field[Any]:
    return next(item for item in fields(cls) if item.name == name)


def _default(item: Field[Any]) -> Any:
    if item.default_factory is not MISSING:
        return item.default_factory()
    return None if item.default is MISSING else item.default


def _hint(cls: type, name: str) -> Any:
    return get_type_hints(cls)[name]


def _kind(cls: type, name: str) -> type:
    """bool, int, float or str."""
    hint = _hint(cls, name)
    kinds: Sequence[Any] = (hint,)
    if get_origin(hint) in (Union, types.UnionType):
        kinds = [kind for kind in get_args(hint) if kind is not type(None)]
    if get_origin(kinds[0]) is list:
        kinds = get_args(kinds[0])
    if get_origin(kinds[0]) is Literal:
        return str
    return kinds[0] if kinds[0] in (bool, int, float) else str


def as_example(given: Sequence[Setting], **values: Any) -> list[Any]:
    """The row of `gr.Examples` for settings of which some have values of their own."""
    return [values.get(setting.name, setting.shown) for setting in given]


def checked_choice(value: object, choices: Mapping[str, Any], what: str) -> str:
    """A menu's choice."""
    if not isinstance(value, str) or value not in choices:
        raise InvalidInputError(f"{what} {value!r} must be one of {', '.join(choices)}")
    return value


def learning_prompts(examples: str) -> gr.Textbox:
    """The box for the prompts that something is learned from and measured on."""
    return gr.Textbox(
        examples,
        label="Prompts",
        info="One a line; every fourth is kept aside for the final measurement.",
        lines=5,
        max_lines=12,
    )


def examples(
    offers: Offers, rows: Sequence[Sequence[Any]], controls: Sequence[gr.components.Component]
) -> None:
    """Rows that fill a form; none for a model that cannot read their texts."""
    if offers.reads == TEXT:
        gr.Examples([list(row) for row in rows], list(controls), label="Examples fill the form")
