"""A run in stages under virtual time: production nodes and stage loops, seconds for tensors, no faults."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, get_args

from diloco.pipeline.stage_loop import Backward, Forward, StageLoop, Step, Work
from diloco.planning.stages import StageTimes
from diloco.settings import parse_settings
from diloco.simulation.engine import Engine
from diloco.simulation.identities import key_of
from diloco.simulation.pace import Peer, StepTime
from diloco.simulation.phantom import PhantomReplica, phantom_limits
from diloco.simulation.worker import Trainer, Worker
from peers.node import Node
from peers.protocol import stage_work as work
from peers.protocol.events import NameWanted, StageAssigned
from peers.protocol.manifest import layout_name
from peers.protocol.stage_work import MicrobatchId
from peers.routing.state import StreamTerms
from peers.seats import Training
from transport.effects import Phantom
from transport.simnet.links import Access

RATE_BPS = 1e8


@dataclass(frozen=True, slots=True)
class StageShape:
    """A stage, and how its microbatches are computed."""

    stage: int
    stages: int
    quota: int
    window: int
    forward_s: float
    backward_s: float
    activation_bytes: int
    targets_bytes: int
    tokens: int
    grace_s: float


def phantom(what: bytes, microbatch: MicrobatchId, size: int) -> Phantom:
    return Phantom(size, what + microbatch.feeder[:16] + microbatch.number.to_bytes(8, "little"))


class StageWorker(Worker):
    """As `Worker`, of one stage."""

    def __init__(self, *given: Any, shape: StageShape) -> None:
        self.shape = shape
        self.is_last = shape.stage == shape.stages - 1
        self.loop = StageLoop(shape.quota, is_last=self.is_last, grace_s=shape.grace_s, ends_early=False)
        self._stage_events: deque[object] = deque()
        self._at_hand: Work | None = None
        self._membership = self._fed = self._may_feed = 0
        self._step_began_s = 0.0
        self.counts = {"settled": 0, "partial": 0, "lost": 0}
        self.busy_s = 0.0
        super().__init__(*given)

    def enter(self, patience_s: float) -> None:
        self._patience_s = patience_s
        self._set_activity("join")
        wish = self.shape.stage
        self._net.command(self.process, lambda _, now: self.node.ask_stage(now, self.name, wish=wish))

    def _assigned(self, patience_s: float) -> None:
        shape, trainer, limits = self.shape, self.trainer, self.node.limits
        profile = self.session.profile(
            self.name,
            (self._address,),
            trainer.elements,
            tensors=trainer.names_sha256,
            shapes=layout_name(trainer.layout, limits.payload_bytes),
            layout=trainer.layout,
            model="simulated",
        )
        profile = replace(profile, stage=shape.stage)
        size = shape.activation_bytes
        terms = StreamTerms(
            shape.stage,
            shape.stages,
            size if shape.stage else 0,
            0 if self.is_last else size,
            shape.targets_bytes,
            shape.window,
            limits.payload_bytes,
            240.0,
        )
        training = Training(profile, trainer.replica, patience_s, stream=terms)
        self._set_activity("join")
        self._net.command(self.process, lambda _, now: self.node.train(now, training))

    def _tell(self, command: work.StageCommand) -> bool:
        return self._carry_out(command)  # type: ignore[arg-type]

    def _event(self, event: object) -> None:
        if self._ended:
            return
        if isinstance(event, StageAssigned):
            assert event.stage == self.shape.stage, "a wish is granted where it fits"
            self._assigned(self._patience_s)
            return
        if isinstance(event, get_args(work.StageEvent)):
            self._stage_events.append(event)
        elif isinstance(event, NameWanted):
            self._name(event)
            return
        else:
            self._inbox.append(event)
        if self._at_hand is None:
            self._advance()

    def _advance(self) -> None:
        if not self.runs or self._at_hand is not None:
            return
        while self._stage_events:
            self._hear(self._stage_events.popleft())
        session, now = self.session, self._net.now
        if self.loop.drained:
            self._take_inbox()
            self._do_what_is_due()
        if session.dismissal is not None or session.finished:
            if session.dismissal is not None:
                self._end()
            elif self.activity is not None:
                self._report()
            self._set_activity(None)
            return
        if not session.was_active:
            return
        if session.waits(now):
            self._set_activity("wait")
            return
        if self.shape.stage == 0:
            self._feed()
        todo = self.loop.next_work(now)
        if todo is None:
            self._set_activity("wait")
            return
        self._at_hand = todo
        self._set_activity("compute")
        seconds = 0.0
        if isinstance(todo, Forward):
            if self.shape.stage:
                self._tell(work.ForwardBegan(todo.microbatch))
            seconds = self.shape.forward_s + (self.shape.backward_s if self.is_last else 0.0)
        elif isinstance(todo, Backward):
            seconds = self.shape.backward_s
        self.busy_s += seconds
        self._net.at(seconds, partial(self._done, todo))

    def _done(self, todo: Work) -> None:
        if not self.runs or self._at_hand is not todo:
            return
        self._at_hand = None
        shape = self.shape
        self.loop.done(todo, shape.tokens)
        match todo:
            case Forward() if not self.is_last:
                self._tell(
                    work.ForwardDone(todo.microbatch, phantom(b"u", todo.microbatch, shape.activation_bytes))
                )
            case Forward() | Backward():
                made = phantom(b"d", todo.microbatch, shape.activation_bytes) if shape.stage else None
                self._tell(work.Counted(todo.microbatch, shape.tokens, made))
            case Step():
                self._tell(work.Stepped(todo.microbatches, todo.tokens))
                self.loop.others_wait(False)
                now = self._net.now
                self.session.stepped(todo.tokens, now - self._step_began_s, 1)
                self._step_began_s = now
                self._tell_stepped(1)
                self._take_inbox()
                self._do_what_is_due()
                if self.session.report_is_due(now):
                    self._report()
        self._advance()

    def _feed(self) -> None:
        while self._fed < self._may_feed and self.loop.num_wanted > 0:
            microbatch = MicrobatchId(key_of(self.name), self._membership, self._fed)
            if not self._tell(work.Feed(self._fed, phantom(b"t", microbatch, self.shape.targets_bytes))):
                return
            self._fed += 1
            self.loop.input_arrived(microbatch)

    def _hear(self, event: object) -> None:
        match event:
            case work.StreamOpened():
                self.loop.reset()
                self._membership, self._fed, self._may_feed = event.membership, 0, 0
                self._tell(work.ConfirmOpened(event.membership))
            case work.MayFeed():
                self._may_feed = event.until
            case work.InputArrived():
                self.loop.input_arrived(event.microbatch)
            case work.GradientArrived():
                self.loop.gradient_arrived(event.microbatch)
            case work.GivenUp():
                self.loop.given_up(event.microbatch)
            case work.QuotaIs():
                self.loop.take_quota(event.quota)
            case work.MoreCome():
                self.loop.more_come(event.more)
            case work.MayStepEarly():
                self.loop.others_wait(at_once=event.at_once)
            case work.MicrobatchEnded():
                self.counts[event.how.name.lower()] += 1


TOKENS = 4096
_PARAMETERS = 1_000_000
"""Of a stage, few: what replicas exchange shall hardly be seen."""


class StagedEngine(Engine):
    """Replicas of stages, each named after its own."""

    def __init__(self, times: StageTimes, replicas: int, quota: int, rounds: int) -> None:
        settings = parse_settings(
            {
                "run": {"rounds": rounds, "min_peers": 1, "failure_timeout_s": 60.0, "grace_s": 600.0},
                "method": {"preset": "diloco", "sync_every": 8, "codec": "int8"},
                "pipeline": {"stages": times.stages},
                "model": {"tied": False, "layers": 64},
            },
            "scenario",
        )
        method, self.times, self.quota = settings.method.resolved(), times, quota
        limits = phantom_limits(method, _PARAMETERS, None, times.stages * replicas)
        access = Access(up=RATE_BPS / 8, down=RATE_BPS / 8, latency_s=times.latency_s / 2)
        peers = [
            Peer(f"{stage}-{replica}", access, StepTime(), joins_at_s=0.01 * (stage * replicas + replica))
            for stage in range(times.stages)
            for replica in range(replicas)
        ]

        def trainer(peer: Peer, life: int) -> Trainer:
            replica = PhantomReplica(method, _PARAMETERS, None, peer.name, limits.payload_bytes)
            return Trainer(replica, replica.elements)

        super().__init__(settings, peers, trainer, host=access, limits=limits, trace_frames=False)

    def _node(self, *given: Any, **named: Any) -> Node:
        node = super()._node(*given, **named)
        node.links.takes_streams = True
        return node

    def _enter(self, peer: Peer, life: int) -> None:
        trainer, node = self._make_trainer(peer, life), self._node(key_of(peer.name), life, name=peer.name)
        shape = StageShape(
            stage=int(peer.name.split("-")[0]),
            stages=self.times.stages,
            quota=self.quota,
            window=min(self.quota, self.times.window),
            forward_s=self.times.forward_s,
            backward_s=self.times.backward_s,
            activation_bytes=round(self.times.activation_s * RATE_BPS / 8),
            targets_bytes=4 * TOKENS,
            tokens=TOKENS,
            grace_s=60.0,
        )
        given = (peer, life, node, trainer, self._terms, self.net, self.watchers, self.num_steps)
        worker = StageWorker(*given, shape=shape)
        self.workers[peer.name] = worker
        worker.enter(1200.0)
