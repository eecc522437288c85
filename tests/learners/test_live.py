"""The live learner against a plain training loop, sample by sample."""

import copy
import itertools
import json
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.live_bundle import MAX_TOKENS, LiveFiles
from safetensors.numpy import load_file, save_file
from torch.nn.functional import cross_entropy

from ogs_env.bundle import Bundle, load_bundle
from ogs_env.bundle_files import ANSWERS, save_manifest
from ogs_env.data.samples import Sample
from ogs_env.errors import InputError
from ogs_env.files import sha256_of
from ogs_env.learners.live import LiveLearner
from ogs_env.learners.live_settings import LiveSettings
from ogs_env.lm.adapter import attach_adapter
from ogs_env.lm.encoding import encode, encode_prompt
from ogs_env.lm.loading import load_model
from ogs_env.sketching.projection import CountSketch

PICKS = [3, 40, 17, 0, 29, 8, 33]
RATE = 2e-2


class PlainTraining:
    """Training and losses of the whole model, one sample per pass."""

    def __init__(self, files: LiveFiles) -> None:
        self.bundle = load_bundle(files.bundle)
        self.data = files.data
        adapter = self.bundle.manifest["adapter"]
        model, self.tokenizer = load_model(files.model)
        self.proxy = attach_adapter(
            model,
            self.tokenizer,
            **{name: adapter[name] for name in ("rank", "alpha", "layers", "seed")},
        )
        self.weights = [
            *(layer.weight for layer in self.proxy.a.values()),
            *(layer.weight for layer in self.proxy.b.values()),
        ]
        self.optimizer = torch.optim.AdamW(self.weights, weight_decay=0.0)
        self.steps = 0

    def token_losses(self, sample: Sample) -> torch.Tensor:
        encoded = encode(self.tokenizer, sample.prompt, sample.response, MAX_TOKENS)
        ids = torch.tensor([encoded.input_ids])
        logits = self.proxy.model(input_ids=ids).logits[0]
        start = encoded.response_start
        return cross_entropy(logits[start - 1 : -1], ids[0, start:], reduction="none")

    def loss(self, samples: list[Sample]) -> float:
        with torch.no_grad():
            return float(np.mean([self.token_losses(s).mean() for s in samples]))

    def train(self, rows: list[int]) -> None:
        self.steps += 1
        self.optimizer.param_groups[0]["lr"] = RATE * min(1, self.steps / 3)
        losses = torch.cat([self.token_losses(self.data.pool[row]) for row in rows])
        self.optimizer.zero_grad()
        losses.mean().backward()
        torch.nn.utils.clip_grad_norm_(self.weights, 1.0)
        self.optimizer.step()

    def gradient(self, samples: list[Sample]) -> dict[str, torch.Tensor]:
        """The mean of B's gradients."""
        loss = sum(self.token_losses(s).mean() for s in samples) / len(samples)
        layers = [layer.weight for layer in self.proxy.b.values()]
        gradients = torch.autograd.grad(loss, layers)
        return dict(zip(self.proxy.b, gradients, strict=True))

    def sketch(self, gradient: dict[str, torch.Tensor]) -> np.ndarray:
        out = torch.zeros(self.bundle.k, 1)
        projection = CountSketch(self.bundle.k, self.bundle.manifest["adapter"]["seed"])
        for name, part in gradient.items():
            projection.add(out, name, part.reshape(1, -1))
        return out[:, 0].numpy()


def flat(gradient: dict[str, torch.Tensor]) -> np.ndarray:
    return torch.cat([part.flatten() for part in gradient.values()]).double().numpy()


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


@pytest.fixture(scope="module")
def bundle(live_files: LiveFiles) -> Bundle:
    return load_bundle(live_files.bundle)


