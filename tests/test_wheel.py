"""The wheel, installed with the core's three dependencies and nothing else."""

import configparser
import hashlib
import importlib.metadata
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
from helpers.hub_server import hub_environment, hub_server
from packaging.requirements import Requirement

REPOSITORY = Path(__file__).parent.parent
BUNDLES = REPOSITORY / "ogs_env" / "bundles"
# What the three core dependencies need in turn is found from their metadata.
CORE = ("numpy", "gymnasium", "safetensors")

PLAY = """
import sys
sys.modules["torch"] = None  # importing it raises
import gymnasium
env = gymnasium.make(f"ogs_env:{sys.argv[1]}")
observation, info = env.reset(seed=0)
assert env.observation_space.contains(observation)
env.action_space.seed(0)
for step in range(10):
    action = env.action_space.sample(info["action_mask"])
    observation, reward, terminated, truncated, info = env.step(action)
    assert env.observation_space.contains(observation)
    assert reward == reward and not terminated and not truncated
heavy = {"transformers", "peft", "datasets", "stable_baselines3", "matplotlib"}
if "Medical" in sys.argv[1]:
    heavy.add("huggingface_hub")
assert not heavy & set(sys.modules)
import ogs_env
print(ogs_env.__file__)
"""


REFUSED = """
import sys
import gymnasium
try:
    gymnasium.make(f"ogs_env:{sys.argv[1]}")
except ValueError as error:
    print(type(error).__name__, error)
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
            requirement = Requirement(line)
            if not requirement.marker or requirement.marker.evaluate({"extra": ""}):
                waiting.append(requirement.name)
    return distributions


def link(names: set[str], folder: Path) -> None:
    """Link installed distributions, which needs no network and little space."""
    for name in names:
        distribution = importlib.metadata.distribution(name)
        for top in {file.parts[0] for file in distribution.files or []}:
            if top not in ("..", "__pycache__") and not (folder / top).exists():
                (folder / top).symlink_to(distribution.locate_file(top))


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory) -> Path:
    """The interpreter of an environment with the wheel and the core alone."""
    folder = tmp_path_factory.mktemp("venv")
    quiet_run(sys.executable, "-m", "venv", "--without-pip", folder)
    paths = {"base": str(folder), "platbase": str(folder)}
    site = Path(sysconfig.get_path("purelib", "venv", paths))
    link(needed(CORE), site)
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


def test_it_is_small_and_has_the_files_of_one_bundle(wheel):
    assert wheel.stat().st_size < 20 * 10**6
    packed: dict[str, set[str]] = {}
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            parts = name.split("/")
            if parts[:2] == ["ogs_env", "bundles"] and len(parts) == 4:
                packed.setdefault(parts[2], set()).add(parts[3])
    shipped = {folder.name: folder for folder in BUNDLES.iterdir() if folder.is_dir()}
    assert packed.keys() == shipped.keys() == {"medical", "legal", "financial"}
    assert packed.pop("medical") == {file.name for file in shipped["medical"].iterdir()}
    assert all(files == {"manifest.sha256"} for files in packed.values())


def test_it_knows_the_manifests_of_all_shipped_bundles(wheel):
    with zipfile.ZipFile(wheel) as archive:
        for manifest in BUNDLES.glob("*/manifest.json"):
            name = f"ogs_env/bundles/{manifest.parent.name}/manifest.sha256"
            known = archive.read(name).decode().strip()
            assert known == hashlib.sha256(manifest.read_bytes()).hexdigest()


def test_the_core_runs_episodes_without_torch(python, tmp_path):
    arguments = ("-I", "-c", PLAY, "OGS-Medical-v0")
    where = quiet_run(python, *arguments, cwd=tmp_path).strip()
    assert Path(where).is_relative_to(python.parent.parent)


def test_without_the_hub_extra_a_line_says_what_to_do(python, tmp_path):
    arguments = ("-I", "-c", REFUSED, "OGS-Legal-Mixture-v0")
    line = quiet_run(python, *arguments, cwd=tmp_path).strip()
    assert line.startswith("InputError legal: this installation of ogs-env has no fi")
    assert "\n" not in line
    for advice in ("pip install 'ogs-env[hub]'", "OGS-Medical-v0", "clone"):
        assert advice in line


@pytest.fixture
def with_hub(tmp_path):
    """Variables for processes that have the extra `hub` and use a hub on this machine.

    The hub has the repository's Legal bundle, and another one as Financial.
    """
    extra = tmp_path / "extra"
    extra.mkdir()
    link(needed(("huggingface_hub",)), extra)
    for name in ("Legal", "Financial"):
        (tmp_path / "hub/datasets/ogs-env").mkdir(parents=True, exist_ok=True)
        repository = tmp_path / "hub/datasets/ogs-env" / f"OGS-{name}"
        repository.symlink_to(BUNDLES / "legal")
    with hub_server(tmp_path / "hub") as url:
        yield {
            **os.environ,
            **hub_environment(url, tmp_path / "home"),
            "PYTHONPATH": str(extra),
        }


def test_another_shipped_bundle_is_downloaded_once(python, with_hub, tmp_path):
    play = (python, "-c", PLAY, "OGS-Legal-v0")
    quiet_run(*play, cwd=tmp_path, env=with_hub)
    [cached] = (tmp_path / "home/hub").glob("datasets--ogs-env--OGS-Legal/snapshots/*")
    for file in (BUNDLES / "legal").iterdir():
        assert (cached / file.name).read_bytes() == file.read_bytes()
    # The hub is not asked again.
    unreachable = {**with_hub, "HF_ENDPOINT": "http://127.0.0.1:9"}
    quiet_run(*play, cwd=tmp_path, env=unreachable)


def test_another_bundle_than_the_shipped_one_is_refused(python, with_hub, tmp_path):
    refused = (python, "-c", REFUSED, "OGS-Financial-v0")
    line = quiet_run(*refused, cwd=tmp_path, env=with_hub).strip()
    assert "ogs-env/OGS-Financial holds another version (sha256 of man" in line
    assert not list((tmp_path / "home").rglob("*.safetensors"))
    unreachable = {**with_hub, "HF_ENDPOINT": "http://127.0.0.1:9"}
    line = quiet_run(*refused, cwd=tmp_path, env=unreachable).strip()
    assert line.startswith("InputError financial: this installation of ogs-env has no ")
    assert "cannot be reached; check the network, or use OGS-Medical-v0" in line
    offline = {**with_hub, "HF_HUB_OFFLINE": "1"}
    line = quiet_run(*refused, cwd=tmp_path, env=offline).strip()
    assert "is not in the Hugging Face hub's cache" in line


def test_the_domains_are_listed_without_a_download(python, tmp_path):
    ogs = python.parent / "ogs"
    environment = {**os.environ, "PYTHONPATH": ""}
    text = quiet_run(ogs, "domains", cwd=tmp_path, env=environment)
    financial, legal, medical = text.split("\n\n")
    assert financial.startswith("financial: OGS-Financial-v0, ")
    assert "from ogs-env/OGS-Legal on the Hugging Face hub" in legal
    assert "medquad" in medical


def test_the_command_lists_its_jobs(python, tmp_path):
    ogs = python.parent / "ogs"
    environment = {**os.environ, "PYTHONPATH": ""}
    output = quiet_run(ogs, "--help", cwd=tmp_path, env=environment)
    assert "sketch" in output
    assert quiet_run(ogs, "--version", cwd=tmp_path, env=environment).startswith("ogs")
