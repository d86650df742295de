import datetime as dt
from pathlib import Path

import pandas as pd
import pytest
from reports_project import write_project
from small_logs import make_log, make_plan, pick
from typer.testing import CliRunner
from typer.testing import Result as Called

from convlib.cli import app
from convlib.correlation import Correlation
from convlib.errors import ParamError
from convlib.rates import Rates
from convlib.upkeep import list_actions, recalibrate, review_plan

ON = dt.date(2026, 12, 1)
ACTIONS = """\
macros:
  - id: buy
    match: {event_name: buy}
    micros:
      - id: cart
        name: Cart
        match: {event_name: cart}
        stage: decision
        kind: process_milestone
        owner: web
        actions:
          - {text: Later, due: 2026-12-11}
          - {text: Some day}
          - {text: Finished, due: 2026-11-01, done: true}
          - {text: Late, owner: ann, due: 2026-11-15}
          - {text: Today, due: 2026-12-01}
"""
TARGETS = """\
macros:
  - id: buy               # what pays
    match: {event_name: buy}
    target: 0.20
    micros:
      - id: cart
        match: {event_name: cart}
        stage: decision
        kind: process_milestone
        target: {value: 0.50, by: 2026-09-30}   # asked for by sales
"""


def make_rates(rows: dict[tuple[str, str], list[tuple[float, float, float]]], **more: object) -> Rates:
    """Write the rates of months from March on: for each conversion and metric its values with their intervals."""
    table = pd.DataFrame(
        [
            (pd.Timestamp(2026, 3 + n, 1), "micro", conversion, metric, 50, 100, value, low, high, "")
            for (conversion, metric), periods in rows.items()
            for n, (value, low, high) in enumerate(periods)
        ],
        columns=["period", "tier", "conversion", "metric", "units", "exposed", "value", "ci_lower", "ci_upper", "note"],
    )
    end = pd.Timestamp("2026-08-20 12:00", tz="UTC")  # before any date of the plans
    fields = {"table": table, "by": (), "segment": "all", "every": "M", "end": end, **more}
    rates = object.__new__(Rates)
    vars(rates).update(fields)
    return rates


def rate(*values: float, reach: float = 0.1, conversion: str = "buy") -> Rates:
    return make_rates({(conversion, "rate"): [(value, value - reach, value + reach) for value in values]})


def change_target(folder: Path, text: str, rates: Rates) -> str:
    """Accept what is proposed, and give the plan's text."""
    plan = make_plan(folder, text)
    recalibrate(rates, plan).accept()
    return Path(plan.path).read_bytes().decode("utf-8")


def test_list_actions_puts_open_ones_first_by_due_date(tmp_path: Path) -> None:
    actions = list_actions(make_plan(tmp_path, ACTIONS), on=ON)
    days = actions.table["due"].dt.strftime("%Y-%m-%d").fillna("")
    assert pick(actions.table.assign(due=days), "text owner due done overdue_days") == [
        ("Late", "ann", "2026-11-15", False, 16),
        ("Today", "web", "2026-12-01", False, 0),
        ("Later", "web", "2026-12-11", False, 0),
        ("Some day", "web", "", False, 0),
        ("Finished", "web", "2026-11-01", True, 0),
    ]
    assert set(pick(actions.table, "conversion macro")) == {("cart", "buy")}
    assert list(actions.takeaways) == [
        "1 of 4 open actions is overdue on 2026-12-01: Late, for Cart (ann, due 2026-11-15).",
        "Due next: Today, for Cart (web, due 2026-12-01).",
    ]
    html = actions._repr_html_()
    assert all(text in html for text in ("16 days overdue", ">open<", ">done<", "2026-12-11"))


def test_actions_plot_shows_open_ones_with_a_date(tmp_path: Path) -> None:
    ax = list_actions(make_plan(tmp_path, ACTIONS), on=ON).plot()
    assert [label.get_text() for label in ax.get_yticklabels()] == ["Late (ann)", "Today (web)", "Later (web)"]


