"""The coordinator: one per run. It keeps the roster, opens rounds and writes commit records.

It carries no tensors and trains nothing. Every decision that others rely on is journaled before it
is said, so that a restarted coordinator goes on (the members train meanwhile). It trusts members
for numbers about themselves and for nothing else. Keeps S2, S3, S6, S8, S13, S14 and L1 to L4, L7.
Rounds themselves are in `rounds`; how newcomers get the state is in `state_sync`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from peers.coordinator import rounds, state_sync
from peers.coordinator.chain import Chain
from peers.coordinator.journal import CommitWritten, ModelAgreed, PeerCertified, RunBegan, TermBegan
from peers.coordinator.open_round import OpenRound
from peers.coordinator.roster import Entry, Roster
from peers.protocol.manifest import Manifest, difference, manifest_in
from peers.protocol.messages import (
    Abort,
    Applied,
    CaughtUp,
    Decline,
    Done,
    Enter,
    Entered,
    Finished,
    Leave,
    MemberActive,
    MemberGone,
    MemberIs,
    NeedState,
    Pace,
    Ready,
    Refused,
    Report,
    Stuck,
    Withdraw,
)
from peers.protocol.record import Record
from peers.protocol.roster_feed import RosterFeed
from peers.protocol.traces import (
    AbortedTrace,
    CertifiedTrace,
    EnteredTrace,
    PoisonedTrace,
    RefusedTrace,
    RemovedTrace,
    ReportTrace,
    SwappedTrace,
)
from transport.effects import Trace
from transport.frames import pack
from transport.limits import Limits

_RECENT = 32
_PACE_CHANGE = 0.05
"""Relative change of speed that is worth a message."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What the run's settings say about rounds."""

    settings: bytes
    """Digest of the run's settings."""
    min_peers: int = 2
    rounds: int = 1 << 40
    """Commits after which the run is finished."""
    failure_timeout_s: float = 6.0
    """Silence after which a peer counts as dead; every other time follows from it."""
    grace_s: float = 30.0
    """How long a round waits for a straggler after the first member is ready."""
    outlier_factor: float = 100.0
    """A contribution whose norm is more times the median of the others' is refused; 0 for never."""
    quorum: int = 0
    """Contributions that make a round, among ``min_peers`` active members; 0 for ``min_peers``."""

    gossips: bool = False
    """Members exchange in groups of their own: there are no rounds, and states differ."""
    paces: bool = False
    """Members are told how fast the fastest is, since slower ones take fewer inner steps."""

    @property
    def fewest(self) -> int:
        """Fewest contributions in a round."""
        return self.quorum or self.min_peers


class Outlet(Protocol):
    """What the coordinator asks of the node that it lives in."""

    def send(self, now: float, peer: bytes, message: Any) -> None: ...

    def forget(self, peer: bytes, reason: str) -> None: ...

    def store(self, entry: bytes) -> None: ...

    def trace(self, trace: Trace) -> None: ...

    def last_heard(self, now: float, peer: bytes) -> float: ...


