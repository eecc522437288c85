import subprocess
import sys

import gymnasium
import pytest

import ogs_env
from ogs_env.errors import InputError

# Blocks every import but the standard library's and these; cloudpickle,
# farama_notifications and typing_extensions are what gymnasium itself imports.
LIGHT = """
import sys
allowed = set(sys.stdlib_module_names) | {
    "ogs_env", "numpy", "gymnasium", "safetensors",
    "cloudpickle", "farama_notifications", "typing_extensions",
}
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in allowed:
            raise ModuleNotFoundError(f"{name} is blocked", name=name)
sys.meta_path.insert(0, Block())
for name in ("torch", "transformers", "stable_baselines3"):
    try:
        __import__(name)
    except ImportError:
        pass
    else:
        raise AssertionError(f"{name} was not blocked")
"""


def run_light(code: str) -> str:
    result = subprocess.run(
        [sys.executable, "-c", LIGHT + code], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_an_episode_needs_only_numpy_gymnasium_and_safetensors(
    bundle_folder: object,
) -> None:
    out = run_light(
        f"""
import gymnasium, ogs_env
env = gymnasium.make("OGS-Custom-v0", bundle={str(bundle_folder)!r}, budget=1)
env.reset(seed=0)
print(env.step(0)[2])
"""
    )
    assert out == "True\n"


def test_importing_loads_no_environment() -> None:
    out = run_light(
        "import ogs_env; print([n for n in sys.modules if 'ogs_env.envs' in n])"
    )
    assert out == "[]\n"


def test_ids_are_found_through_the_module_prefix(bundle_folder: object) -> None:
    out = run_light(
        f"""
import gymnasium
env = gymnasium.make("ogs_env:OGS-Custom-v0", bundle={str(bundle_folder)!r})
print(env.spec.id, env.spec.max_episode_steps)
"""
    )
    assert out == "OGS-Custom-v0 None\n"


def test_registration_is_idempotent(recwarn: pytest.WarningsRecorder) -> None:
    before = dict(gymnasium.registry)
    ogs_env._register()
    assert gymnasium.registry == before
    assert len(recwarn) == 0


def test_custom_needs_a_bundle() -> None:
    with pytest.raises(InputError, match=r"bundle: missing; expected .* bundle='runs"):
        gymnasium.make("OGS-Custom-v0")


def test_the_live_id_says_what_it_needs() -> None:
    out = run_light(
        """
import gymnasium, ogs_env
try:
    gymnasium.make("OGS-Medical-Live-v0")
except ogs_env.InputError as error:
    print(error)
"""
    )
    assert "'live': the package torch is not installed; run `pip install" in out


def test_only_live_ids_are_nondeterministic() -> None:
    ours = {name: spec for name, spec in gymnasium.registry.items() if "OGS-" in name}
    nondeterministic = {name for name, spec in ours.items() if spec.nondeterministic}
    assert "OGS-Medical-Live-v0" in nondeterministic
    assert nondeterministic == {name for name in ours if "-Live-" in name}
