"""The door: who is admitted, who is told the status, and who is refused with which words."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from peers.admission.card import CARD_TAG, Card
from peers.admission.door import Door, Invite
from peers.admission.identity import Identity
from peers.protocol.messages import PROTOCOL, AskStatus, Knock, Leave, Refused, StatusFollows, Welcome
from peers.protocol.orders import Kick, MakeInvite, Obeyed, RevokeInvite, SaveState, Stop
from transport.frames import pack, unpack, unpack_items

RUN, SETTINGS = b"r" * 16, b"s" * 32
LIVE, EXPIRED, OWNER = b"l" * 32, b"e" * 32, b"o" * 32
ME = Identity(b"1" * 32)
CARD = pack(Card(RUN, ME.public, ME.keys.public, "w"))
KNOCK = Knock(PROTOCOL, CARD, ME.sign(CARD_TAG, CARD))


class Told:
    """A status of two members."""

    num_members = 2

    def plain(self) -> dict[str, Any]:
        return {"members": ["a", "b"]}


class Behind:
    """Who is asked behind the door."""

    def __init__(self, refusal: Refused | None = None) -> None:
        self.admitted: list[tuple[bytes, str]] = []
        self.refusal = refusal
        self.orders: list[str] = []
        self.asked: list[tuple[float, bytes, int]] = []

    def admit(
        self, now: float, key: bytes, name: str, invite: bytes, uses: int, identity: bytes
    ) -> Refused | None:
        self.admitted.append((key, name))
        self.asked.append((now, invite, uses))
        return self.refusal

    def make_invite(self, key: bytes, expires_at: int, uses: int) -> None:
        self.orders.append(f"make {key[:1].decode()} {expires_at} {uses}")

    def revoke_invite(self, key: bytes) -> None:
        self.orders.append(f"revoke {key[:1].decode()}")

    def kick(self, now: float, who: str) -> Refused | Obeyed:
        self.orders.append(who)
        return self.refusal or Obeyed("out")

    def stop(self, now: float) -> Obeyed:
        self.orders.append("stop")
        return Obeyed("over")

    def save_now(self, now: float) -> Obeyed:
        self.orders.append("save")
        return Obeyed("asked")

    def status(self, now: float) -> Told:
        return Told()


def answer(message: object, behind: Behind, invite: bytes = LIVE, now: float = 5.0) -> tuple[Any, bytes]:
    door = Door(
        RUN, b"the settings", SETTINGS, {LIVE: Invite(LIVE, 10.0), EXPIRED: Invite(EXPIRED, 1.0)}, OWNER
    )
    header = message if isinstance(message, bytes) else pack(message)
    reply, payload = door.answer(now, behind, invite, header)
    return unpack(reply), payload


def test_whoever_holds_a_live_ticket_is_admitted_and_gets_the_settings() -> None:
    behind = Behind()
    assert answer(KNOCK, behind) == (Welcome(RUN, SETTINGS), b"the settings")
    assert behind.admitted == [(ME.keys.public, "w")]


def test_the_status_travels_beside_its_announcement() -> None:
    reply, payload = answer(AskStatus(PROTOCOL), Behind())
    assert (reply, unpack_items(payload)) == (StatusFollows(2), {"members": ["a", "b"]})


def test_a_refusal_from_behind_is_handed_on() -> None:
    refusal = Refused("full", "no more")
    assert answer(KNOCK, Behind(refusal)) == (refusal, b"")


@pytest.mark.parametrize(
    ("message", "invite", "code"),
    [
        (KNOCK, EXPIRED, "expired"),
        (KNOCK, b"guessed" + bytes(25), "expired"),
        (AskStatus(PROTOCOL), EXPIRED, "expired"),
        (replace(KNOCK, protocol=PROTOCOL + 1), LIVE, "protocol"),
        (replace(KNOCK, signature=bytes(64)), LIVE, "rubbish"),
        (Leave("done"), LIVE, "rubbish"),
        (Leave("done"), OWNER, "rubbish"),
        (Kick(PROTOCOL, "w"), LIVE, "rubbish"),
        (Stop(PROTOCOL), LIVE, "rubbish"),
        (SaveState(PROTOCOL), LIVE, "rubbish"),
        (Stop(PROTOCOL), EXPIRED, "expired"),
        (replace(Stop(PROTOCOL), protocol=PROTOCOL + 1), OWNER, "protocol"),
        (b"\xc1", LIVE, "rubbish"),
        (b"", LIVE, "rubbish"),
    ],
)
def test_everyone_else_is_refused_and_admitted_nowhere(message: object, invite: bytes, code: str) -> None:
    behind = Behind()
    reply, payload = answer(message, behind, invite)
    assert (reply.code, payload, behind.admitted, behind.orders) == (code, b"", [], [])


def test_orders_are_the_owners_and_what_the_run_says_to_them_is_handed_on() -> None:
    behind = Behind()
    assert answer(Kick(PROTOCOL, "w"), behind, OWNER) == (Obeyed("out"), b"")
    assert answer(Stop(PROTOCOL), behind, OWNER) == (Obeyed("over"), b"")
    assert answer(SaveState(PROTOCOL), behind, OWNER) == (Obeyed("asked"), b"")
    assert behind.orders == ["w", "stop", "save"]
    refusal = Refused("unknown", "no such worker")
    assert answer(Kick(PROTOCOL, "w"), Behind(refusal), OWNER) == (refusal, b"")


def test_an_invite_opens_nothing_after_its_time_or_once_it_is_revoked() -> None:
    assert answer(KNOCK, Behind(), now=10.5)[0].code == "expired"
    door = Door(RUN, b"", SETTINGS, {LIVE: Invite(LIVE, 10.0)})
    assert door.is_invite(LIVE)
    door.revoke(LIVE)
    assert not door.is_invite(LIVE)
    door.revoke(LIVE)  # once more changes nothing
    door.restore(LIVE, Invite(LIVE, 100.0))
    assert door.is_invite(LIVE)
    door.restore(LIVE, None)
    assert not door.is_invite(LIVE)


def ordered(door: Door, behind: Behind, message: object, now: float = 5.0) -> Any:
    return unpack(door.answer(now, behind, OWNER, pack(message))[0])


def test_the_owner_makes_tickets_and_revokes_them_and_both_are_kept() -> None:
    behind, door = Behind(), Door(RUN, b"", SETTINGS, {}, OWNER)
    assert ordered(door, behind, MakeInvite(PROTOCOL, LIVE, 10, 3)) == Welcome(RUN, SETTINGS)
    assert unpack(door.answer(6.0, behind, LIVE, pack(KNOCK))[0]) == Welcome(RUN, SETTINGS)
    assert behind.asked == [(6.0, LIVE, 3)]
    assert isinstance(ordered(door, behind, RevokeInvite(PROTOCOL, LIVE)), Obeyed)
    assert not door.is_invite(LIVE)
    assert ordered(door, behind, RevokeInvite(PROTOCOL, LIVE)).code == "unknown"
    assert behind.orders == ["make l 10 3", "revoke l"]


def test_live_tickets_are_bounded_and_those_that_expired_make_room() -> None:
    behind, door = Behind(), Door(RUN, b"", SETTINGS, {}, OWNER, max_invites=2)
    codes = [ordered(door, behind, MakeInvite(PROTOCOL, bytes([i]) * 32, 10, 0)) for i in (65, 65, 66, 67)]
    assert [getattr(each, "code", "") for each in codes] == ["", "full", "", "full"]
    assert ordered(door, behind, MakeInvite(PROTOCOL, b"C" * 32, 30, 0), 20.0) == Welcome(RUN, SETTINGS)
    assert set(door.invites) == {b"C" * 32}


def test_a_ticket_expires_by_the_clock_on_the_wall() -> None:
    for began_at, code in [(100.0, ""), (120.0, "expired")]:
        door = Door(RUN, b"", SETTINGS, {LIVE: Invite(LIVE, 115.0)}, began_at=began_at)
        assert getattr(unpack(door.answer(5.0, Behind(), LIVE, pack(KNOCK))[0]), "code", "") == code
