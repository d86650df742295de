from pathlib import Path

import pytest
import yaml
from small_logs import make_log, make_plan, repeat

from convlib.first_run import choose_columns, name_path, write_clock, write_run_file, write_segments
from convlib.plan import read_segments

PLAN = """\
macros:
  - id: buy
    match: {event_name: buy}
    micros:
      - {id: view, match: {event_name: view}, stage: awareness, kind: process_milestone}
      - {id: save, match: {event_name: save}, stage: decision, kind: secondary_action}
      - {id: cart, match: {event_name: cart}, stage: decision, kind: process_milestone}
"""
NO_MILESTONE = "macros: [{id: buy, match: {event_name: buy}}]"


def choose(folder: Path, *rows: str) -> tuple[str, ...]:
    return choose_columns(make_log("\n".join(rows), make_plan(folder, PLAN)))


def write(folder: Path, rows: str, plan: str = PLAN, **given: object) -> dict[str, object]:
    known = make_plan(folder, plan)
    named = {"events": "log.csv", "mapping": "", "columns": (), **given}
    read: dict[str, object] = yaml.safe_load(write_run_file(make_log(rows, known), known, **named))  # type: ignore[arg-type]
    return read


def test_choose_columns_takes_few_values_known_at_entry(tmp_path: Path) -> None:
    assert choose(
        tmp_path,
        # `one` has one value, `page` a value too many at later events only, `rare` a value at one entry of four.
        "ann view 0h device_type=mobile more={os:mac} team=red one=x rare=a mail=a@b.org user_kind=guest",
        "ann view 1h device_type=tablet page=later",
        "ben view 0h device_type=desktop more={os:linux} team=blue one=x mail=b@b.org user_kind=member",
        "eva view 0h device_type=mobile more={os:mac} team=red one=x mail=a@b.org user_kind=guest",
        "kim view 0h device_type=mobile more={os:linux} team=blue one=x mail=b@b.org user_kind=guest",
        "ann buy 2h",
    ) == ("device_type", "team", "user_kind")


def test_choose_columns_takes_the_background_first_and_three_at_most(tmp_path: Path) -> None:
    values = "colour={0} geo={0} medium={0} source={0}"
    rows = [f"{user} buy 0h {values.format(value)}" for user, value in (("ann", "x"), ("ben", "y"))]
    assert choose(tmp_path, *rows) == ("medium", "source", "geo")


def test_choose_columns_takes_none_of_too_many_values(tmp_path: Path) -> None:
    rows = [f"u{number} buy 0h geo=g{number}" for number in range(13)]
    assert choose(tmp_path, *rows) == ()
    assert choose(tmp_path, *rows[:12]) == ("geo",)


@pytest.mark.parametrize(("columns", "names"), [(("geo", "team"), ["all", "geo", "team"]), ((), ["all"])])
def test_write_segments_reads_back(tmp_path: Path, columns: tuple[str, ...], names: list[str]) -> None:
    path = tmp_path / "segments.yaml"
    path.write_text(write_segments(columns))
    assert list(read_segments(path)) == names


def test_write_run_file_takes_the_milestones_as_steps(tmp_path: Path) -> None:
    notebooks = write(tmp_path, "ann view 0h\nann cart 1h\nann buy 2h")["notebooks"]
    assert notebooks["02_funnel"]["steps"] == ["view", "cart", "buy"]  # type: ignore[index]


def test_write_run_file_takes_what_most_do_where_there_is_no_milestone(tmp_path: Path) -> None:
    rows = "ann look 0h\nben look 0h\nben ask 1h\nann buy 2h"
    notebooks = write(tmp_path, rows, NO_MILESTONE)["notebooks"]
    assert notebooks["02_funnel"]["steps"] == ["look", "buy"]  # type: ignore[index]
    alone = write(tmp_path, "ann buy 0h", NO_MILESTONE)["notebooks"]
    assert alone["02_funnel"]["steps"] == ["buy", "buy"]  # type: ignore[index]


@pytest.mark.parametrize(
    ("took", "last", "window", "period"),
    [
        # 2024-01-01 is a Monday. The last day plus the window's days must be over.
        pytest.param("20h", "100D", "1D", {"last": "11 complete weeks", "follow_up": "2D"}, id="within a day"),
        pytest.param("3D", "100D", "7D", {"last": "11 complete weeks", "follow_up": "8D"}, id="within a week"),
        pytest.param("3D", "50D", "7D", {"last": "6 complete weeks", "follow_up": "8D"}, id="few weeks"),
        pytest.param("25D", "200D", "28D", {"last": "5 complete months", "follow_up": "29D"}, id="within a month"),
        pytest.param(
            "80D", "100D", "14D", {"last": "11 complete weeks", "follow_up": "15D"}, id="longer than a quarter"
        ),
    ],
)
def test_write_run_file_takes_window_and_period_from_the_log(
    tmp_path: Path, took: str, last: str, window: str, period: dict[str, str]
) -> None:
    made = write(tmp_path, repeat("u", 9, "view 0h", f"buy {took}") + f"kim view 5D\nkim view 50D\neva view {last}\n")
    assert made["notebooks"]["02_funnel"]["window"] == window  # type: ignore[index]
    assert made["period"] == period


