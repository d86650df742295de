"""`convlib watch` beside a writer of 1,000 events a second: memory, alerts, kill and restart, dashboard.

    python benchmarks/watch_writer.py --seconds 300 --interval 5

prints what was measured, and exits 1 when a claim does not hold.
"""

import argparse
import contextlib
import http.server
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pandas as pd

from convlib.watch import Watch, find_oddities

ROOT = Path(__file__).parent.parent
SHARES = {
    "page_view": 0.43,
    "view_item": 0.25,
    "add_to_cart": 0.13,
    "begin_checkout": 0.08,
    "purchase": 0.05,
    "newsletter_signup": 0.05,
    "error": 0.01,
}
#: Events that stop: one before the watcher is killed, so that its alert has to outlive it, one halfway.
STOPS = {"newsletter_signup": 0.3, "add_to_cart": 0.5}
KILLED, LOOKED_AT = 0.4, 0.6
STOPPED = "add_to_cart"
#: Seconds that a look itself may take, from its start to the receiver.
LOOK_SECONDS = 2.0
#: Stands in the page when it is made: the last of its figures.
LAST = ".jp-OutputArea-output img >> nth=3"
PLAN = """\
macros:
  - id: purchase
    name: Purchase
    match: {event_name: purchase}
    owner: commerce
    target: {value: 0.9, by: 2030-12-31}
    micros:
      - {id: view_item, name: Product viewed, match: {event_name: view_item}, stage: consideration,
         kind: process_milestone}
      - {id: add_to_cart, name: Added to cart, match: {event_name: add_to_cart}, stage: decision,
         kind: process_milestone, owner: web-team}
      - {id: newsletter_signup, name: Newsletter, match: {event_name: newsletter_signup}, stage: awareness,
         kind: secondary_action}
"""
RUN = """\
run: shop
title: Growing shop
events: ../data
plan: plan.yaml
segments: segments.yaml
parameters: {{macro: purchase}}
notebooks:
  00_overview: {{every: D, entry: "", window: "", by: [device_type], adjust: [device_type]}}
alerts: {{notify: [CONVLIB_ALERTS_URL]}}
watch: {{interval: {interval}s, window: {window}s}}
"""


@dataclass
class Receiver:
    """A webhook on loopback that notes what comes, and when."""

    messages: list[tuple[float, dict[str, Any]]] = field(default_factory=list)
    url: str = ""

    @contextlib.contextmanager
    def open(self) -> Iterator["Receiver"]:
        """Listen until the block is left."""
        noted = self.messages

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                noted.append((time.time(), json.loads(body)))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            self.url = f"json://127.0.0.1:{server.server_port}"
            try:
                yield self
            finally:
                server.shutdown()

    def ids(self) -> list[str]:
        """Give the id of every alert that came, in order."""
        return [each for _, message in self.messages for each in message["alert_ids"]]


