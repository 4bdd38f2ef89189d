"""Whatever a message may hold can be relayed, journaled and restored.

Members say anything that a message takes, often about rounds, bases and heads that there are. All that the
coordinator says then fits a header and is taken by real members; what it journals leads another one to the
same state; and the status that it tells can be read.
"""

from __future__ import annotations

import random
from collections import Counter
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peers.coordinator.coordinator import Coordinator
from peers.coordinator.journal import read_entry
from peers.coordinator.rules import Rules
from peers.coordinator.status import RunStatus
from peers.member.member import Member
from peers.protocol import messages as said
from peers.protocol.fields import cut
from peers.protocol.manifest import Manifest
from peers.protocol.naming import StateNamed
from peers.protocol.profile import Matching, Profile
from peers.protocol.record import GENESIS
from tests.peers.member.fakes import PATIENCE_S, TIMEOUT_S, FakeApp, FakeOutlet
from transport.effects import Trace
from transport.errors import BadFrame
from transport.frames import Between, pack, pack_items, to_items, unpack, unpack_items
from transport.limits import LIMITS

LINK_HEADER_BYTES = 80
"""At most, beside each message."""
NUM_MEMBERS, NUM_FRAGMENTS = 4, 2
HOST, SETTINGS, ROOT = b"h" * 32, b"s" * 32, b"0" * 32
MANIFEST = Manifest(SETTINGS, SETTINGS, SETTINGS, "fp32", (8,) * NUM_FRAGMENTS, "a model")
SAID = [
    said.Ready,
    said.Withdraw,
    said.Done,
    said.Stuck,
    said.Decline,
    said.Applied,
    said.CaughtUp,
    said.Saved,
    said.NeedState,
    said.NewestRecord,
    said.Unusable,
    said.Report,
    said.Leave,
]
RELAYED = [
    "Open",
    "Abort",
    "Committed",
    "MemberIs",
    "MemberGone",
    "CatchUp",
    "Serve",
    "Seed",
    "Counted",
    "Rejected",
]
RELAYED += ["Entered", "Refused", "Finished", "Pace", "RosterBatch", "NameEvery"]
COUNTS: Counter[str] = Counter()
"""What the coordinators said, by kind."""


def key(index: int) -> bytes:
    return bytes([index]) * 32


class Run:
    """A coordinator, and a real member at the other end of each of its links."""

    def __init__(self, gossips: bool, journal: list[bytes]) -> None:
        self.now, self.journal = 0.0, journal
        self.said: list[tuple[bytes, bytes]] = []
        self.heard: dict[bytes, Member] = {}
        rules = Rules(SETTINGS, failure_timeout_s=TIMEOUT_S, grace_s=1.0, gossips=gossips, paces=True)
        self.core = Coordinator(HOST, rules, LIMITS, self)
        self.core.restore([read_entry(entry) for entry in journal])
        self.core.start(0.0)
        self.matching = Matching("pair") if gossips else None

    def member(self, peer: bytes) -> Member:
        if peer not in self.heard:
            profile = Profile("me", ("tcp://m:1",), MANIFEST, matching=self.matching)
            self.heard[peer] = Member(
                peer,
                HOST,
                profile,
                FakeApp(),
                FakeOutlet(),
                failure_timeout_s=TIMEOUT_S,
                patience_s=PATIENCE_S,
                limits=LIMITS,
            )
        return self.heard[peer]

    def send(self, now: float, peer: bytes, message: Any) -> None:
        header = pack(message)
        assert len(header) <= LIMITS.header_bytes - LINK_HEADER_BYTES
        COUNTS[type(message).__name__] += 1
        self.said.append((peer, header))

    def store(self, entry: bytes) -> None:
        self.journal.append(entry)

    def hear(self, peer: bytes, message: Any) -> None:
        """A message as it comes out of its bytes; the link of whoever says rubbish begins anew."""
        try:
            self.core.receive(self.now, peer, unpack(pack_items(to_items(message))))
        except BadFrame:
            self.core.session_began(self.now, peer)

    def arrive(self) -> None:
        """What was said comes to the members, and none of it is rubbish to them; nor is the journal."""
        for peer, header in self.said:
            self.member(peer).take_control(self.now, HOST, unpack(header))
        self.said.clear()
        for entry in self.journal:
            read_entry(entry)

    def forget(self, peer: bytes, reason: str) -> None: ...

    def trace(self, trace: Trace) -> None: ...

    def last_heard(self, now: float, peer: bytes) -> float:
        return now

    def decided(self) -> Any:
        """What must be the same for whoever reads the journal."""
        state, course = self.core.state, self.core.state.courses[0]
        chain, fragments = course.chain, range(NUM_FRAGMENTS)
        return (
            [(e.key, e.invite, e.has_place, e.kicked) for e in state.roster.entries.values()],
            (state.stopped, course.manifest, chain.head, chain.index, chain.num_rounds),
            [chain.base(fragment) for fragment in fragments],
            [chain.counted(each) for each in state.roster.entries],
        )


