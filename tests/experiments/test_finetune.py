import gzip
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import asdict, replace
from types import SimpleNamespace

import huggingface_hub
import numpy as np
import pytest
import torch
from helpers.easy_samples import colours, sums
from helpers.tiny_model import make_tiny_model
from peft import PeftModel
from safetensors.torch import load_file

from ogs_env.data.pairs import Pair, solution_pairs
from ogs_env.data.samples import write_samples
from ogs_env.errors import InputError
from ogs_env.experiments import adapter_training
from ogs_env.experiments import finetune_command as module
from ogs_env.experiments.adapter_training import training_batch, training_order
from ogs_env.experiments.evaluation import mean_losses, pair_preferences
from ogs_env.experiments.finetune import FinetuneSettings, finetune, table
from ogs_env.files import write_json
from ogs_env.lm.encoding import encode
from ogs_env.lm.loading import load_model
from ogs_env.options import parse
from ogs_env.selection import Selection
from ogs_env.sketching.answers import own_answers

TRAINED, TEST, RETENTION = colours(0, 16), colours(100, 6), sums(5)
GRAMMAR = [
    Pair(None, "", "The dogs bark.", "The dogs barks."),
    Pair(None, "", "She saw herself.", "She saw himself."),
]


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory):
    return make_tiny_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def settings(tiny_model):
    return FinetuneSettings(
        model=str(tiny_model), epochs=2, batch=4, learning_rate=1e-2
    )


@pytest.fixture
def starts(monkeypatch):
    """Record the checkpoint from which each training starts."""
    checkpoints = []
    train = adapter_training.Trainer.train

    def noting(self, resume_from_checkpoint=None):
        checkpoints.append(resume_from_checkpoint)
        return train(self, resume_from_checkpoint=resume_from_checkpoint)

    monkeypatch.setattr(adapter_training.Trainer, "train", noting)
    return checkpoints


def test_training_memorises_a_small_set(settings, tmp_path):
    result = finetune(
        TRAINED, TEST, RETENTION, replace(settings, epochs=24), tmp_path / "run"
    )
    losses = result["training_loss"]
    assert len(losses) == 96
    assert np.mean(losses[-16:]) < 0.25 * np.mean(losses[:16])
    # The held-out questions have the same answers.
    assert (
        result["after"]["test"]["per_sample"] < result["before"]["test"]["per_sample"]
    )


def test_the_last_layers_alone_are_adapted(settings, tmp_path):
    run = replace(settings, epochs=1, layers=2)
    finetune(TRAINED, TEST, RETENTION, run, tmp_path / "run")

    adapter = load_file(tmp_path / "run/adapter/adapter_model.safetensors")
    layers = {int(re.search(r"layers\.(\d+)\.", name)[1]) for name in adapter}
    assert layers == {1, 2}  # of three


def test_figures_are_those_of_model_and_adapter(settings, tmp_path):
    result = finetune(TRAINED, TEST, RETENTION, settings, tmp_path / "run")
    model, tokenizer = load_model(settings.model)

    def losses():
        return {
            name: mean_losses(model, tokenizer, samples).per_sample
            for name, samples in {"test": TEST, "retention": RETENTION}.items()
        }

    def reported(when):
        return {name: result[when][name]["per_sample"] for name in losses()}

    assert reported("before") == pytest.approx(losses(), rel=1e-6)
    model = PeftModel.from_pretrained(model, tmp_path / "run" / "adapter")
    assert reported("after") == pytest.approx(losses(), rel=1e-6)
    assert reported("after") != pytest.approx(reported("before"), rel=1e-3)
    assert json.loads((tmp_path / "run" / "result.json").read_text()) == result
    # No pickle and no checkpoint stays behind.
    files = {file.name for file in (tmp_path / "run").rglob("*") if file.is_file()}
    assert files == {
        *("run.json", "result.json"),
        *("adapter_model.safetensors", "adapter_config.json", "README.md"),
    }


