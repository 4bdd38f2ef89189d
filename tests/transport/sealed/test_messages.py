"""What drivers say to each other about lanes: valid messages alone, and no secret in any text."""

from __future__ import annotations

import pytest

from tests.transport.sealed.lane_kit import keys_of, lane_ends, turned
from transport.errors import BadFrame
from transport.frames import from_items, pack, to_items, unpack
from transport.sealed.messages import LaneAsk, LaneOffer
from transport.sealed.opening import Offers, OpenedLane, accept, ask
from transport.sealed.seals import Opener, Sealer
from transport.sockets.wire import DRIVER_LANE, Outgoing


def test_both_come_back_as_they_were_said() -> None:
    for message in (LaneAsk(1, b"s" * 32), LaneOffer(255, 65535, b"i" * 16, b"s" * 32, b"q" * 16)):
        assert unpack(pack(message)) == message


@pytest.mark.parametrize(
    "items",
    [
        [165, 0, b"s" * 32],
        [165, 256, b"s" * 32],
        [165, 1, b"s" * 31],
        [165, 1, b"s" * 33],
        [166, 1, -1, b"i" * 16, b"s" * 32, b"q" * 16],
        [166, 1, 65536, b"i" * 16, b"s" * 32, b"q" * 16],
        [166, 1, 80, b"i" * 15, b"s" * 32, b"q" * 16],
        [166, 1, 80, b"i" * 16, b"s" * 32, b"q" * 15],
        [166, 1, 80, b"i" * 16, b"s" * 32],
    ],
)
def test_what_is_out_of_bounds_is_refused(items: list[object]) -> None:
    with pytest.raises(BadFrame):
        from_items(items)


def test_no_secret_key_or_id_is_in_the_text_of_anything() -> None:
    """Whatever is logged, traced or raised is made of such texts."""
    drawn = iter(bytes([number]) * 32 for number in range(0x41, 0x5A))
    offers = Offers(token_bytes=lambda size: next(drawn)[:size])
    ends = lane_ends()
    asked = ask(1, lambda size: next(drawn)[:size])
    offer = offers.offer(0.0, turned(ends), asked, 80)
    opening, sealer, opener = accept(ends, asked, offer)
    keys = keys_of(ends)
    lane = offers.take(0.0, opening)
    assert isinstance(lane, OpenedLane)
    told: list[object] = [asked, offer, offers, sealer, opener, lane, keys, to_items(asked)[:2]]
    told += [Sealer(keys.sending), Opener(keys.sending)]
    told += [Outgoing(DRIVER_LANE, pack(word), None, "control", False) for word in (asked, offer)]
    texts = "".join(f"{each!r}{each!s}" for each in told)
    with pytest.raises(BadFrame) as raised:
        from_items([165, 1, asked.secret + b"?"])
    texts += str(raised.value)
    hidden = [asked.secret, offer.secret, offer.connection, opening, keys.sending, keys.receiving]
    for each in hidden:
        assert str(each)[2:-1] not in texts
        assert each.hex() not in texts
