"""Bad input on the command line: status 2, one helpful line and no files written."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.make_bundle import edit_manifest, make_bundle
from helpers.tiny_model import make_tiny_model
from safetensors.numpy import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from ogs_env.bundle import load_bundle
from ogs_env.cli import COMMANDS, main
from ogs_env.data.samples import Sample
from ogs_env.files import exclusive, sha256_of
from ogs_env.selection import Selection


@pytest.fixture
def ogs(capsys):
    """Run `ogs` in this process; return the status and the lines on stderr."""

    def run(*arguments: object) -> tuple[int, list[str]]:
        capsys.readouterr()
        status = main([str(word) for word in arguments])
        return status, capsys.readouterr().err.splitlines()

    return run


@pytest.fixture
def refused(ogs):
    """Run `ogs` with bad input; return its error line."""

    def run(*arguments: object) -> str:
        status, lines = ogs(*arguments)
        assert status == 2
        *notes, error = lines
        assert all(" records, read as " in note for note in notes), notes
        assert error.startswith("ogs: error: ")
        return error.removeprefix("ogs: error: ")

    return run


def records(count: int, word: str) -> list[dict]:
    return [{"prompt": f"{word} {i}?", "response": f"{i}"} for i in range(count)]


def write_lines(path: Path, lines: list) -> Path:
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("".join(f"{line}\n" for line in texts))
    return path


@pytest.fixture
def texts(tmp_path):
    """Valid user files for pool, domain and anchor, and the bundle's folder."""

    return {
        "pool": write_lines(tmp_path / "pool.jsonl", records(9, "what is")),
        "domain": write_lines(tmp_path / "domain.jsonl", records(8, "why is")),
        "anchor": write_lines(tmp_path / "sums.jsonl", records(6, "how much is")),
        "out": tmp_path / "out",
    }


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_tiny_model(tmp_path_factory.mktemp("model"))


def sketching(texts: dict[str, Path], *more: object) -> list[object]:
    return [
        *("sketch", texts["pool"], "--domain", texts["domain"]),
        *("--anchor", texts["anchor"], "--out", texts["out"], *more),
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{nonsense", "is no JSON"),
        ("[1, 2]", "expected a JSON object, found list"),
        ({"prompt": "why?"}, "lacks the field 'response'"),
        ({"response": "so"}, "lacks the field 'prompt'"),
        ({"prompt": "why?", "response": "  "}, "field 'response' is empty"),
        ({"prompt": 3, "response": "so"}, "field 'prompt' should be text, found int"),
        ({"prompt": "why?", "response": None}, "should be text, found null"),
    ],
)
@pytest.mark.parametrize("role", ["pool", "domain", "anchor"])
def test_a_bad_line_is_named(refused, texts, role, line, message):
    write_lines(texts[role], [*records(3, "what is"), line, *records(3, "where is")])
    error = refused(*sketching(texts, "--strict"))
    assert error.startswith(f"{texts[role]}:4: ")
    assert message in error
    assert not texts["out"].exists()


@pytest.mark.parametrize("content", ["", "\n \n"])
def test_an_empty_file_is_named(refused, texts, content):
    texts["pool"].write_text(content)
    assert refused(*sketching(texts)).startswith(f"{texts['pool']}: has no records")
    assert not texts["out"].exists()


@pytest.mark.parametrize("role", ["pool", "domain", "anchor"])
def test_a_missing_file_is_named(refused, texts, role):
    texts[role].unlink()
    assert f"{texts[role]}: no such file" in refused(*sketching(texts))
    assert not texts["out"].exists()


def test_a_sample_in_pool_and_test_is_named(refused, texts, tmp_path):
    test = write_lines(tmp_path / "test.jsonl", records(3, "what is"))
    error = refused(*sketching(texts, "--test", test))
    pool = texts["pool"]
    assert error == (
        f"{pool}: has samples of other roles: 3 of test (the first at {pool}:1, "
        f"{pool}:2, {pool}:3); leave them out with --drop-overlap"
    )
    assert not texts["out"].exists()


