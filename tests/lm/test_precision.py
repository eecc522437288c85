"""The faster precision is chosen, and measured once per machine."""

import json

import pytest
import torch

from ogs_env.lm import precision
from ogs_env.lm.precision import default_precision, measure_rates

FAST_BF16 = {"float32": 100.0, "bfloat16": 900.0}
FAST_FLOAT = {"float32": 91.0, "bfloat16": 57.0}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache folder, on a machine without a GPU."""
    monkeypatch.setenv("OGS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    default_precision.cache_clear()
    yield tmp_path / "cache"
    default_precision.cache_clear()


@pytest.fixture
def measured(monkeypatch):
    """Set the measured rates; return a list with an entry for each measurement."""

    def set_rates(rates):
        calls = []
        monkeypatch.setattr(
            precision, "measure_rates", lambda: calls.append(1) or dict(rates)
        )
        default_precision.cache_clear()
        return calls

    return set_rates


@pytest.mark.parametrize(
    ("rates", "expected"),
    [
        (FAST_BF16, "bfloat16"),
        (FAST_FLOAT, "float32"),
        ({"float32": 100, "bfloat16": 109}, "float32"),
        ({"float32": 100, "bfloat16": 111}, "bfloat16"),
    ],
)
def test_the_choice_follows_the_rates(cache, measured, rates, expected):
    measured(rates)
    assert default_precision() == expected


def test_a_gpu_is_not_measured(cache, measured, monkeypatch):
    calls = measured(FAST_FLOAT)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert default_precision() == "bfloat16"
    assert not calls


def test_the_next_process_reads_the_cache(cache, measured):
    assert len(measured(FAST_BF16)) == 0
    assert default_precision() == "bfloat16"
    calls = measured(FAST_FLOAT)  # as in a new process
    assert default_precision() == "bfloat16"
    assert not calls


def test_another_release_of_torch_is_measured_too(cache, measured, monkeypatch):
    measured(FAST_BF16)
    assert default_precision() == "bfloat16"
    measured(FAST_FLOAT)
    monkeypatch.setattr(torch, "__version__", "99.0")
    assert default_precision() == "float32"
    cached = json.loads((cache / "precision.json").read_text())
    assert sorted(rates["bfloat16"] for rates in cached.values()) == [57.0, 900.0]


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "\x00", '{"%s": 3}', '{"%s": {"float32": "fast"}}']
)
def test_a_broken_cache_is_measured_again(cache, measured, content):
    measured(FAST_BF16)
    default_precision()
    file = cache / "precision.json"
    [machine] = json.loads(file.read_text())
    file.write_text(content.replace("%s", machine))
    calls = measured(FAST_FLOAT)
    assert default_precision() == "float32"
    assert calls == [1]
    assert json.loads(file.read_text())[machine] == FAST_FLOAT


def test_a_cache_that_cannot_be_written_is_no_error(cache, measured):
    cache.write_text("a file where the folder should be")
    calls = measured(FAST_BF16)
    assert default_precision() == default_precision() == "bfloat16"
    assert calls == [1]


def test_rates_are_measured_on_one_thread_and_leave_the_threads():
    torch.set_num_threads(2)
    try:
        rates = measure_rates()
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    # Plausible GFLOP/s of any processor.
    assert all(0.1 < rate < 1e5 for rate in rates.values())
    assert set(rates) == {"float32", "bfloat16"}
