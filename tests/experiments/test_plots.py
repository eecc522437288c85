import sys

import pytest
from matplotlib import image

from ogs_env.errors import InputError
from ogs_env.experiments.plots import changes, tradeoff


def result(selector, test, answers):
    def losses(test, answers):
        return {"test": {"per_sample": test}, "answers": {"per_sample": answers}}

    return {
        "selector": selector,
        "before": losses(2.0, 1.0),
        "after": losses(test, answers),
    }


RESULTS = [
    result("random", 1.9, 1.01),
    result("random", 1.8, 1.03),
    result("navigator", 1.7, 0.99),
]


def test_changes_are_percent_of_the_loss_before():
    points = changes(RESULTS)
    assert list(points) == ["random", "navigator"]
    assert points["random"] == [
        pytest.approx((-5.0, 1.0)),
        pytest.approx((-10.0, 3.0)),
    ]
    assert points["navigator"] == [pytest.approx((-15.0, -1.0))]


@pytest.mark.parametrize("results", [RESULTS, RESULTS[:1], [result("same", 2.0, 1.0)]])
def test_draws_a_png_of_readme_width(tmp_path, results):
    path = tmp_path / "new" / "tradeoff.png"
    tradeoff(results, path)
    height, width, _ = image.imread(path).shape
    assert (width, height) == (1200, 750)
    assert [file.name for file in path.parent.iterdir()] == ["tradeoff.png"]


def test_the_picture_shows_the_results(tmp_path):
    tradeoff(RESULTS, tmp_path / "a.png")
    tradeoff(RESULTS, tmp_path / "b.png")
    tradeoff(RESULTS[:2], tmp_path / "c.png")
    a, b, c = (image.imread(tmp_path / f"{name}.png") for name in "abc")
    assert (a == b).all()
    assert (a != c).any()


def test_more_selectors_than_colours(tmp_path):
    tradeoff(
        [result(f"rule-{i}", 1.5 + i / 50, 0.9 + i / 40) for i in range(15)],
        tmp_path / "many.png",
    )
    assert (tmp_path / "many.png").stat().st_size > 10_000


def test_bad_input(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="no results to draw"):
        tradeoff([], tmp_path / "a.png")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(InputError, match=r"pip install 'ogs-env\[plots\]'"):
        tradeoff(RESULTS, tmp_path / "a.png")
    assert not list(tmp_path.iterdir())
