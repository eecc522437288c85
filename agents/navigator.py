"""The Navigator: a policy network that reads a hand of candidates and picks.

One network is shared by all candidates, so it treats them alike in whatever
order and number they lie on the table. It is an SB3 policy class, trained by
sb3-contrib's MaskablePPO, and is saved as plain tensors and JSON.
"""

import contextlib
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from sb3_contrib.common.maskable.distributions import MaskableCategorical
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn

from ogs_env.errors import InputError
from ogs_env.files import read_json, whole_file

FORMAT = "ogs-agent"
FORMAT_VERSION = 1
DESCRIPTION = "agent.json"
WEIGHTS = "policy.safetensors"
# Whole numbers that a description must have.
_COUNTS = {
    "network": ("row", "context", "width", "hand_size"),
    "environment": ("hand_size", "hands", "budget"),
}

Observation = dict[str, NDArray[np.float32]]


class HandTrunk(nn.Module):
    """Encode a hand: one vector per candidate, and one for the whole table.

    Each candidate's row meets the context, then a summary of the hand (mean and
    maximum over the candidates that lie there), as in Deep Sets (Zaheer et al.
    2017): equivariant to the candidates' order, for any number of them.
    """

    def __init__(self, row: int, context: int, width: int) -> None:
        super().__init__()
        # Two linear maps, added, are one on [row, context], but the context's is
        # computed once a hand instead of once a candidate.
        self.row = nn.Linear(row, width)
        self.context = nn.Linear(context, width)
        self.candidate = nn.Linear(width, width)
        self.summary = nn.Linear(3 * width, width)

    def forward(self, candidates: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Encode a batch of hands.

        Args:
            candidates: float32 (batch, hand_size, row); the last column is 1 where
                a candidate is available, else 0.
            context: float32 (batch, context).

        Returns:
            float32 (batch, hand_size, width) and float32 (batch, width).
        """
        available = candidates[..., -1:]
        around = self.context(context)
        hand = nn.functional.silu(self.row(candidates) + around.unsqueeze(1))
        hand = hand * available
        mean = hand.sum(1) / available.sum(1).clamp(min=1.0)
        parts = [mean, hand.amax(1), nn.functional.silu(around)]
        table = self.summary(torch.cat(parts, dim=1))
        hand = nn.functional.silu(self.candidate(hand) + table.unsqueeze(1))
        return hand, nn.functional.silu(table)


class HandNetwork(nn.Module):
    """Logits of every candidate and of passing, and the value of the table.

    The actor and the critic are apart, as in SB3's policies, so that the value's
    error does not steer what the picks are judged by.
    """

    def __init__(self, row: int, context: int, width: int) -> None:
        super().__init__()
        self.actor = HandTrunk(row, context, width)
        self.critic = HandTrunk(row, context, width)
        self.pick_head = nn.Linear(width, 1)
        self.pass_head = nn.Linear(width, 1)
        self.value_head = nn.Linear(2 * width, 1)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.orthogonal_(module.weight, 2.0**0.5)
                nn.init.zeros_(module.bias)
        # Near-uniform at first, so that PPO explores (Andrychowicz et al. 2021).
        nn.init.orthogonal_(self.pick_head.weight, 0.01)
        nn.init.orthogonal_(self.pass_head.weight, 0.01)
        nn.init.orthogonal_(self.value_head.weight, 1.0)

    def forward_actor(self, observation: dict[str, Tensor]) -> Tensor:
        """Return logits (batch, hand_size + 1); the last one is for passing."""
        hand, table = self.actor(observation["candidates"], observation["context"])
        picks = self.pick_head(hand).squeeze(-1)
        return torch.cat([picks, self.pass_head(table)], dim=1)

    def forward_critic(self, observation: dict[str, Tensor]) -> Tensor:
        """Return values (batch, 1)."""
        candidates = observation["candidates"]
        hand, table = self.critic(candidates, observation["context"])
        available = candidates[..., -1:]
        mean = (hand * available).sum(1) / available.sum(1).clamp(min=1.0)
        return self.value_head(torch.cat([mean, table], dim=1))

    def forward(self, observation: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return logits and values."""
        return self.forward_actor(observation), self.forward_critic(observation)


class _Unchanged(BaseFeaturesExtractor):
    """Hand the observation on as it is; SB3 would flatten it."""

    def __init__(self, observation_space: spaces.Space) -> None:
        super().__init__(observation_space, features_dim=1)

    def forward(self, observations: Any) -> Any:
        return observations


class NavigatorPolicy(MaskableActorCriticPolicy):
    """SB3 policy class around `HandNetwork`.

    Args:
        observation_space: `Dict` of `candidates` (hand_size, d + 6) and `context`.
        action_space: `Discrete(hand_size + 1)`.
        lr_schedule: Learning rate by SB3's remaining progress.
        width: Units of every hidden layer.
        kwargs: Further arguments of SB3's policies.
    """

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        lr_schedule: Any,
        width: int = 64,
        **kwargs: Any,
    ) -> None:
        self.width = width
        kwargs["features_extractor_class"] = _Unchanged
        super().__init__(observation_space, action_space, lr_schedule, **kwargs)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Candidates in a hand, columns of a candidate's row, and of the context."""
        observed = self.observation_space
        assert isinstance(observed, spaces.Dict)
        hand_size, row = observed["candidates"].shape or (0, 0)
        return hand_size, row, (observed["context"].shape or (0,))[0]

    def _build(self, lr_schedule: Any) -> None:
        # SB3's heads are linear maps of one vector; ours give one logit a candidate
        # and are part of the network, so SB3's become identities.
        _, row, context = self.shape
        self.mlp_extractor = HandNetwork(row, context, self.width)  # type: ignore[assignment]
        self.action_net = nn.Identity()
        self.value_net = nn.Identity()  # type: ignore[assignment]
        self.optimizer = self.optimizer_class(  # type: ignore[call-arg]
            self.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs
        )


