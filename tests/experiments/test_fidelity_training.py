"""The study's fine-tuning against a plain loop."""

import numpy as np
import pytest
import torch
from helpers.plain_training import plain_training, rate_of
from helpers.tiny_model import make_tiny_model
from helpers.words import TEXTS
from hypothesis import given
from hypothesis import strategies as st

from ogs_env.experiments.fidelity.training import Recipe, fine_tune, learning_rates
from ogs_env.lm.adapter import Proxy, attach_adapter, draw_adapter
from ogs_env.lm.encoding import encode
from ogs_env.lm.loading import load_model
from ogs_env.lm.trunk import TrunkStates

RATE = 1e-2


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    return make_tiny_model(tmp_path_factory.mktemp("tiny"))


def make_proxy(folder) -> Proxy:
    model, tokenizer = load_model(str(folder))
    return attach_adapter(model, tokenizer, rank=4, alpha=8, layers=2, seed=0)


@given(steps=st.integers(1, 300), peak=st.floats(1e-6, 1.0))
def test_the_rate_rises_to_its_peak_and_falls(steps, peak):
    rates = learning_rates(Recipe(learning_rate=peak), steps)
    rise = max(1, round(0.15 * steps))
    assert len(rates) == steps
    assert rates[0] == pytest.approx(peak / rise)
    assert rates[rise - 1] == pytest.approx(peak)
    assert min(rates) > 0
    assert max(rates) <= peak
    assert (np.diff(rates[:rise]) > 0).all()
    assert (np.diff(rates[rise - 1 :]) < 0).all()
    expected = [rate_of(step, steps, peak) for step in range(1, steps + 1)]
    assert rates == pytest.approx(expected)


def test_the_rates_of_six_steps():
    # One step up, then the cosine of 0, 30, 60 ... 150 degrees.
    halves = [1, 0.5 + 0.75**0.5 / 2, 0.75, 0.5, 0.25, 0.5 - 0.75**0.5 / 2]
    rates = learning_rates(Recipe(learning_rate=2.0), 6)
    assert rates == pytest.approx([2 * half for half in halves])


@pytest.mark.parametrize(("epochs", "seed"), [(1, 0), (2, 4)])
def test_fine_tuning_is_that_of_a_plain_loop(model_folder, epochs, seed):
    ours, plain = make_proxy(model_folder), make_proxy(model_folder)
    samples = [encode(ours.tokenizer, p, r, 96) for p, r in TEXTS]
    texts = TrunkStates(ours, samples)
    picks = [3, 0, 4, 1]
    recipe = Recipe(epochs=epochs, learning_rate=RATE, batch=3, layers=2)
    # A run does not depend on those before.
    fine_tune(ours, texts, [2, 1], recipe, seed=9)
    fine_tune(ours, texts, picks, recipe, seed)

    order, rng = [], np.random.default_rng([seed, 50])
    for _ in range(epochs):
        order += rng.permutation(picks).tolist()
    draw_adapter(plain, seed)
    before = plain.state()
    plain_training(plain, [samples[row] for row in order], 3, RATE)
    state = ours.state()
    for name, expected in plain.state().items():
        torch.testing.assert_close(state[name], expected, rtol=1e-3, atol=2e-3 * RATE)
        assert (expected - before[name]).abs().max() > RATE / 10


def test_a_run_is_a_function_of_its_seed(model_folder):
    proxy = make_proxy(model_folder)
    texts = TrunkStates(proxy, [encode(proxy.tokenizer, p, r, 96) for p, r in TEXTS])

    def weights(epochs: int, seed: int) -> dict[str, torch.Tensor]:
        fine_tune(proxy, texts, range(5), Recipe(epochs, RATE, batch=2), seed)
        return proxy.state()

    first, repeated, other = weights(2, 1), weights(2, 1), weights(2, 2)
    for name, expected in first.items():
        # The frozen layers' states are rounded as the batch that made them.
        torch.testing.assert_close(repeated[name], expected, rtol=0, atol=1e-3 * RATE)
        assert (other[name] - expected).abs().max() > RATE / 10


def test_every_epoch_has_an_order_of_its_own(model_folder):
    proxy = make_proxy(model_folder)
    texts = TrunkStates(proxy, [encode(proxy.tokenizer, p, r, 96) for p, r in TEXTS])

    def weights(picks: list[int], epochs: int) -> dict[str, torch.Tensor]:
        fine_tune(proxy, texts, picks, Recipe(epochs, RATE, batch=2), seed=3)
        return proxy.state()

    order = np.random.default_rng([3, 50]).permutation(5).tolist()
    as_given, in_order = weights(list(range(5)), 1), weights(order, 1)
    assert any((in_order[n] - w).abs().max() > RATE / 10 for n, w in as_given.items())
