"""How two replicas begin anew when a session of their link, or one of their memberships, begins.

Each says which microbatches it holds of those that the other sent up, and then that it is there. From then on
the other sends again what is outstanding and not held. What was not whole is dropped. Slots are counted by
session, so none is lost with one.
"""

from __future__ import annotations

from peers.protocol.stream import MAX_HELD, Holding, Meet
from peers.routing.sending import send_all_again
from peers.routing.state import MAX_KEPT, Pair, Phase, StreamState
from transport.errors import BadFrame


def meet(state: StreamState, now: float, key: bytes, *, reply: bool = False) -> None:
    """Begin with a peer, if its membership is known and this one stands."""
    replica = state.replicas.of(key)
    if replica is None or not state.since or not state.exchanges_with(replica.stage):
        return
    pair = state.pairs.get(key)
    if pair is None or pair.since != replica.since:
        pair = state.pairs[key] = Pair(key, replica.since)
        pair.granted = _room_for(state, replica.since) if replica.stage == state.terms.stage - 1 else 0
    held = [item.name for item in state.items.values() if item.below == replica.since]
    for begin in range(0, len(held), MAX_HELD):
        names = tuple(number for name in held[begin : begin + MAX_HELD] for number in name)
        state.outlet.send(now, key, Holding(state.since, replica.since, names))
    state.outlet.send(now, key, Meet(state.since, replica.since, pair.granted, reply))


def take(state: StreamState, now: float, peer: bytes, message: Meet | Holding) -> None:
    """A peer begins with this member."""
    replica = state.replicas.of(peer)
    if replica is None or message.you != state.since or message.me != replica.since:
        return  # whoever hears later of the other begins then
    if not state.exchanges_with(replica.stage):
        raise BadFrame("a stage that exchanges nothing with this one")
    pair = state.pairs.get(peer)
    if pair is None or pair.since != replica.since:
        meet(state, now, peer)
        pair = state.pairs[peer]
    if isinstance(message, Holding):
        pair.held |= set(zip(message.held[::2], message.held[1::2], strict=False))
        if len(pair.held) > MAX_KEPT:
            raise BadFrame(f"more than {MAX_KEPT} microbatches are said to be held")
        return
    first, pair.ready = not pair.ready, True
    pair.may_send_up = max(pair.may_send_up, message.slots)
    if not message.reply:
        meet(state, now, peer, reply=True)
    if first:
        send_all_again(state, now, pair)


def _room_for(state: StreamState, below: int) -> int:
    """Microbatches that a sender may have waiting here: its share of a window, one at least. Those that wait
    are among them, whatever session they came in; each gives its slot back to the newest."""
    num_below = max(1, len(state.replicas.at(state.terms.stage - 1)))
    waiting = sum(item.below == below and item.phase is Phase.WAITING for item in state.items.values())
    return max(0, -(-state.terms.window // num_below) - waiting)
