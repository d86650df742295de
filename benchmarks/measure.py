"""Times functions in processes of their own, in turn, so that a slower hour of the machine meets all alike."""

import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection

MEBIBYTE = 1024


def measure(works: Mapping[str, Callable[[], object]], *, runs: int) -> dict[str, tuple[list[float], float]]:
    """Run each work `runs` times, each time in a new process.

    Returns:
        For each work its seconds (without the process's start) and its peak memory in MiB.
    """
    found: dict[str, tuple[list[float], float]] = {name: ([], 0.0) for name in works}
    for _ in range(runs):
        for name, work in works.items():
            seconds, peak = _run_apart(work)
            found[name] = ([*found[name][0], seconds], max(found[name][1], peak))
    return found


def show(found: Mapping[str, tuple[list[float], float]], *, against: str) -> None:
    """Print the median, the spread and the peak memory of each work, and its ratio to one of them."""
    base = statistics.median(found[against][0])
    print(f"{'work':44} {'median s':>9} {'min':>7} {'max':>7} {'peak MiB':>9} {'ratio':>7}")
    for name, (seconds, peak) in found.items():
        median = statistics.median(seconds)
        print(f"{name:44} {median:9.2f} {min(seconds):7.2f} {max(seconds):7.2f} {peak:9.0f} {median / base:7.2f}")


def _run_apart(work: Callable[[], object]) -> tuple[float, float]:
    context = multiprocessing.get_context("spawn")  # nothing warm is inherited
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_time, args=(work, sender))
    process.start()
    sender.close()
    try:
        result: tuple[float, float] = receiver.recv()
    finally:
        process.join()
    return result


def _time(work: Callable[[], object], sender: Connection) -> None:
    work()  # a first time: imports, compiled kernels and the file system's cache are warm for all
    start = time.perf_counter()
    work()
    sender.send((time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / MEBIBYTE))
