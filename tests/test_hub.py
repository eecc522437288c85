"""Bundles and agents on the Hugging Face hub.

Its real client talks to a hub on this machine, in processes of their own, because the
client reads its variables once.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import yaml
from helpers.hub_server import hub_environment, hub_server
from helpers.make_bundle import edit_manifest, make_bundle

REPOSITORY = Path(__file__).parents[1]
LEGAL = REPOSITORY / "ogs_env" / "bundles" / "legal"
AGENT = REPOSITORY / "experiments" / "results" / "agents" / "navigator/legal/seed-0"

PUSH = """
import sys
from ogs_env import Bundle
print(Bundle.from_pretrained(sys.argv[1]).push_to_hub(sys.argv[2]))
"""
LOAD = """
import sys
from ogs_env import load_bundle
print(load_bundle(sys.argv[1]).path)
"""
ERRORS = """
import sys
from ogs_env import InputError, load_bundle
for name in sys.argv[1:]:
    try:
        load_bundle(name)
    except InputError as error:
        print(error)
"""
PLAY = """
import json, pickle, sys
import gymnasium
import ogs_env
env = gymnasium.make("OGS-Custom-v0", bundle=sys.argv[1])
env.reset(seed=0)
env.action_space.seed(0)
rewards = [env.step(env.action_space.sample())[1] for _ in range(8)]
copy = pickle.loads(pickle.dumps(env.unwrapped.bundle))
assert copy is env.unwrapped.bundle
print(json.dumps(rewards))
"""


@dataclass(frozen=True)
class Client:
    """Processes that use the hub, with a cache of their own."""

    root: Path
    environment: dict[str, str]
    home: Path

    def run(self, *words: object, cwd: Path, **changes: str | None) -> tuple[int, str]:
        """Run a process; returns its status, and what it printed or its error."""
        variables = {**os.environ, **self.environment, **changes}
        done = subprocess.run(
            [sys.executable, *map(str, words)],
            env={name: value for name, value in variables.items() if value is not None},
            cwd=cwd,
            capture_output=True,
            text=True,
        )
        output = done.stdout if done.returncode == 0 else done.stderr
        return done.returncode, output.strip()

    def python(self, code: str, *words: object, **changes: str | None) -> str:
        status, output = self.run("-c", code, *words, cwd=self.home, **changes)
        assert status == 0, output
        return output

    def ogs(self, *words: object, **changes: str | None) -> str:
        status, output = self.run("-m", "ogs_env.cli", *words, cwd=self.home, **changes)
        assert status == 0, output
        return output

    def refused(self, *words: object, **changes: str | None) -> str:
        """Run `ogs`, which refuses; returns its only line."""
        status, output = self.run("-m", "ogs_env.cli", *words, cwd=self.home, **changes)
        assert status == 2, output
        *progress, line = output.splitlines()
        assert all(one.startswith("Fetching ") for one in progress)
        assert line.startswith("ogs: error: ")
        return line.removeprefix("ogs: error: ")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the hub's repositories."""
    return tmp_path_factory.mktemp("hub")


@pytest.fixture(scope="module")
def url(root: Path) -> Iterator[str]:
    with hub_server(root) as url:
        yield url


@pytest.fixture
def client(root: Path, url: str, tmp_path: Path) -> Client:
    home = tmp_path / "home"
    home.mkdir()
    return Client(root, hub_environment(url, home / "hf"), home)


@pytest.fixture
def elsewhere(client: Client, tmp_path: Path) -> Client:
    """A client with another cache."""
    home = tmp_path / "elsewhere"
    home.mkdir()
    environment = {**client.environment, "HF_HOME": str(home / "hf")}
    return replace(client, environment=environment, home=home)


