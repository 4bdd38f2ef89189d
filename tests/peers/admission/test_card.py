"""Cards: only the identity that signed one, for this run, is believed."""

from __future__ import annotations

import pytest

from peers.admission.card import CARD_TAG, Card, checked_card
from peers.admission.identity import Identity
from peers.protocol.messages import AskStatus
from transport.errors import BadFrame
from transport.frames import pack

RUN = b"r" * 16
ME = Identity(b"1" * 32)
CARD = Card(RUN, ME.public, ME.keys.public, "w")
PACKED = pack(CARD)


def test_a_card_that_its_identity_signed_is_believed() -> None:
    assert checked_card(PACKED, ME.sign(CARD_TAG, PACKED), RUN) == CARD


def test_a_signature_of_another_identity_tag_or_text_is_wrong() -> None:
    other = Identity(b"2" * 32)
    for signature in (other.sign(CARD_TAG, PACKED), ME.sign(b"another", PACKED), ME.sign(CARD_TAG, b"")):
        with pytest.raises(BadFrame, match="signature is wrong"):
            checked_card(PACKED, signature, RUN)


def test_a_card_is_about_one_run() -> None:
    with pytest.raises(BadFrame, match="another run"):
        checked_card(PACKED, ME.sign(CARD_TAG, PACKED), b"x" * 16)


def test_what_is_no_card_is_refused_though_it_is_signed() -> None:
    packed = pack(AskStatus(1))
    with pytest.raises(BadFrame, match="no card"):
        checked_card(packed, ME.sign(CARD_TAG, packed), RUN)
    with pytest.raises(BadFrame):
        checked_card(b"\xc1", ME.sign(CARD_TAG, b"\xc1"), RUN)
