"""Processes that make a run's reports: each works alone, so that the death of one blames one report."""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import Connection, wait
from types import FrameType
from typing import Any, ParamSpec, TypeVar

from convlib.reports import skip_slow_imports

P = ParamSpec("P")
T = TypeVar("T")
END_SECONDS = 10


class WorkerDied(Exception):  # noqa: N818  # what happened, and nobody's fault here
    """A worker process ended in the middle of its work: killed, or out of memory."""

    def __str__(self) -> str:
        return "its process ended in the middle of it: it was killed, or memory ran out"


class Terminated(KeyboardInterrupt):
    """The run was asked to end (SIGTERM)."""


class WorkerPool(ThreadPoolExecutor):
    """Processes of their own, one a thread; one that dies is replaced, and only its own work fails.

    Args:
        workers: How many processes; each is started at its first work.
    """

    def __init__(self, workers: int) -> None:
        super().__init__(workers, thread_name_prefix="convlib-worker")
        self._own = threading.local()
        self._lock = threading.Lock()
        self._started: list[tuple[multiprocessing.process.BaseProcess, Connection[Any, Any]]] = []
        self._stopped = False

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> "Future[T]":
        """Do some work in a process; the function must be one that can be imported."""
        return super().submit(self._work, fn, *args, **kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the processes once their work is done."""
        super().shutdown(wait, cancel_futures=cancel_futures)
        if wait:
            for _, pipe in self._started:
                pipe.close()  # which an idle process takes as the end
            for process, _ in self._started:
                process.join(END_SECONDS)
            self._kill()

    def stop(self) -> None:
        """End the processes at once, in the middle of their work."""
        super().shutdown(wait=False, cancel_futures=True)
        with self._lock:
            self._stopped = True
        self._kill()
        super().shutdown()

    def _kill(self) -> None:
        for process, _ in self._started:
            process.kill()
            process.join()

    def _work(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        try:
            pipe = self._open_pipe()
            pipe.send((fn, args, kwargs))
            done, result = pipe.recv()
        except (EOFError, OSError):
            self._own.pipe = None
            raise WorkerDied from None
        if not done:
            raise result
        return result

    def _open_pipe(self) -> "Connection[Any, Any]":
        """Give this thread's pipe to its process, which is started when there is none."""
        pipe: Connection[Any, Any] | None = getattr(self._own, "pipe", None)
        if pipe is None:
            with self._lock:
                if self._stopped:
                    raise WorkerDied
                pipe = self._own.pipe = self._start()
        return pipe

    def _start(self) -> "Connection[Any, Any]":
        # Spawned: papermill changes the working folder of its process, and a fork would share engine threads.
        context = multiprocessing.get_context("spawn")
        pipe, other = context.Pipe()
        process = context.Process(target=_serve, args=(other,))
        process.start()
        other.close()
        self._started.append((process, pipe))
        return pipe


def _serve(pipe: "Connection[Any, Any]") -> None:
    """Do one work after the other, until the run is gone."""
    if hasattr(os, "setsid"):
        os.setsid()  # the terminal's Ctrl+C is for the run, which then ends its workers
    threading.Thread(target=_end_with_parent, daemon=True).start()
    skip_slow_imports()
    while True:
        try:
            fn, args, kwargs = pipe.recv()
        except EOFError:
            return
        try:
            result = (True, fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001  # raised again where the work was asked for
            result = (False, error)
        pipe.send(result)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


@contextlib.contextmanager
def open_workers(count: int) -> Iterator[WorkerPool]:
    """Give a pool of workers that are gone afterwards: after an error or an interrupt at once."""
    pool = WorkerPool(count)
    try:
        yield pool
    except BaseException:
        pool.stop()
        raise
    pool.shutdown()


@contextlib.contextmanager
def listen() -> Iterator[None]:
    """Take SIGTERM for an interrupt, where this is the thread that gets signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(_number: int, _frame: FrameType | None) -> None:
        raise Terminated

    # Polars, which statsmodels loads where it is installed, takes the interrupt away from Python; take it back.
    signal.signal(signal.SIGINT, signal.getsignal(signal.SIGINT) or signal.default_int_handler)
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)
