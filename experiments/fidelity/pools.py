"""The pools of the study: the shipped domains, and one that nothing was chosen by."""

from pathlib import Path

from ogs_env.bundle import Bundle, load_bundle, shipped_bundles
from ogs_env.data.domains import DomainData, domains, medical_packages
from ogs_env.errors import unknown_name
from ogs_env.sketching.command import PATH_CHECKPOINTS
from ogs_env.sketching.settings import SketchSettings

ICD10 = "icd10"
"""Questions about ICD-10-CM, one-word answers and puzzles, of packages alone."""
ICD10_SEED, ICD10_SAMPLES = 2026, 384


def pools() -> list[str]:
    """Return the names of the pools."""
    return [*shipped_bundles(), ICD10]


def pool_data(name: str) -> DomainData:
    """Return a pool's samples by role.

    Raises:
        InputError: If there is no such pool, or its texts cannot be had.
    """
    if name == ICD10:
        return medical_packages(
            ICD10_SEED, ICD10_SAMPLES, dev_size=32, test_size=48, anchor_size=48
        )
    if name not in pools():
        raise unknown_name("pool", name, pools())
    request = load_bundle(name).manifest["request"]
    return domains()[name](request["seed"], load_bundle(name).manifest["roles"]["pool"])


def pool_bundle(name: str, results: Path) -> Bundle:
    """Return a pool's bundle; that of ICD-10 is sketched first where it is missing.

    Args:
        name: Of the pool.
        results: Where the study's results lie.
    """
    if name != ICD10:
        return load_bundle(name)
    from ogs_env.sketching.sketcher import sketch

    settings = SketchSettings(checkpoints=PATH_CHECKPOINTS)
    return sketch(pool_data(name), results / ICD10 / "bundle", settings, "ogs fidelity")
