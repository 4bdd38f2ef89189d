"""The driver of a node, running: its sockets as the settings and the command line want them.

Shell code; decides nothing about training. No torch.
"""

from __future__ import annotations

import queue
from collections.abc import Callable
from dataclasses import replace

from diloco.errors import UserError
from diloco.methods.spec import Method
from diloco.settings import RunSettings
from diloco.swarm.failure_log import FailureLog
from diloco.swarm.naming import NamingThreads
from diloco.swarm.recomputing import RecomputeThreads
from diloco.units import show_rate
from peers.admission.identity import Identity
from peers.node import Node
from transport.effects import Trace
from transport.limits import LIMITS, Limits
from transport.sockets.driver import SocketDriver
from transport.sockets.sealed_lanes import Bulk
from transport.sockets.upload_gate import UploadGate

_LEAST_UPLOAD_BPS = 8.0 * LIMITS.least_upload


def limits_of(settings: RunSettings) -> Limits:
    """The bounds of a node in a run."""
    return replace(LIMITS, lanes=settings.run.lanes)


def bulk_of(run: bytes, port: int | None, max_upload_bps: float | None) -> Bulk:
    """How a process in a run wants its bulk. Raises `UserError`."""
    if port is not None and not 0 <= port <= 65_535:
        raise UserError(f"there is no port {port} for bulk lanes: give one up to 65535, or 0 for any")
    if max_upload_bps is None:
        return Bulk(run, port)
    if not max_upload_bps >= _LEAST_UPLOAD_BPS:
        raise UserError(
            f"an upload of {show_rate(max_upload_bps)} is too slow: who sends less than "
            f"{show_rate(_LEAST_UPLOAD_BPS)} is left out of rounds"
        )
    return Bulk(run, port, UploadGate(max_upload_bps / 8))


def start_driver(
    node: Node,
    identity: Identity,
    bind: str | None,
    store: Callable[[bytes], None],
    on_trace: Callable[[Trace], None] | None,
    bulk: Bulk | None,
    queued: queue.SimpleQueue[object] | None = None,
    method: Method | None = None,
) -> tuple[SocketDriver, queue.SimpleQueue[object]]:
    """The running driver of a node, and the queue that its events come through. A host is given the run's
    ``method``, by which it computes disputed steps. Without ``bulk`` there are no bulk lanes beside CURVE."""
    events = queue.SimpleQueue() if queued is None else queued
    failures = FailureLog()

    def note(trace: Trace) -> None:
        failures.trace(trace)
        if on_trace is not None:
            on_trace(trace)

    names = NamingThreads(node, events.put)
    steps = RecomputeThreads(node, method, names.hear)
    driver = SocketDriver(
        node,
        identity.keys,
        bind,
        steps.hear,
        note,
        store,
        limits=node.limits,
        say_disk_full=node.links.say_disk_full,
        bulk=bulk,
    )
    steps.driver = names.driver = driver
    driver.start()
    return driver, events
