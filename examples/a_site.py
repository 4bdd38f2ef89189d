"""A site: all ranks of torch.distributed on this machine are one worker of the swarm, here by `fully_shard`.

Alone: torchrun --nproc-per-node 2 a_site.py; in a swarm: ... a_site.py TICKET. DDP is the same loop.
"""

import sys
from contextlib import nullcontext

import torch
from torch import distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard

import diloco

SETTINGS = {"run": {"rounds": 10}, "method": {"sync_every": 10}}


def counting(generator):
    """Batches without end: sequences of symbols, and how often each of eight occurs."""
    while True:
        x = torch.randint(8, (32, 16), generator=generator)
        yield x, nn.functional.one_hot(x, 8).float().mean(dim=1)


dist.init_process_group("gloo")  # nccl, and cuda.set_device, where there are GPUs
rank = dist.get_rank()
torch.manual_seed(0)
model = nn.Sequential(nn.EmbeddingBag(8, 32), nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 8))
for layer in (model[1], model[3]):
    fully_shard(layer)
fully_shard(model)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

if rank:
    place = nullcontext()  # rank 0 speaks for the site
elif len(sys.argv) > 1:
    place = diloco.join(sys.argv[1])
else:
    place = diloco.solo(diloco.RunSettings.model_validate(SETTINGS))

with place as swarm:
    outer = diloco.attach(model, optimizer, swarm, group=dist.group.WORLD, tokens_per_step=32 * 16)
    data = counting(torch.Generator().manual_seed(outer.data_seed))  # each rank draws its own
    with outer, outer.notice():
        for x, y in outer.until_finished(data):
            loss = nn.functional.mse_loss(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            outer.log(loss=loss.item())
            optimizer.step()
    if rank == 0:
        print(f"round {outer.round}, {outer.step} inner steps, {outer.tokens} tokens, loss {outer.loss:.5f}")
dist.destroy_process_group()
