"""Frames of every registered kind, drawn field by field: valid values, those that mean something, wrong ones.

A drawn frame is the last message of its kind that the run has seen, with other values in some of its fields.
Kinds come from the registry: a new one is drawn without a word here.
"""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import astuple, dataclass
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from hypothesis import strategies as st

import peers
import transport
from tests.hostile.stages import Stage
from tests.transport.test_every_kind import values_of
from transport.frames import kinds, pack_items

LINK_KINDS = "transport.link.messages"
WRONG = (
    None,
    True,
    -1,
    1 << 63,
    1.5,
    "text",
    b"bytes",
    [],
    [[[]]],
    {},
    float("nan"),
    float("inf"),
    "x" * 300,
)
_MAX_HEADER = 4096


def all_kinds() -> dict[int, type]:
    """Every kind of ours, by number."""
    for package in (transport, peers):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            importlib.import_module(module.name)
    return {n: cls for n, cls in kinds().items() if cls.__module__.split(".")[0] in ("transport", "peers")}


def fields_of(cls: type) -> dict[str, Any]:
    return get_type_hints(cls, include_extras=True)


@dataclass(frozen=True)
class Draw:
    """One value of a field: given, or the ``index``-th that means something when it is sent."""

    value: Any = None
    index: int = -1


@dataclass(frozen=True)
class DrawnPayload:
    """``size`` bytes beside the message; -1: as many as the last message of the kind had; None for none."""

    size: int | None
    fill: bytes


def draws_of(hint: Any) -> st.SearchStrategy[Draw]:
    """Valid values with edges, meaningful ones, and now and then a wrong one."""
    return st.one_of(
        values_of(hint).map(lambda value: Draw(value)),
        st.integers(0, 20).map(lambda index: Draw(index=index)),
        st.integers(0, 20).map(lambda index: Draw(index=index)),
        st.sampled_from(WRONG).map(lambda value: Draw(value)),
    )


PAYLOADS = st.builds(
    DrawnPayload,
    st.sampled_from([-1, -1, -1, None, 0, 1, 24, 1024]),
    st.sampled_from([b"\0", b"\x7f\xc0\0\0", b"\xff", b"\x01\x02\x03\x04"]),
)


def resolved(draw: Draw, name: str, hint: Any, stage: Stage) -> Any:
    """The value that is sent at that moment: with an even index, that of what is under way."""
    if draw.index < 0:
        return draw.value
    if draw.index % 2 == 0 and name in stage.present:
        return stage.present[name]
    return _known(hint, draw.index, stage)


def fields_type(hint: Any) -> Any:
    """The plain type of a field."""
    return get_args(hint)[0] if get_origin(hint) is Annotated else hint


def _known(hint: Any, index: int, stage: Stage) -> Any:
    hint = fields_type(hint)
    if get_origin(hint) is tuple:
        items = get_args(hint)
        if items[-1] is not Ellipsis:
            return [_known(item, index, stage) for item in items]
        return [_known(items[0], index + i, stage) for i in range(index % 5)]
    known = stage.known.get(hint, (0,))
    return known[index % len(known)]


def message_items(number: int, cls: type, drawn: dict[str, Draw], stage: Stage) -> list[Any]:
    """The array of one message whose ``drawn`` fields are that, and the others as they were said last."""
    hints = fields_of(cls)
    said = stage.said.get(cls)
    fields = dict(zip(hints, astuple(said[0]), strict=True)) if said is not None else {}
    for name, hint in hints.items():
        if name in drawn:
            fields[name] = resolved(drawn[name], name, hint, stage)
        elif name in stage.present and type(stage.present[name]) is fields_type(hint):
            fields[name] = stage.present[name]
        elif name not in fields:
            fields[name] = _known(hint, 1, stage)
    return [number, *fields.values()]


def header_of(items: list[Any]) -> bytes | None:
    """The header, or None for values that do not fit into a frame at all."""
    try:
        header = pack_items(items)
    except (OverflowError, ValueError, TypeError):
        return None
    return header if len(header) <= _MAX_HEADER else None
