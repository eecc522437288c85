import copy
import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.make_bundle import edit_manifest, make_bundle
from safetensors.numpy import load_file, save_file

from ogs_env.bundle import Bundle, load_bundle
from ogs_env.errors import InputError
from ogs_env.experiments.speed.random_bundle import write_random_bundle
from ogs_env.files import sha256_of
from ogs_env.tensor_files import TensorFile


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_bundle(tmp_path / "b", pool=60, k=16, held_out=12, shards=3)


def rewrite(folder: Path, name: str, tensors: dict[str, np.ndarray]) -> None:
    """Write a shard and update its hash in the manifest."""
    save_file(tensors, folder / name)
    files = json.loads((folder / "manifest.json").read_text())["files"]
    files[name]["sha256"] = sha256_of(folder / name)
    edit_manifest(folder, files=files)


def test_rows_of_several_shards_are_those_of_the_files_in_order(folder: Path) -> None:
    bundle = load_bundle(folder)
    shards = [load_file(folder / f"pool-{n:05d}.safetensors") for n in range(3)]
    for kind, width in (("initial", 16), ("trajectory", 32)):
        whole = np.concatenate([shard[kind] for shard in shards]).astype(np.float32)
        assert whole.shape == (60, width)
        np.testing.assert_array_equal(bundle.pool.sketches(kind), whole)
        some = np.array([59, 0, 20, 19, 21, 20])
        sketches = bundle.pool.sketches(kind, some)
        assert sketches.dtype == np.float32
        np.testing.assert_array_equal(sketches, whole[some])
        blocks = list(bundle.pool.blocks(kind))
        assert [first for first, _ in blocks] == [0, 20, 40]
        np.testing.assert_array_equal(np.concatenate([b for _, b in blocks]), whole)
    ids = np.concatenate([shard["ids"] for shard in shards])
    np.testing.assert_array_equal(bundle.pool.ids, ids)
    assert bundle.pool.hex_ids()[7] == f"{int(ids[7]):016x}"


@pytest.mark.parametrize("together", [1, 3000, 2**27])
def test_sketches_of_parts_are_those_of_their_rows(
    folder: Path, monkeypatch: pytest.MonkeyPatch, together: int
) -> None:
    weights = [{"step": 0, "weight": 0.5}, {"step": 6, "weight": 2.0}]
    edit_manifest(folder, checkpoints=weights)
    pool = load_bundle(folder).pool
    monkeypatch.setattr("ogs_env.rows._TOGETHER", together)
    drawn = np.random.default_rng(0).permutation(60)
    parts = [drawn[:30], drawn[30:31], np.arange(0), drawn[31:], drawn[:5]]
    for kind in ("initial", "trajectory"):
        sketches = list(pool.sketches_of_parts(kind, parts))
        assert [s.dtype for s in sketches] == [np.float32] * 5
        for part, read in zip(parts, sketches, strict=True):
            np.testing.assert_array_equal(read, pool.sketches(kind, part))


def test_blocks_of_a_large_shard_are_small(tmp_path: Path) -> None:
    pool = load_bundle(make_bundle(tmp_path / "b", pool=9000, k=8, d=4)).pool
    blocks = list(pool.blocks("initial"))
    assert [(first, len(block)) for first, block in blocks] == [
        *((0, 4096), (4096, 4096), (8192, 808))
    ]
    np.testing.assert_array_equal(
        np.concatenate([block for _, block in blocks]), pool.sketches("initial")
    )


def test_a_bundle_of_more_files_than_a_process_may_open(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    write_random_bundle(tmp_path / "b", 256 * 300, k=32)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, limits[1]))
    try:
        bundle = load_bundle(tmp_path / "b")
        rows = np.arange(0, 256 * 300, 256)
        assert len(np.unique(bundle.pool.sketches("initial", rows))) > 300
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_a_file_changed_after_loading_is_refused(folder: Path) -> None:
    name = "pool-00000.safetensors"
    later = TensorFile(folder / name)
    (folder / name).write_bytes(b"\0" + (folder / name).read_bytes())
    with pytest.raises(InputError, match=rf"{name}: was changed after its bundle was"):
        later.read("losses")
    (folder / name).unlink()
    with pytest.raises(InputError, match=rf"{name}: cannot be read .*; put it back"):
        later.read("losses")


