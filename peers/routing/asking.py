"""Questions about microbatches: does the one above the cut have it, and what has become of a slow one?

A question is answered once its epoch was heard here, for from then on nothing is taken of a membership that
was over at that epoch: only so "no" is a promise. Slow is not dead: who is slow is asked, and asked again;
silence is the coordinator's affair.
"""

from __future__ import annotations

from enum import IntEnum

from peers.protocol.stage_work import Cause, How
from peers.protocol.stream import Ask, Has
from peers.routing.cuts import replace_above
from peers.routing.ending import give_up
from peers.routing.receiving import ask_targets, drop_unknown
from peers.routing.sending import ask_above_the_cut, is_leaving, send_up
from peers.routing.state import Item, Name, Pair, Phase, StreamState

MAX_ASKS = 4096
"""Questions that wait for their epoch; more are dropped, and asked again."""

MAX_WAITS = 20
"""Times in a row that a replica may answer that it has or computes a microbatch, before that is given up."""


class Known(IntEnum):
    """What is known of a microbatch."""

    NO = 0
    COUNTED = 1
    COMPUTING = 2
    OVER = 3


def asked(state: StreamState, now: float, pair: Pair, message: Ask) -> None:
    """Somebody below asks."""
    if message.epoch <= state.replicas.heard:
        _answer(state, now, message)
    elif len(state.asks) < MAX_ASKS:
        state.asks.append((pair.key, message))


def answer_waiting(state: StreamState, now: float) -> None:
    """News came: some questions can be answered."""
    due = [each for each in state.asks if each[1].epoch <= state.replicas.heard]
    state.asks = [each for each in state.asks if each[1].epoch > state.replicas.heard]
    for _, message in due:
        _answer(state, now, message)


def answered(state: StreamState, now: float, pair: Pair, message: Has) -> None:
    """What a replica above has of one that is up."""
    item, known = state.items.get((message.feeder, message.number)), Known(message.has)
    if item is None or item.phase is not Phase.UP:
        return
    above = state.terms.stage + 1
    if item.asked and item.asked == pair.since:
        if message.epoch < item.asked_at:
            return  # it answers an earlier question, about somebody else who was gone
        if known is Known.NO:
            replace_above(state, now, item)
        else:
            give_up(state, now, item, How.PARTIAL, above, Cause.CUT)
    elif not item.asked and item.path[above] == pair.since:
        _slow_answered(state, now, item, known)


def ask_about_slow(state: StreamState, now: float) -> None:
    """Ask again what was asked in vain, and about what went up long ago."""
    late_s = now - state.terms.patience_s
    for item in list(state.items.values()):
        if item.since_s > late_s:
            continue
        if item.phase is Phase.UP:
            item.since_s = now
            if not _is_with_somebody(state, item):
                how = How.PARTIAL if item.sent_to else How.LOST
                give_up(state, now, item, how, state.terms.stage + 1, Cause.NO_REPLICA)
            elif item.asked:
                ask_above_the_cut(state, now, item)
            elif not is_leaving(state.pair_with(item.path[state.terms.stage + 1]), item):
                above = item.path[state.terms.stage + 1]
                state.say(now, above, Ask(state.since, above, *item.name, 0))
        elif item.id is None:
            drop_unknown(state, now, item)
        elif state.terms.is_last and item.phase is Phase.WAITING and not item.told:
            item.since_s = now
            ask_targets(state, now, item)


def _is_with_somebody(state: StreamState, item: Item) -> bool:
    """Whether who is to take or answer for an item stands: news of it would have come by now."""
    above = state.terms.stage + 1
    return state.stands_at(item.asked or item.path[above], above + 1 if item.asked else above)


def _slow_answered(state: StreamState, now: float, item: Item, known: Known) -> None:
    item.since_s = now
    if known is Known.NO:
        pair = state.pair_with(item.path[state.terms.stage + 1])
        if not is_leaving(pair, item):
            item.attempt += 1
            send_up(state, now, item)
    elif known is Known.OVER:
        give_up(state, now, item, How.PARTIAL, state.terms.stage + 1, Cause.OVER)
    else:
        item.num_waits += 1
        if item.num_waits >= MAX_WAITS:  # or it held a place in the window for as long as it likes
            give_up(state, now, item, How.PARTIAL, state.terms.stage + 1, Cause.SLOW)


def _answer(state: StreamState, now: float, ask: Ask) -> None:
    name = (ask.feeder, ask.number)
    state.say(now, ask.me, Has(state.since, ask.me, *name, _known(state, name, ask.me), ask.epoch))


def _known(state: StreamState, name: Name, asks: int) -> Known:
    feeder, number = name
    item, past = state.items.get(name), state.past.get(feeder)
    if item is not None:
        return Known.COUNTED if item.phase is Phase.COUNTED else Known.COMPUTING
    if past is not None and number in past.counted:
        return Known.COUNTED
    if state.replicas.is_over(feeder) or (past is not None and past.is_over(number, asks)):
        return Known.OVER
    if any(entry[:2] == name for pair in state.pairs.values() for entry in pair.inputs):
        return Known.COMPUTING
    return Known.NO
