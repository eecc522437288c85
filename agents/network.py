"""The Navigator's network: it reads a slate and rates every choice.

One network is shared by all candidates, so it treats them alike in whatever order
and number they lie there. It comes as a policy class of Stable-Baselines3's PPO and
of sb3-contrib's MaskablePPO.
"""

from typing import Any

import torch
from gymnasium import spaces
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn

NEVER = -1e8
"""Logit of what cannot be chosen, as in sb3-contrib's masked distributions."""

SCALARS = {"candidates": 7, "clusters": 6}
"""Columns of an observation's row beside the d of a direction in Q."""


class Trunk(nn.Module):
    """Encode a slate: one vector per candidate, and one for all of it.

    Each candidate's row meets the context, then all of them are summed up (mean and
    maximum over the candidates that lie there), as in Deep Sets (Zaheer et al.
    2017): equivariant to the candidates' order, for any number of them.

    Beside a row it reads its agreement with the domain: the row's direction times the
    domain's, coordinate by coordinate. Which coordinates of an agreement matter is
    what moves to another domain.

    Args:
        row: Columns of a candidate.
        context: Numbers of the context; the first are the domain's direction.
        width: Units of every hidden layer.
        direction: Columns of a row that hold its direction.
    """

    def __init__(self, row: int, context: int, width: int, direction: slice) -> None:
        super().__init__()
        self.direction = direction
        # Two linear maps, added, are one on [row, context], but the context's is
        # computed once a slate instead of once a candidate.
        self.row = nn.Linear(row + direction.stop - direction.start, width)
        self.context = nn.Linear(context, width)
        self.summary = nn.Linear(3 * width, width)

    def forward(
        self, rows: Tensor, available: Tensor, context: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Encode a batch of slates.

        Args:
            rows: float32 (batch, candidates, row).
            available: float32 (batch, candidates, 1), 1 where one lies, else 0.
            context: float32 (batch, context).

        Returns:
            float32 (batch, candidates, width), 0 where none lies, and float32 (batch,
            width), which is still linear.
        """
        around = self.context(context)
        read = self._read(rows, context)
        encoded = nn.functional.silu(read + around.unsqueeze(1)) * available
        mean = encoded.sum(1) / available.sum(1).clamp(min=1.0)
        parts = [mean, encoded.amax(1), nn.functional.silu(around)]
        return encoded, self.summary(torch.cat(parts, dim=1))

    def _read(self, rows: Tensor, context: Tensor) -> Tensor:
        """Map rows and their agreements, float32 (batch, candidates, width)."""
        here = self.direction
        domain = context[:, : here.stop - here.start]
        if not (domain == domain[:1]).all():
            agreement = rows[..., here] * domain.unsqueeze(1)
            return self.row(torch.cat([rows, agreement], dim=-1))
        # In one domain the agreement is a linear map of the direction: the same, at
        # half the cost.
        own, agreed = self.row.weight.split([rows.shape[-1], domain.shape[1]], dim=1)
        margins = here.start, rows.shape[-1] - here.stop
        folded = own + nn.functional.pad(agreed * domain[0], margins)
        return nn.functional.linear(rows, folded, self.row.bias)


class Network(nn.Module):
    """Logits of every choice, and the value of the slate.

    It reads observations of `SelectionEnv`, where skipping is a choice too, or of
    `MixtureEnv`, whose clusters are the candidates. The actor and the critic are
    apart, as in SB3's policies, so that the value's error does not steer what the
    picks are judged by.

    Args:
        row: Columns of a candidate.
        context: Numbers of the context; the first are the domain's direction.
        width: Units of every hidden layer.
        skips: Whether skipping is a choice: the observation has `candidates`, else
            `clusters`.

    Attributes:
        shape: The first three by name.
        key: `"candidates"` or `"clusters"`.
    """

    def __init__(self, row: int, context: int, width: int, skips: bool) -> None:
        super().__init__()
        self.shape = {"row": row, "context": context, "width": width}
        self.skips = skips
        self.key = "candidates" if skips else "clusters"
        # A direction comes first in a candidate's row, last in a cluster's.
        scalars = SCALARS[self.key]
        direction = slice(0, row - scalars) if skips else slice(scalars, row)
        self.actor = Trunk(row, context, width, direction)
        self.critic = Trunk(row, context, width, direction)
        self.candidate = nn.Linear(width, width)
        self.pick_head = nn.Linear(width, 1)
        self.skip_head = nn.Linear(width, 1) if skips else None
        self.value_head = nn.Linear(width, 1)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.orthogonal_(module.weight, 2.0**0.5)
                nn.init.zeros_(module.bias)
        # Near-uniform at first, so that PPO explores (Andrychowicz et al. 2021).
        for head in (self.pick_head, self.skip_head):
            if head is not None:
                nn.init.orthogonal_(head.weight, 0.01)
        nn.init.orthogonal_(self.value_head.weight, 1.0)

    def forward_actor(self, observation: dict[str, Tensor]) -> Tensor:
        """Return logits (batch, candidates), and last one for skipping if it can be.

        Those of empty places are -1e8.
        """
        return self._logits(*self._slate(observation), observation["context"])

    def forward_critic(self, observation: dict[str, Tensor]) -> Tensor:
        """Return values (batch, 1)."""
        return self._values(*self._slate(observation), observation["context"])

    def forward(self, observation: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return logits and values."""
        state = *self._slate(observation), observation["context"]
        return self._logits(*state), self._values(*state)

    def _logits(self, rows: Tensor, available: Tensor, context: Tensor) -> Tensor:
        encoded, state = self.actor(rows, available, context)
        # A candidate among the others; for the value their summary is enough.
        rated = nn.functional.silu(self.candidate(encoded) + state.unsqueeze(1))
        picks = self.pick_head(rated).masked_fill(available == 0, NEVER).squeeze(-1)
        if self.skip_head is None:
            return picks
        skipping = self.skip_head(nn.functional.silu(state))
        return torch.cat([picks, skipping], dim=1)

    def _values(self, rows: Tensor, available: Tensor, context: Tensor) -> Tensor:
        state = self.critic(rows, available, context)[1]
        return self.value_head(nn.functional.silu(state))

    def _slate(self, observation: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        rows = observation[self.key]
        return rows, rows[..., -1:] if self.skips else (rows[..., :1] > 0).float()


class _Unchanged(BaseFeaturesExtractor):
    """Slate the observation on as it is; SB3 would flatten it."""

    def __init__(self, observation_space: spaces.Space) -> None:
        super().__init__(observation_space, features_dim=1)

    def forward(self, observations: Any) -> Any:
        return observations


class _NetworkPolicy:
    """What makes an SB3 policy class one around `Network`."""

    mlp_extractor: Any
    observation_space: spaces.Space

    def __init__(self, *args: Any, width: int = 64, **kwargs: Any) -> None:
        self.width = width
        kwargs["features_extractor_class"] = _Unchanged
        super().__init__(*args, **kwargs)

    @property
    def shape(self) -> tuple[str, int, int, int]:
        """The candidates of the slate, how many, their columns, and the context's."""
        observed = self.observation_space
        assert isinstance(observed, spaces.Dict)
        key = "candidates" if "candidates" in observed.spaces else "clusters"
        count, row = observed[key].shape or (0, 0)
        return key, count, row, (observed["context"].shape or (0,))[0]

    def _build(self, lr_schedule: Any) -> None:
        # SB3's heads are linear maps of one vector; ours give one logit a candidate
        # and are part of the network, so SB3's become identities.
        key, _, row, context = self.shape
        self.mlp_extractor = Network(row, context, self.width, key == "candidates")
        self.action_net: Any = nn.Identity()
        self.value_net: Any = nn.Identity()
        policy: Any = self
        self.optimizer = policy.optimizer_class(
            policy.parameters(), lr=lr_schedule(1), **policy.optimizer_kwargs
        )


class NavigatorPolicy(_NetworkPolicy, ActorCriticPolicy):
    """Policy class for Stable-Baselines3's PPO: `PPO(NavigatorPolicy, env)`.

    It never picks from an empty place: the observation tells which these are.

    Args:
        args: Arguments of `ActorCriticPolicy`; the observation space is that of a
            `SelectionEnv` or a `MixtureEnv`.
        width: Units of every hidden layer.
        kwargs: Further arguments of `ActorCriticPolicy`.
    """


class MaskableNavigatorPolicy(_NetworkPolicy, MaskableActorCriticPolicy):
    """The same for sb3-contrib's MaskablePPO.

    Args:
        args: Arguments of `MaskableActorCriticPolicy`.
        width: Units of every hidden layer.
        kwargs: Further arguments of `MaskableActorCriticPolicy`.
    """
