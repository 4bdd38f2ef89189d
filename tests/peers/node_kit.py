"""Nodes of a host and of members whose frames arrive at once, for the tests of this folder."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from peers.admission.door import Door, Invite
from peers.coordinator.coordinator import Rules
from peers.node import Node
from peers.protocol.commands import ConfirmCaptured
from peers.protocol.events import BecomeSeed
from peers.protocol.manifest import Manifest
from peers.protocol.profile import Matching, Profile
from peers.seats import Contact, Hosting, Training
from tests.peers.member.fakes import LIMITS, SIZE, FakeApp, check_of, name_of, state_of
from transport.effects import Close, Connect, Deliver, Send, Store, Trace
from transport.frames import pack_items, to_items, unpack
from transport.limits import Limits

HOST, LOW, HIGH = b"h" * 32, b"l" * 32, b"z" * 32
DIGEST, INVITE, OWNER = b"d" * 32, b"i" * 32, b"o" * 32
TIMEOUT_S = 4.0
SMALL = replace(LIMITS, history_records=64, chunk_elements=64)
CONTACT = Contact(HOST, ("tcp://h:1",))


def host_node(journal: list[Any] | None = None, limits: Limits = SMALL, **rules: Any) -> Node:
    door = Door(bytes(16), b"{}", DIGEST, {INVITE: Invite(INVITE, 100.0)}, OWNER)
    hosting = Hosting(Rules(DIGEST, **rules), journal or [], door)
    return Node(HOST, 1, Contact(HOST, ()), failure_timeout_s=TIMEOUT_S, hosting=hosting, limits=limits)


def member_node(key: bytes, incarnation: int = 1) -> Node:
    return Node(key, incarnation, CONTACT, failure_timeout_s=TIMEOUT_S, limits=SMALL)


def training(key: bytes, matching: Matching | None = None, app: FakeApp | None = None) -> Training:
    manifest = Manifest(DIGEST, DIGEST, DIGEST, "fp32", (SIZE,), "a model")
    name = key[:1].decode()
    return Training(Profile(name, (f"tcp://{name}:1",), manifest, 0, matching), app or FakeApp())


def header_of(link_header: object) -> bytes:
    """A frame without a message."""
    return pack_items([to_items(link_header)])


class Swarm:
    """Nodes whose frames arrive at once; `run` carries until all are silent."""

    def __init__(self, host: Node, *members: bytes, matching: Matching | None = None) -> None:
        self.nodes = {HOST: host}
        self.now = 0.0
        self.matching = matching
        self.apps: dict[bytes, FakeApp] = {}
        self.deaf: set[bytes] = set()
        """Members that hear the host only."""
        self.events: dict[bytes, list[Any]] = {HOST: []}
        self.traces: list[Trace] = []
        self.closed: list[tuple[bytes, bytes, str]] = []
        """By whom, whom, why."""
        self.sent: list[tuple[bytes, bytes]] = []
        self.journal: list[bytes] = []
        host.start(0.0)
        for key in members:
            self.join(key)

    def enter(self, key: bytes, incarnation: int) -> Node:
        """The node of an identity that may come in."""
        coordinator = self.nodes[HOST].coordinator
        assert coordinator is not None
        coordinator.certify(key, key[:1].decode())
        node = self.nodes[key] = member_node(key, incarnation)
        self.events[key] = []
        node.start(self.now)
        return node

    def join(self, key: bytes, incarnation: int = 1) -> Node:
        node = self.enter(key, incarnation)
        self.apps[key] = FakeApp()
        node.train(self.now, training(key, self.matching, self.apps[key]))
        self.run()
        return node

    def run(self, seconds: float = 0.0) -> None:
        self.now += seconds
        if seconds:
            for node in self.nodes.values():
                node.tick(self.now)
        while sum(self.carry(key, node) for key, node in self.nodes.items()):
            continue

    def carry(self, key: bytes, node: Node) -> int:
        effects = node.drain()
        for effect in effects:
            match effect:
                case Connect():
                    for lane in effect.numbers:
                        node.connected(self.now, effect.peer, lane)
                case Send() if effect.peer in self.nodes:
                    self.sent.append((key, effect.peer))
                    other = self.nodes[effect.peer]
                    if other.admits(key) and (key == HOST or effect.peer not in self.deaf):
                        other.receive(self.now, key, effect.lane, effect.header, effect.payload)
                case Deliver():
                    self.events[key].append(effect.event)
                case Close():
                    self.closed.append((key, effect.peer, effect.reason))
                case Store():
                    self.journal.append(effect.entry)
                case Trace():
                    self.traces.append(effect)
        return len(effects)

    def entries(self) -> list[Any]:
        """The journal, read again."""
        return [unpack(entry) for entry in self.journal]

    def seen(self, key: bytes, kind: type) -> list[Any]:
        return [event for event in self.events[key] if isinstance(event, kind)]

    def command(self, key: bytes, command: Any) -> bool:
        taken = self.nodes[key].command(self.now, command)
        self.run()
        return taken

    def seed(self, key: bytes) -> None:
        """The member gives the run its first state."""
        assert BecomeSeed() in self.events[key]
        self.command(key, ConfirmCaptured(0, DIGEST, check_of(DIGEST)))


def fetched(swarm: Swarm) -> Swarm:
    """The lower member has seeded the run, and the higher one fetches the state from it."""
    swarm.apps[LOW].states = [state_of(0)]
    swarm.command(LOW, ConfirmCaptured(0, name_of(state_of(0)), check_of(name_of(state_of(0)))))
    for _ in range(4):
        swarm.run(TIMEOUT_S / 8)
    return swarm
