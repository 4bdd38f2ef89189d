"""A node: what reaches whom, how members enter and leave, and what owner and program may do."""

from __future__ import annotations

from dataclasses import replace

import pytest

from peers.admission.door import Door
from peers.coordinator.coordinator import Rules
from peers.errors import ResumeError
from peers.node import Node
from peers.protocol.commands import ConfirmCaptured, ConfirmLoaded, Offer
from peers.protocol.events import (
    BecameActive,
    BecomeSeed,
    CoordinatorBack,
    CoordinatorDiskFull,
    CoordinatorLost,
    EntryRefused,
    IdentitySuperseded,
    PeerLeft,
    PeersJoined,
    RoundCommitted,
    RoundOpened,
    RunFinished,
    StateFetched,
)
from peers.protocol.held import Held
from peers.protocol.messages import PROTOCOL, AskStatus, Refused, StatusFollows
from peers.protocol.orders import Kick, Obeyed, Stop
from peers.protocol.profile import Matching
from peers.protocol.traces import EnteredTrace, OpenedTrace, RemovedTrace
from peers.seats import Contact, Hosting
from tests.peers.member.fakes import FakeApp, check_of, name_of, state_of, vector
from tests.peers.node_kit import (
    DIGEST,
    HIGH,
    HOST,
    INVITE,
    LOW,
    OWNER,
    TIMEOUT_S,
    Swarm,
    fetched,
    header_of,
    host_node,
    member_node,
    training,
)
from transport.effects import Deliver, Effect, EncodedResult, KeepResult, Store
from transport.errors import BadFrame
from transport.frames import pack, unpack
from transport.link.messages import Stale


def test_a_run_from_its_first_state_to_a_commit_passes_through_its_nodes() -> None:
    swarm = fetched(Swarm(host_node(min_peers=2), LOW, HIGH))
    (event,) = swarm.seen(HIGH, StateFetched)
    assert bytes(event.data) == state_of(0)
    swarm.command(HIGH, ConfirmLoaded(0, event.version, check_of(name_of(state_of(0)))))
    assert swarm.seen(HIGH, BecameActive)
    for key in (LOW, HIGH):
        assert swarm.command(key, Offer(0, 10, 10, vector(1.0), 3.0))
    for _ in range(4):
        swarm.run(TIMEOUT_S / 8)
    records = [swarm.seen(key, RoundCommitted)[0].record for key in (LOW, HIGH)]
    assert records[0] == records[1]
    assert records[0].members == (LOW, HIGH)
    again = host_node([unpack(entry) for entry in swarm.journal], min_peers=2)
    assert again.coordinator is not None
    assert again.coordinator.state.courses[0].chain.head == records[0].hash()
    again.start(0.0)
    assert [again.admits(key) for key in (LOW, HIGH)] == ["member", "member"]
    assert any(isinstance(effect, Store) for effect in again.drain())  # a new term begins


def test_the_host_wakes_when_a_grace_ends_and_opens_the_round() -> None:
    swarm = fetched(Swarm(host_node(min_peers=1, grace_s=0.1), LOW, HIGH))
    (event,) = swarm.seen(HIGH, StateFetched)
    swarm.command(HIGH, ConfirmLoaded(0, event.version, check_of(name_of(state_of(0)))))
    swarm.run(0.01)
    host = swarm.nodes[HOST]
    regular = host.deadline()
    assert swarm.command(LOW, Offer(0, 10, 10, vector(1.0), 1.0))
    assert host.deadline() == swarm.now + 0.1 < regular
    swarm.run(0.06)
    assert not swarm.seen(LOW, RoundOpened)
    swarm.run(0.06)
    assert swarm.seen(LOW, RoundOpened)
    assert host.deadline() == regular


def test_whoever_is_silent_is_missed_on_both_sides() -> None:
    swarm = Swarm(host_node(), LOW, HIGH)
    away = swarm.nodes.pop(LOW)
    for _ in range(24):
        swarm.run(TIMEOUT_S / 8)
        away.tick(swarm.now)
    assert [each.peer for each in swarm.traces if isinstance(each, RemovedTrace)] == [LOW]
    assert LOW not in swarm.nodes[HIGH].links.by_peer
    events = [effect.event for effect in away.drain() if isinstance(effect, Deliver)]
    assert [type(event) for event in events].count(CoordinatorLost) == 1


