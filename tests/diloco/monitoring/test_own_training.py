"""One worker's own numbers: steps, traffic and how fast both are."""

from __future__ import annotations

from diloco.monitoring.own_training import OwnTraining


class Line:
    """A clock, and bytes that were sent and received by then."""

    def __init__(self) -> None:
        self.now, self.up, self.down = 100.0, 0, 0

    def own(self) -> OwnTraining:
        return OwnTraining("cpu, 2 threads", lambda: (self.up, self.down), lambda: self.now)

    def passes(self, seconds: float, up: int, down: int) -> None:
        self.now, self.up, self.down = self.now + seconds, self.up + up, self.down + down


def test_before_the_first_step_there_is_no_loss_to_show() -> None:
    assert Line().own().training_text() == "no step yet; cpu, 2 threads"


def test_a_step_is_shown_with_its_loss_speed_and_place() -> None:
    line = Line()
    own = line.own()
    own.stepped(1234, 2.3456, 9876.5, 0.0)
    assert own.training_text() == "step 1,234, loss 2.346, 9,876 tokens/s; cpu, 2 threads"


def test_rates_are_those_of_the_last_seconds_and_none_in_the_first_moment() -> None:
    line = Line()
    own = line.own()
    assert own.rates() == (0.0, 0.0)
    for _ in range(30):
        line.passes(1.0, 2_000_000, 1_000_000)
        own.rates()
    assert own.rates() == (2e6, 1e6)
    for _ in range(12):
        line.passes(1.0, 0, 0)
        own.rates()
    assert own.rates() == (0.0, 0.0)


def test_what_was_waited_is_a_share_of_the_time_since_the_first_step() -> None:
    line = Line()
    own = line.own()
    line.passes(1.0, 3_000_000, 4_500_000)
    assert own.network_text() == "3.0 MB up, 4.5 down; now 0.00 and 0.00 MB/s; waited 0 s"
    own.stepped(1, 2.0, 10.0, 0.0)
    line.passes(80.0, 0, 0)
    own.stepped(2, 2.0, 10.0, 20.0)
    assert own.network_text().endswith("; waited 20 s (25 %)")
