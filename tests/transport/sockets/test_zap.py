"""Who may connect: exactly a CURVE request of ours for a key that is admitted, and nobody else."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transport.sockets import zap

REQUEST = [b"1.0", b"7", zap.DOMAIN, b"1.2.3.4", b"", b"CURVE", b"k" * 32]


def test_zap_admits_by_key_with_the_key_as_user() -> None:
    verdict = zap.answer(REQUEST, {b"k" * 32: "member"}.get)
    assert verdict.reply == [b"1.0", b"7", b"200", b"", (b"k" * 32).hex().encode(), b""]
    assert zap.answer(REQUEST, lambda key: None).reply[2] == b"400"
    assert zap.answer(REQUEST, lambda key: "later").reply[2] == b"300"
    assert zap.answer(REQUEST, lambda key: "held").reply[2] == b"500"


@pytest.mark.parametrize("length", [0, 31, 33, 64])
def test_a_key_of_another_length_is_refused_and_not_asked_about(length: int) -> None:
    asked: list[bytes] = []
    verdict = zap.answer([*REQUEST[:-1], b"k" * length], lambda key: asked.append(key) or "member")
    assert (verdict.reply[2], verdict.kind, asked) == (b"400", None, [])


@given(st.lists(st.sampled_from([*REQUEST, b"", b"x", b"PLAIN"]), max_size=9))
@settings(max_examples=200)
def test_zap_refuses_what_is_not_exactly_a_curve_request_of_ours(request: list[bytes]) -> None:
    verdict = zap.answer(request, lambda key: "member")
    plain = len(request) == 7 and (request[0], request[2], request[5]) == (b"1.0", zap.DOMAIN, b"CURVE")
    assert (verdict.reply[2] == b"200") == (plain and request[6] == b"k" * 32)
