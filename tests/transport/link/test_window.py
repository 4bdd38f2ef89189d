"""Windows: they grow for lines that need it, for no others, and out of what all links have together."""

from __future__ import annotations

import pytest

from transport.limits import KIB, LIMITS, MIB
from transport.link.window import Spare, Window


class Line:
    """One end's window, and another end that uses all credit at some rate, over some round trip."""

    def __init__(self, spare: Spare | None = None, base: int = 32 * MIB) -> None:
        self.spare = Spare(256 * MIB) if spare is None else spare
        self.window = Window(base, self.spare)
        self.now = 0.0

    def run(self, seconds: float, rate: float, round_trip_s: float) -> None:
        """As much is consumed as the line and the window let through, in steps."""
        step_s, until = 0.01, self.now + seconds
        while self.now < until - 1e-9:
            self.now += step_s
            if self.window.wants_round_trip(self.now):
                number = self.window.ask(self.now)
                self.window.answered(self.now + round_trip_s, number)
            self.window.grant()
            self.window.consume(self.now, int(step_s * min(rate, self.window.size / round_trip_s)))


@pytest.mark.parametrize(
    ("rate", "round_trip_s", "grows"),
    [
        (1.25e9, 0.1, True),
        (1.25e9, 0.05, True),
        (1.25e8, 0.1, False),
        (1e10, 0.001, False),
        (1e6, 3.0, False),
    ],
)
def test_a_window_grows_to_what_the_line_holds_and_only_where_that_is_more(
    rate: float, round_trip_s: float, grows: bool
) -> None:
    line = Line()
    line.run(4.0, rate, round_trip_s)
    assert (line.window.size > 32 * MIB) is grows
    assert not grows or line.window.size > rate * round_trip_s
    assert line.window.size <= LIMITS.largest_window
    assert line.window.size - 32 * MIB == 256 * MIB - line.spare.left


def test_who_consumes_slowly_grants_no_more_however_fast_and_long_the_line_is() -> None:
    line = Line()
    line.run(5.0, 1e7, 0.2)
    assert line.window.size == 32 * MIB


def test_one_that_takes_all_it_can_leaves_some_to_everybody_and_each_its_own_window() -> None:
    spare = Spare(256 * MIB)
    lines = [Line(spare) for _ in range(5)]
    for line in lines:
        line.run(10.0, 1e11, 1.0)
    sizes = [line.window.size // MIB for line in lines]
    assert sizes == [32 + 128, 32 + 64, 32 + 32, 32 + 16, 32 + 8]
    assert sum(line.window.granted - line.window.consumed for line in lines) <= (5 * 32 + 256) * MIB


def test_growth_that_is_needed_no_more_returns_to_the_others_as_it_is_used_up() -> None:
    line = Line()
    line.run(4.0, 1.25e9, 0.1)
    grown = line.window.size
    line.run(0.5, 1e7, 0.1)
    assert line.window.size == grown, "a pause takes nothing away"
    line.run(7.0, 1e7, 0.1)
    assert line.window.size == 32 * MIB
    assert line.spare.left < 256 * MIB, "what was granted may still be used"
    line.run(30.0, 1e7, 0.1)
    assert line.spare.left == 256 * MIB
    assert line.window.granted - line.window.consumed <= 32 * MIB
    line.run(4.0, 1.25e9, 0.1)
    assert line.window.size >= grown


def test_of_another_session_nothing_is_granted_and_all_others_have_what_it_had() -> None:
    line = Line()
    line.run(4.0, 1.25e9, 0.1)
    line.window.begin_anew()
    assert (line.window.size, line.spare.left, line.window.granted) == (32 * MIB, 256 * MIB, 0)


def test_an_answer_counts_once_and_only_to_the_last_question() -> None:
    line = Line(base=KIB)
    first = line.window.ask(0.0)
    second = line.window.ask(1.0)
    for number in (0, first, second + 1):
        line.window.answered(9.0, number)
    line.window.consume(9.0, 10 * MIB)
    line.window.consume(20.0, 100 * MIB)
    assert line.window.size == KIB, "no round trip is known"
    line.window.answered(21.0, second)
    line.window.answered(99.0, second)
    line.window.consume(21.0, 1)
    line.window.consume(41.0, MIB)
    assert line.window.size == 2 * MIB, "twenty seconds each way, and no more"
