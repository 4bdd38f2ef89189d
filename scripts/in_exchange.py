"""The middle of an exchange: the moment at which a test or a benchmark has a worker die or stop."""

from __future__ import annotations

from dataclasses import dataclass
from unittest import mock

from peers.node import Node
from peers.protocol.events import RoundOpened
from transport.effects import Deliver, Effect, Send, Trace

_ROUNDS = 2
"""The second round in a row with everyone: by then each was in the round before."""
_FRAMES = 3
"""Nobody can have a whole result by then: it takes a part and a reduced part for each of two others."""


@dataclass(frozen=True, slots=True)
class InExchangeTrace(Trace):
    """The first frames of an exchange have left, and others have not."""


def trace_the_exchange(node: Node, num_members: int) -> None:
    """Have a node hand back one `InExchangeTrace` after the first frames of the second in a row of rounds
    with all members. The driver's thread carries it out between two frames; the training thread hears of a
    round when it may be over."""
    whole_rounds, frames_left, drain = 0, -1, node.drain

    def with_trace() -> list[Effect]:
        nonlocal whole_rounds, frames_left
        out: list[Effect] = []
        for effect in drain():
            out.append(effect)
            match effect:
                case Deliver(RoundOpened() as opened):
                    whole_rounds = whole_rounds + 1 if len(opened.members) == num_members else 0
                    if whole_rounds == _ROUNDS:
                        frames_left = _FRAMES
                case Send():
                    frames_left -= 1
                    if frames_left == 0:
                        out.append(InExchangeTrace())
                        patched.stop()
        return out

    patched = mock.patch.object(node, "drain", with_trace)
    patched.start()