@pytest.mark.parametrize(
    "change",
    [
        {"shape": [21]},
        {"shape": [-20]},
        {"shape": [True]},
        {"data_offsets": [0, 10**12]},
        {"data_offsets": [-80, 0]},
        {"data_offsets": [0]},
        {"dtype": "F8"},
    ],
)
def test_a_header_that_does_not_fit_its_file_is_refused(
    folder: Path, change: dict[str, Any]
) -> None:
    file = folder / "pool-00000.safetensors"
    data = file.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header["losses"] |= change
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])
    with pytest.raises(InputError, match=r"pool-00000.safetensors: is no safetensors"):
        TensorFile(file)


def test_columns_are_read_only(folder: Path) -> None:
    with pytest.raises(ValueError, match="read-only"):
        load_bundle(folder).pool.losses[0] = 0


def test_cosines_are_those_of_the_initial_sketches(folder: Path) -> None:
    bundle = load_bundle(folder)
    rows = np.array([3, 50])
    units = bundle.pool.sketches("initial", rows).astype(np.float64)
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    domain = bundle.dev.sketches("initial").mean(0)
    np.testing.assert_allclose(
        bundle.domain_cosines(rows), units @ domain / np.linalg.norm(domain), atol=1e-5
    )
    anchors = bundle.anchor.sketches("initial")
    for number in range(2):
        mean = anchors[bundle.anchor.capabilities == number].mean(0)
        np.testing.assert_allclose(
            bundle.anchor_cosines(rows)[:, number],
            units @ mean / np.linalg.norm(mean),
            atol=1e-5,
        )


def test_split_divides_the_pool_by_id(bundle: Bundle) -> None:
    train, test, both = (bundle.split(name) for name in ("train", "test", "all"))
    assert sorted([*train, *test]) == both.tolist() == list(range(len(bundle.pool)))
    assert 0.2 < len(test) / len(both) < 0.3
    assert (bundle.pool.ids[test] % 4 == 3).all()
    assert (bundle.pool.ids[train] % 4 != 3).all()
    with pytest.raises(InputError, match="unknown split 'tets'; did you mean test"):
        bundle.split("tets")


def test_copies_and_pickles_share_the_bundle(bundle_folder: Path) -> None:
    bundle = load_bundle(bundle_folder)
    assert copy.copy(bundle) is bundle
    assert copy.deepcopy([bundle])[0] is bundle
    assert pickle.loads(pickle.dumps(bundle)) is bundle
    assert len(pickle.dumps(bundle)) < 1000
    assert load_bundle(str(bundle.path)) is bundle


def test_a_changed_byte_is_detected(folder: Path) -> None:
    file = folder / "pool-00001.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(InputError, match=r"pool-00001.safetensors: its bytes are not"):
        load_bundle(folder)


