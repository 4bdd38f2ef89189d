"""One process's part of a swarm: the coordinator and the member that speak over its links.

The node is the core that drivers run. It routes messages by kind and authenticated sender, lets a
coordinator and a member in one process talk without a wire, answers knocks, and closes whoever
sends rubbish (X2, X4). Which links there are is `peers.links`' affair; it decides nothing about rounds.
"""

from __future__ import annotations

import hashlib
from collections import deque
from typing import Any

from peers.admission.door import Invite
from peers.admission.identity import verify
from peers.coordinator.coordinator import Coordinator
from peers.coordinator.journal import read_entry
from peers.coordinator.judgement import Court
from peers.coordinator.lives import newest_in
from peers.coordinator.places import invites_in
from peers.links import MAX_IDLE_TIMEOUTS, LinksByNeed, LinksToAll, LinkTable, MemberLinks
from peers.member.member import AMONG_MEMBERS, Member
from peers.member.succession import Succession
from peers.protocol.commands import Command, LeaveRun
from peers.protocol.events import EntryRefused, StageAssigned
from peers.protocol.evidence import Evidence
from peers.protocol.messages import Goodbye, MemberGone, MemberIs, Missing, Open, Refused, RosterBatch
from peers.protocol.placing import ANY_STAGE, AskStage, StageIs
from peers.protocol.signing import NO_IDENTITY, Signer, run_of
from peers.protocol.stream import ReplicaGone, ReplicaIs, RosterIs
from peers.protocol.traces import BadFrameTrace, PeerBarredTrace
from peers.seats import Contact, Hosting, Training
from transport.effects import (
    NEVER,
    Close,
    Deliver,
    Effect,
    EncodedResult,
    KeepResult,
    Payload,
    Probe,
    Send,
    Store,
    Trace,
    size_bytes,
)
from transport.errors import BadFrame
from transport.frames import unpack_items
from transport.limits import LIMITS, Limits
from transport.link.messages import Arrival, DiskFull, Started, Superseded

