"""Gradient surgery on vectors with known answers, and on a model's adapter."""

import itertools

import pytest
import torch
from helpers.words import TEXTS
from hypothesis import given, settings
from hypothesis import strategies as st

from ogs_env.experiments.study import surgery
from ogs_env.lm.adapter import attach_adapter
from ogs_env.lm.encoding import encode
from ogs_env.lm.loading import load_model
from ogs_env.lm.passes import add_gradients
from ogs_env.lm.trunk import TrunkStates

vectors = st.integers(0, 2**31).map(
    lambda seed: torch.randn(4, 6, generator=torch.Generator().manual_seed(seed))
)


def nearest_without_conflict(gradient, anchors):
    """The nearest vector with g . a >= 0 for all anchors, by trying active sets."""
    best = None
    for count in range(len(anchors) + 1):
        for active in itertools.combinations(range(len(anchors)), count):
            rows = anchors[list(active)]
            solution = gradient
            if active:
                multipliers = torch.linalg.solve(rows @ rows.T, rows @ gradient)
                solution = gradient - multipliers @ rows
            if (anchors @ solution >= -1e-4).all():
                distance = (solution - gradient).norm()
                if best is None or distance < best[0]:
                    best = distance, solution
    return best[1]


def test_agem_removes_only_the_conflicting_part():
    gradient = torch.tensor([1.0, 2.0, 0.0])
    anchors = torch.tensor([[0.0, -1.0, 0.0], [0.0, -3.0, 0.0]])
    assert surgery.agem(gradient, anchors).tolist() == [1.0, 0.0, 0.0]
    assert surgery.agem(gradient, -anchors).tolist() == gradient.tolist()


def test_pcgrad_projects_off_each_anchor_in_turn():
    gradient = torch.tensor([1.0, 1.0])
    anchors = torch.tensor([[-1.0, 0.0], [1.0, -2.0]])
    # Off the first: (0, 1). Its product with the second is -2, so (0, 1) + 2/5 (1, -2).
    first = surgery.pcgrad(gradient, anchors, [0, 1])
    torch.testing.assert_close(first, torch.tensor([0.4, 0.2]))
    # Off the second: product -1, (1, 1) + 1/5 (1, -2); then off the first: (0, 0.6).
    second = surgery.pcgrad(gradient, anchors, [1, 0])
    torch.testing.assert_close(second, torch.tensor([0.0, 0.6]))


@given(vectors)
@settings(deadline=None, max_examples=30)
def test_pcgrad_of_two_tasks_is_that_of_torchjd(rows):
    from torchjd.aggregation import PCGrad

    two = rows[:2]
    both = surgery.pcgrad(two[0], two[1:], [0]) + surgery.pcgrad(two[1], two[:1], [0])
    torch.testing.assert_close(both, PCGrad()(two), rtol=1e-4, atol=1e-4)


@given(vectors)
@settings(deadline=None, max_examples=30)
def test_upgrad_is_the_nearest_vector_without_conflict(rows):
    gradient, anchors = rows[0], rows[1:]
    projected = surgery.upgrad(gradient, anchors)
    # TorchJD regularises the Gram matrix by 1e-4, which shows where anchor gradients
    # nearly depend on each other: of 1,500 draws one is 0.012 and one 0.014 off.
    assert (anchors @ projected >= -5e-2).all()
    expected = nearest_without_conflict(gradient, anchors)
    torch.testing.assert_close(projected, expected, rtol=1e-2, atol=5e-2)


@given(vectors)
@settings(deadline=None, max_examples=30)
def test_ogd_leaves_the_residual_of_least_squares(rows):
    gradient, stored = rows[0], rows[1:]
    # A gradient that is stored twice adds no direction.
    basis = surgery.orthogonal_basis(torch.cat([stored, stored[:1]]))
    assert basis.shape == (3, 6)
    fit = torch.linalg.lstsq(stored.T, gradient[:, None]).solution[:, 0]
    expected = gradient - fit @ stored
    torch.testing.assert_close(
        surgery.ogd(gradient, basis), expected, rtol=1e-3, atol=1e-3
    )


@pytest.mark.parametrize("method", ["agem", "pcgrad", "upgrad", "ogd"])
def test_the_adapters_gradient_no_longer_conflicts(tiny_model_folder, method):
    model, tokenizer = load_model(str(tiny_model_folder))
    proxy = attach_adapter(model, tokenizer, rank=4, alpha=8, layers=2, seed=0)
    weights = [layer.weight for layer in [*proxy.a.values(), *proxy.b.values()]]
    texts = TrunkStates(proxy, [encode(tokenizer, p, r, 96) for p, r in TEXTS])
    # One anchor sample per capability, so that every batch is of it.
    anchors = {"maths": [3], "knowledge": [4]}
    change = surgery.Surgery(method, proxy, texts, anchors, seed=0)

    def flat(rows, sign=1.0):
        add_gradients(texts, rows, dict.fromkeys(rows, sign))
        gradient = torch.cat([weight.grad.flatten() for weight in weights])
        for weight in weights:
            weight.grad = None
        return gradient

    maths, knowledge = flat([3]), flat([4])
    conflicting = flat([0]) - 2 * maths - 2 * knowledge
    begin = 0
    for weight in weights:
        part = conflicting[begin : begin + weight.numel()]
        weight.grad = part.view_as(weight).clone()
        begin += weight.numel()
    change()
    changed = torch.cat([weight.grad.flatten() for weight in weights])
    scale = conflicting.norm() * maths.norm()
    before = torch.stack([conflicting @ maths, conflicting @ knowledge]) / scale
    after = torch.stack([changed @ maths, changed @ knowledge]) / scale
    assert (before < -0.1).all()
    if method == "agem":  # the mean of both alone
        assert after.sum() > -1e-4
    elif method == "pcgrad":  # the last of both alone
        assert after.max() > -1e-4
        assert after.min() > before.min()
    else:
        assert (after > -1e-3).all()
