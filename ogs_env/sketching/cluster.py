"""Sketch the shards of a bundle on a Ray cluster.

Shards are given to a pool of actors rather than to Ray Data's `map_batches`. A shard is
a unit of work whose result is a file: it is kept as soon as it is there, a shard whose
worker ended is sketched again, and at most two shards a worker are under way. Ray Data
cuts rows into blocks of its own and repeats lost blocks out of sight; which shards are
written and missing would be unknown to a command that is killed.
"""

import contextlib
import dataclasses
import itertools
import logging
import os
import secrets
import signal
import socket
import sys
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from ogs_env.errors import InputError

if TYPE_CHECKING:
    import torch

    from ogs_env.lm.adapter import Proxy
    from ogs_env.sketching.batch_sketches import MeanGradients
    from ogs_env.sketching.settings import SketchSettings
    from ogs_env.sketching.shards import Measured, Progress, Shard, ShardFiles
    from ogs_env.sketching.warmup import Checkpoint

Arrays = dict[str, NDArray[Any]]

_SHARDS = 2  # in flight for each worker: the next waits there while one is sketched
_LOSSES = 3  # of workers, before a shard or the loading of the model is given up
_LOADING = "the loading of the model"
_CONNECT_SECONDS = 5
_START_SECONDS = 30  # for Ray to start the first worker
_SIZE_SECONDS = 10  # between two looks at the size of the cluster
# Packages whose versions change the numbers of a bundle.
_PACKAGES = ("ogs-env", "torch", "transformers")
# Ray sends no statistics, and does not look for another cluster when one is lost.
_RAY_VARIABLES = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_AUTO_CONNECT": "0"}
# As the command line sets them before torch is loaded.
_VARIABLES = {"OMP_WAIT_POLICY": "PASSIVE", "TOKENIZERS_PARALLELISM": "false"}


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


class Worker:
    """Holds the proxy in a process of the cluster, and sketches shards."""

    def check(self, versions: Mapping[str, str]) -> None:
        """Compare the versions of packages with those of the command.

        Raises:
            InputError: If one differs.
        """
        for package, expected in versions.items():
            found = _version(package)
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

        def tensors(arrays: Arrays) -> "dict[str, torch.Tensor]":
            return {
                name: torch.tensor(values, device=proxy.device)
                for name, values in arrays.items()
            }

        checkpoints = [
            Checkpoint(step, tensors(state), tensors(scales))
            for step, state, scales in given.checkpoints
        ]
        projection = CountSketch(settings.k, settings.seed)
        self._sketcher = ShardSketcher(
            proxy, MeanGradients(tensors(given.means)), checkpoints, projection
        )
        self._measured: Measured | None = None
        self._read: Sequence[Any] = []
        return proxy.device.type

    def sketch(self, shard: "Shard", measured: Sequence[Any]) -> "ShardFiles":
        """Return the content of a shard's files, see `ShardSketcher.sketch`.

        Args:
            shard: The shard.
            measured: A reference to the arrays of `Measured`, in a list so that Ray
                does not read it again for every shard; empty without.
        """
        if measured != self._read:
            self._measured = _measured(measured[0])
            self._read = measured
        return self._sketcher.sketch(shard, self._measured)


