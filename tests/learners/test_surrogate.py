import copy
import pickle
from pathlib import Path

import numpy as np
import pytest
from make_bundle import edit_manifest, make_bundle

from ogs_env import gram
from ogs_env.bundle import Bundle, Rows, load_bundle
from ogs_env.errors import InputError
from ogs_env.learners.surrogate import SurrogateLearner, default_learner

PICKS = [3, 100, 251, 7, 479, 12, 30, 31, 8, 300, 301, 302]


class Oracle:
    """The formulas of the docstring in float64, with explicit sketches."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self.learner = bundle.manifest["learner"]
        self.kind = self.learner["sketches"]
        self.checkpoints = len(self.learner["domain"]["slope"])
        self.picks: list[int] = []

    def sketches(self, rows: Rows, checkpoint: int) -> np.ndarray:
        def block(of: Rows) -> np.ndarray:
            whole = of.sketches(self.kind).astype(np.float64)
            return np.split(whole, self.checkpoints, axis=1)[checkpoint]

        dev = block(self.bundle.dev)
        return block(rows) / np.sqrt(np.mean([row @ row for row in dev]))

    def displacement(self, checkpoint: int) -> np.ndarray:
        pool = self.bundle.pool
        g = self.sketches(pool, checkpoint)
        d = np.zeros(g.shape[1])
        for begin in range(0, len(self.picks), 8):
            batch = self.picks[begin : begin + 8]
            gradient = sum(float(pool.tokens[i]) * g[i] for i in batch)
            d -= len(batch) / 8 * gradient / np.linalg.norm(gradient)
        return d

    def losses(self, rows: Rows, role: str) -> np.ndarray:
        before = rows.losses.astype(np.float64)
        after = before.copy()
        for c in range(self.checkpoints):
            x = self.sketches(rows, c) @ self.displacement(c)
            after += self.learner[role]["slope"][c] * x
            after += self.learner[role]["curvature"][c] * x**2 / (4 * before)
        return after


@pytest.fixture(params=["path", "start", "partly linear"])
def made(request: pytest.FixtureRequest, tmp_path: Path, bundle: Bundle) -> Bundle:
    if request.param == "path":
        return bundle
    if request.param == "start":
        return load_bundle(make_bundle(tmp_path / "start", checkpoints=0, seed=3))
    folder = make_bundle(tmp_path / "linear", checkpoints=3, seed=4, held_out=33)
    learner = {
        "sketches": "path",
        "domain": {"slope": [0.1, 0.0, 0.2], "curvature": [0, 0, 0]},
        "anchor": {"slope": [0.0, 0.1, 0.05], "curvature": [0.3, 0, 0.1]},
    }
    edit_manifest(folder, learner=learner)
    return load_bundle(folder)


def test_losses_follow_the_formulas(made: Bundle) -> None:
    learner, oracle = SurrogateLearner(made), Oracle(made)
    for index in [None, *PICKS]:
        if index is not None:
            learner.update(index)
            oracle.picks.append(index)
        dev, test = (oracle.losses(r, "domain") for r in (made.dev, made.test))
        kept, anchor = (
            oracle.losses(r, "anchor") for r in (made.retention, made.anchor)
        )
        # The bundle keeps products in float16.
        np.testing.assert_allclose(learner.domain_loss(), dev.mean(), rtol=1e-4)
        np.testing.assert_allclose(learner.test_loss(), test.mean(), rtol=1e-4)
        np.testing.assert_allclose(learner.retention_loss(), kept.mean(), rtol=1e-4)
        for number, loss in enumerate(learner.anchor_losses()):
            own = anchor[made.anchor.capabilities == number]
            np.testing.assert_allclose(loss, own.mean(), rtol=1e-4)


def test_anchor_cosines_follow_the_formula(made: Bundle) -> None:
    learner, oracle = SurrogateLearner(made), Oracle(made)
    blocks = range(oracle.checkpoints)
    pool = np.hstack([oracle.sketches(made.pool, c) for c in blocks])
    anchor = np.hstack([oracle.sketches(made.anchor, c) for c in blocks])
    for index in (0, 77, 400):
        for number, cosine in enumerate(learner.anchor_cosine(index)):
            mean = anchor[made.anchor.capabilities == number].mean(axis=0)
            lengths = np.linalg.norm(mean) * np.linalg.norm(pool[index])
            assert cosine == pytest.approx(mean @ pool[index] / lengths, abs=1e-5)


@pytest.mark.parametrize("before", [0, 3, 7, 8, 12])
def test_preview_is_what_update_gives(made: Bundle, before: int) -> None:
    learner = SurrogateLearner(made)
    for index in PICKS[:before]:
        learner.update(index)
    rows = np.array([5, 200, 333, 40])
    domain, anchors, cosines = learner.preview(rows)
    for place, row in enumerate(rows.tolist()):
        np.testing.assert_array_equal(learner.anchor_cosine(row), cosines[place])
        after = copy.deepcopy(learner)
        after.update(row)
        assert domain[place] == after.domain_loss()
        np.testing.assert_array_equal(anchors[place], after.anchor_losses())


def test_a_batch_has_the_length_of_one_step(bundle: Bundle) -> None:
    """Eight times the same pick moves as far as eight picks that agree."""
    learner, oracle = SurrogateLearner(bundle), Oracle(bundle)
    for index in [9] * 8:
        learner.update(index)
        oracle.picks.append(index)
    g = oracle.sketches(bundle.pool, 0)[9]
    np.testing.assert_allclose(oracle.displacement(0), -g / np.linalg.norm(g))
    expected = oracle.losses(bundle.dev, "domain").mean()
    assert learner.domain_loss() == pytest.approx(expected, rel=1e-4)


def test_reset_forgets(bundle: Bundle) -> None:
    learner, fresh = SurrogateLearner(bundle), SurrogateLearner(bundle)
    learner.update(4)
    assert learner.domain_loss() != fresh.domain_loss()
    learner.reset(np.random.default_rng(0))
    assert learner.domain_loss() == fresh.domain_loss()
    for index in PICKS:
        learner.update(index)
        fresh.update(index)
    assert learner.domain_loss() == fresh.domain_loss()


def test_copies_share_the_tables_but_not_the_state(bundle_folder: Path) -> None:
    learner = SurrogateLearner(load_bundle(bundle_folder))
    for other in (copy.deepcopy(learner), pickle.loads(pickle.dumps(learner))):
        assert other._tables is learner._tables
        before = learner.domain_loss()
        other.update(4)
        assert learner.domain_loss() == before != other.domain_loss()


def test_a_pool_too_large_for_tables_gives_the_same_numbers(
    made: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_tables = SurrogateLearner(made)
    monkeypatch.setattr(gram, "TABLE_FLOATS", 0)
    without = SurrogateLearner(Bundle(made.path))
    assert without._tables is not with_tables._tables
    assert without._tables.seen._table is None
    for index in PICKS:
        for learner in (with_tables, without):
            learner.update(index)
        for name in ("domain_loss", "anchor_losses", "test_loss", "retention_loss"):
            a, b = (getattr(of, name)() for of in (with_tables, without))
            np.testing.assert_allclose(a, b, rtol=1e-6)
    rows = np.array([1, 400])
    for a, b in zip(with_tables.preview(rows), without.preview(rows), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sketches": "pth"}, "sketches 'pth'; expected path or start"),
        ({"domain": {}}, r"has \{\} for the domain; expected a slope"),
        ({"anchor": {"slope": [1.0], "curvature": [1.0]}}, "of 2 checkpoints"),
        ({"anchor": {"slope": [1, 1], "curvature": [1, -1]}}, "of at least 0"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    folder = make_bundle(tmp_path / "b", pool=40, k=8, d=4, held_out=8)
    edit_manifest(folder, learner=default_learner([0, 6]) | changes)
    with pytest.raises(InputError, match=message):
        SurrogateLearner(load_bundle(folder))


def test_other_checkpoints_respond_as_the_nearest_of_the_study() -> None:
    known, other = default_learner([0, 6, 24]), default_learner([0, 5, 40])
    assert known == other
    assert default_learner([])["sketches"] == "start"
