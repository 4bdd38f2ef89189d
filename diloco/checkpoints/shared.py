"""The shared state of one worker at one record: what a checkpoint of it holds, frozen at that moment.

Made on the training thread for the price of pointers (`OuterState.pin` copies on write); written by another.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
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
    """One file for each fragment that is to be written."""
    fragments: tuple[Callable[[], FragmentEntry], ...]
    """What is said of each; that takes as long as hashing its state, and can be asked once."""
    base: FrozenDigests | None
    """Of the frozen parameters, where the files hold none: they are the model's own, which whoever starts it
    again has. Those that came from others of the run are kept, for here is nothing else that has them."""

    @classmethod
    def pin(
        cls,
        replica: TensorReplica,
        held: Held,
        serials: tuple[int, ...],
        fragments: frozenset[int] | None = None,
    ) -> SharedState:
        """The state as it is now, which is that of ``held``; of only some ``fragments`` there are files.
        Nothing is hashed yet."""
        every = range(replica.num_fragments)
        whole = replica.model.has_other_frozen
        return cls(
            held=held,
            contents=tuple(
                fragment_content(replica, f, whole=whole)
                for f in every
                if fragments is None or f in fragments
            ),
            base=None if whole else replica.model.frozen_digests,
            fragments=tuple(_entry(replica, f, held.versions[f], serials[f]) for f in every),
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
        stage: tuple[int, int] = (0, 1),
        pause: Callable[[], None] = lambda: None,
    ) -> Manifest:
        """What is written once all ``files`` are, of that ``stage`` of so many, with a ``pause`` after each
        state that is hashed for it."""
        return Manifest(
            written_by=_version(),
            written_at=time.time(),
            run=run.hex(),
            settings=settings,
            replica=self.held.steps is not None,
            stage=stage[0],
            stages=stage[1],
            index=self.held.place,
            head=self.held.head.hex(),
            record=self.held.record.hex(),
            fragments=tuple(self._entries(pause)),
            buffers=-1 if replica.buffers is None else replica.buffers,
            tensors=tensor_entries(replica, self.base.by_name() if self.base is not None else {}),
            own=own,
            files=files,
            previous=previous,
        )

    def _entries(self, pause: Callable[[], None]) -> Iterator[FragmentEntry]:
        for entry in self.fragments:
            yield entry()
            pause()


def _entry(replica: TensorReplica, fragment: int, version: bytes, serial: int) -> Callable[[], FragmentEntry]:
    name, count = replica.names.present(fragment), replica.count(fragment)
    vectors, projection = vectors_of(replica, fragment), len(replica.outer.projection_state(fragment))

    def entry() -> FragmentEntry:
        return FragmentEntry(
            version=version.hex(),
            digest=name().hex(),
            serial=serial,
            count=count,
            vectors=vectors,
            projection=projection,
        )

    return entry


def _version() -> str:
    try:
        return metadata.version("diloco")
    except metadata.PackageNotFoundError:  # run from a folder of sources
        return "unknown"
