"""Events, records and requests to JSON and back, checked field by field against their type hints.

What comes back may be from anyone: a record is untrusted input until it has been parsed here. Knows nothing of what the
fields mean.
"""

import dataclasses
import types
import typing
from typing import Any, TypeVar

from hfjax_demo.errors import InvalidRequestError
from hfjax_demo.events import RECORD_SCHEMA, Event, RunRecord

Plain = TypeVar("Plain")
EVENT_TYPES: dict[str, type] = {cls.__name__: cls for cls in typing.get_args(Event)}


def to_dict(event: object) -> Any:
    """A dataclass of plain data as JSON-ready dicts and lists; an `Event` also says its `type`."""
    plain = dataclasses.asdict(event)  # type: ignore[call-overload]
    if type(event).__name__ in EVENT_TYPES:
        plain = {"type": type(event).__name__, **plain}
    return plain


def from_dict(cls: type[Plain], data: object) -> Plain:
    """The dataclass `cls` back from `to_dict`'s output, lists turned into the tuples they were.

    Raises:
        InvalidRequestError: `data` lacks a field, has one of another type, or is of another schema version.
    """
    if cls is RunRecord and isinstance(data, dict) and data.get("schema") != RECORD_SCHEMA:
        raise InvalidRequestError(
            f"A run record must have schema {RECORD_SCHEMA!r} but has {data.get('schema')!r}. Export it again with this "
            "version."
        )
    return typing.cast(Plain, _parse(cls, data, cls.__name__))


def event_from_dict(data: dict[str, Any]) -> Event:
    """An event back from `to_dict`'s output, by its `type`.

    Raises:
        InvalidRequestError: the type is unknown or a field does not fit it.
    """
    cls = EVENT_TYPES.get(str(data.get("type")))
    if cls is None:
        raise InvalidRequestError(
            f"An event's type must be one of {', '.join(EVENT_TYPES)} but is {data.get('type')!r}. Export it again."
        )
    return typing.cast(Event, from_dict(cls, {key: value for key, value in data.items() if key != "type"}))


def _parse(kind: Any, value: object, path: str) -> object:
    """`value` as an instance of the type hint `kind`; `path` names it in errors."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in args:
            return None
        return _parse(next(arg for arg in args if arg is not type(None)), value, path)
    if origin is tuple and isinstance(value, list | tuple):
        return tuple(_parse(args[0], item, f"{path}[{index}]") for index, item in enumerate(value))
    if origin is dict and isinstance(value, dict):
        return {key: _parse(args[1], item, f"{path}.{key}") for key, item in value.items()}
    if dataclasses.is_dataclass(kind) and isinstance(kind, type) and isinstance(value, dict):
        return _parse_dataclass(kind, value, path)
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if isinstance(kind, type) and issubclass(kind, str) and isinstance(value, str):
        try:
            return kind(value)
        except ValueError as err:
            raise InvalidRequestError(f"{path} may not be {value!r}. Export the record again.", field=path) from err
    if kind in (int, bool) and type(value) is kind:
        return value
    expected = getattr(kind, "__name__", str(kind))
    raise InvalidRequestError(
        f"{path} must be {expected} but is {type(value).__name__}. Export the record again.", field=path
    )


def _parse_dataclass(kind: type, value: dict[str, Any], path: str) -> object:
    hints = typing.get_type_hints(kind)
    names = {field.name for field in dataclasses.fields(kind)}
    if missing := {field.name for field in dataclasses.fields(kind) if _is_required(field)} - value.keys():
        raise InvalidRequestError(f"{path} lacks {', '.join(sorted(missing))}. Export the record again.", field=path)
    if unknown := value.keys() - names:
        raise InvalidRequestError(f"{path} has unknown {', '.join(sorted(unknown))}. Export the record again.", field=path)
    return kind(**{name: _parse(hints[name], item, f"{path}.{name}") for name, item in value.items()})


def _is_required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
