"""The tab that shows gradients: exact beside approximate, and the costates on the way back."""

import math
from html import escape
from typing import Any

import gradio as gr

from adjointdpm.app.forms import Setting, examples, settings, words_of
from adjointdpm.app.guide_tab import prompt_words
from adjointdpm.app.job_queue import Job
from adjointdpm.app.markup import curves, figure, grid, note, picture, table
from adjointdpm.app.metric_menu import MOOD, MetricMenu
from adjointdpm.app.run_panel import RunPanel
from adjointdpm.app.run_view import RunView
from adjointdpm.app.session import Session
from adjointdpm.tasks.gradient_probe import GradientProbeConfig, table_of

_HEAD = ("method", "relative error", "cosine", "network calls", "backward passes", "time")


def build(session: Session) -> list[gr.Timer]:
    """Make the tab; return its timers."""
    offers = session.offers
    given = [
        *settings(GradientProbeConfig, "seed", "steps", *offers.guidance),
        Setting(GradientProbeConfig, "sampler", "as usual", ("as usual", *offers.samplers)),
        Setting(GradientProbeConfig, "method", label="methods"),
    ]
    metrics = MetricMenu(session.metrics)
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            prompt = gr.Textbox(
                offers.prompts("a noto emoji of a cat"),
                label="Prompt",
                info=offers.prompt_info,
                max_lines=3,
            )
            metrics.build()
            with gr.Row():
                controls = [setting.control() for setting in given[:2]]
            panel = RunPanel(session, ["gradient"], "Differentiate", resumes=False, says=False)
            with gr.Accordion("More settings", open=False):
                controls += [setting.control() for setting in given[2:]]
        with gr.Column(scale=3, min_width=300):
            panel.place_status()
            shown = gr.HTML(_EMPTY)
            panel.place_details()
    examples(
        offers,
        [
            ["a noto emoji of a cat", MOOD, "dusk", 0, 20],
            ["a twemoji emoji of a pineapple", MOOD, "teal", 1, 10],
        ],
        [prompt, *metrics.controls[:2], *controls[:2]],
    )
    count = len(metrics.controls)

    def start(prompt: str, *values: Any) -> Job:
        metric = metrics.text(values[:count], session.uploads)
        words = [*prompt_words(prompt), f"--metric={metric}", *words_of(given, values[count:])]
        return session.start("gradient", prompt, words)

    panel.connect(
        start, [prompt, *metrics.controls, *controls], [shown], lambda view, job: [show(view)]
    )
    return [panel.timer]


def show(view: RunView) -> str:
    """The picture, the gradients beside each other, their errors, and the costates."""
    result = view.result
    if not result:
        drawn = [path for path in view.pictures("picture")]
        return grid([figure(picture(path, "the picture"), "the picture") for path in drawn])
    cells = [figure(picture(view.file(result["picture"]), "the picture", 256), "the picture")]
    for name, found in result["methods"].items():
        if "picture" in found:
            alt = f"the gradient by {name}, relative error {found['relative_error']:.2g}"
            cells.append(figure(picture(view.file(found["picture"]), alt, 256), name))
    rows = [tuple(map(escape, row)) for row in table_of(result)]
    sizes = [
        (row["step"], math.log10(row["size"])) for row in result["costates"] if row["size"] > 0
    ]
    metric = result["metric"]["name"]
    words = (
        f"∂ {metric} / ∂ noise: red where more of the noise raises it, blue where more lowers it; "
        f"one scale for all."
    )
    return (
        note(words)
        + grid(cells)
        + table(_HEAD, rows, "Against the exact gradient")
        + note(_ADJOINT if any(map(_solves_back, result["methods"])) else "")
        + curves("size of the costate, its decimal logarithm", {"log10": sizes}, "step")
        + note(
            "A costate is the gradient of the metric with respect to the state after a step. "
            "Differentiating runs from the last step to the noise, from the right to the left."
            if sizes
            else ""
        )
    )


def _solves_back(method: str) -> bool:
    """Whether a method is the adjoint that solves the states back."""
    return method.startswith("adjoint") and "stored" not in method


_ADJOINT = (
    "adjoint differentiates the ODE that the sampler's steps approximate, and solves the states "
    "back from the picture to the noise; exact differentiates the very steps that drew the "
    "picture. The errors of both solves are in adjoint: on few steps they are large, and more "
    "steps help only as far as solving back is stable. adjoint:states=stored keeps the states "
    "instead. A gradient with an error above 1 is of no use."
)
_EMPTY = note(
    "What does a metric ask of the noise? The exact gradient comes here as a picture, beside those "
    "of approximate methods and their errors."
)
