"""One life of a simulated worker: a `WorkerSession` driven in virtual time, what it trains, and who watches.

Owns when inner steps end, when events are taken (between steps, and at once while it waits) and what the
worker does meanwhile (`Activity`). Inner steps after which nothing can be due are counted in one go. Refuses
to know which faults come when; whatever a worker decides is decided by the session.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import Protocol

from diloco.loop.replica import Replica
from diloco.loop.session import Terms, WorkerSession
from diloco.simulation.identities import key_of
from diloco.simulation.pace import Clockwork, Peer
from diloco.simulation.report.report import Activity
from peers.node import Node
from peers.protocol.application import Application
from peers.protocol.commands import Command, ConfirmNamed, LeaveRun
from peers.protocol.events import NameWanted
from peers.protocol.manifest import layout_name
from peers.protocol.profile import Profile
from peers.protocol.record import NO_DIGEST
from peers.seats import Training
from transport.effects import Core, Effect
from transport.simnet.links import NS
from transport.simnet.network import SimNetwork

REPORT_EVERY_S = 2.0
"""How often a worker tells the coordinator how training goes."""
NAMES_S = 0.02
"""Seconds of hashing a state."""
_MAX_STEPS = 1000
"""Inner steps counted in one go."""


class WorkerReplica(Replica, Application, Protocol):
    """What a worker's loop moves and its member hands out."""


@dataclass(slots=True)
class Trainer:
    """What one life of a worker trains."""

    replica: WorkerReplica
    elements: tuple[int, ...]
    """Length of each fragment's contribution."""
    step: Callable[[], float] | None = None
    """One inner step; its loss. None for phantoms."""
    names_sha256: bytes = bytes(32)
    layout: bytes = b"no layout"
    """What would be the text of the model's layout."""
    buffers: bool = False
    """The last fragment is of the model's buffers."""


class Watcher(Protocol):
    """Sees everything, changes nothing."""

    def effect(self, now: float, name: str, effect: Effect) -> None:
        """A node's effect is carried out; frames are only counted, by the network."""

    def activity(self, now: float, worker: Worker, activity: Activity | None) -> None:
        """A worker does something else from now on; None once it has ended for good."""

    def event(self, now: float, worker: Worker, event: object) -> None:
        """A worker's training takes an event of its member."""

    def command(self, now: float, worker: Worker, command: Command) -> None:
        """A worker's loop tells its member something."""

    def stepped(self, now: float, worker: Worker, steps: int) -> None:
        """A worker has done ``steps`` inner steps more."""


