"""What comes from other replicas: activations from below, gradients from above, targets from feeders.

Each microbatch enters here at most once while this membership stands. Every activation that is refused is
answered, and its slot goes back, for its sender cannot end a step before it knows. What does not belong here
(a stranger on the path, a wrong size, more than there is a slot for) raises `BadFrame`.
"""

from __future__ import annotations

from peers.protocol.stage_work import Cause, GradientArrived, How, InputArrived
from peers.protocol.stream import AskTargets, Backward, Forward, GradientHeard, Targets
from peers.routing.ending import grant_one, say_ended
from peers.routing.state import MAX_KEPT, Entry, Item, Name, Pair, Past, Phase, StreamState, StreamTerms
from transport.collectives.stream import Assembly
from transport.effects import Payload
from transport.errors import BadFrame

TOKEN_BYTES = 4
"""Of the targets, for each token."""


def take_forward(state: StreamState, now: float, pair: Pair, message: Forward, payload: Payload) -> None:
    """A piece of an activation from below."""
    terms, path, name = state.terms, message.route, (message.route[0], message.number)
    fits = len(path) == terms.stages and terms.stage > 0 and path[terms.stage] == state.since
    if not fits or path[terms.stage - 1] != pair.since or message.mark > message.number:
        raise BadFrame("a microbatch whose path does not lead from its sender to here")
    entry = (*name, message.attempt)
    if entry in pair.refused:
        _count_refused(pair, entry)
        return
    if entry not in pair.inputs:
        pair.taken += 1
        if pair.taken > pair.granted:
            raise BadFrame("a microbatch for which there is no room")
        if not _is_taken(state, now, pair, name, message):
            if len(pair.refused) >= MAX_KEPT:
                raise BadFrame(f"more than {MAX_KEPT} microbatches are begun that were refused")
            pair.refused[entry] = state.pieces(terms.input_bytes)
            _count_refused(pair, entry)
            grant_one(state, now, pair)
            return
        pair.inputs[entry] = Assembly(terms.input_bytes, terms.piece_bytes)
    whole = pair.inputs[entry].put(message.piece, payload)
    if whole is None:
        return
    del pair.inputs[entry]
    if not _is_taken(state, now, pair, name, message):
        grant_one(state, now, pair)  # it was given up or came otherwise meanwhile
        return
    item = Item(name, None, list(path), pair.since, Phase.WAITING, whole, since_s=now)
    item.renewed, past = message.attempt > 1, state.past.get(name[0])
    item.evaluates = message.evaluates
    item.mark = message.mark if past is None else past.mark_by(pair.since)
    state.items[name] = item
    state.unheard.append(item)
    hand_over(state, now)


def hand_over(state: StreamState, now: float) -> None:
    """Give the training thread what is whole, as soon as the feeder is known."""
    for item in list(state.unheard):
        item.id = state.id_of(item.name)
        if item.id is None and state.replicas.is_over(item.name[0]):
            state.unheard.remove(item)  # its end was told before it came
            del state.items[item.name]
            if (pair := state.pair_with(item.below)) is not None:
                say_ended(state, now, item.below, item.name, How.PARTIAL, 0, Cause.FEEDER_GONE)
                grant_one(state, now, pair)
            continue
        if item.id is None:
            continue
        targets = state.targets.get(item.name)
        if state.terms.is_last and targets is None:
            if item.renewed:  # they went to somebody else who is gone
                item.renewed = False
                item.since_s = now
                ask_targets(state, now, item)
            continue
        state.unheard.remove(item)
        state.targets.pop(item.name, None)
        payload, item.payload, item.told = item.payload, None, True
        assert payload is not None, "it is whole"
        state.outlet.deliver(InputArrived(item.id, payload, targets, item.evaluates))


def drop_unknown(state: StreamState, now: float, item: Item) -> None:
    """Of a feeder nothing was heard for long: the training thread has nothing of it."""
    state.unheard.remove(item)
    del state.items[item.name]
    if (pair := state.pair_with(item.below)) is not None:
        say_ended(state, now, item.below, item.name, How.PARTIAL, state.terms.stage, Cause.OVER)
        grant_one(state, now, pair)


def ask_targets(state: StreamState, now: float, item: Item) -> None:
    """The feeder keeps targets until the end."""
    feeder, number = item.name
    state.say(now, feeder, AskTargets(state.since, feeder, number))


