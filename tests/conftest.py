# ruff: noqa: E402 (the environment is cleared before libraries read it)
import os
from pathlib import Path
from typing import TYPE_CHECKING

# The user's variables change what libraries do; test results must not depend on them.
# OGS_DATA and OGS_CACHE stay: they only name folders.
for _name in [*os.environ]:
    if _name.startswith(("HF_", "TRANSFORMERS_", "WANDB_", "CUDA_", "TORCH_")) or (
        _name.endswith("_NUM_THREADS")
    ):
        del os.environ[_name]
# Expected values are those of a processor, also where there is a GPU.
os.environ["CUDA_VISIBLE_DEVICES"] = ""
# Two threads on small arrays are slower than one, also in processes of the tests.
os.environ["OMP_NUM_THREADS"] = "1"

import pytest
from helpers.make_bundle import make_bundle

from ogs_env.bundle import Bundle, load_bundle

if TYPE_CHECKING:
    from helpers.live_bundle import LiveFiles


@pytest.fixture(scope="session")
def bundle_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("bundles") / "made")


@pytest.fixture(scope="session")
def bundle(bundle_folder: Path) -> Bundle:
    return load_bundle(bundle_folder)


@pytest.fixture(scope="session")
def folder_without_answers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same bundle without answers of the model's own."""
    return make_bundle(tmp_path_factory.mktemp("bundles") / "plain", answers=False)


@pytest.fixture(scope="session")
def live_files(tmp_path_factory: pytest.TempPathFactory) -> "LiveFiles":
    from helpers.live_bundle import make_live_bundle  # loads transformers

    return make_live_bundle(tmp_path_factory.mktemp("live"))


@pytest.fixture(scope="session")
def tiny_model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from helpers.tiny_model import make_tiny_model  # loads transformers

    return make_tiny_model(tmp_path_factory.mktemp("tiny_model"))