class Coordinator:
    """Given messages and time, it speaks through its outlet."""

    def __init__(self, me: bytes, rules: Rules, limits: Limits, outlet: Outlet) -> None:
        self.me = me
        self.rules = rules
        self.limits = limits
        self.outlet = outlet
        self.roster_feed = RosterFeed(outlet.send)
        """Gossip: how members hear of the roster."""
        self.roster = Roster()
        self.chain = Chain(limits.history_records)
        self.model: Manifest | None = None
        self.rounds: dict[int, OpenRound] = {}
        """Open rounds by fragment."""
        self.ready_since: dict[int, float] = {}
        """By fragment: when the first of the present contributions was offered."""
        self.asked: dict[int, float] = {}
        """By fragment: since when it was offered when the others were last asked for it."""
        self.term = 0
        self.seed: bytes | None = None
        self.holderless_since: float | None = None
        self._finished_at: float | None = None
        self._stays_until = 0.0
        """A host that died before it told of the end waits for members to come back and hear of it."""
        self.num_donations = 0
        self.recent: deque[tuple[int, int, float]] = deque(maxlen=_RECENT)
        """Of the last commits: fragment, members, and seconds from opening to commit."""
        self._gossip_steps = 0
        self._next_serial = 0
        self._handlers: dict[type, Callable[[float, Entry, Any], None]] = {
            Ready: self._ready,
            Withdraw: self._withdraw,
            Done: self._done,
            Stuck: self._stuck,
            Decline: self._decline,
            Applied: lambda now, entry, message: state_sync.applied(self, now, entry, message),
            CaughtUp: lambda now, entry, message: state_sync.caught_up(self, now, entry, message),
            NeedState: lambda now, entry, message: state_sync.needs_state(self, now, entry, message),
            Report: self._report,
            Leave: lambda now, entry, message: self.remove(now, entry, "left", forget=True),
        }

    # -- life ---------------------------------------------------------------------------------

    def restore(self, entries: list[Any]) -> None:
        """Replay the journal: the same decisions, in order."""
        for entry in entries:
            match entry:
                case TermBegan():
                    self.term = entry.term
                case PeerCertified():
                    self.roster.certify(entry.key, entry.name)
                case ModelAgreed():
                    self.model = entry.manifest()
                case RunBegan():
                    self.chain.begin(entry.head)
                case CommitWritten():
                    self.chain.append(entry.commit())

    def start(self, now: float) -> None:
        """Begin a term: serials of this life never meet those of an earlier one."""
        self.term += 1
        self.outlet.store(pack(TermBegan(self.term)))
        self.roster.epoch = self.term << 32
        if self.finished:
            self._stays_until = now + 2 * self.rules.failure_timeout_s

    def next_serial(self) -> int:
        self._next_serial += 1
        return (self.term << 32) + self._next_serial

    @property
    def num_rounds(self) -> int:
        """Commits that moved the model; with gossip, outer steps that all have taken."""
        return self._gossip_steps if self.rules.gossips else self.chain.rounds()

    @property
    def finished(self) -> bool:
        return self.num_rounds >= self.rules.rounds

    # -- the door -----------------------------------------------------------------------------

    def certify(self, key: bytes, name: str) -> Refused | None:
        """Admit an identity for good (it is journaled), or say why not."""
        known = key in self.roster.entries
        if not known and len(self.roster.entries) >= 16 * max(
            self.limits.members, self.limits.gossip_members
        ):
            return Refused("full", "the run has admitted as many identities as it ever will")
        if not known:
            self.outlet.store(pack(PeerCertified(key, name)))
            self.outlet.trace(CertifiedTrace(peer=key, peer_name=name))
        self.roster.certify(key, name)
        return None

    # -- messages -----------------------------------------------------------------------------

    def receive(self, now: float, peer: bytes, message: Any) -> None:
        """One message from an admitted member; whatever does not fit its state is ignored."""
        entry = self.roster.entries.get(peer)
        if entry is None:
            return
        if isinstance(message, Enter):
            self._enter(now, entry, message)
        elif entry.entered and (handler := self._handlers.get(type(message))):
            handler(now, entry, message)
        self._advance(now)

    def session_began(self, now: float, peer: bytes) -> None:
        """The peer is new or lost its memory of us: its membership is over until it enters."""
        entry = self.roster.entries.get(peer)
        if entry is not None and entry.entered:
            self.remove(now, entry, "restarted", forget=False)
            self._advance(now)

    def tick(self, now: float) -> None:
        for entry in self.roster.entered():
            silence = now - self.outlet.last_heard(now, entry.key)
            if entry.key != self.me and silence > self.rules.failure_timeout_s:
                self.remove(now, entry, f"silent for {silence:.1f} s", forget=True)
        self._advance(now)
        rounds.end_gridlock(self, now)

    def _advance(self, now: float) -> None:
        for current in list(self.rounds.values()):
            rounds.judge(self, now, current)
        state_sync.serve_waiting(self, now)
        rounds.open_what_can_be(self, now)
        if self.rules.gossips:
            self.roster_feed.flush(now, self._everyone)
        elif self.finished:
            self._finish(now)

    def _everyone(self) -> Iterator[MemberIs | MemberActive]:
        for entry in self.roster.entered():
            yield self._member_is(entry)
            if entry.active:
                yield MemberActive(entry.key)

    # -- members come and go ------------------------------------------------------------------

    def _enter(self, now: float, entry: Entry, message: Enter) -> None:
        if entry.entered:
            self.remove(now, entry, "entered again", forget=False)
        refusal = self._refusal(entry, message)
        if refusal is not None:
            self.outlet.trace(RefusedTrace(peer=entry.key, code=refusal.code, detail=refusal.detail))
            self.outlet.send(now, entry.key, refusal)
            return
        if self.model is None:
            self.model = manifest_in(message)
            self.outlet.store(pack(ModelAgreed.of(self.model)))
        others = self.roster.entered()
        self.roster.enter(entry, message)
        self.outlet.trace(EnteredTrace(peer=entry.key, peer_name=entry.name, epoch=self.roster.epoch))
        if self.rules.gossips:
            self.roster_feed.entered(now, entry.key)
            self.roster_feed.add(now, self._member_is(entry))
        for other in () if self.rules.gossips else others:
            self.outlet.send(now, other.key, self._member_is(entry))
            self.outlet.send(now, entry.key, self._member_is(other))
        state_sync.start_following(self, now, entry)
        self.outlet.send(now, entry.key, Entered(self.roster.epoch, ()))
        if self.finished and (self.rules.gossips or not entry.holds_state):
            self._tell_finished(now, entry)

    def _refusal(self, entry: Entry, message: Enter) -> Refused | None:
        if message.settings != self.rules.settings:
            return Refused("settings", "the run's settings differ from this member's: join again")
        if self.model is not None:
            found = difference(self.model, manifest_in(message), message.protocol)
            if found is not None:
                return Refused(*found)
        entered = self.roster.entered()
        most = self.limits.gossip_members if self.rules.gossips else self.limits.members
        if len(entered) >= most:
            return Refused("full", f"the run has {len(entered)} members, as many as it may")
        if not message.addresses and any(not e.addresses for e in entered):
            return Refused(
                "unreachable",
                "this member and another one both accept no connections, so they could never exchange: "
                "let this one listen on an address that the others reach (--listen)",
            )
        return None

    def _member_is(self, entry: Entry) -> MemberIs:
        return MemberIs(self.roster.epoch, entry.key, entry.name, entry.addresses, entry.stage)

    def remove(self, now: float, entry: Entry, reason: str, *, forget: bool) -> None:
        """End a membership: open rounds go on without it, and the others learn of it."""
        if not entry.entered:
            return
        self.roster.leave(entry)
        self.outlet.trace(RemovedTrace(peer=entry.key, peer_name=entry.name, reason=reason))
        gone = MemberGone(self.roster.epoch, entry.key, reason)
        if self.rules.gossips:
            self.roster_feed.left(entry.key)
            self.roster_feed.add(now, gone)
        for other in () if self.rules.gossips else self.roster.entered():
            self.outlet.send(now, other.key, gone)
        if forget:
            self.outlet.forget(entry.key, reason)
        for current in list(self.rounds.values()):
            rounds.lose(self, now, current, [entry.key], reason)

    # -- rounds -------------------------------------------------------------------------------

    def _round(self, serial: int) -> OpenRound | None:
        return next((r for r in self.rounds.values() if r.serial == serial), None)

    def _ready(self, now: float, entry: Entry, message: Ready) -> None:
        if message.tokens == 0 or message.weight == 0:
            return  # nothing was trained, so there is nothing to weigh it with
        entry.ready[message.fragment] = message
        self.ready_since.setdefault(message.fragment, now)

    def _withdraw(self, now: float, entry: Entry, message: Withdraw) -> None:
        held = entry.ready.get(message.fragment)
        if held is not None and held.number == message.number:
            del entry.ready[message.fragment]

    def _done(self, now: float, entry: Entry, message: Done) -> None:
        current = self._round(message.serial)
        if current and message.attempt == current.attempt and entry.key in current.members:
            current.done[entry.key] = message.digest
            rounds.settle(self, now, current)

    def _stuck(self, now: float, entry: Entry, message: Stuck) -> None:
        current = self._round(message.serial)
        if not current or message.attempt != current.attempt or entry.key not in current.members:
            return
        if message.poison:
            reason = f"{entry.name} refused its contribution: {message.poison}"
            self.outlet.trace(PoisonedTrace(peer=entry.key, peers=message.peers, reason=message.poison))
            rounds.set_aside(self, now, current, list(message.peers), reason)
            return
        current.stuck[entry.key] = message.peers
        if current.judge_at is None:
            current.judge_at = now + self.rules.failure_timeout_s / 4

    def _decline(self, now: float, entry: Entry, message: Decline) -> None:
        current = self._round(message.serial)
        if current and entry.key in current.members:
            entry.ready.pop(current.fragment, None)
            rounds.lose(self, now, current, [entry.key], f"declined: {message.reason}")

    def _report(self, now: float, entry: Entry, message: Report) -> None:
        entry.report = message
        if self.rules.paces:
            self._pace(now, entry)
        if self.rules.gossips and not self.finished and message.rounds > self._gossip_steps:
            self._follow_gossip(now)
        self.outlet.trace(ReportTrace(peer=entry.key, peer_name=entry.name, report=message))

    def _follow_gossip(self, now: float) -> None:
        """The outer step that every member which holds a state has taken; with the last one the run is
        over."""
        reports = [each.report for each in self.roster.active()]
        taken = min((r.rounds if r else 0 for r in reports), default=0)
        if taken > self._gossip_steps:
            self._gossip_steps = taken
            self.outlet.trace(SwappedTrace(index=taken, members=tuple(e.key for e in self.roster.active())))
        if taken >= self.rules.rounds:
            for other in self.roster.entered():
                self._tell_finished(now, other)

    def _finish(self, now: float) -> None:
        """Tell members that the run has all its rounds once they all hold the last result, or had their time
        to: who is told leaves, and whoever is behind has nobody then to fetch it from."""
        if self._finished_at is None:
            self._finished_at = now
        untold = [entry for entry in self.roster.entered() if not entry.told_finished]
        behind = any(entry.head != self.chain.head or not entry.holds_state for entry in untold)
        if not behind or now - self._finished_at > self.rules.grace_s + 2 * self.rules.failure_timeout_s:
            for entry in untold:
                self._tell_finished(now, entry)

    def _tell_finished(self, now: float, entry: Entry) -> None:
        entry.told_finished = True
        self.outlet.send(now, entry.key, Finished(self.num_rounds))

    def over(self, now: float) -> bool:
        """The run has all its rounds, and who is here knows it."""
        told = all(entry.told_finished for entry in self.roster.entered())
        return self.finished and told and now >= self._stays_until

    def _pace(self, now: float, entry: Entry) -> None:
        """Tell a member how fast the fastest is, if that has changed since it was told."""
        fastest = max(each.report.speed for each in self.roster.entered() if each.report)
        if abs(fastest - entry.told_pace) > _PACE_CHANGE * fastest:
            entry.told_pace = fastest
            self.outlet.send(now, entry.key, Pace(fastest))

    def abort(self, now: float, current: OpenRound, reason: str) -> None:
        """Give a round up; contributions stay offered."""
        del self.rounds[current.fragment]
        self.outlet.trace(AbortedTrace(serial=current.serial, fragment=current.fragment, reason=reason))
        for member in current.members:
            self.outlet.send(now, member, Abort(current.serial, reason, True))

    def begin_run(self, head: bytes) -> None:
        """Name the run's first state, or with `GENESIS` say that it is lost."""
        self.outlet.store(pack(RunBegan(head)))
        self.chain.begin(head)

    def commit(self, now: float, record: Record) -> bytes:
        """Write a record, then say it."""
        self.outlet.store(pack(CommitWritten.of(record)))
        head = self.chain.append(record)
        rounds.announce(self, now, record)
        return head

    def status(self, now: float) -> dict[str, Any]:
        """The roster and the rounds, as plain values for whoever holds a ticket."""
        members = [
            {
                "name": e.name,
                "key": e.key,
                "active": e.active,
                "silent_s": round(now - self.outlet.last_heard(now, e.key), 2) if e.key != self.me else 0.0,
                "step": e.report.step if e.report else 0,
                "tokens": e.report.tokens if e.report else 0,
                "loss": e.report.loss if e.report else 0.0,
                "tokens_per_second": e.report.tokens_per_second if e.report else 0.0,
                "speed": e.report.speed if e.report else 0.0,
                "bytes_sent": e.report.bytes_sent if e.report else 0,
            }
            for e in self.roster.entered()
        ]
        open_rounds = [
            {"serial": r.serial, "fragment": r.fragment, "attempt": r.attempt, "members": len(r.members)}
            for r in self.rounds.values()
        ]
        return {
            "members": members,
            "epoch": self.roster.epoch,
            "term": self.term,
            "head": self.chain.head,
            "rounds": self.num_rounds,
            "rounds_wanted": self.rules.rounds,
            "over": self.over(now),
            "open": open_rounds,
            "model": self.model.model if self.model else "",
            "codec": self.model.codec if self.model else "",
            "elements": list(self.model.elements) if self.model else [],
            "recent": [list(each) for each in self.recent],
        }

    def deadline(self, now: float) -> float | None:
        """When a tick may change something."""
        return now + self.rules.failure_timeout_s / 8
