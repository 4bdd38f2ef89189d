"""Fetching: donors share the work, a liar is named, and one honest donor is enough."""

from __future__ import annotations

import pytest
from blake3 import blake3

from transport.collectives.fetch import AtHand, AtMost, Fetch, Piece, Want, index_page
from transport.digests import tree_digest
from transport.effects import Payload
from transport.limits import Limits

LIMITS = Limits(payload_bytes=64, pieces_in_flight=2)
DATA = bytes(range(256)) * 2
PIECES = [DATA[i : i + 64] for i in range(0, len(DATA), 64)]
DIGESTS = [blake3(piece).digest() for piece in PIECES]


class Download:
    """A fetch and donors that answer by ``answer(donor, want)``."""

    def __init__(self, donors: list[bytes]) -> None:
        self.got: dict[int, bytes] = {}
        self.asked: list[tuple[bytes, Want]] = []
        self.travelled: list[int] = []
        """Pieces that donors were asked for."""
        self.fetch = Fetch(
            tree_digest(DIGESTS),
            [64] * 8,
            donors,
            lambda i, p: self.got.__setitem__(i, bytes(p)),
            LIMITS,
            0.0,  # type: ignore[arg-type]
        )

    def pump(self, now: float = 0.0) -> None:
        self.fetch.pump(now, lambda donor, want: self.asked.append((donor, want)))  # type: ignore[arg-type]

    def run(
        self, liars: frozenset[bytes] = frozenset(), silent: frozenset[bytes] = frozenset()
    ) -> set[bytes]:
        """Answer until nothing is asked any more; who handed out pieces."""
        helped = set()
        self.pump()
        while self.asked:
            donor, want = self.asked.pop(0)
            self.travelled += [] if want.index else [want.piece]
            if donor not in silent:
                payload = index_page(DIGESTS, want.piece, LIMITS) if want.index else PIECES[want.piece]
                if donor in liars:
                    payload = bytes(len(payload))
                if self.fetch.receive(1.0, donor, Piece(want.blob, want.piece, want.index), payload):
                    helped.add(donor)
            self.pump()
        return helped


def test_donors_share_the_work() -> None:
    download = Download([b"a", b"b", b"c"])
    assert download.run() == {b"a", b"b", b"c"}
    assert download.fetch.done
    assert b"".join(download.got[i] for i in range(8)) == DATA


@pytest.mark.parametrize("liar", [b"a", b"b"])
def test_a_donor_that_lies_is_named_and_the_blob_still_arrives(liar: bytes) -> None:
    download = Download([b"a", b"b"])
    download.run(liars=frozenset([liar]))
    assert download.fetch.done
    assert download.fetch.bad_donors == [liar]
    assert b"".join(download.got[i] for i in range(8)) == DATA


def test_donors_that_were_never_heard_of_are_asked_once_they_are_or_if_nobody_else_is_left() -> None:
    download, heard = Download([b"a", b"b", b"c"]), {b"b"}
    fetch = download.fetch
    fetch.put_off(heard.__contains__)
    assert (fetch.donors, fetch.later) == ([b"b"], [b"a", b"c"])
    download.pump()
    assert {donor for donor, _ in download.asked} == {b"b"}
    heard.add(b"c")
    fetch.put_off(heard.__contains__)
    assert (fetch.donors, fetch.later) == ([b"b", b"c"], [b"a"])
    fetch.put_off(lambda donor: False)
    assert fetch.donors == [b"b"], "it was asked already"
    for donor in (b"b", b"c"):
        fetch.drop(donor)
    assert not fetch.failed
    fetch.put_off(lambda donor: False)
    assert (fetch.donors, fetch.later) == ([b"a"], [])
    fetch.drop(b"a")
    assert fetch.failed


def test_silent_donors_are_found_and_others_asked() -> None:
    download = Download([b"a", b"b"])
    download.run(silent=frozenset([b"a"]))
    assert not download.fetch.done
    assert download.fetch.silent(9.0, 2.0) == [b"a"]
    download.fetch.drop(b"a")
    download.run()
    assert download.fetch.done


def test_for_how_long_a_donor_was_silent_counts_from_when_it_was_asked() -> None:
    download = Download([b"a", b"b"])
    download.pump()
    assert (download.fetch.silent(2.0, 2.0), download.fetch.had_s(2.0, b"a")) == ([b"a"], 2.0)
    download.fetch.drop(b"a")
    download.pump(2.0)
    assert download.asked[-1][0] == b"b"
    assert (download.fetch.silent(3.5, 2.0), download.fetch.had_s(3.5, b"b")) == ([b"b"], 1.5)
    download.fetch.drop(b"b")
    download.fetch.add_donors([b"b"])
    download.pump(3.5)
    assert download.fetch.had_s(4.0, b"b") == 2.0, "it lacked the blob, and may have it by now"


