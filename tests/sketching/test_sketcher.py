"""Bundles of a tiny model against brute force, sample by sample."""

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.tiny_model import make_tiny_model
from helpers.words import WORDS
from safetensors.numpy import load_file
from torch.nn.functional import cross_entropy

from ogs_env.bundle_files import ANSWERS, MEASURED, ROLES
from ogs_env.data.domains import DomainData
from ogs_env.data.records import Turn
from ogs_env.data.samples import Sample
from ogs_env.errors import InputError
from ogs_env.learners.fitted import default_learner
from ogs_env.learners.surrogate import SurrogateLearner
from ogs_env.learners.tables import tables_of
from ogs_env.lm.adapter import Proxy, attach_adapter
from ogs_env.lm.encoding import Encoded, encode, encode_prompt
from ogs_env.lm.loading import load_model
from ogs_env.rows import COLUMNS
from ogs_env.sketching import shards
from ogs_env.sketching.answers import own_answers
from ogs_env.sketching.projection import CountSketch
from ogs_env.sketching.settings import ANCHOR_ANSWERS, SketchSettings
from ogs_env.sketching.sketcher import sketch
from ogs_env.sketching.warmup import (
    BATCH,
    warm_up_picks,
    warm_up_steps,
)

EVERY = (*ROLES, *ANSWERS)


def samples(count: int, first: int, source: str) -> list[Sample]:
    rng = np.random.default_rng(first)
    return [
        Sample(
            f"{source} {first + i}: {' '.join(rng.choice(WORDS, rng.integers(1, 6)))}",
            " ".join(rng.choice(WORDS, rng.integers(1, 8))),
            source,
        )
        for i in range(count)
    ]


ROWS = 64


@pytest.fixture(scope="module", autouse=True)
def small_shards():
    """The pool's samples fill more than one shard."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "SHARD_ROWS", ROWS)
        yield


def make_data() -> DomainData:
    pool = samples(ROWS, 0, "colours") + samples(7, 100, "nature")
    # One sample that has to be cut.
    pool.append(Sample("long " * 40, "an answer " * 20, "nature"))
    return DomainData(
        name="words",
        pool=pool,
        dev=samples(20, 200, "colours"),
        test=samples(4, 300, "colours"),
        anchor={"sums": samples(5, 400, "sums"), "names": samples(6, 500, "names")},
        retention={"sums": samples(3, 600, "sums"), "names": samples(4, 700, "names")},
        capabilities=["sums", "names"],
        sources=[
            {"name": name, "licence": "CC0", "attribution": "us", "url": "", "pool": n}
            for name, n in {"colours": 64, "nature": 8, "sums": 0, "names": 0}.items()
        ],
    )


@pytest.fixture(scope="module")
def settings(tiny_model_folder):
    return SketchSettings(
        proxy=str(tiny_model_folder),
        precision="float32",
        k=128,
        layers=2,
        rank=4,
        checkpoints=(0, 2, 5),
        learning_rate=1e-2,
        max_tokens=128,
        seed=3,
    )


@pytest.fixture(scope="module")
def folder(settings, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sketched") / "words"
    sketch(make_data(), folder, settings, "ogs sketch words")
    return folder


@pytest.fixture(scope="module")
def bundle(folder):
    from ogs_env.bundle import load_bundle

    return load_bundle(folder)


def few() -> DomainData:
    data = make_data()
    return replace(data, pool=data.pool[:5], dev=data.dev[:3])


def by_role(data: DomainData) -> dict[str, list[Sample]]:
    groups = {role: getattr(data, role) for role in ROLES}
    for role in ("anchor", "retention"):
        groups[role] = [s for name in data.capabilities for s in groups[role][name]]
    return groups


def encoded_by_role(
    proxy: Proxy, data: DomainData, settings: SketchSettings, folder
) -> dict[str, list[Encoded]]:
    """Encode samples, and sample answers to those of the anchor and the retention."""
    tokenizer, most = proxy.tokenizer, settings.max_tokens
    groups = by_role(data)
    encoded = {
        role: [encode(tokenizer, s.prompt, s.response, most) for s in own]
        for role, own in groups.items()
    }
    for role in ("anchor", "retention"):
        encoded[f"{role}_answers"] = []
        model = proxy.model.get_base_model()
        answers = own_answers(
            *(model, tokenizer, groups[role], folder, role),
            seed=settings.seed,
            max_tokens=most,
        )
        for sample, answer in zip(groups[role], answers, strict=True):
            prompt = encode_prompt(tokenizer, sample.prompt)
            cut = prompt[max(0, len(prompt) - most // 2) :]
            encoded[f"{role}_answers"].append(
                Encoded([*cut, *answer], len(cut), cut != prompt)
            )
    return encoded


def token_losses(proxy: Proxy, sample: Encoded) -> torch.Tensor:
    ids = torch.tensor([sample.input_ids])
    logits = proxy.model(input_ids=ids).logits[0]
    start = sample.response_start
    return cross_entropy(logits[start - 1 : -1], ids[0, start:], reduction="none")


def train(proxy: Proxy, batches: list[list[Encoded]], rate: float):
    """Train with plain autograd; yield Adam's denominators after each step."""
    layers = {**proxy.a, **proxy.b}
    weights = [layer.weight for layer in layers.values()]
    optimizer = torch.optim.AdamW(weights, weight_decay=0.0)
    for step, batch in enumerate(batches, 1):
        optimizer.param_groups[0]["lr"] = rate * min(1, step / 3)
        optimizer.zero_grad()
        torch.cat([token_losses(proxy, sample) for sample in batch]).mean().backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        corrected = 1 - 0.999**step
        yield {
            name: (optimizer.state[layer.weight]["exp_avg_sq"] / corrected).sqrt()
            for name, layer in layers.items()
        }


