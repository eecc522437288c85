"""What all surrogate learners of one bundle share."""

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ogs_env import gram
from ogs_env.bundle import ANSWERS, Bundle, Rows
from ogs_env.errors import InputError
from ogs_env.gram import Floats, Gram
from ogs_env.learners.effects import Effects, Group

# A loss below this (nats) is taken as this: the model is done with the sample.
_LEAST_LOSS = 1e-4
_TINY = 1e-12
# Rows whose products are in memory at a time.
_BLOCK = 4096


class Tables:
    """The tables of one bundle; read-only.

    The measured samples are those of `Bundle.measured`, role by role. Own answers have
    products at the untouched model alone, the first checkpoint; at the others these are
    taken to be 0.
    Sketches are cut in checkpoints (one, where there is no path), and each is scaled so
    that the dev samples' have a root mean square norm of 1.

    Attributes:
        kind: `"path"`, or `"start"` for a bundle without path sketches.
        checkpoints: How many.
        losses: float32 (measured,), l_j.
        weights: float32 (measured,), what a curvature is multiplied by beside x^2.
        members: Of dev, test, retention and each capability's anchor samples, and of
            each capability's and the retention's own answers if there are any: places
            among the measured samples.
        seen: `Effects` on what rewards see: dev, each capability's anchor samples, and
            each one's own answers if there are any.
        anchors, answers: Where the groups of the capabilities are in `seen`.
        held_out: `Effects` on the test and retention samples, and on the retention's
            own answers if there are any.
        gram: <t_i g_ic, t_j g_jc> of pool samples, one for each checkpoint.
        sums: What samples add to the sums of a selection.
        anchor_cosines: float32 (pool, capabilities), cosines of pool samples with the
            mean anchor gradients over all checkpoints together.

    Raises:
        InputError: If the manifest's `learner` entry does not fit the bundle.
    """

    def __init__(self, bundle: Bundle) -> None:
        self.bundle, self.kind = bundle, _kind(bundle)
        count = len(bundle.manifest["checkpoints"]) if self.kind == "path" else 1
        self.checkpoints = count
        of_dev = bundle.dev.sketches(self.kind).reshape(len(bundle.dev), count, -1)
        squares = np.square(of_dev).sum(axis=2).mean(axis=0)
        self._scale = (1 / np.sqrt(np.maximum(squares, 1e-24)))[:, None]

        roles = [getattr(bundle, role) for role in bundle.measured]
        losses = np.concatenate([rows.losses for rows in roles])
        self.losses = np.maximum(losses, _LEAST_LOSS)
        self.weights = 1 / (4 * self.losses)
        # Where there is a path, products from wider sketches are at hand.
        self._measured = None
        if self.kind == "start":
            start = [self._cut(rows.sketches(self.kind)) for rows in roles]
            self._measured = np.concatenate(start).transpose(1, 2, 0)
        places = dict(zip(bundle.measured, _places(roles), strict=True))
        numbers = range(len(bundle.capabilities))
        own = [bundle.anchor_rows(n) for n in numbers]
        anchors = [places["anchor"][rows] for rows in own]
        domain, anchor = (_response(bundle, r, count) for r in ("domain", "anchor"))
        seen = [(places["dev"], domain), *[(rows, anchor) for rows in anchors]]
        held_out = [(places["test"], domain), (places["retention"], anchor)]
        self.members = [places[role] for role in ("dev", "test", "retention")] + anchors
        self.anchors = slice(1, len(seen))
        share = 0.0
        if bundle.has_answers:
            for role in ANSWERS:
                self.weights[places[role]] = getattr(bundle, role).tokens / 2
            kept = places["retention_answers"]
            answers = [places["anchor_answers"][bundle.answer_rows(n)] for n in numbers]
            # Of the untouched model alone, the first checkpoint.
            forgetting = np.zeros((2, count))
            forgetting[1, 0], share = _of_answers(bundle)
            seen += [(rows, forgetting) for rows in answers]
            held_out.append((kept, forgetting))
            self.members += [*answers, kept]
        self.answers = slice(self.anchors.stop, len(seen))
        pool = len(bundle.pool)
        self.seen, self.held_out = (
            Effects(
                self.products,
                pool,
                self.losses,
                [Group(rows, self.weights[rows], *response) for rows, response in of],
                [0.0] * first + [share / max(1, len(of) - first)] * (len(of) - first),
            )
            for of, first in ((seen, self.anchors.stop), (held_out, 2))
        )

        keep = pool * count * bundle.k <= gram.TABLE_FLOATS
        self._sketches = self._weigh(np.arange(pool)) if keep else None
        # Two numbers a pair at least, else NumPy adds in another order for one learner.
        self.gram = Gram(self.sketches, pool, 4 * -(-count // 4))
        gradients = np.zeros((pool + 1, count))
        self.anchor_cosines = np.empty((pool, len(own)), np.float32)
        anchor_sketches = [self._cut(bundle.anchor.sketches(self.kind, r)) for r in own]
        units = _unit(np.stack([found.mean(0).ravel() for found in anchor_sketches]))
        for rows in _blocks(pool):
            products, sketches = self.products(rows), self.sketches(rows)
            self.seen.fill(rows, products)
            self.held_out.fill(rows, products)
            gradients[rows] = np.vecdot(sketches, sketches)
            flat = sketches.reshape(len(rows), -1)
            self.anchor_cosines[rows] = _unit(flat) @ units.T
        self.sums = Sums(self.seen, gradients)

    # Read-only: copies share it, another process builds its own.
    def __reduce__(self) -> tuple[Any, ...]:
        return tables_of, (self.bundle,)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Tables":
        return self

    def sketches(self, indices: NDArray[np.integer]) -> Floats:
        """Return t_i g_i of pool rows (n,), (n, checkpoints, k)."""
        if self._sketches is not None:
            return self._sketches[indices]
        return self._weigh(indices)

    def products(self, indices: NDArray[np.integer]) -> Floats:
        """Return t_i <g_ic, g_jc> of pool rows (n,), (n, checkpoints, measured)."""
        if self._measured is None:
            products = self._along_path(indices) * np.square(self._scale)
        else:
            sketches = self._cut(self.bundle.pool.sketches(self.kind, indices))
            # Sample by sample, whose numbers then are the same in any company.
            products = np.matmul(sketches[:, :, None], self._measured)[:, :, 0]
        return np.multiply(products, self._tokens(indices), dtype=np.float32)

    def terms(
        self, picked: NDArray[np.integer], lengths: NDArray[np.float64]
    ) -> Floats:
        """Return what slopes and curvatures are multiplied by.

        Args:
            picked: Pool rows (picks,).
            lengths: What the sum of their gradients is multiplied by (checkpoints,).

        Returns:
            float32 (groups, 2, checkpoints): mean x and mean weight x^2 of `members`.
        """
        x = self.products(picked).sum(axis=0, dtype=float) * lengths[:, None]
        both: NDArray[Any] = np.stack([x, np.square(x) * self.weights])
        means = [both[..., places].mean(axis=-1) for places in self.members]
        return np.stack(means).astype(np.float32)

    def _along_path(self, indices: NDArray[np.integer]) -> Floats:
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


class Sums:
    """The numbers of a selection that are sums over its samples; read-only.

    With l_c the length of the displacement and S the sum of the scaled rows, the loss
    changes by l_c times the linear parts, and by l_c^2 |S|^2 / 2 of each segment. The
    numbers are in this order: the linear parts, the |S|^2 of the segments, and for
    each checkpoint the sum of |t_i g_i|^2 and |sum of t_i g_i|^2.

    Args:
        seen: The effects on what rewards see.
        squares: |t_i g_ic|^2 of pool samples (pool + 1, checkpoints).

    Attributes:
        own: float64 (pool + 1, numbers), what each sample adds; |S|^2 is found anew,
            and products with the other samples come to the last.
        empty: float64 (numbers,), those of no samples.
        factors: Of each linear part and segment the place of its factor among the
            l_c and, after them, the l_c^2 / 2.
        first: Where the linear parts and where the segments of each group begin.
        parts, segments, alone, together: Where these numbers are: the linear parts
            and segments, the segments, and the two of the checkpoints.
    """

    def __init__(self, seen: Effects, squares: NDArray[np.float64]) -> None:
        rows, groups, count = seen.linear.shape
        linear, segments = groups * count, len(seen.checkpoints)
        parts = linear + segments
        of_linear = np.tile(np.arange(count), groups)
        self.factors = np.append(of_linear, count + seen.checkpoints)
        self.first = np.append(count * np.arange(groups), linear + seen.first)
        self.parts, self.segments = slice(0, parts), slice(linear, parts)
        self.alone = slice(parts, parts + count)
        self.together = slice(parts + count, parts + 2 * count)
        self.own = np.zeros((rows, parts + 2 * count))
        self.own[:, :linear] = seen.linear.reshape(rows, -1)
        self.own[:, self.alone] = self.own[:, self.together] = squares
        self.empty = np.zeros(self.own.shape[1])
        self.empty[self.together] = _TINY  # which can be divided by


@functools.lru_cache(maxsize=8)
def tables_of(bundle: Bundle) -> Tables:
    """Return the bundle's tables, computed on the first call."""
    return Tables(bundle)


def _kind(bundle: Bundle) -> str:
    """Return which sketches the manifest's learner uses."""
    kind: str = bundle.manifest["learner"].get("sketches", "")
    known = ("path", "start") if bundle.has_path else ("start",)
    if kind not in known:
        raise InputError(
            f"{bundle.path}: the manifest's learner has sketches '{kind}'; expected "
            f"{' or '.join(known)}; rebuild the bundle"
        )
    return kind


def _response(bundle: Bundle, role: str, checkpoints: int) -> NDArray[np.float64]:
    """Return slopes and curvatures (2, checkpoints) of the manifest.

    Args:
        bundle: Whose.
        role: An entry of the manifest's `learner`.
        checkpoints: How many.
    """
    found = bundle.manifest["learner"].get(role, {})
    lists = [found.get(name) for name in ("slope", "curvature")]
    for values in lists:
        if (
            not isinstance(values, list)
            or len(values) != checkpoints
            or not all(map(_can_respond, values))
        ):
            raise InputError(
                f"{bundle.path}: the manifest's learner has {found} for the {role}; "
                "expected a slope and a curvature of at least 0 for each of "
                f"{checkpoints} checkpoints; rebuild the bundle"
            )
    return np.array(lists, float)


def _of_answers(bundle: Bundle) -> tuple[float, float]:
    """Return the manifest's curvature of own answers, and their domain share."""
    found = bundle.manifest["learner"].get("answers", {})
    curvature, share = (found.get(name) for name in ("curvature", "domain_share"))
    if not (_can_respond(curvature) and _can_respond(share)):
        raise InputError(
            f"{bundle.path}: the manifest's learner has {found} for the answers; "
            "expected a curvature and a domain_share, numbers of at least 0; rebuild "
            "the bundle"
        )
    return float(curvature), float(share)


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
