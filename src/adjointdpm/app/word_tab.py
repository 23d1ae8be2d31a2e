"""The tab that learns a word from a metric."""

from typing import Any

import gradio as gr

from adjointdpm.app import looks
from adjointdpm.app.drawing_panel import DrawingPanel
from adjointdpm.app.forms import (
    Setting,
    examples,
    learning_prompts,
    prompt_lines,
    settings,
    words_of,
)
from adjointdpm.app.job_queue import Job
from adjointdpm.app.metric_menu import CLASS, COLOUR, LIKE, MOOD, STYLE, MetricMenu
from adjointdpm.app.run_panel import RunPanel
from adjointdpm.app.run_view import RunView
from adjointdpm.app.session import Session
from adjointdpm.errors import PromptError
from adjointdpm.tasks.embed import EmbedConfig

PROMPTS = """a noto emoji of a frog
a twemoji emoji of a pineapple
a fluent emoji of a parrot
a noto emoji of an owl
a twemoji emoji of a bear
a fluent emoji of a penguin
a noto emoji of a koala
a twemoji emoji of a cat"""


def build(session: Session) -> list[gr.Timer]:
    """Make the tab; return its timers."""
    main = settings(EmbedConfig, "token", "iterations", "steps")
    main[0] = Setting(EmbedConfig, "token", "<dusk>")
    more = [
        *settings(EmbedConfig, "initial", "template", "vectors", "lr", "preservation", "batch"),
        *settings(EmbedConfig, "validation", "seeds_per_prompt", "held_out_seeds", "seed"),
        *settings(EmbedConfig, *session.offers.guidance, "validate_every", "patience"),
    ]
    metrics = MetricMenu(session.metrics, (MOOD, COLOUR, STYLE, LIKE, CLASS))
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            metrics.build()
            prompts = learning_prompts(PROMPTS)
            with gr.Row():
                controls = [setting.control() for setting in main]
            panel = RunPanel(session, ["embed"], "Learn the word")
            with gr.Accordion("More settings", open=False):
                controls += [setting.control() for setting in more]
        with gr.Column(scale=3, min_width=300):
            panel.place_status()
            seen = gr.HTML(_EMPTY)
            held_out = gr.HTML()
            with gr.Row():
                file = gr.DownloadButton("Download learned_embeds.safetensors", interactive=False)
            code = gr.Code("", label="Lines that use it", language="python", visible=False)
            panel.place_details()
    examples(
        session.offers,
        [[MOOD, "dusk", "<dusk>"], [MOOD, "sepia", "<sepia>"], [MOOD, "teal", "<teal>"]],
        [*metrics.controls[:2], controls[0]],
    )
    gr.Markdown("### Try the word in any prompt")
    trial = DrawingPanel(session, "<dusk> a noto emoji of a lemon", learned=panel).build()
    given, count = [*main, *more], len(metrics.controls)

    def start(prompts: str, *values: Any) -> Job:
        lines = prompt_lines(prompts)
        if len(lines) < 2:
            raise PromptError("write at least two prompts, one a line: one is kept aside")
        metric = metrics.text(values[:count], session.uploads)
        words = words_of(given, values[count:])
        token = str(values[count] or "")
        listed = session.prompt_file(lines, token)
        words = [f"--prompts={listed}", f"--metric={metric}", *words, "--previews"]
        return session.start("embed", token, words)

    def show(view: RunView, job: Job) -> list[Any]:
        lines = looks.usage_of(view)
        return [
            looks.looks_of(view) + looks.curves_of(view),
            looks.held_out_of(view),
            looks.download(view),
            gr.update(value=lines, visible=bool(lines)),
        ]

    inputs = [prompts, *metrics.controls, *controls]
    panel.connect(start, inputs, [seen, held_out, file, code], show)
    return [panel.timer, trial]


_EMPTY = looks.note(
    "A word is learned from a number about pictures. Its pictures, before and while it learns, "
    "come here."
)