@dataclass
class Navigator:
    """A trained policy and the description that is saved beside it.

    Attributes:
        policy: The SB3 policy.
        description: JSON-able: bundle, sketch space, environment, settings,
            training summary.
    """

    policy: NavigatorPolicy
    description: dict[str, Any]

    def log_probabilities(
        self, observation: Observation, masks: NDArray[np.bool_]
    ) -> NDArray[np.float32]:
        """Return log-probabilities of the actions; invalid ones are below -1e7.

        Args:
            observation: Arrays of a batch of observations.
            masks: bool (batch, hand_size + 1), True where valid.

        Returns:
            float32 (batch, hand_size + 1).
        """
        tensors = {key: torch.as_tensor(value) for key, value in observation.items()}
        with torch.inference_mode():
            spread = self.policy.get_distribution(tensors, masks).distribution
        assert isinstance(spread, MaskableCategorical)
        return spread.logits.numpy()

    def __call__(
        self,
        observation: Observation,
        info: dict[str, Any],
        env: gymnasium.Env[Any, Any],
    ) -> int:
        """Play as a policy, without chance: see `choose`."""
        batch = {key: value[None] for key, value in observation.items()}
        mask = np.asarray(info["action_mask"], bool)
        return int(choose(self.log_probabilities(batch, mask[None]))[0])

    def save(self, folder: Path) -> None:
        """Write the agent to a folder; an agent there is replaced only when whole.

        Args:
            folder: Where `policy.safetensors` and `agent.json` go.

        Raises:
            InputError: If the folder cannot be written.
        """
        state = self.policy.mlp_extractor.state_dict()
        tensors = {name: tensor.contiguous() for name, tensor in state.items()}
        data = save_tensors(tensors)
        hand_size, row, context = self.policy.shape
        description = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            **self.description,
            "network": {
                "width": self.policy.width,
                "hand_size": hand_size,
                "row": row,
                "context": context,
            },
            "weights_sha256": hashlib.sha256(data).hexdigest(),
        }
        # Both files are complete before the first is renamed.
        with (
            whole_file(folder / DESCRIPTION) as text,
            whole_file(folder / WEIGHTS) as weights,
        ):
            weights.write_bytes(data)
            text.write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path, hand_size: int | None = None) -> "Navigator":
        """Load an agent; no code is loaded with it.

        Args:
            folder: Where `save` wrote it.
            hand_size: Candidates on the table; as in training when omitted.

        Raises:
            InputError: If a file is missing, damaged, of another version or does
                not fit.
        """
        description = _read_description(folder / DESCRIPTION)
        network = description["network"]
        policy = build_policy(
            network["row"],
            network["context"],
            network["width"],
            hand_size or network["hand_size"],
        )
        tensors = _read_weights(folder / WEIGHTS, description["weights_sha256"])
        expected = {k: v.shape for k, v in policy.mlp_extractor.state_dict().items()}
        found = {name: tensor.shape for name, tensor in tensors.items()}
        for name in sorted(expected.keys() | found.keys()):
            if expected.get(name) != found.get(name):
                raise InputError(
                    f"{folder / WEIGHTS}: tensor '{name}' has shape "
                    f"{_shape(found.get(name))}, {DESCRIPTION} asks for "
                    f"{_shape(expected.get(name))}; train the agent again"
                )
        policy.mlp_extractor.load_state_dict(tensors)
        policy.set_training_mode(False)
        return cls(policy, description)


