"""What JAX traced, lowered and compiled, and for how long, taken from `jax.monitoring`.

JAX reports each trace, lowering and XLA compilation as a time span with the function's name, in the thread that does it.
Spans nest (tracing a step traces the functions it calls), so seconds are the length of their union, never their sum.
Knows nothing of requests or programs.
"""

import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import jax.monitoring

from hfjax_demo.events import CompiledProgram

TRACE_EVENTS = ("/jax/core/compile/jaxpr_trace_duration", "/jax/core/compile/jaxpr_to_mlir_module_duration")
COMPILE_EVENT = "/jax/core/compile/backend_compile_duration"


@dataclass(frozen=True)
class Span:
    """One reported piece of work: `start` and `end` in seconds since the epoch."""

    event: str
    name: str
    start: float
    end: float


@dataclass
class CompileLog:
    """The spans of one recording."""

    spans: list[Span] = field(default_factory=list)

    @property
    def num_compiles(self) -> int:
        """XLA compilations, programs taken from JAX's persistent cache included."""
        return sum(span.event == COMPILE_EVENT for span in self.spans)

    @property
    def trace_s(self) -> float:
        """Seconds spent tracing and lowering, nested work counted once, compiling left out."""
        return union_s(self.spans) - self.compile_s

    @property
    def compile_s(self) -> float:
        """Seconds spent in XLA."""
        return union_s([span for span in self.spans if span.event == COMPILE_EVENT])

    def programs(self, reasons: dict[str, str]) -> tuple[CompiledProgram, ...]:
        """What was compiled, by name, slowest first; `reasons` says why, for the names it knows.

        A span that lies inside another name's span (a function traced while tracing its caller) is its caller's.
        """
        by_name: dict[str, list[Span]] = defaultdict(list)
        for span in self.spans:
            if not any(_inside(span, other) for other in self.spans):
                by_name[span.name].append(span)
        programs = [
            CompiledProgram(
                name=name,
                count=sum(span.event == COMPILE_EVENT for span in spans),
                trace_s=union_s([span for span in spans if span.event != COMPILE_EVENT]),
                compile_s=union_s([span for span in spans if span.event == COMPILE_EVENT]),
                reason=reasons.get(name, ""),
            )
            for name, spans in by_name.items()
        ]
        return tuple(sorted(programs, key=lambda program: -(program.trace_s + program.compile_s)))


def union_s(spans: list[Span]) -> float:
    """Length in seconds of the union of the spans."""
    total, covered_to = 0.0, float("-inf")
    for span in sorted(spans, key=lambda span: span.start):
        total += max(0.0, span.end - max(span.start, covered_to))
        covered_to = max(covered_to, span.end)
    return total


def _inside(span: Span, other: Span) -> bool:
    return span is not other and other.name != span.name and other.start <= span.start and span.end <= other.end


_current = threading.local()
_register_lock = threading.Lock()
_is_registered = False


@contextmanager
def recording() -> Iterator[CompileLog]:
    """Records what this thread traces and compiles inside the block; blocks do not nest."""
    _register()
    log = CompileLog()
    _current.log = log
    try:
        yield log
    finally:
        _current.log = None


def _register() -> None:
    global _is_registered
    with _register_lock:
        if not _is_registered:
            jax.monitoring.register_event_time_span_listener(_on_span)
            _is_registered = True


def _on_span(event: str, start_time: float, end_time: float, **kwargs: str | int) -> None:
    log: CompileLog | None = getattr(_current, "log", None)
    if log is not None and (event == COMPILE_EVENT or event in TRACE_EVENTS):
        log.spans.append(Span(event, str(kwargs.get("fun_name", "?")), start_time, end_time))
