"""How a process wants its sockets, from its settings and flags."""

from __future__ import annotations

import pytest

from diloco.errors import UserError
from diloco.settings import parse_settings
from diloco.swarm.start_driver import bulk_of, limits_of
from transport.limits import LIMITS
from transport.sealed.upload import BURST_S


def test_a_run_says_how_many_lanes_two_workers_have_at_most() -> None:
    assert limits_of(parse_settings({"run": {"lanes": 7}}, "")).lanes == 7
    assert limits_of(parse_settings({}, "")).lanes == 4
    assert limits_of(parse_settings({}, "")).payload_bytes == LIMITS.payload_bytes


def test_bulk_is_of_a_run_with_a_port_and_a_rate_in_bytes() -> None:
    bulk = bulk_of(b"run", 7_000, 16e6)
    assert (bulk.run, bulk.port) == (b"run", 7_000)
    assert bulk.gate.slice_bytes == 2e6 * BURST_S
    assert not bulk_of(b"run", None, None).gate.is_limited


def test_what_cannot_be_is_refused() -> None:
    for port in (-1, 65_536):
        with pytest.raises(UserError, match=f"no port {port}"):
            bulk_of(b"", port, None)
    for rate in (0.0, 999_999.0, float("nan"), -5.0):
        with pytest.raises(UserError, match="too slow"):
            bulk_of(b"", None, rate)
    assert bulk_of(b"", 0, 1e6).gate.is_limited
