"""Which checkpoint of a disk a worker begins with: the newest that is whole and fits.

What cannot be used is named, with what follows from that; what is the worker's own is `keeper`'s to take up.
"""

from __future__ import annotations

import logging

from diloco.checkpoints.fragment_files import OtherBase, load_state, require_fit
from diloco.checkpoints.manifest import unit_of
from diloco.checkpoints.store import Saved, Store
from diloco.errors import CheckpointError
from diloco.outer.replica import TensorReplica

_LOG = logging.getLogger("diloco")


def load_newest(
    store: Store, replica: TensorReplica, at_most: int | None = None, stage: tuple[int, int] = (0, 1)
) -> Saved | None:
    """Load the newest checkpoint that is whole into ``replica``, or the newest of the commit ``at_most`` or
    an earlier one; None if there is none. Raises `CheckpointError` if it is another model's, or of another
    ``stage`` of so many, if the disk cannot be read, or if none is that old; shares of states are passed
    over."""
    try:
        store.begin()
    except OSError as error:
        raise CheckpointError(f"{store.folder} cannot be used: {error}") from None
    damaged: list[CheckpointError] = []
    has_share = False
    for saved in store.newest(damaged.append):
        if at_most is not None and saved.manifest.index > at_most:
            continue
        if not saved.manifest.is_whole:
            has_share = True
            continue
        saved.manifest.require_stage(*stage, saved.path)
        require_fit(saved.manifest, replica)
        try:
            load_state(store.disk, saved, replica)
        except OtherBase as error:
            if at_most is not None:
                raise
            _warn_of(damaged, "it is left out")
            _LOG.warning("%s; this worker enters without it: give the model that it was of", error)
            return None
        except CheckpointError as error:
            damaged.append(error)
            continue
        _warn_of(damaged, "an older checkpoint is taken")
        return saved
    if at_most is not None and not has_share:
        _warn_of(damaged, "it is left out")
        unit = unit_of(gossips=replica.outer.method.gossips)
        there = ", ".join(name.partition("-")[0].lstrip("0") or "0" for name in store.names())
        raise CheckpointError(
            f"no checkpoint of {unit} {at_most} or before is whole here; there are those of {unit} "
            f"{there or 'none'}"
        )
    _warn_of(damaged, "there is no older one: this worker enters without, and fetches the run's state")
    return None


def _warn_of(damaged: list[CheckpointError], then: str) -> None:
    """Name each checkpoint that cannot be used, and say what follows from that."""
    for error in damaged:
        _LOG.warning("%s; %s", error, then)
