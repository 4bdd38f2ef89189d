"""Traces: the name of each follows from its class, and no two have the same."""

from __future__ import annotations

import dataclasses
import re

import pytest

from peers.protocol import traces
from peers.protocol.traces import CommittedTrace, SetAsideTrace, fields_of
from transport.effects import Trace

KINDS = [
    each
    for each in vars(traces).values()
    if isinstance(each, type) and issubclass(each, Trace) and each is not Trace
]


def test_names_follow_from_classes() -> None:
    assert len(KINDS) > 20
    for kind in KINDS:
        words = re.findall("[A-Z][a-z]*", kind.__name__)
        assert words[-1] == "Trace"
        assert kind.name == "_".join(words[:-1]).lower()
    assert (CommittedTrace.name, SetAsideTrace.name) == ("committed", "set_aside")


def test_names_are_distinct() -> None:
    assert len({kind.name for kind in KINDS}) == len(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_a_trace_is_a_fact_that_does_not_change_and_says_what_it_is(kind: type[Trace]) -> None:
    assert kind.__doc__
    assert not kind.__doc__.startswith(f"{kind.__name__}(")
    values = {each.name: index for index, each in enumerate(dataclasses.fields(kind))}  # type: ignore[arg-type]
    trace = kind(**values)
    assert fields_of(trace) == values
    assert trace == kind(**values)
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(trace, next(iter(values)), 7)