def test_pairs_are_measured_before_and_after(settings, tmp_path):
    result = finetune(
        TRAINED, TEST, RETENTION, settings, tmp_path / "run", grammar=GRAMMAR
    )
    model, tokenizer = load_model(settings.model)

    def preferred():
        pairs = {"solutions": solution_pairs(RETENTION), "grammar": GRAMMAR}
        return {
            name: pytest.approx(pair_preferences(model, tokenizer, own), rel=1e-5)
            for name, own in pairs.items()
        }

    assert result["before"]["pairs"] == preferred()
    model = PeftModel.from_pretrained(model, tmp_path / "run" / "adapter")
    assert result["after"]["pairs"] == preferred()
    assert result["after"]["pairs"] != result["before"]["pairs"]


def test_the_table_has_the_share_of_correct_pairs(settings, tmp_path):
    result = finetune(
        TRAINED, TEST, RETENTION, settings, tmp_path / "run", grammar=GRAMMAR
    )
    shares = [
        f"{name} {result['before']['pairs'][name]['accuracy'] * 100:.0f} % -> "
        f"{result['after']['pairs'][name]['accuracy'] * 100:.0f} %"
        for name in ("solutions", "grammar")
    ]
    header, _, row = table([result]).splitlines()
    assert header.endswith("| answers right | pairs right |")
    assert row.endswith(f"|  | {', '.join(shares)} |")


def test_without_maths_and_grammar_there_are_no_pairs(settings, tmp_path):
    result = finetune(TRAINED, TEST, colours(50, 4), settings, tmp_path / "run")
    assert result["before"]["pairs"] == result["after"]["pairs"] == {}
    assert table([result]).endswith("|  |  |")


def close(losses, rel=1e-6):
    """Return a value that equals such losses up to rounding."""
    return {name: pytest.approx(value, rel=rel) for name, value in losses.items()}


def test_own_answers_are_measured_before_and_after(settings, tmp_path):
    result = finetune(TRAINED, TEST, RETENTION, settings, tmp_path / "run")
    model, tokenizer = load_model(settings.model)
    most, folder = settings.max_tokens, tmp_path / "own"
    folder.mkdir()
    answers = own_answers(
        model, tokenizer, RETENTION, folder, "retention", seed=0, max_tokens=most
    )
    before = mean_losses(model, tokenizer, RETENTION, most, "own", answers)
    assert result["before"]["answers"] == close(asdict(before))
    model = PeftModel.from_pretrained(model, tmp_path / "run" / "adapter")
    after = mean_losses(model, tokenizer, RETENTION, most, "own", answers)
    assert result["after"]["answers"] == close(asdict(after))
    assert after.per_token > before.per_token
    # Runs side by side are measured on the same.
    (answers_file,) = (tmp_path / "own_answers").rglob("answers-*")
    modified = answers_file.stat().st_mtime_ns
    finetune(
        TRAINED[:8], TEST, RETENTION, replace(settings, seed=1), tmp_path / "other"
    )
    assert list((tmp_path / "own_answers").rglob("answers-*")) == [answers_file]
    assert answers_file.stat().st_mtime_ns == modified


def test_other_pairs_of_grammar_are_another_run(settings, tmp_path, starts):
    for grammar in ([], GRAMMAR, GRAMMAR[:1], GRAMMAR[:1]):
        finetune(TRAINED, TEST, RETENTION, settings, tmp_path / "run", grammar=grammar)
    assert len(starts) == 3


def test_a_result_depends_only_on_seed_and_set(settings, tmp_path):
    def after(name, samples, settings):
        result = finetune(samples, TEST, RETENTION, settings, tmp_path / name)
        return result["training_loss"], result["after"]

    first = after("a", TRAINED, settings)
    torch.rand(3)  # the state of the global generator has no effect
    assert after("b", TRAINED[::-1], settings) == first
    assert after("c", TRAINED, replace(settings, seed=1)) != first


