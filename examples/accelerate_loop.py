"""A loop of accelerate in a swarm: three lines. Alone: python accelerate_loop.py; in a swarm: … TICKET

Needs diloco[train,hf]."""

import sys

import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import diloco
from diloco.integrations.data_order import seed_data

data = TensorDataset(torch.randint(8, (1024, 16)))
model = nn.Sequential(nn.Embedding(8, 32), nn.Flatten(), nn.Linear(512, 64), nn.GELU(), nn.Linear(64, 8))
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
schedule = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.1, total_iters=10)
loader = DataLoader(data, batch_size=32, shuffle=True)
accelerator = Accelerator(gradient_accumulation_steps=2)
model, optimizer, loader, schedule = accelerator.prepare(model, optimizer, loader, schedule)
settings = diloco.RunSettings.model_validate({"run": {"rounds": 3}, "method": {"sync_every": 10}})


def epochs(batches):
    while True:
        yield from batches


with diloco.join(sys.argv[1]) if len(sys.argv) > 1 else diloco.solo(settings) as swarm:
    seed_data(loader, swarm.data_seed)  # 1: another order on each worker
    outer = diloco.attach(model, optimizer, swarm, tokens_per_step=2 * 32)  # 2: of an update
    outer.schedule(schedule)  # 3: who joins late learns at the rate of the others
    for (x,) in outer.until_finished(epochs(loader)):
        with accelerator.accumulate(model):
            counts = nn.functional.one_hot(x, 8).float().mean(dim=1)
            loss = nn.functional.mse_loss(model(x), counts)
            accelerator.backward(loss)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
    # with outer.outer_parameters(): accelerator.save_model(model, DIR) writes what all workers have
    print(f"round {outer.round}, {outer.step} inner steps, loss {loss.item():.5f}")