@pytest.fixture(scope="module")
def encoded(settings, tmp_path_factory) -> dict[str, list[Encoded]]:
    """The encoded samples of all roles."""
    model, tokenizer = load_model(settings.proxy)
    proxy = attach_adapter(model, tokenizer, rank=4, alpha=8, layers=2, seed=3)
    folder = tmp_path_factory.mktemp("answers")
    return encoded_by_role(proxy, make_data(), settings, folder)


@pytest.fixture(scope="module")
def oracle(settings, encoded):
    """Losses, gradients and sketches with plain autograd, one sample at a time.

    Returns for each role a list over samples. An entry is a list of tuples (loss,
    gradient, sketch): first for B at the untouched model, then for A and B in Adam's
    metric at each checkpoint.
    """
    model, tokenizer = load_model(settings.proxy)
    proxy = attach_adapter(
        model,
        tokenizer,
        rank=settings.rank,
        alpha=2 * settings.rank,
        layers=settings.layers,
        seed=settings.seed,
    )
    last = settings.checkpoints[-1]
    picks = warm_up_picks(len(encoded["pool"]), last, settings.seed).reshape(
        last, BATCH
    )
    batches = [
        [encoded["pool"][row] for row in rows_of_batch] for rows_of_batch in picks
    ]
    states, scales = [proxy.state()], [{}]
    for scale in train(proxy, batches, settings.learning_rate):
        states.append(proxy.state())
        scales.append({name: values.clone() for name, values in scale.items()})

    ones = {name: torch.tensor(1.0) for name in proxy.b}
    points = [(states[0], proxy.b, ones)]
    for step in settings.checkpoints:
        # The second moments of the first two steps come from too few samples.
        divisors = {n: (v + 1e-8).sqrt() for n, v in scales[max(step, 3)].items()}
        points.append((states[step], {**proxy.a, **proxy.b}, divisors))
    projection = CountSketch(settings.k, settings.seed)
    results = {role: [[] for _ in own] for role, own in encoded.items()}
    for state, layers, divisors in points:
        proxy.load_state(state)
        weights = [layer.weight for layer in layers.values()]
        for role, own in encoded.items():
            for row, sample in enumerate(own):
                loss = token_losses(proxy, sample).mean()
                gradients = torch.autograd.grad(loss, weights)
                parts = [
                    gradient / divisors[name]
                    for name, gradient in zip(layers, gradients, strict=True)
                ]
                sketched = torch.zeros(settings.k, 1)
                for name, part in zip(layers, parts, strict=True):
                    projection.add(sketched, name, part.reshape(1, -1))
                whole = torch.cat([part.flatten() for part in parts])
                results[role][row].append(
                    (loss.item(), whole.double().numpy(), sketched[:, 0].numpy())
                )
    return results


