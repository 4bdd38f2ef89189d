"""The tree of errors: the drawing at its top is the tree, and callers can catch what they need."""

from __future__ import annotations

import inspect

import pytest

import diloco
from diloco import errors
from diloco.errors import CodecError, DilocoError, NonFinite, SettingsError, UserError


def drawn(text: str) -> dict[str, str]:
    """From the drawing: the parent of each error, by depth."""
    parents: dict[str, str] = {}
    path: list[str] = []
    for line in text.splitlines():
        words = line.replace("│", " ").replace("├──", "   ").replace("└──", "   ")
        name, depth = words.split(maxsplit=1)[0] if words.strip() else "", len(words) - len(words.lstrip())
        if not name.isidentifier() or depth < 4 or depth % 4:
            continue
        path[depth // 4 - 1 :] = [name]
        if depth > 4:
            parents[name] = path[-2]
    return parents


def test_the_drawing_is_the_tree() -> None:
    classes = [each for _, each in inspect.getmembers(errors, inspect.isclass)]
    mine = [each for each in classes if each.__module__ == errors.__name__ and each is not DilocoError]
    assert drawn(errors.__doc__ or "") == {each.__name__: each.__bases__[0].__name__ for each in mine}


def test_a_codecs_error_is_of_this_tree_and_a_value_error_and_no_users_fault() -> None:
    with pytest.raises(ValueError, match="3 values") as caught:
        raise NonFinite(3, "values")
    assert isinstance(caught.value, DilocoError)
    assert not isinstance(caught.value, UserError)
    assert (isinstance(caught.value, CodecError), caught.value.count) == (True, 3)


def test_settings_have_a_line_per_problem() -> None:
    error = SettingsError(["one", "two"])
    assert (str(error), error.problems) == ("one\ntwo", ("one", "two"))


def test_every_error_that_the_package_hands_out_is_of_this_tree() -> None:
    handed = [getattr(diloco, name) for name in diloco.__all__]
    found = [each for each in handed if inspect.isclass(each) and issubclass(each, Exception)]
    assert found
    assert all(issubclass(each, DilocoError) for each in found)