def take_targets(state: StreamState, now: float, pair: Pair, message: Targets, payload: Payload) -> None:
    """A piece of the targets of a microbatch."""
    name, past, feeder = (pair.since, message.number), state.past_of(pair.since), state.replicas.of(pair.key)
    if not state.terms.is_last or feeder is None or feeder.stage or message.mark > message.number:
        raise BadFrame("targets that are not a feeder's for the last stage")
    raise_mark(state, pair.since, message.mark)
    if message.number >= past.mark + state.terms.window:
        raise BadFrame("targets of a microbatch beyond the window")
    held = state.items.get(name)
    if past.is_over(message.number) or message.number in past.counted or name in state.targets:
        pair.targets_in.pop(message.number, None)
        return
    if held is not None and held.told:
        return
    assembly = pair.targets_in.setdefault(
        message.number, Assembly(state.terms.targets_bytes, state.terms.piece_bytes)
    )
    whole = assembly.put(message.piece, payload)
    if whole is not None:
        del pair.targets_in[message.number]
        state.targets[name] = whole
        hand_over(state, now)


def take_backward(state: StreamState, now: float, pair: Pair, message: Backward, payload: Payload) -> None:
    """A piece of a gradient from above; of no use unless it comes from whom the microbatch was sent to."""
    name, terms = (message.feeder, message.number), state.terms
    if terms.is_last:
        raise BadFrame("a gradient to the last stage")
    require_tokens(terms, message.tokens)
    item = state.items.get(name)
    is_up = item is not None and item.phase is Phase.UP and not item.evaluates
    if item is None or not is_up or item.path[terms.stage + 1] != pair.since:
        if message.piece == 0:
            state.say(now, pair.since, GradientHeard(state.since, pair.since, *name))
        return
    assembly = pair.gradients_in.setdefault(name, Assembly(terms.output_bytes, terms.piece_bytes))
    whole = assembly.put(message.piece, payload)
    if whole is None:
        return
    del pair.gradients_in[name]
    item.phase, item.payload, item.tokens = Phase.BACK, None, message.tokens
    state.say(now, pair.since, GradientHeard(state.since, pair.since, *name))
    assert item.id is not None, "it went forward here"
    state.outlet.deliver(GradientArrived(item.id, whole, message.tokens))


def require_tokens(terms: StreamTerms, tokens: int) -> None:
    """Raises `BadFrame` for a number of them that no microbatch has."""
    most = terms.targets_bytes // TOKEN_BYTES
    if not 1 <= tokens <= most:
        raise BadFrame(f"{tokens} tokens of a microbatch, which has from 1 to {most}")


def raise_mark(state: StreamState, feeder: int, mark: int) -> None:
    """A feeder says what is over: targets below that are of no use."""
    state.past_of(feeder).raise_mark(mark)
    for name in [each for each in state.targets if each[0] == feeder and each[1] < mark]:
        if name not in state.items:
            del state.targets[name]


def _is_taken(state: StreamState, now: float, pair: Pair, name: Name, message: Forward) -> bool:
    """Whether a microbatch begins here. If not, its sender is told so, unless it sent the same before."""
    feeder, number = name
    if state.replicas.is_over(feeder):
        say_ended(state, now, pair.since, name, How.PARTIAL, 0, Cause.FEEDER_GONE)
        return False
    if not _may_exist(state, message.route):
        say_ended(state, now, pair.since, name, How.PARTIAL, state.terms.stage, Cause.OVER)
        return False
    past = Past() if state.id_of(name) is None else state.past_of(feeder)  # who is unknown may be made up
    if pair.since == feeder:
        raise_mark(state, feeder, message.mark)
    else:
        past.raise_mark_by(pair.since, message.mark)
    if number >= past.mark_by(pair.since) + state.terms.window:
        raise BadFrame("a microbatch beyond the window")
    item = state.items.get(name)
    if item is not None and item.below == pair.since:
        return False  # it is here already, and its gradient goes there
    if past.is_over(number, pair.since) or number in past.counted or item is not None:
        say_ended(state, now, pair.since, name, How.PARTIAL, state.terms.stage, Cause.OVER)
        return False
    return True


def _may_exist(state: StreamState, route: tuple[int, ...]) -> bool:
    """Whether nobody on a path is known to be of another stage. Who passes it on may not have heard of
    somebody yet, so it is no bad frame."""
    known = [(stage, state.replicas.standing(since)) for stage, since in enumerate(route)]
    return all(replica is None or replica.stage == stage for stage, replica in known)


def _count_refused(pair: Pair, entry: Entry) -> None:
    pair.refused[entry] -= 1
    if not pair.refused[entry]:
        del pair.refused[entry]