def largest_row_error(sketches, expected) -> float:
    error = np.linalg.norm(sketches - expected, axis=1)
    return float((error / np.linalg.norm(expected, axis=1)).max())


@pytest.mark.parametrize("role", EVERY)
def test_initial_sketches_equal_a_loop_over_samples(bundle, oracle, role):
    expected = np.stack([points[0][2] for points in oracle[role]])
    assert largest_row_error(getattr(bundle, role).sketches("initial"), expected) < 1e-3


def weights(bundle):
    return [entry["weight"] for entry in bundle.manifest["checkpoints"]]


def test_dev_sketches_have_unit_norm_at_every_checkpoint(bundle):
    for block in np.split(bundle.dev.sketches("trajectory"), 3, axis=1):
        assert np.square(block).sum(1).mean() == pytest.approx(1.0, 1e-3)


@pytest.mark.parametrize("role", ROLES)
def test_trajectory_sketches_equal_a_loop_over_samples_and_checkpoints(
    bundle, oracle, role
):
    sketches = getattr(bundle, role).sketches("trajectory")
    for number, weight in enumerate(weights(bundle)):
        expected = [points[number + 1][2] * weight for points in oracle[role]]
        columns = slice(number * bundle.k, (number + 1) * bundle.k)
        assert largest_row_error(sketches[:, columns], np.stack(expected)) < 1e-3


@pytest.mark.parametrize("role", EVERY)
def test_scalars_are_exact(bundle, oracle, role):
    rows = getattr(bundle, role)

    def gradients(name):
        return np.stack([points[0][1] for points in oracle[name]])

    own = gradients(role)
    norms = np.linalg.norm(own, axis=1)
    np.testing.assert_allclose(rows.norms, norms, rtol=1e-4)
    losses = [points[0][0] for points in oracle[role]]
    np.testing.assert_allclose(rows.losses, losses, rtol=1e-5)
    domain = gradients("dev").mean(0)
    scale = norms * np.linalg.norm(domain)
    assert (abs(rows.domain_dots - own @ domain) / scale).max() < 1e-4
    assert bundle.manifest["domain_norm"] == pytest.approx(np.linalg.norm(domain), 1e-4)
    anchor = gradients("anchor")
    means = np.stack([anchor[:5].mean(0), anchor[5:].mean(0)])
    lengths = np.linalg.norm(means, axis=1)
    scale = norms[:, None] * lengths
    assert (abs(rows.anchor_dots - own @ means.T) / scale).max() < 1e-4
    np.testing.assert_allclose(bundle.manifest["anchor_norms"], lengths, rtol=1e-4)


def test_cosines_are_exact(bundle, oracle):
    own = np.stack([points[0][1] for points in oracle["pool"]])
    domain = np.stack([points[0][1] for points in oracle["dev"]]).mean(0)
    expected = own @ domain / np.linalg.norm(own, axis=1) / np.linalg.norm(domain)
    cosines = bundle.domain_cosines(np.arange(len(own)))
    np.testing.assert_allclose(cosines, expected, atol=1e-4)


def test_trajectory_products_are_exact_within_the_sketch_error(bundle, oracle):
    pool = bundle.pool.sketches("trajectory").astype(np.float64)
    dev = bundle.dev.sketches("trajectory").astype(np.float64)
    exact = np.zeros((len(pool), len(dev)))
    deviation = np.zeros_like(exact)
    for number, weight in enumerate(weights(bundle), 1):
        ours = weight * np.stack([points[number][1] for points in oracle["pool"]])
        theirs = weight * np.stack([points[number][1] for points in oracle["dev"]])
        products = ours @ theirs.T
        lengths = np.outer(np.linalg.norm(ours, axis=1), np.linalg.norm(theirs, axis=1))
        exact += products
        # All checkpoints share one projection, so their errors may add up.
        deviation += np.sqrt((lengths**2 + products**2) / bundle.k)
    scores = (pool @ dev.T - exact) / deviation
    assert np.sqrt(np.square(scores).mean()) < 1.2
    assert abs(scores).max() < 5
    assert np.corrcoef((pool @ dev.T).ravel(), exact.ravel())[0, 1] > 0.7


