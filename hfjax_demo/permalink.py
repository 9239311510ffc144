"""A request as a query string, and back: what a shared link says about the page's inputs.

A link may be written by anyone, so what it says is checked field by field and never acted on. Knows nothing of
addresses, the page or its components.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import Field, dataclass, fields
from urllib.parse import quote, unquote_to_bytes, urlencode

from hfjax_demo.errors import InvalidRequestError
from hfjax_demo.requests import ExecutionMode, GenerationRequest

MAX_QUERY_CHARS = 65536
"""A longer query is not read."""
MAX_VALUE_CHARS = 32
"""Characters of any value but the prompt and the model's name; the longest float has 24."""
TABS = ("generate", "compare", "kv-cache", "mesh", "history")
ALWAYS_WRITTEN = ("model", "prompt", "mode", "cache", "chat", "max_new_tokens")
FREE_TEXT = ("prompt", "model")
FLAGS = {"1": True, "0": False}
WHOLE = re.compile(r"-?[0-9]+")
REAL = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


@dataclass(frozen=True)
class LinkInputs:
    """What a link says, checked.

    Attributes:
        values: by `GenerationRequest`'s field names, those that were there and valid, as that class holds them.
        problems: one sentence for each field that was left out: the rule, the number, a way out.
        is_embed: whether `embed=1` asks for the page without its header.
        tab: the tab to open, None where the link names none that there is.
        wants_run: whether it says `run=1`; a run begins by a click, never by opening a link.
    """

    values: dict[str, object]
    problems: tuple[str, ...] = ()
    is_embed: bool = False
    tab: str | None = None
    wants_run: bool = False


def encode_permalink(request: GenerationRequest) -> str:
    """The request as a query string without its "?": UTF-8, percent-encoded, flags as 1 and 0.

    The names in `ALWAYS_WRITTEN` are, so that such a link means the same when a default changes; others only where
    they differ from their default. A query above `MAX_QUERY_CHARS` is still written, but not read again.
    """
    pairs = [
        (field.name, _text(getattr(request, field.name)))
        for field in fields(GenerationRequest)
        if field.name in ALWAYS_WRITTEN or getattr(request, field.name) != field.default
    ]
    return urlencode(pairs, quote_via=quote)


def decode_permalink(query: str | Mapping[str, str], tabs: tuple[str, ...] = TABS) -> LinkInputs:
    """The inputs that a link asks for; never raises, whatever it holds.

    Unknown names are ignored (trackers add them). Of a name that comes twice the last counts, as in
    `gr.Request.query_params`. A "%" that begins no escape stands for itself, as in browsers.

    Args:
        query: a query string, with or without its "?", or its decoded names and values.
        tabs: the names that `tab` may have.

    Returns:
        What was valid, and a sentence for each field that was not.
    """
    if too_long := _too_long(query):
        return LinkInputs(values={}, problems=(too_long,))
    given = dict(_pairs(query))
    values: dict[str, object] = {}
    problems: list[str] = []
    for field in fields(GenerationRequest):
        if field.name in given:
            try:
                values[field.name] = _value(field, given[field.name])
            except InvalidRequestError as err:
                problems.append(str(err))
    problems += _drop_illegal_cache(values)
    return LinkInputs(
        values=values,
        problems=tuple(problems),
        is_embed=given.get("embed") == b"1",
        tab=next((tab for tab in tabs if given.get("tab") == tab.encode()), None),
        wants_run=given.get("run") == b"1",
    )


def _text(value: object) -> str:
    return str(int(value)) if isinstance(value, bool) else str(value)


def _too_long(query: str | Mapping[str, str]) -> str | None:
    size = len(query) if isinstance(query, str) else sum(len(name) + len(value) for name, value in query.items())
    if size <= MAX_QUERY_CHARS:
        return None
    return (
        f"A link's inputs may have at most {MAX_QUERY_CHARS} characters but these have {size}, so none was read. Paste the "
        "prompt into the page instead."
    )


def _pairs(query: str | Mapping[str, str]) -> Iterator[tuple[str, bytes]]:
    """Names and values, escapes undone; bytes, because nothing says that a value is UTF-8."""
    if not isinstance(query, str):
        for name, value in query.items():
            yield name, value.encode("utf-8", "surrogatepass")
        return
    for pair in query.removeprefix("?").split("&"):
        raw_name, _, raw_value = pair.replace("+", " ").encode("utf-8", "surrogatepass").partition(b"=")
        yield unquote_to_bytes(raw_name).decode("utf-8", "replace"), unquote_to_bytes(raw_value)


def _value(field: Field[object], raw: bytes) -> object:
    """One value as `GenerationRequest` holds it.

    Raises:
        InvalidRequestError: it is not UTF-8, too long, or breaks the field's own rule.
    """
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as err:
        raise InvalidRequestError(
            f"A link's text must be UTF-8, but byte {err.start} of {field.name} is {raw[err.start]:#04x}. Copy the link "
            "again.",
            field=field.name,
        ) from err
    if field.name not in FREE_TEXT and len(text) > MAX_VALUE_CHARS:
        raise InvalidRequestError(
            f"{field.name} may have at most {MAX_VALUE_CHARS} characters in a link but has {len(text)}. Leave it out for "
            "the default.",
            field=field.name,
        )
    if field.type is bool:
        return _flag(field.name, text)
    # Eager runs with every cache, so this checks the cache's name alone.
    others = {"prompt": "x", "mode": ExecutionMode.EAGER}
    request = GenerationRequest(**others | {field.name: _number_or_text(field.type, text)})  # type: ignore[arg-type]
    return getattr(request, field.name)


def _flag(name: str, text: str) -> bool:
    if text not in FLAGS:
        raise InvalidRequestError(
            f"{name} must be 1 or 0 in a link but is {text!r}. Leave it out for the default.", field=name
        )
    return FLAGS[text]


def _number_or_text(kind: object, text: str) -> int | float | str:
    """`text` as a number where its field holds one; text that is no number is left to the field's rule to refuse."""
    if kind in (int, int | None) and WHOLE.fullmatch(text):
        return int(text)
    if kind is float and REAL.fullmatch(text):
        return float(text)
    return text


def _drop_illegal_cache(values: dict[str, object]) -> list[str]:
    """Takes out a cache that does not go with the link's mode (without one, the default), and says so."""
    together = {name: values[name] for name in ("mode", "cache") if name in values}
    try:
        GenerationRequest(prompt="x", **together)  # type: ignore[arg-type]
    except InvalidRequestError as err:
        del values["cache"]
        return [str(err)]
    return []
