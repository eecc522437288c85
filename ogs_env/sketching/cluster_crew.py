"""Hand shards to the workers of a cluster, and replace workers that end.

Shards are given to a pool of actors rather than to Ray Data's `map_batches`. A shard is
a unit of work whose result is a file: it is kept as soon as it is there, a shard whose
worker ended is sketched again, and at most two shards a worker are under way. Ray Data
cuts rows into blocks of its own and repeats lost blocks out of sight; which shards are
written and missing would be unknown to a command that is killed.
"""

import itertools
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ogs_env.errors import InputError
from ogs_env.sketching.cluster_errors import last_line, worker_reason
from ogs_env.sketching.cluster_worker import measured_arrays, without_fields

if TYPE_CHECKING:
    from ogs_env.sketching.shards import Measured, Progress, Shard, ShardFiles

_SHARDS = 2  # in flight for each worker: the next waits there while one is sketched
_LOSSES = 3  # of workers, before a shard or the loading of the model is given up
_LOADING = "the loading of the model"
_SIZE_SECONDS = 10  # between two looks at the size of the cluster


@dataclass(eq=False)
class _Member:
    """A worker, with the shards that it has, oldest first, by reference."""

    actor: Any
    shards: "dict[Any, Shard]" = field(default_factory=dict)


class Crew:
    """Workers that sketch shards; a worker that ended is replaced.

    Args:
        start: Starts a worker; returns its actor, and a reference to the type of its
            device once the model is loaded.
        most_workers: Returns the number of workers that there is room for.
        device: Type of the device that the means were computed on.
    """

    def __init__(
        self,
        start: Callable[[], tuple[Any, Any]],
        most_workers: Callable[[], int],
        device: str,
    ) -> None:
        self._start_one, self._most_workers, self._device = start, most_workers, device
        self._ready: list[_Member] = []
        self._starting: dict[Any, _Member] = {}
        self._most, self._looked = 0, -float("inf")
        self._refused: Counter[str] = Counter()
        self._lost: Counter[str] = Counter()

    def __enter__(self) -> "Crew":
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
                f"--ray: the connection to the cluster is lost ({last_line(error)}); "
                "run the same command again to resume"
            ) from None

    def _sketch(
        self,
        shards: "Iterable[Shard]",
        measured: "Measured | None",
        progress: "Progress",
    ) -> "Iterator[tuple[Shard, ShardFiles]]":
        import ray

        sent = [] if measured is None else [ray.put(measured_arrays(measured))]
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
            self._most = max(1, self._most_workers())
            self._looked = time.monotonic()

    def _under_way(self) -> int:
        return sum(len(member.shards) for member in self._ready)

    def _start(self, shards: int) -> None:
        """Start workers, one for each shard if there is room."""
        # The last machine may be one whose worker is to be replaced.
        most = max(1, min(self._most - self._refused.total(), shards))
        for _ in range(most - len(self._ready) - len(self._starting)):
            actor, loading = self._start_one()
            self._starting[loading] = _Member(actor)

    def _hand_out(self, waiting: "deque[Shard]", measured: list[Any]) -> None:
        """Give shards to workers, first to those that have none."""
        for most in range(1, _SHARDS + 1):
            for member in self._ready:
                if waiting and len(member.shards) < most:
                    shard = waiting.popleft()
                    reference = member.actor.sketch.remote(
                        without_fields(shard), measured
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
            self._refuse(worker_reason(error), progress)
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
                f"--ray: {_LOSSES} workers ended at {work} ({last_line(error)}); if "
                "they lack memory, start fewer workers on a machine; the same command "
                "resumes"
            )
        _note(progress, f"a worker ended at {work}, which is done again")

    def _end(self, member: _Member) -> None:
        import ray

        if ray.is_initialized():  # the connection is not lost
            ray.kill(member.actor)


def _note(progress: "Progress", text: str) -> None:
    progress.bar.write(f"ogs: note: {text}", file=sys.stderr)