@contextlib.contextmanager
def connected(address: str | None) -> Iterator["Cluster"]:
    """Connect to a Ray cluster, and to nothing else; end what is started here.

    Args:
        address: `HOST:PORT` or `ray://HOST:PORT`. None is the cluster of `RAY_ADDRESS`,
            else the one that runs on this machine, else a new one that ends here. A
            process that is connected already stays so.

    Raises:
        InputError: If Ray is not installed, the address does not answer, or no machine
            of the cluster has the resources of a worker.
    """
    for name, value in _RAY_VARIABLES.items():
        os.environ.setdefault(name, value)
    try:
        import grpc  # noqa: F401 (of ray[client])
        import ray
    except ModuleNotFoundError as error:
        raise InputError(
            f"--ray: the package {error.name} is not installed; run `pip install "
            "'ogs-env[ray]'`"
        ) from None
    if ray.is_initialized():
        yield Cluster()
        return
    address = address or os.environ.get("RAY_ADDRESS") or _running_cluster()
    with contextlib.ExitStack() as stack:
        # Ray prints there, at length, that a worker ended.
        nowhere = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
        stack.enter_context(contextlib.redirect_stdout(nowhere))
        how: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        if address is None:
            # Otherwise Ray writes one into the home folder.
            os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
            # A new cluster's logs and sockets go with it.
            folder = tempfile.TemporaryDirectory(
                prefix="ogs-ray-", dir=_ray_folder(), ignore_cleanup_errors=True
            )
            how |= {
                "include_dashboard": False,
                "_temp_dir": stack.enter_context(folder),
            }
        else:
            _check_reachable(address)
        before = signal.getsignal(signal.SIGTERM)
        stack.callback(ray.shutdown)
        try:
            ray.init(address=address or "local", **how)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise InputError(
                f"--ray: no connection to {address or 'a new cluster'} "
                f"({_line(error)}); expected HOST:PORT or ray://HOST:PORT of a running "
                "cluster with the versions of Ray and Python that are used here, and "
                "its token (RAY_AUTH_MODE, RAY_AUTH_TOKEN) if it has one"
            ) from None
        if threading.current_thread() is threading.main_thread():
            # Ray's own handler prints a trace and ends without cleaning up.
            signal.signal(signal.SIGTERM, _end)
            stack.callback(signal.signal, signal.SIGTERM, before)
        yield Cluster()


def _end(number: int, _: object) -> None:
    sys.exit(128 + number)


def _ray_folder() -> str:
    """Return the folder that Ray makes its own in; those of sockets need short names.

    Raises:
        InputError: If it does not exist.
    """
    folder = os.environ.get("RAY_TMPDIR", "/tmp")
    if not Path(folder).is_dir():
        raise InputError(f"RAY_TMPDIR: {folder} is no folder; make it")
    return folder


def _running_cluster() -> str | None:
    """Return the address of the cluster that `ray start` started on this machine.

    `ray.init(address="auto")` would also join one that another command started for
    itself, and lose it when that command ends.
    """
    file = Path(_ray_folder(), "ray", "ray_current_cluster")
    # A cluster that was killed leaves the file.
    with contextlib.suppress(OSError, InputError):
        address = file.read_text(encoding="utf-8").strip()
        _check_reachable(address)
        return address
    return None


def _check_reachable(address: str) -> None:
    """Check that a service of Ray's kind answers; Ray itself tries for two minutes."""
    import grpc

    place = address.removeprefix("ray://")
    host, _, port = place.rpartition(":")
    if not (host and port.isdecimal() and int(port) < 2**16):
        raise InputError(
            f"--ray: is {address!r}; expected HOST:PORT, ray://HOST:PORT or nothing"
        )
    try:
        with socket.create_connection((host.strip("[]"), int(port)), _CONNECT_SECONDS):
            pass
        # With RAY_USE_TLS the service answers only to certificates.
        if os.environ.get("RAY_USE_TLS", "0") == "0":
            with grpc.insecure_channel(place) as channel:
                grpc.channel_ready_future(channel).result(_CONNECT_SECONDS)
    except (OSError, grpc.FutureTimeoutError) as error:
        reason = _line(error) or "no Ray cluster answers there"
        raise InputError(
            f"--ray: {address} cannot be reached ({reason}); expected the address of a "
            "running cluster, as `ray start --head` prints it"
        ) from None