@dataclass
class Writer:
    """Adds one file of events a second to a folder, each whole from the moment it has its name.

    Attributes:
        folder: Where the files go.
        rate: Events a second.
        stops: Events that stop coming, with the second from which on they do.
        files: When each file came, and its events by name and microsecond.
    """

    folder: Path
    rate: int
    stops: dict[str, float]
    rows: int = 0
    files: list[tuple[float, pd.DataFrame]] = field(default_factory=list)
    random: np.random.Generator = field(default_factory=lambda: np.random.default_rng(1))

    def run(self, seconds: int) -> None:
        """Write for so long."""
        began = time.time()
        for number in range(seconds):
            time.sleep(max(began + number + 1 - time.time(), 0))
            gone = [name for name, second in self.stops.items() if number >= second]
            self.write(pd.Timestamp(began + number, unit="s"), 1.0, self.rate, f"live-{number:05}", without=gone)

    def write(self, start: pd.Timestamp, seconds: float, rows: int, name: str, *, without: Sequence[str] = ()) -> None:
        """Write one file of events spread over some seconds."""
        events = self.random.choice(list(SHARES), rows, p=list(SHARES.values()))
        events = np.where(np.isin(events, without), "page_view", events)
        users = self.random.integers(0, 20_000, rows)
        times = start + pd.to_timedelta(np.sort(self.random.uniform(0, seconds, rows)), "s")
        frame = pd.DataFrame(
            {
                "event_name": events,
                "timestamp": times.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
                "user_id": [f"u{user}" for user in users],
                "device_type": np.where(users % 3, "mobile", "desktop"),
                "value": np.where(events == "purchase", 30.0, np.nan),
            }
        )
        scratch = self.folder / f".{name}.part"
        frame.to_json(scratch, orient="records", lines=True)
        scratch.rename(self.folder / f"{name}.jsonl")
        self.files.append((time.time(), pd.DataFrame({"event_name": events, "time": times.as_unit("us").asi8})))
        self.rows += rows

    def find_detectable(self, name: str, watch: Watch) -> float:
        """Tell when an event's silence could first be told: its rule holds for the bins that are over by the files."""
        counts = pd.DataFrame()
        for when, rows in self.files:
            bins = (rows["time"] // watch.bin_microseconds).rename("bin")
            added = rows.groupby([bins, "event_name"]).size().rename("rows").reset_index()
            counts = pd.concat([counts, added.assign(errors=0)], ignore_index=True)
            found = find_oddities(counts, watch, until=int(bins.max()))
            if name in found.loc[found["rule"] == "event_stopped", "conversion"].to_numpy():
                return when
        return float("nan")


@dataclass
class Watched:
    """The watcher as its users start it, in a process of its own."""

    project: Path
    url: str
    port: int
    lines: list[str] = field(default_factory=list)
    process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Start it, and wait until it watches."""
        command = [sys.executable, "-m", "convlib", "watch", "params/watch.yaml", "--port", str(self.port)]
        environment = {**os.environ, "CONVLIB_ALERTS_URL": self.url}
        self.process = subprocess.Popen(  # noqa: S603  # our own command
            command, cwd=self.project, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        begin = len(self.lines)
        threading.Thread(target=self._drain, args=(self.process,), daemon=True).start()
        if not wait_for(lambda: any(line.startswith("Watching") for line in self.lines[begin:]), 60):
            self.stop(signal.SIGKILL)
            raise RuntimeError("".join(self.lines))

    def _drain(self, process: "subprocess.Popen[str]") -> None:
        with process.stdout or contextlib.nullcontext(()) as stream:
            for line in stream:
                self.lines.append(line)
                print("  watch:", line, end="", flush=True)

    def stop(self, how: signal.Signals) -> int:
        """Send it a signal, and tell its exit code."""
        if self.process is None:
            return 0
        self.process.send_signal(how)
        try:
            return self.process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()

    @property
    def address(self) -> str:
        """Give the dashboard's address, with its token."""
        return str(re.findall(r"http://\S+", "".join(self.lines))[-1])

    @property
    def memory(self) -> float:
        """Tell its resident memory in MiB."""
        status = Path(f"/proc/{self.process.pid if self.process else 0}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+)", status)
        return int(found[1]) / 1024 if found else float("nan")

    @property
    def facts(self) -> dict[str, Any]:
        """Give what the watcher last wrote for the dashboard."""
        path = self.project / "reports" / "shop" / "watch" / "live.json"
        return json.loads(path.read_text()) if path.exists() else {"rows": 0, "alerts": []}


def write_project(folder: Path, *, interval: int, window: int) -> Writer:
    """Write a project with three weeks of few events, so that the overview has something to show."""
    for name in ("params", "data", "notebooks"):
        (folder / name).mkdir(parents=True)
    shutil.copy(ROOT / "notebooks" / "00_overview.ipynb", folder / "notebooks")
    (folder / "params" / "plan.yaml").write_text(PLAN)
    (folder / "params" / "segments.yaml").write_text("all: {}\ndevice: {by: device_type}\n")
    (folder / "params" / "watch.yaml").write_text(RUN.format(interval=interval, window=window))
    writer = Writer(folder / "data", rate=1_000, stops={})
    begin = pd.Timestamp.now("UTC").tz_localize(None).normalize() - pd.Timedelta("21D")
    for day in range(21):
        writer.write(begin + pd.Timedelta(day, "D"), 86_000, 3_000, f"history-{day:02}")
    return writer


def wait_for(check: Callable[[], bool], seconds: float) -> bool:
    """Wait until something holds, at most so long."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if check():
            return True
        time.sleep(0.2)
    return check()


def measure(
    folder: Path,
    *,
    seconds: int,
    interval: int,
    window: int,
    port: int,
    look_at: Callable[[str], dict[str, Any]],
) -> dict[str, Any]:
    """Run the whole show.

    Args:
        folder: Where the project is made.
        seconds: How long events are written.
        interval: Seconds between two looks.
        window: Length of the rolling windows in seconds.
        port: Port of the dashboard.
        look_at: Called with the dashboard's address, while events come.

    Returns:
        What was measured.
    """
    writer = write_project(folder, interval=interval, window=window)
    writer.stops = {name: seconds * share for name, share in STOPS.items()}
    samples: list[tuple[float, float]] = []  # all from the second third on
    page: Future[dict[str, Any]] | None = None
    with Receiver().open() as receiver, ThreadPoolExecutor(2) as threads:
        watched = Watched(folder, receiver.url, port)
        watched.start()
        began = time.time()
        try:
            writing = threads.submit(writer.run, seconds)
            time.sleep(seconds * KILLED)
            watched.stop(signal.SIGKILL)
            watched.start()
            while not writing.done():
                samples.append(((time.time() - began) / seconds, watched.memory))
                if page is None and samples[-1][0] > LOOKED_AT:
                    page = threads.submit(look_at, watched.address)
                time.sleep(min(10.0, seconds / 30))
            counted = wait_for(lambda: watched.facts["rows"] >= writer.rows, 20 + 5 * interval)
            time.sleep(2 * interval)  # what is counted twice or told twice shows at the next look
            seen = (page or threads.submit(look_at, watched.address)).result(timeout=180)
            facts = watched.facts
        finally:
            exit_code = watched.stop(signal.SIGTERM)
    told = receiver.ids()
    heard = {
        name: next((when for when, message in receiver.messages if f"`{name}`" in message["message"]), float("nan"))
        for name in STOPS
    }
    watch = Watch(interval=f"{interval}s", window=f"{window}s")
    memory = pd.Series(dict(samples), dtype="float64")  # by the share of the time
    second, last = memory[memory.index <= 2 / 3].median(), memory[memory.index > 2 / 3].median()
    return {
        "rows written": writer.rows,
        "rows counted": facts["rows"],
        "all counted": counted and facts["rows"] == writer.rows,
        "alerts heard": [name for name, when in heard.items() if when == when],
        "seconds from detectable to heard": round(heard[STOPPED] - writer.find_detectable(STOPPED, watch), 1),
        "alerts told": len(told),
        "alerts by id": len(set(told)),
        "open alerts": [(each["id"], each["evidence"]) for each in facts["alerts"]],
        "memory, MiB": memory.round(1).tolist(),
        "memory ratio": round(last / second, 3),
        "exit code": exit_code,
        "page": seen,
    }


def look_at_page(address: str) -> dict[str, Any]:
    """Open the dashboard in a headless browser, on a phone's screen, without and with its token."""
    from playwright.sync_api import sync_playwright

    where = urlsplit(address)
    if not wait_for(lambda: _answers(str(where.hostname), int(where.port or 0)), 60):
        raise RuntimeError("the dashboard does not answer")
    flags = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-sync"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=[*flags.split(), "--disable-dev-shm-usage"]
        )
        stranger = browser.new_page()
        stranger.goto(address.partition("?")[0], timeout=60_000)
        refused = "Open alerts" not in stranger.content()
        page = browser.new_page(viewport={"width": 390, "height": 844})
        began = time.monotonic()
        # Not "load": fonts that the page's template names on another host may be out of reach, and answer late.
        page.goto(address, timeout=60_000, wait_until="commit")
        page.wait_for_selector("text=Open alerts", timeout=60_000)
        live = time.monotonic() - began
        page.wait_for_selector(LAST, timeout=120_000)
        whole = time.monotonic() - began
        page.wait_for_timeout(3_000)  # the cells after it
        place = os.environ.get("CONVLIB_SHOT", str(Path(tempfile.gettempdir()) / "watch_page.png"))
        page.screenshot(full_page=True, path=place)
        found = {
            "refused without token": refused,
            "seconds to the live part, to the whole": (round(live, 1), round(whole, 1)),
            "alerts": page.locator("h2", has_text="Open alerts").inner_text(),
            "links": page.locator(".live nav").inner_text(),
            "broken": page.locator("text=error when executing").count(),
            "width": page.evaluate("document.documentElement.scrollWidth"),
            "headings": page.locator("h1, h2").all_inner_texts(),
        }
        page.locator(".live nav button", has_text="device=desktop").click(timeout=60_000, no_wait_after=True)
        page.wait_for_selector(".live nav b:has-text('device=desktop')", timeout=60_000)
        found["segment"] = page.locator(".live nav b").inner_text()
        browser.close()
    return found


def _answers(host: str, port: int) -> bool:
    with socket.socket() as caller:
        return caller.connect_ex((host, port)) == 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=300)
    parser.add_argument("--interval", type=int, default=5)
    parser.add_argument("--window", type=int, default=10)
    parser.add_argument("--port", type=int, default=8877)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        result = measure(Path(scratch) / "project", **vars(given), look_at=look_at_page)
    for name, value in result.items():
        print(f"{name}: {value}")
    holds = (
        result["all counted"],
        result["alerts heard"] == list(STOPS),
        result["seconds from detectable to heard"] <= given.interval + LOOK_SECONDS,
        result["alerts told"] == result["alerts by id"],
        abs(result["memory ratio"] - 1) <= 0.10,
        result["exit code"] == 0,
    )
    sys.exit(0 if all(holds) else 1)
