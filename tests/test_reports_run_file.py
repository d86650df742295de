import datetime as dt
from pathlib import Path

import pandas as pd
import pytest

from convlib.alerts import RULES
from convlib.errors import RunError
from convlib.reports.run_file import Period, RunFile, read_run_file

SMALLEST = "run: shop\nevents: events.csv\nplan: plan.yaml\n"


def write(folder: Path, text: str) -> Path:
    path = folder / "weekly.yaml"
    path.write_text(text)
    return path


def read(folder: Path, text: str) -> RunFile:
    return read_run_file(write(folder, text))


def problems(folder: Path, text: str) -> list[str]:
    with pytest.raises(RunError) as caught:
        read(folder, text)
    return [problem.replace(f"{folder}/", "") for problem in caught.value.problems]


def test_read_run_file_fills_in_what_is_left_out(tmp_path: Path) -> None:
    run_file = read(tmp_path, SMALLEST)
    assert (run_file.run, run_file.title, run_file.segments) == ("shop", "", "")
    assert (run_file.run_segments, run_file.notebooks, run_file.parameters) == (None, None, {})
    assert run_file.period == Period()


def test_read_run_file_takes_notebooks_as_a_list_or_with_their_parameters(tmp_path: Path) -> None:
    listed = read(tmp_path, SMALLEST + "notebooks: [a, b]\n")
    assert listed.notebooks == {"a": None, "b": None}
    assert listed.locate("notebooks", "b") == f"{tmp_path}/weekly.yaml:4"
    mapped = read(tmp_path, SMALLEST + "notebooks:\n  a: {window: 7D}\n  b:\n")
    assert mapped.notebooks == {"a": {"window": "7D"}, "b": None}
    assert mapped.locate("notebooks", "a", "window") == f"{tmp_path}/weekly.yaml:5"


def test_read_run_file_lists_every_problem_with_its_line(tmp_path: Path) -> None:
    text = "run: ../up\nevents: 7\ntitel: x\nperiod: {start: 2024-02-30, last: 12h}\nnotebooks: {a: 5}\n"
    assert problems(tmp_path, text) == [
        "weekly.yaml:1: run is '../up'; it must be a folder name: letters, digits and _ . - only, beginning with a "
        "letter or digit.",
        "weekly.yaml:1: the file has no `plan`. Add `plan:` the measurement plan's file.",
        "weekly.yaml:2: events is 7; it must be text (in quotes if it looks like a number).",
        "weekly.yaml:3: the file has an unknown field 'titel'; the fields are 'run', 'title', 'events', 'mapping', "
        "'engine', 'plan', 'segments', 'run_segments', 'period', 'parameters', 'notebooks', 'alerts', 'watch'. Did you "
        "mean 'title'?",
        "weekly.yaml:4: period.last is '12h'; it must be whole days or weeks, such as '56D' or '8W'.",
        "weekly.yaml:4: period.start is '2024-02-30'; it must be a date such as 2026-12-31.",
        "weekly.yaml:5: notebooks.a is 5; it must be a mapping.",
    ]


@pytest.mark.parametrize(
    ("period", "problem"),
    [
        ("{last: 7D, end: 2024-01-01}", "period.last stands beside `start` or `end`; give one or the other."),
        ("{follow_up: 7D}", "period.follow_up needs `last`, the number of days that the run covers. Add it."),
        (
            "{start: 2024-02-01, end: 2024-01-01}",
            "period.end is 2024-01-01, before `start` 2024-02-01. Swap them.",
        ),
        (
            "{last: 7}",
            "period.last is 7; it must be text (in quotes if it looks like a number).",
        ),
        (
            "{last: week}",
            "period.last is 'week'; it must be a number and one of the units s, min, h, D, W, such as '30min' or '7D'.",
        ),
    ],
)
def test_read_run_file_refuses_a_period_that_means_nothing(tmp_path: Path, period: str, problem: str) -> None:
    assert problems(tmp_path, f"{SMALLEST}period: {period}\n") == [f"weekly.yaml:4: {problem}"]


def test_read_run_file_refuses_notebooks_that_are_not_names(tmp_path: Path) -> None:
    text = "weekly.yaml:4: notebooks must list notebooks by name, such as `- 02_funnel`."
    assert problems(tmp_path, SMALLEST + "notebooks: [1]\n") == [text]


def test_read_run_file_says_that_a_file_is_missing(tmp_path: Path) -> None:
    write(tmp_path, SMALLEST)
    with pytest.raises(RunError) as caught:
        read_run_file(tmp_path / "weakly.yaml")
    assert str(caught.value) == f"{tmp_path}/weakly.yaml does not exist. Did you mean 'weekly.yaml'?"


