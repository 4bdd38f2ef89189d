"""What grows in a stage with what its neighbours say of microbatches, each filled by one that means harm."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

from peers.protocol.stream import MAX_HELD, Ask, Forward, Holding, Targets
from peers.routing.asking import MAX_ASKS
from peers.routing.state import MAX_KEPT
from tests.hostile.bounds_kit import SIZE_AND_BOUND, SMALL, Rows
from tests.peers.member.fakes import OTHER
from tests.peers.member.test_stages import FEEDER, MINE, LastStage
from transport.effects import STREAM_LANE
from transport.errors import BadFrame
from transport.frames import to_items
from transport.link.bulk import FRAME_COST
from transport.link.messages import Session
from transport.link.streams import Streams

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
def targets_of_microbatches_that_never_come() -> SIZE_AND_BOUND:
    here = LastStage()
    for number in range(100):
        with suppress(BadFrame):
            here.stages.streaming.take_payload(0.0, OTHER, Targets(FEEDER, MINE, number, 0, 0), b"tt")
    state = here.stages.streaming.state
    return len(state.targets) + len(state.pairs[OTHER].targets_in), WINDOW


NARROW = replace(SMALL, stream_window_bytes=64 * 1024)
NOTE = to_items(Targets(FEEDER, MINE, 0, 0, 0))


def link_with_stream() -> Streams:
    """One of 16 links, whose other end has greeted."""
    found = Streams(b"them", Session(1, 1), NARROW, [], with_stream=True)
    found.begin_anew(Session(1, 1), Session(2, 1), keep_control=False)
    assert found.stream is not None
    found.stream.window.base = NARROW.stream_window(16)
    found.hello(STREAM_LANE, reply=True)
    return found


@STREAMS.add
def bytes_of_a_stream_that_nobody_consumed() -> SIZE_AND_BOUND:
    link = link_with_stream()
    for seq in range(1, 1000):
        try:
            link.stream_arrived(0.0, seq, NOTE, bytes(NARROW.payload_bytes))
        except BadFrame:
            break  # its link is dropped, and all that it sent
    return link.kept().stream_unconsumed_cost, NARROW.stream_window(16) + NARROW.payload_bytes + FRAME_COST


@STREAMS.add
def numbers_of_a_stream_that_come_out_of_order() -> SIZE_AND_BOUND:
    link = link_with_stream()
    for seq in range(2, 2000, 2):
        with suppress(BadFrame):
            for arrival in link.stream_arrived(0.0, seq, NOTE, b""):
                link.stream_consumed(0.0, arrival.cost)
    return link.kept().stream_seen, NARROW.largest_window // FRAME_COST
