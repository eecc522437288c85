"""The Python of the README and of docs/, run as a reader would."""

import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
BLOCKS = [
    pytest.param(block, id=f"{page.stem}-{number}")
    for page in PAGES
    for number, block in enumerate(
        re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    )
]


@pytest.mark.parametrize("block", BLOCKS)
def test_the_examples_run(block, capsys):
    shorter = block.replace('env, device="cpu"', 'env, device="cpu", n_steps=64')
    exec(re.sub(r"learn\([\d_]+\)", "learn(64)", shorter), {})
    assert bool(capsys.readouterr().out) is ("print" in block)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_to_files_and_headings(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if target.startswith("http"):
            continue
        name, _, heading = target.partition("#")
        file = page.parent / name if name else page
        assert file.exists(), target
        if heading:
            titles = re.findall(r"^#+ (.*)$", file.read_text(), re.MULTILINE)
            slugs = [re.sub(r"[^\w -]", "", title.lower()) for title in titles]
            assert heading.replace("-", " ") in slugs, target


def test_the_readme_is_three_screens():
    assert len(PAGES[0].read_text().splitlines()) <= 150


def test_the_benchmark_page_has_the_committed_figures():
    page = (REPOSITORY / "docs" / "benchmark.md").read_text()
    results = REPOSITORY / "experiments" / "results" / "benchmark" / "benchmark.md"
    number = r"(-?\d+\.\d\d)"
    figures = re.findall(rf"{number} \[{number}, {number}\]", page)
    assert len(figures) > 30
    for value, low, high in figures:
        assert f"| {value} | {low} to {high} |" in results.read_text()


def test_the_readme_has_the_committed_losses():
    results = REPOSITORY / "experiments" / "results" / "adapt" / "README.md"
    losses = {
        tuple(re.findall(r"\d\.\d{3}", line.partition(")")[2]))
        for line in results.read_text().splitlines()
    }
    rows = re.findall(r"^\| \w+, draw \d .*$", PAGES[0].read_text(), re.MULTILINE)
    assert len(rows) == 6
    for row in rows:
        assert tuple(re.findall(r"\d\.\d{3}", row)) in losses
