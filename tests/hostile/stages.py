"""Moments of a run in which a member may turn hostile: its state at the host, and what its round is doing.

A swarm of production cores is played in virtual time, with a worker that comes first, dies, comes back and is
left out. At the first moment of each kind the host and an honest member are stopped and kept as copies, with
what a hostile member would know then: keys, heads, serials, and the last message of each kind.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from peers.coordinator.roster import MemberState
from peers.node import Node
from tests.hostile.copies import frozen
from tests.sim.doors import HOST, key_of
from tests.sim.world import World
from transport.errors import BadFrame
from transport.frames import from_items, pack_items, unpack_items

HOSTILE = 4
HOSTILE_KEY = key_of(HOSTILE)
HONEST = (0, 1, 2, 3)
TARGETS = ("host", "member")


class HeardNode(Node):
    """It remembers the last frame of each lane of each peer, and of each kind of message."""

    def receive(self, now: float, peer: bytes, lane: int, header: bytes, payload: Any) -> None:
        self.heard: dict[tuple[bytes, int], list[Any]] = getattr(self, "heard", {})
        try:
            items = unpack_items(header, self.limits)
            said = from_items(items[-1])
        except BadFrame:
            pass
        else:
            if len(items) == 2 or (peer, lane) not in self.heard:
                self.heard[peer, lane] = items
            LAST_SAID[type(said)] = (said, None if payload is None else len(payload))
        super().receive(now, peer, lane, header, payload)


LAST_SAID: dict[type, tuple[Any, int | None]] = {}
"""By kind: the last message of the world that is played, and how long the payload beside it was."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One moment. ``copies`` make a fresh core of a target, as it was."""

    state: str
    phase: str
    now: float
    copies: dict[str, Callable[[], Node]]
    said: dict[type, tuple[Any, int | None]] = field(repr=False)
    known: dict[type, tuple[Any, ...]] = field(repr=False)
    """By type: values that mean something just now."""
    present: dict[str, int] = field(repr=False)
    """By the name of a field: its value in what is under way."""

    @property
    def name(self) -> str:
        return f"{self.state}, {self.phase}"


def phase_of(world: World) -> str:
    """What the rounds of the run do."""
    coordinator = world.host.coordinator
    assert coordinator is not None
    course = coordinator.state.courses[0]
    mine = [each for each in course.rounds.values() if HOSTILE_KEY in each.members]
    if any(each.done for each in mine):
        return "some are done"
    if mine:
        return "its round is open"
    if course.rounds:
        return "a round without it is open"
    return "offers wait" if course.ready_since else "no round"


def known_in(world: World) -> dict[type, tuple[Any, ...]]:
    """Numbers and names that are in use."""
    coordinator = world.host.coordinator
    assert coordinator is not None
    course = coordinator.state.courses[0]
    serials = [each.serial for each in course.rounds.values()] or [(1 << 32) + 1]
    heads = [course.chain.head, *(course.chain.base(f) for f in range(2))]
    digests = [d for e in coordinator.roster.entries.values() for pair in e.checks.values() for d in pair]
    keys = [*(key_of(i) for i in HONEST), key_of(HOST), HOSTILE_KEY]
    return {
        int: (serials[0], serials[0] + 1, serials[0] - 1, 0, 1, 2, 1000, 1001, 2000, 1 << 62),
        bytes: (*keys, *heads, *digests[:6], bytes(32)),
        float: (0.0, 1.0, -1.0, 1e18, 1e300, 5e-324),
        str: ("", "w1", "tcp://w1:1", "tcp://host:1", "a value is not finite"),
        bool: (False, True),
    }


STATES = [state.value for state in MemberState]
NEVER_TOGETHER = {
    ("seeding", "offers wait"),
    ("seeding", "a round without it is open"),
    ("waiting for state", "a round without it is open"),
    ("waiting for state", "offers wait"),
    *((state, phase) for state in STATES[:4] for phase in ("its round is open", "some are done")),
}
"""No round has a member that is not active; none is open before the first state is there, and from then on
nobody waits for donors: they are named at once, for in these worlds nobody disputes a state."""
PHASES = ("no round", "offers wait", "a round without it is open", "its round is open", "some are done")


