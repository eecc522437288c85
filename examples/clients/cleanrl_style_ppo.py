"""PPO in one file, in the style of CleanRL, on native vector environments.

`infos["action_mask"]` of `gymnasium.make_vec` has the masks of valid actions: the
logits of all other actions are lowered, in training as in evaluation.
"""

import sys
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import nn
from torch.distributions import Categorical

import ogs_env  # noqa: F401

NUM_ENVS, NUM_STEPS, NUM_UPDATES, NUM_EPOCHS, MINIBATCH = 32, 64, 40, 4, 256
LEARNING_RATE, GAMMA, GAE_LAMBDA, CLIP, ENTROPY_BONUS = 2e-3, 1.0, 0.95, 0.2, 0.05
VALUE_WEIGHT, MOST_GRADIENT_NORM = 0.5, 0.5


def mlp(inputs: int, outputs: int, last_gain: float) -> nn.Sequential:
    """Return a network with two hidden layers and orthogonal weights."""
    layers = [nn.Linear(inputs, 64), nn.Linear(64, 64), nn.Linear(64, outputs)]
    for layer, gain in zip(layers, (2**0.5, 2**0.5, last_gain), strict=True):
        nn.init.orthogonal_(layer.weight, gain)
        nn.init.zeros_(layer.bias)
    return nn.Sequential(layers[0], nn.Tanh(), layers[1], nn.Tanh(), layers[2])


def tensors(observations: dict[str, Any], infos: dict[str, Any]) -> list[torch.Tensor]:
    """Return the observations as rows, their parts side by side, and the masks."""
    parts = [part.reshape(len(part), -1) for part in observations.values()]
    rows = np.concatenate(parts, axis=1)
    return [torch.from_numpy(rows), torch.from_numpy(infos["action_mask"] == 1)]


def policy(actor: nn.Module, rows: torch.Tensor, masks: torch.Tensor) -> Categorical:
    """Return a distribution over the valid actions."""
    logits = actor(rows).masked_fill(~masks, -1e9)
    return Categorical(logits=logits, validate_args=False)


def train(env_id: str) -> nn.Module:
    """Return a trained actor."""
    envs = gym.make_vec(env_id, NUM_ENVS, autoreset_mode="SameStep")
    rows, masks = tensors(*envs.reset(seed=0))
    actor = mlp(rows.shape[1], masks.shape[1], last_gain=0.01)
    critic = mlp(rows.shape[1], 1, last_gain=1.0)
    weights = [*actor.parameters(), *critic.parameters()]
    optimizer = torch.optim.Adam(weights, LEARNING_RATE, eps=1e-5)
    for update in range(NUM_UPDATES):
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * (1 - update / NUM_UPDATES)
        steps = []
        with torch.no_grad():
            for _ in range(NUM_STEPS):
                choice, values = policy(actor, rows, masks), critic(rows)[:, 0]
                actions = choice.sample()
                before = rows, masks, actions, choice.log_prob(actions), values
                observations, rewards, terminated, _, infos = envs.step(actions.numpy())
                after = torch.from_numpy(rewards).float(), torch.from_numpy(~terminated)
                steps.append((*before, *after))
                rows, masks = tensors(observations, infos)
            next_values, advantage, advantages = critic(rows)[:, 0], 0.0, []
            for *_, values, rewards, going in reversed(steps):
                error = rewards + GAMMA * going * next_values - values
                advantage = error + GAMMA * GAE_LAMBDA * going * advantage
                advantages.insert(0, advantage)
                next_values = values
        columns = [*zip(*steps, strict=True)][:5]
        batch = [torch.cat(column) for column in (*columns, advantages)]
        for _ in range(NUM_EPOCHS):
            for chosen in torch.randperm(NUM_ENVS * NUM_STEPS).split(MINIBATCH):
                old_rows, old_masks, actions, log_probs, values, advantages = (
                    column[chosen] for column in batch
                )
                choice = policy(actor, old_rows, old_masks)
                ratio = (choice.log_prob(actions) - log_probs).exp()
                scaled = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
                clipped = ratio.clamp(1 - CLIP, 1 + CLIP)
                gain = torch.min(ratio * scaled, clipped * scaled).mean()
                errors = critic(old_rows)[:, 0] - values - advantages
                loss = VALUE_WEIGHT * errors.square().mean()
                loss -= gain + ENTROPY_BONUS * choice.entropy().mean()
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(weights, MOST_GRADIENT_NORM)
                optimizer.step()
    return actor


@torch.no_grad()
def evaluate(actor: nn.Module, env_id: str, episodes: int) -> float:
    """Return the mean return of the likeliest actions in test episodes."""
    envs = gym.make_vec(env_id, episodes, autoreset_mode="SameStep", split="test")
    rows, masks = tensors(*envs.reset(seed=0))
    returns, going = np.zeros(episodes), np.ones(episodes, np.bool_)
    while going.any():
        actions = policy(actor, rows, masks).probs.argmax(1)
        observations, rewards, terminated, _, infos = envs.step(actions.numpy())
        returns += rewards * going
        going &= ~terminated
        rows, masks = tensors(observations, infos)
    return float(returns.mean())


def main(env_id: str = "OGS-Medical-v0") -> None:
    """Train on the training split, and print the mean return on the test split."""
    torch.manual_seed(0)
    mean = evaluate(train(env_id), env_id, episodes=50)
    print(f"cleanrl_style_ppo: {env_id} returns {mean:.2f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
