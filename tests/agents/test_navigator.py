import copy
import json

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Discrete
from gymnasium.wrappers import FilterObservation, FlattenObservation, TransformAction
from hypothesis import given, settings
from hypothesis import strategies as st
from sb3_contrib import MaskablePPO
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from ogs_env.agents.navigator import Navigator, build_network
from ogs_env.agents.network import MaskableNavigatorPolicy, NavigatorPolicy
from ogs_env.errors import InputError

ROW, CONTEXT, SLATE = 39, 104, 16


def make_agent(seed=0, skips=True):
    network = build_network(ROW, CONTEXT, width=64, skips=skips)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():  # heads start near zero; a trained network's do not
        for tensor in network.parameters():
            tensor.copy_(0.3 * torch.randn(tensor.shape, generator=generator))
    environment = {"slate_size": SLATE, "num_slates": 16, "budget": 32}
    description = {"space": "s", "bundle": "b", "environment": environment}
    return Navigator(network, description)


def make_observations(rng, batch=8, slate_size=SLATE):
    masks = rng.random((batch, slate_size + 1)) < 0.6
    masks[:, -1] = True
    candidates = rng.normal(size=(batch, slate_size, ROW)).astype(np.float32)
    candidates[..., -1] = 1.0
    candidates[~masks[:, :-1]] = 0.0
    context = rng.normal(size=(batch, CONTEXT)).astype(np.float32)
    return {"candidates": candidates, "context": context}, masks


def values(agent, observation):
    tensors = {key: torch.as_tensor(value) for key, value in observation.items()}
    with torch.no_grad():
        return agent.network.forward_critic(tensors).numpy()


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_reordered_slate_reorders_logits_and_keeps_value(seed):
    rng = np.random.default_rng(seed)
    agent = make_agent(seed=seed)
    observation, masks = make_observations(rng)
    order = rng.permutation(SLATE)
    moved = {**observation, "candidates": observation["candidates"][:, order]}
    whole = np.append(order, SLATE)
    before = agent.log_probabilities(observation, masks)
    after = agent.log_probabilities(moved, masks[:, whole])
    valid = masks[:, whole]
    np.testing.assert_allclose(after[valid], before[:, whole][valid], atol=1e-4)
    np.testing.assert_allclose(
        values(agent, moved), values(agent, observation), atol=1e-4
    )


def test_each_candidate_and_the_context_matter():
    rng = np.random.default_rng(0)
    agent = make_agent()
    observation, _ = make_observations(rng, batch=1)
    observation["candidates"][..., -1] = 1.0
    masks = np.ones((1, SLATE + 1), bool)
    before = agent.log_probabilities(observation, masks)
    for place in (0, SLATE - 1):
        changed = {key: value.copy() for key, value in observation.items()}
        changed["candidates"][0, place, 3] += 1.0
        assert not np.allclose(agent.log_probabilities(changed, masks), before)
    changed = {**observation, "context": observation["context"] + 1.0}
    assert not np.allclose(agent.log_probabilities(changed, masks), before)


def test_masked_actions_are_never_taken():
    rng = np.random.default_rng(1)
    agent = make_agent()
    observation, masks = make_observations(rng, batch=200)
    actions = agent.act(observation, masks)
    assert masks[np.arange(200), actions].all()
    assert len(set(actions.tolist())) > 5
    probabilities = np.exp(agent.log_probabilities(observation, masks))
    assert (probabilities[~masks] == 0).all()
    np.testing.assert_allclose(probabilities.sum(1), 1.0, atol=1e-5)


def test_empty_places_need_no_mask():
    observation, masks = make_observations(np.random.default_rng(4))
    agent = make_agent()
    np.testing.assert_allclose(
        agent.log_probabilities(observation, np.ones_like(masks))[masks],
        agent.log_probabilities(observation, masks)[masks],
        atol=1e-5,
    )


@pytest.mark.parametrize("env", ["OGS-Custom-v0", "OGS-Custom-Mixture-v0"])
@pytest.mark.parametrize(
    ("algorithm", "policy"),
    [(PPO, NavigatorPolicy), (MaskablePPO, MaskableNavigatorPolicy)],
)
def test_policy_classes_learn_and_take_valid_actions(
    bundle_folder, env, algorithm, policy
):
    environment = gymnasium.make(env, bundle=str(bundle_folder))
    model = algorithm(policy, environment, n_steps=64, device="cpu", seed=0)
    before = copy.deepcopy(model.policy.state_dict())
    model.learn(128)
    assert any(
        not torch.equal(before[k], v) for k, v in model.policy.state_dict().items()
    )
    observation, info = environment.reset(seed=1)
    over = False
    while not over:
        action, _ = model.predict(observation)  # plain PPO gets no mask
        assert info["action_mask"][action]
        observation, _, terminated, truncated, info = environment.step(action)
        assert not info["invalid_action"]
        over = terminated or truncated
    agent = Navigator(model.policy.mlp_extractor, {})
    observation, info = environment.reset(seed=2)
    best, _ = model.predict(observation, deterministic=True)
    mask = info["action_mask"].astype(bool)
    logs = agent.log_probabilities(
        {k: v[None] for k, v in observation.items()}, mask[None]
    )
    assert logs[0].argmax() == best


