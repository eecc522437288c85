"""The Navigator: a trained agent that picks candidates from slates of any size.

It is saved as plain tensors and JSON.
"""

import contextlib
import hashlib
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from ogs_env.agents.network import NEVER, SCALARS, Network
from ogs_env.bundle import Bundle
from ogs_env.errors import InputError
from ogs_env.files import read_versioned, whole_file
from ogs_env.hub import Kind, download, hub_copy, hub_repository, upload
from ogs_env.threads import used_threads

FORMAT = "ogs-agent"
FORMAT_VERSION = 5
DESCRIPTION = "agent.json"
WEIGHTS = "policy.safetensors"
HUB_KIND = Kind(
    what="agent",
    repo_type="model",
    marker=DESCRIPTION,
    files=lambda _: [WEIGHTS],
    beside=(),
    maker="`ogs train`",
)
"""Agents on the Hugging Face hub are model repositories."""

Observation = dict[str, NDArray[np.float32]]


@dataclass
class Navigator:
    """A trained network and its description.

    Attributes:
        network: The `mlp_extractor` of an SB3 policy; to continue training, call
            `model.policy.mlp_extractor.load_state_dict(agent.network.state_dict())`.
        description: JSON-able: bundle, sketch space, environment, settings, training
            summary.
    """

    network: Network
    description: dict[str, Any]

    def log_probabilities(
        self, observation: Observation, masks: NDArray[np.bool_]
    ) -> NDArray[np.float32]:
        """Return log-probabilities of the actions, below -1e7 for invalid ones.

        Args:
            observation: A batch of observations.
            masks: bool (batch, actions), True where valid.

        Returns:
            float32 (batch, actions).
        """
        tensors = {key: torch.as_tensor(value) for key, value in observation.items()}
        with torch.inference_mode():
            logits = self.network.forward_actor(tensors)
            valid = logits.masked_fill(~torch.as_tensor(masks), NEVER)
            return torch.log_softmax(valid, dim=1).numpy()

    def act(
        self, observation: Observation, masks: NDArray[np.bool_]
    ) -> NDArray[np.int64]:
        """Return the deterministic action (batch,) for each observation.

        It is a skip where skipping is likelier than all picks together, else the
        likeliest candidate. The single likeliest action would skip too often, since
        several similar candidates share the probability of a pick.
        """
        logs = self.log_probabilities(observation, masks)
        if not self.network.skips:
            return logs.argmax(axis=1)
        picks = logs[:, :-1]
        skips = np.exp(logs[:, -1]) > 0.5
        return np.where(skips, picks.shape[1], picks.argmax(axis=1))

    def __call__(
        self,
        observation: Observation,
        info: dict[str, Any],
        env: gymnasium.Env[Any, Any],
    ) -> int:
        """Return the deterministic action for one observation, as a policy."""
        batch = {key: value[None] for key, value in observation.items()}
        mask = np.asarray(info["action_mask"], bool)
        return int(self.act(batch, mask[None])[0])

    def check_env(self, env: gymnasium.Env[Any, Any], source: Path | str) -> None:
        """Check that the agent can act in an environment.

        Args:
            env: A `SelectionEnv` or a `MixtureEnv`, wrapped or not.
            source: Folder of the agent, for the error line.

        Raises:
            InputError: If the agent was trained in another class of environment or in
                another sketch space, or if it reads other columns.
        """
        inner: Any = env.unwrapped
        bundle: Bundle = inner.bundle
        space: Any = inner.observation_space
        if (
            self.network.key not in space.spaces
            or self.description["space"] != bundle.space
        ):
            raise InputError(
                f"{source}: the agent cannot act in {type(inner).__name__} of bundle "
                f"'{bundle.name}'; expected an agent that was trained in a "
                f"{type(inner).__name__} and in sketch space '{bundle.space}'"
            )
        self.check_columns(bundle, source)

    def check_columns(self, bundle: Bundle, source: Path | str) -> None:
        """Check that the rows of a bundle's candidates fit the network.

        Args:
            bundle: The candidates' bundle.
            source: Folder of the agent, for the error line.

        Raises:
            InputError: If the rows have another number of columns.
        """
        row = bundle.basis.shape[1] + SCALARS[self.network.key]
        columns = self.network.shape["row"]
        if row != columns:
            raise InputError(
                f"{source}: the agent reads {columns} columns a candidate, bundle "
                f"'{bundle.name}' shows {row}: its basis is another one; build it "
                "again with the proxy's shipped basis, or train an agent on it"
            )

    def save(self, folder: Path) -> None:
        """Write the agent to a folder; an existing agent is replaced atomically.

        Args:
            folder: Folder of `policy.safetensors` and `agent.json`.

        Raises:
            InputError: If the folder cannot be written.
        """
        state = self.network.state_dict()
        tensors = {name: tensor.contiguous() for name, tensor in state.items()}
        data = save_tensors(tensors)
        description = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            **self.description,
            "network": {**self.network.shape, "skips": self.network.skips},
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
    def load(cls, folder: Path) -> "Navigator":
        """Load an agent; this runs no code from its files.

        Args:
            folder: Folder written by `save`.

        Raises:
            InputError: If a file is missing, damaged or of another version, or the
                files do not fit each other.
        """
        description = _read_description(folder / DESCRIPTION)
        tensors = _read_weights(folder / WEIGHTS, description["weights_sha256"])
        with torch.device("meta"):  # needs no memory, whatever the description says
            state = build_network(**description["network"]).state_dict()
        expected = {name: tensor.shape for name, tensor in state.items()}
        shapes = {name: tensor.shape for name, tensor in tensors.items()}
        for name in sorted(expected.keys() | shapes.keys()):
            if expected.get(name) != shapes.get(name):
                raise InputError(
                    f"{folder / WEIGHTS}: tensor '{name}' has shape "
                    f"{_shape(shapes.get(name))}, {DESCRIPTION} asks for "
                    f"{_shape(expected.get(name))}; train the agent again"
                )
        network = build_network(**description["network"])
        network.load_state_dict(tensors)
        return cls(network, description)

    @classmethod
    def from_pretrained(
        cls,
        name_or_folder: str | Path,
        *,
        revision: str | None = None,
        token: str | bool | None = None,
    ) -> "Navigator":
        """Load an agent from the Hugging Face hub, or from a folder.

        Args:
            name_or_folder: `OWNER/NAME` or `OWNER/NAME@REVISION` of a model
                repository, or a folder written by `save`. A folder of that name wins;
                a `Path` is always a folder.
            revision: Branch, tag or commit of the repository.
            token: Token of the hub; by default that of `hf auth login` or `HF_TOKEN`.

        Raises:
            InputError: If it cannot be downloaded, or is no agent.
        """
        folder = Path(name_or_folder)
        repository = hub_repository(name_or_folder, HUB_KIND, revision)
        if repository is None or folder.is_dir():
            return cls.load(folder)
        folder = download(repository, token=token)
        with hub_copy(repository, folder):
            return cls.load(folder)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        commit_message: str | None = None,
        private: bool | None = None,
        token: str | None = None,
        revision: str | None = None,
        licence: str | None = None,
    ) -> str:
        """Push the agent's files, as `save` writes them, and a card to the hub.

        Args:
            repo_id: `OWNER/NAME` of a model repository, made if it does not exist.
            commit_message: Message of the commit.
            private: Whether a new repository is private; by default as the owner's
                settings say.
            token: Token of the hub; by default that of `hf auth login` or `HF_TOKEN`.
            revision: Branch, made if it does not exist; by default `main`.
            licence: The hub's identifier of a licence, for the card; by default those
                of the sources of the bundle that the agent was trained on, if it is a
                shipped one.

        Returns:
            Address of the commit.

        Raises:
            InputError: If the hub cannot be reached or refuses.
        """
        from ogs_env.agents.card import agent_card

        card = agent_card(self.description, repo_id, licence)
        with tempfile.TemporaryDirectory() as folder:
            self.save(Path(folder))
            return upload(
                Path(folder),
                repo_id,
                HUB_KIND,
                card,
                commit_message=commit_message,
                private=private,
                token=token,
                revision=revision,
            )


