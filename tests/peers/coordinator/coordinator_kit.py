"""A coordinator, and imagined members that say what a test wants: for the tests of this folder."""

from __future__ import annotations

from typing import Any

from peers.coordinator.chain import Chain
from peers.coordinator.coordinator import Coordinator
from peers.coordinator.judgement import Court
from peers.coordinator.rules import Rules
from peers.protocol.messages import PROTOCOL, Applied, CaughtUp, Enter, Open, Ready, Report
from peers.protocol.naming import StateNamed
from peers.protocol.placing import AskStage, StageIs
from peers.protocol.record import GENESIS
from tests.peers.member.fakes import check_of
from transport.effects import Trace
from transport.frames import unpack
from transport.limits import LIMITS, Limits

SETTINGS = b"s" * 32
ROOT = b"0" * 32
RESULT = b"r" * 32


def key(index: int) -> bytes:
    return bytes([index]) * 32


class Swarm:
    """A coordinator, and what it says to imagined members."""

    def __init__(
        self,
        journal: list[bytes] | None = None,
        court: Court | None = None,
        limits: Limits = LIMITS,
        **rules: Any,
    ) -> None:
        self.said: list[tuple[bytes, Any]] = []
        self.journal = journal if journal is not None else []
        self.silent: dict[bytes, float] = {}
        self.traces: list[Trace] = []
        self.events: list[Any] = []
        self.now = 0.0
        self.core = Coordinator(key(255), Rules(SETTINGS, **rules), limits, self, court)
        self.core.restore([unpack(entry) for entry in self.journal])
        self.core.start(0.0)

    @property
    def chain(self) -> Chain:
        """The chain of the only course, or of the first stage's."""
        return self.core.state.courses[0].chain

    # Outlet

    def send(self, now: float, peer: bytes, message: Any) -> None:
        self.said.append((peer, message))

    def forget(self, peer: bytes, reason: str) -> None: ...

    def store(self, entry: bytes) -> None:
        self.journal.append(entry)

    def deliver(self, event: object) -> None:
        self.events.append(event)

    def trace(self, trace: Trace) -> None:
        self.traces.append(trace)

    def last_heard(self, now: float, peer: bytes) -> float:
        return self.silent.get(peer, now)

    # members

    def hear(self, index: int, message: Any) -> None:
        self.core.receive(self.now, key(index), message)

    def enter(self, index: int, addresses: tuple[str, ...] = ("tcp://a:1",), **changes: Any) -> None:
        self.core.certify(key(index), f"w{index}")
        self.greet(index, addresses, **changes)

    def join_stage(self, index: int, stage: int, **changes: Any) -> None:
        """Somebody who was let in wishes for a stage, is given it, and enters with it."""
        self.core.certify(key(index), f"w{index}")
        self.hear(index, AskStage(0, stage))
        assert self.told(index, StageIs)[-1] == StageIs(stage)
        self.greet(index, stage=stage, **changes)

    def greet(self, index: int, addresses: tuple[str, ...] = ("tcp://a:1",), **changes: Any) -> None:
        """A member that was at the door, some day, says that it is here."""
        fields = {
            "protocol": PROTOCOL,
            "name": f"w{index}",
            "addresses": addresses,
            "stage": 0,
            "head": GENESIS,
            "holds_state": False,
            "settings": SETTINGS,
            "tensors": SETTINGS,
            "shapes": SETTINGS,
            "codec": "fp32",
            "elements": (100,),
            "model": "a model",
        }
        self.hear(index, Enter(**{**fields, **changes}))

    def hold(self, index: int, version: bytes = ROOT, digest: bytes = b"d" * 32) -> None:
        self.applied(index, version, digest)
        self.hear(index, CaughtUp(version))

    def applied(self, index: int, version: bytes, digest: bytes, fragment: int = 0) -> None:
        """A member that holds a state says so, and names it at once."""
        self.hear(index, Applied(fragment, version, check_of(digest)))
        self.hear(index, StateNamed(fragment, version, digest))

    def ready(
        self, index: int, tokens: int = 8, norm: float = 1.0, fragment: int = 0, stage: int = 0
    ) -> None:
        base = self.core.state.courses[stage].chain.base(0)
        self.hear(index, Ready(fragment, base, tokens, tokens, 1, norm))

    def told(self, index: int, kind: type) -> list[Any]:
        return [message for peer, message in self.said if peer == key(index) and type(message) is kind]

    def later(self, seconds: float) -> None:
        self.now += seconds
        self.core.tick(self.now)


def trained(num_members: int, **rules: Any) -> Swarm:
    """Members 1 to n, active at the run's first state."""
    swarm = Swarm(**rules)
    for index in range(1, num_members + 1):
        swarm.enter(index)
        swarm.hold(index)
    return swarm


def opened(swarm: Swarm, *indexes: int) -> Open:
    for index in indexes:
        swarm.ready(index)
    found = swarm.told(indexes[0], Open)[-1]
    assert isinstance(found, Open)
    return found


def speed(tokens_per_second: float, rounds: int = 0) -> Report:
    return Report(1, rounds, 8, 1.0, True, 0.0, tokens_per_second, 0, 0, 0)
