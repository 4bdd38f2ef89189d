"""The invariants of a swarm, checked from outside while a scenario runs.

A watcher: it sees what nodes store and what workers are told, and recomputes from that alone what must be
true. A violation names the number of `docs/invariants.md`: S1 equal bits, S2 one history over restarts, S3
every contribution once with its weight, S4 one fate, which is "applied" if and only if a record counts it, S8
nobody contributes before it held the shared state, S9 a joiner does not define the state anew, L1 enough
members in a record and progress (which the runner judges), L2 bounded waits, and those only where the method
says so. Rubbish on the wire is not a matter of scenarios: `tests/hostile` has it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

from diloco.methods.spec import Method
from diloco.simulation.identities import HOST
from diloco.simulation.report.report import Activity
from diloco.simulation.worker import Worker
from peers.coordinator.journal import CommitWritten, RunBegan
from peers.coordinator.rules import Rules
from peers.protocol.commands import (
    Command,
    ConfirmApplied,
    ConfirmCaptured,
    ConfirmLoaded,
    Offer,
    Swap,
    TakeBack,
)
from peers.protocol.events import (
    BecomeSeed,
    ContributionEnded,
    Fate,
    RoundAborted,
    RoundCommitted,
    RoundOpened,
    StateFetched,
    SwapFailed,
    Swapped,
)
from peers.protocol.record import Record
from transport.effects import Effect, Store
from transport.frames import unpack
from transport.guarded import InputLostTrace

_MAX_VIOLATIONS = 20


@dataclass(slots=True)
class _Life:
    """What one process of a peer did."""

    offered: dict[int, int] = field(default_factory=dict)
    """By fragment: the inner steps it had taken when it offered what is on its way."""
    serials: dict[int, int] = field(default_factory=dict)
    """By fragment: the round that has what it offered last; 0 for none."""
    ended: set[int] = field(default_factory=set)
    """Contributions whose fate it was told."""
    heads: set[bytes] = field(default_factory=set)
    holds_state: bool = False
    waits_since: float | None = None


class Invariants:
    """Collects violations, each a line."""

    def __init__(
        self, method: Method, rules: Rules, max_wait_s: float, key_of: Callable[[str], bytes]
    ) -> None:
        self.violations: list[str] = []
        self.with_role: frozenset[str] = frozenset()
        """Peers whose own words about themselves prove nothing."""
        self.last_commit_s = 0.0
        self.num_commits = 0
        self._method = method
        self._rules = rules
        self._max_wait_s = max_wait_s
        self._key_of = key_of
        self._lives: dict[tuple[str, int], _Life] = defaultdict(_Life)
        self._states: dict[tuple[bytes, int], bytes] = {}
        self._weights: dict[tuple[bytes, int], set[float]] = defaultdict(set)
        """By peer and fragment: the weights of everything that it ever offered."""
        self._heads: dict[int, list[bytes]] = defaultdict(list)
        """By course: its beginning, and the hash of each record."""
        self._counting: dict[int, Record] = {}
        """Records that count contributions, by the serial of their round."""
        self._told_applied: set[tuple[bytes, bytes]] = set()
        """Peers, and the heads of records in which they were told to count."""
        self._told_otherwise: dict[tuple[bytes, int], Fate] = {}
        """By peer and serial: the fate of what was in that round, if it is not applied."""
        self._undone: set[bytes] = set()
        """Heads from which the swarm went back to an earlier state."""
        self._index: dict[int, int] = defaultdict(int)
        """By course, its last record."""

    def _broken(self, now: float, rule: str, text: str) -> None:
        if len(self.violations) < _MAX_VIOLATIONS:
            self.violations.append(f"invariant {rule} at {now:.3f} s: {text}")

    # -- as a watcher -------------------------------------------------------------------------

    def effect(self, now: float, name: str, effect: Effect) -> None:
        if isinstance(effect, InputLostTrace):
            self._broken(now, "X2", f"an input failed at {name}: {effect.error}")
        if name != HOST:
            return
        if isinstance(effect, Store):
            self._stored(now, effect.entry)

    def stepped(self, now: float, worker: Worker, steps: int) -> None:
        """Training on is always right."""

    def activity(self, now: float, worker: Worker, activity: Activity | None) -> None:
        if worker.name in self.with_role:
            return
        life = self._life(worker)
        if life.waits_since is not None and activity != "frozen":
            waited = now - life.waits_since
            if waited > self._max_wait_s:
                self._broken(now, "L2", f"{worker.name} waited {waited:.1f} s for the network")
            life.waits_since = None
        if activity == "wait":
            life.waits_since = now
            follows = worker.session.loop.follows(now)
            if not follows and not any(self._is_late(worker, steps) for steps in life.offered.values()):
                self._broken(
                    now, "L2", f"{worker.name} waits, and nothing of its own is later than its delay"
                )

    def event(self, now: float, worker: Worker, event: object) -> None:
        if worker.name in self.with_role:
            return
        life = self._life(worker)
        if isinstance(event, (RoundOpened, RoundAborted)) and life.waits_since is not None:
            life.waits_since = now  # it is waited for something else from here on
        match event:
            case BecomeSeed():
                # The first seed may die before anyone has its state: then there is another.
                if self._index[worker.stage] and not self._method.gossips:
                    self._broken(now, "S9", f"{worker.name} seeds a run that has a state")
            case RoundOpened():
                life.serials[event.fragment] = event.serial
            case StateFetched():
                life.offered.pop(event.fragment, None)
            case RoundCommitted():
                self._committed(now, worker, life, event)
            case ContributionEnded():
                self._ended(now, worker, life, event)
            case Swapped() | SwapFailed():
                life.offered.pop(event.fragment, None)
                self._moved(now)

    def command(self, now: float, worker: Worker, command: Command) -> None:
        if worker.name in self.with_role:
            return
        life = self._life(worker)
        match command:
            case Offer() | Swap():
                if not life.holds_state:
                    self._broken(now, "S8", f"{worker.name} contributes and never held the shared state")
                # The second exchange of an outer step is about the snapshot of the first.
                since = worker.session.loop.progress[command.fragment].steps_since_offer
                life.offered[command.fragment] = worker.session.steps - since
                life.serials[command.fragment] = 0
                weight = command.weight if isinstance(command, Offer) else 1
                self._weights[self._key_of(worker.name), command.fragment].add(float(weight))
            case TakeBack():
                pass  # it may be refused; being late is judged by what is offered
            case ConfirmCaptured():
                life.holds_state = True
            case ConfirmLoaded():
                life.holds_state = True
                self._holds(now, worker, command.fragment, command.version, command.check)
            case ConfirmApplied():
                self._holds(now, worker, command.record.fragment, command.record.hash(), command.check)

    # -- inside -------------------------------------------------------------------------------

    def _life(self, worker: Worker) -> _Life:
        return self._lives[worker.name, worker.life]

    def _is_late(self, worker: Worker, offered_at: int) -> bool:
        return worker.session.steps - offered_at >= min(self._method.delay, self._method.sync_every)

    def _stored(self, now: float, entry: bytes) -> None:
        message = unpack(entry)
        if isinstance(message, RunBegan):
            if self._index[message.course]:
                self._broken(now, "S2", "the run began a second time")
            self._heads[message.course] = [message.head]
        if not isinstance(message, CommitWritten):
            return
        record = message.commit()
        heads, course = self._heads[record.course], record.course
        if heads[-1:] != [record.parent] or record.index != self._index[course] + 1:
            self._broken(now, "S2", f"record {record.index} does not follow record {self._index[course]}")
        self._moved(now)
        if record.restores and record.result in heads:
            self._undone.update(heads[heads.index(record.result) + 1 :])
        heads.append(record.hash())
        self._index[course] = record.index
        if not record.restores:
            self._counted(now, record)

    def _counted(self, now: float, record: Record) -> None:
        self._counting[record.serial] = record
        if len(record.members) < self._rules.fewest:
            self._broken(now, "L1", f"record {record.index} has {len(record.members)} members")
        if len(set(record.members)) < len(record.members):
            self._broken(now, "S3", f"record {record.index} counts somebody twice")
        with_role = {self._key_of(name) for name in self.with_role}
        for key, weight in zip(record.members, record.weights, strict=True):
            if key in with_role:
                continue
            if not 0.0 < weight <= max(self._weights[key, record.fragment], default=0.0):
                self._broken(now, "S3", f"record {record.index} has a weight above what was offered")
            fate = self._told_otherwise.get((key, record.serial))
            if fate is not None:
                self._broken(now, "S4", f"record {record.index} counts what its author was told is {fate}")

    def _moved(self, now: float) -> None:
        self.last_commit_s = now
        self.num_commits += 1

    def _committed(self, now: float, worker: Worker, life: _Life, event: RoundCommitted) -> None:
        head = event.record.hash()
        if head in life.heads:
            self._broken(now, "S3", f"{worker.name} was handed record {event.record.index} twice")
        life.heads.add(head)
        life.offered.pop(event.record.fragment, None)
        if event.number is not None and self._key_of(worker.name) not in event.record.members:
            self._broken(now, "S4", f"{worker.name} is told that it counts in record {event.record.index}")

    def _ended(self, now: float, worker: Worker, life: _Life, event: ContributionEnded) -> None:
        life.offered.pop(event.fragment, None)
        if event.number in life.ended:
            self._broken(now, "S4", f"contribution {event.number} of {worker.name} has two fates")
        elif not self._method.gossips:
            self._check_fate(now, worker, life.serials.get(event.fragment, 0), event)
        life.ended.add(event.number)

    def _check_fate(self, now: float, worker: Worker, serial: int, event: ContributionEnded) -> None:
        """A fate against the records: the round that had the contribution tells which one would count it."""
        key, what = self._key_of(worker.name), f"contribution {event.number} of {worker.name}"
        record = self._counting.get(serial)
        head = record.hash() if record is not None and key in record.members else None
        if event.fate == Fate.APPLIED:
            if head is None or head.hex() != event.reason or (key, head) in self._told_applied:
                self._broken(now, "S4", f"{what} is told applied, and no record counts it")
            else:
                self._told_applied.add((key, head))
        elif head is not None and not (event.fate == Fate.SUPERSEDED and head in self._undone):
            self._broken(now, "S4", f"{what} is told {event.fate}, and a record counts it")
        elif serial:
            self._told_otherwise[key, serial] = event.fate

    def _holds(self, now: float, worker: Worker, fragment: int, version: bytes, check: bytes) -> None:
        expected = self._states.setdefault((version, fragment), check)
        if expected != check and not self._method.gossips:
            self._broken(now, "S1", f"{worker.name} holds other bits than others at the same commit")
