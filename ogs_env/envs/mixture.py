"""The cluster-level environment: choose the cluster of each training batch."""

from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from ogs_env.bundle import Bundle
from ogs_env.envs.arguments import check_render_mode, check_whole, given_bundle
from ogs_env.envs.base import INVALID_ACTION_PENALTY, EpisodeEnv, Observation
from ogs_env.envs.clusters import clusters as clusters_of
from ogs_env.envs.clusters import sums_of_clusters
from ogs_env.envs.observations import BOUND, candidates
from ogs_env.envs.snapshots import MixtureHistory
from ogs_env.envs.streams import given_stream, smallest_split
from ogs_env.errors import InputError
from ogs_env.learners.surrogate import BATCH, SurrogateLearner
from ogs_env.rewards import (
    NO_PICK,
    checked_weights,
    document_terms,
    weighted_sum,
)

# Default for pools that are large enough.
_CLUSTERS = 16
# The constrained problem's reward; harm to general abilities is the cost.
DEFAULT_WEIGHTS = {**dict.fromkeys(NO_PICK, 0.0), "domain_gain": 1.0}


@document_terms({"any": DEFAULT_WEIGHTS})
class MixtureEnv(EpisodeEnv[SurrogateLearner]):
    """Mix the data of a fine-tuning run batch by batch, with a limit on forgetting.

    ## Description

    The constrained Markov decision process of Orthogonal Gradient Selection: a pool
    is divided into clusters of samples with similar gradients, and each action chooses
    the cluster of the next batch. A learner is trained on the batch: the reward is the
    gain in the domain, the cost is the loss of general abilities. The agent maximises
    the return while the cost of an episode stays below a limit that the algorithm sets
    (`info["cost"]`, for constrained algorithms), or weighs the two in
    `reward_weights`.

    Clusters are computed by k-means on the unit *initial* sketches of the whole pool.
    They do not depend on any seed, and all splits share them. They are numbered by
    their mean cosine with the domain, the largest first. The greedy choice is not
    optimal: that cosine is measured at the untouched model, while the learner uses
    *trajectory* sketches of a training run, and the gain per batch of a cluster
    decreases.

    The learner is always the surrogate, in closed form: `ogs_env.learners.surrogate`.

    ## Observation Space

    A `Dict` of float32 boxes, every value in [-10, 10]. All of it comes from the
    initial sketches, so a deployed policy observes the same columns as in training.
    d is the width of the bundle's observation basis Q, 32 in the shipped bundles;
    `cos` is the exact cosine of a sample's gradient at the start with a mean gradient
    there.

    `clusters`, shape (clusters, 6 + d). Means are over the samples *left*, which is the
    expectation of the next sample drawn; for an empty cluster they are 0:

    | Column | Value                                                       | Range     |
    |--------|-------------------------------------------------------------|-----------|
    | 0      | samples left, share of all candidates of the episode        | [0, 1]    |
    | 1      | mean Orth, 1 - largest abs(cos) with a capability's anchor  | [0, 1]    |
    |        | gradient; 1: no effect on any capability, to first order    |           |
    | 2      | mean Conf, largest -cos with a capability's anchor          | [-1, 1]   |
    |        | gradient; positive: harms a capability, to first order      |           |
    | 3      | mean log of the gradient norm, by the scales of the proxy   | [-10, 10] |
    | 4      | mean cos with the domain gradient; positive: it helps       | [-1, 1]   |
    | 5      | share of this cluster in the samples drawn so far (the      | [0, 1]    |
    |        | mixture), 0 before the first                                |           |
    | 6..d+5 | mean of the unit sketches in Q, which identifies the        | [-10, 10] |
    |        | cluster in any pool                                         |           |

    `context`, shape (3 d + 3,):

    | Index       | Value                                                  | Range     |
    |-------------|--------------------------------------------------------|-----------|
    | 0..d-1      | direction of the domain's mean gradient, in Q          | [-10, 10] |
    | d..2d-1     | direction of the anchor's gradient (the mean of the    | [-10, 10] |
    |             | capabilities' unit mean gradients), in Q               |           |
    | 2d..3d-1    | mean of the drawn samples' unit sketches in Q          | [-10, 10] |
    | 3d          | batches left, share of the episode's                   | [0, 1]    |
    | 3d + 1      | mean cos of the drawn with the domain gradient         | [-1, 1]   |
    | 3d + 2      | mean of their least cos with a capability's anchor     | [-1, 1]   |
    |             | gradient, minus their mean Conf                        |           |

    Means over the drawn samples are 0 before the first.

    ## Action Space

    `Discrete(clusters)`: draw the next `batch` samples of that cluster, or all that are
    left if there are fewer. `action_masks()` returns the valid actions (bool, for
    sb3-contrib), as does `info["action_mask"]` (int8). The mask is never all zeros:
    when no samples are left the episode is over, and it is all ones.

    An empty cluster is an invalid action: the batch is drawn from the cluster with the
    most samples left (of several, the first), 0.02 is subtracted from the reward, and
    `info["invalid_action"]` is 1. If it changed nothing, a deterministic policy without
    action masks would repeat it forever.

    ## Rewards

    The sum of the following terms, each with its weight; `info` has each by its name.
    They are those of `SelectionEnv`, but about a batch: losses are compared before and
    after the whole batch, `orthogonality` is the mean of its samples, and `information`
    the sum.

    <reward terms>

    The cost is the general degradation: `forgetting` where the bundle has answers of
    the model's own, else `conflict`. Over an episode rewards and costs add up to the
    gain and the degradation of its selection, any order of batches gives the same, and
    a batch that reverses the harm of others has a cost below 0.

    The learner shuffles the drawn samples and makes an optimizer step for every eight
    of them (`ogs_env.learners.surrogate`), whatever the batches.

    Six batches are 48 samples of one epoch, for which the learner's predictions have
    been tested (`SelectionEnv`, Fidelity). They cause little harm: a limit on the cost
    binds in longer episodes, from about 24 batches on, for which the predictions are
    untested.

    ## Starting State

    The split's part of the pool, each cluster's samples in an order drawn by
    `self.np_random`; the learner is reset. A cluster may have no samples in a split.

    `reset(options={"indices": rows})` takes the given pool rows instead, of any split
    and all different; the samples of a cluster are drawn in the given order. To replay
    an episode's samples, pass the attribute `stream`.

    ## Episode End

    The episode terminates when `steps` batches have been drawn, or when no samples are
    left. It is never truncated.

    ## Information

    The same keys at reset and on every step, with NumPy scalars and arrays of fixed
    shapes:

    | Key                | Value                                                       |
    |--------------------|-------------------------------------------------------------|
    | `action_mask`      | int8 (clusters,), 1 = valid                                 |
    | `domain_gain`, ... | float64, each of the terms above by its name                |
    | `cost`             | float64, the constrained problem's cost: `forgetting`, or   |
    |                    | `conflict` without own answers; negative where a step       |
    |                    | reverses some, and >= 0 over an episode                     |
    | `picks`            | int64 (batch,), pool rows drawn in the step, in order,      |
    |                    | then -1                                                     |
    | `invalid_action`   | int64, 1 if the action was invalid                          |
    | `domain_loss`      | float64, the learner's mean dev loss, nats per token        |
    | `selection`        | int64 (batch * steps,), pool rows of all samples drawn in   |
    |                    | order, then -1; only -1 until the episode's end             |
    | `test_change`      | float64, change of the domain test loss, percent of its     |
    |                    | start; negative is better; 0.0 until the end                |
    | `retention_change` | float64, the same of the retention loss                     |
    | `answers_change`   | float64, the same of the loss on own answers to the         |
    |                    | retention's prompts; 0.0 without own answers                |

    `env.unwrapped.sample_ids(rows)` returns the ids of pool rows.

    No reward depends on the test and retention losses, or on the own answers to the
    retention's prompts.

    ## Arguments

    - `bundle`: name of a shipped bundle, or the folder of one
      (`OGS-Custom-Mixture-v0` needs it).
    - `split`: the candidates' part of the pool: `"train"`, `"test"` or `"all"`.
    - `clusters`: number of clusters; by default 16, or a quarter of the pool if it has
      fewer than 64 samples.
    - `batch`: samples drawn by an action; by default 8, or fewer if `steps` batches of
      8 exceed the smaller split.
    - `steps`: batches in an episode; by default 6.
    - `reward_weights`: weights by term; the others keep their defaults.
    - `render_mode`: `"human"` prints a frame at reset and on every step: the clusters,
      the mixture, return and cost, the losses. `render()` returns it as text for
      `"ansi"`; for `"rgb_array"` as a picture, uint8 (560, 1000, 3), which needs
      matplotlib.

    Raises `ogs_env.InputError` for an invalid argument.

    ```python
    >>> import gymnasium, ogs_env
    >>> env = gymnasium.make("OGS-Medical-Mixture-v0")
    >>> observation, info = env.reset(seed=0)
    >>> observation["clusters"].shape, observation["context"].shape
    ((16, 38), (99,))
    >>> largest = observation["clusters"][:, 0].argmax()
    >>> observation, reward, terminated, truncated, info = env.step(largest)
    >>> info["picks"].shape, reward == float(info["domain_gain"])
    ((8,), True)
    >>> float(observation["clusters"][largest, 5]), float(info["cost"]) >= 0
    (1.0, True)

    ```

    ## Version History

    - v0: first version.

    ## References

    - Zhang, Tian, Wang, Song 2026, arXiv 2602.06359: Orth and Conf; clusters as
      actions, domain improvement as reward, general degradation as cost.
    - Altman 1999, Constrained Markov Decision Processes.
    - Arthur, Vassilvitskii 2007, k-means++: The Advantages of Careful Seeding.
    """

    _history: MixtureHistory | None

    def __init__(
        self,
        bundle: str = "medical",
        *,
        split: str = "train",
        clusters: int | None = None,
        batch: int | None = None,
        steps: int = 6,
        reward_weights: Mapping[str, float] | None = None,
        render_mode: str | None = None,
    ) -> None:
        data = given_bundle(bundle, "OGS-Custom-Mixture-v0")
        self._part = data.split(split)
        clusters, batch = _episode_counts(data, split, clusters, batch, steps)
        check_render_mode(render_mode, self.metadata["render_modes"])
        self.batch, self.steps = batch, steps
        weights = checked_weights(reward_weights, data, DEFAULT_WEIGHTS)
        learner = SurrogateLearner(data)
        super().__init__(data, learner, weights, batch * steps, batch, render_mode)

        self._clusters = clusters_of(self.bundle, clusters)
        self._candidates = candidates(self.bundle, "initial")

        d = self._d = self.bundle.basis.shape[1]
        self._rows = np.zeros((clusters, 6 + d), np.float32)
        self._picked_sum = np.zeros(4 + d)
        self._context = np.zeros(3 * d + 3, np.float32)
        self._context[: 2 * d] = self._candidates.directions
        self.action_space = spaces.Discrete(clusters)
        self.observation_space = spaces.Dict(
            {
                "clusters": spaces.Box(-BOUND, BOUND, self._rows.shape, np.float32),
                "context": spaces.Box(-BOUND, BOUND, self._context.shape, np.float32),
            }
        )
        # Read-only for policies and wrappers.
        self.left = np.zeros(clusters, np.int64)
        self.picked_from = np.zeros(clusters, np.int64)
        self.batches = 0

    @property
    def clusters(self) -> NDArray[np.int64]:
        """The cluster of every row of the pool (pool,)."""
        return self._clusters.labels

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Shuffle every cluster; `options={"indices": rows}` takes given pool rows."""
        super().reset(seed=seed)
        self.stream = self.draw_stream(self.np_random, options)
        self._statistics = self._clusters.statistics.take(self.stream, axis=0)
        self.left = self._clusters.sizes(self.stream)
        self._ends = np.cumsum(self.left)
        self._rewards.reset(self.np_random)
        self.picked = []
        self.picked_from[:] = 0
        self.batches = 0
        self.over = False
        self._context[2 * self._d :] = 0
        self._context[3 * self._d] = 1
        self._rows[:, 5] = 0
        self._picked_sum[:] = 0
        self._write(..., sums_of_clusters(self._statistics, self.left))
        if self.render_mode is not None:
            self._history = MixtureHistory(
                self.bundle, self.learner, self.steps, self.batch, self.clusters
            )
            self._record(self._history)
        return self.observation(), self._info(NO_PICK, [])

    def draw_stream(
        self, rng: np.random.Generator, options: dict[str, Any] | None
    ) -> NDArray[np.int64]:
        """Return the pool rows of an episode by cluster, given `reset`'s `options`."""
        if options:
            rows = _given_rows(options, len(self.bundle.pool))
        else:
            rows = rng.permutation(self._part)
        return self._clusters.sort(rows)

    def step(
        self, action: np.int64 | int
    ) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Draw a batch from cluster `action` and train the learner on it."""
        if self.over:
            raise gymnasium.error.ResetNeeded("the episode is over: call reset()")
        cluster = int(action)
        if not 0 <= cluster < len(self.left):
            raise InputError(f"action {cluster}: expected 0 to {len(self.left) - 1}")
        invalid = bool(self.left[cluster] == 0)
        if invalid:
            cluster = int(self.left.argmax())
        rows = self._draw(cluster)
        terms = self._learn(rows)
        reward = weighted_sum(terms, self.reward_weights)
        reward -= INVALID_ACTION_PENALTY * invalid
        self.over = self.batches == self.steps or self._is_exhausted()
        info = self._info(terms, rows, invalid=invalid)
        if self._history is not None:
            self._history.add_step(
                int(action), cluster, info["cost"], reward, self.over
            )
            self._record(self._history)
        return self.observation(), reward, self.over, False, info

    def action_masks(self) -> NDArray[np.bool_]:
        """Return the valid actions (clusters,), for sb3-contrib; at least one is."""
        return (self.left > 0) | self._is_exhausted()

    def observation(self) -> Observation:
        """Return the current observation, a copy."""
        return {"clusters": self._rows.copy(), "context": self._context.copy()}

    def _record(self, history: MixtureHistory) -> None:
        history.add_state(self.batches, self.left, self.picked_from, self._rows)
        self._print_frame(history)

    def _is_exhausted(self) -> bool:
        return len(self.picked) == len(self.stream)

    def _draw(self, cluster: int) -> list[int]:
        """Return the next batch of a cluster that is not empty."""
        left, end = self.left.item(cluster), self._ends.item(cluster)
        start, stop = end - left, min(end - left + self.batch, end)
        rows: list[int] = self.stream[start:stop].tolist()
        self.left[cluster] = end - stop
        self.picked += rows
        self.picked_from[cluster] += len(rows)
        self.batches += 1
        self._write(cluster, np.add.reduce(self._statistics[stop:end], axis=0))
        count, d = len(self.picked), self._d
        self._rows[:, 5] = self.picked_from / count
        self._picked_sum += np.add.reduce(self._statistics[start:stop], axis=0)
        mean = self._picked_sum / count
        self._context[2 * d : 3 * d] = mean[4:]
        self._context[3 * d] = 1 - self.batches / self.steps
        self._context[3 * d + 1] = mean[3]
        self._context[3 * d + 2] = -mean[1]
        return rows

    def _learn(self, rows: list[int]) -> dict[str, float]:
        """Update the learner with a batch and return the batch's reward terms."""
        units = self._candidates.rows(np.array(rows))[1] if self._informed else None
        return self._rewards.pick_batch(rows, units)

    def _write(self, which: Any, sums: NDArray[np.floating]) -> None:
        """Update the observation rows of clusters after a change of the samples left.

        Args:
            which: Index of clusters.
            sums: Sums (..., 4 + d) of the statistics of the samples left.
        """
        left = self.left[which]
        means = sums / np.maximum(left, 1)[..., None]
        self._rows[which, 0] = left / len(self.stream)
        self._rows[which, 1:5] = means[..., :4]
        self._rows[which, 6:] = means[..., 4:]

    def _info(
        self, terms: dict[str, float], rows: list[int], *, invalid: bool = False
    ) -> dict[str, Any]:
        mask = self.action_masks().view(np.int8)
        return self._episode_info(mask, terms, rows, invalid)


