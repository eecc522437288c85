"""The README's Python, run as a reader would."""

import re
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS, ids=["ten lines", "navigator"])
def test_the_examples_run(block, capsys):
    assert "learn(" in block
    shorter = block.replace('env, device="cpu"', 'env, device="cpu", n_steps=64')
    exec(re.sub(r"learn\([\d_]+\)", "learn(64)", shorter), {})
    assert ("[" in capsys.readouterr().out) is ("print" in block)
