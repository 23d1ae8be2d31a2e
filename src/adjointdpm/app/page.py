"""The page: its tabs, and how it looks."""

import os
from collections.abc import Callable
from functools import partial

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # gradio reads it when it is imported

import gradio as gr

from adjointdpm.app import (
    align_tab,
    audit_tab,
    generate_tab,
    gradient_tab,
    guide_tab,
    runs_tab,
    word_tab,
)
from adjointdpm.app.session import Session

CSS = """
.gradio-container { max-width: 1240px !important; margin: 0 auto !important; }
.gradio-container main, .gradio-container .wrap, .gradio-container .tabs { width: 100%; }
gradio-app, .gradio-container { width: 100%; min-width: 0; box-sizing: border-box; }
/* Without it a row of tabs or a table that could scroll makes the page wider than a phone. */
.gradio-container :where(.main, .wrap, .contain, .column, .row, .form, .block, .tabs, .tabitem) {
  min-width: 0; }
.gradio-container .table-wrap table { border-collapse: collapse; }
.gradio-container .table-wrap :is(th, td) { border-left: 0; border-right: 0; }
.gradio-container .table-wrap tr { box-shadow: none; }
.dark .gradio-container button:disabled, .gradio-container.dark button:disabled {
  background: var(--background-fill-secondary); color: var(--body-text-color-subdued); }
.adp-grid { display: grid; gap: 10px; grid-template-columns:
  repeat(auto-fill, minmax(120px, 1fr)); }
.adp-pair { grid-template-columns: repeat(2, minmax(0, 1fr)); max-width: 640px; }
.adp-pairs { display: grid; gap: 14px;
  grid-template-columns: repeat(auto-fill, minmax(200px, 1fr)); }
.adp-three { grid-template-columns: repeat(3, minmax(0, 1fr)); }
.adp-strip { grid-template-columns: repeat(auto-fill, minmax(56px, 1fr)); gap: 6px; }
.adp-grid figure { margin: 0; }
.adp-grid img, .adp-empty { width: 100%; border-radius: 6px; display: block; }
.adp-grid img { image-rendering: pixelated; }
.adp-empty { aspect-ratio: 1; border: 1px dashed var(--border-color-primary); }
.adp-grid figcaption { font-size: 13px; text-align: center; padding-top: 2px;
  color: var(--body-text-color-subdued); overflow-wrap: anywhere; }
.adp-grid figcaption.adp-mark { color: #c2410c; font-weight: 600; }
.dark .adp-grid figcaption.adp-mark { color: #fdba74; }
.adp-note { margin: 4px 0; font-size: 14px; color: var(--body-text-color-subdued);
  overflow-wrap: anywhere; }
.adp-status { padding: 6px 10px; border-left: 4px solid #64748b; margin: 6px 0;
  background: var(--background-fill-secondary); color: var(--body-text-color); }
.adp-running { border-color: #0d9488; } .adp-done { border-color: #16a34a; }
.adp-failed { border-color: #dc2626; }
.adp-problem { padding: 8px 10px; border: 1px solid #dc2626; border-radius: 6px; margin: 6px 0;
  color: #b91c1c; background: #fef2f2; overflow-wrap: anywhere; }
.dark .adp-problem { color: #fecaca; background: #450a0a; }
.adp-command { white-space: pre-wrap; overflow-wrap: anywhere; font-size: 12px; padding: 8px;
  border-radius: 6px; background: var(--background-fill-secondary); color: var(--body-text-color); }
.adp-curve { margin-top: 10px; max-width: 640px; color: var(--body-text-color); }
.adp-curve svg { width: 100%; height: auto; }
.adp-curve text { font-size: 9px; fill: var(--body-text-color-subdued); }
.adp-title { font-size: 14px; font-weight: 600; }
.adp-title span { font-weight: 400; font-size: 12px; margin-left: 8px; }
.adp-axis { fill: none; stroke: var(--border-color-primary); }
polyline { fill: none; stroke-width: 2; }
.adp-line-0 { stroke: #0d9488; } circle.adp-line-0 { fill: #0d9488; }
.adp-line-1 { stroke: #d97706; } circle.adp-line-1 { fill: #d97706; }
.adp-line-2 { stroke: #7c3aed; } circle.adp-line-2 { fill: #7c3aed; }
.adp-key-0::before, .adp-key-1::before, .adp-key-2::before { content: "● "; }
.adp-key-0::before { color: #0d9488; } .adp-key-1::before { color: #d97706; }
.adp-key-2::before { color: #7c3aed; }
.adp-table { overflow-x: auto; } .adp-table table { border-collapse: collapse; font-size: 14px; }
.adp-table caption { text-align: left; font-weight: 600; padding: 4px 0; }
/* gradio's own rules for tables in a text draw lines around every cell. */
.gradio-container .adp-table :is(table, thead, tbody, tr, th, td) { border: 0 !important; }
.gradio-container .adp-table :is(th, td) { text-align: left; padding: 4px 12px 4px 0 !important;
  border-bottom: 1px solid var(--border-color-primary) !important; vertical-align: top; }
.adp-table td img { width: 128px; image-rendering: pixelated; border-radius: 6px; }
.adp-report { width: 100%; height: 75vh; border: 1px solid var(--border-color-primary);
  border-radius: 6px; background: white; }
"""


