"""Selectors that read texts, against plain loops over single samples."""

import json
import math
import zlib
from collections import Counter
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.live_bundle import MAX_TOKENS, LiveFiles
from torch.nn.functional import cosine_similarity, cross_entropy

from ogs_env.agents.baselines import reading
from ogs_env.agents.baselines.dsir import DsirSelector
from ogs_env.agents.baselines.ifd import IfdSelector
from ogs_env.agents.baselines.metadata import MetadataSelector
from ogs_env.agents.baselines.rds import RdsSelector
from ogs_env.agents.deployment import load_selector
from ogs_env.agents.selector import READERS, Selector, make_selector
from ogs_env.bundle import Bundle, load_bundle
from ogs_env.cli import main
from ogs_env.data.samples import Sample
from ogs_env.data.texts import bundle_texts
from ogs_env.errors import InputError
from ogs_env.lm.encoding import encode
from ogs_env.lm.loading import load_model

SOME = np.array([3, 40, 17, 0, 29, 8, 33, 21])


@pytest.fixture(scope="module")
def tiny(live_files: LiveFiles) -> Bundle:
    return load_bundle(live_files.bundle)


@pytest.fixture(scope="module")
def texts(tiny: Bundle, live_files: LiveFiles) -> dict[str, Sample]:
    return dict(bundle_texts(tiny, live_files.texts))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _own_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OGS_CACHE", str(cache))


def samples(bundle: Bundle, texts: dict[str, Sample], role: str) -> list[Sample]:
    return [texts[id_] for id_ in getattr(bundle, role).hex_ids()]