def test_what_was_lost_on_the_way_is_asked_for_again() -> None:
    download = Download([b"a"])
    download.pump()
    download.asked.clear()
    download.fetch.ask_again(b"a")
    download.run()
    assert download.fetch.done


def test_without_an_honest_donor_it_fails() -> None:
    download = Download([b"a", b"b"])
    download.run(liars=frozenset([b"a", b"b"]))
    assert download.fetch.failed


def test_what_was_not_asked_for_changes_nothing() -> None:
    download = Download([b"a"])
    download.pump()
    blob = tree_digest(DIGESTS)
    assert not download.fetch.receive(0.0, b"z", Piece(blob, 0, False), PIECES[0])
    assert not download.fetch.receive(0.0, b"a", Piece(blob, 7, False), PIECES[7])
    assert download.got == {}


def test_a_donor_that_lacks_the_blob_is_left_out_and_others_give_what_it_owed() -> None:
    download = Download([b"a", b"b", b"c"])
    download.pump()
    download.run(silent=frozenset([b"b"]))
    assert not download.fetch.done
    download.fetch.drop(b"b")
    assert download.run() <= {b"a", b"c"}
    assert download.fetch.done
    assert download.fetch.bad_donors == []


def test_a_fetch_without_donors_goes_on_where_it_was_when_one_comes() -> None:
    download = Download([b"a"])
    download.pump()
    for _ in range(6):
        donor, want = download.asked.pop(0)
        payload = index_page(DIGESTS, want.piece, LIMITS) if want.index else PIECES[want.piece]
        download.fetch.receive(1.0, donor, Piece(want.blob, want.piece, want.index), payload)
        download.pump()
    had = dict(download.got)
    assert had
    download.fetch.drop(b"a")
    assert download.fetch.failed
    download.asked.clear()
    download.fetch.add_donors([b"b"])
    assert not download.fetch.failed
    assert download.run() == {b"b"}
    assert download.fetch.done
    assert b"".join(download.got[i] for i in range(8)) == DATA


def test_a_liar_is_not_asked_again_even_if_it_is_named_again() -> None:
    download = Download([b"a", b"b"])
    download.run(liars=frozenset([b"b"]))
    download.fetch.add_donors([b"b"])
    assert download.fetch.donors == [b"a"]


def test_no_donor_is_asked_for_more_than_its_share_at_once() -> None:
    download = Download([b"a", b"b"])
    download.run(silent=frozenset([b"b"]))
    download.pump()
    assert download.fetch.num_asked(b"b") <= LIMITS.pieces_in_flight


@pytest.mark.parametrize("num_pieces", [0, 1, 2, 3, 5])
def test_blobs_of_any_number_of_pieces_arrive(num_pieces: int) -> None:
    digests = DIGESTS[:num_pieces]
    got: dict[int, Payload] = {}
    fetch = Fetch(tree_digest(digests), [64] * num_pieces, [b"a"], got.__setitem__, LIMITS, 0.0)
    asked: list[Want] = []

    def ask(donor: bytes, want: object) -> None:
        assert isinstance(want, Want)
        asked.append(want)

    fetch.pump(0.0, ask)
    while asked:
        want = asked.pop(0)
        payload = index_page(digests, want.piece, LIMITS) if want.index else PIECES[want.piece]
        assert fetch.receive(0.0, b"a", Piece(want.blob, want.piece, want.index), payload)
        fetch.pump(0.0, ask)
    assert fetch.done
    assert [got[i] for i in range(num_pieces)] == PIECES[:num_pieces]


def test_an_index_or_a_piece_of_another_size_makes_its_donor_a_liar() -> None:
    for whole in (True, False):
        download = Download([b"a", b"b"])
        download.pump()
        while download.fetch.donors == [b"a", b"b"]:
            donor, want = download.asked.pop(0)
            payload = index_page(DIGESTS, want.piece, LIMITS) if want.index else PIECES[want.piece]
            if donor == b"a" and want.index != whole:
                payload += b"x"
            download.fetch.receive(1.0, donor, Piece(want.blob, want.piece, want.index), payload)
            download.pump()
        assert download.fetch.bad_donors == [b"a"]
        download.run()
        assert download.fetch.done


def test_what_other_fetches_ask_of_a_donor_counts_against_its_limit() -> None:
    download = Download([b"a"])
    download.fetch.pump(0.0, lambda donor, want: download.asked.append((donor, want)), lambda donor: 2)
    assert not download.asked, "not even the index"
    download.pump()
    for page in range(4):
        download.fetch.receive(
            1.0, b"a", Piece(download.fetch.blob, page, True), index_page(DIGESTS, page, LIMITS)
        )
    download.asked.clear()
    download.fetch.pump(0.0, lambda donor, want: download.asked.append((donor, want)), lambda donor: 1)
    assert len(download.asked) == download.fetch.num_asked(b"a") == 1


