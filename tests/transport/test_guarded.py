"""A guarded core: the input that fails is lost and told, its peer begins anew, and the rest goes on."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from transport.effects import Close, Core, Effect, Payload, Store
from transport.guarded import MAX_FAILED_TICKS, NUM_FORGIVEN, TICK_REST_S, Guarded, InputLostTrace
from transport.redial import BARRED_S

PEER = b"p" * 32


class Failing:
    """A core that decides something at each input, and then raises ``error`` if there is one."""

    def __init__(self, error: Exception | None) -> None:
        self.error = error
        self.out: list[Effect] = []
        self.due: float | None = 3.0

    def _take(self, what: str) -> None:
        self.out.append(Store(what.encode()))
        if self.error is not None:
            raise self.error

    def start(self, now: float) -> None:
        self._take("start")

    def connected(self, now: float, peer: bytes, lane: int) -> None:
        self._take("connected")

    def disconnected(self, now: float, peer: bytes, lane: int) -> None:
        self._take("disconnected")

    def ended(self, now: float, peer: bytes, lane: int) -> None:
        self._take("ended")

    def refused(self, now: float, peer: bytes) -> None:
        self._take("refused")

    def receive(self, now: float, peer: bytes, lane: int, header: bytes, payload: Payload | None) -> None:
        self._take("receive")

    def knock(self, now: float, invite: bytes, header: bytes) -> tuple[bytes, bytes] | None:
        self._take("knock")
        return b"welcome", b""

    def admits(self, key: bytes) -> str | None:
        if self.error is not None:
            raise self.error
        return "member"

    def expel(self, now: float, peer: bytes, reason: str) -> None:
        self.out.append(Close(peer, reason))

    def tick(self, now: float) -> None:
        self._take("tick")

    def deadline(self) -> float | None:
        return self.due

    def drain(self) -> list[Effect]:
        out, self.out = self.out, []
        return out

    def digest(self) -> str:
        return "digest"


INPUTS: dict[str, Callable[[Core], object]] = {
    "connected": lambda core: core.connected(1.0, PEER, 0),
    "disconnected": lambda core: core.disconnected(1.0, PEER, 0),
    "receive": lambda core: core.receive(1.0, PEER, 0, b"", None),
    "knock": lambda core: core.knock(1.0, PEER, b""),
}


@pytest.mark.parametrize("name", INPUTS)
def test_an_input_that_fails_is_lost_with_a_word_and_its_peer_is_closed(name: str) -> None:
    guarded = Guarded(Failing(KeyError("gone")))
    for number in range(1, NUM_FORGIVEN + 1):
        assert INPUTS[name](guarded) is None
        decided, closed, lost = guarded.drain()
        assert decided == Store(name.encode()), "what was decided before is carried out"
        assert closed == Close(PEER, "an input of it failed here: KeyError")
        assert isinstance(lost, InputLostTrace)
        assert (lost.peer, lost.error, lost.number) == (PEER, "KeyError: 'gone'", number)
        assert "in _take" in lost.traceback
    assert guarded.num_lost == NUM_FORGIVEN
    assert guarded.drain() == []


def test_a_key_about_which_the_core_fails_is_not_let_in() -> None:
    guarded = Guarded(Failing(KeyError("gone")))
    assert guarded.admits(PEER) is None
    assert [type(each) for each in guarded.drain()] == [InputLostTrace]


def barred_s(guarded: Guarded) -> float:
    """For how long the peer that failed just now is not heard."""
    (lost,) = [each for each in guarded.drain() if isinstance(each, InputLostTrace)]
    return lost.barred_s


def test_a_peer_at_which_the_core_fails_again_and_again_is_not_heard_for_a_growing_time() -> None:
    core = Failing(KeyError("gone"))
    guarded, now, other = Guarded(core), 100.0, b"o" * 32
    for _ in range(NUM_FORGIVEN):
        guarded.receive(now, PEER, 0, b"", None)
        assert barred_s(guarded) == 0.0
    for times in range(3):
        guarded.receive(now, PEER, 0, b"", None)
        assert barred_s(guarded) == BARRED_S * 2**times
        core.error = None
        guarded.receive(now + 1.0, PEER, 0, b"", None)
        assert (guarded.drain(), guarded.admits(PEER)) == ([], None), "it reaches the core no more"
        assert guarded.admits(other) == "member"
        guarded.receive(now + 2.0, other, 0, b"", None)
        assert guarded.drain() == [Store(b"receive")]
        now += BARRED_S * 2**times
        guarded.tick(now)
        assert guarded.admits(PEER) == "member"
        core.error = KeyError("gone")
        guarded.drain()


def test_a_ticket_is_not_barred_for_the_questions_of_one_who_holds_it() -> None:
    core = Failing(KeyError("gone"))
    guarded = Guarded(core)
    for _ in range(9):
        guarded.knock(1.0, PEER, b"")
    core.error = None
    assert guarded.knock(1.0, PEER, b"") == (b"welcome", b"")
    assert guarded.admits(PEER) == "member"


@pytest.mark.parametrize("name", [*INPUTS, "tick", "admits"])
def test_a_broken_state_of_our_own_stops_the_process(name: str) -> None:
    guarded = Guarded(Failing(AssertionError("two heads")))
    more: dict[str, Callable[[Core], object]] = {
        "tick": lambda core: core.tick(1.0),
        "admits": lambda core: core.admits(PEER),
    }
    with pytest.raises(AssertionError, match="two heads"):
        (INPUTS | more)[name](guarded)
    assert guarded.num_lost == 0


def test_a_core_that_cannot_begin_stops_the_process() -> None:
    with pytest.raises(KeyError):
        Guarded(Failing(KeyError("gone"))).start(0.0)


def test_a_core_that_fails_also_at_closing_the_peer_stops_the_process() -> None:
    class Lost(Failing):
        def expel(self, now: float, peer: bytes, reason: str) -> None:
            raise ValueError("that too")

    with pytest.raises(ValueError, match="that too"):
        Guarded(Lost(KeyError("gone"))).receive(0.0, PEER, 0, b"", None)


def test_a_tick_that_fails_is_lost_and_the_next_one_comes_after_a_rest() -> None:
    core = Failing(None)
    guarded = Guarded(core)
    assert guarded.deadline() == 3.0
    core.error = KeyError("gone")
    guarded.tick(3.0)
    assert [type(each) for each in guarded.drain()] == [Store, InputLostTrace]
    assert guarded.deadline() == 3.0 + TICK_REST_S
    core.error, core.due = None, 9.0
    guarded.tick(3.0 + TICK_REST_S)
    assert guarded.deadline() == 9.0
    core.due = None
    assert guarded.deadline() is None


def test_a_core_whose_ticks_fail_again_and_again_stops_the_process() -> None:
    core = Failing(None)
    guarded = Guarded(core)
    for _ in range(3):  # one that succeeds in between begins the count anew
        core.error = KeyError("gone")
        for _ in range(MAX_FAILED_TICKS - 1):
            guarded.tick(1.0)
        core.error = None
        guarded.tick(1.0)
    core.error = KeyError("gone")
    for _ in range(MAX_FAILED_TICKS - 1):
        guarded.tick(1.0)
    with pytest.raises(KeyError):
        guarded.tick(1.0)


def test_a_core_that_does_not_fail_is_as_without_a_guard() -> None:
    guarded = Guarded(Failing(None))
    guarded.start(0.0)
    for give in INPUTS.values():
        give(guarded)
    guarded.expel(1.0, PEER, "why")
    assert [type(each) for each in guarded.drain()] == [Store] * 5 + [Close]
    assert (guarded.admits(PEER), guarded.digest(), guarded.num_lost) == ("member", "digest", 0)
