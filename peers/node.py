"""One process's part of a swarm: its links, and the coordinator and member that speak over them.

The node is the core that drivers run. It routes messages by kind and authenticated sender, lets a
coordinator and a member in one process talk without a wire, answers knocks, and closes whoever
sends rubbish (X2, X4). It decides nothing about rounds.
"""

from __future__ import annotations

import hashlib
from collections import deque
from dataclasses import dataclass
from typing import Any

from peers.admission.door import Door
from peers.coordinator.coordinator import Coordinator
from peers.coordinator.rules import Rules
from peers.member.member import Member
from peers.member.profile import Profile
from peers.protocol.application import Application
from peers.protocol.commands import Command
from peers.protocol.messages import MemberGone, MemberIs, NoSwap, RosterBatch
from peers.protocol.traces import BadFrameTrace, MessagesDroppedTrace
from transport.collectives.fetch import Lack, Want
from transport.effects import NEVER, Close, Deliver, Effect, Payload, Store, Trace
from transport.errors import BadFrame
from transport.frames import unpack_items
from transport.limits import LIMITS, Limits
from transport.link.link import Link
from transport.link.messages import Arrival, Started, Superseded, session_of

_IDLE_TIMEOUTS = 8
"""Failure timeouts after which a gossip link that nothing used is given up."""


@dataclass(frozen=True, slots=True)
class Contact:
    """Where the coordinator is."""

    key: bytes
    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Hosting:
    """What a coordinating node needs."""

    rules: Rules
    journal: list[Any]
    """Entries of an earlier life, in order."""
    door: Door


@dataclass(frozen=True, slots=True)
class Training:
    """What a training node needs."""

    profile: Profile
    app: Application
    patience_s: float = 60.0
    """How long a member with a living link may move nothing in an exchange."""


