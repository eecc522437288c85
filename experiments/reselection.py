"""Re-selection while a model is trained, against one selection at the start.

Run as `python -m ogs_env.experiments.reselection`. The pools, the target and the
measures are those of `ogs study`; the trainer is that of transformers with
`ogs_env.integrations`. All arms train on the same number of samples in the same number
of steps, with the same learning rates:

- `random`: random samples, an epoch after the other;
- `redrawn`: as many other random samples every n steps, a control: re-selection trains
  on more distinct samples;
- `selected`: a selector's choice from the whole pool at the start;
- `reselected`: the same selector's choice every n steps, at the current weights.

Each run is a JSON file. A stopped measurement continues, and runs that exist are not
made again.
"""

import dataclasses
import itertools
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import Trainer, TrainingArguments

from ogs_env.agents.selector import make_selector
from ogs_env.data.samples import Sample
from ogs_env.errors import InputError
from ogs_env.experiments.adapter_training import training_batch
from ogs_env.experiments.statistics import percent_change, t_half_width
from ogs_env.experiments.study.pools import pool_data
from ogs_env.experiments.study.runs import recipe
from ogs_env.experiments.study.settings import StudySettings, read_settings
from ogs_env.experiments.study.target import MAX_TOKENS, Target
from ogs_env.files import locked, only_process, read_object, write_json
from ogs_env.integrations.trained_samples import encode_record
from ogs_env.integrations.trainer import Reselection, SelectionSampler
from ogs_env.lm.encoding import IGNORED, encode
from ogs_env.options import parse

RANDOM, REDRAWN, SELECTED, RESELECTED = "random", "redrawn", "selected", "reselected"
ARMS = (RANDOM, REDRAWN, SELECTED, RESELECTED)
BASE, NOTE = "base", "settings.json"
POOL, DEV = "pool", "dev"
Records = dict[str, list[dict[str, Any]]]
WARM_UP = 0.15
"""Share of the steps in which the learning rate rises to its peak."""


@dataclass(frozen=True)
class Options:
    """Options of the measurement.

    Attributes:
        config: Settings of `ogs study`, a YAML file or a shipped one's name: pools,
            target, share that is selected at a time, and recipe.
        domains: Domains; by default those of the settings.
        draws: Numbers of the pools; by default those of the settings. Draw 0 is for
            development.
        selector: Name of the selector.
        every: Steps between selections.
        candidates: Samples that are sketched for a re-selection; by default a third of
            the pool, so that three cost as much as one selection at the start.
        out: Folder of the runs.
        answers: Folder of the target's own answers, such as `answers/SmolLM2-135M` of
            a study's folder; by default a folder in `out`.
        report: Only print the table of the runs in `out`.
    """

    config: str = field(
        default="study", metadata={"positional": True, "metavar": "CONFIG"}
    )
    domains: tuple[str, ...] = ()
    draws: tuple[int, ...] = ()
    selector: str = "greedy"
    every: int = 8
    candidates: int | None = None
    out: Path = field(default=Path("reselection"), metadata={"metavar": "FOLDER"})
    answers: Path | None = field(default=None, metadata={"metavar": "FOLDER"})
    report: bool = False

    def __post_init__(self) -> None:
        make_selector(self.selector)  # an unknown name is an error now

    def study(self) -> StudySettings:
        """Return the settings of the study, with other pools if they are given."""
        settings = read_settings(self.config)
        settings = dataclasses.replace(
            settings,
            domains=self.domains or settings.domains,
            draws=self.draws or settings.draws,
        )
        if settings.budget % settings.batch:
            raise InputError(
                f"share: selects {settings.budget} samples; expected a multiple of the "
                f"batch, {settings.batch}"
            )
        least = settings.budget // settings.batch
        if self.every < least:
            raise InputError(
                f"every: is {self.every}; expected {least} or more, the steps of a "
                "pass over a selection"
            )
        return settings


def run(options: Options) -> None:
    """Make the runs that have no result yet, and print the table."""
    if not options.report:
        study = options.study()
        measurement = Measurement(
            study,
            options.selector,
            options.every,
            options.candidates or round(study.pool_size / 3),
        )
        _note(measurement, options.out)
        for draw in study.draws:
            for domain in study.domains:
                _run_pool(measurement, domain, draw, options)
    print(table(options.out))


@dataclass(frozen=True)
class Measurement:
    """What the runs of a folder share.

    Attributes:
        study: Pools, target and recipe.
        selector: Name of the selector.
        every: Steps between selections.
        candidates: Samples that are sketched for a re-selection.
    """

    study: StudySettings
    selector: str
    every: int
    candidates: int

    @property
    def steps(self) -> int:
        """Steps of a fine-tuning."""
        return self.study.epochs * self.study.budget // self.study.batch


