"""Selectors, agents and their training."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ogs_env.agents.evaluation import evaluate

__all__ = ["evaluate"]


def __getattr__(name: str) -> Any:
    """Import `evaluate` on first use, so that the package itself imports nothing."""
    if name == "evaluate":
        from ogs_env.agents.evaluation import evaluate

        return evaluate
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
