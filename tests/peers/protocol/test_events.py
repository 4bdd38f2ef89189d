"""Events: facts that do not change, told to the training loop."""

from __future__ import annotations

import dataclasses

import pytest

from peers.protocol import events
from peers.protocol.events import ContributionEnded, Fate

KINDS = [each for each in vars(events).values() if dataclasses.is_dataclass(each) and isinstance(each, type)]
KINDS = [each for each in KINDS if each.__module__ == events.__name__]


def test_a_contribution_ends_in_one_of_four_fates() -> None:
    assert [str(fate) for fate in Fate] == ["applied", "rejected", "late", "superseded"]


@pytest.mark.parametrize("kind", KINDS)
def test_an_event_is_data_that_does_not_change(kind: type) -> None:
    values = range(len(dataclasses.fields(kind)))
    event = kind(*values)
    assert event == kind(*values)
    assert kind.__dataclass_params__.frozen  # type: ignore[attr-defined]
    assert not [each for each in vars(kind) if each[0] != "_" and callable(getattr(kind, each))]


def test_events_with_other_facts_are_other_events() -> None:
    ended = ContributionEnded(0, 1, 100, Fate.LATE, "behind")
    assert ended != dataclasses.replace(ended, fate=Fate.APPLIED)
