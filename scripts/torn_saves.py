"""Kill a save of a checkpoint at drawn bytes, and load what is left: the one before, or the new one, whole.

A kill is drawn among all bytes that are written and all calls that change a name; the checkpoint before, the
save, and the removal of what is older are those of `diloco.checkpoints.store`. Each seed is one kill, so that
a long run goes on where another one ended.

    python scripts/torn_saves.py 10000
    python scripts/torn_saves.py 5000 --first 5000
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from random import Random

import torch
from torch import nn

from diloco.checkpoints.fragment_files import read_body
from diloco.checkpoints.local_disk import LocalDisk
from diloco.checkpoints.shared import SharedState
from diloco.checkpoints.store import Saved, Store, folder_of
from diloco.methods.presets import method
from diloco.outer.replica import TensorReplica
from peers.protocol.held import Held

RUN = bytes(range(16))
FOLDER = folder_of(RUN)


class Killed(BaseException):
    """The process ends here."""


class DyingDisk(LocalDisk):
    """A disk whose process is killed after ``steps`` steps: each byte written is one, and so is each of the
    other calls that change something. What was done by then stays."""

    def __init__(self, root: Path, steps: float = float("inf")) -> None:
        super().__init__(root)
        self.left = steps
        self.taken = 0
        """Steps."""

    def _step(self) -> None:
        if self.left <= 0:
            raise Killed
        self.left -= 1
        self.taken += 1

    def write(self, path: str, pieces: Iterable[bytes | memoryview], *, sync: bool = True) -> None:
        """Byte by byte; nothing is synced, for a killed process leaves all that the system took."""

        def counted() -> Iterator[bytes]:
            for piece in pieces:
                whole = bytes(piece)
                taken = int(min(self.left, len(whole)))
                self.left -= taken
                self.taken += taken
                yield whole[:taken]
                if taken < len(whole):
                    raise Killed

        self._step()
        super().write(path, counted(), sync=False)
        self._step()

    def rename(self, old: str, new: str) -> None:
        """One step."""
        self._step()
        super().rename(old, new)

    def sync_dir(self, path: str) -> None:
        """One step."""
        self._step()

    def remove(self, path: str) -> None:
        """File by file, as a folder goes."""
        for name in self.list(path):
            self._step()
            super().remove(f"{path}/{name}")
        self._step()
        super().remove(path)


def make_replica(
    preset: str = "diloco", fragments: int = 1, seed: int = 0, frozen: bool = False
) -> TensorReplica:
    """Of a small model that was moved a little from where it began."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4), nn.Linear(4, 3, bias=False))
    if frozen:
        model[1].weight.requires_grad_(False)
    adamw = torch.optim.AdamW(each for each in model.parameters() if each.requires_grad)
    made = TensorReplica.of(model, method(preset, num_fragments=fragments, codec="fp32", sync_every=4), adamw)
    for fragment in range(made.num_fragments):
        projection, state = made.outer.components(fragment).projection, made.outer.projection_state(fragment)
        move = made.outer.take_sketch if made.outer.sketches(fragment) else made.outer.step
        move(fragment, torch.randn(projection.length(state)))
        made.discard(fragment)
    return made


def held_by(made: TensorReplica, index: int) -> Held:
    """What a member with this replica holds after record ``index``."""
    head = index.to_bytes(32, "big")[::-1]
    every = range(made.num_fragments)
    return Held(head, index, tuple(head for _ in every), tuple(made.digest(f) for f in every))


def save(
    store: Store,
    made: TensorReplica,
    index: int,
    serial: int = 7,
    previous: Saved | None = None,
    fragments: frozenset[int] | None = None,
) -> Saved:
    """Write a checkpoint of this replica, or only some ``fragments``, which follows ``previous``."""
    before = previous.manifest.sha256() if previous else None
    held = held_by(made, index)
    shared = SharedState.pin(made, held, (serial,) * made.num_fragments, fragments)
    return store.write(
        held.head,
        index,
        shared.contents,
        lambda files: shared.manifest(made, files, run=RUN, settings="{}", own=None, previous=before),
    )


class TornSaves:
    """One save over an older checkpoint, killed again and again below ``folder``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._before, self._after = make_replica(seed=1, fragments=2), make_replica(seed=2, fragments=2)
        rehearsal = DyingDisk(folder / "rehearsal")
        self._first_save(rehearsal)
        first = rehearsal.taken
        self._second_save(rehearsal)
        self._steps = rehearsal.taken - first

    def kill(self, seed: int) -> int:
        """The index of the checkpoint that is loaded after a kill: 4, or 8 if the new one counts. Raises
        `AssertionError` if it holds anything else than what was saved."""
        root = self._folder / f"kill-{seed}"
        self._first_save(DyingDisk(root))
        with suppress(Killed):  # a time of fewer digits makes a manifest a byte shorter, and it may live
            self._second_save(DyingDisk(root, self._draw(Random(seed))))
        survivor = Store(LocalDisk(root), FOLDER)
        survivor.begin()
        left = [name for name in survivor.disk.list(FOLDER) if name.startswith(".")]
        assert not left, f"seed {seed}: {left} stayed"
        newest = next(survivor.newest())
        expected = self._before if newest.manifest.index == 4 else self._after
        for fragment in range(2):
            with expected.outer.reading(fragment) as view:
                assert bytes(read_body(survivor.disk, newest, fragment)) == b"".join(view.pieces()), seed
        LocalDisk(root).remove("")
        return newest.manifest.index

    def _draw(self, random: Random) -> int:
        """Every other kill is among the last few calls, which are few beside the bytes."""
        few = random.randrange(16)
        return self._steps - 1 - few if random.random() < 0.5 else random.randrange(self._steps)

    def _first_save(self, disk: LocalDisk) -> None:
        save(Store(disk, FOLDER), self._before, 4)

    def _second_save(self, disk: LocalDisk) -> None:
        store = Store(disk, FOLDER)
        save(store, self._after, 8)
        store.prune(1)


def main() -> None:
    """Kill, and count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("kills", type=int)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    options = parser.parse_args()
    found = {4: 0, 8: 0}
    with tempfile.TemporaryDirectory() as folder:
        torn = TornSaves(Path(folder))
        for seed in range(options.first, options.first + options.kills):
            found[torn.kill(seed)] += 1
            if (seed + 1) % 500 == 0:
                print(f"up to seed {seed}: {found[4]} old, {found[8]} new, all whole", flush=True)
    print(
        f"{options.kills} kills: {found[4]} left the old checkpoint, {found[8]} the new one; all were whole"
    )


if __name__ == "__main__":
    main()
