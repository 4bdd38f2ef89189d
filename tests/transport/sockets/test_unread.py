"""Who holds too much in libzmq: of one connection, and of all fresh ones together."""

from __future__ import annotations

from dataclasses import replace

from transport.limits import LIMITS
from transport.sockets.kernel import Handle
from transport.sockets.unread import LOOKS, Unread, wire_bytes

SMALL = replace(LIMITS, unread_bytes=1000, unfinished_bytes=100, fresh_bytes=250)


def connection(descriptor: int) -> Handle:
    return (descriptor, (("127.0.0.1", 1), ("127.0.0.1", descriptor)))


def test_a_short_part_has_a_shorter_frame_than_a_long_one() -> None:
    assert [wire_bytes(size) for size in (0, 222, 223)] == [35, 257, 265]


def test_the_largest_honest_messages_are_far_below_the_bounds() -> None:
    largest = sum(map(wire_bytes, (1, LIMITS.header_bytes, LIMITS.payload_bytes)))
    assert 1.9 * largest < LIMITS.unfinished_bytes
    assert (8 + 3) * largest < LIMITS.unread_bytes, "so many as the socket takes, and what is under way"


def test_what_is_no_whole_message_has_a_lower_bound_than_what_waits_to_be_read() -> None:
    unread, held = Unread(SMALL), {connection(1): 100, connection(2): 101, connection(3): 1001}
    assert unread.excess(held, (), is_behind=True) == {connection(3): True}
    assert unread.excess(held, (), is_behind=False) == {connection(2): True, connection(3): True}


def test_of_fresh_connections_that_hold_too_much_together_the_largest_are_cut() -> None:
    unread = Unread(SMALL)
    fresh = [connection(each) for each in range(4)]
    assert unread.excess({fresh[0]: 90, fresh[1]: 10}, fresh, is_behind=False) == {}
    assert unread.excess({fresh[2]: 99, fresh[3]: 80}, fresh, is_behind=False) == {fresh[2]: False}


def test_a_fresh_connection_that_ended_or_gave_a_message_holds_nothing_of_their_share() -> None:
    unread = Unread(SMALL)
    first, second = [connection(1), connection(2), connection(3)], [connection(4), connection(5)]
    assert unread.excess(dict.fromkeys(first, 80), first, is_behind=False) == {}
    assert unread.excess(dict.fromkeys(second, 80), second, is_behind=False) == {}


def test_one_that_is_cut_by_itself_does_not_count_among_the_fresh() -> None:
    unread, fresh = Unread(SMALL), [connection(1), connection(2)]
    assert unread.excess({fresh[0]: 300, fresh[1]: 100}, fresh, is_behind=False) == {fresh[0]: True}


def test_of_many_connections_each_has_its_turn() -> None:
    unread, many = Unread(SMALL), [connection(each) for each in range(2 * LOOKS + LOOKS // 2)]
    turns = [unread.next_ones(many) for _ in range(5)]
    assert [len(turn) for turn in turns] == [LOOKS] * 5
    assert sorted(each for turn in turns for each in turn) == sorted(2 * many)


def test_few_connections_are_looked_at_every_time_and_none_twice() -> None:
    unread, few = Unread(SMALL), [connection(3), connection(1), connection(2)]
    assert [sorted(unread.next_ones(few)) for _ in range(3)] == [sorted(few)] * 3
    assert unread.next_ones([]) == []
    assert unread.next_ones(few[:1]) == few[:1]
