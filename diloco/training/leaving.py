"""The end of a loop that is not ours: its model holds the outer parameters, or what its Trainer put there.

Owns that nothing is lost by it: what a worker has trained and not offered is with its driver until the same
model is attached again, or the swarm is closed and keeps it. Owns no way of lending: that is `lending`'s.
"""

from __future__ import annotations

from diloco.training.lending import Lent, show_outer
from diloco.training.outer import Outer


def leave(outer: Outer, lent: Lent | None = None, *, keeps_model: bool = False) -> None:
    """`Outer.detach`, and the model holds the outer parameters from now on: it does already if they are
    ``lent``. ``keeps_model``: something else was put there (a best checkpoint), which stays. Where the run
    goes on, who attaches the model again goes on from the local parameters; of those that were written over
    while none were lent nothing is left, and their tokens are superseded."""
    outer.detach()
    if outer.finished:
        if lent is None and not keeps_model:
            show_outer(outer.replica)
    elif lent is None and keeps_model:
        put_there = Lent(outer.replica)
        outer.driver.go_back()
        outer.driver.leave(Lent(outer.replica))
        put_there.take_back()
    else:
        outer.driver.leave(lent or Lent(outer.replica))
