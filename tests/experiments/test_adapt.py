"""`ogs adapt` on a tiny model."""

import html
import json
import re
import shutil
import subprocess

import itables
import numpy as np
import pytest
from helpers.easy_samples import colours, sums
from helpers.tiny_model import make_tiny_model
from helpers.wandb_runs import LoggedRun, offline

from ogs_env.bundle import load_bundle
from ogs_env.data.samples import Sample, write_samples
from ogs_env.errors import InputError
from ogs_env.experiments.adapt import Options, run
from ogs_env.files import sha256_of
from ogs_env.options import parse
from ogs_env.selection import Selection

WORDS = ["tree", "river", "stone", "cloud", "bird"]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A model, and a user's files: the domain is about colours."""
    folder = tmp_path_factory.mktemp("files")
    make_tiny_model(folder / "model")
    rng = np.random.default_rng(0)
    other = [
        Sample(f"Say {i} words.", " ".join(rng.choice(WORDS, i % 7 + 1)), "words")
        for i in range(60)
    ]
    tagged = "</script><script>document.title = 'run over'</script>"
    other[0] = Sample("Is <b>this</b> text?", tagged, "words")
    pool = [*colours(0, 60), *other]
    write_samples(folder / "pool.jsonl", [pool[i] for i in rng.permutation(120)])
    write_samples(folder / "domain.jsonl", colours(100, 24))
    write_samples(folder / "anchor.jsonl", sums(24))
    return folder


def arguments(files, out, *options):
    option_values = [
        *(files / "pool.jsonl", "--domain", files / "domain.jsonl"),
        *("--anchor", files / "anchor.jsonl", "--out", out, "--budget", "12"),
        *("--proxy", files / "model", "--model", files / "model"),
        *("--train-steps", 3000, "--epochs", 1, *options),
    ]
    return parse(Options, [str(value) for value in option_values])


@pytest.fixture(scope="module")
def finished(files, tmp_path_factory):
    out = tmp_path_factory.mktemp("adapt") / "run"
    compared = "--compare", "random", "less", "--draws", "2"
    run(arguments(files, out, *compared))
    return out


def test_every_output_is_written(finished):
    environment = load_bundle(finished / "environment")
    assert len(environment.pool) == 120
    # Judged as a selection of the command's epochs.
    assert environment.manifest["learner"]["epochs"] == 1
    compared = json.loads((finished / "comparison.json").read_text())
    screened = {f"screened-{name}" for name in ("navigator", "less", "oracle")}
    assert {"random", *screened} <= compared.keys()
    assert not {f"screened-{name}" for name in ("dsir", "all")} & compared.keys()
    best = max(compared, key=lambda name: compared[name]["mean"])
    names = {folder.name for folder in (finished / "selections").iterdir()}
    assert names == {best, "random-0", "random-1", "less"}
    for name in names:
        assert len(Selection.load(finished / "selections" / name)) == 12
    result = json.loads((finished / "result.json").read_text())
    assert {own["selection"] for own in result["results"]} == names
    assert [own["selector"] for own in result["results"]][1:3] == ["random"] * 2


def test_finished_stages_are_not_repeated(files, finished, capsys, monkeypatch):
    monkeypatch.setattr(itables.options, "maxBytes", 100)
    before = {
        file: file.stat().st_mtime_ns
        for file in finished.rglob("*.safetensors")
        if "own_answers" not in file.parts
    }
    compared = "--compare", "random", "less", "--draws", "2"
    run(arguments(files, finished, *compared))
    assert before == {file: file.stat().st_mtime_ns for file in before}
    assert "what selects from the pool: " in capsys.readouterr().err
    # The table leaves nothing out, whatever its library's limits are.
    page = (finished / "report.html").read_text(encoding="utf-8")
    assert "downsampled from" not in page


