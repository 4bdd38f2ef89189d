"""The ranks of a site, forked from one process that has torch: each trains what it is told in JSON, one thing
after the other, and writes what it came to. The loop is the same on all ranks.

    python site_ranks.py FOLDER WORLD '[{"kind": "ddp"}, ...]'
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist

import diloco
from diloco.errors import DilocoError
from diloco.training.attach import attach
from transport.digests import digest_of

IN, OUT = 5, 3


class Net(nn.Module):
    """Sizes that no number of ranks divides, tied weights, a frozen layer and a buffer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.middle = nn.Linear(IN, width), nn.Linear(width, width)
        self.again, self.last = nn.Linear(width, width), nn.Linear(width, OUT)
        self.again.weight = self.middle.weight
        self.frozen = nn.Linear(OUT, OUT)
        self.frozen.requires_grad_(False)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.tanh(self.middle(torch.tanh(self.first(x))))
        found: Tensor = self.frozen(self.last(self.again(hidden)))
        return found


def made(how: dict[str, Any], rank: int, world: int) -> nn.Module:
    """The model as a rank of a site of that kind has it."""
    torch.manual_seed(how.get("seed", 0) + rank * how.get("differs", 0))
    model = Net(7 + (rank if how.get("other_shapes") else 0))
    if how.get("same_base"):
        torch.manual_seed(0)
        model.frozen.load_state_dict(Net(7).frozen.state_dict())
    if how["kind"] == "ddp":
        from torch.nn.parallel import DistributedDataParallel

        return DistributedDataParallel(model)
    if how["kind"] in ("fsdp", "hsdp"):
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        sides = (2, world // 2) if how["kind"] == "hsdp" else (world,)
        mesh = init_device_mesh("cpu", sides)
        for layer in (model.first, model.last, model.frozen):
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
    return model


def batches(rank: int, world: int, count: int, whole: int = 8) -> list[tuple[Tensor, Tensor]]:
    """This rank's part of each: together the same as one process has."""
    generator = torch.Generator().manual_seed(7)
    pairs = [
        (torch.randn(whole, IN, generator=generator), torch.randn(whole, OUT, generator=generator))
        for _ in range(count)
    ]
    return [(x.chunk(world)[rank], y.chunk(world)[rank]) for x, y in pairs]


def values_of(model: nn.Module) -> Tensor:
    """Of all parameters, in one."""
    found = [each.detach() for each in model.parameters()]
    whole = [each.full_tensor() if hasattr(each, "full_tensor") else each for each in found]
    return torch.cat([each.reshape(-1) for each in whole])


def named(values: Tensor) -> str:
    return digest_of(bytes(values.numpy().data.cast("B"))).hex()


def train(how: dict[str, Any], rank: int, world: int) -> dict[str, Any]:
    """One life of a worker, and what came of it."""
    settings = diloco.RunSettings.model_validate(how.get("settings", {}))
    if rank:
        place: Any = nullcontext()
    else:
        joined = {key: how[key] for key in ("name", "state") if key in how}
        place = diloco.join(how["ticket"], **joined) if "ticket" in how else diloco.solo(settings)
    out: dict[str, Any] = {"rank": rank}
    with place as swarm:
        model = made(how, rank, world)
        kind = torch.optim.AdamW if how.get("adam") else torch.optim.SGD
        optimizer = kind(model.parameters(), lr=0.05)
        group = {"group": dist.group.WORLD} if world > 1 or how.get("grouped") else {}
        outer = attach(
            model, optimizer, swarm, tokens_per_step=4, timeout_s=how.get("timeout_s", 30.0), **group
        )
        out["since"] = outer.swarm_step
        out["began"] = named(values_of(model))
        landed: list[int] = []
        outer.on_landing(lambda _: landed.append(outer.step))
        data = batches(rank, world, how.get("batches", 1000) - rank * how.get("fewer", 0))
        while "go" in how and rank == 0 and not Path(how["go"]).exists():
            time.sleep(0.02)
        with outer:
            for x, y in outer.until_finished(data):
                at = [rank, outer.step]
                if how.get("kill") == at or how.get("kill_all") == outer.step:
                    os.kill(os.getpid(), signal.SIGKILL)
                if how.get("stop") == at:
                    outer.stop()
                loss = nn.functional.mse_loss(model(x), y)
                if how.get("spoil") == outer.step:
                    loss = loss * float("nan")
                optimizer.zero_grad()
                loss.backward()
                outer.log(loss=loss.item())
                optimizer.step()
        with outer.outer_parameters() as shown:
            out["outer"] = values_of(shown).tolist()
            with torch.no_grad():
                shown(data[0][0])
        out |= {"live": named(values_of(model)), "landed": landed, "step": outer.step, "tokens": outer.tokens}
        out |= {"finished": outer.finished, "fates": outer.tokens_by_fate, "seed": outer.data_seed}
        if "save" in how:
            outer.save(Path(how["save"]), full=True)
    return out


def rank_of(folder: Path, rank: int, world: int, every: list[dict[str, Any]]) -> None:
    """Train it all, and write it down."""
    torch.set_num_threads(1)
    if world > 1 or any(how.get("grouped") for how in every):
        store = dist.FileStore(str(folder / "store"), world)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=world)
    for how in every:
        try:
            found = train(how, rank, world)
        except (DilocoError, RuntimeError) as error:
            found = {"rank": rank, "error": type(error).__name__, "text": str(error)}
        with (folder / f"rank{rank}.jsonl").open("a") as out:
            out.write(json.dumps(found) + "\n")


def main(folder: Path, world: int, every: list[dict[str, Any]]) -> None:
    if any(how["kind"] in ("fsdp", "hsdp") for how in every):
        pass  # once for all
    children = []
    for rank in range(world):
        if not (child := os.fork()):
            rank_of(folder, rank, world, every)
            return
        children.append(child)
    for child in children:
        os.waitpid(child, 0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3]))
