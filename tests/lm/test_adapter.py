"""Adapters on causal language models."""

import torch
from helpers.tiny_model import make_tiny_model
from transformers import (
    AutoTokenizer,
    PreTrainedTokenizerFast,
)

from ogs_env.lm.adapter import attach_adapter
from ogs_env.lm.encoding import encode
from ogs_env.lm.loading import load_model
from ogs_env.lm.losses import response_losses


def test_a_fresh_adapter_leaves_the_model_as_it_is(tiny_model_folder):
    ids = torch.tensor([[3, 5, 7, 11]])
    model, tokenizer = load_model(str(tiny_model_folder))
    with torch.no_grad():
        before = model(ids).logits
        proxy = attach_adapter(model, tokenizer, rank=4, alpha=8, layers=2, seed=0)
        assert torch.equal(proxy.model(ids).logits, before)
    trainable = {n for n, p in proxy.model.named_parameters() if p.requires_grad}
    assert trainable
    assert all("lora_" in name for name in trainable)
    assert len(trainable) == len(proxy.a) + len(proxy.b) == 2 * 2 * 7


def test_more_layers_than_there_are_is_all_of_them(tiny_model_folder):
    model, tokenizer = load_model(str(tiny_model_folder))
    proxy = attach_adapter(model, tokenizer, rank=2, alpha=4, layers=99, seed=0)
    assert proxy.trunk == []
    assert len(proxy.b) == 3 * 7


def test_a_model_without_padding_and_end_tokens_is_used_without(tmp_path):
    folder = make_tiny_model(tmp_path / "model", chat=False)
    backend = AutoTokenizer.from_pretrained(folder).backend_tokenizer
    PreTrainedTokenizerFast(tokenizer_object=backend).save_pretrained(folder)
    model, tokenizer = load_model(str(folder))
    assert tokenizer.eos_token is None
    assert tokenizer.pad_token is None
    proxy = attach_adapter(model, tokenizer, rank=2, alpha=4, layers=1, seed=0)
    samples = [encode(tokenizer, "Why?", answer, 64) for answer in ("So.", "Yes, so.")]
    assert samples[0].response_tokens == len("So.")
    with torch.no_grad():
        together = response_losses(proxy.model, proxy.batch(samples))
        alone = [response_losses(proxy.model, proxy.batch([s])) for s in samples]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-5)
