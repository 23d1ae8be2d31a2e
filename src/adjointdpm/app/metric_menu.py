"""The menu of metrics, and what the command line is told for a choice.

A metric that runs code or loads files of the user's is in the menu only if the command line that
started the page has named it.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gradio as gr

from adjointdpm.app.forms import checked_choice
from adjointdpm.app.security import kept_picture
from adjointdpm.errors import InvalidInputError
from adjointdpm.metrics.color import MOODS
from adjointdpm.metrics.networks.imagenet_names import IMAGENET
from adjointdpm.metrics.networks.judge import BUNDLED
from adjointdpm.metrics.picture_distance import DISTANCES
from adjointdpm.support.named_options import quoted

MOOD, COLOUR, LIKE, STYLE, CLASS = "mood", "colour", "like", "style", "class"
_KINDS = {
    MOOD: "Colours of a mood",
    COLOUR: "A colour of your own",
    LIKE: "Like a picture",
    STYLE: "The style of a picture",
    CLASS: "A classifier's class",
}
_HEX = re.compile(r"#([0-9a-f]{2})([0-9a-f]{2})([0-9a-f]{2})", re.IGNORECASE)
_RGBA = re.compile(r"rgba?\(\s*([\d.]+)\s*,\s*([\d.]+)\s*,\s*([\d.]+)")


@dataclass
class MetricMenu:
    """Controls that name one metric.

    Args:
        own: metrics that the command line has named.
        kinds: which of the others are offered.
        controls: after `build`, those whose values `text` takes, in their order.

    """

    own: Sequence[str] = ()
    kinds: Sequence[str] = tuple(_KINDS)
    controls: list[gr.components.Component] = field(default_factory=list)

    @property
    def choices(self) -> dict[str, str]:
        """What the menu offers: words by value."""
        return {name: _KINDS[name] for name in self.kinds} | {
            f"own:{text}": text for text in self.own
        }

    def build(self) -> None:
        """Make the controls; only those of the chosen kind are shown."""
        choices = [(words, value) for value, words in self.choices.items()]
        chosen = gr.Dropdown(
            choices, value=choices[0][1], label="Metric", info="What the pictures are scored by."
        )
        first = choices[0][1]
        mood = gr.Dropdown(list(MOODS), value="dusk", label="Mood", visible=first == MOOD)
        color = gr.ColorPicker(value="#3f9999", label="Colour", visible=first == COLOUR)
        picture = gr.Image(
            label="Reference picture",
            type="filepath",
            image_mode=None,
            sources=["upload", "clipboard"],
            height=180,
            visible=first in (LIKE, STYLE),
        )
        distance = gr.Dropdown(list(DISTANCES), value="l2", label="Distance", visible=first == LIKE)
        classes = classes_of_networks()
        network = gr.Dropdown(
            list(classes), value="judge", label="Classifier", visible=first == CLASS
        )
        wanted = gr.Dropdown(classes["judge"], value="cat", label="Class", visible=first == CLASS)
        self.controls = [chosen, mood, color, picture, distance, network, wanted]

        def show(kind: str) -> list[Any]:
            kinds = [MOOD, COLOUR, (LIKE, STYLE), LIKE, CLASS, CLASS]
            return [gr.update(visible=kind in _tuple(own)) for own in kinds]

        chosen.change(show, chosen, self.controls[1:], api_visibility="private")
        network.change(
            lambda name: gr.Dropdown(choices=classes[name], value=classes[name][0]),
            network,
            wanted,
            api_visibility="private",
        )

    def text(self, values: Sequence[Any], uploads: Path) -> str:
        """The metric as the command line takes it.

        Args:
            values: of the controls.
            uploads: where a picture is kept.

        Raises:
            InvalidInputError: values that the controls cannot have, or no picture.

        """
        kind, mood, color, picture, distance, network, wanted = values
        kind = checked_choice(kind, self.choices, "metric")
        if kind.startswith("own:"):
            return kind.removeprefix("own:")
        if kind == MOOD:
            return f"color:mood={checked_choice(mood, MOODS, 'mood')}"
        if kind == COLOUR:
            red, green, blue = _parts(color)
            return f"color:red={red:.3f},green={green:.3f},blue={blue:.3f}"
        if kind == CLASS:
            classes = classes_of_networks()
            network = checked_choice(network, classes, "classifier")
            wanted = checked_choice(wanted, dict.fromkeys(classes[network]), "class")
            return f"classifier:target={quoted(wanted)},network={network}"
        if picture is None:
            raise InvalidInputError(
                f"metric “{_KINDS[kind]}” needs a reference picture; drop one into its field"
            )
        reference = quoted(str(kept_picture(uploads, picture)))
        if kind == STYLE:
            return f"gram:reference={reference}"
        distance = checked_choice(distance, dict.fromkeys(DISTANCES), "distance")
        return f"reference:reference={reference},distance={distance}"


def classes_of_networks() -> dict[str, list[str]]:
    """What the classifiers that the page offers tell apart."""
    config = json.loads((BUNDLED / "config.json").read_text(encoding="utf-8"))
    return {"judge": sorted(config["concepts"]), "efficientnet-lite0": sorted(IMAGENET)}


def _tuple(kinds: str | tuple[str, ...]) -> tuple[str, ...]:
    return (kinds,) if isinstance(kinds, str) else kinds


def _parts(color: object) -> list[float]:
    """Red, green and blue in [0, 1] of what a colour picker sends."""
    text = str(color)
    if found := _HEX.fullmatch(text):
        return [int(part, 16) / 255 for part in found.groups()]
    if found := _RGBA.match(text):
        return [min(1.0, float(part) / 255) for part in found.groups()]
    raise InvalidInputError(f"colour {text!r} cannot be read; choose one with the picker")
