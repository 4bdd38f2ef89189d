"""Where a worker hashes its states: threads beside training and beside the network, one at work at a time.

Shell code. Which states, and when, is decided in `peers`; how is `diloco.outer.names`' affair. A state is
held as it is from the moment when it is wanted, on the network's thread.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress

from peers.node import Node
from peers.protocol.commands import ConfirmNamed
from peers.protocol.events import NameWanted
from peers.protocol.record import NO_DIGEST
from transport.errors import DriverStopped
from transport.sockets.driver import SocketDriver

Find = Callable[[], bytes]


class NamingThreads:
    """Takes what a node tells, and passes on all but the states that are to be named."""

    def __init__(self, node: Node, pass_on: Callable[[object], None]) -> None:
        self.driver: SocketDriver | None = None
        """Set before the first event: it brings the digests to the node."""
        self._node = node
        self._pass_on = pass_on
        self._turn = threading.Lock()

    def hear(self, event: object) -> None:
        """One event, on the driver's thread."""
        if not isinstance(event, NameWanted):
            self._pass_on(event)
            return
        member = self._node.member
        assert member is not None, "it has told that"
        find = member.to_name(event.fragment, event.check)
        threading.Thread(target=self._run, args=(event, find), name="diloco-naming", daemon=True).start()

    def _run(self, wanted: NameWanted, find: Find | None) -> None:
        with self._turn:
            name = find() if find is not None else NO_DIGEST
        driver = self.driver
        assert driver is not None, "it was set before the first event"
        named = ConfirmNamed(wanted.fragment, wanted.check, name)
        with suppress(DriverStopped):  # this process has left the run
            driver.call(lambda _, now: self._node.command(now, named))
