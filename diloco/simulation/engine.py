"""A swarm in virtual time: production nodes and outer loops on a simulated network, and who steps when.

Owns lives of peers (joining, crashing, freezing, leaving), the training side of each (inner steps that take
seconds, events taken between steps, waiting) and the host. Whatever a swarm decides is decided by the code
that runs for real. Refuses to know what is trained (`Trainer`), what is recorded (`Watcher`) and which faults
come when. Inner steps after which nothing can be due are counted in one go.
"""

from __future__ import annotations

import hashlib
import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from functools import partial
from itertools import accumulate
from typing import Any

from diloco.loop.outer_loop import OuterLoop
from diloco.loop.throughput import Throughput
from diloco.methods.schedule import Schedule
from diloco.rules import matching_of, rules_of, wait_s
from diloco.settings import RunSettings
from diloco.simulation.identities import HOST, invite_key, key_of, knock_of, open_door
from diloco.simulation.pace import Clockwork, Peer
from diloco.simulation.report.report import Activity
from diloco.simulation.worker import Trainer, Watcher, Worker
from peers.node import Contact, Hosting, Node, Training
from peers.protocol.commands import Command, LeaveRun, ReportProgress
from peers.protocol.manifest import Manifest
from peers.protocol.messages import Refused, Report
from peers.protocol.profile import Profile
from transport.effects import Core, Effect
from transport.frames import unpack
from transport.limits import LIMITS, Limits
from transport.simnet.links import NS, Access
from transport.simnet.network import SimNetwork

KNOCK_AGAIN_S = 1.0
_REPORT_EVERY_S = 2.0
_MAX_STEPS = 1000
"""Inner steps counted in one go."""