@pytest.fixture(scope="module")
def pushed(root: Path, url: str, tmp_path_factory, bundle_folder: Path) -> str:
    """Name of a bundle on the hub, beside whose files there are others."""
    home = tmp_path_factory.mktemp("pusher")
    pusher = Client(root, hub_environment(url, home / "hf"), home)
    address = pusher.python(PUSH, bundle_folder, "me/made")
    assert "/datasets/me/made/commit/" in address
    for name in ("run.py", "weights.pkl", "model.safetensors", "more/pool.safetensors"):
        other = root / "datasets" / "me" / "made" / name
        other.parent.mkdir(exist_ok=True)
        other.write_bytes(b"of another")
    return "me/made"


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def card(root: Path, name: str) -> tuple[dict, str]:
    _, header, text = (root / name / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(header), text


def test_a_bundle_comes_back_byte_for_byte(client, pushed, bundle_folder):
    first = Path(client.python(LOAD, pushed))
    assert first.is_relative_to(client.home)
    assert contents(first) == contents(bundle_folder)
    assert (first / "manifest.json").is_symlink()


def test_an_environment_of_a_repository_is_that_of_the_folder(
    client, pushed, bundle_folder
):
    played = client.python(PLAY, pushed)
    assert json.loads(played) == json.loads(client.python(PLAY, bundle_folder))
    folder = Path(client.python(LOAD, pushed))
    assert set(contents(folder)) == set(contents(bundle_folder))


def test_an_agent_and_a_bundle_select_by_name_as_from_folders(client, elsewhere):
    client.ogs("push", AGENT, "me/agent")
    client.ogs("push", LEGAL, "me/legal")
    assert contents(AGENT).items() <= contents(client.root / "models/me/agent").items()
    budget = ("--budget", 40, "--seed", 3)

    def select(agent: object, bundle: object) -> dict[str, bytes]:
        out = elsewhere.home / "picks"
        elsewhere.ogs(
            "select", "--agent", agent, "--bundle", bundle, *budget, "--out", out
        )
        chosen = contents(out)
        summary = json.loads(chosen.pop("selection.json"))
        summary.pop("agent")
        return {**chosen, "summary": json.dumps(summary).encode()}

    assert select("me/agent", "me/legal@main") == select(AGENT, LEGAL)
    [cached] = (elsewhere.home / "hf/hub").glob("models--me--agent/snapshots/*")
    assert contents(cached) == contents(AGENT)


def test_cards_say_what_it_is_and_how_to_load_it(client, elsewhere):
    client.ogs("push", AGENT, "me/card")
    client.ogs("push", LEGAL, "me/card", "--licence", "cc-by-4.0")

    header, text = card(client.root, "models/me/card")
    description = json.loads((AGENT / "agent.json").read_text())
    assert header["library_name"] == "ogs-env"
    assert header["license"] == ["cc-by-4.0", "mit", "other"]
    assert header["datasets"] == "ogs-env/OGS-Legal"
    [result] = header["model-index"][0]["results"]
    assert result["dataset"]["name"] == "OGS-Legal-v0"
    kept = f"{description['training']['kept']['return']:.2f}"
    assert result["metrics"][0]["value"] == kept
    for part in (kept, description["space"], "licence_clauses", "WordNet 3.0 licence"):
        assert part in text
    code = text.split("```python\n")[1].split("action =")[0]
    loaded = elsewhere.python(f"{code}print(navigator.description['bundle'])")
    assert loaded == "legal"

    header, text = card(client.root, "datasets/me/card")
    manifest = json.loads((LEGAL / "manifest.json").read_text())
    assert header["license"] == "cc-by-4.0"
    assert "ogs_env" in header["tags"]
    assert "OGS-Legal-Mixture-v0" in text
    correlation = manifest["fidelity"]["tenth"]["domain_spearman"]
    for part in (f"{correlation:.2f}", manifest["proxy"]["id"], manifest["space"]):
        assert part in text
    assert all(source["attribution"] in text for source in manifest["sources"])
    code = text.split("```python\n")[1].split("```")[0]
    path = Path(elsewhere.python(f"{code}print(env.unwrapped.bundle.path)"))
    assert contents(path) == contents(LEGAL)


def test_revisions_are_told_apart(client, elsewhere, tmp_path):
    folder = make_bundle(tmp_path / "b", pool=40, k=8, d=4, held_out=8)
    commit = client.ogs("push", folder, "me/twice").rpartition("/")[2]
    branch = make_bundle(tmp_path / "c", pool=48, k=8, d=4, held_out=8)
    client.ogs("push", branch, "me/twice", "--revision", "wide")
    edit_manifest(folder, name="second")
    client.ogs("push", folder, "me/twice", "--message", "A second one")
    names = """
import sys
from ogs_env import Bundle, load_bundle
for bundle in (
    load_bundle(f"me/twice@{sys.argv[1]}"),
    Bundle.from_pretrained("me/twice", revision=sys.argv[1]),
    load_bundle("me/twice@wide"),
    load_bundle("me/twice"),
):
    print(bundle.name, len(bundle.pool))
"""
    lines = elsewhere.python(names, commit).splitlines()
    assert lines == ["made 40", "made 40", "made 48", "second 40"]


def test_a_new_version_is_loaded_after_a_push(client, tmp_path):
    folder = make_bundle(tmp_path / "b", pool=40, k=8, d=4, held_out=8)
    code = """
import json, sys
from pathlib import Path
from ogs_env import load_bundle
from ogs_env.bundle_files import save_manifest
bundle = load_bundle(sys.argv[1])
bundle.push_to_hub("me/again")
assert load_bundle("me/again").name == "made"
save_manifest(bundle.path, bundle.manifest | {"name": "later"})
load_bundle(sys.argv[1]).push_to_hub("me/again")
print(load_bundle("me/again").name)
"""
    assert client.python(code, folder) == "later"


def test_a_folder_of_that_name_wins(client, pushed):
    folder = make_bundle(client.home / pushed, pool=40, k=8, d=4, held_out=8)
    assert client.python(LOAD, pushed) == str(folder)
    assert not (client.home / "hf").exists()


def test_a_path_is_never_looked_up(client):
    code = """
import sys
from pathlib import Path
from ogs_env import InputError, load_bundle
try:
    load_bundle(Path("me/made"))
except InputError as error:
    print(error)
assert "huggingface_hub" not in sys.modules
"""
    assert client.python(code).startswith("me/made: no such folder; expected a bundle")


def test_what_is_cached_works_offline(client, pushed):
    online = client.python(PLAY, pushed)
    assert client.python(PLAY, pushed, HF_HUB_OFFLINE="1") == online
    # A port at which nothing listens.
    assert client.python(PLAY, pushed, HF_ENDPOINT="http://127.0.0.1:9") == online


OFFLINE = {"HF_HUB_OFFLINE": "1"}
UNREACHABLE = {"HF_ENDPOINT": "http://127.0.0.1:9"}
STRANGER = {"HF_TOKEN": None}
BEGIN = "no such folder, and "


@pytest.mark.parametrize(
    ("changes", "errors"),
    [
        (
            {},
            {
                "me/none": (
                    "the Hugging Face hub has no dataset repo",
                    "check the name",
                ),
                "me/made@v9": ("the dataset repository me/made has no rev", "a branch"),
                "me/empty": (
                    "the dataset repository me/empty has no manif",
                    "ogs push",
                ),
                "a--b/c": ("the hub has no such names", "rename it"),
            },
        ),
        (STRANGER, {"me/secret": ("the Hugging Face hub has no", "`hf auth login`")}),
        (
            OFFLINE,
            {"me/made": ("the dataset repository me/made is not in", "unset HF")},
        ),
        (UNREACHABLE, {"me/made": ("the Hugging Face hub (http", "check the network")}),
    ],
)
def test_a_repository_that_cannot_be_loaded_is_one_line(
    client, elsewhere, pushed, changes, errors
):
    (client.root / "datasets/me/empty").mkdir(parents=True, exist_ok=True)
    if "me/secret" in errors:
        small = make_bundle(client.home / "small", pool=40, k=8, d=4, held_out=8)
        elsewhere.ogs("push", small, "me/secret", "--private")
        elsewhere.python(LOAD, "me/secret")
    lines = client.python(ERRORS, *errors, **changes).splitlines()
    for line, (name, (problem, advice)) in zip(lines, errors.items(), strict=True):
        assert line.startswith(f"{name}: {BEGIN}{problem}")
        assert advice in line
        assert line.endswith("or give a folder made by `ogs sketch`")


def test_an_agent_that_is_not_there_is_one_line(client, pushed):
    words = ("--bundle", LEGAL, "--budget", 5, "--out", client.home / "picks")
    line = client.refused("select", "--agent", pushed, *words)
    assert line.startswith(f"{pushed}: {BEGIN}the Hugging Face hub has no model repo")
    assert line.endswith("or give a folder made by `ogs train`")


WITHOUT = """
import sys
sys.modules["huggingface_hub"] = None  # importing it raises
from ogs_env.cli import main
sys.exit(main(sys.argv[1:]))
"""


def test_without_the_package_the_line_names_the_extra(client, bundle_folder):
    select = ("select", "--agent", "random", "--budget", 5, "--out", "picks")
    for words in ((*select, "--bundle", "me/made"), ("push", bundle_folder, "me/x")):
        status, line = client.run("-c", WITHOUT, *words, cwd=client.home)
        assert status == 2
        assert "\n" not in line
        assert "run `pip install 'ogs-env[hub]'`" in line


def test_pushing_is_refused_in_one_line(client, bundle_folder, tmp_path):
    push = ("push", bundle_folder)
    line = client.refused("push", tmp_path, "me/x")
    assert line.startswith(f"{tmp_path}: holds neither an agent (agent.json) nor a bu")
    assert client.refused(*push, "x").startswith("x: is no name of a repository")
    assert client.refused(*push, "me/x@v1").startswith("me/x@v1: is no name of")
    nothing = "me/x: nothing is pushed, and "
    line = client.refused(*push, "me/x", **STRANGER)
    assert line.startswith(f"{nothing}the Hugging Face hub refuses access")
    assert "log in with `hf auth login` or set HF_TOKEN" in line
    line = client.refused(*push, "me/x", **UNREACHABLE)
    assert line.startswith(f"{nothing}the Hugging Face hub (http://127.0.0.1:9) cannot")
    line = client.refused(*push, "me/x", **OFFLINE)
    assert line.startswith(f"{nothing}HF_HUB_OFFLINE=1 forbids")
    damaged = Path(shutil.copytree(bundle_folder, tmp_path / "damaged"))
    (damaged / "basis.safetensors").write_bytes(b"")
    assert "basis.safetensors: its bytes" in client.refused("push", damaged, "me/x")
    assert not (client.root / "datasets/me/x").exists()


def test_a_damaged_copy_is_repaired_as_the_line_says(client, pushed, bundle_folder):
    folder = Path(client.python(LOAD, pushed))
    shard = folder / "pool-00000.safetensors"
    shard.resolve().write_bytes(b"")
    line = client.python(ERRORS, pushed)
    assert line.startswith(f"{pushed}: no whole bundle in its copy")
    assert f"{shard}: its bytes are not those the manifest lists" in line
    shutil.rmtree(line.partition("; remove ")[2].partition(" and run again")[0])
    assert contents(Path(client.python(LOAD, pushed))) == contents(bundle_folder)


def test_a_stopped_download_is_continued(client, pushed, bundle_folder):
    folder = Path(client.python(LOAD, pushed))
    for name in ("basis.safetensors", "dev-00000.safetensors"):
        (folder / name).resolve().unlink()
        (folder / name).unlink()
    line = client.python(ERRORS, pushed, **OFFLINE)
    assert line.startswith(f"{pushed}: {BEGIN}the dataset repository me/made is not in")
    client.python(LOAD, pushed)
    assert contents(folder) == contents(bundle_folder)


def test_an_agent_cannot_ask_for_any_memory(client):
    folder = Path(shutil.copytree(AGENT, client.root / "models/me/wide"))
    description = json.loads((folder / "agent.json").read_text())
    description["network"]["width"] = 1_000_000
    (folder / "agent.json").write_text(json.dumps(description))
    words = ("--bundle", LEGAL, "--budget", 5, "--out", client.home / "picks")
    line = client.refused("select", "--agent", "me/wide", *words)
    assert line.startswith("me/wide: no whole agent in its copy from the Hugging Face ")
    assert "agent.json asks for (1000000,)" in line


def test_a_manifest_cannot_name_other_files(client, tmp_path):
    folder = make_bundle(tmp_path / "b", pool=40, k=8, d=4, held_out=8)
    files = json.loads((folder / "manifest.json").read_text())["files"]
    target = client.root / "datasets/me/sly"
    shutil.copytree(folder, target)
    edit_manifest(target, files={**files, "../run.py": {"sha256": "0"}})
    line = client.python(ERRORS, "me/sly")
    assert "lists '../run.py', which is no file of a bundle" in line
    assert not list(client.home.rglob("*.safetensors"))
