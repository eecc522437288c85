"""The sample-level environment: pick fine-tuning data from a stream of slates."""

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from ogs_env.bundle import Bundle
from ogs_env.envs.arguments import (
    check_epochs,
    check_flag,
    check_render_mode,
    given_bundle,
)
from ogs_env.envs.base import INVALID_ACTION_PENALTY, EpisodeEnv, Observation
from ogs_env.envs.observations import (
    BELOW_ANY_COSINE,
    BOUND,
    Candidates,
    LiveCandidates,
    candidates,
)
from ogs_env.envs.snapshots import SelectionHistory
from ogs_env.envs.streams import ORDERS, deal, episode_counts, given_stream
from ogs_env.errors import InputError, unknown_name
from ogs_env.learners import Learner
from ogs_env.learners.surrogate import SurrogateLearner
from ogs_env.rewards import (
    DEFAULT_WEIGHTS,
    NO_PICK,
    checked_weights,
    document_terms,
    weighted_sum,
)


def nearest_candidates(
    masks: NDArray[np.integer | np.bool_], places: NDArray[np.int64] | np.int64
) -> NDArray[np.intp]:
    """Return the places of the nearest candidates; of two, the first.

    Args:
        masks: Whether each place of a slate has a candidate, (..., slate_size).
        places: Places on the slates (...).
    """
    size = masks.shape[-1]
    distances = np.abs(np.arange(size) - np.asarray(places)[..., None])
    return np.where(masks, distances, size).argmin(axis=-1)


