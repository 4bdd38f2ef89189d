"""Real models trained by a simulated swarm whose links cost nothing: so that only the method is seen.

Each worker takes a given number of inner steps of one virtual second each, on the `engine` that runs
everything else. Refuses to know what is trained: a `Trainer` takes a step and knows the worker's numbers.
"""

from __future__ import annotations

from collections.abc import Callable

from diloco.settings import RunSettings
from diloco.simulation.engine import Engine
from diloco.simulation.pace import Peer
from diloco.simulation.report.report import Activity
from diloco.simulation.worker import Trainer, Worker
from peers.protocol.commands import Command
from peers.protocol.events import RoundCommitted, SwapFailed, Swapped
from transport.effects import Effect
from transport.simnet.links import Access

FAST = Access(up=1e12, down=1e12, latency_s=1e-6, jitter=0.0)
"""A link that costs nothing against a step."""


class SimulatedTraining:
    """A host and one worker for each of ``trainers``; each takes ``num_steps`` inner steps of
    ``tokens_per_step`` tokens. ``on_step(index, worker)`` is called after each."""

    def __init__(
        self,
        settings: RunSettings,
        trainers: list[Trainer],
        num_steps: int,
        *,
        tokens_per_step: int = 1,
        on_step: Callable[[int, Worker], None] | None = None,
        access: Access = FAST,
    ) -> None:
        names = [f"w{index}" for index in range(len(trainers))]
        self.exchanges = dict.fromkeys(names, 0)
        """Commits or swaps that each worker saw."""
        self._index = {name: index for index, name in enumerate(names)}
        self._num_steps = num_steps
        self._on_step = on_step
        self.engine = Engine(
            settings,
            [Peer(name, access, tokens_per_step=tokens_per_step) for name in names],
            lambda peer, life: trainers[self._index[peer.name]],
            host=access,
            num_steps=num_steps,
            watchers=[self],
        )
        self.engine.begin()

    @property
    def workers(self) -> list[Worker]:
        """In the order of their trainers."""
        return [self.engine.workers[name] for name in self._index]

    def run(self) -> None:
        """Until every worker has taken its steps and every exchange has ended. Raises what stops a worker, as
        `TrainingDiverged`, and RuntimeError if they do not come to an end."""
        limit_s = 100.0 + 20.0 * self._num_steps
        if not self.engine.run(limit_s, done=self._done):
            left = [worker.name for worker in self.engine.workers.values() if not self._has_ended(worker)]
            raise RuntimeError(f"workers {left} did not come to an end in {limit_s:.0f} simulated seconds")
        for worker in self.workers:
            if worker.session.dismissal is not None:
                raise worker.session.dismissal

    def _done(self) -> bool:
        workers = self.engine.workers
        return len(workers) == len(self._index) and all(map(self._has_ended, workers.values()))

    def _has_ended(self, worker: Worker) -> bool:
        """It has taken all its steps, and nothing that it offered is on its way (or has been for too long);
        or it cannot go on."""
        if worker.session.dismissal is not None:
            return True
        ends = worker.session.patience_ends(self.engine.net.now)
        return worker.session.steps >= self._num_steps and ends is None

    # -- as a watcher -------------------------------------------------------------------------

    def stepped(self, now: float, worker: Worker, steps: int) -> None:
        if self._on_step is not None:
            self._on_step(self._index[worker.name], worker)

    def event(self, now: float, worker: Worker, event: object) -> None:
        self.exchanges[worker.name] += isinstance(event, (RoundCommitted, Swapped, SwapFailed))

    def effect(self, now: float, name: str, effect: Effect) -> None:
        """Bytes are counted by the engine."""

    def activity(self, now: float, worker: Worker, activity: Activity | None) -> None:
        """Waiting is counted by the engine."""

    def command(self, now: float, worker: Worker, command: Command) -> None:
        """What it told its member shows in events."""
