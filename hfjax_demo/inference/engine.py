"""The engine: one thread that owns the torchax environment, the mesh, the models and every compiled program.

Any thread may `submit`, `stop` and read a stream; only the engine's thread calls torch or JAX. Torch's modes are
thread-local and tracing one module from two threads corrupts it, so nothing else would be safe. The loop advances each
running request by one step in turn; with `MAX_RUNNING = 1` requests are served one after the other. Knows nothing of its
faces.
"""

import functools
import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from hfjax_demo.catalog import CatalogModel, find_in_catalog
from hfjax_demo.errors import (
    ClusterError,
    EngineClosedError,
    HfJaxDemoError,
    InvalidRequestError,
    RequestStoppedError,
)
from hfjax_demo.events import (
    EngineStatus,
    EnvironmentFacts,
    FailedEvent,
    FinishedEvent,
    LoadingEvent,
    QueuedEvent,
    RunRecord,
)
from hfjax_demo.inference import memory
from hfjax_demo.inference.cluster import gather
from hfjax_demo.inference.device_mesh import make_mesh
from hfjax_demo.inference.environment import configure_devices, environment_facts
from hfjax_demo.inference.event_stream import INTERNAL_ERROR, EventStream, Job
from hfjax_demo.inference.generation import Generation
from hfjax_demo.inference.inspection import inspect_config, inspect_model
from hfjax_demo.inference.leader import Leader
from hfjax_demo.inference.loaded_model import ModelKey
from hfjax_demo.inference.model_sources import catalog_status
from hfjax_demo.inference.worker import Worker
from hfjax_demo.limits import check_devices, check_limits
from hfjax_demo.model_plan import Inspection
from hfjax_demo.requests import GenerationRequest
from hfjax_demo.settings import Settings

logger = logging.getLogger(__name__)

MAX_RUNNING = 1
"""Requests that take turns step by step. More than one needs memory for as many caches."""
VERDICT_WITHIN_S = 3.0
"""A collective that fails because a process ended may be quicker than the word that it has."""


class _StoppedError(Exception):
    """Raised inside the engine's thread to give up loading for a request that was stopped."""


