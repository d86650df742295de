"""Runs that are disturbed: killed, without room, without leave to write, or with notebooks that behave badly."""

import json
import os
import random
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from reports_project import RUN, TAKEAWAYS, write_project
from test_notify import receive

from benchmarks.faults import TARGETS, Project, compare, find_broken, find_leftovers, read_reports
from convlib.reports.locks import hold
from convlib.reports.run import run_reports

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for its processes")
ONE_SEGMENT = RUN + "run_segments: [all]\n"
PERIOD = Path("shop") / "2024-03-01_2024-03-10"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return Project(tmp_path_factory.mktemp("faults"))


@pytest.mark.parametrize(
    "target", [name if name == "run" else pytest.param(name, marks=pytest.mark.slow) for name in TARGETS]
)
def test_a_run_with_a_killed_process_continues_to_what_an_undisturbed_one_leaves(project: Project, target: str) -> None:
    moment = project.usual * random.uniform(0.3, 0.8)
    while not (trial := project.disturb(target, moment)).killed:
        moment /= 2  # it had ended by then: the machine has less to do now
    assert trial.problems == ()


def run_apart(
    run_file: Path, reports: Path, *, before: str = "", prefix: Sequence[str] = ()
) -> "subprocess.CompletedProcess[str]":
    code = f"{before}\nfrom convlib.cli import app\nif __name__ == '__main__': app()\n"
    options = ["--reports", str(reports), "--workers", "1"]
    command = [*prefix, sys.executable, "-c", code, "run", str(run_file), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
def test_a_full_disk_ends_the_run_with_one_clear_error_and_more_room_continues_it(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("this system mounts no small disk")
    try:
        fill = "print(bytes(range(97, 123)).decode() * 15_000)"
        run_file = write_project(tmp_path, run=ONE_SEGMENT, a=TAKEAWAYS, b=fill, c=fill)
        full = run_apart(run_file, disk / "reports")
        assert full.returncode == 1
        assert "No space left on device" in full.stderr
        assert "Traceback" not in full.stderr
        assert find_broken(disk / "reports") == []
        subprocess.run(["mount", "-o", "remount,size=50m", str(disk)], check=True)
        run = run_reports(run_file, resume=True, workers=1, reports=disk / "reports")
        assert run.status == "complete"
        assert run.table["status"].iloc[0] == "kept"
        assert find_leftovers(disk / "reports") == []
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_a_folder_that_may_not_be_written_is_said_at_once(tmp_path: Path) -> None:
    reports = tmp_path / "reports"
    reports.mkdir(mode=0o555)
    run_file = write_project(tmp_path, run=ONE_SEGMENT)
    # Root writes everywhere, unless it gives up the right to.
    powerless = ["setpriv", "--bounding-set", "-dac_override", "--inh-caps", "-dac_override"]
    if os.geteuid() == 0 and not shutil.which("setpriv"):
        pytest.skip("root has no setpriv here")
    shut = run_apart(run_file, reports, prefix=powerless if os.geteuid() == 0 else ())
    assert (shut.returncode, shut.stdout) == (2, "")
    assert shut.stderr == (
        f"1 problem:\n  1. The reports can't be written to `{reports / PERIOD}`: Permission denied. Nothing was made. "
        "Choose another --reports, or see to it that this one can be written to.\n"
    )
    assert list(reports.iterdir()) == []


@pytest.mark.slow
def test_a_file_that_grows_too_large_is_an_error_of_its_report(tmp_path: Path) -> None:
    large = "with open('../large', 'wb') as file: file.write(bytes(30_000_000))"
    run_file = write_project(tmp_path, run=ONE_SEGMENT, a=TAKEAWAYS, b=large)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
    before += f"resource.setrlimit(resource.RLIMIT_FSIZE, (20_000_000, {limit[1]}))"
    made = run_apart(run_file, tmp_path / "reports", before=before)
    assert made.returncode == 1
    assert made.stderr.splitlines()[-1] == "  all · b: OSError: [Errno 27] File too large"


def test_notebooks_that_behave_badly_fail_alone_and_say_why(tmp_path: Path) -> None:
    run = ONE_SEGMENT + "timeout: 5s\n"
    codes = {
        "exits": "import os; os._exit(3)",
        "fine": TAKEAWAYS,
        "hangs": "import time; time.sleep(300)",
        "prints": "for _ in range(100): print('x' * 1_000_000)",
        "segfaults": "import ctypes; ctypes.string_at(0)",
    }
    made = run_reports(write_project(tmp_path, run=run, **codes), workers=2, reports=tmp_path / "reports")
    dead = "The notebook's Python process ended without finishing (killed, out of memory, or it left by itself)."
    errors = dict(zip(made.table["notebook"], made.table["error"], strict=True))
    assert {name: errors[name] for name in ("exits", "fine", "segfaults")} == {
        "exits": dead, "fine": "", "segfaults": dead,
    }  # fmt: skip
    assert errors["hangs"] == "The notebook ran longer than 5 s and was stopped."
    assert (made.folder / "all" / "prints.ipynb").stat().st_size < 3_000_000
    for name in ("exits", "hangs", "segfaults"):
        assert "This report is incomplete" in (made.folder / "all" / f"{name}.html").read_text()
        assert name.title() in made.index.read_text()
    reports = json.loads((made.folder / "manifest.json").read_text())["reports"]
    assert [report["status"] for report in reports][:3] == ["failed", "made", "failed"]
    assert find_broken(tmp_path / "reports") == []
    assert find_leftovers(tmp_path / "reports") == []


def test_two_runs_at_once_touch_nothing_of_each_other(tmp_path: Path) -> None:
    run_file = write_project(tmp_path, run=ONE_SEGMENT)
    reports = tmp_path / "reports"
    run_reports(run_file, workers=1, reports=reports)
    before = {path: path.stat().st_mtime_ns for path in reports.rglob("*") if path.is_file()}
    with hold(reports / "shop" / ".lock"):
        second = run_apart(run_file, reports)
        assert (second.returncode, second.stdout) == (2, "")
        assert f"`{reports / 'shop' / '.lock'}` is held by process {os.getpid()} on " in second.stderr
    assert {path: path.stat().st_mtime_ns for path in reports.rglob("*") if path.is_file()} == before


def test_a_terminated_run_says_so_and_leaves_no_process(tmp_path: Path) -> None:
    hang = "import os, pathlib, time; pathlib.Path('../pid').write_text(str(os.getpid())); time.sleep(300)"
    run_file = write_project(tmp_path, run=ONE_SEGMENT + "alerts: {notify: [HOOK]}\n", hang=hang)
    command = [sys.executable, "-m", "convlib", "run", str(run_file), "--reports", str(tmp_path / "reports")]
    with receive() as receiver:
        environment = {**os.environ, "HOOK": receiver.address}
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        ) as run:
            while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
                assert run.poll() is None
                time.sleep(0.1)
            run.terminate()
            out, err = run.communicate(timeout=60)
    assert [body["message"] for body in receiver.bodies] == ["Ended. Continue with --resume."]
    assert (run.returncode, out) == (143, "")
    assert err.endswith("Ended. Continue with --resume.\n")
    assert json.loads((tmp_path / "reports" / PERIOD / "manifest.json").read_text())["status"] == "interrupted"
    assert "0 of 1 reports made" in (tmp_path / "reports" / PERIOD / "index.html").read_text()
    kernel = Path(f"/proc/{(tmp_path / 'pid').read_text()}")
    for _ in range(50):
        if not kernel.exists():
            return
        time.sleep(0.1)
    pytest.fail("the kernel outlived its run by 5 seconds")


def test_a_run_can_be_carried_by_dask(tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed")
    run_file = write_project(tmp_path, a=TAKEAWAYS)
    own = run_reports(run_file, workers=2, reports=tmp_path / "reports")
    expected = read_reports(own.folder)
    options = {"n_workers": 2, "threads_per_worker": 1, "processes": True, "dashboard_address": None}
    with distributed.LocalCluster(**options) as cluster, distributed.Client(cluster) as client:
        carried = run_reports(run_file, reports=tmp_path / "reports", executor=client.get_executor())
    assert carried.status == "complete"
    assert carried.table["status"].tolist() == ["made"] * 3
    assert compare(expected, read_reports(carried.folder)) == []
