"""What all surrogate learners of one bundle share."""

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
from ogs_env.rows import Rows

# A loss below this (nats) is taken as this: the model is done with the sample.
_LEAST_LOSS = 1e-4
_TINY = 1e-12
# Rows whose products are in memory at a time.
_BLOCK = 4096


class LearnerTables:
    """The tables of one bundle; read-only.

    The measured samples are those of `Bundle.measured`, role by role. Own answers have
    products at the untouched model alone, the first checkpoint; at the others these are
    taken to be 0.
    Sketches are cut in checkpoints (one, where there is no path), and each is scaled so
    that the dev samples' have a root mean square norm of 1.

    Attributes:
        kind: `"trajectory"`, or `"initial"` for a bundle without trajectory sketches.
        checkpoints: How many.
        epochs: How often a selection is trained on.
        losses: float32 (measured,), l_j.
        initial: float64 (groups,), mean losses before the first pick, of the dev
            samples, of each capability's anchor samples and, where the bundle has some,
            of each one's own answers.
        initial_held_out: The same of the test and retention samples, and of the
            retention's own answers if there are any.
        anchors, answers: Where the groups of the capabilities are in `initial`.
        seen: `LossEffects` on the groups of `initial`.
        held_out: `LossEffects` on those of `initial_held_out`.
        squares: float64 (pool + 1, checkpoints), |t_i g_ic|^2; 0 of row -1.
        gram: <t_i g_ic, t_j g_jc> of pool samples, one for each checkpoint.
        anchor_cosines: float32 (pool, capabilities), cosines of pool samples with the
            mean anchor gradients over all checkpoints together.

    Raises:
        InputError: If the manifest's `learner` entry does not fit the bundle.
    """

    def __init__(self, bundle: Bundle) -> None:
        self.bundle, self.kind = bundle, _kind(bundle)
        count = len(bundle.manifest["checkpoints"]) if self.kind == "trajectory" else 1
        self.checkpoints = count
        of_dev = bundle.dev.sketches(self.kind).reshape(len(bundle.dev), count, -1)
        squares = np.square(of_dev).sum(axis=2).mean(axis=0)
        self._scale = (1 / np.sqrt(np.maximum(squares, 1e-24)))[:, None]

        roles = [getattr(bundle, role) for role in bundle.measured]
        losses = np.concatenate([rows.losses for rows in roles])
        self.losses = np.maximum(losses, _LEAST_LOSS)
        # Where there is a path, products from wider sketches are at hand.
        self._measured = None
        if self.kind == "initial":
            start = [self._cut(rows.sketches(self.kind)) for rows in roles]
            self._measured = np.concatenate(start).transpose(1, 2, 0)
        self.epochs = _epochs(bundle)
        places = dict(zip(bundle.measured, _places(roles), strict=True))
        self._of_roles = places
        of_anchor = [bundle.anchor_rows(n) for n in range(len(bundle.capabilities))]
        anchors = [places["anchor"][rows] for rows in of_anchor]
        answers, kept = anchors, places["retention"]
        if bundle.has_answers:
            rows_of = map(bundle.answer_rows, range(len(anchors)))
            answers = [places["anchor_answers"][rows] for rows in rows_of]
            kept = places["retention_answers"]
        self.anchors = slice(1, 1 + len(anchors))
        end = self.anchors.stop + len(answers) * bundle.has_answers
        self.answers = slice(self.anchors.stop, end)
        domain, domain_share = _response(bundle, "domain", count)
        anchor, anchor_share = _response(bundle, "anchor", count)
        tokens = np.concatenate([rows.tokens for rows in roles])
        curvature, self._share, self._distance = _forgetting(bundle)
        weights = curvature * tokens / 2

        def effects(
            of_domain: NDArray[np.int64],
            of_anchors: list[NDArray[np.int64]],
            of_answers: list[NDArray[np.int64]],
        ) -> LossEffects:
            # A capability's loss rises by its own part of what is forgotten alone.
            shares = np.eye(len(of_answers)) * anchor_share
            mean = np.full((1, len(of_answers)), domain_share / len(of_answers))
            return LossEffects(
                self.products,
                len(bundle.pool),
                self.losses,
                [
                    LossGroup(of_domain, domain),
                    *(LossGroup(a, anchor) for a in of_anchors),
                ],
                [OwnAnswers(own, weights[own]) for own in of_answers],
                np.concatenate([mean, shares]),
            )

        self.seen = effects(places["dev"], anchors, answers)
        self.held_out = effects(places["test"], [places["retention"]], [kept])
        self.initial, self.initial_held_out = (
            np.array([self.losses[rows].mean(dtype=float) for rows in groups])
            for groups in (
                [places["dev"], *anchors, *answers][:end],
                [places["test"], places["retention"], kept][: 2 + bundle.has_answers],
            )
        )

        pool = len(bundle.pool)
        keep = pool * count * bundle.k <= gram.TABLE_FLOATS
        self._sketches = self._weigh(np.arange(pool)) if keep else None
        # Two numbers a pair at least, else NumPy adds in another order for one learner.
        self.gram = Gram(self.sketches, pool, 4 * -(-count // 4))
        self.squares = np.zeros((pool + 1, count))
        self.anchor_cosines = np.empty((pool, len(anchors)), np.float32)
        found = [bundle.anchor.sketches(self.kind, rows) for rows in of_anchor]
        units = _unit(np.stack([self._cut(own).mean(0).ravel() for own in found]))
        for rows in _blocks(pool):
            products, sketches = self.products(rows), self.sketches(rows)
            self.seen.fill(rows, products)
            self.held_out.fill(rows, products)
            self.squares[rows] = np.vecdot(sketches, sketches)
            flat = sketches.reshape(len(rows), -1)
            self.anchor_cosines[rows] = _unit(flat) @ units.T

    # Read-only: copies share it, another process builds its own.
    def __reduce__(self) -> tuple[Any, ...]:
        return tables_of, (self.bundle,)

    def __deepcopy__(self, memo: dict[int, Any]) -> "LearnerTables":
        return self

    def sketches(self, indices: NDArray[np.integer]) -> Floats:
        """Return t_i g_i of pool rows (n,), (n, checkpoints, k)."""
        if self._sketches is not None:
            return self._sketches[indices]
        return self._weigh(indices)

    def products(self, indices: NDArray[np.integer]) -> Floats:
        """Return t_i <g_ic, g_jc> of pool rows (n,), (n, checkpoints, measured)."""
        if self._measured is None:
            products = self._along_trajectory(indices) * np.square(self._scale)
        else:
            sketches = self._cut(self.bundle.pool.sketches(self.kind, indices))
            # Sample by sample, whose numbers then are the same in any company.
            products = np.matmul(sketches[:, :, None], self._measured)[:, :, 0]
        return np.multiply(products, self._tokens(indices), dtype=np.float32)

    def losses_after(
        self,
        sums: Floats,
        lengths: NDArray[np.float64],
        distances: NDArray[np.float64],
    ) -> NDArray[np.float64]:
        """Return the losses (..., groups) of `initial` after picks.

        Args:
            sums: Sums of the picks' rows of `seen` (..., width).
            lengths: What they are multiplied by (..., checkpoints).
            distances: |d| at the first checkpoint (...).
        """
        return self._after(self.initial, self.seen, sums, lengths, distances)

    def held_out_after(
        self,
        picked: NDArray[np.integer],
        lengths: NDArray[np.float64],
        distances: NDArray[np.float64],
    ) -> NDArray[np.float64]:
        """Return the losses (..., groups) of `initial_held_out` after picks.

        Args:
            picked: Pool rows (picks, ...).
            lengths: What the sum of their gradients is multiplied by
                (..., checkpoints).
            distances: |d| at the first checkpoint (...).
        """
        start, sums = self.initial_held_out, self.held_out.rows(picked)
        moved = np.add.reduce(sums, axis=0), lengths, distances
        return self._after(start, self.held_out, *moved)

    def shifts(
        self, picked: NDArray[np.integer], lengths: NDArray[np.float64]
    ) -> dict[str, NDArray[np.float64]]:
        """Return x_jc = <g_jc, d_c> of the measured samples (checkpoints, n) by role.

        Args:
            picked: Pool rows (picks,).
            lengths: As that of `held_out_after` (checkpoints,).
        """
        x = self.products(picked).sum(axis=0, dtype=float) * lengths[:, None]
        return {role: x[:, places] for role, places in self._of_roles.items()}

    def _after(
        self,
        start: NDArray[np.float64],
        effects: LossEffects,
        sums: Floats,
        lengths: NDArray[np.float64],
        distances: NDArray[np.float64],
    ) -> NDArray[np.float64]:
        changes = effects.changes(sums, lengths)
        # What is forgotten comes last, and is of own answers where there are some.
        forgotten = changes[..., effects.groups :]
        forgotten *= self._share
        forgotten += self._distance * np.asarray(distances)[..., None]
        return start + changes[..., : len(start)]

    def _along_trajectory(self, indices: NDArray[np.integer]) -> Floats:
        """Return the bundle's products (n, checkpoints, measured)."""
        products = self.bundle.pool.products(indices)
        if not self.bundle.has_answers:
            return products
        own = self.bundle.pool.answer_products(indices)[:, None]
        own = np.pad(own, [(0, 0), (0, self.checkpoints - 1), (0, 0)])
        return np.concatenate([products, own], axis=2)

    def _cut(self, sketches: Floats) -> Floats:
        """Cut sketches (n, K) in scaled checkpoints (n, checkpoints, k)."""
        width = sketches.shape[1] // self.checkpoints
        cut = sketches.reshape(len(sketches), self.checkpoints, width)
        return np.multiply(cut, self._scale, dtype=np.float32)

    def _weigh(self, indices: NDArray[np.integer]) -> Floats:
        sketches = self._cut(self.bundle.pool.sketches(self.kind, indices))
        return sketches * self._tokens(indices)

    def _tokens(self, indices: NDArray[np.integer]) -> Floats:
        return self.bundle.pool.tokens[indices, None, None].astype(np.float32)


@functools.lru_cache(maxsize=8)
def tables_of(bundle: Bundle) -> LearnerTables:
    """Return the bundle's tables, computed on the first call."""
    return LearnerTables(bundle)


def _kind(bundle: Bundle) -> str:
    """Return which sketches the manifest's learner uses."""
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
    """Return slopes (checkpoints,) and share of the manifest.

    Args:
        bundle: Whose.
        role: An entry of the manifest's `learner`.
        checkpoints: How many.
    """
    found = bundle.manifest["learner"].get(role, {})
    slopes, share = found.get("slope"), found.get("share")
    if (
        not isinstance(slopes, list)
        or len(slopes) != checkpoints
        or not all(map(_can_respond, [*slopes, share]))
    ):
        raise InputError(
            f"{bundle.path}: the manifest's learner has {found} for the {role}; "
            f"expected a slope for each of {checkpoints} checkpoints and a share, none "
            "negative; rebuild the bundle"
        )
    return np.array(slopes, float), float(share)


def _forgetting(bundle: Bundle) -> tuple[float, np.float32, np.float32]:
    """Return the manifest's curvature, share and distance of what is forgotten.

    The share is 1 and the distance 0 where they are not given.
    """
    found = bundle.manifest["learner"].get("forgetting", {})
    values = [found.get("curvature"), found.get("share", 1), found.get("distance", 0)]
    if not all(map(_can_respond, values)):
        raise InputError(
            f"{bundle.path}: the manifest's learner has {found} for forgetting; "
            "expected a curvature, and if any a share and a distance, of at least 0, "
            "one number each; rebuild the bundle"
        )
    curvature, share, distance = values
    return float(curvature), np.float32(share), np.float32(distance)


def _epochs(bundle: Bundle) -> float:
    """Return how often the manifest's learner trains on a selection."""
    epochs = bundle.manifest["learner"].get("epochs")
    if not _can_respond(epochs) or not epochs:
        raise InputError(
            f"{bundle.path}: the manifest's learner has epochs {epochs!r}; expected a "
            "number above 0; rebuild the bundle"
        )
    return float(epochs)


def _can_respond(value: Any) -> bool:
    """Say whether a value can be a slope or a curvature."""
    return isinstance(value, int | float) and 0 <= value < np.inf


def _places(roles: Sequence[Rows]) -> list[NDArray[np.int64]]:
    """Return the places of each role's samples among those of all roles."""
    ends = np.cumsum([len(rows) for rows in roles])
    return np.split(np.arange(ends[-1]), ends[:-1])


def _blocks(count: int) -> Iterator[NDArray[np.int64]]:
    """Cut row numbers in blocks whose products fit into memory."""
    for begin in range(0, count, _BLOCK):
        yield np.arange(begin, min(begin + _BLOCK, count))


def _unit(vectors: Floats) -> Floats:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.maximum(norms, np.float32(_TINY))