def _episode_counts(
    bundle: Bundle, split: str, clusters: int | None, batch: int | None, steps: int
) -> tuple[int, int]:
    """Return the numbers of clusters and samples in a batch; None means the default."""
    given = {"clusters": clusters, "batch": batch, "steps": steps}
    check_whole({name: count for name, count in given.items() if count is not None})
    pool, part = len(bundle.pool), len(bundle.split(split))
    if clusters is None:
        clusters = max(1, min(_CLUSTERS, pool // 4))
    if batch is None:
        batch = max(1, min(BATCH, smallest_split(bundle) // steps))
    if clusters > pool:
        raise InputError(
            f"clusters: {clusters}, but the pool has {pool} samples; expected at most "
            "that"
        )
    if steps * batch > part:
        raise InputError(
            f"{steps} steps of a batch of {batch} are {steps * batch} samples, but "
            f"split '{split}' has {part}; use fewer steps or a smaller batch"
        )
    return clusters, batch


def _given_rows(options: dict[str, Any], pool: int) -> NDArray[np.int64]:
    """Return the pool rows given by `reset(options={"indices": ...})`."""
    count = np.size(options.get("indices", 0))
    if count == 0:
        raise InputError("reset option 'indices': none; expected at least one pool row")
    return given_stream(options, pool, 1, count)
