"""State that grows with what a peer says, or with how often it comes: each is filled, and stays at its bound.

One row for each such state: how it is filled, with far more than its bound, and the figure of
`transport.limits` (or what it follows from) at which it stays. Keeps R1 and R4.
"""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from peers.coordinator.assignment import MAX_RESERVED
from peers.coordinator.chain import Chain
from peers.coordinator.coordinator import Coordinator
from peers.coordinator.gathering import MAX_LAYOUT_PIECES, Gathering
from peers.coordinator.journal import StageGiven
from peers.coordinator.marks import Marks
from peers.coordinator.rules import Rules
from peers.coordinator.suspicion import Suspicion
from peers.links import LinksByNeed, LinkTable
from peers.member.contributions import Contributions
from peers.member.donor import Donor
from peers.member.exchanges import Exchanges
from peers.member.liars import MAX_BLOBS, Liars
from peers.member.membership import Membership
from peers.member.results import FEW, MAX_RESULTS_AT_ONCE, KeptResults
from peers.member.rounds import Rounds
from peers.member.versions import Versions
from peers.protocol.commands import Offer
from peers.protocol.messages import Applied, MemberActive, MemberIs, Open, Ready, RosterBatch
from peers.protocol.placing import ANY_STAGE, AskStage, StageIs
from peers.protocol.record import Record
from peers.protocol.roster_feed import RosterFeed
from tests.hostile.bounds_kit import SIZE_AND_BOUND, SMALL, Rows, keys
from tests.hostile.shared_bounds import SHARED
from tests.hostile.socket_bounds import SOCKETS
from tests.hostile.stream_bounds import STREAMS
from tests.peers.coordinator.coordinator_kit import SETTINGS, Swarm, key, trained
from tests.peers.coordinator.test_state import Told
from tests.peers.member.fakes import (
    BASE,
    HOST,
    ME,
    OTHER,
    SIZE,
    FakeApp,
    FakeOutlet,
    name_of,
    result_of,
    vector,
)
from tests.peers.member.test_follower import NUM_FRAGMENTS, FollowingMember
from tests.peers.node_kit import HOST as HOST_KEY
from tests.peers.node_kit import header_of, host_node
from transport.collectives.chunks import PartChunk
from transport.collectives.fetch import Piece, Want, index_page
from transport.digests import digest_of, tree_digest
from transport.effects import Effect, EncodedResult
from transport.errors import BadFrame
from transport.frames import to_items, unpack
from transport.limits import LIMITS
from transport.link.link import Link
from transport.link.messages import NOBODY, Ack, Hello, Session
from transport.link.streams import FRAME_COST, Streams

US, THEM = Session(1, 1), Session(2, 1)
BOUNDS = Rows()


# -- a link ---------------------------------------------------------------------------------------


def streams(num_links: int = 1) -> Streams:
    """Those of a link among so many, whose other end has greeted."""
    found = Streams(b"them", US, SMALL, [])
    found.begin_anew(US, THEM, keep_control=False)
    found.window.base = SMALL.window(num_links)
    found.hello(reply=True)
    return found


NOTE = to_items(PartChunk(1, 0, 0))


@BOUNDS.add
def control_that_comes_out_of_order() -> SIZE_AND_BOUND:
    link = streams()
    for seq in range(2, 10_000):
        with suppress(BadFrame):
            link.control_arrived(0.0, seq, NOTE)
    return link.kept().control_held, SMALL.control_queue


@BOUNDS.add
def numbers_of_bulk_that_comes_out_of_order() -> SIZE_AND_BOUND:
    link = streams()
    for seq in range(2, 2000, 2):
        with suppress(BadFrame):
            for arrival in link.bulk_arrived(0.0, seq, NOTE, b""):
                link.consumed(0.0, arrival.cost)
    return link.kept().bulk_seen, SMALL.largest_window // FRAME_COST


@BOUNDS.add
def bytes_of_one_peer_that_nobody_consumed() -> SIZE_AND_BOUND:
    link = streams(num_links=16)
    for seq in range(1, 1000):
        try:
            link.bulk_arrived(0.0, seq, NOTE, bytes(SMALL.payload_bytes))
        except BadFrame:
            break  # its link is dropped, and all that it sent
    return link.kept().unconsumed_cost, SMALL.window(16) + SMALL.payload_bytes + FRAME_COST


