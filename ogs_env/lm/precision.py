"""Choose the precision of frozen weights by the machine's speed, and load models."""

import contextlib
import functools
import platform
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ogs_env.cache import cache_folder
from ogs_env.errors import InputError
from ogs_env.files import read_json, write_json
from ogs_env.lm.loading import check_length, load_model
from ogs_env.threads import used_threads

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Rates = dict[str, float]

_CACHE = "precision.json"
_CANDIDATES = ("float32", "bfloat16")
# bfloat16 rounds more, so it must be clearly faster than float32.
_CLEARLY_FASTER = 1.1
_SECONDS = 0.3  # of measurement for each candidate
_TOKENS, _IN, _OUT = 1024, 576, 1536  # a batch in an MLP layer of the default proxy


@functools.cache
def default_precision() -> str:
    """Return `"bfloat16"` where it is clearly faster, else `"float32"`.

    A CUDA device uses bfloat16. On a processor both are measured once, because its
    flags do not determine the speed: with AMX bfloat16 is several times as fast, with
    AVX-512 alone it can be slower. The rates are saved in `precision.json` in the
    cache folder, by processor and release of torch, so that the choice is stable.

    bfloat16 changes a sketch's direction by less than 0.2 % (cosine above 0.998), far
    less than the projection does.
    """
    if torch.cuda.is_available():
        return "bfloat16"
    rates = _cached_rates(cache_folder() / _CACHE)
    faster = rates["bfloat16"] > _CLEARLY_FASTER * rates["float32"]
    return "bfloat16" if faster else "float32"


def load_bundle_model(
    manifest: Mapping[str, Any], name_or_path: str | None = None
) -> tuple["PreTrainedModel", "PreTrainedTokenizerBase"]:
    """Load the model of a bundle in the bundle's precision.

    Instead of bfloat16 it is `default_precision`.

    Args:
        manifest: The bundle's manifest.
        name_or_path: Another model to load, see `load_model`.

    Raises:
        InputError: If the model cannot be loaded, or has too few positions.
    """
    proxy = manifest["proxy"]
    precision = proxy["precision"]
    if precision == "bfloat16":
        precision = default_precision()
    model, tokenizer = load_model(
        name_or_path or proxy["id"], getattr(torch, precision)
    )
    check_length(model, manifest["max_tokens"])
    return model, tokenizer


def measure_rates() -> Rates:
    """Measure matrix products of the proxy's usual shape, on one thread.

    Returns:
        GFLOP/s by precision. It is that of the fastest product, because other
        processes may slow some of them down.
    """
    with used_threads(1):
        return {name: _rate(getattr(torch, name)) for name in _CANDIDATES}


def _rate(dtype: torch.dtype) -> float:
    left = torch.ones(_TOKENS, _IN, dtype=dtype)
    right = torch.ones(_IN, _OUT, dtype=dtype)
    left @ right  # warm up
    fastest = float("inf")
    end = time.perf_counter() + _SECONDS
    while (begin := time.perf_counter()) < end or fastest == float("inf"):
        left @ right
        fastest = min(fastest, time.perf_counter() - begin)
    return 2 * _TOKENS * _IN * _OUT / fastest / 1e9


def _cached_rates(file: Path) -> Rates:
    """Return this machine's rates from the cache file; measure them if it has none."""
    try:
        cached = read_json(file, "record of measured rates")
    except (InputError, OSError):  # missing, damaged or unreadable
        cached = None
    if not isinstance(cached, dict):
        cached = {}
    machine = _machine()
    if _are_rates(cached.get(machine)):
        return cached[machine]
    rates = measure_rates()
    # If the cache cannot be written, every process measures again.
    with contextlib.suppress(InputError, OSError):
        write_json(file, {**cached, machine: rates})
    return rates


def _are_rates(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(value.get(name), int | float) and value[name] > 0
        for name in _CANDIDATES
    )


def _machine() -> str:
    """Return the processor and the release of torch, on which the rates depend."""
    # Virtual machines on different processors may report the same model name.
    features: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    native = [name for name in ("avx512_bf16", "amx_bf16") if features.get(name)]
    return ", ".join([_processor(), *native, f"torch {torch.__version__}"])


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # another system than Linux
        lines = []
    names = [line.partition(":")[2] for line in lines if line.startswith("model name")]
    return names[0].strip() if names else platform.processor() or platform.machine()
