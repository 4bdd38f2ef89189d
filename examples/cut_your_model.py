"""A model of your own, cut into stages that train in this process; nothing goes over a network.

python cut_your_model.py [STAGES]
"""

import sys
from functools import partial

import torch
from torch import nn

import diloco
from diloco.pipeline.boundary import Boundary
from diloco.pipeline.cutting import clip_share
from diloco.pipeline.in_process import Line, LocalStage
from diloco.pipeline.part import RunningPart

SYMBOLS, WIDTH, SEQUENCES, LENGTH, MICROBATCHES = 8, 32, 16, 12, 4


class Block(nn.Module):
    """Takes and returns [sequences, length, width]."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.GRU(WIDTH, WIDTH, batch_first=True)
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, x):
        return x + self.mix(self.norm(x))[0]


def loss_sum(output, targets):
    """The sum over all tokens, and how many they are."""
    loss = nn.functional.cross_entropy(output.flatten(0, 1), targets.flatten(), reduction="sum")
    return loss, targets.numel()


def batches(steps):
    """Each symbol is the sum of the two before it."""
    for _ in range(steps * MICROBATCHES):
        x = torch.randint(SYMBOLS, (SEQUENCES, LENGTH + 1))
        for at in range(2, LENGTH + 1):
            x[:, at] = (x[:, at - 1] + x[:, at - 2]) % SYMBOLS
        yield x[:, :-1], x[:, 1:]


def stage(number, stages):
    part = diloco.Part(number, stages)  # cuts=(2, 4) would name the first layers of the later stages
    # What builds each layer, so that a process makes its own stage's only.
    layers = [partial(nn.Embedding, SYMBOLS, WIDTH), *[Block] * 4, partial(nn.Linear, WIDTH, SYMBOLS)]
    model = diloco.cut(layers, part)
    takes, gives = part.ends(Boundary((SEQUENCES, LENGTH, WIDTH)))  # what goes up, and back as a gradient
    running = RunningPart(
        part,
        model,
        takes=takes,
        gives=gives,
        loss=loss_sum if part.is_last else None,
        nominal_tokens=MICROBATCHES * SEQUENCES * LENGTH,
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    return LocalStage(running, optimizer, quota=MICROBATCHES, clip_norm=clip_share(layers, part))


if __name__ == "__main__":
    torch.manual_seed(0)
    stages = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    line = Line([stage(number, stages) for number in range(stages)])
    for count, step in enumerate(line.run(batches(60)), 1):
        if count % 10 == 0:
            print(f"inner step {count}: {step.tokens} tokens, loss {step.loss:.4f}")
