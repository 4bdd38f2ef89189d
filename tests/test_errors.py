"""One tree of errors for each package: catching its base catches all, and the drawing is the tree."""

from __future__ import annotations

import inspect
import re
from types import ModuleType

import pytest

import diloco
import diloco.errors
import peers.errors
import transport.errors
from diloco.cli.app import FAULTS_OF_PEOPLE
from diloco.errors import CodecError, DilocoError, EntryError, JoinError, NonFinite, SettingsError, UserError
from transport.errors import Poisoned

BASES = {
    transport.errors: transport.errors.TransportError,
    peers.errors: peers.errors.PeersError,
    diloco.errors: diloco.errors.DilocoError,
}


def classes(module: ModuleType) -> set[type[BaseException]]:
    found = {each for _, each in inspect.getmembers(module, inspect.isclass)}
    return {each for each in found if each.__module__ == module.__name__}


@pytest.mark.parametrize("module", BASES, ids=lambda module: module.__name__)
def test_every_error_of_a_package_is_under_its_base_and_has_its_place_in_the_drawing(
    module: ModuleType,
) -> None:
    drawn: list[tuple[int, str]] = []
    for line in (module.__doc__ or "").splitlines():
        found = re.match(r"^([ │├└─]*)([A-Z]\w+)(\s\s|$)", line)
        if found:
            drawn.append((len(found[1]), found[2]))
    assert {name for _, name in drawn} == {each.__name__ for each in classes(module)}
    above: list[tuple[int, str]] = []
    for depth, name in drawn:
        while above and above[-1][0] >= depth:
            above.pop()
        parent = getattr(module, above[-1][1]) if above else Exception
        assert parent in getattr(module, name).__bases__, name
        above.append((depth, name))
    assert all(issubclass(each, BASES[module]) for each in classes(module))


def test_the_command_line_shows_errors_of_all_three_as_one_line() -> None:
    assert set(FAULTS_OF_PEOPLE) == set(BASES.values())


def test_errors_tell_programs_a_code_and_people_a_text() -> None:
    assert (JoinError("expired", "ask again").code, str(JoinError("expired", "ask again"))) == (
        "expired",
        "ask again",
    )
    assert str(EntryError("codec", "int8 here")) == "codec: int8 here"
    assert SettingsError(["a", "b"]).problems == ("a", "b")
    assert str(SettingsError(["a", "b"])) == "a\nb"
    assert (Poisoned(3, "not finite").member, Poisoned(3, "not finite").reason) == (3, "not finite")


def test_a_codecs_error_is_of_this_tree_and_a_value_error_and_no_users_fault() -> None:
    with pytest.raises(ValueError, match="3 values") as caught:
        raise NonFinite(3, "values")
    assert isinstance(caught.value, DilocoError)
    assert not isinstance(caught.value, UserError)
    assert (isinstance(caught.value, CodecError), caught.value.count) == (True, 3)


def test_every_error_that_the_package_hands_out_is_of_this_tree() -> None:
    handed = [getattr(diloco, name) for name in diloco.__all__]
    found = [each for each in handed if inspect.isclass(each) and issubclass(each, Exception)]
    assert found
    assert all(issubclass(each, DilocoError) for each in found)