def theme() -> gr.themes.Base:
    """Fonts of the system, so that none is loaded."""
    return gr.themes.Soft(
        primary_hue=gr.themes.colors.teal,
        neutral_hue=gr.themes.colors.slate,
        font=[gr.themes.Font("system-ui"), gr.themes.Font("sans-serif")],
        font_mono=[gr.themes.Font("ui-monospace"), gr.themes.Font("monospace")],
    ).set(
        # Soft's own are too pale to read.
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_300",
        block_title_background_fill="none",
        block_title_background_fill_dark="none",
        block_title_padding="0",
        block_title_text_color="*neutral_800",
        block_title_text_color_dark="*neutral_100",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_700",
    )


def build_page(session: Session) -> gr.Blocks:
    """The page of a session."""
    timers: list[list[gr.Timer]] = []
    # What the page made for a download is deleted after a day.
    with gr.Blocks(
        title="adjointdpm", analytics_enabled=False, delete_cache=(3600, 86400), fill_width=True
    ) as page:
        gr.Markdown(
            f"## adjointdpm\nGradients through a diffusion sampler. Model: "
            f"`{_model_of(session)}`, runs in `{session.brief(str(session.runs))}`."
        )
        made = []
        with gr.Tabs():
            for name, build in _tabs(session).items():
                with gr.Tab(name) as tab:
                    timers.append(build(session))
                made.append(tab)
        every = [timer for of_tab in timers for timer in of_tab]

        def only(chosen: int) -> list[gr.Timer]:
            """Keep the timers of one tab going, and let the others rest."""
            return [
                gr.Timer(active=number == chosen)
                for number, of_tab in enumerate(timers)
                for _ in of_tab
            ]

        quiet = {"api_visibility": "private", "show_progress": "hidden", "queue": False}
        for number, tab in enumerate(made):
            tab.select(partial(only, number), None, every, **quiet)
        for timer in timers[0]:  # not by an event, which might end after a tab was chosen
            timer.active = True
    return page


def _tabs(session: Session) -> dict[str, Callable[[Session], list[gr.Timer]]]:
    """The tabs whose tasks work with the model."""
    offers = session.offers
    tabs = {"Guide": guide_tab.build}
    if offers.token:
        tabs["A word"] = word_tab.build
    if offers.lora:
        tabs["Align"] = align_tab.build
    return tabs | {
        "Audit": audit_tab.build,
        "Gradient": gradient_tab.build,
        "Generate": generate_tab.build,
        "Runs": runs_tab.build,
    }


def _model_of(session: Session) -> str:
    named = [word for word in session.model if word.startswith("--model=")]
    return named[0].removeprefix("--model=") if named else "tiny"
