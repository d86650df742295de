"""Kills report runs at random moments, continues them, and compares what stands then with an undisturbed run.

`python -m benchmarks.faults` tries 20 moments for each kind of process and prints a table; the tests try one each.
"""

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import nbformat
import openpyxl
import pandas as pd
import psutil
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from pypdf import PdfReader

#: What may be killed.
TARGETS = ("run", "warm parent", "worker", "kernel")
#: What a killed run started may still be importing, on a busy machine.
END_SECONDS = 30
#: What differs between two runs of the same: the clock, and which kind of kernel was to be had.
CHANGING = {"seconds", "started", "finished", "attempts", "kernel", "sent", "process", "host"}
EVENTS = "event_name,timestamp,user_id,device_type\n" + "".join(
    f"{'purchase' if unit % 3 == 0 and day else 'visit'},2024-03-{1 + unit % 9 + day:02} 10:00,u{unit},"
    f"{('mobile', 'desktop')[unit % 2]}\n"
    for unit in range(60)
    for day in (0, 1)
)
PLAN = """\
macros:
  - id: purchase
    name: Purchase
    match: {event_name: purchase}
    micros:
      - {id: visit, name: Visit, match: {event_name: visit}, stage: awareness, kind: process_milestone, owner: growth}
"""
RUN = """\
run: shop
events: ../data/events.csv
plan: plan.yaml
segments: segments.yaml
period: {start: 2024-03-01, end: 2024-03-10}
retries: 0
audiences:
  analyst: {formats: [html, ipynb, tables, xlsx]}
  stakeholder: {segments: [all], formats: [html, pdf, xlsx, zip]}
"""
PARAMETERS = "\n".join(
    f'{name} = "{value}"'
    for name, value in {
        **dict.fromkeys(("events", "mapping", "plan", "segments", "start", "end", "output"), ""),
        "engine": "duckdb",
        "segment": "all",
    }.items()
)
#: A notebook that takes a moment, saves tables, and then writes into a log that it was executed to its end.
CODE = """\
import json, os, pathlib, time
import pandas as pd
time.sleep({seconds})
place = pathlib.Path(output)
place.mkdir(parents=True, exist_ok=True)
table = pd.DataFrame({{"step": ["visit", "buy"], "units": [60, 20], "segment": segment}})
table.to_csv(place / "steps.csv", index=False)
table.to_parquet(place / "steps.parquet")
facts = {{"units": 60, "takeaways": [f"20 of 60 units bought in {{segment}}."]}}
_ = (place / "takeaways.json").write_text(json.dumps(facts))
with open("../executed.log", "a") as log:
    print(os.path.relpath(output, "../reports/shop/2024-03-01_2024-03-10"), file=log)
table
"""


@dataclass(frozen=True)
class Trial:
    """One kill and what became of it: `problems` is empty when all is as without it."""

    target: str
    moment: float
    killed: bool
    kept: int
    problems: tuple[str, ...] = ()


