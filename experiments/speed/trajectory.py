"""Sketching a pool with its trajectory: at the untouched model and at checkpoints."""

import contextlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from safetensors.torch import load

from ogs_env.experiments.speed.work import Pass, Work, without_messages
from ogs_env.lm.adapter import Proxy
from ogs_env.sketching.projection import CountSketch
from ogs_env.sketching.settings import SketchSettings
from ogs_env.sketching.shards import Measured, Shard, ShardSketcher
from ogs_env.sketching.warmup import BATCH, Checkpoint, warm_up, warm_up_steps

# As many as `ogs sketch --trajectory` has, the first of them the untouched model, but
# after fewer steps: how long a pass takes does not depend on the steps before.
STEPS = (0, 1, 3)


@dataclass(frozen=True)
class Trajectory:
    """Samples, and the checkpoints at which they are sketched.

    Attributes:
        work: Model and samples.
        checkpoints: The untouched model, and the adapter after steps of a warm-up.
        wide: The samples' wide sketches (n, checkpoints, 8192).
        sketching: A pass that makes the content of the files of a pool's shard:
            sketches at the untouched model and at each checkpoint, and inner products,
            from wide sketches at each checkpoint, with as many measured samples.
    """

    work: Work
    checkpoints: list[Checkpoint]
    wide: torch.Tensor
    sketching: Pass

    @property
    def later(self) -> list[Checkpoint]:
        """The checkpoints after the untouched model."""
        return [checkpoint for checkpoint in self.checkpoints if checkpoint.step]


def make_trajectory(work: Work, k: int) -> Trajectory:
    """Warm up on the samples in turn, with the settings of `ogs sketch`.

    Args:
        work: Model, with a fresh adapter, and samples.
        k: Dimensions of a sketch.
    """
    encoded = itertools.cycle(row.encoded for row in work.rows)
    samples = [*itertools.islice(encoded, BATCH * warm_up_steps(STEPS))]
    with without_messages():
        checkpoints = warm_up(
            work.proxy, samples, STEPS, SketchSettings().learning_rate
        )
    sketcher = ShardSketcher(work.proxy, work.means, checkpoints, CountSketch(k, 0))
    shard = Shard("pool", 0, work.rows)
    content = sketcher.sketch(shard, None).wide
    assert content is not None  # without measured samples a shard keeps them
    wide = load(content)["wide"]
    measured = Measured(wide, None)

    def run() -> float:
        sketcher.sketch(shard, measured)
        return len(work.rows)

    return Trajectory(work, checkpoints, wide, run)


@contextlib.contextmanager
def loaded(proxy: Proxy, checkpoint: Checkpoint) -> Iterator[None]:
    """Give the adapter a checkpoint's weights within the block."""
    before = proxy.state()
    proxy.load_state(checkpoint.state)
    try:
        yield
    finally:
        proxy.load_state(before)
