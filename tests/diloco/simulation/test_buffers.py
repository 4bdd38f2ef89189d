"""Float buffers in a simulated swarm of real tensors: one mean after the last round, which all hold alike."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from diloco.outer.replica import TensorReplica
from diloco.outer.tensor_reducer import TensorReducer
from diloco.settings import RunSettings
from diloco.simulation.engine import Engine
from diloco.simulation.pace import Peer
from diloco.simulation.virtual_training import FAST
from diloco.simulation.worker import Trainer, Worker
from diloco.training.lending import write_model
from peers.protocol.commands import Command, Offer
from peers.protocol.events import ProgressLost, RoundCommitted, RunFinished
from transport.effects import Effect

ROUNDS, EVERY = 3, 4
NAMES = ("a", "b", "c")
TOKENS = {"a": 10, "b": 20, "c": 30}


def make() -> nn.Sequential:
    torch.manual_seed(5)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    model.register_buffer("table", torch.tensor([1.0, 1 / 3, -7.0]))
    return model


class Swarm:
    """Three workers on data of their own; what each saw, and the buffers that it offered."""

    def __init__(self, spoil: Callable[[str, nn.Module], None] = lambda name, model: None, **method: Any):
        self.spoil, self.models, self.replicas = spoil, dict[str, nn.Module](), dict[str, TensorReplica]()
        self.offered: dict[str, tuple[Tensor, int]] = {}
        self.lost: list[ProgressLost] = []
        self.finished: dict[str, int] = {}
        self.on_last_offer: Callable[[str], None] = lambda name: None
        self.on_last_commit: Callable[[str], None] = lambda name: None
        self.settings = RunSettings.model_validate(
            {
                "run": {"rounds": ROUNDS, "min_peers": 2, "failure_timeout_s": 2.0, "grace_s": 5.0},
                "method": {"preset": "diloco", "sync_every": EVERY, **method},
            }
        )
        self.engine = Engine(
            self.settings,
            [Peer(name, FAST, tokens_per_step=TOKENS[name]) for name in NAMES],
            self._trainer,
            host=FAST,
            watchers=[self],
        )
        self.engine.begin()

    def _trainer(self, peer: Peer, life: int) -> Trainer:
        model = make()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        replica = TensorReplica.of(model, self.settings.method.resolved(), optimizer)
        generator = torch.Generator().manual_seed(100 * life + NAMES.index(peer.name))

        def step() -> float:
            x = torch.randn(8, 3, generator=generator) * (1 + NAMES.index(peer.name))
            loss = (model(x) - x[:, :2]).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            self.spoil(peer.name, model)
            return float(loss.detach())

        self.models[peer.name], self.replicas[peer.name] = model, replica
        found = replica.layout.manifest()
        elements = tuple(replica.max_sent(f) for f in range(replica.num_fragments))
        text = found.text.encode()
        buffers = replica.buffers is not None
        return Trainer(replica, elements, step, found.names_sha256, text, buffers=buffers)

    def run(self, seconds: float = 200.0) -> None:
        """To the end of the run."""

        def done() -> bool:
            workers = self.engine.workers.values()
            coordinator = self.engine.host.coordinator
            over = coordinator is not None and coordinator.finished
            return over and all(w.session.finished or not w.runs for w in workers)

        assert self.engine.run(seconds, done), "it did not come to its end"

    def saved(self, name: str, folder: Path, *, full: bool = False) -> bytes:
        path = folder / name
        write_model(self.models[name], self.replicas[name], path, round_=1, full=full)
        return path.read_bytes()

    # -- as a watcher

    def command(self, now: float, worker: Worker, command: Command) -> None:
        if isinstance(command, Offer) and command.fragment == self.replicas[worker.name].buffers:
            assert isinstance(command.reducer, TensorReducer)
            assert command.reducer.contribution is not None
            self.offered[worker.name] = command.reducer.contribution.clone(), command.weight
            self.on_last_offer(worker.name)

    def event(self, now: float, worker: Worker, event: object) -> None:
        if isinstance(event, RunFinished):
            self.finished[worker.name] = event.rounds
        if isinstance(event, RoundCommitted) and event.record.fragment == self.replicas[worker.name].buffers:
            self.on_last_commit(worker.name)
        if isinstance(event, ProgressLost):
            self.lost.append(event)

    def effect(self, now: float, name: str, effect: Effect) -> None: ...
    def activity(self, now: float, worker: Worker, activity: object) -> None: ...
    def stepped(self, now: float, worker: Worker, steps: int) -> None: ...


def test_a_run_ends_with_the_mean_of_buffers_by_tokens_and_one_file(tmp_path: Path) -> None:
    swarm = Swarm()
    swarm.run()
    weights = {name: weight for name, (_, weight) in swarm.offered.items()}
    steps = ROUNDS * EVERY  # no more, for they wait to be asked
    assert weights == {name: TOKENS[name] * steps for name in NAMES}
    files = {swarm.saved(name, tmp_path) for name in NAMES}
    assert len(files) == 1
    found = load_file(tmp_path / "a")
    total = sum(weights.values())
    mean = sum(vector * weight / total for vector, weight in swarm.offered.values())
    assert torch.allclose(found["1.running_mean"], mean[3:7], rtol=1e-5)
    assert torch.allclose(found["1.running_var"], mean[7:11], rtol=1e-5)
    assert int(found["1.num_batches_tracked"]) == steps
    assert torch.equal(found["table"], make().table), "a constant stays what it is, bit by bit"
    assert set(swarm.finished.values()) == {ROUNDS}, "the round of buffers is none of parameters"


def test_who_dies_with_its_buffers_offered_keeps_no_run_from_its_end(tmp_path: Path) -> None:
    swarm = Swarm()
    swarm.on_last_offer = lambda name: swarm.engine.crash("a") if name == "a" else None
    swarm.run()
    assert swarm.saved("b", tmp_path) == swarm.saved("c", tmp_path)
    assert swarm.replicas["b"].has_mean_buffers


def test_one_that_is_left_alone_ends_the_run_by_itself(tmp_path: Path) -> None:
    swarm = Swarm()

    def others_die(name: str) -> None:
        for other in NAMES:
            if other != "c":
                swarm.engine.crash(other)

    swarm.on_last_offer = lambda name: others_die(name) if name == "a" else None
    swarm.run()
    assert (swarm.finished, swarm.replicas["c"].has_mean_buffers) == ({"c": ROUNDS}, True)


def test_who_comes_back_after_the_mean_fetches_it(tmp_path: Path) -> None:
    swarm = Swarm()
    swarm.on_last_offer = lambda name: swarm.engine.crash("a") if name == "a" else None
    swarm.on_last_commit = lambda name: swarm.engine.start("a")
    swarm.run()
    assert len({swarm.saved(name, tmp_path) for name in NAMES}) == 1
    assert set(swarm.finished) == set(NAMES)


def test_a_host_that_dies_in_the_last_round_asks_again(tmp_path: Path) -> None:
    swarm, crashes = Swarm(), []

    def crash(name: str) -> None:
        if not crashes:
            crashes.append(name)
            swarm.engine.crash("host")
            swarm.engine.net.at(3.0, swarm.engine.start_host)

    swarm.on_last_offer = crash
    swarm.run()
    assert len({swarm.saved(name, tmp_path) for name in NAMES}) == 1
    assert set(swarm.finished.values()) == {ROUNDS}


def test_buffers_of_one_that_are_not_a_number_reach_nobody(tmp_path: Path) -> None:
    def spoil(name: str, model: Any) -> None:
        if name == "b" and swarm.engine.workers["b"].session.round == ROUNDS - 1:
            model[1].running_var[0] = torch.nan

    swarm = Swarm(spoil)
    swarm.run()
    assert len({swarm.saved(name, tmp_path) for name in NAMES}) == 1
    found = load_file(tmp_path / "a")
    assert bool(torch.isfinite(found["1.running_var"]).all())
    assert swarm.offered["b"][1] == 1, "what begins anew counts for next to nothing"


def test_local_buffers_stay_everyones_own(tmp_path: Path) -> None:
    swarm = Swarm(buffers="local")
    swarm.run()
    assert not swarm.offered
    assert len({swarm.saved(name, tmp_path) for name in NAMES}) == 3
    means = {tuple(load_file(tmp_path / name)["1.running_mean"].tolist()) for name in NAMES}
    assert len(means) == 3


def test_lossy_formats_are_for_parameters_alone(tmp_path: Path) -> None:
    swarm = Swarm(preset="streaming", num_fragments=2, delay=1)
    swarm.run()
    assert len({swarm.saved(name, tmp_path) for name in NAMES}) == 1
    total = sum(weight for _, weight in swarm.offered.values())
    mean = sum(vector * weight / total for vector, weight in swarm.offered.values())
    assert torch.allclose(load_file(tmp_path / "a")["1.running_var"], mean[7:11], rtol=1e-5)
