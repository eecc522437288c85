import copy
import pickle
from pathlib import Path

import numpy as np
import pytest
from make_bundle import edit_manifest, make_bundle

from ogs_env.bundle import Bundle, Rows, load_bundle
from ogs_env.errors import InputError
from ogs_env.learners import surrogate
from ogs_env.learners.surrogate import CrossGram, SurrogateLearner, calibrate_step

PICKS = [3, 100, 251, 7, 479, 3, 30, 31]


class Oracle:
    """The formulas of the docstring in float64, with an explicit d."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self.kind = bundle.manifest["learner"]["sketches"]
        self.step = bundle.manifest["learner"]["step"]
        width = bundle.pool.sketches(self.kind, np.array([0])).shape[1]
        self.d = np.zeros(width)

    def losses(self, rows: Rows, d: np.ndarray | None = None) -> np.ndarray:
        g = rows.sketches(self.kind).astype(np.float64)
        loss = rows.losses.astype(np.float64)
        d = self.d if d is None else d
        return loss * (1 + g @ d / (2 * loss)) ** 2

    def gradient(self, rows: Rows, index: int) -> np.ndarray:
        g = rows.sketches(self.kind)[index].astype(np.float64)
        return g * (1 + g @ self.d / (2 * float(rows.losses[index])))

    def update(self, index: int) -> None:
        g = self.bundle.pool.sketches(self.kind)[index].astype(np.float64)
        self.d -= self.step * self.gradient(self.bundle.pool, index) / np.linalg.norm(g)

    def anchor_gradients(self) -> np.ndarray:
        rows = self.bundle.anchor
        each = np.stack([self.gradient(rows, i) for i in range(len(rows))])
        numbers = range(len(self.bundle.capabilities))
        return np.stack([each[rows.capabilities == n].mean(0) for n in numbers])


@pytest.fixture(params=["path", "start"])
def made(request: pytest.FixtureRequest, tmp_path: Path, bundle: Bundle) -> Bundle:
    if request.param == "path":
        return bundle
    return load_bundle(make_bundle(tmp_path / "start", checkpoints=0, seed=3))


def test_losses_and_state_follow_the_formulas(made: Bundle) -> None:
    learner, oracle = SurrogateLearner(made), Oracle(made)
    for index in [None, *PICKS]:
        if index is not None:
            learner.update(index)
            oracle.update(index)
        dev, test, kept = (
            oracle.losses(r) for r in (made.dev, made.test, made.retention)
        )
        np.testing.assert_allclose(learner.domain_loss(), dev.mean(), rtol=1e-5)
        np.testing.assert_allclose(learner.test_loss(), test.mean(), rtol=1e-5)
        np.testing.assert_allclose(learner.retention_loss(), kept.mean(), rtol=1e-5)
        anchor = oracle.losses(made.anchor)
        for number, loss in enumerate(learner.anchor_losses()):
            own = anchor[made.anchor.capabilities == number]
            np.testing.assert_allclose(loss, own.mean(), rtol=1e-5)
    np.testing.assert_allclose(
        learner.displacement, oracle.d, atol=1e-5 * np.abs(oracle.d).max()
    )


def test_gradients_follow_the_formulas(made: Bundle) -> None:
    learner, oracle = SurrogateLearner(made), Oracle(made)
    for index in PICKS:
        learner.update(index)
        oracle.update(index)
    rows = np.array([0, 3, 400])
    expected = np.stack([oracle.gradient(made.pool, int(i)) for i in rows])
    np.testing.assert_allclose(learner.gradients(rows), expected, rtol=1e-4, atol=1e-4)
    dev = [oracle.gradient(made.dev, i) for i in range(len(made.dev))]
    np.testing.assert_allclose(
        learner.domain_gradient(), np.mean(dev, axis=0), rtol=1e-4, atol=1e-4
    )
    np.testing.assert_allclose(
        learner.anchor_gradients(), oracle.anchor_gradients(), rtol=1e-4, atol=1e-4
    )


def test_domain_gradient_is_the_slope_of_the_domain_loss(made: Bundle) -> None:
    learner, oracle = SurrogateLearner(made), Oracle(made)
    for index in PICKS:
        learner.update(index)
        oracle.update(index)
    rng = np.random.default_rng(0)
    for _ in range(3):
        direction = rng.normal(size=len(oracle.d))
        small = 1e-6 * direction
        after = oracle.losses(made.dev, oracle.d + small).mean()
        before = oracle.losses(made.dev, oracle.d - small).mean()
        slope = float(learner.domain_gradient() @ direction)
        np.testing.assert_allclose((after - before) / 2e-6, slope, rtol=1e-3)


def test_anchor_cosines_and_preview_are_what_update_gives(made: Bundle) -> None:
    learner = SurrogateLearner(made)
    for index in PICKS[:4]:
        learner.update(index)
    rows = np.array([5, 200, 333, PICKS[0]])
    domain, anchors, cosines = learner.preview(rows)
    gradients, references = learner.gradients(rows), learner.anchor_gradients()
    lengths = np.linalg.norm(gradients, axis=1)[:, None]
    lengths = lengths * np.linalg.norm(references, axis=1)
    np.testing.assert_allclose(cosines, gradients @ references.T / lengths, atol=1e-4)
    np.testing.assert_array_equal(cosines, learner.anchor_cosines(rows))
    for place, row in enumerate(rows.tolist()):
        np.testing.assert_allclose(
            learner.anchor_cosine(row), cosines[place], atol=1e-5
        )
        after = copy.deepcopy(learner)
        after.update(row)
        np.testing.assert_allclose(domain[place], after.domain_loss(), rtol=1e-5)
        np.testing.assert_allclose(anchors[place], after.anchor_losses(), rtol=1e-5)


def test_a_sample_learned_again_and_again_goes_to_zero(bundle: Bundle) -> None:
    learner = SurrogateLearner(bundle)
    first = np.linalg.norm(learner.gradients(np.array([9]))[0])
    norms = []
    for _ in range(4000):
        learner.update(9)
        norms.append(np.linalg.norm(learner.gradients(np.array([9]))[0]))
    assert np.all(np.diff(norms) <= 1e-3)
    assert norms[-1] < 1e-2 * first


def test_reset_forgets(bundle: Bundle) -> None:
    learner, fresh = SurrogateLearner(bundle), SurrogateLearner(bundle)
    learner.update(4)
    assert learner.domain_loss() != fresh.domain_loss()
    learner.reset(np.random.default_rng(0))
    assert learner.domain_loss() == fresh.domain_loss()
    np.testing.assert_array_equal(learner.displacement, 0)


def test_copies_share_the_tables_but_not_the_state(bundle_folder: Path) -> None:
    learner = SurrogateLearner(load_bundle(bundle_folder))
    for other in (copy.deepcopy(learner), pickle.loads(pickle.dumps(learner))):
        assert other._shared is learner._shared
        before = learner.domain_loss()
        other.update(4)
        assert learner.domain_loss() == before != other.domain_loss()


def test_a_pool_too_large_for_tables_gives_the_same_numbers(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_tables = CrossGram(bundle, "path")
    monkeypatch.setattr(surrogate, "_TABLE_FLOATS", 0)
    without = CrossGram(bundle, "path")
    assert without._table is None
    assert without._pool is None
    for indices in (np.array([1, 400]), 17):
        for name in ("rows", "pool_sketches"):
            a, b = (getattr(s, name)(indices) for s in (with_tables, without))
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
            assert a.shape == b.shape


@pytest.mark.parametrize(
    "learner",
    [{"sketches": "path", "step": 0.0}, {"sketches": "pth", "step": 0.1}, {}],
)
def test_a_manifest_that_does_not_fit_is_refused(
    tmp_path: Path, learner: dict[str, object]
) -> None:
    folder = make_bundle(tmp_path / "b", pool=40, k=8, d=4, held_out=8)
    edit_manifest(folder, learner=learner)
    with pytest.raises(InputError, match="expected sketches path or start and a pos"):
        SurrogateLearner(load_bundle(folder))


def brute_loss(
    runs: np.ndarray,
    losses: np.ndarray,
    dev: np.ndarray,
    dev_losses: np.ndarray,
    s: float,
) -> float:
    """The mean dev loss after each run, by the formulas."""
    after = []
    for g, own in zip(runs.astype(float), losses.astype(float), strict=True):
        d = np.zeros(g.shape[1])
        for row, loss in zip(g, own, strict=True):
            d -= s * row * (1 + row @ d / (2 * loss)) / np.linalg.norm(row)
        after.append(np.mean(dev_losses * (1 + dev @ d / (2 * dev_losses)) ** 2))
    return float(np.mean(after))


def runs_of(bundle: Bundle) -> tuple[np.ndarray, ...]:
    picks = np.random.default_rng(5).integers(len(bundle.pool), size=(2, 24))
    return (
        np.stack([bundle.pool.sketches("path", row) for row in picks]),
        bundle.pool.losses[picks],
        bundle.dev.sketches("path"),
        bundle.dev.losses,
    )


@pytest.mark.parametrize("fall", [0.999, 0.95, 0.8])
def test_calibrated_step_predicts_the_loss(bundle: Bundle, fall: float) -> None:
    run = runs_of(bundle)
    target = fall * float(run[3].mean())
    step, reached = calibrate_step(*run, target)
    assert reached
    assert step > 0
    assert brute_loss(*run, step) == pytest.approx(target, rel=1e-6)
    # It is the smallest: all smaller steps leave the loss higher.
    assert all(brute_loss(*run, step * f) > target for f in np.linspace(0.01, 0.99, 50))


def test_calibration_finds_a_known_step(bundle: Bundle) -> None:
    run = runs_of(bundle)
    known = bundle.manifest["learner"]["step"]
    step, reached = calibrate_step(*run, brute_loss(*run, known))
    assert reached
    assert step == pytest.approx(known, rel=1e-5)


def test_a_loss_out_of_reach_gives_the_best_step_and_says_so(bundle: Bundle) -> None:
    run = runs_of(bundle)
    step, reached = calibrate_step(*run, 1e-9)
    assert not reached
    least = brute_loss(*run, step)
    grid = step * np.geomspace(0.01, 100, 200)
    assert least <= min(brute_loss(*run, s) for s in grid) * 1.001


def test_a_training_that_did_not_help_is_said(bundle: Bundle) -> None:
    run = runs_of(bundle)
    step, reached = calibrate_step(*run, float(run[3].mean()) * 1.1)
    assert not reached
    assert step > 0
