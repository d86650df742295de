import dataclasses
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

from convlib.errors import ConvlibError, EventDataError, ParamError
from convlib.parameters import Parameters, check_parameters
from convlib.results import Result, Takeaways

PLAN = """\
macros:
  - id: purchase
    match: {event_name: buy}
    micros:
      - {id: look, match: {event_name: view}, stage: decision, kind: process_milestone}
  - id: signup
    match: {event_name: [join, register]}
"""
SEGMENTS = """\
mobile: {device_type: mobile}
device: {by: device_type}
"""
EVENTS = """\
user_id,event_name,timestamp,device_type
a,view,2026-01-05 10:00,mobile
a,buy,2026-01-06 10:00,desktop
b,view,2026-01-07 10:00,desktop
b,view,2026-01-09 10:00,mobile
"""
COLUMNS = "event_name, timestamp, user_id, session_id, land, device_type"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A notebook's folder with a log, a plan and segments; relative paths start here."""
    for name, text in (("plan.yaml", PLAN), ("segments.yaml", SEGMENTS), ("events.csv", EVENTS)):
        (tmp_path / name).write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def check(**given: Any) -> Parameters:
    return check_parameters(**{"events": "events.csv", "plan": "plan.yaml", "segments": "segments.yaml"} | given)


def refuse(**given: Any) -> ConvlibError:
    with pytest.raises(ConvlibError) as caught:
        check(**given)
    return caught.value


def save_one(parameters: Parameters) -> tuple[pd.DataFrame, Result]:
    table = pd.DataFrame({"step": [1, 2], "name": ["view", 'a "b",\nc'], "rate": [1.0, None]})
    said = Takeaways(("Half leave.", "More – “leave”."))
    result = Result(table=table, takeaways=said, segment="mobile", names={})
    parameters.save(funnel=result)
    return table, result


@pytest.mark.usefixtures("folder")
def test_check_parameters_gives_the_plan_and_the_log_through_segment_and_period() -> None:
    found = check(segment="mobile", start="2026-01-05", end="2026-01-06")
    assert [macro.id for macro in found.plan.macros] == ["purchase", "signup"]
    assert found.log.segment_name == "mobile"
    assert [str(day) for day in found.log.period] == ["2026-01-05", "2026-01-06"]
    assert found.log.to_pandas()["user_id"].tolist() == ["a", "a"]
    assert found.output is None


@pytest.mark.usefixtures("folder")
def test_check_parameters_takes_one_value_of_a_by_segment() -> None:
    assert check(segment="device=desktop").log.to_pandas()["user_id"].unique().tolist() == ["b"]


@pytest.mark.usefixtures("folder")
def test_check_parameters_reads_everything_by_default() -> None:
    found = check(segments="")
    assert found.log.segment_name == "all"
    assert [str(day) for day in found.log.period] == ["2026-01-05", "2026-01-09"]
    assert found.log.rows_used == 4


def test_check_parameters_takes_a_dataframe_and_paths(folder: Path) -> None:
    rows = pd.read_csv(folder / "events.csv")
    found = check(events=rows, plan=folder / "plan.yaml", segments=folder / "segments.yaml", segment="mobile")
    assert found.log.to_pandas()["user_id"].tolist() == ["a", "a"]


def test_check_parameters_reads_the_log_by_its_mapping(folder: Path) -> None:
    (folder / "berlin.yaml").write_text("timezone: Europe/Berlin\n", encoding="utf-8")
    assert check(mapping="berlin.yaml").log.first == pd.Timestamp("2026-01-05 09:00")


@pytest.mark.usefixtures("folder")
def test_check_parameters_refuses_a_wrong_mapping_with_all_else() -> None:
    assert refuse(mapping="gaa4", every="X").problems == (
        "`preset` is 'gaa4'; it must be one of 'amplitude', 'ga4', 'matomo', 'mixpanel', 'posthog', 'segment', "
        "'snowplow', or a YAML file. Did you mean 'ga4'?",
        "`every` is 'X'; it must be one of 'D', 'W', 'M' (day, week, month).",
    )


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    "given",
    [
        {"macro": "purchase", "steps": ["view", "buy"], "window": "7D", "horizon": "14D", "exposure": "auto"},
        {"macro": "", "window": "", "exposure": ["1D", "7D"], "every": "D", "entry": "view"},
        {"by": "device_type", "adjust": ["device_type", "geo"]},
        {"by": "", "adjust": []},
    ],
)
def test_check_parameters_accepts_what_analyses_take(given: dict[str, Any]) -> None:
    assert check(**given).log.rows_used == 4


@pytest.mark.usefixtures("folder")
def test_check_parameters_says_what_is_left_out() -> None:
    parameters = check(fewest=10)
    assert parameters.log.fewest == 10
    assert parameters._repr_html_().endswith(
        " Numbers of fewer than 10 units are left out, with those that would reveal one; small groups are put together "
        "as (other).</p>"
    )


