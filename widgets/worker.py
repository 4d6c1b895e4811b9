"""Slow work outside the drawing thread: the newest request of each lane counts, long jobs have their own thread.

Owns the queue, the generation numbers and the delivery of results. Ignores the work itself. A late answer (a newer
request of the same lane was made, or the panel was closed) is dropped, never delivered. Start at `Worker.submit`; a
view-model with a worker is a `WorkingState`.
"""

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any

import traitlets as T

from clipattr.errors import ClipattrError
from clipattr_widgets.text import words_of

log = logging.getLogger(__name__)


class Superseded(Exception):
    """Ends work whose answer nobody waits for."""


Done = Callable[[Any], None]
Failed = Callable[[Exception], None]


class Worker:
    """Runs functions in background threads; their results arrive on the thread that asked.

    Requests wait for each other in one thread, and long jobs in another, so that browsing never waits for an audit.

    With a running event loop (a notebook kernel) results come through it. Without one (a script, a test) `submit` runs
    the work at once, unless `threaded=True`: then `settle` delivers the results.

    Args:
        threaded: None chooses by whether an event loop runs.
        idle: called on the asking thread whenever the number of unfinished requests changes.
    """

    def __init__(self, threaded: bool | None = None, idle: Callable[[int], None] | None = None) -> None:
        self._threaded = threaded
        self._changed = idle or (lambda pending: None)
        self._pools: dict[bool, ThreadPoolExecutor] = {}
        self._generation: dict[str, int] = {}
        self._home: deque[tuple[str, int, Future[Any], Done, Failed]] = deque()
        self._futures: set[Future[Any]] = set()
        self._lock = threading.Lock()
        self.closed = False

    @property
    def pending(self) -> int:
        """Requests whose answer has not been delivered or dropped."""
        return len(self._futures)

    def generation(self, lane: str) -> int:
        """How many requests this lane has seen."""
        return self._generation.get(lane, 0)

    def submit(
        self, lane: str, work: Callable[[], Any], done: Done, failed: Failed, *, long: bool = False
    ) -> int:
        """Run `work()`, then `done(result)` or `failed(error)`; any older request of the lane is forgotten.

        Args:
            long: whether it may take minutes (an audit, a repair); no short request waits for it.

        Returns:
            The request's generation number, or -1 where the worker is closed (nothing runs then).
        """
        if self.closed:
            return -1
        number = self._generation[lane] = self.generation(lane) + 1
        loop = self._loop()
        if self._threaded is False or (self._threaded is None and loop is None):
            self._run_here(work, done, failed)
            return number
        if long not in self._pools:
            self._pools[long] = ThreadPoolExecutor(1, thread_name_prefix="clipattr-panel")
        future: Future[Any] = self._pools[long].submit(self._run_there, lane, number, work)
        self._futures.add(future)
        self._changed(self.pending)
        future.add_done_callback(lambda ended: self._bring_home(loop, (lane, number, ended, done, failed)))
        return number

    def reporter(self, lane: str, told: Done) -> Done:
        """A function for the work that is submitted to this lane next, to call while it runs.

        What it is called with arrives at `told` on the thread that asks. It raises `Superseded`, which ends the work,
        once the lane was forgotten or has a newer request.
        """
        number, loop = self.generation(lane) + 1, self._loop()
        here = self._threaded is False or (self._threaded is None and loop is None)

        def report(value: Any) -> None:
            if self.closed or self.generation(lane) != number:
                raise Superseded
            if here:
                told(value)
                return
            parcel: Future[Any] = Future()
            parcel.set_result(value)
            self._bring_home(loop, (lane, number, parcel, told, lambda error: None))

        return report

    def paced(self, lane: str, told: Done) -> Callable[[int, int], None]:
        """A `reporter` to call with units done and asked; `told` gets both and seconds left (None before the first)."""
        report = self.reporter(lane, told)
        begun: list[float] = []

        def count(done: int, of: int) -> None:
            begun[:] = begun or [time.monotonic()]  # the time that the work waits for its turn does not count
            spent = time.monotonic() - begun[0]
            report((done, of, spent / done * (of - done) if done and spent else None))

        return count

    def forget(self, lane: str) -> None:
        """Drop the answer to the lane's request; work that reports ends with its next report."""
        self._generation[lane] = self.generation(lane) + 1

    def settle(self, timeout: float | None = None) -> None:
        """Wait for all requests made so far and deliver their results here.

        Raises:
            TimeoutError: not finished within `timeout` seconds.
        """
        while self._futures:
            for future in list(self._futures):
                future.exception(timeout) if not future.cancelled() else None
            self._deliver()

    def close(self) -> None:
        """Drop everything: nothing is delivered from now on, waiting work never starts."""
        self.closed = True
        self._home.clear()
        self._futures.clear()
        for pool in self._pools.values():
            pool.shutdown(wait=False, cancel_futures=True)
        self._pools = {}

    def _loop(self) -> asyncio.AbstractEventLoop | None:
        try:
            return asyncio.get_running_loop()
        except RuntimeError:
            return None

    def _run_here(self, work: Callable[[], Any], done: Done, failed: Failed) -> None:
        try:
            result = work()
        except Superseded:
            return
        except Exception as error:  # shown in the panel, whatever it is
            log.debug("panel work failed", exc_info=True)
            failed(error)
        else:
            done(result)

    def _run_there(self, lane: str, number: int, work: Callable[[], Any]) -> Any:
        if self.closed or self.generation(lane) != number:
            return None  # superseded while it waited; the answer would be dropped
        return work()

    def _bring_home(self, loop: asyncio.AbstractEventLoop | None, parcel: Any) -> None:
        with self._lock:
            if self.closed:
                return
            self._home.append(parcel)
        if loop is not None:
            with suppress(RuntimeError):  # the loop ended: the kernel is going away
                loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        while True:
            with self._lock:
                if not self._home:
                    return
                lane, number, future, done, failed = self._home.popleft()
            self._futures.discard(future)
            self._changed(self.pending)
            if self.closed or future.cancelled() or self.generation(lane) != number:
                continue
            error = future.exception()
            if error is None:
                done(future.result())
            elif isinstance(error, Exception):
                log.debug("panel work failed", exc_info=error)
                failed(error)


