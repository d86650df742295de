import datetime as dt
from pathlib import Path
from zoneinfo import ZoneInfo

import pandas as pd
import pytest
from reports_project import PARAMETERS, RUN, write_notebook, write_project

from convlib.alert_files import RULES
from convlib.errors import RunError
from convlib.reports.preparation import prepare_run
from convlib.reports.run_file import Audience, Period, RunFile, read_run_file

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
        "'engine', 'plan', 'segments', 'run_segments', 'period', 'timeout', 'retries', 'keep', 'fresh', 'schedule', "
        "'audiences', 'parameters', 'notebooks', 'alerts', 'watch'. Did you mean 'title'?",
        "weekly.yaml:4: period.last is '12h'; it must be whole days or weeks, such as '56D' or '8W', or periods of the "
        "calendar, such as '11 complete weeks' (days, weeks, months, quarters).",
        "weekly.yaml:4: period.start is '2024-02-30'; the calendar has no such day.",
        "weekly.yaml:5: notebooks.a is 5; it must be a mapping.",
    ]


@pytest.mark.parametrize(
    ("period", "problem"),
    [
        ("{last: 7D, end: 2024-01-01}", "period.last stands beside `start` or `end`; give one or the other."),
        (
            "{follow_up: 7D, start: 2024-01-01, end: 2024-02-01}",
            "period.follow_up needs `last`, the number of days that the run covers. A period has `start` and `end`, or "
            "`last` and `follow_up`, such as {last: 77D, follow_up: 14D}.",
        ),
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
            "period.last is 'week'; it must be whole days or weeks, such as '56D' or '8W', or periods of the calendar, "
            "such as '11 complete weeks' (days, weeks, months, quarters).",
        ),
        (
            "last complete weak",
            "period is 'last complete weak'; it must be one of 'last complete day', 'last complete week', "
            "'last complete month', 'last complete quarter', the last several of them, such as "
            "'last 11 complete weeks', or a mapping such as {last: 77D}. Did you mean 'last complete week'?",
        ),
        (
            "{last: 77D, week_start: sunday}",
            "period.week_start needs `last` in complete weeks. Remove it, or change `last`.",
        ),
        (
            "{last: 2 complete weeks, week_start: Monday}",
            "period.week_start is 'Monday'; it must be one of 'monday', 'tuesday', 'wednesday', 'thursday', 'friday', "
            "'saturday', 'sunday'. Did you mean 'monday'?",
        ),
        (
            "{last: complete month, timezone: Europe/Berln}",
            "period.timezone is 'Europe/Berln'; it must be a name of the IANA list, such as 'Europe/Berlin' or 'UTC'. "
            "Did you mean 'Europe/Berlin'?",
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


@pytest.mark.parametrize(
    ("period", "last", "start", "end"),
    [
        # 31 March 2024 is a Sunday: at 17:00 its week is not over, in the last hour of the day it counts as over.
        ("last complete week", "2024-03-31 17:00", "2024-03-18", "2024-03-24"),
        ("last complete week", "2024-03-31 23:10", "2024-03-25", "2024-03-31"),
        ("last 11 complete weeks", "2024-04-01 06:00", "2024-01-15", "2024-03-31"),
        ({"last": "complete week", "week_start": "sunday"}, "2024-03-31 17:00", "2024-03-24", "2024-03-30"),
        ("last complete day", "2024-03-01 12:00", "2024-02-29", "2024-02-29"),
        ("last complete month", "2024-03-31 17:00", "2024-02-01", "2024-02-29"),
        ("last complete quarter", "2024-03-31 17:00", "2023-10-01", "2023-12-31"),
        ("last complete week", "2026-01-06 12:00", "2025-12-29", "2026-01-04"),
        # The week to 24 March has its 15 days when 8 April ends, and not an hour and a minute before.
        ({"last": "complete week", "follow_up": "15D"}, "2024-04-08 23:00", "2024-03-18", "2024-03-24"),
        ({"last": "complete week", "follow_up": "15D"}, "2024-04-08 22:59", "2024-03-11", "2024-03-17"),
    ],
    ids=[
        "a week that is not over", "a log that ends with its last day", "several", "weeks from Sunday", "leap day",
        "month", "quarter over the year's end", "week over the year's end", "follow-up over", "follow-up not over",
    ],
)  # fmt: skip
def test_period_resolve_gives_periods_of_the_calendar_that_are_over(
    period: str | dict[str, str], last: str, start: str, end: str
) -> None:
    days = Period.model_validate(period).resolve(first=FIRST, last=pd.Timestamp(last))
    assert days == (dt.date.fromisoformat(start), dt.date.fromisoformat(end))


@pytest.mark.parametrize(
    ("zone", "last", "end"),
    [
        # Midnight in Berlin is 22:00 UTC from 31 March 2024 on and 23:00 UTC before: less the hour of grace.
        ("Europe/Berlin", "2024-03-31 21:00", "2024-03-31"),
        ("Europe/Berlin", "2024-03-31 20:59", "2024-03-24"),
        ("Europe/Berlin", "2024-03-24 22:00", "2024-03-24"),
        ("Europe/Berlin", "2024-03-24 21:59", "2024-03-17"),
        ("America/New_York", "2024-04-01 02:59", "2024-03-24"),
        ("America/New_York", "2024-04-01 03:00", "2024-03-31"),
    ],
)
def test_period_resolve_ends_weeks_at_the_zones_midnight(zone: str, last: str, end: str) -> None:
    period = Period.model_validate({"last": "complete week", "timezone": zone})
    assert period.resolve(first=FIRST, last=pd.Timestamp(last))[1] == dt.date.fromisoformat(end)


def test_period_list_periods_gives_each_that_was_missed_oldest_first() -> None:
    weeks = Period.model_validate("last complete week").list_periods(dt.date(2024, 3, 3), FIRST, LAST)
    assert weeks == [
        (dt.date(2024, 3, 4), dt.date(2024, 3, 10)),
        (dt.date(2024, 3, 11), dt.date(2024, 3, 17)),
        (dt.date(2024, 3, 18), dt.date(2024, 3, 24)),
    ]


def test_period_list_periods_moves_several_weeks_by_one() -> None:
    listed = Period.model_validate("last 2 complete weeks").list_periods(dt.date(2024, 3, 10), FIRST, LAST)
    assert listed == [
        (dt.date(2024, 3, 4), dt.date(2024, 3, 17)),
        (dt.date(2024, 3, 11), dt.date(2024, 3, 24)),
    ]


def test_period_list_periods_begins_with_the_log_and_ends_with_the_latest() -> None:
    period = Period.model_validate("last complete month")
    # January began before the log did.
    assert period.list_periods(dt.date(2020, 12, 31), FIRST, LAST) == [(dt.date(2024, 2, 1), dt.date(2024, 2, 29))]
    assert period.list_periods(dt.date(2024, 2, 29), FIRST, LAST) == []
    assert period.list_periods(dt.date(2030, 2, 28), FIRST, LAST) == []
    assert Period.model_validate({"last": "7D"}).list_periods(dt.date(2020, 1, 1), FIRST, LAST) == []


FULL = """\
period: last complete week
timeout: 90s
retries: 2
keep: 26
fresh: 3D
schedule: {every: week, on: friday, at: "18:30", timezone: Europe/Berlin}
audiences:
  analyst:
  stakeholder: {segments: [all], notebooks: [a], fewest: 5, formats: [html, pdf], recipients: BOARD, upload: [SHARE]}
  owner:growth: {recipients: [SLACK]}
"""


def test_read_run_file_takes_all_that_a_run_nobody_watches_needs(tmp_path: Path) -> None:
    found = read(tmp_path, SMALLEST + FULL)
    assert (found.timeout_seconds, found.retries, found.keep, found.fresh) == (90.0, 2, 26, "3D")
    assert found.schedule is not None
    assert (found.schedule.weekday, found.schedule.at, found.schedule.timezone) == (4, "18:30", "Europe/Berlin")
    assert list(found.audiences) == ["analyst", "stakeholder", "owner:growth"]
    assert found.audiences["analyst"] == Audience()
    board = found.audiences["stakeholder"]
    assert (board.segments, board.notebooks, board.fewest, board.formats) == (("all",), ("a",), 5, ("html", "pdf"))
    assert (board.recipients, board.upload) == (("BOARD",), ("SHARE",))


def test_read_run_file_leaves_all_that_out_by_default(tmp_path: Path) -> None:
    found = read(tmp_path, SMALLEST)
    assert (found.timeout_seconds, found.retries, found.keep, found.fresh) == (1800.0, 0, None, None)
    assert (found.schedule, found.audiences) == (None, {})
    shown = Audience().model_dump()
    assert shown == {
        "segments": None, "notebooks": None, "fewest": 10, "formats": ("html",), "recipients": (), "upload": (),
    }  # fmt: skip


def test_read_run_file_lists_every_problem_of_times_and_audiences(tmp_path: Path) -> None:
    text = """\
timeout: 30
retries: -1
keep: true
schedule: {every: month, on: 31, at: 6:00}
audiences:
  analist: {}
  analyst: {fewest: 5, formats: [htm]}
  stakeholder: {formats: [html], recipients: ["mailtos://me:secret@example.com"], upload: ["s3://x?secret"]}
"""
    assert problems(tmp_path, SMALLEST + text) == [
        "weekly.yaml:4: timeout is 30; it must be a number and one of the units s, min, h, D, W, such as '30min' or "
        "'7D'.",
        "weekly.yaml:5: retries is -1; it must be a whole number, at least 0.",
        "weekly.yaml:6: keep is True; it must be a whole number, at least 1.",
        "weekly.yaml:7: schedule.at is '6:00'; it must be a time of the day in quotes, such as \"06:00\".",
        "weekly.yaml:7: schedule.on is 31; it must be a day that each month has, 1 to 28.",
        "weekly.yaml:10: audiences.analyst.formats[0] is 'htm'; it must be one of 'html', 'pdf', 'xlsx', 'zip', "
        "'ipynb', 'tables'. Did you mean 'html'?",
        *(
            f"weekly.yaml:11: audiences.stakeholder.{field}[0] is not the name of an environment variable. Put the "
            "address into a variable, such as CONVLIB_ALERTS_URL, and name the variable here: addresses hold secrets, "
            "which must not stand in a file."
            for field in ("recipients", "upload")
        ),
    ]


def test_read_run_file_knows_three_audiences(tmp_path: Path) -> None:
    text = """\
audiences:
  analist: {}
  owner: {}
  analyst: {fewest: 5}
  stakeholder: {formats: [ipynb]}
"""
    known = "it must be 'analyst', 'stakeholder' or 'owner:TEAM' with an owner of the plan."
    assert problems(tmp_path, SMALLEST + text) == [
        f"weekly.yaml:5: audiences.analist is no audience; {known} Did you mean 'analyst'?",
        f"weekly.yaml:6: audiences.owner is no audience; {known} Did you mean 'owner:TEAM'?",
        "weekly.yaml:7: audiences.analyst.fewest is only for the stakeholder, whose reports show no smaller group. "
        "Remove it.",
        "weekly.yaml:8: audiences.stakeholder.formats names 'ipynb', and a stakeholder's report has no code. "
        "Remove it.",
    ]


@pytest.mark.parametrize(
    ("schedule", "problem"),
    [
        ("{every: day, on: monday}", "on is 'monday', and the run is made every day. Remove it."),
        (
            "{every: week, on: mon}",
            "on is 'mon'; it must be one of 'monday', 'tuesday', 'wednesday', 'thursday', 'friday', 'saturday', "
            "'sunday'. Did you mean 'monday'?",
        ),
        ("{every: quarter, on: monday}", "on is 'monday'; it must be a day that each month has, 1 to 28."),
        ("{every: hour}", "every is 'hour'; it must be one of 'day', 'week', 'month', 'quarter'."),
    ],
)
def test_read_run_file_refuses_a_schedule_that_means_nothing(tmp_path: Path, schedule: str, problem: str) -> None:
    assert problems(tmp_path, f"{SMALLEST}schedule: {schedule}\n") == [f"weekly.yaml:4: schedule.{problem}"]


def test_check_fresh_refuses_data_that_ended_too_long_ago(tmp_path: Path) -> None:
    run_file = read(tmp_path, SMALLEST + "fresh: 3D\n")
    # 17:00 UTC is 19:00 in Berlin: three days later to the second is fresh enough.
    zone = ZoneInfo("Europe/Berlin")
    run_file.check_fresh(LAST, now=dt.datetime(2024, 4, 3, 19, 0, tzinfo=zone))
    with pytest.raises(RunError) as caught:
        run_file.check_fresh(LAST, now=dt.datetime(2024, 4, 10, 19, 0, tzinfo=zone))
    assert str(caught.value) == (
        f"{tmp_path}/weekly.yaml:4: the data end on 2024-03-31 17:00 UTC, 10.0 days ago, and `fresh` allows 3D. See "
        "why no newer events arrive, or change `fresh`."
    )
    read(tmp_path, SMALLEST).check_fresh(LAST, now=dt.datetime(2044, 4, 10, tzinfo=zone))


def test_notebooks_count_in_the_periods_time_zone_and_weeks(tmp_path: Path) -> None:
    run = RUN.replace("{start: 2024-03-01, end: 2024-03-10}", "{last: 4 complete weeks, week_start: sunday}")
    run_file = write_project(tmp_path, run=f"{run}parameters: {{timezone: Europe/Paris}}\n", a="1", b="1")
    own = PARAMETERS + 'timezone: str = "UTC"\nweek_start: str = "monday"\n'
    write_notebook(tmp_path / "notebooks" / "a.ipynb", "1", parameters=own)
    given = prepare_run(run_file).notebooks.parameters
    assert given == {"a": {"week_start": "sunday", "timezone": "Europe/Paris"}, "b": {}}