def test_a_run_can_be_logged(files, finished, tmp_path):
    pytest.importorskip("wandb")
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    (out / "navigator" / "agent.json").unlink()  # it is trained again
    compared = ("--compare", "random", "less", "--draws", "2")
    with offline(tmp_path / "home"):
        run(arguments(files, out, *compared, "--report-to", "wandb"))
    logged = LoggedRun(out)
    given = json.loads((out / "adapt.json").read_text())
    assert "report_to" not in given  # a run can be continued with another logger
    assert logged.config() == {
        **given,
        "bundle_name": "pool",
        "bundle_sha256": sha256_of(out / "environment" / "manifest.json"),
        "ogs_env_version": "0.1.0",
    }
    training = json.loads((out / "navigator" / "agent.json").read_text())["training"]
    assert logged.curve("navigator/evaluation/return", "navigator/global_step") == {
        point["steps"]: pytest.approx(point["return"]) for point in training["curve"]
    }
    assert set().union(*logged.rows()) >= {
        f"seconds/{stage}"
        for stage in ("sketch", "weigh", "train", "compare", "select", "fine-tune")
    }
    comparison = json.loads((out / "comparison.json").read_text())
    columns, rows = logged.table("comparison")
    assert columns == ["selector", "value", "low", "high", "forgetting"]
    assert {row[0]: row[1] for row in rows} == {
        name: of_name["mean"] for name, of_name in comparison.items()
    }
    results = json.loads((out / "result.json").read_text())["results"]
    columns, rows = logged.table("results")
    assert [row[0] for row in rows] == [own["selection"] for own in results]
    for own, row in zip(results, rows, strict=True):
        name, values = own["selection"], dict(zip(columns, row, strict=True))
        losses = logged.curve(f"finetune/{name}/loss", "finetune/global_step")
        assert list(losses.values()) == pytest.approx(own["training_loss"])
        for role, what in (("test", "domain_change"), ("answers", "forgetting")):
            before, after = (own[t][role]["per_sample"] for t in ("before", "after"))
            change = pytest.approx(100 * (after / before - 1))
            (end,) = logged.curve(
                f"finetune/{name}/{what}", "finetune/global_step"
            ).values()
            assert end == values[what] == change
            assert values[f"{what}_low"] <= values[what] <= values[f"{what}_high"]
    (page,) = logged.place.glob("files/media/html/report*.html")
    assert page.read_bytes() == (out / "report.html").read_bytes()
    assert [a.name for a in logged.of("artifact") if a.type == "model"] == ["run-agent"]


@pytest.mark.parametrize("name", ["less", "screened-less"])
def test_a_selector_can_be_given(files, finished, tmp_path, capsys, name):
    shutil.copytree(finished / "environment", tmp_path / "run" / "environment")
    run(arguments(files, tmp_path / "run", "--agent", name))
    names = [folder.name for folder in (tmp_path / "run" / "finetuned").iterdir()]
    assert sorted(names) == sorted([name, "own_answers"])
    err = capsys.readouterr().err
    assert f"what selects from the pool: {name}\n" in err
    assert "min to fine-tune on 1 selections of 12" in err


@pytest.fixture(scope="session")
def chromium():
    """Find a Chromium, or install Debian's."""
    names = ("chromium", "chromium-browser", "google-chrome")
    if not any(map(shutil.which, names)):
        try:
            subprocess.run(
                ["apt-get", "install", "-y", "-q", "chromium"],
                check=True, capture_output=True, timeout=200,
            )  # fmt: skip
        except (OSError, subprocess.SubprocessError) as error:
            pytest.skip(f"no Chromium here, and it cannot be installed: {error}")
    return next(filter(None, map(shutil.which, names)))


