"""Reinforcement-learning environments for choosing fine-tuning data.

Importing registers the environment ids; no environment, bundle or model is loaded.
"""

from collections.abc import Iterator
from typing import Any

import gymnasium

from ogs_env.bundle import Bundle, load_bundle
from ogs_env.errors import InputError
from ogs_env.selection import Selection, select

__all__ = ["Bundle", "InputError", "Selection", "load_bundle", "select"]

_SELECTION_ENV = "ogs_env.envs.selection:SelectionEnv"
_MIXTURE_ENV = "ogs_env.envs.mixture:MixtureEnv"
_SELECTION_ENVS = "ogs_env.envs.making:make_selection_envs"
_MIXTURE_ENVS = "ogs_env.envs.vector_mixture:MixtureVectorEnv"
_DOMAINS = ("medical", "legal", "financial")
# With 48 picks a threshold on the domain cosine is at nine tenths of the oracle: there
# are enough short answers to fill them. With twice as many it takes a balance.
_LEGAL = {"budget": 96}
# Four optimizer steps of a real model: an episode takes about a minute.
_LIVE = {"learner": "live", "num_slates": 8, "slate_size": 8, "budget": 16}


def _environments() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each id and its keyword arguments; `""` is a bundle to be given."""
    for domain in _DOMAINS:
        bundle = {"bundle": domain}
        yield f"OGS-{domain.title()}-v0", bundle | (_LEGAL if domain == "legal" else {})
        yield f"OGS-{domain.title()}-Mixture-v0", bundle
        yield f"OGS-{domain.title()}-Live-v0", bundle | _LIVE
    yield "OGS-Custom-v0", {"bundle": ""}
    yield "OGS-Custom-Mixture-v0", {"bundle": ""}


def _register() -> None:
    # Episodes end by themselves when the stream is over: there is no time limit.
    for name, kwargs in _environments():
        if name not in gymnasium.registry:
            mixture = "-Mixture-" in name
            gymnasium.register(
                name,
                entry_point=_MIXTURE_ENV if mixture else _SELECTION_ENV,
                vector_entry_point=_MIXTURE_ENVS if mixture else _SELECTION_ENVS,
                # Sums on an accelerator have no fixed order; on a CPU they have.
                nondeterministic=kwargs.get("learner") == "live",
                kwargs=kwargs,
            )


_register()
