"""`/healthz`: whether the engine answers, and the page's device line. Knows nothing of gradio."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from hfjax_demo import __version__
from hfjax_demo.errors import readable_bytes
from hfjax_demo.events import EngineStatus
from hfjax_demo.ui.words import plural

if TYPE_CHECKING:
    from hfjax_demo.inference.engine import InferenceEngine

GRACE_S = 60.0
"""Seconds past the time limit of a request before one step that still runs counts as hung: compilations are long steps."""


def health(engine: "InferenceEngine") -> tuple[int, dict[str, Any]]:
    """The HTTP status, 200 or 503, and a JSON body that says why.

    503 means that the engine's thread has ended or was closed, or that one step has taken longer than a whole request may.
    """
    status = engine.status()
    is_hung = status.busy_s > engine.settings.time_limit_s + GRACE_S
    if not status.is_alive:
        reason = status.failure or "the engine has stopped"
    elif is_hung:
        reason = f"one step has taken {status.busy_s:.0f} s; a whole request may take {engine.settings.time_limit_s:.0f} s"
    else:
        reason = "the engine answers"
    is_healthy = status.is_alive and not is_hung
    body = {"status": "ok" if is_healthy else "unavailable", "reason": reason, "line": device_words(status)}
    return (200 if is_healthy else 503), body | asdict(status)


def device_words(status: EngineStatus) -> str:
    """Backend, devices, model, dtype and memory in one line."""
    if not status.is_alive:
        return status.failure or "the engine has stopped: restart the app"
    if status.environment is None:
        return "starting JAX"
    environment, model = status.environment, status.model
    over = f" over {environment.num_processes} processes" if environment.num_processes > 1 else ""
    where = f"{environment.backend} ×{environment.num_devices}{over} ({environment.device_kind})"
    what = f"{model.name} {readable_bytes(model.weights_bytes)} {model.dtype}" if model else "no model loaded yet"
    waiting = f" · {plural(status.num_waiting, 'run')} waiting" if status.num_waiting else ""
    return f"{where} · {what} · memory {readable_bytes(status.rss_bytes)}{waiting} · v{__version__}"
