"""How a sealed lane comes about: who asks for it over the control connection, what is answered, who dials.

Whoever dialled the control connection asks, once both ends have greeted; where both dialled, the lower key's
lane counts. A port that is closed, a lane that is not offered and lanes that end again and again leave bulk
on libzmq's connections for a while (`transport.sealed.trouble`), which is told once. All of it runs on the
driver's thread. Keeps R4 and X1.
"""

from __future__ import annotations

from collections.abc import Callable

from transport.effects import NEVER, STREAM_LANE
from transport.errors import BadFrame, BadMessage
from transport.frames import pack, unpack
from transport.keys import short
from transport.limits import Limits
from transport.sealed.headers import sessions_of
from transport.sealed.keys import ID_BYTES, SECRET_BYTES, LaneEnds
from transport.sealed.messages import NO_QUESTION, LaneAsk, LaneOffer, name_of
from transport.sealed.opening import accept, ask
from transport.sockets.bulk_door import DIAL_S, BulkDoor, Dial, DialRefused
from transport.sockets.bulk_peers import BulkPeer, BulkPeers
from transport.sockets.control import Control
from transport.sockets.core_runner import CoreRunner
from transport.sockets.traces import BulkOverControlTrace
from transport.sockets.wire import DRIVER_LANE, Outgoing, is_lane

_ANSWER_S = 2.0
"""After this long without an answer a lane is asked for again."""
AGAIN_S = 0.5
"""So long after the end of a lane the next one is asked for."""


class LaneAsks:
    """``ended`` is called with a peer, the number of a lane and the name of a connection of it: the peer says
    that it has that one no more."""

    def __init__(
        self,
        runner: CoreRunner,
        key: bytes,
        run: bytes,
        control: Control,
        peers: BulkPeers,
        limits: Limits,
        ended: Callable[[BulkPeer, int, bytes], None],
    ) -> None:
        self.door: BulkDoor | None = None
        """Without one no lane is asked for or offered."""
        self._runner, self._key, self._run = runner, key, run
        self._control, self._peers, self._limits, self._ended = control, peers, limits, ended

    def note_sessions(self, peer: bytes, header: bytes) -> bool:
        """Look at what our own core says on the control lane; whether another session began by that."""
        sessions = sessions_of(header)
        if sessions is None:
            return False
        found = self._peers.of(peer)
        if found.sessions == sessions:
            return False
        found.sessions = sessions
        if self.door is not None:
            self.door.forget(peer)
        return True

    def ask_due(self, now: float) -> None:
        """Ask for every lane that is missing and due."""
        for peer in self._control.dialled():
            found = self._peers.of(peer)
            if self._control.reached(peer) is not None and found.sessions and found.choice.may_ask(now):
                self._ask(now, found)

    def take_word(self, peer: bytes, header: bytes) -> None:
        """The driver of a peer says something about its lanes. Raises `PeerFault`."""
        word = unpack(header, self._limits)
        if not isinstance(word, LaneAsk | LaneOffer) or not is_lane(word.lane, self._limits):
            raise BadFrame("a driver says nothing of this kind to another")
        found = self._peers.of(peer)
        if not found.words.take(self._runner.clock()):
            raise BadMessage("it speaks of lanes too often")
        if isinstance(word, LaneAsk):
            self._answer(found, word)
        elif word.asked == NO_QUESTION:
            self._ended(found, word.lane, word.connection)
        elif (asked := found.asked.get(word.lane)) is None or word.asked != name_of(asked):
            return  # it was asked anew since, and that has an answer of its own
        elif word.port:
            self._dial(found, word)
        else:
            del found.asked[word.lane]
            found.choice.refused(self._runner.clock())

    def say_ended(self, peer: bytes, lane: int, connection: bytes) -> None:
        """There is no such connection here any more."""
        self._say_none(peer, lane, connection, NO_QUESTION)

    def refused(self, refused: DialRefused) -> None:
        """A connection that was offered did not come up."""
        dial, now = refused.dial, self._runner.clock()
        found = self._peers.of(dial.peer)
        if refused.was_connected:  # it was taken as no offer: by now another session may have begun
            found.ask_from[dial.lane] = now + AGAIN_S
            found.ended.add(dial.lane)  # the peer may think that it is up
            self.count_trouble(found)
        else:
            where = "{}:{}".format(*dial.target)
            self.go_without(found, f"{where}: {refused.reason}")

    def go_without(self, found: BulkPeer, why: str) -> None:
        """No lane can be had for some minutes, which is told once."""
        if found.choice.refused(self._runner.clock()):
            self._runner.trace(BulkOverControlTrace(short(found.peer), why))

    def count_trouble(self, found: BulkPeer) -> None:
        """A lane ended that should not have."""
        if found.choice.troubled(self._runner.clock()):
            why = "its lanes ended three times in a minute"
            self._runner.trace(BulkOverControlTrace(short(found.peer), why))

    # -- inside -------------------------------------------------------------------------------

    def _ask(self, now: float, found: BulkPeer) -> None:
        num_lanes = found.growth.lanes if self._control.has_bulk(found.peer) else 0
        streams = [STREAM_LANE] * self._control.has_stream(found.peer)
        for lane in (*streams, *range(1, num_lanes + 1)):
            if lane not in found.lanes and found.ask_from.get(lane, NEVER) <= now:
                found.ask_from[lane] = now + _ANSWER_S
                found.asked[lane] = ask(lane)
                self._say(found.peer, found.asked[lane])

    def _answer(self, found: BulkPeer, asked: LaneAsk) -> None:
        peer, now = found.peer, self._runner.clock()
        dials_too = self._control.reached(peer) is not None and self._key < peer
        if self.door is None or not self.door.port or dials_too:
            self._say_none(peer, asked.lane, bytes(ID_BYTES), name_of(asked))
        elif (ends := self._ends(found, asked.lane)) is not None:
            self._say(peer, self.door.offer(now, ends, asked))

    def _dial(self, found: BulkPeer, offer: LaneOffer) -> None:
        asked, host = found.asked.pop(offer.lane, None), self._control.reached(found.peer)
        ends, sessions = self._ends(found, offer.lane), found.sessions
        if asked is None or host is None or ends is None or sessions is None or self.door is None:
            return
        opening, sealer, opener = accept(ends, asked, offer, self._limits)
        found.ask_from[offer.lane] = (
            self._runner.clock() + 2 * DIAL_S
        )  # it is known by then what became of it
        target = (host, offer.port)
        self.door.dial(Dial(found.peer, offer.lane, sessions, target, opening, sealer, opener))

    def _ends(self, found: BulkPeer, lane: int) -> LaneEnds | None:
        if found.sessions is None:
            return None
        return LaneEnds(self._run, self._key, found.peer, *found.sessions, lane)

    def _say_none(self, peer: bytes, lane: int, connection: bytes, asked: bytes) -> None:
        self._say(peer, LaneOffer(lane, 0, connection, bytes(SECRET_BYTES), asked))

    def _say(self, peer: bytes, word: LaneAsk | LaneOffer) -> None:
        self._control.say(peer, Outgoing(DRIVER_LANE, pack(word, self._limits), None, "control", False))