def any_text(rng: random.Random, low: int, high: int) -> str:
    """A text of so many bytes, or of so many characters, of one to four bytes a character."""
    character = rng.choice("a\xe9\u20ac\U0001f600")
    size = rng.choice([high, high, low, rng.randint(low, high)])
    return character * (size // rng.choice([1, len(character.encode())])) or "a" * low


def any_value(rng: random.Random, hint: Any) -> Any:
    """Any value that a field takes, its edges often."""
    bounds = Between(0, 1)
    if get_origin(hint) is Annotated:
        hint, bounds, *fits = get_args(hint)
        if fits:  # of texts, only addresses are more than text
            longest = f"tcp://{'a' * int(bounds.high - 8)}:1"
            return fits[0].example if len(any_text(rng, 1, 64)) == 1 else longest
    low, high = bounds.low, bounds.high
    if get_origin(hint) is tuple:
        size = rng.choice([int(low), int(high), rng.randint(int(low), min(int(high), 3))])
        return tuple(any_value(rng, get_args(hint)[0]) for _ in range(size))
    if hint is bool:
        return rng.random() < 0.5
    if hint is int:
        return rng.choice([int(low), int(high), rng.randint(int(low), int(high))])
    if hint is float:
        return float(rng.choice([low, high, rng.uniform(low, high), rng.uniform(low, 10.0)]))
    if hint is str:
        return any_text(rng, int(low), int(high))
    return rng.randbytes(rng.choice([int(low), int(high)]))


def meant(run: Run) -> dict[str, list[Any]]:
    """By field: what means something in this run at this moment."""
    course = run.core.state.courses[0]
    rounds = list(course.rounds.values())
    heads = [course.chain.head, *(course.chain.base(fragment) for fragment in range(NUM_FRAGMENTS))]
    return {
        "fragment": list(range(NUM_FRAGMENTS)),
        "base": heads,
        "version": heads,
        "head": [*heads, ROOT],
        "serial": [each.serial for each in rounds],
        "attempt": [each.attempt for each in rounds],
        "digest": [b"r" * 32],
        "state": [b"d" * 32],
        "number": [1, 2],
        "peers": [(key(index),) for index in range(NUM_MEMBERS)],
    }


def any_message(rng: random.Random, run: Run, cls: type) -> Any:
    """A message; what means something is in it more often than not."""
    known, values = meant(run), []
    for name, hint in get_type_hints(cls, include_extras=True).items():
        some = known.get(name)
        values.append(rng.choice(some) if some and rng.random() < 0.9 else any_value(rng, hint))
    return cls(*values)


def any_enter(rng: random.Random, run: Run) -> Any:
    hints = get_type_hints(said.Enter, include_extras=True)
    drawn = {each: any_value(rng, hints[each]) for each in ("name", "addresses", "model", "stage")}
    m, head = MANIFEST, rng.choice([GENESIS, ROOT, run.core.state.courses[0].chain.head])
    codec = m.codec if rng.random() < 0.8 else any_value(rng, hints["codec"])
    model = {"settings": m.settings, "tensors": m.tensors, "shapes": m.shapes, "elements": m.elements}
    here = {"protocol": said.PROTOCOL, "head": head, "holds_state": rng.random() < 0.5, "codec": codec}
    return said.Enter(**{**drawn, **model, **here})


def settle(run: Run) -> None:
    """All members hold the head."""
    course = run.core.state.courses[0]
    for entry in run.core.roster.entered():
        for fragment in range(NUM_FRAGMENTS):
            version = course.chain.base(fragment)
            run.hear(entry.key, said.Applied(fragment, version, b"d" * 16))
            run.hear(entry.key, StateNamed(fragment, version, b"d" * 32))
        run.hear(entry.key, said.CaughtUp(course.chain.head if course.chain.index else ROOT))


def offer(rng: random.Random, run: Run) -> None:
    """All members offer the same fragment, each with any weight and norm."""
    course, fragment = run.core.state.courses[0], rng.randrange(NUM_FRAGMENTS)
    hints = get_type_hints(said.Ready, include_extras=True)
    for entry in run.core.roster.entered():
        weight, tokens = any_value(rng, hints["weight"]), any_value(rng, hints["tokens"])
        norm = rng.choice([1.0, 1.0, any_value(rng, hints["norm"])])
        run.hear(entry.key, said.Ready(fragment, course.chain.base(fragment), tokens, weight, 1, norm))


def finish_rounds(run: Run) -> None:
    """All who are in a round hold its result."""
    for current in list(run.core.state.courses[0].rounds.values()):
        for each in current.members:
            run.hear(each, said.Done(current.serial, current.attempt, b"r" * 32))


def disturb_rounds(rng: random.Random, run: Run) -> None:
    """In each round somebody gives up, or accuses somebody, at any length."""
    hints = get_type_hints(said.Decline, include_extras=True)
    for current in list(run.core.state.courses[0].rounds.values()):
        teller, other = rng.sample(current.members, 2)
        reason = cut(any_value(rng, hints["reason"]))
        declined = said.Decline(current.serial, reason)
        run.hear(
            teller, rng.choice([declined, said.Stuck(current.serial, current.attempt, (other,), reason)])
        )


def act(rng: random.Random, run: Run) -> None:
    peer, what = key(rng.randrange(NUM_MEMBERS)), rng.random()
    run.now += 0.1
    if what < 0.6:
        run.hear(peer, any_message(rng, run, rng.choice([*SAID, said.Ready, said.Ready])))
    elif what < 0.7:
        name, invite = cut(any_text(rng, 0, 64), 64), rng.choice([b"", b"i" * 32])
        run.core.admit(run.now, peer, name, invite, rng.choice([0, 1 << 31]))
        run.hear(peer, any_enter(rng, run))
    elif what < 0.74:
        settle(run)
    elif what < 0.8:
        offer(rng, run)
    elif what < 0.86:
        finish_rounds(run)
    elif what < 0.9:
        disturb_rounds(rng, run)
    elif what < 0.98:
        run.now += rng.choice([1.0, 30.0])
        run.core.tick(run.now)
    elif what < 0.9998:
        pack(run.core.kick(run.now, cut(any_text(rng, 1, 96), 96)))
    else:
        pack(run.core.stop(run.now))


def ran(gossips: bool, seed: int) -> Run:
    """A run whose members have said many things."""
    run, rng = Run(gossips, []), random.Random(seed)
    for index in range(NUM_MEMBERS):
        run.core.certify(key(index), f"w{index}")
        profile = Profile(f"w{index}", ("tcp://m:1",), MANIFEST)
        run.hear(key(index), profile.enter(GENESIS, False))
    settle(run)
    for _ in range(150):
        act(rng, run)
        run.arrive()
    return run


@pytest.mark.parametrize("gossips", [False, True])
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 1 << 32))
def test_whatever_is_taken_can_be_relayed_journaled_and_restored(gossips: bool, seed: int) -> None:
    run = ran(gossips, seed)
    status = pack_items(run.core.status(run.now).plain())
    RunStatus.from_plain(unpack_items(status, size=1 << 20))
    run.core.state.mode.flush(run.now + 60.0)
    before = run.decided()
    assert Run(gossips, list(run.journal)).decided() == before


def test_every_word_of_the_coordinator_was_said() -> None:
    COUNTS.clear()
    for seed in range(60):
        ran(seed % 10 == 0, seed)
    assert all(COUNTS[each] for each in RELAYED), COUNTS
