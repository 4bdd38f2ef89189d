"""Stages of one run, through nodes: each joiner is told its stage, and nobody hears of another's rounds."""

from __future__ import annotations

from typing import Any

import pytest

from peers.node import Node
from peers.protocol.commands import ConfirmCaptured, Offer
from peers.protocol.events import (
    BecameActive,
    BecomeSeed,
    EntryRefused,
    PeersJoined,
    RoundCommitted,
    StageAssigned,
)
from peers.protocol.manifest import Manifest
from peers.protocol.messages import Committed, MemberIs, Open
from peers.protocol.placing import AskStage, StageIs
from peers.protocol.profile import Profile
from peers.protocol.record import Record
from peers.protocol.traces import BadFrameTrace
from peers.seats import Training
from tests.peers.member.fakes import SIZE, FakeApp, check_of, name_of, state_of, vector
from tests.peers.node_kit import DIGEST, HOST, TIMEOUT_S, Swarm, host_node, member_node
from transport.effects import Close, Trace
from transport.frames import pack, unpack

A, B, C = b"a" * 32, b"b" * 32, b"c" * 32


class Stages(Swarm):
    """A host of a run of two stages, and workers that ask it before they build anything."""

    def __init__(self, *members: bytes, **rules: Any) -> None:
        self.stage_of: dict[bytes, int] = {}
        super().__init__(host_node(**{"stages": 2, "min_peers": 1, **rules}), *members)

    def join(self, key: bytes, incarnation: int = 1) -> Node:
        node = self.enter(key, incarnation)
        node.ask_stage(self.now, key[:1].decode())
        self.run()
        told = self.seen(key, StageAssigned)
        if told:
            self.begin(key, told[-1].stage)
        return node

    def begin(self, key: bytes, stage: int) -> None:
        self.stage_of[key] = stage
        self.apps[key] = FakeApp()
        manifest = Manifest(DIGEST, DIGEST, DIGEST, "fp32", (SIZE,), f"part {stage}")
        profile = Profile(key[:1].decode(), ("tcp://x:1",), manifest, stage)
        self.nodes[key].train(self.now, Training(profile, self.apps[key]))
        self.run()
        if BecomeSeed() in self.events[key]:
            self.apps[key].states = [state_of(stage)]
            name = name_of(state_of(stage))
            self.command(key, ConfirmCaptured(0, name, check_of(name)))

    def say(self, key: bytes, message: Any, by: bytes = HOST) -> None:
        """Somebody says that to a member, over its link."""
        self.nodes[by].send(self.now, key, message)
        self.run()

    def refused(self) -> list[str]:
        return [trace.reason for trace in self.traces if isinstance(trace, BadFrameTrace)]


def test_each_stage_commits_rounds_of_its_own_under_one_host() -> None:
    swarm = Stages(A, B)
    assert swarm.stage_of == {A: 0, B: 1}
    assert all(swarm.seen(key, BecameActive) for key in (A, B))
    assert not swarm.seen(A, PeersJoined), "of the other stage's members nobody is told"
    assert swarm.command(A, Offer(0, 10, 10, vector(1.0), 3.0))
    swarm.run(31.0)
    (committed,) = swarm.seen(A, RoundCommitted)
    assert (committed.record.course, committed.record.index) == (0, 1)
    assert not swarm.seen(B, RoundCommitted)
    assert swarm.command(B, Offer(0, 10, 10, vector(2.0), 3.0))
    swarm.run(31.0)
    record = swarm.seen(B, RoundCommitted)[0].record
    assert (record.course, record.index, record.members) == (1, 1, (B,))
    again = host_node([unpack(entry) for entry in swarm.journal], stages=2, min_peers=1)
    assert again.coordinator is not None
    heads = [course.chain.head for course in again.coordinator.state.courses.values()]
    assert heads == [committed.record.hash(), record.hash()]


def test_a_host_that_trains_is_told_a_stage_like_everyone() -> None:
    swarm = Stages(A)
    host = swarm.nodes[HOST]
    host.ask_stage(swarm.now, "host", wish=0)
    swarm.run()
    assert swarm.seen(HOST, StageAssigned) == [StageAssigned(0)]
    swarm.begin(HOST, 0)
    assert host.member is not None
    assert set(host.member.membership.others) == {A}


