"""Times the reports of a run file against papermill one by one, and against the floor: a fork that runs the cells.

python -m benchmarks.bench_runs [--rounds 3] [--take 8] [--workers 2] [--ways WORDS] [--segments 200]

Eight segments of the example shop, all notebooks, in turn: papermill's command line, its API in one process,
`convlib run`, and the floor, which forks a warm process for each report and writes the same files without any kernel.
The data are prepared before the clock starts, for all alike. `--segments 200` shows the seconds a report at 10, 50 and
so many segments instead, on a log with a column of as many values and one light notebook.
"""

import argparse
import os
import pickle
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import nbformat
import pandas as pd
import papermill
import psutil
import yaml
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from matplotlib_inline import backend_inline
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook

from convlib.reports import warm
from convlib.reports.execute import ENVIRONMENT, Job, tidy_notebook
from convlib.reports.export import export_page
from convlib.reports.planning import plan_reports, start_manifest
from convlib.reports.preparation import prepare_run

ROOT = Path(__file__).parent.parent
NAMES = ["all", "device=desktop", "device=mobile", "device=tablet", "mobile_paid", "email", "country=DE", "country=US"]
EVENTS_A_UNIT, UNITS_A_SEGMENT = 4, 30
LIGHT = {"02_funnel": {"steps": ["view", "buy"], "window": "7D", "by": []}}
LIGHT_PLAN = """\
macros:
  - id: buy
    name: Purchase
    match: {event_name: buy}
    micros:
      - {id: view, name: View, match: {event_name: view}, stage: awareness, kind: process_milestone}
"""
OURS = "convlib run"


def write_shop(folder: Path, *, take: int) -> Path:
    """Write a project on the example shop with its first `take` segments, and tell its run file."""
    shutil.copytree(ROOT / "notebooks", folder / "notebooks", ignore=shutil.ignore_patterns(".*"))
    shutil.copytree(ROOT / "params" / "shop", folder / "params")
    path = folder / "params" / "weekly.yaml"
    run = yaml.safe_load(path.read_text(encoding="utf-8"))
    path.write_text(yaml.safe_dump({**run, "run_segments": NAMES[:take]}), encoding="utf-8")
    return path


def write_many(folder: Path, *, segments: int) -> Path:
    """Write a project with so many segments of equal size and one light notebook, and tell its run file."""
    shutil.copytree(ROOT / "notebooks", folder / "notebooks", ignore=shutil.ignore_patterns(".*"))
    units = pd.RangeIndex(segments * UNITS_A_SEGMENT)
    rows = units.repeat(EVENTS_A_UNIT)
    number = pd.Series(range(len(rows)))
    events = pd.DataFrame(
        {
            "event_name": ["view" if n % EVENTS_A_UNIT < EVENTS_A_UNIT - 1 or n % 3 else "buy" for n in number],
            "timestamp": pd.Timestamp("2026-03-01") + pd.to_timedelta(number % 5_000, unit="min"),
            "user_id": rows.astype(str),
            "source": "s" + (rows % segments).astype(str).str.zfill(4),
        }
    )
    (folder / "params").mkdir()
    events.to_parquet(folder / "params" / "events.parquet")
    (folder / "params" / "plan.yaml").write_text(LIGHT_PLAN, encoding="utf-8")
    (folder / "params" / "segments.yaml").write_text("source: {by: source}\n", encoding="utf-8")
    run = {"run": "many", "events": "events.parquet", "plan": "plan.yaml", "segments": "segments.yaml"}
    path = folder / "params" / "many.yaml"
    path.write_text(yaml.safe_dump({**run, "notebooks": LIGHT}), encoding="utf-8")
    return path


def list_jobs(run_file: Path, folder: Path) -> list[Job]:
    """List what a run would make; this also prepares the data."""
    preparation = prepare_run(run_file)
    planned = plan_reports(preparation, start_manifest(preparation), folder)
    return [each.job for each in planned]


def run_cli(jobs: Iterable[Job], folder: Path, **_: object) -> None:
    """Run papermill's command once a report."""
    for number, job in enumerate(jobs):
        parameters = folder / f"{number}.yaml"
        parameters.write_text(yaml.safe_dump(dict(job.parameters)), encoding="utf-8")
        files = [str(job.template), str(folder / f"{number}.ipynb")]
        options = ["--parameters_file", str(parameters), "--cwd", str(job.template.parent), "--no-progress-bar"]
        command = [sys.executable, "-m", "papermill", *files, *options, "-k", "python3"]
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)  # noqa: S603


