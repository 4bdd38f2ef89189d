"""What becomes of microbatches when a replica on their path is gone.

Above the cut they go on; below it they are sent again if the cut came before they passed, and given up
otherwise. The replica below finds out which: it asks the one above the cut, and by the time that answers, it
takes nothing more of who is gone. Where more than one is gone above, nobody can know, and the microbatch is
given up. Keeps PP1 together with the offer that waits for acknowledgements (`peers.member`).
"""

from __future__ import annotations

from peers.protocol.stage_work import Cause, How
from peers.routing.ending import give_up, tell_may_feed
from peers.routing.replicas import Replica
from peers.routing.sending import ask_above_the_cut, send_up
from peers.routing.state import Item, Phase, StreamState


def membership_ended(state: StreamState, now: float, gone: Replica) -> None:
    """A membership is over."""
    pair = state.pairs.get(gone.key)
    if pair is not None and pair.since == gone.since:
        del state.pairs[gone.key]
    state.asks = [each for each in state.asks if each[0] != gone.key]
    for past in state.past.values():
        past.marks.pop(gone.since, None)
    for item in sorted(state.items.values(), key=lambda each: each.name[::-1]):
        if item.name[0] == gone.since:
            _feeder_gone(state, now, item)
        elif item.below == gone.since and item.phase is Phase.COUNTED:
            del state.items[item.name]
        on_path = gone.since in item.path[state.terms.stage + 1 :]
        if on_path and item.phase is Phase.UP and item.name in state.items:
            _cut_above(state, now, item)
    if gone.stage == 0:
        _forget_feeder(state, gone.since)
    tell_may_feed(state)


def went_forward(state: StreamState, now: float, item: Item) -> None:
    """An item that went forward here is to be sent up: to somebody else, if who was to have it is gone."""
    if state.replicas.is_over(item.path[state.terms.stage + 1]):
        replace_above(state, now, item)
    else:
        send_up(state, now, item)


def replace_above(state: StreamState, now: float, item: Item) -> None:
    """Nobody has it whose membership stands: somebody else of the stage above gets it."""
    above = state.terms.stage + 1
    found = state.wires.replica(state.replicas, above, *item.name, drains_too=True)
    if found is None:
        how = How.LOST if not item.sent_to else How.PARTIAL
        give_up(state, now, item, how, above, Cause.NO_REPLICA)
        return
    item.asked = 0
    item.path[above] = found.since
    item.attempt += 1
    item.since_s, item.num_waits = now, 0
    send_up(state, now, item)


def find_cuts(state: StreamState, now: float) -> None:
    """Of some memberships it is known only now that they are over: those of which nothing was ever told."""
    for item in sorted(state.items.values(), key=lambda each: each.name[::-1]):
        if item.phase is Phase.UP and not item.asked:
            _cut_above(state, now, item)


def _cut_above(state: StreamState, now: float, item: Item) -> None:
    above = state.terms.stage + 1
    if not state.replicas.is_over(item.path[above]):
        return  # whoever is below the cut sees to it
    if item.sent_to != item.path[above]:
        replace_above(state, now, item)
        return
    num_gone = sum(map(state.replicas.is_over, item.path[above:]))
    if num_gone > 1:
        give_up(state, now, item, How.PARTIAL, above, Cause.TWO_GONE)
    elif above == state.terms.stages - 1:
        replace_above(state, now, item)
    else:
        item.asked, item.asked_at = item.path[above + 1], state.replicas.heard
        ask_above_the_cut(state, now, item)


def _feeder_gone(state: StreamState, now: float, item: Item) -> None:
    """All give up what they have not counted. What is computed here just now for the loss is counted."""
    if item.loses_nothing:
        if item.phase is Phase.COUNTED and item.below == item.name[0]:
            del state.items[item.name]
    elif item.phase is not Phase.BEGUN or not state.terms.is_last:
        give_up(state, now, item, How.PARTIAL, 0, Cause.FEEDER_GONE)


def _forget_feeder(state: StreamState, feeder: int) -> None:
    state.past.pop(feeder, None)
    for name in [each for each in state.targets if each[0] == feeder]:
        del state.targets[name]
