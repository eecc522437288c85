"""The memory-saving loss against plain cross-entropy on one sample at a time."""

import pytest
import torch
from torch.nn.functional import cross_entropy, linear
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    Gemma2Config,
    GPT2Config,
    GraniteConfig,
    LlamaConfig,
    MixtralConfig,
    OPTConfig,
    Qwen2MoeConfig,
)

from ogs_env.lm.adapter import attach_adapter
from ogs_env.lm.encoding import Encoded, collate
from ogs_env.lm.gradients import per_sample_gradients
from ogs_env.lm.losses import (
    _CHUNK,
    _LinearCrossEntropy,
    has_plain_head,
    response_losses,
)

SIZES = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "initializer_range": 0.3,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 1,
}
CONFIGS = {
    "llama": LlamaConfig(**SIZES),
    "gpt2": GPT2Config(
        vocab_size=40, n_embd=16, n_layer=2, n_head=2, initializer_range=0.3
    ),
    "gemma2": Gemma2Config(**SIZES, head_dim=8, final_logit_softcapping=1.0),
    # A cap that hardly changes small logits, but changes large ones.
    "gemma2-mild": Gemma2Config(**SIZES, head_dim=8, final_logit_softcapping=30.0),
    "granite": GraniteConfig(**SIZES, logits_scaling=4.0),
    # Layers that get the concatenated tokens of all samples, and routed experts.
    "opt": OPTConfig(
        vocab_size=40,
        hidden_size=16,
        word_embed_proj_dim=16,
        ffn_dim=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        init_std=0.3,
    ),
    "mixtral": MixtralConfig(**SIZES, num_local_experts=4),
    "qwen2-moe": Qwen2MoeConfig(
        **SIZES,
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=8,
        shared_expert_intermediate_size=8,
    ),
    "cohere": CohereConfig(**SIZES, logit_scale=0.25),
}
PLAIN = {"llama", "gpt2", "opt", "mixtral", "qwen2-moe"}


def make_model(name: str):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = AutoModelForCausalLM.from_config(
            CONFIGS[name], attn_implementation="eager"
        )
    return model.eval().requires_grad_(False)


def samples(count: int = 5) -> list[Encoded]:
    generator = torch.Generator().manual_seed(2)
    encoded = []
    for number in range(count):
        length = 4 + 17 * number
        ids = torch.randint(2, 40, (length,), generator=generator).tolist()
        encoded.append(Encoded(ids, 1 + length // 4, False))
    return encoded


def plain_loss(model, sample: Encoded) -> torch.Tensor:
    logits = model(input_ids=torch.tensor([sample.input_ids])).logits[0].float()
    start = sample.response_start
    answer = torch.tensor(sample.input_ids[start:])
    return cross_entropy(logits[start - 1 : -1], answer)


@pytest.mark.parametrize("name", CONFIGS)
def test_losses_and_gradients_equal_plain_single_samples(name):
    model = make_model(name)
    assert has_plain_head(model) == (name in PLAIN)
    proxy = attach_adapter(model, None, rank=2, alpha=4, layers=2, seed=0)
    state = proxy.state()
    generator = torch.Generator().manual_seed(3)
    for layer in proxy.b:
        state[layer].normal_(0, 0.3, generator=generator)
    proxy.load_state(state)
    encoded = samples()
    # Several chunks of positions, one of them short.
    assert sum(s.response_tokens for s in encoded) > 2 * _CHUNK
    layers = {**proxy.a, **proxy.b}
    gradients: dict[str, torch.Tensor] = {}
    losses = per_sample_gradients(
        proxy.model, layers, collate(encoded, 1), lambda n, g: gradients.update({n: g})
    )
    for row, sample in enumerate(encoded):
        loss = plain_loss(proxy.model, sample)
        torch.testing.assert_close(losses[row], loss.detach(), rtol=1e-5, atol=1e-5)
        weights = [layer.weight for layer in layers.values()]
        truth = torch.autograd.grad(loss, weights)
        ours = torch.cat([gradients[n][row].flatten() for n in layers])
        theirs = torch.cat([g.flatten() for g in truth])
        assert (ours - theirs).norm() < 1e-4 * theirs.norm()


@pytest.mark.parametrize("positions", [1, _CHUNK, _CHUNK + 1, 3 * _CHUNK - 5])
@pytest.mark.parametrize("biased", [False, True])
def test_chunked_cross_entropy_equals_autograd(positions, biased):
    generator = torch.Generator().manual_seed(positions)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float32)

    states = normal(positions, 12).requires_grad_()
    weight, bias = 3 * normal(30, 12), normal(30) if biased else None
    targets = torch.randint(30, (positions,), generator=generator)
    outer = normal(positions)
    losses = _LinearCrossEntropy.apply(states, weight, bias, targets)
    expected = cross_entropy(linear(states, weight, bias), targets, reduction="none")
    torch.testing.assert_close(losses, expected, rtol=1e-5, atol=1e-5)
    [ours] = torch.autograd.grad(losses, states, outer)
    [theirs] = torch.autograd.grad(expected, states, outer)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_a_loss_does_not_depend_on_the_batch():
    model = make_model("llama")
    encoded = samples()
    together = response_losses(model, collate(encoded, 1))
    alone = torch.cat([response_losses(model, collate([s], 1)) for s in encoded])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)
    assert together.dtype == torch.float32


def test_no_gradients_are_computed_under_no_grad():
    with torch.no_grad():
        losses = response_losses(make_model("llama"), collate(samples(), 1))
    assert not losses.requires_grad


def test_a_head_that_is_trained_is_not_plain():
    model = make_model("llama")
    model.get_output_embeddings().weight.requires_grad_(True)
    assert not has_plain_head(model)