def test_resolve_reads_paths_from_the_run_file_and_leaves_names_and_addresses(tmp_path: Path) -> None:
    run_file = read(tmp_path, SMALLEST)
    assert run_file.resolve("plan.yaml") == f"{tmp_path}/plan.yaml"
    unchanged = ["", "dataset:oulad", "s3://bucket/events.parquet", "/data/events.parquet"]
    assert [run_file.resolve(value) for value in unchanged] == unchanged


def test_read_run_file_raises_all_alerts_and_tells_nobody_unless_it_says_so(tmp_path: Path) -> None:
    alerts = read(tmp_path, SMALLEST).alerts
    assert (alerts.rules, alerts.notify, alerts.severity) == (RULES, (), "warning")
    told = read(tmp_path, SMALLEST + "alerts: {rules: [quality], notify: HOOK, severity: info}\n").alerts
    assert (told.rules, told.notify, told.severity) == (("quality",), ("HOOK",), "info")
    assert read(tmp_path, SMALLEST + "alerts: {notify: [HOOK, MAIL, HOOK]}\n").alerts.notify == ("HOOK", "MAIL")


def test_read_run_file_lists_every_problem_of_the_alerts(tmp_path: Path) -> None:
    text = "alerts:\n  rules: [chnage, quality]\n  severity: bad\n  notfy: []\n"
    names = ", ".join(repr(rule) for rule in RULES)
    assert problems(tmp_path, SMALLEST + text) == [
        f"weekly.yaml:5: alerts.rules[0] is 'chnage'; it must be one of {names}. Did you mean 'change'?",
        "weekly.yaml:6: alerts.severity is 'bad'; it must be one of 'info', 'warning', 'critical'.",
        "weekly.yaml:7: alerts has an unknown field 'notfy'; the fields are 'rules', 'notify', 'severity'. Did you "
        "mean 'notify'?",
    ]
    assert problems(tmp_path, SMALLEST + "alerts: {rules: []}\n") == [
        "weekly.yaml:4: alerts.rules names no rule. Name those that are to raise alerts, or leave `rules` out for all."
    ]


def test_read_run_file_takes_an_empty_field_as_left_out(tmp_path: Path) -> None:
    empty = read(tmp_path, SMALLEST + "title:\nperiod:\nparameters:\nnotebooks:\nalerts:\nwatch:\n")
    left_out = read(tmp_path, SMALLEST)
    assert empty.model_dump() == left_out.model_dump()
    assert read(tmp_path, SMALLEST + "alerts: {rules: , notify: HOOK}\n").alerts.rules == RULES
    assert problems(tmp_path, SMALLEST + "watch: {interval: }\n") == [
        "weekly.yaml:4: watch.interval is None; it must be a number and one of the units s, min, h, D, W, such as "
        "'30min' or '7D'."
    ]


@pytest.mark.parametrize(
    ("notify", "place"),
    [("[HOOK, 'slack://secret']", "notify[1]"), ("json://secret", "notify"), ("[{a: secret}]", "notify[0]")],
)
def test_read_run_file_refuses_an_address_without_showing_it(tmp_path: Path, notify: str, place: str) -> None:
    assert problems(tmp_path, f"{SMALLEST}alerts: {{notify: {notify}}}\n") == [
        f"weekly.yaml:4: alerts.{place} is not the name of an environment variable. Put the address into a variable, "
        "such as CONVLIB_ALERTS_URL, and name the variable here: addresses hold secrets, which must not stand in a "
        "file."
    ]


FIRST, LAST = pd.Timestamp("2024-01-05 08:00"), pd.Timestamp("2024-03-31 17:00")


@pytest.mark.parametrize(
    ("period", "start", "end"),
    [
        ({}, "2024-01-05", "2024-03-31"),
        ({"start": "2024-02-01"}, "2024-02-01", "2024-03-31"),
        ({"end": "2024-02-01"}, "2024-01-05", "2024-02-01"),
        ({"last": "7D"}, "2024-03-25", "2024-03-31"),
        # 31 March 17:00 less 14 days is 17 March 17:00: later entries of that day lack follow-up, so 16 March is last.
        ({"last": "1W", "follow_up": "14D"}, "2024-03-10", "2024-03-16"),
    ],
    ids=["all", "from a day", "to a day", "the last days", "the last days with follow-up"],
)
def test_period_resolve_gives_both_days_included(period: dict[str, str], start: str, end: str) -> None:
    days = Period.model_validate(period).resolve(first=FIRST, last=LAST)
    assert days == (dt.date.fromisoformat(start), dt.date.fromisoformat(end))
