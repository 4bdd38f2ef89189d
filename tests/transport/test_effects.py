"""The seam: sizes of payloads, and blobs without bytes."""

from __future__ import annotations

import pytest

from transport.effects import NEVER, Phantom, PhantomBlob, Trace, size_bytes


def test_the_size_of_a_payload_is_in_bytes_whatever_its_buffer_holds() -> None:
    assert size_bytes(None) == 0
    assert size_bytes(b"abc") == size_bytes(bytearray(3)) == size_bytes(Phantom(3)) == 3
    assert size_bytes(memoryview(bytes(12)).cast("I")) == 12


def test_a_phantom_blob_has_a_size_and_the_digests_of_its_pieces() -> None:
    blob = PhantomBlob(10)
    blob.put(1, Phantom(6, b"second"), b"digest")
    blob.put(0, Phantom(4, b"first"), b"digest")
    assert (len(blob), blob.pieces) == (10, {0: b"first", 1: b"second"})
    with pytest.raises(AssertionError, match="phantom is due"):
        blob.put(2, b"bytes", b"digest")


def test_never_is_before_everything() -> None:
    assert NEVER < -1e300


def test_a_trace_is_named_after_its_class() -> None:
    class SomethingHappenedTrace(Trace):
        """A fact."""

    assert SomethingHappenedTrace.name == "something_happened"
