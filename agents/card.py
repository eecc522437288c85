"""The card of a trained agent's repository on the Hugging Face hub."""

from collections.abc import Iterator, Mapping
from typing import Any

from ogs_env.bundle import is_here, load_bundle, shipped_bundles, shipped_repository
from ogs_env.bundle_card import PAPER, TAGS, source_licences, source_table
from ogs_env.hub import (
    INSTALL_HUB,
    LIBRARY,
    card_text,
    hub_client,
    markdown_table,
)


def agent_card(
    description: Mapping[str, Any], repo_id: str, licence: str | None = None
) -> str:
    """Return the card of a trained agent.

    Args:
        description: The agent's description.
        repo_id: `OWNER/NAME` of the repository.
        licence: The hub's identifier of a licence; by default those of the sources of
            the bundle that the agent was trained on, if it is a shipped one.
    """
    client = hub_client()
    environment = str(description["environment"].get("id", ""))
    sources, shipped = _sources(description), _shipped(description)
    name = repo_id.partition("/")[2]
    kept = description.get("training", {}).get("kept", {})
    results = []
    if environment and "return" in kept:
        results = [
            client.EvalResult(
                task_type="reinforcement-learning",
                task_name="reinforcement-learning",
                dataset_type=environment,
                dataset_name=environment,
                metric_type="mean_reward",
                metric_name="mean return",
                metric_value=f"{kept['return']:.2f}",
            )
        ]
    data = client.ModelCardData(
        model_name=name if results else None,
        license=licence or (source_licences(sources) if sources else "unknown"),
        tags=[*filter(None, [environment]), "ogs_env", *TAGS],
        pipeline_tag="reinforcement-learning",
        datasets=shipped_repository(shipped).repo_id if shipped else None,
        eval_results=results or None,
    )
    lines = _lines(description, repo_id, environment, sources)
    return card_text(data.to_dict(), lines)


def _shipped(description: Mapping[str, Any]) -> str:
    """Return the name of the shipped bundle that the agent was trained on, if any."""
    name = str(description.get("bundle", ""))
    arguments = description.get("settings", {}).get("env_kwargs", {})
    is_shipped = arguments.get("bundle", name) == name and name in shipped_bundles()
    return name if is_shipped else ""


def _sources(description: Mapping[str, Any]) -> list[dict[str, Any]]:
    name = _shipped(description)
    return load_bundle(name).manifest["sources"] if name and is_here(name) else []


def _lines(
    description: Mapping[str, Any],
    repo_id: str,
    environment: str,
    sources: list[dict[str, Any]],
) -> Iterator[str]:
    yield f"# Navigator trained in {environment or 'an ogs_env environment'}"
    yield ""
    yield (
        f"An agent of [ogs_env](https://pypi.org/project/{LIBRARY}) that chooses "
        "fine-tuning data by sketches of gradients, so that a language model learns a "
        "domain and forgets little. It works with any bundle of its sketch space. The "
        f"method: {PAPER}."
    )
    yield ""
    yield "```python"
    yield f"# {INSTALL_HUB.replace('hub', 'hub,rl')}"
    yield "from ogs_env.agents.navigator import Navigator"
    yield f'navigator = Navigator.from_pretrained("{repo_id}")'
    yield "action = navigator(observation, info, env)  # as in a Gymnasium loop"
    yield "```"
    yield ""
    if "slate_size" in description["environment"]:  # not of a mixture
        bundle = _shipped(description) or "BUNDLE"
        select = f"ogs select --agent {repo_id} --bundle {bundle} --budget 10%"
        yield f"`{select} --out picks` selects from a whole pool."
        yield ""
    yield "## Training"
    yield ""
    yield from markdown_table(("", ""), _training(description, environment))
    if sources:
        yield ""
        yield "## Sources of its bundle"
        yield ""
        yield from source_table(sources)


def _training(
    description: Mapping[str, Any], environment: str
) -> Iterator[tuple[str, str]]:
    counts = {k: v for k, v in description["environment"].items() if k != "id"}
    settings, training = (description.get(key, {}) for key in ("settings", "training"))
    yield "environment", ", ".join(filter(None, [environment, _entries(counts)]))
    yield "bundle", str(description.get("bundle", "unknown"))
    yield "sketch space", f"`{description['space']}`"
    if weights := description.get("reward_weights"):
        used = {name: weight for name, weight in weights.items() if weight}
        yield "reward", _entries(used)
    if settings:
        names = ("algorithm", "steps", "seed", "cost_limit")
        used = {n: settings[n] for n in names if settings.get(n) is not None}
        yield "settings", _entries(used)
    kept = training.get("kept", {})
    if "return" in kept:
        episodes = settings.get("evaluation_episodes", "the")
        yield (
            "mean return",
            f"{kept['return']:.2f}, after {kept['steps']:,} steps, in {episodes} "
            "episodes of the test split, by which this checkpoint was chosen",
        )
        yield "mean cost", f"{kept['cost']:.2f}, in the same episodes"


def _entries(value: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {entry}" for key, entry in value.items())
