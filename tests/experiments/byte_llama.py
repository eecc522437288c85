"""A tiny randomly initialised Llama, and samples for it."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from ogs_env.data.samples import Sample


def save_tiny_model(folder: Path) -> Path:
    """Save a model of 30,000 weights that reads bytes; return its folder."""
    letters = ["<pad>", "<eos>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE({c: i for i, c in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>"
    ).save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(letters),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=512,
        initializer_range=0.3,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def colours(start: int, count: int) -> list[Sample]:
    """Return samples of different lengths that can be learned by heart."""
    names = ["red", "green", "blue", "dark violet"]
    return [
        Sample(f"What colour is {'very ' * (i % 5)}{i}?", names[i % 4], "colours")
        for i in range(start, start + count)
    ]


def sums(count: int) -> list[Sample]:
    """Return samples whose responses end as GSM8K's do."""
    return [
        Sample(f"{i} and {i}?", f"It is {2 * i}.\n#### {2 * i}") for i in range(count)
    ]
