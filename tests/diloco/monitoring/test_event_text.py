"""What members' events say: each that tells of a run's story has one line, which its fields can fill."""

from __future__ import annotations

import json
from typing import Any

import pytest

from diloco.monitoring.event_text import plain, plain_fields, told
from peers.protocol import events
from peers.protocol.record import GENESIS, Record
from transport.collectives.reducer import PhantomReducer

RESTORING = Record(GENESIS, 7, (1 << 16) - 1, 1, 5, 4, (), (), b"r" * 32)
STORY = [
    (events.BecameActive(b"h" * 32, 4), "became_active", "holds the shared state of commit 4"),
    (events.FellBehind("too far"), "fell_behind", "fetches the shared state: too far"),
    (events.GotUnusable(0, "not finite"), "unusable", "cannot use what it fetched: not finite"),
    (
        events.KeptResultDamaged(b"r" * 32),
        "kept_result_damaged",
        "a result on its disk is damaged, and comes from others",
    ),
    (
        events.CheckpointWritten(4, b"h" * 32, 800, 1.25),
        "checkpoint_written",
        "has commit 4 on its disk, 800 bytes in 1.2 s",
    ),
    (
        events.CheckpointFailed(4, "No space left on device"),
        "checkpoint_failed",
        "has no checkpoint of commit 4, and trains on: No space left on device",
    ),
    (
        events.CheckpointRestored(4, b"h" * 32, "/somewhere"),
        "checkpoint_restored",
        "goes on from its checkpoint of commit 4",
    ),
    (
        events.Swapped(0, 5, 640, PhantomReducer(4, 4.0, b""), (b"p" * 32,)),
        "swapped",
        "takes outer step 5 with 1 others",
    ),
    (
        events.SwapFailed(0, 5, 640, (b"p" * 32,), "silent", False),
        "swap_failed",
        "has no partner for outer step 5: silent",
    ),
    (events.SettingsChanged(b"x"), "settings_changed", "takes settings that the host changed"),
    (events.CoordinatorLost(3.14), "coordinator_lost", "does not hear the host for 3.1 s, and trains on"),
    (
        events.CoordinatorDiskFull(),
        "coordinator_disk_full",
        "hears that the host's disk is full, or fails, and trains on",
    ),
    (events.CoordinatorBack(), "coordinator_back", "hears the host again"),
    (events.HostIsBehind(3, 5), "host_is_behind", "holds commit 5, and the host's journal ends at 3"),
    (events.EntryRefused("model", "another model"), "entry_refused", "is refused: another model"),
    (
        events.IdentitySuperseded(),
        "identity_superseded",
        "stops, since a newer process has its identity",
    ),
    (events.RunFinished(9), "run_finished", "the run has all its 9 rounds"),
    (
        events.Restored(RESTORING),
        "restored",
        "the last state was lost: goes on from the one that it holds",
    ),
]


@pytest.mark.parametrize(("event", "name", "text"), STORY, ids=[name for _, name, _ in STORY])
def test_an_event_of_the_story_has_a_name_and_a_line(event: Any, name: str, text: str) -> None:
    found = told(event)
    assert found is not None
    assert (found.name, found.text) == (name, text)
    assert json.loads(json.dumps(found.fields)) == found.fields


def test_the_fate_of_what_counts_is_for_programs_alone() -> None:
    found = told(events.ContributionEnded(0, 1, 640, events.Fate.APPLIED, "ab" * 32))
    assert found is not None
    assert found.text == ""
    assert found.fields["reason"] == "ab" * 32


def test_the_rest_is_of_no_story() -> None:
    assert told(events.BecomeSeed()) is None
    assert told(events.PaceSet(3.0)) is None


def test_how_long_something_took_is_not_when_it_was() -> None:
    assert plain_fields({"index": 4, "seconds": 1.5}) == {"index": 4, "took_s": 1.5}


def test_bytes_become_digits() -> None:
    assert plain((b"\x01\xff", 3, ("a",))) == ["01ff", 3, ["a"]]