@BOUNDS.add
def control_that_waits_for_a_peer_that_is_away() -> SIZE_AND_BOUND:
    table = LinkTable(1, 4.0, SMALL, [])
    table.open(0.0, b"p" * 32, (), dials=False)
    most = 0
    for number in range(500):
        table.send(0.0, b"p" * 32, PartChunk(number, 0, 0))
        most = max(most, table.by_peer[b"p" * 32].streams.kept().control_out)
    return most, SMALL.control_queue


@BOUNDS.add
def bulk_that_a_peer_never_acknowledges() -> SIZE_AND_BOUND:
    link = streams()
    link.acknowledged(Ack(*THEM, *US, 0, 0, 1 << 40, 0))
    while link.room() >= 500:
        link.send_bulk(0.0, PartChunk(1, 0, 0), bytes(500), "exchange")
    return link.kept().bulk_out_cost, SMALL.largest_window


@BOUNDS.add
def incarnations_of_peers_whose_links_were_dropped() -> SIZE_AND_BOUND:
    table = LinkTable(1, 4.0, SMALL, [])
    for _, peer in zip(range(200), keys(), strict=False):
        table.open(0.0, peer, (), dials=False)
        table.forget(peer, "it left")
    return len(table.newest), SMALL.identities


@BOUNDS.add
def links_of_identities_that_are_not_in_the_run() -> SIZE_AND_BOUND:
    host = host_node(limits=SMALL)
    host.start(0.0)
    assert host.coordinator is not None
    for _, peer in zip(range(35), keys(), strict=False):
        assert host.coordinator.certify(peer, "w") is None
        host.receive(0.0, peer, 0, header_of(Hello(1, 1, *NOBODY, 0, 0, 0, False)), None)
    return len(host.links.by_peer), SMALL.spare_links


@BOUNDS.add
def times_at_which_gossip_partners_were_met() -> SIZE_AND_BOUND:
    out: list[Effect] = []
    table, roster = LinkTable(1, 4.0, SMALL, out), dict[bytes, MemberIs]()
    links = LinksByNeed(table, ME, HOST, (), roster, lambda now, peer: None, max_idle_s=8.0)
    for _, peer in zip(range(200), keys(), strict=False):
        roster.clear()  # who was met before has left the run
        roster[peer] = MemberIs(1, peer, "w", (), 0)
        table.changed = True
        links.update(0.0)
        links.meet(0.0, peer)
        links.drop_idle(0.0, set())
    return len(links.met), 1


# -- a member -------------------------------------------------------------------------------------


class Pieces:
    """A state in one piece."""

    digests = (b"d" * 32,)

    def piece(self, index: int) -> bytes:
        return b"piece"


class AnyVersion(FakeApp):
    """It holds the state of the present version, whatever that is called."""

    version = b""

    def state_blob(self, fragment: int, blob: bytes) -> Any:
        return Pieces() if blob == self.version else None


def donor(app: FakeApp, outlet: FakeOutlet) -> Donor:
    versions = Versions()
    versions.begin_at(BASE)
    return Donor(app, outlet, SMALL, 10.0, 1, versions, KeptResults(app, 4, 0, outlet))


@BOUNDS.add
def versions_of_a_state_that_are_kept_for_whoever_asks() -> SIZE_AND_BOUND:
    app, outlet = AnyVersion(), FakeOutlet()
    serving = donor(app, outlet)
    versions = [version for _, version in zip(range(50), keys(), strict=False)]
    for version in versions:
        app.version = version
        serving.hand_out(0.0, OTHER, Want(version, 0, False))
    app.version = b""
    outlet.bulk.clear()
    for version in versions:
        serving.hand_out(0.0, OTHER, Want(version, 0, False))
    return len(outlet.bulk), SMALL.served_states


def results(count: int, app: FakeApp) -> KeptResults:
    """Those of a model of three fragments, each as long as a result, after so many rounds of each."""
    found = KeptResults(app, 3, 3 * SIZE, FakeOutlet())
    for index in range(3 * count):
        chunk = result_of(index)
        found.keep(tree_digest([digest_of(chunk)]), EncodedResult([digest_of(chunk)], [chunk]), ())
    return found


@BOUNDS.add
def bytes_of_results_that_are_kept_in_memory() -> SIZE_AND_BOUND:
    names = [tree_digest([digest_of(result_of(index))]) for index in range(3 * 50)]
    return results(50, FakeApp()).size_bytes(names), 3 * 4 * SIZE + max(3 * SIZE, FEW * 4 * SIZE)


