"""What the settings of a run mean to its coordinator and to its workers."""

from __future__ import annotations

from typing import Any

import pytest

from diloco.compression.codecs import codec as codec_of
from diloco.methods.presets import PRESETS
from diloco.methods.wire_formats import WIRE_FORMATS
from diloco.rules import matching_of, num_commits, rules_of, wait_s
from diloco.settings import RunSettings
from peers.member.matching import group_of
from transport.collectives.plan import BLOCK_ELEMENTS, chunk_elements_for
from transport.limits import LIMITS


def settings(preset: str = "diloco", run: dict[str, Any] | None = None, **method: Any) -> RunSettings:
    plain = {"run": {"rounds": 10, **(run or {})}, "method": {"preset": preset, **method}}
    return RunSettings.model_validate(plain)


def test_a_run_is_done_when_every_fragment_has_moved_as_often_as_there_are_rounds() -> None:
    assert num_commits(settings()) == 10
    assert num_commits(settings("streaming", num_fragments=4)) == 40
    for preset in PRESETS:
        assert rules_of(settings(preset)).rounds == num_commits(settings(preset)) >= 10


def test_the_coordinator_knows_into_how_many_stages_the_model_is_cut() -> None:
    cut = RunSettings.model_validate({"pipeline": {"stages": 3}})
    assert (rules_of(settings()).stages, rules_of(cut).stages) == (1, 3)


def test_members_of_other_settings_are_told_apart_by_their_digest() -> None:
    assert rules_of(settings()).settings == settings().digest() != settings(sync_every=7).digest()


def test_with_a_quorum_its_own_grace_holds_and_without_one_that_of_the_run() -> None:
    whole = rules_of(settings(run={"grace_s": 12.0, "min_peers": 3}))
    assert (whole.grace_s, whole.quorum, whole.fewest) == (12.0, 0, 3)
    some = rules_of(
        settings("decoupled", run={"grace_s": 12.0, "min_peers": 3}, quorum=2, quorum_grace_s=1.5)
    )
    assert (some.grace_s, some.quorum, some.fewest) == (1.5, 2, 2)


@pytest.mark.parametrize(
    ("preset", "gossips", "paces"), [("diloco", 0, 0), ("noloco", 1, 0), ("async_diloco", 0, 1)]
)
def test_the_coordinator_knows_who_gossips_and_who_is_paced(preset: str, gossips: int, paces: int) -> None:
    rules = rules_of(settings(preset))
    assert (rules.gossips, rules.paces) == (bool(gossips), bool(paces))


@pytest.mark.parametrize("codec", [each for each in WIRE_FORMATS if each != "topk"])
def test_a_chunk_is_about_a_mebibyte_in_every_codec_and_no_more(codec: str) -> None:
    rules = rules_of(settings(codec=codec))
    elements = chunk_elements_for(1 << 40, 8, LIMITS, rules.element_bytes)
    size = codec_of(codec).size_bytes(elements)
    assert size <= LIMITS.chunk_bytes
    assert size > 0.99 * LIMITS.chunk_bytes or elements == LIMITS.chunk_elements
    assert elements % BLOCK_ELEMENTS == 0


@pytest.mark.parametrize("members", [1, 8, 64])
def test_a_chunk_of_means_fits_also_where_they_are_larger_than_parts(members: int) -> None:
    chosen = settings("sparseloco")
    elements = chunk_elements_for(1 << 40, members, LIMITS, rules_of(chosen).element_bytes)
    options = {"keep": chosen.method.resolved().keep, "value_bits": chosen.method.resolved().value_bits}
    assert codec_of("topk", **options).for_mean(members).size_bytes(elements) <= LIMITS.chunk_bytes


def test_who_gossips_makes_chunks_of_the_same_length_as_all_others_by_the_settings_alone() -> None:
    chosen = settings("noloco", codec="bf16")
    matching = matching_of(chosen)
    assert matching is not None
    assert matching.element_bytes == rules_of(chosen).element_bytes == 2.0


def test_only_gossip_has_a_matching_and_the_runs_seed_decides_it() -> None:
    assert matching_of(settings()) is None
    first, other = (matching_of(settings("noloco", run={"seed": seed})) for seed in (1, 2))
    assert first is not None
    assert other is not None
    members = {bytes([i]) * 32 for i in range(8)}
    mine = bytes(32)
    groups = [[group_of(each, members, step, mine) for step in range(6)] for each in (first, first, other)]
    assert groups[0] == groups[1] != groups[2]
    assert matching_of(settings("moshpit", group_size=4)) != matching_of(settings("moshpit", group_size=3))


def test_a_worker_waits_for_the_grace_and_for_two_detections() -> None:
    assert wait_s(settings(run={"grace_s": 12.0, "failure_timeout_s": 5.0})) == 22.0
