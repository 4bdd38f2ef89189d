"""The status: its plain form is what older programs read, and what comes back from a host is checked."""

from __future__ import annotations

import json
from copy import deepcopy
from typing import Any

import pytest

from peers.coordinator.course import CommitSummary
from peers.coordinator.status import MarkStatus, MemberStatus, OpenRoundStatus, RunStatus, StageStatus
from peers.coordinator.tickets import TicketStatus
from peers.protocol.messages import Done, Report
from tests.peers.coordinator.coordinator_kit import RESULT, Swarm, key, opened, speed, trained
from transport.effects import NEVER
from transport.errors import BadFrame
from transport.frames import pack_items, unpack_items

STATUS = RunStatus(
    members=(MemberStatus("w", key(1), True, 0.25, 5, 80, 2.5, False, 10.0, 12.0, 1000, 3, 1, True, True),),
    run_name="demo",
    epoch=3,
    term=1,
    head=b"h" * 32,
    num_rounds=4,
    max_rounds=9,
    over=False,
    open_rounds=(OpenRoundStatus(7, 0, 1, 2),),
    model="gpt",
    codec="int8",
    num_elements=(100, 28),
    recent=(CommitSummary(1, 2, 0.5),),
    marks=(MarkStatus("v", "w", 4),),
    stopped=True,
    tickets=(TicketStatus("t1", 5, 2, 1_800_000_000, True),),
    waits="too few workers",
    saved_index=3,
    saved_by=("v", "w"),
    gossips=True,
    num_commits=5,
    stages=(StageStatus(1, 3, 2, 12.5, 4, 5, b"h" * 32, "part 1", -1, "too few workers", 7, 2, 1),),
)
PLAIN: dict[str, Any] = {
    "members": [
        {
            "name": "w",
            "key": key(1),
            "active": True,
            "silent_s": 0.25,
            "step": 5,
            "tokens": 80,
            "loss": 2.5,
            "loss_is_finite": False,
            "tokens_per_second": 10.0,
            "speed": 12.0,
            "bytes_sent": 1000,
            "non_finite": 3,
            "stage": 1,
            "awaited": True,
            "alike": True,
            "validation": 0.0,
            "validated": False,
        }
    ],
    "run": "demo",
    "epoch": 3,
    "term": 1,
    "head": b"h" * 32,
    "rounds": 4,
    "rounds_wanted": 9,
    "over": False,
    "open": [{"serial": 7, "fragment": 0, "attempt": 1, "members": 2}],
    "model": "gpt",
    "codec": "int8",
    "elements": [100, 28],
    "recent": [[1, 2, 0.5]],
    "marks": [["v", "w", 4]],
    "stopped": True,
    "tickets": [["t1", 5, 2, 1_800_000_000, True]],
    "waits": "too few workers",
    "saved": 3,
    "saved_by": ["v", "w"],
    "gossips": True,
    "commits": 5,
    "stages": [
        {
            "stage": 1,
            "replicas": 3,
            "active": 2,
            "speed": 12.5,
            "rounds": 4,
            "commits": 5,
            "head": b"h" * 32,
            "model": "part 1",
            "saved": -1,
            "waits": "too few workers",
            "settled": 7,
            "partial": 2,
            "lost": 1,
        }
    ],
}


def test_the_plain_form_has_the_names_and_the_order_that_older_programs_read() -> None:
    assert pack_items(STATUS.plain()) == pack_items(PLAIN)


def test_a_status_comes_back_from_its_plain_form_over_the_wire() -> None:
    assert RunStatus.from_plain(unpack_items(pack_items(STATUS.plain()))) == STATUS


def test_names_of_a_newer_host_are_passed_over() -> None:
    assert RunStatus.from_plain(PLAIN | {"colours": [1, 2]}) == STATUS


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ((), [], "the status is no table"),
        (("members",), {}, "members is no list"),
        (("members",), [PLAIN["members"][0]] * 1025, "members is no list of at most 1024"),
        (("members", 0), 7, "a member is no table"),
        (("members", 0, "name"), b"w", "name is no text"),
        (("members", 0, "name"), "w" * 257, "name is no text of at most 256"),
        (("members", 0, "key"), b"short", "key is not 32 bytes"),
        (("members", 0, "active"), 1, "active is neither true nor false"),
        (("members", 0, "silent_s"), float("inf"), "silent_s is no finite number"),
        (("members", 0, "loss"), float("nan"), "loss is no finite number"),
        (("members", 0, "loss"), "2.5", "loss is no finite number"),
        (("members", 0, "step"), -1, "step is no count"),
        (("members", 0, "step"), True, "step is no count"),
        (("members", 0, "tokens"), 1 << 63, "tokens is no count"),
        (("head",), "h" * 32, "head is not 32 bytes"),
        (("rounds",), None, "rounds is no count"),
        (("open", 0, "members"), 2.0, "members is no count"),
        (("open",), [PLAIN["open"][0]] * 257, "open is no list"),
        (("elements", 1), "28", "elements is no count"),
        (("saved",), -2, "saved is no count"),
        (("saved_by", 1), 7, "saved_by is no text"),
        (("recent", 0), [1, 2], "a recent commit is no list"),
        (("stages",), [PLAIN["stages"][0]] * 65, "stages is no list of at most 64"),
        (("stages", 0), 7, "a stage is no table"),
        (("stages", 0, "speed"), float("nan"), "speed is no finite number"),
        (("stages", 0, "saved"), -2, "saved is no count"),
        (("recent", 0, 2), None, "a recent commit's seconds is no finite number"),
    ],
)
def test_rubbish_from_a_host_is_refused_in_one_sentence(path: tuple[Any, ...], value: Any, says: str) -> None:
    plain: Any = deepcopy(PLAIN)
    if path:
        *way, last = path
        at = plain
        for each in way:
            at = at[each]
        at[last] = value
    with pytest.raises(BadFrame, match=says):
        RunStatus.from_plain(plain if path else value)


