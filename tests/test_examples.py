"""The examples, run as a reader would, with small arguments."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

REPOSITORY = Path(__file__).parents[1]
EXAMPLES = REPOSITORY / "examples"
# The notebook is run where the site is built: tests/test_docs.py.
NOTEBOOKS = {"first_steps.ipynb"}
NUMBER = r"(-?\d+\.\d\d)"


def run(name: str, *arguments: str | Path, cwd: Path) -> str:
    """Run a script in a folder, and return what it prints."""
    done = subprocess.run(
        [sys.executable, EXAMPLES / name, *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "NETRC": str(cwd / "netrc")},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def numbers(pattern: str, printed: str) -> list[float]:
    """Return the numbers in every match of a pattern, in order."""
    found = re.findall(pattern.replace("N", NUMBER), printed)
    assert found, printed
    groups = [[one] if isinstance(one, str) else one for one in found]
    return [float(number) for group in groups for number in group]


def test_ppo(tmp_path):
    printed = run(
        "ppo.py",
        *("--env", "OGS-Medical-Mixture-v0", "--steps", "2048", "--episodes", "10"),
        cwd=tmp_path,
    )
    [random] = numbers("random actions return N,", printed)
    [trained] = numbers("MaskablePPO returns N,", printed)
    assert trained > random + 1
    assert not [*tmp_path.iterdir()]


def test_custom_agent(tmp_path):
    printed = run("custom_agent.py", "--updates", "10", cwd=tmp_path)
    assert len(numbers(r"(?m)^  \w.* [+]?N$", printed)) == 6  # weights
    [random] = numbers("random policy: test episodes return N", printed)
    [trained] = numbers("trained policy: test episodes return N", printed)
    assert trained > random + 2


def test_reward_weights(tmp_path):
    printed = run(
        "reward_weights.py",
        *("--steps", "4096", "--episodes", "5"),
        *("--weights", "0", "30", "--limits", "1"),
        cwd=tmp_path,
    )
    names = re.findall(r"(?m)^(weight \d+|cost limit \d) ", printed)
    assert names == ["weight 0", "weight 30", "cost limit 1"]
    rows = re.findall(rf"(?m){NUMBER} +{NUMBER} +[+]?{NUMBER} +[+]?{NUMBER}$", printed)
    assert len(rows) == 3
    assert len(set(rows)) == 3  # each agent has learned something else
    assert all(0 < float(forgotten) < 20 for _, forgotten, *_ in rows)


def test_own_data(tmp_path, tiny_model_folder):
    printed = run(
        "own_data.py",
        *("--model", tiny_model_folder, "--size", "80", "--anchors", "8"),
        *("--steps", "2048", "--out", "out"),
        cwd=tmp_path,
    )
    assert "pool: 80 samples, domain: 48" in printed
    numbers("agent: mean return N", printed)
    out = tmp_path / "out"
    pool = [json.loads(line) for line in (out / "pool.jsonl").open()]
    lines = [json.loads(line) for line in (out / "selection/selection.jsonl").open()]
    assert len({line["id"] for line in lines}) == 8
    for line in lines:
        record = pool[line["row"]]
        assert line["prompt"] == [{"role": "user", "content": record["prompt"]}]
        assert line["completion"][0]["content"] == record["response"]
        assert line["source"] == record["source"]


def test_benchmark_policy(tmp_path):
    printed = run("benchmark_policy.py", "--episodes", "6", cwd=tmp_path)
    [greedy] = numbers(r"greedy +N", printed)
    [own] = numbers(r"LikeTheDomain +N", printed)
    [oracle] = numbers(r"oracle +N", printed)
    assert greedy < own < oracle


def test_wandb_sweep(tmp_path):
    pytest.importorskip("optuna")
    pytest.importorskip("wandb")
    printed = run(
        "wandb_sweep.py",
        *("--trials", "2", "--steps", "2048", "--episodes", "2", "--out", "out"),
        cwd=tmp_path,
    )
    best = re.search(r"best settings: (.*)", printed)
    assert set(yaml.safe_load(best[1])) == {"learning_rate", "ent_coef", "width"}
    [log] = re.findall(r"logged: (\S+);", printed)
    assert [*Path(log).glob("*.wandb")]
    sweep = yaml.safe_load((tmp_path / "out" / "sweep.yaml").read_text())
    assert sweep["command"][-1] == "${args}"


def test_no_example_is_forgotten():
    scripts = {file.name for file in EXAMPLES.glob("*.py")}
    assert scripts == {
        name.removeprefix("test_") + ".py"
        for name in globals()
        if name.startswith("test_") and name != "test_no_example_is_forgotten"
    }
    assert {file.name for file in EXAMPLES.glob("*.ipynb")} == NOTEBOOKS
    page = (REPOSITORY / "docs" / "examples.md").read_text()
    for name in scripts | NOTEBOOKS:
        assert f"| [{name}](../examples/{name}) |" in page
