"""From a request to the views of its run, for handlers on the event loop."""

import asyncio
import contextlib
import html
import logging
import time
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any

import gradio as gr

from hfjax_demo.errors import HfJaxDemoError
from hfjax_demo.events import RunRecord
from hfjax_demo.requests import GenerationRequest
from hfjax_demo.ui.components import AT_ONCE, QUIET, panel_value
from hfjax_demo.ui.live_panels import LivePanels
from hfjax_demo.ui.run_history import RunHistory
from hfjax_demo.ui.run_view import RunView

if TYPE_CHECKING:
    from hfjax_demo.inference.engine import InferenceEngine

logger = logging.getLogger(__name__)
UNEXPECTED = "Something went wrong inside the app; the log has the details. Nothing you typed is lost: try again."

TOLD_EVERY_S = 1.0
"""How often a panel's component is told while its run goes on; that also shows Gradio whether its visitor is still there."""
KEEPING: dict[str, Any] = QUIET | {"concurrency_id": "history", "concurrency_limit": 1}
"""Options of a handler that adds to a history: one at a time, for two that begin from the same history would lose a run."""


async def views_of(engine: "InferenceEngine", request: GenerationRequest) -> AsyncIterator[tuple[str, RunView]]:
    """Runs a request; gives its id and its view, the same one each time, after every event.

    Events that piled up while the caller was busy are applied together: a slow reader sees fewer views, never late ones.
    Leaving the loop early stops the run within one step.

    Raises:
        HfJaxDemoError: the request was refused before it could wait for its turn.
    """
    stream = engine.submit(request)
    view = RunView(request)
    try:
        async for event in stream:
            for each in (event, *stream.ready()):
                view.apply(each)
            yield stream.id, view
    finally:
        stream.close()


async def updates_of(
    engine: "InferenceEngine", request: GenerationRequest, panels: LivePanels
) -> AsyncIterator[tuple[str, RunView, str]]:
    """`views_of` with the panel's value, as often as the panel's component is to be told.

    That is at first, at last, at each new phase, and every `TOLD_EVERY_S` seconds; all other values go to the panel
    directly. Where something on the way keeps it from reading those, it still shows these.

    Raises:
        HfJaxDemoError: the request was refused before it could wait for its turn.
    """
    with panels.opened() as panel:
        told_phase, told_at, number = "", 0.0, 0
        async for run_id, view in views_of(engine, request):
            state, now, number = view.state(), time.monotonic(), number + 1
            if view.is_over:
                yield run_id, view, panel_value(state)
                return
            value = panel_value(state | {"live": panel.name, "number": number})
            if state["phase"] == told_phase and now - told_at < TOLD_EVERY_S:
                panel.show(value)
                continue
            told_phase, told_at = state["phase"], now
            yield run_id, view, value


def page_error(err: HfJaxDemoError) -> gr.Error:
    """An expected error as the page's message; escaped, because it may quote what a visitor typed and is shown as HTML."""
    return gr.Error(html.escape(str(err)), print_exception=False)


@contextlib.contextmanager
def page_errors() -> Iterator[None]:
    """Around a handler's work: expected errors become the page's message, others a plain sentence and a trace in the log."""
    try:
        yield
    except HfJaxDemoError as err:
        raise page_error(err) from err
    except gr.Error:
        raise
    except Exception as err:
        logger.exception("a handler of the page failed")
        raise gr.Error(UNEXPECTED, print_exception=False) from err


async def keep_runs(
    history: RunHistory, records: tuple[RunRecord, ...], is_imported: bool = False
) -> tuple[RunHistory, tuple[RunRecord, ...]]:
    """The history as it is when a run has ended, with its records added, and none left to add.

    A handler of its own: a run lasts minutes, and what it read of the history when it began is out of date by then.
    """
    for record in records:
        history = await asyncio.to_thread(history.add, record, is_imported)
    return history, ()


def connect_stop(engine: "InferenceEngine", button: gr.Button, run_id: gr.State) -> None:
    """Makes `button` stop the run that `run_id` names, within one step; it can be pressed while there is one."""

    def on_stop(name: str) -> None:
        engine.stop(name)

    run_id.change(lambda name: gr.Button(interactive=bool(name)), [run_id], [button], **AT_ONCE)
    button.click(on_stop, [run_id], None, **AT_ONCE)