def test_overlap_is_dropped_on_request(ogs, texts, model):
    shared = [*records(2, "why is"), *records(1, "how much is")]
    write_lines(texts["pool"], [*shared, *records(9, "what is")])
    tiny = ("--proxy", model, "--k", 16, "--layers", 1, "--anchor-answers", "reference")
    status, lines = ogs(*sketching(texts, *tiny, "--drop-overlap"))
    assert status == 0
    (line,) = (line for line in lines if line.endswith("; left out"))
    assert line.startswith(f"{texts['pool']}: has ")
    assert f"(the first at {texts['pool']}:1, {texts['pool']}:2" in line
    assert load_bundle(texts["out"]).pool.places.tolist() == list(range(3, 12))


def test_a_pool_of_the_domain_alone_is_refused(refused, texts):
    error = refused(*sketching({**texts, "pool": texts["domain"]}, "--drop-overlap"))
    assert error.endswith("and no others; give a pool with other samples")


def test_records_that_cannot_be_used_are_left_out(ogs, texts, model):
    pool = records(9, "what is")
    pool[2:2] = [{"prompt": "why?"}, "{nonsense"]
    write_lines(texts["pool"], pool)
    tiny = ("--proxy", model, "--k", 16, "--layers", 1, "--anchor-answers", "reference")
    status, lines = ogs(*sketching(texts, *tiny))
    assert status == 0
    (note,) = (line for line in lines if line.startswith("ogs: note: "))
    assert "left out 2 of 11 records: lacks the field 'response', 1" in note
    assert note.endswith("--strict stops at the first")
    assert load_bundle(texts["out"]).pool.places.tolist() == [0, 1, *range(4, 11)]


def test_a_sample_that_is_not_finite_is_named_by_its_line(ogs, texts, tmp_path):
    folder = make_tiny_model(tmp_path / "broken")
    model = AutoModelForCausalLM.from_pretrained(folder)
    (token,) = AutoTokenizer.from_pretrained(folder)("Z").input_ids
    with torch.no_grad():
        model.model.embed_tokens.weight[token] = float("nan")
    model.save_pretrained(folder)
    pool = records(9, "what is")
    pool[6]["prompt"] = "what is Z?"
    write_lines(texts["pool"], pool)
    tiny = ("--proxy", folder, "--k", 16, "--layers", 1)
    status, lines = ogs(*sketching(texts, *tiny, "--anchor-answers", "reference"))
    assert status == 2
    assert lines[-1].startswith(f"ogs: error: {texts['pool']}:7: sample ")
    assert "is not finite" in lines[-1]


def test_rows_of_a_selection_are_places_in_the_users_file(ogs, texts, model, tmp_path):
    # The first record stands twice, then blank lines, then the second record again.
    first, *rest = records(9, "what is")
    pool = [first, first, "", *rest, rest[0]]
    write_lines(texts["pool"], pool)
    tiny = ("--proxy", model, "--k", 16, "--layers", 1, "--anchor-answers", "reference")
    assert ogs(*sketching(texts, *tiny))[0] == 0
    selecting = ("select", "--bundle", texts["out"], "--agent", "all")
    out = tmp_path / "selection"
    assert ogs(*selecting, "--texts", texts["pool"], "--out", out)[0] == 0
    lines = map(json.loads, (out / "selection.jsonl").read_text().splitlines())
    placed = {line["row"]: line["prompt"][0]["content"] for line in lines}
    dataset = [record for record in pool if record]
    assert placed == {0: first["prompt"]} | {
        place: dataset[place]["prompt"] for place in range(2, 10)
    }
    assert load_bundle(texts["out"]).pool.places.tolist() == [0, *range(2, 10)]
    # Another repeat is another request.
    write_lines(texts["pool"], [first, *pool])
    status, lines = ogs(*sketching(texts, *tiny))
    assert status == 2
    assert "holds a bundle of other samples" in lines[-1]


