import copy
from collections.abc import Callable

import gymnasium
import pytest
from gymnasium.envs.registration import EnvSpec

import ogs_env  # noqa: F401

IDS = sorted(name for name in gymnasium.registry if name.startswith("OGS-"))
# Tests run these on one small bundle, where they are all the same.
LIVE = [name for name in IDS if gymnasium.spec(name).kwargs.get("learner") == "live"]
# One id of every environment class, on the test bundle: for slow tests whose result
# does not depend on the bundle.
CLASSES = sorted(
    {
        gymnasium.spec(name).entry_point: name for name in IDS if "Custom" in name
    }.values()
)


@pytest.fixture
def spec_of(request: pytest.FixtureRequest) -> Callable[[str], EnvSpec]:
    """Return the spec of an id, with the arguments that it requires."""

    def find(name: str) -> EnvSpec:
        spec = copy.deepcopy(gymnasium.spec(name))
        if spec.kwargs.get("learner") == "live":  # on a model of a few weights
            files = request.getfixturevalue("live_files")
            spec.kwargs |= {
                "bundle": files.bundle,
                "live": {"texts": files.texts, "batch": 2, "evaluate_every": 3},
                "num_slates": 4,
            }
        elif not spec.kwargs["bundle"]:
            spec.kwargs["bundle"] = str(request.getfixturevalue("bundle_folder"))
        return spec

    return find


@pytest.fixture(params=[name for name in IDS if name not in LIVE[1:]])
def spec(request: pytest.FixtureRequest, spec_of: Callable[[str], EnvSpec]) -> EnvSpec:
    """Every registered id; one of those that train a language model."""
    return spec_of(request.param)


@pytest.fixture(params=CLASSES)
def class_spec(
    request: pytest.FixtureRequest, spec_of: Callable[[str], EnvSpec]
) -> EnvSpec:
    """One id of every environment class."""
    return spec_of(request.param)