TABLES = ("members", "stages")
"""Whose rows are tables."""


@pytest.mark.parametrize("name", [*PLAIN, *((table, name) for table in TABLES for name in PLAIN[table][0])])
def test_a_status_that_lacks_a_name_is_refused_by_that_name(name: Any) -> None:
    plain = deepcopy(PLAIN)
    at, missing = (plain[name[0]][0], name[1]) if isinstance(name, tuple) else (plain, name)
    del at[missing]
    with pytest.raises(BadFrame, match=f"has no {missing}"):
        RunStatus.from_plain(plain)


def test_a_coordinator_tells_members_rounds_and_commits() -> None:
    swarm = trained(2, rounds=9)
    swarm.hear(1, Report(5, 1, 80, 2.5, False, 10.0, 12.0, 1000, 0, 3, True))
    serial = opened(swarm, 1, 2).serial
    swarm.now = 4.0
    swarm.silent[key(2)] = 1.5
    found = swarm.core.status(swarm.now)
    assert found.open_rounds == (OpenRoundStatus(serial, 0, 0, 2),)
    of_first = MemberStatus("w1", key(1), True, 0.0, 5, 80, 2.5, False, 10.0, 12.0, 1000, 3, alike=True)
    assert found.members[0] == of_first
    assert found.members[1].silent_s == 2.5
    assert (found.num_members, found.model, found.num_elements, found.max_rounds) == (2, "a model", (100,), 9)
    for index in (1, 2):
        swarm.hear(index, Done(serial, 0, RESULT))
    found = swarm.core.status(swarm.now)
    assert (found.num_rounds, found.head, found.open_rounds) == (1, swarm.chain.head, ())
    assert found.recent == (CommitSummary(0, 2, 4.0),)
    assert RunStatus.from_plain(found.plain()) == found


def test_one_that_was_never_heard_is_silent_since_it_entered_which_json_can_say() -> None:
    swarm = Swarm()
    swarm.now = 2.0
    swarm.enter(1)
    swarm.silent[key(1)] = NEVER
    found = swarm.core.status(5.0)
    assert found.members[0].silent_s == 3.0
    assert json.loads(json.dumps(found.plain(), default=bytes.hex, allow_nan=False))["rounds"] == 0


def test_an_empty_run_has_a_status() -> None:
    found = Swarm().core.status(0.0)
    assert (found.members, found.model, found.num_elements, found.over) == ((), "", (), False)
    assert RunStatus.from_plain(found.plain()) == found


def test_of_one_that_has_not_reported_yet_all_numbers_are_nothing() -> None:
    (found,) = trained(1).core.status(0.0).members
    assert found == MemberStatus("w1", key(1), True, 0.0, 0, 0, 0.0, True, 0.0, 0.0, 0, 0)


def test_each_stage_tells_of_itself_alone() -> None:
    swarm = Swarm(stages=3, min_peers=1)
    for index, stage in ((1, 0), (2, 0), (3, 1)):
        swarm.join_stage(index, stage, model=f"part {stage}")
        swarm.hold(index, bytes([stage]) * 32)
        swarm.hear(index, speed(10.0))
    swarm.core.remove(0.0, swarm.core.roster.entries[key(2)], "dead", forget=False)
    found = swarm.core.status(0.0)
    assert [(each.num_replicas, each.num_active, each.speed) for each in found.stages] == [
        (1, 1, 10.0),
        (1, 1, 10.0),
        (0, 0, 0.0),
    ]
    assert [each.model for each in found.stages] == ["part 0", "part 1", ""]
    assert [each.head for each in found.stages][:2] == [b"\0" * 32, b"\1" * 32]
    assert [each.waits.split(":")[0] for each in found.stages] == ["", "", "too few workers"]
    assert found.waits.startswith("stage 2: too few workers: 0 of 1 (min_peers)")
    assert [each.stage for each in found.members] == [0, 1]
    assert RunStatus.from_plain(found.plain()) == found


def test_a_status_is_read_up_to_its_bounds() -> None:
    plain = PLAIN | {"elements": [1] * 256, "open": PLAIN["open"] * 256, "rounds": 1 << 62}
    plain["members"] = [PLAIN["members"][0] | {"name": "w" * 256}] * 1024
    found = RunStatus.from_plain(plain)
    assert (len(found.num_elements), len(found.open_rounds), len(found.members)) == (256, 256, 1024)
