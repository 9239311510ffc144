"""Bounds that every real run keeps, so that drawing a record from anyone neither hangs a page nor contradicts itself.

Types are `plain_json`'s to check. Knows nothing of files and of how a record is drawn.
"""

from dataclasses import fields, is_dataclass
from functools import cache
from itertools import zip_longest
from typing import Any

from hfjax_demo.cache_norms import MAX_COLUMNS, MAX_LEVELS_CHARS, decode_levels, num_columns
from hfjax_demo.errors import InvalidRequestError
from hfjax_demo.events import CacheNorms, LayerNorms, RunRecord
from hfjax_demo.requests import shown_value
from hfjax_demo.ui.mesh_check import mesh_problem

MAX_STEPS = 4096
"""A browser still draws that many bars in seconds."""
MAX_LAYERS = 1024
MAX_POSITIONS = 2**24
"""No model's context is longer."""
MAX_SECONDS = 1e7
CLOCK_SLACK_S = 1e-3
"""Seconds below 0 that a difference of clocks may give."""
MAX_WHOLE = 2**53 - 1
"""Above it JavaScript's numbers skip some."""
MAX_PER_SECOND = 1e9
MAX_TEXT_CHARS = 1_000_000
MAX_NAME_CHARS = 4096
MAX_NORM = 3.5e38
"""No float32 is greater."""
MAX_DIMENSIONS = 8
MAX_ITEMS = 1024
MAX_WEIGHTS = 16_384
"""Of any model's, ten times as many as the largest known ones have."""

MOST = {
    "num_layers": MAX_LAYERS,
    "layer": MAX_LAYERS,
    "max_new_tokens": MAX_POSITIONS,
    "max_cache_len": MAX_POSITIONS,
    "position": MAX_POSITIONS,
    "seen_len": MAX_POSITIONS,
    "filled_len": MAX_POSITIONS,
    "capacity": MAX_POSITIONS,
    "first_position": MAX_POSITIONS,
    "num_positions": MAX_POSITIONS,
    "positions_per_column": MAX_POSITIONS,
    "num_heads": MAX_POSITIONS,
    "key_max": MAX_NORM,
    "value_max": MAX_NORM,
    "tokens_per_s": MAX_PER_SECOND,
    "tokens_per_s_with_compile": MAX_PER_SECOND,
}
"""By field: the largest number; others have `MAX_WHOLE` or `MAX_SECONDS`."""
LEAST = {"eos_token_ids": -1}
"""By field: the smallest whole number, where it is not 0. A config may write -1 for no such token."""
LONGEST = {
    "steps": MAX_STEPS,
    "token_ids": MAX_STEPS,
    "prompt_ids": MAX_TEXT_CHARS,
    "prompt": MAX_TEXT_CHARS,
    "text": MAX_TEXT_CHARS,
    "kv": MAX_LAYERS,
    "input_shape": MAX_DIMENSIONS,
    "output_shape": MAX_DIMENSIONS,
    "key_shape": MAX_DIMENSIONS,
    "value_shape": MAX_DIMENSIONS,
    "prompt_texts": MAX_TEXT_CHARS,
    "layers": MAX_LAYERS,
    "keys": MAX_LEVELS_CHARS,
    "values": MAX_LEVELS_CHARS,
    "weights": MAX_WEIGHTS,
    "shape": MAX_DIMENSIONS,
    "shard_shape": MAX_DIMENSIONS,
    "spec": MAX_DIMENSIONS,
}
"""By field: the most items or characters; others have `MAX_ITEMS` or `MAX_NAME_CHARS`."""


def check_record(record: RunRecord) -> None:
    """Refuses what no run can have given.

    Raises:
        InvalidRequestError: a number is out of bounds, a list or a text too long, or the steps contradict the sums.
    """
    _check("record", record)
    if not record.steps:
        raise _refusal("steps must have at least one step but has none")
    if len(record.token_ids) != len(record.steps):
        raise _refusal(f"token_ids must have one token a step but has {len(record.token_ids)} for {len(record.steps)} steps")
    for index, (step, token_id) in enumerate(zip_longest(record.steps, record.token_ids)):
        if step.index != index or step.token_id != token_id:
            raise _refusal(
                f"step {index} must have that index and token {token_id} but has index {step.index}, token {step.token_id}"
            )
    if (joined := "".join(step.text for step in record.steps)) != record.text:
        raise _refusal(
            f"text must be the steps' texts joined but has {len(record.text)} characters, not these {len(joined)}"
        )
    if record.prompt_texts and len(record.prompt_texts) != len(record.prompt_ids):
        raise _refusal(
            f"prompt_texts must have one text a prompt token but has {len(record.prompt_texts)} for {len(record.prompt_ids)}"
        )
    if record.norms is not None:
        _check_norms(record.norms, len(record.prompt_ids) + len(record.token_ids) - 1)
    if record.mesh is not None and (problem := mesh_problem(record.mesh, record)):
        raise _refusal(problem)