def check_products(products, weight, pool, others):
    """Compare products with the exact ones, in a checkpoint's metric."""
    ours, theirs = (weight * np.stack(gradients) for gradients in (pool, others))
    exact = ours @ theirs.T
    assert products.shape == exact.shape
    lengths = np.outer(np.linalg.norm(ours, axis=1), np.linalg.norm(theirs, axis=1))
    # They come from wider sketches than those in the bundle.
    scores = (products - exact) / np.sqrt((lengths**2 + exact**2) / 8192)
    assert np.sqrt(np.square(scores).mean()) < 1.2
    assert abs(scores).max() < 6
    assert np.corrcoef(products.ravel(), exact.ravel())[0, 1] > 0.95


def test_products_with_the_measured_samples(bundle, oracle):
    products = bundle.pool.products(np.arange(len(bundle.pool)))
    measured = [points for role in MEASURED for points in oracle[role]]
    for number, weight in enumerate(weights(bundle)):
        ours, theirs = (
            [points[number + 1][1] for points in of]
            for of in (oracle["pool"], measured)
        )
        check_products(products[:, number], weight, ours, theirs)


def test_products_with_own_answers_are_at_the_untouched_model(bundle, oracle):
    products = bundle.pool.answer_products(np.arange(len(bundle.pool)))
    answers = [points for role in ANSWERS for points in oracle[role]]
    ours, theirs = ([points[1][1] for points in of] for of in (oracle["pool"], answers))
    check_products(products, weights(bundle)[0], ours, theirs)


@pytest.mark.parametrize("role", ANSWERS)
def test_own_answers_have_no_trajectory_sketches(folder, role):
    file = folder / f"{role}-00000.safetensors"
    assert load_file(file).keys() == {*COLUMNS, "initial"}


def test_identity_columns_follow_the_samples(bundle):
    for role, own in by_role(make_data()).items():
        rows = getattr(bundle, role)
        assert rows.hex_ids() == [s.id for s in own]
        assert [bundle.sources[n] for n in rows.sources] == [s.source for s in own]
        named = [bundle.capabilities[n] if n >= 0 else None for n in rows.capabilities]
        has = role in ("anchor", "retention")
        assert named == [s.source if has else None for s in own]
    for role in ANSWERS:
        # An answer has the id of the sample whose prompt it answers.
        reference = getattr(bundle, role.removesuffix("_answers"))
        for name in ("ids", "sources", "capabilities"):
            column = getattr(getattr(bundle, role), name)
            assert column.tolist() == getattr(reference, name).tolist()
    long = make_data().pool[-1]
    assert bundle.pool.tokens[-1] == 96  # three quarters of 128
    assert bundle.pool.hex_ids()[-1] == long.id


@pytest.mark.parametrize("role", ANSWERS)
def test_the_tokens_of_own_answers_are_saved(bundle, encoded, role):
    answers = [one.input_ids[one.response_start :] for one in encoded[role]]
    assert bundle.answer_tokens(role) == answers
    assert getattr(bundle, role).tokens.tolist() == [len(one) for one in answers]


def test_without_own_answers_the_other_shards_are_the_same(settings, tmp_path):
    initial = replace(settings, checkpoints=())
    manifests = {
        kind: sketch(
            few(), tmp_path / kind, replace(initial, anchor_answers=kind)
        ).manifest
        for kind in ANCHOR_ANSWERS
    }
    assert manifests["reference"]["answers"] is None
    assert list(manifests["reference"]["roles"]) == list(ROLES)
    for kind in ("own", "both"):
        assert manifests[kind]["answers"] == {"kind": kind, "max_tokens": 64}
        assert list(manifests[kind]["roles"]) == list(EVERY)
        assert manifests[kind]["files"] == manifests["both"]["files"]
    added = manifests["both"]["files"].keys() - manifests["reference"]["files"].keys()
    assert added == {f"{role}-00000.safetensors" for role in ANSWERS} | {
        "answers.safetensors"
    }
    for name, entry in manifests["reference"]["files"].items():
        assert manifests["both"]["files"][name] == entry