def test_a_finished_run_is_reused(settings, tmp_path, starts):
    def run(**changed):
        return finetune(
            TRAINED, TEST, RETENTION, replace(settings, **changed), tmp_path / "run"
        )

    first = run()
    assert run() == first
    assert starts == [None]
    other = run(learning_rate=2e-2)
    assert starts == [None, None]
    assert other["after"] != first["after"]
    assert run(learning_rate=2e-2) == other
    assert len(starts) == 2


def test_a_killed_run_is_resumed(settings, tmp_path, starts):
    """Kill -9 in the middle and run again: the result is that of an unbroken run."""
    settings = replace(settings, epochs=15)
    unbroken = finetune(TRAINED, TEST, RETENTION, settings, tmp_path / "unbroken")
    for name, samples in {"in": TRAINED, "test": TEST, "keep": RETENTION}.items():
        write_samples(tmp_path / f"{name}.jsonl", samples)
    code = f"""
import torch
from pathlib import Path
from ogs_env.data.reading import read_samples
from ogs_env.experiments.finetune import FinetuneSettings, finetune
torch.set_num_threads(1)
folder = Path({str(tmp_path)!r})
sets = [read_samples(folder / f"{{name}}.jsonl") for name in ("in", "test", "keep")]
finetune(*sets, {settings!r}, folder / "killed")
"""
    killed = tmp_path / "killed"
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list(killed.glob("checkpoints/*/trainer_state.json")):
        assert process.poll() is None, "ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (killed / "result.json").exists()
    # A kill can also leave a checkpoint that is not whole.
    (killed / "checkpoints" / "checkpoint-59").mkdir()

    starts.clear()
    result = finetune(TRAINED, TEST, RETENTION, settings, killed)
    [start] = starts
    assert start is not None
    assert not start.endswith("-59")
    assert len(result["training_loss"]) == 60
    assert result["training_loss"] == pytest.approx(unbroken["training_loss"], rel=1e-4)
    for name in ("test", "retention"):
        assert result["after"][name] == close(unbroken["after"][name], rel=1e-4)


def test_each_epoch_takes_every_sample_once(settings):
    lengths = [5, 50, 7, 44, 9, 41, 6, 48, 8, 46]
    order = training_order(lengths, replace(settings, epochs=3, batch=2))
    epochs = [order[start : start + 10] for start in (0, 10, 20)]
    assert all(Counter(epoch) == Counter(range(10)) for epoch in epochs)
    assert epochs[0] != epochs[1]


def test_logits_at_responses_give_the_loss_of_all_logits(settings):
    model, tokenizer = load_model(settings.model)
    samples = TRAINED[:5] + RETENTION[:1]
    encoded = [encode(tokenizer, s.prompt, s.response, 256) for s in samples]
    batch = training_batch(encoded, tokenizer.pad_token_id)
    with torch.no_grad():
        loss = model(**batch).loss
        nats = 0.0
        for item in encoded:
            ids = torch.tensor([item.input_ids])
            logits = model(ids).logits[0].log_softmax(-1)
            nats -= sum(
                logits[p - 1, ids[0, p]].item()
                for p in range(item.response_start, ids.shape[1])
            )
    tokens = sum(item.response_tokens for item in encoded)
    assert loss.item() == pytest.approx(nats / tokens, rel=1e-5)
    assert batch["labels"].shape[1] < batch["input_ids"].shape[1]


def save_selection(folder, samples, agent, texts=True):
    count = len(samples)
    Selection(
        ids=[sample.id for sample in samples],
        indices=list(range(count)),
        scores=[0.0] * count,
        sources=[sample.source for sample in samples],
        agent=agent,
        bundle="made",
        space="made",
        budget=count,
        split="all",
        seed=0,
    ).save(folder, {sample.id: sample for sample in samples} if texts else None)


