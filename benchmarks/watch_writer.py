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
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pandas as pd

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
STOPPED = "add_to_cart"
PLAN = """\
macros:
  - id: purchase
    name: Purchase
    match: {event_name: purchase}
    owner: commerce
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
    def open(self) -> Iterator[None]:
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

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.url = f"json://127.0.0.1:{server.server_port}"
        yield
        server.shutdown()
        server.server_close()

    def ids(self) -> list[str]:
        """Give the id of every alert that came, in order."""
        return [each for _, message in self.messages for each in message["alert_ids"]]


@dataclass
class Writer:
    """Adds one file of events a second to a folder, each whole from the moment it has its name."""

    folder: Path
    rate: int
    stops_at: float
    rows: int = 0
    stopped: float = 0.0
    random: np.random.Generator = field(default_factory=lambda: np.random.default_rng(1))

    def run(self, seconds: float) -> None:
        """Write for so long."""
        began = time.time()
        for number in range(int(seconds)):
            time.sleep(max(began + number + 1 - time.time(), 0))
            if number >= self.stops_at and not self.stopped:
                self.stopped = began + number
            self.write(pd.Timestamp(began + number, unit="s"), 1.0, self.rate, f"live-{number:05}")

    def write(self, start: pd.Timestamp, seconds: float, rows: int, name: str) -> None:
        """Write one file of events spread over some seconds."""
        events = self.random.choice(list(SHARES), rows, p=list(SHARES.values()))
        if self.stopped:
            events = np.where(events == STOPPED, "page_view", events)
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
        self.rows += rows


@dataclass
class Watched:
    """The watcher as its users start it, in a process of its own."""

    project: Path
    url: str
    port: int
    process: subprocess.Popen[str] = field(init=False)
    address: str = ""

    def start(self) -> None:
        """Start it, and wait until it says its address."""
        command = [sys.executable, "-m", "convlib", "watch", "params/watch.yaml", "--port", str(self.port)]
        environment = {**os.environ, "CONVLIB_ALERTS_URL": self.url}
        self.process = subprocess.Popen(  # noqa: S603  # our own command
            command, cwd=self.project, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        lines: list[str] = []
        for line in self.process.stdout or ():
            lines.append(line)
            if found := re.search(r"http://\S+", line):
                self.address = found[0]
            if line.startswith("Watching"):
                break
        else:
            raise RuntimeError("".join(lines))
        threading.Thread(target=self._drain, daemon=True).start()

    def _drain(self) -> None:
        for line in self.process.stdout or ():
            print("  watch:", line, end="", flush=True)

    def stop(self, how: signal.Signals) -> int:
        """Send it a signal, and tell its exit code."""
        self.process.send_signal(how)
        return self.process.wait(timeout=60)

    @property
    def memory(self) -> float:
        """Tell its resident memory in MiB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
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
    writer = Writer(folder / "data", rate=1_000, stops_at=float("inf"))
    begin = pd.Timestamp.now("UTC").tz_localize(None).normalize() - pd.Timedelta("21D")
    for day in range(21):
        writer.write(begin + pd.Timedelta(day, "D"), 86_000, 3_000, f"history-{day:02}")
    return writer


def wait_for(check: Any, seconds: float) -> bool:
    """Wait until something holds, at most so long."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if check():
            return True
        time.sleep(0.2)
    return bool(check())


def measure(
    folder: Path, *, seconds: int, interval: int, window: int, port: int, look_at: Any = None
) -> dict[str, Any]:
    """Run the whole show.

    Args:
        folder: Where the project is made.
        seconds: How long events are written.
        interval: Seconds between two looks.
        window: Length of the rolling windows in seconds.
        port: Port of the dashboard.
        look_at: Called with the dashboard's address two thirds through.

    Returns:
        What was measured.
    """
    writer = write_project(folder, interval=interval, window=window)
    writer.stops_at = seconds / 2
    receiver = Receiver()
    with receiver.open():
        watched = Watched(folder, receiver.url, port)
        watched.start()
        thread = threading.Thread(target=writer.run, args=(seconds,), daemon=True)
        began = time.time()
        thread.start()
        time.sleep(seconds * 0.3)
        watched.stop(signal.SIGKILL)
        watched.start()
        samples: list[tuple[float, float]] = []
        seen: Any = None
        while thread.is_alive():
            samples.append(((time.time() - began) / seconds, watched.memory))
            if look_at and seen is None and samples[-1][0] > 2 / 3:
                seen = look_at(watched.address)
            time.sleep(min(10.0, seconds / 30))
        counted_all = wait_for(lambda: watched.facts["rows"] >= writer.rows, 20 + 5 * interval)
        watched.stop(signal.SIGKILL)
        watched.start()
        time.sleep(3 * interval + 2)
        facts = watched.facts
        exit_code = watched.stop(signal.SIGTERM)
    hits = [when for when, message in receiver.messages if STOPPED in message["message"]]
    thirds = [np.median([m for share, m in samples if low < share <= low + 1 / 3]) for low in (1 / 3, 2 / 3)]
    told = receiver.ids()
    return {
        "rows written": writer.rows,
        "rows counted": facts["rows"],
        "all counted": counted_all and facts["rows"] == writer.rows,
        "alert after seconds": round(hits[0] - writer.stopped, 1) if hits else None,
        "alerts told": len(told),
        "alerts by id": len(set(told)),
        "open alerts": [(each["id"], each["evidence"]) for each in facts["alerts"]],
        "messages": [message["message"] for _, message in receiver.messages],
        "memory, second and last third, MiB": [round(float(each), 1) for each in thirds],
        "memory ratio": round(float(thirds[1] / thirds[0]), 3),
        "exit code": exit_code,
        "page": seen,
    }


def look_at_page(address: str) -> dict[str, Any]:
    """Open the dashboard in a headless browser, on a phone's screen, without and with its token."""
    from playwright.sync_api import sync_playwright

    place = (urlsplit(address).hostname, urlsplit(address).port)
    if not wait_for(lambda: socket.socket().connect_ex(place) == 0, 60):
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
        page.goto(address, timeout=120_000)
        page.wait_for_selector("text=Open alerts", timeout=120_000)
        page.wait_for_load_state("networkidle", timeout=120_000)
        page.screenshot(path=os.environ.get("CONVLIB_SHOT", str(Path(tempfile.gettempdir()) / "watch_page.png")))
        found = {
            "refused without token": refused,
            "alerts": page.locator("h2", has_text="Open alerts").inner_text(),
            "links": page.locator(".live nav").inner_text(),
            "width": page.evaluate("document.documentElement.scrollWidth"),
            "headings": page.locator("h1, h2").all_inner_texts(),
        }
        page.locator(".live nav button", has_text="device=desktop").click(timeout=60_000)
        page.wait_for_selector(".live nav b:has-text('device=desktop')", timeout=120_000)
        found["segment"] = page.locator(".live nav b").inner_text()
        browser.close()
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=300)
    parser.add_argument("--interval", type=int, default=5)
    parser.add_argument("--window", type=int, default=15)
    parser.add_argument("--port", type=int, default=8877)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        result = measure(Path(scratch) / "project", **vars(given), look_at=look_at_page)
    for name, value in result.items():
        print(f"{name}: {value}")
    holds = (
        result["all counted"],
        result["alert after seconds"] is not None and result["alert after seconds"] <= 2 * given.interval + 2,
        result["alerts told"] == result["alerts by id"],
        abs(result["memory ratio"] - 1) <= 0.10,
        result["exit code"] == 0,
    )
    sys.exit(0 if all(holds) else 1)
