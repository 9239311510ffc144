"""What a process does for requests: load a model, start a request, advance it, record it, give all back.

Process 0 of several (`Leader`) tells the others each of these before it does it; the others (`follower`) do the same through
a `Worker` of their own, so that every program over a mesh of all runs everywhere in the same order. Alone, it just does it.
Belongs to one thread; knows nothing of queues or streams.
"""

import contextlib
import dataclasses
from collections.abc import Callable
from typing import Any

from hfjax_demo.errors import ClusterError, InvalidRequestError
from hfjax_demo.events import CompilingEvent, RunRecord, StepEvent
from hfjax_demo.inference.device_mesh import spans_processes
from hfjax_demo.inference.generation import Generation
from hfjax_demo.inference.leader import Leader
from hfjax_demo.inference.loaded_model import LoadedModel, ModelKey
from hfjax_demo.inference.model_files import Progress
from hfjax_demo.inference.model_loading import find_model, load_model
from hfjax_demo.inference.programs import Programs
from hfjax_demo.requests import CacheKind, ExecutionMode, GenerationRequest
from hfjax_demo.settings import Settings

OTHERS_LOAD = "waiting until the other processes have loaded it"


class Worker:
    """One process's model, its programs and the requests that run on them.

    Attributes:
        model: loaded now, or None.
    """

    def __init__(self, settings: Settings, leader: Leader | None = None) -> None:
        """Loads nothing yet.

        Args:
            settings: the operator's.
            leader: of the other processes, where there are others and this is process 0.
        """
        self.model: LoadedModel | None = None
        self._settings = settings
        self._leader = leader
        self._programs: Programs | None = None
        self._generations: dict[str, Generation] = {}

    def load(self, key: ModelKey, progress: Progress) -> None:
        """Loads `key`'s model in place of the loaded one, which goes only once the new one is known to be good.

        Args:
            key: what to load, and over how many devices.
            progress: told what is happening; may raise to give up.

        Raises:
            HfJaxDemoError: see `find_model` and `load_model`; or another process could not load it.
        """
        found = find_model(key, self._settings, progress, self.model.held_bytes if self.model else 0)
        self.free()
        told = self._tell_others(key, "load", model=dataclasses.asdict(key))
        try:
            self.model = load_model(found, self._settings, progress)
            if told:
                self._wait_for_others(told, lambda: progress(OTHERS_LOAD, None))
        except BaseException:
            self._release(key, "free")
            self._free_own()
            raise

    def start(self, name: str, request: GenerationRequest, on_compile: Callable[[CompilingEvent], None]) -> Generation:
        """Begins a request on the loaded model.

        Args:
            name: of the request, until `end`.
            request: what was asked.
            on_compile: told just before a program is traced and compiled.

        Raises:
            InvalidRequestError: a rule that needs the model, or the mesh, is broken; nothing was allocated.
        """
        model = self._loaded()
        if spans_processes(model.key.tensor_parallel) and request.mode is ExecutionMode.EAGER:
            raise InvalidRequestError(
                "Eager mode dispatches one operator after the other, so its mesh must lie in one process, but a "
                f"tensor-parallel size of {request.tensor_parallel} lies on all of several. Use --mode jit, or "
                "--tensor-parallel 1.",
                field="mode",
            )
        if self._programs is None and request.cache_kind is not CacheKind.NONE:
            self._programs = Programs(model.causal_lm, model.mesh, model.kv_shardings)
        generation = Generation(request, model, self._programs, self._settings, on_compile)
        if told := self._tell_others(model.key, "start", name=name, request=request.to_dict()):
            try:
                self._wait_for_others(told, lambda: None)
            except ClusterError:
                self._release(model.key, "end", name=name)  # where it did start
                raise
        self._generations[name] = generation
        return generation

    def advance(self, name: str) -> StepEvent:
        """One step of a request."""
        self._tell_others(self._loaded().key, "advance", name=name)
        return self._generations[name].advance()

    def record(self, name: str, finish_reason: str, load_s: float) -> RunRecord:
        """A request's record so far; see `Generation.record`."""
        self._tell_others(self._loaded().key, "record", name=name)
        return self._generations[name].record(finish_reason, load_s)

    def end(self, name: str) -> None:
        """Drops a request and its cache; one that never started is none."""
        if self._generations.pop(name, None) and self.model:
            self._release(self.model.key, "end", name=name)

    def free(self) -> None:
        """Gives the model's memory back."""
        if self.model is not None:
            self._release(self.model.key, "free")
            self._free_own()

    def _free_own(self) -> None:
        self._generations.clear()
        self._programs = None
        if self.model is not None:
            self.model.delete()
            self.model = None

    def _loaded(self) -> LoadedModel:
        assert self.model is not None, "load before anything else"
        return self.model

    def _tell_others(self, key: ModelKey, do: str, **data: Any) -> int:
        """Tells the other processes, where the model lies on them too; the number to wait for, 0 where nobody was told."""
        if self._leader is None or not spans_processes(key.tensor_parallel):
            return 0
        return self._leader.tell(do, **data)

    def _release(self, key: ModelKey, do: str, **data: Any) -> None:
        """Tells the others to give something back; of a broken mesh there is nobody to tell."""
        with contextlib.suppress(ClusterError):
            self._tell_others(key, do, **data)

    def _wait_for_others(self, number: int, while_waiting: Callable[[], None]) -> None:
        assert self._leader is not None
        self._leader.wait(number, while_waiting)
