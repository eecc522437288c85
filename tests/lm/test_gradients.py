"""Gradients from hooks against plain autograd, one sample at a time."""

import pytest
import torch
from helpers.words import TEXTS
from transformers import (
    AutoModelForCausalLM,
    JambaConfig,
    MambaConfig,
    PreTrainedConfig,
    RwkvConfig,
)

from ogs_env.errors import InputError
from ogs_env.lm.adapter import Proxy, attach_adapter
from ogs_env.lm.encoding import Encoded, collate, encode
from ogs_env.lm.gradients import per_sample_gradients, shared_trunk
from ogs_env.lm.loading import load_model
from ogs_env.lm.losses import response_losses


@pytest.fixture(scope="module")
def proxy(tiny_model_folder) -> Proxy:
    model, tokenizer = load_model(str(tiny_model_folder))
    proxy = attach_adapter(model, tokenizer, rank=4, alpha=8, layers=2, seed=3)
    state = proxy.state()
    generator = torch.Generator().manual_seed(5)
    for name in proxy.b:  # a used adapter: with B = 0 the gradient of A is zero
        state[name].normal_(0, 0.3, generator=generator)
    proxy.load_state(state)
    return proxy


def batch_of(proxy: Proxy, texts):
    encoded = [encode(proxy.tokenizer, p, r, 96) for p, r in texts]
    return collate(encoded, proxy.tokenizer.pad_token_id)


def hooked(proxy: Proxy, batch):
    gradients = {}
    layers = {**proxy.a, **proxy.b}
    losses = per_sample_gradients(
        proxy.model, layers, batch, lambda name, g: gradients.update({name: g.clone()})
    )
    return losses, gradients


def looped(proxy: Proxy, texts):
    layers = {**proxy.a, **proxy.b}
    weights = [layer.weight for layer in layers.values()]
    losses, gradients = [], {name: [] for name in layers}
    for text in texts:
        loss = response_losses(proxy.model, batch_of(proxy, [text]))[0]
        for name, g in zip(layers, torch.autograd.grad(loss, weights), strict=True):
            gradients[name].append(g)
        losses.append(loss.detach())
    stacked = {name: torch.stack(parts) for name, parts in gradients.items()}
    return torch.stack(losses), stacked


def relative_error(gradients, expected):
    flat = torch.cat([gradients[name].flatten(1) for name in expected], 1)
    truth = torch.cat([expected[name].flatten(1) for name in expected], 1)
    return ((flat - truth).norm(dim=1) / truth.norm(dim=1)).max().item()


@pytest.mark.parametrize("threads", [1, 2])
def test_hooks_equal_a_loop_over_single_samples(proxy, threads):
    torch.set_num_threads(threads)
    try:
        losses, gradients = hooked(proxy, batch_of(proxy, TEXTS))
    finally:
        torch.set_num_threads(1)
    expected_losses, expected = looped(proxy, TEXTS)
    torch.testing.assert_close(losses, expected_losses, rtol=1e-4, atol=1e-6)
    assert relative_error(gradients, expected) < 1e-4


def test_a_sample_does_not_depend_on_its_batch(proxy):
    _, together = hooked(proxy, batch_of(proxy, TEXTS))
    _, pair = hooked(proxy, batch_of(proxy, [TEXTS[3], TEXTS[1]]))
    ours = {name: g[[1]] for name, g in together.items()}
    theirs = {name: g[[1]] for name, g in pair.items()}
    assert relative_error(theirs, ours) < 1e-4


def test_hooks_and_gradients_are_removed(proxy):
    hooked(proxy, batch_of(proxy, TEXTS))
    for layer in [*proxy.a.values(), *proxy.b.values()]:
        assert layer.weight.grad is None
        assert not layer._forward_hooks


def test_a_fresh_adapter_has_no_gradient_in_a(tiny_model_folder):
    model, tokenizer = load_model(str(tiny_model_folder))
    fresh = attach_adapter(model, tokenizer, rank=4, alpha=8, layers=1, seed=3)
    _, gradients = hooked(fresh, batch_of(fresh, TEXTS))
    assert all(gradients[name].abs().max() == 0 for name in fresh.a)
    assert any(gradients[name].abs().max() > 0 for name in fresh.b)


