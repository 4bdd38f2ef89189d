"""The trace of a simulation: one hash over everything, in order, and text if it is wanted."""

from __future__ import annotations

from transport.simnet.trace_log import TraceLog


def log_of(*entries: tuple[int, bytes, tuple[object, ...]]) -> TraceLog:
    log = TraceLog()
    for entry in entries:
        log.add(*entry)
    return log


ONE, TWO = (1, b"a" * 32, ("send", 0)), (2, b"b" * 32, ("recv", 0))


def test_equal_entries_give_equal_hashes_and_any_other_entry_another() -> None:
    assert log_of(ONE, TWO).digest() == log_of(ONE, TWO).digest()
    elsewhere = (2, b"c" * 32, ("recv", 0))
    traces = [(), (ONE,), (ONE, TWO), (TWO, ONE), (ONE, elsewhere), (ONE, ONE)]
    assert len({log_of(*entries).digest() for entries in traces}) == 6


def test_every_entry_of_a_long_trace_counts() -> None:
    entries = [(at, b"a" * 32, ("send", at)) for at in range(2500)]
    for changed in (0, 999, 1000, 2499):
        other = [*entries[:changed], ONE, *entries[changed + 1 :]]
        assert log_of(*entries).digest() != log_of(*other).digest()


def test_asking_on_the_way_changes_no_later_hash() -> None:
    log = log_of(ONE)
    assert log.digest() == log.digest() == log_of(ONE).digest()
    log.add(*TWO)
    assert log.digest() == log_of(ONE, TWO).digest()


def test_the_text_is_kept_only_if_it_is_wanted() -> None:
    log = log_of(ONE)
    assert log.lines is None
    log.lines = []
    log.add(*TWO)
    assert log.lines == ["2 62626262 recv 0"]