class Cluster:
    """The cluster that this process is connected to.

    Workers have one GPU each if the cluster has any. Otherwise each has as many
    threads, and reserves as many processors, as torch uses in this process: with
    another number of threads sums differ in their last digits.

    Raises:
        InputError: If no machine has the resources of a worker, or its versions of
            packages are others.
    """

    def __init__(self) -> None:
        import ray
        import torch

        self.threads = torch.get_num_threads()
        self.versions = {package: _version(package) for package in _PACKAGES}
        self._needs = {"CPU": self.threads, "GPU": 0}
        if ray.cluster_resources().get("GPU", 0) >= 1:
            self._needs = {"CPU": 1, "GPU": 1}
        if not self.workers():
            threads = "" if self._needs["GPU"] else " (one for each of its threads)"
            raise InputError(
                f"--ray: a worker needs {self._needed()}{threads}, and no machine of "
                "the cluster has them; set OMP_NUM_THREADS, or use another cluster"
            )
        self._actor = ray.remote(
            num_cpus=self._needs["CPU"],
            num_gpus=self._needs["GPU"],
            # A worker that ended is replaced by one of another machine if need be.
            max_restarts=0,
            runtime_env={"env_vars": _VARIABLES},
        )(Worker)
        self._try_worker()

    def workers(self) -> int:
        """Return the number of workers that the machines have resources for."""
        import ray

        machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        return sum(
            min(
                int(machine.get(name, 0) // needed)
                for name, needed in self._needs.items()
                if needed
            )
            for machine in machines
        )

    def start(self) -> Any:
        """Start a worker; return its actor."""
        return self._actor.remote()

    def sketching(
        self,
        proxy: "Proxy",
        identity: Mapping[str, Any],
        settings: "SketchSettings",
        means: "MeanGradients",
        checkpoints: "Sequence[Checkpoint]",
    ) -> "_Crew":
        """Return the workers that sketch shards; they start within its context.

        Args:
            proxy: The proxy. It leaves the GPU, which a worker may need.
            identity: The manifest's entry of the proxy.
            settings: The settings.
            means: As for `ShardSketcher`.
            checkpoints: As for `ShardSketcher`.
        """
        import torch

        device = proxy.device.type
        proxy.model.cpu()
        torch.cuda.empty_cache()  # nothing on a machine without CUDA
        name = settings.proxy
        if Path(name).exists():
            name = str(Path(name).resolve())
        setup = Setup(
            dataclasses.replace(
                settings, proxy=name, precision=str(identity["precision"])
            ),
            str(identity["sha256"]),
            self.threads,
            _arrays(means.stacked),
            [(c.step, _arrays(c.state), _arrays(c.scales)) for c in checkpoints],
        )
        return _Crew(self, setup, device)

    def _needed(self) -> str:
        parts = [
            f"{count} {name}{'s' if count > 1 else ''}"
            for name, count in self._needs.items()
            if count
        ]
        return " and ".join(parts)

    def _try_worker(self) -> None:
        """Start a worker and compare versions, before the model is loaded here."""
        import ray
        from ray.exceptions import RayError

        actor = self.start()
        try:
            ray.get(actor.check.remote(self.versions), timeout=_START_SECONDS)
        except ray.exceptions.GetTimeoutError:
            raise InputError(
                f"--ray: a worker needs {self._needed()}, and no machine of the "
                f"cluster had them free within {_START_SECONDS} s; wait until other "
                "work ends, or use another cluster"
            ) from None
        except RayError as error:
            raise InputError(f"--ray: a worker {_reason(error)}") from None
        finally:
            ray.kill(actor)


@dataclass(eq=False)
class _Member:
    """A worker, with the shards that it has, oldest first, by reference."""

    actor: Any
    shards: "dict[Any, Shard]" = field(default_factory=dict)


class _Crew:
    """Workers that sketch shards; a worker that ended is replaced.

    Args:
        cluster: Starts the workers.
        setup: What they need.
        device: Type of the device that the means were computed on.
    """

    def __init__(self, cluster: Cluster, setup: Setup, device: str) -> None:
        self._cluster, self._setup, self._device = cluster, setup, device
        self._ready: list[_Member] = []
        self._starting: dict[Any, _Member] = {}
        self._most, self._looked = 0, -float("inf")
        self._refused: Counter[str] = Counter()
        self._lost: Counter[str] = Counter()

    def __enter__(self) -> "_Crew":
        import ray

        self._reference = ray.put(self._setup)
        return self

    def __exit__(self, *_: object) -> None:
        for member in [*self._ready, *self._starting.values()]:
            self._end(member)

    def __call__(
        self,
        shards: "Iterable[Shard]",
        measured: "Measured | None",
        progress: "Progress",
    ) -> "Iterator[tuple[Shard, ShardFiles]]":
        """Sketch shards, see `ogs_env.sketching.shards.Sketching`.

        Raises:
            InputError: If the connection is lost, all workers end at one shard, none
                can load the proxy, or a sample's values are not finite.
        """
        from ray.exceptions import RaySystemError

        try:
            yield from self._sketch(shards, measured, progress)
        except (ConnectionError, RaySystemError) as error:
            raise InputError(
                f"--ray: the connection to the cluster is lost ({_line(error)}); run "
                "the same command again to resume"
            ) from None

    def _sketch(
        self,
        shards: "Iterable[Shard]",
        measured: "Measured | None",
        progress: "Progress",
    ) -> "Iterator[tuple[Shard, ShardFiles]]":
        import ray

        sent = [] if measured is None else [ray.put(_measured_arrays(measured))]
        left: Iterator[Shard] = iter(shards)
        waiting: deque[Shard] = deque()
        while True:
            self._look()
            room = _SHARDS * self._most - self._under_way() - len(waiting)
            waiting.extend(itertools.islice(left, max(0, room)))
            if not waiting and not self._under_way():
                return
            self._start(self._under_way() + len(waiting))
            self._hand_out(waiting, sent)
            progress.set_workers(len(self._ready))
            reference = self._next_done()
            if reference in self._starting:
                self._welcome(reference, progress)
            elif reference is not None:
                shard, files = self._take(reference, waiting, progress)
                if files is not None:
                    progress.bar.update(len(shard.rows))
                    yield shard, files

    def _look(self) -> None:
        """Look now and then how many workers the machines have room for."""
        if time.monotonic() - self._looked > _SIZE_SECONDS:
            self._most = max(1, self._cluster.workers())
            self._looked = time.monotonic()

    def _under_way(self) -> int:
        return sum(len(member.shards) for member in self._ready)

    def _start(self, shards: int) -> None:
        """Start workers, one for each shard if there is room."""
        # The last machine may be one whose worker is to be replaced.
        most = max(1, min(self._most - self._refused.total(), shards))
        for _ in range(most - len(self._ready) - len(self._starting)):
            member = _Member(self._cluster.start())
            loading = member.actor.load.remote(
                self._cluster.versions, [self._reference]
            )
            self._starting[loading] = member

    def _hand_out(self, waiting: "deque[Shard]", measured: list[Any]) -> None:
        """Give shards to workers, first to those that have none."""
        for most in range(1, _SHARDS + 1):
            for member in self._ready:
                if waiting and len(member.shards) < most:
                    shard = waiting.popleft()
                    reference = member.actor.sketch.remote(
                        _without_fields(shard), measured
                    )
                    member.shards[reference] = shard

    def _next_done(self) -> Any:
        """Wait for a started worker or a sketched shard; None after some seconds."""
        import ray

        references = [*self._starting]
        for member in self._ready:
            references += member.shards
        done, _ = ray.wait(references, timeout=_SIZE_SECONDS)
        return next(iter(done), None)

    def _welcome(self, reference: Any, progress: "Progress") -> None:
        """Put a started worker to work, or note why it cannot work."""
        import ray
        from ray.exceptions import RayError, RayTaskError

        member = self._starting.pop(reference)
        try:
            device = ray.get(reference)
        except RayTaskError as error:
            self._end(member)
            self._refuse(_reason(error), progress)
        except RayError as error:
            self._end(member)
            self._lose(_LOADING, error, progress)
        else:
            del self._lost[_LOADING]
            self._ready.append(member)
            if device != self._device:
                _note(
                    progress,
                    f"the workers compute on {device}, this machine on {self._device}: "
                    "the bundle's last digits are not those of one machine",
                )
                self._device = device

    def _refuse(self, reason: str, progress: "Progress") -> None:
        self._refused[reason] += 1
        if not self._ready and not self._starting:
            raise InputError(f"--ray: a worker {reason}")
        if self._refused[reason] == 1:
            _note(progress, f"goes on without a worker, which {reason}")

    def _take(
        self, reference: Any, waiting: "deque[Shard]", progress: "Progress"
    ) -> "tuple[Shard, ShardFiles | None]":
        """Return a shard with its files; without them if its worker ended."""
        import ray
        from ray.exceptions import RayError, RayTaskError

        [member] = [member for member in self._ready if reference in member.shards]
        try:
            files = ray.get(reference)
        except RayTaskError as error:
            if isinstance(error.cause, InputError):
                raise error.cause from None
            raise
        except RayError as error:
            self._ready.remove(member)
            self._end(member)
            # A worker sketches one shard after the other, so it was at the first.
            first, *others = member.shards.values()
            waiting.extendleft([*reversed(others), first])
            self._lose(f"shard {first.file}", error, progress)
            return first, None
        return member.shards.pop(reference), files

    def _lose(self, work: str, error: Exception, progress: "Progress") -> None:
        """Count a worker that ended at some work; give up after several."""
        self._lost[work] += 1
        if self._lost[work] == _LOSSES:
            raise InputError(
                f"--ray: {_LOSSES} workers ended at {work} ({_line(error)}); if they "
                "lack memory, start fewer workers on a machine; the same command "
                "resumes"
            )
        _note(progress, f"a worker ended at {work}, which is done again")

    def _end(self, member: _Member) -> None:
        import ray

        if ray.is_initialized():  # the connection is not lost
            ray.kill(member.actor)


def _version(package: str) -> str:
    """Return the version of an installed package, without that of CUDA."""
    try:
        return version(package).partition("+")[0]
    except PackageNotFoundError:
        return "(not installed)"


def _arrays(tensors: "Mapping[str, torch.Tensor]") -> Arrays:
    # Ray copies tensors into every process, but arrays only once to a machine.
    return {name: tensor.cpu().numpy() for name, tensor in tensors.items()}


def _measured_arrays(measured: "Measured") -> Arrays:
    answers = {} if measured.answers is None else {"answers": measured.answers}
    return _arrays({"samples": measured.samples, **answers})


def _measured(reference: Any) -> "Measured":
    """Read what `_measured_arrays` returned."""
    import ray
    import torch

    from ogs_env.sketching.shards import Measured

    arrays = {name: torch.tensor(a) for name, a in ray.get(reference).items()}
    return Measured(arrays["samples"], arrays.get("answers"))


def _without_fields(shard: "Shard") -> "Shard":
    """Leave out what records hold besides the sample, which no worker reads."""
    rows = [
        dataclasses.replace(row, sample=dataclasses.replace(row.sample, fields={}))
        for row in shard.rows
    ]
    return dataclasses.replace(shard, rows=rows)


def _reason(error: Exception) -> str:
    """Say in words that follow "a worker" why it cannot work."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, InputError):
        return str(cause)
    text = str(error)
    if "No module named" in text:
        module = text.rpartition("No module named")[2].split()[0].strip("'\".")
        return (
            f"has no package {module}; install ogs-env[llm,ray] in the Python of "
            "`ray start` on all machines"
        )
    return f"cannot start ({_line(error)})"


def _line(error: BaseException) -> str:
    """Return the last line of an error, which names the cause, not too long."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:200] if lines else ""


def _note(progress: "Progress", text: str) -> None:
    progress.bar.write(f"ogs: note: {text}", file=sys.stderr)
