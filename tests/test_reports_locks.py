import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from convlib.errors import RunError
from convlib.reports.locks import hold, is_held

HOLD = """
import sys, time
from pathlib import Path
from convlib.reports.locks import hold
with hold(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(100)
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    command = [sys.executable, "-c", HOLD, str(tmp_path / ".lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


def test_hold_says_who_holds_the_lock_and_removes_its_file(tmp_path: Path) -> None:
    lock = tmp_path / "new" / ".lock"
    with hold(lock):
        assert json.loads((lock.parent / ".lock.json").read_text())["process"] == os.getpid()
        assert is_held(lock)
    assert list(lock.parent.iterdir()) == []
    assert not is_held(lock)


def test_hold_refuses_a_second_process_by_name_and_a_killed_one_frees_it(
    tmp_path: Path, holder: "subprocess.Popen[str]"
) -> None:
    lock = tmp_path / ".lock"
    known = json.loads((lock.parent / ".lock.json").read_text())
    with pytest.raises(RunError) as caught, hold(lock, wait_seconds=0.1):
        pass
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    assert str(caught.value) == (
        f"`{lock}` is held by process {holder.pid} on {known['host']} since {known['since']}, which writes there. Wait "
        "until it has ended, or end it, and try again."
    )
    assert lock.exists()
    assert not is_held(lock)
    with hold(lock, wait_seconds=0):
        assert json.loads((lock.parent / ".lock.json").read_text())["process"] == os.getpid()


def test_hold_waits_for_a_holder_that_ends(tmp_path: Path, holder: "subprocess.Popen[str]") -> None:
    threading.Timer(0.3, holder.kill).start()
    with hold(tmp_path / ".lock", wait_seconds=20):
        assert holder.wait() == -signal.SIGKILL
    holder.communicate()


def test_hold_says_another_process_when_the_file_does_not_tell(tmp_path: Path, holder: "subprocess.Popen[str]") -> None:
    (tmp_path / ".lock.json").write_text("")
    with (
        pytest.raises(RunError, match="held by another process, which writes there"),
        hold(tmp_path / ".lock", wait_seconds=0),
    ):
        pass
    holder.kill()
    holder.communicate()


def test_hold_writes_nothing_into_the_locked_file(tmp_path: Path) -> None:
    # Windows refuses any other handle that writes where one holds the lock.
    with hold(tmp_path / ".lock"):
        assert (tmp_path / ".lock").read_bytes() == b""


def test_is_held_tells_what_it_can_where_one_may_only_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    (tmp_path / ".lock").touch()
    monkeypatch.setattr("convlib.reports.locks.FileLock.acquire", refuse)
    assert is_held(tmp_path / ".lock")
    assert not is_held(tmp_path / "other.lock")
