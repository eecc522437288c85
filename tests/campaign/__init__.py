"""Robustness campaign: damaged files, killed commands, and workers at work for long.

`make campaign` runs all of it and docs/robustness.md says what it found. No part of
`make test`.
"""

import os

# Set before numpy and torch start; processes of the campaign inherit them.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
for _name in ("OGS_DATA", "WANDB_SWEEP_ID"):
    os.environ.pop(_name, None)
