"""A member's stage among others: its microbatches, and its offers that wait for them.

It joins `peers.routing` to the member: what the coordinator says of replicas, what they say to each other,
and the links that they need. An offer is told to the coordinator once every gradient that was counted before
it was acknowledged by the stage below (PP1); what a membership that is over had counted is not offered any
more where others may count it again.
"""

from __future__ import annotations

from collections.abc import Callable

from peers.member.averaging import Handler
from peers.member.contributions import Contributions
from peers.member.outlet import MemberOutlet
from peers.protocol.events import Fate
from peers.protocol.messages import MemberIs
from peers.protocol.placing import MoveTo
from peers.protocol.stage_work import MoveWanted, StageCommand
from peers.protocol.stream import ReplicaGone, ReplicaIs, RosterIs, StandsSince
from peers.routing.state import Name, StreamTerms
from peers.routing.streaming import Streaming


class Stages:
    """What a member of a model in stages has beside others."""

    def __init__(
        self,
        me: bytes,
        coordinator: bytes,
        terms: StreamTerms,
        contributions: Contributions,
        outlet: MemberOutlet,
        tell: Callable[[float, int], None],
    ) -> None:
        """``tell(now, fragment)``: a contribution need not be held back any more."""
        self.streaming = Streaming(
            me, terms, outlet, lambda now, message: outlet.send(now, coordinator, message), self._heard
        )
        self.neighbours: dict[bytes, MemberIs] = {}
        """Members of other stages with which there is to be a link."""
        self.handlers: dict[type, Handler] = {
            StandsSince: self._stand,
            ReplicaIs: self._replica_is,
            ReplicaGone: self._replica_gone,
            RosterIs: self._roster_is,
            MoveTo: lambda now, message: outlet.deliver(MoveWanted(message.stage)),
        }
        self._me = me
        self._stage = terms.stage
        self._contributions = contributions
        self._tell = tell
        self._waits: dict[int, frozenset[Name]] = {}
        """By fragment that is offered: gradients that are to be acknowledged before."""

    # -- offers -------------------------------------------------------------------------------

    @property
    def may_offer(self) -> bool:
        """Whether the training thread has nothing of an earlier membership."""
        return self.streaming.confirmed

    def holds_back(self, fragment: int) -> bool:
        """Whether a contribution that was just offered has to wait."""
        waits = self.streaming.unheard()
        if waits:
            self._waits[fragment] = waits
            self._contributions.held_back.add(fragment)
        return bool(waits)

    def _heard(self, now: float) -> None:
        if not self._waits:
            return
        unheard = self.streaming.unheard()
        for fragment, waits in list(self._waits.items()):
            self._waits[fragment] = waits & unheard
            if not self._waits[fragment]:
                del self._waits[fragment]
                if fragment in self._contributions.held_back:
                    self._contributions.held_back.discard(fragment)
                    self._tell(now, fragment)

    # -- the coordinator's word ---------------------------------------------------------------

    def _stand(self, now: float, message: StandsSince) -> None:
        void = self.streaming.stand(now, message)
        for fragment in list(self._waits) if void else ():
            self._contributions.end(fragment, Fate.SUPERSEDED, "others may have counted the same")
        if void:
            self._waits.clear()
        self._heard(now)

    def _replica_is(self, now: float, message: ReplicaIs) -> None:
        if message.key != self._me and message.stage != self._stage:
            known = self.neighbours.get(message.key)
            # A coordinator that restarted knows the addresses of those who came back to it.
            addresses = message.addresses or (known.addresses if known is not None else ())
            if self.streaming.state.exchanges_with(message.stage):
                self.neighbours[message.key] = MemberIs(
                    message.epoch, message.key, "", addresses, message.stage
                )
        self.streaming.replica_is(now, message)

    def _replica_gone(self, now: float, message: ReplicaGone) -> None:
        self.streaming.replica_gone(now, message)
        self._forget_gone()

    def _roster_is(self, now: float, message: RosterIs) -> None:
        self.streaming.roster_is(now, message)
        self._forget_gone()

    def _forget_gone(self) -> None:
        for key in [each for each in self.neighbours if self.streaming.state.replicas.of(each) is None]:
            del self.neighbours[key]

    # -- inputs -------------------------------------------------------------------------------

    def do(self, now: float, command: StageCommand) -> bool:
        """Carry out a command of the training thread about microbatches."""
        taken = self.streaming.do(now, command)
        self._heard(now)
        return taken

    def partners(self) -> set[bytes]:
        """Replicas whose silence would matter."""
        return set(self.streaming.state.pairs)
