"""A request on its way and the stream its caller reads: the only things the engine's thread and others share.

Knows nothing of what serves a request.
"""

import asyncio
import contextlib
import queue
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field

from hfjax_demo.errors import EngineClosedError
from hfjax_demo.events import Event, FailedEvent, FinishedEvent, RunRecord
from hfjax_demo.inference.generation import Generation
from hfjax_demo.requests import GenerationRequest

INTERNAL_ERROR = "Something went wrong inside the app; the log has the details. Try again, or try another model."


@dataclass
class Job:
    """A request on its way: written by the engine's thread, except `stop_requested`."""

    id: str
    request: GenerationRequest
    allow_local: bool
    events: "queue.SimpleQueue[Event]" = field(default_factory=queue.SimpleQueue)
    on_event: Callable[[], None] | None = None
    stop_requested: threading.Event = field(default_factory=threading.Event)
    error: BaseException | None = None
    generation: Generation | None = None
    load_s: float = 0.0
    started: float | None = None

    def tell(self, event: Event) -> None:
        """Puts an event into the stream and wakes an asynchronous reader."""
        self.events.put(event)
        if self.on_event:
            self.on_event()


class EventStream:
    """A request's events, in order; read it once, with `for` on any thread or `async for` on an event loop.

    Closing or dropping it stops the request.
    """

    def __init__(self, job: Job) -> None:
        """Made by `InferenceEngine.submit`."""
        self._job = job
        self._is_exhausted = False
        self._finalizer = weakref.finalize(self, job.stop_requested.set)

    @property
    def id(self) -> str:
        """Names the request; give it to `InferenceEngine.stop`."""
        return self._job.id

    def __iter__(self) -> Iterator[Event]:
        """Yields every event up to the `FinishedEvent` or `FailedEvent` that ends the stream."""
        return self

    def __next__(self) -> Event:
        """Waits for the next event."""
        if self._is_exhausted:
            raise StopIteration
        return self._taken(self._job.events.get())

    def __aiter__(self) -> AsyncIterator[Event]:
        """Yields the same events without blocking the event loop, nor a thread of its pool."""
        loop, arrived = asyncio.get_running_loop(), asyncio.Event()

        def wake() -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody reads any more
                loop.call_soon_threadsafe(arrived.set)

        self._arrived = arrived
        self._job.on_event = wake
        return self

    async def __anext__(self) -> Event:
        """Awaits the next event."""
        if self._is_exhausted:
            raise StopAsyncIteration
        while True:
            self._arrived.clear()  # before looking: what comes after the look sets it again
            try:
                return self._taken(self._job.events.get_nowait())
            except queue.Empty:
                await self._arrived.wait()

    def ready(self) -> list[Event]:
        """The events that are there already, without waiting: a reader that fell behind catches up at once."""
        events: list[Event] = []
        while not self._is_exhausted:
            try:
                events.append(self._taken(self._job.events.get_nowait()))
            except queue.Empty:
                break
        return events

    def _taken(self, event: Event) -> Event:
        self._is_exhausted = isinstance(event, FinishedEvent | FailedEvent)
        return event

    def close(self) -> None:
        """Stops the request within one step; the stream ends in a `FinishedEvent`, or a `FailedEvent` before any step."""
        self._job.stop_requested.set()

    def result(self) -> RunRecord:
        """Reads the stream to its end.

        Returns:
            The finished run's record.

        Raises:
            HfJaxDemoError: what the request failed with.
        """
        for event in self:
            if isinstance(event, FinishedEvent):
                return event.record
        raise self.error

    @property
    def error(self) -> BaseException:
        """What the request failed with; there once its `FailedEvent` is."""
        return self._job.error or EngineClosedError(INTERNAL_ERROR)
