"""Simulated peers are the same people in every run, and the production door lets exactly them in."""

from __future__ import annotations

from diloco.simulation.identities import HOST, identity_of, invite_key, key_of, knock_of, open_door
from peers.admission.card import checked_card
from peers.protocol.messages import Knock
from transport.frames import unpack


def test_a_name_is_one_identity_and_another_name_another() -> None:
    names = [HOST, *(f"p-{i}" for i in range(50))]
    assert len({key_of(name) for name in names}) == len(names)
    assert key_of("p-1") == identity_of("p-1").keys.public
    assert key_of("p-1").hex().startswith("4e19d31b"), "keys decide who dials whom: others change every trace"


def test_a_knock_holds_a_signed_card_of_the_one_who_knocks() -> None:
    knock = unpack(knock_of("p-1"))
    assert isinstance(knock, Knock)
    card = checked_card(knock.card, knock.signature, open_door(bytes(32)).run)
    assert (card.name, card.transport, card.identity) == ("p-1", key_of("p-1"), identity_of("p-1").public)


def test_the_door_is_open_for_the_tickets_invite_and_for_no_other() -> None:
    door = open_door(bytes(32))
    assert door.is_invite(invite_key())
    assert not door.is_invite(key_of("p-1"))