class InferenceEngine:
    """Serves requests on its own thread. Use as a context manager, or call `close`."""

    def __init__(self, settings: Settings | None = None) -> None:
        """Fixes the device count and starts the thread; loads nothing yet. Of several processes, awaits the others.

        Raises:
            DeviceError: JAX has started already with fewer devices than the settings ask for.
            ClusterError: the other processes of the settings did not come, or are not as this one is.
        """
        self.settings = settings or Settings()
        configure_devices(self.settings.devices)
        self._leader = Leader(gather(self.settings)) if self.settings.num_processes > 1 else None
        self._ids = itertools.count(1)
        self._waiting: deque[Job] = deque()
        self._running: list[Job] = []
        self._tasks: deque[tuple[Callable[[], Inspection], Future[Inspection]]] = deque()
        self._changed = threading.Condition()
        self._is_closing = False
        self._environment: EnvironmentFacts | None = None
        self._busy_since: float | None = None
        self._worker = Worker(self.settings, self._leader)
        self._failure: ClusterError | None = None
        if self._leader:
            self._leader.watch(self._break)
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
            InvalidRequestError: the request is over one of the operator's limits (a visitor's only: `allow_local` is the
                operator's own command line), asks for more devices than there are, or as many requests wait already as the
                settings allow.
            EngineClosedError: the engine was closed.
            ClusterError: a process of its mesh is gone.
        """
        if not allow_local:
            check_limits(request, self.settings)
        check_devices(request, self._environment)
        job = Job(f"run-{next(self._ids)}", request, allow_local)
        with self._changed:
            self._check_open()
            if len(self._waiting) >= self.settings.max_waiting:
                raise InvalidRequestError(
                    f"At most {self.settings.max_waiting} requests may wait and {len(self._waiting)} do. Try again in a "
                    "minute."
                )
            self._waiting.append(job)
            job.tell(QueuedEvent(len(self._waiting) - 1 + len(self._running)))
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
        return self._thread.is_alive() and not self._is_closing and self._failure is None

    def status(self) -> EngineStatus:
        """What the engine is doing now; from any thread, without waiting."""
        model, busy_since = self._worker.model, self._busy_since
        return EngineStatus(
            is_alive=self.is_alive(),
            environment=self._environment,
            model=model.facts if model else None,
            num_running=len(self._running),
            num_waiting=len(self._waiting),
            busy_s=time.perf_counter() - busy_since if busy_since else 0.0,
            rss_bytes=memory.rss_bytes(),
            peak_rss_bytes=memory.peak_rss_bytes(),
            failure=str(self._failure) if self._failure else None,
        )

    def models(self) -> list[tuple[CatalogModel, str]]:
        """Each catalog model with where it is: "packaged", "downloaded" or "on the Hub"."""
        return catalog_status()

    def inspect(self, model: str, allow_local: bool = False, config: str | None = None, **numbers: Any) -> Inspection:
        """`inspect_model` on the engine's thread, between two steps of whatever runs; waits for the answer.

        Args:
            model: catalog name, bundled config's name, Hub id, or a path where `allow_local`.
            allow_local: whether `model` may be a path.
            config: a config.json as text, to plan for in place of `model`'s (`inspect_config`).
            numbers: `context_len`, `batch_size`, `dtype` and `tensor_parallel`, as `inspect_model` takes them.

        Raises:
            HfJaxDemoError: what `inspect_model` or `inspect_config` raises, or EngineClosedError.
        """
        answer: Future[Inspection] = Future()

        def task() -> Inspection:
            if config is None:
                return inspect_model(model, self.settings, _no_progress, allow_local, **numbers)
            return inspect_config(config, **numbers)

        with self._changed:
            self._check_open()
            self._tasks.append((task, answer))
            self._changed.notify_all()
        return answer.result()

    def _check_open(self) -> None:
        if self._failure:
            raise self._failure
        if not self.is_alive():
            raise EngineClosedError("The engine serves requests until it is closed, and it is closed. Start it again.")

    def close(self, timeout_s: float = 60.0) -> None:
        """Stops every request within one step, frees the model and ends the thread; waits up to `timeout_s` seconds."""
        with self._changed:
            self._is_closing = True
            for job in (*self._waiting, *self._running):
                job.stop_requested.set()
            self._changed.notify_all()
        if self._thread is not threading.current_thread() and self._failure is None:
            self._thread.join(timeout_s)
        if self._leader:
            self._leader.close()

    def _break(self, err: ClusterError) -> None:
        """Fails every request: a process of the mesh is gone, and a step that waits for it may never return.

        Called on another thread; the engine's own may be lost inside that step.
        """
        logger.error("%s", err)
        with self._changed:
            self._failure = err
            jobs = [*self._running, *self._waiting]
            answers = [answer for _, answer in self._tasks]
            for kept in (self._waiting, self._running, self._tasks):
                kept.clear()
            self._changed.notify_all()
        for answer in answers:
            answer.set_exception(err)
        for job in jobs:
            job.error = err
            job.tell(_failed_event(err))

    # The rest runs on the engine's thread.

    def _serve(self) -> None:
        self._environment = environment_facts(make_mesh(1))
        while self._admit():
            while self._tasks:
                self._work(functools.partial(_answer, *self._tasks.popleft()))
            for job in list(self._running):
                self._work(functools.partial(self._advance, job))
        if self._failure is None:
            self._worker.free()

    def _work(self, piece: Callable[[], None]) -> None:
        """Does one piece of work, a step or a task, and keeps since when."""
        self._busy_since = time.perf_counter()
        piece()
        self._busy_since = None

    def _admit(self) -> bool:
        """Waits for work and moves waiting requests into running places; False when closed and nothing is left."""
        with self._changed:
            while not (self._waiting or self._running or self._tasks or self._is_closing or self._failure):
                self._changed.wait()
            while self._waiting and len(self._running) < MAX_RUNNING:
                self._running.append(self._waiting.popleft())
                for place, job in enumerate(self._waiting):
                    job.tell(QueuedEvent(place + len(self._running)))
            return bool(self._running or self._tasks)

    def _advance(self, job: Job) -> None:
        """One step of one request: load and prepare it, or decode one token; ends it when it is done."""
        try:
            if job.generation is None:
                job.generation = self._prepare(job)
                job.started = time.perf_counter()
                job.tell(job.generation.started_event())
            if job.stop_requested.is_set():
                self._finish(job, "stopped")
                return
            job.tell(self._worker.advance(job.id))
            if job.generation.finish_reason:
                self._finish(job, job.generation.finish_reason)
            elif self._is_out_of_time(job):
                self._finish(job, "time_limit")
        except _StoppedError:
            self._fail(job, RequestStoppedError("The request was stopped before its first token. Send it again."))
        except HfJaxDemoError as err:
            self._fail(job, err)
        except Exception as err:
            if self._leader and self._leader.verdict(VERDICT_WITHIN_S):
                return  # `_break` has told everybody why
            logger.exception("request %s failed", job.id)
            self._fail(job, err)

    def _prepare(self, job: Job) -> Generation:
        if job.stop_requested.is_set():
            raise _StoppedError
        check_devices(job.request, self._environment)  # a request may have come before JAX was up
        entry = find_in_catalog(job.request.model)
        name = entry.name if entry else job.request.model
        key = ModelKey(name, job.request.dtype, job.request.tensor_parallel, job.allow_local)
        if self._worker.model is None or self._worker.model.key != key:
            self._load(key, job)
        return self._worker.start(job.id, job.request, job.tell)

    def _is_out_of_time(self, job: Job) -> bool:
        """Whether a visitor's request has run as long as it may; the operator's own are not limited."""
        assert job.started is not None
        return not job.allow_local and time.perf_counter() - job.started > self.settings.time_limit_s

    def _load(self, key: ModelKey, job: Job) -> None:
        """Loads `key`'s model for a request, which is told how far it is."""
        started = time.perf_counter()

        def progress(stage: str, fraction: float | None) -> None:
            if job.stop_requested.is_set():
                raise _StoppedError
            # A download may take longer than any step: each part of it is a sign of life.
            self._busy_since = time.perf_counter()
            job.tell(LoadingEvent(stage, fraction, time.perf_counter() - started))

        self._worker.load(key, progress)
        job.load_s = time.perf_counter() - started

    def _finish(self, job: Job, finish_reason: str) -> None:
        self._leave(job, FinishedEvent(self._worker.record(job.id, finish_reason, job.load_s)))

    def _fail(self, job: Job, err: Exception) -> None:
        job.error = err
        self._leave(job, _failed_event(err))

    def _leave(self, job: Job, last_event: FinishedEvent | FailedEvent) -> None:
        """Drops the request and its cache, then tells it: whoever reads the last event finds the engine free."""
        job.generation = None
        self._worker.end(job.id)
        with self._changed:
            if job not in self._running:
                return  # `_break` was quicker and has told it
            self._running.remove(job)
        job.tell(last_event)


def _answer(task: Callable[[], Inspection], answer: "Future[Inspection]") -> None:
    try:
        answer.set_result(task())
    except Exception as err:
        answer.set_exception(err)


def _failed_event(err: Exception) -> FailedEvent:
    message = str(err) if isinstance(err, HfJaxDemoError) else INTERNAL_ERROR
    return FailedEvent(type(err).__name__, message, getattr(err, "field", None))


def _no_progress(stage: str, fraction: float | None) -> None:
    """Whoever inspects waits without being told how far it is: a config is small."""
