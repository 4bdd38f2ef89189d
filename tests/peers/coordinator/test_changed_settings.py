"""Settings that the owner changed: who enters is told, over restarts too, and more rounds undo a stop."""

from __future__ import annotations

from peers.coordinator.journal import RunStopped, SettingsChanged
from peers.protocol.messages import Entered, SettingsAre
from tests.peers.coordinator.coordinator_kit import Swarm, key, trained
from transport.frames import pack


def changed(values: bytes, *, goes_on: bool = False) -> bytes:
    return pack(SettingsChanged(values, b"{}", goes_on))


def test_nobody_is_told_of_settings_that_are_as_they_began() -> None:
    swarm = trained(2)
    assert swarm.told(1, SettingsAre) == []


def test_whoever_enters_is_told_the_last_change_before_it_is_in() -> None:
    swarm = Swarm(journal=[changed(b"old"), changed(b"new")])
    swarm.enter(1)
    assert swarm.told(1, SettingsAre) == [SettingsAre(b"new")]
    kinds = [type(message) for peer, message in swarm.said if peer == key(1)]
    assert kinds.index(SettingsAre) < kinds.index(Entered)


def test_a_run_that_was_stopped_goes_on_if_it_got_more_rounds_later() -> None:
    stopped = pack(RunStopped(3))
    assert Swarm(journal=[stopped, changed(b"slower")]).core.finished
    assert Swarm(journal=[changed(b"longer", goes_on=True), stopped]).core.finished
    assert not Swarm(journal=[stopped, changed(b"longer", goes_on=True)]).core.finished
