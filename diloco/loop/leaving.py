"""The last offers of a worker that leaves its stage, where no inner step follows: all that it trained.

Owns when those are due, in the place of `outer_loop`. Refuses to wait for what is to land: nothing else
would let the rest be offered.
"""

from __future__ import annotations

from collections.abc import Sequence

from diloco.loop.progress import Progress
from diloco.loop.replica import Replica


def offer_all(progress: Sequence[Progress], replica: Replica, *, offers_before_landing: bool) -> bool:
    """Have everything offered when `OuterLoop.due` is asked next, and what was trained since an offer that is
    under way as soon as its round is over; whether some of it still waits. To be called again then."""
    for fragment, each in enumerate(progress):
        if each.offered is None and each.steps:
            if each.landing is not None and not offers_before_landing:
                replica.land(fragment, each.landing, on_time=False)
                each.landing = None
            each.next_offer = min(each.next_offer, each.steps)
    return any(each.offered is not None or each.steps for each in progress)
