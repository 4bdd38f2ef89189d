"""Rounds and losses in TensorBoard, Weights & Biases or trackio, by `on_event`. Alone; in a swarm: ... TICKET

python log_elsewhere.py tensorboard|wandb|trackio [TICKET]
"""

import importlib
import sys

import torch
from torch import nn

import diloco
from peers.protocol.events import CoordinatorLost, ProgressLost, RoundCommitted


def tracker(name):
    """What writes numbers of a step, and what ends it."""
    if name == "tensorboard":
        from torch.utils.tensorboard import SummaryWriter

        board = SummaryWriter("runs/diloco")
        return lambda numbers, step: [board.add_scalar(*each, step) for each in numbers.items()], board.close
    module = importlib.import_module(name)  # wandb and trackio are called alike
    module.init(project="diloco", config={"sync_every": settings.method.resolved().sync_every})
    return lambda numbers, step: module.log(numbers, step=step), module.finish


settings = diloco.RunSettings.model_validate({"run": {"rounds": 5}, "method": {"sync_every": 20}})
model = nn.Linear(8, 1)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
write, end = tracker(sys.argv[1])
news = {}  # of the newest round; told between two inner steps, on this thread


def heard(event):
    match event:
        case RoundCommitted():
            news["round/number"], news["round/workers"] = event.record.index, len(event.record.members)
            news["round/seconds"] = event.seconds
        case ProgressLost() | CoordinatorLost():
            print(event)


with diloco.join(sys.argv[2]) if len(sys.argv) > 2 else diloco.solo(settings) as swarm:
    outer = diloco.attach(model, optimizer, swarm, tokens_per_step=64, on_event=heard)
    while not outer.finished:
        x = torch.randn(64, 8)
        loss = nn.functional.mse_loss(model(x), x.sum(1, keepdim=True))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if news:
            news |= {"loss": loss.item(), "tokens_per_second": outer.tokens_per_second}
            news |= {"megabytes_sent": swarm.bytes_sent / 1e6, "waited_seconds": outer.waited_s}
            write(dict(news), outer.step)
            news.clear()
end()
