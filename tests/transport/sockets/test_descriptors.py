"""The limit of descriptors: raised as far as the system lets it, and never lowered."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from transport.sockets.descriptors import WANTED, raise_descriptor_limit

resource = pytest.importorskip("resource", reason="this system limits no descriptors")


@pytest.fixture
def limits() -> Iterator[tuple[int, int]]:
    """What this process may have; it has that again afterwards."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield before
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_a_low_limit_is_raised_as_far_as_the_system_lets_it(limits: tuple[int, int]) -> None:
    hard = limits[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    highest = WANTED if hard == resource.RLIM_INFINITY else min(hard, WANTED)
    assert raise_descriptor_limit() == highest
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (highest, hard)


def test_a_limit_that_is_high_enough_stays(limits: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transport.sockets.descriptors.WANTED", 256)
    soft = limits[0]
    assert raise_descriptor_limit() == (256 if soft == resource.RLIM_INFINITY else soft)
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == limits


def test_a_system_that_refuses_leaves_the_limit_as_it_was(
    limits: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, limits[1]))

    def refuse(which: int, wanted: tuple[int, int]) -> None:
        raise ValueError("not allowed to raise maximum limit")

    with monkeypatch.context() as patched:
        patched.setattr(resource, "setrlimit", refuse)
        assert raise_descriptor_limit() == 256