class Node:
    """The core of one process. See `transport.effects.Core` for what drivers call."""

    def __init__(
        self,
        key: bytes,
        incarnation: int,
        coordinator: Contact,
        *,
        failure_timeout_s: float,
        hosting: Hosting | None = None,
        limits: Limits = LIMITS,
    ) -> None:
        self.key = key
        self.limits = limits
        self.links: dict[bytes, Link] = {}
        self._incarnation = incarnation
        self._contact = coordinator
        self._timeout_s = failure_timeout_s
        self._generation = 0
        self._newest: dict[bytes, int] = {}
        """Incarnations of peers whose links were dropped: an older one must not take their place (S13)."""
        self._out: list[Effect] = []
        self._self: deque[Any] = deque()
        self._next_tick = 0.0
        self._met: dict[bytes, float] = {}
        """Gossip: when a link to each member was last wanted."""
        self._links_change = False
        """The roster, or a link, is not what it was when links were last minded."""
        self._stopped = False
        self.coordinator: Coordinator | None = None
        self.member: Member | None = None
        self._door = hosting.door if hosting else None
        if hosting:
            self.coordinator = Coordinator(key, hosting.rules, limits, self)
            self.coordinator.restore(hosting.journal)

    # -- the driver's side --------------------------------------------------------------------

    def start(self, now: float) -> None:
        self._next_tick = now + self._timeout_s / 8
        if self.coordinator:
            self.coordinator.start(now)
        else:
            self._link_to(now, self._contact.key, self._contact.addresses, dials=True)
        self._settle(now)

    def connected(self, now: float, peer: bytes, lane: int) -> None:
        if peer in self.links:
            self.links[peer].connected(now, lane)

    def disconnected(self, now: float, peer: bytes, lane: int) -> None:
        if peer in self.links:
            self.links[peer].disconnected(lane)

    def receive(self, now: float, peer: bytes, lane: int, header: bytes, payload: Payload | None) -> None:
        if self._stopped:
            return
        link = self.links.get(peer)
        if link is None:
            if not self._knows(peer):
                self._out.append(Close(peer, "not a member"))
                return
            link = self._link_to(now, peer, (), dials=False)
        try:
            for result in link.receive(now, lane, unpack_items(header, self.limits), payload):
                self._handle(now, peer, result)
        except BadFrame as error:
            self._expel(now, peer, str(error))
        if self.member:
            self.member.credit_came(now)
        if self._self or self._links_change:
            self._settle(now)

    def knock(self, now: float, invite: bytes, header: bytes) -> tuple[bytes, bytes] | None:
        if self.coordinator is None or self._door is None:
            return None
        answer = self._door.answer(now, self.coordinator, invite, header)
        self._settle(now)
        return answer

    def admits(self, key: bytes) -> str | None:
        if self._stopped:
            return None
        if self._door is not None and self._door.is_invite(key):
            return "invite"
        return "member" if self._knows(key) else None

    def tick(self, now: float) -> None:
        if self._stopped:
            self._next_tick = now + self._timeout_s
            return
        if self.member and self.member.exchanges.busy:
            self.member.pump(now)
            self._settle(now)
        if now < self._next_tick:
            return
        self._next_tick = now + self._timeout_s / 8
        waits_for = self._waits_for()
        for peer, link in list(self.links.items()):
            link.tick(now, waits_for is None or peer in waits_for)
        if self.coordinator:
            self.coordinator.tick(now)
        if self.member:
            self.member.tick(now)
            if self.member.swaps is not None and not self.coordinator:
                self._drop_idle_links(now)
        self._settle(now)

    def deadline(self) -> float | None:
        busy = self.member is not None and self.member.exchanges.busy and not self._stopped
        return 0.0 if busy else self._next_tick

    def drain(self) -> list[Effect]:
        out = self._out[:]
        self._out.clear()
        return out

    def digest(self) -> str:
        parts: list[Any] = [self.links[p].digest_parts() for p in sorted(self.links)]
        if self.coordinator:
            parts += self.coordinator.digest_parts()
        if self.member:
            m = self.member
            parts.append((m.follower.head, m.active, sorted(m.exchanges.running)))
        return hashlib.sha256(repr(parts).encode()).hexdigest()

    # -- the program's side -------------------------------------------------------------------

    def train(self, now: float, training: Training) -> None:
        """Take part: from here on this node has a member, which enters as soon as it can."""
        assert self.member is None, "this node trains already"
        contact = self._contact.key
        self.member = Member(
            self.key,
            contact,
            training.profile,
            training.app,
            self,
            failure_timeout_s=self._timeout_s,
            patience_s=training.patience_s,
            limits=self.limits,
        )
        self.member.start(now)
        if self.coordinator:
            self.coordinator.certify(self.key, training.profile.name)
        if self.coordinator or (contact in self.links and self.links[contact].up):
            self.member.session_began(now, contact)
        self._settle(now)

    def command(self, now: float, command: Command) -> bool:
        """Carry out one command of the training loop; False if the member did not take it."""
        assert self.member is not None, "this node does not train"
        taken = self.member.do(now, command)
        self._settle(now)
        return taken

    # -- what coordinator and member ask (Outlet, Bulk) ---------------------------------------

    def send(self, now: float, peer: bytes, message: Any) -> None:
        if peer == self.key:
            self._self.append(message)
            return
        link = self.links.get(peer)
        if link is None:
            return  # it is gone; whoever waits for it is told by its absence
        link.send_control(now, message)
        if link.control_overflows():
            self.trace(MessagesDroppedTrace(peer=peer))
            link.begin_anew(self._next_session())

    def send_bulk(self, now: float, peer: bytes, message: Any, payload: Payload, purpose: str) -> None:
        link = self.links.get(peer)
        if link is not None:
            link.send_bulk(now, message, payload, purpose)

    def room(self, peer: bytes) -> int:
        link = self.links.get(peer)
        return -1 if link is None else link.room()

    def consumed(self, now: float, peer: bytes, cost: int) -> None:
        link = self.links.get(peer)
        if link is not None:
            link.consumed(now, cost)

    def last_heard(self, now: float, peer: bytes) -> float:
        if peer == self.key:
            return now
        return self.links[peer].last_heard if peer in self.links else NEVER

    def forget(self, peer: bytes, reason: str) -> None:
        """Drop the link; the next word from that peer begins a new session."""
        link = self.links.pop(peer, None)
        if link is not None:
            self._links_change = True
            self._newest[peer] = max(link.incarnation, self._newest.get(peer, 0))
            self._out.append(Close(peer, reason))

    def store(self, entry: bytes) -> None:
        self._out.append(Store(entry))

    def deliver(self, event: object) -> None:
        self._out.append(Deliver(event))

    def trace(self, trace: Trace) -> None:
        self._out.append(trace)

    # -- inside -------------------------------------------------------------------------------

    def _waits_for(self) -> set[bytes] | None:
        """Peers whose silence would matter now; None for all. Who is in the run is the coordinator's affair:
        members that exchange nothing leave each other in peace, or heartbeats grew with their square."""
        if self.coordinator or self.member is None:
            return None
        return {self._contact.key} | self.member.exchanges.partners() | self.member.follower.donors()

    def _knows(self, peer: bytes) -> bool:
        if self.coordinator:
            return peer in self.coordinator.roster.entries
        return peer == self._contact.key or (self.member is not None and peer in self.member.roster)

    def _next_session(self) -> int:
        self._generation += 1
        return session_of(self._incarnation, self._generation)

    def _link_to(self, now: float, peer: bytes, addresses: tuple[str, ...], *, dials: bool) -> Link:
        link = Link(
            peer,
            self._next_session(),
            dials=dials,
            addresses=addresses,
            heartbeat_s=self._timeout_s / 4,
            silence_s=self._timeout_s,
            limits=self.limits,
            out=self._out,
            oldest=self._newest.get(peer, 0),
        )
        self.links[peer] = link
        window = self.limits.window(len(self.links))
        for each in self.links.values():
            each.window = window
        link.start(now)
        return link

    def _handle(self, now: float, peer: bytes, result: Arrival | Started | Superseded) -> None:
        if isinstance(result, Arrival):
            if result.payload is None:
                self._dispatch(now, peer, result.message)
            elif self.member is None:
                raise BadFrame("bulk to a node that does not train")
            else:
                self.member.bulk(now, peer, result.message, result.payload, result.cost)
        elif isinstance(result, Superseded):
            self._step_down()
        else:
            if self.coordinator:
                self.coordinator.session_began(now, peer)
            if self.member and (peer == self._contact.key or not result.first):
                self.member.session_began(now, peer)

    def _step_down(self) -> None:
        """A newer process has our identity. Every link is closed, for whoever dials on takes the newer one's
        place at the acceptors again and again (S13). A coordinator takes no member's word for it."""
        if self.coordinator:
            return
        self._stopped = True
        for peer in list(self.links):
            self.forget(peer, "a newer process has our identity")
        if self.member:
            self.member.superseded()

    def _dispatch(self, now: float, peer: bytes, message: Any) -> None:
        if self.member and (peer == self._contact.key or isinstance(message, (Want, Lack, NoSwap))):
            self.member.control(now, peer, message)
            if isinstance(message, (MemberIs, MemberGone, RosterBatch)):
                self._links_change = True
                self._update_links(now)
        if self.coordinator:
            self.coordinator.receive(now, peer, message)

    def _expel(self, now: float, peer: bytes, reason: str) -> None:
        self.trace(BadFrameTrace(peer=peer, reason=reason))
        link = self.links.get(peer)
        self.forget(peer, reason)
        if self.coordinator:
            self.coordinator.session_began(now, peer)
        if self.member:
            self.member.peer_gone(now, peer)
        if link is not None and link.dials:
            self._link_to(now, peer, link.addresses, dials=True)

    def _settle(self, now: float) -> None:
        """Deliver what the node said to itself, and mind the links that the roster asks for."""
        while self._self:
            self._dispatch(now, self.key, self._self.popleft())
        self._update_links(now)

    def _update_links(self, now: float) -> None:
        if self.member is None or self.coordinator or self._stopped or not self._links_change:
            return  # a coordinator is dialled and dials nobody
        self._links_change = False
        roster = self.member.roster
        for peer in [p for p in self.links if p != self._contact.key and p not in roster]:
            self.forget(peer, "it left")
            self.member.peer_gone(now, peer)
        meets_all = self.member.swaps is None
        for peer, entry in (
            roster.items() if meets_all else [(p, roster[p]) for p in self.links if p in roster]
        ):
            if peer == self._contact.key:
                continue
            if peer in self.links and self._moved(self.links[peer], entry, meets_all):
                # It began anew elsewhere while the coordinator, which would have said so, was away.
                self.forget(peer, "it moved")
                self.member.peer_gone(now, peer)
            if peer not in self.links and meets_all:
                self._link_to(now, peer, entry.addresses, dials=self._should_dial(entry))

    @staticmethod
    def _moved(link: Link, entry: MemberIs, meets_all: bool) -> bool:
        # Who gossips may have been dialled before it met the other: then it knows no address.
        return link.addresses != entry.addresses and (meets_all or bool(link.addresses))

    def meet(self, now: float, peer: bytes) -> bool:
        """Gossip: have a link to a member for a while. Whoever wants it dials, for the other may not know of
        it. True if the link is new."""
        assert self.member is not None, "this node trains"
        self._met[peer] = now
        entry = self.member.roster.get(peer)
        if peer in self.links or entry is None or peer == self._contact.key:
            return False
        self._link_to(now, peer, entry.addresses, dials=bool(entry.addresses))
        return True

    def _drop_idle_links(self, now: float) -> None:
        """Gossip: give links up over which nothing has gone for long, so that they do not become as many as
        members."""
        assert self.member is not None, "this node trains"
        needed = self._waits_for() or set()
        for peer in list(self.links):
            used = max(self._met.setdefault(peer, now), self.links[peer].last_bulk)
            idle = now - used > _IDLE_TIMEOUTS * self._timeout_s
            if idle and peer not in needed:
                del self._met[peer]
                self.forget(peer, "nothing to say for a while")

    def _should_dial(self, entry: MemberIs) -> bool:
        """Of two members the one that cannot be reached dials; of two that can, the lower key."""
        assert self.member is not None
        mine = self.member.profile.addresses
        if not entry.addresses:
            return False
        return not mine or self.key < entry.key
