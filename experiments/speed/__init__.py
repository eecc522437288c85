"""The command `ogs speed`: ratios of speed, memory, and what both depend on."""

from ogs_env.experiments.speed.command import Options, run

__all__ = ["Options", "run"]
