"""The proxy and the encoded samples of a live learner, from a bundle and its texts."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ogs_env.bundle import Bundle
from ogs_env.bundle_files import ANSWERS
from ogs_env.data.samples import Sample
from ogs_env.errors import InputError
from ogs_env.learners.live_settings import LiveSettings
from ogs_env.lm.adapter import Proxy, attach_adapter
from ogs_env.lm.encoding import Encoded, encode
from ogs_env.lm.precision import load_bundle_model
from ogs_env.sketching.answers import encode_answer


class LiveSamples:
    """The encoded samples that a live learner trains on and measures.

    Args:
        bundle: The bundle.
        texts: Its samples by id.
        tokenizer: The proxy's tokenizer.
        most: Maximum number of samples in a measurement, see
            `LiveSettings.evaluation_samples`.

    Attributes:
        pool: The pool's samples, by row.
        measured: The measured samples; the following are positions in it.
        groups: Those of the dev samples and, for each capability, of anchor samples.
        test: Those of test samples.
        retention: Those of retention samples.
        answers: For each capability, those of own answers; empty without own answers.
        retention_answers: Those of own answers to the retention's prompts.
    """

    def __init__(
        self, bundle: Bundle, texts: Mapping[str, Sample], tokenizer: Any, most: int
    ) -> None:
        def encoded(role: str, rows: Iterable[int]) -> list[Encoded]:
            """Encode some samples of a role, or its own answers with their prompts."""
            longest = bundle.manifest["max_tokens"]
            ids = getattr(bundle, role).hex_ids()
            samples = [(row, texts[ids[row]]) for row in rows]
            if role not in ANSWERS:
                return [
                    encode(tokenizer, sample.turns, sample.response, longest)
                    for _, sample in samples
                ]
            tokens = bundle.answer_tokens(role)
            return [
                encode_answer(tokenizer, sample.turns, tokens[row], longest)
                for row, sample in samples
            ]

        def add(role: str, rows: NDArray[np.integer] | None = None) -> list[int]:
            """Measure some of these rows, or of all, and return their positions."""
            every = np.arange(len(getattr(bundle, role))) if rows is None else rows
            begin = len(self.measured)
            self.measured += encoded(role, _spread(every, most))
            return list(range(begin, len(self.measured)))

        capabilities = range(len(bundle.capabilities))
        self.pool = encoded("pool", range(len(bundle.pool)))
        self.measured: list[Encoded] = []
        anchors = (add("anchor", bundle.anchor_rows(n)) for n in capabilities)
        self.groups = [add("dev"), *anchors]
        self.test, self.retention = add("test"), add("retention")
        self.answers: list[list[int]] = []
        self.retention_answers: list[int] = []
        if bundle.has_answers:
            answers = [bundle.answer_rows(number) for number in capabilities]
            self.answers = [add("anchor_answers", rows) for rows in answers]
            self.retention_answers = add("retention_answers")


def check_manifest(bundle: Bundle) -> None:
    """Check that the manifest says how the bundle's texts were encoded.

    Raises:
        InputError: If an entry is missing.
    """
    for name in ("adapter", "max_tokens", "request"):
        if name not in bundle.manifest:
            raise InputError(
                f"{bundle.path}: the manifest lacks '{name}', so its texts cannot be "
                "encoded as they were; expected a bundle made by `ogs sketch`"
            )


def load_proxy(bundle: Bundle, settings: LiveSettings) -> Proxy:
    """Load the model in the bundle's precision, with the bundle's adapter."""
    model, tokenizer = load_bundle_model(bundle.manifest, settings.model)
    adapter = bundle.manifest["adapter"]
    return attach_adapter(
        model,
        tokenizer,
        rank=adapter["rank"],
        alpha=adapter["alpha"],
        layers=settings.layers or adapter["layers"],
        seed=adapter["seed"],
    )


def _spread(rows: NDArray[np.integer], count: int) -> list[int]:
    """Take `count` rows at even distances, because a bundle is sorted by source."""
    count = min(count, len(rows))
    return rows[np.arange(count) * len(rows) // count].tolist()
