"""`ogs benchmark` on small bundles and untrained agents."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from helpers.infos import terms_of
from helpers.make_bundle import edit_manifest, make_bundle
from matplotlib import image
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from stable_baselines3 import PPO

from ogs_env.agents.evaluation import evaluate, play_episode
from ogs_env.agents.navigator import Navigator, build_network
from ogs_env.agents.policies import make_policy, selection_env
from ogs_env.bundle import load_bundle
from ogs_env.cli import main
from ogs_env.errors import InputError
from ogs_env.experiments.benchmark.command import RESULTS, benchmark
from ogs_env.experiments.benchmark.play import (
    DOMAINS,
    Domain,
    bundle_digest,
    find_agents,
    find_user_policies,
    make,
    play,
    selector_names,
)
from ogs_env.experiments.benchmark.records import (
    MEASURES,
    Identity,
    Record,
    read_record,
    read_records,
)
from ogs_env.experiments.benchmark.report import markdown, report
from ogs_env.experiments.benchmark.summary import KEYS, read_report
from ogs_env.experiments.benchmark.verify import verify, verify_record
from ogs_env.experiments.statistics import (
    interquartile_mean,
    interval,
    probability_of_improvement,
)

EPISODES = range(2_000_000, 2_000_005)
POLICIES = ["random", "less", "less/stream", "greedy", "greedy-threshold", "oracle"]
SIZES = {"slate_size": 8, "num_slates": 5, "budget": 10}


@pytest.fixture(scope="module")
def domains(
    bundle_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> list[Domain]:
    other = make_bundle(tmp_path_factory.mktemp("bundles") / "other", seed=1)
    edit_manifest(other, name="other")
    return [
        Domain(name, "OGS-Custom-v0", {"bundle": str(folder), **SIZES})
        for name, folder in (("made", bundle_folder), ("other", other))
    ]


def save_agent(folder: Path, domain: str, seed: int, **env_kwargs: object) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = build_network(row=15, context=32, width=8, skips=True)
        torch.nn.init.normal_(network.pick_head.weight)
    description = {
        "bundle": domain,
        "space": "made-64",
        "environment": {"id": "OGS-Custom-v0", **SIZES},
        "settings": {"env_kwargs": {"bundle": "elsewhere", **env_kwargs}},
    }
    Navigator(network, description).save(folder / domain / f"seed-{seed}")


@pytest.fixture(scope="module")
def agents_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("agents")
    for seed in (3, 10):
        save_agent(folder / "navigator", "made", seed)
    save_agent(folder / "navigator", "other", 0)
    weights = {"anchor_gain": 0.0}
    save_agent(folder / "modest", "made", 5, budget=6, reward_weights=weights)
    return folder


@pytest.fixture(scope="module")
def finished(
    domains: list[Domain],
    agents_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    folder = tmp_path_factory.mktemp("results")
    benchmark(domains, POLICIES, find_agents(agents_folder), EPISODES, folder)
    return folder


@pytest.fixture
def results(finished: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return shutil.copytree(finished, tmp_path / "results")


def record_of(folder: Path, domain: str, selector: str) -> Record:
    name = selector.replace("/", "--")
    return read_record(folder / "selections" / domain / f"{name}.safetensors")


def files_of(folder: Path) -> dict[Path, int]:
    files = sorted((folder / "selections").rglob("*.safetensors"))
    return {file: file.stat().st_mtime_ns for file in files}


# Evaluating


def test_all_policies_are_evaluated_in_every_domain(finished: Path) -> None:
    seeds_of: dict[str, dict[str, list[int]]] = {}
    for record in read_records(finished):
        identity = record.identity
        seeds_of.setdefault(identity.domain, {})[identity.selector] = identity.seeds
        assert record.rows.shape[:2] == (max(1, len(identity.seeds)), len(EPISODES))
        assert record.rows.dtype == np.int16
        assert set(record.measures) == set(MEASURES)
    untrained = {name: [] for name in POLICIES}
    assert seeds_of == {
        "made": untrained
        | {"navigator": [3, 10], "navigator-from-other": [0], "modest": [5]},
        "other": untrained
        | {"navigator": [0], "navigator-from-made": [3, 10], "modest-from-made": [5]},
    }


@pytest.mark.parametrize("name", POLICIES)
def test_selections_and_returns_equal_separate_episodes(
    finished: Path, domains: list[Domain], name: str
) -> None:
    kwargs = {**domains[1].env_kwargs, "split": "test"}
    env = gymnasium.make("OGS-Custom-v0", **kwargs)
    policy = make_policy(name, env, np.random.default_rng(0))
    record = record_of(finished, "other", name)
    for number, seed in enumerate(EPISODES):
        total = play_episode(env, policy, seed).total_return
        assert record.measures["return"][0, number] == pytest.approx(total, rel=1e-6)
        rows = record.rows[0, number].tolist()
        assert [row for row in rows if row >= 0] == selection_env(env).picked


def test_agents_are_evaluated_in_their_own_environment(
    finished: Path, domains: list[Domain], agents_folder: Path
) -> None:
    agent = Navigator.load(agents_folder / "navigator" / "made" / "seed-10")
    env = make("OGS-Custom-v0", domains[0].env_kwargs)
    record = record_of(finished, "made", "navigator")
    for number, seed in enumerate(EPISODES):
        total = play_episode(env, agent, seed).total_return
        assert record.measures["return"][1, number] == pytest.approx(total, rel=1e-6)
        rows = record.rows[1, number].tolist()
        assert [row for row in rows if row >= 0] == selection_env(env).picked
    modest = record_of(finished, "made", "modest")
    assert modest.rows.shape == (1, len(EPISODES), 6)
    # It was trained on the domain's gain alone, but is evaluated like the others.
    parts = modest.measures["domain_gain"] - modest.measures["cost"]
    assert modest.identity.env_kwargs == {**domains[0].env_kwargs, "budget": 6}
    np.testing.assert_allclose(modest.measures["return"], parts, rtol=1e-5)


def test_measures_are_sums_over_the_episode(
    finished: Path, domains: list[Domain]
) -> None:
    env = make("OGS-Custom-v0", domains[0].env_kwargs)
    policy = make_policy("greedy", env, np.random.default_rng(0))
    figures = record_of(finished, "made", "greedy").measures
    observation, info = env.reset(seed=EPISODES[2])
    steps, over = [], False
    while not over:
        action = policy(observation, info, env)
        observation, reward, over, _, info = env.step(action)
        steps.append((reward, *terms_of(info).values(), info["cost"]))
    total, gain, anchor, *_, cost = np.sum(steps, axis=0)
    last = {name: info[name] for name in ("test_change", "retention_change")}
    expected = {"return": total, "domain_gain": gain, "anchor_change": anchor}
    for name, value in (expected | {"cost": cost} | last).items():
        assert figures[name][0, 2] == pytest.approx(value, rel=1e-6), name
    assert (figures["seconds"] > 0).all()


def test_existing_records_are_not_repeated(
    results: Path, domains: list[Domain], agents_folder: Path
) -> None:
    before = files_of(results)
    lost = results / "selections" / "other" / "random.safetensors"
    first = read_record(lost)
    lost.unlink()
    play(domains, POLICIES, find_agents(agents_folder), EPISODES, results)
    after = files_of(results)
    assert {file for file in before if before[file] != after[file]} == {lost}
    repeated = read_record(lost)
    np.testing.assert_array_equal(repeated.rows, first.rows)
    for name in set(MEASURES) - {"seconds"}:
        np.testing.assert_array_equal(repeated.measures[name], first.measures[name])


def test_retrained_agents_are_evaluated_again(
    results: Path, domains: list[Domain], agents_folder: Path, tmp_path: Path
) -> None:
    before = files_of(results)
    folder = shutil.copytree(agents_folder, tmp_path / "agents")
    shutil.rmtree(folder / "navigator" / "other")
    save_agent(folder / "navigator", "other", 1)
    play(domains, POLICIES, find_agents(folder), EPISODES, results)
    after = files_of(results)
    changed = {file.stem for file in before if before[file] != after[file]}
    assert changed == {"navigator", "navigator-from-other"}
    assert record_of(results, "other", "navigator").identity.seeds == [1]
    assert (
        before[results / "selections" / "made" / "navigator.safetensors"]
        == (after[results / "selections" / "made" / "navigator.safetensors"])
    )


def test_a_selector_without_texts_is_skipped_with_a_note(
    domains: list[Domain], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["dsir", "dsir/stream", "greedy", "oracle"]
    play(domains[:1], names, [], EPISODES[:2], tmp_path)
    lines = [line for line in capsys.readouterr().err.splitlines() if "note" in line]
    assert len(lines) == 1
    assert "ogs: note: made dsir is left out: texts of bundle 'made'" in lines[0]
    assert {file.stem for file in files_of(tmp_path)} == {"greedy", "oracle"}


def test_a_folder_that_cannot_be_written_raises(
    domains: list[Domain], tmp_path: Path
) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(InputError, match=r"greedy.safetensors: cannot be written"):
        play(domains, ["greedy"], [], EPISODES[:2], tmp_path / "out")


def test_selector_names_have_both_variants() -> None:
    names = selector_names()
    assert len(set(names)) == len(names)
    assert {"greedy", "greedy/stream", "greedy-threshold", "oracle"} <= set(names)
    assert not {"random/stream", "all/stream", "oracle/stream"} & set(names)


# Verifying


def test_verify_passes(finished: Path) -> None:
    lines = list(verify(finished))
    assert len(lines) == len(files_of(finished)) + 1
    assert all(line.startswith("OK ") for line in lines)
    assert "OK made navigator: 10 episodes" in lines
    assert lines[-1] == f"OK {finished / 'benchmark.json'}: 18 lines"


def change(folder: Path, name: str, tensor: str, values: np.ndarray) -> None:
    file = folder / "selections" / f"{name}.safetensors"
    with safe_open(file, "numpy") as opened:
        metadata = opened.metadata()
    save_file(load_file(file) | {tensor: values}, file, metadata)


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    capsys.readouterr()
    assert main(["benchmark", *map(str, arguments)]) == 2
    lines = capsys.readouterr().err.splitlines()
    [line] = [line for line in lines if line.startswith("ogs: error: ")]
    return line.removeprefix("ogs: error: ")


def test_verify_detects_a_changed_figure(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cost = record_of(results, "made", "navigator").measures["cost"]
    value = cost[1, 3]
    cost[1, 3] += 0.01
    change(results, "made/navigator", "cost", cost)
    assert refused(capsys, "--verify", results) == (
        "made navigator, training seed 10, episode 3 (seed 2000003): cost: stored "
        f"{value + 0.01:.6g}, found {value:.6g}"
    )


def test_verify_detects_a_changed_selection(
    results: Path, domains: list[Domain], capsys: pytest.CaptureFixture[str]
) -> None:
    record = record_of(results, "other", "less")
    env = make("OGS-Custom-v0", domains[1].env_kwargs)
    env.reset(seed=EPISODES[4])
    last = selection_env(env).stream[-8:]
    rows = record.rows.copy()
    rows[0, 4, -1] = next(row for row in last if row not in rows[0, 4])
    change(results, "other/less", "rows", rows)
    error = refused(capsys, "--verify", results)
    assert error.startswith("other less, episode 4 (seed 2000004): return: stored ")
    stored = f"{record.measures['return'][0, 4]:.6g}"
    assert f"stored {stored}, found " in error
    assert not error.endswith(stored)


def test_verify_detects_a_row_that_is_in_no_slate(
    results: Path, domains: list[Domain], capsys: pytest.CaptureFixture[str]
) -> None:
    rows = record_of(results, "made", "oracle").rows
    env = make("OGS-Custom-v0", domains[0].env_kwargs)
    env.reset(seed=EPISODES[0])
    rows[0, 0, 2] = next(n for n in range(480) if n not in selection_env(env).stream)
    change(results, "made/oracle", "rows", rows)
    assert refused(capsys, "--verify", results) == (
        f"made oracle, episode 0 (seed 2000000): rows: stored {rows[0, 0, 2]} as pick "
        "3 of 10, found on no later slate"
    )


@pytest.mark.parametrize(
    ("path", "field"),
    [
        (("table", 0, "return_iqm"), "table made oracle return_iqm"),
        (("table", 4, "interval", 1), "interval"),
        (("domains", 1, "best_iqm"), "domains other best_iqm"),
        (("aggregate", 0, "iqm"), "aggregate oracle iqm"),
    ],
)
def test_verify_detects_a_changed_report(
    results: Path, capsys: pytest.CaptureFixture[str], path: tuple, field: str
) -> None:
    content = read_report(results)
    place = content
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] += 0.01
    (results / "benchmark.json").write_text(json.dumps(content))
    line = refused(capsys, "--verify", results)
    assert line.startswith(f"{results / 'benchmark.json'}: ")
    assert field in line
    assert "stored " in line
    assert ", found " in line


def test_verify_detects_a_missing_record(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (results / "selections" / "made" / "less.safetensors").unlink()
    assert ": table made less " in refused(capsys, "--verify", results)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda file: file.write_bytes(b"no tensors"), "cannot be read"),
        (lambda file: save_file({"a": np.zeros(2)}, file), "is no record"),
        (
            lambda file: change(
                file.parents[2], "made/less", "cost", np.zeros((1, 5), np.float64)
            ),
            "tensor 'cost' is float64 (1, 5), expected float32 (1, 5)",
        ),
        (
            lambda file: change(
                file.parents[2], "made/less", "cost", np.full((1, 5), np.nan, "f4")
            ),
            "tensor 'cost' holds a NaN",
        ),
        (
            lambda file: change(
                file.parents[2], "made/less", "rows", np.zeros((2, 5, 10), np.int16)
            ),
            "tensor 'rows' is int16 (2, 5, 10), expected integers (1, 5, budget)",
        ),
    ],
)
def test_a_damaged_record_raises(
    results: Path, capsys: pytest.CaptureFixture[str], damage, message: str
) -> None:
    file = results / "selections" / "made" / "less.safetensors"
    damage(file)
    error = refused(capsys, "--verify", results)
    assert error.startswith(f"{file}: ")
    assert message in error
    assert error.endswith("delete it and run `ogs benchmark` again")


def test_a_record_opens_registered_environments_alone(results: Path) -> None:
    record = record_of(results, "made", "less")
    identity = replace(record.identity, env="antigravity:OGS-Medical-v0")
    Record(identity, record.rows, record.measures).write(results)
    with pytest.raises(InputError, match="unknown environment 'antigravity:OGS"):
        list(verify(results))


# Users' policies


def first_valid(observation: dict, info: dict, env: gymnasium.Env) -> int:
    """A user's policy: pick the first candidate that is left."""
    return int(np.flatnonzero(info["action_mask"])[0])


