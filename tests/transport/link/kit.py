"""Both ends of a link over connections that a test may break, for the tests of this folder."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Annotated

from transport.effects import Effect, Send
from transport.frames import Between, Count, from_items, kind, to_items, unpack_items
from transport.limits import Limits
from transport.link.link import Link
from transport.link.messages import Ack, Arrival, Session

LIMITS = Limits(
    window_bytes=8 * 1024,
    buffer_bytes=64 * 1024,
    spare_bytes=8 * 1024,
    payload_bytes=1024,
    control_per_second=50,
)


@kind(1100)
@dataclass(frozen=True, slots=True)
class Note:
    number: Count
    text: Annotated[str, Between(0, 16)]


class End:
    """One end of a link and what arrived there."""

    def __init__(
        self, name: bytes, other: bytes, incarnation: int, generation: int = 1, *, dials: bool
    ) -> None:
        self.out: list[Effect] = []
        self.link = Link(
            other,
            Session(incarnation, generation),
            dials=dials,
            addresses=(),
            heartbeat_s=0.5,
            silence_s=2.0,
            limits=LIMITS,
            out=self.out,
        )
        self.control: list[int] = []
        self.bulk: list[int] = []
        self.events: list[object] = []
        self.consumes = True


class Pair:
    """Two ends over connections that a test may break."""

    def __init__(self, incarnations: tuple[int, int] = (5, 5)) -> None:
        self.now = 0.0
        self.a = End(b"a", b"b", incarnations[0], dials=True)
        self.b = End(b"b", b"a", incarnations[1], dials=False)
        self.wire: deque[tuple[End, Send]] = deque()
        self.up = True
        self.a.link.start(0.0)
        self.connect()

    def other(self, end: End) -> End:
        return self.b if end is self.a else self.a

    def connect(self) -> None:
        self.up = True
        for lane in (0, 1):
            self.a.link.connected(self.now, lane)
        self.collect()

    def reset(self) -> None:
        """What is in flight is lost; the dialer notices and dials again."""
        self.wire.clear()
        for lane in (0, 1):
            self.a.link.disconnected(self.now, lane)
        self.collect()
        self.wire.clear()
        self.connect()

    def collect(self) -> None:
        for end in (self.a, self.b):
            self.wire.extend((end, e) for e in end.out if isinstance(e, Send))
            end.out.clear()

    def step(self) -> bool:
        """Deliver one frame."""
        self.collect()
        if not self.wire:
            return False
        sender, send = self.wire.popleft()
        end = self.other(sender)
        for result in end.link.receive(self.now, send.lane, unpack_items(send.header), send.payload):
            if not isinstance(result, Arrival):
                end.events.append(result)
            elif result.payload is None:
                end.control.append(result.message.number)
            else:
                end.bulk.append(result.message.number)
                if end.consumes:
                    end.link.streams.consumed(self.now, result.cost)
        self.collect()
        return True

    def deliver(self) -> None:
        while self.step():
            pass

    def settle(self) -> None:
        for _ in range(4):
            self.deliver()
            self.now += 0.6
            for end in (self.a, self.b):
                end.link.tick(self.now)


def grant_everything(pair: Pair) -> None:
    """Let b say that it grants more than it does."""
    a, b = pair.a.link, pair.b.link
    a.receive(pair.now, 0, [to_items(Ack(*b.session, *a.session, 0, 0, 1 << 40, 0))], None)


def settled() -> Pair:
    """Two ends that have greeted, and nothing on the way."""
    pair = Pair()
    pair.settle()
    pair.deliver()
    return pair


def components_of(end: End) -> list[type]:
    """The kinds of what an end has said and the other did not get yet."""
    return [type(from_items(unpack_items(e.header)[0])) for e in end.out if isinstance(e, Send)]
