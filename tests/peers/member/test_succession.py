"""A member stops for a newer process of its identity only when the coordinator says so twice."""

from __future__ import annotations

from peers.member.succession import Succession
from peers.protocol.events import IdentitySuperseded
from tests.peers.node_kit import HIGH, HOST, LOW, Swarm, header_of, host_node
from transport.effects import Connect
from transport.link.messages import Stale


def test_another_members_word_that_it_is_old_changes_nothing() -> None:
    swarm = Swarm(host_node(), LOW, HIGH)
    node = swarm.nodes[LOW]
    links = dict(node.links.by_peer)
    for _ in range(5):
        node.receive(0.0, HIGH, 0, header_of(Stale(1 << 40)), None)
    swarm.run()
    assert swarm.events[LOW] == [
        each for each in swarm.events[LOW] if not isinstance(each, IdentitySuperseded)
    ]
    assert node.links.by_peer == links
    assert node.admits(HOST) == "member"


def test_one_word_of_the_coordinator_makes_a_member_greet_anew_and_go_on() -> None:
    swarm = Swarm(host_node(), LOW, HIGH)
    node = swarm.nodes[LOW]
    generation = node.links.by_peer[HOST].session.generation
    node.receive(0.0, HOST, 0, header_of(Stale(2)), None)
    swarm.run()
    assert IdentitySuperseded() not in swarm.events[LOW]
    assert node.links.by_peer[HOST].session.generation > generation
    assert node.links.by_peer[HOST].up
    # It proved its incarnation: what is told later is again a first word.
    node.receive(1.0, HOST, 0, header_of(Stale(2)), None)
    swarm.run()
    assert IdentitySuperseded() not in swarm.events[LOW]


def test_words_that_come_before_the_fresh_connection_stands_are_no_second_one() -> None:
    swarm = Swarm(host_node(), LOW)
    node = swarm.nodes[LOW]
    for _ in range(3):  # each lane of a connection brings one
        node.receive(0.0, HOST, 0, header_of(Stale(2)), None)
    assert sum(isinstance(each, Connect) for each in node.drain()) == 1
    assert node.admits(HOST) == "member"


def test_a_member_that_is_told_again_over_the_fresh_connection_stops() -> None:
    swarm = Swarm(host_node(), LOW, HIGH)
    older = swarm.nodes[LOW]
    swarm.join(LOW, incarnation=2)
    older.receive(0.0, HOST, 0, header_of(Stale(2)), None)
    older.connected(0.0, HOST, 0)
    older.receive(0.0, HOST, 0, header_of(Stale(2)), None)
    assert older.links.by_peer == {}
    assert older.admits(HOST) is None


def test_a_restarted_coordinator_still_knows_which_process_of_an_identity_is_the_newest() -> None:
    swarm = Swarm(host_node(), LOW)
    swarm.join(LOW, incarnation=2)
    swarm.run(2 * 60.0)
    again = Swarm(host_node(journal=swarm.entries()))
    older = again.join(LOW, incarnation=1)
    assert older.admits(HOST) is None
    assert IdentitySuperseded() in again.events[LOW]


def test_after_a_greeting_a_word_is_a_first_one_again() -> None:
    succession = Succession()
    assert succession.told() is False
    succession.connected()
    succession.greeted()
    assert succession.told() is False
    assert succession.told() is None
    succession.connected()
    assert succession.told() is True
