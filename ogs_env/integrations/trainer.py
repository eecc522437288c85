"""Re-selection of training data while a trainer of `transformers` trains.

Every n steps a fresh random part of the training samples is sketched at the current
weights, a selector chooses from it, and training goes on with the chosen samples, as
DataFlex does (arXiv 2603.26164). An epoch of the trainer is the training on one
selection, so that a selection is made between two steps, and that logging, evaluating,
saving and the learning rate follow the trainer's arguments as usual.
"""

import math
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from accelerate.data_loader import SeedableRandomSampler
from numpy.typing import NDArray
from torch.utils.data import Sampler
from transformers import Trainer, TrainerCallback
from transformers.trainer_callback import ExportableState

from ogs_env.bundle import Bundle
from ogs_env.errors import InputError
from ogs_env.integrations.current_model import check_space, current_proxy
from ogs_env.integrations.trained_samples import TrainedSamples
from ogs_env.learners.fitted import LAYERS
from ogs_env.seeding import named_rng
from ogs_env.sketching.settings import SketchSettings

if TYPE_CHECKING:
    from transformers import TrainerControl, TrainerState, TrainingArguments

CANDIDATES = 10
"""Default number of candidates for each sample that is selected."""


class Selector(Protocol):
    """What chooses samples, such as `ogs_env.agents.selector.make_selector("greedy")`.

    It is the protocol of `ogs_env.agents.selector`.
    """

    def select(
        self,
        bundle: Bundle,
        budget: int,
        rng: np.random.Generator,
        indices: NDArray[np.integer] | None = None,
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Select `budget` rows of the bundle's pool; see `agents.selector`."""
        ...


class SelectionSampler(Sampler[int]):
    """Yields the rows of the current selection, in the order of a plain training.

    The order is that in which a `Trainer` trains on a dataset of these rows alone. A
    selection shorter than the sampler is repeated, each time in another order.

    Args:
        length: Number of rows of an epoch.
        seed: Seed of the order, the trainer's `data_seed` or `seed`.
    """

    def __init__(self, length: int, seed: int) -> None:
        self._length, self._seed = length, seed
        self._rows: Sequence[int] = []
        self._epoch = 0

    def choose(self, rows: Sequence[int], epoch: int) -> None:
        """Set the rows of the training set that an epoch trains on."""
        self._rows, self._epoch = sorted(rows), epoch

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[int]:
        order = SeedableRandomSampler(
            self._rows, num_samples=self._length, data_seed=self._seed
        )
        order.set_epoch(self._epoch)
        for place in order:
            yield self._rows[place]


class Reselection(TrainerCallback, ExportableState):
    """Re-selects the training data of a trainer at its current weights.

    After `attach`, each epoch of the trainer begins with a selection: gradients of
    random candidates are sketched, and the selector chooses from them. Samples are read
    as the trainer tokenised them, and gradients are of the loss on the last part of
    each sample that has a loss. They are those of the LoRA adapter that is trained (of
    its B, as in the live environments), or of a fresh adapter that is attached to a
    copy of the modules where the model has none.

    Selections are saved in the checkpoints' `trainer_state.json`, so that a resumed
    training goes on with the same ones. The trainer's own random numbers are not used.

    Args:
        selector: Chooses samples from a bundle. It reads initial sketches, cosines,
            norms, losses and lengths; selectors that read texts cannot be used.
        domain: Key of the trainer's `eval_dataset` with samples of what the model
            should learn.
        anchor: Keys of it with samples of what the model should retain, one for each
            capability.
        budget: Number of samples that are selected at a time.
        every: Number of optimizer steps between selections; by default as many as one
            pass over the selection takes.
        candidates: Number of random training samples that are sketched for a
            selection; by default ten times `budget`, or all if there are fewer.
        layers: Decoder layers, counted from the last, whose gradients are sketched.
        max_tokens: Longer samples are cut for sketching.
        seed: Seed of candidates, sketches and selections.
        like: A bundle in whose sketch space the samples are sketched, as a Navigator
            needs that was trained in this space. It also sets adapter, projection,
            maximum number of tokens and the seed of both.

    Attributes:
        selections: What was selected so far, one dictionary each: `step`, the number of
            steps before it; `rows`, of the training set; and what is logged.

    Raises:
        InputError: If a number is out of range.
    """

    def __init__(
        self,
        selector: Selector,
        *,
        domain: str,
        anchor: Sequence[str],
        budget: int,
        every: int | None = None,
        candidates: int | None = None,
        layers: int = LAYERS,
        max_tokens: int = 512,
        seed: int = 0,
        like: Bundle | None = None,
    ) -> None:
        if isinstance(anchor, str) or not anchor:
            raise InputError(
                f"anchor: is {anchor!r}; expected a list of keys of eval_dataset"
            )
        for name, value, least in (
            ("budget", budget, 1),
            ("every", every, 1),
            ("candidates", candidates, budget),
            ("layers", layers, 1),
            ("max_tokens", max_tokens, 16),
        ):
            if value is not None and value < least:
                raise InputError(f"{name}: is {value}; expected {least} or more")
        self._selector, self._like = selector, like
        self._domain, self._anchor = domain, list(anchor)
        self._budget, self._every, self._candidates = budget, every, candidates
        self._seed = seed
        settings = SketchSettings(
            layers=layers,
            anchor_answers="reference",
            max_tokens=max_tokens,
            seed=seed,
        )
        self._settings = settings if like is None else _settings_of(like)
        self.selections: list[dict[str, Any]] = []

    def attach(self, trainer: Trainer) -> None:
        """Let a trainer train on selections; call it before `trainer.train`.

        Args:
            trainer: A `Trainer` of transformers or an `SFTTrainer` of TRL, with a
                training set and, as `eval_dataset`, a dictionary with the domain's and
                the anchor's samples.

        Raises:
            InputError: If the trainer's arguments do not allow it, or a dataset is
                missing, or the model does not fit `like`.
        """
        check_arguments(trainer)
        args = trainer.args
        tokenizer = _tokenizer(trainer)
        pool = _tokenised(trainer.train_dataset, "train_dataset")
        self._samples = TrainedSamples(
            pool,
            self._measured(trainer, self._domain),
            {name: self._measured(trainer, name) for name in self._anchor},
            tokenizer,
            self._settings.max_tokens,
        )
        self._count = min(self._candidates or CANDIDATES * self._budget, len(pool))
        if self._count < self._budget:
            raise InputError(
                f"budget: is {self._budget}, but train_dataset has {len(pool)} samples"
            )
        of_a_step = args.train_batch_size * args.gradient_accumulation_steps
        length = self._every * of_a_step if self._every else self._budget
        if length < self._budget:
            raise InputError(
                f"every: is {self._every} steps of {of_a_step} samples, which is less "
                f"than the budget of {self._budget}; give a larger every, or a budget "
                f"of at most {length}"
            )
        if self._like is not None:
            check_space(trainer.model, tokenizer, self._like)
        self._steps = _steps(length, args)
        self._request = {
            "selector": type(self._selector).__name__,
            "budget": self._budget,
            "epoch": length,
            "candidates": self._count,
            "pool": len(pool),
            "domain": len(self._samples.domain),
            "anchor": {name: len(own) for name, own in self._samples.anchor.items()},
            "layers": self._settings.layers,
            "max_tokens": self._settings.max_tokens,
            "seed": self._seed,
        }
        seed = args.seed if args.data_seed is None else args.data_seed
        self._sampler = SelectionSampler(length, seed)
        self._trainer = trainer
        # The hook of `Trainer` that a subclass overrides for a sampler of its own.
        setattr(trainer, "_get_train_sampler", lambda *_: self._sampler)  # noqa: B010
        trainer.add_callback(self)

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint saves."""
        saved = {"request": self._request, "selections": self.selections}
        return {"args": {}, "attributes": saved}

    def on_train_begin(
        self,
        args: "TrainingArguments",
        state: "TrainerState",
        control: "TrainerControl",
        **kwargs: Any,
    ) -> None:
        """Begin without selections, or with those of the checkpoint."""
        self.selections = []
        if state.global_step == 0:
            return
        callbacks: Any = state.stateful_callbacks
        saved = callbacks.get(type(self).__name__, {}).get("attributes", {})
        if saved.get("request") != self._request:
            other = [
                name
                for name in self._request
                if saved.get("request", {}).get(name) != self._request[name]
            ]
            raise InputError(
                f"the checkpoint of step {state.global_step} has no selections, or "
                f"those of another {', '.join(other)}; resume with the same arguments, "
                "or train from the start"
            )
        self.selections = saved["selections"]

    def on_epoch_begin(
        self,
        args: "TrainingArguments",
        state: "TrainerState",
        control: "TrainerControl",
        **kwargs: Any,
    ) -> None:
        """Select, unless the checkpoint has this epoch's selection."""
        number = state.global_step // self._steps
        if number == len(self.selections):
            shown, rows = self._select(kwargs["model"], number)
            self.selections.append({"step": state.global_step, **shown, "rows": rows})
            # Not the method of SFTTrainer, which would report its metrics here, and not
            # with the steps that they are of.
            Trainer.log(self._trainer, {f"selection_{n}": v for n, v in shown.items()})
        self._sampler.choose(self.selections[number]["rows"], number)

    def _select(self, model: Any, number: int) -> tuple[dict[str, float], list[int]]:
        """Select for the epoch `number`; return what is logged, and the rows."""
        begin = time.perf_counter()
        rng = named_rng(self._seed, "selectors", number)
        pool = len(self._samples.pool)
        candidates = np.sort(rng.choice(pool, self._count, replace=False))
        proxy = current_proxy(
            model,
            self._samples.tokenizer,
            layers=self._settings.layers,
            rank=self._settings.rank,
            seed=self._settings.seed,
        )
        identity: Mapping[str, Any] = {"id": "current", "sha256": "current"}
        if self._like is not None:
            identity = self._like.manifest["proxy"]
        with tempfile.TemporaryDirectory(prefix="ogs-selection-") as folder:
            bundle = self._samples.sketch(
                proxy, candidates, self._settings, identity, Path(folder)
            )
            if self._like is not None:
                bundle.basis, bundle.scales = self._like.basis, self._like.scales
            chosen, _ = self._selector.select(bundle, self._budget, rng)
            every = np.arange(len(bundle.pool))
            shown = {
                "candidates": len(candidates),
                "domain_cosine": float(bundle.domain_cosines(chosen).mean()),
                "domain_cosine_all": float(bundle.domain_cosines(every).mean()),
                "anchor_cosine": float(bundle.anchor_cosines(chosen).mean()),
                "anchor_cosine_all": float(bundle.anchor_cosines(every).mean()),
                "seconds": round(time.perf_counter() - begin, 2),
            }
            return shown, bundle.pool.places[chosen].tolist()

    @staticmethod
    def _measured(trainer: Trainer, name: str) -> Sequence[Mapping[str, Any]]:
        """Return a part of the trainer's evaluation set."""
        parts = trainer.eval_dataset
        if not isinstance(parts, Mapping) or name not in parts:
            found = ", ".join(parts) if isinstance(parts, Mapping) else "no dictionary"
            raise InputError(
                f"eval_dataset: expected a dictionary of datasets with '{name}', found "
                f"{found}; give the trainer the samples of domain and anchor there"
            )
        return _tokenised(parts[name], f"eval_dataset '{name}'")


def check_arguments(trainer: Trainer) -> None:
    """Check that a trainer can train on selections.

    Raises:
        InputError: If it trains on several processes or devices, or an argument does
            not go together with selections.
    """
    args: Any = trainer.args
    remedies = {
        "packing": "it joins samples; set packing=False",
        "eval_packing": "it joins samples; set eval_packing=False",
        "auto_find_batch_size": "it changes the steps of an epoch; set a batch size",
        "ignore_data_skip": "a resumed training would train on samples twice",
        "restore_callback_states_from_checkpoint": "selections are restored without it",
    }
    for name, remedy in remedies.items():
        if getattr(args, name, False):
            raise InputError(f"{name}: does not go together with Reselection: {remedy}")
    strategy = args.train_sampling_strategy
    if strategy != "random":
        raise InputError(
            f"train_sampling_strategy: is '{strategy}', but Reselection chooses the "
            "samples; leave it out"
        )
    devices = getattr(trainer.model, "hf_device_map", None) or {}
    if (
        args.world_size > 1
        or args.n_gpu > 1
        or trainer.is_deepspeed_enabled
        or trainer.is_fsdp_enabled
        or len(set(devices.values())) > 1
    ):
        raise InputError(
            "Reselection trains in one process on one device, without DeepSpeed and "
            "FSDP; start one process and show it one device (CUDA_VISIBLE_DEVICES)"
        )


def _tokenizer(trainer: Trainer) -> Any:
    """Return the tokenizer of a trainer, or that of its processor."""
    given = trainer.processing_class
    if given is None:
        raise InputError("processing_class: is missing; give the trainer its tokenizer")
    return getattr(given, "tokenizer", given)


def _tokenised(samples: Any, name: str) -> Sequence[Mapping[str, Any]]:
    """Return a dataset whose rows have tokens."""
    if not hasattr(samples, "__len__") or not len(samples):
        raise InputError(
            f"{name}: expected a dataset of known length with at least one sample, "
            f"found {type(samples).__name__}"
        )
    if "input_ids" not in samples[0]:
        raise InputError(
            f"{name}: its rows have no 'input_ids'; tokenise it, as SFTTrainer does"
        )
    rows: Sequence[Mapping[str, Any]] = samples
    return rows


def _steps(length: int, args: "TrainingArguments") -> int:
    """Return the optimizer steps of an epoch of `length` samples."""
    batches = length / args.train_batch_size
    count = math.floor(batches) if args.dataloader_drop_last else math.ceil(batches)
    return max(1, math.ceil(count / args.gradient_accumulation_steps))


def _settings_of(bundle: Bundle) -> SketchSettings:
    """Return the settings with which a bundle was sketched."""
    manifest = bundle.manifest
    return SketchSettings(
        k=bundle.k,
        layers=manifest["adapter"]["layers"],
        rank=manifest["adapter"]["rank"],
        anchor_answers="reference",
        max_tokens=manifest["max_tokens"],
        seed=manifest["adapter"]["seed"],
    )
