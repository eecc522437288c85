"""Run a bundle's proxy on texts, and cache the results."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from tqdm import tqdm

from ogs_env.bundle import Bundle
from ogs_env.cache import cache_folder
from ogs_env.data.samples import Sample
from ogs_env.errors import InputError
from ogs_env.files import whole_file
from ogs_env.lm.encoding import collate, encode
from ogs_env.lm.passes import pass_tokens
from ogs_env.lm.precision import load_bundle_model
from ogs_env.lm.trunk import length_batches

# Texts whose tokens are in memory at a time, and are sorted by length.
_CHUNK = 1024


class Reader:
    """A bundle's untouched proxy, without an adapter, in the bundle's precision.

    Args:
        bundle: A bundle made by `ogs sketch`; its manifest names the model.

    Attributes:
        model: The causal LM, with all weights frozen.

    Raises:
        InputError: If the model cannot be loaded.
    """

    def __init__(self, bundle: Bundle) -> None:
        loaded, self._tokenizer = load_bundle_model(bundle.manifest)
        self.model: Any = loaded.requires_grad_(False)
        self._max_tokens = bundle.manifest["max_tokens"]

    def passes(
        self, samples: Sequence[Sample], what: str
    ) -> Iterator[tuple[list[int], dict[str, torch.Tensor]]]:
        """Yield (positions of samples, their padded batch) until all are yielded.

        Samples are encoded as for the bundle; batches have similar lengths.

        Args:
            samples: Samples to encode.
            what: Label of the progress bar.
        """
        with tqdm(total=len(samples), desc=what, unit="sample") as bar:
            for first in range(0, len(samples), _CHUNK):
                encoded = {
                    first + place: encode(
                        self._tokenizer, each.turns, each.response, self._max_tokens
                    )
                    for place, each in enumerate(samples[first : first + _CHUNK])
                }
                lengths = {row: len(one.tokens) for row, one in encoded.items()}
                device = self.model.device
                most = pass_tokens(device)
                for rows in length_batches(lengths, list(lengths), most):
                    batch = collate(
                        [encoded[row] for row in rows], self._tokenizer.pad_token_id
                    )
                    yield rows, {name: part.to(device) for name, part in batch.items()}
                    bar.update(len(rows))


def cached(
    bundle: Bundle,
    name: str,
    roles: Sequence[str],
    compute: Callable[[], NDArray[np.float32]],
) -> NDArray[np.float32]:
    """Return the result of `compute`, from the cache if it is there.

    The key of a file in the cache folder (`OGS_CACHE`, or the user's cache) consists of
    the proxy's weights, the samples of the roles in their order, and the token limit,
    so bundles of the same proxy and pool share a file.

    Args:
        bundle: A bundle made by `ogs sketch`.
        name: Name of the result.
        roles: Roles of the samples that it depends on, the pool first.
        compute: Returns one row per pool sample.

    Raises:
        InputError: If the bundle has no token limit, or the cache folder cannot be
            written.
    """
    if "max_tokens" not in bundle.manifest:
        raise InputError(
            f"{bundle.path}: the manifest lacks 'max_tokens', so its texts cannot be "
            "encoded as before; expected a bundle made by `ogs sketch`"
        )
    digest = hashlib.sha256()
    digest.update(bundle.manifest["proxy"]["sha256"].encode())
    digest.update(f"{bundle.manifest['max_tokens']} {' '.join(roles)}".encode())
    for role in roles:
        digest.update(getattr(bundle, role).ids.tobytes())
    file = cache_folder() / f"{name}-{digest.hexdigest()[:16]}.safetensors"
    try:
        return load_file(file)[name]
    except (OSError, SafetensorError, KeyError):  # missing or damaged
        pass
    result = compute()
    with whole_file(file) as temporary:
        save_file({name: result}, temporary)
    return result