def test_list_actions_has_the_same_columns_without_any(tmp_path: Path) -> None:
    some = list_actions(make_plan(tmp_path, ACTIONS), on=ON)
    none = list_actions(make_plan(tmp_path, TARGETS), on=ON)
    assert none.table.dtypes.to_dict() == some.table.dtypes.to_dict()
    assert list(none.takeaways) == ["The plan lists no open action."]


@pytest.mark.parametrize(
    ("target", "values", "proposed", "reason"),
    [
        # Every interval begins above 0.20: 10% beyond 0.40 is 0.44.
        ("0.20", (0.35, 0.40, 0.40, 0.45), 0.44, "met in each of the last 4 months"),
        # 0.25 - 0.10 is below 0.20: met, but not clearly.
        ("0.20", (0.25, 0.40, 0.40, 0.45), None, "clearly met in 3 of the last 4 months"),
        # At best 0.40 + 0.10, less than 90% of 0.60: 10% beyond 0.36 is 0.396.
        ("0.60", (0.30, 0.36, 0.38, 0.40), 0.40, "missed in each of the last 4 months, by more than 10% at best"),
        # At best 0.50, which is 91% of 0.55.
        ("0.55", (0.30, 0.36, 0.38, 0.40), None, "missed in each of the last 4 months, but near"),
        ("0.20", (0.40, 0.40, 0.40), None, "3 usable months, needs 4"),
        # 0.95 x 1.1 is more than all.
        ("0.80", (0.95, 0.95, 0.95, 0.95), 1.0, "met in each of the last 4 months"),
        # Only the last four count, not March.
        ("0.20", (0.05, 0.40, 0.40, 0.40, 0.40), 0.44, "met in each of the last 4 months"),
    ],
)
def test_recalibrate_proposes_by_the_policy(
    tmp_path: Path, target: str, values: tuple[float, ...], proposed: float | None, reason: str
) -> None:
    plan = make_plan(tmp_path, f"macros: [{{id: buy, match: {{event_name: buy}}, target: {target}}}]\n")
    row = recalibrate(rate(*values), plan).table.iloc[0]
    assert (None if pd.isna(row["proposed"]) else row["proposed"], row["reason"]) == (proposed, reason)


@pytest.mark.parametrize(
    ("fields", "value", "reach", "reason"),
    [
        ("direction: up", 1.0, 0.1, "no way beyond the level of the last 4 months"),
        ("direction: down", 0.0, 0.1, "the level of the last 4 months is 0"),
        # Always met, and always missed: still no reason to ask for 0.
        ("direction: down, target: 0.5", 0.0, 0.1, "the level of the last 4 months is 0"),
        ("direction: up, target: 0.5", 0.0, 0.1, "the level of the last 4 months is 0"),
        ("direction: up", 0.4, float("nan"), "the level of the last 4 months has no interval"),
    ],
)
def test_recalibrate_asks_for_nothing_beyond_all_or_none(
    tmp_path: Path, fields: str, value: float, reach: float, reason: str
) -> None:
    plan = make_plan(tmp_path, f"macros: [{{id: buy, match: {{event_name: buy}}, {fields}}}]\n")
    found = recalibrate(rate(*[value] * 4, reach=reach), plan)
    assert pick(found.table.fillna({"proposed": -1}), "proposed reason") == [(-1, reason)]


def test_recalibrate_mirrors_what_should_fall(tmp_path: Path) -> None:
    # Every interval ends below 0.60: 10% below 0.40 is 0.36. Of 0.20 the best end, 0.30, is 50% off.
    text = "macros: [{id: buy, match: {event_name: buy}, direction: down, target: TARGET}]\n"
    rates = rate(0.40, 0.40, 0.40, 0.40)
    met = recalibrate(rates, make_plan(tmp_path, text.replace("TARGET", "0.60"))).table
    missed = recalibrate(rates, make_plan(tmp_path, text.replace("TARGET", "0.20"))).table
    assert pick(met, "proposed reason") == [(0.36, "met in each of the last 4 months")]
    assert pick(missed, "proposed reason") == [
        (0.36, "missed in each of the last 4 months, by more than 10% at best"),
    ]


