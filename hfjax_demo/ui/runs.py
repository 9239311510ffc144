"""From a request to the views of its run, for handlers on the event loop."""

import asyncio
import contextlib
import html
import logging
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any

import gradio as gr

from hfjax_demo.errors import HfJaxDemoError
from hfjax_demo.events import RunRecord
from hfjax_demo.requests import GenerationRequest
from hfjax_demo.ui.components import AT_ONCE, QUIET
from hfjax_demo.ui.run_history import RunHistory
from hfjax_demo.ui.run_view import RunView

if TYPE_CHECKING:
    from hfjax_demo.inference.engine import InferenceEngine

logger = logging.getLogger(__name__)
UNEXPECTED = "Something went wrong inside the app; the log has the details. Nothing you typed is lost: try again."

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
