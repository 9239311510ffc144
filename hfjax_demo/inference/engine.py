"""The engine: one thread that owns the torchax environment, the mesh, the models and every compiled program.

Any thread may `submit`, `stop` and read a stream; only the engine's thread calls torch or JAX. Torch's modes are
thread-local and tracing one module from two threads corrupts it, so nothing else would be safe. The loop advances each
running request by one step in turn; with `MAX_RUNNING = 1` requests are served one after the other. Knows nothing of its
faces.
"""

import itertools
import logging
import queue
import threading
import time
import weakref
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from hfjax_demo.catalog import find_in_catalog
from hfjax_demo.errors import EngineClosedError, HfJaxDemoError, InvalidRequestError, RequestStoppedError
from hfjax_demo.events import Event, FailedEvent, FinishedEvent, LoadingEvent, QueuedEvent, RunRecord
from hfjax_demo.inference.environment import configure_devices
from hfjax_demo.inference.generation import Generation
from hfjax_demo.inference.loaded_model import LoadedModel, ModelKey
from hfjax_demo.inference.model_loading import find_model, load_model
from hfjax_demo.inference.programs import Programs
from hfjax_demo.requests import CacheKind, GenerationRequest
from hfjax_demo.settings import Settings

logger = logging.getLogger(__name__)

MAX_RUNNING = 1
"""Requests that take turns step by step. More than one needs memory for as many caches."""

INTERNAL_ERROR = "Something went wrong inside the app; the log has the details. Try again, or try another model."


class _StoppedError(Exception):
    """Raised inside the engine's thread to give up loading for a request that was stopped."""


@dataclass
class _Job:
    """A request on its way: written by the engine's thread, except `stop_requested`."""

    id: str
    request: GenerationRequest
    allow_local: bool
    events: "queue.SimpleQueue[Event]" = field(default_factory=queue.SimpleQueue)
    stop_requested: threading.Event = field(default_factory=threading.Event)
    error: BaseException | None = None
    generation: Generation | None = None
    load_s: float = 0.0


class EventStream:
    """A request's events, in order; iterate on any thread, once. Closing or dropping it stops the request."""

    def __init__(self, job: _Job) -> None:
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
        event = self._job.events.get()
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


