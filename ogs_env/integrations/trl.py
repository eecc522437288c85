"""Re-selection of training data in TRL's SFTTrainer; see `integrations.trainer`."""

from ogs_env.integrations.trainer import Reselection, SelectionSampler

__all__ = ["Reselection", "SelectionSampler"]
