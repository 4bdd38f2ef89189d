"""A swarm in virtual time: production nodes and worker sessions on a simulated network.

Owns the host, and when a life of a peer begins and ends: knocking, entering, crashing, freezing, leaving.
What happens in a life is in `worker`. Whatever a swarm decides is decided by the code that runs for real.
Refuses to know what is trained (`Trainer`), what is recorded (`Watcher`) and which faults come when.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from diloco.loop.session import Terms
from diloco.rules import judge_of, rules_of
from diloco.settings import RunSettings
from diloco.simulation.identities import HOST, identity_of, invite_key, key_of, knock_of, open_door
from diloco.simulation.pace import Peer
from diloco.simulation.roles.registry import ROLES
from diloco.simulation.roles.role import Adversary, Role
from diloco.simulation.worker import Trainer, Watcher, Worker
from peers.node import Node
from peers.protocol.events import Computed, RecomputeWanted
from peers.protocol.messages import Refused
from peers.seats import Contact, Hosting
from transport.effects import Effect
from transport.frames import unpack
from transport.limits import LIMITS, Limits
from transport.simnet.links import Access
from transport.simnet.network import SimNetwork

KNOCK_AGAIN_S = 1.0
_RECOMPUTE_BYTES = 1 << 30
_COMPUTES_S = 0.2


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
        make_worker: Callable[..., Worker] = Worker,
        recompute: Callable[[RecomputeWanted], Computed] | None = None,
        **network: Any,
    ) -> None:
        """``recompute``: how the host computes a disputed step; it cannot without. ``make_worker`` is called
        as `Worker` is, and of a model in stages has to know them (`stage_worker`)."""
        self.settings = settings
        self.peers = {peer.name: peer for peer in peers}
        self.workers: dict[str, Worker] = {}
        """The newest life of each peer, by name."""
        self.limits = limits
        self.num_steps = num_steps
        """Inner steps after which a worker stops, if the run does not end before."""
        self.watchers = list(watchers)
        self.net = SimNetwork(settings.run.seed, self._observe, **network)
        self._names = {key_of(name): name for name in (HOST, *self.peers)}
        self.roles: dict[str, Role] = {}
        """By peer, those that have one; other identities of a peer share its role."""
        for peer in self.peers.values():
            if peer.role:
                of = self.roles.get(peer.name.split("~")[0])
                self.roles[peer.name] = of or ROLES[peer.role](self.net.stream(f"role of {peer.name}"))
        self._host_access = host
        self._make_trainer = make_trainer
        self._recompute = recompute
        self._make_node = partial(make_node, streams=True) if settings.pipeline.stages > 1 else make_node
        self._make_worker = make_worker
        self._lives: dict[str, int] = {}
        self._knocking: set[str] = set()
        self._terms = Terms.of(settings)
        self.num_fragments = self._terms.schedule.num_fragments

    def begin(self) -> None:
        """The host starts now, and peers when each joins."""
        self.start_host()
        for peer in self.peers.values():
            if peer.joins_at_s < math.inf:
                self.net.at(peer.joins_at_s, partial(self.start, peer.name))
                if peer.name in self.roles:
                    lives = EngineLives(peer.name, self)
                    self.net.at(peer.joins_at_s, partial(self.roles[peer.name].live, lives))

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
        door = open_door(self._terms.settings)
        hosting = Hosting(
            rules_of(self.settings),
            journal,
            door,
            judge=judge_of(self.settings),
            recompute_bytes=_RECOMPUTE_BYTES if self._recompute else 0,
        )
        self.host = self._node(key, life, hosting)
        self.net.add(key, self.host, self._host_access, self._host_event, "tcp://host:1")

    def _host_event(self, now: float, event: object) -> None:
        """What the program around a host does: it computes, beside the network."""
        coordinator, process = self.host.coordinator, self.net.peers[key_of(HOST)]
        if not isinstance(event, RecomputeWanted) or self._recompute is None or coordinator is None:
            return
        found, answer = self._recompute(event), coordinator.recomputer.take_answer

        def tell() -> None:
            if process.alive:
                self.net.command(process, lambda core, now: answer(event.version, found, ""))

        self.net.at(_COMPUTES_S, tell)

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
            self._knocking.discard(name)
            if isinstance(refused, Refused) and name in self.roles:
                self.roles[name].did(f"was refused: {refused.code}")
                return
            assert not isinstance(refused, Refused), f"{name} is not let in: {refused}"
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
            worker.crash()

    def freeze(self, name: str) -> None:
        """Stopped as by SIGSTOP."""
        if name == HOST:
            self.net.freeze(key_of(HOST))
        elif (worker := self.workers.get(name)) is not None and worker.runs:
            worker.freeze()

    def thaw(self, name: str) -> None:
        """It goes on as if no time had passed."""
        if name == HOST:
            self.net.thaw(key_of(HOST))
            return
        worker = self.workers.get(name)
        if worker is not None and worker.process.alive and worker.process.frozen:
            worker.thaw()

    def leave(self, name: str) -> None:
        """It says goodbye, as Ctrl-C makes it."""
        worker = self.workers.get(name)
        if worker is not None and worker.runs:
            worker.leave()

    def slow(self, name: str, factor: float) -> None:
        """It computes so many times slower than it is."""
        worker = self.workers.get(name)
        if worker is not None:
            worker.slow(factor)

    # -- inside -------------------------------------------------------------------------------

    def _node(self, key: bytes, life: int, hosting: Hosting | None = None, name: str = "") -> Node:
        contact = Contact(key_of(HOST), () if hosting else ("tcp://host:1",))
        role = self.roles.get(name)
        make = self._make_node if role is None else partial(Adversary, role=role)
        return make(
            key,
            1000 + life,
            contact,
            failure_timeout_s=self.settings.run.failure_timeout_s,
            hosting=hosting,
            limits=self.limits,
            signer=identity_of(name) if name else None,
        )

    def _enter(self, peer: Peer, life: int) -> None:
        trainer = self._make_trainer(peer, life)
        node = self._node(key_of(peer.name), life, name=peer.name)
        terms = Terms.of(self.settings, buffers=trainer.buffers)
        worker = self._make_worker(peer, life, node, trainer, terms, self.net, self.watchers, self.num_steps)
        self.workers[peer.name] = worker
        worker.enter(2 * self.settings.run.grace_s)

    def _observe(self, now: float, key: bytes, effect: Effect) -> None:
        for watcher in self.watchers:
            watcher.effect(now, self._names[key], effect)


class EngineLives:
    """What the role of a peer may do to processes (`roles.role.Lives`)."""

    def __init__(self, name: str, engine: Engine) -> None:
        self.name = name
        self._engine = engine

    def at(self, delay_s: float, run: Callable[[], None]) -> None:
        self._engine.net.at(delay_s, run)

    def start(self, name: str) -> None:
        self._engine.start(name)

    def crash(self, name: str) -> None:
        self._engine.crash(name)
