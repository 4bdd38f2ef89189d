"""What a member asks of the node that it runs in.

The member's side decides and says; how a word reaches a peer, and whether there is a link to it, is the
node's affair.
"""

from __future__ import annotations

from typing import Any, Protocol

from transport.effects import EncodedResult, Payload


class MemberOutlet(Protocol):
    """The node as its member sees it."""

    def send(self, now: float, peer: bytes, message: Any) -> None:
        """Say one control message; it is dropped if there is no link to ``peer``."""

    def send_bulk(self, now: float, peer: bytes, message: Any, payload: Payload, purpose: str) -> None:
        """Send one payload; the caller looked at `room` first."""

    def room(self, peer: bytes) -> int:
        """Bytes that ``peer`` would take now; -1 without a link to it."""

    def send_stream(self, now: float, peer: bytes, message: Any, payload: Payload) -> None:
        """Send one payload that must not wait behind other bulk; the caller looked at `stream_room` first."""

    def stream_room(self, peer: bytes) -> int:
        """Bytes that may be streamed to ``peer`` now; -1 without a link to it, or one without a stream."""

    def consumed(self, now: float, peer: bytes, cost: int) -> None:
        """The member is done with a payload: its bytes become credit of ``peer`` again."""

    def stream_consumed(self, now: float, peer: bytes, cost: int) -> None:
        """The same of what came by `send_stream`."""

    def show(self, now: float, message: Any, payload: Payload) -> bool:
        """Let the coordinator have a payload; False if there is no room for it now."""

    def keep(self, serial: int, result: bytes, encoded: EncodedResult) -> None:
        """Have a result on the disk before anything else is said; nothing for a member that keeps none."""

    def deliver(self, event: object) -> None:
        """Hand an event to the training loop."""

    def last_heard(self, now: float, peer: bytes) -> float:
        """When ``peer`` last gave a sign of life."""

    def meet(self, now: float, peer: bytes) -> bool:
        """Have a link to a member for a while; True if the link is new."""