def command(*arguments):
    module.run(parse(module.Options, [str(word) for word in arguments]))


@pytest.fixture
def files(tmp_path, tiny_model, monkeypatch):
    monkeypatch.delenv("OGS_DATA", raising=False)
    write_samples(tmp_path / "test.jsonl", TEST)
    write_samples(tmp_path / "keep.jsonl", RETENTION)
    save_selection(tmp_path / "picked", TRAINED[:8], "agents/navigator")
    save_selection(tmp_path / "drawn", TRAINED[8:], "random")
    args = ["--test", tmp_path / "test.jsonl", "--retention", tmp_path / "keep.jsonl"]
    return [*args, "--model", tiny_model, "--out", tmp_path / "out"]


def test_command_runs_several_selections(files, tmp_path, capsys, starts):
    selections = [tmp_path / "picked", tmp_path / "drawn"]
    command(*selections, *files, "--generate", 2, "--epochs", 2)
    results = [
        json.loads((tmp_path / "out" / name / "result.json").read_text())
        for name in ("picked", "drawn")
    ]
    assert capsys.readouterr().out == table(results) + "\n"
    assert [r["selector"] for r in results] == ["navigator", "random"]
    assert results[0]["before"] == results[1]["before"]
    assert results[0]["after"] != results[1]["after"]
    assert all(r["before"]["accuracy"] == 0.0 for r in results)
    # Before is measured once.
    assert results[1]["seconds"]["evaluation_before"] < 0.01
    command(*selections, *files, "--generate", 2, "--epochs", 2)
    assert len(starts) == 2


def test_command_measures_grammar_if_its_file_exists(files, tmp_path, monkeypatch):
    lines = [
        json.dumps({"good": pair.right, "bad": pair.wrong, "paradigm": "verbs"})
        for pair in GRAMMAR
    ]
    (tmp_path / "blimp_pairs.jsonl.gz").write_bytes(
        gzip.compress("\n".join(lines).encode())
    )
    file = tmp_path / "out" / "picked" / "result.json"
    command(tmp_path / "picked", *files)
    assert json.loads(file.read_text())["after"]["pairs"].keys() == {"solutions"}
    monkeypatch.setenv("OGS_DATA", str(tmp_path))
    command(tmp_path / "picked", *files)
    assert json.loads(file.read_text())["after"]["pairs"]["grammar"]["pairs"] == 2


def test_missing_grammar_pairs_are_reported_before_training(
    files, tmp_path, monkeypatch
):
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(InputError, match=r"blimp: not in OGS_DATA \(unset\)"):
        command(tmp_path / "picked", *files, "--grammar")
    assert not (tmp_path / "out").exists()


def test_command_takes_the_retention_part_of_an_anchor():
    held_out = module._held_out("gsm_symbolic", "retention", {})
    anchor, retention, _ = module.load_anchor("gsm_symbolic")
    assert held_out == retention
    assert not set(held_out) & set(anchor)


