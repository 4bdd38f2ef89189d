"""Commands: data that crosses threads, and the list of them is whole."""

from __future__ import annotations

import dataclasses
from typing import get_args

import pytest

from peers.protocol import commands
from peers.protocol.commands import Command

KINDS = [each for each in vars(commands).values() if getattr(each, "__module__", "") == commands.__name__]


def test_the_list_of_commands_names_every_one() -> None:
    assert {each for each in KINDS if isinstance(each, type)} == set(get_args(Command))


@pytest.mark.parametrize("kind", get_args(Command))
def test_a_command_is_data_that_does_not_change(kind: type) -> None:
    values = range(len(dataclasses.fields(kind)))
    command = kind(*values)
    assert command == kind(*values)
    name = dataclasses.fields(kind)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(command, name, -1)
    assert not [each for each in vars(kind) if each[0] != "_" and callable(getattr(kind, each))]