def test_a_host_whose_disk_is_full_tells_its_members_and_only_the_host_is_believed() -> None:
    swarm = Swarm(host_node(), LOW, HIGH)
    for teller, num_told in ((LOW, 0), (HOST, 1), (HOST, 1)):
        swarm.nodes[teller].links.say_disk_full(swarm.now)
        swarm.run()
        swarm.now += 1.0
        assert len(swarm.seen(HIGH, CoordinatorDiskFull)) == num_told
    assert not swarm.seen(HIGH, CoordinatorBack)
    swarm.run(TIMEOUT_S / 2)
    swarm.run(TIMEOUT_S / 2)
    assert len(swarm.seen(HIGH, CoordinatorBack)) == 1


def test_a_process_that_restarts_is_out_before_it_says_a_word() -> None:
    swarm = Swarm(host_node(), LOW, HIGH)
    again = swarm.nodes[HIGH] = member_node(HIGH, 2)
    again.start(swarm.now)
    swarm.run()
    removed = [(each.peer, each.reason) for each in swarm.traces if isinstance(each, RemovedTrace)]
    assert removed == [(HIGH, "restarted")]
    assert [left.key for left in swarm.seen(LOW, PeerLeft)] == [HIGH]


def test_a_member_enters_over_the_wire_and_meets_the_others() -> None:
    swarm = Swarm(host_node(), LOW, HIGH)
    assert [each.peer for each in swarm.traces if isinstance(each, EnteredTrace)] == [LOW, HIGH]
    assert swarm.events[LOW] == [BecomeSeed(), PeersJoined(((HIGH, "z"),))]
    assert set(swarm.nodes[LOW].links.by_peer) == {HOST, HIGH}
    assert (LOW, HIGH) in swarm.sent


def test_a_host_that_trains_talks_to_its_member_without_a_wire() -> None:
    swarm = Swarm(host_node())
    swarm.nodes[HOST].train(0.0, training(HOST))
    swarm.run()
    swarm.seed(HOST)
    assert any(isinstance(event, BecameActive) for event in swarm.events[HOST])
    assert swarm.sent == []
    assert swarm.nodes[HOST].links.by_peer == {}


def test_the_hosts_own_member_works_on_a_round_once_others_have_heard_of_it() -> None:
    swarm = Swarm(host_node(min_peers=1), LOW)
    host = swarm.nodes[HOST]
    host.train(swarm.now, training(HOST))
    (event,) = fetched(swarm).seen(HOST, StateFetched)
    swarm.command(HOST, ConfirmLoaded(0, event.version, check_of(name_of(state_of(0)))))
    assert swarm.command(LOW, Offer(0, 10, 10, vector(1.0), 3.0))
    assert host.command(swarm.now, Offer(0, 10, 10, vector(1.0), 3.0))
    at_once = host.drain()
    assert any(isinstance(effect, OpenedTrace) for effect in at_once)
    assert RoundOpened not in delivered(at_once)
    assert host.deadline() == 0.0
    host.tick(swarm.now)
    assert RoundOpened in delivered(host.drain())
    assert host.deadline() != 0.0


def test_the_hosts_own_member_alone_works_on_a_round_at_once() -> None:
    swarm = Swarm(host_node(min_peers=1))
    host = swarm.nodes[HOST]
    host.train(0.0, training(HOST))
    swarm.run()
    swarm.seed(HOST)
    assert host.command(0.0, Offer(0, 10, 10, vector(1.0), 3.0))
    assert RoundOpened in delivered(host.drain())


def delivered(effects: list[Effect]) -> list[type]:
    """What kinds of events are among the effects."""
    return [type(effect.event) for effect in effects if isinstance(effect, Deliver)]


def test_a_host_is_dialled_and_dials_nobody() -> None:
    swarm = Swarm(host_node())
    swarm.nodes[HOST].train(0.0, training(HOST))
    swarm.join(LOW)
    assert set(swarm.nodes[HOST].links.by_peer) == {LOW}
    assert not swarm.nodes[HOST].links.by_peer[LOW].dials


def test_an_older_process_stops_and_says_nothing_more() -> None:
    swarm = Swarm(host_node(), LOW, HIGH)
    node = swarm.nodes[LOW]
    swarm.seed(LOW)
    assert swarm.command(LOW, Offer(0, 10, 10, vector(1.0), 1.0))
    for _ in range(2):
        node.receive(0.0, HOST, 0, header_of(Stale(2)), None)
        node.connected(0.0, HOST, 0)
    swarm.run()
    assert IdentitySuperseded() in swarm.events[LOW]
    assert node.links.by_peer == {}
    assert node.admits(HOST) is None
    node.receive(1.0, HOST, 0, header_of(Stale(2)), None)
    node.tick(100.0)
    assert node.drain() == []
    assert node.deadline() == 100.0 + TIMEOUT_S


