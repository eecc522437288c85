"""Options of `ogs adapt`."""

from dataclasses import dataclass, field
from pathlib import Path

from ogs_env.agents.screening import SCREENED
from ogs_env.agents.selector import READERS, SELECTORS
from ogs_env.errors import InputError, unknown_name
from ogs_env.experiments.finetune import FinetuneSettings
from ogs_env.experiments.tracking.logger import LogOptions
from ogs_env.learners.fitted import EPOCHS
from ogs_env.sketching.command import DataOptions
from ogs_env.sketching.settings import SketchSettings

AUTO, NAVIGATOR = "auto", "navigator"
# `all` does not select; the others left out need texts or a field of the records.
COMPARED = [name for name in SELECTORS if name not in {"all", "metadata", *READERS}]


def auto_selectors(navigator: str) -> list[str]:
    """Return what `auto` compares: random picks, and all selectors screened.

    Args:
        navigator: Name of the Navigator.
    """
    return ["random", *(SCREENED + name for name in (*COMPARED, navigator))]


@dataclass(frozen=True, kw_only=True)
class Options(FinetuneSettings, DataOptions, LogOptions):
    """Options of `ogs adapt`.

    Attributes:
        pool: Candidates, a file or a dataset on the hub as NAME[:CONFIG][@SPLIT].
        out: Folder of the outputs.
        budget: Number of samples to select: 64, or 10% of the pool.
        agent: What selects: auto for what is best in the environment among the
            candidates most like the domain; navigator, a selector's name or an agent's
            folder for the whole pool, or among those candidates as screened-NAME.
        compare: Selectors on whose selections the target is fine-tuned as well.
        draws: Number of random selections, if `random` is compared.
        seed: Seed of all random choices.
        proxy: Model whose gradients are sketched: a name, a folder, a GGUF file or a
            Hugging Face id.
        train_steps: Environment steps of the Navigator's training.
        epochs: Number of passes of fine-tuning over a selection.
        layers: Decoder layers, counted from the last, that are sketched and fine-tuned.
    """

    pool: str = field(metadata={"positional": True, "metavar": "POOL"})
    out: Path
    budget: str = "10%"
    agent: str = AUTO
    compare: tuple[str, ...] = field(default=(), metadata={"metavar": "SELECTOR"})
    draws: int = 1
    seed: int = 0
    proxy: str = SketchSettings.proxy
    train_steps: int = 600_000
    epochs: int = EPOCHS

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.draws < 1:
            raise InputError(f"--draws: {self.draws}; expected at least 1")
        if self.train_steps < 1:
            raise InputError(f"--train-steps: {self.train_steps}; expected 1 or more")
        for name in self.compare:
            if name not in COMPARED:
                raise unknown_name("selector to compare with", name, COMPARED)

    def compared(self) -> dict[str, tuple[str, int]]:
        """Return selector and seed of the further selections, by name."""
        selections: dict[str, tuple[str, int]] = {}
        for name in dict.fromkeys(self.compare):
            draws = self.draws if name == "random" else 1
            for draw in range(draws):
                label = name if draws == 1 else f"{name}-{draw}"
                selections[label] = name, self.seed + draw
        return selections
