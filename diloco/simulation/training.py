"""A swarm of real models in one process: production nodes and outer loops on a simulated network.

Owns who steps when, in virtual time; everything that a swarm does is done by the code that runs for real:
coordinator, members, exchanges, outer loops and numbers. Refuses to know what is trained: a `Trainer` takes a
step and knows the worker's numbers. By default links are so fast that only the method is seen.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from diloco.commands import Command
from diloco.loop import OuterLoop
from diloco.numbers import TensorNumbers
from diloco.rules import matching_of, rules_of, wait_s
from diloco.schedule import Schedule
from diloco.settings import RunSettings
from peers.admission import Door
from peers.events import RoundCommitted, SwapFailed, Swapped
from peers.manifest import Manifest
from peers.member import Member, Profile
from peers.messages import Report
from peers.node import Contact, Hosting, Node, Training
from transport.effects import Core, Effect, Send
from transport.simlinks import Access
from transport.simnet import SimNetwork

FAST = Access(up=1e12, down=1e12, latency_s=1e-6, jitter=0.0)
"""A link that costs nothing against a step."""
_HOST = hashlib.sha256(b"host").digest()


@dataclass(slots=True)
class Trainer:
    """What one worker trains."""

    step: Callable[[], float]
    """One inner step; its loss."""
    numbers: TensorNumbers
    tokens_per_step: int
    step_s: float = 1.0
    """Seconds of virtual time that a step takes."""


class SimWorker:
    """One worker of the swarm."""

    def __init__(
        self, index: int, trainer: Trainer, node: Node, settings: RunSettings, num_steps: int
    ) -> None:
        self.index = index
        self.key = key_of(index)
        self.trainer = trainer
        self.node = node
        self.num_steps = num_steps
        self.steps = 0
        self.loss = 0.0
        self.waited_s = 0.0
        """Virtual seconds that it waited for the network."""
        self.exchanges = 0
        self.bytes_sent = 0
        """Without states for joiners."""
        self.loop = OuterLoop(
            Schedule.of(settings.method.resolved()), wait_s(settings), trainer.numbers, settings.run.rounds
        )
        self.idle_since: float | None = 0.0

    def done(self, now: float) -> bool:
        """It has taken all its steps, and nothing that it offered is on its way (or has been for too
        long)."""
        offers = [each for each in self.loop.progress if each.offered is not None]
        return self.steps >= self.num_steps and all(now >= each.wait_until for each in offers)


def key_of(index: int) -> bytes:
    """The transport key of a simulated worker."""
    return hashlib.sha256(b"worker %d" % index).digest()


class SimulatedTraining:
    """A host and one worker for each of ``trainers``; each takes ``num_steps`` inner steps."""

    def __init__(
        self,
        settings: RunSettings,
        trainers: list[Trainer],
        num_steps: int,
        *,
        on_step: Callable[[SimWorker], None] | None = None,
        access: Access = FAST,
    ) -> None:
        self._settings = settings
        self._by_key: dict[bytes, SimWorker] = {}
        self._on_step = on_step
        self.net = SimNetwork(settings.run.seed, self._observe)
        rules = rules_of(settings)
        door = Door(bytes(16), b"{}", settings.digest(), {})
        self.host = self._node(_HOST, Hosting(rules, [], door))
        self.net.add(_HOST, self.host, access, lambda now, event: None)
        self.workers = [
            SimWorker(i, trainer, self._node(key_of(i)), settings, num_steps)
            for i, trainer in enumerate(trainers)
        ]
        self._by_key = {worker.key: worker for worker in self.workers}
        for worker in self.workers:
            self._enter(worker, access)

    def run(self) -> None:
        """Until every worker has taken its steps and every exchange has ended. Raises RuntimeError if that
        does not come about."""
        slowest = max(w.trainer.step_s for w in self.workers)
        limit_s = 100.0 + 20.0 * slowest * max(w.num_steps for w in self.workers)
        if not self.net.run(limit_s, done=lambda: all(w.done(self.net.now) for w in self.workers)):
            left = [worker.index for worker in self.workers if not worker.done(self.net.now)]
            raise RuntimeError(f"workers {left} did not come to an end in {limit_s:.0f} simulated seconds")

    # -- building -----------------------------------------------------------------------------

    def _node(self, key: bytes, hosting: Hosting | None = None) -> Node:
        timeout_s = self._settings.run.failure_timeout_s
        contact = Contact(_HOST, () if hosting else ("tcp://host:1",))
        return Node(key, 1, contact, failure_timeout_s=timeout_s, hosting=hosting)

    def _enter(self, worker: SimWorker, access: Access) -> None:
        assert self.host.coordinator is not None, "the host coordinates"
        self.host.coordinator.certify(worker.key, f"w{worker.index}")
        outer, settings = worker.trainer.numbers.outer, self._settings
        method, found = settings.method.resolved(), outer.layout.manifest()
        elements = tuple(outer.most_sent(f) for f in range(outer.num_fragments))
        manifest = Manifest(
            settings.digest(), found.names_sha256, found.shapes_sha256, method.codec, elements, "simulated"
        )
        address = f"tcp://w{worker.index}:1"
        profile = Profile(
            f"w{worker.index}",
            (address,),
            manifest,
            matching=matching_of(settings),
            rebases=method.quorum > 0,
        )
        self.net.add(worker.key, worker.node, access, lambda now, event: self._event(worker, event), address)
        training = Training(profile, worker.trainer.numbers, patience_s=2 * settings.run.grace_s)
        self.net.command(worker.key, lambda _, now: worker.node.train(now, training))

    # -- training -----------------------------------------------------------------------------

    def _step(self, worker: SimWorker) -> None:
        worker.loss = worker.trainer.step()
        worker.steps += 1
        tokens = worker.trainer.tokens_per_step
        self._report(worker)
        self._run(worker, worker.loop.stepped(self.net.now, tokens))
        if self._on_step is not None:
            self._on_step(worker)
        self._go_on(worker)

    def _go_on(self, worker: SimWorker) -> None:
        """Schedule the next step, or wait."""
        now = self.net.now
        if worker.loop.waits(now) or not worker.loop.active:
            if worker.idle_since is None:
                worker.idle_since = now
                self.net.at(wait_s(self._settings), lambda: self._look_again(worker))
            return
        if worker.idle_since is not None:
            worker.waited_s += now - worker.idle_since if worker.steps else 0.0
            worker.idle_since = None
        if worker.steps < worker.num_steps and not worker.loop.finished:
            self.net.at(worker.trainer.step_s, lambda: self._step(worker))

    def _look_again(self, worker: SimWorker) -> None:
        if worker.idle_since is not None:
            self._run(worker, worker.loop.due(self.net.now))
            self._go_on(worker)

    def _event(self, worker: SimWorker, event: object) -> None:
        if isinstance(event, (RoundCommitted, Swapped, SwapFailed)):
            worker.exchanges += 1
        self._run(worker, worker.loop.handle(self.net.now, event))
        self._look_again(worker)

    def _run(self, worker: SimWorker, commands: list[Command]) -> None:
        for command in commands:
            tell = command.tell
            done = self.net.command(worker.key, partial(_told, worker.node, tell))
            worker.loop.told(command, bool(done))

    def _report(self, worker: SimWorker) -> None:
        trainer = worker.trainer
        speed = trainer.tokens_per_step / trainer.step_s
        worker.loop.speed = speed
        count = trainer.numbers.count(0)
        report = Report(
            worker.steps,
            count,
            worker.steps * trainer.tokens_per_step,
            0.0,
            speed,
            speed,
            worker.bytes_sent,
            0,
        )
        self.net.command(
            worker.key, partial(_told, worker.node, lambda now, member: member.report(now, report))
        )

    def _observe(self, now: float, key: bytes, effect: Effect) -> None:
        worker = self._by_key.get(key)
        if worker is not None and isinstance(effect, Send) and effect.purpose != "state":
            worker.bytes_sent += len(effect.header) + (0 if effect.payload is None else len(effect.payload))


def _told(node: Node, tell: Callable[[float, Member], Any], _: Core, now: float) -> Any:
    return node.command(now, tell)
