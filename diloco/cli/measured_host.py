"""What `diloco plan --from-host` takes from a running host: its status, and a round trip to it.

Owns what follows from a status; plans nothing.
"""

from __future__ import annotations

import socket
import statistics
import sys
import time
from typing import Any

from diloco.errors import UserError
from diloco.methods.cost import element_bytes
from diloco.methods.presets import PRESETS
from diloco.units import show_rate, show_seconds
from peers.admission.ticket import read_ticket


def measured_at(ticket: str) -> dict[str, Any]:
    """What a host's status tells of its run, and the round trip to it; said in a line on stderr."""
    from diloco.swarm.handshake import status

    found = measured_from(status(ticket))
    found["rtt_s"] = _round_trip_s(ticket)
    told = [f"{show_seconds(found['rtt_s'])} round trip to the host"]
    if "peers" in found:
        told.append(
            f"{found['peers']} active peers, {found['parameters']:,.0f} values in a round of all fragments"
        )
    if "step_s" in found:
        told.append(f"{show_seconds(found['step_s'])} a step")
    if "up_bps" in found:
        told.append(f"exchanges at {show_rate(found['up_bps'])} (what links did, not what they can)")
    print(f"measured: {', '.join(told)}", file=sys.stderr)
    return found


def measured_from(status: dict[str, Any]) -> dict[str, Any]:
    """Peers, values exchanged, seconds of a step and the rate of exchanges, as far as a status has them."""
    active = [member for member in status["members"] if member["active"]]
    found: dict[str, Any] = {}
    if active and status.get("elements"):
        found |= {"peers": max(2, len(active)), "parameters": float(sum(status["elements"]))}
    paces = [m["tokens"] / m["step"] / m["speed"] for m in active if m["step"] and m.get("speed")]
    if paces:
        found["step_s"] = statistics.median(paces)
    codec = status.get("codec", "")
    if codec and codec != "topk":
        each = element_bytes(codec, PRESETS["diloco"])
        rates = [
            8 * 2 * (members - 1) / members * status["elements"][fragment] * each / seconds
            for fragment, members, seconds in status.get("recent", [])
            if members > 1 and seconds > 0
        ]
        if rates:
            found["up_bps"] = statistics.median(rates)
    return found


def _round_trip_s(ticket: str) -> float:
    """A TCP handshake takes one round trip: the median of several."""
    host, port = read_ticket(ticket, time.time()).addresses[0].removeprefix("tcp://").rsplit(":", 1)
    times = []
    for _ in range(5):
        began = time.monotonic()
        try:
            with socket.create_connection((host.strip("[]"), int(port)), timeout=10.0):
                times.append(time.monotonic() - began)
        except OSError as error:
            raise UserError(f"{host}:{port} cannot be reached: {error.strerror or error}") from None
    return statistics.median(times)
