"""Selections of the study: what each method picks from a pool, in how much time."""

import dataclasses
import time
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ogs_env.agents.baselines.less import LessSelector
from ogs_env.agents.baselines.oracle import OracleSelector
from ogs_env.agents.deployment import AgentSelector
from ogs_env.agents.screening import SCREENED, ScreenedSelector
from ogs_env.agents.selector import READERS, SELECTORS, Selector, make_selector
from ogs_env.agents.settings import ImitationSettings, Settings
from ogs_env.agents.training import is_trained, train
from ogs_env.bundle import Bundle
from ogs_env.data.samples import Sample
from ogs_env.errors import InputError
from ogs_env.experiments.adapt_options import auto_selectors
from ogs_env.experiments.comparison import best_selector, compare, comparison_summary
from ogs_env.experiments.limit import ForgettingLimit, forgetting_limit, read_limit
from ogs_env.experiments.own_environment import (
    ENVIRONMENT,
    constrained_settings,
    environment_kwargs,
    navigator_settings,
)
from ogs_env.experiments.study import methods
from ogs_env.experiments.study.methods import Method
from ogs_env.experiments.study.pools import (
    pool_bundle,
    pool_data,
    seconds_file,
    trajectory_bundle,
)
from ogs_env.experiments.study.settings import StudySettings
from ogs_env.files import locked, read_object, write_json

_SCREEN = "rds"


