"""A worker's own state as one: taken up whole, or begun anew from the outer parameters."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import diloco
from diloco.errors import StateError
from diloco.loop.session import Terms, WorkerSession
from diloco.outer.replica import TensorReplica
from diloco.settings import Checkpoint
from diloco.training.keeping import Worker

SETTINGS = diloco.RunSettings.model_validate(
    {"run": {"rounds": 2, "min_peers": 1}, "method": {"preset": "diloco", "sync_every": 4, "codec": "fp32"}}
)


def worker() -> tuple[nn.Linear, TensorReplica, WorkerSession, Worker]:
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    replica = TensorReplica.of(model, SETTINGS.method.resolved())
    session = WorkerSession(Terms.of(SETTINGS), replica, 0.0)
    return model, replica, session, Worker(model, replica, session)


def trained() -> Worker:
    model, _, session, found = worker()
    session.stepped(10, 0.1)
    session.stepped(10, 0.1)
    with torch.no_grad():
        model.weight.add_(1.0)
    return found


def test_parameters_and_what_was_trained_since_the_last_offer_are_taken_up_together() -> None:
    state = trained().state_dict()
    model, replica, session, found = worker()
    found.load_state_dict(state)
    assert (session.steps, session.tokens) == (2, 20)
    assert [(each.steps, each.tokens) for each in session.loop.progress] == [(2, 20)]
    assert torch.allclose(replica.local.pseudo_gradient(0)[:6], torch.full((6,), -1.0))
    assert model.weight.sub(trained_weight(state)).abs().max() == 0


def trained_weight(state: dict[str, dict[str, dict[str, Tensor]]]) -> Tensor:
    return state["live"]["parameters"]["weight"]


def test_the_speed_is_that_of_this_life() -> None:
    _, _, session, found = worker()
    found.load_state_dict(trained().state_dict())
    session.stepped(10, 0.1)
    assert session.tokens_per_second(2.0) == 5.0


@pytest.mark.parametrize("wrong", ["live", "own", "session"])
def test_what_does_not_fit_begins_anew_from_the_outer_parameters(wrong: str) -> None:
    state = trained().state_dict()
    match wrong:
        case "live":
            state["live"]["buffers"]["other"] = torch.zeros(1)
        case "own":
            state["own"][0]["anchor"] = torch.zeros(1)
        case "session":
            state["session"]["loop"]["progress"] *= 2
    model, replica, session, found = worker()
    first = model.weight.detach().clone()
    with pytest.raises(StateError):
        found.load_state_dict(state)
    assert torch.equal(model.weight, first)
    assert session.loop.progress[0].steps == 0
    assert not replica.local.pseudo_gradient(0).any()


@pytest.fixture
def swarm(tmp_path: Path) -> Iterator[diloco.Swarm]:
    with diloco.solo(SETTINGS) as made:
        made.home = tmp_path
        yield made


def test_what_cannot_be_kept_is_refused_by_its_place_at_attach(swarm: diloco.Swarm) -> None:
    class Keeps:
        def state_dict(self) -> object:
            return {"fn": print}

        def load_state_dict(self, state: object) -> None:
            return None

    model = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(StateError, match=r"^keep\['mine'\]\.fn is builtins"):
        diloco.attach(model, optimizer, swarm, keep={"mine": Keeps()})


def test_a_loop_without_until_finished_is_kept_too(swarm: diloco.Swarm, tmp_path: Path) -> None:
    model = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    outer = diloco.attach(model, optimizer, swarm, timeout_s=30.0)
    while not outer.finished:
        model.weight.grad, model.bias.grad = torch.ones(2, 3), torch.ones(2)
        optimizer.step()
    swarm.close()
    (folder,) = (tmp_path / "checkpoints").iterdir()
    assert [path.name[:12] for path in sorted(folder.glob("0*"))] == ["000000000000", "000000000002"]


def test_a_worker_keeps_what_the_settings_of_its_run_say(tmp_path: Path) -> None:
    wanted = Checkpoint(keep=1, results=False, own=False)
    settings = SETTINGS.model_copy(update={"checkpoint": wanted})
    model = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with diloco.host(settings, listen="tcp://127.0.0.1:0", state=tmp_path) as swarm:
        outer = diloco.attach(model, optimizer, swarm, timeout_s=30.0)
        while not outer.finished:
            model.weight.grad, model.bias.grad = torch.ones(2, 3), torch.ones(2)
            optimizer.step()
        assert swarm.call(lambda now, node: node.member and node.member.leads_on) is False
    (folder,) = (tmp_path / "checkpoints").iterdir()
    assert [path.name[:12] for path in folder.iterdir()] == ["000000000002"]
    assert not list(folder.rglob("own.safetensors"))


def test_a_run_with_a_frozen_base_goes_on_with_the_same_base_and_without_its_values_on_the_disk(
    tmp_path: Path,
) -> None:
    settings = SETTINGS.model_copy(update={"run": SETTINGS.run.model_copy(update={"rounds": 9})})

    def life(base: float, timeout_s: float) -> int:
        """Trains two rounds more; the commit that it began with."""
        model = nn.Sequential(nn.Linear(3, 64), nn.Linear(64, 2))
        for parameter in model[0].parameters():
            nn.init.constant_(parameter.requires_grad_(False), base)
        optimizer = torch.optim.SGD(model[1].parameters(), lr=0.001)
        with diloco.host(settings, listen="tcp://127.0.0.1:0", state=tmp_path) as swarm:
            outer = diloco.attach(model, optimizer, swarm, timeout_s=timeout_s)
            first = outer.round
            while outer.round < first + 2:
                optimizer.zero_grad()
                model(torch.ones(1, 3)).square().sum().backward()
                optimizer.step()
        return first

    assert life(0.5, 30.0) == 0
    kept = [path.read_bytes() for path in tmp_path.glob("checkpoints/*/0*/*.safetensors")]
    assert kept
    assert not any(b"frozen/" in content for content in kept)
    with pytest.raises(diloco.SwarmTimeout):
        life(0.25, 1.0)
    assert life(0.5, 30.0) == 2
