"""Which links a node keeps, who dials whom, and when an idle link is given up.

`LinkTable` holds the links and the sessions on them: an older process of a peer never takes the place of a
newer one (S13), and credit is shared among all links. `LinksToAll` and `LinksByNeed` decide which members
there is a link to, from the roster. Nobody here reads a message.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from peers.absence import Absences
from peers.protocol.messages import MemberIs
from peers.protocol.traces import MessagesDroppedTrace
from transport.effects import NEVER, Close, Effect, Payload
from transport.limits import Limits
from transport.link.link import Link
from transport.link.messages import GENERATIONS, Session
from transport.link.window import Spare
from transport.redial import Bars

NUM_FREE = 2
"""So many frames that are no messages cost a peer nothing but a new link: they may come from a bug."""
FREE_S = 300.0
"""If they are no more than that, they are forgotten after so long."""
MAX_IDLE_TIMEOUTS = 8
"""Failure timeouts after which a gossip link that nothing used is given up."""


class LinkTable:
    """The links of one node, by peer."""

    def __init__(self, incarnation: int, timeout_s: float, limits: Limits, out: list[Effect]) -> None:
        self.by_peer: dict[bytes, Link] = {}
        self.absences = Absences()
        """Peers whose links ended and are not back."""
        self.bars = Bars(limits, NUM_FREE, FREE_S)
        """Peers that sent the coordinator what is no message again and again."""
        self.takes_streams = False
        """Peers may stream to this node: the model of this run has stages."""
        self.changed = False
        """A link was dropped, or the roster is not what it was when links were last compared with it."""
        self._incarnation = incarnation
        self._timeout_s = timeout_s
        self._limits = limits
        self._out = out
        self._spare = Spare(limits.spare_bytes), Spare(limits.spare_bytes)
        """Of what may be in flight to us, and from us, beyond the windows of links."""
        self.generation = 0
        """Of the newest session here. One counter for all links: a link that was forgotten does not begin
        again at a generation that its peer has seen."""
        self.newest: dict[bytes, int] = {}
        """Incarnations of peers whose links were dropped: an older one must not take their place (S13)."""

    # -- links begin and end ------------------------------------------------------------------

    def open(
        self,
        now: float,
        peer: bytes,
        addresses: tuple[str, ...],
        *,
        dials: bool,
        eager: bool = False,
        with_stream: bool | None = None,
    ) -> Link:
        """A link to a peer begins. ``eager``: everything waits for this peer, so it is dialled more often.
        ``with_stream``: it has a stream; by default if this node takes streams."""
        link = Link(
            peer,
            self._next_session(),
            dials=dials,
            eager=eager,
            addresses=addresses,
            heartbeat_s=self._timeout_s / 4,
            silence_s=self._timeout_s,
            limits=self._limits,
            out=self._out,
            oldest=self.newest.get(peer, 0),
            spare=self._spare,
            with_stream=self.takes_streams if with_stream is None else with_stream,
        )
        self.by_peer[peer] = link
        num_links = len(self.by_peer)
        window, stream_window = self._limits.window(num_links), self._limits.stream_window(num_links)
        for each in self.by_peer.values():
            each.streams.window.base = window
            if each.streams.stream is not None:
                each.streams.stream.window.base = stream_window
        link.start(now)
        return link

    def forget(self, peer: bytes, reason: str) -> None:
        """Drop a link; the next word from that peer begins a new session."""
        link = self.by_peer.pop(peer, None)
        if link is not None:
            self.changed = True
            self.absences.heard(peer)
            self.newest[peer] = max(link.incarnation, self.newest.pop(peer, 0))
            if len(self.newest) > self._limits.identities:
                del self.newest[next(iter(self.newest))]
            link.streams.end()
            self._out.append(Close(peer, reason))

    def make_room(self, is_in: Callable[[bytes], bool]) -> None:
        """Of identities that are not in the run there are only so many links: an identity costs little."""
        spare = [peer for peer in self.by_peer if not is_in(peer)]
        if len(spare) >= self._limits.spare_links:
            self.forget(min(spare, key=self.last_heard), "many are here that are not in the run")

    def _next_session(self) -> Session:
        self.generation += 1
        assert self.generation < GENERATIONS, "a process has used up its generations"
        return Session(self._incarnation, self.generation)

    # -- what is said over them ---------------------------------------------------------------

    def send(self, now: float, peer: bytes, message: Any) -> None:
        """Send one control message. Without a link it is dropped: the peer that waits for it notices its
        absence."""
        link = self.by_peer.get(peer)
        if link is None:
            return
        link.send_control(now, message)
        if link.control_overflows():
            self._out.append(MessagesDroppedTrace(peer=peer))
            link.begin_anew(self._next_session())

    def send_bulk(self, now: float, peer: bytes, message: Any, payload: Payload, purpose: str) -> None:
        """Send one payload; the caller looked at `room` first."""
        link = self.by_peer.get(peer)
        if link is not None:
            link.streams.send_bulk(now, message, payload, purpose)

    def room(self, peer: bytes) -> int:
        """Bytes that a peer would take now; -1 without a link to it."""
        link = self.by_peer.get(peer)
        return -1 if link is None else link.streams.room()

    def consumed(self, now: float, peer: bytes, cost: int) -> None:
        """Give a peer credit again for bytes of it that were consumed."""
        link = self.by_peer.get(peer)
        if link is not None:
            link.streams.consumed(now, cost)

    def send_stream(self, now: float, peer: bytes, message: Any, payload: Payload) -> None:
        """Send one payload that must not wait behind others; the caller looked at `stream_room` first."""
        link = self.by_peer.get(peer)
        if link is not None:
            link.streams.send_stream(now, message, payload)

    def stream_room(self, peer: bytes) -> int:
        """Bytes that may be streamed to a peer now; -1 without a link to it, or one without a stream."""
        link = self.by_peer.get(peer)
        return -1 if link is None else link.streams.stream_room()

    def stream_consumed(self, now: float, peer: bytes, cost: int) -> None:
        """Give a peer credit again for what it streamed."""
        link = self.by_peer.get(peer)
        if link is not None and link.streams.stream is not None:
            link.streams.stream_consumed(now, cost)

    def last_heard(self, peer: bytes) -> float:
        """When a peer last gave a sign of life on the link that stands."""
        link = self.by_peer.get(peer)
        return NEVER if link is None else link.last_heard

    # -- inputs of the node -------------------------------------------------------------------

    def connected(self, now: float, peer: bytes, lane: int) -> None:
        """A connection that we dialled is up."""
        if peer in self.by_peer:
            self.by_peer[peer].connected(now, lane)

    def disconnected(self, now: float, peer: bytes, lane: int) -> None:
        """A connection that we dialled broke."""
        if peer in self.by_peer:
            self.by_peer[peer].disconnected(now, lane)
            self.absences.link_ended(now, peer)

    def ended(self, now: float, peer: bytes, lane: int) -> None:
        """A connection that the peer dialled ended. If another one stands, it answers over that."""
        if peer in self.by_peer:
            self.by_peer[peer].ended(now, lane)
            self.absences.link_ended(now, peer)
            self.ask(now, peer)

    def refused(self, now: float, peer: bytes) -> None:
        """Nobody listens any more where a peer did. Whom we dial is gone by that; whoever dials us has a link
        of its own that may stand."""
        link = self.by_peer.get(peer)
        if link is not None:
            self.absences.refused(now, peer, stands=link.up and not link.dials)
            self.ask(now, peer)

    def ask(self, now: float, peer: bytes) -> None:
        """Ask for a sign of life."""
        if peer in self.by_peer:
            self.by_peer[peer].ask(now)

    def say_disk_full(self, now: float) -> None:
        """Tell everybody that what was decided here cannot be stored: nothing goes on until it can."""
        for link in self.by_peer.values():
            link.say_disk_full(now)

    def is_back(self, now: float, peer: bytes) -> bool:
        """Whether a peer that was absent gave a sign of life just now."""
        return bool(self.absences) and self.last_heard(peer) >= now and self.absences.heard(peer)

    def is_up(self, peer: bytes) -> bool:
        """There is a link to a peer, and it has greeted."""
        return peer in self.by_peer and self.by_peer[peer].up

    def tick(self, now: float, waits_for: set[bytes] | None) -> None:
        """Time has passed. ``waits_for`` are the peers whose silence would matter now; None for all."""
        for peer, link in list(self.by_peer.items()):
            link.tick(now, waits_for is None or peer in waits_for)

    def digest_parts(self) -> list[Any]:
        """Values that are equal for equal tables."""
        return [self.by_peer[peer].digest_parts() for peer in sorted(self.by_peer)]


@dataclass(slots=True)
class MemberLinks:
    """Links to the other members of a run. Which members get one is decided by the two subclasses."""

    table: LinkTable
    me: bytes
    coordinator: bytes
    """The key of the coordinator, whose link is not handled here."""
    addresses: tuple[str, ...]
    """Where this node listens."""
    roster: Mapping[bytes, MemberIs]
    lost: Callable[[float, bytes], None]
    """Called with the time and the peer for each link that is dropped."""

    def update(self, now: float) -> None:
        """If the roster or a link has changed, make links be what the roster asks for."""
        if not self.table.changed:
            return
        self.table.changed = False
        for peer in [p for p in self.table.by_peer if p != self.coordinator and p not in self.roster]:
            self._drop(now, peer, "it left")
        self._compare(now)

    def meet(self, now: float, peer: bytes) -> bool:
        """Have a link to a member for a while; True if the link is new."""
        raise NotImplementedError

    def drop_idle(self, now: float, needed: set[bytes]) -> None:
        """Give up links that nothing has used for long, but for those to peers in ``needed``."""
        raise NotImplementedError

    def _compare(self, now: float) -> None:
        raise NotImplementedError

    def _drop_moved(self, now: float, peer: bytes) -> None:
        # The member restarted at another address while the coordinator, which would have said so, was away.
        self._drop(now, peer, "it moved")

    def _drop(self, now: float, peer: bytes, reason: str) -> None:
        self.table.forget(peer, reason)
        self.lost(now, peer)


class LinksToAll(MemberLinks):
    """Rounds: every member has a link to every other."""

    def meet(self, now: float, peer: bytes) -> bool:
        """The roster alone decides which links there are; True if this one is to be and was not yet."""
        entry = self.roster.get(peer)
        if entry is None or peer == self.coordinator or peer in self.table.by_peer:
            return False
        self.table.open(now, peer, entry.addresses, dials=self._should_dial(entry))
        return True

    def drop_idle(self, now: float, needed: set[bytes]) -> None:
        """A link to a member is never given up."""

    def _compare(self, now: float) -> None:
        for peer, entry in self.roster.items():
            if peer == self.coordinator:
                continue
            link = self.table.by_peer.get(peer)
            if link is not None and link.addresses != entry.addresses:
                self._drop_moved(now, peer)
            self.meet(now, peer)

    def _should_dial(self, entry: MemberIs) -> bool:
        """Of two members the one that cannot be reached dials; of two that can, the lower key."""
        if not entry.addresses:
            return False
        return not self.addresses or self.me < entry.key


@dataclass(slots=True)
class LinksByNeed(MemberLinks):
    """Gossip: a member has links to those whom it met of late."""

    max_idle_s: float
    met: dict[bytes, float] = field(default_factory=dict)
    """When a link to each member was last wanted."""

    def meet(self, now: float, peer: bytes) -> bool:
        """Whoever wants a link dials, for the other may not know of it. True if the link is new."""
        self.met[peer] = now
        entry = self.roster.get(peer)
        if peer in self.table.by_peer or entry is None or peer == self.coordinator:
            return False
        self.table.open(now, peer, entry.addresses, dials=bool(entry.addresses))
        return True

    def drop_idle(self, now: float, needed: set[bytes]) -> None:
        """Give up links that carried nothing for long, so that they do not become as many as members."""
        self.met = {peer: at for peer, at in self.met.items() if peer in self.table.by_peer}
        for peer, link in list(self.table.by_peer.items()):
            used_at = max(self.met.setdefault(peer, now), link.streams.last_bulk)
            if now - used_at > self.max_idle_s and peer not in needed:
                del self.met[peer]
                self.table.forget(peer, "nothing to say for a while")

    def _compare(self, now: float) -> None:
        for peer, link in list(self.table.by_peer.items()):
            entry = self.roster.get(peer)
            if entry is None or peer == self.coordinator:
                continue
            # Whoever was dialled before it met the other knows no address of it.
            if link.addresses and link.addresses != entry.addresses:
                self._drop_moved(now, peer)
