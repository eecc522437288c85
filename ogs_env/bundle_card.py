"""The card of a bundle's repository on the Hugging Face hub."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import gymnasium

from ogs_env.bundle_files import ROLES, SHIPPED
from ogs_env.hub import INSTALL_HUB, LIBRARY, card_text, licence_ids, markdown_table

if TYPE_CHECKING:
    from ogs_env.bundle import Bundle

PAPER = (
    "Zhang, Tian, Wang, Song 2026, [arXiv 2602.06359](https://arxiv.org/abs/2602.06359)"
)
TAGS = ("reinforcement-learning", "gymnasium", "data-selection", "fine-tuning")


def bundle_card(bundle: "Bundle", repo_id: str, licence: str | None = None) -> str:
    """Return the card of a bundle.

    Args:
        bundle: The bundle.
        repo_id: `OWNER/NAME` of the repository.
        licence: The hub's identifier of a licence; by default those of the sources.
    """
    sources = bundle.manifest["sources"]
    header = {
        "pretty_name": f"ogs_env bundle {bundle.name}",
        "license": licence or source_licences(sources),
        "tags": ["ogs_env", "gradient-sketches", *TAGS],
    }
    return card_text(header, _lines(bundle, repo_id))


def environment_ids(name: str) -> list[str]:
    """Return the ids of the environments of a shipped bundle."""
    specs = gymnasium.registry.items()
    return [key for key, spec in specs if spec.kwargs.get("bundle") == name]


def source_licences(sources: list[dict[str, Any]]) -> str | list[str]:
    """Return the hub's identifiers of the licences of a manifest's sources."""
    names = licence_ids(str(source.get("licence", "")) for source in sources)
    return names[0] if len(names) == 1 else names


def source_table(sources: list[dict[str, Any]]) -> list[str]:
    """Return the lines of a table of a manifest's sources."""
    heads = ("source", "samples in the pool", "licence", "attribution", "from")
    keys = ("name", "pool", "licence", "attribution", "url")
    return markdown_table(heads, [[s.get(key, "") for key in keys] for s in sources])


def _lines(bundle: "Bundle", repo_id: str) -> Iterator[str]:
    yield f"# {bundle.name}: gradient sketches for ogs_env"
    yield ""
    yield (
        f"A bundle of [ogs_env](https://pypi.org/project/{LIBRARY}), reinforcement-"
        "learning environments for choosing fine-tuning data: sketches of the "
        f"gradients, losses and lengths of {len(bundle.pool):,} samples to choose from "
        "and of the samples that show what is learned and forgotten. It holds numbers "
        f"computed from texts, and no texts. The method: {PAPER}."
    )
    yield ""
    yield "```python"
    yield f"# {INSTALL_HUB}"
    yield "import gymnasium as gym"
    yield "import ogs_env"
    yield f'env = gym.make("OGS-Custom-v0", bundle="{repo_id}")'
    yield "```"
    yield ""
    if bundle.path.parent == SHIPPED:
        yield f"It is the bundle of {', '.join(environment_ids(bundle.name))}."
        yield ""
    selecting = f"ogs select --agent oracle --bundle {repo_id} --budget 10% --out picks"
    yield f"`{selecting}` selects samples; `ogs train --bundle {repo_id}` trains."
    yield ""
    yield "## Content"
    yield ""
    yield from markdown_table(("", ""), _content(bundle))
    yield ""
    yield "## Fidelity"
    yield ""
    yield from _fidelity(bundle.manifest.get("fidelity"))
    yield ""
    yield "## Sources"
    yield ""
    yield from source_table(bundle.manifest["sources"])


def _content(bundle: "Bundle") -> Iterator[tuple[str, str]]:
    manifest, adapter = bundle.manifest, bundle.manifest.get("adapter", {})
    yield "sketch space", f"`{bundle.space}`"
    yield "proxy", _entries(manifest["proxy"])
    if adapter:
        yield "adapter", _entries(adapter)
    yield "projection", _entries(manifest["projection"])
    roles = (f"{len(getattr(bundle, role)):,} {role}" for role in ROLES)
    yield "samples", ", ".join(roles)
    yield "capabilities of the anchor set", ", ".join(bundle.capabilities)
    steps = (str(entry["step"]) for entry in manifest["checkpoints"])
    yield "checkpoints of the trajectory", ", ".join(steps) or "none"
    yield "the proxy's own answers", "yes" if bundle.has_answers else "no"
    if command := manifest.get("command"):
        yield "made by", f"`{command}`"


def _entries(value: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {entry}" for key, entry in value.items())


def _fidelity(fidelity: Mapping[str, Mapping[str, Any]] | None) -> Iterator[str]:
    if not fidelity:
        yield (
            "Not measured: how well the environment's predictions rank real "
            "fine-tuning runs on these samples is unknown."
        )
        return
    yield (
        "Spearman correlation between the environment's predictions and real "
        "fine-tuning runs on selections of the pool, with 95 % intervals:"
    )
    yield ""
    rows = [
        [recipe, *(_correlation(summary, name) for name in ("domain", "forgetting"))]
        for recipe, summary in fidelity.items()
    ]
    yield from markdown_table(("recipe", "domain loss", "forgetting"), rows)


def _correlation(summary: Mapping[str, Any], name: str) -> str:
    low, high = summary[f"{name}_interval"]
    return f"{summary[f'{name}_spearman']:.2f} [{low:.2f}, {high:.2f}]"
