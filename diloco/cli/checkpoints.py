"""`diloco checkpoint list|verify|gather` and `diloco export`: what is on this machine. Flags in, lines out.

Torch is imported when one of them reads tensors: a host has none.
"""

from __future__ import annotations

import sys
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from diloco.checkpoints.finding import find_checkpoint, place_of, stores_in
from diloco.checkpoints.manifest import FILE_NAME, Manifest
from diloco.checkpoints.store import Store
from diloco.errors import CheckpointError
from diloco.extras import require
from diloco.terminal import plain_table, printable, wide_console
from peers.coordinator.journal import CommitWritten, RunBegan
from peers.coordinator.journal_scan import scan

Where = Annotated[
    Path,
    typer.Argument(
        metavar="FOLDER", help="A state directory, or one checkpoint's folder in it.", show_default=False
    ),
]


def list_command(where: Where) -> None:
    """Show the checkpoints below a state directory, the newest first."""
    found = stores_in(where)
    if not found:
        raise CheckpointError(f"{where} holds no checkpoints")
    for _, store in found:
        table = plain_table(f"run {printable(store.folder.rpartition('/')[2] or where.name)}")
        newest = next(store.newest(), None)
        unit = newest.manifest.unit if newest is not None else "commit"
        for heading in (unit, "written", "MB", "fragments", "own step", "folder"):
            table.add_column(heading)
        damaged: list[CheckpointError] = []
        for saved in store.newest(damaged.append):
            manifest = saved.manifest
            table.add_row(
                f"{manifest.index:,}",
                datetime.fromtimestamp(manifest.written_at).strftime("%Y-%m-%d %H:%M:%S"),
                f"{manifest.size_bytes / 1e6:,.1f}",
                _fragments_of(manifest),
                "-" if manifest.own is None else f"{manifest.own.step:,}",
                saved.path.rpartition("/")[2],
            )
        wide_console().print(table)
        for error in damaged:
            print(printable(f"not whole: {error}"))


def verify_command(where: Where) -> None:
    """Read checkpoints whole, and compare with what was written and what the members agreed on. Exit code 1
    if a file is not right."""
    require("train", "diloco checkpoint verify")
    from diloco.checkpoints.verifying import faults_of

    if (where / FILE_NAME).exists():
        disk, saved = find_checkpoint(where)
        faults, remarks = list(faults_of(disk, saved)), list[str]()
        num_whole = int(not faults)
    else:
        faults, remarks, num_whole = _faults_below(where)
    for line in [*faults, *remarks]:
        print(printable(line))
    print(f"{num_whole} checkpoint{'s' * (num_whole != 1)} as they were written")
    if faults:
        raise typer.Exit(1)