class InferenceEngine:
    """Serves requests on its own thread. Use as a context manager, or call `close`."""

    def __init__(self, settings: Settings | None = None) -> None:
        """Fixes the device count and starts the thread; loads nothing yet.

        Raises:
            DeviceError: JAX has started already with fewer devices than the settings ask for.
        """
        self.settings = settings or Settings()
        configure_devices(self.settings.devices)
        self._ids = itertools.count(1)
        self._waiting: deque[_Job] = deque()
        self._running: list[_Job] = []
        self._changed = threading.Condition()
        self._is_closing = False
        self._model: LoadedModel | None = None
        self._programs: Programs | None = None
        self._thread = threading.Thread(target=self._serve, name="hfjax-engine", daemon=True)
        self._thread.start()

    def __enter__(self) -> "InferenceEngine":
        """The engine itself."""
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Closes the engine."""
        self.close()

    def submit(self, request: GenerationRequest, allow_local: bool = False) -> EventStream:
        """Queues a request.

        Args:
            request: what to do.
            allow_local: whether `request.model` may be a path; true on the command line only.

        Returns:
            Its stream of events.

        Raises:
            InvalidRequestError: as many requests wait already as the settings allow.
            EngineClosedError: the engine was closed.
        """
        job = _Job(f"run-{next(self._ids)}", request, allow_local)
        with self._changed:
            if self._is_closing or not self._thread.is_alive():
                raise EngineClosedError("The engine serves requests until it is closed, and it is closed. Start it again.")
            if len(self._waiting) >= self.settings.max_waiting:
                raise InvalidRequestError(
                    f"At most {self.settings.max_waiting} requests may wait and {len(self._waiting)} do. Try again in a "
                    "minute."
                )
            self._waiting.append(job)
            job.events.put(QueuedEvent(len(self._waiting) - 1 + len(self._running)))
            self._changed.notify_all()
        return EventStream(job)

    def generate(self, request: GenerationRequest, allow_local: bool = False) -> RunRecord:
        """`submit` and wait for the end; raises what the request failed with."""
        return self.submit(request, allow_local).result()

    def stop(self, request_id: str) -> bool:
        """Stops a waiting or running request within one step; False if there is none of that id (any more)."""
        with self._changed:
            for job in (*self._waiting, *self._running):
                if job.id == request_id:
                    job.stop_requested.set()
                    return True
        return False

    def is_alive(self) -> bool:
        """Whether the engine takes requests."""
        return self._thread.is_alive() and not self._is_closing

    def close(self, timeout_s: float = 60.0) -> None:
        """Stops every request within one step, frees the model and ends the thread; waits up to `timeout_s` seconds."""
        with self._changed:
            self._is_closing = True
            for job in (*self._waiting, *self._running):
                job.stop_requested.set()
            self._changed.notify_all()
        if self._thread is not threading.current_thread():
            self._thread.join(timeout_s)

    # The rest runs on the engine's thread.

    def _serve(self) -> None:
        while self._admit():
            for job in list(self._running):
                self._advance(job)
        self._free_model()

    def _admit(self) -> bool:
        """Waits for work and moves waiting requests into running places; False when closed and nothing is left."""
        with self._changed:
            while not self._waiting and not self._running and not self._is_closing:
                self._changed.wait()
            while self._waiting and len(self._running) < MAX_RUNNING:
                self._running.append(self._waiting.popleft())
                for place, job in enumerate(self._waiting):
                    job.events.put(QueuedEvent(place + len(self._running)))
            return bool(self._running)

    def _advance(self, job: _Job) -> None:
        """One step of one request: load and prepare it, or decode one token; ends it when it is done."""
        try:
            if job.generation is None:
                job.generation = self._prepare(job)
                job.events.put(job.generation.started_event())
            if job.stop_requested.is_set():
                self._finish(job, "stopped")
                return
            job.events.put(job.generation.advance())
            if job.generation.finish_reason:
                self._finish(job, job.generation.finish_reason)
        except _StoppedError:
            self._fail(job, RequestStoppedError("The request was stopped before its first token. Send it again."))
        except HfJaxDemoError as err:
            self._fail(job, err)
        except Exception as err:
            logger.exception("request %s failed", job.id)
            self._fail(job, err)

    def _prepare(self, job: _Job) -> Generation:
        if job.stop_requested.is_set():
            raise _StoppedError
        entry = find_in_catalog(job.request.model)
        name = entry.name if entry else job.request.model
        key = ModelKey(name, job.request.dtype, job.request.tensor_parallel, job.allow_local)
        if self._model is None or self._model.key != key:
            self._load(key, job)
        assert self._model is not None
        if self._programs is None and job.request.cache_kind is not CacheKind.NONE:
            self._programs = Programs(self._model.causal_lm, self._model.mesh, self._model.kv_shardings)
        return Generation(job.request, self._model, self._programs, self.settings, job.events.put)

    def _load(self, key: ModelKey, job: _Job) -> None:
        """Loads `key`'s model in place of the loaded one, which goes only once the new one is known to be good."""
        started = time.perf_counter()

        def progress(stage: str, fraction: float | None) -> None:
            if job.stop_requested.is_set():
                raise _StoppedError
            job.events.put(LoadingEvent(stage, fraction, time.perf_counter() - started))

        reclaimable_bytes = self._model.weights_bytes if self._model else 0
        found = find_model(key, self.settings, progress, reclaimable_bytes)
        self._free_model()
        self._model = load_model(found, self.settings, progress)
        job.load_s = time.perf_counter() - started

    def _free_model(self) -> None:
        self._programs = None
        if self._model is not None:
            self._model.delete()
            self._model = None

    def _finish(self, job: _Job, finish_reason: str) -> None:
        assert job.generation is not None
        self._leave(job, FinishedEvent(job.generation.record(finish_reason, job.load_s)))

    def _fail(self, job: _Job, err: Exception) -> None:
        job.error = err
        message = str(err) if isinstance(err, HfJaxDemoError) else INTERNAL_ERROR
        self._leave(job, FailedEvent(type(err).__name__, message, getattr(err, "field", None)))

    def _leave(self, job: _Job, last_event: FinishedEvent | FailedEvent) -> None:
        """Drops the request and its cache, then tells it: whoever reads the last event finds the engine free."""
        job.generation = None
        with self._changed:
            self._running.remove(job)
        job.events.put(last_event)