class Pool:
    """A pool of the study, its environment and its selections.

    Args:
        domain: Name of the domain.
        draw: Number of the pool; also the seed of sketches and selections.
        settings: Settings of the study.
        folder: Folder of all pools; this one's is `DOMAIN-DRAW`.
    """

    def __init__(
        self, domain: str, draw: int, settings: StudySettings, folder: Path
    ) -> None:
        self.domain, self.draw, self.settings = domain, draw, settings
        self.folder = folder / f"{domain}-{draw}"
        self.data = pool_data(domain, draw, settings)

    @cached_property
    def bundle(self) -> Bundle:
        """The bundle of initial sketches."""
        return pool_bundle(self.data, self.draw, self.settings, self.folder)

    @cached_property
    def trajectory(self) -> Bundle:
        """The bundle with sketches along a trajectory."""
        return trajectory_bundle(self.data, self.draw, self.settings, self.folder)

    @cached_property
    def limit(self) -> ForgettingLimit:
        """The limit on forgetting, and the reward weight that keeps to it."""
        file = self.folder / "limit.json"
        if not file.exists():
            limit = forgetting_limit(self.bundle, self.settings.budget, self.draw)
            write_json(file, dataclasses.asdict(limit))
        return read_limit(file)

    def rows(self, method: Method) -> list[int]:
        """Return the pool rows that a method selects, in order; computed once.

        Surgery trains on the first random selection.
        """
        if method.is_surgery:
            return self.rows(methods.parse_method("random-0"))
        known = {sample.id: row for row, sample in enumerate(self.data.pool)}
        selection = self._selection(method)
        unknown = [id_ for id_ in selection["ids"] if id_ not in known]
        if unknown:
            raise InputError(
                f"{self._selection_file(method)}: selects {unknown[0]!r}, which is not "
                "in the pool; delete it to select again"
            )
        return [known[id_] for id_ in selection["ids"]]

    def selector(self, method: Method) -> str:
        """Return the name of the selector that selects for a method."""
        return str(self._selection(method)["selector"])

    def seconds(self, method: Method) -> float:
        """Return the CPU seconds of a selection and of the sketches that it needs."""
        if method.is_surgery:
            return 0.0
        selection = self._selection(method)
        sketching = 0.0
        if selection["sketches"]:
            sketching = self._recorded(self.folder / selection["sketches"])
        return float(sketching + selection["seconds"])

    def navigator(self, kind: str, seed: int) -> AgentSelector:
        """Return a Navigator that is trained in this pool's environment."""
        return AgentSelector(self._trained(kind, seed))

    def _trained(self, kind: str, seed: int) -> Path:
        """Return the folder of a trained agent, beside the CPU seconds of training."""
        folder = self.folder / "agents" / f"{kind}-{seed}"
        settings = self._train_settings(kind, seed)
        with locked(folder):
            if not is_trained(settings, folder):
                begin = time.process_time()
                train(settings, folder)
                seconds = round(time.process_time() - begin, 2)
                write_json(seconds_file(folder), {"seconds": seconds})
        return folder

    def _training_seconds(self, method: Method) -> float:
        """Return the CPU seconds of training the agent that a method needs, if any."""
        if method.kind == methods.AUTO:
            return self._recorded(self._trained("navigator", 0))
        if method.agent:
            return self._recorded(self._trained(method.agent, method.seed))
        return 0.0

    def _screening_seconds(self, method: Method) -> float:
        """Return the CPU seconds of ranking the pool by RDS+, if a method does so."""
        if method.kind.startswith(SCREENED) or method.kind == methods.AUTO:
            return float(self._selection(methods.parse_method(_SCREEN))["seconds"])
        return 0.0

    def _recorded(self, made: Path) -> float:
        """Return the CPU seconds that a bundle or an agent took."""
        remedy = f"delete {self.folder} to make it again"
        recorded = _read(seconds_file(made), "duration", {"seconds"}, remedy)
        return float(recorded["seconds"])

    def _selection(self, method: Method) -> dict[str, Any]:
        file = self._selection_file(method)
        with locked(file):
            if not file.exists():
                write_json(file, self._new_selection(method))
        keys = {"ids", "selector", "sketches", "seconds"}
        return _read(file, "selection of the study", keys, "delete it to select again")

    def _selection_file(self, method: Method) -> Path:
        return self.folder / "selections" / f"{method.name}.json"

    def _new_selection(self, method: Method) -> dict[str, Any]:
        # Sketching is not part of the selection's time; training and the pass for RDS+
        # are, whichever method needed them first.
        sketched = self._bundle_for(method)
        before = self._training_seconds(method) + self._screening_seconds(method)
        begin = time.process_time()
        selector, rows = self._select(method)
        return {
            "method": method.name,
            "selector": selector,
            "sketches": sketched.path.name if sketched else None,
            "seconds": round(before + time.process_time() - begin, 2),
            "ids": [self.data.pool[row].id for row in rows.tolist()],
        }

    def _bundle_for(self, method: Method) -> Bundle | None:
        """Return the bundle that a method needs, if it needs one."""
        if method.kind in (methods.RANDOM, methods.LARGER, methods.ALL):
            return None
        is_less = method.kind == methods.LESS_TRAJECTORY
        return self.trajectory if is_less else self.bundle

    def _select(self, method: Method) -> tuple[str, NDArray[np.int64]]:
        """Return the selector that selects, and its rows."""
        kind, budget = method.kind, self.settings.budget
        rng = np.random.default_rng([self.draw, method.seed])
        size = len(self.data.pool)
        if kind in (methods.RANDOM, methods.LARGER, methods.ALL):
            factor = {methods.RANDOM: 1, methods.LARGER: methods.LARGER_FACTOR}
            count = factor[kind] * budget if kind in factor else size
            return kind, rng.permutation(size)[:count]
        if kind == methods.LESS_TRAJECTORY:
            selector: Selector = LessSelector("trajectory")
            return kind, selector.select(self.trajectory, budget, rng)[0]
        name = self._best() if kind == methods.AUTO else method.name
        return name, self._selector(name).select(self.bundle, budget, rng)[0]

    def _selector(self, name: str) -> Selector:
        if name.startswith(SCREENED):
            screened = self._selector(name.removeprefix(SCREENED))
            return ScreenedSelector(screened, self._screen)
        if name == methods.ORACLE:
            return OracleSelector(self.limit.weights)
        if name in SELECTORS:
            return make_selector(name, self._texts if name in READERS else None)
        method = methods.parse_method(name)
        return self.navigator(method.kind, method.seed)

    @cached_property
    def _screen(self) -> Selector:
        return make_selector(_SCREEN, self._texts)

    @cached_property
    def _texts(self) -> dict[str, Sample]:
        groups = [self.data.pool, self.data.dev, self.data.test]
        groups += [*self.data.anchor.values(), *self.data.retention.values()]
        return {sample.id: sample for group in groups for sample in group}

    def _best(self) -> str:
        """Return what `ogs adapt` would deploy."""
        names = auto_selectors("navigator-0")
        selectors = {name: self._selector(name) for name in names}
        values = compare(
            self.bundle, selectors, self.settings.budget, self.draw, self.limit.weights
        )
        return best_selector(comparison_summary(values))

    def _train_settings(self, kind: str, seed: int) -> Settings:
        steps = self.settings.train_steps
        if kind == methods.CONSTRAINED:
            return constrained_settings(self.bundle, self.settings.share, steps, seed)
        environment = self.bundle, self.settings.share, self.limit.weights
        if kind == "imitation":
            kwargs = environment_kwargs(*environment)
            return ImitationSettings(env=ENVIRONMENT, env_kwargs=kwargs, seed=seed)
        return navigator_settings(*environment, steps, seed)


def _read(file: Path, what: str, keys: set[str], remedy: str) -> dict[str, Any]:
    """Read a JSON object that has some keys."""
    content = read_object(file, f"{what}; {remedy}")
    if missing := sorted(keys - content.keys()):
        raise InputError(f"{file}: lacks {', '.join(missing)}; {remedy}")
    return content
