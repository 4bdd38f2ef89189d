"""Guards of a member: each of these tests fails if its guard is taken away.

They are about what must not be forgotten while somebody needs it, and about a contribution that must not take
the fate of another round.
"""

from __future__ import annotations

from peers.member.contributions import Contributions
from peers.member.exchanges import Exchanges, RunningExchange
from peers.member.fetches import Fetches
from peers.member.follower import Follower
from peers.member.membership import Membership
from peers.member.results import KeptResults
from peers.member.versions import Versions
from peers.protocol.commands import Offer
from peers.protocol.events import Fate
from peers.protocol.manifest import Manifest
from peers.protocol.messages import Abort, Committed, Serve
from peers.protocol.profile import Profile
from tests.peers.member.fakes import (
    BASE,
    HOST,
    LIMITS,
    ME,
    OTHER,
    PATIENCE_S,
    SIZE,
    TIMEOUT_S,
    FakeApp,
    FakeOutlet,
    name_of,
    record_on,
    result_of,
    state_of,
    vector,
)
from tests.peers.member.test_rounds import Offering, round_of
from tests.peers.member.training_kit import Training
from transport.collectives.direct_reduce import DirectReduce
from transport.collectives.fetch import Piece, Want, index_page
from transport.collectives.plan import Plan
from transport.digests import digest_of
from transport.frames import pack


def test_a_state_that_the_coordinator_says_will_be_fetched_is_kept_though_training_moves_on() -> None:
    training = Training()
    training.app.states = [state_of(0)]
    training.hear(Serve(0, name_of(state_of(0))))
    training.app.states = [state_of(1)]
    training.hear(Want(name_of(state_of(0)), 0, False), OTHER)
    ((to, piece, payload),) = training.outlet.bulk
    assert (to, piece) == (OTHER, Piece(name_of(state_of(0)), 0, False))
    assert payload == state_of(0)[: LIMITS.payload_bytes]


class KeepsOne:
    """A member that keeps one result, and those that it needs."""

    def __init__(self) -> None:
        self.outlet, app = FakeOutlet(), FakeApp()
        self.results = KeptResults(app, 1, 0, self.outlet)
        self.exchanges = Exchanges(self.outlet, TIMEOUT_S, PATIENCE_S)
        self.fetches = Fetches(ME, app, self.outlet, LIMITS, TIMEOUT_S, PATIENCE_S, 8 * SIZE, self.results)
        versions = Versions()
        versions.begin_at(BASE)
        self.follower = Follower(
            HOST,
            Profile("me", (), Manifest(BASE, BASE, BASE, "fp32", (SIZE,), "a model")),
            self.outlet,
            LIMITS.history_records,
            versions=versions,
            results=self.results,
            fetches=self.fetches,
            membership=Membership(ME, self.outlet, lambda now, key, reason: None),
            contributions=Contributions(ME, HOST, self.outlet),
            exchanges=self.exchanges,
        )

    def exchanged(self, serial: int) -> bytes:
        """A round that came to its result here; returns its digest."""
        exchange = DirectReduce(serial, ME, vector(float(serial)), SIZE, 0.0)
        self.exchanges.running[serial] = RunningExchange(0, exchange, 0.0, 100)
        exchange.begin(0.0, Plan(0, (ME,), (1.0,)))
        self.exchanges.pump(0.0)
        return exchange.digest()


def test_a_result_of_an_exchange_that_a_record_to_come_needs_is_not_forgotten() -> None:
    member = KeepsOne()
    record = record_on(BASE)  # its result is not here: it and all that follow wait
    member.follower.take_commit(0.0, Committed(pack(record)))
    results = []
    for index in (2, 3):
        results.append(member.exchanged(index))
        record = record_on(record.hash(), index, result=results[-1])
        member.follower.take_commit(0.0, Committed(pack(record)))
    member.exchanges.close_all(0.0)  # it is let in anew, say
    assert results[0] in member.results


def test_a_fetched_result_that_a_record_to_come_needs_is_not_forgotten() -> None:
    member = KeepsOne()
    records = [record_on(BASE, 1)]
    for index in (2, 3):
        records.append(record_on(records[-1].hash(), index))
    member.fetches.fetch_missing_results(0.0, records, BASE, ())
    for record in records[1:]:
        page = index_page([digest_of(result_of(record.index))], 0, LIMITS)
        member.fetches.take_piece(0.0, OTHER, Piece(record.result, 0, True), page)
        member.fetches.take_piece(0.0, OTHER, Piece(record.result, 0, False), result_of(record.index))
        assert member.fetches.finish_results(records)
    assert [record.result in member.results for record in records] == [False, True, True]


def test_the_end_of_an_earlier_round_is_not_the_end_of_a_later_offer() -> None:
    member = Offering()
    member.rounds.open(0.0, round_of((100.0, 50.0)))
    member.contributions.end(0, Fate.LATE, "a record of another round moved the fragment")
    member.contributions.offer(BASE, Offer(0, 7, 7, vector(1.0), 1.0))
    member.rounds.abort(0.0, Abort(1, "it was given up", False))
    assert member.contributions.offered[0].tokens == 7
    assert member.contributions.tokens_by_fate[Fate.LATE] == 100


def test_a_round_that_is_void_here_does_not_end_what_a_record_counts() -> None:
    member = Offering()
    member.rounds.open(0.0, round_of((100.0, 50.0)))
    record = record_on(BASE, members=(ME, OTHER))
    member.contributions.mark_committed(record)
    member.rounds.abort(0.0, Abort(1, "it was set aside", False))
    assert member.contributions.offered[0].counted_by == record.hash()
