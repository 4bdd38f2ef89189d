"""Identity files, signatures and incarnations."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from peers.admission.identity import Identity, next_incarnation, verify
from peers.errors import IdentityError


def test_an_identity_is_the_same_after_a_restart(tmp_path: Path) -> None:
    first = Identity.load_or_create(tmp_path / "sub" / "id")
    again = Identity.load_or_create(tmp_path / "sub" / "id")
    assert (first.public, first.keys) == (again.public, again.keys)
    assert os.listdir(tmp_path / "sub") == ["id"]


def test_an_identity_file_is_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "id"
    Identity.load_or_create(path)
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o640)
    with pytest.raises(IdentityError, match=r"chmod 600 .*id"):
        Identity.load_or_create(path)


@pytest.mark.parametrize("content", ["", "diloco-identity-1 abc", "something else", "\xff" * 300])
def test_a_file_that_is_no_identity_is_refused_in_one_line(tmp_path: Path, content: str) -> None:
    path = tmp_path / "id"
    path.write_bytes(content.encode("latin-1"))
    path.chmod(0o600)
    with pytest.raises(IdentityError) as caught:
        Identity.load_or_create(path)
    assert "\n" not in str(caught.value)


def test_with_any_bit_flipped_an_identity_is_the_same_or_refused_and_never_another(
    tmp_path: Path,
) -> None:
    path = tmp_path / "id"
    public, whole, num_refused = Identity.load_or_create(path).public, path.read_bytes(), 0
    for bit in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            assert Identity.load_or_create(path).public == public
        except IdentityError:
            num_refused += 1
    assert num_refused > 7 * len(whole)


def test_a_directory_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(IdentityError, match="cannot use the identity file"):
        Identity.load_or_create(tmp_path / "file" / "id")


def test_a_signature_holds_for_its_key_tag_and_data_only() -> None:
    one, other = Identity.ephemeral(), Identity.ephemeral()
    signature = one.sign(b"card", b"data")
    assert verify(one.public, b"card", b"data", signature)
    assert not verify(other.public, b"card", b"data", signature)
    assert not verify(one.public, b"record", b"data", signature)
    assert not verify(one.public, b"card", b"dat4", signature)
    assert not verify(one.public, b"car", b"ddata", signature)
    assert not verify(b"short", b"card", b"data", signature)
    assert not verify(one.public, b"card", b"data", b"")


def test_a_tag_has_1_to_255_bytes() -> None:
    identity = Identity.ephemeral()
    for tag in (b"t", b"t" * 255):
        assert verify(identity.public, tag, b"data", identity.sign(tag, b"data"))
    for tag in (b"", b"t" * 256):
        with pytest.raises(ValueError, match="1 to 255 bytes"):
            identity.sign(tag, b"data")


def test_an_identity_never_shows_its_secret(tmp_path: Path) -> None:
    identity = Identity(bytes(range(32)))
    shown = repr(identity) + str(identity) + repr(identity.keys) + f"{identity.keys}"
    for form in (bytes(range(32)), identity.keys.secret):
        assert form.hex() not in shown
        assert repr(form)[2:-1] not in shown


def test_incarnations_always_grow(tmp_path: Path) -> None:
    path = tmp_path / "id.incarnation"
    assert next_incarnation(path, lambda: 1000) == 1000
    assert next_incarnation(path, lambda: 1000) == 1001
    assert next_incarnation(path, lambda: 5) == 1002
    assert next_incarnation(path, lambda: 9000) == 9000
    path.unlink()
    assert next_incarnation(path) > 9000


def test_a_damaged_incarnation_file_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "id.incarnation"
    path.write_text("9x")
    with pytest.raises(IdentityError, match="holds no incarnation"):
        next_incarnation(path)


@pytest.mark.parametrize("others", [0o1, 0o2, 0o4, 0o10, 0o20, 0o40])
def test_no_right_of_others_to_an_identity_file_is_passed_over(tmp_path: Path, others: int) -> None:
    path = tmp_path / "id"
    Identity.load_or_create(path)
    path.chmod(0o600 | others)
    with pytest.raises(IdentityError, match="others may read"):
        Identity.load_or_create(path)
