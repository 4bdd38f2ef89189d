"""Three lines around a loop that already exists. Alone: python wrap_your_loop.py; in a swarm: … TICKET"""

import sys

import torch
from torch import nn

import diloco


class Counter(nn.Module):
    """A model that is not ours: it learns to count how often each of eight symbols occurs."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(8, 32)
        self.encoder = nn.TransformerEncoderLayer(32, nhead=4, dim_feedforward=64, batch_first=True)
        self.head = nn.Linear(32, 8)

    def forward(self, x):
        return self.head(self.encoder(self.embed(x)).mean(dim=1))


model = Counter()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
settings = diloco.RunSettings.model_validate({"run": {"rounds": 20}, "method": {"sync_every": 20}})

with diloco.join(sys.argv[1]) if len(sys.argv) > 1 else diloco.solo(settings) as swarm:  # 1
    outer = diloco.attach(model, optimizer, swarm)  # 2
    while not outer.finished:  # 3
        x = torch.randint(8, (64, 16))
        loss = nn.functional.mse_loss(model(x), nn.functional.one_hot(x, 8).float().mean(dim=1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"round {outer.round}, {outer.step} inner steps, loss {loss.item():.5f}")
