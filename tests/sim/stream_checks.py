"""Checkers of what travels between stages.

PP1: what commits count of a microbatch, each stage counts once. PP3: each that was fed ends once, and no more
than a window have not. PP4, PP8: without faults none is given up, and in the quiet they settle. PP5: an offer
has the tokens of what was counted for it. PP7: what is present is bounded.
"""

from __future__ import annotations

from collections import Counter, defaultdict

from peers.coordinator.journal import CommitWritten
from peers.protocol import stage_work as work
from peers.protocol.commands import Offer
from peers.protocol.record import Record
from peers.protocol.stage_work import How, MicrobatchId
from tests.sim.streams import TOKENS
from tests.sim.violation import Violation
from tests.sim.world import Answered, Worker, World
from transport.effects import Effect, Store
from transport.frames import unpack


class StreamCheckers:
    """Of one world that streams."""

    def __init__(self, world: World) -> None:
        assert world.streams is not None
        self.world, self.window = world, world.streams.window
        self.ends: dict[MicrobatchId, work.MicrobatchEnded | work.EvaluationEnded] = {}
        self.unsettled: dict[tuple[bytes, int], set[int]] = defaultdict(set)
        """By feeder's membership: what was fed and did not end."""
        self.counted: dict[tuple[int, int, MicrobatchId], int] = {}
        """By stage, fragment and microbatch: the worker whose contribution counts it."""
        self.offers: dict[tuple[Worker, int, int], list[MicrobatchId]] = {}
        """By worker, fragment and number of its contribution."""
        self.lives: dict[bytes, list[Worker]] = defaultdict(list)
        world.notes.append(self.note)
        world.observers.append(self.observe)

    def note(self, now: float, worker: Worker, seen: object) -> None:
        if worker not in self.lives[worker.key]:
            self.lives[worker.key].append(worker)
        match seen:
            case Answered(Offer() as offer, True):
                self._offered(worker, offer)
            case Answered(work.Feed() as feed, True):
                assert worker.trainer is not None
                unsettled = self.unsettled[worker.key, worker.trainer.membership]
                unsettled.add(feed.number)
                if len(unsettled) > self.window:
                    raise Violation("PP3", f"{len(unsettled)} of worker {worker.index} have not ended")
            case work.MicrobatchEnded():
                self._ended(worker, seen)
                self.world.seen[seen.how.name.lower()] += 1
            case work.EvaluationEnded():
                self._ended(worker, seen)
                self.world.seen["evaluated" if seen.tokens else "evaluated_in_vain"] += 1

    def _offered(self, worker: Worker, offer: Offer) -> None:
        assert worker.trainer is not None
        assert worker.node.member is not None
        num = offer.tokens // TOKENS
        mine = worker.trainer.counted[len(worker.trainer.counted) - num :]
        if offer.tokens % TOKENS or len(mine) != num:
            raise Violation("PP5", f"worker {worker.index} offers {offer.tokens} tokens, and counted {mine}")
        number = worker.node.member.contributions.num_offered
        self.offers[worker, offer.fragment, number] = mine

    def _ended(self, worker: Worker, end: work.MicrobatchEnded | work.EvaluationEnded) -> None:
        if end.microbatch in self.ends:
            raise Violation("PP3", f"{end.microbatch} of worker {worker.index} ends twice")
        self.ends[end.microbatch] = end
        self.unsettled[worker.key, end.microbatch.incarnation].discard(end.microbatch.number)

    def observe(self, now: float, key: bytes, effect: Effect) -> None:
        if isinstance(effect, Store):
            entry = unpack(effect.entry)
            if isinstance(entry, CommitWritten) and not (record := entry.commit()).restores:
                self._committed(record)

    def _committed(self, record: Record) -> None:
        for key in record.members:
            for worker in self.lives[key]:
                member = worker.node.member
                mine = None if member is None else member.contributions.offered.get(record.fragment)
                if mine is not None and mine.serial == record.serial:
                    self._count(worker, record, mine.number)

    def _count(self, worker: Worker, record: Record, number: int) -> None:
        for microbatch in self.offers[worker, record.fragment, number]:
            what = record.course, record.fragment, microbatch
            if what in self.counted:
                who = f"workers {self.counted[what]} and {worker.index}"
                raise Violation("PP1", f"stage {record.course} counts {microbatch} twice, at {who}")
            self.counted[what] = worker.index

    # -- while it runs ------------------------------------------------------------------------

    def sweep(self) -> None:
        """What is present at a replica is bounded."""
        for worker in self.world.processes():
            member = worker.node.member
            if member is None or member.stages is None:
                continue
            present = Counter(name[0] for name in member.stages.streaming.state.items)
            if present and max(present.values()) > 3 * self.window:
                raise Violation("PP7", f"worker {worker.index} has {present}")

    def num(self, how: How) -> int:
        """How many ended so."""
        return sum(isinstance(e, work.MicrobatchEnded) and e.how is how for e in self.ends.values())

    def check_quiet(self, settled: int, given_up: int) -> None:
        """PP8: for a while there was no fault."""
        if self.num(How.SETTLED) < settled + 8:
            raise Violation("PP8", f"{self.num(How.SETTLED) - settled} microbatches settled in the quiet")
        if self.given_up > given_up:
            raise Violation("PP8", f"{self.given_up - given_up} were given up in the quiet")

    @property
    def given_up(self) -> int:
        """Partial and lost ones."""
        return self.num(How.PARTIAL) + self.num(How.LOST)
