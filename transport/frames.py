"""Headers: msgpack under explicit bounds, checked against one dataclass per kind.

Owns how a message becomes at most 4 KiB of header and back. A header is an array: the kind's
number, then the fields in the order of the dataclass. Types, ranges and lengths come from the
annotations, so that what a peer may say is written once, beside the field. Nothing here knows what
a message means. Keeps X2 and X8: any byte string is a valid message or a `BadFrame`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cache
from operator import attrgetter
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import msgpack

from transport.errors import BadFrame
from transport.limits import LIMITS, Limits

UINT64 = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Between:
    """Bounds, both included: of an int's or float's value, of the length of bytes or a tuple, or of the bytes
    that a str takes as UTF-8."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Fits:
    """What a str must fulfil beside its bounds, and an example that does."""

    test: Callable[[str], bool]
    example: str


Count = Annotated[int, Between(0, 1 << 62)]
"""A non-negative integer that other systems' signed 64 bits can hold."""
Small = Annotated[int, Between(0, 1 << 31)]
Key = Annotated[bytes, Between(32, 32)]
"""A public key or a digest."""
Number = Annotated[float, Between(-1e300, 1e300)]

_kinds: dict[int, type] = {}
_numbers: dict[type, int] = {}


def kind(number: int) -> Callable[[type], type]:
    """Class decorator: registers a dataclass as the message kind ``number``."""

    def register(cls: type) -> type:
        assert number not in _kinds, f"kind {number} is taken"
        _kinds[number] = cls
        _numbers[cls] = number
        return cls

    return register


def kinds() -> dict[int, type]:
    """Every registered kind by its number, in the order of numbers: whatever can come in a frame."""
    return dict(sorted(_kinds.items()))


def to_items(message: Any) -> list[Any]:
    """The array that stands for a message; it can be nested in another header."""
    number, fields_of = _writer_of(type(message))  # type: ignore[arg-type]  # a class is hashable
    return [number, *fields_of(message)]


def from_items(items: Any) -> Any:
    """The message for an array from a peer. Raises `BadFrame`."""
    if not isinstance(items, (list, tuple)) or not items or type(items[0]) is not int:
        raise BadFrame("a header is not an array that starts with a kind")
    cls, checks, max_count = _reader_of(items[0])
    if len(items) != len(checks) + 1:
        raise BadFrame(f"{cls.__name__} has {len(items) - 1} fields instead of {len(checks)}")
    for value in items:  # most messages hold only counts, and need only this check
        if type(value) is not int or not 0 <= value <= max_count:
            break
    else:
        return cls(*items[1:])
    return cls(*[check(value) for check, value in zip(checks, items[1:])])  # noqa: B905  their number is checked


def pack(message: Any, limits: Limits = LIMITS) -> bytes:
    """Header bytes of a message of ours. A header over the limit is our bug: ValueError."""
    header = pack_items(to_items(message))
    if len(header) > limits.header_bytes:
        raise ValueError(f"{type(message).__name__} takes {len(header)} bytes of {limits.header_bytes}")
    return header


def unpack(header: bytes, limits: Limits = LIMITS) -> Any:
    """The message in a header from a peer. Raises `BadFrame` for anything but a valid one."""
    return from_items(unpack_items(header, limits))


def pack_items(items: Any) -> bytes:
    """Msgpack of plain values that we made ourselves."""
    packed: bytes = msgpack.Packer().pack(items)
    return packed


def unpack_items(data: bytes, limits: Limits = LIMITS, size: int | None = None) -> Any:
    """Plain values from msgpack of at most ``size`` (by default a header's) bytes. Raises `BadFrame`."""
    size = limits.header_bytes if size is None else size
    if len(data) > size:
        raise BadFrame(f"{len(data)} bytes exceed the limit of {size}")
    try:
        return msgpack.unpackb(
            data,
            raw=False,
            use_list=True,
            strict_map_key=True,
            max_str_len=size,
            max_bin_len=size,
            max_array_len=limits.message_items,
            max_map_len=limits.message_items,
            max_ext_len=0,
        )
    # msgpack raises ValueError, UnicodeDecodeError, ExtraData, FormatError, StackError, TypeError,
    # OverflowError: whatever it is, the bytes are the peer's fault.
    except Exception as error:
        raise BadFrame(f"a header does not decode: {type(error).__name__}") from None


