"""What a member said that it cannot use: for a while it gets no such state, and another one at once.

A state that does not load at a member rarely loads better the next time, and whoever hands out other bytes
than it was asked for does so again: without this a member that cannot follow would fetch without a pause. The
pause doubles each time, until the member is active. It is a word about the member itself, and changes what it
is told and nothing else.
"""

from __future__ import annotations

from peers.coordinator.exchange_mode import FragmentSources
from peers.coordinator.roster import Entry
from peers.protocol.fields import MAX_FRAGMENTS, MAX_MEMBERS
from peers.protocol.messages import Unusable

MAX_DOUBLINGS = 6
MAX_IN_VAIN = 3
"""Fetches of the whole state without an end after which the first one counts as of no use."""


def note(entry: Entry, now: float, timeout_s: float, message: Unusable) -> None:
    """Keep what a member said. The pause before it is offered the same again is ``timeout_s``, doubled with
    each time that it could not use something."""
    known = entry.refusals
    before, _ = known.by_blob.pop(message.blob, ((), 0.0))
    peers = tuple(dict.fromkeys((*before, *message.peers)))[-MAX_MEMBERS:] if message.peers else ()
    known.by_blob[message.blob] = peers, now + timeout_s * 2**known.num_in_a_row
    known.num_in_a_row = min(MAX_DOUBLINGS, known.num_in_a_row + 1)
    if len(known.by_blob) > MAX_FRAGMENTS:
        del known.by_blob[next(iter(known.by_blob))]


def of_no_use(seed: bytes, entered: list[Entry]) -> bool:
    """Whether more than half of the others could not use the first state, or did not get it from the one who
    gave it, however often they were told to fetch it."""
    others = [entry for entry in entered if entry.key != seed]
    against = [
        entry
        for entry in others
        if entry.refusals.num_in_vain >= MAX_IN_VAIN
        or any(seed in peers or not peers for peers, _ in entry.refusals.by_blob.values())
    ]
    return 2 * len(against) > len(others)


def usable(entry: Entry, now: float, sources: FragmentSources) -> FragmentSources | None:
    """The donors that may be named to a member, of each fragment at least one; None if there are none."""
    found = []
    for fragment, digest, donors in sources:
        bad, until = entry.refusals.by_blob.get(digest, ((), 0.0))
        good = [each for each in donors if now >= until or (bad and each not in bad)]
        if not good:
            return None
        found.append((fragment, digest, good))
    return found