def add_answers(files: LiveFiles, folder: Path) -> dict[str, list[list[int]]]:
    """Copy the bundle and add random answers to all but one of the prompts.

    Their sketches are those of other samples, because the live learner uses only ids
    and tokens.
    """
    shutil.copytree(files.bundle, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    rng = np.random.default_rng(0)
    tokens: dict[str, list[list[int]]] = {}
    for role in ANSWERS:
        shard = load_file(folder / f"{role.removesuffix('_answers')}-00000.safetensors")
        shard = {name: column[1:].copy() for name, column in shard.items()}
        lengths = rng.integers(1, 90, len(shard["ids"]))
        tokens[role] = [rng.integers(4, 40, n).tolist() for n in lengths]
        shard["tokens"] = lengths.astype(np.int32)
        save_file(shard, folder / f"{role}-00000.safetensors")
        manifest["roles"][role] = len(lengths)
    padded = {
        role: np.array([row + [-1] * (90 - len(row)) for row in rows], np.int32)
        for role, rows in tokens.items()
    }
    save_file(padded, folder / "answers.safetensors")
    manifest["answers"] = {"kind": "own", "max_tokens": 90}
    manifest["files"] = {
        file.name: {"sha256": sha256_of(file)} for file in folder.glob("*.safetensors")
    }
    save_manifest(folder, manifest)
    return tokens


def test_losses_on_own_answers_equal_those_of_full_forward_passes(
    live_files: LiveFiles, settings: LiveSettings, plain: PlainTraining, tmp_path: Path
) -> None:
    tokens = add_answers(live_files, tmp_path / "answers")
    bundle = load_bundle(tmp_path / "answers")
    learner = LiveLearner(bundle, replace(settings, evaluation_samples=1000))
    samples = {
        sample.id: sample
        for groups in (live_files.data.anchor, live_files.data.retention)
        for sample in itertools.chain.from_iterable(groups.values())
    }

    def losses(role: str) -> np.ndarray:
        values = []
        for id_, answer in zip(
            getattr(bundle, role).hex_ids(), tokens[role], strict=True
        ):
            prompt = encode_prompt(plain.tokenizer, samples[id_].prompt)
            # Leave room for the longest answer.
            prompt = prompt[-(MAX_TOKENS - min(128, MAX_TOKENS // 2)) :]
            ids = torch.tensor([[*prompt, *answer]])
            with torch.no_grad():
                logits = plain.proxy.model(input_ids=ids).logits[0]
            start = len(prompt)
            values.append(float(cross_entropy(logits[start - 1 : -1], ids[0, start:])))
        return np.array(values)

    for trained in (False, True):
        if trained:
            for row in PICKS[:6]:
                learner.update(row)
            plain.train(PICKS[:3])
            plain.train(PICKS[3:6])
        anchor = losses("anchor_answers")
        capabilities = bundle.anchor_answers.capabilities
        expected = [anchor[capabilities == number].mean() for number in range(2)]
        np.testing.assert_allclose(learner.answer_losses(), expected, rtol=1e-4)
        retention = losses("retention_answers").mean()
        assert learner.answers_loss() == pytest.approx(retention, rel=1e-4)


def test_without_own_answers_there_is_no_loss_on_them(learner: LiveLearner) -> None:
    assert learner.answer_losses().shape == (0,)
    assert learner.answers_loss() == 0


@pytest.fixture(scope="module")
def settings(live_files: LiveFiles) -> LiveSettings:
    return LiveSettings(
        texts=live_files.texts, batch=3, learning_rate=RATE, evaluate_every=2
    )


@pytest.fixture
def learner(bundle: Bundle, settings: LiveSettings) -> LiveLearner:
    return LiveLearner(bundle, settings)


@pytest.fixture
def plain(live_files: LiveFiles) -> PlainTraining:
    return PlainTraining(live_files)


def test_training_equals_a_plain_loop(
    learner: LiveLearner, plain: PlainTraining
) -> None:
    for row in PICKS:
        learner.update(row)
    learner.finish()
    for rows in (PICKS[:3], PICKS[3:6], PICKS[6:]):
        plain.train(rows)
    state, expected = learner.proxy.state(), plain.proxy.state()
    assert state.keys() == expected.keys()
    largest_change = 0.0
    fresh = fresh_weights(plain)
    for name, weights in expected.items():
        torch.testing.assert_close(state[name], weights, rtol=1e-3, atol=1e-3 * RATE)
        change = float((weights - fresh[name]).abs().max())
        largest_change = max(largest_change, change)
    assert largest_change > RATE
    data = plain.data
    retention = [s for group in data.retention.values() for s in group]
    assert learner.domain_loss() == pytest.approx(plain.loss(data.dev), rel=1e-5)
    assert learner.test_loss() == pytest.approx(plain.loss(data.test), rel=1e-5)
    assert learner.retention_loss() == pytest.approx(plain.loss(retention), rel=1e-5)
    anchors = [plain.loss(group) for group in data.anchor.values()]
    np.testing.assert_allclose(learner.anchor_losses(), anchors, rtol=1e-5)


def fresh_weights(plain: PlainTraining) -> dict[str, torch.Tensor]:
    trained = plain.proxy.state()
    from ogs_env.lm.adapter import draw_adapter

    draw_adapter(plain.proxy, plain.bundle.manifest["adapter"]["seed"])
    fresh = plain.proxy.state()
    plain.proxy.load_state(trained)
    return fresh


def test_gradients_are_those_at_the_current_weights(
    learner: LiveLearner, plain: PlainTraining
) -> None:
    rows = np.array([5, 44, 12])
    for trained in (False, True):
        if trained:
            for row in PICKS[:6]:
                learner.update(row)
            plain.train(PICKS[:3])
            plain.train(PICKS[3:6])
        gradients = learner.pool_gradients(rows)
        data = plain.data
        domain = plain.gradient(data.dev)
        anchors = [plain.gradient(group) for group in data.anchor.values()]
        np.testing.assert_allclose(
            learner.domain_gradient(), plain.sketch(domain), atol=1e-4
        )
        expected = [plain.sketch(anchor) for anchor in anchors]
        np.testing.assert_allclose(learner.anchor_gradients(), expected, atol=1e-4)
        for place, row in enumerate(rows):
            sample = data.pool[row]
            own = plain.gradient([sample])
            sketch = plain.sketch(own)
            np.testing.assert_allclose(
                gradients.sketches[place], sketch, atol=1e-3 * abs(sketch).max()
            )
            assert gradients.norms[place] == pytest.approx(
                np.linalg.norm(flat(own)), 1e-3
            )
            assert gradients.losses[place] == pytest.approx(plain.loss([sample]), 1e-4)
            expected = cosine(flat(own), flat(domain))
            assert gradients.domain_cosines[place] == pytest.approx(expected, abs=1e-3)
            expected = [cosine(flat(own), flat(anchor)) for anchor in anchors]
            np.testing.assert_allclose(
                gradients.anchor_cosines[place], expected, atol=1e-3
            )
            np.testing.assert_array_equal(
                learner.anchor_cosine(row), gradients.anchor_cosines[place]
            )


def test_initial_gradients_are_those_of_the_bundle(
    learner: LiveLearner, bundle: Bundle
) -> None:
    rows = np.arange(len(bundle.pool))
    gradients = learner.pool_gradients(rows)
    initial = bundle.pool.sketches("initial")
    error = np.linalg.norm(gradients.sketches - initial, axis=1)
    assert (error / np.linalg.norm(initial, axis=1)).max() < 1e-3
    np.testing.assert_allclose(gradients.norms, bundle.pool.norms, rtol=1e-4)
    np.testing.assert_allclose(gradients.losses, bundle.pool.losses, rtol=1e-5)
    np.testing.assert_allclose(
        gradients.domain_cosines, bundle.domain_cosines(rows), atol=1e-4
    )
    np.testing.assert_allclose(
        gradients.anchor_cosines, bundle.anchor_cosines(rows), atol=1e-4
    )
    assert learner.domain_loss() == pytest.approx(bundle.dev.losses.mean(), 1e-5)


def test_losses_are_measured_at_the_given_interval(learner: LiveLearner) -> None:
    losses = [learner.domain_loss()]
    states = [learner.version]
    for row in PICKS:
        learner.update(row)
        losses.append(learner.domain_loss())
        states.append(learner.version)
    learner.finish()
    losses.append(learner.domain_loss())
    # Steps after picks 3 and 6; measured after 4 (2 had no step to measure) and 6.
    changed = np.flatnonzero(np.diff(losses)).tolist()
    assert changed == [3, 5, 7]
    assert np.flatnonzero(np.diff(states)).tolist() == [2, 3, 5]
    learner.finish()
    assert learner.domain_loss() == losses[-1]


def test_an_episode_after_reset_repeats_bitwise(
    bundle: Bundle, settings: LiveSettings
) -> None:
    def episode(learner: LiveLearner, first: int) -> list[object]:
        learner.reset(np.random.default_rng(first))
        results: list[object] = [learner.pool_gradients(np.arange(first, 20)).sketches]
        for row in PICKS:
            learner.update(row)
            results.append(learner.anchor_cosine(2))
        learner.finish()
        return [*results, learner.domain_loss(), learner.test_loss()]

    one, two = LiveLearner(bundle, settings), LiveLearner(bundle, settings)
    first = episode(one, 4)
    # An earlier episode with other batches has no effect.
    episode(two, 11)
    torch.rand(3)
    for a, b in zip(first, episode(two, 4), strict=True):
        np.testing.assert_array_equal(a, b)


def test_learners_are_independent(bundle: Bundle, settings: LiveSettings) -> None:
    one, two, alone = (LiveLearner(bundle, settings) for _ in range(3))
    for row, other in zip(PICKS, PICKS[::-1], strict=True):
        alone.update(row)
        one.update(row)
        two.update(other)
    for learner in (one, two, alone):
        learner.finish()
    rows = np.arange(6)
    np.testing.assert_array_equal(
        one.pool_gradients(rows).sketches, alone.pool_gradients(rows).sketches
    )
    assert one.domain_loss() == alone.domain_loss() != two.domain_loss()


def test_measured_samples_are_spread_over_the_bundle(
    bundle: Bundle, settings: LiveSettings, plain: PlainTraining
) -> None:
    learner = LiveLearner(bundle, replace(settings, evaluation_samples=4))
    data = plain.data
    dev = [data.dev[row] for row in (0, 2, 4, 6)]
    test = [data.test[row] for row in (0, 1, 2, 3)]
    sums = [data.anchor["sums"][row] for row in (0, 1, 3, 5)]
    retention = [s for group in data.retention.values() for s in group]
    retention = [retention[row] for row in (0, 1, 3, 4)]
    assert learner.domain_loss() == pytest.approx(plain.loss(dev), 1e-5)
    assert learner.test_loss() == pytest.approx(plain.loss(test), 1e-5)
    assert learner.anchor_losses()[0] == pytest.approx(plain.loss(sums), 1e-5)
    assert learner.retention_loss() == pytest.approx(plain.loss(retention), 1e-5)


@pytest.mark.parametrize(
    "copy_learner", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))]
)
def test_a_copy_behaves_the_same(learner: LiveLearner, copy_learner: object) -> None:
    for row in PICKS[:4]:
        learner.update(row)
    other = copy_learner(learner)
    for row in PICKS[4:]:
        learner.update(row)
    before = learner.domain_loss(), learner.pool_gradients(np.arange(3)).sketches
    for row in PICKS[4:]:
        other.update(row)
    assert other.domain_loss() == before[0]
    np.testing.assert_array_equal(
        other.pool_gradients(np.arange(3)).sketches, before[1]
    )


def test_another_model_and_depth(
    bundle: Bundle, settings: LiveSettings, live_files: LiveFiles
) -> None:
    one = LiveLearner(bundle, replace(settings, model=live_files.model, layers=1))
    assert len(one.proxy.b) == 7
    assert len(one.proxy.trunk) == 2


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"batches": 1}, "unknown live setting 'batches'; did you mean batch"),
        ({"batch": 0}, "live: batch is 0; expected a whole number from 1 on"),
        ({"batch": None}, "live: batch is None; expected a whole number"),
        ({"layers": 1.5}, r"live: layers is 1\.5; expected a whole number"),
        ({"evaluate_every": True}, "live: evaluate_every is True; expected a whole"),
        ({"evaluation_samples": "all"}, "live: evaluation_samples is 'all'; expected"),
        ({"learning_rate": 0}, "live: learning_rate is 0; expected a number above 0"),
        ({"learning_rate": float("nan")}, "live: learning_rate is nan; expected"),
        ({"model": 3}, "live: model is 3; expected a model id or folder"),
        ({"texts": []}, r"live: texts is \[\]; expected the name of a domain or a"),
        ({"texts": [3]}, r"live: texts is \[3\]; expected the name of a domain or a"),
    ],
)
def test_bad_settings(settings: dict[str, object], line: str) -> None:
    with pytest.raises(InputError, match=line):
        LiveSettings.of(settings)


def test_texts_must_be_those_of_the_bundle(
    bundle: Bundle, settings: LiveSettings
) -> None:
    with pytest.raises(
        InputError,
        match=r"texts of bundle 'tiny' are not known; expected .*medical.*JSON lines",
    ):
        LiveLearner(bundle)
    with pytest.raises(
        InputError, match=r"9 of 9 dev samples of bundle 'tiny' are not among the texts"
    ):
        LiveLearner(bundle, replace(settings, texts=settings.texts[:1]))


def test_the_bundle_must_be_made_from_texts(bundle_folder: object) -> None:
    with pytest.raises(InputError, match=r"the manifest lacks 'adapter', .*ogs sketch"):
        LiveLearner(load_bundle(bundle_folder))
