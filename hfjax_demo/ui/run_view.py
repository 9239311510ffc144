"""What the page shows of one run: a fold over its events into plain data that the run panel draws.

A live run and a replayed record go through the same fold, so they look the same. Holds strings and numbers only, and
never HTML: the panel writes them as text. Knows nothing of gradio.
"""

import time
from collections.abc import Callable, Iterator
from typing import Any

from hfjax_demo.errors import readable_bytes
from hfjax_demo.events import (
    CompilingEvent,
    Event,
    FailedEvent,
    FinishedEvent,
    LoadingEvent,
    QueuedEvent,
    RunRecord,
    StartedEvent,
    StepEvent,
)
from hfjax_demo.plots.hover_text import shown_text
from hfjax_demo.requests import CacheKind, GenerationRequest
from hfjax_demo.ui.words import plural, seconds, setting_words

CACHE_INTERVAL_S = 0.1
"""The cache picture changes at most ten times a second; text changes at every token."""
DETAIL_INTERVAL_S = 0.5
"""Step bars and the table of compilations change at most twice a second."""
MAX_NAME_CHARS = 96
MAX_COMPILED_ROWS = 60
MAX_BARS = 160
"""Step bars: the last ones; the timeline below has them all."""

FINISH_WORDS = {
    "eos": "the model ended the text",
    "length": "all tokens asked for",
    "stopped": "stopped",
    "time_limit": "stopped at the time limit",
}