@BOUNDS.add
def results_that_were_read_from_the_disk() -> SIZE_AND_BOUND:
    app = FakeApp()
    for index in range(50):
        chunk = result_of(index)
        app.disk[tree_digest([digest_of(chunk)])] = EncodedResult([digest_of(chunk)], [chunk])
    kept = results(0, app)
    for digest in [*reversed(app.disk), *app.disk]:  # back through what was read last, which is held
        kept.find(digest)
    return 2 * len(app.disk) - len(app.asked), MAX_RESULTS_AT_ONCE


@BOUNDS.add
def pieces_that_wait_for_credit() -> SIZE_AND_BOUND:
    app, outlet = AnyVersion(), FakeOutlet()
    serving = donor(app, outlet)
    app.version, outlet.room_bytes = BASE, 0
    for _ in range(500):
        with suppress(BadFrame):
            serving.hand_out(0.0, OTHER, Want(BASE, 0, False))
    return len(serving.waiting), 4 * SMALL.pieces_in_flight


@BOUNDS.add
def exchanges_of_one_contribution() -> SIZE_AND_BOUND:
    outlet = FakeOutlet()
    contributions, exchanges = Contributions(ME, HOST, outlet), Exchanges(outlet, 10.0, 60.0)
    rounds = Rounds(ME, HOST, contributions, exchanges, outlet)
    contributions.offer(BASE, Offer(0, 100, 100, vector(1.0), 1.0))
    for serial in range(1, 50):
        rounds.open(0.0, Open(serial, 0, 0, BASE, SIZE, (ME, OTHER), (100.0, 100.0), ()))
    return len(exchanges.running), 1


@BOUNDS.add
def chunks_that_come_before_their_exchange() -> SIZE_AND_BOUND:
    """As many bytes as their sender was granted: nothing is granted again while they are held."""
    link, outlet = streams(num_links=16), FakeOutlet()
    exchanges = Exchanges(outlet, 10.0, 60.0)
    for seq in range(1, 1000):
        try:
            (arrival,) = link.bulk_arrived(0.0, seq, to_items(PartChunk(seq, 0, 0)), bytes(100))
        except BadFrame:
            break
        exchanges.take_chunk(0.0, OTHER, arrival.message, bytes(100), arrival.cost)
    assert not outlet.returned
    held = len(exchanges.early_senders(lambda serial: True))
    return held * (100 + FRAME_COST), SMALL.window(16)


@BOUNDS.add
def fragments_of_a_state_that_are_fetched_at_once() -> SIZE_AND_BOUND:
    member = FollowingMember(at=None)
    for _ in range(20):
        with suppress(BadFrame):
            order = replace(member.order(1), state=name_of(b"nobody has it"), remaining=0)
            member.follower.fetch_state(0.0, order)
    return len(member.fetches.states), NUM_FRAGMENTS


@BOUNDS.add
def members_that_a_coordinator_tells_of() -> SIZE_AND_BOUND:
    membership = Membership(ME, FakeOutlet(), lambda now, key, reason: None, max_members=SMALL.gossip_members)
    for _, peer in zip(range(100), keys(), strict=False):
        with suppress(BadFrame):
            membership.welcome([MemberIs(1, peer, "w", (), 0)])
    return len(membership.others), SMALL.gossip_members


@BOUNDS.add
def members_that_are_said_to_hold_a_state() -> SIZE_AND_BOUND:
    membership = Membership(ME, FakeOutlet(), lambda now, key, reason: None, max_members=SMALL.gossip_members)
    for _, peer in zip(range(100), keys(), strict=False):
        with suppress(BadFrame):
            membership.became_active(MemberActive(peer))
    return len(membership.active), SMALL.gossip_members


@BOUNDS.add
def blobs_of_which_somebody_handed_out_other_bytes() -> SIZE_AND_BOUND:
    liars = Liars()
    blobs = [blob for _, blob in zip(range(500), keys(), strict=False)]
    for blob in blobs:
        liars.note(blob, [OTHER])
    return sum(bool(liars.of(blob)) for blob in blobs), MAX_BLOBS


# -- the coordinator ------------------------------------------------------------------------------


