"""The Navigator's network: logits of every action on a slate.

All candidates share one network, so that it is equivariant to their order and accepts
any number of them. It is also available as a policy class for Stable-Baselines3's PPO
and for sb3-contrib's MaskablePPO.
"""

from typing import Any

import torch
from gymnasium import spaces
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn

from ogs_env.envs.arguments import check_whole
from ogs_env.errors import InputError, unknown_name

NEVER = -1e8
"""Logit of invalid actions, as in sb3-contrib's masked distributions."""

SCALARS = {"candidates": 7, "clusters": 6}
"""Columns of an observation's row in addition to the d of its direction in Q."""


class Trunk(nn.Module):
    """Encoder of a slate: one vector per candidate, and one for the whole slate.

    Each candidate's row is combined with the context, then pooled over the candidates
    on the slate by mean and maximum, as in Deep Sets (Zaheer et al. 2017). This is
    equivariant to the candidates' order, for any number of them.

    A further input is the row's agreement with the domain, the elementwise product of
    the row's direction and the domain's.

    Args:
        row: Number of columns of a candidate.
        context: Size of the context, which starts with the domain's direction.
        width: Units of every hidden layer.
        direction: Columns of a row that hold its direction.
    """

    def __init__(self, row: int, context: int, width: int, direction: slice) -> None:
        super().__init__()
        self.direction = direction
        # The sum of two linear maps equals one of [row, context], but the context's
        # part is computed once per slate instead of once per candidate.
        self.row = nn.Linear(row + direction.stop - direction.start, width)
        self.context = nn.Linear(context, width)
        self.summary = nn.Linear(3 * width, width)

    def forward(
        self, rows: Tensor, available: Tensor, context: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Encode a batch of slates.

        Args:
            rows: float32 (batch, candidates, row).
            available: float32 (batch, candidates, 1), 1 for a candidate, 0 for an empty
                place.
            context: float32 (batch, context).

        Returns:
            float32 (batch, candidates, width), 0 for empty places; and float32 (batch,
            width), before the activation.
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
        # In a single domain the agreement is linear in the direction: folding it into
        # the weights gives the same result at half the cost.
        own, agreed = self.row.weight.split([rows.shape[-1], domain.shape[1]], dim=1)
        margins = here.start, rows.shape[-1] - here.stop
        folded = own + nn.functional.pad(agreed * domain[0], margins)
        return nn.functional.linear(rows, folded, self.row.bias)


class Network(nn.Module):
    """Actor and critic: logits of every action, and the value of the slate.

    The input is an observation of `SelectionEnv`, which has a skip action, or of
    `MixtureEnv`, whose clusters are the candidates. Actor and critic share no layers,
    as in SB3's policies, so that the value loss does not affect the actor.

    Args:
        row: Number of columns of a candidate.
        context: Size of the context, which starts with the domain's direction.
        width: Units of every hidden layer.
        skips: Whether there is a skip action; then the observation has `candidates`,
            else `clusters`.

    Attributes:
        shape: `row`, `context` and `width`.
        key: `"candidates"` or `"clusters"`.
    """

    def __init__(self, row: int, context: int, width: int, skips: bool) -> None:
        super().__init__()
        self.shape = {"row": row, "context": context, "width": width}
        self.skips = skips
        self.key = "candidates" if skips else "clusters"
        # The direction is first in a candidate's row, last in a cluster's.
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
        # Near-uniform initially, so that PPO explores (Andrychowicz et al. 2021).
        for head in (self.pick_head, self.skip_head):
            if head is not None:
                nn.init.orthogonal_(head.weight, 0.01)
        nn.init.orthogonal_(self.value_head.weight, 1.0)

    def forward_actor(self, observation: dict[str, Tensor]) -> Tensor:
        """Return logits (batch, actions): of the candidates, and of a skip if there is.

        Logits of empty places are -1e8.
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
        # Each candidate in the context of the others; the value needs the summary only.
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


_OPTIMIZER = ("optimizer_class", "optimizer_kwargs")


class _Unchanged(BaseFeaturesExtractor):
    """Features extractor that passes on the observation, which SB3 would flatten.

    The network reads from the observation which actions are valid. Normalisation would
    change that without an error, since it keeps the space.
    """

    def __init__(self, observation_space: spaces.Space) -> None:
        super().__init__(observation_space, features_dim=1)

    def forward(self, observations: Any) -> Any:
        if "candidates" in observations:
            valid = observations["candidates"][..., -1]
            changed = valid != (valid > 0)
        else:
            left = observations["clusters"][..., 0]
            changed = (left < 0) | (left > 1)
        if changed.any():
            raise InputError(
                "observations: the column of valid actions is changed, as by "
                "VecNormalize; use norm_obs=False"
            )
        return observations


class _NetworkPolicy:
    """Mixin that makes an SB3 policy class use `Network`."""

    mlp_extractor: Any
    observation_space: spaces.Space
    action_space: spaces.Space

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        lr_schedule: Any,
        use_sde: bool = False,
        *,
        width: int = 64,
        **kwargs: Any,
    ) -> None:
        for name in kwargs:
            if name not in _OPTIMIZER:
                raise unknown_name("policy_kwargs", name, ("width", *_OPTIMIZER))
        if use_sde:
            raise InputError("use_sde: True; expected False, for discrete actions")
        check_whole({"policy_kwargs: width": width})
        self.shape = _shape(observation_space, action_space)
        self.width = width
        kwargs["features_extractor_class"] = _Unchanged
        arguments: tuple[Any, ...] = observation_space, action_space, lr_schedule
        super().__init__(*arguments, **kwargs)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        """Return what `save` keeps, for `load`."""
        policy: Any = self
        return {
            "observation_space": self.observation_space,
            "action_space": self.action_space,
            "lr_schedule": policy._dummy_schedule,
            "width": self.width,
            **{name: getattr(self, name) for name in _OPTIMIZER},
        }

    def _build(self, lr_schedule: Any) -> None:
        # SB3's heads are linear maps of one vector; these heads give one logit per
        # candidate and are part of the network, so SB3's become identities.
        key, _, row, context = self.shape
        self.mlp_extractor = Network(row, context, self.width, key == "candidates")
        self.action_net: Any = nn.Identity()
        self.value_net: Any = nn.Identity()
        policy: Any = self
        self.optimizer = policy.optimizer_class(
            policy.parameters(), lr=lr_schedule(1), **policy.optimizer_kwargs
        )


def _shape(
    observation_space: spaces.Space, action_space: spaces.Space
) -> tuple[str, int, int, int]:
    """Return key and number of the candidates, their columns, size of the context.

    Raises:
        InputError: If the spaces are those of no `SelectionEnv` and no `MixtureEnv`.
    """
    parts = (
        observation_space.spaces if isinstance(observation_space, spaces.Dict) else {}
    )
    actions = action_space.n if isinstance(action_space, spaces.Discrete) else 0
    for key, scalars in SCALARS.items():
        skips = key == "candidates"
        if parts.keys() == {key, "context"}:
            shapes = parts[key].shape or (), parts["context"].shape or ()
            if [len(shape) for shape in shapes] == [2, 1]:
                (count, row), (context,) = shapes
                if count + skips == actions and scalars < row <= context:
                    return key, count, row, context
    raise InputError(
        f"spaces {observation_space} and {action_space}: expected those of a "
        "SelectionEnv or a MixtureEnv whose observation no wrapper changes"
    )


class NavigatorPolicy(_NetworkPolicy, ActorCriticPolicy):
    """Policy class for Stable-Baselines3's PPO: `PPO(NavigatorPolicy, env)`.

    It never picks from an empty place, which it reads from the observation.

    Args:
        observation_space: That of a `SelectionEnv` or a `MixtureEnv`.
        action_space: Likewise.
        lr_schedule: Learning rate by the share of the training that is left.
        use_sde: False.
        width: Units of every hidden layer.
        kwargs: `optimizer_class` and `optimizer_kwargs`, as for `ActorCriticPolicy`;
            its other arguments change parts that this network does not have.

    Raises:
        InputError: For other spaces or arguments.
    """


class MaskableNavigatorPolicy(_NetworkPolicy, MaskableActorCriticPolicy):
    """Policy class for sb3-contrib's MaskablePPO: see `NavigatorPolicy`."""