def test_the_manifest_holds_all_that_reproduces_the_bundle(folder, settings, encoded):
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["format"] == "ogs-bundle"
    assert manifest["format_version"] == 6
    assert manifest["name"] == "words"
    assert manifest["command"] == "ogs sketch words"
    assert manifest["proxy"]["id"] == settings.proxy
    assert manifest["proxy"]["precision"] == "float32"
    assert len(manifest["proxy"]["sha256"]) == 64
    adapter = {"kind": "lora", "rank": 4, "alpha": 8, "layers": 2, "seed": 3}
    assert manifest["adapter"] == adapter
    assert manifest["projection"] == {"kind": "countsketch", "k": 128, "seed": 3}
    assert all(entry.pop("weight") > 0 for entry in manifest["checkpoints"])
    assert manifest["checkpoints"] == [{"step": 0}, {"step": 2}, {"step": 5}]
    assert manifest["warm_up_batch"] == BATCH
    cut = {role: sum(one.cut for one in own) for role, own in encoded.items()}
    assert manifest["cut"] == cut
    assert [cut[role] for role in ROLES] == [1, 0, 0, 0, 0]
    assert manifest["answers"] == {"kind": "own", "max_tokens": 64}
    assert manifest["sources"] == make_data().sources
    counts = {"pool": 72, "dev": 20, "test": 4, "anchor": 11, "retention": 7}
    answers = {"anchor_answers": 11, "retention_answers": 7}
    assert manifest["roles"] == counts | answers
    assert manifest["request"]["seed"] == 3
    assert manifest["request"]["learning_rate"] == 1e-2
    present = {path.name for path in folder.iterdir()}
    present -= {"manifest.json", "manifest.sha256"}
    assert present == set(manifest["files"])
    assert "pool-00001.safetensors" in present
    for name, entry in manifest["files"].items():
        content = (folder / name).read_bytes()
        assert entry["sha256"] == hashlib.sha256(content).hexdigest()
        assert entry["bytes"] == len(content)


def test_a_template_that_reads_the_clock_gets_the_date_of_the_manifest(
    settings, folder, tmp_path
):
    model = make_tiny_model(tmp_path / "model")
    template = model / "chat_template.jinja"
    template.write_text("{{ strftime_now('%Y') }}" + template.read_text())
    clocked = replace(settings, proxy=str(model), checkpoints=())
    proxy = sketch(few(), tmp_path / "out", clocked).manifest["proxy"]
    assert proxy["template_date"] == "2026-01-01"
    plain = json.loads((folder / "manifest.json").read_text())["proxy"]
    assert "template_date" not in plain


def test_earlier_turns_are_sketched_too(settings, tmp_path):
    data = few()
    question = data.pool[0]
    turns = (Turn("system", "Answer in blue."), Turn("user", question.prompt))
    data.pool[1] = replace(question, messages=turns)
    initial = replace(settings, checkpoints=())
    pool = sketch(data, tmp_path / "out", initial).pool
    assert pool.hex_ids()[:2] == [question.id, data.pool[1].id]
    assert pool.losses[0] != pool.losses[1]


def test_more_tokens_than_the_proxy_has_positions_are_refused(settings, tmp_path):
    long = replace(settings, checkpoints=(), max_tokens=4096)
    with pytest.raises(InputError, match="LlamaForCausalLM has 2048 positions"):
        sketch(few(), tmp_path / "out", long)
    assert not (tmp_path / "out").exists()


def test_the_learner_is_the_fitted_one(bundle):
    assert bundle.manifest["learner"] == default_learner([0, 2, 5])
    learner = SurrogateLearner(bundle)
    assert tables_of(bundle).kind == "trajectory"
    assert learner.domain_loss() == pytest.approx(bundle.dev.losses.mean(), rel=1e-5)


@pytest.mark.parametrize(
    ("checkpoints", "steps"), [((0,), 3), ((0, 2), 3), ((4,), 4), ((0, 6, 24), 24)]
)
def test_a_warm_up_has_at_least_three_steps(checkpoints, steps):
    assert warm_up_steps(checkpoints) == steps


