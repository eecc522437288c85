"""Re-selection inside SFTTrainer and Trainer, with tiny models."""

import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from helpers.words import WORDS
from peft import LoraConfig
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from trl import SFTConfig, SFTTrainer

from ogs_env.agents.deployment import AgentSelector
from ogs_env.agents.navigator import Navigator, build_network
from ogs_env.agents.selector import make_selector
from ogs_env.bundle import load_bundle
from ogs_env.errors import InputError
from ogs_env.integrations.current_model import current_proxy
from ogs_env.integrations.trained_samples import encode_record
from ogs_env.integrations.trl import Reselection
from ogs_env.lm.adapter import attach_adapter
from ogs_env.lm.loading import load_model
from ogs_env.seeding import named_generator

if TYPE_CHECKING:
    from helpers.live_bundle import LiveFiles

POOL = 30
LORA = {"r": 4, "lora_dropout": 0.1, "target_modules": "all-linear"}


class FixedSelector:
    """Selects the same rows of the training set each time."""

    def __init__(self, rows: list[int]) -> None:
        self.rows = rows

    def select(self, bundle, budget, rng, indices=None):
        places = [bundle.pool.places.tolist().index(row) for row in self.rows]
        return np.array(places), np.zeros(len(places), np.float32)


class KeptSelector:
    """Selects at random, and keeps what bundles show of the candidates."""

    def __init__(self) -> None:
        self.seen: list[SimpleNamespace] = []

    def select(self, bundle, budget, rng, indices=None):
        self.seen.append(
            SimpleNamespace(
                rows=bundle.pool.places.tolist(),
                norms=bundle.pool.norms.copy(),
                losses=bundle.pool.losses.copy(),
                sketches=bundle.pool.sketches("initial"),
                cosines=bundle.domain_cosines(np.arange(len(bundle.pool))),
                basis=bundle.basis,
                space=bundle.space,
            )
        )
        return make_selector("random").select(bundle, budget, rng, indices)


def chats(count: int, name: str, seed: int) -> Dataset:
    rng = np.random.default_rng(seed)
    records = []
    for number in range(count):
        answer = " ".join(rng.choice(WORDS, rng.integers(1, 6)))
        records.append(
            {
                "prompt": [{"role": "user", "content": f"{name} {number}?"}],
                "completion": [{"role": "assistant", "content": answer}],
            }
        )
    return Dataset.from_list(records)


def sft_trainer(
    model: Path | Any,
    folder: Path,
    *,
    train: Dataset | None = None,
    lora: bool = True,
    adapter: dict[str, Any] = LORA,
    **changes: Any,
) -> SFTTrainer:
    arguments: dict[str, Any] = {
        "num_train_epochs": 2,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "learning_rate": 5e-3,
        "report_to": [],
        "use_cpu": True,
        "bf16": False,
        "max_length": None,
        "logging_steps": 1,
        "save_strategy": "no",
        "disable_tqdm": True,
    }
    return SFTTrainer(
        str(model) if isinstance(model, Path) else model,
        args=SFTConfig(str(folder), **{**arguments, **changes}),
        train_dataset=chats(POOL, "pool", 0) if train is None else train,
        eval_dataset={"domain": chats(5, "domain", 1), "sums": chats(4, "sums", 2)},
        peft_config=LoraConfig(**adapter) if lora else None,
    )


def reselection(selector: Any = None, **changes: Any) -> Reselection:
    arguments = {"domain": "domain", "anchor": ["sums"], "budget": 8, "candidates": 12}
    arguments |= {"layers": 2}
    chosen = make_selector("greedy") if selector is None else selector
    return Reselection(chosen, **{**arguments, **changes})


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in trainer.model.named_parameters()}


def assert_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=0, atol=0, msg=name)


def random_states() -> list[Any]:
    numpy = np.random.get_state()  # noqa: NPY002
    return [torch.get_rng_state().tolist(), numpy[1].tolist(), random.getstate()]


