"""A target of the study: a model that is fine-tuned and measured again and again."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ogs_env.data.domains import MATHS, DomainData
from ogs_env.data.pairs import grammar_file, grammar_pairs, solution_pairs
from ogs_env.data.samples import Sample
from ogs_env.experiments.evaluation import exact_match, generate_answers
from ogs_env.experiments.fidelity.training import Recipe, fine_tune
from ogs_env.experiments.study.pools import prompts_to_answer
from ogs_env.experiments.study.questions import (
    Question,
    domain_questions,
    options_of,
    right_number,
)
from ogs_env.experiments.study.settings import StudySettings
from ogs_env.experiments.study.surgery import Surgery
from ogs_env.experiments.text_sets import TextSets
from ogs_env.lm.adapter import attach_adapter, draw_adapter
from ogs_env.lm.encoding import encode, encode_pair
from ogs_env.lm.loading import load_model
from ogs_env.lm.precision import default_precision
from ogs_env.sketching.answers import encode_answer, own_answers

MAX_TOKENS = 256
RANK, ALPHA = 16, 32
GRAMMAR_EACH = 3
"""BLiMP pairs of each of its 67 paradigms."""
NUMBER_TOKENS = 48
"""Maximum number of tokens of a generated number with its derivation."""


class Target:
    """A model with an adapter, and the texts of a pool.

    Args:
        settings: Settings of the study.
        data: Samples of the pool by role.
        answers: Folder of the model's own answers, which pools of the same retention
            samples share.
    """

    def __init__(
        self, settings: StudySettings, data: DomainData, answers: Path
    ) -> None:
        self.settings = settings
        model, tokenizer = load_model(
            settings.target, getattr(torch, default_precision())
        )
        retention = [s for own in data.retention.values() for s in own]
        ids = "\n".join(sample.id for sample in retention)
        folder = answers / hashlib.sha256(ids.encode()).hexdigest()[:16]
        folder.mkdir(parents=True, exist_ok=True)
        own = own_answers(
            model, tokenizer, retention, folder, "own", seed=0, max_tokens=MAX_TOKENS
        )
        by_id = dict(zip((s.id for s in retention), own, strict=True))
        self.proxy = attach_adapter(
            model, tokenizer, rank=RANK, alpha=ALPHA, layers=settings.layers, seed=0
        )
        self.questions = domain_questions(data, settings.questions, seed=0)
        self.generated = prompts_to_answer(data, settings)

        def encoded(samples: Sequence[Sample]) -> list[Any]:
            return [encode(tokenizer, s.turns, s.response, MAX_TOKENS) for s in samples]

        sets = {"pool": encoded(data.pool), "test": encoded(data.test)}
        for name, samples in data.anchor.items():
            sets[f"anchor/{name}"] = encoded(samples)
        for name, samples in data.retention.items():
            sets[f"reference/{name}"] = encoded(samples)
            sets[f"own/{name}"] = [
                encode_answer(tokenizer, s.turns, by_id[s.id], MAX_TOKENS)
                for s in samples
            ]
        pairs = {"solutions": solution_pairs(data.retention[MATHS])}
        if grammar_file():
            pairs["grammar"] = grammar_pairs(GRAMMAR_EACH)
        self.abilities = list(pairs)
        for name, both in pairs.items():
            sides = [encode_pair(tokenizer, pair, MAX_TOKENS) for pair in both]
            sets[f"right/{name}"] = [right for right, _ in sides]
            sets[f"wrong/{name}"] = [wrong for _, wrong in sides]
        if options := options_of(self.questions):
            sets["options"] = encoded(options)
        self.sets = TextSets(self.proxy, sets)
        self.measured = [
            name for name in sets if name.split("/")[0] in ("test", "own", "reference")
        ]

    @property
    def device(self) -> str:
        """What the model runs on: `"cpu"` or the name of the card."""
        device = self.proxy.device
        if device.type == "cuda":
            return torch.cuda.get_device_name(device)
        return device.type

    def reset(self, seed: int) -> None:
        """Draw a new adapter, which leaves the model as it was loaded."""
        draw_adapter(self.proxy, seed)

    def train(self, rows: Sequence[int], seed: int, surgery: str | None = None) -> None:
        """Fine-tune a new adapter on pool rows.

        Args:
            rows: Rows of the pool.
            seed: Seed of the adapter and of the orders of the epochs.
            surgery: Name of a method of gradient surgery; None for plain training.
        """
        settings = self.settings
        recipe = Recipe(
            epochs=settings.epochs,
            learning_rate=settings.learning_rate,
            batch=settings.batch,
            layers=settings.layers,
        )
        self.reset(seed)
        anchors = {
            name: rows
            for name, rows in self.sets.rows.items()
            if name.startswith("anchor/")
        }
        change = (
            None
            if surgery is None
            else Surgery(surgery, self.proxy, self.sets.texts, anchors, seed)
        )
        fine_tune(
            self.proxy,
            self.sets.texts,
            [self.sets.rows["pool"][row] for row in rows],
            recipe,
            seed,
            change_gradient=change,
        )

    def measure(self) -> dict[str, Any]:
        """Measure the model with its current adapter.

        Returns:
            `losses`, the loss of each text of each measured set, nats per response
            token; `pairs`, for each ability the result of `preferences`; `accuracy`,
            the share of the domain's questions that are answered right, None without
            questions; and `gsm8k`, the share of right generated answers, None if none
            are generated.
        """
        losses = {name: self.sets.losses(name) for name in self.measured}
        model, tokenizer = self.proxy.model, self.proxy.tokenizer
        return {
            "losses": {n: np.round(own, 5).tolist() for n, own in losses.items()},
            "pairs": {
                name: self.sets.preferences(f"right/{name}", f"wrong/{name}")
                for name in self.abilities
            },
            "accuracy": self._accuracy(),
            "gsm8k": exact_match(model, tokenizer, self.generated, "GSM8K")
            if self.generated
            else None,
        }

    def _accuracy(self) -> float | None:
        """Return the share of right answers: the likeliest option, or a number.

        None if the domain has no questions.
        """
        if not self.questions:
            return None
        if not self.questions[0].options:
            answers = generate_answers(
                self.proxy.model,
                self.proxy.tokenizer,
                [question.sample for question in self.questions],
                "questions",
                NUMBER_TOKENS,
            )
            right = [
                right_number(answer, question.sample.response)
                for answer, question in zip(answers, self.questions, strict=True)
            ]
            return float(np.mean(right))
        likelihoods = -self.sets.negative_log_likelihoods("options")
        return choice_accuracy(self.questions, likelihoods)


def choice_accuracy(questions: Sequence[Question], likelihoods: Any) -> float:
    """Return the share of questions whose right option is the likeliest.

    Args:
        questions: Questions with options.
        likelihoods: float (options,), log P of each option of each question in turn.
    """
    right, begin = 0, 0
    for question in questions:
        end = begin + len(question.options)
        best = question.options[int(np.argmax(likelihoods[begin:end]))]
        right += best == question.sample.response
        begin = end
    return right / len(questions)
