"""How microbatches end at this replica, and at the feeder: counted, given up here, or given up above.

What was given up is remembered until the feeder's mark has passed it, so that it is refused if it comes again
(PP1) and every wait for it ends (PP8). A feeder tells each of its own exactly one end (PP3).
"""

from __future__ import annotations

from peers.protocol.stage_work import (
    Cause,
    EvaluationEnded,
    GivenUp,
    How,
    MayFeed,
    MicrobatchEnded,
    MicrobatchId,
)
from peers.protocol.stream import Ended, Evaluation, GradientHeard, Slots
from peers.routing.sending import forget_unsent
from peers.routing.state import Item, Name, Pair, Phase, StreamState
from peers.routing.wiring import has_path


def give_up(state: StreamState, now: float, item: Item, how: How, stage: int, cause: Cause) -> None:
    """Nothing comes of it here any more. Not of one whose gradient is there: that one is counted."""
    assert not item.loses_nothing, "it is counted whatever happens above"
    del state.items[item.name]
    feeder, number = item.name
    if state.id_of(item.name) is not None:
        state.past_of(feeder).over[number] = item.below
    state.targets.pop(item.name, None)
    if item in state.unheard:
        state.unheard.remove(item)
    if not state.terms.is_last:
        _forget_above(state, now, item)
    if item.phase is Phase.WAITING:
        free_slot(state, now, item)
    if item.told and item.id is not None:
        state.outlet.deliver(GivenUp(item.id))
    if state.terms.stage == 0:
        end(state, now, number, how, stage, cause)
    else:
        say_ended(state, now, item.below, item.name, how, stage, cause)


def _forget_above(state: StreamState, now: float, item: Item) -> None:
    """A gradient of which only a part has come is of no use either: whoever sends it need not keep it."""
    pair = state.pair_with(item.path[state.terms.stage + 1])
    forget_unsent(pair, item)
    if pair is not None and pair.gradients_in.pop(item.name, None) is not None:
        state.say(now, pair.since, GradientHeard(state.since, pair.since, *item.name))


def say_ended(
    state: StreamState, now: float, to: int, name: Name, how: How, stage: int, cause: Cause
) -> None:
    """Tell the replica below that nothing comes of a microbatch."""
    state.say(now, to, Ended(state.since, to, *name, how, stage, cause))


def end(state: StreamState, now: float, number: int, how: How, stage: int, cause: Cause) -> None:
    """One that was fed here has ended."""
    if (fed := state.fed.pop(number, None)) is None:
        return
    microbatch = MicrobatchId(state.key, state.since, number)
    if fed.evaluates:
        state.outlet.deliver(EvaluationEnded(microbatch, 0.0, 0))
    else:
        state.outlet.deliver(MicrobatchEnded(microbatch, how, stage if how is How.PARTIAL else 0, cause))
    _pass_mark(state)


def evaluated(state: StreamState, now: float, item: Item, loss_sum: float, tokens: int) -> None:
    """The loss of one that evaluates is known: it is over here, and told below."""
    feeder, number = item.name
    del state.items[item.name]
    if state.terms.stage == 0:
        del state.fed[number]
        state.outlet.deliver(EvaluationEnded(MicrobatchId(state.key, state.since, number), loss_sum, tokens))
        _pass_mark(state)
        return
    if not state.replicas.is_over(feeder):
        state.past_of(feeder).over[number] = item.below
    told = Evaluation(state.since, item.below, feeder, number, loss_sum, tokens)
    state.say(now, item.below, told)


def _pass_mark(state: StreamState) -> None:
    state.past_of(state.since).raise_mark(state.mark)
    tell_may_feed(state)


def tell_may_feed(state: StreamState) -> None:
    """The training thread hears how far it may feed, if that is news."""
    if state.terms.stage or state.drains:
        return
    if not has_path(state.replicas):
        return
    until = state.mark + state.terms.window
    if until > state.may_feed or (state.blocked and until > state.next_number):
        state.may_feed, state.blocked = max(until, state.may_feed), False
        state.outlet.deliver(MayFeed(state.may_feed))


def free_slot(state: StreamState, now: float, item: Item) -> None:
    """Whoever sent an item up may send another one."""
    pair = state.pair_with(item.below)
    if pair is not None:
        grant_one(state, now, pair)


def grant_one(state: StreamState, now: float, pair: Pair) -> None:
    """One more in all."""
    pair.granted += 1
    state.outlet.send(now, pair.key, Slots(state.since, pair.since, pair.granted))