def test_named_fields_reach_all_files(ogs, texts, model):
    for role in ("pool", "domain", "anchor"):
        lines = [json.loads(line) for line in texts[role].read_text().splitlines()]
        renamed = [{"q": line["prompt"], "a": line["response"]} for line in lines]
        write_lines(texts[role], renamed)
    tiny = ("--proxy", model, "--k", 16, "--layers", 1, "--anchor-answers", "reference")
    fields = ("--prompt-field", "q", "--response-field", "a")
    assert ogs(*sketching(texts, *tiny, *fields))[0] == 0
    out = texts["out"].with_name("selection")
    selecting = ("select", "--bundle", texts["out"], "--agent", "all", "--out", out)
    assert ogs(*selecting, "--texts", texts["pool"], *fields)[0] == 0
    held_out = ("--test", texts["domain"], "--retention", texts["anchor"])
    tuning = ("finetune", out, *held_out, "--model", model, "--epochs", 1)
    tuned = out.with_name("tuned")
    assert ogs(*tuning, "--layers", 1, *fields, "--out", tuned)[0] == 0


def test_two_sketches_at_once_do_not_mix(texts, model):
    tiny = ("--proxy", model, "--k", 16, "--layers", 1, "--anchor-answers", "reference")
    command = [sys.executable, "-m", "ogs_env.cli"]
    runs = [
        subprocess.Popen(
            [*command, *map(str, sketching(texts, *tiny, "--seed", seed))],
            stderr=subprocess.PIPE,
            text=True,
        )
        for seed in (0, 1)
    ]
    errors = [run.communicate()[1].splitlines()[-1] for run in runs]
    statuses = [run.returncode for run in runs]
    assert sorted(statuses) == [0, 2], errors
    # The second is refused, or finds the bundle of the first when it is complete.
    refusal = errors[statuses.index(2)]
    assert "another process is writing there" in refusal or "holds a bu" in refusal
    seed = load_bundle(texts["out"]).manifest["request"]["seed"]
    assert seed == statuses.index(0)


@pytest.mark.parametrize("command", ["sketch", "adapt", "train", "finetune"])
def test_a_folder_in_use_is_refused(refused, texts, tmp_path, bundle_folder, command):
    selection = tmp_path / "selection"
    record = Sample("what is 1?", "1")
    Selection([record.id], [0], [1.0], [""], "all", "b", "s", 1, "all", 0).save(
        selection, {record.id: record}
    )
    anchors = ("--anchor", texts["anchor"], "--out", texts["out"])
    own = (texts["pool"], "--domain", texts["domain"], *anchors)
    arguments = {
        "sketch": own,
        "adapt": (*own, "--budget", 2),
        "train": ("--bundle", bundle_folder, "--out", texts["out"]),
        "finetune": (
            *(selection, "--out", texts["out"]),
            *("--test", texts["domain"], "--retention", texts["anchor"]),
        ),
    }
    # Fine-tunings on several selections can run at once.
    folder = texts["out"] / ("selection" if command == "finetune" else "")
    with exclusive(folder):
        error = refused(command, *arguments[command])
    assert error.startswith(f"{folder}: another process is writing there")


def test_a_domain_of_one_sample_is_refused(refused, texts):
    write_lines(texts["domain"], records(1, "why is"))
    error = refused(*sketching(texts))
    assert error.startswith(f"{texts['domain']}: has one sample")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--k", 0], "k: is 0; expected a number above 0"),
        (["--k", "many"], "argument --k: 'many', expected a whole number; see `ogs"),
        (["--rank", -4], "rank: is -4"),
        (["--learning-rate", "nan"], "learning_rate: is nan; expected a number"),
        (["--checkpoints", 0], "--checkpoints: needs --trajectory; give it too"),
        (["--max-tokens", 3], "max-tokens: is 3; expected 16 or more"),
        (["--trajectory", "--checkpoints", 5, 2], "expected ascending steps"),
        (["--trajectory", "--checkpoints", 50], "need 400 samples, the pool has 9"),
        (["--precision", "float8"], "argument --precision: invalid choice: 'float8'"),
        (
            ["--anchor-answers", "owns"],
            "argument --anchor-answers: invalid choice: 'owns'",
        ),
        (["--proxy", "smollm2-135m"], "did you mean smollm2-135m-instruct"),
        (["--anchor", "gsm9k"], "unknown anchor 'gsm9k'; did you mean gsm8k"),
        (["--anchor-samples", 0], "--anchor-samples: is 0; expected at least 1"),
        (["--domain-samples", 0], "--domain-samples: is 0; expected at least 1"),
        (["--nonsense"], "unrecognized arguments: --nonsense; see `ogs sketch --help`"),
        (["--percision=auto"], "--percision=auto; did you mean --precision?; see"),
    ],
)
def test_a_bad_option_is_named(refused, texts, more, message):
    assert message in refused(*sketching(texts, *more))
    assert not texts["out"].exists()


