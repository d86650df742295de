import os
import signal
import subprocess
import sys
import time
from concurrent.futures import Future
from pathlib import Path

import pytest

from convlib.reports.workers import WorkerDied, open_workers

PARENT = """
import os, sys, time
from convlib.reports.workers import open_workers
if __name__ == "__main__":
    with open_workers(1) as pool:
        print(pool.submit(os.getpid).result(), flush=True)
        pool.submit(time.sleep, 100)
        time.sleep(100)
"""


def test_workers_do_work_in_processes_of_their_own() -> None:
    with open_workers(2) as pool:
        processes = {pool.submit(os.getpid).result() for _ in range(3)}
        assert os.getpid() not in processes
        assert pool.submit(divmod, 7, 2).result() == (3, 1)
        with pytest.raises(ZeroDivisionError):
            pool.submit(divmod, 7, 0).result()
    assert not any(is_alive(process) for process in processes)


def test_workers_that_die_are_replaced_and_only_their_own_work_fails() -> None:
    with open_workers(2) as pool:
        slow = pool.submit(time.sleep, 1)
        with pytest.raises(WorkerDied):
            pool.submit(os.kill, pool.submit(os.getpid).result(), signal.SIGKILL).result()
        with pytest.raises(WorkerDied):
            pool.submit(os._exit, 3).result()
        assert pool.submit(divmod, 7, 2).result() == (3, 1)
        slow.result()


def test_workers_are_gone_at_once_after_an_error() -> None:
    begun = time.monotonic()
    found: list[int] = []
    works: list[Future[None]] = []

    def interrupt() -> None:
        with open_workers(2) as pool:
            found.append(pool.submit(os.getpid).result())
            works.extend(pool.submit(time.sleep, 100) for _ in range(5))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupt()
    assert time.monotonic() - begun < 20
    assert not is_alive(found[0])
    assert all(work.done() for work in works)


@pytest.mark.skipif(not Path("/proc").exists(), reason="asks the system which processes live")
def test_workers_end_when_their_run_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    parent = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout
    worker = int(parent.stdout.readline())
    assert is_alive(worker)
    parent.kill()
    parent.communicate()
    for _ in range(50):
        if not is_alive(worker):
            return
        time.sleep(0.1)
    pytest.fail("the worker outlived its run by 5 seconds")


def is_alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