@dataclass
class Project:
    """A small project whose runs are disturbed, and what an undisturbed one leaves.

    Attributes:
        folder: Its folder; it is made.
        seconds: How long each notebook sleeps.
    """

    folder: Path
    seconds: float = 0.2
    usual: float = 0.0
    expected: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        files = {"params/plan.yaml": PLAN, "params/run.yaml": RUN, "data/events.csv": EVENTS}
        for name, text in {**files, "params/segments.yaml": "all: {}\ndevice: {by: device_type}\n"}.items():
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / name).write_text(text)
        (self.folder / "notebooks").mkdir()
        for name in ("first", "second"):
            write_notebook(self.folder / "notebooks" / f"{name}.ipynb", CODE.format(seconds=self.seconds))
        # The first look at the log prepares it, and the runs find it prepared.
        check = [sys.executable, "-m", "convlib", "check", "params/run.yaml"]
        subprocess.run(check, cwd=self.folder, check=True, capture_output=True)  # noqa: S603  # our own
        begun = time.monotonic()
        if code := self.start().wait():
            raise RuntimeError(f"The undisturbed run ended with {code}: {(self.folder / 'run.log').read_text()}")
        self.usual = time.monotonic() - begun
        self.expected = read_reports(self.reports)

    @property
    def reports(self) -> Path:
        """Where its reports are."""
        return self.folder / "reports"

    def start(self, *options: str) -> "subprocess.Popen[bytes]":
        """Start a run, with two workers."""
        command = [sys.executable, "-m", "convlib", "run", "params/run.yaml", "--workers", "2", *options]
        with (self.folder / "run.log").open("wb") as log:
            return subprocess.Popen(command, cwd=self.folder, stdout=log, stderr=log)  # noqa: S603  # our own

    def forget(self) -> None:
        """Remove what was made."""
        shutil.rmtree(self.reports)
        (self.folder / "executed.log").unlink()

    def count_executed(self) -> Counter[str]:
        """Count how often each notebook was executed to its end."""
        log = self.folder / "executed.log"
        return Counter(log.read_text().split()) if log.exists() else Counter()

    def disturb(self, target: str, moment: float) -> Trial:
        """Kill a process of a run, continue the run, and compare.

        Args:
            target: What to kill.
            moment: After how many seconds; later where there is no such process yet.
        """
        if self.reports.exists():
            self.forget()
        with self.start() as run:
            killed = kill_at(run, target, moment)
        problems = [f"after the kill: {problem}" for problem in find_broken(self.reports)]
        finished, executed = find_finished(self.reports), self.count_executed()
        code = self.start("--resume").wait()
        if code:
            problems.append(f"--resume ended with {code}: {(self.folder / 'run.log').read_text()[-300:]}")
        again = [name for name in finished if self.count_executed()[name] != executed[name]]
        problems += [f"{name} was finished, and made again" for name in again]
        problems += [*find_broken(self.reports), *find_leftovers(self.reports)]
        problems += compare(self.expected, read_reports(self.reports))
        return Trial(target, moment, killed, len(finished), tuple(problems))


def write_notebook(path: Path, code: str) -> None:
    """Write a notebook of one code cell."""
    tagged = new_code_cell(f"{PARAMETERS}\nfewest = 0", metadata={"tags": ["parameters"]})
    notebook = new_notebook(cells=[new_markdown_cell(f"# {path.stem.title()}"), tagged, new_code_cell(code)])
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"
    nbformat.write(notebook, path)


def kill_at(run: "subprocess.Popen[bytes]", target: str, moment: float) -> bool:
    """Kill a process of a run, with nothing that it could catch; say whether there was one before the run ended."""
    begun, process = time.monotonic(), psutil.Process(run.pid)
    while run.poll() is None:
        left = moment - (time.monotonic() - begun)
        found = list(find_processes(process, target)) if left <= 0 else []
        if found:
            others = find_all(process)
            try:
                random.choice(found).kill()  # noqa: S311  # nothing secret
            except psutil.NoSuchProcess:
                continue  # it ended by itself meanwhile
            if target == "run":
                run.wait()
                # Nothing of a killed run may go on: the next one would meet it.
                _, alive = psutil.wait_procs(others, timeout=END_SECONDS)
                if alive := [each for each in alive if not is_dead(each)]:
                    raise RuntimeError(f"{END_SECONDS} s after its run was killed, {alive} goes on.")
            return True
        time.sleep(min(max(left, 0.005), 0.2))
    return False


def is_dead(process: psutil.Process) -> bool:
    """Say whether a process has ended, if only nobody has asked how."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def find_all(process: psutil.Process) -> list[psutil.Process]:
    """List all processes below one."""
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def find_processes(run: psutil.Process, target: str) -> Iterator[psutil.Process]:
    """Find the processes of one kind in a run: workers are spawned, and kernels forked from a worker's warm parent."""
    if target == "run":
        yield run
        return
    for each in find_all(run):
        try:
            command, above = " ".join(each.cmdline()), " ".join(each.parent().cmdline())
        except (psutil.Error, AttributeError):
            continue
        is_warm, below_warm = "convlib.reports.warm" in command, "convlib.reports.warm" in above
        kind = "worker" if "spawn_main" in command else "warm parent" if is_warm and not below_warm else ""
        if (kind or ("kernel" if is_warm else "")) == target:
            yield each


def find_finished(reports: Path) -> list[str]:
    """Find the reports that were made, by their own records."""
    records = {path: json.loads(path.read_text()) for path in reports.glob("*/*/**/record.json")}
    made = [path.parent for path, record in records.items() if record["status"] == "made"]
    return [place.relative_to(reports / "shop" / "2024-03-01_2024-03-10").as_posix() for place in made]


