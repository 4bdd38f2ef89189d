"""What a member can show the coordinator when it refuses a chunk; nothing where it has only its word.

Functions over an exchange. What becomes of it is the coordinator's affair (`peers.coordinator.judgement`).
"""

from __future__ import annotations

from peers.protocol.evidence import MAX_LONG, ROOT_BYTES, Roots, Shown, ToldTwoThings
from peers.protocol.fields import cut
from transport.collectives.direct_reduce import DirectReduce
from transport.effects import Payload
from transport.limits import LIMITS


def shown_by(exchange: DirectReduce) -> list[tuple[Shown, Payload]]:
    """The chunk that this member refuses, or those that together are too long, as their author vouched for
    them. Nothing if that takes more than may be shown."""
    found, prover = exchange.poisoned, exchange.prover
    if found is None or prover is None or not (found.alone or 0 < len(found.long) <= MAX_LONG):
        return []
    shown = []
    for chunk, payload in exchange.refused():
        proof = prover.proof_of(found.peer, chunk, found.mean)
        if proof is None:
            return []
        message = Shown(
            exchange.serial,
            exchange.attempt,
            found.peer,
            found.mean,
            exchange.reducer.num_elements,
            chunk,
            *proof,
            cut(found.reason, 64),
            len(found.long),
        )
        shown.append((message, payload))
    return shown


def two_things_told(exchange: DirectReduce) -> ToldTwoThings | None:
    """The two roots that one of the others signed under one statement."""
    found = exchange.prover.equivocation if exchange.prover else None
    if found is None:
        return None
    return ToldTwoThings(
        exchange.serial,
        found.attempt,
        found.author,
        found.mean,
        exchange.reducer.num_elements,
        found.group,
        found.one.root,
        found.one.signature,
        found.other.root,
        found.other.signature,
    )


def roots_held(exchange: DirectReduce) -> tuple[Roots, Payload] | None:
    """Under which roots the means of a proved attempt came that is done."""
    if exchange.prover is None:
        return None
    held = exchange.prover.mean_roots()
    if None in held or ROOT_BYTES * len(held) > LIMITS.payload_bytes:
        return None  # of so long a vector it cannot be said at once
    beside = b"".join(each.root + each.signature for each in held if each)
    return Roots(exchange.serial, exchange.attempt, exchange.reducer.num_elements), beside
