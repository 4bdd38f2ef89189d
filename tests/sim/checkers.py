"""Checkers: they see effects and states of all peers, never call cores, and raise `Violation`.

Each recomputes from the journal's records alone what must be true: the chain (S2), who is in a mean
with which weight and every bit of it (S3, S6, S12), the state that follows (S1, S5, S9), and what
became of every contribution (S4, in `fates`), and which of two clones counts (S13). Numbers are those of
`docs/invariants.md`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product

import numpy as np

from peers.coordinator.influence import FEWEST_JUDGES
from peers.coordinator.journal import (
    CommitWritten,
    PeerInvited,
    RunBegan,
    StateCovered,
    StateSaved,
    TermBegan,
)
from peers.coordinator.spot_checks import NOT_SHOWN, WRONG_MEAN
from peers.protocol.commands import ConfirmApplied, ConfirmCaptured, ConfirmLoaded, Offer, TakeBack
from peers.protocol.events import BecomeSeed, ContributionEnded, Fate, IdentitySuperseded, RoundCommitted
from peers.protocol.record import GENESIS, Record, genesis_head
from peers.protocol.traces import PoisonedTrace, ProvedWrongTrace
from tests.sim.doors import HOST, STRANGER, key_of
from tests.sim.durable import Durable
from tests.sim.fates import Contribution, Fates
from tests.sim.trainer import Vector, contribution_of, digests_of, initial_state, outer_step
from tests.sim.violation import Violation
from tests.sim.world import Answered, Loaded, Worker, World
from transport.digests import digest_of, tree_digest
from transport.effects import Effect, Store, Trace
from transport.frames import unpack


@dataclass
class Checkers:
    """All of them over one world."""

    world: World
    course: int = 0
    """The stage whose course they look at."""
    records: list[Record] = field(default_factory=list)
    states: dict[tuple[bytes, int], Vector] = field(default_factory=dict)
    """Expected state by version and fragment."""
    versions: dict[bytes, list[bytes]] = field(default_factory=dict)
    """Versions of all fragments by head."""
    counted: dict[bytes, dict[int, int]] = field(default_factory=dict)
    """By head: the life of each worker whose contribution is in that record."""
    newest_counted: Counter[int] = field(default_factory=Counter)
    applied: dict[tuple[int, int], list[bytes]] = field(default_factory=dict)
    """Heads that a life went through."""
    terms: list[int] = field(default_factory=list)
    most_in_flight: int = 0
    aborts: int = 0
    seeds: int = 0
    root: bytes = GENESIS

    def __post_init__(self) -> None:
        self.fates = Fates(self.world.hostile)
        self.sizes = self.world.sizes_of(self.course)
        self.durable = Durable(self.world, self.course)
        self.standing: list[Record] = []
        """Of the records those that no restoring one has undone."""
        self.world.notes.append(self.note)
        self.world.observers.append(self.observe)
        for entry in self.world.net.journal(key_of(HOST)):
            self._stored(entry)

    # -- what is seen -------------------------------------------------------------------------

    def observe(self, now: float, key: bytes, effect: Effect) -> None:
        if isinstance(effect, Trace):
            self.world.seen[effect.name] += self.course == 0
            if isinstance(effect, ProvedWrongTrace):
                self._put_out(self.world.peer_names[effect.peer], effect.reason)
            if isinstance(effect, PoisonedTrace) and effect.reason in (WRONG_MEAN, NOT_SHOWN):
                self._distrusted([self.world.peer_names[peer] for peer in effect.peers], effect.reason)
        elif isinstance(effect, Store):
            self._stored(effect.entry)

    def _put_out(self, index: int, reason: str) -> None:
        """X10: nobody is put out who did nothing wrong."""
        self.durable.put_out.add(index)
        if index not in self.world.poisoned | self.world.hostile:
            raise Violation("X10", f"worker {index} was put out: {reason}")

    def _distrusted(self, owners: list[int], reason: str) -> None:
        """S3: a spot check speaks ill of nobody who did nothing wrong."""
        if not self.world.hostile.issuperset(owners):
            raise Violation("S3", f"workers {owners} are distrusted: {reason}")

    def processes(self) -> list[Worker]:
        """Every process of a worker of this stage that lives."""
        return [worker for worker in self.world.processes() if worker.stage == self.course]

    def note(self, now: float, worker: Worker, seen: object) -> None:
        if worker.stage != self.course:
            return
        self.durable.note(worker, seen)
        match seen:
            case BecomeSeed():
                self.seeds += 1
            case ConfirmCaptured():
                self._captured(worker, seen)
            case Answered(Offer() as offer, True):
                self._offered(worker, offer)
            case Answered(TakeBack(fragment), True):
                self.fates.withdrawn(worker.index, worker.life, fragment)
            case ContributionEnded():
                self._ended(worker, seen)
            case RoundCommitted():
                self._committed(worker, seen)
            case IdentitySuperseded():
                self._superseded(worker)
            case ConfirmApplied() if worker.index not in self.world.hostile:
                self._check_state(worker, seen.record.fragment, seen.record.hash())
            case ConfirmLoaded():
                self._check_state(worker, seen.fragment, seen.version)
            case Loaded(held) if held is not None:
                for fragment, version in enumerate(held.versions):
                    self._check_state(worker, fragment, version)

    # -- S2: one chain ------------------------------------------------------------------------

    def _stored(self, entry: bytes) -> None:
        message = unpack(entry)
        if isinstance(message, TermBegan):
            if self.terms and message.term <= self.terms[-1]:
                raise Violation("S2", f"term {message.term} after {self.terms[-1]}")
            self.terms.append(message.term)
            self.newest_counted.clear()  # a host that restarts has not met anybody's newer process
        if isinstance(message, StateCovered) and message.course == self.course:
            self.durable.covered.append(message.head)
        if isinstance(message, StateSaved) and message.course == self.course:
            self.durable.noted[self.world.peer_names[message.key]] = message
        if isinstance(message, RunBegan) and message.course == self.course:
            if self.records:
                raise Violation("S2", "the run began twice")
            self.root = message.head
            self.durable.root_changed()
        if isinstance(message, PeerInvited) and message.key not in self.world.peer_names:
            raise Violation("X1", f"{message.name} is let in, and is nobody whom we know")
        if not isinstance(message, CommitWritten):
            return
        record = message.commit()
        if record.course != self.course:
            return
        head = self.records[-1].hash() if self.records else self.root
        if record.parent != head or record.index != len(self.records) + 1:
            raise Violation("S2", f"record {record.index} does not follow the head")
        self._expect(record)
        self.records.append(record)
        self.standing.append(record)

    def _expect(self, record: Record) -> None:
        versions = list(self.versions[record.parent])
        if record.restores:
            for fragment, version in enumerate(self.versions[record.result]):
                self._copy_state(fragment, version, record.hash())
            self.versions[record.hash()] = [record.hash()] * len(versions)
            heads = [self.root, *(each.hash() for each in self.records)]
            self.fates.went_back(heads[heads.index(record.result) + 1 :])
            if self.world.with_disks:
                self.durable.went_back(self.standing, self.root, heads.index(record.result))
            self.standing = [each for each in self.standing if each.index <= heads.index(record.result)]
            return
        base = versions[record.fragment]
        self._check_members(record, base)
        mean = self.expected_mean(record, base)
        before = self.states.get((base, record.fragment))
        if before is None:
            raise Violation("S1", f"record {record.index} builds on a state that nobody was seen to hold")
        self.states[record.hash(), record.fragment] = outer_step(before, mean)
        versions[record.fragment] = record.hash()
        self.versions[record.hash()] = versions

    def _copy_state(self, fragment: int, version: bytes, new: bytes) -> None:
        self.states[new, fragment] = self.states[version, fragment]

    # -- S3, S6, S12: who is in a mean, with which weight -------------------------------------

    def expected_mean(self, record: Record, base: bytes) -> Vector:
        """Every bit of the mean, from the record and what was offered; its digest must be the record's."""
        indices = [self.world.peer_names[key] for key in record.members]
        total = np.float64(sum(record.weights))
        step = record.chunk_elements
        for lives in self._possible_lives(record, base):
            mean = np.zeros(self.sizes[record.fragment], dtype=np.float32)
            for index, life, weight in zip(indices, lives, record.weights, strict=True):
                values = contribution_of(index, life, base, record.fragment, len(mean))
                if index in self.world.exploded:
                    values *= np.float32(1e6)
                mean += values * np.float32(weight / total)
            chunks = [mean[i : i + step].tobytes() for i in range(0, len(mean), step)]
            if tree_digest([digest_of(chunk) for chunk in chunks]) == record.result:
                self._count(record, base, dict(zip(indices, lives, strict=True)))
                return mean
        raise Violation("S3", f"record {record.index} is not the weighted mean of {indices}")

    def _possible_lives(self, record: Record, base: bytes) -> Iterator[tuple[int, ...]]:
        """Which life of each member may have contributed: one, unless clones offered as much."""
        choices = []
        for key, weight in zip(record.members, record.weights, strict=True):
            index = self.world.peer_names[key]
            offers = self.fates.offers[index, record.fragment, base]
            lives = {c.life for c in offers if 0.0 < weight <= c.weight or index in self.world.hostile}
            choices.append(sorted(lives, reverse=True))
        return product(*choices)

    def _count(self, record: Record, base: bytes, lives: dict[int, int]) -> None:
        """S13: of two clones at most one is in a record, and none of them after a newer one."""
        if len(lives) < len(record.members):
            raise Violation("S13", f"record {record.index} counts somebody twice")
        for index, life in lives.items():
            if life < self.newest_counted[index]:
                raise Violation(
                    "S13", f"record {record.index} counts worker {index}, which has a newer clone"
                )
            self.newest_counted[index] = life
        self.counted[record.hash()] = lives
        if self.world.with_disks:
            self.durable.committed(record, lives)
        self.fates.counted(record, base, lives)

    def _check_members(self, record: Record, base: bytes) -> None:
        if len(record.members) < self.world.min_peers:
            raise Violation("L1", f"record {record.index} has {len(record.members)} members")
        for key, weight in zip(record.members, record.weights, strict=True):
            index = self.world.peer_names[key]
            if index in self.world.poisoned:
                raise Violation("S12", f"record {record.index} contains worker {index}, which sends NaN")
            if index in self.world.exploded and len(record.members) >= FEWEST_JUDGES:
                raise Violation("S12", f"record {record.index} contains worker {index}, which diverged")
            offers = self.fates.offers[index, record.fragment, base]
            most = max((c.weight for c in offers), default=0)
            if index not in self.world.hostile and not 0.0 < weight <= most:
                raise Violation("S8", f"record {record.index} counts worker {index} with an unknown weight")

    # -- S1, S5, S9: the same state everywhere, moved by records only -------------------------

    def _captured(self, worker: Worker, seen: ConfirmCaptured) -> None:
        exchanges = self.world.exchanges
        states = [initial_state(worker.index, f, n, exchanges) for f, n in enumerate(self.sizes)]
        head = genesis_head([expected_digest(s, self.world.limits.payload_bytes) for s in states])
        self.versions[head] = [head] * len(states)
        self.states.update({(head, fragment): state for fragment, state in enumerate(states)})

    def _check_state(self, worker: Worker, fragment: int, version: bytes) -> None:
        expected = self.states.get((version, fragment))
        held = worker.replica.states[fragment]
        if expected is None:
            raise Violation("S1", f"worker {worker.index} holds a version that no record made")
        if held.tobytes() != expected.tobytes():
            raise Violation("S1", f"worker {worker.index} holds another state than its version's")

    def check_all_states(self) -> None:
        """Sweep: whoever claims a version holds exactly it."""
        for worker in self.processes():
            member = worker.node.member
            if (
                worker.index in self.world.hostile
                or member is None
                or not member.versions.holds_state
                or member.applying
            ):
                continue
            for fragment in range(len(self.sizes)):
                self._check_state(worker, fragment, worker.replica.bases[fragment])

    # -- S4: every contribution has one fate --------------------------------------------------

    def _offered(self, worker: Worker, offer: Offer) -> None:
        member = worker.node.member
        assert member is not None
        if worker.loop.superseded:
            raise Violation("S13", f"worker {worker.index} was told to stop and contributes")
        base = member.versions.base(offer.fragment)
        offered = Contribution(worker.index, worker.life, offer.tokens, offer.weight, base, offer.fragment)
        self.fates.offered(member.contributions.num_offered, offered)

    def _ended(self, worker: Worker, seen: ContributionEnded) -> None:
        self.fates.ended(worker.index, worker.life, seen.number, seen.fate, seen.reason)
        if seen.fate == Fate.APPLIED:
            self._check_counted(worker, bytes.fromhex(seen.reason))

    def _committed(self, worker: Worker, seen: RoundCommitted) -> None:
        heads = self.applied.setdefault((worker.index, worker.life), [])
        head = seen.record.hash()
        if head not in self.versions:
            raise Violation("S2", f"worker {worker.index} is handed a record that the host did not store")
        if head in heads:
            raise Violation("S3", f"worker {worker.index} was handed record {seen.record.index} twice")
        heads.append(head)
        counted = worker.key in seen.record.members
        if seen.number is not None and not counted:
            raise Violation("S4", f"worker {worker.index} is told that it counts, and it does not")
        if seen.number is not None:
            self._check_counted(worker, head)

    def _check_counted(self, worker: Worker, head: bytes) -> None:
        counted = self.counted.get(head, {}).get(worker.index)
        if counted != worker.life and worker.index not in self.world.hostile:
            raise Violation("S13", f"worker {worker.index} is told that it counts, and its clone does")

    def check_ledger(self) -> None:
        """At the end: what a living worker trained is applied, has a reason, or is still offered."""
        for worker in self.processes():
            index, member = worker.index, worker.node.member
            assert member is not None
            ledger = member.contributions
            ended = sum(ledger.tokens_by_fate.values())
            offered = sum(c.tokens for c in ledger.offered.values())
            if ledger.tokens_trained != ended + offered:
                raise Violation(
                    "S4", f"worker {index} offered {ledger.tokens_trained}, ended {ended}, open {offered}"
                )
            fragments = len(self.sizes)
            loop = worker.loop
            told = [p.offered and not worker.replica.sketches(f) for f, p in enumerate(loop.progress)]
            pending = sum(
                p.tokens - (p.offered_tokens if with_tokens else 0)
                for p, with_tokens in zip(loop.progress, told, strict=True)
            )
            known = ledger.tokens_trained + loop.tokens_unoffered + loop.setbacks.tokens + pending
            if known != worker.tokens * fragments:
                raise Violation("S4", f"worker {index} trained {worker.tokens} tokens, {known} are known of")

    # -- S13: of several processes with one identity the newest goes on --------------------------

    def _superseded(self, worker: Worker) -> None:
        self.world.seen["superseded"] += 1
        is_newest = worker is self.world.workers[worker.index] and worker.index not in self.world.building
        if is_newest:
            raise Violation("S13", f"worker {worker.index} is told to stop, and no newer process has its key")

    def check_clones(self) -> None:
        """At the end: whoever has a newer clone was told."""
        for worker in self.processes():
            if worker is not self.world.workers[worker.index] and not worker.loop.superseded:
                raise Violation("S13", f"life {worker.life} of worker {worker.index} was never told to stop")

    # -- X1: strangers ------------------------------------------------------------------------

    def check_strangers(self) -> None:
        """Nobody let a stranger in, answered one, or so much as knows of one."""
        if self.world.let_in or any(stranger.answered for stranger in self.world.strangers):
            raise Violation("X1", "a stranger was let in")
        for node in [self.world.host, *(worker.node for worker in self.world.processes())]:
            known = node.coordinator.roster.entries if node.coordinator else {}
            members = node.member.membership.others if node.member else {}
            if any(key_of(STRANGER) in table for table in (known, members, node.links.by_peer)):
                raise Violation("X1", "a stranger is in somebody's view")

    # -- R1: memory ---------------------------------------------------------------------------

    def check_memory(self) -> None:
        for worker in self.processes():
            for link in worker.node.links.by_peer.values():
                held = link.streams.kept().bulk_out_cost
                if held > self.world.limits.largest_window:
                    raise Violation("R1", f"worker {worker.index} holds {held} bytes for one peer")

    def sweep(self) -> None:
        self.check_all_states()
        self.check_memory()
        self.check_strangers()
        self.durable.sweep()


def expected_digest(state: Vector, piece_bytes: int) -> bytes:
    return tree_digest(digests_of(state, piece_bytes))