@pytest.fixture
def hashed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """Names of the files whose hashes were computed since the last call.

    Bundles of any size are remembered, even if they were just written.
    """
    monkeypatch.setenv("OGS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("ogs_env.verified.SMALLEST", 0)
    monkeypatch.setattr("ogs_env.verified._SETTLED", 0)
    names: list[str] = []

    def recorded(file: Path) -> str:
        names.append(file.name)
        return sha256_of(file)

    def since() -> list[str]:
        computed = sorted(names)
        names.clear()
        return computed

    monkeypatch.setattr("ogs_env.bundle_files.sha256_of", recorded)
    return since


def shards_of(folder: Path) -> list[str]:
    return sorted(json.loads((folder / "manifest.json").read_text())["files"])


def test_unchanged_files_are_verified_once(
    folder: Path, hashed: Callable[[], list[str]]
) -> None:
    Bundle(folder)
    assert set(hashed()) >= set(shards_of(folder))
    bundle = Bundle(folder)
    assert hashed() == ["manifest.json"]
    assert len(bundle.pool) == 60
    name = "pool-00001.safetensors"
    (folder / name).touch()
    Bundle(folder)
    assert hashed() == ["manifest.json", name]
    copied = folder / "copy"
    shutil.copy2(folder / name, copied)
    copied.replace(folder / name)  # the same size and time
    Bundle(folder)
    assert hashed() == ["manifest.json", name]


def test_a_changed_byte_of_a_verified_bundle_is_detected(
    folder: Path, hashed: Callable[[], list[str]]
) -> None:
    Bundle(folder)
    name = "pool-00001.safetensors"
    times = (folder / name).stat()
    with (folder / name).open("r+b") as file:
        file.seek(-1, 2)
        last = file.read(1)[0]
        file.seek(-1, 2)
        file.write(bytes([last ^ 1]))
    # The time of modification can be set back, that of the change cannot.
    os.utime(folder / name, ns=(times.st_atime_ns, times.st_mtime_ns))
    for _ in range(2):
        with pytest.raises(InputError, match=rf"{name}: its bytes are not those"):
            Bundle(folder)
    (folder / name).unlink()
    with pytest.raises(InputError, match=rf"{name}: is missing"):
        Bundle(folder)


def test_another_manifest_verifies_all_files_again(
    folder: Path, hashed: Callable[[], list[str]]
) -> None:
    Bundle(folder)
    hashed()
    edit_manifest(folder, sources=[{"name": "alpha"}])
    with pytest.raises(InputError, match="'sources' names number"):
        Bundle(folder)
    assert set(hashed()) >= set(shards_of(folder))


@pytest.mark.parametrize("text", ["", "[]", "{}", "[" * 100_000])
def test_a_damaged_memory_of_verified_files_is_not_used(
    tmp_path: Path, folder: Path, hashed: Callable[[], list[str]], text: str
) -> None:
    Bundle(folder)
    (file,) = (tmp_path / "cache" / "verified").iterdir()
    file.write_text(text)
    hashed()
    Bundle(folder)
    assert set(hashed()) >= set(shards_of(folder))
    Bundle(folder)
    assert hashed() == ["manifest.json"]


def test_files_that_may_still_change_are_not_remembered(
    folder: Path, hashed: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ogs_env.verified._SETTLED", 10**12)
    for _ in range(2):
        Bundle(folder)
        assert set(hashed()) >= set(shards_of(folder))


def test_without_a_cache_folder_bundles_are_verified_each_time(
    tmp_path: Path,
    folder: Path,
    hashed: Callable[[], list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("OGS_CACHE", str(tmp_path / "file"))
    for _ in range(2):
        Bundle(folder)
        assert set(hashed()) >= set(shards_of(folder))


def test_small_bundles_are_always_verified(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OGS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("ogs_env.verified._SETTLED", 0)
    Bundle(folder)
    assert not (tmp_path / "cache").exists()


def test_without_verification_only_shapes_are_checked(folder: Path) -> None:
    name = "pool-00000.safetensors"
    tensors = load_file(folder / name)
    tensors["losses"][4] = np.nan
    save_file(tensors, folder / name)
    bundle = load_bundle(folder, verify=False)
    assert np.isnan(bundle.pool.losses[4])
    assert pickle.loads(pickle.dumps(bundle)) is bundle
    with pytest.raises(InputError, match=r"pool-00000.safetensors: its bytes are not"):
        load_bundle(folder)
    del tensors["losses"]
    save_file(tensors, folder / name)
    edit_manifest(folder, name="changed")
    with pytest.raises(InputError, match=r"tensor 'losses' should have shape"):
        load_bundle(folder, verify=False)


def test_a_missing_shard_is_named(folder: Path) -> None:
    (folder / "dev-00000.safetensors").unlink()
    with pytest.raises(InputError, match=r"dev-00000.safetensors: is missing"):
        load_bundle(folder)


def test_a_shard_missing_in_the_manifest_is_refused(folder: Path) -> None:
    files = json.loads((folder / "manifest.json").read_text())["files"]
    del files["pool-00002.safetensors"]
    edit_manifest(folder, files=files)
    with pytest.raises(InputError, match="'pool' has 40 rows, the manifest says 60"):
        load_bundle(folder)


@pytest.mark.parametrize("tensor", ["trajectory", "losses"])
def test_a_nan_is_named_with_row_and_sample(folder: Path, tensor: str) -> None:
    name = "pool-00000.safetensors"
    tensors = load_file(folder / name)
    tensors[tensor][4] = np.nan
    rewrite(folder, name, tensors)
    sample = f"{int(tensors['ids'][4]):016x}"
    with pytest.raises(InputError, match=f"'{tensor}' holds a NaN .* row 4 .*{sample}"):
        load_bundle(folder)


def test_a_source_that_the_manifest_does_not_list_is_refused(folder: Path) -> None:
    edit_manifest(folder, sources=[{"name": "alpha"}])
    with pytest.raises(InputError, match=r"'sources' names number \d, .* lists 1 so"):
        load_bundle(folder)


def test_a_role_that_the_manifest_does_not_count_is_refused(folder: Path) -> None:
    edit_manifest(folder, roles={"pool": 60})
    with pytest.raises(InputError, match="'dev' has 12 rows, the manifest says None"):
        load_bundle(folder)


def test_another_k_is_refused(folder: Path) -> None:
    edit_manifest(folder, projection={"k": 32})
    with pytest.raises(InputError, match=r"'initial' should have shape \(\d+, 32\)"):
        load_bundle(folder)


def test_a_basis_of_another_k_is_refused(folder: Path) -> None:
    basis = {"basis": np.ones((8, 4), np.float32)}
    rewrite(folder, "basis.safetensors", basis)
    with pytest.raises(InputError, match="'basis' of 16 rows"):
        load_bundle(folder)


@pytest.mark.parametrize(
    "scales",
    [
        None,
        np.ones(6, np.float32),
        np.float32([[1, 2, 3], [1, 0, 1]]),
        np.float32([[1, 2, 3], [1, 1, np.nan]]),
    ],
)
def test_invalid_scales_are_refused(folder: Path, scales: np.ndarray | None) -> None:
    tensors = load_file(folder / "basis.safetensors") | {"scales": scales}
    replaced = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    rewrite(folder, "basis.safetensors", replaced)
    message = r"'scales' (of shape \(2, 3\), its second row|holds a NaN)"
    with pytest.raises(InputError, match=message):
        load_bundle(folder)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("name", 3),
        ("projection", {"k": "64"}),
        ("checkpoints", [True]),
        ("checkpoints", [{"step": 0, "weight": 0}]),
        ("checkpoints", [{"step": 0, "weight": float("nan")}]),
        ("checkpoints", [{"step": 0, "weight": 10**400}]),
        ("sources", [{}]),
        ("capabilities", "maths"),
        ("roles", [1]),
        ("files", {"basis.safetensors": None}),
        ("domain_norm", {}),
        ("anchor_norms", [float("nan")]),
        ("learner", float("nan")),
    ],
)
def test_a_damaged_entry_is_named(folder: Path, name: str, value: Any) -> None:
    edit_manifest(folder, **{name: value})
    with pytest.raises(InputError, match=rf"manifest.json: '{name}' is damaged; rebui"):
        load_bundle(folder)


def test_a_changed_manifest_is_refused(folder: Path) -> None:
    file = folder / "manifest.json"
    file.write_text(file.read_text().replace('"name": ', '"name":  ', 1))
    with pytest.raises(InputError, match=r"manifest.json: its bytes are not those"):
        load_bundle(folder)
    # Bundles of earlier versions have no checksum of the manifest.
    (folder / "manifest.sha256").unlink()
    assert load_bundle(folder).name == "made"


def test_a_missing_column_is_named(folder: Path) -> None:
    name = "anchor-00000.safetensors"
    tensors = load_file(folder / name)
    del tensors["tokens"]
    rewrite(folder, name, tensors)
    with pytest.raises(InputError, match=r"anchor-00000.*'tokens'.*found nothing"):
        load_bundle(folder)


def test_own_answers_are_roles_with_their_tokens(folder: Path) -> None:
    bundle = load_bundle(folder)
    assert bundle.has_answers
    assert bundle.measured == (
        *("dev", "test", "anchor", "retention"),
        *("anchor_answers", "retention_answers"),
    )
    for role, of in (("anchor_answers", "anchor"), ("retention_answers", "retention")):
        rows, tokens = getattr(bundle, role), bundle.answer_tokens(role)
        assert set(rows.ids.tolist()) <= set(getattr(bundle, of).ids.tolist())
        assert [len(ids) for ids in tokens] == rows.tokens.tolist()
        assert tokens == [[n % 50 for n in range(t)] for t in rows.tokens.tolist()]
    for number in range(2):
        own = bundle.anchor_answers.capabilities[bundle.answer_rows(number)]
        assert set(own.tolist()) == {number}
    measured = sum(len(getattr(bundle, role)) for role in bundle.measured[:4])
    assert bundle.pool.products(np.arange(3)).shape == (3, 2, measured)


def test_answer_products_have_the_untouched_models_weight(folder: Path) -> None:
    names = [f"answers-pool-{number:05d}.safetensors" for number in range(3)]
    products, units = [], np.random.default_rng(0).uniform(1, 9, 60).astype(np.float32)
    for number, name in enumerate(names):
        tensors = load_file(folder / name)
        products.append(tensors["answer_products"].astype(np.float64))
        tensors["answer_units"] = units[20 * number : 20 * number + 20]
        rewrite(folder, name, tensors)
    weights = [{"step": 0, "weight": 0.5}, {"step": 6, "weight": 2.0}]
    edit_manifest(folder, checkpoints=weights)
    bundle = load_bundle(folder)
    rows = np.array([59, 0, 20, 19, 21, 20])
    loaded_products = bundle.pool.answer_products(rows)
    answers = len(bundle.anchor_answers) + len(bundle.retention_answers)
    assert loaded_products.shape == (6, answers)
    assert loaded_products.dtype == np.float32
    expected = 0.25 * units[rows, None] * np.concatenate(products)[rows]
    np.testing.assert_allclose(loaded_products, expected, rtol=1e-6)


@pytest.mark.parametrize("name", ["answer_products", "answer_units"])
def test_a_trajectory_without_answer_products_is_refused(
    folder: Path, name: str
) -> None:
    file = "answers-pool-00001.safetensors"
    tensors = load_file(folder / file)
    del tensors[name]
    rewrite(folder, file, tensors)
    with pytest.raises(InputError, match=rf"b/{file}: tensor '{name}'.* found nothing"):
        load_bundle(folder)


def test_a_bundle_may_have_no_answers(tmp_path: Path) -> None:
    folder = make_bundle(tmp_path / "b", pool=60, k=16, held_out=12, answers=False)
    bundle = load_bundle(folder)
    assert not bundle.has_answers
    assert bundle.measured == ("dev", "test", "anchor", "retention")
    assert bundle.pool.products(np.arange(3)).shape == (3, 2, 48)


def damaged_answers(folder: Path, change: str) -> dict[str, np.ndarray]:
    tensors = load_file(folder / "answers.safetensors")
    tokens = tensors["anchor_answers"]
    changed = {
        "missing": None,
        "flat": tokens[0].copy(),
        "a row short": tokens[1:].copy(),
        "a token short": np.where(np.arange(len(tokens[0])) == 0, -1, tokens),
    }[change]
    del tensors["anchor_answers"]
    return tensors if changed is None else {**tensors, "anchor_answers": changed}


@pytest.mark.parametrize("change", ["missing", "flat", "a row short", "a token short"])
def test_answers_without_their_tokens_are_refused(folder: Path, change: str) -> None:
    rewrite(folder, "answers.safetensors", damaged_answers(folder, change))
    with pytest.raises(
        InputError, match=r"answers.safetensors: tensor 'anchor_answers' should be int"
    ):
        load_bundle(folder)


def test_answers_without_their_sample_are_refused(folder: Path) -> None:
    name = "retention_answers-00000.safetensors"
    tensors = load_file(folder / name)
    tensors["ids"][2] = 7
    rewrite(folder, name, tensors)
    with pytest.raises(
        InputError, match=r"retention_answers has 1 samples that answer none of the ret"
    ):
        load_bundle(folder)


def test_a_capability_without_answers_is_named(folder: Path) -> None:
    name = "anchor_answers-00000.safetensors"
    tensors = load_file(folder / name)
    tensors["capabilities"][:] = 0
    rewrite(folder, name, tensors)
    with pytest.raises(InputError, match=r"capability 'knowledge' has no own answers"):
        load_bundle(folder).answer_rows(1)


def test_a_missing_basis_is_refused(folder: Path) -> None:
    files = json.loads((folder / "manifest.json").read_text())["files"]
    del files["basis.safetensors"]
    edit_manifest(folder, files=files)
    (folder / "basis.safetensors").unlink()
    with pytest.raises(InputError, match=r"basis.safetensors: is no safetensors file"):
        load_bundle(folder)


def test_a_file_that_is_no_safetensors_is_named(folder: Path) -> None:
    name = "test-00000.safetensors"
    (folder / name).write_bytes(b"\xff" * 64)
    files = json.loads((folder / "manifest.json").read_text())["files"]
    files[name]["sha256"] = sha256_of(folder / name)
    edit_manifest(folder, files=files)
    with pytest.raises(InputError, match=r"test-00000.*is no safetensors file"):
        load_bundle(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"format_version": 1},
            "format version 1, this ogs_env reads version 6",
        ),
        ({"format": "other"}, "is no manifest of an ogs_env bundle"),
        ({"learner": None}, "lacks 'learner'"),
        (
            {"answers": {"kind": "ours"}},
            "'answers' are of kind 'ours'; expected own or",
        ),
        ({"answers": True}, "'answers' are of kind True; expected own or both"),
        (
            {"checkpoints": [{"step": s, "weight": 1.0} for s in (2, 5)]},
            r"has own answers, and checkpoints at \[2, 5\]; expected the first at 0",
        ),
    ],
)
def test_other_manifests_are_refused(
    folder: Path, changes: dict[str, object], message: str
) -> None:
    edit_manifest(folder, **changes)
    with pytest.raises(InputError, match=message):
        load_bundle(folder)


