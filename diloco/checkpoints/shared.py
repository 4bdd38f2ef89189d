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
from diloco.outer.replica import TensorReplica
from peers.protocol.held import Held


@dataclass(frozen=True, slots=True)
class SharedState:
    """What stays as it is, whatever is trained meanwhile."""

    held: Held
    contents: tuple[Content, ...]
    """One file for each fragment."""
    fragments: tuple[FragmentEntry, ...]

    @classmethod
    def pin(cls, replica: TensorReplica, held: Held, serials: tuple[int, ...]) -> SharedState:
        """The state as it is now, which is that of ``held``."""
        every = range(replica.num_fragments)
        return cls(
            held=held,
            contents=tuple(fragment_content(replica, f, replica.pin(f)) for f in every),
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
            index=self.held.index,
            head=self.held.head.hex(),
            record=self.held.record.hex(),
            fragments=self.fragments,
            tensors=tensor_entries(replica),
            own=own,
            files=files,
            previous=previous,
        )


def _version() -> str:
    try:
        return metadata.version("diloco")
    except metadata.PackageNotFoundError:  # run from a folder of sources
        return "unknown"
