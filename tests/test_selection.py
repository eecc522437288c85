import json
from pathlib import Path

import numpy as np
import pytest
from datasets import load_dataset
from helpers.tiny_model import make_tiny_model
from trl import SFTConfig, SFTTrainer

import ogs_env
from ogs_env.agents.selector import make_selector
from ogs_env.bundle import Bundle
from ogs_env.data.reading import read_samples
from ogs_env.data.records import Turn
from ogs_env.data.samples import Sample
from ogs_env.errors import InputError
from ogs_env.selection import LINES, Selection, parse_budget, select


@pytest.mark.parametrize(
    ("text", "count"),
    [("64", 64), ("10%", 48), ("100%", 480), ("480", 480), ("0.1%", 1), ("2.5%", 12)],
)
def test_budgets(text: str, count: int) -> None:
    assert parse_budget(text, 480) == count


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0", "is 0 samples; expected 1 to the 480"),
        ("0%", "is 0 samples"),
        ("481", "is 481 samples; expected 1 to the 480"),
        ("101%", "is 485 samples"),
        ("-3", "expected a whole number such as 64 or a percentage"),
        ("10%%", "expected a whole number"),
        ("ten", "budget 'ten': expected a whole number"),
        ("1.5", "expected a whole number"),
        ("", "expected a whole number"),
        ("nan%", "expected a whole number"),
        ("٣", "expected a whole number"),
    ],
)
def test_bad_budgets(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_budget(text, 480)


def test_selection_names_the_rows_it_holds(bundle: Bundle) -> None:
    selection = select(make_selector("loss"), bundle, "5%", split="test")
    part = bundle.split("test")
    assert len(selection) == selection.budget == round(0.05 * len(part))
    assert set(selection.indices) <= set(part.tolist())
    ids = bundle.pool.hex_ids()
    assert selection.ids == [ids[row] for row in selection.indices]
    losses = bundle.pool.losses[selection.indices]
    np.testing.assert_array_equal(selection.scores, losses)
    assert losses.min() >= np.sort(bundle.pool.losses[part])[-len(selection)]
    assert (
        selection.sources[0]
        == bundle.sources[bundle.pool.sources[selection.indices[0]]]
    )
    assert (selection.bundle, selection.space) == (bundle.name, bundle.space)
    assert selection.agent == "HighestLossSelector"


def test_select_is_exported_by_the_package(bundle_folder: Path) -> None:
    by_path = ogs_env.select(make_selector("random"), bundle_folder, 7, seed=3)
    by_string = ogs_env.select(make_selector("random"), str(bundle_folder), "7", seed=3)
    other = ogs_env.select(make_selector("random"), bundle_folder, 7, seed=4)
    assert by_path == by_string
    assert by_path.indices != other.indices
    with pytest.raises(InputError, match="budget '481'"):
        ogs_env.select(make_selector("random"), bundle_folder, 481)


def test_a_selection_is_saved_and_loaded(bundle: Bundle, tmp_path: Path) -> None:
    selection = select(make_selector("orth"), bundle, 6, agent="orth")
    selection.save(tmp_path / "out")
    assert Selection.load(tmp_path / "out") == selection
    lines = (tmp_path / "out" / "selection.jsonl").read_text().splitlines()
    values = [json.loads(line) for line in lines]
    assert [v["rank"] for v in values] == list(range(6))
    assert [v["id"] for v in values] == selection.ids
    assert [v["row"] for v in values] == selection.indices
    assert set(values[0]) == {"rank", "score", "id", "source", "row"}
    names = {file.name for file in (tmp_path / "out").iterdir()}
    assert names == {"selection.json", "selection.jsonl"}


def test_lines_have_the_samples_texts(bundle: Bundle, tmp_path: Path) -> None:
    selection = select(make_selector("random"), bundle, 2)
    texts = {name: Sample(f"p {name}", "é\n") for name in selection.ids}
    selection.save(tmp_path, texts)
    first = json.loads((tmp_path / "selection.jsonl").read_text("utf-8").split("\n")[0])
    assert first["prompt"] == [{"role": "user", "content": f"p {selection.ids[0]}"}]
    assert first["completion"] == [{"role": "assistant", "content": "é\n"}]
    with pytest.raises(InputError, match=f"sample {selection.ids[0]}: is selected but"):
        selection.save(tmp_path / "none", {})
    assert not (tmp_path / "none").exists()


def test_a_selection_of_chats_is_read_as_chats(bundle: Bundle, tmp_path: Path) -> None:
    selection = select(make_selector("random"), bundle, 2)
    turns = (Turn("system", "Be brief."), Turn("user", "Why?"))
    chat = Sample("Be brief.\n\nWhy?", "So.", "mine", messages=turns)
    selection.save(tmp_path, dict.fromkeys(selection.ids, chat))
    samples = read_samples(tmp_path / "selection.jsonl", source="mine")
    assert samples == [chat, chat]


def test_the_users_fields_survive(bundle: Bundle, tmp_path: Path) -> None:
    selection = select(make_selector("random"), bundle, 2)
    # Some names are those of a selection's own fields or of other formats.
    fields = {"original_id": 17, "year": [2020], "score": "high", "messages": None}
    sample = Sample("p", "r", "mine", fields)
    selection.save(tmp_path, dict.fromkeys(selection.ids, sample))
    lines = (tmp_path / "selection.jsonl").read_text().splitlines()
    for number, line in enumerate(map(json.loads, lines)):
        assert line["score"] == selection.scores[number]
        assert (line["original_id"], line["year"]) == (17, [2020])
        assert line["original_score"] == "high"
        assert "messages" not in line
        assert line["original_messages"] is None


def test_trl_trains_on_a_selection(bundle: Bundle, tmp_path: Path) -> None:
    selection = select(make_selector("random"), bundle, 4)
    turns = (Turn("system", "Be brief."), Turn("user", "Why?"))
    samples = [
        Sample("what is it?", "a stone", fields={"year": 2020}),
        Sample("what is that?", "a river", fields={"messages": "two"}),
        Sample("Be brief.\n\nWhy?", "so", messages=turns),
        Sample("", "a text alone"),
    ]
    selection.save(tmp_path, dict(zip(selection.ids, samples, strict=True)))
    file = f"{tmp_path / LINES}"
    cache = f"{tmp_path / 'cache'}"
    rows = load_dataset("json", data_files=file, split="train", cache_dir=cache)
    assert rows["id"] == selection.ids
    model = make_tiny_model(tmp_path / "model")
    trainer = SFTTrainer(
        f"{model}",
        args=SFTConfig(
            f"{tmp_path / 'out'}", max_steps=1, report_to=[], use_cpu=True,
            per_device_train_batch_size=4, save_strategy="no",
        ),
        train_dataset=rows,
    )  # fmt: skip
    decode = trainer.processing_class.decode
    # Only the response's tokens have a loss, as in a fine-tuning by `ogs finetune`.
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(4)])
    learned = [decode(row[row >= 0]) for row in batch["labels"]]
    for sample, text in zip(samples, learned, strict=True):
        assert sample.response in text
    assert not any("what is" in text or "Why" in text for text in learned)
    assert np.isfinite(trainer.train().training_loss)


def test_loading_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"selection.json: no such file"):
        Selection.load(tmp_path)
    (tmp_path / "selection.json").write_text('{"format": "ogs-selection", "ids": []}')
    with pytest.raises(InputError, match="its fields are not those of a selection"):
        Selection.load(tmp_path)
    (tmp_path / "selection.json").write_text("[]")
    with pytest.raises(InputError, match="is no selection made by `ogs select`"):
        Selection.load(tmp_path)
