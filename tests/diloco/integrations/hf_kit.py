"""A small model of transformers on the disk, with a tokenizer of bytes; nothing is fetched for it."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

TEXT = "".join(f"{at} and {at + 1} are {2 * at + 1}. " for at in range(120))


def tiny(vocabulary: int, seed: int = 0) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    return LlamaForCausalLM(config(vocabulary))


def config(vocabulary: int) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=64,
        pad_token_id=None,
        bos_token_id=None,
        eos_token_id=0,
    )


def tokenizer(*more: str) -> PreTrainedTokenizerFast:
    """Of bytes, an end of text, and ``more``."""
    known = ["<|end|>", *sorted(pre_tokenizers.ByteLevel.alphabet()), *more]
    made = Tokenizer(models.BPE({each: at for at, each in enumerate(known)}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<|end|>")


def model_in(folder: Path, *, weights: bool = True) -> Path:
    """The folder, with all that a model has, or all but its weights."""
    folder.mkdir(exist_ok=True)
    words = tokenizer()
    words.save_pretrained(folder)
    if weights:
        tiny(len(words)).save_pretrained(folder)
    else:
        config(len(words)).save_pretrained(folder)
    return folder


def text_in(path: Path) -> Path:
    path.write_text(TEXT)
    return path
