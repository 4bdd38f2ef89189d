"""What was read of each connection, though a descriptor is another connection's soon after."""

from __future__ import annotations

import pytest

from transport.sockets import accounts as module
from transport.sockets.accounts import Accounts
from transport.sockets.kernel import Handle

A: Handle = (7, "a's ends")
B: Handle = (7, "b's ends")


class Kernel:
    """Who has the descriptor, and what libzmq took of that one."""

    def __init__(self) -> None:
        self.now: Handle | None = A
        self.taken = 0


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    found = Kernel()
    monkeypatch.setattr(module, "remote", lambda descriptor: found.now)
    monkeypatch.setattr(module, "taken_in", lambda handle: found.taken if handle == found.now else None)
    return found


def test_what_was_read_is_not_held(kernel: Kernel) -> None:
    accounts = Accounts()
    accounts.read(7, b"a", b"anna", 100)
    accounts.read(7, b"a", b"anna", 50)
    assert accounts.held({A: 170}, ()) == {A: 20}
    assert accounts.handles() == [A]
    found = accounts.find(A)
    assert found is not None
    assert (found.peer, found.route) == (b"anna", b"a")


def test_a_fresh_connection_holds_all_that_was_taken_and_an_unknown_one_is_nobodys(kernel: Kernel) -> None:
    assert Accounts().held({A: 170}, {A}) == {A: 170}
    assert Accounts().held({A: 170}, ()) == {}


def test_the_account_of_a_connection_that_is_gone_is_closed(kernel: Kernel) -> None:
    accounts = Accounts()
    accounts.read(7, b"a", b"anna", 100)
    assert accounts.held({A: None}, ()) == {}
    assert len(accounts) == 0


def test_a_newer_connection_at_the_same_descriptor_begins_at_nothing(kernel: Kernel) -> None:
    accounts = Accounts()
    accounts.read(7, b"a", b"anna", 100)
    kernel.now = B
    accounts.read(7, b"b", b"bert", 30)
    assert accounts.find(A) is None
    assert accounts.held({B: 40}, ()) == {B: 10}


def test_what_is_left_of_an_older_connection_never_makes_a_newer_one_look_larger(kernel: Kernel) -> None:
    """The older one's messages come in after the newer one's, in any order."""
    for order in ("ab", "ba", "bab", "abab"):
        accounts, read = Accounts(), 0
        kernel.now, kernel.taken = B, 90
        for each in order:
            accounts.read(7, each.encode(), b"bert", 30)
            read += 30 * (each == "b")
        held = accounts.held({B: kernel.taken}, ())[B]
        assert held <= kernel.taken - read, order


def test_a_message_of_a_connection_that_is_gone_opens_no_account(kernel: Kernel) -> None:
    accounts = Accounts()
    accounts.read(7, b"a", b"anna", 100)
    kernel.now = None
    accounts.read(7, b"b", b"bert", 30)
    assert len(accounts) == 0