def test_a_coordinator_takes_no_members_word_for_it_that_it_is_old() -> None:
    swarm = Swarm(host_node(), LOW)
    swarm.nodes[HOST].receive(0.0, LOW, 0, header_of(Stale(2)), None)
    assert swarm.nodes[HOST].admits(LOW) == "member"


def test_a_newer_process_of_a_member_takes_its_place() -> None:
    swarm = Swarm(host_node(), LOW, HIGH)
    swarm.join(LOW, incarnation=2)
    swarm.run(TIMEOUT_S / 8)
    assert swarm.nodes[HOST].links.by_peer[LOW].incarnation == 2
    assert LOW in swarm.nodes[HIGH].links.by_peer


def test_a_node_has_one_member_and_obeys_no_command_before() -> None:
    node = member_node(LOW)
    with pytest.raises(AssertionError, match="does not train"):
        node.command(0.0, ConfirmCaptured(0, DIGEST, check_of(DIGEST)))
    node.train(0.0, training(LOW))
    with pytest.raises(AssertionError, match="trains already"):
        node.train(0.0, training(LOW))


def test_one_who_trains_later_enters_over_the_link_that_stands() -> None:
    swarm = Swarm(host_node())
    assert swarm.nodes[HOST].coordinator is not None
    swarm.nodes[HOST].coordinator.certify(LOW, "l")
    node = swarm.nodes[LOW] = member_node(LOW)
    swarm.events[LOW] = []
    node.start(0.0)
    swarm.run()
    node.train(0.0, training(LOW))
    swarm.run()
    assert swarm.events[LOW] == [BecomeSeed()]


def test_exchanges_with_work_left_want_to_be_called_at_once() -> None:
    swarm = Swarm(host_node(min_peers=2), LOW, HIGH)
    member = swarm.nodes[LOW].member
    assert member is not None
    swarm.seed(LOW)
    assert (swarm.nodes[LOW].deadline() or 0.0) > 0.0
    member.exchanges.busy = True
    assert swarm.nodes[LOW].deadline() == 0.0
    swarm.nodes[LOW].tick(swarm.now)
    assert not member.exchanges.busy


def test_time_is_looked_at_eight_times_in_a_failure_timeout() -> None:
    swarm = Swarm(host_node(), LOW)
    node = swarm.nodes[LOW]
    assert node.deadline() == TIMEOUT_S / 8
    node.tick(TIMEOUT_S / 8)
    assert node.deadline() == TIMEOUT_S / 4
    node.tick(TIMEOUT_S / 8 + 0.01)
    assert node.deadline() == TIMEOUT_S / 4


@pytest.mark.parametrize("matching", [None, Matching("pair")])
def test_members_of_rounds_have_links_to_all_and_those_of_gossip_by_need(matching: Matching | None) -> None:
    swarm = Swarm(host_node(gossips=matching is not None), LOW, HIGH, matching=matching)
    swarm.run(1.0)
    linked = HIGH in swarm.nodes[LOW].links.by_peer
    assert linked == (matching is None)
    assert swarm.nodes[LOW].meet(swarm.now, HIGH) == (matching is not None)
    swarm.run()
    assert HIGH in swarm.nodes[LOW].links.by_peer
    assert LOW in swarm.nodes[HIGH].links.by_peer
    for _ in range(80):
        swarm.run(TIMEOUT_S / 8)
    assert (HIGH in swarm.nodes[LOW].links.by_peer) == (matching is None)
    assert HOST in swarm.nodes[LOW].links.by_peer


def test_members_that_exchange_nothing_leave_each_other_in_peace() -> None:
    swarm = Swarm(host_node(), LOW, HIGH)
    swarm.run(TIMEOUT_S)
    swarm.sent.clear()
    for _ in range(40):
        swarm.run(TIMEOUT_S / 8)
    assert {pair for pair in swarm.sent if HOST not in pair} == set()
    assert (LOW, HOST) in swarm.sent


def test_nodes_that_were_given_the_same_have_the_same_digest() -> None:
    one, other = Swarm(host_node(), LOW, HIGH), Swarm(host_node(), LOW, HIGH)
    for key in (HOST, LOW, HIGH):
        assert one.nodes[key].digest() == other.nodes[key].digest()
    one.seed(LOW)
    for key in (HOST, LOW):
        assert one.nodes[key].digest() != other.nodes[key].digest()