CHANGES_OF_ROSTER = (MemberIs, MemberGone, RosterBatch, ReplicaIs, ReplicaGone, RosterIs)


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
        signer: Signer | None = None,
        streams: bool = False,
    ) -> None:
        """Without a ``signer`` a member takes no part in rounds that are proved. ``streams``: the model of
        this run has stages, between which tensors are streamed."""
        self.key = key
        self._signer = signer
        self.limits = limits
        self._contact = coordinator
        self._timeout_s = failure_timeout_s
        self._out: list[Effect] = []
        self.links = LinkTable(incarnation, failure_timeout_s, limits, self._out)
        self.links.takes_streams = streams
        # The links answer by themselves what is asked for each chunk.
        self.send_bulk, self.room, self.consumed = self.links.send_bulk, self.links.room, self.links.consumed
        self.send_stream, self.stream_room = self.links.send_stream, self.links.stream_room
        self.stream_consumed = self.links.stream_consumed
        self._self: deque[Any] = deque()
        """What coordinator and member say to each other."""
        self._next_tick = 0.0
        self._now = NEVER
        """When the last frame or tick was: `admits` is given no time."""
        self._asks: AskStage | None = None
        """What is to be known before there is a member, and asked at each session until it is."""
        self._stopped = False
        self._succession = Succession()
        self.coordinator: Coordinator | None = None
        self.member: Member | None = None
        self._member_links: MemberLinks | None = None
        self.door = hosting.door if hosting else None
        """The invites that are valid; only on the node that hosts, and only for the driver's thread."""
        if hosting:
            court = Court(run_of(key, hosting.rules.settings), verify, hosting.judge)
            self.coordinator = Coordinator(key, hosting.rules, limits, self, court)
            self.coordinator.began_at = hosting.door.began_at
            self.coordinator.restore(hosting.journal)
            self.coordinator.state.adopting = hosting.adopting
            if hosting.resume is not None:
                self.coordinator.resume_from(hosting.resume)
            self.coordinator.state.secret = hosting.secret
            self.coordinator.state.recompute_bytes = hosting.recompute_bytes
            self.links.newest.update(newest_in(hosting.journal))
            for invite, made in invites_in(hosting.journal).items():
                hosting.door.restore(invite, Invite(invite, made.expires_at, made.uses) if made else None)

    # -- the driver's side --------------------------------------------------------------------

    def start(self, now: float) -> None:
        """First input: take the coordinator's seat, or dial it."""
        self._next_tick = now + self._timeout_s / 8
        if self.coordinator:
            self.coordinator.start(now)
        else:
            self.links.open(now, self._contact.key, self._contact.addresses, dials=True, eager=True)
        self._settle(now)

    def connected(self, now: float, peer: bytes, lane: int) -> None:
        """A connection that we dialled is up."""
        if peer == self._contact.key:
            self._succession.connected()
        self.links.connected(now, peer, lane)

    def disconnected(self, now: float, peer: bytes, lane: int) -> None:
        """A connection that we dialled broke."""
        self.links.disconnected(now, peer, lane)

    def ended(self, now: float, peer: bytes, lane: int) -> None:
        """A connection that the peer dialled ended by itself."""
        self.links.ended(now, peer, lane)
        self._look_for(now, peer)

    def refused(self, now: float, peer: bytes) -> None:
        """Nobody listens any more where a peer did."""
        self.links.refused(now, peer)

    def receive(self, now: float, peer: bytes, lane: int, header: bytes, payload: Payload | None) -> None:
        """One frame of an authenticated peer; rubbish closes that peer and changes nothing."""
        self._now = now
        if self._stopped or self.links.bars.is_barred(now, peer):
            return
        link = self.links.by_peer.get(peer)
        if link is None:
            if not self._knows(peer):
                self._out.append(Close(peer, "not a member"))
                return
            if self.coordinator:
                self.links.make_room(self.coordinator.has_entered)
            link = self.links.open(now, peer, (), dials=False)
        try:
            results = link.receive(now, lane, unpack_items(header, self.limits), payload)
            if self.links.is_back(now, peer) and self.coordinator:
                self.coordinator.regain_sight(now, peer)
            for result in results:
                self._handle(now, peer, result)
        except BadFrame as error:
            self.trace(BadFrameTrace(peer=peer, reason=str(error)))
            self._bar(now, peer, str(error))
            self._expel(now, peer, str(error))
        if self.member:
            self.member.use_credit(now)
        if self._self or self.links.changed:
            self._settle(now)

    def expel(self, now: float, peer: bytes, reason: str) -> None:
        """An input of this peer failed in the midst: its link begins anew."""
        if peer in self.links.by_peer:
            self._expel(now, peer, reason)
        self._settle(now)

    def knock(self, now: float, invite: bytes, header: bytes) -> tuple[bytes, bytes] | None:
        """One request at the door: the reply's header and payload."""
        if self.coordinator is None or self.door is None:
            return None
        answer = self.door.answer(now, self.coordinator, invite, header)
        self._settle(now)
        return answer

    def admits(self, key: bytes) -> str | None:
        """ "member", "invite" or "owner" for a key whose connection may stand, else None. Changes nothing."""
        if self._stopped or self.links.bars.is_barred(self._now, key):
            return None
        if self.door is not None and key == self.door.owner:
            return "owner"
        if self.door is not None and self.door.is_invite(key):
            return "invite"
        return "member" if self._knows(key) else None

    def tick(self, now: float) -> None:
        """Time has passed, or exchanges have work that waits for nothing."""
        self._now = now
        if self._stopped:
            self._next_tick = now + self._timeout_s
            return
        self._settle(now)
        for peer in self.links.absences.due(now):
            self._lose_sight(now, peer)
        if self.member and self.member.busy:
            self.member.work(now)
            self._settle(now)
        if now < self._next_tick:
            if self.coordinator and now >= self.coordinator.deadline():
                self.coordinator.tick(now)
                self._settle(now)
            return
        self._next_tick = now + self._timeout_s / 8
        self.links.tick(now, self._waits_for())
        if self.coordinator:
            self.coordinator.tick(now)
        if self.member:
            self.member.tick(now)
            if self._member_links and not self.coordinator:
                self._member_links.drop_idle(now, self._waits_for() or set())
        self._settle(now)

    def deadline(self) -> float | None:
        """When `tick` is wanted next."""
        if self._stopped:
            return self._next_tick
        if self._self or (self.member and self.member.busy):
            return 0.0
        due = min(self._next_tick, self.links.absences.deadline())
        return min(due, self.coordinator.deadline()) if self.coordinator else due

    def drain(self) -> list[Effect]:
        """The effects since the last drain."""
        out = self._out[:]
        self._out.clear()
        return out

    def digest(self) -> str:
        """A hash of the state: equal inputs give equal digests."""
        parts = self.links.digest_parts()
        if self.coordinator:
            parts += self.coordinator.digest_parts()
        if self.member:
            m = self.member
            parts.append((m.versions.head, m.active, sorted(m.exchanges.running)))
        return hashlib.sha256(repr(parts).encode()).hexdigest()

    # -- the program's side -------------------------------------------------------------------

    def ask_stage(
        self, now: float, name: str, memory_bytes: int = 0, wish: int = ANY_STAGE, moves: bool = False
    ) -> None:
        """Ask which stage this node is to `train`, with so much memory (0: not said), and say whether it
        ``moves`` to another one later. `StageAssigned` tells, or `EntryRefused` why not."""
        assert self.member is None, "this node trains already"
        self._asks = AskStage(memory_bytes, wish, moves)
        if self.coordinator:
            self._certify_self(name)
        if self.coordinator or self.links.is_up(self._contact.key):
            self.send(now, self._contact.key, self._asks)
        self._settle(now)

    def train(self, now: float, training: Training) -> None:
        """Take part: from here on this node has a member, which enters as soon as it can. Raises `BadFrame`
        for a checkpoint that does not fit the model."""
        assert self.member is None, "this node trains already"
        contact, profile = self._contact.key, training.profile
        self.member = Member(
            self.key,
            contact,
            profile,
            training.app,
            self,
            failure_timeout_s=self._timeout_s,
            patience_s=training.patience_s,
            limits=self.limits,
            signing=(self._signer, verify) if self._signer else None,
            held=training.held,
            keeps=training.keeps,
            leads_on=training.leads_on,
            later=training.later,
            stored=training.stored,
            stream=training.stream,
        )
        roster, lose = self.member.all_known, self.member.lose_peer
        ends = (self.links, self.key, contact, profile.addresses, roster, lose)
        if self.member.averaging.needs_all_links:
            self._member_links = LinksToAll(*ends)
        else:
            self._member_links = LinksByNeed(*ends, max_idle_s=MAX_IDLE_TIMEOUTS * self._timeout_s)
        self.member.start(now)
        for peer in [each for each in self.links.by_peer if self.links.is_up(each)]:
            self.member.link_began(now, peer)
        if self.coordinator:
            self.coordinator.recomputer.find_blob = self.member.find_blob
            self._certify_self(profile.name)
        if self.coordinator or self.links.is_up(contact):
            self.member.begin_session(now, contact)
        self._settle(now)

    def command(self, now: float, command: Command) -> bool:
        """Carry out one command of the training loop; False if the member did not take it."""
        assert self.member is not None, "this node does not train"
        taken = self.member.do(now, command)
        if isinstance(command, LeaveRun):
            for peer in self.links.by_peer:
                if peer != self._contact.key:  # the coordinator is told by the member
                    self.links.send(now, peer, Goodbye())
        self._settle(now)
        return taken

    # -- what coordinator and member ask (Outlet, MemberOutlet) -------------------------------

    def send(self, now: float, peer: bytes, message: Any) -> None:
        """Say one control message, also from the coordinator to the member of this node."""
        if peer == self.key:
            self._self.append(message)
        else:
            self.links.send(now, peer, message)

    def show(self, now: float, message: Any, payload: Payload) -> bool:
        """Let the coordinator have a payload, also that of this process; False if there is no room for it."""
        if self.coordinator:
            self.coordinator.take_evidence(now, self.key, message, payload)
        elif self.room(self._contact.key) >= size_bytes(payload):
            self.send_bulk(now, self._contact.key, message, payload, "proof")
        else:
            return False
        return True

    def last_heard(self, now: float, peer: bytes) -> float:
        """When a peer last gave a sign of life."""
        return now if peer == self.key else self.links.last_heard(peer)

    def meet(self, now: float, peer: bytes) -> bool:
        """Have a link to a member for a while; True if the link is new."""
        assert self._member_links is not None, "this node trains"
        return self._member_links.meet(now, peer)

    def forget(self, peer: bytes, reason: str) -> None:
        """Drop the link; the next word from that peer begins a new session."""
        self.links.forget(peer, reason)

    def store(self, entry: bytes) -> None:
        """Append one entry to the journal. Raises `BadFrame` for one that could not be read again."""
        read_entry(entry)
        self._out.append(Store(entry))

    def keep(self, serial: int, result: bytes, encoded: EncodedResult) -> None:
        """Keep a result on the disk, if the member does that."""
        if self.member is not None and self.member.keeps:
            self._out.append(KeepResult(serial, result, encoded.digests, encoded.chunks))

    def deliver(self, event: object) -> None:
        """Hand an event to the training loop, or to the program around a host."""
        self._out.append(Deliver(event))

    def trace(self, trace: Trace) -> None:
        """Tell whoever watches."""
        self._out.append(trace)

    # -- inside -------------------------------------------------------------------------------

    def _certify_self(self, name: str) -> None:
        assert self.coordinator is not None
        identity = self._signer.public if self._signer else NO_IDENTITY
        self.coordinator.certify(self.key, name, identity=identity)

    def _hear_stage(self, answer: StageIs | Refused) -> None:
        self._asks = None
        if isinstance(answer, StageIs):
            self.deliver(StageAssigned(answer.stage))
        else:
            self.deliver(EntryRefused(answer.code, answer.detail))

    def _waits_for(self) -> set[bytes] | None:
        """Peers whose silence would matter now; None for all. Who is in the run is the coordinator's affair:
        members that exchange nothing leave each other in peace, or heartbeats grew with their square."""
        return None if self.coordinator or self.member is None else self.member.waits_for()

    def _knows(self, peer: bytes) -> bool:
        if self.coordinator:
            return self.coordinator.admits(peer)
        return peer == self._contact.key or (self.member is not None and peer in self.member.all_known)

    def _handle(self, now: float, peer: bytes, result: Arrival | Started | Superseded | DiskFull) -> None:
        if isinstance(result, Arrival):
            host = None if result.is_stream else self.coordinator  # the credit of a stream is another one
            if result.payload is None:
                self._dispatch(now, peer, result.message)
            elif host and isinstance(result.message, Evidence):
                self.consumed(now, peer, result.cost)
                host.take_evidence(now, peer, result.message, result.payload)
            elif host and host.recomputer.takes(peer, result.message):
                self.consumed(now, peer, result.cost)
                host.recomputer.take_piece(now, peer, result.message, result.payload)
            elif self.member is None:
                raise BadFrame("bulk to a node that does not train")
            elif result.is_stream:
                self.member.take_stream(now, peer, result.message, result.payload, result.cost)
            else:
                self.member.take_bulk(now, peer, result.message, result.payload, result.cost)
        elif isinstance(result, Superseded):
            self._told_to_stop(now, peer)
        elif isinstance(result, DiskFull):
            if self.member and peer == self._contact.key:
                self.member.coordinator_watch.disk_full(now)
        else:
            if peer == self._contact.key:
                self._succession.greeted()
            if self.coordinator:
                self.coordinator.met(now, peer, self.links.by_peer[peer].incarnation)
                self.coordinator.session_began(now, peer)
            if self.member:
                self.member.link_began(now, peer, anew=peer == self._contact.key or not result.first)
            if self._asks and peer == self._contact.key:
                self.send(now, peer, self._asks)

    def _told_to_stop(self, now: float, peer: bytes) -> None:
        """A peer says that a newer process has our identity. Only the coordinator is listened to, and asked
        again before it is believed: whoever errs would end us for good."""
        if self.coordinator or peer != self._contact.key:
            return
        if believed := self._succession.told():
            self._step_down()
        elif believed is False:
            self._expel(now, peer, "it told this process to stop, and is asked again")

    def _step_down(self) -> None:
        """A newer process has our identity. Every link is closed, for whoever dials on takes the newer one's
        place at the acceptors again and again (S13)."""
        self._stopped = True
        for peer in list(self.links.by_peer):
            self.forget(peer, "a newer process has our identity")
        if self.member:
            self.member.supersede()

    def _look_for(self, now: float, peer: bytes) -> None:
        """Find out whether a member lives, whoever says that it does not: by a question, and by a probe."""
        addresses = self.coordinator.addresses_of(peer) if self.coordinator else ()
        if addresses and self.links.absences.may_probe(now, peer):
            self.links.ask(now, peer)
            self._out.append(Probe(peer, addresses[0]))

    def _lose_sight(self, now: float, peer: bytes) -> None:
        """The process of a peer seems to be dead."""
        if self.coordinator:
            self.coordinator.lose_sight(now, peer)
        if self.member:
            self.member.averaging.lose_sight(now, peer)
        self._settle(now)

    def _dispatch(self, now: float, peer: bytes, message: Any) -> None:
        if isinstance(message, Goodbye) and self.member:
            self.member.averaging.lose_sight(now, peer)
        elif isinstance(message, Missing):
            self._look_for(now, message.key)
        elif self._asks and peer == self._contact.key and isinstance(message, (StageIs, Refused)):
            self._hear_stage(message)
        if self.member and (peer == self._contact.key or isinstance(message, AMONG_MEMBERS)):
            self.member.take_control(now, peer, message)
            if isinstance(message, CHANGES_OF_ROSTER):
                self.links.changed = True
                self._update_links(now)
        if self.coordinator:
            self.coordinator.receive(now, peer, message)

    def _bar(self, now: float, peer: bytes, reason: str) -> None:
        """One more frame of this peer is no message. The coordinator alone bars, for all: whom it bars is in
        no round, and a member that heard another no more would fail every round that has both."""
        if self.coordinator is None:
            return
        barred_s = self.links.bars.bar(now, peer)
        if barred_s:
            self.trace(PeerBarredTrace(peer, barred_s, reason))

    def _expel(self, now: float, peer: bytes, reason: str) -> None:
        link = self.links.by_peer.get(peer)
        self.forget(peer, reason)
        if self.coordinator:
            self.coordinator.session_began(now, peer)
        if self.member:
            self.member.lose_peer(now, peer)
        if link is not None and link.dials:
            is_host = peer == self._contact.key
            self.links.open(now, peer, link.addresses, dials=True, eager=is_host)

    def _says_something(self) -> bool:
        """Whether something is on its way to others that has not left yet."""
        return any(isinstance(each, Send) for each in self._out)

    def _settle(self, now: float) -> None:
        """Deliver what the node said to itself (a round once others have heard of it), and update links."""
        while self._self and not (isinstance(self._self[0], Open) and self._says_something()):
            self._dispatch(now, self.key, self._self.popleft())
        if self.links.changed:
            self._update_links(now)

    def _update_links(self, now: float) -> None:
        if self._member_links and not self.coordinator and not self._stopped:
            self._member_links.update(now)  # a coordinator is dialled and dials nobody