def run_api(jobs: Iterable[Job], folder: Path, **_: object) -> None:
    """Call papermill once a report, in one new process."""
    (folder / "jobs.pickle").write_bytes(pickle.dumps(list(jobs)))
    run_module("api", folder)


def run_convlib(_: Iterable[Job], folder: Path, *, run_file: Path, workers: int) -> None:
    """Run `convlib run`."""
    options = ["--reports", str(folder / "reports"), "--workers", str(workers)]
    command = [sys.executable, "-m", "convlib", "run", str(run_file), *options]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # noqa: S603


def run_floor(jobs: Iterable[Job], folder: Path, *, workers: int, **_: object) -> None:
    """Fork a warm process for each report, so many at a time, in one new process."""
    (folder / "jobs.pickle").write_bytes(pickle.dumps(list(jobs)))
    run_module(f"floor:{workers}", folder, **ENVIRONMENT, MPLBACKEND=f"module://{warm.INLINE}")


def run_module(what: str, folder: Path, **environment: str) -> None:
    """Run one of the two works of this module that have a process of their own."""
    command = [sys.executable, "-m", "benchmarks.bench_runs", "--work", what, "--folder", str(folder)]
    environment = {**os.environ, **environment}
    subprocess.run(command, check=True, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)  # noqa: S603


def work_api(folder: Path) -> None:
    """Execute the jobs of a folder with papermill's API."""
    for number, job in enumerate(read_jobs(folder)):
        papermill.execute_notebook(
            str(job.template),
            str(folder / f"{number}.ipynb"),
            parameters=dict(job.parameters),
            cwd=str(job.template.parent),
            kernel_name="python3",
            progress_bar=False,
        )


def work_floor(folder: Path, *, workers: int) -> None:
    """Execute the jobs of a folder in forks of this process."""
    warm.preload(own_code=True)
    running = 0
    for job in read_jobs(folder):
        if running == workers:
            running -= end_one()
        if os.fork() == 0:
            execute_here(job)
        running += 1
    for _ in range(running):
        end_one()


def read_jobs(folder: Path) -> list[Job]:
    """Read the jobs that this program wrote for itself."""
    jobs: list[Job] = pickle.loads((folder / "jobs.pickle").read_bytes())  # noqa: S301
    return jobs


def end_one() -> int:
    """Wait until one fork has ended, and insist that it ended well."""
    _, status = os.wait()
    if status:
        raise SystemExit("A report of the floor failed.")
    return 1


def execute_here(job: Job) -> None:
    """Execute a job's cells in this process, write its files, and end."""
    status = 1
    try:
        os.chdir(job.template.parent)
        notebook = parameterize_notebook(
            load_notebook_node(str(job.template)), dict(job.parameters), kernel_name="python3", language="python"
        )
        shell = InteractiveShell.instance()
        backend_inline._enable_matplotlib_integration()  # figures show at the end of their cell
        for cell in notebook.cells:
            if cell.cell_type == "code":
                run_cell(shell, cell)
        notebook = tidy_notebook(notebook, folder=job.template.parent)
        job.ipynb.parent.mkdir(parents=True, exist_ok=True)
        job.ipynb.write_text(nbformat.writes(notebook), encoding="utf-8")
        job.html.write_text(export_page(notebook, job.page), encoding="utf-8")
        status = 0
    except Exception:  # noqa: BLE001  # told here, for the process ends without its usual end
        traceback.print_exc()
    finally:
        os._exit(status)


def run_cell(shell: InteractiveShell, cell: nbformat.NotebookNode) -> None:
    """Run a cell and keep what it printed and showed."""
    with capture_output() as captured:
        done = shell.run_cell(cell.source, store_history=True)
    done.raise_error()
    cell.execution_count = shell.execution_count - 1
    shown = [
        nbformat.v4.new_output("display_data", data=output.data, metadata=output.metadata or {})
        for output in captured.outputs
    ]
    printed = [nbformat.v4.new_output("stream", name="stdout", text=captured.stdout)] if captured.stdout else []
    result = [] if done.result is None or cell.source.rstrip().endswith(";") else [done.result]
    formats = [shell.display_formatter.format(value) for value in result]
    shown += [nbformat.v4.new_output("display_data", data=data, metadata=details) for data, details in formats]
    cell.outputs = [*printed, *shown]