class Engine:
    """A host and its peers. ``make_trainer(peer, life)`` gives a process what it trains."""

    def __init__(
        self,
        settings: RunSettings,
        peers: Sequence[Peer],
        make_trainer: Callable[[Peer, int], Trainer],
        *,
        host: Access,
        limits: Limits = LIMITS,
        num_steps: int | None = None,
        watchers: Sequence[Watcher] = (),
        make_node: Callable[..., Node] = Node,
        **network: Any,
    ) -> None:
        self.settings = settings
        self.peers = {peer.name: peer for peer in peers}
        self.workers: dict[str, Worker] = {}
        """The newest life of each."""
        self.limits = limits
        self.num_steps = num_steps
        """Inner steps after which a worker stops, if the run does not end before."""
        self.watchers = list(watchers)
        self.net = SimNetwork(settings.run.seed, self._observe, **network)
        self._names = {key_of(name): name for name in (HOST, *self.peers)}
        self._host_access = host
        self._make_trainer = make_trainer
        self._make_node = make_node
        self._lives: dict[str, int] = {}
        self._knocking: set[str] = set()
        self._wait_s = wait_s(settings)
        self._method = settings.method.resolved()
        self._digest = settings.digest()
        self._matching = matching_of(settings)
        self._schedule = Schedule.of(self._method)
        self.num_fragments = self._schedule.num_fragments

    def begin(self) -> None:
        """The host starts now, and peers when each joins."""
        self.start_host()
        for peer in self.peers.values():
            if peer.joins_at_s < math.inf:
                self.net.at(peer.joins_at_s, partial(self.start, peer.name))

    def run(self, until_s: float, done: Callable[[], bool] | None = None) -> bool:
        """Let time pass; True once ``done``."""
        return self.net.run(until_s, done)

    def name_of(self, key: bytes) -> str:
        """The peer that has a transport key."""
        return self._names.get(key, "?")

    # -- lives --------------------------------------------------------------------------------

    def start_host(self) -> None:
        """A process of the host begins, with the journal of earlier ones."""
        key = key_of(HOST)
        life = self._lives[HOST] = self._lives.get(HOST, 0) + 1
        journal = [unpack(entry) for entry in self.net.journal(key)]
        door = open_door(self._digest)
        self.host = self._node(key, life, Hosting(rules_of(self.settings), journal, door))
        self.net.add(key, self.host, self._host_access, lambda now, event: None, "tcp://host:1")

    def start(self, name: str) -> None:
        """A process of the peer begins: it knocks until it is let in, and enters. Not if one runs."""
        worker = self.workers.get(name)
        if name in self._knocking or (worker is not None and worker.process.alive):
            return
        self._knocking.add(name)
        life = self._lives[name] = self._lives.get(name, 0) + 1

        def knock() -> None:
            if name in self._knocking and self._lives[name] == life:
                self.net.knock(key_of(name), invite_key(), key_of(HOST), knock_of(name), answered)

        def answered(now: float, reply: tuple[bytes, bytes] | None) -> None:
            if name not in self._knocking or self._lives[name] != life:
                return
            if reply is None:
                self.net.at(KNOCK_AGAIN_S, knock)
                return
            refused = unpack(reply[0])
            assert not isinstance(refused, Refused), f"{name} is not let in: {refused}"
            self._knocking.discard(name)
            self._enter(self.peers[name], life)

        knock()

    def crash(self, name: str) -> None:
        """The newest process of a peer, or the host's, is gone."""
        if name == HOST:
            self.net.crash(key_of(HOST))
            return
        self._knocking.discard(name)
        worker = self.workers.get(name)
        if worker is not None and worker.process.alive:
            self._interrupt(worker)
            self.net.crash(worker.process)
            self._set_activity(worker, "down")

    def freeze(self, name: str) -> None:
        """Stopped as by SIGSTOP."""
        if name == HOST:
            self.net.freeze(key_of(HOST))
        elif (worker := self.workers.get(name)) is not None and worker.runs:
            worker.frozen_s = self.net.now
            worker.token += 1
            self.net.freeze(worker.process)
            self._set_activity(worker, "frozen")

    def thaw(self, name: str) -> None:
        """It goes on as if no time had passed."""
        if name == HOST:
            self.net.thaw(key_of(HOST))
            return
        worker = self.workers.get(name)
        if worker is None or not worker.process.alive or not worker.process.frozen:
            return
        lost = self.net.now - worker.frozen_s
        worker.block = [end + lost for end in worker.block]
        self.net.thaw(worker.process)
        if worker.block:
            self._set_activity(worker, "compute")
            self._end_block_at(worker, len(worker.block))
        else:
            self._advance(worker)

    def leave(self, name: str) -> None:
        """It says goodbye, as Ctrl-C makes it."""
        worker = self.workers.get(name)
        if worker is not None and worker.runs:
            self._interrupt(worker)
            self._tell(worker, LeaveRun("left"))
            self._end(worker)
            self.net.at(1.0, lambda: self.net.crash(worker.process))

    def _interrupt(self, worker: Worker) -> None:
        """Training stops in the middle of a step; steps before it were done."""
        done = bisect_left(worker.block, self.net.now)
        if done and worker.runs:
            self._count(worker, done)
        worker.block, worker.token = [], worker.token + 1

    def _end(self, worker: Worker) -> None:
        worker.ended = True
        self._set_activity(worker, None)

    # -- building -----------------------------------------------------------------------------

    def _node(self, key: bytes, life: int, hosting: Hosting | None = None) -> Node:
        contact = Contact(key_of(HOST), () if hosting else ("tcp://host:1",))
        timeout_s = self.settings.run.failure_timeout_s
        return self._make_node(
            key, 1000 + life, contact, failure_timeout_s=timeout_s, hosting=hosting, limits=self.limits
        )

    def _enter(self, peer: Peer, life: int) -> None:
        key, trainer = key_of(peer.name), self._make_trainer(peer, life)
        node = self._node(key, life)
        method = self._method
        loop = OuterLoop(self._schedule, self._wait_s, trainer.replica, self.settings.run.rounds)
        pace = self.net.stream(f"pace of {peer.name} in life {life}")
        address = f"tcp://{hashlib.sha256(peer.name.encode()).hexdigest()[:16]}:1"
        process = self.net.add(key, node, peer.access, lambda _, event: self._event(worker, event), address)
        clockwork = Clockwork(peer.pace, pace)
        speed, sent = Throughput(method.sync_every), process.sent.total()
        worker = Worker(peer, life, node, process, trainer, loop, clockwork, speed, sent)
        self.workers[peer.name] = worker
        names, shapes = trainer.names_sha256, trainer.shapes_sha256
        manifest = Manifest(self._digest, names, shapes, method.codec, trainer.elements, "simulated")
        profile = Profile(
            peer.name,
            (address,),
            manifest,
            matching=self._matching,
            rebases=method.quorum > 0,
            adapts=method.adapt != "none",
        )
        training = Training(profile, trainer.replica, patience_s=2 * self.settings.run.grace_s)
        self._set_activity(worker, "join")
        self.net.command(process, lambda _, now: node.train(now, training))

    # -- training -----------------------------------------------------------------------------

    def _advance(self, worker: Worker) -> None:
        """Begin the next inner steps, or wait."""
        now, loop = self.net.now, worker.loop
        worker.token += 1
        if not worker.runs:
            return
        worker.was_active = worker.was_active or loop.active
        if loop.superseded or loop.refused:
            self._end(worker)
        elif loop.finished:
            if worker.activity is not None:
                self._report(worker, at_once=True)  # of gossip nobody else would know
            self._set_activity(worker, None)
        elif not worker.was_active:
            self._set_activity(worker, "join")
        elif loop.waits(now):
            self._set_activity(worker, "wait")
            ends = loop.patience_ends(now)
            assert ends is not None, "it waits for something"
            self._look_again_at(worker, ends)
        elif worker.steps == self.num_steps:
            self._set_activity(worker, None)
        else:
            self._begin_block(worker)

    def _begin_block(self, worker: Worker) -> None:
        now = worker.block_began_s = self.net.now
        self._set_activity(worker, "compute")
        # The first step ends alone: then how fast it was is told, as in a real worker.
        alone = worker.trainer.step or not worker.steps
        count = 1 if alone else min(_MAX_STEPS, worker.loop.quiet_steps())
        if self.num_steps is not None:
            count = min(count, self.num_steps - worker.steps)
        worker.block = [now + after for after in accumulate(worker.clockwork.durations(count))]
        self._end_block_at(worker, count)

    def _end_block_at(self, worker: Worker, count: int) -> None:
        """The block ends with its ``count``-th step; what waits in the inbox is taken then."""
        worker.token += 1
        token = worker.token
        del worker.block[count:]
        self.net.at(max(0.0, worker.block[-1] - self.net.now), lambda: self._block_ended(worker, token))

    def _block_ended(self, worker: Worker, token: int) -> None:
        if worker.token != token or not worker.runs:
            return
        count, worker.block = len(worker.block), []
        self._count(worker, count)
        tokens = worker.peer.tokens_per_step
        worker.speed.count(count, count * tokens, self.net.now - worker.block_began_s)
        if count > 1:
            self._run(worker, worker.loop.stepped(self.net.now, tokens * (count - 1), count - 1))
        self._take_inbox(worker)
        self._run(worker, worker.loop.stepped(self.net.now, tokens))
        self._report(worker)
        self._advance(worker)

    def _count(self, worker: Worker, steps: int) -> None:
        if worker.trainer.step is not None:
            for _ in range(steps):
                worker.loss = worker.trainer.step()
        worker.steps += steps
        worker.tokens += steps * worker.peer.tokens_per_step
        for watcher in self.watchers:
            watcher.stepped(self.net.now, worker, steps)

    def _look_again_at(self, worker: Worker, ends: float) -> None:
        """One wake-up is enough: it is far away as a rule, and void once the worker trains again."""
        at = max(round(ends * NS), self.net.now_ns + 1000)
        if self.net.now_ns < worker.wakes_ns <= at:
            return
        worker.wakes_ns = at

        def wake() -> None:
            if worker.wakes_ns != at:
                return
            worker.wakes_ns = 0
            if worker.activity == "wait" and worker.runs:
                self._run(worker, worker.loop.due(self.net.now))
                self._advance(worker)

        self.net.at((at - self.net.now_ns) / NS, wake)

    def _event(self, worker: Worker, event: object) -> None:
        """Training takes events between inner steps, and at once while it waits."""
        if worker.ended:
            return
        worker.inbox.append(event)
        if worker.block:
            ends = bisect_left(worker.block, self.net.now) + 1
            if ends < len(worker.block):
                self._end_block_at(worker, ends)
            return
        self._take_inbox(worker)
        self._run(worker, worker.loop.due(self.net.now))
        self._advance(worker)

    def _take_inbox(self, worker: Worker) -> None:
        events, worker.inbox = worker.inbox, []
        for event in events:
            now = self.net.now
            commands = worker.loop.handle(now, event)
            for watcher in self.watchers:
                watcher.event(now, worker, event)
            self._run(worker, commands)

    def _run(self, worker: Worker, commands: list[Command]) -> None:
        for command in commands:
            for watcher in self.watchers:
                watcher.command(self.net.now, worker, command)
            worker.loop.told(command, self._tell(worker, command))

    def _tell(self, worker: Worker, command: Command) -> bool:
        return bool(self.net.command(worker.process, partial(_do, worker.node, command)))

    def _report(self, worker: Worker, at_once: bool = False) -> None:
        now = self.net.now
        if now - worker.reported_s < _REPORT_EVERY_S and not at_once:
            return
        worker.reported_s = now
        speed = worker.loop.speed = worker.speed.tokens_per_s
        count = worker.trainer.replica.count(0)
        report = Report(worker.steps, count, worker.tokens, worker.loss, speed, speed, worker.bytes_sent, 0)
        self._tell(worker, ReportProgress(report))

    # -- watching -----------------------------------------------------------------------------

    def _set_activity(self, worker: Worker, activity: Activity | None) -> None:
        now = self.net.now
        if activity == worker.activity:
            return
        if worker.activity == "wait":
            worker.waited_s += now - worker.since_s
        worker.activity, worker.since_s = activity, now
        for watcher in self.watchers:
            watcher.activity(now, worker, activity)

    def _observe(self, now: float, key: bytes, effect: Effect) -> None:
        for watcher in self.watchers:
            watcher.effect(now, self._names[key], effect)


def _do(node: Node, command: Command, _: Core, now: float) -> bool:
    return node.command(now, command)