@pytest.mark.parametrize("lora", [True, False])
def test_a_fixed_selection_trains_as_plain_training_on_it(
    tiny_model_folder: Path, tmp_path: Path, lora: bool
) -> None:
    rows = [17, 3, 28, 9, 11, 0, 25, 14]
    chosen = chats(POOL, "pool", 0).select(sorted(rows))
    plain = sft_trainer(tiny_model_folder, tmp_path, train=chosen, lora=lora)
    plain.train()
    expected, states = weights(plain), random_states()
    trainer = sft_trainer(tiny_model_folder, tmp_path, lora=lora)
    reselection(FixedSelector(rows), candidates=POOL).attach(trainer)
    before = weights(trainer)
    trainer.train()
    # Dropout and the order of the data come from the same random numbers.
    assert_equal(weights(trainer), expected)
    assert random_states() == states
    assert any(not torch.equal(before[name], expected[name]) for name in expected)
    losses = [
        [log["loss"] for log in of.state.log_history if "loss" in log]
        for of in (plain, trainer)
    ]
    assert losses[0] == losses[1]
    accuracies = [
        [
            log.get("mean_token_accuracy")
            for log in of.state.log_history
            if "loss" in log
        ]
        for of in (plain, trainer)
    ]
    assert accuracies[0] == accuracies[1]


@pytest.mark.parametrize("lora", [True, False])
def test_a_selection_leaves_the_training_as_it_is(
    tiny_model_folder: Path, tmp_path: Path, lora: bool
) -> None:
    trainer = sft_trainer(tiny_model_folder, tmp_path, lora=lora)
    own = reselection()
    own.attach(trainer)
    model = trainer.model.train()
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained)
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(3)])
    # A step, and gradients that wait for the next.
    for _ in range(2):
        model(**batch).loss.backward()
        optimizer.step()
    hooks = [len(module._forward_hooks) for module in model.modules()]
    modes = [module.training for module in model.modules()]
    needs = [weight.requires_grad for weight in model.parameters()]
    gradients = {
        name: weight.grad.clone()
        for name, weight in model.named_parameters()
        if weight.grad is not None
    }
    moments = [state["exp_avg"].clone() for state in optimizer.state.values()]
    values, states = weights(trainer), random_states()
    modules = [id(module) for module in model.modules()]

    arguments = trainer.args, trainer.state, trainer.control
    own.on_train_begin(*arguments)
    own.on_epoch_begin(*arguments, model=model)

    assert len(own.selections) == 1
    assert len(set(own.selections[0]["rows"])) == 8
    assert_equal(weights(trainer), values)
    assert random_states() == states
    assert [id(module) for module in model.modules()] == modules
    assert [module.training for module in model.modules()] == modes
    assert [len(module._forward_hooks) for module in model.modules()] == hooks
    assert [weight.requires_grad for weight in model.parameters()] == needs
    kept = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    assert_equal(kept, gradients)
    for state, moment in zip(optimizer.state.values(), moments, strict=True):
        assert torch.equal(state["exp_avg"], moment)
    # A pass for sketches goes back no further than it must, whatever the training does.
    tokenizer = trainer.processing_class
    proxy = current_proxy(model, tokenizer, layers=2, rank=4, seed=0)
    ids = torch.tensor([[1, 2]])
    assert model.get_input_embeddings()(ids).requires_grad
    assert not proxy.model.get_input_embeddings()(ids).requires_grad


def losses_and_gradients(
    trainer: Trainer, row: int
) -> tuple[float, dict[str, torch.Tensor]]:
    """The loss of one sample, and its gradient of each weight, by plain autograd."""
    model = trainer.model.eval()
    record = trainer.train_dataset[row]
    tensors = {name: torch.tensor([record[name]]) for name in ("input_ids", "labels")}
    model.zero_grad()
    loss = model(**tensors).loss
    loss.backward()
    return loss.item(), {
        name: weight.grad
        for name, weight in model.named_parameters()
        if weight.grad is not None
    }


