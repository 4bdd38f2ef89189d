"""Lines about one peer: a few a minute, then none, and the next one says how many were left out."""

from __future__ import annotations

from dataclasses import replace

from transport.limits import LIMITS
from transport.log_limit import WINDOW_S, LogLimit, with_left_out


def test_a_peer_gets_a_few_lines_a_minute_and_then_the_number_of_those_left_out() -> None:
    limit = LogLimit(replace(LIMITS, lines_per_peer=3))
    assert [limit.take(5.0, b"a") for _ in range(7)] == [0, 0, 0, None, None, None, None]
    assert limit.take(5.0, b"b") == 0, "others have lines of their own"
    assert limit.take(5.0 + WINDOW_S - 0.1, b"a") is None
    assert limit.take(5.0 + WINDOW_S, b"a") == 5
    assert [limit.take(5.0 + WINDOW_S, b"a") for _ in range(3)] == [0, 0, None], "as many as at first"


def test_of_too_many_peers_the_one_that_was_quiet_longest_is_forgotten() -> None:
    limit = LogLimit(replace(LIMITS, lines_per_peer=1, peers_told_of=2))
    for peer in (b"a", b"b", b"a", b"c"):
        limit.take(5.0, peer)
    assert limit.take(5.0, b"a") is None, "it was heard of last"
    assert limit.take(5.0, b"b") == 0


def test_a_line_says_how_many_were_left_out_if_any_were() -> None:
    assert with_left_out("it failed", 0) == "it failed"
    assert with_left_out("it failed", 5) == "it failed (5 more lines about it were left out)"
