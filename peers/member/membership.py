"""Who else is in the run, and who of them holds a state, as the coordinator tells.

It owns the member's copy of the roster and tells the training loop who comes and goes. It decides nothing
about exchanges: whoever exchanges with a member that is gone is told first, before the roster forgets it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from peers.member.outlet import MemberOutlet
from peers.protocol.events import PeerLeft, PeersJoined
from peers.protocol.messages import MemberActive, MemberGone, MemberIs, RosterBatch
from peers.protocol.roster_feed import messages_in
from transport.errors import BadFrame
from transport.limits import LIMITS


class Membership:
    """The other members of a run."""

    def __init__(
        self,
        me: bytes,
        outlet: MemberOutlet,
        leaving: Callable[[float, bytes, str], None],
        *,
        stage: int = 0,
        max_members: int = LIMITS.gossip_members,
    ) -> None:
        """``leaving(now, key, reason)`` is called before a member is forgotten."""
        self.others: dict[bytes, MemberIs] = {}
        """By key, all that are in but this one."""
        self.active: set[bytes] = set()
        """Others that hold a state: in gossip, those that may be matched."""
        self._me = me
        self._outlet = outlet
        self._leaving = leaving
        self._stage = stage
        self._max_members = max_members

    def welcome(self, members: Sequence[MemberIs]) -> None:
        """These are in. Raises `BadFrame` if they are more than a run may have, or train another stage."""
        if any(each.stage != self._stage for each in members):
            raise BadFrame(f"a member of another stage is named to one of stage {self._stage}")
        others = [each for each in members if each.key != self._me]
        if len(self.others.keys() | {each.key for each in others}) >= self._max_members:
            raise BadFrame(f"a run of more than {self._max_members} members")
        self.others.update((each.key, each) for each in others)
        if others:
            self._outlet.deliver(PeersJoined(tuple((each.key, each.name) for each in others)))

    def gone(self, now: float, message: MemberGone) -> None:
        """That one is out."""
        self.active.discard(message.key)
        self._leaving(now, message.key, message.reason)
        gone = self.others.pop(message.key, None)
        if gone is not None:
            self._outlet.deliver(PeerLeft(message.key, gone.name, message.reason))

    def became_active(self, message: MemberActive) -> None:
        """That one holds a state. Raises `BadFrame` if they are more than a run may have."""
        if message.key != self._me:
            if len(self.active | {message.key}) >= self._max_members:
                raise BadFrame(f"a run of more than {self._max_members} active members")
            self.active.add(message.key)

    def apply_batch(self, now: float, message: RosterBatch) -> None:
        """Many changes of the roster at once, in their order. Raises `BadFrame`."""
        arrived: list[MemberIs] = []
        for each in messages_in(message.batch):
            if isinstance(each, MemberIs):
                arrived.append(each)
                continue
            self.welcome(arrived)
            arrived = []
            if isinstance(each, MemberGone):
                self.gone(now, each)
            else:
                self.became_active(each)
        self.welcome(arrived)

    def forget_active(self) -> None:
        """A session with the coordinator begins: it says anew who holds a state."""
        self.active.clear()