def test_a_proxy_that_is_no_model_is_named(refused, texts, tmp_path):
    (tmp_path / "nothing").mkdir()
    error = refused(*sketching(texts, "--proxy", tmp_path / "nothing"))
    assert error.startswith(f"model '{tmp_path / 'nothing'}': cannot be loaded")
    assert not texts["out"].exists()


def test_the_domain_has_to_be_given(refused, texts):
    error = refused("sketch", texts["pool"], "--out", texts["out"])
    assert error.startswith("--domain: is missing; give a file")


@pytest.mark.parametrize("option", ["--anchor", "--domain", "--prompt-field"])
def test_options_for_files_are_refused_with_a_named_domain(refused, tmp_path, option):
    command = "sketch", "medical-packages", "--out", tmp_path / "out"
    error = refused(*command, option, "x")
    assert error.startswith(f"{option}: is for your own files, and 'medical-packages'")


def test_an_unknown_domain_gets_suggestions(refused, texts):
    error = refused("sketch", "medicl", "--out", texts["out"])
    assert error.startswith("unknown domain 'medicl'; did you mean medical")


def test_an_out_folder_in_use_is_left_alone(refused, texts):
    texts["out"].mkdir()
    (texts["out"] / "thesis.txt").write_text("mine")
    error = refused(*sketching(texts))
    assert (
        error == f"{texts['out']}: holds files that are no bundle; choose another --out"
    )
    assert [path.name for path in texts["out"].iterdir()] == ["thesis.txt"]


def test_an_out_that_is_a_file_is_left_alone(refused, texts):
    texts["out"].write_text("mine")
    assert "is a file; choose a folder for --out" in refused(*sketching(texts))
    assert texts["out"].read_text() == "mine"


def test_a_very_long_response_is_cut_with_a_note(ogs, texts, model):
    long = {"prompt": "how long is it?", "response": "very " * 20_000}
    write_lines(texts["pool"], [*records(4, "what is"), long])
    status, lines = ogs(
        *sketching(texts, "--proxy", model, "--k", 16, "--rank", 2, "--layers", 1)
    )
    assert status == 0
    notes = [line for line in lines if line.startswith("ogs: note:")]
    assert notes == [
        f"ogs: note: {texts['pool']}: responses cut to their first 20,000 characters: "
        f"1 ({texts['pool']}:5)"
    ]
    manifest = json.loads((texts["out"] / "manifest.json").read_text())
    assert manifest["name"] == texts["out"].name
    assert manifest["roles"]["pool"] == 5
    assert manifest["cut"]["pool"] == 1


def test_commands(ogs, refused, capsys):
    assert "unknown command 'skech'; did you mean sketch?" in refused("skech")
    assert "see `ogs --help`" in refused("xyzzy")
    assert main(["--help"]) == 0
    output = capsys.readouterr().out
    assert all(name in output for name in COMMANDS)
    assert main([]) == 2
    assert main(["--version"]) == 0


# ogs select


@pytest.fixture
def small_bundle(tmp_path):
    return make_bundle(tmp_path / "made", pool=90, shards=2)


