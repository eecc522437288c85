"""The documentation site, built as `make docs` builds it."""

import html
import importlib.util
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from urllib.parse import unquote, urlsplit

import gymnasium
import nbformat
import pytest
from nbclient.exceptions import CellExecutionError
from PIL import Image

from ogs_env.agents.selector import SELECTORS
from ogs_env.envs.mixture import MixtureEnv
from ogs_env.envs.selection import SelectionEnv

REPOSITORY = Path(__file__).parents[1]
NOTEBOOK = Path("examples") / "first_steps.ipynb"
ENV_IDS = [name for name in gymnasium.registry if name.startswith("OGS-")]


def build(repository: Path, site: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", site],
        cwd=repository,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("docs") / "site"
    done = build(REPOSITORY, folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


class Elements(HTMLParser):
    """Ids of a page, and the tags and addresses of what it links to."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.addresses: list[tuple[str, str]] = []
        self.feed(page.read_text())

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.ids |= {found[key] for key in ("id", "name") if found.get(key)}
        address = found.get("href") or found.get("src")
        if address:
            self.addresses.append((tag, address))


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Elements]:
    # Links of the page for missing addresses depend on where the site is.
    found = (page for page in site.rglob("*.html") if page.name != "404.html")
    return {page: Elements(page) for page in found}


def links(pages: dict[Path, Elements]) -> Iterator[tuple[Path, Path, str]]:
    """Yield each link within the site: its page, its file and its heading."""
    for page, elements in pages.items():
        for _, address in elements.addresses:
            parts = urlsplit(address)
            if not parts.scheme:
                file = (page.parent / unquote(parts.path)) if parts.path else page
                file = file / "index.html" if file.is_dir() else file
                yield page, file.resolve(), unquote(parts.fragment)


def test_links_lead_to_files_and_headings(pages):
    found = list(links(pages))
    assert len(found) > 1000
    for page, file, heading in found:
        assert file.is_file(), f"{page}: {file}"
        if heading and file.suffix == ".html":
            assert heading in pages[file].ids, f"{page}: {file}#{heading}"


def test_pages_load_nothing_from_other_sites(pages):
    for page, elements in pages.items():
        loaded = [one for tag, one in elements.addresses if tag not in ("a", "base")]
        assert loaded
        assert not [one for one in loaded if urlsplit(one).netloc], page


def test_a_broken_link_and_a_page_without_a_place_fail(tmp_path):
    for path in REPOSITORY.iterdir():
        if path.name in ("docs", "examples", "mkdocs.yml"):
            continue
        (tmp_path / path.name).symlink_to(path)
    shutil.copytree(REPOSITORY / "docs", tmp_path / "docs")
    shutil.copy(REPOSITORY / "mkdocs.yml", tmp_path)
    page = tmp_path / "docs" / "speed.md"
    faults = "[a](gone.md) [b](environments.md#gone) [c][ogs_env.gone]"
    page.write_text(f"{page.read_text()}\n{faults}\n")
    (tmp_path / "docs" / "stray.md").write_text("# Stray\n")
    shutil.copytree(REPOSITORY / "examples", tmp_path / "examples")
    links = nbformat.v4.new_markdown_cell("# First steps\n\n[a](../docs/lost.md)")
    nbformat.write(nbformat.v4.new_notebook(cells=[links]), tmp_path / NOTEBOOK)

    done = build(tmp_path, tmp_path / "built")

    assert done.returncode != 0
    said = [line for line in done.stderr.splitlines() if "ogs_env.gone" in line]
    assert said
    for fault in ("'gone.md'", "'environments.md#gone'", "stray.md", "lost.md'"):
        assert fault in done.stderr


@pytest.mark.parametrize("name", ENV_IDS)
def test_each_environment_is_on_the_page_of_its_family(site, name):
    family = next(
        (one for one in ("mixture", "live") if one.title() in name), "selection"
    )
    page = (site / "environments" / family / "index.html").read_text()
    assert f">{name}</code></td>" in page


@pytest.mark.parametrize(
    ("family", "env_class"), [("selection", SelectionEnv), ("mixture", MixtureEnv)]
)
def test_each_argument_is_explained(site, family, env_class):
    page = (site / "environments" / family / "index.html").read_text()
    explained = page.partition('id="arguments"')[2].partition("<h2")[0]
    arguments = [*inspect.signature(env_class).parameters]
    assert len(arguments) > 5
    for argument in arguments:
        assert f">{argument}</code>" in explained


def test_the_returns_are_those_of_the_benchmark(site):
    results = REPOSITORY / "experiments" / "results" / "benchmark" / "benchmark.json"
    page = (site / "environments" / "selection" / "index.html").read_text()
    returns = page.partition('id="reference-returns"')[2].partition("<h2")[0]
    rows = [
        row
        for row in json.loads(results.read_text())["table"]
        if row["selector"] in ("random", "greedy", "navigator", "oracle")
    ]
    assert len(rows) == 12
    for row in rows:
        low, high = row["interval"]
        assert f"<td>{row['return_iqm']:.2f} " in returns
        assert f"[{low:.2f}, {high:.2f}]" in returns


def test_the_pictures_are_frames(site):
    for family in ("selection", "mixture", "live"):
        with Image.open(site / "environments" / f"{family}.png") as picture:
            assert picture.size == (1000, 560)
            assert len(picture.getcolors(1_000_000)) > 100


def test_each_selector_leads_to_its_section(site):
    page = (site / "selectors" / "index.html").read_text()
    for name in SELECTORS:
        assert re.search(f'<a href="#[a-z-]+"><code[^>]*>{name}</code></a>', page)


def test_formulas_are_mathml(site):
    page = (site / "method" / "index.html").read_text()
    assert page.count("<math ") > 20
    assert "arithmatex" not in page


def module_of_the_site(name: str) -> ModuleType:
    """Import a module of docs/_site, which is no package."""
    spec = importlib.util.spec_from_file_location(
        name, REPOSITORY / "docs" / "_site" / f"{name}.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_formulas_of_docstrings_are_typeset():
    formulas = module_of_the_site("formulas")
    text = "Let `a_i` be\n\n    <g_i, g_D> - eta |w|^2,\n\nwith slate_size >= 1."
    assert formulas.typeset(text) == (
        "Let `a_i` be\n\n"
        '<p class="formula">⟨<i>g</i><sub>i</sub>, <i>g</i><sub>D</sub>⟩ - '
        "η |w|<sup>2</sup>,</p>\n"
        "\nwith slate_size ≥ 1."
    )


def test_the_notebook_is_run_when_the_site_is_built(site):
    notebook = nbformat.read(REPOSITORY / NOTEBOOK, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert len(cells) > 5
    assert not [cell for cell in cells if cell.outputs or cell.execution_count]

    folder = site / "first-steps"
    page = (folder / "index.html").read_text()
    assert page.count('class="output highlight"') > 4
    assert "Discrete(17)" in page
    [random], [agent] = (
        re.findall(rf"{name} +(-?\d+\.\d\d)", page) for name in ("random", "agent")
    )
    assert float(agent) > float(random)
    assert len([*folder.glob("*.png")]) == page.count("<img ") == 2


def test_a_cell_that_fails_fails_the_build(tmp_path):
    cell = nbformat.v4.new_code_cell("1 / 0")
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / "wrong.ipynb")
    page = module_of_the_site("notebook_page").page
    with pytest.raises(CellExecutionError, match="ZeroDivisionError"):
        page(tmp_path / "wrong.ipynb", "wrong.md")


def test_the_examples_are_shown(site):
    page = (site / "examples" / "index.html").read_text()
    shown = re.sub(r"<[^>]*>", "", page)
    scripts = [*(REPOSITORY / "examples").glob("*.py")]
    assert len(scripts) > 5
    for script in scripts:
        assert f'<a href="./#{script.stem}py">{script.name}</a></td>' in page
        assert script.read_text().rstrip() in html.unescape(shown)


def test_the_drawing_has_every_package():
    drawing = (REPOSITORY / "docs" / "architecture.svg").read_text()
    packages = [
        one.parent.name for one in (REPOSITORY / "ogs_env").glob("*/__init__.py")
    ]
    assert len(packages) > 4
    for package in packages:
        assert f">{package}" in drawing