def test_gradients_are_those_of_the_trained_adapter_now(
    tiny_model_folder: Path, tmp_path: Path
) -> None:
    trainer = sft_trainer(tiny_model_folder, tmp_path, learning_rate=2e-2)
    kept = KeptSelector()
    reselection(kept).attach(trainer)
    trainer.train()
    trainer.callback_handler.on_epoch_begin(
        trainer.args, trainer.state, trainer.control
    )
    first, second, now = kept.seen
    assert first.rows != second.rows
    for place, row in enumerate(now.rows[:4]):
        loss, gradients = losses_and_gradients(trainer, row)
        squares = [
            gradient.square().sum()
            for name, gradient in gradients.items()
            # The last two of three layers.
            if "lora_B" in name and "layers.0." not in name
        ]
        norm = float(torch.stack(squares).sum().sqrt())
        assert len(squares) == 14
        np.testing.assert_allclose(now.losses[place], loss, rtol=1e-4)
        np.testing.assert_allclose(now.norms[place], norm, rtol=1e-3)
    both = [row for row in now.rows if row in first.rows]
    before = first.losses[[first.rows.index(row) for row in both]]
    after = now.losses[[now.rows.index(row) for row in both]]
    assert after.mean() < 0.95 * before.mean()


def test_a_fully_trained_model_gets_an_adapter_for_the_sketches(
    tiny_model_folder: Path, tmp_path: Path
) -> None:
    trainer, kept = sft_trainer(tiny_model_folder, tmp_path, lora=False), KeptSelector()
    reselection(kept, seed=4).attach(trainer)
    trainer.train()
    trainer.callback_handler.on_epoch_begin(
        trainer.args, trainer.state, trainer.control
    )
    now = kept.seen[-1]
    for place, row in enumerate(now.rows[:3]):
        loss, gradients = losses_and_gradients(trainer, row)
        square = 0.0
        for name, gradient in gradients.items():
            if gradient.ndim == 2 and "layers." in name and "layers.0." not in name:
                # B's gradient is 2 G A^T, with A drawn from its name and the seed.
                a = torch.empty(16, gradient.shape[1])
                bound = gradient.shape[1] ** -0.5
                path = name.removesuffix(".weight")
                draw = named_generator(4, f"{path}.lora_A")
                a.uniform_(-bound, bound, generator=draw)
                square += float((2 * gradient @ a.T).square().sum())
        np.testing.assert_allclose(now.losses[place], loss, rtol=1e-4)
        np.testing.assert_allclose(now.norms[place], square**0.5, rtol=1e-3)


class KilledError(Exception):
    pass