def always_first(observation: dict, info: dict, env: gymnasium.Env) -> int:
    """A user's policy that ignores the masks."""
    return 0


def test_user_policies_are_benchmarked(
    domains: list[Domain], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = PPO("MultiInputPolicy", make("OGS-Custom-v0", domains[0].env_kwargs))
    model.save(tmp_path / "my_model.zip")
    monkeypatch.chdir(Path(__file__).parent)
    module = Path(__file__).stem
    sources = [f"{module}:first_valid", f"{module}:always_first"]
    policies = find_user_policies([*sources, str(tmp_path / "my_model.zip")])
    names = [policy.name for policy in policies]
    assert names == [
        f"policy/{module}.first_valid",
        f"policy/{module}.always_first",
        "policy/my_model",
    ]
    folder = tmp_path / "results"
    for _ in range(2):
        benchmark(domains[:1], POLICIES, [], EPISODES, folder, policies)
    kwargs = {**domains[0].env_kwargs, "split": "test"}
    for name, policy in zip(names, (first_valid, always_first, model), strict=True):
        record = record_of(folder, "made", name)
        alone = evaluate(policy, "OGS-Custom-v0", EPISODES, **kwargs)
        np.testing.assert_allclose(record.measures["return"][0], alone.returns, 1e-5)
    lines = read_report(folder)["table"]
    assert set(names) < {line["selector"] for line in lines}
    assert read_report(folder)["domains"][0]["best"] in POLICIES
    assert len(list(verify(folder))) == len(POLICIES) + len(names) + 1


# The report


def by_hand(selector: str, values: list[float], seeds: list[int] | None = None):
    seeds = seeds or []
    identity = Identity(
        domain="here",
        selector=selector,
        env="OGS-Custom-v0",
        env_kwargs={},
        bundle="",
        first_seed=0,
        episodes=4,
        seeds=seeds,
        agents=["" for _ in seeds],
    )
    runs = len(values)
    figures = {name: np.zeros((runs, 4), np.float32) for name in MEASURES}
    figures["return"] += np.array(values, np.float32)[:, None]
    return Record(identity, np.zeros((runs, 4, 3), np.int16), figures)


def test_gap_and_room_by_hand() -> None:
    result = report(
        [
            by_hand("less", [4.0]),
            by_hand("greedy-threshold", [6.0]),
            by_hand("greedy", [5.0]),
            by_hand("less/stream", [8.0]),
            by_hand("oracle", [10.0]),
            by_hand("navigator", [9.0, 9.0], [0, 1]),
            by_hand("navigator-from-afar", [3.0], [0]),
        ]
    )
    assert result["domains"] == [
        {
            "domain": "here",
            "env": "OGS-Custom-v0",
            "best": "greedy-threshold",
            "best_iqm": 6.0,
            "oracle_iqm": 10.0,
            "room": 0.4,
        }
    ]
    lines = {line["selector"]: line for line in result["table"]}
    assert list(lines) == [
        *("oracle", "navigator", "less/stream", "greedy-threshold", "greedy", "less"),
        "navigator-from-afar",
    ]
    gaps = {name: line["gap_closed"] for name, line in lines.items()}
    assert gaps == {
        "oracle": 1.0,
        "navigator": 0.75,
        "less/stream": 0.5,
        "greedy-threshold": 0.0,
        "greedy": -0.25,
        "less": -0.5,
        "navigator-from-afar": -0.75,
    }
    assert lines["navigator"]["share_of_oracle"] == 0.9
    assert lines["navigator"]["seeds"] == [0, 1]
    assert lines["less"]["seeds"] == []
    better = {name: line["improvement_over_greedy"] for name, line in lines.items()}
    assert (better["less"], better["greedy"], better["oracle"]) == (0.0, 0.5, 1.0)


def test_without_oracle_and_greedy_their_figures_are_unknown() -> None:
    result = report([by_hand("less", [4.0]), by_hand("loss", [3.0])])
    [head] = result["domains"]
    assert (head["best"], head["oracle_iqm"], head["room"]) == ("less", None, None)
    for line in result["table"]:
        for name in ("share_of_oracle", "gap_closed", "improvement_over_greedy"):
            assert line[name] is None
    assert result["aggregate"] == []
    assert "| less | 4.00 | 4.00 to 4.00 |  |  |" in markdown(result)


def test_without_room_there_is_no_gap() -> None:
    result = report([by_hand("less", [4.0]), by_hand("oracle", [4.0])])
    assert result["domains"][0]["room"] == 0.0
    assert {line["gap_closed"] for line in result["table"]} == {None}


def test_the_table_follows_from_the_records(finished: Path) -> None:
    report = read_report(finished)
    greedy = record_of(finished, "made", "greedy").measures["return"].astype(float)
    [line] = [
        one
        for one in report["table"]
        if (one["domain"], one["selector"]) == ("made", "navigator")
    ]
    record = record_of(finished, "made", "navigator")
    scores = record.measures["return"].astype(float)
    assert line["return_iqm"] == pytest.approx(interquartile_mean([scores]), abs=1e-4)
    assert line["interval"] == pytest.approx(interval([scores]), abs=1e-4)
    better = probability_of_improvement([scores], [greedy])
    assert line["improvement_over_greedy"] == pytest.approx(better, abs=1e-4)
    for name in ("domain_gain", "anchor_change", "cost", "test_change"):
        assert line[name] == pytest.approx(record.measures[name].mean(), abs=1e-4)
    assert line["milliseconds"] > 0


def test_the_aggregate_has_policies_of_all_domains(finished: Path) -> None:
    report = read_report(finished)
    lines = {line["selector"]: line for line in report["aggregate"]}
    assert set(lines) == {*POLICIES, "navigator"}
    scores = []
    for head in report["domains"]:
        record = record_of(finished, head["domain"], "navigator")
        scores.append(record.measures["return"].astype(float) / head["oracle_iqm"])
    line = lines["navigator"]
    assert line["iqm"] == pytest.approx(interquartile_mean(scores), abs=1e-4)
    assert line["interval"] == pytest.approx(interval(scores), abs=1e-4)
    assert lines["greedy"]["improvement_over_greedy"] == 0.5


def test_the_output_files_exist_and_are_readable(finished: Path) -> None:
    pictures = {"returns-made.png", "returns-other.png", "profiles.png", "agents.png"}
    assert {file.name for file in finished.iterdir()} == {
        *("selections", "benchmark.json", "benchmark.md", *pictures)
    }
    for name in pictures:
        pixels = image.imread(finished / name)
        assert pixels.shape[1] >= 1200
        assert pixels.std() > 0.02
    report = read_report(finished)
    text = (finished / "benchmark.md").read_text()
    assert text == markdown(report)
    for line in report["table"]:
        assert f"| {line['selector']} | {line['return_iqm']:.2f} |" in text


# The command


def test_the_summary_is_one_line_a_domain_and_selector(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["benchmark", "--summary", "--out", str(finished)]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(lines) == len(files_of(finished))
    table = read_report(finished)["table"]
    for line, one in zip(lines, table, strict=True):
        assert tuple(line) == KEYS
        assert line == {name: one[name] for name in KEYS}


def test_the_summary_needs_no_torch_and_no_environment(finished: Path) -> None:
    code = (
        "import sys\n"
        "for name in ('torch', 'scipy', 'ogs_env.envs.selection'):\n"
        "    sys.modules[name] = None\n"
        "from ogs_env.cli import main\n"
        f"sys.exit(main(['benchmark', '--summary', '--out', {str(finished)!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == len(files_of(finished))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--domains", "medicl"], "unknown domain 'medicl'; did you mean medical"),
        (["--selectors", "gredy"], "unknown selector 'gredy'; did you mean greedy"),
        (["--selectors", "oracle/stream"], "unknown selector 'oracle/stream'"),
        (["--episodes", "1"], "--episodes 1: expected 2 to 10000"),
        (["--policy", "first_valid"], "policy first_valid: expected MODULE:NAME"),
        (["--policy", "no_such:first"], "policy no_such:first: cannot be imported"),
        (["--policy", "nowhere.zip"], "policy nowhere.zip: cannot be loaded: no such"),
        (["--summary", "--verify", "nowhere"], "--summary, --verify: each excludes"),
        (["--agents", "nowhere"], "nowhere: holds no trained agents; expected KIND/"),
        (["--verify", "nowhere"], "nowhere/benchmark.json: no such file"),
        (["--summary", "--out", "nowhere"], "nowhere/benchmark.json: no such file"),
    ],
)
def test_bad_input_is_one_line(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    message: str,
) -> None:
    arguments = ["--out", tmp_path / "out", *options]
    assert message in refused(capsys, *arguments)
    assert not (tmp_path / "out").exists()


