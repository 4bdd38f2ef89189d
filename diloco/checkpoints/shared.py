"""The shared state of one worker at one record: what a checkpoint of it holds, frozen at that moment.

Made on the training thread for the price of pointers (`OuterState.pin` copies on write); written by another.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from importlib import metadata

from diloco.checkpoints.fragment_files import fragment_content, tensor_entries, vectors_of
from diloco.checkpoints.manifest import FileEntry, FragmentEntry, Manifest, OwnEntry
from diloco.checkpoints.store import Content
from diloco.outer.model_tensors import FrozenDigests
from diloco.outer.replica import TensorReplica
from peers.protocol.held import Held


@dataclass(frozen=True, slots=True)
class SharedState:
    """What stays as it is, whatever is trained meanwhile."""

    held: Held
    contents: tuple[Content, ...]
    """One file for each fragment."""
    fragments: tuple[FragmentEntry, ...]
    base: FrozenDigests | None
    """Of the frozen parameters, where the files hold none: they are the model's own, which whoever starts it
    again has. Those that came from others of the run are kept, for here is nothing else that has them."""

    @classmethod
    def pin(cls, replica: TensorReplica, held: Held, serials: tuple[int, ...]) -> SharedState:
        """The state as it is now, which is that of ``held``."""
        every = range(replica.num_fragments)
        whole = replica.model.has_other_frozen
        return cls(
            held=held,
            contents=tuple(fragment_content(replica, f, whole=whole) for f in every),
            base=None if whole else replica.model.frozen_digests,
            fragments=tuple(
                FragmentEntry(
                    version=held.versions[f].hex(),
                    digest=held.digests[f].hex(),
                    serial=serials[f],
                    count=replica.count(f),
                    vectors=vectors_of(replica, f),
                    projection=len(replica.outer.projection_state(f)),
                )
                for f in every
            ),
        )

    def manifest(
        self,
        replica: TensorReplica,
        files: tuple[FileEntry, ...],
        *,
        run: bytes,
        settings: str,
        own: OwnEntry | None,
        previous: str | None,
    ) -> Manifest:
        """What is written once all ``files`` are."""
        return Manifest(
            written_by=_version(),
            written_at=time.time(),
            run=run.hex(),
            settings=settings,
            replica=self.held.steps is not None,
            index=self.held.place,
            head=self.held.head.hex(),
            record=self.held.record.hex(),
            fragments=self.fragments,
            tensors=tensor_entries(replica, self.base.by_name() if self.base is not None else {}),
            own=own,
            files=files,
            previous=previous,
        )


def _version() -> str:
    try:
        return metadata.version("diloco")
    except metadata.PackageNotFoundError:  # run from a folder of sources
        return "unknown"