def gather_command(
    folders: Annotated[
        list[Path],
        typer.Argument(
            metavar="FOLDER...",
            help="State directories of several workers, or checkpoints in them.",
            show_default=False,
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder to make.")],
) -> None:
    """Put shares of one state (checkpoint.copies) together as a whole checkpoint, the newest that there is in
    these folders. It can be exported, and a new run can begin from it."""
    require("train", "diloco checkpoint gather")
    from diloco.checkpoints.gathering import gather

    try:
        made = gather(folders, output)
    except OSError as error:
        raise CheckpointError(f"{output} cannot be written: {error.strerror or error}") from None
    print(
        f"wrote {output}: all {len(made.fragments)} fragments of commit {made.index:,} of run {made.run[:8]}"
    )


def assemble_command(
    folders: Annotated[
        list[Path],
        typer.Argument(
            metavar="FOLDER...", help="What --save wrote, of all stages together.", show_default=False
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder to make.")],
) -> None:
    """Put the files of all stages together as one model: a set of safetensors with its index."""
    from diloco.checkpoints.sharded import INDEX, assemble

    try:
        chosen = assemble(folders, output)
    except OSError as error:
        raise CheckpointError(f"{output} cannot be written: {error.strerror or error}") from None
    size = sum(sum(each.sizes.values()) for each in chosen)
    rounds = sorted({each.round for each in chosen}, key=lambda text: (len(text), text))
    print(f"wrote {output / INDEX}: {len(chosen)} stages, {size / 1e6:,.1f} MB, of round {', '.join(rounds)}")


def _fragments_of(manifest: Manifest) -> str:
    every, here = len(manifest.fragments), sorted(manifest.here)
    count = f"all {every}" if manifest.is_whole else f"{', '.join(map(str, here)) or 'none'} of {every}"
    return count if manifest.stages == 1 else f"{count}, stage {manifest.stage} of {manifest.stages}"


def export_command(
    where: Where,
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write.")],
    like: Annotated[
        Path | None,
        typer.Option(
            metavar="HF_DIR",
            help="A model's folder as Hugging Face has it: take over its dtypes, and put its "
            "configuration and tokenizer beside.",
        ),
    ] = None,
    full: Annotated[
        bool,
        typer.Option(
            "--full",
            help="Frozen parameters too: from --like, if the checkpoint only names them.",
        ),
    ] = False,
) -> None:
    """Write a checkpoint's model, the outer parameters, as one safetensors file by the names of its state
    dict."""
    require("train", "diloco export")
    from diloco.checkpoints.exporting import export
    from diloco.checkpoints.verifying import faults_of

    def passed(error: CheckpointError) -> None:
        print(f"diloco: a newer one is passed over: {error}", file=sys.stderr)

    disk, saved = find_checkpoint(where, passed)
    saved.manifest.require_whole(saved.path)
    for fault in faults_of(disk, saved):
        raise CheckpointError(f"{fault}; it is not exported")
    try:
        done = export(disk, saved, output, like, full=full)
    except OSError as error:
        raise CheckpointError(f"{output} cannot be written: {error.strerror or error}") from None
    manifest = saved.manifest
    print(
        f"wrote {output}: {done.num_tensors} tensors, {done.num_bytes / 1e6:,.1f} MB, of {manifest.unit} "
        f"{manifest.index:,} ({place_of(disk, saved)})"
    )
    if manifest.replica:
        print("it is the replica of the worker that wrote it: in a run that gossips others have other ones")
    if done.frozen:
        print(f"without {len(done.frozen)} frozen parameters, {done.frozen[0]} say: --full writes them too")
    if done.left_out:
        print(
            f"{len(done.left_out)} tensors of {like} are not in it, as tied ones are: {done.left_out[0]}"
            + (", ..." if len(done.left_out) > 1 else "")
        )


def _faults_below(where: Path) -> tuple[list[str], list[str], int]:
    """What is wrong with all checkpoints below a state directory, what else to know, and how many are
    right."""
    from diloco.checkpoints.verifying import breaks_between, faults_of

    faults: list[str] = []
    remarks: list[str] = []
    num_whole = 0
    found = stores_in(where)
    if not found:
        raise CheckpointError(f"{where} holds no checkpoints")
    for disk, store in found:
        heads = _journaled(where, store)
        for name in store.names():
            try:
                saved = store.read(name)
            except CheckpointError as error:
                faults += [str(error)] * (name in store.names())
                continue
            wrong = list(faults_of(disk, saved))
            if heads is not None and saved.manifest.index and saved.manifest.head not in heads:
                wrong.append(f"{saved.path} is of a record that the journal does not have")
            if wrong and name not in store.names():
                continue  # its worker runs, and has newer ones by now
            faults += wrong
            num_whole += not wrong
            if not saved.manifest.is_whole:
                remarks.append(f"{saved.path} is a share: fragments {_fragments_of(saved.manifest)}")
        remarks += breaks_between(store)
    return faults, remarks, num_whole


def _journaled(where: Path, store: Store) -> set[str] | None:
    """The heads that the host's journal knows, that of a first state too, if it lies beside."""
    journal = where / f"journal-{store.folder.rpartition('/')[2]}"
    if not journal.exists():
        return None
    entries = scan(journal.read_bytes()).entries
    heads = {each.commit().hash().hex() for each in entries if isinstance(each, CommitWritten)}
    return heads | {each.head.hex() for each in entries if isinstance(each, RunBegan)}
