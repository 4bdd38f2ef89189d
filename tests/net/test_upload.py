"""A limited upload over real sockets: bulk waits at the gate whatever it goes over, and control does not."""

from __future__ import annotations

import threading

import pytest

from tests.net.link_core import OF_THE_RUN, LinkNode
from tests.net.swarm_kit import eventually, never, running
from transport.sockets.sealed_lanes import Bulk
from transport.sockets.traces import BulkLaneUpTrace
from transport.sockets.upload_gate import UploadGate

PAYLOADS = [bytes([number]) * 100_000 for number in range(4)]


class Hands:
    """Time stands still until a test lets it go on, and then it flies."""

    def __init__(self) -> None:
        self._now = 0.0
        self._goes_on = threading.Event()

    def gate(self) -> UploadGate:
        return UploadGate(100_000.0, self._clock, lambda seconds: void(self._goes_on.wait(30.0)))

    def go_on(self) -> None:
        self._goes_on.set()

    def _clock(self) -> float:
        self._now += 100.0 if self._goes_on.is_set() else 0.0
        return self._now


def void(_: object) -> None:
    """A wait has no result."""


@pytest.mark.parametrize("sealed", [True, False], ids=["sealed", "curve"])
@pytest.mark.parametrize("dials", [True, False], ids=["dialled", "accepted"])
def test_bulk_waits_at_the_gate_and_control_goes_on(dials: bool, sealed: bool) -> None:
    hands = Hands()
    limited, free = Bulk(b"run", None, hands.gate()), OF_THE_RUN if sealed else None
    host, member = LinkNode(1, bulk=free if dials else limited), LinkNode(2, bulk=limited if dials else free)
    with running(host, member):
        member.dials(host)
        sender, receiver = (member, host) if dials else (host, member)
        if sealed:
            eventually(lambda: host.traced(BulkLaneUpTrace) and member.traced(BulkLaneUpTrace))
        sender.puts(receiver, PAYLOADS)
        receiver.puts(sender, PAYLOADS)
        eventually(lambda: len(sender.linked.arrived) == len(PAYLOADS))  # credit for these goes by control
        never(lambda: len(receiver.linked.arrived) > 1)
        hands.go_on()
        eventually(lambda: len(receiver.linked.arrived) == len(PAYLOADS))
        assert len({number for number, _ in receiver.linked.arrived}) == len(PAYLOADS)
