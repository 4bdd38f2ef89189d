"""Two links over the simulated network: exactly once under resets, cuts, freezes, partitions and restarts."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Annotated

import pytest

from transport.effects import Core, Effect, Payload
from transport.frames import Between, Count, kind, unpack_items
from transport.limits import Limits
from transport.link.link import Link
from transport.link.messages import Arrival, Session, Started
from transport.link.streams import FRAME_COST
from transport.simnet.network import Access, SimNetwork

A, B = b"a" * 32, b"b" * 32


@kind(1200)
@dataclass(frozen=True, slots=True)
class Word:
    number: Count
    life: Annotated[str, Between(0, 16)]


def limits_with(lanes: int) -> Limits:
    window = 32 * 1024
    return Limits(
        lanes=lanes, window_bytes=window, spare_bytes=window, payload_bytes=2048, control_queue=4096
    )


class Talker:
    """A core of one link: it says numbered words, and begins again at 0 when the other end does."""

    def __init__(self, me: bytes, incarnation: int, limits: Limits, *, dials: bool, consumes: bool) -> None:
        self.out: list[Effect] = []
        self.limits = limits
        self.link = Link(
            B if me == A else A,
            Session(incarnation, 1),
            dials=dials,
            addresses=("there",),
            heartbeat_s=0.5,
            silence_s=2.0,
            limits=limits,
            out=self.out,
        )
        self.me, self.consumes = me, consumes
        self.life = f"{me[:1].decode()}{incarnation}.0"
        self.said, self.sent_bulk = 0, 0
        self.waiting: deque[int] = deque()
        self.control: list[Word] = []
        self.bulk: list[Word] = []
        self.held = 0

    def start(self, now: float) -> None:
        self.link.start(now)

    def connected(self, now: float, peer: bytes, lane: int) -> None:
        self.link.connected(now, lane)

    def disconnected(self, now: float, peer: bytes, lane: int) -> None:
        self.link.disconnected(now, lane)

    def ended(self, now: float, peer: bytes, lane: int) -> None:
        self.link.ended(now, lane)

    def refused(self, now: float, peer: bytes) -> None:
        """A link learns nothing from it."""

    def receive(self, now: float, peer: bytes, lane: int, header: bytes, payload: Payload | None) -> None:
        for result in self.link.receive(now, lane, unpack_items(header, self.limits), payload):
            if isinstance(result, Started):
                self._begin_again(first=result.first)
            elif isinstance(result, Arrival):
                self._arrived(now, result)
        self.pump(now)

    def _begin_again(self, *, first: bool) -> None:
        self.control, self.bulk, self.held = [], [], 0
        if not first:
            self.life = f"{self.life.split('.')[0]}.{int(self.life.split('.')[1]) + 1}"
            self.said = self.sent_bulk = 0
            self.waiting.clear()

    def _arrived(self, now: float, arrival: Arrival) -> None:
        if arrival.payload is None:
            self.control.append(arrival.message)
            return
        self.bulk.append(arrival.message)
        assert arrival.payload == bytes([arrival.message.number % 256]) * len(arrival.payload)
        self.held += arrival.cost
        assert self.held <= self.limits.largest_window, "more than the credit is held"
        if self.consumes:
            self.consume(now)

    def consume(self, now: float) -> None:
        self.link.streams.consumed(now, self.held)
        self.held = 0

    def say(self, now: float) -> None:
        self.link.send_control(now, Word(self.said, self.life))
        self.said += 1

    def offer(self, now: float, size: int) -> None:
        self.waiting.append(size)
        self.pump(now)

    def pump(self, now: float) -> None:
        while self.waiting and self.link.streams.room() >= self.waiting[0]:
            payload = bytes([self.sent_bulk % 256]) * self.waiting.popleft()
            self.link.streams.send_bulk(now, Word(self.sent_bulk, self.life), payload, "exchange")
            self.sent_bulk += 1
        kept = self.link.streams.kept().bulk_out_cost
        assert kept <= self.limits.largest_window, "more than a window is kept for retransmission"

    def knock(self, now: float, invite: bytes, header: bytes) -> tuple[bytes, bytes] | None:
        return None

    def admits(self, key: bytes) -> str | None:
        return "member"

    def expel(self, now: float, peer: bytes, reason: str) -> None:
        raise AssertionError("no input fails here")

    def tick(self, now: float) -> None:
        self.link.tick(now)

    def deadline(self) -> float | None:
        return self.link.deadline()

    def drain(self) -> list[Effect]:
        out = self.out[:]
        self.out.clear()
        return out

    def digest(self) -> str:
        return repr(self.link.digest_parts())


class Chat:
    """Two talkers and everything that may happen to them, drawn from one seed."""

    def __init__(self, seed: int, *, lanes: int = 1, consumes: bool = True, both_dial: bool = False) -> None:
        self.net = SimNetwork(seed)
        self.rng = self.net.stream("chat")
        self.limits = limits_with(lanes)
        self.consumes = consumes
        self.dialers = (A, B) if both_dial else (A,)
        self.lives = {A: 0, B: 0}
        self.talkers: dict[bytes, Talker] = {}
        for key in (A, B):
            self.restart(key)

    def restart(self, key: bytes) -> None:
        if key in self.talkers:
            self.net.crash(key)
        self.lives[key] += 1
        talker = Talker(key, self.lives[key], self.limits, dials=key in self.dialers, consumes=self.consumes)
        self.talkers[key] = talker
        access = Access(self.rng.uniform(2e4, 2e6), self.rng.uniform(2e4, 2e6), 0.02, 0.5)
        self.net.add(key, talker, access, lambda now, event: None)

    def act(self, *, restarts: bool) -> None:
        """Something is said, or goes wrong."""
        key, action = self.rng.choice((A, B)), self.rng.random()
        talker = self.talkers[key]
        if action < 0.4:
            self.net.command(key, lambda core, now: talker.say(now))
        elif action < 0.8:
            size = self.rng.choice((0, 1, 500, 2048))
            self.net.command(key, lambda core, now: talker.offer(now, size))
        elif action < 0.9:
            self.net.command(key, lambda core, now: talker.consume(now))
        else:
            self.fail(key, restarts=restarts)

    def fail(self, key: bytes, *, restarts: bool) -> None:
        faults = ["reset", "freeze", "partition", "heal", "restart"]
        match faults[self.rng.randrange(5 if restarts else 4)]:
            case "reset":
                self.net.reset(A, B)
            case "freeze" if self.net.peers[key].frozen:
                self.net.thaw(key)
            case "freeze":
                self.net.freeze(key)
            case "partition":
                self.net.partition([[A], [B]])
            case "heal":
                self.net.heal()
            case _:
                self.restart(key)

    def calm_down(self) -> None:
        self.net.heal()
        for key in (A, B):
            if self.net.peers[key].frozen:
                self.net.thaw(key)
        for _ in range(60):
            self.net.run(self.net.now + 1.0)
            for key in self.talkers:
                self.net.command(key, self._consume_and_pump)

    @staticmethod
    def _consume_and_pump(core: Core, now: float) -> None:
        assert isinstance(core, Talker)
        core.consume(now)
        core.pump(now)

    def check(self) -> None:
        """What one end said since the link's present session began is what the other end has."""
        for one, other in ((A, B), (B, A)):
            sender, receiver = self.talkers[one], self.talkers[other]
            assert not sender.waiting
            assert receiver.control == [Word(i, sender.life) for i in range(sender.said)]
            assert sorted(receiver.bulk, key=lambda word: word.number) == [
                Word(i, sender.life) for i in range(sender.sent_bulk)
            ]


