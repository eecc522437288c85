"""Compare gradients of the proxy and of the target on the same samples."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from ogs_env.experiments.study.selections import Pool
from ogs_env.sketching.settings import SketchSettings
from ogs_env.sketching.sketcher import sketch


def cosine_agreement(pool: Pool, count: int, folder: Path) -> dict[str, Any]:
    """Return how well the proxy's cosines rank the target's.

    Args:
        pool: A pool of the study, whose target is another model than its proxy.
        count: Number of the pool's samples to compare on; the first are taken.
        folder: Folder of the target's bundle.

    Returns:
        `samples`; `domain_spearman`, the rank correlation of both models' cosines of a
        sample with the mean gradient of dev; and `anchor_spearman`, by capability with
        the mean gradient of its anchor samples.
    """
    settings, data = pool.settings, pool.data
    part = dataclasses.replace(data, pool=data.pool[:count], test=data.test[:1])
    bundle = sketch(
        part,
        folder,
        SketchSettings(
            proxy=settings.target,
            layers=settings.layers,
            anchor_answers="reference",
            seed=pool.draw,
        ),
        "ogs study",
    )
    rows = np.arange(len(bundle.pool))

    def spearman(ours: Any, theirs: Any) -> float:
        return round(float(stats.spearmanr(ours, theirs).statistic), 4)

    anchors = pool.bundle.anchor_cosines(rows), bundle.anchor_cosines(rows)
    return {
        "samples": len(rows),
        "domain_spearman": spearman(
            pool.bundle.domain_cosines(rows), bundle.domain_cosines(rows)
        ),
        "anchor_spearman": {
            name: spearman(anchors[0][:, number], anchors[1][:, number])
            for number, name in enumerate(data.capabilities)
        },
    }