def selecting(small_bundle: Path, out: Path, **options: object) -> list[object]:
    words = {
        "agent": "random",
        "bundle": small_bundle,
        "budget": 9,
        "out": out,
        **options,
    }
    return ["select", *(w for name, v in words.items() for w in (f"--{name}", v))]


def test_a_selection_is_written(ogs, small_bundle, tmp_path):
    for budget, count in (("9", 9), ("10%", 9), ("100%", 90)):
        assert ogs(*selecting(small_bundle, tmp_path / budget, budget=budget))[0] == 0
        lines = (tmp_path / budget / "selection.jsonl").read_text().splitlines()
        assert len({json.loads(line)["id"] for line in lines}) == count


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        ("0", "budget '0': is 0 samples; expected 1 to the 90 there are"),
        ("0%", "budget '0%': is 0 samples"),
        ("91", "budget '91': is 91 samples; expected 1 to the 90 there are"),
        ("101%", "expected 1 to the 90"),
        ("10%%", "budget '10%%': expected a whole number such as 64 or a percentage"),
        ("ten", "budget 'ten': expected a whole number"),
        ("1.5", "budget '1.5': expected a whole number"),
        ("nan%", "budget 'nan%': expected a whole number"),
        ("", "budget '': expected a whole number"),
    ],
)
def test_a_bad_budget_is_refused(refused, small_bundle, tmp_path, budget, message):
    assert message in refused(*selecting(small_bundle, tmp_path / "out", budget=budget))
    assert not (tmp_path / "out").exists()


def test_a_negative_budget_is_refused(refused, small_bundle, tmp_path):
    arguments = [
        "select",
        "--agent",
        "random",
        "--bundle",
        small_bundle,
        "--out",
        tmp_path / "out",
    ]
    for budget in (["--budget", "-3"], ["--budget=-3"]):
        assert "budget '-3': expected a whole number" in refused(*arguments, *budget)
    assert not (tmp_path / "out").exists()


def test_only_all_needs_no_budget(ogs, refused, small_bundle, tmp_path):
    arguments = ["select", "--bundle", small_bundle, "--out", tmp_path / "out"]
    assert "--budget: is missing; say how many" in refused(
        *arguments, "--agent", "random"
    )
    assert not (tmp_path / "out").exists()
    assert ogs(*arguments, "--agent", "all")[0] == 0
    lines = (tmp_path / "out" / "selection.jsonl").read_text().splitlines()
    assert len({json.loads(line)["id"] for line in lines}) == 90


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"agent": "randm"}, "unknown agent 'randm'; did you mean random"),
        ({"agent": "/nowhere/agent"}, "/nowhere/agent: no such folder"),
        ({"bundle": "medcal"}, "unknown bundle 'medcal'"),
        ({"bundle": "/nowhere/bundle"}, "/nowhere/bundle: no such folder"),
        ({"texts": "/nowhere/pool.jsonl"}, "/nowhere/pool.jsonl: no such file"),
        ({"split": "half"}, "argument --split: invalid choice: 'half'"),
        ({"seed": "x"}, "argument --seed: 'x', expected a whole number"),
        ({"agent": "dsir"}, "texts of bundle 'made' are not known; expected the name"),
        ({"rank-by": "impact"}, "--rank-by: agent 'random' ranks by no field"),
        (
            {"agent": "metadata", "rank-by": "impact"},
            "--rank-by: no texts to read the field 'impact' from; give the pool's",
        ),
    ],
)
def test_a_bad_option_of_select_is_refused(
    refused, small_bundle, tmp_path, options, message
):
    assert message in refused(*selecting(small_bundle, tmp_path / "out", **options))
    assert not (tmp_path / "out").exists()


def test_texts_of_another_pool_are_refused(refused, small_bundle, tmp_path):
    other = write_lines(tmp_path / "other.jsonl", records(3, "what is"))
    error = refused(*selecting(small_bundle, tmp_path / "out", texts=other))
    assert error.startswith(f"{other}: 90 of 90 pool samples of bundle 'made' are not")
    assert not (tmp_path / "out").exists()


