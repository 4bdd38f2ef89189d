"""A member of a run with one fragment, for the tests of this folder."""

from __future__ import annotations

from peers.member.member import Member
from peers.protocol.commands import Command, ConfirmCaptured, Offer
from peers.protocol.manifest import Manifest
from peers.protocol.messages import Committed, Entered, RosterBatch, Seed
from peers.protocol.profile import Matching, Profile
from peers.protocol.record import Record, genesis_head
from peers.protocol.roster_feed import packed
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
    check_of,
    result_of,
    vector,
)
from transport.collectives.fetch import Piece, index_page
from transport.digests import digest_of
from transport.frames import pack, to_items

STATE = b"s" * 32
HEAD = genesis_head([STATE])


class Training:
    """A member of a run with one fragment; it has entered, and has seeded the run if ``active``."""

    def __init__(
        self, matching: Matching | None = None, *, active: bool = True, coordinator: bytes = HOST
    ) -> None:
        self.outlet = FakeOutlet()
        self.app = FakeApp()
        manifest = Manifest(BASE, BASE, BASE, "fp32", (SIZE,), "a model")
        self.member = Member(
            ME,
            coordinator,
            Profile("me", ("tcp://m:1",), manifest, matching=matching),
            self.app,
            self.outlet,
            failure_timeout_s=TIMEOUT_S,
            patience_s=PATIENCE_S,
            limits=LIMITS,
        )
        self.member.start(0.0)
        self.member.begin_session(0.0, coordinator)
        self.hear(Entered(1))
        if active:
            self.hear(Seed(1))
            self.do(ConfirmCaptured(0, STATE, check_of(STATE)))

    def hear(self, message: object, peer: bytes = HOST) -> None:
        self.member.take_control(0.0, peer, message)

    def do(self, command: Command) -> bool:
        return self.member.do(0.0, command)

    def offer(self) -> bool:
        return self.do(Offer(0, 100, 50, vector(1.0), 1.0))

    def read(self, *news: object) -> None:
        for batch in packed([to_items(each) for each in news]):
            self.hear(RosterBatch(batch))

    def commit(self, record: Record) -> None:
        """A record comes, and its result from another member."""
        self.hear(Committed(pack(record)))
        page = index_page([digest_of(result_of(record.index))], 0, LIMITS)
        for answer, payload in ((True, page), (False, result_of(record.index))):
            self.member.take_bulk(0.0, OTHER, Piece(record.result, 0, answer), payload, 10)
