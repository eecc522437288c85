"""Optimizer steps and losses in several passes against a single pass."""

import pytest
import torch
from helpers.words import TEXTS as SAMPLES
from torch.nn.functional import cross_entropy

from ogs_env.lm import passes
from ogs_env.lm.adapter import Proxy, attach_adapter, draw_adapter
from ogs_env.lm.encoding import Encoded, encode
from ogs_env.lm.loading import load_model
from ogs_env.lm.training import AdapterTraining
from ogs_env.lm.trunk import TrunkStates

TEXTS = [*SAMPLES, ("red or blue?", "blue, or rather green")]
RATE = 2e-2


def make_proxy(folder, layers: int) -> Proxy:
    model, tokenizer = load_model(str(folder))
    proxy = attach_adapter(model, tokenizer, rank=4, alpha=8, layers=layers, seed=3)
    generator = torch.Generator().manual_seed(5)
    state = proxy.state()
    for name in proxy.b:
        state[name].normal_(0, 0.1, generator=generator)
    proxy.load_state(state)
    return proxy


def encode_all(proxy: Proxy) -> list[Encoded]:
    return [encode(proxy.tokenizer, p, r, 96) for p, r in TEXTS]


def weights_of(proxy: Proxy) -> list[torch.Tensor]:
    return [layer.weight for layer in [*proxy.a.values(), *proxy.b.values()]]


def token_losses(proxy: Proxy, sample: Encoded) -> torch.Tensor:
    ids = torch.tensor([sample.input_ids])
    logits = proxy.model(input_ids=ids).logits[0]
    start = sample.response_start
    return cross_entropy(logits[start - 1 : -1], ids[0, start:], reduction="none")


def plain_step(proxy: Proxy, batch: list[Encoded], optimizer) -> float:
    """One step on the mean over the batch's tokens; returns the gradient's norm."""
    padded = proxy.batch(batch)
    labels = padded.pop("labels")
    logits = proxy.model(**padded).logits[:, :-1]
    loss = cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten())
    optimizer.zero_grad()
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(weights_of(proxy), 1.0)
    optimizer.step()
    return float(norm)


@pytest.mark.parametrize("pass_tokens", [1, 150, 10_000])
@pytest.mark.parametrize("layers", [1, 3])
def test_a_step_equals_that_of_a_single_pass(
    tiny_model_folder, monkeypatch, layers, pass_tokens
):
    monkeypatch.setattr(passes, "PASS_TOKENS", pass_tokens)
    ours, plain = (make_proxy(tiny_model_folder, layers) for _ in range(2))
    before = plain.state()
    samples = encode_all(ours)
    texts = TrunkStates(ours, samples)
    training = AdapterTraining(ours)
    optimizer = torch.optim.AdamW(weights_of(plain), RATE, weight_decay=0.0)
    norms = []
    # A row may be twice in a batch that spans two epochs.
    for rows in ([0, 1, 2, 3], [5, 4], [1, 3, 1], [2]):
        loss = training.step(texts, rows, RATE)
        batch = [samples[row] for row in rows]
        with torch.no_grad():
            expected_loss = torch.cat([token_losses(plain, s) for s in batch]).mean()
        assert loss == pytest.approx(expected_loss.item(), rel=1e-4)
        norms.append(plain_step(plain, batch, optimizer))
    assert max(norms) > 1  # some were clipped
    states, expected = ours.state(), plain.state()
    for name, layer in {**plain.a, **plain.b}.items():
        second_moment = optimizer.state[layer.weight]["exp_avg_sq"] / (1 - 0.999**4)
        torch.testing.assert_close(
            training.scales()[name],
            second_moment.sqrt().flatten(),
            rtol=1e-3,
            atol=1e-6,
        )
    for name, weight in expected.items():
        torch.testing.assert_close(states[name], weight, rtol=1e-3, atol=1e-3 * RATE)
        assert (weight - before[name]).abs().max() > RATE / 2
    assert all(weight.grad is None for weight in weights_of(ours))


@pytest.mark.parametrize("pass_tokens", [1, 150, 10_000])
def test_losses_are_in_the_order_of_the_rows(
    tiny_model_folder, monkeypatch, pass_tokens
):
    monkeypatch.setattr(passes, "PASS_TOKENS", pass_tokens)
    proxy = make_proxy(tiny_model_folder, 2)
    samples = encode_all(proxy)
    with torch.no_grad():
        expected = [float(token_losses(proxy, s).mean()) for s in samples]
    texts = TrunkStates(proxy, samples)
    for rows in ([3, 1, 4, 0], [5, 0, 1, 2, 3, 4], [2, 2]):
        losses = passes.measure(texts, rows)
        assert losses == pytest.approx([expected[row] for row in rows], rel=1e-5)
    assert all(weight.grad is None for weight in weights_of(proxy))


@pytest.mark.parametrize("pass_tokens", [1, 150, 10_000])
def test_gradients_are_added_by_share(tiny_model_folder, monkeypatch, pass_tokens):
    monkeypatch.setattr(passes, "PASS_TOKENS", pass_tokens)
    proxy = make_proxy(tiny_model_folder, 2)
    samples = encode_all(proxy)
    shares = {3: 0.5, 1: -2.0, 4: 0.25}
    means = {row: token_losses(proxy, samples[row]).mean() for row in shares}
    whole = sum(share * means[row] for row, share in shares.items())
    expected = torch.autograd.grad(whole, weights_of(proxy))
    for weight in weights_of(proxy):
        weight.grad = torch.ones_like(weight)
    losses = passes.add_gradients(TrunkStates(proxy, samples), list(shares), shares)
    assert losses == pytest.approx([m.item() for m in means.values()], rel=1e-5)
    for weight, gradient in zip(weights_of(proxy), expected, strict=True):
        torch.testing.assert_close(weight.grad, gradient + 1, rtol=1e-4, atol=1e-5)


def test_an_adapter_is_drawn_from_its_seed(tiny_model_folder):
    proxy = make_proxy(tiny_model_folder, 2)
    states = []
    for seed in (7, 8, 7):
        torch.rand(3)  # the global generator must not matter
        draw_adapter(proxy, seed)
        states.append(proxy.state())
    first, other, repeated = states
    assert all(torch.equal(first[name], repeated[name]) for name in first)
    for name, layer in proxy.a.items():
        bound = layer.weight.shape[1] ** -0.5
        assert not torch.equal(first[name], other[name])
        assert 0.8 * bound < first[name].abs().max() <= bound
    assert all(first[name].abs().max() == 0 for name in proxy.b)
    model, tokenizer = load_model(str(tiny_model_folder))
    fresh = attach_adapter(model, tokenizer, rank=4, alpha=8, layers=2, seed=7)
    assert all(torch.equal(first[name], w) for name, w in fresh.state().items())