def test_recalibrate_pools_by_units_with_an_interval(tmp_path: Path) -> None:
    # Four equal periods, each 0.1 to both sides: the mean's interval is half as wide, sqrt(4) / 4.
    row = recalibrate(rate(0.3, 0.4, 0.4, 0.5), make_plan(tmp_path, TARGETS)).table.iloc[0]
    assert (row["periods"], row["current"]) == (4, 0.2)
    assert row[["level", "level_ci_lower", "level_ci_upper"]].tolist() == pytest.approx([0.4, 0.35, 0.45])


def test_recalibrate_leaves_out_periods_with_a_note(tmp_path: Path) -> None:
    rates = rate(0.4, 0.4, 0.4, 0.4)
    rates.table.loc[3, "note"] = "partial period"
    found = recalibrate(rates, make_plan(tmp_path, TARGETS))
    assert pick(found.table.head(1), "periods reason") == [(3, "3 usable months, needs 4")]
    assert found.diff == ""


def test_recalibrate_moves_a_date_that_has_passed_and_keeps_comments(tmp_path: Path) -> None:
    # Data to January: 30 September and 31 December are over, the next end of a quarter is 31 March.
    rates = rate(0.4, 0.4, 0.4, 0.4, conversion="cart")
    vars(rates)["end"] = pd.Timestamp("2027-01-10", tz="UTC")
    text = change_target(tmp_path, TARGETS, rates)
    assert text == TARGETS.replace(
        "by: 2026-09-30}   # asked for by sales\n",
        "by: 2027-03-31}   # asked for by sales; was by 2026-09-30: missed in each of the last 4 months, but near; its "
        "date has passed\n",
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"segment": "mobile"},
            "`rates` are of the segment 'mobile'; a target is for all units. Measure the rates of all, without `by`.",
        ),
        (
            {"by": ("device_type",)},
            "`rates` are broken down by device_type; a target is for all units. Measure the rates of all, without "
            "`by`.",
        ),
    ],
)
def test_recalibrate_wants_the_rates_of_all_units(tmp_path: Path, given: dict[str, object], message: str) -> None:
    with pytest.raises(ParamError) as caught:
        recalibrate(make_rates({}, **given), make_plan(tmp_path, TARGETS))
    assert str(caught.value) == message


def test_upkeep_refuses_what_other_analyses_give(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, TARGETS)
    with pytest.raises(ParamError) as caught:
        recalibrate(make_correlation(), "plan.yaml")  # type: ignore[arg-type]
    assert caught.value.problems == (
        "`rates` is of type Correlation; it must be what `measure_rates` gives.",
        "`plan` is of type str; it must be what `read_plan` gives.",
    )
    with pytest.raises(ParamError) as caught:
        review_plan(plan, log=pd.DataFrame(), correlation=rate(0.4), on=ON)  # type: ignore[arg-type]
    assert caught.value.problems == (
        "`log` is of type DataFrame; it must be what `read_events` gives.",
        "`correlation` is of type Rates; it must be what `correlate` gives.",
    )


def test_recalibrate_says_what_it_proposes(tmp_path: Path) -> None:
    found = recalibrate(rate(0.4, 0.4, 0.4, 0.4), make_plan(tmp_path, TARGETS))
    assert list(found.takeaways) == [
        "1 of 2 targets get a new number: Buy from 20.0% to 44.0% (met in each of the last 4 months).",
        "1 has fewer than 4 usable months to judge by.",
    ]
    assert "40.0% (35.0% to 45.0%)" in found._repr_html_()


