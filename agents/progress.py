"""What an unfinished training needs to go on: tensors and JSON, no pickle."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from torch.optim import Optimizer

from ogs_env.files import whole_file

FILE = "unfinished.safetensors"
_GROUPS = ("policy", "best", "optimizer")


@dataclass
class Progress:
    """A run's state at an evaluation.

    Attributes:
        settings: The run's; another run's progress is not taken up.
        steps: Environment steps played.
        seconds: Seconds trained.
        curve: Evaluations so far.
        best_at: The best of them.
        reward_scale: Mean, variance and count behind the scaling of rewards.
        multiplier: Of the cost, where it is limited.
        policy: The policy's tensors.
        best: Those of the best evaluation.
        optimizer: Adam's moments and steps, `INDEX.NAME`.
    """

    settings: dict[str, Any]
    steps: int
    seconds: float
    curve: list[dict[str, float]]
    best_at: dict[str, float]
    reward_scale: list[float]
    multiplier: float = 0.0
    policy: dict[str, Tensor] = field(default_factory=dict)
    best: dict[str, Tensor] = field(default_factory=dict)
    optimizer: dict[str, Tensor] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Write to the agent's folder, in one file, whole or not at all."""
        tensors = {
            f"{group}/{name}": tensor.contiguous().clone()
            for group in _GROUPS
            for name, tensor in getattr(self, group).items()
        }
        told = {key: value for key, value in vars(self).items() if key not in _GROUPS}
        content = save(tensors, metadata={"progress": json.dumps(told)})
        with whole_file(folder / FILE) as temporary:
            temporary.write_bytes(content)


def read_progress(folder: Path, settings: dict[str, Any]) -> Progress | None:
    """Return the progress of a run with these settings, if there is any."""
    try:
        with safe_open(folder / FILE, "pt") as file:
            told = json.loads((file.metadata() or {}).get("progress", "{}"))
            if told.get("settings") != json.loads(json.dumps(settings)):
                return None
            groups: dict[str, Any] = {name: {} for name in _GROUPS}
            for key in file.keys():  # noqa: SIM118 (it is no dict)
                group, _, name = key.partition("/")
                groups[group][name] = file.get_tensor(key)
            return Progress(**told, **groups)
    except (OSError, SafetensorError):
        return None


def moments(optimizer: Optimizer) -> dict[str, Tensor]:
    """Return Adam's state as `INDEX.NAME` tensors."""
    state = optimizer.state_dict()["state"]
    return {
        f"{index}.{name}": tensor
        for index, entry in state.items()
        for name, tensor in entry.items()
    }


def restore_moments(optimizer: Optimizer, tensors: dict[str, Tensor]) -> None:
    """Set Adam's state to what `moments` returned."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        index, _, name = key.partition(".")
        state.setdefault(int(index), {})[name] = tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