@BOUNDS.add
def bytes_that_a_host_fetches_to_compute_a_disputed_step() -> SIZE_AND_BOUND:
    """Of each of the three as much as may be."""
    piece, counts = bytes(SMALL.payload_bytes), (MAX_LAYOUT_PIECES, 8, 4)
    digests = [[digest_of(bytes([n]) + piece[1:])] * count for n, count in enumerate(counts)]
    held = {tree_digest(each): (n, each) for n, each in enumerate(digests)}
    layout, former, result = held
    gathering, asked = (
        Gathering(
            0.0,
            layout=layout,
            former=former,
            result=result,
            max_chunks=4,
            max_bytes=8 * SMALL.payload_bytes,
            donors=[OTHER],
            timeout_s=10.0,
            limits=SMALL,
        ),
        list[Want](),
    )
    gathering.pump(0.0, lambda peer, want: asked.append(want))
    while asked:
        want = asked.pop()
        number, names = held[want.blob]
        payload = index_page(names, want.piece, SMALL) if want.index else bytes([number]) + piece[1:]
        gathering.take(0.0, OTHER, Piece(want.blob, want.piece, want.index), payload)
        gathering.pump(0.0, lambda peer, want: asked.append(want))
    size = len(gathering.layout) + len(gathering.take_former()) + sum(map(len, gathering.result))
    return size, sum(counts) * SMALL.payload_bytes


@BOUNDS.add
def pairs_that_are_marked() -> SIZE_AND_BOUND:
    suspicion = Suspicion(max_pairs=50)
    for _, accused in zip(range(500), keys(), strict=False):
        suspicion.accuse(ME, accused, 0)
    return len(suspicion.pairs(0)), 50


@BOUNDS.add
def pairs_that_do_not_reach_each_other() -> SIZE_AND_BOUND:
    marks = Marks(first=16, max_pairs=50)
    for _, other in zip(range(500), keys(), strict=False):
        marks.add((ME, other), 0)
    return len(marks.partners(ME, 0)), 50


@BOUNDS.add
def members_whose_rounds_are_proved() -> SIZE_AND_BOUND:
    suspicion = Suspicion(max_pairs=50)
    members = [member for _, member in zip(range(500), keys(), strict=False)]
    for member in members:
        suspicion.distrust(member, 0)
    return sum(suspicion.proves([member], 0) for member in members), 50


@BOUNDS.add
def digests_of_fragments_that_a_member_tells() -> SIZE_AND_BOUND:
    swarm = trained(1)
    for fragment in range(LIMITS.fragments):
        with suppress(BadFrame):
            swarm.hear(1, Applied(fragment, BASE, BASE[:16]))
    return len(swarm.core.roster.entries[key(1)].checks), 1


def offered_everywhere() -> Swarm:
    """A member alone offers a contribution to every fragment that a message can name."""
    swarm = trained(1, min_peers=2)
    for number, fragment in enumerate(range(LIMITS.fragments)):
        with suppress(BadFrame):
            swarm.hear(1, Ready(fragment, swarm.chain.head, 8, 8, number, 1.0))
    return swarm


@BOUNDS.add
def offers_of_one_member() -> SIZE_AND_BOUND:
    return len(offered_everywhere().core.roster.entries[key(1)].ready), 1


@BOUNDS.add
def times_since_which_fragments_are_ready() -> SIZE_AND_BOUND:
    return len(offered_everywhere().core.state.courses[0].ready_since), 1


@BOUNDS.add
def identities_of_a_run() -> SIZE_AND_BOUND:
    outlet = Told()
    core = Coordinator(key(255), Rules(SETTINGS), SMALL, outlet)
    for _, peer in zip(range(100), keys(), strict=False):
        core.certify(peer, "w")
    return len(core.roster.entries), SMALL.identities


@BOUNDS.add
def places_that_are_held_for_joiners() -> SIZE_AND_BOUND:
    swarm = Swarm(stages=2, limits=replace(SMALL, members=8))
    for _, peer in zip(range(40), keys(), strict=False):
        swarm.core.certify(peer, "w")
        for wish in (ANY_STAGE, 0, 1, 1):
            swarm.core.receive(0.0, peer, AskStage(0, wish))
    return sum(isinstance(said, StageIs) and said.stage in (0, 1) for _, said in first_of_each(swarm)), 16


def first_of_each(swarm: Swarm) -> list[tuple[bytes, object]]:
    """What each was told first."""
    return list({peer: (peer, said) for peer, said in reversed(swarm.said)}.values())


@BOUNDS.add
def lines_of_the_journal_about_the_stage_of_one_that_never_comes() -> SIZE_AND_BOUND:
    swarm = Swarm(stages=2)
    swarm.core.certify(key(1), "w")
    for number in range(100):
        swarm.now += 1000.0
        swarm.hear(1, AskStage(0, number % 2))
    return sum(isinstance(unpack(entry), StageGiven) for entry in swarm.journal), MAX_RESERVED