def test_records_of_other_episodes_are_not_mixed(
    results: Path, domains: list[Domain]
) -> None:
    before = files_of(results)
    with pytest.raises(InputError, match="is of 5 episodes from seed 2000000, not of"):
        play(domains, ["greedy"], [], EPISODES[:3], results)
    assert files_of(results) == before
    record = record_of(results, "made", "less")
    Record(replace(record.identity, first_seed=7), record.rows, record.measures).write(
        results
    )
    with pytest.raises(InputError, match=r"made less: was played on 5 .* from seed 7"):
        report(read_records(results))


def test_agents_that_do_not_fit_raise(domains: list[Domain], tmp_path: Path) -> None:
    save_agent(tmp_path / "a" / "navigator", "made", 0)
    shutil.copytree(tmp_path / "a" / "navigator" / "made", tmp_path / "a" / "n" / "you")
    with pytest.raises(InputError, match="was trained on 'made', but is in the"):
        find_agents(tmp_path / "a")
    save_agent(tmp_path / "b" / "greedy", "made", 0)
    with pytest.raises(InputError, match="greedy: is a selector's name"):
        find_agents(tmp_path / "b")
    save_agent(tmp_path / "c" / "navigator", "made", 0)
    save_agent(tmp_path / "c" / "navigator", "made", 1, budget=3)
    with pytest.raises(InputError, match="environments of different settings"):
        find_agents(tmp_path / "c")
    save_agent(tmp_path / "d" / "navigator", "made", 0)
    agents = find_agents(tmp_path / "d")
    elsewhere = make_bundle(tmp_path / "wide", d=6)
    edit_manifest(elsewhere, name="wide")
    wide = Domain("wide", "OGS-Custom-v0", {"bundle": str(elsewhere), **SIZES})
    with pytest.raises(InputError, match=r"reads 15 columns .* shows 13"):
        play([wide], [], agents, EPISODES, tmp_path / "out")
    edit_manifest(elsewhere, space="another")
    other = make_bundle(tmp_path / "other")
    edit_manifest(other, name="far", space="another")
    far = Domain("far", "OGS-Custom-v0", {"bundle": str(other), **SIZES})
    with pytest.raises(InputError, match="in sketch space 'another'"):
        play([far], [], agents, EPISODES, tmp_path / "out")


# The committed results


@pytest.mark.skipif(not RESULTS.exists(), reason="no results are committed yet")
def test_the_committed_results_are_of_the_shipped_bundles_and_complete() -> None:
    records, report = read_records(RESULTS), read_report(RESULTS)
    assert {head["domain"] for head in report["domains"]} == set(DOMAINS)
    digests = {name: bundle_digest(load_bundle(name)) for name in DOMAINS}
    for record in records:
        assert record.identity.bundle == digests[record.identity.domain]
    names = [(one.identity.domain, one.identity.selector) for one in records]
    lines = [(line["domain"], line["selector"]) for line in report["table"]]
    assert sorted(names) == sorted(lines)
    for head in report["domains"]:
        assert (head["domain"], "oracle") in names
        assert head["room"] > 0
        domain = DOMAINS[head["domain"]]
        best = record_of(RESULTS, domain.name, head["best"])
        verify_record(best, make(domain.env, domain.env_kwargs))
    assert (RESULTS / "benchmark.md").read_text() == markdown(report)
    assert sum(file.stat().st_size for file in files_of(RESULTS)) < 6 * 2**20