def _note(measurement: Measurement, folder: Path) -> None:
    """Write what the runs of a folder share, or check that it is the same."""
    given = {
        "target": measurement.study.target,
        "selector": measurement.selector,
        "every": measurement.every,
        "candidates": measurement.candidates,
        **recipe(measurement.study),
    }
    file = folder / NOTE
    if not file.exists():
        write_json(file, given)
    known = read_object(file, "note of a measurement")
    if other := [name for name in given if known.get(name) != given[name]]:
        raise InputError(
            f"{file}: has other values of {', '.join(other)}; choose another --out"
        )


def _run_pool(
    measurement: Measurement, domain: str, draw: int, options: Options
) -> None:
    """Make the missing runs of one pool."""
    folder = options.out / f"{domain}-{draw}"
    files = {name: _file(folder, name) for name in (BASE, *ARMS)}
    if all(file.exists() for file in files.values()):
        return
    data = pool_data(domain, draw, measurement.study)
    answers = options.answers or options.out / "answers"
    with locked(answers):  # own answers are sampled once, by one process
        target = Target(measurement.study, data, answers)
    records = _records(target, data.dev)
    for name, file in files.items():
        with only_process(file) as is_only:
            if not is_only or file.exists():
                continue
            print(f"{domain} {draw}: {name}", file=sys.stderr)
            target.reset(draw)
            result = {"domain": domain, "draw": draw, "arm": name}
            if name != BASE:
                result |= _train(target, records, name, measurement, draw)
            measured = {"device": target.device, "losses": _losses(target)}
            write_json(file, result | measured)


def _losses(target: Target) -> dict[str, list[float]]:
    """Return each text's loss: of the domain's test set, and own answers."""
    names = [name for name in target.measured if not name.startswith("reference/")]
    return {name: np.round(target.sets.losses(name), 5).tolist() for name in names}


def _train(
    target: Target, records: Records, arm: str, measurement: Measurement, draw: int
) -> dict[str, Any]:
    """Fine-tune a target's fresh adapter; return the selections and the seconds."""
    study, steps = measurement.study, measurement.steps
    every = measurement.every if arm in (REDRAWN, RESELECTED) else steps
    pool = records[POOL]
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="ogs-reselection-") as folder:
        if arm in (RANDOM, REDRAWN):
            selections, order = _random(len(pool), study, steps, every, draw)
            ordered = {**records, POOL: [pool[row] for row in order]}
            trainer = _trainer(target, ordered, study, steps, draw, folder)
            trainer.train()
        else:
            trainer = _trainer(target, records, study, steps, draw, folder, "random")
            candidates = len(pool) if arm == SELECTED else measurement.candidates
            anchors = [name for name in records if name not in (POOL, DEV)]
            reselection = _reselection(anchors, measurement, every, candidates, draw)
            reselection.attach(trainer)
            trainer.train()
            selections = reselection.selections
    target.proxy.model.eval()
    rows = itertools.chain(*(selection["rows"] for selection in selections))
    losses = [log["loss"] for log in trainer.state.log_history if "loss" in log]
    return {
        "selections": selections,
        "distinct": len(set(rows)),
        "seconds": round(time.perf_counter() - begin, 1),
        "training_loss": losses,
    }


def _random(
    size: int, study: StudySettings, steps: int, every: int, draw: int
) -> tuple[list[dict[str, Any]], list[int]]:
    """Return random selections, and the rows in the order of training."""
    rng = np.random.default_rng([draw, 0])
    sampler = SelectionSampler(every * study.batch, draw)
    selections, order = [], []
    for number, step in enumerate(range(0, steps, every)):
        rows = rng.permutation(size)[: study.budget].tolist()
        selections.append({"step": step, "rows": rows})
        sampler.choose(rows, number)
        order += [*sampler]
    return selections, order[: steps * study.batch]


def _reselection(
    anchors: list[str], measurement: Measurement, every: int, candidates: int, draw: int
) -> Reselection:
    return Reselection(
        make_selector(measurement.selector),
        domain=DEV,
        anchor=anchors,
        budget=measurement.study.budget,
        every=every,
        candidates=candidates,
        layers=measurement.study.layers,
        max_tokens=MAX_TOKENS,
        seed=draw,
    )