@BOUNDS.add
def changes_of_the_roster_that_wait() -> SIZE_AND_BOUND:
    sent: list[RosterBatch] = []
    feed = RosterFeed(lambda now, peer, message: sent.append(message), SMALL.roster_changes)
    for _, peer in zip(range(20), keys(), strict=False):  # so many that changes wait for each other
        feed.entered(0.0, peer)
    most = waiting = 0
    for _, peer in zip(range(200), keys(), strict=False):
        before = len(sent)
        feed.add(0.0, MemberActive(peer))
        feed.flush(0.0, list)
        waiting = 0 if len(sent) > before else waiting + 1
        most = max(most, waiting)
    return most, SMALL.roster_changes


@BOUNDS.add
def records_that_are_kept_whole() -> SIZE_AND_BOUND:
    chain = Chain(LIMITS.history_records)
    heads = [chain.head]
    for index in range(1, 500):
        members = (key(index % 3),)
        heads.append(chain.append(Record(chain.head, index, 0, 1, index, 1, members, (1.0,), BASE)))
    return sum(chain.after(head) is not None for head in heads) - 1, LIMITS.history_records


@BOUNDS.add
def records_by_member_and_fragment() -> SIZE_AND_BOUND:
    chain = Chain(8)
    for index in range(1, 500):
        chain.append(Record(chain.head, index, index % 2, 1, index, 1, (key(1),), (1.0,), BASE))
    return len(chain.counted(key(1))), 2


# -- all of them ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*BOUNDS, *SHARED, *STREAMS, *SOCKETS])
def test_what_a_peer_makes_us_keep_is_filled_and_stays_at_its_bound(name: str) -> None:
    size, most = (BOUNDS | SHARED | STREAMS | SOCKETS)[name]()
    assert size <= most
    assert 2 * size >= most, "it was not filled"


def test_the_bytes_of_all_peers_together_are_bounded() -> None:
    """Who came while there were few keeps what it was granted; each that comes later is granted less."""
    table = LinkTable(1, 4.0, LIMITS, [])
    granted = 0
    for _, peer in zip(range(LIMITS.members), keys(), strict=False):
        link: Link = table.open(0.0, peer, (), dials=False)
        granted += link.streams.hello(reply=True).credit
    assert granted <= 4 * LIMITS.buffer_bytes


def test_a_state_that_the_coordinator_promised_is_not_pushed_out_by_whoever_asks_for_others() -> None:
    app, outlet = AnyVersion(), FakeOutlet()
    serving = donor(app, outlet)
    app.version = BASE
    serving.serve(0.0, 0, BASE)
    for _, version in zip(range(50), keys(), strict=False):
        app.version = version
        serving.hand_out(1.0, OTHER, Want(version, 0, False))
    outlet.bulk.clear()
    serving.hand_out(2.0, HOST_KEY, Want(BASE, 0, False))
    assert [message for _, message, _ in outlet.bulk] == [Piece(BASE, 0, False)]


def test_of_identities_that_are_not_in_the_run_the_one_that_was_silent_longest_loses_its_link() -> None:
    host = host_node(limits=SMALL)
    host.start(0.0)
    assert host.coordinator is not None
    peers = [peer for _, peer in zip(range(SMALL.spare_links + 1), keys(), strict=False)]
    hello = header_of(Hello(1, 1, *NOBODY, 0, 0, 0, False))
    for now, peer in enumerate(peers):
        host.coordinator.certify(peer, "w")
        if now == SMALL.spare_links:
            host.receive(50.0, peers[0], 0, hello, None)
        host.receive(100.0 if now == SMALL.spare_links else float(now), peer, 0, hello, None)
    assert list(host.links.by_peer) == [peers[0], *peers[2:]]


def test_a_control_message_that_is_rubbish_is_not_held_until_its_turn() -> None:
    link = streams()
    with pytest.raises(BadFrame):
        link.control_arrived(0.0, 2, [[[[]]] * 200])
    assert link.kept().control_held == 0


def test_what_is_listed_is_in_the_code() -> None:
    """`BOUNDS.md` names each state that can grow, and where it ends."""
    root = Path(__file__).parents[2]
    rows = [
        line.strip("| ").split(" | ")
        for line in Path(__file__).with_name("BOUNDS.md").read_text().split("\n")
    ]
    listed = [(row[0], row[1]) for row in rows if len(row) == 3 and row[0].endswith(".py")]
    assert len(listed) > 80
    for file, name in listed:
        owner, _, attribute = name.partition(".")
        text = (root / file).read_text()
        assert f"class {owner}" in text, name
        assert re.search(rf"\b{attribute}\b", text), name
