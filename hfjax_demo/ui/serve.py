"""Starting the page as a server: theme, styles, queue, JSON API, MCP, health check; ends cleanly on SIGTERM.

Knows nothing of what is on the page.
"""

import importlib.util
import os
import signal
import sys
import threading
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

import gradio as gr
from gradio.node_server import stop_node_process
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from hfjax_demo.ui.components import ASSETS
from hfjax_demo.ui.demo import build_demo
from hfjax_demo.ui.health import health
from hfjax_demo.ui.live_panels import LIVE_PATH, LivePanels
from hfjax_demo.ui.theme import make_theme

if TYPE_CHECKING:
    from hfjax_demo.inference.engine import InferenceEngine

SESSIONS_KEPT = 200
SPARE_THREADS = 16
"""Gradio runs as many events at once as it has threads: all who may wait for the engine, and some who press Stop."""
MAX_UPLOAD = "32mb"
HEALTH_PATHS = ("/healthz", "/gradio_api/healthz")
"""The second is what Gradio's Node process passes on where it renders on the server; `healthz.mjs` sends the first there."""
QUEUE_INTERVAL_S = 0.02
"""How often Gradio looks for new events. Its own 1 ms means two thousand wake-ups a second, which decoding pays for."""
THREAD_SWITCH_INTERVAL_S = 0.0005
"""How long a thread may keep Python to itself. At the usual 5 ms the page's thread holds up the engine at every token."""


def serve(engine: "InferenceEngine", **options: Any) -> None:
    """Builds and launches the page and blocks until SIGTERM, SIGINT or Ctrl-C; then closes it.

    Args:
        engine: serves the requests.
        options: of `gradio.Blocks.launch`: server_name, server_port, share, root_path, auth.
    """
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):  # before the page can be reached: whoever sees it may end it
        signal.signal(number, lambda *_: ended.set())
    demo = launch(engine, **options)
    ended.wait()
    demo.close()
    if demo.node_process:  # Gradio leaves it running, and with it the port
        stop_node_process(demo.node_process)


def launch(engine: "InferenceEngine", **options: Any) -> gr.Blocks:
    """Builds and launches the page without blocking."""

    def healthz(_: Request) -> JSONResponse:
        status, body = health(engine)
        return JSONResponse(body, status_code=status)

    if importlib.util.find_spec("matplotlib") is None:
        # Gradio imports it at every update, and an import that fails searches every folder anew: a third of the time.
        sys.modules["matplotlib"] = cast(ModuleType, None)
    panels = LivePanels()
    demo = build_demo(engine, panels)
    os.environ["NODE_OPTIONS"] = f"--import {(ASSETS / 'healthz.mjs').as_uri()}"
    demo.queue(max_size=engine.settings.max_waiting, default_concurrency_limit=None)
    demo._queue.sleep_when_free = QUEUE_INTERVAL_S
    demo._queue.progress_update_sleep_when_free = QUEUE_INTERVAL_S
    sys.setswitchinterval(THREAD_SWITCH_INTERVAL_S)
    demo.launch(
        theme=make_theme(),
        css_paths=[ASSETS / "page.css"],
        js=(ASSETS / "page.js").read_text(encoding="utf-8"),
        footer_links=["api", "settings"],
        show_error=True,
        quiet=True,
        mcp_server=True,
        prevent_thread_lock=True,
        max_file_size=MAX_UPLOAD,
        state_session_capacity=SESSIONS_KEPT,
        max_threads=engine.settings.max_waiting + SPARE_THREADS,
        app_kwargs={"routes": [*(Route(path, healthz) for path in HEALTH_PATHS), Route(LIVE_PATH, panels.answer)]},
        **options,
    )
    return demo
