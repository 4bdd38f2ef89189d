"""A simulated process: the order of its inputs and effects, what a frozen one keeps, and when it wakes."""

from __future__ import annotations

from tests.transport.simnet.kit import A, B, Talker, access
from transport.effects import Close, Connect, Deliver, Effect, Send, Store, Trace
from transport.in_order import RETRY_S
from transport.simnet.links import Endpoint
from transport.simnet.process_runner import ProcessRunner
from transport.simnet.timeline import Timeline
from transport.simnet.trace_log import TraceLog


class SeenTrace(Trace):
    """Something worth showing."""


class World:
    """One process without a network: what it wants of one is noted."""

    def __init__(self, wakes: float | None = None) -> None:
        self.core = Talker(wakes=wakes)
        self.timeline = Timeline()
        self.wanted: list[Effect] = []
        self.observed: list[Effect] = []
        self.events: list[object] = []
        self.end = Endpoint(A, self.core, access(), lambda now, event: self.events.append(event), "", [])
        self.runner = ProcessRunner(
            self.timeline,
            TraceLog(),
            lambda peer, effect: self.wanted.append(effect),
            self.crash,
            lambda now, key, effect: self.observed.append(effect),
        )

    def crash(self, peer: Endpoint) -> None:
        peer.alive = False

    def feed(self, *effects: Effect) -> None:
        self.runner.feed(self.end, lambda: self.core.out.extend(effects), "input")

    def run(self, seconds: float = 0.0) -> None:
        self.timeline.run(self.timeline.now_ns + round(seconds * 1e9))


SEND = Send(B, 0, b"hi")
EFFECTS: tuple[Effect, ...] = (Connect(B, (), 1), SEND, Store(b"entry"), Deliver("event"), Close(B, "enough"))


def test_effects_go_to_the_network_the_journal_and_the_program_above() -> None:
    world = World()
    world.feed(*EFFECTS)
    assert world.wanted == [EFFECTS[0], SEND, EFFECTS[4]]
    assert world.end.journal == [b"entry"]
    assert world.events == [], "the program above is told after this input"
    world.run()
    assert world.events == ["event"]
    assert world.observed == [each for each in EFFECTS if each is not SEND]


def test_a_process_crashes_between_two_effects_and_nothing_more_of_it_is_carried_out() -> None:
    world = World()
    world.end.effects_left = 3
    world.feed(*EFFECTS)
    world.run()
    assert not world.end.alive
    assert (world.wanted, world.end.journal, world.events) == ([EFFECTS[0], SEND], [b"entry"], [])


def test_a_frozen_process_gets_its_inputs_and_events_in_order_when_it_thaws() -> None:
    world = World()
    world.feed(Deliver("first"))
    world.end.frozen = True
    world.run()
    world.feed(Deliver("second"))
    world.run()
    assert world.events == []
    world.end.frozen = False
    world.runner.run_backlog(world.end)
    world.run()
    assert world.events == ["first", "second"]


def test_what_follows_an_input_follows_also_if_the_process_died_while_it_waited() -> None:
    world = World()
    followed: list[str] = []

    def say() -> None:
        world.core.out.append(SEND)

    world.end.frozen = True
    world.runner.feed(world.end, say, "input", lambda: followed.append("then"))
    world.crash(world.end)
    world.runner.run_backlog(world.end)
    assert (world.wanted, followed) == ([], ["then"])


def test_a_process_wakes_at_its_deadline_and_a_dead_one_does_not() -> None:
    world = World(wakes=1.0)
    world.runner.set_timer(world.end)
    world.run(2.5)
    assert world.core.ticks == [1.0, 2.0]
    world.crash(world.end)
    world.run(2.0)
    assert world.core.ticks == [1.0, 2.0]


def test_a_deadline_that_was_put_off_wakes_a_process_later() -> None:
    world = World(wakes=1.0)
    world.runner.set_timer(world.end)
    world.core.wakes = 1.5
    world.run(1.4)
    assert world.core.ticks == []
    world.run(0.2)
    assert world.core.ticks == [1.5]


def test_traces_are_observed_and_change_nothing() -> None:
    world = World()
    trace = SeenTrace()
    world.feed(trace)
    assert (world.observed, world.wanted, world.end.journal) == ([trace], [], [])


def test_a_process_whose_disk_is_full_stands_still_and_goes_on_in_its_order() -> None:
    world = World()
    followed: list[str] = []
    world.runner.full_disks.add(A)
    world.runner.feed(
        world.end, lambda: world.core.out.extend(EFFECTS), "input", lambda: followed.append("1")
    )
    world.runner.feed(world.end, lambda: world.core.out.append(SEND), "input", lambda: followed.append("2"))
    world.run(3.5)
    assert (world.wanted, world.end.journal, world.events, followed) == ([EFFECTS[0], SEND], [], [], [])
    assert [type(each).__name__ for each in world.observed] == ["Connect", "StoreFailedTrace"]
    world.runner.full_disks.clear()
    world.run(RETRY_S)
    assert (world.wanted, followed) == ([EFFECTS[0], SEND, EFFECTS[4], SEND], ["1", "2"])
    assert (world.end.journal, world.events) == ([b"entry"], ["event"])
    assert not world.end.stands_still


def test_a_store_that_fails_again_among_the_inputs_that_waited_holds_back_the_rest() -> None:
    world = World()
    world.runner.full_disks.add(A)
    world.feed(Store(b"first"))
    world.runner.feed(world.end, lambda: world.runner.full_disks.add(A), "the disk is full again")
    world.feed(Store(b"second"), SEND)
    world.feed(Deliver("third"))
    world.runner.full_disks.clear()
    world.run(RETRY_S)
    assert (world.end.journal, world.wanted, world.events) == ([b"first"], [], [])
    world.runner.full_disks.clear()
    world.run(RETRY_S)
    assert (world.end.journal, world.wanted, world.events) == ([b"first", b"second"], [SEND], ["third"])


def test_a_process_that_dies_while_its_disk_is_full_has_stored_nothing_and_says_nothing() -> None:
    world = World()
    followed: list[str] = []
    world.runner.full_disks.add(A)
    world.runner.feed(
        world.end, lambda: world.core.out.extend(EFFECTS), "input", lambda: followed.append("1")
    )
    world.crash(world.end)
    world.runner.full_disks.clear()
    world.run(2 * RETRY_S)
    assert (world.wanted, world.end.journal, world.events) == ([EFFECTS[0], SEND], [], [])
    assert followed == ["1"], "whoever waits for an answer learns that there is none"


def test_a_frozen_process_tries_its_disk_again_when_it_thaws() -> None:
    world = World()
    world.runner.full_disks.add(A)
    world.feed(Store(b"entry"))
    world.end.frozen = True
    world.runner.full_disks.clear()
    world.run(3 * RETRY_S)
    assert world.end.journal == []
    world.end.frozen = False
    world.run(RETRY_S)
    assert world.end.journal == [b"entry"]