class RunView:
    """One run as the panel shows it. Feed it events with `apply`, then read `state`.

    Attributes:
        record: the finished run; None before.
        is_over: whether the last event has come.
    """

    def __init__(
        self, request: GenerationRequest, note: str = "", least_columns: int = 0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """A run that has not begun.

        Args:
            request: what was asked.
            note: shown above the run, such as "recorded on ...".
            least_columns: positions that the cache picture spans at least, so that two pictures have one scale.
            clock: seconds; replaced in tests.
        """
        self.request = request
        self.record: RunRecord | None = None
        self.is_over = False
        self._clock = clock
        self._least_columns = least_columns
        self._steps: list[StepEvent] = []
        self._text: list[str] = []
        self._prompt_len = 0
        self._capacity: int | None = None
        self._num_layers = 0
        self._decode_s = self._trace_s = self._compile_s = 0.0
        self._num_compiles = 0
        self._refreshed_at = {"kv": float("-inf"), "detail": float("-inf")}
        self._state: dict[str, Any] = {
            "phase": "waiting",
            "title": f"{shown_text(request.model, MAX_NAME_CHARS)} · {setting_words(request)}",
            "note": note,
            "status": "sending",
            "detail": "",
            "fraction": None,
            "has_clock": True,
            "prompt": request.prompt,
            "is_chat": request.chat,
            "text": "",
            "different_text": "",
            "error": "",
            "numbers": self._numbers(),
            "kv": self._kv(),
            "steps": {"first": 0, "shown": []},
            "compiled": [],
        }

    @classmethod
    def of_record(cls, record: RunRecord, note: str = "", least_columns: int = 0) -> "RunView":
        """A finished run, replayed: every event of `record` once more, without a model."""
        view = cls(record.request, note, least_columns)
        for event in events_of(record):
            view.apply(event)
        return view

    def mark_difference(self, token_index: int) -> None:
        """Marks the text from the first token that differs from another run's to the end."""
        self._state["text"] = "".join(self._text[:token_index])
        self._state["different_text"] = "".join(self._text[token_index:])

    @property
    def columns(self) -> int:
        """Positions that the cache picture spans."""
        columns: int = self._state["kv"]["columns"]
        return columns

    def state(self) -> dict[str, Any]:
        """What the panel draws, as JSON-ready values; a new dict each time."""
        return dict(self._state)

    def apply(self, event: Event) -> None:
        """Takes in one event."""
        match event:
            case QueuedEvent(place):
                before = f"{plural(place, 'run')} before this one" if place else "this run is next"
                self._say("waiting", f"waiting: {before}")
            case LoadingEvent(stage, fraction, _):
                percent = "" if fraction is None else f" {fraction:.0%}"
                self._say("loading", f"loading {self.request.model}: {stage}{percent}", fraction=fraction)
            case StartedEvent():
                self._start(event)
            case CompilingEvent(stage, program, reason):
                self._say("compiling", f"{stage} {program}", detail=reason)
            case StepEvent():
                self._add_step(event)
            case FinishedEvent(record):
                self._finish(record)
            case FailedEvent(error, message, _):
                self.is_over = True
                ending = "stopped before the first token" if error == "RequestStoppedError" else "this run failed"
                self._say("failed", ending, has_clock=False)
                self._state["error"] = message

    def _say(self, phase: str, status: str, detail: str = "", fraction: float | None = None, has_clock: bool = True) -> None:
        self._state |= {"phase": phase, "status": status, "detail": detail, "fraction": fraction, "has_clock": has_clock}

    def _start(self, event: StartedEvent) -> None:
        self._prompt_len, self._capacity = len(event.prompt_ids), event.capacity
        self._num_layers = event.model.num_layers
        self._say("running", f"reading the prompt: {plural(self._prompt_len, 'token')} on {event.environment.backend}")
        self._state["kv"] = self._kv()

    def _add_step(self, step: StepEvent) -> None:
        self._steps.append(step)
        self._text.append(step.text)
        self._trace_s += step.trace_s
        self._compile_s += step.compile_s
        self._num_compiles += step.num_compiles
        if step.phase == "decode":
            self._decode_s += step.duration_s - step.trace_s - step.compile_s
        done, most = len(self._steps), self.request.max_new_tokens
        self._say("running", f"decoding {done}/{most} · {self._speed()}{self._compiled_words()}", fraction=done / most)
        self._state["text"] = "".join(self._text)
        if self._is_due("kv", CACHE_INTERVAL_S):
            self._state |= {"kv": self._kv(), "numbers": self._numbers()}
        if self._is_due("detail", DETAIL_INTERVAL_S):
            self._refresh_details()

    def _finish(self, record: RunRecord) -> None:
        self.record, self.is_over = record, True
        ending = FINISH_WORDS.get(record.finish_reason, record.finish_reason)
        tokens = plural(len(record.token_ids), "token")
        self._say("done", f"done: {tokens}, {ending} · {self._speed()}{self._compiled_words()}", has_clock=False)
        self._state |= {"kv": self._kv(), "numbers": self._numbers()}
        self._refresh_details()

    def _refresh_details(self) -> None:
        last = self._steps[-MAX_BARS:]
        bars = [[round(value * 1000, 1) for value in (step.duration_s, step.trace_s, step.compile_s)] for step in last]
        self._state["steps"] = {"first": len(self._steps) - len(last), "shown": bars}
        self._state["compiled"] = compiled_rows(self._steps)

    def _is_due(self, part: str, interval_s: float) -> bool:
        now = self._clock()
        if now - self._refreshed_at[part] < interval_s:
            return False
        self._refreshed_at[part] = now
        return True

    def _speed(self) -> str:
        num_decoded = len(self._steps) - 1
        return f"{num_decoded / self._decode_s:.1f} tokens/s" if num_decoded > 0 and self._decode_s > 0 else "first token"

    def _compiled_words(self) -> str:
        """Cold or warm, in words: what this run has compiled so far and whether the last step still did."""
        if not self._num_compiles:
            return " · warm: compiled nothing, every program was ready"
        noun = "program" if self.request.mode == "jit" else "operator"
        words = f" · compiled {plural(self._num_compiles, noun)} in {seconds(self._trace_s + self._compile_s)}"
        last = self._steps[-1].num_compiles
        return f"{words}, {last} of them in the last step" if last else f"{words}, then 0"

    def _numbers(self) -> list[dict[str, str]]:
        """The numbers that stay: label, value and how it was measured."""
        first, summary = (self._steps[0] if self._steps else None), (self.record.summary if self.record else None)
        num_decoded = max(0, len(self._steps) - 1)
        cold = "cold" if self._num_compiles else "warm"
        rows = [
            ("first token", first and seconds(first.duration_s), f"Prefill with its tracing and compiling: {cold}."),
            (
                "prefill",
                first and seconds(first.duration_s - first.trace_s - first.compile_s),
                "Reading the prompt, wall time on the engine's thread, tracing and compiling left out.",
            ),
            (
                "compile",
                first and seconds(self._trace_s + self._compile_s),
                f"Tracing {seconds(self._trace_s)} and XLA {seconds(self._compile_s)}, all steps; from jax.monitoring.",
            ),
            (
                "decode",
                num_decoded and seconds(self._decode_s),
                f"{plural(num_decoded, 'step')} after the first token, tracing and compiling left out.",
            ),
            (
                "tokens/s",
                num_decoded and self._decode_s > 0 and f"{num_decoded / self._decode_s:.1f}",
                "Decode steps per second of decode: warm speed. Compiling is shown beside it, not hidden in it.",
            ),
            ("compilations", first and f"{self._num_compiles:,}", "XLA compilations in this run; 0 means warm."),
            (
                "peak memory",
                summary and readable_bytes(summary.peak_rss_bytes),
                "The most resident memory the server's process has had so far, all runs.",
            ),
        ]
        return [{"label": label, "value": value or "–", "hint": hint} for label, value, hint in rows]

    def _kv(self) -> dict[str, Any]:
        """The cache after the last step: its shape in words, bytes, positions, and the article's line."""
        last = self._steps[-1] if self._steps else None
        kind = self.request.cache_kind
        layers = [layer for layer in last.kv if layer.key_shape] if last else []
        columns = max(self._least_columns, self._capacity or self._prompt_len + self.request.max_new_tokens - 1)
        kv: dict[str, Any] = {
            "kind": str(kind),
            "num_layers": len(last.kv) if last and last.kv else self._num_layers,
            "layer_kinds": [layer.kind for layer in last.kv] if last and len({layer.kind for layer in last.kv}) > 1 else [],
            "columns": columns,
            "capacity": self._capacity,
            "prompt_len": self._prompt_len,
            "filled_len": last.filled_len if last and last.kv else 0,
            "shape": "",
            "bytes": "",
            "layer_shape": "",
            "iteration": iteration_line(last, kind) if last else "",
        }
        if last and layers:
            shapes = {layer.key_shape for layer in layers} | {layer.value_shape for layer in layers}
            shape = str(layers[0].key_shape) if len(shapes) == 1 else f"{layers[0].key_shape} …"
            kv |= {
                "shape": f"{len(layers)} layers × 2 × {shape}",
                "bytes": f"{last.kv_bytes / 1e6:.2f} MB",
                "layer_shape": f"K {layers[0].key_shape}, V {layers[0].value_shape}",
            }
        return kv


def iteration_line(step: StepEvent, kind: CacheKind) -> str:
    """The source article's line for a step: `iter 7: (1, 1), kvcache(14) → (1, 1), kvcache(15)`."""
    if kind is CacheKind.NONE:
        return f"iter {step.index}: {step.input_shape} → {step.output_shape}"
    return (
        f"iter {step.index}: {step.input_shape}, kvcache({step.seen_len}) → {step.output_shape}, kvcache({step.filled_len})"
    )


def compiled_rows(steps: list[StepEvent]) -> list[dict[str, str]]:
    """What was compiled and why, one row a name and reason: steps, how often, seconds; 60 rows, then one for the rest.

    The same operator compiled at many steps is one row that names them.
    """
    found: dict[tuple[str, str], list[Any]] = {}
    for step in steps:
        for program in step.compiled:
            row = found.setdefault((program.name, program.reason), [step.index, step.index, 0, 0.0])
            row[1], row[2], row[3] = step.index, row[2] + program.count, row[3] + program.trace_s + program.compile_s
    rows = sorted(found.items(), key=lambda item: -item[1][3])
    shown = [
        {
            "steps": str(first) if first == last else f"{first} to {last}",
            "name": name,
            "count": str(count),
            "seconds": seconds(spent_s),
            "reason": reason or "first use of this operator at these shapes",
        }
        for (name, reason), (first, last, count, spent_s) in rows[:MAX_COMPILED_ROWS]
    ]
    if len(rows) > MAX_COMPILED_ROWS:
        count = sum(row[2] for _, row in rows[MAX_COMPILED_ROWS:])
        spent_s = sum(row[3] for _, row in rows[MAX_COMPILED_ROWS:])
        more = {"steps": "", "name": f"{len(rows) - MAX_COMPILED_ROWS} more", "count": str(count)}
        shown.append(more | {"seconds": seconds(spent_s), "reason": "each took less time than those above"})
    return shown


def events_of(record: RunRecord) -> Iterator[Event]:
    """The events that matter of a finished run, in their order."""
    fixed = next((layer.capacity for step in record.steps for layer in step.kv if layer.key_shape), None)
    capacity = fixed if record.request.cache_kind is CacheKind.STATIC else None
    yield StartedEvent(record.model, record.environment, record.prompt_ids, capacity)
    yield from record.steps
    yield FinishedEvent(record)