def _check_norms(norms: CacheNorms, filled_len: int) -> None:
    """Checks what a map is drawn from: `filled_len` tokens have been read, the last new one has not."""
    if norms.positions_per_column < 1:
        raise _refusal("positions_per_column must be at least 1 but is 0")
    indices = [layer.layer for layer in norms.layers]
    if indices != sorted(set(indices)):
        raise _refusal("the layers of norms must ascend but do not")
    for layer in norms.layers:
        _check_layer_norms(layer, norms.positions_per_column, filled_len)
    first = min((layer.first_position for layer in norms.layers), default=filled_len)
    if first < filled_len and num_columns(first, filled_len - first, norms.positions_per_column) > MAX_COLUMNS:
        raise _refusal(f"norms may have at most {MAX_COLUMNS} columns but have more")
    if (chars := sum(len(layer.keys) + len(layer.values) for layer in norms.layers)) > MAX_LEVELS_CHARS:
        raise _refusal(f"norms may have at most {MAX_LEVELS_CHARS} characters of keys and values but have {chars}")


def _check_layer_norms(layer: LayerNorms, positions_per_column: int, filled_len: int) -> None:
    where = f"the norms of layer {layer.layer}"
    if layer.num_heads < 1 or layer.num_positions < 1:
        raise _refusal(f"{where} must have heads and positions but have {layer.num_heads} and {layer.num_positions}")
    if layer.first_position + layer.num_positions != filled_len:
        end = layer.first_position + layer.num_positions
        raise _refusal(f"{where} must end at the last of {filled_len} positions read but end at {end}")
    if min(layer.key_max, layer.value_max) < 0:
        raise _refusal(f"{where} must be 0 or more but are up to {layer.key_max:g} and {layer.value_max:g}")
    size = layer.num_heads * num_columns(layer.first_position, layer.num_positions, positions_per_column)
    for name, levels in (("keys", layer.keys), ("values", layer.values)):
        try:
            decoded = decode_levels(levels)
        except ValueError:
            raise _refusal(f"{where} must be base64 but {name} are not") from None
        if len(decoded) != size:
            raise _refusal(f"{where} must have a byte for each of {size} cells but {name} have {len(decoded)}")


def _check(name: str, value: Any) -> None:
    """Checks one field's value and all that is in it; numbers in a list have the list's bounds."""
    kind: Any = type(value)
    if kind is int:
        if not LEAST.get(name, 0) <= value <= MOST.get(name, MAX_WHOLE):
            raise _refusal(
                f"{name} must be from {LEAST.get(name, 0)} to {MOST.get(name, MAX_WHOLE)} but is {shown_value(value)}"
            )
    elif kind is float:
        if not -CLOCK_SLACK_S <= value <= MOST.get(name, MAX_SECONDS):
            raise _refusal(f"{name} must be from 0 to {MOST.get(name, MAX_SECONDS):.0f} but is {value:g}")
    elif isinstance(value, str):
        if len(value) > LONGEST.get(name, MAX_NAME_CHARS):
            most = LONGEST.get(name, MAX_NAME_CHARS)
            raise _refusal(f"{name} may have at most {most} characters but has {len(value)}")
    elif kind is tuple or kind is dict:
        if len(value) > LONGEST.get(name, MAX_ITEMS):
            raise _refusal(f"{name} may have at most {LONGEST.get(name, MAX_ITEMS)} items but has {len(value)}")
        for item in value.values() if kind is dict else value:
            _check(name, item)
    else:
        for field in _field_names(kind):
            _check(field, getattr(value, field))


@cache
def _field_names(kind: Any) -> tuple[str, ...]:
    return tuple(field.name for field in fields(kind)) if is_dataclass(kind) else ()


def _refusal(problem: str) -> InvalidRequestError:
    return InvalidRequestError(f"A run record must be one that a run can give: {problem}. Import a file that was exported.")