@pytest.mark.parametrize("policy", [NavigatorPolicy, MaskableNavigatorPolicy])
def test_a_saved_policy_loads_equal(bundle_folder, tmp_path, policy):
    environment = gymnasium.make("OGS-Custom-v0", bundle=str(bundle_folder))
    algorithm = PPO if policy is NavigatorPolicy else MaskablePPO
    kwargs = {"width": 16, "optimizer_kwargs": {"eps": 1e-4}}
    model = algorithm(policy, environment, policy_kwargs=kwargs, device="cpu", seed=0)
    model.policy.save(tmp_path / "policy")
    model.save(tmp_path / "model")
    loaded = policy.load(tmp_path / "policy", device="cpu")
    assert loaded.optimizer.defaults["eps"] == 1e-4
    again = algorithm.load(tmp_path / "model", environment, device="cpu").policy
    observation, _ = environment.reset(seed=0)
    tensors = model.policy.obs_to_tensor(observation)[0]
    expected = model.policy.get_distribution(tensors).distribution.probs
    for other in loaded, again:
        assert other.width == 16
        assert torch.equal(other.get_distribution(tensors).distribution.probs, expected)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"net_arch": [64]}, "unknown policy_kwargs 'net_arch'; known: optimizer_"),
        ({"widht": 8}, "unknown policy_kwargs 'widht'; did you mean width"),
        ({"width": 0}, "policy_kwargs: width: 0; expected at least 1"),
        ({"use_sde": True}, "use_sde: True; expected False"),
    ],
)
@pytest.mark.parametrize("policy", [NavigatorPolicy, MaskableNavigatorPolicy])
def test_policy_classes_refuse_unknown_arguments(
    bundle_folder, policy, kwargs, message
):
    env = gymnasium.make("OGS-Custom-v0", bundle=str(bundle_folder))
    spaces = env.observation_space, env.action_space
    with pytest.raises(InputError, match=message):
        policy(*spaces, lambda _: 1e-3, **kwargs)


@pytest.mark.parametrize("env_id", ["OGS-Custom-v0", "OGS-Custom-Mixture-v0"])
@pytest.mark.parametrize("policy", [NavigatorPolicy, MaskableNavigatorPolicy])
def test_policy_classes_refuse_normalised_observations(bundle_folder, env_id, policy):
    envs = make_vec_env(env_id, 2, env_kwargs={"bundle": str(bundle_folder)})
    algorithm = PPO if policy is NavigatorPolicy else MaskablePPO
    settings = {"n_steps": 32, "batch_size": 32, "device": "cpu", "seed": 0}
    with pytest.raises(InputError, match="valid actions is changed, as by VecNormal"):
        algorithm(policy, VecNormalize(envs), **settings).learn(64)
    algorithm(policy, VecNormalize(envs, norm_obs=False), **settings).learn(64)


@pytest.mark.parametrize("env_id", ["OGS-Custom-v0", "OGS-Custom-Mixture-v0"])
def test_policy_classes_refuse_other_spaces(bundle_folder, env_id):
    env = gymnasium.make(env_id, bundle=str(bundle_folder))
    for other in (
        FlattenObservation(env),
        FilterObservation(env, ["context"]),
        TransformAction(env, lambda action: action - 1, Discrete(99)),
        gymnasium.make("CartPole-v1"),
    ):
        with pytest.raises(InputError, match="expected those of a SelectionEnv or a M"):
            PPO(NavigatorPolicy, other)


def test_clusters_are_rated_in_any_order():
    rng = np.random.default_rng(5)
    agent = make_agent(skips=False)
    clusters = rng.normal(size=(6, 12, ROW)).astype(np.float32)
    clusters[..., 0] = rng.random((6, 12)) * (rng.random((6, 12)) < 0.7) + 1e-6
    clusters[:, 3, 0] = 0
    context = rng.normal(size=(6, CONTEXT)).astype(np.float32)
    masks = clusters[..., 0] > 0
    order = rng.permutation(12)
    before = agent.log_probabilities({"clusters": clusters, "context": context}, masks)
    moved = {"clusters": clusters[:, order], "context": context}
    after = agent.log_probabilities(moved, masks[:, order])
    np.testing.assert_allclose(after, before[:, order], atol=1e-4)
    assert (before[:, 3] < -1e7).all()


