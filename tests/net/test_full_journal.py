"""While a journal or a disk is full: what waits, what goes on, and in which order it is made up for."""

from __future__ import annotations

import pytest

from tests.net.swarm_kit import Disk, EchoCore, Node, eventually, running
from transport.effects import Deliver, KeepFailedTrace, KeepResult, Send, Store
from transport.errors import KnockTimeout
from transport.in_order import StoreFailedTrace, StoreRecoveredTrace
from transport.keys import random_pair
from transport.sockets.libzmq import knock


def test_while_the_journal_cannot_be_written_nothing_is_said_or_taken_and_then_it_goes_on_in_order() -> None:
    member, disk, invite = Node(bind=None), Disk(), random_pair()
    host = Node(
        disk=disk,
        say_disk_full=lambda now: host.core.out.append(Send(member.key, 0, b"my disk is full")),
    )
    host.admit(member.key)
    host.admit(invite.public, "invite")
    with running(host, member):
        member.dial(host)
        member.do(Send(host.key, 0, b"echo 0"))
        eventually(lambda: member.core.received)
        host.do(Store(b"decided"), Send(member.key, 0, b"said"), Deliver("told"))
        assert host.driver.call(lambda core, now: 7).result(20) == 7, "the program's calls go on"
        member.do(Send(host.key, 0, b"echo 1"))
        with pytest.raises(KnockTimeout, match="cannot write its journal"):
            knock(host.address, host.key, invite, b"me", 0.5)
        with pytest.raises(KnockTimeout, match=r"^no answer from .*: the host cannot write its journal"):
            knock(host.address, host.key, invite, b"how is it?", 300.0, waits_for_disk=False)
        assert (len(host.core.received), host.core.knocks, host.events) == (1, [], [])
        eventually(lambda: len(member.core.received) > 1)
        assert {frame[2] for frame in member.core.received[1:]} == {b"my disk is full"}
        assert host.traced(StoreFailedTrace)[0].error == host.driver.unwritten
        disk.room = True
        eventually(lambda: member.core.received[-1][2] == b"back 1")
        told = [frame[2] for frame in member.core.received if frame[2] != b"my disk is full"]
        assert told == [b"back 0", b"said", b"back 1"]
        assert (disk.entries, host.events) == ([b"decided"], ["told"])
        assert host.traced(StoreRecoveredTrace)
        assert host.driver.unwritten is None


def test_a_result_is_kept_before_what_follows_and_a_full_disk_is_told_and_holds_up_nothing() -> None:
    kept = []

    def keep(effect: KeepResult) -> None:
        if effect.serial == 2:
            raise OSError(28, "No space left on device")
        kept.append(("kept", effect.serial, list(member.events)))

    member = Node(bind=None, disk=Disk(), keep=keep)
    with running(member):
        results = [KeepResult(serial, bytes([serial]) * 32, [b"d" * 32], [b"chunk"]) for serial in (1, 2, 3)]
        for result in results:
            member.do(result, Deliver(f"said of {result.serial}"))
        eventually(lambda: len(member.events) == 3)
    assert kept == [("kept", 1, []), ("kept", 3, ["said of 1", "said of 2"])]
    (failed,) = member.traced(KeepFailedTrace)
    assert (failed.serial, "No space left" in failed.error) == (2, True)


def test_an_answer_to_a_knock_waits_for_what_was_decided_for_it() -> None:
    class Certifying(EchoCore):
        def knock(self, now: float, invite: bytes, header: bytes) -> tuple[bytes, bytes] | None:
            self.out.append(Store(header))
            return super().knock(now, invite, header)

    disk, invite = Disk(), random_pair()
    host = Node(core=Certifying(), disk=disk)
    host.admit(invite.public, "invite")
    with running(host):
        with pytest.raises(KnockTimeout):
            knock(host.address, host.key, invite, b"me", 0.5)
        assert host.core.knocks == [(invite.public, b"me")]
        disk.room = True
        eventually(lambda: disk.entries == [b"me"])
        assert knock(host.address, host.key, invite, b"again", 5)[0] == b"welcome again"


def test_a_driver_stops_at_once_though_its_journal_cannot_be_written() -> None:
    disk = Disk()
    member = Node(bind=None, disk=disk)
    with running(member):
        member.do(Store(b"decided"), Deliver("told"))
    assert not member.driver.running
    assert (member.events, disk.entries) == ([], [])