def test_write_run_file_takes_all_of_a_log_in_whose_whole_weeks_nobody_enters(tmp_path: Path) -> None:
    # The log begins on a Thursday; the two whole weeks after it are empty, the next is not over.
    assert write(tmp_path, "ben view 3D\nann view 27D\nann buy 649h")["period"] == {}
    assert write(tmp_path, "ben view 3D\nkim view 9D\nann view 27D\nann buy 649h")["period"] != {}


@pytest.mark.parametrize(
    ("took", "clock"),
    [
        pytest.param("3D", {"horizon": "7D"}, id="within a week"),
        pytest.param("25D", {"exposure": ["2D", "7D"], "horizon": "21D"}, id="within a month"),
        pytest.param("150D", {"exposure": ["18D", "45D"], "horizon": "135D"}, id="within half a year"),
    ],
)
def test_write_clock_leaves_the_macro_the_time_it_takes(tmp_path: Path, took: str, clock: dict[str, object]) -> None:
    plan = make_plan(tmp_path, PLAN)
    log = make_log(repeat("u", 9, "view 0h", f"buy {took}") + "eva view 800D\n", plan)
    assert yaml.safe_load(write_clock(log, plan.macros[0])) == {"correlation": clock}


def test_write_run_file_takes_a_period_in_which_enough_convert(tmp_path: Path) -> None:
    # Those who buy enter in the first days; later entries are many and none of them buys.
    rows = repeat("a", 40, "view 0h", "buy 1D") + repeat("b", 40, "view 80D") + "eva view 200D\n"
    assert write(tmp_path, rows)["period"] == {}


def test_write_run_file_measures_from_the_entry(tmp_path: Path) -> None:
    """All buy 100 days after they enrol and 150 after they look, in 400 days, a quarter of which is too few."""
    plan = NO_MILESTONE.replace("}]", ", correlation: {entry: enrol}}]")
    rows = repeat("u", 40, "look 0h", "enrol 50D", "buy 150D") + "eva look 0h\neva enrol 100D\neva x 400D\n"
    made = write(tmp_path, rows, plan, timezone="Europe/London")
    overview, funnel = (made["notebooks"][name] for name in ("00_overview", "02_funnel"))  # type: ignore[index]
    assert (overview["entry"], overview["window"], funnel["window"]) == ("enrol", "180D", "180D")
    assert funnel["steps"] == ["enrol", "buy"]
    # The 181 days after it are over by 2025-02-04.
    assert made["period"] == {"last": "6 complete months", "follow_up": "181D", "timezone": "Europe/London"}
    assert made["schedule"]["timezone"] == "Europe/London"  # type: ignore[index]
    known = make_plan(tmp_path, plan)
    clock = yaml.safe_load(write_clock(make_log(rows, known), known.macros[0]))
    assert clock == {"correlation": {"entry": "enrol", "exposure": ["18D", "45D"], "horizon": "135D"}}


def test_write_run_file_takes_all_of_a_short_log(tmp_path: Path) -> None:
    assert write(tmp_path, "ben view 0h\nann view 5D\nann buy 6D")["period"] == {}


def test_write_run_file_names_columns_and_mapping(tmp_path: Path) -> None:
    made = write(tmp_path, "ann buy 0h", columns=("geo", "team", "kind"), mapping="ga4", events="dataset:shop")
    assert (made["events"], made["mapping"], made["run_segments"]) == ("dataset:shop", "ga4", ["all", "geo"])
    assert made["notebooks"]["03_correlation"] == {"adjust": ["geo", "team"]}  # type: ignore[index]


@pytest.mark.parametrize(
    ("value", "named", "whole"),
    [
        ("log.csv", "../../log.csv", "{here}/log.csv"),
        ("data/*/log.csv", "../../data/*/log.csv", "{here}/data/*/log.csv"),
        ("own/log.csv", "../log.csv", "{here}/own/log.csv"),
        ("shop.duckdb#events", "../../shop.duckdb#events", "{here}/shop.duckdb#events"),
        ("dataset:shop", "dataset:shop", "dataset:shop"),
        ("s3://bucket/log/", "s3://bucket/log/", "s3://bucket/log/"),
        ("ga4", "ga4", "ga4"),
        ("", "", ""),
    ],
)
def test_name_path_starts_at_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str, named: str, whole: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert name_path(value, tmp_path / "own" / "params") == named
    assert name_path(value, None) == whole.format(here=tmp_path)
