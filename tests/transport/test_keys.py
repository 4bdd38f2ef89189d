"""Key pairs."""

from __future__ import annotations

import pytest
import zmq
import zmq.utils.z85
from hypothesis import given, settings
from hypothesis import strategies as st

from transport.keys import curve_pair, random_pair, short, z85_decode, z85_encode


def test_the_public_key_is_the_one_that_libzmq_derives() -> None:
    pair = curve_pair(b"s" * 32, b"label")
    assert zmq.curve_public(z85_encode(pair.secret)).decode() == pair.public_z85


def test_labels_and_seeds_give_unrelated_pairs() -> None:
    pairs = {curve_pair(seed, label).public for seed in (b"a" * 32, b"b" * 32) for label in (b"x", b"y")}
    assert len(pairs) == 4
    assert random_pair().public != random_pair().public
    with pytest.raises(ValueError, match="16 to 64"):
        curve_pair(b"short", b"x")


@given(st.binary(max_size=64).map(lambda data: data[: len(data) // 4 * 4]))
@settings(max_examples=50)
def test_z85_is_that_of_libzmq(data: bytes) -> None:
    assert z85_encode(data) == zmq.utils.z85.encode(data).decode()
    assert z85_decode(z85_encode(data)) == data


@given(st.text(max_size=20))
@settings(max_examples=100)
def test_any_text_is_decoded_or_refused(text: str) -> None:
    try:
        data = z85_decode(text)
    except ValueError:
        return
    assert z85_encode(data) == text


def test_a_pair_never_shows_its_secret_and_short_names_are_short() -> None:
    pair = curve_pair(b"s" * 32, b"label")
    assert "secret" not in repr(pair)
    assert pair.secret.hex() not in repr(pair)
    assert len(short(pair.public)) == 8
    assert short(pair.public).islower() or short(pair.public).isdigit()


@pytest.mark.parametrize(("length", "fits"), [(15, False), (16, True), (64, True), (65, False)])
def test_a_seed_has_16_to_64_bytes(length: int, fits: bool) -> None:
    if fits:
        assert len(curve_pair(b"s" * length, b"label").public) == 32
    else:
        with pytest.raises(ValueError, match=f"not {length}"):
            curve_pair(b"s" * length, b"label")
