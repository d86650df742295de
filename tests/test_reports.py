"""A run as a process among others: what stays when somebody stops it."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from reports_project import RUN, write_project

START = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    "from convlib.cli import app\n"
    "if __name__ == '__main__': app()\n"
)


@pytest.mark.skipif(sys.platform == "win32", reason="an interrupt is a signal on POSIX")
def test_an_interrupted_run_stops_its_notebooks_and_says_so(tmp_path: Path) -> None:
    hang = "import os, pathlib, time; pathlib.Path('../pid').write_text(str(os.getpid())); time.sleep(300)"
    run_file = write_project(tmp_path, run=RUN + "run_segments: [all]\n", hang=hang)
    command = [sys.executable, "-c", START, "run", str(run_file), "--reports", str(tmp_path / "reports")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        try:
            kernel = int(wait_for_text(tmp_path / "pid"))
            run.send_signal(signal.SIGINT)
            out, err = run.communicate(timeout=60)
        finally:
            run.kill()  # which does nothing to one that has ended
    assert (run.returncode, out) == (130, "")
    assert err.endswith("Interrupted. Continue with --resume.\n")
    manifest = json.loads((tmp_path / "reports" / "shop" / "2024-03-01_2024-03-10" / "manifest.json").read_text())
    assert manifest["status"] == "interrupted"
    assert wait_until_gone(kernel)


def wait_for_text(path: Path) -> str:
    for _ in range(1200):
        if path.exists() and path.read_text():
            return path.read_text()
        time.sleep(0.1)
    return pytest.fail(f"{path.name} did not appear within two minutes")


def wait_until_gone(process: int) -> bool:
    for _ in range(100):
        if not Path(f"/proc/{process}").exists():
            return True
        time.sleep(0.1)
    return False