@contextmanager
def watch_memory() -> Iterator[list[float]]:
    """Note the most memory of this process's children together, in MiB of their own and shared pages (PSS)."""
    most, stop = [0.0], threading.Event()

    def look() -> None:
        while not stop.wait(5):  # to look stops the processes for a moment
            total = 0.0
            for process in psutil.Process().children(recursive=True):
                try:
                    total += process.memory_full_info().pss / 2**20
                except psutil.Error:
                    continue  # it has ended in between
            most[0] = max(most[0], total)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield most
    finally:
        stop.set()
        thread.join()


def time_way(way: Callable[..., None], run_file: Path, *, workers: int) -> tuple[float, float]:
    """Run one way once, with files of its own: its seconds and its most memory."""
    with tempfile.TemporaryDirectory(prefix="convlib-bench-") as name:
        folder = Path(name)
        jobs = list_jobs(run_file, folder / "files")
        with watch_memory() as most:
            started = time.perf_counter()
            way(jobs, folder, run_file=run_file, workers=workers)
            seconds = time.perf_counter() - started
    return seconds, most[0]


def compare_ways(*, rounds: int, take: int, workers: int, words: str) -> None:
    """Run the ways with one of these words in their names in turn, and print the table."""
    ways = {"papermill CLI": run_cli, "papermill API": run_api, OURS: run_convlib, "floor": run_floor}
    ways = {name: way for name, way in ways.items() if any(word in name for word in (OURS, *words.split(",")))}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    memory = dict.fromkeys(ways, 0.0)
    with tempfile.TemporaryDirectory(prefix="convlib-bench-") as folder:
        run_file = write_shop(Path(folder) / "project", take=take)
        reports = len(list_jobs(run_file, Path(folder)))
        for _ in range(rounds):
            for name, way in ways.items():
                took, most = time_way(way, run_file, workers=workers)
                seconds[name].append(took)
                memory[name] = max(memory[name], most)
                print(f"{name}: {took:.1f} s", file=sys.stderr, flush=True)
    ours = statistics.median(seconds[OURS])
    print(f"{reports} reports, {workers} workers, {os.cpu_count()} processors, rounds: {rounds}\n")
    print("| way | median s | min | max | peak MiB | convlib's time / its |\n|---|---:|---:|---:|---:|---:|")
    for name, all_seconds in seconds.items():
        middle = statistics.median(all_seconds)
        spread = f"{middle:.1f} | {min(all_seconds):.1f} | {max(all_seconds):.1f}"
        print(f"| {name} | {spread} | {memory[name]:,.0f} | {ours / middle:.2f} |")


def show_growth(*, most: int, workers: int) -> None:
    """Print the seconds a report takes at more and more segments."""
    print("| segments | seconds | seconds a report | peak MiB |\n|---:|---:|---:|---:|")
    for segments in sorted({min(number, most) for number in (10, 50, most)}):
        with tempfile.TemporaryDirectory(prefix="convlib-bench-") as folder:
            run_file = write_many(Path(folder) / "project", segments=segments)
            seconds, memory = time_way(run_convlib, run_file, workers=workers)
        print(f"| {segments} | {seconds:.1f} | {seconds / segments:.2f} | {memory:,.0f} |", flush=True)


def main() -> None:
    """Read the options and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--take", type=int, default=len(NAMES), help="how many of the eight segments")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--segments", type=int, default=0, help="show the growth up to so many segments instead")
    parser.add_argument("--ways", default="CLI,API,floor", help="what to compare with")
    parser.add_argument("--work", default="", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work == "api":
        work_api(options.folder)
    elif options.work:
        work_floor(options.folder, workers=int(options.work.removeprefix("floor:")))
    elif options.segments:
        show_growth(most=options.segments, workers=options.workers)
    else:
        compare_ways(rounds=options.rounds, take=options.take, workers=options.workers, words=options.ways)


if __name__ == "__main__":
    main()
