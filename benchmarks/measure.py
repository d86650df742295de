"""Times functions in processes of their own, in turn, so that a slower hour of the machine meets all alike."""

import contextlib
import json
import multiprocessing
import os
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Measured:
    """What a work took and gave.

    Attributes:
        seconds: Of each run, without the process's start and the first time.
        peak: Most memory of a process and its children, in MiB; NaN where the system does not tell (other than Linux).
        result: What the last run returned.
    """

    seconds: list[float]
    peak: float
    result: Any = None

    @property
    def median(self) -> float:
        """Give the seconds of the middle run."""
        return statistics.median(self.seconds)


@dataclass(frozen=True)
class Script:
    """A work for another Python than this one: a module of this folder that ends by calling `print_measured`."""

    python: str
    module: str
    argument: str


#: If what a work returns can be called, the work only made ready, and the call is what is timed.
Work = Callable[[], object] | Script


def measure(works: Mapping[str, Work], *, runs: int) -> dict[str, Measured]:
    """Run each work `runs` times, each time in a new process, once to warm up and once for the clock."""
    found: dict[str, Measured] = {}
    for _ in range(runs):
        for name, work in works.items():
            one = run_apart(work)
            before = found.get(name, one)
            seconds = [*(before.seconds if name in found else ()), *one.seconds]
            found[name] = replace(one, seconds=seconds, peak=max(before.peak, one.peak))
    return found


def show(found: Mapping[str, Measured], *, against: str | None) -> None:
    """Print a Markdown table: median, spread and peak memory of each work, and its ratio to the median of one."""
    print("| work | median s | min | max | peak MiB | ratio |\n|---|---:|---:|---:|---:|---:|")
    for name, one in found.items():
        ratio = f"{one.median / found[against].median:.2f}" if against else "-"
        seconds = f"{one.median:.2f} | {min(one.seconds):.2f} | {max(one.seconds):.2f}"
        print(f"| {name} | {seconds} | {one.peak:,.0f} | {ratio} |")


def run_apart(work: Work) -> Measured:
    """Run a work in a process of its own."""
    if isinstance(work, Script):
        command = [work.python, "-m", work.module, work.argument]
        output = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout  # noqa: S603
        return Measured(**json.loads(output.splitlines()[-1]))
    context = multiprocessing.get_context("spawn")  # nothing warm is inherited
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(work, sender))
    process.start()
    sender.close()
    try:
        result: Measured = receiver.recv()
    except EOFError:
        raise SystemExit("It failed; the reason stands above.") from None
    finally:
        process.join()
    return result


def print_measured(work: Callable[[], object]) -> None:
    """Time a work here, and print what was found for the process that started this one."""
    print(json.dumps(asdict(_time(work))))


def _send(work: Callable[[], object], sender: Connection) -> None:
    sender.send(_time(work))


def _time(work: Callable[[], object]) -> Measured:
    _time_once(work)  # a first time: imports, compiled kernels and the file system's cache are warm for all
    seconds, result = _time_once(work)
    return Measured([seconds], _read_peak(os.getpid()), result)


def _time_once(work: Callable[[], object]) -> tuple[float, object]:
    start = time.perf_counter()
    result = work()
    if callable(result):
        start = time.perf_counter()
        result = result()
    return time.perf_counter() - start, result


def _read_peak(root: int) -> float:
    """Add up the peaks of a process and its living children; the `resource` module would count the parent's own too."""
    peaks: dict[int, float] = {}
    parents: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*/status"):
        with contextlib.suppress(OSError):  # it has ended in between
            fields = dict(line.split(":", 1) for line in path.read_text(encoding="utf-8").splitlines())
            parents[int(fields["Pid"])] = int(fields["PPid"])
            peaks[int(fields["Pid"])] = int(fields.get("VmHWM", "0 kB").split()[0]) / 1024
    family = [root]
    for process in family:
        family += [child for child, parent in parents.items() if parent == process]
    return sum(peaks.get(process, float("nan")) for process in family)
