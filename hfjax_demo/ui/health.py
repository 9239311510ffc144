"""`/healthz`: whether the engine answers. Knows nothing of gradio."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

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
    return (200 if is_healthy else 503), {"status": "ok" if is_healthy else "unavailable", "reason": reason} | asdict(status)
