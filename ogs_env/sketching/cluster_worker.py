"""The process of a cluster that sketches shards, and what is sent to it."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from ogs_env.errors import InputError

if TYPE_CHECKING:
    import torch

    from ogs_env.sketching.batch_sketches import MeanGradients
    from ogs_env.sketching.settings import SketchSettings
    from ogs_env.sketching.shards import Measured, Shard, ShardFiles
    from ogs_env.sketching.warmup import Checkpoint

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Setup:
    """What every worker needs, sent once through the object store.

    Attributes:
        settings: The settings, with the precision that is used.
        sha256: Identifies the proxy's weights.
        threads: Threads of a worker, because sums depend on their number.
        means: `MeanGradients.stacked`.
        checkpoints: Steps, states and scales of the warm-up's checkpoints.
    """

    settings: "SketchSettings"
    sha256: str
    threads: int
    means: Arrays
    checkpoints: Sequence[tuple[int, Arrays, Arrays]]


def make_setup(
    identity: Mapping[str, Any],
    settings: "SketchSettings",
    threads: int,
    means: "MeanGradients",
    checkpoints: "Sequence[Checkpoint]",
) -> Setup:
    """Return what every worker needs.

    Args:
        identity: The manifest's entry of the proxy.
        settings: The settings.
        threads: Threads of a worker.
        means: As for `ShardSketcher`.
        checkpoints: As for `ShardSketcher`.
    """
    name = settings.proxy
    if Path(name).exists():
        name = str(Path(name).resolve())
    return Setup(
        dataclasses.replace(settings, proxy=name, precision=str(identity["precision"])),
        str(identity["sha256"]),
        threads,
        _arrays(means.stacked),
        [(c.step, _arrays(c.state), _arrays(c.scales)) for c in checkpoints],
    )


class Worker:
    """Holds the proxy in a process of the cluster, and sketches shards."""

    def check(self, versions: Mapping[str, str]) -> None:
        """Compare the versions of packages with those of the command.

        Raises:
            InputError: If one differs.
        """
        for package, expected in versions.items():
            found = installed_version(package)
            if found != expected:
                raise InputError(
                    f"has {package} {found}, this machine {expected}; install the same "
                    "version on all machines"
                )

    def load(self, versions: Mapping[str, str], setup: Sequence[Any]) -> str:
        """Load the proxy; return the type of its device.

        Args:
            versions: As for `check`.
            setup: A reference to a `Setup`, in a list so that Ray does not read it
                before the versions are compared.

        Raises:
            InputError: If the model cannot be loaded or has other weights.
        """
        self.check(versions)
        import ray
        import torch

        from ogs_env.sketching.batch_sketches import MeanGradients
        from ogs_env.sketching.projection import CountSketch
        from ogs_env.sketching.shards import ShardSketcher
        from ogs_env.sketching.sketcher import load_proxy
        from ogs_env.sketching.warmup import Checkpoint

        given: Setup = ray.get(setup[0])
        torch.set_num_threads(given.threads)
        settings = given.settings
        try:
            proxy, identity = load_proxy(settings)
        except InputError as error:
            raise InputError(f"cannot load the proxy ({error})") from None
        if identity["sha256"] != given.sha256:
            raise InputError(
                f"has other weights of '{settings.proxy}' than this machine; use the "
                "same files on all machines"
            )
        device = proxy.device
        checkpoints = [
            Checkpoint(step, _tensors(state, device), _tensors(scales, device))
            for step, state, scales in given.checkpoints
        ]
        projection = CountSketch(settings.k, settings.seed)
        means = MeanGradients(_tensors(given.means, device))
        self._sketcher = ShardSketcher(proxy, means, checkpoints, projection)
        self._measured: Measured | None = None
        self._read: Sequence[Any] = []
        return device.type

    def sketch(self, shard: "Shard", measured: Sequence[Any]) -> "ShardFiles":
        """Return the content of a shard's files, see `ShardSketcher.sketch`.

        Args:
            shard: The shard.
            measured: A reference to `measured_arrays`, in a list so that Ray does not
                read it again for every shard; empty without.
        """
        if measured != self._read:
            self._measured = _measured(measured[0])
            self._read = measured
        return self._sketcher.sketch(shard, self._measured)


def installed_version(package: str) -> str:
    """Return the version of an installed package, without that of CUDA."""
    try:
        return version(package).partition("+")[0]
    except PackageNotFoundError:
        return "(not installed)"


def measured_arrays(measured: "Measured") -> Arrays:
    """Return what workers read as `Measured`."""
    answers = {} if measured.answers is None else {"answers": measured.answers}
    return _arrays({"samples": measured.samples, **answers})


def without_fields(shard: "Shard") -> "Shard":
    """Leave out what records hold besides the sample, which no worker reads."""
    rows = [
        dataclasses.replace(row, sample=dataclasses.replace(row.sample, fields={}))
        for row in shard.rows
    ]
    return dataclasses.replace(shard, rows=rows)


def _measured(reference: Any) -> "Measured":
    """Read what `measured_arrays` returned."""
    import ray

    from ogs_env.sketching.shards import Measured

    tensors = _tensors(ray.get(reference))
    return Measured(tensors["samples"], tensors.get("answers"))


def _arrays(tensors: "Mapping[str, torch.Tensor]") -> Arrays:
    # Ray copies tensors into every process, but arrays only once to a machine.
    return {name: tensor.cpu().numpy() for name, tensor in tensors.items()}


def _tensors(
    arrays: Arrays, device: "torch.device | None" = None
) -> "dict[str, torch.Tensor]":
    import torch

    return {name: torch.tensor(a, device=device) for name, a in arrays.items()}
