"""The gate before a listening socket: it tells what it does, once."""

from __future__ import annotations

import socket
import sys

from transport.effects import Trace
from transport.floods import FloodOverTrace, FloodTrace
from transport.sockets.flood_gate import FloodGate


def test_a_flood_is_told_when_it_begins_and_when_it_is_over() -> None:
    told: list[Trace] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:
        gate = FloodGate(listening.fileno(), 100, told.append)
        gate.serve_due(5.0)
        for _ in range(200):
            gate.came(5.0, "10.0.0.1")
        assert gate.due == 5.5
        gate.serve_due(5.5)
        for second in range(6, 12):
            gate.serve_due(float(second))
        assert told == [FloodTrace("10.0.0.1", sys.platform == "linux"), FloodOverTrace()]
        assert gate.due is None
