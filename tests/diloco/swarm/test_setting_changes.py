"""What may change in a run, how a person gives it, and what members are told of it."""

from __future__ import annotations

import pytest

from diloco.errors import SettingsError
from diloco.settings import CHANGEABLE, RunSettings, parse_settings
from diloco.swarm.setting_changes import (
    changes_between,
    given_values,
    pack_values,
    told,
    unpack_values,
    values_of,
    with_values,
)
from peers.protocol.fields import SettingValues

RUN = RunSettings()
EXTREME = {
    "run.min_peers": 64,
    "run.rounds": 10**9,
    "run.grace_s": 86_399.123456789012,
    "run.outlier_factor": 999_999_999.1234567,
    "run.max_influence": 999_999_999.1234567,
    "train.inner_lr": 1.2345678901234567e-300,
    "train.warmup_steps": 10**9,
    "train.decay_steps": 10**9,
    "train.weight_decay": 1.2345678901234567e-300,
    "train.clip_norm": 123_456.78901234567,
    "checkpoint.every": 256,
    "checkpoint.copies": 64,
    "checkpoint.keep": 1000,
    "checkpoint.results": False,
    "checkpoint.own": False,
}


def test_only_what_may_change_leaves_the_digest_as_it_was() -> None:
    assert EXTREME.keys() == CHANGEABLE.keys()
    for key, value in EXTREME.items():
        changed = with_values(RUN, {key: value})
        assert list(changes_between(RUN, changed)) == [key]
        assert changed.digest() == RUN.digest()
        assert changed.to_bytes() != RUN.to_bytes()
    for section, key, value in [
        ("run", "failure_timeout_s", 3.0),
        ("run", "seed", 7),
        ("method", "sync_every", 3),
        ("model", "layers", 2),
        ("train", "batch_size", 3),
    ]:
        other = parse_settings({section: {key: value}}, "")
        assert other.digest() != RUN.digest()
        assert f"{section}.{key}" in changes_between(RUN, other)


def test_a_preset_is_a_name_for_its_parts() -> None:
    spelt = {key: value for key, value in RUN.meaning()["method"].items() if value is not None}
    other = parse_settings({"method": {"preset": "local_sgd", **spelt}}, "")
    assert changes_between(RUN, other) == {}
    assert other.digest() == RUN.digest()


def test_what_cannot_change_and_what_is_no_value_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"model\.width cannot change while a run goes on; run"):
        with_values(RUN, {"model.width": 256})
    with pytest.raises(SettingsError, match=r"changed settings: run\.rounds = 0: .*greater than"):
        with_values(RUN, {"run.rounds": 0})


def test_packed_values_come_back_and_rubbish_is_refused() -> None:
    settings = with_values(RUN, EXTREME)
    packed = pack_values(values_of(settings))
    assert len(packed) <= SettingValues.__metadata__[0].high
    assert with_values(RUN, unpack_values(packed)) == settings
    for rubbish in (b"\xff", b"[]", b"3", b"{", b"[" * 1000):
        with pytest.raises(SettingsError, match="changed settings are"):
            unpack_values(rubbish)


def test_a_person_gives_key_and_value() -> None:
    found = given_values(["run.rounds=50", "train.inner_lr = 1e-3", "run.rounds=60"])
    assert found == {"run.rounds": 60, "train.inner_lr": 1e-3}
    assert with_values(RUN, given_values(["run.grace_s=5"])).run.grace_s == 5.0
    for wrong in ("run.rounds", "run.rounds=", "run.rounds=fifty", "run.rounds=5\nx=3"):
        with pytest.raises(SettingsError, match=r"give it as --set run\.rounds=50"):
            given_values([wrong])
    with pytest.raises(SettingsError, match=r"--set model\.width: only run\.min_peers, .* can change"):
        given_values(["model.width=256"])
    for what in ("run.name=x", "rubbish=3"):  # what cannot change need not be written well either
        with pytest.raises(SettingsError, match=r"only run\.min_peers, .* can change"):
            given_values([what])


def test_changes_are_told_in_a_line() -> None:
    changed = with_values(RUN, {"run.rounds": 50, "train.inner_lr": 1e-3})
    assert told(changes_between(RUN, changed)) == "run.rounds 100 -> 50, train.inner_lr 0.002 -> 0.001"