def test_a_host_answers_a_knock_at_its_door_and_a_member_has_no_door() -> None:
    question = pack(AskStatus(PROTOCOL))
    assert member_node(LOW).knock(0.0, INVITE, question) is None
    answer = Swarm(host_node(), LOW).nodes[HOST].knock(0.0, INVITE, question)
    assert answer is not None
    assert unpack(answer[0]) == StatusFollows(1)


def test_a_node_always_hears_itself() -> None:
    node = host_node()
    assert node.last_heard(7.0, HOST) == 7.0
    assert node.last_heard(7.0, LOW) < 0.0


def test_the_owner_puts_a_member_out_and_every_link_of_it_ends() -> None:
    swarm = Swarm(host_node(), LOW, HIGH)
    host = swarm.nodes[HOST]
    assert host.admits(OWNER) == "owner"
    assert swarm.nodes[LOW].admits(OWNER) is None, "a member has no door"
    reply = host.knock(0.0, INVITE, pack(Kick(PROTOCOL, "z")))
    assert reply is not None
    assert isinstance(unpack(reply[0]), Refused), "a ticket orders nothing"
    assert host.admits(HIGH) == "member"
    reply = host.knock(0.0, OWNER, pack(Kick(PROTOCOL, "z")))
    assert reply is not None
    assert isinstance(unpack(reply[0]), Obeyed)
    swarm.run()
    assert [event.code for event in swarm.seen(HIGH, EntryRefused)] == ["kicked"]
    assert [event.key for event in swarm.seen(LOW, PeerLeft)] == [HIGH]
    assert swarm.nodes[LOW].admits(HIGH) is None
    for _ in range(24):
        swarm.run(TIMEOUT_S / 8)
    assert host.admits(HIGH) is None, "it had its time to hear so"
    assert [set(swarm.nodes[key].links.by_peer) for key in (HOST, LOW)] == [{LOW}, {HOST}]


def test_the_owner_ends_the_run_for_all_members() -> None:
    swarm = Swarm(host_node(), LOW)
    swarm.seed(LOW)
    swarm.nodes[HOST].knock(0.0, OWNER, pack(Stop(PROTOCOL)))
    swarm.run()
    assert swarm.seen(LOW, RunFinished) == [RunFinished(0)]


@pytest.mark.parametrize("keeps", [True, False])
def test_results_go_to_the_disk_of_a_member_that_keeps_them(keeps: bool) -> None:
    node = member_node(b"k" * 32, 1)
    node.start(0.0)
    node.train(0.0, replace(training(b"k" * 32, None, FakeApp()), keeps=keeps))
    node.drain()
    node.keep(3, b"r" * 32, EncodedResult([b"d" * 32], [b"chunk"]))
    kept = [effect for effect in node.drain() if isinstance(effect, KeepResult)]
    assert kept == ([KeepResult(3, b"r" * 32, [b"d" * 32], [b"chunk"])] if keeps else [])


def test_a_checkpoint_of_another_model_is_refused_before_anything_begins() -> None:
    node = member_node(b"k" * 32, 1)
    node.start(0.0)
    held = Held(b"h" * 32, 1, (b"v" * 32,) * 9, (b"d" * 32,) * 9, checks=(b"d" * 16,) * 9)
    with pytest.raises(BadFrame, match="9 fragments"):
        node.train(0.0, replace(training(b"k" * 32, None, FakeApp()), held=held))
    assert node.member is None


def test_a_hosts_draws_are_made_with_the_secret_that_it_is_given() -> None:
    door = Door(bytes(16), b"{}", DIGEST, {}, OWNER)
    hosting = Hosting(Rules(DIGEST), [], door, secret=b"s" * 32)
    node = Node(HOST, 1, Contact(HOST, ()), failure_timeout_s=TIMEOUT_S, hosting=hosting)
    assert node.coordinator is not None
    assert node.coordinator.state.secret == b"s" * 32


def test_a_host_that_cannot_go_on_from_where_its_owner_says_does_not_begin() -> None:
    door = Door(bytes(16), b"{}", DIGEST, {}, OWNER)
    hosting = Hosting(Rules(DIGEST), [], door, resume=3)
    with pytest.raises(ResumeError, match="commit 3: it has 0 commits"):
        Node(HOST, 1, Contact(HOST, ()), failure_timeout_s=TIMEOUT_S, hosting=hosting)
