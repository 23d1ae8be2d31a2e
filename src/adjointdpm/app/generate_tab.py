"""The tab for quick tries: pictures of a prompt."""

import gradio as gr

from adjointdpm.app.drawing_panel import DrawingPanel
from adjointdpm.app.session import Session


def build(session: Session) -> list[gr.Timer]:
    """Make the tab; return its timers."""
    return [DrawingPanel(session, "a noto emoji of a red apple").build()]
