"""The README's Python, run as a reader would."""

import re
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"


def test_the_ppo_example_runs(capsys):
    [block] = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert "learn(20_000)" in block
    shorter = block.replace('env, device="cpu"', 'env, device="cpu", n_steps=64')
    exec(shorter.replace("learn(20_000)", "learn(64)"), {})
    assert "[" in capsys.readouterr().out