def test_of_a_blob_that_is_here_in_part_only_the_other_pieces_travel() -> None:
    """Frozen parameters, say, which all have from the same file."""
    download = Download([b"a"])
    ours = [digest if index in (2, 5, 7) else b"-" * 32 for index, digest in enumerate(DIGESTS)]
    download.fetch.have(AtHand(PIECES.__getitem__, [*ours, b"+" * 32]))
    download.run()
    assert download.fetch.done
    assert b"".join(download.got[i] for i in range(8)) == DATA
    assert sorted(download.travelled) == [0, 1, 3, 4, 6]


def test_pieces_of_which_no_digests_are_known_are_hashed_when_they_are_compared() -> None:
    download = Download([b"a"])
    download.fetch.have(AtHand(lambda index: PIECES[index] if index in (2, 5, 7) else b"other"))
    download.run()
    assert download.fetch.done
    assert b"".join(download.got[i] for i in range(8)) == DATA
    assert sorted(download.travelled) == [0, 1, 3, 4, 6]


@pytest.mark.parametrize(("first_is_alike", "looked_at"), [(False, [0, 6, 7]), (True, [*range(8)])])
def test_where_the_first_piece_is_another_one_those_that_move_with_it_are_not_looked_at(
    monkeypatch: pytest.MonkeyPatch, *, first_is_alike: bool, looked_at: list[int]
) -> None:
    monkeypatch.setattr("transport.collectives.fetch.TAKEN_AT_ONCE", 2)
    download, seen = Download([b"a"]), []

    def piece(index: int) -> bytes:
        seen.append(index)
        return PIECES[index] if index or first_is_alike else b"other"

    download.fetch.have(AtHand(piece, num_together=6))
    while not download.fetch.done:
        download.run()
        download.fetch.take_at_hand()
    assert seen == looked_at
    assert sorted(download.travelled) == ([] if first_is_alike else [*range(6)])
    assert b"".join(download.got[i] for i in range(8)) == DATA


def test_what_is_here_already_is_not_asked_for() -> None:
    download = Download([b"a"])
    download.fetch.have(AtHand(PIECES.__getitem__, DIGESTS))
    download.pump()
    assert download.fetch.done
    assert not download.asked
    assert b"".join(download.got[i] for i in range(8)) == DATA


def test_what_is_here_is_taken_some_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transport.collectives.fetch.TAKEN_AT_ONCE", 3)
    download = Download([])
    download.fetch.have(AtHand(PIECES.__getitem__, DIGESTS))
    for taken in (3, 6):
        assert sorted(download.got) == list(range(taken))
        assert (download.fetch.busy, download.fetch.done, download.fetch.failed) == (True, False, False)
        download.fetch.take_at_hand()
    assert (download.fetch.busy, download.fetch.done) == (False, True)
    assert b"".join(download.got[i] for i in range(8)) == DATA


def unknown(most: int, donors: list[bytes], limits: Limits = LIMITS) -> Download:
    """A blob of which it is known only how many pieces it may have."""
    download = Download(donors)
    got = download.got
    download.fetch = Fetch(
        tree_digest(DIGESTS), AtMost(most), donors, lambda i, p: got.__setitem__(i, bytes(p)), limits, 0.0
    )
    return download


@pytest.mark.parametrize("most", [8, 9, 100])
def test_how_a_blob_is_cut_is_learned_from_its_name(most: int) -> None:
    download = unknown(most, [b"a", b"b"])
    assert download.fetch.num_pieces == 0
    download.run(liars=frozenset([b"a"]))
    assert (download.fetch.done, download.fetch.num_pieces) == (True, 8)
    assert b"".join(download.got[i] for i in range(8)) == DATA
    assert download.fetch.bad_donors == [b"a"]


def test_of_a_blob_that_may_not_be_so_large_nothing_is_fetched() -> None:
    wide = Limits(payload_bytes=8 * 32, pieces_in_flight=2)
    download = unknown(7, [b"a"], wide)
    download.pump()
    (_, want) = download.asked.pop()
    download.fetch.receive(1.0, b"a", Piece(want.blob, 0, True), index_page(DIGESTS, 0, wide))
    download.pump()
    assert (download.fetch.too_large, download.fetch.failed, download.asked) == (True, True, [])


def test_a_donor_that_fills_page_after_page_is_asked_for_no_more_than_the_blob_may_have() -> None:
    download = unknown(7, [b"a"])
    download.pump()
    num_pages = 0
    while download.asked:
        (_, want) = download.asked.pop()
        num_pages += 1
        download.fetch.receive(1.0, b"a", Piece(want.blob, want.piece, True), bytes(64))
        download.pump()
    assert (num_pages, download.fetch.bad_donors, download.fetch.failed) == (4, [b"a"], True)