def test_the_same_request_gives_the_same_bytes(folder, settings, tmp_path):
    torch.rand(3)  # the global generators must not matter
    sketch(make_data(), tmp_path / "again", settings, "ogs sketch words")
    for file in folder.iterdir():
        assert (tmp_path / "again" / file.name).read_bytes() == file.read_bytes()


def test_without_checkpoints_there_is_no_trajectory(settings, tmp_path):
    bundle = sketch(few(), tmp_path / "initial", replace(settings, checkpoints=()))
    assert not bundle.has_trajectory
    assert bundle.manifest["warm_up_batch"] is None
    assert bundle.manifest["checkpoints"] == []
    assert bundle.manifest["learner"] == default_learner([])
    assert tables_of(bundle).kind == "initial"
    assert bundle.basis.shape == (128, 32)


def test_the_space_is_that_of_proxy_adapter_and_projection(settings, tmp_path):
    initial = replace(settings, checkpoints=())
    other_model = make_tiny_model(tmp_path / "model", width=16)
    spaces = {
        name: sketch(few(), tmp_path / name, replace(initial, **changes)).space
        for name, changes in {
            "one": {},
            "same": {"max_tokens": 48},
            "k": {"k": 64},
            "rank": {"rank": 2},
            "layers": {"layers": 1},
            "seed": {"seed": 4},
            "proxy": {"proxy": str(other_model)},
        }.items()
    }
    assert spaces["one"] == spaces.pop("same")
    assert len(set(spaces.values())) == len(spaces)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"k": 0}, "k: is 0; expected a number above 0"),
        ({"rank": -1}, "rank: is -1; expected a number above 0"),
        ({"max_tokens": 8}, "max-tokens: is 8; expected 16 or more"),
        ({"anchor_answers": "owns"}, "unknown anchor answers 'owns'; did you mean own"),
        ({"checkpoints": (5, 2)}, r"checkpoints: are \[5, 2\]; expected ascending"),
        ({"checkpoints": (2, 2)}, r"checkpoints: are \[2, 2\]; expected ascending"),
        ({"checkpoints": (-1, 2)}, r"are \[-1, 2\]; expected ascending steps from 0"),
        (
            {"checkpoints": (10,)},
            "checkpoints: 10 warm-up steps of 8 need 80 samples, the pool has 72",
        ),
        (
            {"checkpoints": (2, 5)},
            r"checkpoints: are \[2, 5\]; own answers need the untouched model among "
            "them; include 0 in --checkpoints or use --anchor-answers reference",
        ),
    ],
)
def test_bad_settings_are_refused_before_anything_is_written(
    settings, tmp_path, changes, line
):
    with pytest.raises(InputError, match=line):
        sketch(make_data(), tmp_path / "out", replace(settings, **changes))
    assert not (tmp_path / "out").exists()


def test_without_own_answers_a_trajectory_may_begin_later(settings, tmp_path):
    later = replace(settings, checkpoints=(2,), anchor_answers="reference")
    data = make_data()
    bundle = sketch(replace(data, pool=data.pool[:24]), tmp_path / "out", later)
    assert [entry["step"] for entry in bundle.manifest["checkpoints"]] == [2]
    assert "answers" not in bundle.manifest["learner"]
    assert SurrogateLearner(bundle).domain_loss() > 0


def test_the_untouched_model_as_only_checkpoint_needs_a_warm_up(settings, tmp_path):
    line = "3 warm-up steps of 8 need 24 samples, the pool has 5"
    with pytest.raises(InputError, match=line):
        sketch(few(), tmp_path / "out", replace(settings, checkpoints=(0,)))


def test_a_sample_in_two_roles_is_refused(settings, tmp_path):
    data = make_data()
    data.pool.append(data.test[0])
    with pytest.raises(InputError, match=r"is in both pool and test; remove it"):
        sketch(data, tmp_path / "out", settings)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("role", ["dev", "anchor"])
def test_an_empty_role_is_refused(settings, tmp_path, role):
    empty = [] if role == "dev" else {"sums": [], "names": []}
    with pytest.raises(InputError, match=f"{role}: is empty; expected at least one"):
        sketch(replace(make_data(), **{role: empty}), tmp_path / "out", settings)
