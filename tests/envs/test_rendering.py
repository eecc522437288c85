"""Frames. What holds for every id is in `test_registered_ids.py`."""

import pickle
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from helpers.make_bundle import edit_manifest, make_bundle
from hypothesis import given
from hypothesis import strategies as st

from ogs_env.envs import figures
from ogs_env.envs.mixture import MixtureEnv
from ogs_env.envs.rendering import sparkline, text
from ogs_env.envs.selection import SelectionEnv
from ogs_env.learners import Learner

pytestmark = pytest.mark.filterwarnings(
    "error", "ignore:`is_gradient_checkpointing`:FutureWarning"
)


@pytest.fixture
def env(bundle_folder: Path) -> SelectionEnv:
    sizes = {"slate_size": 4, "num_slates": 3, "budget": 6}
    return SelectionEnv(str(bundle_folder), render_mode="ansi", **sizes)


@pytest.fixture(params=["bundle_folder", "folder_without_answers"])
def either_folder(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(request.param))


def frame(env: Any) -> str:
    text = env.render()
    assert text.endswith("\n")
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) <= 96
    return text


def table(env: SelectionEnv) -> dict[int, tuple[str, list[str]]]:
    """Return each place's mark and the columns beside it."""
    rows = {}
    for line in frame(env).splitlines():
        match = re.match(r" ([ x>]) +(\d+) +(.*)", line)
        if match:
            rows[int(match[2])] = match[1], match[3].split()
    return rows


def test_the_table_shows_the_observation(env: SelectionEnv) -> None:
    d = env.bundle.basis.shape[1]
    env.reset(seed=3)
    slate = env.slate.copy()
    env.step(1)
    observation, *_ = env.step(2)
    rows = table(env)
    assert {place: mark for place, (mark, _) in rows.items()} == {
        0: " ",
        1: "x",
        2: ">",
        3: " ",
    }
    pool = env.bundle.pool
    for place, (_, columns) in rows.items():
        row = slate[place]
        assert columns[0] == pool.hex_ids()[row]
        assert columns[-1] == env.bundle.sources[pool.sources[row]]
        if env.slate[place] >= 0:
            printed = [float(column) for column in columns[1:-1]]
            expected = observation["candidates"][place, d : d + 6]
            np.testing.assert_allclose(printed, expected, atol=0.0051)


def test_a_snapshot_is_enough_for_a_frame(env: SelectionEnv) -> None:
    env.reset(seed=3)
    env.step(1)
    expected, picture = frame(env), figures.picture(env._history.snapshot())
    snapshot = pickle.loads(pickle.dumps(env._history.snapshot()))
    env.step(2)
    assert text(snapshot) == expected
    np.testing.assert_array_equal(figures.picture(snapshot), picture)


def test_the_header_and_the_last_pick(env: SelectionEnv) -> None:
    env.reset(seed=3)
    text = frame(env)
    assert "made: slate 1 of 3, 0 of 6 picked, return +0.00\n" in text
    assert "last step: none yet" in text
    assert "last pick: none yet" in text
    height = text.count("\n")
    total = 0.0
    for count, action in enumerate((0, 3, 2, 1), start=1):
        candidate = env.observation()["candidates"][action]
        _, reward, _, _, info = env.step(action)
        total += reward
        (name,) = env.sample_ids(info["picks"])
        text = frame(env)
        slate = 1 + count // 4
        assert f"slate {slate} of 3, {count} of 6 picked, return {total:+.2f}\n" in text
        assert f"last step: picked place {action} ({reward:+.2f})" in text
        assert f"last pick: {name} of " in text
        assert f", slate 1, place {action}\n" in text  # where it was picked
        d = env.bundle.basis.shape[1]
        assert f"domain {candidate[d]:+.3f}, anchor {candidate[d + 1]:+.3f};" in text
        gains = [info[name] for name in ("domain_gain", "forgetting")]
        assert "; domain gain {:+.3f}%, forgetting {:+.3f}%\n".format(*gains) in text
        assert text.count("█") + text.count("░") >= 30
        assert text.count("\n") == height
    env.step(0)
    env.step(0)
    assert "last step: picked place 1, because 0 is empty (" in frame(env)
    assert "slate 2 of 3, 6 of 6 picked" in frame(env)
    assert ", episode over\n" in frame(env)
    assert f"[{'█' * 30}]" in frame(env)
    env.reset()
    assert "episode over" not in frame(env)
    env.step(env.slate_size)
    assert "last step: skipped (+0.00)" in frame(env)
    assert "slate 2 of 3, 0 of 6 picked" in frame(env)


def test_the_last_pick_without_own_answers(folder_without_answers: Path) -> None:
    env = SelectionEnv(str(folder_without_answers), render_mode="ansi")
    env.reset(seed=3)
    *_, info = env.step(0)
    gains = [info[name] for name in ("domain_gain", "anchor_gain")]
    assert gains[1] != 0
    assert "; domain gain {:+.3f}%, anchor gain {:+.3f}%\n".format(*gains) in frame(env)


