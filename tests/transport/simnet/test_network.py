"""The simulated network: time, order, loss and death are as it says, and a seed replays exactly."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from tests.transport.simnet.kit import FRAME, A, B, C, Net, Talker, access, pair
from transport.effects import (
    Close,
    Deliver,
    Effect,
    KeepFailedTrace,
    KeepResult,
    Phantom,
    Send,
    Store,
    Trace,
)
from transport.guarded import InputLostTrace
from transport.redial import SILENCE_S
from transport.simnet.network import SimNetwork


def test_the_program_may_take_events_of_its_command_at_once_and_is_not_told_them_again() -> None:
    net, _, _ = pair()
    net.tell(A, Deliver("first"), Deliver("second"), Deliver("third"))
    assert [net.next_event(A), net.next_event(A)] == ["first", "second"]
    net.run(2.0)
    assert [event for _, _, event in net.events] == ["third"]
    assert net.next_event(A) is None


def test_who_is_frozen_or_dead_takes_no_events() -> None:
    net, _, _ = pair()
    net.tell(A, Deliver("early"))
    net.freeze(A)
    assert net.next_event(A) is None
    net.thaw(A)
    net.crash(A)
    assert net.next_event(A) is None


def test_a_dial_opens_one_connection_per_lane_after_a_round_trip() -> None:
    _, a, b = pair()
    assert a.ups == [(0.2, B, 0), (0.2, B, 1)]
    assert b.ups == []


def test_a_frame_at_which_a_core_fails_is_lost_and_its_peer_dials_again() -> None:
    seen: list[Effect] = []
    net = Net(1, lambda now, key, effect: seen.append(effect))
    b = net.join(B, Talker())
    a = net.join(A, Talker((B,)))
    net.run(1.0)
    net.tell(A, Send(B, 0, b"poison"), Send(B, 0, b"lost with the connection"))
    net.run(5.0)
    (lost,) = [each for each in seen if isinstance(each, InputLostTrace)]
    assert (lost.peer, lost.error) == (A, "KeyError: 'gone'")
    assert [lane for _, _, lane in a.downs] == [0, 1]
    net.tell(A, Send(B, 0, b"ping"))
    net.run(6.0)
    assert b.headers() == [b"poison", b"ping"]
    assert a.headers() == [b"pong"]


def test_a_broken_state_of_a_core_stops_the_simulation() -> None:
    net, _, _ = pair()
    net.tell(A, Send(B, 0, b"broken"))
    with pytest.raises(AssertionError, match="two heads"):
        net.run(5.0)


def test_a_frame_takes_its_bytes_at_both_rates_and_both_latencies() -> None:
    net, _, b = pair()
    net.tell(A, Send(B, 1, b"h" * 100, b"p" * 100_000))
    net.run(5.0)
    size = 100_100 + FRAME
    assert b.got[0][0] == pytest.approx(1.0 + 2 * size / 1e6 + 0.1, abs=1e-6)


def test_bulk_frames_follow_each_other_at_the_slower_rate() -> None:
    net = Net(1)
    b = net.join(B, Talker(), down=2e5)
    net.join(A, Talker((B,)))
    net.run(1.0)
    net.tell(A, *(Send(B, 1, bytes([i]), b"p" * (10_000 - FRAME - 1)) for i in range(20)))
    net.run(9.0)
    times = [at for at, *_ in b.got]
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert gaps == pytest.approx([10_000 / 2e5] * 19, abs=1e-6)
    assert times[-1] == pytest.approx(1.0 + 10_000 / 1e6 + 0.1 + 20 * 10_000 / 2e5, abs=1e-6)


def test_a_slow_sender_does_not_hold_up_others_who_send_to_the_same_peer() -> None:
    net = Net(1)
    c = net.join(C, Talker())
    net.join(A, Talker((C,)), up=1e3)
    net.join(B, Talker((C,)))
    net.run(1.0)
    net.tell(A, Send(C, 1, b"slow", b"p" * 100_000))
    net.tell(B, Send(C, 1, b"fast", b"p" * 100_000))
    net.run(2.0)
    assert c.headers() == [b"fast"]
    net.run(200.0)
    assert c.headers() == [b"fast", b"slow"]


def test_two_senders_share_what_their_receiver_can_take() -> None:
    net = Net(1)
    c = net.join(C, Talker(), down=1e5)
    for key in (A, B):
        net.join(key, Talker((C,)))
    net.run(1.0)
    for key in (A, B):
        net.tell(key, Send(C, 1, b"h", b"p" * (50_000 - FRAME - 1)))
    net.run(9.0)
    assert c.got[-1][0] == pytest.approx(1.0 + 0.05 + 0.1 + 1.0, abs=1e-6)


def test_control_overtakes_bulk_but_keeps_its_own_order() -> None:
    net, _, b = pair(jitter=1.0)
    net.tell(A, *(Send(B, 1, b"bulk", b"p" * 500_000) for _ in range(4)))
    net.tell(A, *(Send(B, 0, bytes([i])) for i in range(50)))
    net.run(9.0)
    assert b.headers() == [bytes([i]) for i in range(50)] + [b"bulk"] * 4


def test_an_acceptor_answers_over_the_connection_that_the_other_opened() -> None:
    net, a, _ = pair()
    net.tell(A, Send(B, 0, b"ping"), Send(B, 1, b"ping", b""))
    net.run(2.0)
    assert [(lane, header) for _, _, lane, header, _ in a.got] == [(0, b"pong"), (1, b"pong")]


def test_a_phantom_takes_the_time_of_its_size() -> None:
    net, _, b = pair()
    net.tell(A, Send(B, 1, b"h", Phantom(10_000_000)))
    net.run(60.0)
    assert b.got[0][0] == pytest.approx(1.0 + 20.0 + 0.1, abs=1e-2)


def test_a_reset_loses_what_is_in_flight_and_later_frames_arrive() -> None:
    net, a, b = pair()
    net.tell(A, Send(B, 0, b"lost"), Send(B, 1, b"lost", b"p"))
    net.reset(A, B)
    net.tell(A, Send(B, 0, b"vanishes"))
    net.run(2.0)
    assert [(peer, lane) for _, peer, lane in a.downs] == [(B, 0), (B, 1)]
    assert len(a.ups) == 4
    net.tell(A, Send(B, 0, b"later"))
    net.run(3.0)
    assert b.headers() == [b"later"]


def test_a_peer_that_is_not_admitted_is_never_connected_until_it_is() -> None:
    net = Net(1)
    b = net.join(B, Talker())
    b.friends = set()
    a = net.join(A, Talker((B,)))
    net.run(5.0)
    assert a.ups == []
    b.friends = {A}
    net.run(6.0)
    assert len(a.ups) == 2


def test_close_ends_the_dialling_and_the_other_end_says_nothing_more() -> None:
    net, a, b = pair()
    net.tell(A, Close(B, "done"))
    net.tell(B, Send(A, 0, b"into the void"))
    net.run(5.0)
    assert (len(a.ups), a.got, b.got) == (2, [], [])


def test_who_breaks_the_rules_of_messages_is_closed_and_may_come_back_after_a_while() -> None:
    net, a, _ = pair()
    net.offend(A, B)
    net.run(10.9)
    assert (len(a.downs), len(a.ups)) == (2, 2)
    net.run(14.0)
    assert len(a.ups) == 4


def test_a_partition_parts_and_heals() -> None:
    net, a, b = pair()
    net.partition([[A], [B]])
    net.run(3.0)
    net.tell(A, Send(B, 0, b"lost"))
    net.run(4.0)
    assert (len(a.downs), len(a.ups), b.got) == (2, 2, [])
    net.heal()
    net.run(4.0 + SILENCE_S)
    assert len(a.ups) == 4


def test_a_cut_parts_two_peers_only_and_is_mended() -> None:
    net, a, _ = pair()
    c = net.join(C, Talker((B,)))
    net.run(2.0)
    net.cut(A, B)
    net.run(4.0)
    assert (len(a.downs), len(c.downs)) == (2, 0)
    net.mend(A, B)
    net.run(4.0 + SILENCE_S)
    assert len(a.ups) == 4


def test_a_degraded_link_is_slower() -> None:
    net, _, b = pair()
    net.degrade(A, 10.0)
    net.tell(A, Send(B, 1, b"h" * (1000 - FRAME), b""))
    net.run(9.0)
    assert b.got[0][0] == pytest.approx(1.0 + 0.01 + 0.001 + 0.5 + 0.05, abs=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_what_leaves_in_a_stall_comes_in_order_after_its_end_and_breaks_nothing(seed: int) -> None:
    net, a, b = pair(seed)
    net.stall(B, 2.0)
    net.tell(A, Send(B, 0, b"one", b""))
    net.run(2.0)
    net.tell(A, Send(B, 0, b"two", b""))
    net.run(9.0)
    net.tell(A, Send(B, 0, b"three", b""))
    net.run(10.0)
    (one, two, three), came = [at for at, *_ in b.got], b.headers()
    assert came == [b"one", b"two", b"three"]
    assert 3.0 < one <= two < 5.2
    assert three < 9.2
    assert not a.downs


@pytest.mark.parametrize("effects", range(6))
def test_a_crash_may_come_between_any_two_effects_and_the_journal_survives(effects: int) -> None:
    net, _, b = pair()
    net.crash_after(A, effects)
    for i in range(3):
        net.tell(A, Store(bytes([i])), Send(B, 0, bytes([i])))
    net.run(2.0)
    # A store before the crash is kept; a send before the crash died with its connection.
    assert net.journal(A) == [bytes([i]) for i in range((effects + 1) // 2)]
    assert b.got == []
    if effects < 6:
        assert not net.peers[A].alive
        again = net.join(A, Talker((B,)))
        net.run(4.0)
        assert len(again.ups) == 2
        assert net.journal(A) == [bytes([i]) for i in range((effects + 1) // 2)]


def test_a_result_is_on_the_disk_before_anything_later_leaves_and_a_full_disk_holds_up_nothing() -> None:
    kept: list[KeepResult] = []
    seen: list[Effect] = []

    def keep(effect: KeepResult) -> None:
        if len(kept) == 1:
            raise OSError(28, "No space left on device")
        kept.append(effect)

    net = SimNetwork(1, lambda now, key, effect: seen.append(effect))
    b = Talker()
    net.add(B, b, access(), lambda now, event: None)
    a = Talker((B,))
    net.add(A, a, access(), lambda now, event: None, keep=keep)
    net.run(1.0)
    results = [KeepResult(serial, bytes([serial]) * 32, [b"d" * 32], [b"chunk"]) for serial in (1, 2)]
    for result in results:
        net.command(A, lambda core, now, result=result: a.out.extend([result, Send(B, 0, b"done")]))
    net.run(2.0)
    assert kept == results[:1]
    assert [frame[3] for frame in b.got] == [b"done", b"done"]
    assert [each for each in seen if isinstance(each, KeepFailedTrace)] == [
        KeepFailedTrace(2, "[Errno 28] No space left on device")
    ]


def test_a_crash_before_a_result_is_kept_leaves_neither_it_nor_what_was_to_be_said_of_it() -> None:
    kept: list[KeepResult] = []
    net = Net(1)
    b, a = net.join(B, Talker()), Talker((B,))
    process = net.add(A, a, access(), lambda now, event: None, keep=kept.append)
    net.run(1.0)
    net.crash_after(process, 0)
    a.out += [KeepResult(1, b"r" * 32, [], []), Send(B, 0, b"done")]
    net.command(process, lambda core, now: None)
    net.run(2.0)
    assert (kept, b.got) == ([], [])


def test_a_frozen_peer_gets_its_inputs_in_order_when_it_thaws() -> None:
    net = Net(1)
    b = net.join(B, Talker(wakes=0.5))
    net.join(A, Talker((B,)))
    net.run(1.2)
    net.freeze(B)
    ticks = len(b.ticks)
    net.tell(A, *(Send(B, 0, bytes([i])) for i in range(3)))
    net.run(8.0)
    assert (b.got, len(b.ticks)) == ([], ticks)
    net.thaw(B)
    net.run(8.9)
    assert b.headers() == [bytes([i]) for i in range(3)]
    assert all(at == pytest.approx(8.0) for at, *_ in b.got)
    assert b.ticks[ticks:] == pytest.approx([8.0, 8.5])


class SomethingTrace(Trace):
    """A fact without fields."""


def test_events_reach_the_program_and_die_with_its_life() -> None:
    net, _, _ = pair()
    net.tell(A, Deliver("first"))
    net.run(2.0)
    net.tell(A, Deliver("second"), SomethingTrace())
    net.crash(A)
    net.run(3.0)
    assert net.events == [(1.0, A, "first")]


def test_a_timer_that_was_put_off_does_not_fire_early() -> None:
    net = Net(1)
    talker = net.join(A, Talker(wakes=1.0))
    net.run(0.5)
    talker.wakes = 3.0
    net.run(2.9)
    assert talker.ticks == []
    net.run(3.1)
    assert talker.ticks == [3.0]


def test_a_deadline_that_has_passed_does_not_stop_time() -> None:
    net = Net(1)
    talker = net.join(A, Talker(wakes=0.0))
    net.run(0.001)
    assert 900 < len(talker.ticks) <= 1000


def test_cores_that_talk_in_circles_at_one_instant_are_caught() -> None:
    net = Net(1)

    def again() -> None:
        net.at(0.0, again)

    again()
    with pytest.raises(AssertionError, match="events at"):
        net.run(1.0)


def test_a_knock_is_answered_for_an_invite_only() -> None:
    net, _, b = pair()
    answers: list[tuple[float, object]] = []
    for invite in (b"invite", b"guess"):
        net.knock(C, invite, B, b"hello", lambda now, found: answers.append((now, found)))
    net.run(2.0)
    assert [found for _, found in answers] == [(b"welcome", b"hello"), None]
    assert answers[0][0] == pytest.approx(1.2)
    assert (b.knocks, net.journal(B)) == ([b"hello"], [b"knocked"])
    net.crash(B)
    net.knock(C, b"invite", B, b"anyone?", lambda now, found: answers.append((now, found)))
    net.run(3.0)
    assert answers[-1][1] is None


def scramble(seed: int) -> Net:
    """Everything that the network does, in an order that the seed decides."""
    net = Net(seed)
    net.trace_log.lines = []
    rng = random.Random(7)
    for key, dials in ((A, (B, C)), (B, (C,)), (C, ())):
        net.join(key, Talker(dials, wakes=0.3), jitter=0.5)
    for _ in range(300):
        net.run(net.now + rng.random() * 0.2)
        one, two = rng.sample((A, B, C), 2)
        action = rng.random()
        if action < 0.8:
            net.tell(one, Send(two, rng.randint(0, 1), b"ping", b"p" * rng.randint(0, 9999)))
        elif action < 0.9:
            net.reset(one, two)
        else:
            (net.thaw if net.peers[one].frozen else net.freeze)(one)
    return net


def test_the_same_seed_gives_the_same_trace_and_another_seed_another() -> None:
    first, second, other = scramble(1), scramble(1), scramble(2)
    assert first.trace_hash() == second.trace_hash()
    assert first.trace_log.lines
    assert first.trace_log.lines == second.trace_log.lines
    assert first.trace_hash() != other.trace_hash()


def test_streams_of_one_seed_are_independent_of_each_other() -> None:
    one, two = SimNetwork(5), SimNetwork(5)
    one.stream("other").random()
    assert one.stream("faults").random() == two.stream("faults").random()
    assert one.stream("faults").random() != one.stream("jitter").random()