@document_terms(DEFAULT_WEIGHTS)
class SelectionEnv(EpisodeEnv[Learner]):
    """Pick fine-tuning samples that teach a language model a domain without forgetting.

    ## Description

    A pool of fine-tuning samples is dealt in slates. The agent picks any number of
    samples from a slate, or skips to the next slate, until its budget is spent. A
    learner is trained on every pick at once: the reward is the gain in the domain
    minus the loss of general abilities. Greedy picks are not optimal: a slate is
    mostly of one source, later slates may be better, and a sample's gradient before
    training predicts its effect later in training only in part.

    The agent observes *initial* sketches: projections of each sample's gradient at the
    untouched model. The learner, and so the reward, uses *trajectory* sketches, taken
    there and at checkpoints of a training run, in the metric of its Adam. Every part
    of the observation comes from the initial sketches, the losses and the lengths of
    one pass over the pool, so a deployed policy observes the same columns as in
    training.

    With `learner="live"` a real language model is trained instead; see "The Live
    Learner" below.

    ## Observation Space

    A `Dict` of float32 boxes, every value clipped to [-10, 10]; d is the width of the
    bundle's observation basis Q, 32 in the shipped bundles.

    `candidates`, shape (slate_size, d + 7); the row of an empty place is zero:

    | Column | Value                                                       | Range     |
    |--------|-------------------------------------------------------------|-----------|
    | 0..d-1 | the candidate's sketch, scaled to unit length, in Q; each   | [-10, 10] |
    |        | coordinate has root mean square 1 over the pool             |           |
    | d      | cosine with the mean domain gradient                        | [-1, 1]   |
    | d + 1  | least cosine with a capability's mean anchor gradient       | [-1, 1]   |
    | d + 2  | log of the gradient norm                                    | [-10, 10] |
    | d + 3  | loss                                                        | [-10, 10] |
    | d + 4  | log of the response's tokens                                | [-10, 10] |
    | d + 5  | largest cosine with a picked sample; 0 before the first     | [-1, 1]   |
    | d + 6  | 1 if the place has a candidate, 0 if it is empty            | {0, 1}    |

    Norm, loss and tokens are standardised by scales of the proxy, which, like Q, are
    the same for all its bundles.

    `context`, shape (3 d + 8,):

    | Index       | Value                                                  | Range     |
    |-------------|--------------------------------------------------------|-----------|
    | 0..d-1      | direction of the domain's mean gradient, in Q          | [-10, 10] |
    | d..2d-1     | direction of the anchor's gradient (the mean of the    | [-10, 10] |
    |             | capabilities' unit mean gradients), in Q               |           |
    | 2d..3d-1    | mean of columns 0..d-1 over the picked, 0 before       | [-10, 10] |
    | 3d          | budget left, share of the budget                       | [0, 1]    |
    | 3d + 1      | slates that follow, share of the stream's slates       | [0, 1)    |
    | 3d + 2      | mean of column d over the picked, 0 before the first   | [-1, 1]   |
    | 3d + 3      | mean of column d + 1 over the picked, 0 before         | [-1, 1]   |
    | 3d + 4      | picks left over candidates left, on this slate and     | [0, 1]    |
    |             | those that follow; at most 1                           |           |
    | 3d + 5..7   | mean of columns d + 2 to d + 4 over the dev samples,   | [-10, 10] |
    |             | at the start                                           |           |

    A positive cosine means that a step on the candidate helps, to first order.
    `gymnasium.wrappers.FlattenObservation` turns the observation into one vector.

    ## Action Space

    `Discrete(slate_size + 1)`. Action i < slate_size picks the candidate at place i,
    which leaves the place empty. Action slate_size skips: it discards the rest of the
    slate and deals the next. The next slate is also dealt when the last candidate of a
    slate is picked. `action_masks()` returns the valid actions (bool, for sb3-contrib),
    as does `info["action_mask"]` (int8); skipping is always valid.

    Picking from an empty place is invalid: the nearest candidate is picked (of two, the
    first), 0.02 is subtracted from the reward, and `info["invalid_action"]` is 1. If it
    changed nothing, a deterministic policy without action masks would repeat it
    forever.

    ## Rewards

    The sum of the following terms, each with its weight; `info` has each by its name:

    <reward terms>

    A default weight can depend on whose answers the bundle's anchor is about, as its
    manifest says: `own`, those of the untouched model; `reference`, those that come
    with the anchor's data, whose loss is the anchor loss; or `both`. The shipped
    bundles are about own answers. A loss on reference answers falls when the model
    learns how they are worded. A loss on own answers can only rise, by the divergence
    from the untouched model per token.

    Changes of losses are differences of potentials, and the learner's state depends on
    the set of its picks alone: any order gives the same return, the value of the
    selection. A pick that reverses the harm of others returns what the harm cost.

    A valid skip has reward 0. The terms are defined in `ogs_env.rewards`, the losses in
    `ogs_env.learners.surrogate`.

    Fidelity: `ogs domains` shows how well predictions rank real fine-tuning runs in
    each bundle; experiments/results/fidelity describes the measurement.

    ## Starting State

    `num_slates * slate_size` candidates are drawn without replacement from the split's
    part of the pool by `self.np_random`; the learner is reset. With `order="blocks"`
    they are sorted by source, with the sources in random order, and then a random
    quarter of the places exchange their candidates; `order="mixed"` keeps the order of
    the draw. If the part is too small to fill the last slate, that slate is short.

    `reset(options={"indices": rows})` deals the given pool rows in the given order
    instead, of any split: at least `budget` and at most `num_slates * slate_size` rows,
    all different.

    ## Episode End

    The episode terminates when the budget is spent, or when the last slate is skipped
    or empty. It is never truncated.

    ## Information

    The same keys at reset and on every step, with NumPy scalars and arrays of fixed
    shapes:

    | Key                | Value                                                       |
    |--------------------|-------------------------------------------------------------|
    | `action_mask`      | int8 (slate_size + 1,), 1 = valid                           |
    | `domain_gain`, ... | float64, each of the terms above by its name                |
    | `cost`             | float64, the constrained problem's cost: `forgetting`, or   |
    |                    | `conflict` without own answers; negative where a step       |
    |                    | reverses some, and >= 0 over an episode                     |
    | `picks`            | int64 (1,), the pool row of the pick; -1 without a pick;    |
    |                    | candidates that fill the selection are in `selection` only  |
    | `invalid_action`   | int64, 1 if the action was invalid                          |
    | `domain_loss`      | float64, the learner's mean dev loss, nats per token        |
    | `selection`        | int64 (budget,), pool rows of all picks in order, then -1;  |
    |                    | only -1 until the episode's end                             |
    | `test_change`      | float64, change of the domain test loss, percent of its     |
    |                    | start; negative is better; 0.0 until the end                |
    | `retention_change` | float64, the same of the retention loss                     |
    | `answers_change`   | float64, the same of the loss on own answers to the         |
    |                    | retention's prompts; 0.0 without own answers                |

    `env.unwrapped.sample_ids(rows)` returns the ids of pool rows.

    No reward depends on the test and retention losses, or on the own answers to the
    retention's prompts.

    ## The Live Learner

    `OGS-Medical-Live-v0`, or `learner="live"` with any bundle made by `ogs sketch`:
    a LoRA adapter on the last layers of a causal LM is trained inside the episode.
    Spaces, rewards and info are the same. The differences:

    - Picks form batches, and each full batch is one AdamW step. The end of the episode
      trains on an incomplete batch too.
    - Sketches, losses and norms of the candidates on the slate are computed at the
      model's current weights: when a slate is dealt, and again after every step and
      every measurement. The first observation equals that of the surrogate's
      environment, up to rounding. Picked samples keep the values that they had when
      they were picked.
    - Losses of dev samples, anchor samples and own answers are measured every
      `evaluate_every` picks and at the end, on `evaluation_samples` of each. In between
      the terms that are differences of losses are 0. The last step of an episode, also
      if it is a skip, has the change since the last measurement, so the sum of
      `domain_gain` is the whole gain. Batches are trained on in the order of the picks,
      so the return depends on that order.
    - Cosines, `context` and `orthogonality` use the mean gradients of the last
      measurement. `information` uses the initial sketches.
    - On a CPU the same seed, actions and number of threads give the same episode, bit
      for bit. On an accelerator the order of sums is not fixed.

    It needs the extra `llm`, and the texts, since a bundle holds only numbers. The
    texts of `"medical"` come from the folder `OGS_DATA` or the Hugging Face hub.
    `OGS-Medical-Live-v0` has 8 slates of 8 and a budget of 16, four steps of training;
    an episode with SmolLM2-135M takes about a minute on one core.

    | `live`               | Default     | Meaning                                   |
    |----------------------|-------------|-------------------------------------------|
    | `model`              | the proxy   | causal LM, a Hugging Face id or a folder; |
    |                      |             | Q fits the sketches of the bundle's       |
    |                      |             | proxy only                                |
    | `texts`              | the domain  | name of a domain, or list of JSON lines   |
    |                      | of the      | files, with the texts of the bundle's     |
    |                      | bundle's    | samples by id                             |
    |                      | name        |                                           |
    | `layers`             | the         | number of decoder layers, counted from    |
    |                      | bundle's    | the last, that have the adapter           |
    | `batch`              | 4           | samples of an optimizer step              |
    | `learning_rate`      | 0.001       | constant, after two warm-up steps         |
    | `evaluate_every`     | 8           | picks between two measurements            |
    | `evaluation_samples` | 32          | samples measured: of dev, of the anchor   |
    |                      |             | and own answers of each capability, of    |
    |                      |             | test and of retention                     |

    ## Arguments

    - `bundle`: name of a shipped bundle, or the folder of one (`OGS-Custom-v0`
      needs it).
    - `split`: the candidates' part of the pool: `"train"`, `"test"` or `"all"`.
    - `slate_size`: places of a slate; by default 16, or fewer if a split has fewer than
      64 samples.
    - `num_slates`: slates in the stream; by default 16, or fewer if a split has fewer
      than 256 samples.
    - `budget`: picks in an episode; by default 3/16 of the candidates, 48 in a stream
      of 16 slates of 16. `OGS-Legal-v0` has a budget of 96, because with 48 a threshold
      on the domain cosine reaches nine tenths of the oracle's return.
    - `fill`: whether candidates drawn at random from the rest of the stream fill the
      selection when an episode ends before the budget is spent. Their terms are part of
      the last reward. A deployed selection always has the size of the budget; without
      `fill`, picking less is a way to move the model less.
    - `epochs`: epochs on the selection that the learner predicts; by default those of
      the bundle. More epochs make the budget stand for a larger selection: 16 picks for
      12 epochs move the model about as far as 64 picks for 3.
    - `order`: `"blocks"` or `"mixed"`.
    - `observe`: `"initial"`; or `"trajectory"`, for oracles and ablations: sketches and
      cosines come from the trajectory sketches (in Q, the mean over checkpoints).
    - `reward_weights`: weights by term; the others keep their defaults.
    - `learner`: `"surrogate"`, in closed form, or `"live"`.
    - `live`: settings of the live learner by name, those of the table above.
    - `render_mode`: `"human"` prints a frame at reset and on every step: the slate,
      the last pick, the budget, both losses. `render()` returns it as text for
      `"ansi"`; for `"rgb_array"` as a picture, uint8 (560, 1000, 3), which needs
      matplotlib.

    Raises `ogs_env.InputError` for an invalid argument.

    ```python
    >>> import gymnasium, ogs_env
    >>> env = gymnasium.make("OGS-Medical-v0", budget=4)
    >>> observation, info = env.reset(seed=0)
    >>> observation["candidates"].shape, int(info["action_mask"].sum())
    ((16, 39), 17)
    >>> observation, reward, terminated, truncated, info = env.step(3)
    >>> bool(info["action_mask"][3]), len(env.unwrapped.sample_ids(info["picks"]))
    (False, 1)

    ```

    ## Version History

    - v0: learner, default weights and budget from the fidelity study.

    ## References

    - Zhang, Tian, Wang, Song 2026, arXiv 2602.06359: orthogonality and conflict of
      sample gradients; selection as a constrained problem for PPO.
    """

    _history: SelectionHistory | None

    def __init__(
        self,
        bundle: str = "medical",
        *,
        split: str = "train",
        slate_size: int | None = None,
        num_slates: int | None = None,
        budget: int | None = None,
        fill: bool = False,
        epochs: float | None = None,
        order: str = "blocks",
        observe: str = "initial",
        reward_weights: Mapping[str, float] | None = None,
        learner: str = "surrogate",
        live: Mapping[str, Any] | None = None,
        render_mode: str | None = None,
    ) -> None:
        data = given_bundle(bundle, "OGS-Custom-v0")
        if epochs is not None:
            check_epochs(epochs, learner)
            data = data.with_epochs(float(epochs))
        self._part = data.split(split)
        counts = episode_counts(data, split, slate_size, num_slates, budget)
        check_flag("fill", fill)
        if order not in ORDERS:
            raise unknown_name("order", order, ORDERS)
        check_render_mode(render_mode, self.metadata["render_modes"])
        slate_size, self.num_slates, self.budget = counts
        self.slate_size, self.order, self.fill = slate_size, order, fill
        weights = checked_weights(reward_weights, data)
        model, self._candidates = _make_learner(data, observe, learner, live)
        super().__init__(data, model, weights, self.budget, 1, render_mode)

        d = self._d = self.bundle.basis.shape[1]
        self._rows = np.zeros((slate_size, d + 7), np.float32)
        self._context = np.zeros(3 * d + 8, np.float32)
        self._context[3 * d + 5 :] = self._candidates.domain
        self._mask = np.ones(slate_size + 1, np.int8)
        self._picked_sum = np.zeros(d + 2, np.float32)
        self.action_space = spaces.Discrete(slate_size + 1)
        self.observation_space = spaces.Dict(
            {
                "candidates": spaces.Box(-BOUND, BOUND, self._rows.shape, np.float32),
                "context": spaces.Box(-BOUND, BOUND, self._context.shape, np.float32),
            }
        )
        # Read-only for policies and wrappers.
        self.slate = np.full(slate_size, -1, np.int64)
        self.slate_number = 0
        self.slates_in_stream = 0
        self._left = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Deal a new stream; `options={"indices": rows}` deals given pool rows."""
        super().reset(seed=seed)
        self.stream = self.draw_stream(self.np_random, options)
        self.slates_in_stream = -(-len(self.stream) // self.slate_size)
        self._rewards.reset(self.np_random)
        self.picked = []
        self._picked_sum[:] = 0
        self._context[2 * self._d : 3 * self._d + 5] = 0
        self._context[3 * self._d] = 1
        self.over = False
        self._deal(0)
        if self.render_mode is not None:
            self._history = SelectionHistory(
                self.bundle, self.learner, self.budget, self.stream
            )
            self._record(self._history)
        return self.observation(), self._info(NO_PICK, -1)

    def draw_stream(
        self, rng: np.random.Generator, options: dict[str, Any] | None
    ) -> NDArray[np.int64]:
        """Return the pool rows of an episode, given the `options` of `reset`."""
        capacity, pool = self.num_slates * self.slate_size, self.bundle.pool
        if options:
            return given_stream(options, len(pool), self.budget, capacity)
        size = min(capacity, len(self._part))
        return deal(rng, self._part, pool.sources, size, self.order)

    def step(
        self, action: np.int64 | int
    ) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Pick the candidate at place `action`, or skip."""
        if self.over:
            raise gymnasium.error.ResetNeeded("the episode is over: call reset()")
        place = int(action)
        if not 0 <= place <= self.slate_size:
            raise InputError(f"action {place}: expected 0 to {self.slate_size}")
        terms, row, invalid = NO_PICK, -1, not self._mask[place]
        if invalid:
            place = int(nearest_candidates(self._mask[:-1], np.int64(place)))
        if place == self.slate_size:
            self._next_slate()
        else:
            row = self.slate.item(place)
            terms = self._pick(place, row)
        if self.over:
            if self.fill:
                terms = self._fill_up(terms)
            terms = self._rewards.finish(terms)
        if self._candidates.version != self._observed_version:
            self._observe_slate()
        reward = weighted_sum(terms, self.reward_weights)
        reward -= INVALID_ACTION_PENALTY * invalid
        info = self._info(terms, row, invalid=invalid)
        if self._history is not None:
            self._history.add_step(int(action), place, terms, reward, self.over)
            self._record(self._history)
        return self.observation(), reward, self.over, False, info

    def action_masks(self) -> NDArray[np.bool_]:
        """Return the valid actions (slate_size + 1,), for sb3-contrib."""
        return self._mask.astype(np.bool_)

    def observation(self) -> Observation:
        """Return the current observation, a copy."""
        undealt = len(self.stream) - (self.slate_number + 1) * self.slate_size
        left = max(self._left + max(undealt, 0), 1)
        share = min((self.budget - len(self.picked)) / left, 1.0)
        self._context[3 * self._d + 4] = share
        return {"candidates": self._rows.copy(), "context": self._context.copy()}

    def _record(self, history: SelectionHistory) -> None:
        history.add_state(self.slate_number, self.slate, self._rows)
        self._print_frame(history)

    def _deal(self, number: int) -> None:
        self.slate_number = number
        rows = self.stream[number * self.slate_size : (number + 1) * self.slate_size]
        size = self._left = len(rows)
        self.slate[:size], self.slate[size:] = rows, -1
        self._mask[:size], self._mask[size:-1] = 1, 0
        self._observe_slate()
        left = self.slates_in_stream - 1 - number
        self._context[3 * self._d + 1] = left / self.slates_in_stream

    def _observe_slate(self) -> None:
        """Update the observation rows of the slate and the context's directions."""
        d = self._d
        self._rows[:] = self._candidates.places(self.slate)
        if self.picked:
            picked = np.array(self.picked)[:, None]
            cosines = self._candidates.cosines(picked, self.slate)
            np.maximum.reduce(cosines, axis=0, out=self._rows[:, d + 5])
        self._context[: 2 * d] = self._candidates.directions
        self._observed_version = self._candidates.version

    def _next_slate(self) -> None:
        if self.slate_number + 1 < self.slates_in_stream:
            self._deal(self.slate_number + 1)
        else:
            self.over = True

    def fill_rows(
        self, picked: Sequence[int], stream: NDArray[np.int64], rng: np.random.Generator
    ) -> list[int]:
        """Draw the pool rows that fill a selection from the rest of its stream."""
        rest = np.setdiff1d(stream, picked)
        count = min(self.budget - len(picked), len(rest))
        rows: list[int] = rng.choice(rest, count, replace=False).tolist()
        return rows

    def _fill_up(self, terms: Mapping[str, float]) -> dict[str, float]:
        """Fill the selection; return the last step's terms with those of the rows."""
        sums = dict(terms)
        for row in self.fill_rows(self.picked, self.stream, self.np_random):
            for name, value in self._add(row).items():
                sums[name] += value
        return sums

    def _add(self, row: int) -> dict[str, float]:
        """Add a pool row to the selection and return its terms."""
        unit = None
        if self._informed:
            unit = candidates(self.bundle, "initial").rows(np.array([row]))[1][0]
        self.picked.append(row)
        return self._rewards.pick(row, unit)

    def _pick(self, place: int, row: int) -> dict[str, float]:
        d = self._d
        terms = self._add(row)
        count = len(self.picked)
        self._picked_sum += self._rows[place, : d + 2]
        mean = self._picked_sum / count
        self._context[2 * d : 3 * d] = mean[:d]
        self._context[3 * d] = 1 - count / self.budget
        self._context[3 * d + 2 : 3 * d + 4] = mean[d:]

        nearest = self._rows[:, d + 5]
        if count == 1:
            nearest[:] = BELOW_ANY_COSINE
        cosines = self._candidates.cosines(row, self.slate)
        np.maximum(nearest, cosines, out=nearest)
        self._mask[place] = 0
        self.slate[place] = -1
        self._rows[place] = 0
        self._left -= 1
        if count == self.budget:
            self.over = True
        elif not self._left:
            self._next_slate()
        return terms

    def _info(
        self, terms: dict[str, float], row: int, *, invalid: bool = False
    ) -> dict[str, Any]:
        rows = [row] if row >= 0 else []
        return self._episode_info(self._mask.copy(), terms, rows, invalid)


def _make_learner(
    bundle: Bundle, observe: str, learner: str, live: Mapping[str, Any] | None
) -> tuple[Learner, Candidates | LiveCandidates]:
    """Return the learner and the observations of its candidates."""
    if learner == "surrogate":
        if live is not None:
            raise InputError(
                "live: given to the surrogate learner; expected learner='live' with it"
            )
        return SurrogateLearner(bundle), candidates(bundle, observe)
    if learner != "live":
        raise unknown_name("learner", learner, ("surrogate", "live"))
    if observe != "initial":
        raise InputError(
            f"observe: '{observe}' with learner='live'; its gradients are taken at the "
            "current weights, so leave observe out"
        )
    try:
        from ogs_env.learners.live import LiveLearner
        from ogs_env.learners.live_settings import LiveSettings

        live_learner = LiveLearner(bundle, LiveSettings.of(live))
    except ModuleNotFoundError as error:
        raise InputError(
            f"learner 'live': the package {error.name} is not installed; run "
            "`pip install 'ogs-env[llm]'`"
        ) from None
    return live_learner, LiveCandidates(bundle, live_learner)