def test_empty_places_change_nothing():
    rng = np.random.default_rng(2)
    observation, masks = make_observations(rng, batch=4)
    wide = {
        "candidates": np.pad(observation["candidates"], ((0, 0), (0, 5), (0, 0))),
        "context": observation["context"],
    }
    wide_masks = np.concatenate(
        [masks[:, :SLATE], np.zeros((4, 5), bool), masks[:, SLATE:]], axis=1
    )
    narrow = make_agent().log_probabilities(observation, masks)
    padded = make_agent().log_probabilities(wide, wide_masks)
    np.testing.assert_allclose(padded[wide_masks], narrow[masks], atol=1e-4)


def test_an_empty_slate_gives_finite_numbers():
    agent = make_agent()
    observation = {
        "candidates": np.zeros((1, SLATE, ROW), np.float32),
        "context": np.zeros((1, CONTEXT), np.float32),
    }
    masks = np.zeros((1, SLATE + 1), bool)
    masks[:, -1] = True
    assert agent.log_probabilities(observation, masks).argmax() == SLATE
    assert np.isfinite(values(agent, observation)).all()


@pytest.mark.parametrize("slate_size", [1, SLATE, 40])
def test_save_and_load_give_equal_actions_at_any_slate_size(tmp_path, slate_size):
    make_agent().save(tmp_path / "agent")
    rng = np.random.default_rng(3)
    observation, masks = make_observations(rng, 50, slate_size)
    loaded = Navigator.load(tmp_path / "agent")
    expected = make_agent().log_probabilities(observation, masks)
    log_probabilities = loaded.log_probabilities(observation, masks)
    np.testing.assert_array_equal(log_probabilities, expected)
    one = {key: value[7] for key, value in observation.items()}
    info = {"action_mask": masks[7].astype(np.int8)}
    assert loaded(one, info, None) == loaded.act(observation, masks)[7]


def test_load_leaves_global_generators_alone(tmp_path):
    make_agent().save(tmp_path)
    before = torch.random.get_rng_state()
    Navigator.load(tmp_path)
    assert torch.equal(before, torch.random.get_rng_state())


def test_missing_files_raise(tmp_path):
    with pytest.raises(InputError, match=r"agent\.json: no such file"):
        Navigator.load(tmp_path / "none")
    make_agent().save(tmp_path)
    (tmp_path / "policy.safetensors").unlink()
    with pytest.raises(InputError, match=r"policy\.safetensors: cannot be read"):
        Navigator.load(tmp_path)


def edit(folder, change):
    file = folder / "agent.json"
    description = json.loads(file.read_text())
    change(description)
    file.write_text(json.dumps(description))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(format_version=99), "format version 99"),
        (lambda d: d.update(format="zip"), "is no description of an ogs_env agent"),
        (lambda d: d.pop("space"), "lacks 'space'"),
        (lambda d: d["network"].update(width=32), "has shape"),
        (lambda d: d["network"].update(row=12), "'actor.row.weight' has shape"),
        (lambda d: d["network"].update(width=-1), "'network.width' is -1"),
        (lambda d: d["network"].update(skips=1), "'network.skips' is 1"),
        (
            lambda d: d["network"].pop("skips"),
            "'network' must have exactly the keys",
        ),
        (lambda d: d.update(weights_sha256="0"), "sha256"),
    ],
)
def test_wrong_descriptions_raise(tmp_path, change, message):
    make_agent().save(tmp_path)
    edit(tmp_path, change)
    with pytest.raises(InputError, match=message) as caught:
        Navigator.load(tmp_path)
    assert "\n" not in str(caught.value)


def test_damaged_weights_raise(tmp_path):
    import hashlib

    make_agent().save(tmp_path)
    (tmp_path / "policy.safetensors").write_bytes(b"no tensors")
    digest = hashlib.sha256(b"no tensors").hexdigest()
    edit(tmp_path, lambda d: d.update(weights_sha256=digest))
    with pytest.raises(InputError, match="is no safetensors file"):
        Navigator.load(tmp_path)


def test_a_failed_save_leaves_the_old_agent(tmp_path):
    make_agent(seed=1).save(tmp_path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    broken = make_agent(seed=2)
    broken.description["settings"] = object()  # no JSON: fails while it is written
    with pytest.raises(TypeError):
        broken.save(tmp_path)
    after = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    assert after == before


@pytest.mark.parametrize("skips", [True, False])
def test_folded_agreement_is_the_plain_one(skips):
    """Rows of one domain are encoded alone as in a batch with other domains."""
    agent = make_agent(skips=skips)
    generator = torch.Generator().manual_seed(3)
    rows = torch.randn(6, SLATE, ROW, generator=generator)
    context = torch.randn(6, CONTEXT, generator=generator)
    context[:5] = context[:1]
    for trunk in (agent.network.actor, agent.network.critic):
        here = trunk.direction
        agreement = rows[..., here] * context[:, None, : here.stop - here.start]
        plain = trunk.row(torch.cat([rows, agreement], dim=-1))
        torch.testing.assert_close(trunk._read(rows, context), plain)
        folded = trunk._read(rows[:5], context[:5])
        torch.testing.assert_close(folded, plain[:5], atol=1e-4, rtol=1e-4)
