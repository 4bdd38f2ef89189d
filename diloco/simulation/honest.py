"""What must hold for the honest peers of a scenario in which others have a role (X12).

None of them ends or is put out, their records hold the sums of what their members sent, nobody moves one
by more than twelve times a median share, and they commit at 0.8 of the rate at which they do without the
others. A watcher, and one comparison of two runs at the end. With vectors every chunk of every mean is
recomputed; one that is not the sum of its parts can only be its owner's lie: it stays small and ends.
"""

from __future__ import annotations

from itertools import product

import numpy as np

from diloco.simulation.identities import HOST, key_of
from diloco.simulation.report.report import Activity
from diloco.simulation.roles.lying_reducer import LyingReducer
from diloco.simulation.roles.role import Role
from diloco.simulation.vectors import Vector, contribution_of, step_of
from diloco.simulation.worker import Worker
from peers.coordinator.journal import CommitWritten
from peers.protocol.commands import Command
from peers.protocol.events import EntryRefused, IdentitySuperseded, RoundCommitted, RunFinished
from peers.protocol.record import Record
from peers.protocol.traces import (
    CommittedTrace,
    ProvedWrongTrace,
    RefusedTrace,
    RemovedTrace,
    SetAsideTrace,
)
from transport.collectives.reducer import NumpyReducer, Part
from transport.effects import Effect, Store
from transport.frames import unpack

FLOOR = 0.8
"""Share of the rate without the others that must be left."""
_MAX_FORGED = 40
"""Records with a mean that is not the sum of its parts: so many until their owner is found and put out."""
_KEPT_OFFERS = 8