def _trainer(
    target: Target,
    records: Records,
    study: StudySettings,
    steps: int,
    draw: int,
    folder: str,
    strategy: str = "sequential",
) -> Trainer:
    def collate(batch: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        encoded = [encode_record(record, "pool", MAX_TOKENS) for record in batch]
        return training_batch(encoded, target.proxy.tokenizer.pad_token_id)

    return Trainer(
        model=target.proxy.model,
        args=TrainingArguments(
            output_dir=folder,
            max_steps=steps,
            per_device_train_batch_size=study.batch,
            train_sampling_strategy=strategy,
            learning_rate=study.learning_rate,
            lr_scheduler_type="cosine",
            warmup_steps=int(WARM_UP * steps),
            weight_decay=0.0,
            max_grad_norm=1.0,
            seed=draw,
            logging_steps=1,
            save_strategy="no",
            remove_unused_columns=False,
            dataloader_pin_memory=torch.cuda.is_available(),
            report_to="none",
        ),
        train_dataset=records[POOL],
        eval_dataset=records,
        data_collator=collate,
        processing_class=target.proxy.tokenizer,
    )


def _records(target: Target, dev: Sequence[Sample]) -> Records:
    """Return pool, dev and anchor samples as a trainer's tokenised samples, by set."""
    texts = {
        name: [target.sets.texts.samples[row] for row in rows]
        for name, rows in target.sets.rows.items()
        if name == POOL or name.startswith("anchor/")
    }
    tokenizer = target.proxy.tokenizer
    texts[DEV] = [encode(tokenizer, s.turns, s.response, MAX_TOKENS) for s in dev]
    return {
        name: [
            {
                "input_ids": text.input_ids,
                "labels": [IGNORED] * text.response_start
                + text.input_ids[text.response_start :],
            }
            for text in own
        ]
        for name, own in texts.items()
    }


def table(folder: Path) -> str:
    """Return the runs of a folder as a Markdown table.

    Changes are in percent of the untouched model's losses: on the domain's test set,
    and on own answers, of the capability where it rose most. Differences are to
    `random`, with 95 % intervals by Student's t over the pools.

    Raises:
        InputError: If there are no runs.
    """
    changes: dict[str, dict[str, tuple[float, float]]] = {}
    distinct: dict[str, list[int]] = {}
    for pool in sorted(path.parent for path in folder.glob(f"*-*/{BASE}.json")):
        before = _result(pool, BASE)["losses"]
        for arm in ARMS:
            if not _file(pool, arm).exists():
                continue
            result = _result(pool, arm)
            after = result["losses"]
            rise = {n: percent_change(before[n], after[n]) for n in before}
            own = max(rise[name] for name in rise if name.startswith("own/"))
            changes.setdefault(arm, {})[pool.name] = rise["test"], own
            distinct.setdefault(arm, []).append(result["distinct"])
    if not changes:
        raise InputError(f"{folder}: holds no runs; run without --report first")
    lines = [
        "| arm | pools | distinct samples | domain, % | own answers, % | domain less "
        "random | own answers less random |",
        "|---|---|---|---|---|---|---|",
    ]
    for arm in changes:
        values = np.array([*changes[arm].values()])
        means = [f"{mean:+.2f}" for mean in values.mean(axis=0)]
        cells = [arm, f"{len(values)}", f"{np.mean(distinct[arm]):.0f}", *means]
        cells += ["", ""] if arm == RANDOM else _differences(changes, arm)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _differences(
    changes: Mapping[str, Mapping[str, tuple[float, float]]], arm: str
) -> list[str]:
    """Return the differences to `random`, on the same pools, with their intervals."""
    random = changes.get(RANDOM, {})
    of = [np.subtract(own, random[p]) for p, own in changes[arm].items() if p in random]
    return [_with_interval(column) for column in np.array(of).T] if of else ["", ""]


def _file(pool: Path, arm: str) -> Path:
    return pool / f"{arm}.json"


def _result(pool: Path, arm: str) -> dict[str, Any]:
    what = "result of a run; delete it to make it again"
    return read_object(_file(pool, arm), what)


def _with_interval(values: NDArray[np.float64]) -> str:
    mean = f"{values.mean():+.2f}"
    if len(values) < 2:
        return mean
    half = t_half_width(values)
    return f"{mean} [{values.mean() - half:+.2f}, {values.mean() + half:+.2f}]"


def main() -> None:
    """Run the command."""
    try:
        run(parse(Options, sys.argv[1:], "reselection", "Measure re-selection."))
    except InputError as error:
        sys.exit(f"reselection: {error}")


if __name__ == "__main__":
    main()
