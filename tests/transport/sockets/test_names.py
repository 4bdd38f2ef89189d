"""Names are resolved beside the driver: what they mean, what is remembered, and how many may hang."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace

import pytest

from transport.errors import DialFailed
from transport.limits import LIMITS
from transport.sockets.names import Lookup, Names, numeric_address


class Book:
    """Names and what they mean; a name that is not there hangs until `close`."""

    def __init__(self, lookups: int = LIMITS.lookups) -> None:
        self.means: dict[str, Sequence[str] | Exception] = {}
        self.answers: list[Lookup] = []
        self.asked: list[str] = []
        self._closed = threading.Event()
        self._woken = threading.Semaphore(0)
        self.names = Names(self._woken.release, self.resolve, replace(LIMITS, lookups=lookups))

    def resolve(self, name: str) -> Sequence[str]:
        self.asked.append(name)
        if name not in self.means:
            self._closed.wait()
            return ()
        found = self.means[name]
        if isinstance(found, Exception):
            raise found
        return found

    def ask(self, name: str) -> Lookup:
        return self.names.look_up(name, self.answers.append)

    def next(self) -> Lookup:
        """The next answer."""
        assert self._woken.acquire(timeout=20)
        self.names.serve()
        return self.answers[-1]

    def __enter__(self) -> Book:
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()


def test_a_name_becomes_the_numbers_that_can_be_dialled() -> None:
    with Book() as book:
        book.means["host"] = ["10.0.0.1", "0.0.0.0", "::1", "10.0.0.2"]
        book.ask("host")
        assert book.next().found == ["10.0.0.1", "10.0.0.2"]


@pytest.mark.parametrize("error", [OSError(-2, "Name or service not known"), UnicodeError("label too long")])
def test_a_name_that_does_not_resolve_says_why(error: Exception) -> None:
    with Book() as book:
        book.means["nowhere"] = error
        book.ask("nowhere")
        assert book.next().found == ()
        assert "nowhere does not resolve: " in book.answers[0].error


def test_a_name_that_hangs_holds_up_no_other() -> None:
    with Book() as book:
        book.means["host"] = ["10.0.0.1"]
        book.ask("hangs")
        book.ask("host")
        assert book.next().name == "host"
        assert len(book.answers) == 1


def test_who_asks_for_a_name_that_is_looked_up_waits_for_the_same_answer() -> None:
    with Book() as book:
        first, second = book.ask("hangs"), book.ask("hangs")
        assert book.answers == []
    assert book.next().error == "hangs has no IPv4 address"
    assert book.answers == [first, second]
    assert book.asked == ["hangs"]


def test_beyond_a_number_of_lookups_a_name_means_what_it_meant_last() -> None:
    with Book(lookups=2) as book:
        book.means["host"] = ["10.0.0.1"]
        book.ask("host")
        book.next()
        for name in ("hangs", "hangs too"):
            book.ask(name)
        for name, found in (("host", ["10.0.0.1"]), ("other", ())):
            lookup = book.ask(name)
            assert book.next() is lookup
            assert (lookup.found, lookup.error) == (found, "too many names are being looked up")
        assert set(book.asked) == {"host", "hangs", "hangs too"}


def test_a_name_that_fails_later_means_what_it_meant_last_and_one_that_moved_something_else() -> None:
    with Book() as book:
        for means, found in (
            (["10.0.0.1"], ["10.0.0.1"]),
            (OSError("no answer"), ["10.0.0.1"]),
            (["10.0.0.2"], ["10.0.0.2"]),
        ):
            book.means["host"] = means
            book.ask("host")
            assert book.next().found == found
        assert book.names.known("host") == ["10.0.0.2"]


def test_what_is_remembered_has_a_bound() -> None:
    with Book() as book:
        for number in range(LIMITS.names_known + 1):
            book.means[f"h{number}"] = ["10.0.0.1"]
            book.ask(f"h{number}")
            book.next()
        assert [book.names.known("h0"), book.names.known("h1")] == [(), ["10.0.0.1"]]


def test_a_joiner_gets_numbers_or_one_line() -> None:
    with Book() as book:
        book.means["host"] = ["10.0.0.1"]
        book.means["nowhere"] = OSError(-2, "Name or service not known")
        assert numeric_address("tcp://host:7000", 20.0, book.resolve) == "tcp://10.0.0.1:7000"
        assert numeric_address("tcp://10.0.0.9:7000", 20.0, book.resolve) == "tcp://10.0.0.9:7000"
        assert book.asked == ["host"], "a number is not looked up"
        for address, why in (
            ("tcp://no/port", "not like tcp://host:port"),
            ("tcp://nowhere:1", "does not resolve: Name or service not known"),
            ("tcp://hangs:1", "did not resolve in 0 s"),
        ):
            with pytest.raises(DialFailed, match=f"cannot dial {address}: .*{why}"):
                numeric_address(address, 0.05 if "hangs" in address else 20.0, book.resolve)