_Check = Callable[[Any], Any]


@cache
def _reader_of(number: int) -> tuple[type, tuple[_Check, ...], float]:
    """The class of a kind, the checks of its fields, and up to which value all fields may be: -1 unless all
    are integers from 0 on."""
    cls = _kinds.get(number)
    if cls is None:
        raise BadFrame(f"kind {number} is unknown")
    hints = get_type_hints(cls, include_extras=True)
    names = [f.name for f in fields(cls)]
    checks = tuple(_checker(f"{cls.__name__}.{name}", hints[name]) for name in names)
    return cls, checks, min((_highest_count(hints[name]) for name in names), default=-1)


def _highest_count(hint: Any) -> float:
    """The upper bound of an integer from 0 on; -1 for anything else."""
    if get_origin(hint) is not Annotated:
        return -1
    of, bounds = get_args(hint)[:2]
    return bounds.high if of is int and bounds.low == 0 else -1


@cache
def _writer_of(cls: type) -> tuple[int, Callable[[Any], tuple[Any, ...]]]:
    """The number of a kind, and what gets the values of its fields."""
    names = [f.name for f in fields(cls)]
    if len(names) > 1:
        return _numbers[cls], attrgetter(*names)
    return _numbers[cls], lambda message: tuple(getattr(message, name) for name in names)


def _checker(name: str, hint: Any) -> _Check:
    bounds: Between | None = None
    fits: Fits | None = None
    if get_origin(hint) is Annotated:
        hint, bounds, *more = get_args(hint)
        fits = more[0] if more else None
    if get_origin(hint) is tuple:
        return _tuple_checker(name, get_args(hint), bounds)
    if hint is bool:
        return _exact(name, bool)
    assert hint in (int, float, str, bytes), f"{name}: {hint} cannot travel"
    assert bounds is not None, f"{name} has no bounds"
    check = _scalar(name, hint, bounds)
    return check if fits is None else _fitting(name, check, fits)


def _fitting(name: str, check: _Check, fits: Fits) -> _Check:
    def check_fit(value: Any) -> Any:
        if not fits.test(check(value)):
            raise BadFrame(f"{name} is not like {fits.example}")
        return value

    return check_fit


def _exact(name: str, wanted: type) -> _Check:
    def check(value: Any) -> Any:
        if type(value) is not wanted:
            raise BadFrame(f"{name} is not {wanted.__name__}")
        return value

    return check


def _scalar(name: str, wanted: type, bounds: Between) -> _Check:
    sized = wanted in (str, bytes)
    exact, low, high = _exact(name, wanted), bounds.low, bounds.high

    def check(value: Any) -> Any:
        value = exact(value)
        measure = (_num_bytes(value) if wanted is str else len(value)) if sized else value
        if wanted is float and not math.isfinite(value):
            raise BadFrame(f"{name} is not finite")
        if not low <= measure <= high:
            raise BadFrame(f"{name} is outside {low} to {high}")
        return value

    # What is right is passed quickly; what is not is looked at again, to say what is wrong.
    def check_number(value: Any) -> Any:
        found = type(value)
        return value if found is wanted and low <= value <= high else check(value)

    def check_sized(value: Any) -> Any:
        found = type(value)
        return value if found is wanted and low <= len(value) <= high else check(value)

    if wanted is str:
        return check
    return check_sized if sized else check_number


def _num_bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def _tuple_checker(name: str, args: tuple[Any, ...], bounds: Between | None) -> _Check:
    if len(args) == 2 and args[1] is Ellipsis:
        assert bounds is not None, f"{name} has no bounds"
        item = _checker(f"{name}[]", args[0])

        def check_many(value: Any) -> Any:
            if not isinstance(value, (list, tuple)) or not bounds.low <= len(value) <= bounds.high:
                raise BadFrame(f"{name} is not an array of {bounds.low} to {bounds.high}")
            return tuple(map(item, value))

        return check_many
    items = [_checker(f"{name}[{i}]", arg) for i, arg in enumerate(args)]

    def check_fixed(value: Any) -> Any:
        if not isinstance(value, (list, tuple)) or len(value) != len(items):
            raise BadFrame(f"{name} is not an array of {len(items)}")
        return tuple(each(v) for each, v in zip(items, value, strict=True))

    return check_fixed
