"""Knocks over loopback: who is answered, who is refused at once, and how many there may be."""

from __future__ import annotations

import time

import pytest

from tests.net.swarm_kit import Node, running
from transport.errors import KnockRefused, KnockTimeout
from transport.guarded import InputLostTrace
from transport.keys import random_pair
from transport.limits import Limits
from transport.sockets.libzmq import knock
from transport.sockets.traces import PeerClosedTrace


def test_a_question_at_which_the_core_fails_is_hung_up_and_others_are_answered() -> None:
    host, invite = Node(), random_pair()
    host.admit(invite.public, "invite")
    host.core.fails_at = b"poison"
    with running(host):
        with pytest.raises(KnockTimeout, match="the connection broke"):
            knock(host.address, host.key, invite, b"poison", 1.0)
        assert knock(host.address, host.key, invite, b"hello", 5.0) == (b"welcome hello", b"settings")
        assert {each.peer for each in host.traced(InputLostTrace)} == {invite.public}


def test_an_invite_is_answered_and_reaches_nothing_else() -> None:
    host, invite = Node(), random_pair()
    host.admit(invite.public, "invite")
    with running(host):
        assert knock(host.address, host.key, invite, b"me", 2) == (b"welcome me", b"settings")
        assert host.core.knocks == [(invite.public, b"me")]
        assert host.core.received == []


def test_an_unknown_invite_is_refused_at_once_with_what_to_do() -> None:
    host = Node()
    with running(host):
        started = time.monotonic()
        with pytest.raises(KnockRefused, match=r"does not admit this ticket.*ask for a new one"):
            knock(host.address, host.key, random_pair(), b"me", 20)
        assert time.monotonic() - started < 20
        assert host.core.knocks == []


def test_nobody_there_and_somebody_else_there_are_timeouts_that_say_so() -> None:
    with pytest.raises(KnockTimeout, match=r"127\.0\.0\.1:1 within 0\.3 s: nobody answers"):
        knock("tcp://127.0.0.1:1", random_pair().public, random_pair(), b"me", 0.3)
    host = Node()
    with running(host), pytest.raises(KnockTimeout, match="another key"):
        knock(host.address, random_pair().public, random_pair(), b"me", 0.3)


def test_knocks_are_limited() -> None:
    host, invite = Node(limits=Limits(knocks_per_minute=8)), random_pair()
    host.admit(invite.public, "invite")
    with running(host):
        for _ in range(2):
            knock(host.address, host.key, invite, b"me", 2)
        with pytest.raises(KnockTimeout):
            knock(host.address, host.key, invite, b"me", 0.5)
        assert len(host.core.knocks) == 2
        assert host.traced(PeerClosedTrace)[0].reason == "too many join attempts"


def test_a_flood_of_knocks_does_not_keep_the_owner_out() -> None:
    host, invite, owner = Node(limits=Limits(knocks_per_minute=8)), random_pair(), random_pair()
    host.admit(invite.public, "invite")
    host.admit(owner.public, "owner")
    with running(host):
        for _ in range(2):
            knock(host.address, host.key, invite, b"me", 2)
        with pytest.raises(KnockTimeout):
            knock(host.address, host.key, invite, b"me", 0.5)
        for _ in range(4):
            knock(host.address, host.key, owner, b"an order", 2)
        assert len(host.core.knocks) == 6
