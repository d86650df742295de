"""Locks between processes: two runs never write one folder, and nobody waits for a process that is gone."""

import contextlib
import json
import os
import platform
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from convlib.errors import RunError
from convlib.periods import tell_time

WAIT_SECONDS = 5.0
POLL_SECONDS = 0.05


@contextlib.contextmanager
def hold(path: Path, *, wait_seconds: float | None = None) -> Iterator[None]:
    """Hold a lock that other processes meet; the system frees it when this process ends, however it ends.

    Args:
        path: The lock's file. It is there while the lock is held, and beside it (`.json`) who holds it: on Windows
            nobody can write into a locked file.
        wait_seconds: How long to wait for another holder; None for as long as a killed one may need to go.

    Raises:
        RunError: Another process holds it; its number, its machine and since when are named.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=WAIT_SECONDS if wait_seconds is None else wait_seconds, poll_interval=POLL_SECONDS)
    except Timeout:
        raise RunError(_word_holder(path)) from None
    try:
        holder = {"process": os.getpid(), "host": platform.node(), "since": tell_time()}
        _place_holder(path).write_text(json.dumps(holder), encoding="utf-8")
        yield
    finally:
        # Before the release: whoever waits for the file that is gone sees that, and makes a new one.
        for file in (_place_holder(path), path):
            with contextlib.suppress(OSError):
                file.unlink()
        lock.release()


def is_held(path: Path) -> bool:
    """Say whether a process holds a lock now; where one may only read, the file that it leaves is all that tells."""
    if not path.exists():
        return False
    try:
        with hold(path, wait_seconds=0):
            return False
    except (RunError, OSError):
        return True


def _place_holder(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _word_holder(path: Path) -> str:
    try:
        holder = json.loads(_place_holder(path).read_text(encoding="utf-8"))
        who = f"process {holder['process']} on {holder['host']} since {holder['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        who = "another process"
    return f"`{path}` is held by {who}, which writes there. Wait until it has ended, or end it, and try again."