def select(
    selector: Selector,
    bundle: Bundle,
    budget: int,
    rows: np.ndarray | None = None,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    return selector.select(bundle, budget, np.random.default_rng(seed), rows)


# DSIR


def ngrams(sample: Sample) -> Counter[int]:
    def kind(letter: str) -> int:
        return 0 if letter.isspace() else 1 if letter.isalnum() else 2

    text = f"{sample.prompt}\n{sample.response}".lower()
    words = ["".join(run) for which, run in groupby(text, kind) if which]
    counts: Counter[int] = Counter()
    for place, word in enumerate(words):
        counts[zlib.crc32(word.encode()) % 10_000] += 1
        if place:
            pair = f"{words[place - 1]} {word}"
            counts[zlib.crc32(pair.encode()) % 10_000] += 1
    return counts


def log_weights(bundle: Bundle, texts: dict[str, Sample]) -> np.ndarray:
    pool, dev = (
        [ngrams(sample) for sample in samples(bundle, texts, role)]
        for role in ("pool", "dev")
    )
    counts = [sum(group, Counter()) for group in (pool, dev)]
    values = []
    for own in pool:
        total = 0.0
        for bucket, times in own.items():
            q, p = (each[bucket] / sum(each.values()) for each in counts)
            total += times * (math.log((p + q) / 2) - math.log(q))
        values.append(total)
    return np.array(values)


def test_dsir_scores_are_log_weights_plus_gumbel_noise(
    tiny: Bundle, texts: dict[str, Sample]
) -> None:
    weights = log_weights(tiny, texts)
    order, scores = select(DsirSelector(texts), tiny, 48, seed=3)
    noise = np.random.default_rng(3).gumbel(size=48)
    np.testing.assert_allclose(scores, (weights + noise)[order], rtol=1e-5, atol=1e-5)
    assert (np.diff(scores) <= 0).all()
    # The dev samples are of the pool's first source.
    own = tiny.pool.sources == tiny.dev.sources[0]
    assert weights[own].mean() > weights[~own].mean() + 1
    some, scores = select(DsirSelector(texts), tiny, 3, SOME, seed=4)
    expected = weights[SOME] + np.random.default_rng(4).gumbel(size=len(SOME))
    np.testing.assert_array_equal(some, SOME[np.argsort(-expected)[:3]])
    np.testing.assert_allclose(scores, np.sort(expected)[:-4:-1], rtol=1e-5)


def test_dsir_draws_without_replacement_by_its_weights(
    tiny: Bundle, texts: dict[str, Sample]
) -> None:
    weights = log_weights(tiny, texts)
    rows = np.argsort(weights)[20:23]
    shares = np.exp(weights[rows]) / np.exp(weights[rows]).sum()
    assert shares.min() > 0.05
    selector, rng, draws = DsirSelector(texts), np.random.default_rng(0), 6000
    counts = Counter(
        tuple(selector.select(tiny, 2, rng, rows)[0].tolist()) for _ in range(draws)
    )
    for one in range(3):
        for two in {0, 1, 2} - {one}:
            chance = shares[one] * shares[two] / (1 - shares[one])
            spread = math.sqrt(draws * chance * (1 - chance))
            count = counts[int(rows[one]), int(rows[two])]
            assert abs(count - draws * chance) < 5 * spread


# RDS+


@pytest.fixture(scope="module")
def cosines(
    tiny: Bundle, texts: dict[str, Sample], live_files: LiveFiles
) -> np.ndarray:
    model, tokenizer = load_model(live_files.model)

    def mean(sample: Sample) -> torch.Tensor:
        ids = encode(tokenizer, sample.prompt, sample.response, MAX_TOKENS).input_ids
        with torch.no_grad():
            states = model(torch.tensor([ids]), output_hidden_states=True).hidden_states
        total = sum((t + 1) * state for t, state in enumerate(states[-1][0]))
        return total / sum(range(1, len(ids) + 1))

    pool, dev = (
        [mean(sample) for sample in samples(tiny, texts, role)]
        for role in ("pool", "dev")
    )
    return np.array([[cosine_similarity(p, d, 0) for d in dev] for p in pool])


def turns(cosines: np.ndarray) -> tuple[list[int], list[float]]:
    """Round-robin over dev samples; in a round, the highest cosine is first."""
    wishes = [np.argsort(-column, kind="stable").tolist() for column in cosines.T]
    order: list[int] = []
    scores: list[float] = []
    for number in range(len(cosines)):
        offers: dict[int, float] = {}
        for dev, wish in enumerate(wishes):
            row = wish[number]
            if row not in order:
                offers[row] = max(offers.get(row, -1), cosines[row, dev])
        best_first = sorted(sorted(offers), key=lambda row: -offers[row])
        order += best_first
        scores += [offers[row] for row in best_first]
    return order, scores


def test_rds_selects_round_robin(
    tiny: Bundle, texts: dict[str, Sample], cosines: np.ndarray
) -> None:
    selector = RdsSelector(texts)
    for rows in (np.arange(48), SOME):
        expected, expected_scores = turns(cosines[rows])
        order, scores = select(selector, tiny, len(rows), rows)
        np.testing.assert_array_equal(order, rows[expected])
        np.testing.assert_allclose(scores, expected_scores, atol=1e-5)
        few, few_scores = select(selector, tiny, 3, rows, seed=9)
        np.testing.assert_array_equal(few, order[:3])
        np.testing.assert_array_equal(few_scores, scores[:3])


# IFD


@pytest.fixture(scope="module")
def difficulty(
    tiny: Bundle, texts: dict[str, Sample], live_files: LiveFiles
) -> np.ndarray:
    model, tokenizer = load_model(live_files.model)

    def loss(prompt: str, response: str) -> float:
        encoded = encode(tokenizer, prompt, response, MAX_TOKENS)
        ids, start = torch.tensor([encoded.input_ids]), encoded.response_start
        with torch.no_grad():
            logits = model(ids).logits[0]
        return float(cross_entropy(logits[start - 1 : -1], ids[0, start:]))

    values = []
    for row, sample in enumerate(samples(tiny, texts, "pool")):
        conditional_loss = loss(sample.prompt, sample.response)
        assert conditional_loss == pytest.approx(tiny.pool.losses[row], rel=1e-4)
        values.append(conditional_loss / loss("", sample.response))
    return np.array(values)


def test_ifd_selects_the_highest_below_one_first(
    tiny: Bundle, texts: dict[str, Sample], difficulty: np.ndarray
) -> None:
    selector = IfdSelector(texts)
    order, scores = select(selector, tiny, 48)
    helped = int((difficulty < 1).sum())
    assert 5 < helped < 43
    ranked = difficulty[order]
    assert (ranked[:helped] < 1).all()
    assert (np.diff(ranked[:helped]) <= 1e-4).all()
    assert (np.diff(ranked[helped:]) >= -1e-4).all()
    np.testing.assert_allclose(scores[:helped], ranked[:helped], rtol=1e-4)
    np.testing.assert_allclose(scores[helped:], -ranked[helped:], rtol=1e-4)
    some, _ = select(selector, tiny, 4, SOME)
    np.testing.assert_array_equal(some, [row for row in order if row in SOME][:4])


# Metadata


def test_metadata_ranks_by_values_or_by_length(tiny: Bundle) -> None:
    tokens = tiny.pool.tokens
    order, scores = select(MetadataSelector(), tiny, 48)
    np.testing.assert_array_equal(scores, tokens[order])
    np.testing.assert_array_equal(order, np.lexsort((np.arange(48), -tokens)))
    values = dict(zip(tiny.pool.hex_ids(), np.arange(48) % 7 - 3.5, strict=True))
    order, scores = select(MetadataSelector(values), tiny, 9)
    np.testing.assert_array_equal(order, [6, 13, 20, 27, 34, 41, 5, 12, 19])
    np.testing.assert_array_equal(scores, [2.5] * 6 + [1.5] * 3)
    order, _ = select(MetadataSelector(values), tiny, 2, np.array([7, 1, 8]))
    np.testing.assert_array_equal(order, [1, 8])


def test_metadata_needs_a_number_for_each_pool_sample(tiny: Bundle) -> None:
    ids = tiny.pool.hex_ids()
    for values in ({}, dict.fromkeys(ids, 1.0) | {ids[2]: math.nan}):
        missing_id = ids[2] if values else ids[0]
        with pytest.raises(
            InputError, match=f"no finite value .the first is {missing_id}"
        ):
            select(MetadataSelector(values), tiny, 2)


# Cached results


@pytest.mark.parametrize("kind", [RdsSelector, IfdSelector])
def test_results_are_cached(
    kind: type[RdsSelector] | type[IfdSelector],
    tiny: Bundle,
    texts: dict[str, Sample],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OGS_CACHE", str(tmp_path))
    with pytest.raises(InputError, match="texts of bundle 'tiny' are not known"):
        select(kind(), tiny, 5)
    assert list(tmp_path.iterdir()) == []
    expected = select(kind(texts), tiny, 20)
    [file] = tmp_path.iterdir()
    # Missing texts
    np.testing.assert_array_equal(select(kind(), tiny, 20), expected)
    file.write_bytes(b"torn")
    with pytest.raises(InputError, match="texts of bundle 'tiny' are not known"):
        select(kind(), tiny, 5)
    monkeypatch.setattr(reading, "_CHUNK", 7)
    order, scores = select(kind(texts), tiny, 20)
    np.testing.assert_array_equal(order, expected[0])
    np.testing.assert_allclose(scores, expected[1], rtol=1e-4)
    np.testing.assert_array_equal(select(kind(), tiny, 20), (order, scores))


# Bad input, names and the command line


@pytest.mark.parametrize("name", READERS)
def test_texts_reach_the_selector(
    name: str, tiny: Bundle, texts: dict[str, Sample], live_files: LiveFiles
) -> None:
    expected = select(make_selector(name, texts), tiny, 6)
    loaded = select(load_selector(name, live_files.texts), tiny, 6)
    np.testing.assert_array_equal(loaded, expected)


@pytest.mark.parametrize("name", READERS)
def test_missing_texts_raise(
    name: str,
    tiny: Bundle,
    bundle: Bundle,
    texts: dict[str, Sample],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OGS_CACHE", str(tmp_path))
    for role in READERS[name]:
        rows = getattr(tiny, role)
        fewer = {id_: texts[id_] for id_ in texts if id_ != rows.hex_ids()[-1]}
        with pytest.raises(InputError, match=f"1 of {len(rows)} {role} samples"):
            select(make_selector(name, fewer), tiny, 6)
    others = {id_: texts[id_] for id_ in texts if id_ not in tiny.anchor.hex_ids()}
    assert len(select(make_selector(name, others), tiny, 6)[0]) == 6
    with pytest.raises(InputError, match="made"):
        select(make_selector(name), bundle, 6)


def test_a_bundle_without_texts_raises(bundle: Bundle) -> None:
    with pytest.raises(InputError, match=r"lacks 'max_tokens', .*ogs sketch"):
        select(RdsSelector({}), bundle, 6)


def ogs(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, list[str]]:
    capsys.readouterr()
    status = main(["select", *map(str, args)])
    return status, capsys.readouterr().err.splitlines()


def lines(folder: Path) -> list[dict[str, object]]:
    text = (folder / "selection.jsonl").read_text("utf-8")
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize("name", READERS)
def test_the_command_reads_one_or_several_files(
    name: str,
    live_files: LiveFiles,
    tiny: Bundle,
    texts: dict[str, Sample],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = ["--agent", name, "--bundle", live_files.bundle, "--budget", "6"]
    arguments += ["--out", str(tmp_path / "out")]
    status, output = ogs(capsys, *arguments, "--texts", *live_files.texts)
    assert status == 0, output
    selected = lines(tmp_path / "out")
    order, _ = select(make_selector(name, texts), tiny, 6)
    assert [line["row"] for line in selected] == order.tolist()
    prompt = texts[str(selected[0]["id"])].prompt
    assert selected[0]["prompt"] == [{"role": "user", "content": prompt}]
    status, [*_, output] = ogs(capsys, *arguments, "--texts", live_files.texts[1])
    assert status == 2
    assert f"{live_files.texts[1]}: 48 of 48 pool samples of bundle 'tiny'" in output


def test_the_command_ranks_by_a_field(
    live_files: LiveFiles, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pool = tmp_path / "pool.jsonl"
    records = [
        {"prompt": sample.prompt, "response": sample.response, "impact": row % 10}
        for row, sample in enumerate(live_files.data.pool)
    ]
    pool.write_text("".join(f"{json.dumps(record)}\n" for record in records))
    arguments = ["--agent", "metadata", "--bundle", live_files.bundle, "--budget", "5"]
    arguments += ["--out", tmp_path / "out", "--rank-by", "impact"]
    status, output = ogs(capsys, *arguments, "--texts", pool)
    assert (status, output) == (0, [f"{pool}: 48 records, read as prompt-response"])
    assert [line["row"] for line in lines(tmp_path / "out")] == [9, 19, 29, 39, 8]
    summary = json.loads((tmp_path / "out" / "selection.json").read_text())
    assert summary["agent"] == "metadata by impact"

    status, [output] = ogs(capsys, *arguments)
    assert status == 2
    assert "--rank-by: no texts to read the field 'impact' from" in output
    status, [output] = ogs(capsys, *arguments, "--texts", pool, "--agent", "orth")
    assert status == 2
    assert "--rank-by: agent 'orth' ranks by no field" in output
    records[3]["impact"] = "high"
    pool.write_text("".join(f"{json.dumps(record)}\n" for record in records))
    status, [_, output] = ogs(capsys, *arguments, "--texts", pool)
    assert status == 2
    assert f"{pool}:4: field 'impact' is 'high'; expected a finite number" in output
