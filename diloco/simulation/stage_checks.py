"""The invariants of streams, checked from outside while a scenario with stages runs.

It sees every work item, everything that training threads and members say to each other about microbatches,
and what the host decides, and recomputes from that alone what must be true. A violation names the number of
`docs/invariants.md`: PP1 counted once by a stage, of all that records count; PP2 counted at the weights that
its forward used; PP3 one end for each microbatch, within the window; PP4 none given up without a fault; PP5
an offer has the tokens that were counted for it; PP6 the same random numbers wherever a microbatch goes at a
stage; PP9 nobody is handed another tensor; PP10 a stage that somebody holds is not begun anew or emptied;
PP11 no boundary waits long for exchanges; PP12 boundaries carry what their formula says.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from diloco.pipeline.stage_loop import Backward, Forward, Step
from diloco.simulation.engine import Engine
from diloco.simulation.identities import HOST, key_of
from diloco.simulation.report.report import Activity, Microbatches
from diloco.simulation.stage_worker import Did, StageWorker, phantom_of
from diloco.simulation.stages import StageShape
from diloco.simulation.worker import Worker
from peers.coordinator.journal import CommitWritten
from peers.protocol import stage_work as said
from peers.protocol.commands import Command, Offer
from peers.protocol.events import (
    BecomeSeed,
    ContributionEnded,
    Fate,
    Restored,
    RoundCommitted,
    StateFetched,
    Swapped,
)
from peers.protocol.record import Record
from peers.protocol.stage_work import How, MicrobatchEnded, MicrobatchId, StageCommand
from peers.protocol.traces import (
    ActiveTrace,
    RemovedTrace,
    RestoredTrace,
    StageGivenTrace,
    StageMoveTrace,
    StateLostTrace,
)
from transport.effects import Effect, Payload, Phantom, Store
from transport.frames import unpack

_MAX_VIOLATIONS = 20
_BEHIND_BULK_S = 0.05
_BYTES_OFF = 0.02


@dataclass(slots=True)
class _Unoffered:
    """Which of what a life counted the next offer of one fragment has: positions in `_Life.counted`."""

    begin: int = 0
    snapshot: int | None = None
    """Where it ends: an offer of a sketch, without tokens, was made then. None: with all that is counted."""
    offered: int | None = None
    """Where the offer that is under way ends."""
    forgot: bool = False
    """Some of it may have been given up: an offer begins later."""


@dataclass(slots=True)
class _Life:
    """What one process of a replica did."""

    counted: list[MicrobatchId] = field(default_factory=list)
    """By its steps, since the last of its memberships that was void."""
    version: int = 0
    """Rises whenever parameters may have changed."""
    begun_at: dict[MicrobatchId, int] = field(default_factory=dict)
    unoffered: dict[int, _Unoffered] = field(default_factory=lambda: defaultdict(_Unoffered))
    """By fragment."""
    offers: dict[tuple[int, int], list[MicrobatchId]] = field(default_factory=dict)
    """By fragment and number of a contribution."""
    unsettled: set[int] = field(default_factory=set)


class StageChecks:
    """Collects violations, each a line. ``faultless``: nothing happens to the run, so nothing is given up."""

    def __init__(self, shapes: Sequence[StageShape], faultless: bool) -> None:
        self.violations: list[str] = []
        self._shapes = shapes
        self._faultless = faultless
        self._lives: dict[tuple[str, int], _Life] = defaultdict(_Life)
        self._by_key: dict[bytes, list[StageWorker]] = defaultdict(list)
        self._ended: dict[MicrobatchId, MicrobatchEnded] = {}
        self._seeds: dict[tuple[int, MicrobatchId], int] = {}
        self._counted: dict[tuple[int, int, MicrobatchId], str] = {}
        """By stage, fragment and microbatch: whose contribution counts it."""
        self._holders: dict[int, set[bytes]] = defaultdict(set)
        """By stage: the members that hold its state, as the coordinator sees it."""
        self._stage_of: dict[bytes, int] = {}
        self._commits: dict[int, int] = defaultdict(int)
        self._behind_told = False

    def _broken(self, now: float, rule: str, text: str) -> None:
        if len(self.violations) < _MAX_VIOLATIONS:
            self.violations.append(f"invariant {rule} at {now:.3f} s: {text}")

    def _life(self, worker: Worker) -> _Life:
        return self._lives[worker.name, worker.life]

    # -- as a watcher of stages ---------------------------------------------------------------

    def did(self, now: float, worker: StageWorker, did: Did) -> None:
        life, work = self._life(worker), did.work
        if isinstance(work, (Forward, Backward)):
            for seed in did.seeds:
                first = self._seeds.setdefault((worker.stage, work.microbatch), seed)
                if first != seed:
                    self._broken(
                        now, "PP6", f"{worker.name} draws other numbers for {work.microbatch} than before"
                    )
        elif isinstance(work, Step):
            self._stepped(life, worker, work)
        if worker.process.behind_bulk_ns / 1e9 > _BEHIND_BULK_S and not self._behind_told:
            self._behind_told = True
            waited = worker.process.behind_bulk_ns / 1e6
            self._broken(now, "PP11", f"a boundary of {worker.name} waits {waited:.1f} ms for other bulk")

    def _stepped(self, life: _Life, worker: StageWorker, step: Step) -> None:
        life.counted += step.microbatches
        life.version += 1
        for microbatch in step.microbatches:
            # Its feeder may be slow to settle it, but no other replica of the stage ever begins it.
            self._seeds.pop((worker.stage, microbatch), None)

    def said(self, now: float, worker: StageWorker, command: StageCommand, taken: bool) -> None:
        life = self._life(worker)
        match command:
            case said.Feed() if taken:
                life.unsettled.add(command.number)
                window = self._shapes[0].window
                if len(life.unsettled) > window:
                    self._broken(
                        now, "PP3", f"{len(life.unsettled)} of {worker.name} have not ended, of {window}"
                    )
                self._begins(worker, MicrobatchId(key_of(worker.name), worker.membership, command.number))
            case said.ForwardBegan():
                self._begins(worker, command.microbatch)
            case said.Counted():
                began = life.begun_at.pop(command.microbatch, None)
                if began != life.version:
                    self._broken(now, "PP2", f"{worker.name} counts {command.microbatch} at other weights")

    def _begins(self, worker: StageWorker, microbatch: MicrobatchId) -> None:
        self._life(worker).begun_at[microbatch] = self._life(worker).version

    def heard(self, now: float, worker: StageWorker, event: object) -> None:
        life, stage = self._life(worker), worker.stage
        match event:
            case said.StreamOpened():
                if worker not in self._by_key[worker.process.key]:
                    self._by_key[worker.process.key].append(worker)
                life.begun_at.clear()
                life.unsettled.clear()
                life.version += event.void
                for left in life.unoffered.values() if event.void else ():
                    left.forgot, left.snapshot = True, None
            case said.InputArrived():
                self._check_payload(now, worker, event.payload, "up", event.microbatch, stage - 1)
                if event.targets is not None:
                    self._check_payload(now, worker, event.targets, "targets", event.microbatch, 0)
            case said.GradientArrived():
                self._check_payload(now, worker, event.payload, "down", event.microbatch, stage + 1)
            case said.MicrobatchEnded():
                self._ends(now, worker, event)

    def _check_payload(
        self, now: float, worker: Worker, payload: Payload, way: str, microbatch: MicrobatchId, stage: int
    ) -> None:
        assert isinstance(payload, Phantom), "bytes where a phantom is due"
        if payload.digest != phantom_of(way, microbatch, stage, 0).digest:
            self._broken(now, "PP9", f"{worker.name} is handed another tensor of {microbatch}")

    def _ends(self, now: float, worker: StageWorker, end: MicrobatchEnded) -> None:
        if end.microbatch in self._ended:
            self._broken(now, "PP3", f"{end.microbatch} of {worker.name} ends twice")
        self._ended[end.microbatch] = end
        self._life(worker).unsettled.discard(end.microbatch.number)
        if self._faultless and end.how is not How.SETTLED:
            how = end.how.name.lower()
            self._broken(now, "PP4", f"{end.microbatch} of {worker.name} is {how}, and there was no fault")

    # -- as a watcher -------------------------------------------------------------------------

    def command(self, now: float, worker: Worker, command: Command) -> None:
        if not isinstance(command, Offer):
            return
        life, tokens = self._life(worker), self._shapes[worker.stage].tokens
        left = life.unoffered[command.fragment]
        is_sketch = not command.tokens and worker.trainer.replica.sketches(command.fragment)
        if is_sketch:
            left.snapshot = len(life.counted)
        end = len(life.counted) if left.snapshot is None else left.snapshot
        begin = end - command.tokens // tokens
        exact = begin == left.begin or (left.forgot and begin > left.begin)
        if command.tokens % tokens or not (is_sketch or exact):
            has = f"{end - left.begin} microbatches since its last offer"
            self._broken(now, "PP5", f"{worker.name} offers {command.tokens} tokens, and counted {has}")
        mine = life.counted[begin:end]
        if not is_sketch:
            left.offered, left.snapshot = end, None
        member = worker.node.member
        assert member is not None, "it offers"
        life.offers[command.fragment, member.contributions.num_offered + 1] = mine

    def event(self, now: float, worker: Worker, event: object) -> None:
        self._given_up(worker, event)
        if isinstance(event, (RoundCommitted, StateFetched, Restored, Swapped, ContributionEnded)):
            self._life(worker).version += 1
        others = self._holders[worker.stage] - {key_of(worker.name)}
        if isinstance(event, BecomeSeed) and self._commits[worker.stage] and others:
            self._broken(
                now, "PP10", f"{worker.name} begins stage {worker.stage} anew, which {len(others)} hold"
            )

    def _given_up(self, worker: Worker, event: object) -> None:
        """What of that which is counted and not offered is as it was no more."""
        life = self._life(worker)
        match event:
            case ContributionEnded():
                left = life.unoffered[event.fragment]
                if left.offered is not None:
                    left.begin, left.offered = left.offered, None
                    left.forgot = event.fate != Fate.APPLIED or event.without_result
            case StateFetched():
                left = life.unoffered[event.fragment]
                left.forgot, left.snapshot = True, None
            case Restored():
                for left in life.unoffered.values():
                    left.forgot, left.snapshot = True, None

    def effect(self, now: float, name: str, effect: Effect) -> None:
        if name != HOST:
            return
        match effect:
            case ActiveTrace():
                if (stage := self._stage_of.get(effect.peer)) is not None:
                    self._holders[stage].add(effect.peer)
            case RemovedTrace():
                for holders in self._holders.values():
                    holders.discard(effect.peer)
            case StageGivenTrace():
                self._given(now, effect)
            case StageMoveTrace():
                if self._holders[effect.stage] <= {effect.peer}:
                    who = f"{effect.peer_name} is moved from stage {effect.stage}"
                    self._broken(now, "PP10", f"{who}, which nobody else holds")
            case RestoredTrace() | StateLostTrace():
                self._went_back(now)
            case Store():
                entry = unpack(effect.entry)
                if isinstance(entry, CommitWritten):
                    self._committed(now, entry.commit())

    def _given(self, now: float, given: StageGivenTrace) -> None:
        before = self._stage_of.get(given.peer)
        if before is not None and before != given.stage and self._holders[before] == {given.peer}:
            self._broken(now, "PP10", f"{given.peer_name} leaves stage {before}, which nobody else holds")
        self._stage_of[given.peer] = given.stage

    def _went_back(self, now: float) -> None:
        """Some stage's state is said to be lost: then nobody holds one that has commits."""
        if all(self._holders[stage] for stage, count in self._commits.items() if count):
            self._broken(now, "PP10", "a state is said to be lost, and every stage has replicas that hold it")

    def _committed(self, now: float, record: Record) -> None:
        self._commits[record.course] += 1
        if record.restores:
            return
        for key in record.members:
            for worker in self._by_key[key]:
                member = worker.node.member
                mine = None if member is None else member.contributions.offered.get(record.fragment)
                if mine is not None and mine.serial == record.serial:
                    self._count(now, worker, record, mine.number)

    def _count(self, now: float, worker: StageWorker, record: Record, number: int) -> None:
        for microbatch in self._life(worker).offers.pop((record.fragment, number), ()):
            what = record.course, record.fragment, microbatch
            if what in self._counted:
                who = f"{self._counted[what]} and {worker.name}"
                self._broken(now, "PP1", f"stage {record.course} counts {microbatch} twice, at {who}")
            self._counted[what] = worker.name

    def activity(self, now: float, worker: Worker, activity: Activity | None) -> None:
        """What a worker does is the loop's affair."""

    def stepped(self, now: float, worker: Worker, steps: int) -> None:
        """Steps are work items here."""

    # -- the end ------------------------------------------------------------------------------

    def finish(self, now: float, engine: Engine, counts: Microbatches) -> None:
        """PP12: what boundaries carried, of a run without faults; what has not settled may have been carried
        in part."""
        given_up = counts.partial + counts.lost
        if not self._faultless or given_up:
            return
        sent = sum(process.sent["stream"] for process in engine.net.peers.values())
        each = counts.stream_bytes
        least = (1 - _BYTES_OFF) * counts.settled * each
        most = (1 + _BYTES_OFF) * counts.fed * each
        if not least <= sent <= most:
            self._broken(
                now, "PP12", f"boundaries carried {sent:,} bytes, and {counts.settled} settled of {each:,}"
            )
