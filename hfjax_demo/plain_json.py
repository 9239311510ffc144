"""Events, records and requests to JSON and back, checked field by field against their type hints.

What comes back may be from anyone: a record is untrusted input until it has been parsed here. Knows nothing of what the
fields mean.
"""

import dataclasses
import functools
import math
import types
import typing
from collections.abc import Callable
from typing import Any, TypeVar

from hfjax_demo.errors import InvalidRequestError
from hfjax_demo.events import RECORD_SCHEMA, Event, RunRecord
from hfjax_demo.requests import shown_value

Plain = TypeVar("Plain")
Parser = Callable[[Any], Any]
LEAVES = frozenset({int, float, str, bool, type(None)})
MAX_NAMED = 4
"""Unknown names that a message repeats."""
EVENT_TYPES: dict[str, type] = {cls.__name__: cls for cls in typing.get_args(Event)}


def to_dict(event: object) -> Any:
    """A dataclass of plain data as JSON-ready dicts and lists; an `Event` also says its `type`."""
    plain = _plain(event)
    if type(event).__name__ in EVENT_TYPES:
        plain = {"type": type(event).__name__, **plain}
    return plain


def from_dict(cls: type[Plain], data: object) -> Plain:
    """The dataclass `cls` back from `to_dict`'s output, lists turned into the tuples they were.

    Raises:
        InvalidRequestError: `data` lacks a field, has one too many or one of another type, a number is not finite, a text
            is not Unicode, or a record is of another schema version.
    """
    if cls is RunRecord and isinstance(data, dict) and data.get("schema") != RECORD_SCHEMA:
        raise InvalidRequestError(
            f"A run record must have schema {RECORD_SCHEMA!r} but has {shown_value(data.get('schema'))}. Export it again "
            "with this version."
        )
    hint: Any = cls
    try:
        return typing.cast(Plain, _parser_of(hint)(data))
    except _MisfitError as err:
        place = f"{cls.__name__}{err.place}"
        raise InvalidRequestError(f"{place} {err.problem}. Export the record again.", field=place) from err


def event_from_dict(data: dict[str, Any]) -> Event:
    """An event back from `to_dict`'s output, by its `type`.

    Raises:
        InvalidRequestError: the type is unknown or a field does not fit it.
    """
    name = data.get("type")
    cls = EVENT_TYPES.get(name) if isinstance(name, str) else None
    if cls is None:
        raise InvalidRequestError(
            f"An event's type must be one of {', '.join(EVENT_TYPES)} but is {shown_value(name)}. Export it again."
        )
    return typing.cast(Event, from_dict(cls, {key: value for key, value in data.items() if key != "type"}))


def _plain(value: Any) -> Any:
    """What `dataclasses.asdict` gives, several times as fast: that copies every leaf, and a long run has a million."""
    kind: Any = type(value)
    if kind in LEAVES:
        return value
    if kind is tuple or kind is list:
        return kind([_plain(item) for item in value])
    if kind is dict:
        return {key: _plain(item) for key, item in value.items()}
    if names := _field_names(kind):
        return {name: _plain(getattr(value, name)) for name in names}
    return value


@functools.cache
def _field_names(kind: type) -> tuple[str, ...]:
    return tuple(field.name for field in dataclasses.fields(kind)) if dataclasses.is_dataclass(kind) else ()


class _MisfitError(Exception):
    """A value that does not fit its type hint: what is wrong, and where, put together from the inside out."""

    def __init__(self, problem: str) -> None:
        self.problem = problem
        self.place = ""

    def inside(self, place: str) -> "_MisfitError":
        """The same, one level further out."""
        self.place = place + self.place
        return self


@functools.cache
def _parser_of(kind: Any) -> Parser:
    """The function that turns JSON values into instances of the type hint `kind`."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return functools.partial(_parse_optional, _parser_of(next(arg for arg in args if arg is not type(None))))
    if origin is tuple:
        return functools.partial(_parse_tuple, _parser_of(args[0]))
    if origin is dict:
        return functools.partial(_parse_dict, _parser_of(args[1]))
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        fields = dataclasses.fields(kind)
        required = {field.name for field in fields if _is_required(field)}
        return functools.partial(
            _parse_dataclass, kind, required, {field.name: _parser_of(hints[field.name]) for field in fields}
        )
    if kind is float:
        return _parse_float
    if issubclass(kind, str):
        return functools.partial(_parse_text, kind)
    assert kind in (int, bool), f"no parser for {kind}"
    return functools.partial(_parse_exactly, kind)


def _parse_optional(parse: Parser, value: Any) -> Any:
    return None if value is None else parse(value)


def _parse_tuple(parse: Parser, value: Any) -> Any:
    if not isinstance(value, list | tuple):
        raise _wrong("a list", value)
    items = []
    try:
        for item in value:
            items.append(parse(item))
    except _MisfitError as err:
        raise err.inside(f"[{len(items)}]") from None
    return tuple(items)


def _parse_dict(parse: Parser, value: Any) -> Any:
    if not isinstance(value, dict):
        raise _wrong("an object", value)
    parsed = {}
    for key, item in value.items():
        _parse_text(str, key)
        try:
            parsed[key] = parse(item)
        except _MisfitError as err:
            raise err.inside(f"[{shown_value(key)}]") from None
    return parsed


def _parse_dataclass(kind: type, required: set[str], parsers: dict[str, Parser], value: Any) -> Any:
    if not isinstance(value, dict):
        raise _wrong("an object", value)
    if missing := required - value.keys():
        raise _MisfitError(f"lacks {', '.join(sorted(missing))}")
    if unknown := value.keys() - parsers.keys():
        raise _MisfitError(f"has unknown {', '.join(sorted(map(shown_value, unknown))[:MAX_NAMED])}")
    values = {}
    for name, item in value.items():
        try:
            values[name] = parsers[name](item)
        except _MisfitError as err:
            raise err.inside(f".{name}") from None
    return kind(**values)


def _parse_float(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _wrong("a number", value)
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise _MisfitError(f"must be a finite number but is {shown_value(value)}")
    return number


def _parse_text(kind: type[str], value: Any) -> str:
    if not isinstance(value, str):
        raise _wrong("text", value)
    try:
        value.encode("utf-8")
        return kind(value)
    except UnicodeEncodeError as err:
        raise _MisfitError(f"must be Unicode text but has a lone surrogate at character {err.start}") from None
    except ValueError:
        raise _MisfitError(f"may not be {shown_value(value)}") from None


def _parse_exactly(kind: type, value: Any) -> Any:
    if type(value) is not kind:
        raise _wrong("a whole number" if kind is int else "true or false", value)
    return value


def _wrong(expected: str, value: Any) -> _MisfitError:
    return _MisfitError(f"must be {expected} but is {shown_value(value)}")


def _is_required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