PROBLEMS: list[tuple[dict[str, Any], str]] = [
    ({"start": "soon"}, "`start` is 'soon', which is not a date; write it as YYYY-MM-DD."),
    ({"end": "2026-02-30"}, "`end` is '2026-02-30'; the calendar has no such day."),
    ({"start": "05/01/2026"}, "`start` is '05/01/2026', which is not a date; write it as YYYY-MM-DD."),
    ({"end": "2026"}, "`end` is '2026', which is not a date; write it as YYYY-MM-DD."),
    ({"start": "2026-01-06", "end": "2026-01-05"}, "`end` 2026-01-05 is before `start` 2026-01-06; swap them."),
    (
        {"window": "7 days"},
        "`window` is '7 days'; it must be a number and one of the units s, min, h, D, W, such as '30min' or '7D'. "
        "Did you mean '7D'?",
    ),
    ({"horizon": "0D"}, "`horizon` is '0D'; it must be longer than zero, such as '30min' or '7D'."),
    (
        {"exposure": ["1D", "x"]},
        "`exposure` is 'x'; it must be a number and one of the units s, min, h, D, W, such as '30min' or '7D'.",
    ),
    (
        {"window": "auto"},
        "`window` is 'auto'; it must be a number and one of the units s, min, h, D, W, such as '30min' or '7D'.",
    ),
    ({"every": "Y"}, "`every` is 'Y'; it must be one of 'D', 'W', 'M' (day, week, month)."),
    (
        {"macro": "purchas"},
        "`macro` is 'purchas'; the plan's macros are 'purchase', 'signup'. Did you mean 'purchase'?",
    ),
    ({"macro": "look"}, "`macro` is 'look'; the plan's macros are 'purchase', 'signup'."),
    ({"experiment": "form"}, "`experiment` is 'form'; the plan has no `experiments`."),
    ({"steps": ["view"]}, "`steps` is ['view']; a funnel needs at least two."),
    ({"fewest": -1}, "`fewest` is -1; it must be a whole number, at least 2, or 0 to leave out nothing."),
    ({"fewest": 1}, "`fewest` is 1; it must be a whole number, at least 2, or 0 to leave out nothing."),
    ({"fewest": "10"}, "`fewest` is '10'; it must be a whole number, at least 2, or 0 to leave out nothing."),
    ({"output": 1}, "`output` is 1; it must be the path of a folder, or empty to write nothing."),
    ({"segment": "mobil"}, "`segment` is 'mobil'; the segments are 'all', 'mobile', 'device'. Did you mean 'mobile'?"),
    (
        {"segment": "device"},
        "`segment` is 'device', which stands for one segment a value of `device_type`; write device=VALUE.",
    ),
    ({"plan": "plans.yaml"}, "plans.yaml does not exist. Did you mean 'plan.yaml'?"),
    ({"segments": "segment.yaml"}, "segment.yaml does not exist. Did you mean 'segments.yaml'?"),
]


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(("given", "message"), PROBLEMS)
def test_check_parameters_refuses(given: dict[str, Any], message: str) -> None:
    assert str(refuse(**given)) == message


@pytest.mark.usefixtures("folder")
def test_check_parameters_refuses_a_value_for_a_segment_without_values() -> None:
    assert refuse(segment="mobile=yes", every="year").problems == (
        "`every` is 'year'; it must be one of 'D', 'W', 'M' (day, week, month).",
        "`segment` is 'mobile=yes'; the segments are 'all', 'mobile', 'device'. Did you mean 'mobile'?",
    )


@pytest.mark.usefixtures("folder")
def test_check_parameters_refuses_a_value_that_a_by_segment_does_not_have() -> None:
    assert str(refuse(segment="device=tv")) == (
        "There is no segment `device=tv`. Did you mean 'device=desktop'? The segments are all, mobile, device=desktop, "
        "device=mobile."
    )


def test_check_parameters_lists_every_problem_before_any_data_is_read(folder: Path) -> None:
    (folder / "plan.yaml").write_text("macros:\n  - {id: Purchase, match: {event_name: buy}}\n  - {id: x}\n")
    given = {"events": "event.csv", "segment": "mobil", "start": "soon", "window": "7", "every": "year"}
    assert refuse(**given).problems == (
        "plan.yaml:2: macros[Purchase].id is 'Purchase'; it must be lower-case letters, digits and _, beginning with a "
        "letter. Did you mean 'purchase'?",
        "plan.yaml:3: macros[x] has no `match`. Add `match:` the events that are meant, such as "
        "{event_name: purchase}.",
        "No events at `event.csv`: there is no such file, folder or match. Did you mean 'events.csv'? Check `events`; "
        "in a run file a relative path starts at the run file's folder, in a notebook at the notebook's.",
        "`start` is 'soon', which is not a date; write it as YYYY-MM-DD.",
        "`window` is '7'; it must be a number and one of the units s, min, h, D, W, such as '30min' or '7D'.",
        "`every` is 'year'; it must be one of 'D', 'W', 'M' (day, week, month).",
        "`segment` is 'mobil'; the segments are 'all', 'mobile', 'device'. Did you mean 'mobile'?",
    )


