"""Checkers of a model in several stages: those of one course for each, and what must hold between them.

PP9: a record, a state or a link of one stage is never another one's. PP10: a stage that has the state of its
newest commit keeps it, whoever dies, comes back or is told a stage.
"""

from __future__ import annotations

from peers.coordinator.coordinator import Coordinator
from peers.coordinator.journal import CommitWritten, StageGiven
from peers.protocol.commands import ConfirmApplied, ConfirmLoaded
from peers.protocol.events import RoundCommitted, RoundOpened
from peers.protocol.record import Record
from tests.sim.checkers import Checkers
from tests.sim.stream_checks import StreamCheckers
from tests.sim.violation import Violation
from tests.sim.world import Loaded, Worker, World
from transport.effects import Effect, Store
from transport.frames import unpack


class Apart:
    """PP9 and PP10, over all stages of one world."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.courses: list[Checkers] = []
        world.notes.append(self.note)
        world.observers.append(self.observe)

    # -- PP9 ----------------------------------------------------------------------------------

    def observe(self, now: float, key: bytes, effect: Effect) -> None:
        if isinstance(effect, Store):
            entry = unpack(effect.entry)
            if isinstance(entry, CommitWritten):
                self._committed(entry.commit())
            elif isinstance(entry, StageGiven):
                self._given(self.world.peer_names[entry.key], entry.stage)

    def _stage_of(self, key: bytes) -> int | None:
        return self.world.stage_of.get(self.world.peer_names.get(key, -1))

    def _may_have_link(self, one: int, other: int) -> bool:
        """Stages that stream have links to those next to them and the next but one, and the first to the
        last."""
        near = one == other or (self.world.streams is not None and abs(one - other) <= 2)
        return near or (self.world.streams is not None and {one, other} == {0, self.world.stages - 1})

    def sweep(self) -> None:
        """Nobody has a link to a worker of a stage with which its own exchanges nothing."""
        for worker in self.world.processes():
            for key in worker.node.links.by_peer:
                stage = self._stage_of(key)
                if stage is not None and not self._may_have_link(stage, worker.stage):
                    other = self.world.peer_names[key]
                    raise Violation(
                        "PP9", f"worker {worker.index} has a link to worker {other} of another stage"
                    )

    def _committed(self, record: Record) -> None:
        strange = [self.world.peer_names[k] for k in record.members if self._stage_of(k) != record.course]
        if strange:
            raise Violation(
                "PP9", f"record {record.index} of stage {record.course} counts workers {strange} of others"
            )
        if record.restores:
            self._restored(record)

    def note(self, now: float, worker: Worker, seen: object) -> None:
        match seen:
            case RoundCommitted():
                self._check_stage(worker, "a record", seen.record.course)
            case RoundOpened():
                for key in seen.members:
                    self._check_stage(worker, "a round", self._stage_of(key))
            case ConfirmApplied():
                self._check_version(worker, seen.record.fragment, seen.record.hash())
            case ConfirmLoaded():
                self._check_version(worker, seen.fragment, seen.version)
            case Loaded(held) if held is not None:
                for fragment, version in enumerate(held.versions):
                    self._check_version(worker, fragment, version)

    def _check_stage(self, worker: Worker, what: str, stage: int | None) -> None:
        if stage != worker.stage:
            raise Violation("PP9", f"worker {worker.index} is handed {what} of another stage")

    def _check_version(self, worker: Worker, fragment: int, version: bytes) -> None:
        for each in self.courses:
            is_there = (version, fragment) in each.states
            is_here = (version, fragment) in self.courses[worker.stage].states
            if is_there and not is_here:
                raise Violation("PP9", f"worker {worker.index} holds a state of stage {each.course}")

    # -- PP10 ---------------------------------------------------------------------------------

    def _given(self, index: int, stage: int) -> None:
        """Nobody leaves a stage to which nobody else could hand out its state."""
        before = self.world.stage_of.get(index)
        if before is None or before == stage or not self.courses[before].records:
            return
        others = {i for i, at in self.world.stage_of.items() if at == before} - {index}
        if not any(self._has_state(each) for each in others):
            raise Violation("PP10", f"worker {index} is told another stage, and stage {before} has no other")

    def _has_state(self, index: int) -> bool:
        worker = self.world.workers[index]
        member = worker.node.member
        holds = member is not None and member.versions.holds_state and worker.process.alive
        disk = self.world.disks.get(index)
        return holds or (disk is not None and disk in self.world.disks_with_state(worker.stage))

    def _restored(self, record: Record) -> None:
        """No stage goes back behind what a member of it that is here holds."""
        coordinator = self.world.host.coordinator
        assert isinstance(coordinator, Coordinator)
        chain = coordinator.state.courses[record.course].chain
        here = coordinator.roster.entered_in(record.course)
        held = {chain.index_of(each.head) for each in here if each.holds_state}
        stood = {0} | {each.index for each in self.courses[record.course].standing}
        if max(held & stood, default=-1) > chain.index_of(record.result):
            raise Violation("PP10", f"stage {record.course} went back behind what a member of it holds")

    def check_kept(self) -> None:
        """At the end: of each stage that has commits somebody holds the newest one, or is coming to it."""
        for each in self.courses:
            newest = {record.hash() for record in each.records[-1 - len(each.sizes) :]}
            heads = [
                worker.node.member.versions.head
                for worker in each.processes()
                if worker.node.member is not None and worker.node.member.versions.holds_state
            ]
            if newest and not newest.intersection(heads):
                raise Violation("PP10", f"nobody holds the newest commit of stage {each.course}")


class StageCheckers:
    """All checkers of one world, whatever its number of stages."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.apart = Apart(world) if world.stages > 1 else None
        self.courses = [Checkers(world, course) for course in range(world.stages)]
        self.streams = StreamCheckers(world) if world.streams is not None else None
        if self.apart is not None:
            self.apart.courses = self.courses

    @property
    def num_records(self) -> int:
        """Commits of all stages."""
        return sum(len(each.records) for each in self.courses)

    @property
    def num_given_up(self) -> int:
        """Commits of all stages that were undone because no disk led to them."""
        return sum(each.durable.num_given_up for each in self.courses)

    def sweep(self) -> None:
        for each in self.courses:
            each.sweep()
        if self.apart is not None:
            self.apart.sweep()
        if self.streams is not None:
            self.streams.sweep()

    def check_end(self) -> None:
        """What must hold when all is quiet again."""
        for each in self.courses:
            each.check_ledger()
            each.check_clones()
        if self.apart is not None:
            self.apart.check_kept()
