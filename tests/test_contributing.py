"""The worked changes of docs/contributing.md, and the imports between modules."""

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
CHANGES = sorted((REPOSITORY / "docs" / "changes").glob("*.diff"))


def run(*args: str | Path, cwd: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(cwd)}
    done = subprocess.run(
        list(map(str, args)), cwd=cwd, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A repository with the three packages, importable as they are installed."""
    left_out = shutil.ignore_patterns("results", "bundles", "__pycache__")
    for name in ("ogs_env", "agents", "experiments", "tests"):
        source, target = REPOSITORY / name, tmp_path / name
        shutil.copytree(source, target, symlinks=True, ignore=left_out)
    shutil.copy(REPOSITORY / "pyproject.toml", tmp_path)
    (tmp_path / "ogs_env" / "bundles").symlink_to(REPOSITORY / "ogs_env" / "bundles")
    for name in ("agents", "experiments"):
        link = tmp_path / "ogs_env" / name
        if not link.is_symlink():
            link.symlink_to(Path("..") / name)
    return tmp_path


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.stem)
def test_the_worked_changes_apply_and_pass_their_tests(change, copy):
    files = re.findall(r"^\+\+\+ b/(\S+)", change.read_text(), re.MULTILINE)
    tests = [name for name in files if name.startswith("tests/")]
    assert tests
    run("git", "apply", change, cwd=copy)
    run(sys.executable, "-m", "ruff", "check", *files, cwd=copy)
    run(sys.executable, "-m", "ruff", "format", "--check", *files, cwd=copy)
    run(sys.executable, "-m", "pytest", "-q", *tests, cwd=copy)


def test_the_page_names_every_worked_change():
    page = (REPOSITORY / "docs" / "contributing.md").read_text()
    assert CHANGES
    for change in CHANGES:
        assert f"changes/{change.name}" in page


def imported(folder: str) -> set[tuple[str, str]]:
    """File and module of every import of ogs_env's packages, in a folder."""
    pairs = set()
    for file in (REPOSITORY / folder).rglob("*.py"):
        name = str(file.relative_to(REPOSITORY))
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                pairs |= {(name, node.module)}
                pairs |= {(name, f"{node.module}.{one.name}") for one in node.names}
            elif isinstance(node, ast.Import):
                pairs |= {(name, one.name) for one in node.names}
    return pairs


@pytest.mark.parametrize(
    ("folder", "above"),
    [("ogs_env", ("agents", "experiments")), ("agents", ("experiments",))],
)
def test_imports_have_one_direction(folder, above):
    forbidden = {f"ogs_env.{name}" for name in above}
    wrong = {
        (file, module)
        for file, module in imported(folder)
        if ".".join(module.split(".")[:2]) in forbidden
        and not file.startswith(("ogs_env/agents/", "ogs_env/experiments/"))
    }
    assert not wrong


def imported_modules(file: Path, modules: set[str]) -> set[str]:
    """Modules that a file imports anywhere, type checking excepted."""
    tree = ast.parse(file.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            node.body = []
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{one.name}" for one in node.names}
            names.add(str(node.module))
        elif isinstance(node, ast.Import):
            names |= {one.name for one in node.names}
    return names & modules


@pytest.fixture(scope="module")
def imports() -> dict[str, set[str]]:
    """By module of the three packages, those of them that it imports."""
    files = {}
    for folder in ("ogs_env", "agents", "experiments"):
        for file in (REPOSITORY / folder).rglob("*.py"):
            parts = file.relative_to(REPOSITORY).with_suffix("").parts
            name = ".".join(parts).removesuffix(".__init__")
            files[name if folder == "ogs_env" else f"ogs_env.{name}"] = file
    return {name: imported_modules(file, set(files)) for name, file in files.items()}


def test_no_imports_form_a_circle(imports):
    rest = dict(imports)
    while free := {name for name in rest if not rest[name] & rest.keys() - {name}}:
        rest = {name: rest[name] for name in rest.keys() - free}
    assert not rest


def test_language_models_need_no_sketches_and_no_learners(imports):
    above = ("ogs_env.sketching", "ogs_env.learners")
    for name in imports:
        if name.startswith("ogs_env.lm"):
            assert not [one for one in imports[name] if one.startswith(above)]
