"""Whether a machine has instructions for AES, as Linux says it."""

from __future__ import annotations

from transport.sockets.aes_hardware import has_fast_aes, says_aes


def test_the_flags_of_the_first_processor_tell() -> None:
    assert says_aes("processor\t: 0\nflags\t\t: fpu sse2 aes avx\n")
    assert says_aes("processor : 0\nFeatures : fp asimd aes pmull\n")
    assert not says_aes("processor : 0\nflags : fpu sse2 vaes aesx\nprocessor : 1\nflags : aes\n")
    assert not says_aes("")


def test_this_machine_is_asked_once() -> None:
    assert has_fast_aes() is has_fast_aes()
