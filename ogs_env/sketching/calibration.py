"""The surrogate learner's step, measured on the warm-up."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ogs_env.learners.surrogate import calibrate_step

_ASSUMED_PICKS = 64
_ASSUMED_GAIN = 0.05


def calibrated_learner(
    shards: Mapping[str, Sequence[dict[str, torch.Tensor]]], picks: NDArray[np.int64]
) -> dict[str, Any]:
    """Return the manifest's entry for the learner.

    With a path, the step is such that the surrogate, fed with the warm-up's samples
    in order, ends at the dev loss that the proxy really had at the last checkpoint.
    Without, no training was seen: the first 64 pool samples are assumed to lower the
    dev loss by 5 %.

    Args:
        shards: The bundle's shards by role.
        picks: Pool rows of the warm-up, in order; empty without a path.
    """

    def column(role: str, name: str) -> NDArray[np.float32]:
        return torch.cat([shard[name] for shard in shards[role]]).float().numpy()

    kind = "path" if len(picks) else "start"
    before = float(column("dev", "losses").mean())
    if len(picks):
        after = float(column("dev", "path_losses")[:, -1].mean())
    else:
        picks = np.arange(min(_ASSUMED_PICKS, len(column("pool", "losses"))))
        after = before * (1 - _ASSUMED_GAIN)
    step, reached = calibrate_step(
        column("pool", kind)[picks],
        column("pool", "losses")[picks],
        column("dev", kind),
        column("dev", "losses"),
        after,
    )
    return {
        "sketches": kind,
        "step": step,
        "step_from": "warm-up" if kind == "path" else "assumed",
        "picks": len(picks),
        "dev_loss_before": before,
        "dev_loss_after": after,
        "reached": reached,
    }
