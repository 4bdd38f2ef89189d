"""Whose process seems to be dead: a second after the end of a link, sooner if a machine refuses, never
after a sign of life."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from peers.absence import Absences

A, B = b"a" * 32, b"b" * 32


def test_a_link_that_is_back_within_a_second_makes_nobody_absent() -> None:
    absences = Absences()
    absences.link_ended(10.0, A)
    assert absences.due(10.9) == []
    assert not absences.heard(A)
    assert absences.due(12.0) == []
    assert absences.deadline() == math.inf


def test_a_link_that_is_not_back_after_a_second_makes_its_peer_absent_once() -> None:
    absences = Absences()
    absences.link_ended(10.0, A)
    absences.link_ended(10.5, A)  # the connection for bulk
    assert absences.deadline() == 11.0, "the first of several ends counts"
    assert absences.due(11.0) == [A]
    assert absences.due(11.5) == []
    assert absences.heard(A), "a sign of life tells that it was absent"
    assert not absences.heard(A)
    absences.link_ended(20.0, A)
    assert absences.due(21.0) == [A]


def test_a_refusal_after_the_end_of_a_link_waits_for_last_words_only() -> None:
    absences = Absences()
    absences.link_ended(10.0, A)
    absences.refused(10.1, A, stands=True)
    assert absences.due(10.3) == []
    assert absences.due(10.41) == [A]


def test_a_late_refusal_does_not_give_more_time() -> None:
    absences = Absences()
    absences.link_ended(10.0, A)
    absences.refused(10.9, A, stands=True)
    assert absences.due(11.0) == [A]


def test_whom_we_dial_is_absent_once_it_refuses() -> None:
    absences = Absences()
    absences.refused(10.0, A, stands=False)
    assert absences.due(10.31) == [A]


def test_a_refusal_beside_a_link_that_stands_leaves_a_second_for_a_sign_of_life() -> None:
    absences = Absences()
    absences.refused(10.0, A, stands=True)
    assert absences.due(10.9) == []
    absences.heard(A)
    assert absences.due(20.0) == []
    absences.refused(30.0, A, stands=True)
    assert absences.due(31.0) == [A]


def test_a_member_is_probed_once_in_five_seconds_whoever_asks() -> None:
    absences = Absences()
    asked = [second for second in range(20) if absences.may_probe(float(second), A)]
    assert asked == [0, 5, 10, 15]
    assert absences.may_probe(19.0, B)
    assert not absences.may_probe(19.5, A), "what is known of one outlasts the probe of another"


INPUTS = st.lists(
    st.tuples(
        st.floats(0.0, 0.5), st.sampled_from(("ended", "refused", "stands", "heard")), st.sampled_from((A, B))
    ),
    max_size=40,
)


@given(INPUTS)
def test_nobody_is_absent_within_the_last_words_after_a_sign_of_life_or_without_an_end(inputs: list) -> None:
    absences, now = Absences(), 0.0
    heard: dict[bytes, float] = {}
    first_end: dict[bytes, float] = {}
    for wait_s, what, peer in inputs:
        now += wait_s
        if what == "heard":
            absences.heard(peer)
            heard[peer] = now
            first_end.pop(peer, None)
        elif what == "ended":
            absences.link_ended(now, peer)
            first_end.setdefault(peer, now)
        else:
            absences.refused(now, peer, stands=what == "stands")
            first_end.setdefault(peer, now)
        for gone in absences.due(now):
            assert gone in first_end
            assert now >= first_end[gone] + 0.3
        for peer_, at in first_end.items():
            assert now < at + 1.0 or absences.deadline() > now, "after a second everyone was told"
            del peer_