def find_broken(reports: Path) -> list[str]:
    """Find files that hold half of what they should; those that begin with a dot are nobody's to read."""
    problems = []
    for path in sorted(reports.rglob("[!.]*")):
        if path.is_dir() or any(part.startswith(".") for part in path.relative_to(reports).parts):
            continue
        try:
            read_file(path)
        except Exception as error:  # noqa: BLE001  # whatever is wrong with it
            problems.append(f"{path.relative_to(reports)} is broken: {error}")
    return problems


def find_leftovers(reports: Path) -> list[str]:
    """Find what a finished run should have taken away."""
    return [f"{path.relative_to(reports)} is left over" for path in sorted(reports.rglob(".*"))]


def compare(expected: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """Tell in which files two runs differ."""
    missing = [f"{name} is missing" for name in expected if name not in found]
    more = [f"{name} is there as well" for name in found if name not in expected]
    different = [f"{name} is different" for name in expected if name in found and expected[name] != found[name]]
    return [*missing, *more, *different]


def read_reports(reports: Path) -> dict[str, Any]:
    """Read all files of a reports folder, without what differs from run to run."""
    files = (path for path in sorted(reports.rglob("*")) if path.is_file())
    return {path.relative_to(reports).as_posix(): read_file(path) for path in files}


def read_file(path: Path) -> Any:
    """Read a file: byte by byte, but JSON, PDF, XLSX, ZIP and the history by what they hold."""
    if path.suffix == ".json":
        return drop_changing(json.loads(path.read_text()))
    if path.suffix == ".pdf":
        return [page.extract_text() for page in PdfReader(path).pages]
    if path.suffix == ".xlsx":
        book = openpyxl.load_workbook(path)
        return {sheet.title: [[cell.value for cell in row] for row in sheet.iter_rows()] for sheet in book}
    if path.suffix == ".zip":
        with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(path) as archive:
            archive.extractall(folder)  # made by us just now
            return read_reports(Path(folder))
    if path.suffix == ".duckdb":
        return read_history(path)
    content = path.read_bytes()
    if path.suffix == ".html" and not content.rstrip().endswith(b"</html>"):
        raise ValueError("it has no end")
    if path.suffix == ".ipynb":
        nbformat.reads(content.decode(), as_version=4)
    if path.suffix == ".parquet":
        pd.read_parquet(path)
    return content


def read_history(path: Path) -> dict[str, Any]:
    """Read the tables of the history, in an order of their own."""
    with duckdb.connect(str(path)) as base:
        names = [name for (name,) in base.execute("SELECT table_name FROM duckdb_tables() ORDER BY 1").fetchall()]
        tables = {name: base.table(name).df() for name in names}
    return {
        name: sorted(map(str, table.drop(columns=CHANGING & set(table)).to_dict("records")))
        for name, table in tables.items()
    }


def drop_changing(found: Any) -> Any:
    """Take out of JSON what differs between two runs of the same."""
    if isinstance(found, dict):
        return {name: drop_changing(value) for name, value in found.items() if name not in CHANGING}
    return [drop_changing(each) for each in found] if isinstance(found, list) else found


def main() -> None:
    """Try every target at random moments, and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--moments", type=int, default=20, help="how many for each kind of process")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    draw = random.Random(options.seed)  # noqa: S311  # nothing secret
    with tempfile.TemporaryDirectory() as folder:
        project = Project(Path(folder))
        print(f"An undisturbed run takes {project.usual:.1f} s and leaves {len(project.expected)} files.")
        trials = []
        for target in TARGETS:
            for _ in range(options.moments):
                trials.append(project.disturb(target, draw.uniform(0, project.usual)))
                for problem in trials[-1].problems:
                    print(f"{target} at {trials[-1].moment:.2f} s: {problem}", flush=True)
    table = pd.DataFrame(trials).assign(wrong=[len(trial.problems) > 0 for trial in trials])
    print(table.groupby("target", sort=False)[["killed", "kept", "wrong"]].sum().to_string())
    sys.exit(bool(table["wrong"].any()))


if __name__ == "__main__":
    main()