def losses_of(learner: Learner) -> list[float]:
    """Return the domain's loss and those of forgetting or the anchor gain."""
    own = learner.answer_losses().tolist()
    return [learner.domain_loss(), *(own or learner.anchor_losses().tolist())]


def loss_rows(text: str) -> dict[str, tuple[str, float, float, float]]:
    pattern = (
        r"^(domain|(?:anchor|own answers): \w+) +([▁-█]+) +([\d.]+) +([\d.]+) "
        r"+([-+\d.]+)%$"
    )
    matches = re.findall(pattern, text, re.MULTILINE)
    return {name: (line, *map(float, numbers)) for name, line, *numbers in matches}


def test_losses_of_the_domain_and_every_capability(either_folder: str) -> None:
    sizes = {"slate_size": 4, "num_slates": 3, "budget": 6}
    env = SelectionEnv(either_folder, render_mode="ansi", **sizes)
    env.reset(seed=3)
    start = losses_of(env.learner)
    assert [line for line, *_ in loss_rows(frame(env)).values()] == ["▁▁▁▁"] * 3
    for action in (0, 1, 4):
        env.step(action)
    now = losses_of(env.learner)
    rows = loss_rows(frame(env))
    label = "own answers" if env.bundle.has_answers else "anchor"
    assert list(rows) == ["domain", f"{label}: maths", f"{label}: knowledge"]
    for (line, first, last, change), a, b in zip(
        rows.values(), start, now, strict=True
    ):
        assert (first, last) == (round(a, 4), round(b, 4))
        assert change == pytest.approx(100 * (b / a - 1), abs=0.006)
        # Two of six picks: with the start, three points of seven.
        assert len(line) == pytest.approx(44 * 3 / 7, abs=2)


def test_the_mixtures_losses(either_folder: str) -> None:
    env = MixtureEnv(either_folder, clusters=3, batch=30, render_mode="ansi")
    env.reset(seed=0)
    start = losses_of(env.learner)
    env.step(0)
    env.step(1)
    printed = [row[1:] for row in loss_rows(frame(env)).values()]
    changes = zip(start, losses_of(env.learner), strict=True)
    expected = [(a, b, 100 * (b / a - 1)) for a, b in changes]
    np.testing.assert_allclose(printed, expected, atol=0.0051)


def test_pictures_are_of_own_answers_where_there_are_any(
    bundle_folder: Path, folder_without_answers: Path
) -> None:
    def lower_panel(folder: Path) -> Any:
        sizes = {"slate_size": 4, "num_slates": 3, "budget": 6}
        env = SelectionEnv(str(folder), render_mode="rgb_array", **sizes)
        env.reset(seed=3)
        env.step(0)
        return env.render()[300:, 600:]

    # The two bundles are the same but for the answers.
    own, reference = map(lower_panel, (bundle_folder, folder_without_answers))
    assert (own != reference).any()


@given(
    st.lists(st.floats(1, 2), min_size=1, max_size=60),
    st.integers(60, 500),
)
def test_sparklines_rise_where_the_curve_does(values: list[float], points: int) -> None:
    curve = np.sort(values)
    line = sparkline(curve, points)
    assert line[0] == "▁"
    assert list(line) == sorted(line)
    assert ("█" in line) <= (curve[-1] > 1.004 * curve[0])
    assert len(line) == pytest.approx(44 * len(values) / points, abs=1)
    # Each has its own scale: halving all values changes nothing.
    unsorted = np.array(values)
    assert sparkline(unsorted / 2, points) == sparkline(unsorted, points)


def test_a_picture_of_every_moment_has_one_shape(env: SelectionEnv) -> None:
    env.render_mode = "rgb_array"
    pictures = [env.reset(seed=3) and env.render()]
    over = False
    while not over:
        over = env.step(int(env.action_masks().argmax()))[2]
        pictures.append(env.render())
    assert {picture.shape for picture in pictures} == {(560, 1000, 3)}
    assert {picture.dtype for picture in pictures} == {np.dtype(np.uint8)}
    assert len({picture.tobytes() for picture in pictures}) == len(pictures) == 7


def test_candidates_have_their_sources_colours(env: SelectionEnv) -> None:
    env.render_mode = "rgb_array"
    env.reset(seed=0)
    # Of the palette's first five: alpha, beta, gamma, delta, epsilon.
    colours = np.array(
        [(0, 114, 178), (230, 159, 0), (0, 158, 115), (204, 121, 167), (213, 94, 0)]
    )
    for _ in range(3):
        slate = env.render()[130:490, 80:570].astype(int)  # the axes, not the legend
        sources = {n for n, c in enumerate(colours) if (slate == c).all(axis=2).any()}
        assert sources == set(env.bundle.pool.sources[env.slate].tolist())
        env.step(env.slate_size)


