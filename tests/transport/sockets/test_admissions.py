"""Whose a fresh connection is: known only if one key alone was admitted from its address meanwhile."""

from __future__ import annotations

from transport.sockets.admissions import LAG_S, REMEMBERED, Admissions

A, B = b"a" * 32, b"b" * 32


def test_the_only_key_that_was_admitted_from_an_address_is_the_connections() -> None:
    admissions = Admissions()
    admissions.admitted(5.0, "here", A)
    admissions.admitted(5.1, "here", A)
    admissions.admitted(5.0, "there", B)
    assert admissions.only_key("here", 5.0) == A
    assert admissions.only_key("there", 5.0) == B
    assert admissions.only_key("elsewhere", 5.0) is None


def test_of_two_keys_from_one_address_neither_is_taken_for_the_other() -> None:
    admissions = Admissions()
    admissions.admitted(5.0, "here", A)
    admissions.admitted(5.0 + LAG_S, "here", B)
    assert admissions.only_key("here", 5.0 + LAG_S) is None
    assert admissions.only_key("here", 5.1 + LAG_S) == B, "the other was admitted long before"


def test_where_some_are_forgotten_that_may_matter_nobody_is_named() -> None:
    admissions = Admissions()
    admissions.admitted(5.0, "here", A)
    for number in range(REMEMBERED - 1):
        admissions.admitted(6.0 + number, "there", B)
    assert admissions.only_key("here", 5.0) is None
    assert admissions.only_key("there", 9.0) == B
