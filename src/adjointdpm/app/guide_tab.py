"""The tab that guides one picture."""

import shutil
import tempfile
from pathlib import Path
from typing import Any

import gradio as gr

from adjointdpm.app.forms import Setting, examples, prompt_lines, settings, words_of
from adjointdpm.app.job_queue import Job
from adjointdpm.app.looks import points
from adjointdpm.app.markup import curves, figure, grid, note, picture
from adjointdpm.app.metric_menu import MOOD, MetricMenu
from adjointdpm.app.run_panel import RunPanel
from adjointdpm.app.run_view import RunView
from adjointdpm.app.security import checked_text
from adjointdpm.app.session import Session
from adjointdpm.errors import AdjointDPMError, PromptError
from adjointdpm.optimization.settings import SCHEDULES
from adjointdpm.tasks.guide_config import LEARNED, PRESETS, GuideConfig

_USUAL = "as usual"


def build(session: Session) -> list[gr.Timer]:
    """Make the tab; return its timers."""
    offers = session.offers
    learn = LEARNED if offers.embedding else ("noise",)
    main = settings(GuideConfig, "learn", "seed", "steps", learn=learn)
    more = [
        *settings(GuideConfig, "iterations", "pictures", "lr", "preservation"),
        *settings(GuideConfig, *offers.guidance),
        *settings(GuideConfig, "within", within=("spectrum", "shell", "l2", "linf", "free")),
        *settings(GuideConfig, "budget"),
        Setting(GuideConfig, "gradient", _USUAL, (_USUAL, *offers.gradients)),
        Setting(GuideConfig, "sampler", _USUAL, (_USUAL, *offers.samplers)),
        Setting(GuideConfig, "preset", _USUAL, (_USUAL, *PRESETS)),
        *settings(GuideConfig, "lr_schedule", lr_schedule=("linear", *SCHEDULES)),
    ]
    metrics = MetricMenu(session.metrics)
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            prompt = gr.Textbox(
                label="Prompt",
                info=offers.prompt_info,
                value=offers.prompts("a noto emoji of a cat"),
                max_lines=3,
            )
            metrics.build()
            with gr.Row():
                controls = [setting.control() for setting in main]
            panel = RunPanel(session, ["guide"])
            with gr.Accordion("More settings", open=False):
                controls += [setting.control() for setting in more]
        with gr.Column(scale=3, min_width=300):
            panel.place_status()
            pictures = gr.HTML(empty())
            states = gr.HTML()
            with gr.Column(visible=False) as keeping:
                state = gr.Slider(
                    0, 1, value=0, step=1, label="State", info="Which state to look at and keep."
                )
                chosen = gr.HTML()
                keep = gr.DownloadButton("Keep this state", size="md", interactive=False)
            panel.place_details()
    examples(
        offers,
        [
            ["a noto emoji of a cat", MOOD, "dusk", "noise", 0, 20],
            ["a twemoji emoji of a pineapple", MOOD, "teal", "both", 3, 20],
            ["a fluent emoji of an owl", MOOD, "golden_hour", "embedding", 1, 20],
        ],
        [prompt, *metrics.controls[:2], *controls[: len(main)]],
    )
    given, count = [*main, *more], len(metrics.controls)

    def start(prompt: str, *values: Any) -> Job:
        words = prompt_words(prompt)
        metric = metrics.text(values[:count], session.uploads)
        chosen = words_of(given, values[count:])
        return session.start("guide", prompt, [*words, f"--metric={metric}", *chosen, "--previews"])

    outputs = [pictures, states, keeping, state]
    panel.connect(start, [prompt, *metrics.controls, *controls], outputs, show)

    def look(name: str | None, number: float) -> list[Any]:
        return _kept(session, panel.current(name), int(number))

    state.change(
        look,
        [panel.shown, state],
        [chosen, keep],
        api_visibility="private",
        show_progress="hidden",
        preprocess=False,  # gradio checks the number against the range of the former run
    )
    return [panel.timer]


def prompt_words(prompt: str) -> list[str]:
    """The words of the command line for one prompt.

    Raises:
        PromptError: there is none, or several.

    """
    lines = prompt_lines(prompt, "the prompt")
    if len(lines) != 1:
        raise PromptError(f"the prompt must be one line of text, not {len(lines)}")
    return [f"--prompt={checked_text(lines[0], 'the prompt')}"]


def empty() -> str:
    """Frames without pictures, before the first run."""
    cells = [figure(picture(None, name), name) for name in ("untouched", "guided")]
    return grid(cells, "adp-pair") + note("Run to see both pictures and the metric's curve here.")


def show(view: RunView, job: Job) -> list[Any]:
    """The untouched picture beside the present one, the curve, and the strip of states."""
    history, looks = view.history, view.pictures("iteration_*")
    first = next(iter(view.pictures("untouched_00")), looks[0] if looks else None)
    last = looks[-1] if looks else first
    cells = [
        figure(picture(first, "the untouched picture"), "untouched"),
        figure(picture(last, "the guided picture"), f"after iteration {_number(last)}"),
    ]
    metric = ", ".join(view.config.get("metric") or []) or "metric"
    sign = int(view.result.get("metric", {}).get("sign", 1))
    drawn = curves(metric, {"metric": points(history, "metric", sign)}, "iteration")
    strip = [
        figure(picture(path, f"state {_number(path)}", 96), str(_number(path))) for path in looks
    ]
    return [
        grid(cells, "adp-pair") + drawn,
        grid(strip, "adp-strip") if strip else "",
        gr.update(visible=len(looks) > 1),
        gr.update(maximum=max(1, len(looks) - 1), value=max(0, len(looks) - 1)),
    ]


def _number(path: Path | None) -> int:
    return 0 if path is None else int(path.stem.split("_")[1])


def _kept(session: Session, name: str | None, number: int) -> list[Any]:
    """A state's picture, and a file with it and what was learned until then."""
    nothing = [note("No such state."), gr.update(interactive=False)]
    if name is None:
        return nothing
    try:
        folder = session.folder(name)
    except AdjointDPMError:
        return nothing
    path = folder / "images" / f"iteration_{number:04d}.png"
    if not path.is_file():
        return nothing
    work = Path(tempfile.mkdtemp(prefix="adjointdpm-"))
    kept = work / f"{name}-state-{number}"
    kept.mkdir()
    shutil.copy(path, kept)
    states = folder / "states" / f"{number:04d}"
    for file in states.glob("*.safetensors") if states.is_dir() else ():
        shutil.copy(file, kept)
    archive = shutil.make_archive(str(kept), "zip", kept)
    shown = figure(picture(path, f"state {number}"), f"state {number}")
    return [grid([shown], "adp-pair"), gr.update(value=archive, interactive=True)]
