"""The Ray cluster that sketches the shards of a bundle."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ogs_env.errors import InputError
from ogs_env.sketching.cluster_connection import connection
from ogs_env.sketching.cluster_crew import Crew
from ogs_env.sketching.cluster_errors import worker_reason
from ogs_env.sketching.cluster_worker import Worker, installed_version, make_setup

if TYPE_CHECKING:
    from ogs_env.lm.adapter import Proxy
    from ogs_env.sketching.batch_sketches import MeanGradients
    from ogs_env.sketching.settings import SketchSettings
    from ogs_env.sketching.warmup import Checkpoint

START_SECONDS = 30  # for Ray to start the first worker
# Packages whose versions change the numbers of a bundle.
_PACKAGES = ("ogs-env", "torch", "transformers")
# As the command line sets them before torch is loaded.
_VARIABLES = {"OMP_WAIT_POLICY": "PASSIVE", "TOKENIZERS_PARALLELISM": "false"}


@contextlib.contextmanager
def connected(address: str | None) -> Iterator["Cluster"]:
    """Connect to a Ray cluster, see `connection`.

    Raises:
        InputError: If there is no connection, or `Cluster` refuses the cluster.
    """
    with connection(address):
        yield Cluster()


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

        self._threads = torch.get_num_threads()
        self._versions = {package: installed_version(package) for package in _PACKAGES}
        self._needs = {"CPU": self._threads, "GPU": 0}
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
    ) -> Crew:
        """Return the workers that sketch shards; they start within its context.

        Args:
            proxy: The proxy. It leaves the GPU, which a worker may need.
            identity: The manifest's entry of the proxy.
            settings: The settings.
            means: As for `ShardSketcher`.
            checkpoints: As for `ShardSketcher`.
        """
        import ray
        import torch

        device = proxy.device.type
        proxy.model.cpu()
        torch.cuda.empty_cache()  # nothing on a machine without CUDA
        setup = ray.put(
            make_setup(identity, settings, self._threads, means, checkpoints)
        )

        def start() -> tuple[Any, Any]:
            actor = self.start()
            return actor, actor.load.remote(self._versions, [setup])

        return Crew(start, self.workers, device)

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
            ray.get(actor.check.remote(self._versions), timeout=START_SECONDS)
        except ray.exceptions.GetTimeoutError:
            raise InputError(
                f"--ray: a worker needs {self._needed()}, and no machine of the "
                f"cluster had them free within {START_SECONDS} s; wait until other "
                "work ends, or use another cluster"
            ) from None
        except RayError as error:
            raise InputError(f"--ray: a worker {worker_reason(error)}") from None
        finally:
            ray.kill(actor)
