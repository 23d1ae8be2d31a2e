"""Serving the page: on the loopback address, or with a password elsewhere."""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from adjointdpm.app.security import LARGEST_UPLOAD, is_loopback, password_for
from adjointdpm.errors import ModelError, OutputError
from adjointdpm.support.files import check_writable

USER = "adjointdpm"


@dataclass(frozen=True, kw_only=True)
class Address:
    """Where the page is served.

    Args:
        host: the address.
        port: the port; 0 takes a free one.
        password: asked for if given; off the loopback address always.

    """

    host: str = "127.0.0.1"
    port: int = 7860
    password: str | None = None


def open_page(session: Any, address: Address) -> tuple[Any, str, str | None]:
    """Serve the page in the background.

    Args:
        session: of the page.
        address: where.

    Returns:
        The page, its URL, and the password that it asks for.

    Raises:
        OutputError: the port is taken.

    """
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    from adjointdpm.app.page import CSS, build_page, theme
    from adjointdpm.app.worker import ensure_worker

    password = password_for(address.host, address.password)
    # Of a page elsewhere whose name leads here, the browser would take this page for a part.
    hosts = ["127.0.0.1", "localhost", "[::1]"] if is_loopback(address.host) else ["*"]
    page = build_page(session)
    ensure_worker(session.queue)
    try:
        _, url, _ = page.launch(
            server_name=address.host,
            server_port=address.port or _free_port(address.host),
            auth=None if password is None else (USER, password),
            auth_message=f"The user is {USER}.",
            prevent_thread_lock=True,
            share=False,
            # No request to itself: a slow machine or a proxy would make it ask for a public link.
            _frontend=False,
            quiet=True,
            inbrowser=False,
            ssr_mode=False,
            enable_monitoring=False,
            mcp_server=False,
            pwa=False,
            footer_links=[],
            max_file_size=LARGEST_UPLOAD,
            strict_cors=True,
            app_kwargs={"middleware": [Middleware(TrustedHostMiddleware, allowed_hosts=hosts)]},
            theme=theme(),
            css=CSS,
        )
    except OSError as error:
        raise OutputError(
            f"the page cannot be served at {address.host}, port {address.port} ({error}); is one "
            f"open already? choose another --port, or 0 for a free one"
        ) from error
    return page, url, password


def check_runs(folder: Path) -> Path:
    """Make the folder of the runs, and check that it can be written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"--out {folder} cannot be made: {error.strerror}") from error
    check_writable(folder)
    return folder.resolve()


def check_gradio() -> None:
    """Raise ModelError if gradio is missing; it is not imported yet, which takes seconds."""
    if find_spec("gradio") is None:
        raise ModelError("the page needs gradio; install it with `pip install 'adjointdpm[app]'`")


def _free_port(host: str) -> int:
    import socket

    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind((host, 0))
        return probe.getsockname()[1]
