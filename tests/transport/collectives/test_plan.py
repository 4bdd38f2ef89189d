"""Plans: who owns which chunk, and when two attempts have everybody send the same to the same."""

from __future__ import annotations

from dataclasses import replace

import pytest

from transport.collectives.plan import Plan, chunks_of

FOUNDERS = (b"a" * 32, b"b" * 32, b"c" * 32)
PLAN = Plan(0, FOUNDERS, (1.0, 2.0, 3.0))


@pytest.mark.parametrize("num_chunks", [0, 1, 2, 3, 4, 7, 48, 100])
def test_the_chunks_of_a_founder_are_those_that_it_owns(num_chunks: int) -> None:
    for index, founder in enumerate(FOUNDERS):
        owned = [chunk for chunk in range(num_chunks) if PLAN.owner(chunk, num_chunks) == founder]
        assert list(chunks_of(index, len(FOUNDERS), num_chunks)) == owned


def test_a_cut_names_founders_in_their_order_who_is_idle_and_the_size_of_chunks() -> None:
    cut = PLAN.cut(8)
    assert cut == replace(PLAN, weights=(3.0, 2.0, 1.0)).cut(8), "weights change nothing of what is sent"
    assert len(cut) == 16
    others = {
        PLAN.cut(9),
        replace(PLAN, founders=FOUNDERS[::-1]).cut(8),
        replace(PLAN, founders=FOUNDERS[:2]).cut(8),
        replace(PLAN, idle=frozenset(FOUNDERS[:1])).cut(8),
        replace(PLAN, idle=frozenset(FOUNDERS[1:2])).cut(8),
    }
    assert len(others) == 5
    assert cut not in others
