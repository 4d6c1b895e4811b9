"""Ray: the engine that runs a study's tasks on this machine or on a cluster.

Owns starting and stopping Ray, the number of waiting tasks, and the handling of dead workers. The tasks run the same
code as without Ray. Start at `Ray`.

All machines must see the pictures and the study's folder under the same paths (a shared file system), and have the
same clipattr installed. By default a task runs with one thread. The last digits of floats depend on the number of
threads, so compare with a single process that uses as many.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from clipattr.errors import ClipattrError, DataError

AHEAD = 4  # finished results per worker that may wait for an earlier result
RETRIES = 3  # repetitions of a task whose worker died
_KEPT: dict[Any, Any] = {}  # in a worker: the shared value of the last stage, unpickled once


class Ray:
    """Engine that runs shards as Ray tasks; pass it as `engine=`, or use `--ray N` on the command line.

    Args:
        workers: concurrent tasks; None: the number of cores of the cluster.
        address: of a running cluster, "auto" for the one of this machine; None starts a cluster here, which ends with
            `close`, a `with` block, or the process.
        threads: threads of each task.

    Raises:
        DataError: Ray is not installed, or there is no cluster at the address.

    >>> import clipattr as ca
    >>> ca.Ray(workers=0)
    Traceback (most recent call last):
    clipattr.errors.DataError: Ray needs at least one worker and one thread; got 0 and 1.
    """

    at_once = False

    def __init__(self, workers: int | None = None, *, address: str | None = None, threads: int = 1) -> None:
        if (workers is not None and workers < 1) or threads < 1:
            raise DataError(f"Ray needs at least one worker and one thread; got {workers} and {threads}.")
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        # Ray's default lowers the priority of workers so far that they starve on a busy machine.
        os.environ.setdefault("RAY_worker_niceness", "0")
        try:
            import ray
        except ImportError as error:
            raise DataError("Ray is not installed: pip install 'clipattr[scale]'.") from error
        self._ray = ray
        self._mine = not ray.is_initialized()
        if self._mine:
            cores = None if address else (workers or os.cpu_count() or 1) * threads
            try:
                ray.init(address=address, num_cpus=cores, include_dashboard=False, log_to_driver=False)
            except Exception as error:  # a connection can fail in many ways
                told = (
                    f"No Ray cluster answers at {address!r} ({error}). Start one with: ray start --head"
                    if address
                    else f"Ray did not start on this machine ({error}). Is it very busy, or short of memory?"
                )
                raise DataError(told) from error
        self.threads = threads
        self.workers = workers or max(1, int(ray.cluster_resources().get("CPU", 1)) // threads)

    def __enter__(self) -> Ray:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the cluster if this object started it."""
        if self._mine and self._ray.is_initialized():
            self._ray.shutdown()

    def map(self, function: Callable[[Any, Any], Any], shared: Any, items: Sequence[Any]) -> Iterator[Any]:
        """`function(shared, item)` for every item, in the order of the items.

        `workers` tasks run at a time, however large the cluster is. A task whose worker dies is given to another
        worker, three times at most. A slow task delays the others only when four results per worker wait for it.

        Raises:
            Any error of the function. DataError: the workers of one task died four times.
        """
        task = self._ray.remote(_run).options(num_cpus=self.threads, max_retries=RETRIES)
        box = [self._ray.put((function, shared))]
        waiting: deque[tuple[Any, Any]] = deque()  # in the order of the items
        running: list[Any] = []
        left = iter(items)
        try:
            while True:
                room = min(self.workers - len(running), AHEAD * self.workers - len(waiting))
                for item in itertools.islice(left, room):
                    running.append(task.remote(box, self.threads, item))
                    waiting.append((item, running[-1]))
                if not waiting:
                    return
                item, reference = waiting[0]
                if reference in running:
                    _, running = self._ray.wait(running, num_returns=1)
                    continue
                result = self._result(reference, item)
                waiting.popleft()
                yield result
        finally:
            for reference in running:
                with contextlib.suppress(Exception):
                    self._ray.cancel(reference, force=True)

    def _result(self, reference: Any, item: Any) -> Any:
        try:
            return self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            cause = error.cause
            if isinstance(cause, (ClipattrError, OSError)):
                raise cause from error
            raise
        except self._ray.exceptions.RayError as error:
            raise DataError(
                f"The workers of task {str(item)[:60]} died {RETRIES + 1} times ({str(error).splitlines()[0]}). The "
                "usual cause is lack of memory: give fewer workers or a smaller batch. Finished tasks are kept; the "
                "same call continues."
            ) from error


def _run(box: list[Any], threads: int, item: Any) -> Any:
    """Compute one item in a worker. The shared value of the stage is fetched and unpickled once per worker."""
    import ray
    import torch

    torch.set_num_threads(threads)
    if box[0] not in _KEPT:
        _KEPT.clear()
        _KEPT[box[0]] = ray.get(box[0])
    function, shared = _KEPT[box[0]]
    return function(shared, item)
