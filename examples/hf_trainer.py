"""The Trainer of transformers in a swarm: one callback. Alone: hf_trainer.py OUT; in a swarm: … OUT TICKET

For a model of yours: LlamaForCausalLM.from_pretrained(DIR), and a dataset of yours. Needs diloco[train,hf].
"""

import sys

import torch
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

import diloco
from diloco.integrations.transformers import DilocoCallback, run_steps

NUMBERS, LENGTH = 64, 16

# Sequences that count on, from somewhere and by some step.
rows = (
    torch.arange(512)[:, None] * 7 + torch.arange(LENGTH) * (1 + torch.arange(512)[:, None] % 3)
) % NUMBERS
dataset = [{"input_ids": row, "labels": row} for row in rows]
model = LlamaForCausalLM(
    LlamaConfig(
        vocab_size=NUMBERS,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
    )
)
settings = diloco.RunSettings.model_validate({"run": {"rounds": 3}, "method": {"sync_every": 10}})
out = sys.argv[1]

with diloco.join(sys.argv[2]) if len(sys.argv) > 2 else diloco.solo(settings) as swarm:
    arguments = TrainingArguments(
        output_dir=out,
        max_steps=run_steps(swarm),  # the run ends it, and its schedule is as long
        per_device_train_batch_size=16,
        learning_rate=3e-3,
        logging_steps=10,
        save_strategy="no",
        report_to=[],
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=dataset, callbacks=[DilocoCallback(swarm)])
    trainer.train()
    trainer.save_model(out)  # the outer parameters, the same ones on all workers
