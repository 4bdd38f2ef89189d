"""What leaves is at most the rate, over ten seconds, whatever the sizes and however many send."""

from __future__ import annotations

from random import Random

import pytest

from transport.sealed.upload import BURST_S, Upload

RATES = [125_000.0, 1.25e6, 12.5e6, 125e6]


def sent_within(upload: Upload, seconds: float, sizes: Random, num_senders: int = 1) -> int:
    """Bytes that leave while ``num_senders`` always have something, each waiting as it is told."""
    ready = [0.0] * num_senders
    total = 0
    while (now := min(ready)) < seconds:
        sender = ready.index(now)
        size = min(sizes.choice([100, 4_096, 1 << 20]), upload.slice_bytes)
        total += size
        ready[sender] = now + upload.take(now, size)
    return total


@pytest.mark.parametrize("num_senders", [1, 5])
@pytest.mark.parametrize("rate", RATES)
def test_over_ten_seconds_the_rate_is_met_within_two_percent(rate: float, num_senders: int) -> None:
    total = sent_within(Upload(rate), 10.0, Random(3), num_senders)
    assert total == pytest.approx(10.0 * rate, rel=0.02)


def test_who_was_idle_may_not_catch_up() -> None:
    upload = Upload(1e6)
    upload.take(0.0, 1_000)
    assert upload.take(100.0, 1_000_000) == pytest.approx(1.0 - BURST_S)


def test_without_a_limit_nobody_waits() -> None:
    upload = Upload(None)
    assert upload.take(0.0, 1 << 40) == 0.0
    assert upload.slice_bytes > 1 << 60


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan")])
def test_what_is_no_rate_is_refused(rate: float) -> None:
    with pytest.raises(ValueError, match="not a rate"):
        Upload(rate)