def one_thread() -> contextlib.AbstractContextManager[None]:
    """Run torch on one thread, which is much faster on small tensors."""
    return used_threads(1)


def build_network(
    row: int, context: int, width: int, skips: bool, seed: int = 0
) -> Network:
    """Build an untrained network without changing torch's global generator."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Network(row, context, width, skips)


def _shape(shape: torch.Size | None) -> str:
    return "none" if shape is None else str(tuple(shape))


def _read_description(file: Path) -> dict[str, Any]:
    what, remedy = "description of an ogs_env agent", "train the agent again"
    required = ("space", "environment", "network", "weights_sha256")
    description = read_versioned(file, what, FORMAT, FORMAT_VERSION, required, remedy)
    keys = {"row", "context", "width", "skips"}
    if not isinstance(description["network"], dict) or keys != set(
        description["network"]
    ):
        raise InputError(
            f"{file}: 'network' must have exactly the keys {', '.join(sorted(keys))}; "
            "train the agent again"
        )
    for key, value in description["network"].items():
        is_size = isinstance(value, int) and 1 <= value <= 1_000_000
        if not (isinstance(value, bool) if key == "skips" else is_size):
            raise InputError(
                f"{file}: 'network.{key}' is {value!r}, expected a positive "
                "integer (true or false for 'skips'); train the agent again"
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
            f"{file}: its sha256 differs from the one in {DESCRIPTION}; copy both "
            "files again or train the agent again"
        )
    try:
        return load_tensors(data)
    except SafetensorError as error:
        raise InputError(f"{file}: is no safetensors file ({error})") from None
