"""Pools of the study: the shipped domains, and one that no setting was chosen on."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ogs_env.bundle import Bundle, load_bundle, shipped_bundles
from ogs_env.bundle_files import MANIFEST, SHIPPED, save_manifest
from ogs_env.data.domains import DomainData, domains, medical_packages
from ogs_env.errors import InputError, unknown_name
from ogs_env.sketching.command import TRAJECTORY_CHECKPOINTS
from ogs_env.sketching.settings import SketchSettings

ICD10 = "icd10"
"""A pool of texts of packages: questions about ICD-10-CM, short answers, puzzles."""
DATA_SEED = 2026
POOL, DEV, TEST, ANCHOR = 384, 32, 48, 48
"""Number of samples of that pool by role."""
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
        InputError: If its texts are not available.
    """
    if name == ICD10:
        return medical_packages(
            DATA_SEED, POOL, dev_size=DEV, test_size=TEST, anchor_size=ANCHOR
        )
    manifest = load_bundle(name).manifest
    return domains()[name](manifest["request"]["seed"], manifest["roles"]["pool"])


def pool_bundle(name: str, results: Path) -> Bundle:
    """Return a pool's bundle; that of ICD-10 is sketched if it does not exist.

    Args:
        name: Name of the pool.
        results: Folder of the study's results and of the bundle of ICD-10.

    Raises:
        InputError: If it lacks the model's own answers, or is not in the package.
    """
    if name != ICD10:
        if not (SHIPPED / name / MANIFEST).is_file():
            raise InputError(
                f"pool '{name}': this installation downloads its bundle, and the study "
                "writes into it; run `ogs fidelity` in a clone of the repository"
            )
        bundle = load_bundle(name)
        if not bundle.has_answers:
            raise InputError(
                f"{bundle.path}: lacks the model's own answers, which forgetting is "
                f"measured on; build it again: {bundle.manifest['command']}"
            )
        return bundle
    from ogs_env.sketching.sketcher import sketch

    settings = SketchSettings(checkpoints=TRAJECTORY_CHECKPOINTS)
    return sketch(pool_data(name), results / ICD10 / "bundle", settings, "ogs fidelity")


def quick_pool(folder: Path) -> tuple[DomainData, Bundle]:
    """Create a small pool of package texts and sketch it.

    Args:
        folder: Folder of its bundle.
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
    """Write summaries of the study into a bundle's manifest.

    Args:
        bundle: The bundle; its manifest is changed.
        summaries: Result of `summarise` by the name of the recipe.
    """
    save_manifest(bundle.path, bundle.manifest | {"fidelity": dict(summaries)})
