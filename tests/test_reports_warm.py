import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.connect import write_connection_file

from convlib.reports.warm import PACKAGES, ForkedProcess, WarmError, WarmParent, open_parent

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="kernels are warm on Linux only")
WAIT_SECONDS = 60


@pytest.fixture(scope="module")
def parent() -> Iterator[WarmParent]:
    started = WarmParent(own_code=False)
    yield started
    started.close()


def fork(parent: WarmParent, folder: Path, name: str = "kernel", **streams: list[int]) -> tuple[ForkedProcess, Path]:
    file = folder / f"{name}.json"
    write_connection_file(str(file), transport="ipc", ip=str(folder / name))
    arguments = ["-f", str(file), "--log-level=ERROR"]
    return parent.fork(arguments, folder=str(folder), environment=dict(os.environ), **streams), file


def ask(file: Path, code: str) -> tuple[str, int]:
    """Run code in a kernel: what it printed, and how many pictures it showed."""
    client = BlockingKernelClient(connection_file=str(file))
    client.load_connection_file()
    client.start_channels()
    printed: list[str] = []
    pictures: list[str] = []

    def take(message: dict[str, dict[str, dict[str, str]]]) -> None:
        content = message["content"]
        printed.append(str(content.get("text", "")))
        printed.extend(content.get("traceback", []))
        pictures.extend(name for name in content.get("data", {}) if name == "image/png")

    client.wait_for_ready(timeout=WAIT_SECONDS)
    client.execute_interactive(code, output_hook=take, timeout=WAIT_SECONDS)
    client.stop_channels()
    return "".join(printed).strip(), len(pictures)


def test_fork_gives_a_kernel_with_its_own_folder_and_environment(parent: WarmParent, tmp_path: Path) -> None:
    process, file = fork(parent, tmp_path)
    code = "import os, sys; print(os.getcwd(), os.getpid(), os.getppid(), sys.stdin.fileno() if sys.stdin else None)"
    assert ask(file, code)[0].split()[:3] == [str(tmp_path), str(process.pid), str(parent.pid)]
    assert process.poll() is None
    process.kill()
    assert process.wait(WAIT_SECONDS) is not None
    process.kill()  # a second time does no harm


def test_a_warm_kernel_shows_figures_without_being_told_to(parent: WarmParent, tmp_path: Path) -> None:
    process, file = fork(parent, tmp_path)
    assert ask(file, "import matplotlib.pyplot as plt; plt.plot([1, 2]); plt.figure(); plt.plot([2, 1]);")[1] == 2
    process.kill()


def test_warm_kernels_draw_random_numbers_of_their_own(parent: WarmParent, tmp_path: Path) -> None:
    drawn = []
    for name in ("one", "two"):
        process, file = fork(parent, tmp_path, name)
        drawn += ask(file, "import random, numpy; print(random.random(), numpy.random.rand())")[0].split()
        process.kill()
    assert len(set(drawn)) == 4


def test_a_warm_kernel_outlives_the_look_for_its_parent(parent: WarmParent, tmp_path: Path) -> None:
    process, file = fork(parent, tmp_path)
    assert ask(file, "import time; time.sleep(2.5); print('here')")[0] == "here"
    process.kill()


def test_each_kernel_has_the_streams_of_its_own_client(parent: WarmParent, tmp_path: Path) -> None:
    ends = [os.pipe(), os.pipe()]
    with Path(os.devnull).open() as nothing:
        first, _ = fork(parent, tmp_path, "one", streams=[nothing.fileno(), ends[0][1], ends[0][1]])
        first.kill()
        first.wait(WAIT_SECONDS)
        for end in ends[0]:
            os.close(end)
        second, file = fork(parent, tmp_path, "two", streams=[nothing.fileno(), ends[1][1], ends[1][1]])
    os.close(ends[1][1])
    ask(file, "import os; os.system('echo from a child')")
    ask(file, "import sys; sys.__stderr__.write('to the client'); sys.__stderr__.flush()")
    second.kill()
    second.wait(WAIT_SECONDS)
    with os.fdopen(ends[1][0], "rb") as pipe:
        assert b"to the client" in pipe.read()


def test_a_kernel_for_people_imports_convlib_as_it_stands(parent: WarmParent, tmp_path: Path) -> None:
    process, file = fork(parent, tmp_path)
    code = "import sys; print([name for name in sys.modules if name.startswith('convlib')], 'seaborn' in sys.modules)"
    assert ask(file, code)[0] == "[] True"
    process.kill()


def test_engines_work_after_the_fork(parent: WarmParent, tmp_path: Path) -> None:
    process, file = fork(parent, tmp_path)
    code = """
import duckdb, numpy, pyarrow.compute, importlib.util
print(duckdb.sql("select sum(range) from range(1000000)").fetchone()[0], (numpy.ones((500, 500)) @ numpy.ones(500))[0],
      pyarrow.compute.sum(pyarrow.array([1, 2])).as_py())
if importlib.util.find_spec("polars"):
    import polars
    print(polars.DataFrame({"a": range(100_000)}).lazy().select(polars.col("a").sum()).collect().item())
"""
    assert ask(file, code)[0].split()[:3] == ["499999500000", "500.0", "3"]
    process.kill()


def test_an_interrupt_stops_the_cell_and_not_the_kernel(parent: WarmParent, tmp_path: Path) -> None:
    process, file = fork(parent, tmp_path)
    stop = "import os, signal, time; os.kill(os.getpid(), signal.SIGINT); time.sleep(60)"
    assert "KeyboardInterrupt" in ask(file, stop)[0]
    assert ask(file, "print('here')")[0] == "here"
    process.kill()


def test_kernels_end_with_the_process_that_asked_for_them(tmp_path: Path) -> None:
    write_connection_file(str(tmp_path / "k.json"), transport="ipc", ip=str(tmp_path / "k"))
    script = f"""
import os, signal
from convlib.reports.warm import open_parent
parent = open_parent(own_code=False)
kernel = parent.fork(["-f", {str(tmp_path / "k.json")!r}], folder={str(tmp_path)!r}, environment=dict(os.environ))
print(parent.pid, kernel.pid, flush=True)
input()
os.kill(os.getpid(), signal.SIGKILL)
"""
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as client:
        assert client.stdin
        assert client.stdout
        handles = [os.pidfd_open(int(pid)) for pid in client.stdout.readline().split()]
        assert select.select(handles, [], [], 0)[0] == []
        client.stdin.write("\n")
        client.stdin.flush()
        client.wait(WAIT_SECONDS)
    for handle in handles:
        assert select.select([handle], [], [], WAIT_SECONDS)[0] == [handle]
        os.close(handle)


def test_a_parent_that_is_killed_takes_its_kernels_along_and_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("convlib.reports.warm._parents", {})
    first = open_parent(own_code=False)
    process, _ = fork(first, tmp_path)
    os.kill(first.pid, signal.SIGKILL)
    assert process.wait(WAIT_SECONDS) is not None
    with pytest.raises(WarmError):
        fork(first, tmp_path, "late")
    second = open_parent(own_code=False)
    assert second is not first
    second.close()
    with pytest.raises(WarmError, match="ended before its first kernel"):
        open_parent(own_code=False)


def test_packages_that_are_imported_first_are_those_of_others() -> None:
    assert [name for name in PACKAGES if name.startswith("convlib")] == []