REVIEWED = """\
macros:
  - id: buy
    match: {event_name: buy}
    owner: shop
    target: {value: 0.2, by: 2026-09-30}
    benchmark: {low: 0.1, as_of: 2025-11-30}
    micros:
      - {id: a, match: {event_name: a}, stage: decision, kind: process_milestone, target: 0.5, effort: 1,
         benchmark: {low: 0.1, as_of: 2025-12-01}, actions: [{text: Do it, due: 2026-11-30}]}
      - {id: b, match: {event_name: b}, stage: decision, kind: process_milestone, owner: x, target: 0.5, effort: 1,
         metric: abandonment, benchmark: {low: 0.1}}
      - {id: c, match: {event_name: c}, stage: decision, kind: process_milestone, owner: x, target: 0.5, effort: 1}
"""


def make_correlation(*rows: tuple[str, str, str]) -> Correlation:
    numbers = {
        "adjusted_lift": 0.003,
        "adjusted_lift_ci_lower": -0.005,
        "adjusted_lift_ci_upper": 0.011,
        "units_with": 1_234,
        "units_without": 456,
    }
    table = pd.DataFrame([{"micro": m, "verdict": verdict, "note": note, **numbers} for m, verdict, note in rows])
    correlation = object.__new__(Correlation)
    vars(correlation).update(table=table, target="conversion")
    return correlation


def test_review_plan_lists_what_is_stale_or_open_worst_first(tmp_path: Path) -> None:
    found = review_plan(make_plan(tmp_path, REVIEWED), on=ON)
    assert pick(found.table, "conversion finding severity evidence") == [
        ("buy", "target date passed", "warning", "the target was to be reached by 2026-09-30"),
        ("buy", "stale benchmark", "warning", "the benchmark was looked up on 2025-11-30, more than a year ago"),
        ("a", "overdue action", "warning", "Do it (no owner) was due on 2026-11-30"),
        ("a", "no owner", "warning", "`owner` is not filled in"),
        ("b", "undated benchmark", "info", "nobody knows how old the benchmark is"),
        ("c", "no benchmark", "info", "`benchmark` is not filled in"),
    ]
    assert list(found.takeaways) == [
        "6 findings on 2026-12-01: 4 to see to and 2 to know; most often target date passed (1), stale benchmark (1), "
        "overdue action (1), no owner (1), undated benchmark (1)."
    ]
    assert "stale benchmark" in found._repr_html_()


def test_review_plan_reads_the_correlation_without_denying_an_effect(tmp_path: Path) -> None:
    correlation = make_correlation(
        ("a", "no evidence", ""),
        ("b", "precondition", "none of 99 converters converted without it"),
        ("c", "positive", ""),
    )
    found = review_plan(make_plan(tmp_path, REVIEWED), correlation=correlation, on=dt.date(2026, 1, 1)).table
    assert pick(
        found[found["finding"].isin(["no association left", "precondition"])], "conversion finding evidence"
    ) == [
        (
            "a",
            "no association left",
            "no association was found: adjusted lift +0.3 points (-0.5 to +1.1), 1,234 units with it and 456 without",
        ),
        ("b", "precondition", "none of 99 converters converted without it"),
    ]


def test_review_plan_finds_micros_that_never_fire(tmp_path: Path) -> None:
    # Everybody who did b bought, so its abandonment is 0 and good news; nobody did c.
    plan = make_plan(tmp_path, REVIEWED.replace("effort: 1}\n", "effort: 1, metric: abandonment}\n"))
    log = make_log("ann a 1h\nann b 2h\nann buy 3h\nben a 25h", plan)
    found = review_plan(plan, log=log, on=dt.date(2026, 1, 1))
    assert pick(found.table[found.table["severity"] == "critical"], "conversion finding evidence") == [
        ("c", "never fires", "nobody did it from 2024-01-01 to 2024-01-02")
    ]
    assert found.takeaways[1] == (
        "C never fires: nobody did it from 2024-01-01 to 2024-01-02. Check its rule and its tracking; drop it when "
        "nobody can do it any more."
    )


def test_review_plan_names_stages_that_are_too_small(tmp_path: Path) -> None:
    found = review_plan(make_plan(tmp_path, ACTIONS), on=dt.date(2026, 1, 1)).table
    assert pick(found[found["finding"] == "size of a stage"], "conversion severity evidence advice") == [
        (
            "buy",
            "info",
            "macros[buy] has stages with few or many micros (1 in 'decision'); 3 to 5 keep a stage "
            "telling and readable",
            "Add some.",
        )
    ]


