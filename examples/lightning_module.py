"""A LightningModule in a swarm: one callback. Alone: python lightning_module.py; in a swarm: … TICKET

Needs diloco[train,lightning]."""

import sys

import lightning.pytorch as pl
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import diloco
from diloco.integrations.lightning import DilocoCallback


class Counter(pl.LightningModule):
    """It learns to count how often each of eight symbols occurs."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(8, 32)
        self.layers = nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 8))

    def training_step(self, batch, batch_idx):
        (x,) = batch
        counts = nn.functional.one_hot(x, 8).float().mean(dim=1)
        return nn.functional.mse_loss(self.layers(self.embed(x).mean(dim=1)), counts)

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=3e-3)
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.1, total_iters=10)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


data = TensorDataset(torch.randint(8, (1024, 16)))
settings = diloco.RunSettings.model_validate({"run": {"rounds": 3}, "method": {"sync_every": 10}})

with diloco.join(sys.argv[1]) if len(sys.argv) > 1 else diloco.solo(settings) as swarm:
    callback = DilocoCallback(swarm)
    trainer = pl.Trainer(
        max_epochs=-1,  # the run ends it
        accelerator="auto",
        callbacks=[callback],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
    )
    module = Counter()
    trainer.fit(module, DataLoader(data, batch_size=32, shuffle=True))
    print(f"round {callback.outer.round}, {callback.outer.step} inner steps, loss {callback.outer.loss:.5f}")
