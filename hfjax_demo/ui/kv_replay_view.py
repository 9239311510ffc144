"""What the KV-cache replay shows of a run: every step's shapes, positions, bytes and compilations, as plain data.

Pure functions of records. Holds strings and numbers only, and never HTML: the replay's script writes them as text. Knows
nothing of gradio.
"""

from itertools import groupby
from typing import Any

from hfjax_demo.errors import readable_bytes
from hfjax_demo.events import LayerState, ModelFacts, RunRecord, StepEvent
from hfjax_demo.plots.hover_text import quoted_token, shown_text
from hfjax_demo.plots.norm_rows import token_at
from hfjax_demo.requests import CacheKind
from hfjax_demo.ui.run_view import compiled_rows, iteration_line
from hfjax_demo.ui.words import plural, seconds, setting_words

MAX_STEPS = 1024
"""Steps that the slider reaches; a run's beginning has all there is to see."""
MAX_TOKENS = 4096
"""Positions whose tokens can be read off the picture."""
MAX_COMPILED_ROWS = 12
MAX_NAME_CHARS = 96

KIND_WORDS = {
    "full_attention": "full attention",
    "sliding_attention": "sliding window",
    "shared": "no keys and values of its own: it reads another layer's",
}


def replay_view(records: list[RunRecord], notes: list[str]) -> dict[str, Any]:
    """What the script draws: the runs side by side, on one scale of positions and of time.

    Args:
        records: one run or two, the left one first.
        notes: for each, what is said above it, such as that it was recorded.
    """
    views = [_run_view(record, note) for record, note in zip(records, notes, strict=True)]
    return {
        "runs": views,
        "columns": max((view["columns"] for view in views), default=1),
        "num_steps": max((len(view["steps"]) for view in views), default=0),
        "verdict": why_words(records),
    }


def why_words(records: list[RunRecord]) -> str:
    """Why one of two runs compiles at every step and the other does not, with their numbers; empty for one run."""
    if len(records) < 2:
        return ""
    return " ".join(_why(record) for record in records)


def _why(record: RunRecord) -> str:
    decode = [step for step in record.steps if step.phase == "decode"]
    compiling = sum(bool(step.num_compiles) for step in decode)
    num_compiles = sum(step.num_compiles for step in decode)
    setting = setting_words(record.request)
    kind = record.request.cache_kind
    shapes = {layer.key_shape for step in decode for layer in step.kv if layer.key_shape}
    if kind is CacheKind.NONE:
        cause = "the whole text is read again at every step, so its length changes every time"
    elif len(shapes) > 1:
        cause = f"the cache had {len(shapes)} shapes in {plural(len(decode), 'step')}"
    else:
        cause = "the cache kept one shape"
    effect = (
        f"{compiling} of {plural(len(decode), 'decode step')} compiled, {plural(num_compiles, 'compilation')} in all"
        if compiling
        else f"none of {plural(len(decode), 'decode step')} compiled anything"
    )
    return f"{setting}: {cause}; {effect}."


def _run_view(record: RunRecord, note: str) -> dict[str, Any]:
    kind = record.request.cache_kind
    steps = record.steps[:MAX_STEPS]
    return {
        "title": f"{shown_text(record.request.model, MAX_NAME_CHARS)} · {setting_words(record.request)}",
        "note": note,
        "kind": str(kind),
        "heads": heads_words(record.model),
        "prompt_len": len(record.prompt_ids),
        "tokens": [token_at(record, position) for position in range(min(_num_read(record), MAX_TOKENS))],
        "columns": max([1, *(layer.capacity for step in steps for layer in step.kv), *_lengths(kind, steps)]),
        "longest_ms": round(1000 * max((step.duration_s for step in steps), default=0.0), 1),
        "left_out": len(record.steps) - len(steps),
        "steps": [_step_view(step, kind) for step in steps],
    }


def _num_read(record: RunRecord) -> int:
    """Tokens the model read: the prompt and every new one but the last."""
    return len(record.prompt_ids) + max(0, len(record.steps) - 1)


def _lengths(kind: CacheKind, steps: tuple[StepEvent, ...]) -> list[int]:
    return [step.filled_len for step in steps] if kind is CacheKind.NONE else []


def heads_words(model: ModelFacts) -> str:
    """Query heads against KV heads, in words."""
    queries, keys = model.num_attention_heads, model.num_kv_heads
    if not keys:
        return "no layer with keys and values"
    if keys == queries:
        return f"{plural(queries, 'query head')}, each with keys and values of its own (multi-head attention)"
    if keys == 1:
        return f"{queries} query heads share one KV head (multi-query attention)"
    return f"{queries} query heads share {keys} KV heads (grouped-query attention): {queries / keys:g} to one"


def _step_view(step: StepEvent, kind: CacheKind) -> dict[str, Any]:
    made_s = step.trace_s + step.compile_s
    compiled = compiled_rows([step])
    return {
        "index": step.index,
        "phase": step.phase,
        "token": quoted_token(step),
        "input": str(step.input_shape),
        "output": str(step.output_shape),
        "iteration": iteration_line(step, kind),
        "seen": step.seen_len,
        "filled": step.filled_len,
        "bytes": readable_bytes(step.kv_bytes) if step.kv else "",
        "ms": [round(1000 * step.duration_s, 1), round(1000 * made_s, 1)],
        "took": f"{seconds(step.duration_s)}, of it {seconds(made_s)} tracing and compiling",
        "num_compiles": step.num_compiles,
        "compiled": compiled[:MAX_COMPILED_ROWS],
        "more_compiled": max(0, len(compiled) - MAX_COMPILED_ROWS),
        "layers": layer_groups(step.kv),
    }


def layer_groups(layers: tuple[LayerState, ...]) -> list[list[Any]]:
    """Runs of equal layers: first, last, kind in words, key and value shape, positions filled, capacity, bytes of each.

    A model's layers are mostly alike, and a step has dozens: equal neighbours are told once.
    """

    def alike(layer: LayerState) -> tuple[Any, ...]:
        shapes = (layer.key_shape, layer.value_shape)
        return (layer.kind, *shapes, layer.filled_len, layer.capacity, layer.bytes)

    groups = []
    for (kind, key_shape, value_shape, filled, capacity, num_bytes), members in groupby(layers, alike):
        indexes = [layer.layer for layer in members]
        shapes = (str(key_shape) if key_shape else "", str(value_shape) if value_shape else "")
        groups.append([indexes[0], indexes[-1], KIND_WORDS.get(kind, kind), *shapes, filled, capacity, num_bytes])
    return groups


def steps_table(record: RunRecord) -> tuple[list[str], list[list[object]]]:
    """The replay's numbers, a row for each step and each run of equal layers in it."""
    headers = ["Step", "Token", "Input shape", "Output shape", "Layers", "Kind", "Key shape", "Value shape"]
    headers += ["Filled (positions)", "Free (positions)", "Bytes of a layer", "Compilations"]
    rows: list[list[object]] = []
    for step in record.steps[:MAX_STEPS]:
        start: list[object] = [step.index, quoted_token(step), str(step.input_shape), str(step.output_shape)]
        for first, last, kind, key, value, filled, capacity, num_bytes in layer_groups(step.kv):
            layers = str(first) if first == last else f"{first} to {last}"
            rows.append([*start, layers, kind, key, value, filled, capacity - filled, num_bytes, step.num_compiles])
        if not step.kv:
            rows.append([*start, "none", "no cache", "", "", None, None, None, step.num_compiles])
    return headers, rows
