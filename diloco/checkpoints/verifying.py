"""Whether a checkpoint's files are what was written, and what the members agreed on (DU2).

Reads; changes nothing, and needs no model.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from diloco.checkpoints.fragment_files import read_state
from diloco.checkpoints.manifest import OWN_FILE
from diloco.checkpoints.own import read_own
from diloco.checkpoints.store import Saved, Store
from diloco.errors import CheckpointError
from peers.protocol.record import record_in
from transport.disk import Disk
from transport.errors import BadFrame


def faults_of(disk: Disk, saved: Saved) -> Iterator[str]:
    """What is wrong with the files of one checkpoint, each in one line that names the file."""
    manifest = saved.manifest
    for fragment in sorted(manifest.here):
        try:
            read_state(disk, saved, fragment, lambda index, piece, digest: None)
        except CheckpointError as error:
            yield str(error)
    if any(each.name == OWN_FILE for each in manifest.files):
        try:
            read_own(disk, saved)
        except CheckpointError as error:
            yield str(error)
    if manifest.record:
        yield from _faults_of_record(saved)


def _faults_of_record(saved: Saved) -> Iterator[str]:
    manifest = saved.manifest
    try:
        record = record_in(bytes.fromhex(manifest.record))
    except BadFrame as error:
        yield f"{saved.path}/manifest.json: its record is damaged: {error}"
        return
    if record.hash().hex() != manifest.head or record.index != manifest.index:
        yield f"{saved.path}/manifest.json: its record is not that of its head"


def breaks_between(store: Store) -> Iterator[str]:
    """Checkpoints of one run that do not name the one before them, nor an earlier one that is here. That is
    no fault by itself: a run that went back to one which is removed by now has that too."""
    whole = list(store.newest())
    for at, (later, earlier) in enumerate(pairwise(whole)):
        known = {each.manifest.sha256() for each in whole[at + 1 :]}
        if later.manifest.previous is not None and later.manifest.previous not in known:
            yield (
                f"{later.path} follows another checkpoint than {earlier.path}: the run went back to an "
                "earlier one then, or this worker alone (--resume), or one was brought here from elsewhere"
            )