def test_a_shared_trunk_does_not_change_gradients(proxy):
    batch = batch_of(proxy, TEXTS)
    _, expected = hooked(proxy, batch)
    with shared_trunk(proxy.trunk):
        hooked(proxy, batch)
        _, repeated = hooked(proxy, batch)
    assert all(torch.equal(repeated[name], expected[name]) for name in expected)
    other = batch_of(proxy, TEXTS[::-1])
    _, after = hooked(proxy, other)
    reversed_rows = {name: g.flip(0) for name, g in after.items()}
    assert relative_error(reversed_rows, expected) < 1e-4


def test_the_adapter_is_on_the_last_layers_alone(proxy):
    assert len(proxy.trunk) == 1
    assert all(name.startswith("model.layers.") for name in proxy.b)
    assert {name.split(".")[2] for name in proxy.b} == {"1", "2"}


def test_the_adapter_depends_on_the_seed_alone(tiny_model_folder):
    def weights(seed):
        torch.rand(3)  # the global generator must not matter
        model, tokenizer = load_model(str(tiny_model_folder))
        return attach_adapter(
            model, tokenizer, rank=4, alpha=8, layers=2, seed=seed
        ).state()

    first, second, other = weights(1), weights(1), weights(2)
    assert all(torch.equal(first[name], second[name]) for name in first)
    name = next(n for n in first if n.endswith("lora_A"))
    assert not torch.equal(first[name], other[name])


SIZES = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2}
SIZES |= {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
# A layer of each kind: Mamba with experts, attention without.
JAMBA = JambaConfig(
    **SIZES,
    num_attention_heads=2,
    num_key_value_heads=2,
    intermediate_size=24,
    num_experts=2,
    mamba_d_state=4,
    attn_layer_period=2,
    attn_layer_offset=1,
    expert_layer_period=2,
    expert_layer_offset=1,
)


@pytest.mark.parametrize(
    ("config", "line"),
    [
        (MambaConfig(**SIZES, state_size=4), "MambaForCausalLM: cannot carry a LoRA"),
        (RwkvConfig(**SIZES), "RwkvForCausalLM: padding changes its output"),
        (JAMBA, "JambaForCausalLM: the layer .*dt_proj.* takes no part in a pass"),
    ],
    ids=["mamba", "rwkv", "jamba"],
)
def test_models_without_exact_gradients_are_refused(
    config: PreTrainedConfig, line: str
):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config).eval()
    batch = collate([Encoded([3, 4, 5], 1, False), Encoded([6, 7], 1, False)], 1)
    with pytest.raises(InputError, match=line) as caught:
        hooked(attach_adapter(model, None, rank=2, alpha=4, layers=2, seed=0), batch)
    assert "\n" not in str(caught.value)


class Mixture(torch.nn.Module):
    """Routes each token to one of two linear layers, whose parent is called `name`."""

    def __init__(self, width: int, name: str) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            layers = [torch.nn.Linear(width, width) for _ in range(2)]
        self.add_module(name, torch.nn.ModuleList(layers))

    def forward(self, states):
        flat = states.flatten(0, 1)
        first = flat[:, 0] > 0
        result = flat.clone()
        [layers] = self.children()
        for expert, chosen in zip(layers, (first, ~first), strict=True):
            result[chosen] = expert(flat[chosen])
        return result.view_as(states)


def test_experts_carry_no_adapter(tiny_model_folder):
    model, tokenizer = load_model(str(tiny_model_folder))
    model.model.layers[-1].mlp = Mixture(32, "experts")
    proxy = attach_adapter(model, tokenizer, rank=4, alpha=8, layers=1, seed=3)
    assert len(proxy.b) == 4
    assert all(".self_attn." in name for name in proxy.b)
    _, gradients = hooked(proxy, batch_of(proxy, TEXTS))
    _, expected = looped(proxy, TEXTS)
    ours = {name: gradients[name] for name in proxy.b}
    assert relative_error(ours, {name: expected[name] for name in proxy.b}) < 1e-4


def test_a_layer_that_gets_only_some_tokens_is_refused(tiny_model_folder):
    model, tokenizer = load_model(str(tiny_model_folder))
    model.model.layers[-1].mlp = Mixture(32, "parts")
    proxy = attach_adapter(model, tokenizer, rank=4, alpha=8, layers=1, seed=3)
    line = r"LlamaForCausalLM: the layer .*\.parts\.0\..* does not process each token"
    with pytest.raises(InputError, match=line):
        hooked(proxy, batch_of(proxy, TEXTS))
