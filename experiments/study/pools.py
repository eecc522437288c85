"""Pools of the study: new draws of the domains, each with an environment."""

import dataclasses
import time
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path

from ogs_env.bundle import Bundle, load_bundle
from ogs_env.data import wordnet
from ogs_env.data.domains import (
    KNOWLEDGE,
    MATHS,
    DomainData,
    load_anchor,
    medical_packages,
    real_domain,
)
from ogs_env.data.samples import Sample
from ogs_env.errors import InputError
from ogs_env.experiments.study.settings import PACKAGES, StudySettings
from ogs_env.files import locked, write_json
from ogs_env.sketching.command import TRAJECTORY_CHECKPOINTS
from ogs_env.sketching.settings import SketchSettings
from ogs_env.sketching.sketcher import sketch

# Draw n has this seed plus n. Draw 0 is for development and never reported.
_SEED = 200
# More are drawn than needed, because those that shipped bundles measure are left out.
_MARGIN = 32
_ANCHORS = {MATHS: "gsm8k", KNOWLEDGE: wordnet.NAME}
_ANCHOR = 32
"""Anchor samples per capability."""
_SHOWN = 8
"""Retention samples per capability in the bundle, for infos of the environment."""


def pool_data(domain: str, draw: int, settings: StudySettings) -> DomainData:
    """Return the samples of a pool by role.

    All pools of real texts have the same anchor and retention samples, so that a
    target's own answers are sampled once. Test and retention hold no sample of the
    shipped bundle's domain and retention sets, on which learners and rewards were
    developed.

    Raises:
        InputError: If texts are not available.
    """
    if domain == PACKAGES:
        return medical_packages(
            _SEED + draw,
            settings.pool_size,
            dev_size=_ANCHOR,
            test_size=settings.test_size,
            anchor_size=max(_ANCHOR, settings.retention_size),
        )
    drawn = settings.test_size + _MARGIN
    data = real_domain(domain, _SEED + draw, settings.pool_size, test_size=drawn)
    used = _shipped(domain)
    half = drawn // 2  # equal parts of both sources
    parts = data.test[:half], data.test[half:]
    test = [s for part in parts for s in _unused(part, used)[: settings.test_size // 2]]
    anchor, retention = {}, {}
    for capability, source in _ANCHORS.items():
        anchors, held_out, _ = load_anchor(source, seed=_SEED)
        anchor[capability] = anchors[:_ANCHOR]
        retention[capability] = _unused(held_out, used)[: settings.retention_size]
    return dataclasses.replace(data, test=test, retention=retention, anchor=anchor)


def prompts_to_answer(data: DomainData, settings: StudySettings) -> list[Sample]:
    """Return the maths samples whose answers are generated, retention samples first.

    Raises:
        InputError: If there are fewer than `settings.generated`.
    """
    count, samples = settings.generated, data.retention[MATHS]
    if count > len(samples) and data.name != PACKAGES:
        _, held_out, _ = load_anchor(_ANCHORS[MATHS], seed=_SEED)
        samples = _unused(held_out, _shipped(data.name))
    if count > len(samples):
        raise InputError(
            f"generated: is {count}; expected at most {len(samples)}, as many maths "
            "samples are left"
        )
    return samples[:count]


def _shipped(domain: str) -> set[str]:
    """Return ids of a shipped bundle's samples other than of its pool and anchor."""
    bundle = load_bundle(domain)
    roles = (bundle.dev, bundle.test, bundle.retention)
    return {id_ for rows in roles for id_ in rows.hex_ids()}


def _unused(samples: Sequence[Sample], used: AbstractSet[str]) -> list[Sample]:
    return [sample for sample in samples if sample.id not in used]


def pool_bundle(
    data: DomainData, draw: int, settings: StudySettings, folder: Path
) -> Bundle:
    """Return the bundle of a pool's initial sketches, as `ogs adapt` makes it."""
    return _bundle(data, draw, settings, folder / "bundle", (0,))


def trajectory_bundle(
    data: DomainData, draw: int, settings: StudySettings, folder: Path
) -> Bundle:
    """Return a bundle with sketches along a warm-up, for LESS as published."""
    checkpoints = TRAJECTORY_CHECKPOINTS
    return _bundle(data, draw, settings, folder / "trajectory", checkpoints)


def _bundle(
    data: DomainData,
    draw: int,
    settings: StudySettings,
    folder: Path,
    checkpoints: tuple[int, ...],
) -> Bundle:
    few = {name: own[:_SHOWN] for name, own in data.retention.items()}
    sketched = SketchSettings(
        proxy=settings.proxy,
        checkpoints=checkpoints,
        layers=settings.layers,
        epochs=settings.epochs,
        seed=draw,
    )
    with locked(folder):
        begin = time.process_time()
        bundle = sketch(
            dataclasses.replace(data, retention=few), folder, sketched, "ogs study"
        )
        duration = seconds_file(folder)
        if not duration.exists():
            seconds = round(time.process_time() - begin, 1)
            write_json(duration, {"seconds": seconds})
    return bundle


def seconds_file(made: Path) -> Path:
    """Return the file with the CPU seconds that a bundle or an agent took."""
    return made.with_name(f"{made.name}.seconds.json")
