"""The pools of the study: the shipped domains, and one that nothing was chosen by."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ogs_env.bundle import MANIFEST, Bundle, load_bundle, shipped_bundles
from ogs_env.data.domains import DomainData, domains, medical_packages
from ogs_env.errors import InputError, unknown_name
from ogs_env.files import write_json
from ogs_env.sketching.command import TRAJECTORY_CHECKPOINTS
from ogs_env.sketching.settings import SketchSettings

ICD10 = "icd10"
"""A pool of packages' texts: questions about ICD-10-CM, one-word answers, puzzles."""
DATA_SEED = 2026
POOL, DEV, TEST, ANCHOR = 384, 32, 48, 48
"""Samples of that pool, by role."""
QUICK_SAMPLES = 96
QUICK_HELD_OUT = 16


def check_pool(name: str) -> None:
    """Raise InputError if there is no such pool."""
    known = [*shipped_bundles(), ICD10]
    if name not in known:
        raise unknown_name("pool", name, known)


def pool_data(name: str) -> DomainData:
    """Return a pool's samples by role.

    Raises:
        InputError: If its texts cannot be had.
    """
    if name == ICD10:
        return medical_packages(
            DATA_SEED, POOL, dev_size=DEV, test_size=TEST, anchor_size=ANCHOR
        )
    manifest = load_bundle(name).manifest
    return domains()[name](manifest["request"]["seed"], manifest["roles"]["pool"])


def pool_bundle(name: str, results: Path) -> Bundle:
    """Return a pool's bundle; that of ICD-10 is sketched first where it is missing.

    Args:
        name: Of the pool.
        results: Where the study's results lie, and the bundle of ICD-10.

    Raises:
        InputError: If it has no answers of the model's own.
    """
    if name != ICD10:
        bundle = load_bundle(name)
        if not bundle.has_answers:
            raise InputError(
                f"{bundle.path}: has no answers of the model's own, which forgetting "
                f"is measured on; build it again: {bundle.manifest['command']}"
            )
        return bundle
    from ogs_env.sketching.sketcher import sketch

    settings = SketchSettings(checkpoints=TRAJECTORY_CHECKPOINTS)
    return sketch(pool_data(name), results / ICD10 / "bundle", settings, "ogs fidelity")


def quick_pool(folder: Path) -> tuple[DomainData, Bundle]:
    """Make a small pool of package texts and sketch it.

    Args:
        folder: Where its bundle goes.
    """
    from ogs_env.sketching.sketcher import sketch

    size = QUICK_HELD_OUT
    data = medical_packages(
        DATA_SEED, QUICK_SAMPLES, dev_size=size, test_size=size, anchor_size=size
    )
    # A warm-up of 24 steps would need 192 samples.
    settings = SketchSettings(checkpoints=TRAJECTORY_CHECKPOINTS[:2])
    return data, sketch(data, folder, settings, "ogs fidelity --quick")


def write_fidelity(bundle: Bundle, summaries: Mapping[str, Any]) -> None:
    """Write into a bundle's manifest how well its learner predicts real fine-tuning.

    Args:
        bundle: Whose manifest is changed.
        summaries: What `summarise` says, by the names of the recipes.
    """
    manifest = bundle.manifest | {"fidelity": dict(summaries)}
    write_json(bundle.path / MANIFEST, manifest)