def test_unusual_names_and_a_short_slate(tmp_path: Path) -> None:
    folder = make_bundle(tmp_path / "odd")
    names = ["_hidden $x$", "", "two\nlines", "$\\alpha", "long " * 40]
    edit_manifest(
        folder,
        name="a name " * 30,
        sources=[{"name": name} for name in names],
        capabilities=["a capability " * 10, "$maths"],
    )
    env = SelectionEnv(
        str(folder), slate_size=4, num_slates=3, budget=9, render_mode="ansi"
    )
    env.reset(options={"indices": np.arange(9) * 50})
    for _ in range(2):
        env.step(4)
    assert [text.strip() for text in re.findall(r"\d  \(empty\)", frame(env))] == [
        f"{place}  (empty)" for place in (1, 2, 3)
    ]
    env.render_mode = "rgb_array"
    env.render()
    env.step(0)
    assert env.render().shape == (560, 1000, 3)
    env.render_mode = "ansi"
    assert "(empty)" in frame(env)


def test_a_live_models_frames(live_files: Any) -> None:
    live = {"texts": live_files.texts, "batch": 2, "evaluate_every": 2}
    env = SelectionEnv(
        live_files.bundle,
        learner="live",
        live=live,
        slate_size=4,
        num_slates=3,
        budget=4,
        render_mode="ansi",
    )
    env.reset(seed=0)
    start = loss_rows(frame(env))
    env.step(0)
    assert [row[1:] for row in loss_rows(frame(env)).values()] == [
        row[1:] for row in start.values()
    ]  # not measured yet
    env.step(1)
    assert loss_rows(frame(env))["domain"][3] != 0
    env.step(0)
    assert "picked place 2, because 0 is empty (" in frame(env)
    for _ in range(3):
        *_, info = env.step(4)
    # What the last step measured is a part of the curve, though it was a skip.
    row = loss_rows(frame(env))["domain"]
    assert row[2] == round(info["domain_loss"], 4)
    env.render_mode = "rgb_array"
    assert env.render().shape == (560, 1000, 3)


def test_the_mixtures_table_shows_the_observation(bundle_folder: Path) -> None:
    env = MixtureEnv(
        str(bundle_folder), clusters=3, batch=4, steps=9, render_mode="ansi"
    )
    env.reset(seed=0)
    assert "last step: none yet" in frame(env)
    total = cost = 0.0
    for action in (0, 2, 2):
        observation, reward, _, _, info = env.step(action)
        total, cost = total + reward, cost + info["cost"]
    text = frame(env)
    assert f"made: batch 3 of 9, return {total:+.2f}, cost {cost:.2f}\n" in text
    assert f"last step: cluster 2 ({reward:+.2f})" in text
    rows = table(env)
    assert [mark for mark, _ in rows.values()] == [" ", " ", ">"]
    for cluster, (_, columns) in rows.items():
        printed = [float(column.rstrip("%")) for column in columns[:7]]
        _, orth, conf, norm, domain, share = observation["clusters"][cluster, :6]
        remaining, picks = env.left[cluster], env.picked_from[cluster]
        expected = [remaining, domain, orth, conf, norm, picks, 100 * share]
        np.testing.assert_allclose(printed, expected, atol=0.51)
        np.testing.assert_allclose(printed[1:4], expected[1:4], atol=6e-4)
    assert loss_rows(text)["domain"][2] == round(info["domain_loss"], 4)


def test_the_mixture_says_when_a_cluster_is_empty(bundle_folder: Path) -> None:
    env = MixtureEnv(
        str(bundle_folder), clusters=30, batch=30, steps=9, render_mode="ansi"
    )
    env.reset(options={"indices": [0, 1, 2]})
    empty = int(np.flatnonzero(env.left == 0)[0])
    largest = int(env.left.argmax())
    _, reward, *_ = env.step(empty)
    event = f"cluster {largest}, because {empty} is empty ({reward:+.2f})"
    assert f"last step: {event}" in frame(env)
    env.render_mode = "rgb_array"
    assert env.render().shape == (560, 1000, 3)
    while not env.over:
        env.step(int(env.left.argmax()))
    assert env.render().shape == (560, 1000, 3)
    env.render_mode = "ansi"
    assert ", episode over\n" in frame(env)


PICTURES_ALONE = """
import sys
import gymnasium
for name in ("OGS-Medical-v0", "OGS-Medical-Mixture-v0"):
    env = gymnasium.make(f"ogs_env:{name}", render_mode="rgb_array")
    env.reset(seed=0)
    assert "matplotlib" not in sys.modules or "Mixture" in name
    env.render()
assert "matplotlib.pyplot" not in sys.modules
sys.modules["matplotlib.backends.backend_agg"] = None
try:
    env.render()
except gymnasium.error.DependencyNotInstalled as error:
    print(error)
"""


def test_pictures_need_matplotlib_but_no_pyplot() -> None:
    result = subprocess.run(
        [sys.executable, "-c", PICTURES_ALONE], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert "needs matplotlib; run `pip install 'ogs-env[plots]'`" in result.stdout


def test_rendering_without_a_mode_warns(bundle_folder: Path) -> None:
    env = gymnasium.make("OGS-Custom-v0", bundle=str(bundle_folder)).unwrapped
    env.reset(seed=0)
    with pytest.warns(UserWarning, match="render_mode is None"):
        assert env.render() is None
