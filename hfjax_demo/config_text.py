"""A config that somebody gave as text: is it JSON, an object, small, and are its numbers ones a model could have?

Every bound is checked before any library sees the config, because building even a weightless model takes time and memory
for each layer, head and expert named. Knows nothing of Transformers or of what a config means beyond its fields' names.
"""

import json
import re
from typing import Any, NoReturn

from hfjax_demo.errors import InvalidRequestError, readable_bytes
from hfjax_demo.requests import shown_value

FIELD = "config"
MAX_CONFIG_BYTES = 256_000
"""The longest public ones (a name for each of a few thousand labels) have about 200 kB; most have 2."""
MAX_DEPTH = 12
MAX_LAYERS = 512
MAX_HEADS = 4_096
MAX_EXPERTS = 4_096
MAX_SIZE = 2**20
MAX_VOCABULARY = 2**24
MAX_POSITIONS = 100_000_000
MAX_NUMBER = 10**12
MUST_BE_POSITIVE = frozenset(
    [
        *("hidden_size", "n_embd", "d_model", "intermediate_size", "ffn_dim", "head_dim", "vocab_size"),
        *("num_hidden_layers", "num_layers", "n_layers", "n_layer", "max_position_embeddings", "n_positions"),
        *("num_attention_heads", "n_head", "num_key_value_heads", "num_kv_heads"),
    ]
)

_BOUNDS: tuple[tuple[re.Pattern[str], int], ...] = (
    (re.compile(r"(^|_)layers?$"), MAX_LAYERS),
    (re.compile(r"(^|_)heads?(_kv)?$|query_groups$|group_num$"), MAX_HEADS),
    (re.compile(r"experts(_per_tok|_per_token)?$|^num_experts"), MAX_EXPERTS),
    (re.compile(r"vocab_size"), MAX_VOCABULARY),
    (re.compile(r"position|_length$|_len$|_window$|n_ctx$"), MAX_POSITIONS),
    (re.compile(r"_(size|dim|rank|channels|embe?d|inner)s?$|d_model$|^d_|n_embd$"), MAX_SIZE),
)
"""What the name of a field says its value may be at most; the first that matches."""


def parse_config(text: str) -> dict[str, Any]:
    """The config that `text` is, every number of it within bounds.

    Raises:
        InvalidRequestError: of the field "config", with the rule, the numbers and a way out.
    """
    if not isinstance(text, str):
        raise _refused(f"A config must be sent as text but is {shown_value(text)}. Send the config.json's text.")
    num_bytes = len(text.encode("utf-8", errors="replace"))
    if num_bytes > MAX_CONFIG_BYTES:
        raise _refused(
            f"A config may have at most {MAX_CONFIG_BYTES // 1000} kB but this has {readable_bytes(num_bytes)}. Give the "
            "model's config.json alone."
        )
    try:
        values = json.loads(text, parse_constant=_not_finite)
    except RecursionError:
        raise _refused(_too_deep()) from None
    except ValueError as err:
        place = f"line {err.lineno}, column {err.colno}: {err.msg}" if isinstance(err, json.JSONDecodeError) else str(err)
        raise _refused(f"A config must be JSON but this is not ({place[:120]}). Give the model's config.json.") from None
    if not isinstance(values, dict):
        raise _refused(
            f"A config must be a JSON object, {{...}}, but this is {shown_value(values)}. Give the model's config.json."
        )
    _check_values(values, "", 1)
    model_type = values.get("model_type")
    if not isinstance(model_type, str) or not model_type:
        found = "has none" if model_type is None else f"has {shown_value(model_type)}"
        raise _refused(
            f'A config must name its model_type, such as "llama", but this {found}. Add it, or give the whole config.json.'
        )
    return values


def _check_values(values: dict[str, Any], path: str, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise _refused(_too_deep())
    for name, value in values.items():
        _check_value(name, value, f"{path}{name[:80]}", depth)


def _check_value(name: str, value: Any, path: str, depth: int) -> None:
    if isinstance(value, dict):
        _check_values(value, f"{path}.", depth + 1)
    elif isinstance(value, list):
        if depth >= MAX_DEPTH:
            raise _refused(_too_deep())
        for index, item in enumerate(value):
            _check_value(name, item, f"{path}[{index}]", depth + 1)
    elif name in MUST_BE_POSITIVE and value is not None:
        if isinstance(value, bool) or not isinstance(value, int):
            raise _refused(f"{path} must be a whole number but is {shown_value(value)}. Correct the config.")
        _check_range(path, value, 1, _most(name))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        _check_range(path, value, -1 if _most(name) < MAX_NUMBER else -MAX_NUMBER, _most(name))


def _check_range(path: str, value: float, least: int, most: int) -> None:
    if not least <= value <= most:
        raise _refused(f"{path} must be from {least:,} to {most:,} but is {shown_value(value)}. Correct the config.")


def _most(name: str) -> int:
    return next((most for pattern, most in _BOUNDS if pattern.search(name)), MAX_NUMBER)


def _not_finite(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number of JSON")


def _too_deep() -> str:
    return f"A config may nest at most {MAX_DEPTH} levels but this goes deeper. Give the model's config.json."


def _refused(message: str) -> InvalidRequestError:
    return InvalidRequestError(message, field=FIELD)
