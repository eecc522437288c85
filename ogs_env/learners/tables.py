"""Precomputed tables that all surrogate learners of a bundle share."""

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ogs_env import gram
from ogs_env.bundle import Bundle
from ogs_env.errors import InputError
from ogs_env.gram import Floats, Gram
from ogs_env.learners.effects import LossEffects, LossGroup, OwnAnswers
from ogs_env.learners.fitted import FORGETTING_DEFAULTS
from ogs_env.rows import Rows

_LEAST_LOSS = 1e-4  # nats; lower bound of losses, by which slopes are divided
_TINY = 1e-12
_BLOCK = 4096  # rows whose products are in memory at a time


class LearnerTables:
    """The tables of one bundle; read-only.

    The measured samples are those of `Bundle.measured`, role by role. Own answers have
    products only at the first checkpoint, the untouched model; they are set to 0 at the
    others. Sketches are split by checkpoint (a single one without a trajectory), and
    each checkpoint is scaled so that the dev samples' sketches have a root mean square
    norm of 1.

    Attributes:
        bundle: The bundle.
        kind: `"trajectory"`, or `"initial"` for a bundle without trajectory sketches.
        checkpoints: Number of checkpoints.
        epochs: Number of epochs on a selection.
        losses: float32 (measured,), l_j.
        initial: float64 (groups,), mean losses before the first pick, of the dev
            samples, of each capability's anchor samples and, if the bundle has them, of
            each capability's own answers.
        initial_held_out: The same for the test samples, the retention samples and the
            retention's own answers if there are any.
        anchors, answers: Slices of the capabilities' groups in `initial`.
        reward_effects: `LossEffects` on the groups of `initial`.
        held_out_effects: `LossEffects` on the groups of `initial_held_out`.
        squares: float64 (pool + 1, checkpoints), |t_i g_ic|^2; 0 for row -1.
        gram: `Gram` of <t_i g_ic, t_j g_jc> for pool samples, by checkpoint.
        anchor_cosines: float32 (pool, capabilities), cosines of pool samples with the
            mean anchor gradients, over all checkpoints together.

    Raises:
        InputError: If the manifest's `learner` entry does not fit the bundle.
    """

    def __init__(self, bundle: Bundle) -> None:
        self.bundle, self.kind = bundle, _kind(bundle)
        count = len(bundle.manifest["checkpoints"]) if self.kind == "trajectory" else 1
        self.checkpoints = count
        dev = bundle.dev.sketches(self.kind).reshape(len(bundle.dev), count, -1)
        squares = np.square(dev).sum(axis=2).mean(axis=0)
        self._scale = (1 / np.sqrt(np.maximum(squares, 1e-24)))[:, None]

        roles = [getattr(bundle, role) for role in bundle.measured]
        losses = np.concatenate([rows.losses for rows in roles])
        self.losses = np.maximum(losses, _LEAST_LOSS)
        # With a trajectory, the bundle has products from wider sketches.
        self._measured = None
        if self.kind == "initial":
            measured = [self._by_checkpoint(rows.sketches(self.kind)) for rows in roles]
            self._measured = np.concatenate(measured).transpose(1, 2, 0)
        self.epochs = _epochs(bundle)
        places = dict(zip(bundle.measured, _places(roles), strict=True))
        self._places = places
        anchor_rows = [bundle.anchor_rows(n) for n in range(len(bundle.capabilities))]
        anchors = [places["anchor"][rows] for rows in anchor_rows]
        # Without own answers, references predict the forgetting.
        answers, retention_answers = anchors, places["retention"]
        if bundle.has_answers:
            answer_rows = map(bundle.answer_rows, range(len(anchors)))
            answers = [places["anchor_answers"][rows] for rows in answer_rows]
            retention_answers = places["retention_answers"]
        self.anchors = slice(1, 1 + len(anchors))
        end = self.anchors.stop + len(answers) * bundle.has_answers
        self.answers = slice(self.anchors.stop, end)
        domain_slopes, domain_share = _response(bundle, "domain", count)
        anchor_slopes, anchor_share = _response(bundle, "anchor", count)
        tokens = np.concatenate([rows.tokens for rows in roles])
        curvature, self._share, self._distance = _forgetting(bundle)
        weights = curvature * tokens / 2

        def effects(
            domain_places: NDArray[np.int64],
            anchor_places: list[NDArray[np.int64]],
            answer_places: list[NDArray[np.int64]],
        ) -> LossEffects:
            # A capability's loss rises by its own forgetting, the domain's by the mean.
            shares = np.eye(len(answer_places)) * anchor_share
            mean = np.full((1, len(answer_places)), domain_share / len(answer_places))
            return LossEffects(
                self.products,
                len(bundle.pool),
                self.losses,
                [
                    LossGroup(domain_places, domain_slopes),
                    *(LossGroup(rows, anchor_slopes) for rows in anchor_places),
                ],
                [OwnAnswers(rows, weights[rows]) for rows in answer_places],
                np.concatenate([mean, shares]),
            )

        self.reward_effects = effects(places["dev"], anchors, answers)
        held_out = [places["test"], places["retention"], retention_answers]
        self.held_out_effects = effects(held_out[0], [held_out[1]], [held_out[2]])
        self.initial, self.initial_held_out = (
            np.array([self.losses[rows].mean(dtype=float) for rows in groups])
            for groups in (
                [places["dev"], *anchors, *answers][:end],
                held_out[: 2 + bundle.has_answers],
            )
        )

        pool = len(bundle.pool)
        in_memory = pool * count * bundle.k <= gram.TABLE_FLOATS
        self._sketches = self._weighted_sketches(np.arange(pool)) if in_memory else None
        # At least two numbers per pair: with one, NumPy would sum in another order for
        # a single learner than for several.
        self.gram = Gram(self.sketches, pool, 4 * -(-count // 4))
        self.squares = np.zeros((pool + 1, count))
        self.anchor_cosines = np.empty((pool, len(anchors)), np.float32)
        by_capability = [
            bundle.anchor.sketches(self.kind, rows) for rows in anchor_rows
        ]
        units = _unit(
            np.stack([self._by_checkpoint(s).mean(0).ravel() for s in by_capability])
        )
        for rows in _blocks(pool):
            products, sketches = self.products(rows), self.sketches(rows)
            self.reward_effects.fill(rows, products)
            self.held_out_effects.fill(rows, products)
            self.squares[rows] = np.vecdot(sketches, sketches)
            flat = sketches.reshape(len(rows), -1)
            self.anchor_cosines[rows] = _unit(flat) @ units.T

    # Read-only: copies are the same object, and another process builds its own.
    def __reduce__(self) -> tuple[Any, ...]:
        return tables_of, (self.bundle,)

    def __deepcopy__(self, memo: dict[int, Any]) -> "LearnerTables":
        return self

    def sketches(self, indices: NDArray[np.integer]) -> Floats:
        """Return t_i g_i of pool rows (n,), (n, checkpoints, k)."""
        if self._sketches is not None:
            return self._sketches[indices]
        return self._weighted_sketches(indices)

    def products(self, indices: NDArray[np.integer]) -> Floats:
        """Return t_i <g_ic, g_jc> of pool rows (n,), (n, checkpoints, measured)."""
        if self._measured is None:
            products = self._trajectory_products(indices) * np.square(self._scale)
        else:
            sketches = self._by_checkpoint(
                self.bundle.pool.sketches(self.kind, indices)
            )
            # One product per sample, so that the result does not depend on the others.
            products = np.matmul(sketches[:, :, None], self._measured)[:, :, 0]
        return np.multiply(products, self._tokens(indices), dtype=np.float32)

    def losses_after(
        self,
        sums: Floats,
        lengths: NDArray[np.float64],
        distances: NDArray[np.float64],
    ) -> NDArray[np.float64]:
        """Return the losses (..., groups) of the groups of `initial` after picks.

        Args:
            sums: Sums of the picks' rows of `reward_effects` (..., width).
            lengths: Factors of the sums (..., checkpoints).
            distances: |d| at the first checkpoint (...).
        """
        return self._after(self.initial, self.reward_effects, sums, lengths, distances)

    def held_out_after(
        self,
        picked: NDArray[np.integer],
        lengths: NDArray[np.float64],
        distances: NDArray[np.float64],
    ) -> NDArray[np.float64]:
        """Return the losses (..., groups) of the groups of `initial_held_out`.

        Args:
            picked: Pool rows (picks, ...).
            lengths: Factors of the sum of their gradients (..., checkpoints).
            distances: |d| at the first checkpoint (...).
        """
        initial, effects = self.initial_held_out, self.held_out_effects
        sums = np.add.reduce(effects.rows(picked), axis=0)
        return self._after(initial, effects, sums, lengths, distances)

    def shifts(
        self, picked: NDArray[np.integer], lengths: NDArray[np.float64]
    ) -> dict[str, NDArray[np.float64]]:
        """Return x_jc = <g_jc, d_c> of the measured samples (checkpoints, n) by role.

        Args:
            picked: Pool rows (picks,).
            lengths: As for `held_out_after` (checkpoints,).
        """
        x = self.products(picked).sum(axis=0, dtype=float) * lengths[:, None]
        return {role: x[:, places] for role, places in self._places.items()}

    def _after(
        self,
        initial: NDArray[np.float64],
        effects: LossEffects,
        sums: Floats,
        lengths: NDArray[np.float64],
        distances: NDArray[np.float64],
    ) -> NDArray[np.float64]:
        """Return losses after picks; `initial` are those before."""
        changes = effects.changes(sums, lengths)
        # The forgetting comes last; `initial` has groups for it with own answers only.
        forgetting = changes[..., effects.groups :]
        forgetting *= self._share
        forgetting += self._distance * np.asarray(distances)[..., None]
        return initial + changes[..., : len(initial)]

    def _trajectory_products(self, indices: NDArray[np.integer]) -> Floats:
        """Return the bundle's products (n, checkpoints, measured)."""
        products = self.bundle.pool.products(indices)
        if not self.bundle.has_answers:
            return products
        answers = self.bundle.pool.answer_products(indices)[:, None]
        answers = np.pad(answers, [(0, 0), (0, self.checkpoints - 1), (0, 0)])
        return np.concatenate([products, answers], axis=2)

    def _by_checkpoint(self, sketches: Floats) -> Floats:
        """Split sketches (n, checkpoints * k) by checkpoint and scale them."""
        width = sketches.shape[1] // self.checkpoints
        blocks = sketches.reshape(len(sketches), self.checkpoints, width)
        return np.multiply(blocks, self._scale, dtype=np.float32)

    def _weighted_sketches(self, indices: NDArray[np.integer]) -> Floats:
        """Return t_i g_i of pool rows, read from the bundle."""
        sketches = self._by_checkpoint(self.bundle.pool.sketches(self.kind, indices))
        return sketches * self._tokens(indices)

    def _tokens(self, indices: NDArray[np.integer]) -> Floats:
        return self.bundle.pool.tokens[indices, None, None].astype(np.float32)


@functools.lru_cache(maxsize=8)
def tables_of(bundle: Bundle) -> LearnerTables:
    """Return the bundle's tables, cached."""
    return LearnerTables(bundle)


def _kind(bundle: Bundle) -> str:
    """Return the kind of sketches that the manifest's learner uses."""
    kind: str = bundle.manifest["learner"].get("sketches", "")
    known = ("trajectory", "initial") if bundle.has_trajectory else ("initial",)
    if kind not in known:
        raise InputError(
            f"{bundle.path}: the manifest's learner has sketches '{kind}'; expected "
            f"{' or '.join(known)}; rebuild the bundle"
        )
    return kind


def _response(
    bundle: Bundle, role: str, checkpoints: int
) -> tuple[NDArray[np.float64], float]:
    """Return slopes (checkpoints,) and share of a role from the manifest.

    Args:
        bundle: The bundle.
        role: `"domain"` or `"anchor"`.
        checkpoints: Number of checkpoints.
    """
    entry = bundle.manifest["learner"].get(role, {})
    slopes, share = entry.get("slope"), entry.get("share")
    if (
        not isinstance(slopes, list)
        or len(slopes) != checkpoints
        or not all(map(_is_finite_and_not_negative, [*slopes, share]))
    ):
        raise InputError(
            f"{bundle.path}: the manifest's learner has {entry} for the {role}; "
            f"expected a slope for each of {checkpoints} checkpoints and a share, none "
            "negative; rebuild the bundle"
        )
    return np.array(slopes, float), float(share)


def _forgetting(bundle: Bundle) -> tuple[float, np.float32, np.float32]:
    """Return the manifest's curvature, share and distance of the forgetting."""
    entry = bundle.manifest["learner"].get("forgetting", {})
    response = {**FORGETTING_DEFAULTS, **entry}
    values: list[Any] = [
        response.get(name) for name in ("curvature", "share", "distance")
    ]
    if not all(map(_is_finite_and_not_negative, values)):
        raise InputError(
            f"{bundle.path}: the manifest's learner has {entry} for forgetting; "
            "expected a curvature, and if any a share and a distance, of at least 0, "
            "one number each; rebuild the bundle"
        )
    curvature, share, distance = values
    return float(curvature), np.float32(share), np.float32(distance)


def _epochs(bundle: Bundle) -> float:
    """Return the number of epochs of the manifest's learner."""
    epochs = bundle.manifest["learner"].get("epochs")
    if not _is_finite_and_not_negative(epochs) or not epochs:
        raise InputError(
            f"{bundle.path}: the manifest's learner has epochs {epochs!r}; expected a "
            "number above 0; rebuild the bundle"
        )
    return float(epochs)


def _is_finite_and_not_negative(value: Any) -> bool:
    return isinstance(value, int | float) and 0 <= value < np.inf


def _places(roles: Sequence[Rows]) -> list[NDArray[np.int64]]:
    """Return the positions of each role's samples among those of all roles."""
    ends = np.cumsum([len(rows) for rows in roles])
    return np.split(np.arange(ends[-1]), ends[:-1])


def _blocks(count: int) -> Iterator[NDArray[np.int64]]:
    """Split row numbers into blocks whose products fit into memory."""
    for begin in range(0, count, _BLOCK):
        yield np.arange(begin, min(begin + _BLOCK, count))


def _unit(vectors: Floats) -> Floats:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.maximum(norms, np.float32(_TINY))
