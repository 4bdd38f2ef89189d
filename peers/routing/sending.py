"""What leaves for other replicas: payloads piece by piece as there is room, gradients before activations.

An activation leaves when the replica above has room for one more microbatch (a slot); what was begun is sent
to the end. When a session begins all that is outstanding, and not held at the other end, is sent again.
"""

from __future__ import annotations

from dataclasses import replace

from peers.protocol.stream import Ask, Backward, Forward, Targets
from peers.routing.state import Item, Job, Pair, Phase, StreamState
from transport.collectives.stream import piece_of
from transport.effects import size_bytes


def send_up(state: StreamState, now: float, item: Item) -> None:
    """What an item became here is for the replica above; it waits if there is no session with that."""
    above = state.terms.stage + 1
    pair = state.pair_with(item.path[above])
    if pair is None or not pair.ready or item.payload is None or not state.stands_at(pair.since, above):
        return
    feeder, number = item.name
    past = state.past.get(feeder)
    mark = state.mark if feeder == state.since else past.mark_by(item.below) if past is not None else 0
    mark = max(mark, item.mark)
    route, mark = tuple(item.path), min(mark, number)
    first = Forward(state.since, pair.since, number, item.attempt, route, mark, 0, item.evaluates)
    job = Job(item.name, first, item.payload, state.pieces(size_bytes(item.payload)), True, item)
    pair.ups.append(job)
    pump(state, now, pair)


def send_gradient(state: StreamState, now: float, item: Item) -> None:
    """The gradient of a counted item is for the replica below."""
    pair = state.pair_with(item.below)
    if pair is None or not pair.ready or item.payload is None:
        return
    first = Backward(state.since, pair.since, *item.name, item.tokens, 0)
    job = Job(item.name, first, item.payload, state.pieces(size_bytes(item.payload)), False, item)
    pair.gradients.append(job)
    pump(state, now, pair)


def send_targets(state: StreamState, now: float, number: int, to: int) -> None:
    """Targets of one that was fed here are for the last replica of its path."""
    fed, pair = state.fed[number], state.pair_with(to)
    fed.sent_to.add(to)
    name = (state.since, number)
    if pair is None or not pair.ready or any(job.name == name for job in pair.targets):
        return
    first = Targets(state.since, to, number, state.mark, 0)
    pair.targets.append(Job(name, first, fed.targets, state.pieces(size_bytes(fed.targets)), False))
    pump(state, now, pair)


def send_all_again(state: StreamState, now: float, pair: Pair) -> None:
    """A session with a replica begins."""
    for each in pair.jobs():
        each.clear()
    stage = state.terms.stage
    for item in sorted(state.items.values(), key=lambda each: each.name[::-1]):
        if item.phase is Phase.UP and item.path[stage + 1] == pair.since and item.name not in pair.held:
            send_up(state, now, item)
        elif item.phase is Phase.COUNTED and item.below == pair.since:
            send_gradient(state, now, item)
        if item.phase is Phase.UP and item.asked == pair.since:
            ask_above_the_cut(state, now, item)
    for number, fed in list(state.fed.items()):
        if pair.since in fed.sent_to:
            send_targets(state, now, number, pair.since)


def ask_above_the_cut(state: StreamState, now: float, item: Item) -> None:
    """The one above who is gone is asked whether it got the item from that."""
    state.say(now, item.asked, Ask(state.since, item.asked, *item.name, state.replicas.heard))


def pump(state: StreamState, now: float, pair: Pair) -> None:
    """Send as much as there is room for."""
    while pair.ready and (job := _next_job(pair)) is not None:
        piece = piece_of(job.payload, state.terms.piece_bytes, job.next_piece)
        if state.outlet.stream_room(pair.key) < size_bytes(piece):
            return
        if job.takes_slot and not job.next_piece:
            pair.num_sent_up += 1
            assert job.item is not None
            job.item.sent_to, job.item.since_s = pair.since, now
        message = job.message if not job.next_piece else replace(job.message, piece=job.next_piece)
        state.outlet.send_stream(now, pair.key, message, piece)
        job.next_piece += 1
        if job.next_piece == job.num_pieces:
            next(each for each in pair.jobs() if each and each[0] is job).popleft()


def pump_all(state: StreamState, now: float) -> None:
    """Some link may have room again."""
    for pair in state.pairs.values():
        if pair.gradients or pair.targets or pair.ups:
            pump(state, now, pair)


def is_leaving(pair: Pair | None, item: Item) -> bool:
    """Whether an item's activation waits for room, or is on its way."""
    return pair is not None and any(job.item is item for job in pair.ups)


def forget_unsent(pair: Pair | None, item: Item) -> None:
    """An item is not sent up any more; if a piece of it has left, the others follow."""
    if pair is not None:
        kept = [job for job in pair.ups if job.item is not item or job.next_piece]
        pair.ups.clear()
        pair.ups.extend(kept)


def _next_job(pair: Pair) -> Job | None:
    for jobs in (pair.gradients, pair.targets):
        if jobs:
            return jobs[0]
    if pair.ups and (pair.ups[0].next_piece or pair.num_sent_up < pair.may_send_up):
        return pair.ups[0]
    return None
