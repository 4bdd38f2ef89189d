"""Commands: data that crosses threads, and the list of them is whole."""

from __future__ import annotations

import dataclasses
from typing import get_args

import pytest

from peers.protocol import commands, stage_work
from peers.protocol.commands import Command

KINDS = [
    each
    for module in (commands, stage_work)
    for each in vars(module).values()
    if getattr(each, "__module__", "") == module.__name__
]
OF_MEMBERS = {stage_work.MicrobatchId, stage_work.How, stage_work.Cause, *get_args(stage_work.StageEvent)}
"""What is beside the commands: events, and values of both."""


def test_the_list_of_commands_names_every_one() -> None:
    assert {each for each in KINDS if isinstance(each, type)} - OF_MEMBERS == set(get_args(Command))


@pytest.mark.parametrize("kind", get_args(Command))
def test_a_command_is_data_that_does_not_change(kind: type) -> None:
    values = range(len(dataclasses.fields(kind)))
    command = kind(*values)
    assert command == kind(*values)
    name = dataclasses.fields(kind)[0].name if values else "anything"
    with pytest.raises((dataclasses.FrozenInstanceError, TypeError)):
        setattr(command, name, -1)
    assert not [each for each in vars(kind) if each[0] != "_" and callable(getattr(kind, each))]