class KillAfterSaving(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_save(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise KilledError


# At an epoch's end, within the second epoch and within the third.
@pytest.mark.parametrize(("step", "lora"), [(2, True), (3, False), (5, True)])
def test_a_resumed_training_ends_as_one_in_one_go(
    tiny_model_folder: Path, tmp_path: Path, step: int, lora: bool
) -> None:
    changes: dict[str, Any] = {
        "lora": lora, "num_train_epochs": 3, "save_strategy": "steps", "save_steps": 1
    }  # fmt: skip

    def start(name: str) -> tuple[SFTTrainer, Reselection]:
        trainer = sft_trainer(tiny_model_folder, tmp_path / name, **changes)
        own = reselection()
        own.attach(trainer)
        return trainer, own

    whole, of_whole = start("whole")
    whole.train()
    killed, _ = start("killed")
    killed.add_callback(KillAfterSaving(step))
    with pytest.raises(KilledError):
        killed.train()
    resumed, of_resumed = start("killed")
    resumed.train(resume_from_checkpoint=True)
    assert_equal(weights(resumed), weights(whole))

    def rows(own: Reselection) -> list[tuple[int, list[int]]]:
        return [(chosen["step"], chosen["rows"]) for chosen in own.selections]

    assert rows(of_resumed) == rows(of_whole)
    assert [number for number, _ in rows(of_whole)] == [0, 2, 4]
    assert rows(of_whole)[0][1] != rows(of_whole)[1][1]


def test_a_checkpoint_of_other_selections_is_refused(
    tiny_model_folder: Path, tmp_path: Path
) -> None:
    changes: dict[str, Any] = {"save_strategy": "steps", "save_steps": 1}
    trainer = sft_trainer(tiny_model_folder, tmp_path / "a", **changes)
    reselection().attach(trainer)
    trainer.train()
    other = sft_trainer(tiny_model_folder, tmp_path / "a", **changes)
    reselection(budget=4, every=2, seed=1).attach(other)
    with pytest.raises(InputError, match="step 4 has no selections, or those of ano"):
        other.train(resume_from_checkpoint=True)
    plain = sft_trainer(tiny_model_folder, tmp_path / "b", **changes)
    plain.train()
    other = sft_trainer(tiny_model_folder, tmp_path / "b", **changes)
    reselection().attach(other)
    with pytest.raises(InputError, match="train from the start"):
        other.train(resume_from_checkpoint=True)


def test_each_selection_is_logged(tiny_model_folder: Path, tmp_path: Path) -> None:
    trainer = sft_trainer(tiny_model_folder, tmp_path)
    own = reselection()
    own.attach(trainer)
    trainer.train()
    logs = [log for log in trainer.state.log_history if "selection_seconds" in log]
    assert [log["step"] for log in logs] == [0, 2]
    for log, chosen in zip(logs, own.selections, strict=True):
        assert log["selection_candidates"] == 12
        assert log["selection_domain_cosine"] > log["selection_domain_cosine_all"]
        for name in ("domain_cosine", "anchor_cosine", "anchor_cosine_all", "seconds"):
            assert log[f"selection_{name}"] == chosen[name]
        assert chosen["seconds"] > 0
        assert -1 <= chosen["anchor_cosine"] <= 1


class RowsSeen:
    """A collator that keeps which samples are trained on."""

    def __init__(self, collate: Callable[..., Any]) -> None:
        self.collate, self.rows = collate, list[int]()

    def __call__(self, examples: list[dict[str, Any]]) -> Any:
        self.rows += [int(example["row"]) for example in examples]
        keys = ("input_ids", "labels")
        return self.collate([{key: ex[key] for key in keys} for ex in examples])


@pytest.mark.parametrize("workers", [0, 1])
def test_n_steps_train_on_each_selection(
    tiny_model_folder: Path, tmp_path: Path, workers: int
) -> None:
    """A plain Trainer, whose steps need more samples than are selected."""
    sft = sft_trainer(tiny_model_folder, tmp_path)
    seen = RowsSeen(sft.data_collator)
    trainer = Trainer(
        AutoModelForCausalLM.from_pretrained(tiny_model_folder),
        TrainingArguments(
            str(tmp_path), max_steps=8, per_device_train_batch_size=3, use_cpu=True,
            report_to=[], save_strategy="no", remove_unused_columns=False,
            dataloader_num_workers=workers, disable_tqdm=True,
        ),
        train_dataset=sft.train_dataset.add_column("row", [*range(POOL)]),
        eval_dataset=sft.eval_dataset,
        data_collator=seen,
        processing_class=sft.processing_class,
    )  # fmt: skip
    own = reselection(budget=6, every=3, candidates=None)
    own.attach(trainer)
    trainer.train()
    assert trainer.state.global_step == 8
    assert [chosen["step"] for chosen in own.selections] == [0, 3, 6]
    assert [chosen["candidates"] for chosen in own.selections] == [POOL] * 3
    if workers == 0:
        for number, chosen in enumerate(own.selections[:2]):
            trained = seen.rows[9 * number : 9 * (number + 1)]
            assert sorted(trained[:6]) == sorted(chosen["rows"])
            assert set(trained[6:]) < set(chosen["rows"])


def test_samples_are_read_as_they_are_trained_on() -> None:
    ids = [*range(10, 20)]

    def read(labels: list[int] | None, most: int = 64) -> tuple[list[int], int, bool]:
        record = {"input_ids": ids, **({} if labels is None else {"labels": labels})}
        encoded = encode_record(record, "pool, row 3", most)
        return encoded.input_ids, encoded.response_start, encoded.cut

    ignored = -100
    assert read([ignored] * 4 + ids[4:]) == (ids, 4, False)
    # All tokens have a loss but the first, which follows no other.
    assert read(None) == read(ids) == (ids, 1, False)
    # Two turns have a loss: the second, with the first before it, and no end.
    turns = [ignored, 11, 12, ignored, ignored, 15, 16, ignored, ignored, ignored]
    assert read(turns) == (ids[:7], 5, False)
    # A long response is cut at its end, what is before it at its beginning.
    assert read([ignored] * 2 + ids[2:], most=8) == (ids[:8], 2, True)
    assert read([ignored] * 6 + ids[6:], most=8) == (ids[2:], 4, True)
    assert read([ignored] * 4 + ids[4:], most=4) == ([13, 14, 15, 16], 1, True)
    with pytest.raises(InputError, match="pool, row 3: no token after the first has"):
        read([10] + [ignored] * 9)


@pytest.mark.parametrize(
    ("changes", "arguments", "message"),
    [
        (
            {"packing": True, "max_length": 64},
            {},
            "packing: does not go together with Reselection",
        ),
        ({"ignore_data_skip": True}, {}, "ignore_data_skip: does not go together"),
        (
            {"train_sampling_strategy": "sequential"},
            {},
            "train_sampling_strategy: is 'sequential'",
        ),
        (
            {},
            {"domain": "law"},
            "eval_dataset: expected .* with 'law', found domain, s",
        ),
        ({}, {"anchor": ["maths"]}, "with 'maths', found domain, sums"),
        ({}, {"budget": 40, "candidates": None}, "budget: is 40, but .* 30 samples"),
        ({}, {"every": 1}, "every: is 1 steps of 4 samples, .* at most 4"),
    ],
)
def test_what_does_not_go_together_is_refused(
    tiny_model_folder: Path,
    tmp_path: Path,
    changes: dict[str, Any],
    arguments: dict[str, Any],
    message: str,
) -> None:
    trainer = sft_trainer(tiny_model_folder, tmp_path, **changes)
    with pytest.raises(InputError, match=message):
        reselection(**arguments).attach(trainer)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"budget": 0}, "budget: is 0; expected 1 or more"),
        ({"candidates": 4}, "candidates: is 4; expected 8 or more"),
        ({"every": 0}, "every: is 0"),
        ({"anchor": "sums"}, "anchor: is 'sums'; expected a list of keys"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        reselection(**arguments)


def test_a_trainer_without_a_tokenizer_or_tokens_is_refused(
    tiny_model_folder: Path, tmp_path: Path
) -> None:
    sft = sft_trainer(tiny_model_folder, tmp_path)
    arguments = TrainingArguments(str(tmp_path), use_cpu=True, report_to=[])
    samples = {"train_dataset": sft.train_dataset, "eval_dataset": sft.eval_dataset}
    trainer = Trainer(sft.model, arguments, **samples)
    with pytest.raises(InputError, match="processing_class: is missing"):
        reselection().attach(trainer)
    samples["train_dataset"] = chats(POOL, "pool", 0)
    tokenizer = sft.processing_class
    trainer = Trainer(sft.model, arguments, **samples, processing_class=tokenizer)
    with pytest.raises(InputError, match="train_dataset: its rows have no 'input_ids'"):
        reselection().attach(trainer)


def test_an_adapter_below_the_sketched_layers_is_refused(
    tiny_model_folder: Path, tmp_path: Path
) -> None:
    adapter = {**LORA, "target_modules": ["q_proj"], "layers_to_transform": [0]}
    trainer = sft_trainer(tiny_model_folder, tmp_path, adapter=adapter)
    reselection().attach(trainer)
    with pytest.raises(InputError, match="no trained LoRA weights in the last 2"):
        trainer.train()


def as_chats(samples: list[Any]) -> Dataset:
    return Dataset.from_list(
        [
            {
                "prompt": [{"role": "user", "content": sample.prompt}],
                "completion": [{"role": "assistant", "content": sample.response}],
            }
            for sample in samples
        ]
    )


def trainer_of(live_files: "LiveFiles", model: Any, folder: Path) -> SFTTrainer:
    data = live_files.data
    return SFTTrainer(
        model,
        args=SFTConfig(
            str(folder), max_steps=1, per_device_train_batch_size=4, use_cpu=True,
            report_to=[], save_strategy="no", disable_tqdm=True,
        ),
        train_dataset=as_chats(data.pool),
        eval_dataset={
            "domain": as_chats(data.dev),
            **{name: as_chats(own) for name, own in data.anchor.items()},
        },
        processing_class=AutoTokenizer.from_pretrained(live_files.model),
    )  # fmt: skip


@pytest.mark.parametrize("adapter", [True, False])
def test_sketches_of_a_bundle_and_a_navigator(
    live_files: "LiveFiles", tmp_path: Path, adapter: bool
) -> None:
    """Before the first step they are those of `ogs sketch`, which a Navigator reads."""
    bundle = load_bundle(live_files.bundle)
    model, tokenizer = load_model(live_files.model)
    if adapter:
        arguments = {"rank": 4, "alpha": 8, "layers": 2, "seed": 5}
        model = attach_adapter(model, tokenizer, **arguments).model
    trainer, kept = trainer_of(live_files, model, tmp_path), KeptSelector()
    names = {"domain": "domain", "anchor": [*live_files.data.anchor]}
    Reselection(kept, **names, budget=4, candidates=48, like=bundle).attach(trainer)
    trainer.train()
    [seen] = kept.seen
    assert seen.space == bundle.space
    assert np.array_equal(seen.basis, bundle.basis)
    pool = bundle.pool
    np.testing.assert_allclose(seen.losses, pool.losses[seen.rows], rtol=1e-3)
    np.testing.assert_allclose(seen.norms, pool.norms[seen.rows], rtol=1e-3)
    np.testing.assert_allclose(
        seen.sketches, pool.sketches("initial")[seen.rows], rtol=0.02, atol=0.02
    )
    cosines = bundle.domain_cosines(np.array(seen.rows))
    np.testing.assert_allclose(seen.cosines, cosines, atol=1e-3)

    row, context = bundle.basis.shape[1] + 7, 3 * bundle.basis.shape[1] + 8
    network = build_network(row, context, 8, skips=True)
    environment = {"slate_size": 4, "num_slates": 4}
    described = {"space": bundle.space, "environment": environment}
    Navigator(network, described).save(tmp_path / "agent")
    trainer = trainer_of(live_files, trainer.model, tmp_path)
    agent = AgentSelector(tmp_path / "agent")
    with pytest.raises(InputError, match="like: the model"):  # it is trained already
        Reselection(agent, **names, budget=4, like=bundle).attach(trainer)
    trainer = trainer_of(live_files, load_model(live_files.model)[0], tmp_path)
    own = Reselection(agent, **names, budget=4, like=bundle)
    own.attach(trainer)
    trainer.train()
    assert len(own.selections[0]["rows"]) == 4
    trainer = trainer_of(live_files, load_model(live_files.model)[0], tmp_path)
    Reselection(agent, **names, budget=4).attach(trainer)
    with pytest.raises(InputError, match="was trained in sketch space"):
        trainer.train()


def test_other_models_and_adapters_than_the_bundles_are_refused(
    live_files: "LiveFiles", tmp_path: Path
) -> None:
    bundle = load_bundle(live_files.bundle)
    names = {"domain": "domain", "anchor": [*live_files.data.anchor]}
    own = Reselection(make_selector("greedy"), **names, budget=4, like=bundle)
    model, tokenizer = load_model(live_files.model)
    arguments = {"rank": 4, "alpha": 8, "layers": 2, "seed": 6}
    other_seed = attach_adapter(model, tokenizer, **arguments).model
    with pytest.raises(
        InputError, match=r"make it with .*rank=4, alpha=8, layers=2, s"
    ):
        own.attach(trainer_of(live_files, other_seed, tmp_path))
    model, tokenizer = load_model(live_files.model)
    with torch.no_grad():
        next(model.parameters()).add_(0.1)
    with pytest.raises(InputError, match=r"which .* was sketched with; train that"):
        own.attach(trainer_of(live_files, model, tmp_path))
