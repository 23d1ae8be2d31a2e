"""The tab that fine-tunes towards a style or a score: a LoRA."""

from typing import Any

import gradio as gr

from adjointdpm.app import looks
from adjointdpm.app.drawing_panel import DrawingPanel
from adjointdpm.app.forms import examples, learning_prompts, prompt_lines, settings, words_of
from adjointdpm.app.job_queue import Job
from adjointdpm.app.markup import curves
from adjointdpm.app.metric_menu import CLASS, COLOUR, LIKE, MOOD, STYLE, MetricMenu
from adjointdpm.app.run_panel import RunPanel
from adjointdpm.app.run_view import RunView
from adjointdpm.app.security import kept_picture
from adjointdpm.app.session import Session
from adjointdpm.app.word_tab import PROMPTS
from adjointdpm.errors import InvalidInputError, PromptError
from adjointdpm.tasks.align import AlignConfig


def build(session: Session) -> list[gr.Timer]:
    """Make the tab; return its timers."""
    main = settings(AlignConfig, "iterations", "steps", "rank")
    more = [
        *settings(AlignConfig, "lr", "batch", "kl", "clip_reward", "strength", "guard_bound"),
        *settings(AlignConfig, "strength_pictures", "validation", "seeds_per_prompt"),
        *settings(
            AlignConfig, "held_out_seeds", "seed", *session.offers.guidance, "validate_every"
        ),
        *settings(AlignConfig, "patience"),
    ]
    metrics = MetricMenu(session.metrics, (MOOD, STYLE, COLOUR, LIKE, CLASS))
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            metrics.build()
            prompts = learning_prompts(session.offers.prompts(PROMPTS))
            with gr.Row():
                controls = [setting.control() for setting in main]
            panel = RunPanel(session, ["align", "stylize"], "Align")
            with gr.Accordion("More settings", open=False):
                controls += [setting.control() for setting in more]
        with gr.Column(scale=3, min_width=300):
            panel.place_status()
            seen = gr.HTML(_EMPTY)
            held_out = gr.HTML()
            file = gr.DownloadButton("Download pytorch_lora_weights.safetensors", interactive=False)
            code = gr.Code("", label="Lines that use it", language="python", visible=False)
            panel.place_details()
    examples(
        session.offers,
        [[MOOD, "golden_hour"], [MOOD, "teal"], [MOOD, "sepia"]],
        metrics.controls[:2],
    )
    gr.Markdown("### Try it in any prompt")
    trial = DrawingPanel(session, "a noto emoji of a lemon", scale=True, learned=panel).build()
    given, count = [*main, *more], len(metrics.controls)

    def start(prompts: str, *values: Any) -> Job:
        lines = prompt_lines(prompts)
        if len(lines) < 2:
            raise PromptError("write at least two prompts, one a line: one is kept aside")
        words = [*words_of(given, values[count:]), "--previews"]
        kind, picture = values[0], values[3]
        listed = f"--prompts={session.prompt_file(lines, 'align')}"
        if kind == STYLE:
            if picture is None:
                raise InvalidInputError("drop the picture whose style is wanted into its field")
            style = kept_picture(session.uploads, picture)
            return session.start("stylize", "style", [listed, f"--style={style}", *words])
        metric = metrics.text(values[:count], session.uploads)
        return session.start(
            "align", metric.partition(",")[0], [listed, f"--metric={metric}", *words]
        )

    def show(view: RunView, job: Job) -> list[Any]:
        lines = looks.usage_of(view)
        return [
            looks.looks_of(view) + looks.curves_of(view) + _strengths(view),
            looks.held_out_of(view),
            looks.download(view),
            gr.update(value=lines, visible=bool(lines)),
        ]

    inputs = [prompts, *metrics.controls, *controls]
    panel.connect(start, inputs, [seen, held_out, file, code], show)
    return [panel.timer, trial]


def _strengths(view: RunView) -> str:
    """What the metric is at every strength that was tried."""
    found = view.result.get("strength", {})
    sign = int(view.result.get("metric", {}).get("sign", 1))
    line = [(row["strength"], sign * row["metric"]) for row in found.get("curve", [])]
    if not line:
        return ""
    return curves(f"metric by strength; {found['chosen']:g} was kept", {"metric": line}, "strength")


_EMPTY = looks.note(
    "A LoRA is learned from a picture's style or from any score. Its pictures, before and while it "
    "learns, come here."
)
