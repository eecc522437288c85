"""The Python of the README and of docs/, run as a reader would."""

import json
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


# How the README and the page of the study name methods.
STUDIED = {
    "`ogs adapt`": "screened-oracle",
    "`screened-oracle` = `ogs adapt`": "screened-oracle",
    "greedy by the reward alone": "oracle",
    "oracle": "oracle",
    "RDS+": "rds",
    "DSIR": "dsir",
    "Navigator": "navigator",
    "Navigator, screened": "screened-navigator",
    "Navigator, limited cost": "constrained",
    "LESS": "less",
    "greedy": "greedy",
    "GRAD-MATCH": "grad-match",
    "PGM": "pgm",
    "random 10 %, A-GEM": "agem",
    "random 10 %, PCGrad": "pcgrad",
    "random 10 %, UPGrad": "upgrad",
    "random 10 %, OGD": "ogd",
    "random 30 %": "random30",
    "all": "all",
}


@pytest.mark.parametrize(("page", "count"), [("README.md", 8), ("docs/study.md", 17)])
def test_the_table_of_the_study_has_the_committed_figures(page, count):
    lines = (REPOSITORY / "experiments/results/study/summary.json").read_text()
    entries = {
        (entry["domain"], entry["method"]): entry
        for entry in json.loads(lines)
        if entry["target"] == "SmolLM2-135M"
    }
    domains = ("medical", "legal", "financial")
    text = (REPOSITORY / page).read_text()
    rows = re.findall(
        r"^\| (.+?)(?: \(10 %\))? \| (\d+) \| (.+) \|$", text, re.MULTILINE
    )
    assert len(rows) == count
    for name, pools, cells in rows:
        method = STUDIED[name]
        own = [entries.get((domain, method)) for domain in (*domains, "all")]
        assert int(pools) == sum(entry["pools"] for entry in own[:3] if entry)
        expected = [differences(entry, with_intervals=False) for entry in own[:3]]
        expected.append(differences(own[3], with_intervals=True))
        assert [cell.strip() for cell in cells.split(" |")] == expected


def differences(entry, with_intervals):
    """Write the differences to random selections as the tables do."""
    if entry is None:
        return ""

    def number(value):
        return f"{value:+.1f}" if round(value, 1) else "0.0"

    values = []
    for name, interval in (
        ("domain_change_less_random", "domain_less_random_interval"),
        ("forgetting_less_random", "forgetting_less_random_interval"),
    ):
        low, high = map(number, entry[interval])
        end = f" [{low}, {high}]" if with_intervals else ""
        values.append(number(entry[name]) + end)
    return f"{values[0]} ({values[1]})"
