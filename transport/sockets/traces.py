"""What the socket driver tells whoever watches it: one frozen dataclass per fact about connections.

Keys are shortened for people; addresses are those that the operating system tells.
"""

from __future__ import annotations

from dataclasses import dataclass

from transport.effects import Trace


@dataclass(frozen=True, slots=True)
class TransportFailedTrace(Trace):
    """The network thread has ended by an error."""

    error: str


@dataclass(frozen=True, slots=True)
class CallbackFailedTrace(Trace):
    """The program's function for events raised; that call is lost."""

    error: str
    traceback: str
    number: int
    """How many calls did so far, this one included."""


@dataclass(frozen=True, slots=True)
class SocketFailedTrace(Trace):
    """What was to be done with the connections of ``peer`` failed here; they are made anew."""

    peer: bytes
    error: str
    traceback: str


@dataclass(frozen=True, slots=True)
class StrangerRefusedTrace(Trace):
    """A key that is neither a member's nor an invite's wanted to connect."""

    key: str
    address: str


@dataclass(frozen=True, slots=True)
class PeerClosedTrace(Trace):
    """The connections of a peer were closed."""

    peer: str
    reason: str


@dataclass(frozen=True, slots=True)
class LaneRefusedTrace(Trace):
    """A dialled lane did not come up at this address."""

    peer: str
    lane: int
    address: str
    reason: str


@dataclass(frozen=True, slots=True)
class LaneLostTrace(Trace):
    """A lane that was up broke."""

    peer: str
    lane: int
    address: str
    reason: str


@dataclass(frozen=True, slots=True)
class BulkLaneUpTrace(Trace):
    """A sealed connection carries this lane of a peer from now on."""

    peer: str
    lane: int


@dataclass(frozen=True, slots=True)
class BulkLaneLostTrace(Trace):
    """It ended: libzmq's connection carries the lane again, and another sealed one is asked for."""

    peer: str
    lane: int
    reason: str


@dataclass(frozen=True, slots=True)
class BulkOverControlTrace(Trace):
    """Bulk to and from a peer stays on libzmq's connections for some minutes."""

    peer: str
    reason: str
