"""What a bundle's proxy makes of texts: passes over them, and figures that are kept."""

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
from ogs_env.data.samples import Sample
from ogs_env.errors import InputError
from ogs_env.files import whole_file
from ogs_env.sketching.encoding import collate, encode
from ogs_env.sketching.precision import default_precision
from ogs_env.sketching.proxy import cache_folder, check_length, load_model
from ogs_env.sketching.steps import PASS_TOKENS
from ogs_env.sketching.trunk import length_batches

# Texts whose tokens are in memory at a time, and are sorted by length.
_CHUNK = 1024


class Reader:
    """A bundle's proxy as it comes, without an adapter, in the bundle's precision.

    Args:
        bundle: Made by `ogs sketch`; its manifest says which model.

    Attributes:
        model: The causal LM; nothing of it is trainable.

    Raises:
        InputError: If the model cannot be had.
    """

    def __init__(self, bundle: Bundle) -> None:
        proxy = bundle.manifest["proxy"]
        precision = proxy["precision"]
        if precision == "bfloat16":  # or float32, where the processor is faster at it
            precision = default_precision()
        loaded, self._tokenizer = load_model(proxy["id"], getattr(torch, precision))
        self.model: Any = loaded.requires_grad_(False)
        self._max_tokens = bundle.manifest["max_tokens"]
        check_length(loaded, self._max_tokens)

    def passes(
        self, samples: Sequence[Sample], what: str
    ) -> Iterator[tuple[list[int], dict[str, torch.Tensor]]]:
        """Yield (numbers of samples, their padded batch), until each had its turn.

        Samples are encoded as the bundle's were; those of like length go together.

        Args:
            samples: Whose texts.
            what: What the progress bar says.
        """
        with tqdm(total=len(samples), desc=what, unit="sample") as bar:
            for first in range(0, len(samples), _CHUNK):
                encoded = {
                    first + place: encode(
                        self._tokenizer, each.turns, each.response, self._max_tokens
                    )
                    for place, each in enumerate(samples[first : first + _CHUNK])
                }
                lengths = {row: len(one.input_ids) for row, one in encoded.items()}
                for rows in length_batches(lengths, list(lengths), PASS_TOKENS):
                    batch = collate(
                        [encoded[row] for row in rows], self._tokenizer.pad_token_id
                    )
                    device = self.model.device
                    yield rows, {name: part.to(device) for name, part in batch.items()}
                    bar.update(len(rows))


def kept(
    bundle: Bundle,
    name: str,
    roles: Sequence[str],
    compute: Callable[[], NDArray[np.float32]],
) -> NDArray[np.float32]:
    """Return what `compute` finds; from the cache where it was found before.

    A file in the cache folder (`OGS_CACHE`, or the user's cache) belongs to the
    proxy's weights, the samples of the roles in their order, and the token limit, so
    the same pool in another bundle of the same proxy is not read again.

    Args:
        bundle: Made by `ogs sketch`.
        name: What is kept.
        roles: Whose samples it depends on, the pool first.
        compute: Makes one row of figures a pool sample.

    Raises:
        InputError: If the bundle is not one of texts, or the cache folder cannot be
            written.
    """
    if "max_tokens" not in bundle.manifest:
        raise InputError(
            f"{bundle.path}: the manifest lacks 'max_tokens', so its texts cannot be "
            "encoded as they were; expected a bundle made by `ogs sketch`"
        )
    digest = hashlib.sha256()
    digest.update(bundle.manifest["proxy"]["sha256"].encode())
    digest.update(f"{bundle.manifest['max_tokens']} {' '.join(roles)}".encode())
    for role in roles:
        digest.update(getattr(bundle, role).ids.tobytes())
    file = cache_folder() / f"{name}-{digest.hexdigest()[:16]}.safetensors"
    try:
        return load_file(file)[name]
    except (OSError, SafetensorError, KeyError):  # not there, or damaged
        pass
    found = compute()
    with whole_file(file) as temporary:
        save_file({name: found}, temporary)
    return found