@pytest.mark.usefixtures("folder")
def test_check_parameters_lists_a_date_in_another_form_with_the_rest() -> None:
    error = refuse(start="05/01/2026", every="year")
    assert error.problems == (
        "`start` is '05/01/2026', which is not a date; write it as YYYY-MM-DD.",
        "`every` is 'year'; it must be one of 'D', 'W', 'M' (day, week, month).",
    )


@pytest.mark.usefixtures("folder")
def test_check_parameters_lists_unknown_macro_segment_and_dates_together() -> None:
    error = refuse(macro="purchas", segment="mobil", start="2026-01-06", end="2026-01-05", horizon="x")
    assert isinstance(error, ParamError)
    assert [text.split("`")[1] for text in error.problems] == ["end", "horizon", "macro", "segment"]


@pytest.mark.usefixtures("folder")
def test_check_parameters_refuses_unknown_columns_of_by_and_adjust() -> None:
    assert refuse(by="devicetype", adjust=["geo", "plan_type"]).problems == (
        "`by` names the column `devicetype`, which the log does not have. "
        "Did you mean 'device_type'? Its columns are user_id, event_name, timestamp, device_type.",
        "`adjust` names the column `plan_type`, which the log does not have. Its columns are user_id, event_name, "
        "timestamp, device_type.",
    )


@pytest.mark.usefixtures("folder")
def test_check_parameters_refuses_unknown_columns_of_the_segment(folder: Path) -> None:
    (folder / "segments.yaml").write_text("mobile: {devicetype: mobile}\n")
    assert str(refuse(segment="mobile")) == (
        "The log has no column `devicetype`. Did you mean 'device_type'? Its columns are " + COLUMNS + "."
    )


def test_check_parameters_refuses_a_log_without_any_macro(folder: Path) -> None:
    (folder / "events.csv").write_text(EVENTS.replace("a,buy", "a,purchase"))
    error = refuse()
    assert isinstance(error, EventDataError)
    assert str(error) == (
        "None of the plan's macro-conversions happens in the log. plan.yaml:3: `purchase` matches event_name = buy; "
        "plan.yaml:7: `signup` matches event_name = join or register. The log's most frequent events are view, "
        "purchase; 0 rows were rejected."
    )


def test_check_parameters_passes_on_what_is_wrong_with_the_log(folder: Path) -> None:
    (folder / "events.csv").write_text("user_id,event_name,timestamp\n")
    assert str(refuse()) == "`events.csv` is empty: it has no rows. Check the export."


def test_save_writes_tables_and_takeaways(folder: Path) -> None:
    parameters = check(segment="mobile", output=folder / "tables" / "02_funnel")
    table, result = save_one(parameters)
    written = folder / "tables" / "02_funnel"
    assert sorted(path.name for path in written.iterdir()) == ["funnel.csv", "funnel.parquet", "takeaways.json"]
    assert_frame_equal(pd.read_parquet(written / "funnel.parquet"), table)
    assert_frame_equal(pd.read_csv(written / "funnel.csv"), table)
    said = json.loads((written / "takeaways.json").read_text(encoding="utf-8"))
    assert said["takeaways"] == list(result.takeaways)


def test_save_replaces_what_an_earlier_run_wrote(folder: Path) -> None:
    parameters = check(output=folder / "tables")
    save_one(parameters)
    table, result = save_one(parameters)
    parameters.save(funnel=dataclasses.replace(result, table=table.head(1)))
    assert len(pd.read_csv(folder / "tables" / "funnel.csv")) == 1


def test_save_writes_nothing_without_output(folder: Path) -> None:
    before = sorted(folder.rglob("*"))
    save_one(check())
    assert sorted(folder.rglob("*")) == before


@pytest.mark.usefixtures("folder")
def test_parameters_show_where_their_numbers_come_from() -> None:
    shown = check(events=pd.read_csv("events.csv"), segment="device=mobile")._repr_html_()
    assert shown.startswith('<p class="provenance">')
    assert "DataFrame" in shown
    assert "device=mobile" in shown


def test_save_writes_no_text_that_a_spreadsheet_would_run(folder: Path) -> None:
    parameters = check(output=folder / "tables")
    table = pd.DataFrame({"name": ["=1+1", "view"], "change": [-0.5, 1.0]})
    parameters.save(funnel=Result(table=table, takeaways=Takeaways(), segment="all", names={}))
    assert (folder / "tables" / "funnel.csv").read_text() == "name,change\n'=1+1,-0.5\nview,1.0\n"
    assert_frame_equal(pd.read_parquet(folder / "tables" / "funnel.parquet"), table)