class HonestPeers:
    """Watches the honest peers; ``violations`` are lines."""

    def __init__(self, roles: dict[str, Role], names: list[str]) -> None:
        self.violations: list[str] = []
        self.counted = 0
        """Contributions of honest peers in records."""
        self.weight = 0.0
        """Of these."""
        self.num_forged = 0
        """Records with a chunk that is not the sum of its parts."""
        self.num_set_aside = 0
        self.proved: dict[str, str] = {}
        """Who was put out because it was shown to be wrong, and of what."""
        self.last_commit_s = 0.0
        self._roles = roles
        self._honest = {name: key_of(name) for name in names if name not in roles}
        self._names = {key_of(name): name for name in names}
        self._seen: set[bytes] = set()
        self._over = False
        self._states: dict[int, Vector] = {}
        """Of each fragment, after the last record that was looked at."""

    def rate(self, until_s: float) -> float:
        """Contributions of an honest peer in records, per second."""
        return self.counted / max(1, len(self._honest)) / max(until_s, 1e-9)

    def work(self, until_s: float) -> float:
        """Weight of the contributions of an honest peer in records, per second: a rate of commits alone would
        rise where each has next to no steps behind it."""
        return self.weight / max(1, len(self._honest)) / max(until_s, 1e-9)

    def compare(self, now: float, rate: float, alone: float, what: str = "commit") -> None:
        """A rate with and without those who have a role."""
        if rate < FLOOR * alone:
            self._broken(now, f"honest peers {what} at {rate / alone:.2f} of the rate without the others")

    def _broken(self, now: float, text: str) -> None:
        if len(self.violations) < 20:
            self.violations.append(f"invariant X12 at {now:.3f} s: {text}")

    # -- as a watcher -------------------------------------------------------------------------

    def effect(self, now: float, name: str, effect: Effect) -> None:
        if name != HOST:
            return
        match effect:
            case Store():
                self._stored(now, unpack(effect.entry))
            case RemovedTrace() if effect.peer in self._honest.values() and not self._over:
                who = self._names[effect.peer]
                self._broken(now, f"{who} is off the roster: {effect.reason}")
            case RefusedTrace() if effect.peer in self._honest.values():
                self._broken(now, f"{self._names[effect.peer]} is refused: {effect.detail}")
            case ProvedWrongTrace():
                self.proved[self._names[effect.peer]] = effect.reason
            case SetAsideTrace() if effect.peer in self._honest.values():
                self.num_set_aside += 1
            case CommittedTrace():
                self.last_commit_s = now

    def _stored(self, now: float, entry: object) -> None:
        if isinstance(entry, CommitWritten):
            record = entry.commit()
            honest = set(self._honest.values())
            weights = [w for key, w in zip(record.members, record.weights, strict=True) if key in honest]
            self.counted, self.weight = self.counted + len(weights), self.weight + sum(weights)
            if record.restores:
                self._broken(now, "the run went back to an earlier state")
            return
        about = getattr(entry, "key", b"")
        if type(entry).__name__ in ("PeerKicked", "PeerExpelled", "PlaceGivenBack") and (
            about in self._honest.values()
        ):
            self._broken(now, f"{self._names[about]} is put out for good: {entry}")

    def activity(self, now: float, worker: Worker, activity: Activity | None) -> None:
        if worker.name in self._honest and activity is None and not worker.session.finished:
            self._broken(now, f"{worker.name} ends: {worker.session.dismissal}")

    def event(self, now: float, worker: Worker, event: object) -> None:
        if worker.name not in self._honest:
            return
        match event:
            case IdentitySuperseded() | EntryRefused():
                self._broken(now, f"{worker.name} is told {event}")
            case RunFinished():
                self._over = True
            case RoundCommitted() if isinstance(event.mean, NumpyReducer):
                self._check_sum(now, worker, event.record, event.mean)

    def command(self, now: float, worker: Worker, command: Command) -> None:
        """What honest peers say is theirs."""

    def stepped(self, now: float, worker: Worker, steps: int) -> None:
        """Training on is always right."""

    # -- sums ---------------------------------------------------------------------------------

    def _check_sum(self, now: float, worker: Worker, record: Record, mean: NumpyReducer) -> None:
        """The first honest peer that is handed a record shows its mean."""
        if record.hash() in self._seen:
            return
        self._seen.add(record.hash())
        state = self._states.get(record.fragment, np.zeros(len(mean.output), dtype=np.float32))
        self._states[record.fragment] = step_of(state, mean.output)
        parts = [self._candidates(key, record.fragment, state) for key in record.members]
        total = sum(record.weights)
        shares = [weight / total for weight in record.weights]
        wrong: set[int] = set(range(record.num_chunks(len(state))))
        for chosen in product(*parts):
            wrong &= _chunks_that_differ(chosen, shares, record, mean)
            if not wrong:
                self._check_influence(now, record, chosen)
                return
        if all(key in self._honest.values() for key in record.members):
            self._broken(now, f"record {record.index} is not the mean of its members, who are all honest")
            return
        self.num_forged += 1
        largest = max(float(np.linalg.norm(part)) for options in parts for part in options[:1])
        if float(np.linalg.norm(mean.output)) > 1.1 * 12 * largest:
            self._broken(now, f"record {record.index} has a mean far above any honest contribution")
        if self.num_forged == _MAX_FORGED:
            self._broken(now, f"{_MAX_FORGED} records are not the mean of their members")

    def _check_influence(self, now: float, record: Record, contributions: tuple[Vector, ...]) -> None:
        """From four members on nobody moves a mean by more than twelve times the share of a median one."""
        if len(record.members) < 4:
            return
        norms = [float(np.linalg.norm(each.astype(np.float64))) for each in contributions]
        middle = (len(norms) - 1) // 2
        most = 12.1 * sorted(record.weights)[middle] * sorted(norms)[middle]
        for key, weight, norm in zip(record.members, record.weights, norms, strict=True):
            if weight * norm > most:
                times = 12.1 * weight * norm / most
                self._broken(now, f"{self._names[key]} moves record {record.index} {times:.3g} times too far")

    def _candidates(self, key: bytes, fragment: int, state: Vector) -> list[Vector]:
        name = self._names[key]
        true = [contribution_of(name, fragment, state)]
        if name not in self._roles:
            return true
        sent = [each.sent for each in self._roles[name].offered if isinstance(each, LyingReducer)]
        return [*true, *(s for s in sent[-_KEPT_OFFERS:] if len(s) == len(state))]


def _chunks_that_differ(
    contributions: tuple[Vector, ...], shares: list[float], record: Record, mean: NumpyReducer
) -> set[int]:
    reducer = NumpyReducer(len(mean.output))
    reducer.begin(record.chunk_elements, len(contributions))
    found, step = set(), record.chunk_elements
    for chunk in range(record.num_chunks(len(mean.output))):
        at = slice(chunk * step, (chunk + 1) * step)
        parts = [
            Part(i, share, values[at].tobytes())
            for i, (share, values) in enumerate(zip(shares, contributions, strict=True))
        ]
        if bytes(reducer.reduce(chunk, parts)) != mean.output[at].tobytes():  # type: ignore[arg-type]
            found.add(chunk)
    return found
