"""`attach`: a worker's session hooked to a training loop that already exists.

Owns what a loop may hand over, and refuses what would go wrong later without a word. What comes of it is an
`outer.Outer`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import nn
from torch.distributed import ProcessGroup

from diloco.checkpoints.own import Stateful
from diloco.compression import kernels
from diloco.errors import UserError
from diloco.outer.plain_names import unwrapped
from diloco.swarm.swarm import Swarm
from diloco.training.fitting import require_one_process, require_stepped
from diloco.training.outer import Outer
from diloco.training.site import attach_site
from diloco.training.stepping import optimizers_of

_LOG = logging.getLogger("diloco")


def attach(
    model: nn.Module,
    optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer] | None,
    swarm: Swarm | None,
    *,
    group: ProcessGroup | None = None,
    tokens_per_step: int | None = 1,
    timeout_s: float = 600.0,
    on_event: Callable[[object], None] | None = None,
    keep: Mapping[str, Stateful] | None = None,
) -> Outer:
    """Bring ``model`` to the swarm's state and keep it there: every `optimizer.step` from now on counts
    as one inner step of ``tokens_per_step`` tokens (the weight of this worker in a round), also of steps that
    differ (`Outer.tokens_per_step`). With None for them the loop calls `Outer.step_done` with its tokens
    after each inner step. Several optimizers are given in the order in which they step: a step is over when
    the last has stepped. A step that a gradient scaler skips counts for nothing. Without an ``optimizer``
    nothing is hooked, and the loop calls `Outer.step_done` after each inner step.

    What is not finite is never offered: `ProgressLost` and a warning of the logger "diloco" tell of it, the
    model goes back to the outer parameters, and state of ``optimizer`` that is not finite begins anew.

    Where the swarm has a state directory, this worker's state is kept there and taken up again: the shared
    one, and its own: live parameters and buffers, ``optimizer``, random generators, counts, and what ``keep``
    names: anything with `state_dict` and `load_state_dict`, such as a learning rate's scheduler, a scaler, a
    StatefulDataLoader. All of it is equally far where the loop goes through `Outer.until_finished`. Raises
    `StateError` for a state dict of something else than tensors and plain values.

    Trainable parameters are exchanged, each storage once; to train others later is refused at the next step,
    to freeze some is not. Frozen ones and float buffers come with the state, and of buffers a round after the
    last makes the mean (`[method] buffers`). To attach the same model once more replaces the earlier attach,
    and counts go on; another model needs another swarm. Returns when the
    model holds the shared state. Raises `LayoutError` for a trainable parameter that none of the optimizers
    has, `EntryError` if the run trains another model, `SwarmTimeout` if nobody hands out the state within
    ``timeout_s``, `UserError` for ranks that train one model together without a ``group``.

    The ranks of a torch.distributed ``group`` are one worker, a site, with DDP, `fully_shard` or HSDP inside,
    or whatever else makes gradients of one model: all of them call this alike, rank 0 with the ``swarm`` and
    the others with None. Tokens are the sum over the ranks, and what lands lands on all of them behind the
    same step; of buffers rank 0's are the site's. A rank that does not answer for ``timeout_s``, or is gone,
    ends the site with `SiteBroken`."""
    _LOG.info("codecs run by %s", kernels.running())
    optimizers = optimizers_of(optimizer)
    if group is not None:
        return attach_site(
            model,
            optimizers,
            swarm,
            group,
            tokens_per_step=tokens_per_step,
            timeout_s=timeout_s,
            on_event=on_event,
            keep=keep,
        )
    if swarm is None:
        raise UserError("attach was given no swarm: only the other ranks of a site, with group=, have none")
    require_one_process(model)
    require_stepped(model, optimizers)
    earlier = earlier_of(swarm, model)
    outer = Outer(model, optimizers, swarm, tokens_per_step, on_event, keep, earlier=earlier)
    swarm.attached = outer
    try:
        outer.enter(timeout_s)
    except BaseException:
        outer.detach()
        raise
    return outer


def earlier_of(swarm: Swarm, model: nn.Module) -> Outer | None:
    """What was attached to the swarm before, of the same model: a notebook's cell that is run again. Raises
    `UserError` if it was another model."""
    earlier = swarm.attached
    if not isinstance(earlier, Outer):
        return None
    if unwrapped(earlier.model) is not unwrapped(model):
        raise UserError(
            f"this swarm trains another model already, {earlier!r}: attach that one again, or close the swarm"
            " and join anew with this one"
        )
    return earlier