def test_command_takes_the_held_out_sets_of_a_domain(files, tmp_path, monkeypatch):
    held_out = SimpleNamespace(test=TEST, retention={"a": sums(2), "b": colours(50, 3)})
    monkeypatch.setattr(module, "domains", lambda: {"made": lambda: held_out})
    command(tmp_path / "picked", *files, "--test", "made", "--retention", "made")
    [result] = tmp_path.glob("out/*/result.json")
    before = json.loads(result.read_text())["before"]
    assert before["test"]["samples"] == 6
    assert before["retention"]["samples"] == 5
    tokens = sum(len(s.response) + 1 for s in sums(2) + colours(50, 3))
    assert before["retention"]["tokens"] == tokens


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--epochs", 0], "epochs: 0 is too small"),
        (["--batch", 0], "batch: 0 is too small"),
        (["--layers", 0], "layers: 0 is too small"),
        (["--seed", -1], "seed: -1 is negative"),
        (["--seed", 2**32], "seed: 4294967296 is too large"),
        (["--learning-rate", 0], "learning rate: 0.0 is no positive number"),
        (["--generate", 6], "retention set holds 5 samples"),
        (["--learning-rate", 1e30], "training diverged at learning rate 1e.30"),
        (["--test", "missing.jsonl"], "missing.jsonl: no such file"),
        (["--test", "medcal"], "unknown file or domain 'medcal'; did you mean medical"),
        (["--model", "smolm2"], "unknown model 'smolm2'"),
    ],
)
def test_bad_options(files, tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        command(tmp_path / "picked", *files, *options)
    assert not list(tmp_path.glob("out/*/result.json"))


def test_a_model_that_cannot_be_loaded_leaves_an_earlier_result(files, tmp_path):
    folder = tmp_path / "out" / "picked"
    write_json(folder / "run.json", {"settings": {}})
    write_json(folder / "result.json", {})
    with pytest.raises(InputError, match="unknown model 'smolm2'"):
        command(tmp_path / "picked", *files, "--model", "smolm2")
    assert (folder / "result.json").exists()


def test_bad_selections(files, tmp_path):
    with pytest.raises(InputError, match=r"selection.json: no such file"):
        command(tmp_path / "nowhere", *files)
    save_selection(tmp_path / "more" / "picked", TRAINED[:4], "random")
    with pytest.raises(InputError, match="'picked': two folders have this name"):
        command(tmp_path / "picked", tmp_path / "more" / "picked", *files)
    save_selection(tmp_path / "bare", TRAINED[:4], "random", texts=False)
    with pytest.raises(InputError, match=r"bare.*holds ids without texts"):
        command(tmp_path / "bare", *files)
    write_samples(tmp_path / "picked" / "selection.jsonl", TRAINED[:3])
    with pytest.raises(InputError, match=r"not those named in selection\.json"):
        command(tmp_path / "picked", *files)
    save_selection(tmp_path / "leak", [*TRAINED[:4], TEST[2]], "random")
    with pytest.raises(
        InputError, match=rf"{TEST[2].id}.*both selection \(.*\) and test"
    ):
        command(tmp_path / "leak", *files)
    (tmp_path / "out" / "drawn").mkdir(parents=True)
    (tmp_path / "out" / "drawn" / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="but no fine-tuning run"):
        command(tmp_path / "drawn", *files)
    assert (tmp_path / "out" / "drawn" / "thesis.txt").read_text() == "mine"


def test_empty_sets(settings, tmp_path):
    with pytest.raises(InputError, match="selection set: holds no samples"):
        finetune([], TEST, RETENTION, settings, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_single_step_learns_too(settings, tmp_path):
    result = finetune(
        TRAINED[:4], TEST, RETENTION, replace(settings, epochs=1), tmp_path / "run"
    )
    assert len(result["training_loss"]) == 1
    assert result["after"]["test"] != result["before"]["test"]


@pytest.mark.slow
def test_real_model_learns(tmp_path):
    settings = FinetuneSettings(epochs=4, batch=4, max_tokens=64)
    result = finetune(TRAINED[:4], TEST[:2], RETENTION[:2], settings, tmp_path / "run")
    assert result["training_loss"][-1] < result["training_loss"][0] - 0.5
    # The loss of plain English is low for a trained model; 10.8 for an untrained one.
    assert result["before"]["retention"]["per_sample"] < 5


@pytest.mark.parametrize("text", ["[]", "{}"])
def test_a_damaged_result_is_one_clear_error(settings, tmp_path, text):
    few = TRAINED[:4], TEST[:2], RETENTION[:2], replace(settings, epochs=1)
    finetune(*few, tmp_path / "run")
    (tmp_path / "run" / "result.json").write_text(text)
    with pytest.raises(InputError, match=r"result.json: .*; delete it to fine-tune"):
        finetune(*few, tmp_path / "run")
