"""A worker that was told to begin with an earlier commit says so where the run does not go back to it."""

from __future__ import annotations

from typing import cast

import pytest

from diloco.training.resuming import Resuming
from peers.protocol.events import PeerLeft, Restored, RoundCommitted
from peers.protocol.record import GENESIS, Record
from transport.collectives.reducer import Reducer


def record(index: int) -> Record:
    return Record(GENESIS, index, 0, 1, 1, 4, (), (), bytes(32))


def committed(index: int, seconds: float = 0.0) -> RoundCommitted:
    return RoundCommitted(record(index), cast(Reducer, None), None, 0, 0.0, seconds, 0)


@pytest.mark.parametrize("further", [committed(246), committed(246, 0.5), committed(7, 0.5)])
def test_a_run_that_does_not_go_back_is_told_of_once(further: RoundCommitted) -> None:
    resuming = Resuming(245)
    assert not resuming.hear(PeerLeft(bytes(32), "ann", "left"))
    assert not resuming.hear(committed(6)), "it follows by the results on its disk"
    line = resuming.hear(further)
    assert f"goes on with commit {further.record.index}" in line
    assert "diloco host RUN.toml --resume 245" in line
    assert not resuming.hear(committed(300, 0.5))


def test_a_run_that_goes_back_is_as_it_was_wanted() -> None:
    resuming = Resuming(245)
    assert not resuming.hear(committed(245))
    assert not resuming.hear(Restored(record(254)))
    assert not resuming.hear(committed(255, 0.5))


def test_nothing_is_said_where_nothing_was_wanted() -> None:
    assert not Resuming(None).hear(committed(5, 0.5))
