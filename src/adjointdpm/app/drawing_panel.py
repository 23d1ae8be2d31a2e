"""A prompt and its pictures, by `adjointdpm generate`: plain, or with what a run has learned."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from adjointdpm.app.forms import checked_number, prompt_lines
from adjointdpm.app.job_queue import Job
from adjointdpm.app.markup import figure, grid, note, picture
from adjointdpm.app.run_panel import RunPanel
from adjointdpm.app.run_view import RunView
from adjointdpm.app.security import checked_text
from adjointdpm.app.session import Session
from adjointdpm.errors import InvalidInputError, PromptError
from adjointdpm.pipelines.arguments.prompting import NOTHING

_MOST = 16  # pictures at once


@dataclass
class DrawingPanel:
    """Controls and pictures.

    Args:
        session: of the page.
        prompt: what the field holds at first.
        scale: offer how much of a LoRA is taken.
        learned: the panel whose run's word or LoRA is drawn with, if any.

    """

    session: Session
    prompt: str
    scale: bool = False
    learned: RunPanel | None = None

    def build(self) -> gr.Timer:
        """Make it; return its timer."""
        offers = self.session.offers
        with gr.Row():
            with gr.Column(scale=2, min_width=300):
                prompt = gr.Textbox(
                    label="Prompt to draw",
                    value=offers.prompts(self.prompt) if offers.reads != NOTHING else "",
                    max_lines=3,
                    visible=offers.reads != NOTHING,
                )
                with gr.Row():
                    seed = gr.Number(0, label="Seed", precision=0, minimum=0, min_width=90)
                    count = gr.Number(
                        4, label="How many", precision=0, minimum=1, maximum=_MOST, min_width=90
                    )
                    steps = gr.Number(
                        20,
                        label="Sampler steps",
                        precision=0,
                        minimum=1,
                        maximum=1000,
                        min_width=90,
                    )
                strength = gr.Slider(
                    0,
                    2,
                    1,
                    step=0.1,
                    label="Scale of the LoRA",
                    info="0 is the untouched model, 1 what was learned.",
                    visible=self.scale,
                )
                panel = RunPanel(
                    self.session,
                    ["generate"],
                    "Draw",
                    resumes=False,
                    follows=self.learned is None,
                )
            with gr.Column(scale=3, min_width=300):
                panel.place_status()
                pictures = gr.HTML()
                panel.place_details()
        source = gr.State(None) if self.learned is None else self.learned.shown
        panel.connect(
            self._start, [prompt, seed, count, steps, strength, source], [pictures], self._show
        )
        return panel.timer

    def _start(
        self, prompt: str, seed: int, count: int, steps: int, strength: float, source: str | None
    ) -> Job:
        words = [
            f"--seed={checked_number('seed', int, seed or 0)}",
            f"--batch={_count(count or 1)}",
            f"--steps={checked_number('steps', int, steps or 20)}",
        ]
        if self.learned is not None:
            words += self._learned(source, strength)
        lines = prompt_lines(prompt, "the prompt")
        if len(lines) > 1 or (not lines and self.session.offers.reads != NOTHING):
            raise PromptError("the prompt must be one line of text")
        if self.session.offers.reads == NOTHING:
            lines = []
        # Behind "--" nothing is a flag. It stands at the end, after what the session adds.
        text = [checked_text(line, "the prompt") for line in lines]
        return self.session.start("generate", " ".join(lines), words, text)

    def _learned(self, source: str | None, strength: float) -> list[str]:
        source = None if self.learned is None else self.learned.current(source)
        if source is None:
            raise InvalidInputError(
                "there is no run yet whose result could be drawn with; start one above"
            )
        folder = self.session.folder(source)
        if not (folder / "result.json").is_file():
            raise InvalidInputError(
                f"{source} has not ended yet; wait for it, or choose its states"
            )
        words = [f"--learned={folder}"]
        return (
            [*words, f"--strength={checked_number('scale', float, strength):g}"]
            if self.scale
            else words
        )

    def _show(self, view: RunView, job: Job) -> Sequence[Any]:
        files = sorted(view.path.glob("*.png"), key=_place)
        prompt = job.arguments[-1] if "--" in job.arguments else job.name
        cells = [figure(picture(path, f"{prompt}, {i}"), str(i)) for i, path in enumerate(files)]
        return [grid(cells) if cells else note("The pictures come when the model is loaded.")]


def _count(value: object) -> int:
    count = int(checked_number("how many", int, value))
    if not 1 <= count <= _MOST:
        raise InvalidInputError(f"how many={count} must be from 1 to {_MOST}")
    return count


def _place(path: Any) -> tuple[str, int]:
    stem, _, number = path.stem.rpartition("-")
    return stem, int(number) if number.isdigit() else 0
