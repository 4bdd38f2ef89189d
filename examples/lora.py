"""LoRA in a swarm: only adapters are exchanged. Alone: python lora.py OUT; in a swarm: … OUT TICKET

For a model of yours: AutoModelForCausalLM.from_pretrained(DIR) as the base, which each worker has on its disk
and nobody fetches. Without a script: diloco join @ticket --recipe hf:DIR --data FILE. Needs diloco[train,hf].
"""

import sys

import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

import diloco
from diloco.integrations.peft import save_adapters

NUMBERS, LENGTH = 64, 16

torch.manual_seed(0)  # all workers have the same base
base = LlamaForCausalLM(
    LlamaConfig(
        vocab_size=NUMBERS,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
    )
)
model = get_peft_model(base, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear"))
optimizer = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], lr=3e-3)
settings = diloco.RunSettings.model_validate({"run": {"rounds": 3}, "method": {"sync_every": 10}})
out = sys.argv[1]

with diloco.join(sys.argv[2]) if len(sys.argv) > 2 else diloco.solo(settings) as swarm:
    draw = torch.Generator().manual_seed(swarm.data_seed)
    with diloco.attach(model, optimizer, swarm, tokens_per_step=16 * LENGTH) as outer:
        while not outer.finished:
            ids = (torch.randint(NUMBERS, (16, 1), generator=draw) + torch.arange(LENGTH)) % NUMBERS
            loss = model(input_ids=ids, labels=ids).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            outer.log(loss=loss.item())
        save_adapters(outer, out)
    of = sum(each.numel() for each in model.parameters())
    print(f"round {outer.round}, loss {outer.loss:.3f}, exchanged {outer.num_parameters:,} of {of:,} values")
