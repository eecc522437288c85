"""Passes from cached trunk states against passes through the whole model."""

import itertools

import pytest
import torch
from helpers.words import TEXTS
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy

from ogs_env.lm.adapter import Proxy, attach_adapter
from ogs_env.lm.encoding import Encoded, encode
from ogs_env.lm.gradients import per_sample_gradients
from ogs_env.lm.loading import load_model
from ogs_env.lm.losses import response_losses
from ogs_env.lm.trunk import TrunkStates, length_batches

# Rows recur in batches with other padding than in their first pass; some batches mix
# cached and new rows.
BATCHES = [[1], [1, 3], [4, 0], [3, 1, 0, 2], [2], [4, 2, 3, 1, 0], [1, 1]]


@pytest.fixture(params=[1, 2, 9])
def proxy(request, tiny_model_folder) -> Proxy:
    """The tiny model with an adapter on its last layers, or on all three."""
    model, tokenizer = load_model(str(tiny_model_folder))
    layers = request.param
    proxy = attach_adapter(model, tokenizer, rank=4, alpha=8, layers=layers, seed=3)
    assert len(proxy.trunk) == max(0, 3 - layers)
    set_weights(proxy, 5)
    return proxy


@pytest.fixture
def samples(proxy) -> list[Encoded]:
    return [encode(proxy.tokenizer, p, r, 96) for p, r in TEXTS]


def set_weights(proxy: Proxy, seed: int) -> None:
    """Set all of the adapter's weights: with B = 0 the gradient of A is zero."""
    generator = torch.Generator().manual_seed(seed)
    state = proxy.state()
    for name in state:
        state[name].normal_(0, 0.3, generator=generator)
    proxy.load_state(state)


def plain_loss(proxy: Proxy, sample: Encoded) -> torch.Tensor:
    ids = torch.tensor([sample.input_ids])
    logits = proxy.model(input_ids=ids).logits[0]
    start = sample.response_start
    return cross_entropy(logits[start - 1 : -1], ids[0, start:])


def plain_gradients(proxy: Proxy, samples) -> dict[str, torch.Tensor]:
    layers = {**proxy.a, **proxy.b}
    weights = [layer.weight for layer in layers.values()]
    gradients = [torch.autograd.grad(plain_loss(proxy, s), weights) for s in samples]
    return {
        name: torch.stack(parts)
        for name, parts in zip(layers, zip(*gradients, strict=True), strict=True)
    }


def cached_gradients(proxy: Proxy, texts: TrunkStates, rows):
    gradients: dict[str, torch.Tensor] = {}
    losses = texts.gradients(
        rows,
        {**proxy.a, **proxy.b},
        lambda name, g: gradients.update({name: g.clone()}),
    )
    return losses, gradients


def relative_error(gradients, expected) -> float:
    assert gradients.keys() == expected.keys()
    flat = torch.cat([gradients[name].flatten(1) for name in expected], 1)
    truth = torch.cat([expected[name].flatten(1) for name in expected], 1)
    return float(((flat - truth).norm(dim=1) / truth.norm(dim=1)).max())


def test_losses_are_those_of_single_samples(proxy, samples):
    texts = TrunkStates(proxy, samples)
    with torch.no_grad():
        for seed in (5, 6):  # the adapter changes while the states are cached
            set_weights(proxy, seed)
            for rows in BATCHES:
                losses = texts.losses(rows)
                expected = [plain_loss(proxy, samples[row]) for row in rows]
                torch.testing.assert_close(
                    losses, torch.stack(expected), rtol=1e-4, atol=1e-6
                )


def test_losses_can_be_differentiated(proxy, samples):
    texts = TrunkStates(proxy, samples)
    texts.losses([0, 1])  # caches some of the rows
    rows = [3, 1, 0]
    texts.losses(rows).sum().backward()
    summed = {
        name: g.sum(0, keepdim=True)
        for name, g in plain_gradients(proxy, [samples[row] for row in rows]).items()
    }
    gradients = {
        name: layer.weight.grad[None] for name, layer in {**proxy.a, **proxy.b}.items()
    }
    assert relative_error(gradients, summed) < 1e-4


def test_gradients_are_those_of_single_samples(proxy, samples):
    texts = TrunkStates(proxy, samples)
    for seed in (5, 6):
        set_weights(proxy, seed)
        for rows in BATCHES:
            losses, gradients = cached_gradients(proxy, texts, rows)
            own = [samples[row] for row in rows]
            assert relative_error(gradients, plain_gradients(proxy, own)) < 1e-4
            with torch.no_grad():
                expected = response_losses(proxy.model, proxy.batch(own))
            torch.testing.assert_close(losses, expected, rtol=1e-4, atol=1e-6)


def test_a_second_pass_does_not_run_the_trunk(proxy, samples):
    texts = TrunkStates(proxy, samples)
    rows = [0, 2, 3]
    with torch.no_grad():
        before = texts.losses(rows)
        for layer in proxy.trunk:
            for weight in layer.parameters():
                weight.mul_(-1)
        torch.testing.assert_close(texts.losses(rows), before, rtol=0, atol=0)
        plain = torch.stack([plain_loss(proxy, samples[row]) for row in rows])
    # A model whose adapter is on all layers has no trunk.
    assert torch.allclose(plain, before, rtol=1e-3) == (not proxy.trunk)


def test_the_model_is_restored_after_an_error(proxy, samples):
    texts = TrunkStates(proxy, samples)
    own = [samples[row] for row in (0, 3)]
    expected = plain_gradients(proxy, own)

    def fail(name: str, gradients: torch.Tensor) -> None:
        raise ArithmeticError(name)

    for _ in range(2):  # first with new states, then with cached ones
        with pytest.raises(ArithmeticError):
            texts.gradients([0, 3], proxy.b, fail)
    restored_gradients: dict[str, torch.Tensor] = {}
    per_sample_gradients(
        proxy.model,
        {**proxy.a, **proxy.b},
        proxy.batch(own),
        lambda name, g: restored_gradients.update({name: g.clone()}),
    )
    assert relative_error(restored_gradients, expected) < 1e-4


def test_tokens_are_counted(proxy, samples):
    texts = TrunkStates(proxy, samples)
    counts = [texts.tokens(row) for row in range(len(samples))]
    assert counts == [len(sample.input_ids) for sample in samples]
    assert len(set(counts)) == len(counts)


@given(data=st.data(), most=st.integers(1, 200))
def test_batches_are_of_similar_length(data, most):
    lengths = data.draw(
        st.dictionaries(st.integers(0, 99), st.integers(1, 250), min_size=1)
    )
    rows = data.draw(st.lists(st.sampled_from(sorted(lengths)), unique=True))
    batches = length_batches(lengths, rows, most)
    assert sorted(row for batch in batches for row in batch) == sorted(rows)
    widths = [[lengths[row] for row in batch] for batch in batches]
    for width in widths:
        assert len(width) == 1 or len(width) * max(width) <= most
    for width, following in itertools.pairwise(widths):
        assert max(width) <= min(following)
        # The next row did not fit.
        assert (len(width) + 1) * min(following) > most
