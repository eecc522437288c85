"""A test bundle with an edited pool."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from helpers.make_bundle import edit_manifest, make_bundle
from ogs_env.bundle import Bundle, load_bundle
from ogs_env.files import read_json, sha256_of

Columns = dict[str, np.ndarray]


def edited(folder: Path, change: Callable[[Columns], None]) -> Bundle:
    """Make a bundle of initial sketches in `folder`, its pool's columns changed."""
    file = make_bundle(folder, checkpoints=0) / "pool-00000.safetensors"
    columns = load_file(file)
    change(columns)
    save_file(columns, file)
    files = read_json(folder / "manifest.json", "manifest")["files"]
    files[file.name]["sha256"] = sha256_of(file)
    edit_manifest(folder, files=files)
    return load_bundle(folder)
