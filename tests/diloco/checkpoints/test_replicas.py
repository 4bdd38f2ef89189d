"""Checkpoints of a run that gossips: each worker's own replica, by its outer steps."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torn_saves import FOLDER, RUN, make_replica
from typer.testing import CliRunner

from diloco.checkpoints.keeper import Hooks, Keeper
from diloco.checkpoints.local_disk import LocalDisk
from diloco.checkpoints.origin import open_origin
from diloco.checkpoints.regroup import Plan, plan, take_over
from diloco.checkpoints.store import Store
from diloco.checkpoints.verifying import faults_of
from diloco.cli.app import app
from diloco.errors import CheckpointError
from diloco.methods.presets import method
from diloco.methods.spec import Method
from diloco.outer.replica import TensorReplica
from diloco.settings import parse_settings
from peers.coordinator.journal import RunBegan
from peers.coordinator.journal_scan import framed
from peers.protocol.commands import Command, ConfirmCaptured, ConfirmLoaded, ConfirmMoved, ConfirmSaved
from peers.protocol.events import (
    BecameActive,
    CheckpointRestored,
    CheckpointWritten,
    SaveWanted,
    StateFetched,
    SwapFailed,
    Swapped,
)
from peers.protocol.held import Held
from tests.diloco.checkpoints.keeper_kit import Steps
from transport.frames import pack

FIRST = b"f" * 32


class Gossiper:
    """A worker whose replica moves by swaps, a minute apart."""

    def __init__(self, folder: Path, seed: int = 0) -> None:
        self.replica = make_replica("noloco", seed=seed)
        self.own = Steps()
        self.told: list[object] = []
        self.commands: list[Command] = []
        settings = parse_settings({"method": {"preset": "noloco"}}, "").to_bytes().decode()
        hooks = Hooks(self.commands.append, self.told.append)
        self.keeper = Keeper(LocalDisk(folder), RUN, lambda: settings, self.replica, hooks, self.own)
        self.now = 0.0
        self.held = self.keeper.begin()
        captured = [] if self.held else [ConfirmCaptured(0, self.replica.digest(0), self.replica.check(0))]
        self.hear(BecameActive(FIRST, 0), captured)

    def hear(self, event: object, answers: list[Command]) -> None:
        self.keeper.hear(self.now, event, answers)
        self.keeper.between_steps(self.now)
        outcome = self.keeper.writer.finish()
        if outcome is not None:
            self.keeper.end_write(self.now, outcome)

    def swap(self, seconds: float = 60.0, alone: bool = False) -> None:
        """One more outer step."""
        self.now += seconds
        self.own.taken += 4
        step, moved = self.replica.count(0), torch.full((self.replica.num_elements(0),), 0.1)
        self.replica.outer.gossip_step(0, moved, self.replica.outer.outer_parameters(0).clone())
        event = (
            SwapFailed(0, step, 8, (), "nobody is left", alone=True)
            if alone
            else Swapped(0, step, 8, self.replica.receiver(0), (b"p" * 32,))
        )
        self.hear(event, [ConfirmMoved(0, self.replica.check(0))])

    def written(self) -> list[int]:
        return [each.index for each in self.told if isinstance(each, CheckpointWritten)]


def test_each_outer_step_whoever_it_was_with_is_a_place_for_a_checkpoint(tmp_path: Path) -> None:
    worker = Gossiper(tmp_path)
    assert worker.written() == [1], "as soon as it is active"
    worker.swap()
    worker.swap(alone=True)
    worker.swap(seconds=1.0)
    assert worker.written() == [1, 2, 3], "the last one came too soon"
    manifest = next(Store(LocalDisk(tmp_path), FOLDER).newest()).manifest
    assert (manifest.replica, manifest.index, manifest.head, manifest.unit) == (
        True,
        3,
        FIRST.hex(),
        "outer step",
    )
    assert isinstance(worker.commands[-1], ConfirmSaved)
    assert worker.commands[-1] == ConfirmSaved(manifest.held(), keeps=False)
    assert len(list((tmp_path / FOLDER).glob("0*"))) == 3


def test_a_swap_that_moved_nothing_is_no_place_for_one(tmp_path: Path) -> None:
    worker = Gossiper(tmp_path)
    worker.now += 60.0
    worker.hear(SwapFailed(0, 1, 8, (), "too few", alone=False), [])
    assert worker.written() == [1]


def test_a_later_process_begins_with_its_own_replica_and_all_that_moved_it(tmp_path: Path) -> None:
    first = Gossiper(tmp_path)
    first.swap()
    first.swap(seconds=1.0)
    first.keeper.close(first.now)
    later = Gossiper(tmp_path, seed=9)
    digests, checks = (first.replica.digest(0),), (first.replica.check(0),)
    assert later.held == Held(FIRST, 0, (FIRST,), digests, checks=checks, steps=3)
    assert later.replica.digest(0) == first.replica.digest(0)
    assert torch.equal(later.replica.outer.buffers(0)[0], first.replica.outer.buffers(0)[0])
    assert (later.replica.count(0), later.own.taken) == (3, 8)
    (told,) = (each for each in later.told if isinstance(each, CheckpointRestored))
    assert (told.index, told.unit, told.step) == (3, "outer step", 8)
    later.keeper.close(later.now)
    assert later.written() == [], "it is on the disk as it is"


def test_a_replica_that_is_fetched_in_place_of_ones_own_is_said_and_written_at_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = Gossiper(tmp_path)
    first.swap()
    later = Gossiper(tmp_path, seed=9)
    for _ in range(4):
        later.replica.outer.step(0, torch.ones(later.replica.num_elements(0)))
    with caplog.at_level(logging.WARNING, "diloco"):
        later.hear(StateFetched(0, FIRST, bytearray()), [ConfirmLoaded(0, FIRST, later.replica.check(0))])
    assert "far ahead of this worker's replica of outer step 2: it goes on from a copy" in caplog.text
    assert "of outer step 6, with its own inner optimizer" in caplog.text
    later.hear(BecameActive(FIRST, 0), [])
    assert later.written() == [6]


def test_a_newcomer_that_fetches_its_first_replica_is_told_of_none_of_its_own(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    replica = make_replica("noloco")
    keeper = Keeper(LocalDisk(tmp_path), RUN, str, replica, Hooks(print, print), Steps())
    assert keeper.begin() is None
    with caplog.at_level(logging.WARNING, "diloco"):
        keeper.hear(0.0, StateFetched(0, FIRST, bytearray()), [ConfirmLoaded(0, FIRST, replica.check(0))])
    assert caplog.text == ""


def test_the_owners_wish_is_met_once_for_each_outer_step(tmp_path: Path) -> None:
    worker = Gossiper(tmp_path)
    worker.swap()
    worker.hear(SaveWanted(0), [])
    assert worker.written() == [1, 2], "it is on the disk"
    worker.swap(seconds=1.0)
    worker.hear(SaveWanted(0), [])
    assert worker.written() == [1, 2, 3]


def test_an_earlier_outer_step_may_be_begun_with_and_one_that_is_not_there_is_refused_by_name(
    tmp_path: Path,
) -> None:
    worker = Gossiper(tmp_path)
    worker.swap()
    held = worker.keeper.begin(1)
    assert held is not None
    assert held.steps == 1
    with pytest.raises(
        CheckpointError, match=r"no checkpoint of outer step 0 or before .* of outer step 2, 1|1, 2"
    ):
        worker.keeper.begin(0)


def test_who_went_back_to_an_earlier_outer_step_begins_with_what_came_of_that(tmp_path: Path) -> None:
    first = Gossiper(tmp_path)
    for _ in range(4):
        first.swap()
    later = Gossiper(tmp_path, seed=9)
    assert later.keeper.begin(3) is not None
    later.swap()
    assert later.written() == [4]
    assert [saved.manifest.index for saved in Store(LocalDisk(tmp_path), FOLDER).newest()] == [4, 4, 3]


def run(*arguments: object) -> tuple[int, str]:
    outcome = CliRunner().invoke(app, [str(each) for each in arguments], env={"COLUMNS": "200"})
    return outcome.exit_code, outcome.output


def test_list_verify_and_export_say_that_it_is_a_replica(tmp_path: Path) -> None:
    worker = Gossiper(tmp_path / "home")
    worker.own.is_sound = False  # it has no buffers to be exported
    worker.swap()
    code, output = run("checkpoint", "list", tmp_path / "home")
    assert code == 0
    assert "outer step" in output
    (tmp_path / "home" / f"journal-{RUN.hex()[:16]}").write_bytes(framed(pack(RunBegan(FIRST))))
    assert run("checkpoint", "verify", tmp_path / "home") == (0, "2 checkpoints as they were written\n")
    target = tmp_path / "model.safetensors"
    code, output = run("export", tmp_path / "home", "-o", target)
    assert code == 0, output
    assert "of outer step 2 (" in output
    assert "it is the replica of the worker that wrote it" in output
    first = worker.replica.layout.fragments[0][0]
    exported = load_file(target)[first.name].flatten()
    assert torch.equal(exported, worker.replica.outer.outer_parameters(0)[first.span])


def test_verify_names_a_replica_of_another_run_and_one_that_was_changed(tmp_path: Path) -> None:
    worker = Gossiper(tmp_path)
    (tmp_path / f"journal-{RUN.hex()[:16]}").write_bytes(framed(pack(RunBegan(b"o" * 32))))
    code, output = run("checkpoint", "verify", tmp_path)
    assert code == 1
    assert "is of a record that the journal does not have" in output
    store = Store(LocalDisk(tmp_path), FOLDER)
    saved = next(store.newest())
    entry = saved.manifest.fragments[0].model_copy(update={"digest": "00" * 32})
    object.__setattr__(saved.manifest, "fragments", (entry,))
    assert "holds another state than its manifest names" in next(iter(faults_of(store.disk, saved)))
    assert worker.written() == [1]


def taken(folder: Path, chosen: Method) -> tuple[TensorReplica, Plan]:
    """What a new run with that method takes over of the newest checkpoint there."""
    newest = next(Store(LocalDisk(folder), FOLDER).newest())
    model = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4), nn.Linear(4, 3, bias=False))
    into, origin = TensorReplica.of(model, chosen), open_origin(folder / newest.path)
    found = plan(origin, into, chosen)
    take_over(origin, into, found)
    return into, found


def test_another_gossip_run_goes_on_with_its_momentum_and_counts_outer_steps_anew(tmp_path: Path) -> None:
    worker = Gossiper(tmp_path)
    worker.swap()
    into, found = taken(tmp_path, method("noloco"))
    assert into.count(0) == 0
    assert torch.equal(into.outer.outer_parameters(0), worker.replica.outer.outer_parameters(0))
    assert torch.equal(into.outer.buffers(0)[0], worker.replica.outer.buffers(0)[0])
    said = "\n".join(found.lines())
    assert said.startswith("from the replica at outer step 2 of run ")
    assert "outer steps are counted from 0" in said
    assert "kept: buffer0 of the outer optimizer heavy_ball of gossip" in said


def test_a_run_with_rounds_takes_its_values_and_not_its_momentum_which_is_of_another_kind(
    tmp_path: Path,
) -> None:
    """In gossip the buffer has the learning rate in it."""
    worker = Gossiper(tmp_path)
    worker.swap()
    into, found = taken(tmp_path, method("diloco", outer="heavy_ball"))
    assert into.count(0) == 2
    assert torch.equal(into.outer.outer_parameters(0), worker.replica.outer.outer_parameters(0))
    assert not into.outer.buffers(0)[0].any()
    said = "\n".join(found.lines())
    assert "2 outer steps" in said
    assert "dropped: buffer0 of the outer optimizer heavy_ball of gossip" in said
