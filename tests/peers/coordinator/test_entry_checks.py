"""Why somebody is refused that wants to enter: the first reason that there is, in a sentence."""

from __future__ import annotations

from typing import Any

import pytest

from peers.coordinator.assignment import Assignment
from peers.coordinator.entry_checks import ABSENT, entry_refusal
from peers.protocol.messages import Enter, Refused
from tests.peers.coordinator.coordinator_kit import SETTINGS, Swarm, key
from tests.peers.coordinator.test_roster import entering


def refusal(swarm: Swarm, message: Enter, index: int = 1, most: int = 64) -> Refused | None:
    state = swarm.core.state
    entry = state.roster.entries[key(index)]
    return entry_refusal(state, Assignment(state, most), most, entry, message)


def message(**changes: Any) -> Enter:
    plain = {name: getattr(entering(), name) for name in Enter.__slots__}  # type: ignore[attr-defined]
    return Enter(**{**plain, **changes})


def test_whoever_fits_is_not_refused() -> None:
    swarm = Swarm()
    swarm.core.certify(key(1), "w1")
    assert refusal(swarm, message(settings=SETTINGS)) is None


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"settings": b"o" * 32, "stage": 5}, "settings"),
        ({"stage": 5, "elements": (7,)}, "stage"),
        ({"elements": (7,)}, "fragments"),
        ({"addresses": ()}, "unreachable"),
    ],
)
def test_the_first_thing_that_differs_is_named(changes: dict[str, Any], code: str) -> None:
    swarm = Swarm()
    swarm.enter(2, addresses=(), elements=(1,), model="m", tensors=SETTINGS)
    swarm.core.certify(key(1), "w1")
    found = refusal(swarm, message(**{"settings": SETTINGS, **changes}))
    assert found is not None
    assert found.code == code


def test_one_without_a_place_is_refused_whatever_it_says() -> None:
    swarm = Swarm()
    swarm.core.certify(key(1), "w1")
    swarm.core.roster.entries[key(1)].has_place = False
    assert refusal(swarm, message()) == ABSENT


def test_a_boundary_that_the_neighbour_does_not_have_is_refused_by_both() -> None:
    swarm = Swarm(stages=3)
    swarm.join_stage(1, 1, takes="[4, 8] float32", gives="[4, 9] float32")
    fits = {0: {"gives": "[4, 8] float32"}, 2: {"takes": "[4, 9] float32"}}
    for index, (stage, ends) in enumerate(fits.items(), 2):
        swarm.core.certify(key(index), f"w{index}")
        swarm.core.roster.entries[key(index)].given_stage = stage
        assert refusal(swarm, message(settings=SETTINGS, stage=stage, **ends), index) is None
    found = refusal(swarm, message(settings=SETTINGS, stage=0, gives="[4, 8] bfloat16"), 2)
    assert found == Refused(
        "boundary",
        "stage 0 of this member gives [4, 8] bfloat16, and stage 1 takes [4, 8] float32: let recipes say the"
        " same boundary",
    )
    found = refusal(swarm, message(settings=SETTINGS, stage=2), 3)
    assert found is not None
    assert found.detail.startswith("stage 2 of this member takes nothing, and stage 1 gives [4, 9] float32")


def test_members_of_another_stage_take_no_place() -> None:
    swarm = Swarm(stages=2)
    swarm.join_stage(1, 0)
    swarm.core.certify(key(2), "w2")
    swarm.core.roster.entries[key(2)].given_stage = 1
    assert refusal(swarm, message(settings=SETTINGS, stage=1), 2, most=1) is None
    swarm.core.roster.entries[key(2)].given_stage = 0
    alike = message(settings=SETTINGS, elements=(100,), model="a model", tensors=SETTINGS, shapes=SETTINGS)
    full = refusal(swarm, alike, 2, most=1)
    assert full is not None
    assert full.detail == "stage 0 has 1 members, as many as it may"


@pytest.mark.parametrize(("stage", "fits"), [(1, False), (2, False), (3, True), (4, True), (5, False)])
def test_of_two_stages_that_exchange_one_member_accepts_connections(stage: int, fits: bool) -> None:
    swarm = Swarm(stages=6)
    swarm.join_stage(1, 0, addresses=())
    swarm.core.certify(key(2), "w2")
    swarm.core.roster.entries[key(2)].given_stage = stage
    assert refusal(swarm, message(settings=SETTINGS, stage=stage), 2) is None
    found = refusal(swarm, message(settings=SETTINGS, stage=stage, addresses=()), 2)
    assert (found is None) == fits
    assert fits or (found is not None and found.code == "unreachable")