def test_a_manifest_that_is_no_json_is_refused(folder: Path) -> None:
    (folder / "manifest.json").write_text("{")
    with pytest.raises(InputError, match=r"is no JSON .* with `ogs sketch`"):
        load_bundle(folder)


def test_unknown_names_and_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_bundle(tmp_path / "shipped" / "medical", pool=40, k=8, d=4, held_out=8)
    monkeypatch.setattr("ogs_env.bundle.SHIPPED", tmp_path / "shipped")
    assert load_bundle("medical").path == tmp_path / "shipped" / "medical"
    with pytest.raises(InputError, match="unknown bundle 'medcal'; did you mean med"):
        load_bundle("medcal")
    with pytest.raises(InputError, match="no such folder"):
        load_bundle(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"manifest.json: no such file"):
        load_bundle(tmp_path)


def test_a_changed_bundle_is_loaded_again(tmp_path: Path) -> None:
    first = load_bundle(make_bundle(tmp_path / "b", pool=40, k=8, d=4, held_out=8))
    make_bundle(tmp_path / "b", pool=44, k=8, d=4, held_out=8, seed=1)
    second = load_bundle(tmp_path / "b")
    assert (len(first.pool), len(second.pool)) == (40, 44)


def test_without_checkpoints_there_is_no_trajectory(tmp_path: Path) -> None:
    folder = make_bundle(tmp_path / "b", pool=40, k=8, d=4, held_out=8, checkpoints=0)
    assert not load_bundle(folder).has_trajectory


def test_observation_basis_has_rms_1_over_the_pool(bundle: Bundle) -> None:
    initial = bundle.pool.sketches("initial")
    observed = initial / np.linalg.norm(initial, axis=1, keepdims=True) @ bundle.basis
    np.testing.assert_allclose(np.sqrt(np.square(observed).mean(0)), 1, rtol=1e-3)
