"""The files of a state directory: what outlives a restart, and what does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from diloco.errors import UserError
from diloco.settings import RunSettings
from diloco.swarm.state_dir import (
    advertised_address,
    default_state,
    home_of,
    invite_secret,
    load_identity,
    local_address,
    remember_address,
    run_id_of,
    same_port,
)
from peers.admission.identity import Identity


def test_an_identity_outlives_a_restart_and_each_life_has_a_higher_number(tmp_path: Path) -> None:
    (first, one), (second, two) = (load_identity(tmp_path / "new" / "home") for _ in range(2))
    assert first.keys.public == second.keys.public
    assert two > one
    assert (tmp_path / "new" / "home").stat().st_mode & 0o077 == 0, "nobody else may look"


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=f"state folder {tmp_path}/file/home cannot be made"):
        load_identity(tmp_path / "file" / "home")


def test_a_run_is_named_by_its_hosts_identity_alone() -> None:
    mine, yours = Identity.ephemeral(), Identity.ephemeral()
    assert run_id_of(mine) == run_id_of(mine) != run_id_of(yours)
    assert len(run_id_of(mine)) == 16


def test_the_secret_of_a_ticket_is_kept_and_only_its_owner_may_read_it(tmp_path: Path) -> None:
    one, other, me = b"1" * 16, b"2" * 16, Identity.ephemeral()
    secret = invite_secret(tmp_path, one, me)
    assert (secret, len(secret)) == (invite_secret(tmp_path, one, me), 16)
    assert secret != invite_secret(tmp_path, other, me), "a ticket is to one run"
    fresh = invite_secret(tmp_path, one, me, fresh=True)
    assert secret != fresh == invite_secret(tmp_path, one, me)
    assert (tmp_path / f"invite-{one.hex()[:16]}").stat().st_mode & 0o077 == 0


def test_a_damaged_secret_is_refused_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / f"invite-{'31' * 8}").write_bytes(b"short")
    with pytest.raises(UserError, match="is damaged: delete it, and give out a new ticket"):
        invite_secret(tmp_path, b"1" * 16, Identity.ephemeral())


def test_the_first_ticket_still_opens_the_door_where_all_but_the_identity_is_lost(tmp_path: Path) -> None:
    me = Identity.ephemeral()
    for folder in ("before", "after"):
        (tmp_path / folder).mkdir()
    secret = invite_secret(tmp_path / "before", b"1" * 16, me)
    assert secret == invite_secret(tmp_path / "after", b"1" * 16, me)
    (tmp_path / "other").mkdir()
    assert secret != invite_secret(tmp_path / "other", b"1" * 16, Identity.ephemeral())


def test_a_host_that_leaves_its_port_open_takes_that_of_its_earlier_life(tmp_path: Path) -> None:
    assert same_port(tmp_path, "tcp://0.0.0.0:0") == "tcp://0.0.0.0:0"
    remember_address(tmp_path, "tcp://127.0.0.1:5123", "tcp://192.0.2.9:80")
    assert same_port(tmp_path, "tcp://0.0.0.0:0") == "tcp://0.0.0.0:5123"
    assert same_port(tmp_path, "tcp://0.0.0.0:99") == "tcp://0.0.0.0:99", "a port that is named is taken"
    (tmp_path / "address").write_text("rubbish")
    with pytest.raises(UserError, match=r"address is damaged.*--listen"):
        same_port(tmp_path, "tcp://0.0.0.0:0")
    assert same_port(tmp_path, "tcp://0.0.0.0:99") == "tcp://0.0.0.0:99"
    (tmp_path / "address").unlink()
    (tmp_path / "address").mkdir()
    with pytest.raises(UserError, match=r"address is damaged.*--listen"):
        same_port(tmp_path, "tcp://0.0.0.0:0")


def test_with_any_bit_flipped_neither_another_port_nor_another_ticket_is_taken(tmp_path: Path) -> None:
    remember_address(tmp_path, "tcp://127.0.0.1:5123", "tcp://192.0.2.9:80")
    me, run = Identity.ephemeral(), b"1" * 16
    secret = invite_secret(tmp_path, run, me)
    for path in (tmp_path / "address", tmp_path / f"invite-{run.hex()[:16]}"):
        whole, said = path.read_bytes(), list[str]()
        for bit in range(8 * len(whole)):
            damaged = bytearray(whole)
            damaged[bit // 8] ^= 1 << bit % 8
            path.write_bytes(damaged)
            try:
                assert same_port(tmp_path, "tcp://0.0.0.0:0") == "tcp://0.0.0.0:5123"
                assert invite_secret(tmp_path, run, me) == secret
            except UserError as error:
                said.append(str(error))
        assert len(said) > 7 * len(whole)
        assert all(f"{path} is damaged" in each for each in said)
        path.write_bytes(whole)


def test_an_address_that_a_full_disk_does_not_take_leaves_the_earlier_one_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remember_address(tmp_path, "tcp://127.0.0.1:5123", "tcp://192.0.2.9:80")

    def half(path: Path, text: str) -> int:
        path.write_bytes(text[:9].encode())
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", half)
    with pytest.raises(UserError, match="address cannot be written: No space left on device"):
        remember_address(tmp_path, "tcp://127.0.0.1:6000", "tcp://192.0.2.9:81")
    assert same_port(tmp_path, "tcp://0.0.0.0:0") == "tcp://0.0.0.0:5123"
    assert [path.name for path in tmp_path.iterdir()] == ["address"]


def test_a_host_is_found_from_its_own_machine_by_the_address_that_it_listened_at(tmp_path: Path) -> None:
    assert local_address(tmp_path) == []
    for listens, found in [("0.0.0.0", "127.0.0.1"), ("192.0.2.7", "192.0.2.7")]:
        remember_address(tmp_path, f"tcp://{listens}:5123", "tcp://192.0.2.9:80")
        assert local_address(tmp_path) == [f"tcp://{found}:5123"]
        assert advertised_address(tmp_path) == ["tcp://192.0.2.9:80"]
    (tmp_path / "address").write_text("rubbish")
    assert local_address(tmp_path) == []


def test_an_account_without_a_home_is_told_to_name_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nowhere() -> Path:
        raise RuntimeError("Could not determine home directory.")

    assert default_state() == Path.home() / ".local/state/diloco"
    monkeypatch.setattr(Path, "home", nowhere)
    assert home_of(RunSettings(), tmp_path) == tmp_path
    with pytest.raises(UserError, match=r"no home folder .* --state, or set HOME"):
        home_of(RunSettings(), None)
