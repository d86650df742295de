"""Times what `cv.explore` does after a move of a control, on prepared conversions.

python -m benchmarks.bench_explore [ROWS]

The moves go through segments, windows, steps and days, twice. Counting and drawing are timed apart; what the browser
needs to show the picture is not in it. The log's entries are read before the first move, as they are when
the controls are made.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import convlib as cv
from benchmarks.bench_funnel import FOLDER, PLAN, clear_cache
from benchmarks.logs import write_log
from convlib import plots

SEGMENTS = "device: {by: device_type}\ncountry: {by: geo}\nmobile_paid: {device_type: mobile, medium: cpc}\n"
STEPS = ["page_view", "view_item", "add_to_cart", "begin_checkout", "purchase"]
#: Each move, as the controls would say it.
SEGMENT_MOVES = ("device=mobile", "mobile_paid", "country=NO", "device=desktop", "all")
WINDOW_MOVES = ("1D", "14D", "30D", "1h", "7D")
STEP_MOVES = (STEPS[1:], [STEPS[0], *STEPS[2:]], STEPS[2:], [STEPS[1], STEPS[4]], STEPS)
DAY_MOVES = (("2026-01-10", "2026-02-10"), ("2026-02-01", "2026-02-28"), ("2026-01-01", "2026-03-10"), (None, None))


def list_moves(log: cv.EventLog) -> dict[str, list[Callable[[], cv.Funnel]]]:
    """List the moves of each kind of control."""
    return {
        "segment": [lambda name=name: cv.measure_funnel(log.segment(name), STEPS) for name in SEGMENT_MOVES],
        "window": [lambda window=window: cv.measure_funnel(log, STEPS, window=window) for window in WINDOW_MOVES],
        "steps": [lambda steps=steps: cv.measure_funnel(log, steps) for steps in STEP_MOVES],
        "days": [lambda days=days: cv.measure_funnel(log.between(*days), STEPS) for days in DAY_MOVES],
    }  # type: ignore[misc]


def main() -> None:
    """Print the times in milliseconds."""
    rows = int(float(sys.argv[1])) if len(sys.argv) > 1 else 10_000_000
    clear_cache()
    plan = cv.read_plan(PLAN)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "segments.yaml")
        path.write_text(SEGMENTS, encoding="utf-8")
        log = cv.read_events(write_log(FOLDER, rows), plan=plan, segments=path)
    log.prepared.find("conversions.parquet", plan)
    began = time.perf_counter()
    shown = cv.explore(log, plan, steps=STEPS)
    shown._repr_html_()
    log.expand_segments()
    print(f"{rows:,} events; first figure after {time.perf_counter() - began:.2f} s\n")
    print("| move | median ms | min | max | drawing, median ms |\n|---|---:|---:|---:|---:|")
    every: tuple[list[float], list[float]] = [], []
    for kind, moves in list_moves(log).items():
        counting, drawing = [], []
        for move in moves * 2:
            start = time.perf_counter()
            result = move()
            counting.append(1000 * (time.perf_counter() - start))
            plots.render(result.plot)
            drawing.append(1000 * (time.perf_counter() - start) - counting[-1])
        every[0].extend(counting)
        every[1].extend(drawing)
        show(kind, counting, drawing)
    show("all", *every)


def show(kind: str, counting: list[float], drawing: list[float]) -> None:
    """Print one row."""
    middle = statistics.median(counting)
    print(f"| {kind} | {middle:.0f} | {min(counting):.0f} | {max(counting):.0f} | {statistics.median(drawing):.0f} |")


if __name__ == "__main__":
    main()
