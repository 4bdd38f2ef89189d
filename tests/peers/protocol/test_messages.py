"""Messages: whatever a valid field may hold, the whole fits into one header."""

from __future__ import annotations

from typing import Annotated, Any, get_args, get_origin, get_type_hints

import pytest

from peers.protocol import messages, orders
from peers.protocol.fields import MAX_MEMBERS
from peers.protocol.messages import Committed, Knock, Open, Ready
from peers.protocol.record import Record
from transport.errors import BadFrame
from transport.frames import Between, from_items, pack, to_items, unpack
from transport.limits import LIMITS

LINK_HEADER_BYTES = 80
"""At most, beside each message."""
KINDS = [
    each
    for module in (messages, orders)
    for each in vars(module).values()
    if isinstance(each, type) and each.__module__ == module.__name__
]


def largest(hint: Any) -> Any:
    """The value of a field that takes most bytes."""
    bounds = Between(0, 1)
    if get_origin(hint) is Annotated:
        hint, bounds = get_args(hint)[:2]
    high = int(bounds.high)
    if get_origin(hint) is tuple:
        return (largest(get_args(hint)[0]),) * high
    if hint in (bytes, str):
        return b"x" * high if hint is bytes else "x" * high
    return {bool: True, int: high, float: float(bounds.high)}[hint]


@pytest.mark.parametrize("kind", KINDS)
def test_the_largest_message_of_a_kind_fits_into_a_header(kind: type) -> None:
    hints = get_type_hints(kind, include_extras=True)
    assert len(pack(kind(*map(largest, hints.values())))) <= LIMITS.header_bytes - LINK_HEADER_BYTES


def test_a_record_of_a_full_round_fits_into_a_commit() -> None:
    hints = get_type_hints(Record, include_extras=True)
    record = Record(*map(largest, hints.values()))
    assert len(record.members) == MAX_MEMBERS == LIMITS.members
    assert len(pack(Committed(pack(record)))) <= LIMITS.header_bytes - LINK_HEADER_BYTES
    assert Open in KINDS
    assert Knock in KINDS


@pytest.mark.parametrize("kind", KINDS)
def test_texts_of_long_characters_are_refused_or_fit_into_a_header(kind: type) -> None:
    hints = get_type_hints(kind, include_extras=True)
    values = [largest(hint) for hint in hints.values()]
    for character in ("\xe9", "\U0001f600"):
        items = to_items(kind(*values))[:1]
        items += [character * len(value) if isinstance(value, str) else value for value in values]
        try:
            message = from_items(items)
        except BadFrame:
            assert any(isinstance(value, str) for value in values)
        else:
            assert len(pack(message)) <= LIMITS.header_bytes - LINK_HEADER_BYTES


def test_an_offer_may_say_that_nothing_was_trained() -> None:
    assert unpack(pack(Ready(0, b"b" * 32, 0, 0, 0, 0.0))) == Ready(0, b"b" * 32, 0, 0, 0, 0.0)
