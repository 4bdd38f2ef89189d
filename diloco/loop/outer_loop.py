"""When a worker offers what it trained, waits, applies and rebases: decisions, no tensors and no IO.

The training loop tells of every inner step and hands over the member's events; the loop answers
with commands for the member. The same object runs below `attach` and in simulation; what differs is
the `Replica` that it moves. Keeps S4 and S5 on the training side, and the rule that local training
waits for the network only where the method says so, and never without bound.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from diloco.errors import NonFiniteContribution, StateError
from diloco.loop.buffers_offer import BuffersOffer
from diloco.loop.progress import Progress
from diloco.loop.replica import Replica
from diloco.loop.setbacks import Setbacks
from diloco.loop.weights import share_of, weight_of
from diloco.methods.schedule import Schedule
from peers.protocol.commands import (
    Command,
    ConfirmApplied,
    ConfirmCaptured,
    ConfirmLoaded,
    ConfirmMoved,
    Offer,
    RefuseLoaded,
    Swap,
    TakeBack,
)
from peers.protocol.events import (
    BecameActive,
    BecomeSeed,
    ContributionEnded,
    CoordinatorBack,
    CoordinatorLost,
    EntryRefused,
    Fate,
    FellBehind,
    IdentitySuperseded,
    OfferWanted,
    PaceSet,
    Restored,
    RoundAborted,
    RoundCommitted,
    RoundOpened,
    RunFinished,
    StateFetched,
    SwapFailed,
    Swapped,
    VersionExpected,
)
from transport.collectives.reducer import Reducer


class OuterLoop:
    """One worker's outer loop over all fragments."""

    def __init__(
        self, schedule: Schedule, wait_s: float, replica: Replica, rounds: int = sys.maxsize
    ) -> None:
        self.active = False
        self.finished = False
        self.awaits_end = False
        """The run has all its rounds, and is about to say that this worker may go."""
        self.refused: EntryRefused | None = None
        self.superseded = False
        self.coordinator_lost = False
        self.rounds_applied = 0
        self.setbacks = Setbacks(schedule.num_fragments)
        self.tokens_unoffered = 0
        """Tokens whose progress was given up before it was offered (fate: superseded)."""
        self.speed = 0.0
        """Tokens per second that this worker computes while it trains, for methods that pace by speed."""
        self._fastest = 0.0
        self._schedule = schedule
        self._wait_s = wait_s
        self._replica = replica
        self._follows_until = 0.0
        """So long this worker does nothing but follow commits, of which it is far behind."""
        self._rounds = rounds
        """After so many the model's buffers are asked for. Gossip: then this worker is done."""
        self.progress = [Progress(offset) for offset in schedule.offsets]
        self._buffers = BuffersOffer(schedule.buffers_fragment, wait_s, replica, self.setbacks)

    # -- the training loop's side -------------------------------------------------------------

    def follow(self, wait_s: float, rounds: int) -> None:
        """The run's settings say otherwise from now on."""
        self._wait_s, self._rounds = wait_s, rounds
        self._buffers.follow(wait_s)

    def count(self, tokens: int, steps: int = 1) -> None:
        """Inner steps of ``tokens`` tokens together are done, all but the last of them `quiet_steps`. They
        count before the events that came meanwhile are handled: one that wipes out what a fragment learned
        then wipes out the count too. `due` follows."""
        for each in self.progress:
            each.steps += steps
            each.tokens += tokens
        self._buffers.count(tokens)

    def quiet_steps(self) -> int:
        """Inner steps from here on up to the first after which something may be due, or waited for: for who
        simulates and need not look after each."""
        if self._buffers.is_pending:
            return 1
        return max(1, min(map(self._steps_until_due, range(len(self.progress))), default=1))

    def _steps_until_due(self, fragment: int) -> int:
        each = self.progress[fragment]
        landing = self._delay(fragment) - each.steps_since_offer
        if each.offered is not None or not self._may_offer():
            return landing if each.offered is not None or each.landing is not None else sys.maxsize
        offering = each.next_offer - each.steps
        return offering if each.landing is None else min(landing, offering)

    def patience_ends(self, now: float) -> float | None:
        """When the next of what it waits for is given up, in seconds: an offer's round or result, or commits
        to follow; None without one."""
        ends = [each.wait_until for each in self.progress if each.offered is not None]
        ends += [*self._buffers.ends(), self._follows_until]
        return min((end for end in ends if end > now), default=None)

    def due(self, now: float) -> list[Command]:
        """Landings and offers that are due, and offers to take back because nobody comes for them."""
        commands: list[Command] = []
        for fragment, each in enumerate(self.progress):
            self._land_if_due(fragment, each)
            if each.offered is not None and not each.in_round and self._gives_up(now, each):
                commands.append(TakeBack(fragment))
            elif each.offered is None and each.steps >= each.next_offer and self._may_offer():
                commands += self._offer(now, fragment) if not each.outdated else []
        return commands + self._buffers.due(now, self._may_offer())

    def _may_offer(self) -> bool:
        over = self.finished or self.setbacks.diverged is not None
        return self.active and not over and not self.coordinator_lost

    def told(self, command: Command, done: bool) -> None:
        """What the member answered to a command."""
        if self._buffers.is_about(command):
            self._buffers.told(command, done)
            return
        match command:
            case Offer() if not done and not self.progress[command.fragment].is_new:
                self.progress[command.fragment].keep_snapshot(again_in=1)
            case Offer() | Swap() if not done:
                # Nothing is landed yet, so that nothing is lost by it.
                self._take_back(command.fragment, again_in=1)
            case Offer():
                self._taken(command.fragment)
            case TakeBack() if done:
                again_in = 1 if self.coordinator_lost else self._period(command.fragment)
                self._take_back(command.fragment, again_in)
            case TakeBack():
                self.progress[command.fragment].in_round = True

    def waits(self, now: float) -> bool:
        """Whether the training loop is to wait for events instead of training on: a result is later than
        its delay, or commits come as fast as inner steps and would never be caught up with."""
        stops = self.finished or self.refused or self.superseded or self.setbacks.diverged
        if stops or self.coordinator_lost:
            return False
        return (
            self._buffers.waits(now)
            or self.follows(now)
            or any(
                p.offered is not None and p.steps_since_offer >= self._delay(fragment) and now < p.wait_until
                for fragment, p in enumerate(self.progress)
            )
        )

    def follows(self, now: float) -> bool:
        """It does nothing but follow commits, of which it is far behind."""
        return now < self._follows_until

    # -- the member's side --------------------------------------------------------------------

    def handle(self, now: float, event: object) -> list[Command]:
        """One event of the member."""
        if self._buffers.is_about(event):
            if isinstance(event, RoundCommitted):
                self._follow(now, event)
            return self._buffers.handle(now, event)
        match event:
            case RoundCommitted():
                return self._committed(now, event)
            case Swapped():
                return self._swapped(event, event.mean, 1 + len(event.partners))
            case SwapFailed() if event.alone:
                return self._swapped(event, None, 1)
            case SwapFailed():
                self._take_back(event.fragment, self._period(event.fragment))
            case RoundOpened():
                self.progress[event.fragment].in_round = True
                # An open round has its own deadlines; this bound is for what nobody thought of.
                self.progress[event.fragment].wait_until = now + 4 * self._wait_s
            case RoundAborted():
                self.progress[event.fragment].in_round = False
                self.progress[event.fragment].wait_until = now + self._wait_s
            case ContributionEnded():
                self._ended(event)
            case StateFetched():
                return [self._loaded(event)]
            case BecomeSeed():
                replica, every = self._replica, [*range(len(self.progress)), *self._buffers.fragments]
                return [ConfirmCaptured(f, replica.digest(f), replica.check(f)) for f in every]
            case BecameActive():
                self.active, self.coordinator_lost, self.awaits_end = True, False, event.over
                for each in self.progress:
                    each.in_round = False
                self._buffers.begin_anew()
                # Of gossip nobody else says so: a replica of the disk, or a donor's, may have all steps.
                self.finished |= self._schedule.gossips and self._replica.count(0) >= self._rounds
            case FellBehind():
                self.active, self._follows_until, self._buffers.asked_until = False, 0.0, 0.0
            case VersionExpected():
                self.progress[event.fragment].outdated = True
            case Restored():
                for each in self.progress:
                    each.outdated = False
                self._buffers.expect_nothing()
            case CoordinatorLost() | CoordinatorBack():
                self.coordinator_lost = isinstance(event, CoordinatorLost)
            case OfferWanted():
                self._offer_early(event.fragment)
            case PaceSet():
                self._set_pace(event.fastest)
            case RunFinished():
                self.finished = True
            case EntryRefused():
                self.refused = event
            case IdentitySuperseded():
                self.superseded = True
        return []

    # -- over restarts ------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """What a later process of this worker goes on from, at the same head."""
        before = self._schedule.offers_before_landing
        kept = [each.kept(before, self._period(fragment)) for fragment, each in enumerate(self.progress)]
        lost = [each.offered_tokens for each in self.progress if before and each.has_snapshot]
        return {
            "progress": kept,
            "rounds_applied": self.rounds_applied,
            "tokens_unoffered": self.tokens_unoffered + sum(lost),
            "non_finite": [self.setbacks.count, self.setbacks.tokens],
            "buffer_tokens": self._buffers.tokens,
        }

    def load_state_dict(self, state: dict[str, Any], landing: Callable[[int], Reducer]) -> None:
        """Go on from there, before the first event; ``landing`` stands for a fragment's contribution whose
        result is still to land. Raises `StateError` for that of another method."""
        if len(state["progress"]) != len(self.progress):
            raise StateError(f"it has {len(state['progress'])} fragments instead of {len(self.progress)}")
        self.progress = [
            Progress.resumed(each, landing(f) if each["lands"] else None)
            for f, each in enumerate(state["progress"])
        ]
        self.rounds_applied, self.tokens_unoffered = state["rounds_applied"], state["tokens_unoffered"]
        self.setbacks.count, self.setbacks.tokens = state["non_finite"]
        self._buffers.tokens = state["buffer_tokens"]

    def forget(self, fragment: int) -> None:
        """What is held of a fragment is in a record that is about to be applied, by an earlier life: it must
        not count twice."""
        if fragment in self._buffers.fragments:
            self._buffers.forget()
            return
        self.tokens_unoffered += self.progress[fragment].tokens
        self._replica.discard(fragment)
        self._restart(fragment)

    def forget_since_offer(self, fragment: int) -> None:
        """What was trained on a fragment since its offer, which is under way and stays so, is given up."""
        if self.progress[fragment].steps_since_offer:
            self.tokens_unoffered += self._forget(fragment)

    def give_up_non_finite(self) -> list[Command]:
        """Fragments whose live values are not finite go back to the outer ones, before any offer."""
        found = [f for f in range(len(self.progress)) if not self._replica.is_finite(f)]
        error = NonFiniteContribution(len(found), "fragments of the live model are not finite")
        tokens = sum(map(self._forget, found))
        return self.setbacks.lost(found[0], found, tokens, error, self._replica.mend()) if found else []

    # -- inside -------------------------------------------------------------------------------

    def _gives_up(self, now: float, each: Progress) -> bool:
        # What was wiped out by a landing can only be offered as it is.
        return not self._schedule.offers_before_landing and (self.coordinator_lost or now >= each.wait_until)

    def _delay(self, fragment: int) -> int:
        # In proportion where H is another than the method's: who is slower has fewer steps in the same time,
        # and a delay of a whole outer step stays one.
        return self._schedule.delay * self._period(fragment) // self._schedule.periods[fragment]

    def _set_pace(self, fastest: float) -> None:
        before = [self._period(fragment) for fragment in range(len(self.progress))]
        self._fastest = fastest
        for fragment, each in enumerate(self.progress):
            if not each.has_snapshot:  # what is under way is as much shorter as what is to come
                each.next_offer = max(1, round(each.next_offer * self._period(fragment) / before[fragment]))

    def _period(self, fragment: int) -> int:
        every = self._replica.sync_every(fragment)
        if not 0.0 < self.speed < self._fastest:
            return every
        # DyLU (arXiv 2401.09135): all workers return at about the same time. It rounds up; a speed is
        # measured, and its noise must not cost everybody one step of the slowest.
        return max(1, round(every * self.speed / self._fastest))

    def _offer(self, now: float, fragment: int) -> list[Command]:
        each, again = self.progress[fragment], self.progress[fragment].keeps
        try:
            made = self._replica.contribution_again if again else self._replica.contribution
            reducer, norm = made(fragment)
        except NonFiniteContribution as error:
            each.keeps = False
            return self._give_up(fragment, error)
        self.setbacks.passed(fragment)
        each.offer(reducer)
        each.wait_until = now + self._wait_s
        if self._schedule.gossips:
            return [Swap(fragment, self._replica.count(fragment), each.tokens, reducer)]
        weight = weight_of(self._schedule, each.offered_tokens, each.offered_steps)
        tokens = 0 if self._sketches(fragment) else each.offered_tokens
        return [Offer(fragment, tokens, weight, reducer, norm)]

    def _taken(self, fragment: int) -> None:
        """The member has an offer. With the first of a snapshot a result lands that wipes out what it is
        about."""
        each = self.progress[fragment]
        if each.is_new and self._schedule.offers_before_landing:
            self._replica.land(fragment, each.landing, on_time=True)
            each.landing = None
        each.is_new = False

    def _offer_early(self, fragment: int, lands_too: bool = False) -> None:
        each = self.progress[fragment]
        # Before a landing the live model does not yet build on the outer parameters.
        if each.offered is None and (each.landing is None or lands_too):
            each.next_offer = min(each.next_offer, max(1, each.steps))

    def _sketches(self, fragment: int) -> bool:
        return self._schedule.exchanges_per_step > 1 and self._replica.sketches(fragment)

    def _land_if_due(self, fragment: int, each: Progress) -> None:
        ours, since = each.landing, each.steps_since_offer
        if ours is None or since < self._delay(fragment):
            return
        if self._schedule.offers_before_landing and self._may_offer():
            return  # it lands with the next offer, which is due
        each.landing = None
        on_time = since == self._delay(fragment) and not self._schedule.offers_before_landing
        self._replica.land(fragment, ours, on_time)

    def _take_back(self, fragment: int, again_in: int) -> None:
        each = self.progress[fragment]
        each.offered, each.in_round = None, False
        each.next_offer = each.steps + again_in

    def _give_up(self, fragment: int, error: NonFiniteContribution) -> list[Command]:
        """It must never be averaged in: go on from the shared state, in every fragment that is not finite,
        for one that stays so would spoil the others at the next step."""
        every = range(len(self.progress))
        fragments = [f for f in every if f == fragment or not self._replica.is_finite(f)]
        tokens = sum(map(self._forget, fragments))
        self._restart(fragment)
        return self.setbacks.lost(fragment, fragments, tokens, error, self._replica.mend())

    def _forget(self, fragment: int) -> int:
        """Give up what was trained since the offer, if there is one; its tokens. What comes next is offered
        when that would have been."""
        each = self.progress[fragment]
        each.keeps = False  # the replica forgets the snapshot too
        steps = each.steps_since_offer
        tokens = each.tokens - (each.offered_tokens if each.offered is not None else 0)
        # Overlapped, the live model had gone on without what was offered.
        self._replica.reset(fragment, None if self._schedule.offers_before_landing else each.offered)
        each.steps, each.tokens, each.landing = each.steps - steps, each.tokens - tokens, None
        each.next_offer = max(1, each.next_offer - steps)
        return tokens

    def _restart(self, fragment: int) -> None:
        self.progress[fragment] = Progress(self._period(fragment))

    def _ended(self, event: ContributionEnded) -> None:
        if event.fate == Fate.APPLIED and not event.without_result:
            return
        each = self.progress[event.fragment]
        if self._sketches(event.fragment):
            # It had no tokens, and its snapshot is as good for the second exchange, which may come at once.
            rejected = event.fate == Fate.REJECTED  # and would be at once
            each.keep_snapshot(again_in=max(1, self._period(event.fragment) // 10) if rejected else 1)
            return
        # Its tokens have met their fate; what came after them starts over with the next state.
        each.lose_snapshot()
        self.tokens_unoffered += each.tokens
        self._replica.discard(event.fragment)
        self._restart(event.fragment)

    def _follow(self, now: float, event: RoundCommitted) -> None:
        self.rounds_applied += 1
        behind = event.behind > len(self.progress) * self._schedule.exchanges_per_step
        self._follows_until = now + self._wait_s if behind else 0.0

    def _sketched(self, now: float, event: RoundCommitted) -> list[Command]:
        """The first of two exchanges is over. The second one is about the same snapshot, at once; who was not
        in the first offers what it has trained, since the others wait for it."""
        fragment, each = event.record.fragment, self.progress[event.record.fragment]
        self._replica.apply(fragment, event.mean, each.offered, share_of(event), keep_old=False)
        self._follow(now, event)
        each.outdated = False
        if each.has_snapshot:
            each.keep_snapshot(again_in=0)
        else:
            self._offer_early(fragment, lands_too=self._schedule.offers_before_landing)
        return [ConfirmApplied(event.record, self._replica.check(fragment))]

    def _committed(self, now: float, event: RoundCommitted) -> list[Command]:
        fragment = event.record.fragment
        if self._sketches(fragment):
            return self._sketched(now, event)
        each = self.progress[fragment]
        ours = each.offered if event.number is not None else None
        if each.landing is not None:
            self._replica.land(fragment, each.landing, on_time=False)
        gone = each.has_snapshot and (ours is not None or self._schedule.offers_before_landing)
        if gone and ours is None:
            self.tokens_unoffered += each.offered_tokens  # a landing has wiped out what was taken back
        steps = each.steps - (each.offered_steps if gone else 0)
        tokens = each.tokens - (each.offered_tokens if gone else 0)
        lands_now = ours is not None and steps == self._schedule.delay == 0
        self._replica.apply(fragment, event.mean, ours, share_of(event), keep_old=not lands_now)
        missed_before = ours is None and each.in_step
        next_offer = self._period(fragment) if ours else self._next_offer_of_others(fragment)
        self.progress[fragment] = Progress(next_offer, steps, tokens, landing=ours, in_step=ours is None)
        each = self.progress[fragment]
        if not missed_before:
            self._align(fragment, self._delay(fragment) if ours is None else steps)
        self._follow(now, event)
        self._buffers.committed(now, event.record.index, self._schedule, self._rounds)
        commands: list[Command] = [ConfirmApplied(event.record, self._replica.check(fragment))]
        if ours is None:
            self._replica.land(fragment, None, on_time=False)
            return commands
        self._land_if_due(fragment, each)
        return commands

    def _next_offer_of_others(self, fragment: int) -> int:
        """Whoever was not in a round goes in step with those who were: out of step each waits for the others,
        with several fragments in a circle. Only once, or a slow one would never come to offer."""
        each, period = self.progress[fragment], self._period(fragment)
        if self._schedule.rebases:
            return period
        if each.in_step:
            return each.next_offer
        # Theirs is as many steps from here as they have not yet trained of the delay.
        return each.steps + max(1, period - self._delay(fragment))

    def _align(self, fragment: int, steps_since: int) -> None:
        """A commit of one fragment, so many steps after its offer, says when the others are to be offered:
        their offsets apart. Who came later counts its first ones from elsewhere, and all would wait for each
        other at each of them, for good; for who began with the others this changes nothing."""
        periods, offsets = self._schedule.periods, self._schedule.offsets
        if self._schedule.rebases or self._period(fragment) != periods[fragment]:
            return  # nobody is waited for, or a pace of its own keeps no steps of others
        for other, each in enumerate(self.progress):
            gap = (offsets[other] - offsets[fragment]) % periods[fragment]
            # Steps that lie behind call for nothing now: its own commit, or the next one, puts it in step.
            if periods[other] == periods[fragment] and steps_since < gap and not each.has_snapshot:
                each.next_offer = each.steps + gap - steps_since

    def _swapped(self, event: Swapped | SwapFailed, mean: Reducer | None, group_size: int) -> list[Command]:
        fragment, each = event.fragment, self.progress[event.fragment]
        ours = each.offered
        if ours is None or event.step != self._replica.count(fragment):
            return []  # another state was loaded meanwhile
        steps, tokens = each.steps - each.offered_steps, each.tokens - each.offered_tokens
        self._replica.apply(fragment, mean, ours, 1 / group_size, keep_old=steps > 0)
        self._replica.land(fragment, ours, on_time=steps == 0)
        self._restart(fragment)
        self.progress[fragment].steps, self.progress[fragment].tokens = steps, tokens
        self.rounds_applied += 1
        self.finished = self.finished or self._replica.count(fragment) >= self._rounds
        return [ConfirmMoved(fragment, self._replica.check(fragment))]

    def _loaded(self, event: StateFetched) -> ConfirmLoaded | RefuseLoaded:
        try:
            self._replica.load(event.fragment, event.data)
        except StateError as error:  # before anything changed: this worker trains on
            return RefuseLoaded(event.fragment, event.version, str(error))
        self.tokens_unoffered += self.progress[event.fragment].tokens
        self.progress[event.fragment] = Progress(self._schedule.offsets[event.fragment])
        if self._schedule.exchanges_per_step > 1 and not self._replica.sketches(event.fragment):
            self._offer_early(event.fragment)
        return ConfirmLoaded(event.fragment, event.version, self._replica.check(event.fragment))