def test_review_plan_says_when_nothing_is_stale(tmp_path: Path) -> None:
    plan = make_plan(
        tmp_path,
        "macros: [{id: buy, match: {event_name: buy}, owner: x, target: 0.5, "
        "benchmark: {low: 0.1, as_of: 2026-01-01}}]\n",
    )
    found = review_plan(plan, on=ON)
    assert found.table.empty
    assert list(found.takeaways) == ["Nothing in the plan has gone stale or is missing on 2026-12-01."]


RUN = """\
run: shop
events: ../data/events.csv
plan: plan.yaml
parameters: {window: 1D}
"""


def call(*arguments: str | Path) -> Called:
    return CliRunner().invoke(app, ["plan", *map(str, arguments)], env={"COLUMNS": "200", "NO_COLOR": "1"})


def write_shop(folder: Path, *notebooks: str) -> Path:
    """Write five weeks from a Monday on, on each of whose Tuesdays 40 people come and 20 buy; then a last visit."""
    file = write_project(folder, run=RUN, **dict.fromkeys(notebooks, "1"))
    days = [pd.Timestamp("2024-01-02") + pd.Timedelta(weeks=week) for week in range(5)]
    lines = [f"visit,{day:%Y-%m-%d} 10:00,u{n}-{day:%j},mobile" for day in days for n in range(40)]
    lines += [f"purchase,{day:%Y-%m-%d} 11:00,u{n}-{day:%j},mobile" for day in days for n in range(20)]
    lines = ["event_name,timestamp,user_id,device_type", "visit,2024-01-01 00:00,first,mobile", *lines]
    lines.append("visit,2024-02-06 23:00,last,mobile")
    (folder / "data" / "events.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    plan = folder / "params" / "plan.yaml"
    plan.write_text(plan.read_text("utf-8").replace("name: Purchase\n", "name: Purchase\n    target: 0.20\n"), "utf-8")
    return file


def test_plan_recalibrate_proposes_writes_and_accepts(tmp_path: Path) -> None:
    file = write_shop(tmp_path / "shop", "00_overview")
    plan, output = file.parent / "plan.yaml", tmp_path / "new.patch"
    before = plan.read_text("utf-8")
    shown = call("recalibrate", file, "--output", output)
    assert shown.exit_code == 0, shown.output
    line = "target: 0.55  # was 0.2: met in each of the last 4 weeks"  # 20 of 40, and 10% beyond
    assert f"+    {line}\n" in shown.stdout
    assert output.read_text("utf-8") in shown.stdout
    assert plan.read_text("utf-8") == before
    accepted = call("recalibrate", file, "--accept")
    assert (accepted.exit_code, accepted.stdout.splitlines()[-1]) == (0, f"{plan} is changed.")
    assert plan.read_text("utf-8") == before.replace("target: 0.20", line)
    again = call("recalibrate", file)
    assert (again.exit_code, again.stdout.splitlines()[-1]) == (0, "Nothing to propose.")


def test_plan_review_groups_by_severity(tmp_path: Path) -> None:
    shown = call("review", write_shop(tmp_path / "shop", "03_correlation"))
    assert shown.exit_code == 0, shown.output
    lines = [line.split("  ")[0] for line in shown.stdout.splitlines()]
    assert [line for line in lines if line in ("critical", "warning", "info")] == ["warning", "info"]
    assert "Purchase" in lines


def test_plan_recalibrate_needs_the_overview(tmp_path: Path) -> None:
    file = write_shop(tmp_path / "shop", "02_funnel")
    shown = call("recalibrate", file)
    assert shown.exit_code == 2
    assert shown.stderr == (
        f"1 problem:\n  1. {file}:1: there is no '00_overview', whose parameters say how to measure. Add it to "
        "`notebooks`.\n"
    )
