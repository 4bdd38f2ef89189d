"""What grows in a stage with what its neighbours say of microbatches, each filled by one that means harm."""

from __future__ import annotations

from contextlib import suppress

from peers.protocol.stream import MAX_HELD, Ask, Forward, Holding, Meet, Targets
from peers.routing.asking import MAX_ASKS
from peers.routing.state import MAX_KEPT
from tests.hostile.bounds_kit import SIZE_AND_BOUND, Rows
from tests.peers.member.fakes import OTHER
from tests.peers.member.test_stages import FEEDER, MINE, LastStage
from transport.errors import BadFrame

STREAMS = Rows()
WINDOW = 4
"""Of the stage of those tests."""


@STREAMS.add
def questions_about_news_that_never_come() -> SIZE_AND_BOUND:
    here = LastStage()
    for number in range(2 * MAX_ASKS):
        here.stages.streaming.take_control(0.0, OTHER, Ask(FEEDER, MINE, FEEDER, number, 1 << 60))
    return len(here.stages.streaming.state.asks), MAX_ASKS


@STREAMS.add
def microbatches_that_are_said_to_be_held() -> SIZE_AND_BOUND:
    here = LastStage()
    for number in range(2 * MAX_KEPT // MAX_HELD):
        held = tuple(range(2 * MAX_HELD * number, 2 * MAX_HELD * (number + 1)))
        with suppress(BadFrame):
            here.stages.streaming.take_control(0.0, OTHER, Holding(FEEDER, MINE, held))
            continue
        break  # its link is dropped, and all that it said
    return len(here.stages.streaming.state.pairs[OTHER].held), MAX_KEPT + MAX_HELD


@STREAMS.add
def microbatches_that_are_begun_and_never_sent_whole() -> SIZE_AND_BOUND:
    here = LastStage()
    for number in range(100):
        forward = Forward(FEEDER, MINE, number, 1, (FEEDER, MINE), number, 0)
        with suppress(BadFrame):
            here.stages.streaming.take_payload(0.0, OTHER, forward, b"aaaa")
    state = here.stages.streaming.state
    return len(state.items) + len(state.pairs[OTHER].inputs), WINDOW


@STREAMS.add
def microbatches_of_feeders_that_nobody_knows() -> SIZE_AND_BOUND:
    here = LastStage()
    for number in range(100):
        forward = Forward(FEEDER, MINE, 0, 1, (1 << 50, MINE), 0, 0)
        with suppress(BadFrame):
            here.stages.streaming.take_payload(0.0, OTHER, forward, b"aaaa")
        here.stages.streaming.take_control(0.0, OTHER, Meet(FEEDER, MINE, number, False))
    state = here.stages.streaming.state
    return len(state.past) + len(state.unheard), 2 * WINDOW + 1


@STREAMS.add
def targets_of_microbatches_that_never_come() -> SIZE_AND_BOUND:
    here = LastStage()
    for number in range(100):
        with suppress(BadFrame):
            here.stages.streaming.take_payload(0.0, OTHER, Targets(FEEDER, MINE, number, 0, 0), b"tt")
    state = here.stages.streaming.state
    return len(state.targets) + len(state.pairs[OTHER].targets_in), WINDOW