def flip_byte(folder: Path) -> None:
    file = folder / "dev-00000.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def remove_shard(folder: Path) -> None:
    (folder / "pool-00001.safetensors").unlink()


def change(folder: Path, **columns) -> None:
    """Change a shard and its hash in the manifest."""
    file = folder / "pool-00000.safetensors"
    save_file(load_file(file) | columns, file)
    files = json.loads((folder / "manifest.json").read_text())["files"]
    files[file.name]["sha256"] = sha256_of(file)
    edit_manifest(folder, files=files)


def put_nan(folder: Path) -> None:
    norms = load_file(folder / "pool-00000.safetensors")["norms"]
    norms[5] = np.nan
    change(folder, norms=norms)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (flip_byte, "dev-00000.safetensors: its bytes are not those"),
        (remove_shard, "pool-00001.safetensors: is missing from the bundle"),
        (
            put_nan,
            "pool-00000.safetensors: tensor 'norms' holds a NaN or infinity in row 5",
        ),
        (
            lambda folder: edit_manifest(folder, projection={"k": 32}),
            "tensor 'initial' should have shape (40, 32), found (40, 64)",
        ),
        (
            lambda folder: edit_manifest(folder, format_version=1),
            "format version 1, this ogs_env reads version 6; rebuild the",
        ),
        (
            lambda folder: edit_manifest(folder, format="zip"),
            "is no manifest",
        ),
        (lambda folder: edit_manifest(folder, roles=None), "lacks 'roles'"),
        (
            lambda folder: (folder / "manifest.json").write_text("{"),
            "is no JSON",
        ),
        (
            lambda folder: (folder / "manifest.json").unlink(),
            "no such file",
        ),
    ],
)
def test_a_damaged_bundle_is_refused(refused, small_bundle, tmp_path, damage, message):
    damage(small_bundle)
    error = refused(*selecting(small_bundle, tmp_path / "out"))
    assert error.startswith(str(small_bundle))
    assert message in error
    assert not (tmp_path / "out").exists()


# In a process of its own, to see all that Python prints.


def ogs_process(*arguments: object, **environment: str) -> subprocess.CompletedProcess:
    inherited = {name: v for name, v in os.environ.items() if name != "OGS_DATA"}
    return subprocess.run(
        [sys.executable, "-m", "ogs_env.cli", *map(str, arguments)],
        env={**inherited, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
    )


def test_without_hub_and_data_gsm8k_says_what_to_do(texts, tmp_path):
    done = ogs_process(
        *("sketch", texts["pool"], "--domain", texts["domain"], "--out", texts["out"]),
        HF_HUB_OFFLINE="1",
        HF_HOME=str(tmp_path / "empty"),
    )
    assert done.returncode == 2
    *_, line = done.stderr.splitlines()
    assert line.startswith("ogs: error: gsm8k: not in OGS_DATA (unset)")
    assert "set OGS_DATA to it, or use gsm_symbolic" in line
    assert not texts["out"].exists()


def test_another_process_prints_one_line_too(small_bundle, tmp_path):
    shutil.copytree(small_bundle, tmp_path / "copy")
    flip_byte(tmp_path / "copy")
    done = ogs_process(*selecting(tmp_path / "copy", tmp_path / "out"))
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert line.startswith(f"ogs: error: {tmp_path / 'copy'}")
    assert done.stdout == ""


def test_help_needs_no_torch():
    code = (
        "import sys; sys.modules['torch'] = None; from ogs_env.cli import main;"
        "sys.exit(main(['--help']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "sketch" in done.stdout


def test_a_missing_package_is_named_with_its_extra(texts):
    code = (
        "import sys; sys.modules['torch'] = None; from ogs_env.cli import main;"
        "sys.exit(main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, sketching(texts))],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert line == (
        "ogs: error: the package torch is not installed; run `pip install "
        "'ogs-env[llm]'`"
    )


def test_a_closed_pipe_is_no_error():
    command = f"{sys.executable} -m ogs_env.cli domains | head -c 1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert len(done.stdout) == 1
    assert done.stderr == ""
