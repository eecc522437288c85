"""Reinforcement-learning environments for choosing fine-tuning data.

Importing registers the environment ids; no environment, bundle or model is loaded.
"""

from typing import Any

import gymnasium

from ogs_env.bundle import Bundle, load_bundle
from ogs_env.errors import InputError
from ogs_env.selection import Selection, select

__all__ = ["Bundle", "InputError", "Selection", "load_bundle", "select"]

_SELECTION_ENV = "ogs_env.envs.selection:SelectionEnv"
# Episodes end by themselves when the stream is over: there is no time limit.
_ENVIRONMENTS: dict[str, dict[str, Any]] = {
    "OGS-Medical-v0": {"bundle": "medical"},
    "OGS-Medical-Live-v0": {
        "bundle": "medical",
        "learner": "live",
        "hands": 8,
        "hand_size": 8,
        "budget": 16,
    },
    "OGS-Custom-v0": {"bundle": ""},
}


def _register() -> None:
    for name, kwargs in _ENVIRONMENTS.items():
        if name not in gymnasium.registry:
            gymnasium.register(
                name,
                entry_point=_SELECTION_ENV,
                # Sums on an accelerator have no fixed order; on a CPU they have.
                nondeterministic=kwargs.get("learner") == "live",
                kwargs=kwargs,
            )


_register()
