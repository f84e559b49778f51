"""Who does the work: this process, or several beside it, one thread each."""

from __future__ import annotations

import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any

from geomdiag.checkpoints.places.copies import share_folder, shared_folder

__all__ = ["Crew", "WorkerDiedError", "one_thread"]

#: Seconds that starting workers costs, mostly for importing torch in each.
START_SECONDS = 4.0

# In a worker: what is the same for all jobs of a run, and what holds its one thread.
_plans: Sequence[Any] = ()
_limit: Any = None


class WorkerDiedError(Exception):
    """The process that did a job was killed from outside or crashed."""


class Crew:
    """Runs ``function(plan, *arguments)`` for many jobs, in the order that suits the crew.

    Parameters
    ----------
    plans : sequence
        Sent to every worker once; a job names its plan by number.
    workers : int or None
        Processes to use; 1 works in this process. None: as many as there are cores, once the
        first jobs have shown that starting them pays.
    """

    def __init__(self, plans: Sequence[Any], workers: int | None = None) -> None:
        self._plans = plans
        self._auto = workers is None
        self._size = workers if workers is not None else _cores()
        self._blob = b""
        self._pool: ProcessPoolExecutor | None = None
        if self._size > 1:
            self._blob = _travelling(plans)
            if not self._blob:
                self._size = 1

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def run(
        self, function: Callable[..., Any], jobs: Sequence[tuple[Any, ...]]
    ) -> Iterator[tuple[int, Any]]:
        """Yield the number of each job and its result as they come.

        Parameters
        ----------
        function : callable
            ``function(plan, *arguments)``, of a module's top level; must not raise.
        jobs : sequence of tuple
            Number of the plan, then the arguments.

        Yields
        ------
        tuple of int and object
            A `WorkerDiedError` stands for the result of a job whose process died.
        """
        left = list(enumerate(jobs))
        if self._pool is None and (self._size < 2 or self._auto):
            yield from self._run_here(function, left)
        if left and not _pickles(function, left[0][1]):
            self._size = 1
            yield from self._run_here(function, left)
        while left:
            yield from self._run_beside(function, left)

    def _run_here(
        self, function: Callable[..., Any], left: list[tuple[int, tuple[Any, ...]]]
    ) -> Iterator[tuple[int, Any]]:
        """Work through `left` until it is empty or a pool would be quicker."""
        quickest = float("inf")
        count = 0
        with one_thread():
            while left:
                if count > 2:
                    saved = quickest * len(left) * (1 - 1 / self._size)
                    if saved > 2 * START_SECONDS:
                        return
                number, (plan, *arguments) = left.pop(0)
                began = time.perf_counter()
                result = function(self._plans[plan], *arguments)
                quickest = min(quickest, time.perf_counter() - began)
                count += 1
                yield number, result

    def _run_beside(
        self, function: Callable[..., Any], left: list[tuple[int, tuple[Any, ...]]]
    ) -> Iterator[tuple[int, Any]]:
        """Work through `left` in other processes; return early, with less left, if one dies."""
        jobs = dict(left)
        try:
            futures = {self._submit(function, job): number for number, job in jobs.items()}
            for future in as_completed(futures):
                result = future.result()
                number = futures[future]
                del jobs[number]
                left[:] = jobs.items()
                yield number, result
        except BrokenProcessPool:
            # Which job killed its process cannot be told: try them one by one.
            self._stop()
            for number, job in list(jobs.items()):
                try:
                    result = self._submit(function, job, size=1).result()
                except BrokenProcessPool:
                    self._stop()
                    result = WorkerDiedError(
                        "the process that analysed this checkpoint died (out of memory?). "
                        "Try again with fewer workers."
                    )
                del jobs[number]
                left[:] = jobs.items()
                yield number, result
            self._stop()

    def _submit(
        self, function: Callable[..., Any], job: tuple[Any, ...], size: int | None = None
    ) -> Future[Any]:
        if self._pool is None:
            self._pool = ProcessPoolExecutor(
                size or self._size,
                mp_context=get_context("spawn"),  # a fork would copy torch's threads half-alive
                initializer=_start,
                initargs=(self._blob, shared_folder()),
            )
        with _main_hidden(), _interrupts_held():
            return self._pool.submit(_call, function, job)

    def _stop(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None


@contextmanager
def one_thread() -> Iterator[None]:
    """Keep the numerical libraries to one thread.

    Two threads lose under contention, and the order of a sum, thus its last bit, depends on
    their number: with one, any number of workers gives the same bytes.
    """
    # Loaded first, as a limit binds only what is there.
    import scipy.linalg  # noqa: F401
    import torch
    from threadpoolctl import threadpool_limits

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(before)


def _start(blob: bytes, copies: Path | None) -> None:
    """Prepare a worker; `copies` is where the parent keeps copies of remote files."""
    global _plans, _limit
    share_folder(copies)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears it, too, and ends the work
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    for name in ("OMP", "MKL", "OPENBLAS"):
        os.environ[f"{name}_NUM_THREADS"] = "1"
    _plans = pickle.loads(blob)  # noqa: S301 - made by the parent process
    _limit = one_thread()
    _limit.__enter__()  # for as long as the worker lives


def _leave_with_parent() -> None:
    """End this process when its parent is gone: nobody else would."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _call(function: Callable[..., Any], job: tuple[Any, ...]) -> Any:
    plan, *arguments = job
    return function(_plans[plan], *arguments)


def _travelling(plans: Sequence[Any]) -> bytes:
    """Return the plans as bytes, empty when another process could not read them."""
    try:
        blob = pickle.dumps(list(plans))
    except Exception:  # whatever a user's model raises when it is asked to travel
        return b""
    return b"" if b"__main__" in blob else blob


def _pickles(*objects: object) -> bool:
    try:
        return b"__main__" not in pickle.dumps(objects)
    except Exception:
        return False


@contextmanager
def _main_hidden() -> Iterator[None]:
    """Keep new processes from importing the user's main script.

    A spawned process does so first of all; without the ``if __name__ == "__main__"`` that few
    scripts have, it would start the analysis over again. Nothing a worker needs is in there.
    """
    main = sys.modules["__main__"]
    hidden = {name: getattr(main, name) for name in ("__spec__", "__file__") if hasattr(main, name)}
    try:
        main.__spec__ = None
        if "__file__" in hidden:
            del main.__file__
        yield
    finally:
        for name, value in hidden.items():
            setattr(main, name, value)


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Keep Ctrl-C from new processes, which inherit that; this one hears it afterwards.

    Without it one that is still importing dies of it, with a traceback, before it is told to
    leave Ctrl-C to its parent.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
