"""Several processes with one key in the simulated network, and knocks at hosts that die, as sockets do it."""

from __future__ import annotations

import pytest

from tests.transport.simnet.kit import A, B, C, Net, Talker, access, pair
from transport.effects import Connect, Send
from transport.simnet.links import Endpoint


def clone(net: Net, talker: Talker, address: str = "") -> Endpoint:
    return net.add(A, talker, access(), lambda now, event: None, address)


def cloned() -> tuple[Net, Endpoint, Endpoint, Talker]:
    """Two processes with key A that both dial B; the older one has spoken, the newer one not yet."""
    net, _, b = pair()
    older, newer = net.peers[A], clone(net, Talker((B,)))
    net.command(older, lambda core, now: core.out.append(Send(B, 0, b"older")))
    net.run(2.0)
    return net, older, newer, b


def say(net: Net, process: Endpoint, *headers: bytes, to: bytes = B) -> None:
    net.command(process, lambda core, now: core.out.extend(Send(to, 0, header) for header in headers))


def heard(process: Endpoint) -> list[bytes]:
    assert isinstance(process.core, Talker)
    return process.core.headers()


def test_both_connect_and_the_one_that_spoke_is_answered() -> None:
    net, older, newer, _ = cloned()
    assert (len(older.core.ups), len(newer.core.ups)) == (2, 2)
    net.tell(B, Send(A, 0, b"who?"))
    net.run(3.0)
    assert (heard(older), heard(newer)) == ([b"who?"], [])
    assert net.processes(A) == [older, newer]
    assert net.peers[A] is newer


def test_the_first_word_over_a_newer_connection_breaks_the_older_one() -> None:
    net, older, newer, b = cloned()
    say(net, older, b"in flight")
    net.run(2.099)
    say(net, newer, b"newer")
    net.tell(B, Send(A, 0, b"to the older, and lost with its connection"))
    net.run(2.25)
    assert b.headers() == [b"older", b"in flight", b"newer"]
    assert older.core.downs == [(pytest.approx(2.199, abs=1e-3), B, 0)]
    net.tell(B, Send(A, 0, b"who?"))
    net.run(4.0)
    assert (heard(older), heard(newer)) == ([], [b"who?"])
    assert len(older.core.ups) == 3, "it dials again, and takes nobody's place before it speaks"


def test_two_that_keep_speaking_take_turns() -> None:
    net, older, newer, b = cloned()
    for at in range(3, 9):
        net.run(float(at))
        say(net, older if at % 2 else newer, bytes([at]))
    net.run(10.0)
    assert b.headers() == [b"older", *(bytes([at]) for at in range(3, 9))]
    assert (len(older.core.downs), len(newer.core.downs)) == (3, 2)


def test_a_frozen_process_keeps_its_place_and_learns_of_its_loss_when_it_thaws() -> None:
    net, older, newer, _ = cloned()
    net.freeze(older)
    say(net, newer, b"newer")
    net.run(5.0)
    assert older.core.downs == []
    net.tell(B, Send(A, 0, b"who?"))
    net.run(6.0)
    assert heard(newer) == [b"who?"]
    net.thaw(older)
    net.run(7.0)
    assert (len(older.core.downs), len(older.core.ups)) == (1, 3)


def test_a_dial_reaches_the_process_at_the_address_that_it_knows() -> None:
    net = Net(1)
    older, newer = clone(net, Talker(), "tcp://a:1"), clone(net, Talker(), "tcp://a:2")
    b, _ = net.join(B, Talker()), net.join(C, Talker())
    net.tell(B, Connect(A, ("tcp://a:1",), 1))
    net.tell(C, Connect(A, ("tcp://a:2",), 1))
    net.run(1.0)
    net.tell(B, Send(A, 0, b"from b"))
    net.tell(C, Send(A, 0, b"from c"))
    net.run(2.0)
    assert (heard(older), heard(newer)) == ([b"from b"], [b"from c"])
    net.crash(older)
    net.run(5.0)
    assert (len(b.ups), len(b.downs)) == (2, 2), "nobody is there any more"


def test_a_crash_takes_only_the_connections_of_its_process() -> None:
    net, older, newer, b = cloned()
    say(net, newer, b"newer")
    net.run(3.0)
    net.crash(newer)
    assert net.processes(A) == [older]
    assert not net.can_run(A)
    net.run(4.0)
    say(net, older, b"still here")
    net.run(5.0)
    assert b.headers()[-1] == b"still here"


def test_a_cut_may_part_one_process_of_two() -> None:
    net, older, newer, b = cloned()
    net.cut(older, B)
    net.run(4.0)
    say(net, older, b"lost")
    say(net, newer, b"newer")
    net.run(5.0)
    assert b.headers() == [b"older", b"newer"]
    net.mend(older, B)
    net.run(8.0)  # by then it waits two seconds between dials
    say(net, older, b"mended")
    net.run(9.0)
    assert b.headers()[-1] == b"mended"


def knocked(net: Net) -> list[tuple[float, object]]:
    answers: list[tuple[float, object]] = []
    net.knock(C, b"invite", B, b"hello", lambda now, found: answers.append((now, found)))
    return answers


def test_who_dies_between_the_effects_of_a_knock_says_nothing() -> None:
    net, _, b = pair()
    net.crash_after(B, 0)
    answers = knocked(net)
    net.run(2.0)
    assert (b.knocks, net.journal(B)) == ([b"hello"], [])
    assert [found for _, found in answers] == [None]


@pytest.mark.parametrize(("dies", "reply"), [(False, (b"welcome", b"hello")), (True, None)])
def test_a_frozen_host_answers_when_it_thaws_and_never_if_it_dies(dies: bool, reply: object) -> None:
    net, _, _ = pair()
    net.freeze(B)
    answers = knocked(net)
    net.run(5.0)
    assert answers == []
    (net.crash if dies else net.thaw)(B)
    net.run(6.0)
    assert answers == [(pytest.approx(5.1), reply)]
