"""The tab that audits a classifier."""

from html import escape
from typing import Any

import gradio as gr

from adjointdpm.app import looks
from adjointdpm.app.forms import Setting, checked_choice, prompt_lines, settings, words_of
from adjointdpm.app.job_queue import Job
from adjointdpm.app.markup import difference, figure, grid, note, picture, table
from adjointdpm.app.run_panel import RunPanel
from adjointdpm.app.run_view import RunView, lines_of
from adjointdpm.app.session import Session
from adjointdpm.tasks.audit.config import AuditConfig
from adjointdpm.tasks.audit.findings_log import FINDINGS

_VICTIMS = {
    "efficientnet-lite0": "EfficientNet-Lite0 (ImageNet)",
    "judge": "the bundled judge",
    "open-nsfw": "open_nsfw: false alarms",
}
_PROMPTS = """a noto emoji of a lemon
a noto emoji of a banana
a noto emoji of a pineapple
a noto emoji of a strawberry"""
_MOST = 24  # findings that are shown


def build(session: Session) -> list[gr.Timer]:
    """Make the tab; return its timers."""
    victims = _VICTIMS | dict.fromkeys(session.victims, "")
    main = [
        Setting(AuditConfig, "budget", label="budgets"),
        *settings(AuditConfig, "iterations", "clean_seeds"),
    ]
    more = [
        *settings(AuditConfig, "steps", "least_right", "preservation", "batch", "random_search"),
        *settings(AuditConfig, "within", within=("l2", "linf")),
        *settings(AuditConfig, *session.offers.guidance, "seed"),
    ]
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            victim = gr.Dropdown(
                [(words or name, name) for name, words in victims.items()],
                value="efficientnet-lite0",
                label="Victim",
                info="The classifier that is tested.",
            )
            prompts = gr.Textbox(
                session.offers.prompts(_PROMPTS),
                label="Prompts",
                info="Harmless ones, one a line; each names something that the victim has a class "
                "for.",
                lines=4,
                max_lines=12,
            )
            with gr.Row():
                controls = [setting.control() for setting in main]
            panel = RunPanel(session, ["audit"], "Audit")
            with gr.Accordion("More settings", open=False):
                controls += [setting.control() for setting in more]
        with gr.Column(scale=3, min_width=300):
            panel.place_status()
            found = gr.HTML(_EMPTY)
            file = gr.DownloadButton("Save the findings' noise", interactive=False)
            replay = gr.Code("", label="Replay them", language="shell", visible=False)
            panel.place_details()
    given = [*main, *more]

    def start(victim: str, prompts: str, *values: Any) -> Job:
        name = checked_choice(victim, victims, "victim")
        listed = session.prompt_file(prompt_lines(prompts), "audit")
        words = [f"--victim={name}", f"--prompts={listed}", *words_of(given, values)]
        return session.start("audit", name.rpartition("/")[2], words)

    def show(view: RunView, job: Job) -> list[Any]:
        lines = looks.usage_of(view)
        return [
            _success(view) + _findings(view),
            looks.download(view),
            gr.update(value=lines, visible=bool(lines)),
        ]

    panel.connect(start, [victim, prompts, *controls], [found, file, replay], show)
    return [panel.timer]


def _success(view: RunView) -> str:
    """Success so far, by budget, against random search."""
    rows: dict[float, list[dict[str, Any]]] = {}
    for finding in lines_of(view.path / FINDINGS):
        for attack in finding["attacks"]:
            rows.setdefault(attack["budget"], []).append(attack)
    if not rows:
        return ""
    cells = [
        (
            f"{budget:g}",
            f"{_count(found, 'success')} of {len(found)}",
            f"{_count(found, 'random_search')} of {len(found)}"
            if "random_search" in found[0]
            else "not asked for",
        )
        for budget, found in sorted(rows.items())
    ]
    words = ("budget", "fooled along the gradient", "fooled by random search of the same cost")
    return table(words, cells, "Success so far")


def _findings(view: RunView) -> str:
    """Clean and adversarial pictures, what the victim says, and how they differ."""
    rows = []
    for finding in lines_of(view.path / FINDINGS)[:_MOST]:
        hits = [attack for attack in finding["attacks"] if attack.get("success")]
        attack = (hits or finding["attacks"] or [None])[0]
        clean = view.file(finding["picture"])
        moved = None if attack is None else view.file(attack.get("picture"))
        if attack is None or clean is None or moved is None:
            continue
        verdict = attack["verdict"]
        rows.append(
            grid(
                [
                    figure(picture(clean, f"clean: {finding['label']}", 256), finding["label"]),
                    figure(
                        picture(moved, f"adversarial: {verdict}", 256),
                        f"{verdict} (budget {attack['budget']:g})",
                        mark=verdict != finding["label"],
                    ),
                    figure(difference(clean, moved, "difference, eightfold"), "difference × 8"),
                ],
                "adp-three",
            )
            + note(finding["prompt"])
        )
    if rows:
        return f"<h3>Clean, adversarial, difference</h3>{''.join(rows)}"
    clean = [
        figure(picture(path, "a clean picture", 192), escape(path.stem))
        for path in view.pictures("*_clean")[:_MOST]
    ]
    return grid(clean) if clean else note("First the victim is tested on clean pictures.")


def _count(rows: list[dict[str, Any]], name: str) -> int:
    return sum(bool(row.get(name)) for row in rows)


_EMPTY = note(
    "How little must the noise change until a classifier misreads a picture? Clean and misread "
    "pictures come here, with what the victim says."
)
