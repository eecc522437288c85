"""A trainer's tokenised samples as rows that can be sketched, and their bundle."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ogs_env.bundle import Bundle
from ogs_env.data.samples import Sample
from ogs_env.errors import InputError
from ogs_env.lm.adapter import Proxy
from ogs_env.lm.encoding import IGNORED, Encoded
from ogs_env.sketching.batch_sketches import Row, mean_gradients
from ogs_env.sketching.manifest import write_manifest
from ogs_env.sketching.projection import CountSketch
from ogs_env.sketching.settings import SketchSettings
from ogs_env.sketching.shards import write_shards

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_POOL, _DOMAIN = "pool", "domain"


def encode_record(record: Mapping[str, Any], place: str, max_tokens: int) -> Encoded:
    """Return a tokenised sample whose response is its last part with a loss.

    A response longer than three quarters of `max_tokens` is cut at its end, unless the
    tokens before it leave more room; these are cut at their beginning.

    Args:
        record: `input_ids` and `labels`; without labels all tokens have a loss.
        place: Where it is, for the error line.
        max_tokens: Maximum number of tokens.

    Raises:
        InputError: If no token has a loss.
    """
    ids = list(record["input_ids"])
    labels = record.get("labels")
    counted = np.flatnonzero(np.asarray(ids if labels is None else labels) != IGNORED)
    # The first token follows no other, so it has no loss.
    counted = counted[counted > 0]
    if not len(counted):
        raise InputError(
            f"{place}: no token after the first has a loss, there is nothing to learn; "
            "remove the sample"
        )
    gaps = np.flatnonzero(np.diff(counted) > 1)
    start = int(counted[gaps[-1] + 1] if len(gaps) else counted[0])
    end = int(counted[-1]) + 1
    response = ids[start:end][: max(max_tokens * 3 // 4, max_tokens - start)]
    prompt = ids[:start][-(max_tokens - len(response)) :]
    cut = len(prompt) + len(response) < end
    return Encoded([*prompt, *response], len(prompt), cut)


@dataclass(frozen=True)
class TrainedSamples:
    """The samples of a trainer that are sketched.

    Attributes:
        pool: Its training samples.
        domain: Samples of what the model should learn.
        anchor: By capability, samples of what it should retain.
        tokenizer: The model's tokenizer.
        max_tokens: Maximum number of tokens of a sketched sample.
    """

    pool: Sequence[Mapping[str, Any]]
    domain: Sequence[Mapping[str, Any]]
    anchor: Mapping[str, Sequence[Mapping[str, Any]]]
    tokenizer: "PreTrainedTokenizerBase"
    max_tokens: int

    def sketch(
        self,
        proxy: Proxy,
        candidates: NDArray[np.int64],
        settings: SketchSettings,
        identity: Mapping[str, Any],
        folder: Path,
    ) -> Bundle:
        """Sketch some training samples at a model's current weights.

        Args:
            proxy: The model.
            candidates: Rows of `pool`; they are the `places` of the bundle's pool.
            settings: Dimensions, adapter and seed of the sketches.
            identity: Entry `proxy` of the manifest, which the sketch space depends on.
            folder: Folder of the bundle.
        """
        rows = self._rows(candidates)
        means = mean_gradients(proxy, rows, len(self.anchor))
        projection = CountSketch(settings.k, settings.seed)
        write_shards(proxy, rows, means, [], projection, folder, folder)
        sources = [_POOL, _DOMAIN, *self.anchor]
        write_manifest(
            folder,
            settings,
            [],
            means.norms().tolist(),
            {
                "name": folder.name,
                "command": "",
                "proxy": identity,
                "sources": [{"name": name} for name in sources],
                "capabilities": list(self.anchor),
            },
        )
        return Bundle(folder, verify=False)

    def _rows(self, candidates: NDArray[np.int64]) -> dict[str, list[Row]]:
        pool = [
            self._row(_POOL, row, self.pool[row], 0, -1) for row in candidates.tolist()
        ]
        dev = [
            self._row(_DOMAIN, row, self.domain[row], 1, -1)
            for row in range(len(self.domain))
        ]
        anchors = [
            [
                self._row(name, row, samples[row], 2 + number, number)
                for row in range(len(samples))
            ]
            for number, (name, samples) in enumerate(self.anchor.items())
        ]
        return {
            "pool": pool,
            "dev": dev,
            "anchor": [row for rows in anchors for row in rows],
            # Every bundle has these roles; no selector reads them.
            "test": dev[:1],
            "retention": [rows[0] for rows in anchors],
        }

    def _row(
        self,
        name: str,
        place: int,
        record: Mapping[str, Any],
        source: int,
        capability: int,
    ) -> Row:
        encoded = encode_record(record, f"{name}, row {place}", self.max_tokens)
        start = encoded.response_start
        sample = Sample(
            str(self.tokenizer.decode(encoded.input_ids[:start])),
            str(self.tokenizer.decode(encoded.input_ids[start:])),
            name,
            place=f"{name}, row {place}",
        )
        return Row(
            sample, encoded, source, capability, place if name == _POOL else None
        )
