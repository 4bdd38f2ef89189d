"""What a worker is shown: itself, the swarm, its line, and what happened, on a terminal and in a pipe."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from diloco.monitoring.own_training import OwnTraining
from diloco.monitoring.worker_view import MemberSpeed, WorkerScreen, WorkerView
from peers.protocol.events import (
    BecameActive,
    CheckpointFailed,
    ContributionEnded,
    CoordinatorBack,
    CoordinatorDiskFull,
    CoordinatorLost,
    Fate,
    FellBehind,
    PeerLeft,
    PeersJoined,
    ProgressLost,
    Restored,
    RoundCommitted,
    RoundOpened,
    RunFinished,
    Swapped,
)

ME, A, B, C = (bytes([i]) * 32 for i in range(4))
HEAD = bytes(32)
RECORD: Any = SimpleNamespace(index=0, members=(ME, A), hash=lambda: HEAD)
NO_MEAN: Any = None


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def view_of(*events: object, clock: Clock | None = None, name: str = "ann") -> WorkerView:
    clock = clock or Clock()
    view = WorkerView("demo", ME, name, 200, OwnTraining("cpu", lambda: (0, 0), clock), clock)
    for event in events:
        view.event(event)
    return view


def committed(index: int, fragment: int = 0) -> RoundCommitted:
    record: Any = SimpleNamespace(index=index, members=(ME, A), fragment=fragment)
    return RoundCommitted(record, NO_MEAN, 1, 10, 1.0, 0.5, 0)


def joined(**names: bytes) -> PeersJoined:
    return PeersJoined(tuple((key, name) for name, key in names.items()))


def screen_of(view: WorkerView, width: int = 80, height: int = 23) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    console.print(view.render(width, height))
    return [line.rstrip() for line in console.file.getvalue().splitlines()]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("event", "said"),
    [
        (CoordinatorLost(12.3), "the host is away (silent for 12 s); this worker trains on"),
        (CoordinatorDiskFull(), "the host's disk is full, or fails; this worker trains on"),
        (CoordinatorBack(), "the host is back"),
        (PeerLeft(A, "bob", "silent for 4 s"), "bob is out: silent for 4 s"),
        (joined(bob=A, eve=B), "bob, eve joined"),
        (joined(ann=ME), None),
        (
            ContributionEnded(0, 1, 1280, Fate.LATE, "it came last"),
            "a contribution of 1,280 tokens came too late: it came last",
        ),
        (
            ContributionEnded(0, 1, 80, Fate.REJECTED, "its norm"),
            "a contribution of 80 tokens was rejected: its norm",
        ),
        (ContributionEnded(0, 1, 80, Fate.APPLIED, ""), None),
        (
            ProgressLost(0, (0,), 640, "3 values are NaN", 1, ()),
            "the progress of 640 tokens is lost: 3 values are NaN",
        ),
        (CheckpointFailed(4, "the disk is full"), "no checkpoint of commit 4: the disk is full"),
        (Restored(RECORD), "the last state was lost: the run goes on from the one that this worker holds"),
        (RunFinished(200), "the run has all its 200 rounds"),
        (RoundOpened(1, 0, 0, (ME, A)), None),
        (committed(1), None),
    ],
)
def test_what_happened_is_one_line_for_people(event: object, said: str | None) -> None:
    view = view_of()
    assert view.event(event) == said
    assert [note.partition(" s  ")[2] for note in view.notes] == ([said] if said else [])


def test_what_others_say_of_themselves_steers_no_terminal() -> None:
    view = view_of(PeersJoined(((A, "bob\x1b[2J"),)))
    assert "\x1b" not in str(view.event(PeerLeft(A, "bob\x1b[2J", "gone\r\n")))
    assert "\x1b[2J" not in "".join(screen_of(view))


def test_who_comes_fetches_the_state_and_who_fell_behind_says_why() -> None:
    view = view_of()
    assert view.event(FellBehind("fetched anew")) == "this worker fetches the shared state"
    assert view.event(BecameActive(HEAD, 12)) == "this worker holds the shared state"
    assert view.event(FellBehind("2 commits are missing")) == (
        "this worker fetches the shared state: 2 commits are missing"
    )
    seed = view_of()
    assert seed.event(BecameActive(HEAD, 0)) is None, "it held it from the beginning"


def test_the_view_has_the_worker_the_swarm_the_line_and_how_long_it_may_take() -> None:
    clock = Clock()
    view = view_of(joined(bob=A), BecameActive(HEAD, 0), clock=clock)
    for index in range(1, 12):
        clock.now += 20.0
        view.event(committed(index))
    view.own.stepped(1234, 2.5, 1000.0, 3.0)
    lines = screen_of(view)
    assert lines[0] == "run demo   ann-0000000000000000   round 11 of 200   4 min, about 1 h 03 min left"
    assert lines[2] == "this worker  step 1,234, loss 2.500, 1,000 tokens/s; cpu"
    assert lines[3] == "state        trains"
    assert lines[4] == "swarm        with bob; 2 in the last round"
    assert lines[5].startswith("network      0.0 MB up, 0.0 down; now ")
    view.event(CoordinatorLost(10.0))
    assert screen_of(view)[3] == "state        trains, while the host is away"


def test_a_host_whose_disk_is_full_is_not_told_again_as_a_silent_one() -> None:
    view = view_of(CoordinatorDiskFull())
    assert view.event(CoordinatorLost(11.0)) is None
    assert view.event(CoordinatorBack()) == "the host is back"
    assert view.event(CoordinatorLost(11.0)) is not None


def test_with_gossip_its_own_outer_steps_are_counted() -> None:
    view = view_of(Swapped(0, 7, 10, NO_MEAN, (A, B)))
    assert (view.rounds_done, view.participants) == (7, 3)


def test_commits_that_undid_others_are_no_rounds() -> None:
    view = view_of(committed(71), Restored(RECORD), committed(73))
    assert view.rounds_done == 72


def test_all_fits_a_small_terminal_and_the_newest_notes_are_seen() -> None:
    view = view_of(joined(**{f"a-worker-with-a-long-name-{i}": bytes([i]) * 32 for i in range(1, 9)}))
    view.members = (MemberSpeed(A, "a-worker-with-a-long-name-1", 0.0, True),)
    for number in range(40):
        view.note(f"note {number}: " + "so long that it takes more than one line of a terminal " * 2)
    for width, height in ((80, 23), (60, 15), (40, 12)):
        lines = screen_of(view, width, height)
        assert len(lines) <= height
        assert any("note 39" in line for line in lines)


def test_workers_of_one_machine_are_told_apart_by_their_keys() -> None:
    view = view_of(joined(bob=C))
    assert view.event(PeersJoined(((A, "box"), (B, "box")))) == "box (0101), box (0202) joined"
    assert "with bob, box (0101), box (0202)" in view.swarm_text()
    assert view.event(PeerLeft(A, "box", "gone")) == "box (0101) is out: gone"


def test_a_worker_and_another_one_of_its_name_are_told_apart() -> None:
    view = view_of(joined(box=A, bob=B), name="box")
    assert view.swarm_text() == "with box (0101), bob"
    lines = screen_of(view, 80, 24)
    assert lines[0].startswith("run demo   box-0000000000000000   ")
    assert view.event(PeerLeft(A, "box", "gone")) == "box (0101) is out: gone"


def test_who_holds_the_others_up_is_named() -> None:
    view = view_of(joined(bob=A, eve=B))
    assert view.slow_text() == ""
    speeds = {ME: ("ann", 100.0), A: ("bob", 60.0), B: ("eve", 110.0)}
    view.members = tuple(MemberSpeed(key, *found, awaited=False) for key, found in speeds.items())
    assert view.slow_text() == "bob is slow: 60 tokens/s where 100 are usual"
    view.members = (MemberSpeed(ME, "ann", 71.0, False), MemberSpeed(A, "bob", 100.0, False))
    assert view.slow_text() == ""
    view.members = (MemberSpeed(ME, "ann", 60.0, True), MemberSpeed(C, "cid\x1b", 1.0, True))
    assert view.slow_text() == "the run waits for this worker, cid?"


def test_the_mean_of_buffers_behind_the_last_round_is_no_round() -> None:
    view = view_of(committed(200))
    view.buffers_fragment = 4
    assert view.event(committed(201, fragment=4)) == "this worker has the mean of the model's buffers"
    assert view.rounds_done == 200


def test_in_a_pipe_lines_about_progress_are_few_and_the_last_round_has_one() -> None:
    clock, console = Clock(), Console(file=io.StringIO(), force_terminal=False, width=80)
    with WorkerScreen(view_of(clock=clock), console) as screen:
        screen.want(30)
        for index in range(1, 31):
            clock.now += 3.0
            screen.stepped(index, 2.0, 50.0, 1.0)
            screen.event(committed(index))
        screen.event(CoordinatorLost(5.0))
    lines = [line.partition(" s  ")[2] for line in console.file.getvalue().splitlines()]  # type: ignore[attr-defined]
    rounds = [int(line.split()[1]) for line in lines[:-1]]
    assert rounds == [1, 5, 9, 13, 17, 21, 25, 29, 30]
    assert lines[1] == (
        "round 5 of 30, 2 workers: step 5, loss 2.000, 50 tokens/s; 0.0 MB up, 0.0 MB down, waited 1 s; "
        "about 75 s left"
    )
    assert lines[-1].startswith("the host is away")


def test_on_a_terminal_no_line_about_progress_is_printed() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=80, height=24)
    with WorkerScreen(view_of(), console) as screen:
        screen.event(committed(1))
        screen.heard((MemberSpeed(A, "bob", 1.0, True),), 0)
    assert "2 workers: step" not in console.file.getvalue()  # type: ignore[attr-defined]
    assert "the run waits for bob" in console.file.getvalue()  # type: ignore[attr-defined]
