"""What other threads tell the driver's thread: in order, some at a time, and woken for once."""

from __future__ import annotations

import threading

from transport.sockets.libzmq import FRAMES_PER_ROUND, Poll
from transport.sockets.mailbox import Mailbox


def test_what_is_put_in_on_another_thread_comes_out_in_order() -> None:
    poll, taken = Poll(), list[int]()
    mailbox: Mailbox[int] = Mailbox(poll, taken.append)

    def put() -> None:
        for number in range(100):
            mailbox.put(number)

    thread = threading.Thread(target=put)
    thread.start()
    while len(taken) < 100:
        poll.wait(10.0)
    thread.join()
    assert taken == list(range(100))
    assert mailbox.close() == []


def test_a_bounded_number_is_taken_before_others_have_their_turn() -> None:
    poll, taken = Poll(), list[int]()
    mailbox: Mailbox[int] = Mailbox(poll, taken.append)
    for number in range(FRAMES_PER_ROUND + 5):
        mailbox.put(number)
    poll.wait(10.0)
    assert len(taken) == FRAMES_PER_ROUND
    poll.wait(10.0)
    assert len(taken) == FRAMES_PER_ROUND + 5
    assert mailbox.close() == []


def test_what_was_not_taken_is_handed_back_at_the_end() -> None:
    poll = Poll()
    mailbox: Mailbox[int] = Mailbox(poll, lambda number: None)
    mailbox.put(7)
    assert mailbox.close() == [7]
    mailbox.put(8)  # a thread that did not know of the end