def test_a_joiner_asks_again_at_each_session_until_it_is_told() -> None:
    swarm = Stages()
    coordinator = swarm.nodes[HOST].coordinator
    assert coordinator is not None
    node = swarm.nodes[A] = member_node(A)
    swarm.events[A] = []
    node.start(0.0)
    node.ask_stage(0.0, "a")
    swarm.run()  # nobody let it in yet
    assert not swarm.events[A]
    coordinator.certify(A, "a")
    for _ in range(8):
        swarm.run(TIMEOUT_S / 4)
    assert swarm.seen(A, StageAssigned) == [StageAssigned(0)]
    swarm.say(A, StageIs(1))
    assert len(swarm.seen(A, StageAssigned)) == 1, "it did not ask for another one"


def test_one_that_no_stage_fits_is_told_why() -> None:
    swarm = Stages(A, B)
    coordinator = swarm.nodes[HOST].coordinator
    assert coordinator is not None
    coordinator.certify(C, "c")
    node = swarm.nodes[C] = member_node(C)
    swarm.events[C] = []
    node.start(0.0)
    node.ask_stage(0.0, "c", memory_bytes=1)
    swarm.run()
    ((refused),) = swarm.seen(C, EntryRefused)
    assert (refused.code, "needs" in refused.detail) == ("memory", True)


def test_what_another_than_the_host_says_of_stages_is_not_heard() -> None:
    swarm = Stages(A, B, C)
    node = member_node(b"d" * 32)
    node.start(0.0)
    node.ask_stage(0.0, "d")
    node.drain()
    node.receive(0.0, A, 0, pack(StageIs(1)), None)
    assert not [effect for effect in node.drain() if hasattr(effect, "event")]
    assert (swarm.stage_of[A], swarm.stage_of[C]) == (0, 0)
    assert A in swarm.nodes[C].links.by_peer
    before = list(swarm.events[C])
    swarm.say(C, StageIs(1), by=A)  # a member of its stage, to which it has a link
    assert swarm.events[C] == before


def test_a_stranger_that_asks_for_a_stage_is_told_nothing() -> None:
    swarm = Stages(A)
    host = swarm.nodes[HOST]
    before = list(swarm.journal)
    host.receive(swarm.now, C, 0, pack(AskStage()), None)
    assert [effect for effect in host.drain() if not isinstance(effect, Trace)] == [Close(C, "not a member")]
    assert swarm.journal == before


OPEN = Open(1 << 40, 0, 0, b"h" * 32, 8, (A,), (1.0,), (), course=1)
RECORD = Record(b"h" * 32, 1, 0, 1, 1 << 40, 8, (B,), (1.0,), b"r" * 32, course=1)
STRANGE = MemberIs(1 << 40, B, "b", ("tcp://b:1",), 1)


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (OPEN, "Open of stage 1 to a worker of stage 0"),
        (Committed(pack(RECORD)), "Record of stage 1 to a worker of stage 0"),
        (STRANGE, "a member of another stage is named to one of stage 0"),
    ],
)
def test_a_member_takes_nothing_of_another_stage(message: Any, reason: str) -> None:
    swarm = Stages(A, B)
    member = swarm.nodes[A].member
    assert member is not None
    head = member.versions.head
    swarm.say(A, message)
    assert swarm.refused() == [reason]
    assert (member.versions.head, member.exchanges.running, member.membership.others) == (head, {}, {})


def test_a_contribution_to_another_stages_state_is_in_no_round() -> None:
    """Whatever a member says is about its own stage: the base of another one's is as good as none."""
    swarm = Stages(A, B)
    coordinator = swarm.nodes[HOST].coordinator
    assert coordinator is not None
    courses = coordinator.state.courses
    other = courses[1].chain.head
    member = swarm.nodes[A].member
    assert member is not None
    member.versions.set_base(0, other)
    swarm.command(A, Offer(0, 10, 10, vector(1.0), 3.0))
    swarm.run(31.0)
    assert [(course.chain.index, course.rounds) for course in courses.values()] == [(0, {}), (0, {})]


def test_with_gossip_a_stage_is_told_of_its_own_members_alone() -> None:
    swarm = Stages(A, B, C, gossips=True)
    coordinator = swarm.nodes[HOST].coordinator
    assert coordinator is not None
    assert swarm.stage_of == {A: 0, B: 1, C: 0}
    known = {}
    for key in (A, B, C):
        member = swarm.nodes[key].member
        assert member is not None
        known[key] = set(member.membership.others)
    assert known == {A: {C}, B: set(), C: {A}}
