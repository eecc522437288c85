"""The wheel, installed with the core's three dependencies and nothing else."""

import configparser
import importlib.metadata
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent
# What the three core dependencies need in turn is found from their metadata.
CORE = ("numpy", "gymnasium", "safetensors")

PLAY = """
import sys
sys.modules["torch"] = None  # importing it raises
import gymnasium
env = gymnasium.make("ogs_env:OGS-Medical-v0")
observation, info = env.reset(seed=0)
assert env.observation_space.contains(observation)
env.action_space.seed(0)
for step in range(10):
    action = env.action_space.sample(info["action_mask"])
    observation, reward, terminated, truncated, info = env.step(action)
    assert env.observation_space.contains(observation)
    assert reward == reward and not terminated and not truncated
heavy = {"transformers", "peft", "datasets", "stable_baselines3", "matplotlib"}
assert not heavy & set(sys.modules)
import ogs_env
print(ogs_env.__file__)
"""


def quiet_run(*arguments: object, **more) -> str:
    done = subprocess.run(
        list(map(str, arguments)), capture_output=True, text=True, **more
    )
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    # A copy, so that neither an older build folder nor this one is in the way.
    source = tmp_path_factory.mktemp("source") / "ogs"
    left_out = shutil.ignore_patterns(
        ".*", "tests", "results", "build", "dist", "*.egg-info", "__pycache__"
    )
    shutil.copytree(REPOSITORY, source, ignore=left_out)
    out = tmp_path_factory.mktemp("wheel")
    arguments = ("wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", out)
    quiet_run(sys.executable, "-m", "pip", "--no-cache-dir", *arguments, source)
    [file] = out.glob("*.whl")
    return file


def needed(names: tuple[str, ...]) -> set[str]:
    """Distributions with all that they need, without extras."""
    distributions: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name in distributions:
            continue
        distributions.add(name)
        for line in importlib.metadata.requires(name) or []:
            if ";" not in line:
                waiting.append(line.split(" ")[0].split("<")[0].split(">")[0])
    return distributions


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory) -> Path:
    """The interpreter of an environment with the wheel and the core alone."""
    folder = tmp_path_factory.mktemp("venv")
    quiet_run(sys.executable, "-m", "venv", "--without-pip", folder)
    paths = {"base": str(folder), "platbase": str(folder)}
    site = Path(sysconfig.get_path("purelib", "venv", paths))
    # Linked from the installed packages, which needs no network and little space.
    for name in needed(CORE):
        distribution = importlib.metadata.distribution(name)
        for top in {file.parts[0] for file in distribution.files or []}:
            if top not in ("..", "__pycache__"):
                (site / top).symlink_to(distribution.locate_file(top))
    python = folder / "bin" / "python"
    arguments = ("--python", python, "install", "--no-deps", "--no-index", wheel)
    quiet_run(sys.executable, "-m", "pip", *arguments)
    return python


def test_it_installs_one_top_level_package_and_the_command(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        [entry] = [n for n in names if n.endswith(".dist-info/entry_points.txt")]
        points = configparser.ConfigParser()
        points.read_string(archive.read(entry).decode())
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"ogs_env"}
    assert points["console_scripts"]["ogs"] == "ogs_env.cli:main"
    files = set(names)
    assert "ogs_env/agents/selector.py" in files
    assert "ogs_env/agents/baselines/random.py" in files
    assert "ogs_env/experiments/train.py" in files
    assert "ogs_env/py.typed" in files
    assert "ogs_env/bundles/medical/manifest.json" in files
    assert any(file.startswith("ogs_env/bundles/basis-") for file in files)
    assert not [name for name in names if "/build/" in name or "tests" in name]


def test_every_module_is_in_it(wheel):
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if name.endswith(".py")}
    expected = {
        str(file.relative_to(REPOSITORY)) for file in REPOSITORY.glob("ogs_env/**/*.py")
    }
    for folder in ("agents", "experiments"):
        for file in REPOSITORY.glob(f"{folder}/**/*.py"):
            expected.add(f"ogs_env/{file.relative_to(REPOSITORY)}")
    assert packed == expected


def test_shipped_bundles_are_small(wheel):
    sizes: dict[str, int] = {}
    with zipfile.ZipFile(wheel) as archive:
        for info in archive.infolist():
            parts = info.filename.split("/")
            if parts[:2] == ["ogs_env", "bundles"] and len(parts) == 4:
                sizes[parts[2]] = sizes.get(parts[2], 0) + info.file_size
    assert "medical" in sizes
    assert all(size <= 13 * 2**20 for size in sizes.values())


def test_the_core_runs_episodes_without_torch(python, tmp_path):
    where = quiet_run(python, "-I", "-c", PLAY, cwd=tmp_path).strip()
    assert Path(where).is_relative_to(python.parent.parent)


def test_the_command_lists_its_jobs(python, tmp_path):
    ogs = python.parent / "ogs"
    environment = {**os.environ, "PYTHONPATH": ""}
    output = quiet_run(ogs, "--help", cwd=tmp_path, env=environment)
    assert "sketch" in output
    assert quiet_run(ogs, "--version", cwd=tmp_path, env=environment).startswith("ogs")
