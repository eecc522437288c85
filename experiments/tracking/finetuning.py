"""Log comparisons of selectors, and fine-tunings of a target.

- `comparison`: a table of the selectors' values in the environment, with 95 %
  intervals, and the forgetting that is predicted.
- `finetune/NAME/loss`: the training loss on each selection, nats per response token.
- `finetune/NAME/domain_change`, `finetune/NAME/forgetting`: the change of the loss on
  the domain's test samples and on the model's own answers, percent.
- `results`: a table of both with 95 % intervals.
- `report`: the page.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ogs_env.experiments.contrasts import MEASURED, change, mean_change
from ogs_env.experiments.tracking.logger import STEP, Logger

_CHANGES = dict(zip(MEASURED, ("domain_change", "forgetting"), strict=True))


def log_comparison(log: Logger, summary: Mapping[str, Mapping[str, float]]) -> None:
    """Log a comparison of selectors, highest mean value first.

    Args:
        log: The logger.
        summary: Result of `comparison_summary`.
    """
    names = sorted(summary, key=lambda name: -summary[name]["mean"])
    columns = ("mean", "low", "high", "forgetting")
    rows = [[name, *(summary[name][column] for column in columns)] for name in names]
    log.table("comparison", ["selector", "value", *columns[1:]], rows)


def log_finetuning(log: Logger, result: Mapping[str, Any]) -> None:
    """Log a fine-tuning, a result of `finetune`."""
    group, axis = f"finetune/{result['selection']}", f"finetune/{STEP}"
    losses = result["training_loss"]
    for step, loss in enumerate(losses, start=1):
        log.numbers({f"{group}/loss": loss}, step, axis)
    changes = {name: mean_change(result, role) for role, name in _CHANGES.items()}
    named = {f"{group}/{name}": value for name, value in changes.items()}
    log.numbers(named, len(losses), axis)


def log_results(log: Logger, results: Sequence[Mapping[str, Any]], page: Path) -> None:
    """Log the results of `finetune` in a table, and the report.

    Args:
        log: The logger.
        results: The results, the chosen selector's first.
        page: The report.
    """
    columns = ["selection", "selector", "samples"]
    for name in _CHANGES.values():
        columns += [name, f"{name}_low", f"{name}_high"]
    rows = []
    for result in results:
        row = [result["selection"], result["selector"], result["samples"]]
        for role in _CHANGES:
            row += change(result, role).values()
        rows.append(row)
    log.table("results", columns, rows)
    log.page("report", page)