class Worker:
    """One life of one peer, on ``node``. It trains until its session ends or ``num_steps`` are done."""

    def __init__(
        self,
        peer: Peer,
        life: int,
        node: Node,
        trainer: Trainer,
        terms: Terms,
        net: SimNetwork,
        watchers: Sequence[Watcher],
        num_steps: int | None = None,
    ) -> None:
        self.peer = peer
        self.life = life
        self.node = node
        self.trainer = trainer
        self.stage = 0
        """Of the model that it trains."""
        self.session = WorkerSession(terms, trainer.replica, net.now, report_every_s=REPORT_EVERY_S)
        self.activity: Activity | None = None
        self._ended = False
        """Whether the worker left, was refused, or was superseded."""
        self._net = net
        self._watchers = watchers
        self._num_steps = num_steps
        self._clockwork = Clockwork(peer.step_time, net.stream(f"pace of {peer.name} in life {life}"))
        self._address = f"tcp://{hashlib.sha256(peer.name.encode()).hexdigest()[:16]}:1"
        self.process = net.add(
            key_of(peer.name), node, peer.access, lambda _, event: self._event(event), self._address
        )
        self._sent_before = self.process.sent.total()
        """Bytes that earlier lives of the peer sent."""
        self._since_s = 0.0
        """When it began what it does."""
        self._inbox: deque[object] = deque()
        self._block: list[float] = []
        """When each of the inner steps under way ends."""
        self._block_began_s = 0.0
        self._token = 0
        """Names the block: the end of one with another name is void."""
        self._wakes_ns = 0
        """When the worker looks again whether it still waits; 0 for not at all."""
        self._frozen_s = 0.0

    @property
    def name(self) -> str:
        return self.peer.name

    @property
    def bytes_sent(self) -> int:
        return self.process.sent.total() - self._sent_before

    def tokens_of(self, steps: int) -> int:
        """Of the last so many inner steps."""
        return steps * self.peer.tokens_per_step

    @property
    def runs(self) -> bool:
        return self.process.alive and not self.process.frozen and not self._ended

    # -- its life -----------------------------------------------------------------------------

    def enter(self, patience_s: float) -> None:
        """Take part in the run."""
        self._train_on(Training(self._profile(), self.trainer.replica, patience_s))

    def _train_on(self, training: Training) -> None:
        self._set_activity("join")
        self._net.command(self.process, lambda _, now: self.node.train(now, training))

    def _profile(self) -> Profile:
        trainer = self.trainer
        return self.session.profile(
            self.name,
            (self._address,),
            trainer.elements,
            tensors=trainer.names_sha256,
            shapes=layout_name(trainer.layout, self.node.limits.payload_bytes),
            layout=trainer.layout,
            model="simulated",
        )

    def crash(self) -> None:
        """End the worker's process at once."""
        self._interrupt()
        self._net.crash(self.process)
        self._set_activity("down")

    def freeze(self) -> None:
        """Stopped as by SIGSTOP."""
        self._frozen_s = self._net.now
        self._token += 1
        self._net.freeze(self.process)
        self._set_activity("frozen")

    def thaw(self) -> None:
        """It goes on as if no time had passed."""
        lost = self._net.now - self._frozen_s
        self._block = [end + lost for end in self._block]
        self._net.thaw(self.process)
        if self._block:
            self._set_activity("compute")
            self._end_block_at(len(self._block))
        else:
            self._advance()

    def slow(self, factor: float) -> None:
        """From its next step on it computes so many times slower than it is."""
        self._clockwork.slowed = factor

    def leave(self) -> None:
        """It says goodbye, as Ctrl-C makes it."""
        self._interrupt()
        self._carry_out(LeaveRun("left"))
        self._end()
        self._net.at(1.0, lambda: self._net.crash(self.process))

    def _interrupt(self) -> None:
        """Training stops in the middle of a step; steps before it were done."""
        done = bisect_left(self._block, self._net.now)
        if done and self.runs:
            self._train(done)
            self.session.count(self.peer.tokens_per_step, self._net.now - self._block_began_s, done)
            self._tell_stepped(done)
        self._block, self._token = [], self._token + 1

    def _end(self) -> None:
        self._ended = True
        self._set_activity(None)

    # -- inner steps --------------------------------------------------------------------------

    def _advance(self) -> None:
        """Begin the next inner steps, or wait."""
        now, session = self._net.now, self.session
        self._token += 1
        if not self.runs:
            return
        if session.dismissal is not None:
            self._end()
        elif session.finished:
            if self.activity is not None:
                self._report()  # of gossip nobody else would know
            self._set_activity(None)
        elif not session.was_active:
            self._set_activity("join")
        elif session.waits(now):
            self._set_activity("wait")
            ends = session.patience_ends(now)
            assert ends is not None, "it waits for something"
            self._look_again_at(ends)
        elif session.steps == self._num_steps:
            self._set_activity(None)
        else:
            self._begin_block()

    def _begin_block(self) -> None:
        now = self._block_began_s = self._net.now
        self._set_activity("compute")
        # The first step ends alone: then how fast it was is told, as in a real worker.
        alone = self.trainer.step or not self.session.steps
        count = 1 if alone else min(_MAX_STEPS, self.session.quiet_steps())
        if self._num_steps is not None:
            count = min(count, self._num_steps - self.session.steps)
        self._block = [now + after for after in accumulate(self._clockwork.durations(count))]
        self._end_block_at(count)

    def _end_block_at(self, count: int) -> None:
        """The block ends with its ``count``-th step; what waits in the inbox is taken then."""
        self._token += 1
        token = self._token
        del self._block[count:]
        self._net.at(max(0.0, self._block[-1] - self._net.now), lambda: self._block_ended(token))

    def _block_ended(self, token: int) -> None:
        if self._token != token or not self.runs:
            return
        now, session = self._net.now, self.session
        count, self._block = len(self._block), []
        self._train(count)
        session.stepped(self.peer.tokens_per_step, now - self._block_began_s, count)
        self._tell_stepped(count)
        self._take_inbox()
        self._do_what_is_due()
        if session.report_is_due(now):
            self._report()
        self._advance()

    def _train(self, steps: int) -> None:
        if self.trainer.step is not None:
            for _ in range(steps):
                self.session.loss = self.trainer.step()

    def _tell_stepped(self, steps: int) -> None:
        for watcher in self._watchers:
            watcher.stepped(self._net.now, self, steps)

    # -- waiting and events -------------------------------------------------------------------

    def _look_again_at(self, ends: float) -> None:
        """One wake-up is enough: it is far away as a rule, and void once the worker trains again."""
        at = max(round(ends * NS), self._net.now_ns + 1000)
        if self._net.now_ns < self._wakes_ns <= at:
            return
        self._wakes_ns = at

        def wake() -> None:
            if self._wakes_ns != at:
                return
            self._wakes_ns = 0
            if self.activity == "wait" and self.runs:
                self._do_what_is_due()
                self._advance()

        self._net.at((at - self._net.now_ns) / NS, wake)

    def _event(self, event: object) -> None:
        """Training takes events between inner steps, and at once while it waits."""
        if self._ended:
            return
        if isinstance(event, NameWanted):
            self._name(event)
            return
        self._inbox.append(event)
        if self._block:
            ends = bisect_left(self._block, self._net.now) + 1
            if ends < len(self._block):
                self._end_block_at(ends)
            return
        self._take_inbox()
        self._do_what_is_due()
        self._advance()

    def _name(self, wanted: NameWanted) -> None:
        """Hash a state beside training, as it is now."""
        named = hashed(self.trainer.replica, wanted)

        def answer() -> None:
            if self.process.frozen and self.process.alive:
                self._net.at(NAMES_S, answer)
            elif self.runs:
                self._run([named])

        self._net.at(NAMES_S, answer)

    def _take_inbox(self) -> None:
        """Take all events, also those that a command brings: to confirm one commit hands over the next."""
        now = self._net.now
        while (event := self._next_event()) is not None:
            if isinstance(event, NameWanted):
                self._name(event)
                continue
            commands = self.session.event(now, event)
            for watcher in self._watchers:
                watcher.event(now, self, event)
            self._run(commands)

    def _next_event(self) -> object | None:
        return self._inbox.popleft() if self._inbox else self._net.next_event(self.process)

    def _do_what_is_due(self) -> None:
        commands, losses = self.session.due(self._net.now), self.session.progress_lost()
        if losses:
            self._report()  # at once, for this may be the last that the swarm hears of this worker
        self._run(commands)
        for lost in losses:
            for watcher in self._watchers:
                watcher.event(self._net.now, self, lost)

    def _run(self, commands: list[Command]) -> None:
        for command in commands:
            for watcher in self._watchers:
                watcher.command(self._net.now, self, command)
            self.session.told(command, self._carry_out(command))

    def _carry_out(self, command: Command) -> bool:
        return bool(self._net.command(self.process, partial(_do, self.node, command)))

    def _report(self) -> None:
        self._run(self.session.report(self._net.now, self.bytes_sent, 0))

    def _set_activity(self, activity: Activity | None) -> None:
        now = self._net.now
        if activity == self.activity:
            return
        if self.activity == "wait":
            self.session.waited_s += now - self._since_s
        self.activity, self._since_s = activity, now
        for watcher in self._watchers:
            watcher.activity(now, self, activity)


def hashed(app: Application, wanted: NameWanted) -> ConfirmNamed:
    """The digest of a state, in no time."""
    find = app.to_name(wanted.fragment, wanted.check)
    return ConfirmNamed(wanted.fragment, wanted.check, find() if find is not None else NO_DIGEST)


def _do(node: Node, command: Command, _: Core, now: float) -> bool:
    return node.command(now, command)
