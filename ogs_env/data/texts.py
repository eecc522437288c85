"""Find the texts of a bundle's samples by their ids."""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ogs_env.bundle import Bundle
from ogs_env.bundle_files import ROLES
from ogs_env.data.domains import domains
from ogs_env.data.reading import read_samples
from ogs_env.data.samples import Sample
from ogs_env.errors import InputError

Texts = str | Sequence[str | Path] | Mapping[str, Sample]
"""A domain's name, files or datasets on the hub, or samples by id."""


def bundle_texts(
    bundle: Bundle,
    where: Texts | None = None,
    roles: Sequence[str] = ROLES,
    **reading: Any,
) -> Mapping[str, Sample]:
    """Find the texts of a bundle's samples.

    Args:
        bundle: The bundle.
        where: The name of a domain, which is built with the bundle's seed and pool
            size; files or datasets as for `read_samples`; or samples by id, which are
            only checked. By default the domain of the bundle's name.
        roles: Roles whose texts are required; others may be missing.
        **reading: How to read the files, as for `read_samples`.

    Returns:
        Samples by id, of these roles and possibly others.

    Raises:
        InputError: If the domain is unknown or cannot be built, a file cannot be
            read, or a sample's text is missing.
    """
    samples: Mapping[str, Sample]
    if isinstance(where, Mapping):
        place, samples = "texts", where
    elif where is None or isinstance(where, str):
        place, samples = f"domain {where or bundle.name}", _of_domain(bundle, where)
    else:
        place = ", ".join(map(str, where))
        samples = _by_id(read_samples(path, **reading) for path in where)
    for role in roles:
        ids = getattr(bundle, role).hex_ids()
        missing = [id_ for id_ in ids if id_ not in samples]
        if missing:
            raise InputError(
                f"{place}: {len(missing)} of {len(ids)} {role} samples of bundle "
                f"'{bundle.name}' are not among the texts (the first is {missing[0]}); "
                "give those that it was sketched from: OGS_DATA or the hub for a "
                "domain, or all its files"
            )
    return samples


def numbers(
    texts: Mapping[str, Sample], field: str, ids: Iterable[str]
) -> dict[str, float]:
    """Return a numeric field of samples, such as a journal's impact factor.

    Args:
        texts: Samples by id, with their records' further fields.
        field: The field's name.
        ids: The samples that need it; others may lack it.

    Returns:
        Finite numbers by sample id.

    Raises:
        InputError: If the field is missing or no finite number; it names the file
            and the line.
    """
    values: dict[str, float] = {}
    for id_ in ids:
        sample = texts[id_]
        value: Any = sample.fields.get(field)
        is_number = not isinstance(value, bool) and isinstance(value, int | float)
        if is_number and math.isfinite(value):
            values[id_] = float(value)
            continue
        place = sample.place or f"sample {id_}"
        if field not in sample.fields:
            names = ", ".join(sample.fields) or "none"
            raise InputError(
                f"{place}: lacks the field '{field}'; further fields found: {names}"
            )
        raise InputError(
            f"{place}: field '{field}' is {value!r}; expected a finite number"
        )
    return values


def _of_domain(bundle: Bundle, name: str | None) -> dict[str, Sample]:
    name = name or bundle.name
    if name not in domains():
        raise InputError(
            f"texts of bundle '{bundle.name}' are not known; expected the name of a "
            f"domain ({', '.join(domains())}) or the JSON lines files that it was "
            "sketched from: texts=['pool.jsonl', ...], or `--texts FILE ...`"
        )
    # Without a recorded seed, seed 0 is tried; the ids show whether it is right.
    seed = bundle.manifest.get("request", {}).get("seed", 0)
    data = domains()[name](seed, len(bundle.pool))
    groups = [data.pool, data.dev, data.test]
    return _by_id([*groups, *data.anchor.values(), *data.retention.values()])


def _by_id(groups: Iterable[Iterable[Sample]]) -> dict[str, Sample]:
    return {sample.id: sample for group in groups for sample in group}