@pytest.mark.parametrize("lanes", [1, 3])
@pytest.mark.parametrize("restarts", [False, True])
@pytest.mark.parametrize("both_dial", [False, True])
def test_everything_said_arrives_once_whatever_happens(lanes: int, restarts: bool, both_dial: bool) -> None:
    total = 0
    for seed in range(12):
        chat = Chat(seed, lanes=lanes, consumes=seed % 3 > 0, both_dial=both_dial)
        for _ in range(250):
            chat.net.run(chat.net.now + chat.rng.random() * 0.2)
            chat.act(restarts=restarts)
        chat.calm_down()
        chat.check()
        total += sum(talker.said + talker.sent_bulk for talker in chat.talkers.values())
        if not restarts:
            assert {talker.life for talker in chat.talkers.values()} == {"a1.0", "b1.0"}
    assert total > 300


@pytest.mark.parametrize("later_s", [0.0, 0.03, 0.1, 0.2, 0.29])
def test_when_both_ends_dial_each_other_nothing_is_sent_twice(later_s: float) -> None:
    """The later one dials before it hears the greeting of the other, which comes after 3 latencies."""
    net, limits, size, num = SimNetwork(1), limits_with(2), 2048, 20
    talkers: dict[bytes, Talker] = {}

    def begin(key: bytes, dials: bool) -> None:
        talkers[key] = Talker(key, 1, limits, dials=dials, consumes=True)
        net.add(key, talkers[key], Access(1e6, 1e6, 0.05, 0.0), lambda now, event: None)
        for _ in range(num):
            net.command(key, lambda core, now: talkers[key].offer(now, size))

    begin(B, dials=False)
    begin(A, dials=True)
    net.run(later_s)
    talkers[B].link.dials = True
    net.command(B, lambda core, now: talkers[B].start(now))
    net.run(3.0)
    assert [len(talkers[key].bulk) for key in (A, B)] == [num, num]
    assert not net.sent_again
    for key in (A, B):
        assert num * size < net.peers[key].sent["exchange"] < num * (size + 100)


def test_one_lane_that_stays_down_holds_nothing_up_and_bounds_what_is_kept_and_remembered() -> None:
    chat = Chat(1, lanes=2)
    chat.net.run(1.0)
    a, b = chat.talkers[A], chat.talkers[B]
    for talker in (a, b):
        talker.link.disconnected(1.0, 2)
    for _ in range(2000):
        chat.net.command(A, lambda core, now: a.offer(now, 500))
    max_frames = chat.limits.largest_window // FRAME_COST
    for second in range(2, 120):
        chat.net.run(float(second))
        assert a.link.streams.kept().bulk_out <= max_frames
        assert b.link.streams.kept().bulk_seen <= max_frames
    assert len(b.bulk) == a.sent_bulk == 2000
    chat.calm_down()
    chat.check()


def test_a_seed_replays() -> None:
    def run(seed: int) -> tuple[str, str]:
        chat = Chat(seed)
        for _ in range(100):
            chat.net.run(chat.net.now + chat.rng.random() * 0.2)
            chat.act(restarts=True)
        return chat.net.trace_hash(), chat.talkers[A].digest()

    assert run(3) == run(3)
    assert run(3) != run(4)


def test_a_full_link_carries_close_to_what_the_slower_rate_allows() -> None:
    chat = Chat(5)
    chat.net.run(1.0)
    a, num = chat.talkers[A], 600
    slower = min(chat.net.peers[A].access.up, chat.net.peers[B].access.down)
    for _ in range(num):
        chat.net.command(A, lambda core, now: a.offer(now, 2048))
    done = chat.net.run(600.0, lambda: len(chat.talkers[B].bulk) == num)
    assert done
    assert chat.net.now - 1.0 <= 1.5 * num * 2048 / slower + 1.0
