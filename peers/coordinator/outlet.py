"""What the coordinator asks of the node that it lives in: to send, to store, to tell what happens.

A protocol only. Whoever implements it decides nothing about the run.
"""

from __future__ import annotations

from typing import Any, Protocol

from transport.effects import Trace


class Outlet(Protocol):
    """The coordinator's way to the world."""

    def send(self, now: float, peer: bytes, message: Any) -> None:
        """Send a message to a member; without a link to it the message is dropped."""

    def forget(self, peer: bytes, reason: str) -> None:
        """Drop the link to a member."""

    def store(self, entry: bytes) -> None:
        """Append to the journal, before anything that is sent later leaves."""

    def deliver(self, event: object) -> None:
        """Hand an event to the program around this process."""

    def trace(self, trace: Trace) -> None:
        """Tell whoever watches."""

    def last_heard(self, now: float, peer: bytes) -> float:
        """When that peer last said anything; `NEVER` without a link."""
        ...
