"""The coordinator: one per run. It keeps memberships, hears what members say, and answers in time.

It carries no tensors and trains nothing. Every decision that others rely on is journaled before it
is said, so that a restarted coordinator goes on (the members train meanwhile). It trusts members
for numbers about themselves and for nothing else. Keeps S2, S3, S6, S8, S13, S14 and L1 to L4, L7.
What it knows is in `state`; rounds are in `rounds`, how newcomers get the state is in `state_sync`, and what
gossip does otherwise is in `gossip`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

from peers.coordinator import (
    adoption,
    assembling,
    naming,
    places,
    restoring,
    round_messages,
    rounds,
    saving,
    silence,
    spot_checks,
    stalls,
    state_sync,
)
from peers.coordinator.assignment import Assignment
from peers.coordinator.course import Course
from peers.coordinator.entry_checks import entry_refusal
from peers.coordinator.gossip import GossipMode
from peers.coordinator.hearing import Hearing
from peers.coordinator.journal import InviteMade, InviteRevoked, PeerCertified, PeerInvited, PeerSigns
from peers.coordinator.judgement import Court
from peers.coordinator.lives import Lives
from peers.coordinator.outlet import Outlet
from peers.coordinator.pace import fastest_of
from peers.coordinator.recomputing import Recomputer
from peers.coordinator.roster import Entry, Roster
from peers.coordinator.rounds_mode import RoundsMode
from peers.coordinator.rules import Rules
from peers.coordinator.standing import Standing
from peers.coordinator.state import RunState
from peers.coordinator.status import RunStatus, status_of
from peers.coordinator.tickets import remember_when_invited
from peers.coordinator.waiting import AFTER_THE_END_TIMEOUTS, who_arrives
from peers.protocol.evidence import Evidence, ToldTwoThings
from peers.protocol.fields import DETAIL_BYTES, MAX_UNIX_SECONDS, cut
from peers.protocol.manifest import manifest_in
from peers.protocol.messages import (
    Decline,
    Done,
    Enter,
    Entered,
    Leave,
    MemberGone,
    NewestRecord,
    Pace,
    Ready,
    Refused,
    Report,
    Saved,
    SettingsAre,
    Stuck,
    Withdraw,
)
from peers.protocol.naming import Saving
from peers.protocol.orders import Obeyed
from peers.protocol.placing import AskStage
from peers.protocol.shares import PartHeld
from peers.protocol.signing import NO_IDENTITY
from peers.protocol.spots import Spotted
from peers.protocol.stream import StandsSince
from peers.protocol.traces import (
    CertifiedTrace,
    EnteredTrace,
    RefusedTrace,
    RemovedTrace,
    ReportTrace,
)
from transport.collectives.fetch import Lack
from transport.effects import Payload
from transport.frames import pack
from transport.limits import Limits

_KICKED = Refused("kicked", "the host has put this worker out of the run")


class Coordinator:
    """Given messages and time, it speaks through its outlet."""

    def __init__(
        self, me: bytes, rules: Rules, limits: Limits, outlet: Outlet, court: Court | None = None
    ) -> None:
        """Without a ``court`` what members show is taken for their word."""
        self.roster = Roster()
        mode = (GossipMode if rules.gossips else RoundsMode)(rules, limits, outlet, self.roster)
        self.state = RunState(me, rules, limits, outlet, self.roster, mode)
        self.state.judges = court is not None and court.decodes
        self._hearing = Hearing(self.state, court, self._put_out)
        self._rules = rules
        self._outlet = outlet
        self._mode = mode
        self._lives = Lives(outlet, limits)
        self._assignment = Assignment(self.state, mode.max_members)
        self._standing = Standing(self.state)
        self.recomputer = Recomputer(self.state)
        self.began_at = 0.0
        """Second 0 of ours in unix seconds: for what is to be remembered over restarts, not for decisions."""
        self._looked_at = -math.inf
        """When it was last seen to what can be done."""
        self._parting: dict[bytes, float] = {}
        """Who was just put out, and until when it may connect to hear so; nothing that it says counts."""
        self._handlers: dict[type, Callable[[float, Course, Entry, Any], None]] = {
            Ready: partial(round_messages.ready, self.state),
            Withdraw: partial(round_messages.withdraw, self.state),
            Done: partial(round_messages.done, self.state),
            Stuck: partial(round_messages.stuck, self.state),
            Decline: partial(round_messages.decline, self.state),
            ToldTwoThings: self._hearing.take_two_things,
            **state_sync.handlers(self.state),
            Saving: partial(saving.begun, self.state),
            Saved: partial(saving.saved, self.state),
            PartHeld: partial(assembling.told, self.state),
            Lack: self.recomputer.take_lack,
            Report: self._report,
            Leave: self._leave,
            Spotted: partial(spot_checks.hear, self.state),
            **self._standing.handlers,
        }

    # -- life ---------------------------------------------------------------------------------

    def restore(self, entries: list[Any]) -> None:
        """Replay the journal of earlier lives."""
        self.state.restore(entries)
        remember_when_invited(self.roster, entries, self.began_at)
        self._lives.restore(entries)

    def resume_from(self, index: int) -> None:
        """The owner wants the run to go on from that record, though there are later ones. Raises
        `ResumeError`."""
        restoring.resume_from(self.state, index)

    def start(self, now: float) -> None:
        """Begin a life."""
        for entry in self.roster.entries.values():
            entry.absent_since = now
            entry.certified_at = min(entry.certified_at, now)  # the clock may have been put back
        self.state.begin_term()
        self._assignment.start(now)
        self._standing.start(now)
        if self.finished:
            self.state.stays_until = now + AFTER_THE_END_TIMEOUTS * self._rules.failure_timeout_s

    @property
    def finished(self) -> bool:
        """Whether the run has all its rounds."""
        return self.state.finished

    def over(self, now: float) -> bool:
        """Whether the run has all its rounds, and all members that are here or about to enter were told."""
        told = all(entry.told_finished for entry in self.roster.entered())
        return self.finished and told and now >= self.state.stays_until and not who_arrives(self.state, now)

    def status(self, now: float) -> RunStatus:
        """The roster and the rounds, for whoever holds a ticket."""
        return status_of(self.state, now, over=self.over(now))

    def digest_parts(self) -> list[tuple[bytes, int, list[int]]]:
        """Values that are equal at the same point of two runs with the same inputs."""
        return [
            (each.chain.head, self.roster.epoch, sorted(r.serial for r in each.rounds.values()))
            for each in self.state.courses.values()
        ]

    # -- the door -----------------------------------------------------------------------------

    def admit(
        self,
        now: float,
        key: bytes,
        name: str,
        invite: bytes,
        uses: int,
        identity: bytes = NO_IDENTITY,
    ) -> Refused | None:
        """Admit an identity that came with a ticket, as far as that may, or say why not."""
        entry = self.roster.entries.get(key)
        if entry is None or not (entry.has_place or entry.kicked):
            members = min(self._mode.max_members * self._rules.stages, self.state.limits.gossip_members)
            refused = places.refusal(self.roster, self.state.limits, members, now, key, invite, uses)
            if refused is not None:
                return refused
        at = max(0, min(int(self.began_at + now), MAX_UNIX_SECONDS))
        refused = self.certify(key, name, invite, identity, at)
        if refused is None:
            admitted = self.roster.entries[key]
            admitted.absent_since = now
            if entry is None:
                admitted.certified_at = now
        return refused

    def certify(
        self, key: bytes, name: str, invite: bytes = b"", identity: bytes = NO_IDENTITY, at: int = 0
    ) -> Refused | None:
        """Admit an identity for good (it is journaled), or say why not. ``at`` is in unix seconds."""
        entry = self.roster.entries.get(key)
        if entry is not None and entry.kicked:
            return _KICKED
        if entry is not None and entry.identity not in (NO_IDENTITY, identity) and identity != NO_IDENTITY:
            return Refused("identity", "another identity has that transport key already")
        known = entry is not None and entry.has_place
        limits = self.state.limits
        if not known and len(self.roster.entries) >= limits.identities:
            return Refused("full", "the run has admitted as many identities as it ever will")
        if not known:
            decision = PeerInvited(key, name, invite, at) if invite else PeerCertified(key, name)
            self._outlet.store(pack(decision))
            self._outlet.trace(CertifiedTrace(peer=key, peer_name=name))
            self.roster.certify(key, name, invite)
        entry = self.roster.entries[key]
        if entry.identity != identity != NO_IDENTITY:
            self._outlet.store(pack(PeerSigns(key, identity)))
            entry.identity = identity
        return None

    # -- the owner's orders -------------------------------------------------------------------

    def admits(self, key: bytes) -> bool:
        """Whether an identity may connect."""
        return self.roster.admits(key) or key in self._parting

    def has_entered(self, key: bytes) -> bool:
        """Whether an identity is in the run now."""
        entry = self.roster.entries.get(key)
        return entry is not None and entry.entered

    def make_invite(self, key: bytes, expires_at: int, uses: int) -> None:
        """Another ticket lets identities in."""
        made = InviteMade(key, expires_at, uses)
        self._outlet.store(pack(made))
        self.state.tickets.replay(made)

    def revoke_invite(self, key: bytes) -> None:
        """That ticket opens nothing any more."""
        revoked = InviteRevoked(key)
        self._outlet.store(pack(revoked))
        self.state.tickets.replay(revoked)

    def kick(self, now: float, who: str) -> Refused | Obeyed:
        """Put a worker out for good: its link ends, and its identity comes in no more."""
        found = self.roster.named(who)
        names = ", ".join(entry.full_name for entry in found)
        if not found:
            return Refused("unknown", f"no worker is called {who}: diloco status lists them")
        if any(entry.key == self.state.me for entry in found):
            return Refused("host", f"{who} is the host itself: diloco stop ends the run")
        if found[0].entered and len(found) > 1:
            told = f"several workers are called {who}: name one of {names}"
            return Refused("ambiguous", cut(told, DETAIL_BYTES))
        for entry in found:
            self._put_out(now, entry, _KICKED)
        self._advance(now)
        return Obeyed(cut(f"{names} is out of the run", DETAIL_BYTES))

    def proposal(self) -> adoption.Proposal | None:
        """A record that could be adopted now: of several stages one after the other."""
        found = (adoption.propose(self.state, each) for each in self.state.courses.values())
        return next((each for each in found if each is not None), None)

    def members_ahead(self) -> dict[str, int]:
        """By full name: the commits that members say they hold, if the journal is to be taken for older."""
        return adoption.all_ahead(self.state)

    def adopt_nothing(self, now: float) -> None:
        """Go on with the journal as it is."""
        self.state.adopting = False
        self._advance(now)

    def adopt(self, now: float, head: bytes) -> bool:
        """Go on from a record that was proposed; False if it is no more."""
        adopted = any(adoption.adopt(self.state, each, now, head) for each in self.state.courses.values())
        if adopted:
            self.state.adopting = self.proposal() is not None
        self._advance(now)
        return adopted

    def _put_out(self, now: float, entry: Entry, why: Refused) -> None:
        """That identity is out for good; it is journaled before anybody hears it."""
        self.state.kick(entry)
        for course in self.state.courses.values():
            course.suspicion.forget(entry.key)
            course.apart.forget(entry.key)
        self._outlet.send(now, entry.key, why)
        self.remove(now, entry, cut(why.detail), forget=False)
        # What was just sent may be lost with its connection: for a while it may come back and hear it.
        self._parting[entry.key] = now + AFTER_THE_END_TIMEOUTS * self._rules.failure_timeout_s

    def save_now(self, now: float) -> Refused | Obeyed:
        """Have members write a checkpoint of the newest commit."""
        return saving.ask_for_checkpoints(self.state, now)

    def stop(self, now: float) -> Obeyed:
        """End the run in order: what is open is finished, no round opens, and all members are told."""
        if self.finished:
            return Obeyed(f"the run is over already, with {self.state.num_rounds} rounds")
        self.state.stop()
        self._advance(now)
        return Obeyed(f"the run ends with {self.state.num_rounds} of {self._rules.rounds} rounds")

    # -- messages -----------------------------------------------------------------------------

    def receive(self, now: float, peer: bytes, message: Any) -> None:
        """One message from an admitted member; whatever does not fit its state is ignored. Raises `BadFrame`
        for one about a fragment that the model does not have."""
        entry = self.roster.entries.get(peer)
        if entry is None:
            return
        if entry.kicked:
            self._outlet.send(now, peer, _KICKED)
            return
        if isinstance(message, Enter):
            self._enter(now, entry, message)
        elif isinstance(message, AskStage):
            if self._assignment.ask(now, entry, message):
                self._standing.ended(now, entry.key)
        elif isinstance(message, NewestRecord):
            entry.show(message)
        elif isinstance(message, StandsSince):
            self._standing.claim(entry, message)
        elif entry.entered and (handler := self._handlers.get(type(message))):
            course = self.state.course_of(entry)
            if course.manifest is not None:
                course.manifest.check_fragment(message)
            handler(now, course, entry, message)
        self._advance(now)

    def met(self, now: float, peer: bytes, incarnation: int) -> None:
        """A process greeted that proved this identity."""
        if peer in self.roster.entries:
            self._lives.greeted(now, peer, incarnation)
            if not self.finished or peer not in self.state.arriving:  # to greet again delays no end
                self.state.arriving[peer] = now + restoring.restore_wait_s(self.state)

    def session_began(self, now: float, peer: bytes) -> None:
        """The peer is new or lost its memory of us: its membership is over until it enters."""
        entry = self.roster.entries.get(peer)
        if entry is not None and entry.entered:
            self.remove(now, entry, "restarted", forget=False)
            self._advance(now)

    def addresses_of(self, peer: bytes) -> tuple[str, ...]:
        """Where a member listens, as it said; nothing of one that is not here."""
        entry = self.roster.entries.get(peer)
        return entry.addresses if entry is not None and entry.entered else ()

    def lose_sight(self, now: float, peer: bytes) -> None:
        """The process of a member seems to be dead: no round waits for it. Its membership stands until it was
        silent for the failure timeout."""
        entry = self.roster.entries.get(peer)
        if entry is None or not entry.entered:
            return
        entry.out_of_sight = True
        course = self.state.course_of(entry)
        rounds.leave_all(self.state, course, now, entry, "its link ended and is not back")
        self._advance(now)

    def regain_sight(self, now: float, peer: bytes) -> None:
        """It lives: rounds count on it again."""
        entry = self.roster.entries.get(peer)
        if entry is not None:
            entry.out_of_sight = False
            self._advance(now)

    def deadline(self) -> float:
        """When the next grace or wait ends: `tick` is wanted then too, at once if it is over."""
        ends = math.inf if self.finished else rounds.next_opening(self.state, self._looked_at)
        return 0.0 if self.recomputer.has_news else ends

    def tick(self, now: float) -> None:
        """Time has passed: silent members are out, and waiting ends."""
        for entry, silence_s in silence.look(self.state, now):
            self.remove(now, entry, f"silent for {silence_s:.1f} s", forget=True)
        for key in [key for key, until in self._parting.items() if now >= until]:
            del self._parting[key]
            self._outlet.forget(key, _KICKED.detail)
        self._standing.tick(now)
        places.give_back(self.state, now)
        self._lives.tick(now)
        self._advance(now)
        for course in self.state.courses.values():
            rounds.end_gridlock(self.state, course, now)
            self._standing.wanting.ask(now, course)

    def _advance(self, now: float) -> None:
        state, self._looked_at = self.state, now
        for course in state.courses.values():
            if adoption.holds_still(state, course, now) or restoring.resumes(state, course, now):
                continue
            for current in list(course.rounds.values()):
                stalls.judge(state, course, now, current)
                rounds.part_with_laggards(state, course, now, current)
                self._hearing.settle_dissent(now, course, current)
            state_sync.settle(state, course, now, *self.recomputer.advance(now, course))
            state_sync.part_with_unnamed(state, course, now)
            naming.give_orders(state, course, now)
            state_sync.serve_waiting(state, course, now)
            rounds.open_what_can_be(state, course, now)
        self._mode.flush(now)
        if self.finished:
            for entry in self._mode.awaiting_end(now, state.courses):
                state.tell_finished(now, entry)

    # -- members come and go ------------------------------------------------------------------

    def _enter(self, now: float, entry: Entry, message: Enter) -> None:
        if entry.entered:
            self.remove(now, entry, "entered again", forget=False, stands=True)
        refusal = entry_refusal(self.state, self._assignment, self._mode.max_members, entry, message)
        refusal = refusal or self._standing.refusal(now, entry)
        if refusal is not None:
            self._outlet.trace(RefusedTrace(peer=entry.key, code=refusal.code, detail=refusal.detail))
            self._outlet.send(now, entry.key, refusal)
            self._standing.ended(now, entry.key)
            return
        course = self.state.courses[message.stage]
        if course.manifest is None:
            self.state.agree_on_model(course, manifest_in(message))
        course.layout_rows = message.rows
        self._assignment.entered(entry, course.number)
        self.roster.enter(now, entry, message, course.number)
        self._outlet.trace(EnteredTrace(peer=entry.key, peer_name=entry.name, epoch=self.roster.epoch))
        self._mode.tell_entered(now, entry)
        state_sync.start_following(self.state, course, now, entry)
        if self.state.changed_settings:
            self._outlet.send(now, entry.key, SettingsAre(self.state.changed_settings))
        self._outlet.send(now, entry.key, Entered(self.roster.epoch, self.finished))
        self._standing.entered(now, entry)
        if self.finished and self._mode.tells_end_on_entering(entry):
            self.state.tell_finished(now, entry)

    def remove(self, now: float, entry: Entry, reason: str, *, forget: bool, stands: bool = False) -> None:
        """End a membership: rounds go on without it, others are told. ``stands``: it enters anew at once."""
        if not entry.entered:
            return
        course = self.state.course_of(entry)
        self.roster.leave(entry)
        self.recomputer.drop(entry.key)
        entry.absent_since = now
        if course.mean_case is not None and course.mean_case.owner == entry.key:
            course.mean_case = None  # what it was to show is lost with its membership
            course.suspicion.owes_proof(entry.key, course.chain.index)  # or it could leave when asked
        self._outlet.trace(RemovedTrace(peer=entry.key, peer_name=entry.name, reason=reason))
        self._mode.tell_gone(now, MemberGone(self.roster.epoch, entry.key, reason))
        if not stands:
            self._standing.ended(now, entry.key)
        if forget:
            self._outlet.forget(entry.key, reason)
        for current in list(course.rounds.values()):
            rounds.lose(self.state, course, now, current, [entry.key], reason)

    def _leave(self, now: float, course: Course, entry: Entry, message: Leave) -> None:
        why = "" if message.reason in ("", "done", "left") else f": {message.reason}"
        self.remove(now, entry, cut(f"left{why}"), forget=True)

    # -- what members show and report -------------------------------------------------------

    def take_evidence(self, now: float, peer: bytes, message: Evidence, payload: Payload) -> None:
        """What a member shows: a chunk that it refuses, or whom it had its means from. Raises `BadFrame`."""
        self._hearing.take(now, peer, message, payload)
        self._advance(now)

    def _report(self, now: float, course: Course, entry: Entry, message: Report) -> None:
        is_first, entry.report = entry.report is None, message
        if is_first:  # of one who lived on while this host was away nobody knew how far it is
            state_sync.overtaken(self.state, course, now)
        if self._rules.paces:
            self._pace(now, course, entry)
        told = self._mode.reported(now, course, message)
        for other in told if self.finished else ():
            self.state.tell_finished(now, other)
        self._outlet.trace(ReportTrace(peer=entry.key, peer_name=entry.name, report=message))

    def _pace(self, now: float, course: Course, entry: Entry) -> None:
        """Tell a member how fast the fastest is, if that has changed since it was told."""
        here = self.roster.entered_in(course.number)
        fastest = fastest_of([each.pace.speed(each.report.speed) for each in here if each.report])
        if entry.pace.news(fastest):
            self._outlet.send(now, entry.key, Pace(fastest))
