"""A worker's second start: it knows its run, needs no host at once, and no ticket that is still good."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

import diloco
from diloco.errors import JoinError, StateInUse, UserError
from diloco.settings import parse_settings
from diloco.swarm.joined_run import JoinedRun
from diloco.swarm.run_file import JOINED, KeptRun, kept_run
from peers.admission.ticket import Ticket
from transport.errors import KnockTimeout

LOCAL = "tcp://127.0.0.1:0"
RUN = parse_settings({"run": {"name": "joined", "rounds": 3}}, "")


@pytest.fixture
def host(tmp_path: Path) -> Iterator[diloco.Swarm]:
    with diloco.host(RUN, listen=LOCAL, state=tmp_path / "host") as swarm:
        yield swarm


def unanswered(ticket: Ticket) -> Ticket:
    return replace(ticket, addresses=("tcp://127.0.0.1:9",))


def test_who_was_in_the_run_goes_on_without_an_answer_and_who_was_not_does_not(
    host: diloco.Swarm, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ticket, home = Ticket.parse(host.ticket), tmp_path / "ann"
    with pytest.raises(KnockTimeout), closing(JoinedRun(unanswered(ticket), "ann", home, 0.1)):
        pass
    with closing(JoinedRun(ticket, "ann", home, 20.0)) as first:
        pass
    with closing(JoinedRun(unanswered(ticket), "ann", home, 0.1)) as again:
        assert (first.answered, again.answered) == (True, False)
        assert again.settings == first.settings
        assert again.settings.meaning() == RUN.meaning()
        assert again.identity.public == first.identity.public
        assert again.incarnation > first.incarnation
    assert "was in the run before, and goes on looking for its host" in caplog.text
    other = replace(unanswered(ticket), run=bytes(16))
    with pytest.raises(KnockTimeout), closing(JoinedRun(other, "ann", home, 0.1)):
        pass  # what it knows is about another run


def test_settings_are_kept_as_the_host_has_them_now(host: diloco.Swarm, tmp_path: Path) -> None:
    home, ticket = tmp_path / "ann", Ticket.parse(host.ticket)
    with closing(JoinedRun(ticket, "ann", home, 20.0)):
        pass
    host.close()
    with (
        diloco.host(RUN, listen=LOCAL, state=tmp_path / "host", changes={"run.rounds": 9}),
        closing(JoinedRun(ticket, "ann", home, 20.0)) as again,
    ):
        assert again.settings.run.rounds == 9
    assert kept_run(home, JOINED) == KeptRun(ticket.run, again.settings)


def test_an_expired_ticket_lets_those_in_who_were_in_the_run(tmp_path: Path) -> None:
    with diloco.host(RUN, listen=LOCAL, state=tmp_path / "host") as host:
        ticket = Ticket.parse(host.ticket)
        with closing(JoinedRun(ticket, "ann", tmp_path / "ann", 20.0)):
            pass

        def expire(now: float, node: object) -> None:
            invites = node.door.invites  # type: ignore[attr-defined]
            invites.update({key: replace(each, expires_at=0.0) for key, each in invites.items()})

        host.call(expire)
        with closing(JoinedRun(ticket, "ann", tmp_path / "ann", 20.0)) as again:
            assert again.settings.meaning() == RUN.meaning()
        with (
            pytest.raises(JoinError, match="expired"),
            closing(JoinedRun(ticket, "bob", tmp_path / "bob", 20.0)),
        ):
            pass


def test_one_folder_has_one_worker_and_a_damaged_one_is_named(host: diloco.Swarm, tmp_path: Path) -> None:
    ticket, home = Ticket.parse(host.ticket), tmp_path / "ann"
    with (
        closing(JoinedRun(ticket, "ann", home, 20.0)),
        pytest.raises(StateInUse, match="in use by the worker with process"),
    ):
        JoinedRun(ticket, "ann", home, 20.0)
    (home / "joined.json").write_text("{")
    with pytest.raises(UserError, match=r"joined\.json is damaged: put a copy back, or delete it"):
        JoinedRun(ticket, "ann", home, 20.0)
    with closing(JoinedRun(ticket, "ann", None, 20.0)):
        pass