def loaded(chromium, page, folder):
    """Load a page, sort its table by the eighth column twice; return the results.

    Without a network, because the page must open offline.
    """
    error_listener = """<script>
      window.failures = [];
      window.addEventListener("error", e => window.failures.push(String(e.message)));
    </script>"""
    result_script = """<script>
      const wait = () => new Promise(done => setTimeout(done, 1000));
      const cells = () => [...document.querySelectorAll("table.dataTable tbody tr")]
        .map(row => row.cells[7]?.textContent);
      const sort = async () => {
        document.querySelectorAll("table.dataTable thead th")[7].click();
        await wait();
        return cells();
      };
      (async () => {
        await wait(); await wait(); await wait();
        const plots = document.querySelectorAll(".plotly-graph-div .main-svg").length;
        const up = await sort(), down = await sort();
        const search = document.querySelector("input[type=search]");
        search.value = "<b>";
        search.dispatchEvent(new Event("input", {bubbles: true}));
        await wait();
        const found = cells().length;
        document.body.textContent = "RESULT" + JSON.stringify(
          {failures: window.failures, title: document.title, plots, up, down, found}
        ) + "END";
      })();
    </script>"""
    text = page.read_text(encoding="utf-8")
    text = text.replace("<head>", "<head>" + error_listener).replace(
        "</body>", result_script + "</body>"
    )
    copy = folder / "watched.html"
    copy.write_text(text, encoding="utf-8")
    done = subprocess.run(
        [
            *(chromium, "--headless", "--no-sandbox", "--disable-gpu"),
            *("--host-resolver-rules=MAP * ~NOTFOUND", "--virtual-time-budget=20000"),
            *(f"--user-data-dir={folder / 'profile'}", "--dump-dom", copy.as_uri()),
        ],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    match = re.search("RESULT(.*)END", done.stdout, re.DOTALL)
    assert match, done.stdout[-500:] + done.stderr[-500:]
    return json.loads(html.unescape(match[1]))


def test_the_report_opens_offline_and_its_table_sorts(chromium, finished, tmp_path):
    page = loaded(chromium, finished / "report.html", tmp_path)
    assert page["failures"] == []
    assert page["title"] == "ogs adapt: run"
    assert page["plots"] >= 3
    for order, sign in (page["up"], 1), (page["down"], -1):
        tokens = [sign * int(cell.replace(",", "")) for cell in order]
        assert len(tokens) == 10
        assert tokens == sorted(tokens)
    assert page["up"] != page["down"]
    # A text that looks like HTML is text.
    assert page["found"] == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--budget", "121"), "budget '121': is 121 samples; expected 1 to the 120"),
        (("--agent", "lesss"), "unknown agent 'lesss'; did you mean less"),
        (("--agent", "screened-auto"), "unknown agent 'auto'"),
        (("--compare", "lesss"), "unknown selector to compare with 'lesss'; did you"),
        (("--compare", "all"), "unknown selector to compare with 'all'"),
        (("--draws", "0"), "--draws: 0; expected at least 1"),
        (("--epochs", "0"), "epochs: 0 is too small"),
        (("--train-steps", "0"), "--train-steps: 0; expected 1 or more"),
        (("--seed", "-1"), "seed: -1 is negative; give 0 or more"),
        (("--proxy", "nomodel"), "unknown model 'nomodel'; known: smollm2"),
        (("--model", "nomodel"), "unknown model 'nomodel'; known: smollm2"),
    ],
)
def test_bad_options_are_refused_before_anything_is_written(
    files, tmp_path, options, message
):
    with pytest.raises(InputError, match=message):
        run(arguments(files, tmp_path / "run", *options))
    assert not (tmp_path / "run").exists()


def test_a_folder_of_other_settings_is_refused(files, finished):
    with pytest.raises(InputError, match=r"other settings \(.*budget.*\); choose"):
        run(arguments(files, finished, "--budget", "13"))


def test_a_damaged_description_of_a_run_is_refused(files, finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    (tmp_path / "run" / "adapt.json").write_text("[]")
    with pytest.raises(InputError, match=r"adapt.json: holds a JSON list; expected a"):
        run(arguments(files, tmp_path / "run"))


def test_a_pool_too_small_is_refused(files, tmp_path):
    shutil.copytree(files, tmp_path / "files")
    write_samples(tmp_path / "files" / "pool.jsonl", colours(0, 63))
    with pytest.raises(InputError, match="has 63 samples; expected at least 64"):
        run(arguments(tmp_path / "files", tmp_path / "run"))


def test_too_few_domain_samples_are_refused(files, tmp_path):
    few = tmp_path / "few.jsonl"
    write_samples(few, colours(200, 3))
    for option in ("--domain", "--test"):
        with pytest.raises(InputError, match=r"few.jsonl: leaves [13] samples of the"):
            run(arguments(files, tmp_path / "run", option, few))
    assert not (tmp_path / "run").exists()


def test_an_anchor_that_shares_samples_with_the_pool_is_refused(files, tmp_path):
    shared = tmp_path / "shared.jsonl"
    write_samples(shared, [*sums(23), *colours(3, 1)])
    with pytest.raises(InputError, match="other roles: 1 of anchor"):
        run(arguments(files, tmp_path / "run", "--anchor", shared))
    assert not (tmp_path / "run").exists()