def _play(seed: int) -> World:
    world = World(seed, 0, sizes=(300, 64), make_node=HeardNode)
    world.hostile = {HOSTILE}
    first = HOSTILE if seed % 2 == 0 else 0
    for index in (first, HOSTILE):
        world.start_worker(index)
    for index in HONEST:
        world.net.at(2.0 + 0.3 * index, lambda index=index: world.start_worker(index))
    for at_s in range(8, 40, 8):
        world.net.at(float(at_s), lambda: world.crash(HOSTILE))
        world.net.at(at_s + 3.1, lambda: world.start_worker(HOSTILE))
    world.net.at(33.0, lambda: world.net.freeze(HOSTILE_KEY))
    world.net.at(34.5, lambda: world.net.thaw(HOSTILE_KEY))
    return world


@cache
def stages() -> tuple[Stage, ...]:
    """The first moment of every state and phase that can be together."""
    found: dict[str, Stage] = {}
    wanted = len(STATES) * len(PHASES) - len(NEVER_TOGETHER)
    for seed in range(12):
        LAST_SAID.clear()
        world = _play(seed)
        for millisecond in range(1, 40_000):
            world.net.run(millisecond / 1000)
            _look(world, found)
            if len(found) == wanted:
                return tuple(found[name] for name in sorted(found))
    raise AssertionError(f"only these moments came: {sorted(found)}")


def _look(world: World, found: dict[str, Stage]) -> None:
    coordinator = world.host.coordinator
    assert coordinator is not None
    entry = coordinator.roster.entries.get(HOSTILE_KEY)
    if entry is None:
        return
    state, phase = entry.member_state.value, phase_of(world)
    rounds = coordinator.state.courses[0].rounds.values()
    enough = all(len(set(each.members) - {HOSTILE_KEY}) >= 3 for each in rounds)
    if f"{state}, {phase}" in found or not enough:
        return
    others = [world.workers[i] for i in HONEST if i in world.workers]
    others = [each for each in others if HOSTILE_KEY in each.node.links.by_peer] or others
    if not others and state != "seeding":
        return
    cores = {"host": world.host, "member": others[0].node if others else world.workers[HOSTILE].node}
    copies = {target: frozen(core) for target, core in cores.items()}
    if not others:
        del copies["member"]  # nobody else is here
    known = known_in(world)
    present = {"serial": known[int][0], "attempt": 0, "fragment": 0}
    for current in rounds:
        if HOSTILE_KEY in current.members:
            present = {"serial": current.serial, "attempt": current.attempt, "fragment": current.fragment}
    said = dict(LAST_SAID)
    found[f"{state}, {phase}"] = Stage(state, phase, world.net.now, copies, said, known, present)


class Speaker:
    """The hostile end of its link to one core: frames with the right sessions and the next number."""

    def __init__(self, core: Node, now: float) -> None:
        self.core = core
        self.now = now
        heard = getattr(core, "heard", {})
        self._last = {lane: heard.get((HOSTILE_KEY, lane)) for lane in (0, 1)}
        self._stands = HOSTILE_KEY in core.links.by_peer and self._last[0] is not None

    def link_items(self, lane: int) -> list[Any]:
        """The part of a frame before the message: what an `Ack` of the next frame would be."""
        if not self._stands:
            self._greet()
        last, here = self._last[lane], self.core.links.by_peer.get(HOSTILE_KEY)
        if here is None:
            return [2, 5000, 1, 0, 0, 0, 0, 1 << 20, 1]
        seq = last[0][8] if last is not None and len(last) == 2 and len(last[0]) == 9 else 0
        first = self._last[0] or [[2, 5000, 1]]
        return [2, *first[0][1:3], *here.session, 0, 0, 1 << 24, seq + 1]

    def say(self, lane: int, header: bytes, payload: Any) -> None:
        self.core.receive(self.now, HOSTILE_KEY, lane, header, payload)

    def _greet(self) -> None:
        """Whoever is admitted and has no link here gets one by greeting."""
        for lane in (0, 1, 0, 1):
            here = self.core.links.by_peer.get(HOSTILE_KEY)
            session = here.session if here is not None else (0, 0)
            hello = [1, 5000, 1, *session, 0, 0, 1 << 24, False]
            self.say(lane, pack_items([hello]), None)
            self._last[lane] = [hello]
        self._stands = True
        self.core.drain()