class WorkingState(T.HasTraits):
    """A view-model whose slow answers come from `worker`.

    Traits that follow: `pending` (requests without an answer), `error` (the last one's message, or ""), `gen` (a number
    that rises whenever what is drawn has changed).
    """

    pending = T.Int(0)
    error = T.Unicode("")
    gen = T.Int(0)

    def start_worker(self, threaded: bool | None) -> None:
        """Make the `Worker` of this state; `threaded` as there."""
        self.worker = Worker(threaded, lambda pending: self.set_trait("pending", pending))

    def ask(self, lane: str, work: Callable[[], Any], done: Done, *, long: bool = False) -> None:
        """`Worker.submit`; an error goes to `_failed`."""
        self.worker.submit(lane, work, done, self._failed, long=long)

    def fill(self, *names: str) -> Done:
        """A `done` that sets these traits together from an answer with one part for each."""

        def came(answer: Any) -> None:
            with self.hold_trait_notifications():
                for name, part in zip(names, answer if len(names) > 1 else [answer], strict=True):
                    self.set_trait(name, part)

        return came

    def _failed(self, error: Exception) -> None:
        self.error = words_of(error)

    @contextmanager
    def telling(self) -> Iterator[None]:
        """Show an expected error of what is done inside, such as a study that cannot be written, in `error`."""
        try:
            yield
        except (ClipattrError, OSError) as error:
            self.error = words_of(error)

    def settle(self, timeout: float | None = None) -> None:
        """Wait until all requests are answered."""
        self.worker.settle(timeout)

    def close(self) -> None:
        """Ignore results of running work from now on."""
        self.worker.close()


class PacedJob:
    """A long job with progress and an end, in its own lane of a worker; subclasses start it.

    Args:
        worker: it runs there.
        told: called with the job's progress, and with () at its end.
        came: called with its result.
        failed: called with what went wrong.
    """

    LANE = ""

    def __init__(self, worker: Worker, told: Done, came: Done, failed: Failed) -> None:
        self.worker, self._told, self._came, self._failed = worker, told, came, failed

    def cancel(self) -> None:
        """Forget the job, which ends with its next report; nothing of what is in hand is kept."""
        self.worker.forget(self.LANE)
        self._told(())

    def _submit(self, work: Callable[[], Any], begun: tuple[Any, ...]) -> None:
        """Run `work` in the background; `begun` is the progress until it reports."""

        def came(result: Any) -> None:
            self._told(())
            self._came(result)

        def failed(error: Exception) -> None:
            self._told(())
            self._failed(error)

        self._told(begun)
        self.worker.submit(self.LANE, work, came, failed, long=True)
