"""Gradients of an adapter, from a pass without its weights."""

import pytest
import torch

from ogs_env.lm.adapter import Proxy, attach_adapter
from ogs_env.lm.encoding import encode
from ogs_env.lm.gradients import (
    adapter_gradients,
    b_gradients,
    per_sample_gradients,
    shared_trunk,
)
from ogs_env.lm.loading import load_model

TEXTS = [("Name a colour.", "red"), ("Why is the sky blue?", "Light is scattered.")]


def proxy_of(folder, precision: torch.dtype, layers: int = 2) -> Proxy:
    model, tokenizer = load_model(str(folder), precision)
    return attach_adapter(model, tokenizer, rank=4, alpha=8, layers=layers, seed=3)


def batch_of(proxy: Proxy):
    return proxy.batch([encode(proxy.tokenizer, p, r, 96) for p, r in TEXTS])


def gradients(run, *arguments):
    found = {}
    losses = run(*arguments, lambda name, values: found.update({name: values.clone()}))
    return losses, found


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layers", [2, 3])
def test_they_equal_those_of_a_pass_with_the_adapter(
    tiny_model_folder, precision, layers
):
    proxy = proxy_of(tiny_model_folder, precision, layers)
    batch = batch_of(proxy)
    losses, found = gradients(b_gradients, proxy, batch)
    expected = gradients(per_sample_gradients, proxy.model, proxy.b, batch)
    torch.testing.assert_close(losses, expected[0])
    assert list(found) == list(expected[1])
    for name, values in found.items():
        assert values.dtype == torch.float32
        torch.testing.assert_close(values, expected[1][name])
        assert values.any()


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_a_trained_adapter_has_those_of_autograd(tiny_model_folder, precision):
    proxy = proxy_of(tiny_model_folder, precision)
    batch = batch_of(proxy)
    generator = torch.Generator().manual_seed(0)
    for layer in proxy.b.values():
        layer.weight.data.normal_(0, 0.02, generator=generator)
    losses, found = gradients(adapter_gradients, proxy, batch)
    layers = {**proxy.a, **proxy.b}
    expected = gradients(per_sample_gradients, proxy.model, layers, batch)
    tolerance = 1e-5 if precision == torch.float32 else 0.03
    torch.testing.assert_close(losses, expected[0], rtol=tolerance, atol=0)
    assert set(found) == set(layers)
    for name, values in found.items():
        assert values.dtype == torch.float32
        difference = (values - expected[1][name]).norm()
        assert expected[1][name].norm() > 0
        assert difference < tolerance * expected[1][name].norm()
    # The adapter's part changes the gradients of B as well.
    for layer in proxy.b.values():
        layer.weight.data.zero_()
    _, fresh = gradients(b_gradients, proxy, batch)
    assert not any(torch.allclose(fresh[name], found[name]) for name in fresh)


def test_they_leave_the_adapter_ready_for_training(tiny_model_folder):
    proxy = proxy_of(tiny_model_folder, torch.float32)
    batch = batch_of(proxy)
    with shared_trunk(proxy.trunk):
        _, first = gradients(b_gradients, proxy, batch)
        layers = {**proxy.a, **proxy.b}
        _, second = gradients(per_sample_gradients, proxy.model, layers, batch)
    assert all(torch.allclose(first[name], second[name]) for name in first)
    for name, parameter in proxy.model.named_parameters():
        assert parameter.grad is None
        assert parameter.requires_grad == ("lora_" in name)


def test_they_are_told_from_models_that_skip_a_layer(tiny_model_folder):
    from ogs_env.errors import InputError

    proxy = proxy_of(tiny_model_folder, torch.float32)
    last = proxy.model.get_base_model().model.layers[-1]
    last.mlp.forward = lambda states: states
    with pytest.raises(InputError, match=r"mlp\S+ takes no part in a pass"):
        b_gradients(proxy, batch_of(proxy), lambda *_: None)
