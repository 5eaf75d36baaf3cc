"""A log of everything that a scheduler was told, from which its run can be replayed: JSON lines.

The first line has the settings, every other one an event: `[now_s, "Tick", {}]`. Fields that have their default are
left out, bytes are written as hex. Whoever writes such a log begins with `encode_header(config)` and passes a `record`
to `Scheduler`; `replay` feeds the log to a new scheduler, which does the same again. Files are the caller's: nothing
here reads or writes any.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from enum import Enum
from functools import cache
from types import UnionType
from typing import Any, NamedTuple, Union, get_args, get_origin, get_type_hints

from actors.errors import ConfigurationError
from actors.scheduling.actions import Action
from actors.scheduling.config import SchedulerConfig
from actors.scheduling.core import Scheduler
from actors.scheduling.events import Event

VERSION = 1
_EVENTS: dict[str, Any] = {kind.__name__: kind for kind in get_args(Event)}


def encode_header(config: SchedulerConfig) -> str:
    """The first line of a log, without its end of line."""
    return json.dumps({"scheduler_events": VERSION, "config": _codec(SchedulerConfig).encode(config)})


def encode_event(now_s: float, event: Event) -> str:
    """A line of a log, without its end of line."""
    kind: Any = type(event)
    return json.dumps([now_s, kind.__name__, _codec(kind).encode(event)], separators=(",", ":"))


def decode_header(line: str) -> SchedulerConfig:
    """The settings in the first line of a log.

    :raises ValueError: it is no such line, or of another version.
    """
    try:
        header = json.loads(line)
        version = header["scheduler_events"]
        config: SchedulerConfig | None = None
        if version == VERSION:
            config = _codec(SchedulerConfig).decode(header["config"])
    except (ValueError, TypeError, KeyError, AttributeError, ConfigurationError) as error:
        raise ValueError(f"This is no log of a scheduler's events: {error!r}.") from None
    if config is None:
        raise ValueError(f"This log is of version {version!r}; version {VERSION} can be read.")
    return config


def decode_event(line: str) -> tuple[float, Event]:
    """The time and the event of a line of a log.

    :raises ValueError: it is no such line, for example because its end is missing.
    """
    try:
        now_s, name, values = json.loads(line)
        event: Event = _codec(_EVENTS[name]).decode(values)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"This is no event: {error!r}.") from None
    return now_s, event


def replay(lines: Iterable[str], *, validate: bool = False) -> Iterator[tuple[float, Event, list[Action]]]:
    """Feed a log to a new scheduler; yields (now_s, event, the actions that follow from it). Same log, same actions.

    With `validate` its invariants are checked after every event, which takes time in proportion to all that waits.

    :raises ValueError: a line cannot be read; what comes before it has been yielded.
    :raises AssertionError: an invariant is broken.
    """
    iterator = iter(lines)
    scheduler = Scheduler(decode_header(next(iterator, "")))
    for number, line in enumerate(iterator, start=2):
        try:
            now_s, event = decode_event(line)
        except ValueError as error:
            raise ValueError(f"Line {number}: {error}") from None
        actions = scheduler.handle(event, now_s)
        if validate:
            scheduler.validate()
        yield now_s, event, actions


class _Codec(NamedTuple):
    """How values of one type are turned into what JSON can say, and back."""

    encode: Callable[[Any], Any]
    decode: Callable[[Any], Any]


def _same(value: Any) -> Any:
    return value


@cache
def _codec(hint: Any) -> _Codec:
    """The codec of a type, by its hint: of a dataclass, or of anything that a field of one may be."""
    if hint in (int, float, str, bool):
        return _Codec(_same, _same)
    if hint is bytes:
        return _Codec(bytes.hex, bytes.fromhex)
    if isinstance(hint, type) and is_dataclass(hint):
        return _dataclass_codec(hint)
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return _optional_codec(arguments)
    if origin is frozenset:
        item = _codec(arguments[0])
        return _Codec(
            lambda values: sorted(map(item.encode, values)), lambda values: frozenset(map(item.decode, values))
        )
    if origin is tuple:
        return _tuple_codec(arguments)
    if origin is Mapping:  # of numbers by name
        return _Codec(dict, dict)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return _Codec(lambda member: member.value, hint)
    raise TypeError(f"No event may have a field of type {hint}: nobody knows how to write it down.")


def _optional_codec(arguments: tuple[Any, ...]) -> _Codec:
    """Of `X | None`."""
    (present,) = (_codec(argument) for argument in arguments if argument is not type(None))
    return _Codec(
        lambda value: None if value is None else present.encode(value),
        lambda value: None if value is None else present.decode(value),
    )


def _tuple_codec(arguments: tuple[Any, ...]) -> _Codec:
    """Of `tuple[X, ...]` and of `tuple[X, Y]`."""
    if arguments[-1] is Ellipsis:
        item = _codec(arguments[0])
        return _Codec(lambda values: list(map(item.encode, values)), lambda values: tuple(map(item.decode, values)))
    items = [_codec(argument) for argument in arguments]
    return _Codec(
        lambda values: [item.encode(value) for item, value in zip(items, values, strict=True)],
        lambda values: tuple(item.decode(value) for item, value in zip(items, values, strict=True)),
    )


def _dataclass_codec(kind: type[Any]) -> _Codec:
    hints = get_type_hints(kind)
    known = {field.name: (_codec(hints[field.name]), _default(field)) for field in fields(kind)}

    def encode(value: Any) -> dict[str, Any]:
        present = ((name, codec, getattr(value, name), default) for name, (codec, default) in known.items())
        return {name: codec.encode(it) for name, codec, it, default in present if it != default}

    def decode(values: Mapping[str, Any]) -> Any:
        return kind(**{name: known[name][0].decode(value) for name, value in values.items()})

    return _Codec(encode, decode)


def _default(field: Field[Any]) -> Any:
    """What a field is when it is left out; MISSING, which equals nothing, where it must not be."""
    return field.default if field.default_factory is MISSING else field.default_factory()
