"""`ogs domains`: list the shipped bundles with their sources and licences."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ogs_env.bundle import (
    Bundle,
    is_here,
    load_bundle,
    shipped_bundles,
    shipped_repository,
)
from ogs_env.bundle_card import environment_ids
from ogs_env.bundle_files import ROLES
from ogs_env.hub import INSTALL_HUB


@dataclass(frozen=True)
class Options:
    """`ogs domains` has no options."""


def run(_: Options) -> None:
    """Run `ogs domains`."""
    listed = (
        lines(load_bundle(name)) if is_here(name) else _lines_of_absent(name)
        for name in shipped_bundles()
    )
    print("\n\n".join(map("\n".join, listed)))


def lines(bundle: Bundle) -> Iterator[str]:
    """Yield a bundle's ids, sizes, sources with their licences, and fidelity."""
    yield _title(bundle.name)
    sizes = [f"{len(getattr(bundle, role))} {role}" for role in ROLES]
    yield f"  samples    {', '.join(sizes)}"
    counts = np.bincount(bundle.anchor.capabilities, minlength=len(bundle.capabilities))
    anchors = [f"{n} {c}" for c, n in zip(bundle.capabilities, counts, strict=True)]
    yield f"  anchor     {', '.join(anchors)}"
    yield f"  fidelity   {_fidelity(bundle)}"
    rows = [
        (source["name"], f"{source['pool']:,}", source["licence"], source["url"])
        for source in bundle.manifest["sources"]
    ]
    rows.insert(0, ("source", "in pool", "licence", "from"))
    name, licence = (max(len(row[column]) for row in rows) for column in (0, 2))
    for row in rows:
        yield f"  {row[0]:<{name}}  {row[1]:>7}  {row[2]:<{licence}}  {row[3]}"


def _lines_of_absent(name: str) -> Iterator[str]:
    """Yield what is known of a shipped bundle that is not downloaded yet."""
    yield _title(name)
    yield (
        f"  downloaded when it is first used, from {shipped_repository(name).repo_id} "
        f"on the Hugging Face hub (with {INSTALL_HUB})"
    )


def _title(name: str) -> str:
    return f"{name}: {', '.join(environment_ids(name))}"


def _fidelity(bundle: Bundle) -> str:
    """Describe how well predictions rank real fine-tuning runs, by recipe."""
    fidelity = bundle.manifest.get("fidelity")
    if fidelity is None:
        return "not measured; predicts with the responses fitted on medical"
    recipes = []
    for recipe, summary in fidelity.items():
        parts = []
        for name in ("domain", "forgetting"):
            low, high = summary[f"{name}_interval"]
            parts.append(
                f"{name} {summary[f'{name}_spearman']:.2f} [{low:.2f}, {high:.2f}]"
            )
        recipes.append(f"{recipe}: {', '.join(parts)}")
    return f"{'; '.join(recipes)} (Spearman)"