def choose(log_probabilities: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return the action that stands for each distribution.

    Pass where passing is likelier than all picks together, else take the likeliest
    candidate. The single likeliest action would pass too often: picks share their
    probability among many candidates that are about as good.

    Args:
        log_probabilities: float32 (batch, hand_size + 1), the last one of passing.

    Returns:
        int64 (batch,).
    """
    picks = log_probabilities[:, :-1]
    passes = np.exp(log_probabilities[:, -1]) > 0.5
    return np.where(passes, picks.shape[1], picks.argmax(axis=1))


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Run torch on one thread: on small tensors two are many times slower."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def build_policy(row: int, context: int, width: int, hand_size: int) -> NavigatorPolicy:
    """Build an untrained policy; torch's global generator is left as it was."""
    observation_space = spaces.Dict(
        {
            "candidates": spaces.Box(-10.0, 10.0, (hand_size, row), np.float32),
            "context": spaces.Box(-10.0, 10.0, (context,), np.float32),
        }
    )
    actions = spaces.Discrete(hand_size + 1)
    with torch.random.fork_rng(devices=[]):
        return NavigatorPolicy(observation_space, actions, lambda _: 0.0, width=width)


def _shape(shape: torch.Size | None) -> str:
    return "none" if shape is None else str(tuple(shape))


def _read_description(file: Path) -> dict[str, Any]:
    description = read_json(file, "trained agent's description")
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        raise InputError(f"{file}: is no description of an ogs_env agent")
    if description.get("format_version") != FORMAT_VERSION:
        raise InputError(
            f"{file}: format version {description.get('format_version')}, this "
            f"ogs_env reads version {FORMAT_VERSION}; train the agent again"
        )
    for key in ("space", "environment", "network", "weights_sha256"):
        if key not in description:
            raise InputError(f"{file}: lacks '{key}'; train the agent again")
    for part, keys in _COUNTS.items():
        for key in keys:
            value = description[part].get(key)
            if not isinstance(value, int) or not 1 <= value <= 1_000_000:
                raise InputError(
                    f"{file}: '{part}.{key}' is {value!r}, expected a positive whole "
                    "number; train the agent again"
                )
    return description


def _read_weights(file: Path, sha256: str) -> dict[str, Tensor]:
    try:
        data = file.read_bytes()
    except OSError:
        raise InputError(
            f"{file}: cannot be read; expected a trained agent's tensors"
        ) from None
    if hashlib.sha256(data).hexdigest() != sha256:
        raise InputError(
            f"{file}: its bytes are not those that {DESCRIPTION} lists (sha256 "
            "differs); copy both files again or train again"
        )
    try:
        return load_tensors(data)
    except SafetensorError as error:
        raise InputError(f"{file}: is no safetensors file ({error})") from None
