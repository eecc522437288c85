"""Select by importance resampling on n-grams (DSIR).

`budget` samples are drawn without replacement with probabilities proportional to
w_i = p(z_i) / q(z_i): p and q are bag-of-n-grams models of the target (the dev texts)
and of the pool, z_i the n-grams of sample i, so log w_i = sum over its n-grams of
log p_b - log q_b, b an n-gram's bucket (Xie, Santurkar, Ma, Liang 2023, arXiv
2302.03169). The score is log w_i plus Gumbel noise, and the samples of highest score
are selected (Gumbel top-k, as there; Kool, van Hoof, Welling 2019, arXiv 1903.06059).

As in the paper, n-grams are words and pairs of words of prompt and response, in lower
case, hashed into 10,000 buckets, and q is fitted by counting. p is the mean of the dev
texts' shares and q. The paper fits p by counting alone, on larger targets and texts of
one length. Here a few dozen dev texts leave most buckets empty, and counting alone
would favour the shortest texts, which have the fewest n-grams that no dev text has.
"""

import itertools
import re
import zlib

import numpy as np
from numpy.typing import NDArray

from ogs_env.agents.selector import Order, highest, pool_rows
from ogs_env.bundle import Bundle
from ogs_env.data.samples import Sample
from ogs_env.data.texts import Texts, bundle_texts

BUCKETS = 10_000
_WORD = re.compile(r"\w+|[^\w\s]+")  # runs of punctuation count as words


class DsirSelector:
    """Select by importance resampling on n-grams.

    Args:
        texts: Texts of the bundle's samples, see `ogs_env.data.texts.bundle_texts`; by
            default those of the domain with the bundle's name.
    """

    def __init__(self, texts: Texts | None = None) -> None:
        self._texts = texts
        self._log_weights: dict[Bundle, NDArray[np.float64]] = {}

    def select(
        self,
        bundle: Bundle,
        budget: int,
        rng: np.random.Generator,
        indices: NDArray[np.integer] | None = None,
    ) -> Order:
        """Return rows drawn without replacement, in the order drawn."""
        rows = pool_rows(bundle, budget, indices)
        if bundle not in self._log_weights:
            self._log_weights[bundle] = _log_weights(bundle, self._texts)
        noise = rng.gumbel(size=len(rows))
        return highest(rows, self._log_weights[bundle][rows] + noise, budget)


def _log_weights(bundle: Bundle, where: Texts | None) -> NDArray[np.float64]:
    """Return log w (pool,)."""
    texts = bundle_texts(bundle, where, ("pool", "dev"))
    pool = [_buckets(texts[id_]) for id_ in bundle.pool.hex_ids()]
    dev = [_buckets(texts[id_]) for id_ in bundle.dev.hex_ids()]
    dev_shares, q = _shares(dev), _shares(pool)
    p = (dev_shares + q) / 2
    # Buckets without a pool text have no weight, and are not used.
    used = q > 0
    ratio = np.zeros(BUCKETS)
    ratio[used] = np.log(p[used] / q[used])
    return np.array([ratio[buckets].sum() for buckets in pool])


def _shares(texts: list[NDArray[np.uint16]]) -> NDArray[np.float64]:
    """Return each bucket's share (buckets,) of the n-grams of texts."""
    counts = np.bincount(np.concatenate(texts), minlength=BUCKETS)
    return counts / counts.sum()


def _buckets(sample: Sample) -> NDArray[np.uint16]:
    """Return the bucket (n-grams,) of each n-gram of a sample."""
    words = _WORD.findall(f"{sample.prompt}\n{sample.response}".lower())
    pairs = (f"{one} {two}" for one, two in itertools.pairwise(words))
    hashes = [zlib.crc32(ngram.encode()) % BUCKETS for ngram in (*words, *pairs)]
    return np.array(hashes, np.uint16)
