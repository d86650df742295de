"""A small project to run reports in: four users, a plan, segments, and notebooks of a few cells."""

from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

EVENTS = """\
event_name,timestamp,user_id,device_type
visit,2024-03-01 10:00,ann,mobile
purchase,2024-03-02 10:00,ann,mobile
visit,2024-03-03 10:00,ben,desktop
visit,2024-03-04 10:00,eva,mobile
visit,not a time,kim,mobile
visit,2024-03-31 10:00,leo,desktop
"""
PLAN = """\
macros:
  - id: purchase
    name: Purchase
    match: {event_name: purchase}
    micros:
      - {id: visit, name: Visit, match: {event_name: visit}, stage: awareness, kind: process_milestone}
"""
SEGMENTS = """\
all: {}
device: {by: device_type}
"""
RUN = """\
run: shop
title: Shop, weekly
events: ../data/events.csv
plan: plan.yaml
segments: segments.yaml
period: {start: 2024-03-01, end: 2024-03-10}
"""
PARAMETERS = """\
events: str = ""
mapping: str = ""
engine: str = "duckdb"
plan: str = ""
segments: str = ""
segment: str = "all"
start: str = ""
end: str = ""
output: str = ""
window: str = "7D"  # time to complete
limit: int = 3
by: list = []
fewest: int = 0
"""
TAKEAWAYS = """\
import json, pathlib
pathlib.Path(output).mkdir(parents=True)
facts = {"units": 4, "takeaways": [f"25% of 4 units bought in {segment}.", "Second."]}
_ = pathlib.Path(output, "takeaways.json").write_text(json.dumps(facts))
print(f"window {window}")
"""


def write_notebook(path: Path, *cells: str, title: str = "Overview", parameters: str = PARAMETERS) -> Path:
    """Write a notebook: its title, its parameters cell, then the cells (`#` begins a Markdown cell)."""
    parameter_cell = new_code_cell(parameters, metadata={"tags": ["parameters"]})
    rest = [new_markdown_cell(cell) if cell.startswith("#") else new_code_cell(cell) for cell in cells]
    notebook = new_notebook(cells=[new_markdown_cell(f"# {title}\n\nWho buys?"), parameter_cell, *rest])
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, path)
    return path


def write_project(folder: Path, *, run: str = RUN, **notebooks: str) -> Path:
    """Write a whole project and tell its run file; each notebook is `name="its one code cell"`."""
    files = {"plan.yaml": PLAN, "segments.yaml": SEGMENTS, "weekly.yaml": run}
    (folder / "params").mkdir(parents=True)
    (folder / "data").mkdir()
    for name, text in files.items():
        (folder / "params" / name).write_text(text)
    (folder / "data" / "events.csv").write_text(EVENTS)
    for name, code in (notebooks or {"overview": TAKEAWAYS}).items():
        write_notebook(folder / "notebooks" / f"{name}.ipynb", code, title=name.title())
    return folder / "params" / "weekly.yaml"


EXPERIMENTS = """\
experiments:
  - {id: form, name: Shorter form, start: %s, assignment: {column: device_type}, arms: [mobile, desktop], \
primary: visit, guardrails: [{conversion: purchase, margin: 0.1}]}
  - {id: page, start: %s, assignment: {column: device_type}, arms: [mobile, desktop], \
primary: visit, guardrails: [{conversion: purchase, margin: 0.1}]}
"""


def write_experiments(folder: Path, run: str, *, first: str = "2024-03-01", second: str = "2024-03-01") -> Path:
    """Write a project whose notebook `tests` is about one experiment, and a plan with two that begin on such days."""
    run_file = write_project(folder, run=RUN + run, visits="1", tests="1")
    parameters = PARAMETERS + 'experiment: str = "x"\ntimezone: str = "UTC"\n'
    write_notebook(folder / "notebooks" / "tests.ipynb", "1", title="Tests", parameters=parameters)
    plan = folder / "params" / "plan.yaml"
    plan.write_text(plan.read_text() + EXPERIMENTS % (first, second))
    return run_file
