"""Train a LoRA adapter on samples with the Trainer of `transformers`.

The recipe is the paper's where it is known (Zhang et al. 2026, arXiv 2602.06359): rank
16 and alpha 32 on all linear layers and a cosine learning rate. By default the adapter
is on the last ten decoder layers, those whose gradients are sketched, since a selection
has no information about other layers. AdamW without weight decay, the warm-up and
gradient clipping at norm 1 were chosen for small differences between seeds. The loss is
the mean over the response tokens of a batch, as is usual in fine-tuning.
"""

import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import ProgressCallback, Trainer, TrainingArguments, set_seed
from transformers.trainer_pt_utils import get_length_grouped_indices

from ogs_env.data.samples import Sample
from ogs_env.files import written_by_library
from ogs_env.lm.adapter import adapted_layers
from ogs_env.lm.encoding import IGNORED, Encoded, collate, encode

if TYPE_CHECKING:
    from ogs_env.experiments.finetune import FinetuneSettings

RANK = 16
ALPHA = 32
WARMUP = 0.15
"""Share of the steps in which the learning rate rises to its peak."""
CHECKPOINT_STEPS = 10
"""Steps between checkpoints, the most that an interrupted run loses."""
GROUPED_BATCHES = 4
"""Number of batches whose samples are drawn together, then sorted by length."""


def train(
    model: Any,
    tokenizer: Any,
    samples: Sequence[Sample],
    settings: "FinetuneSettings",
    checkpoints: Path,
) -> tuple[Any, list[float]]:
    """Train an adapter, resuming at the last checkpoint if there is one.

    Args:
        model: A causal LM of `transformers`; changed in place.
        tokenizer: Its tokenizer.
        samples: Training samples, in any order.
        settings: The recipe.
        checkpoints: Folder of this run's checkpoints.

    Returns:
        The model with its adapter, and the training loss of each step in nats per
        response token.
    """
    # Sorted, so that a run depends on the set of samples and on the seed only.
    encoded = [
        encode(tokenizer, sample.turns, sample.response, settings.max_tokens)
        for sample in sorted(samples, key=lambda sample: sample.id)
    ]
    order = training_order([len(item.tokens) for item in encoded], settings)
    steps = math.ceil(len(order) / settings.batch)
    set_seed(settings.seed)  # PEFT draws the adapter from the global generator
    model = get_peft_model(
        model,
        LoraConfig(
            r=RANK,
            lora_alpha=ALPHA,
            lora_dropout=0,
            target_modules=adapted_layers(model, settings.layers)[1],
            task_type="CAUSAL_LM",
        ),
    )
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(checkpoints),
            num_train_epochs=1,  # `order` holds all epochs
            train_sampling_strategy="sequential",
            per_device_train_batch_size=settings.batch,
            learning_rate=settings.learning_rate,
            lr_scheduler_type="cosine",
            # The Trainer would round a fraction up; since the warm-up starts at zero, a
            # run of one step would then not learn.
            warmup_steps=int(WARMUP * steps),
            weight_decay=0.0,
            max_grad_norm=1.0,
            seed=settings.seed,
            logging_steps=1,
            logging_nan_inf_filter=False,
            save_strategy="steps",
            save_steps=CHECKPOINT_STEPS,
            save_total_limit=1,
            remove_unused_columns=False,
            dataloader_pin_memory=torch.cuda.is_available(),
            disable_tqdm=False,
            report_to="none",
        ),
        train_dataset=[encoded[index] for index in order],
        data_collator=lambda batch: training_batch(batch, tokenizer.pad_token_id),
    )
    trainer.remove_callback(ProgressCallback)
    trainer.add_callback(_QuietProgress)
    try:
        with written_by_library(checkpoints):
            trainer.train(resume_from_checkpoint=last_checkpoint(checkpoints))
    except BaseException:
        for checkpoint in checkpoints.glob("checkpoint-*"):
            if _steps(checkpoint) is None:
                shutil.rmtree(checkpoint, ignore_errors=True)
        raise
    return model, [log["loss"] for log in trainer.state.log_history if "loss" in log]


def training_order(lengths: Sequence[int], settings: "FinetuneSettings") -> list[int]:
    """Return the positions of all epochs' samples in the order of training.

    Samples of similar length are adjacent. The Trainer's own grouping draws another
    order when a run resumes, which would miss some samples and repeat others; so the
    order is computed in advance.
    """
    generator = torch.Generator().manual_seed(settings.seed)
    return [
        index
        for _ in range(settings.epochs)
        for index in get_length_grouped_indices(
            lengths,
            settings.batch,
            mega_batch_mult=GROUPED_BATCHES,
            generator=generator,
        )
    ]


def training_batch(encoded: Sequence[Encoded], pad_id: int) -> dict[str, Any]:
    """Return a batch for which the model computes logits at responses only.

    Responses are right-aligned, so these are the last positions, starting at the one
    that predicts the first token of the longest response.
    """
    batch: dict[str, Any] = dict(collate(encoded, pad_id))
    longest = int((batch["labels"] != IGNORED).sum(1).max())
    keep = min(longest + 1, batch["labels"].shape[1])
    batch["labels"] = batch["labels"][:, -keep:]
    batch["logits_to_keep"] = keep
    return batch


def last_checkpoint(folder: Path) -> str | None:
    """Return the last complete checkpoint, if there is one."""
    steps = {
        checkpoint: _steps(checkpoint) for checkpoint in folder.glob("checkpoint-*")
    }
    complete = [(step, str(checkpoint)) for checkpoint, step in steps.items() if step]
    return max(complete)[1] if complete else None


def _steps(checkpoint: Path) -> int | None:
    """Return the number of steps before a checkpoint, None if it is incomplete."""
    try:  # the Trainer writes its state last
        state = json.loads((checkpoint / "trainer_state.json").read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return int(state["global_step"])


class _QuietProgress(ProgressCallback):
    """Progress bar on stderr without a line on stdout for each step."""

    def on_log(self, *args: Any, **kwargs: Any) -> None:
        pass
