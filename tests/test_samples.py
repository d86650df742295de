"""Who is in which arm, and what each unit adds: logs that can be counted by hand."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from small_logs import make_log, make_plan, write_rows

from convlib.errors import EventDataError, ParamError
from convlib.plan import Plan
from convlib.samples import Sample, check_arms, check_measurements, find_direction, name_outcome, read_sample

#: The log starts on 2024-01-01; the experiment runs on the second day, and units are followed for two days.
PLAN = """
macros:
  - id: buy
    match: {event_name: buy}
    value: {column: value}
    currency: EUR
    micros:
      - {id: save, match: {event_name: save}, stage: decision, kind: process_milestone}
      - {id: view, match: {event_name: view}, stage: awareness, kind: process_milestone}
    losses: [{id: leave, match: {event_name: leave}}]
experiments:
  - id: form
    assignment: ASSIGNMENT
    ARMS
    start: 2024-01-02
    end: 2024-01-02
    window: 2D
    minimum: {days: 1, units: 1}
    primary: save
    guardrails:
      - {conversion: buy, margin: 0.1}
      - {conversion: buy, metric: sum, margin: 0.1}
    MORE
"""
BY_EVENT = "{match: {event_name: seen}, column: arm}"
ARMS = "arms: [old, new]"
#: Nothing of the experiment; it makes the end of the data.
END = "zoe view 144h\n"
Make = Callable[..., tuple[Plan, Sample]]


def plan_text(more: str = "", *, assignment: str = BY_EVENT, arms: str = ARMS) -> str:
    return PLAN.replace("ASSIGNMENT", assignment).replace("ARMS", arms).replace("MORE", more)


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def make_sample(rows: str | pd.DataFrame, more: str = "", **parts: str) -> tuple[Plan, Sample]:
        plan = make_plan(tmp_path, plan_text(more, **parts))
        log = make_log(rows + END if isinstance(rows, str) else rows, plan)
        return plan, read_sample(log, plan, plan.experiments[0])

    return make_sample


def numerators(sample: Sample) -> list[list[float]]:
    return [each.numerator.tolist() for each in sample.measurements]


def test_read_sample_keeps_the_first_arm_and_counts_units_seen_in_two(make: Make) -> None:
    _, sample = make("""
ann seen 24h arm=new
ann seen 30h arm=old
bob seen 25h arm=old
bob seen 26h arm=old
cat seen 26h arm=other
cat seen 27h arm=old
dan view 30h arm=new
""")
    # dan is never assigned; cat's first arm is none of the plan's.
    assert sample.arms == ("old", "new")
    assert sample.arm.tolist() == [1, 0, 0]
    assert sample.assigned.tolist() == [2, 1]
    assert sample.crossed == 1
    assert sample.shares == (0.5, 0.5)


def test_read_sample_counts_from_the_assignment_to_the_windows_end_both_included(make: Make) -> None:
    _, sample = make("""
ann save 23h
ann seen 24h arm=new
bob seen 25h arm=old
bob save 25h
bob save 26h
bob buy 73h value=5 currency=EUR
cat seen 26h arm=old
cat save 74.001h
cat buy 74h value=7 currency=EUR
cat buy 74h value=2 currency=EUR
""")
    assert numerators(sample) == [[0, 1, 0], [0, 1, 1], [0, 5, 9]]
    assert sample.measurements[0].denominator is None
    assert [(each.role, each.conversion, each.metric, each.name) for each in sample.measurements] == [
        ("primary", "save", "rate", "Save"),
        ("guardrail", "buy", "rate", "Buy"),
        ("guardrail", "buy", "sum of value", "Buy: value per unit"),
    ]
    assert [each.direction for each in sample.measurements] == ["up", "up", "up"]
    assert sample.did is not None
    assert [each.tolist() for each in sample.did] == [[0, 1, 0], [0, 1, 1]]


def test_read_sample_takes_assignments_of_its_own_days_alone(make: Make) -> None:
    # The second day begins at 24h and ends before 48h.
    _, sample = make("""
ann seen 23.999h arm=new
bob seen 24h arm=new
cat seen 47.999h arm=old
dan seen 48h arm=old
""")
    assert sample.arm.tolist() == [1, 0]


def test_read_sample_leaves_pending_units_out_of_the_metrics(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, plan_text())
    rows = "ann seen 24h arm=new\nann save 25h\nbob seen 24h arm=old\ncat seen 30h arm=old\nzoe view 72h\n"
    sample = read_sample(make_log(rows, plan), plan, plan.experiments[0])
    assert (sample.assigned.tolist(), sample.pending.tolist()) == ([2, 1], [1, 0])
    assert (sample.arm.tolist(), numerators(sample)[0]) == ([1, 0], [1, 0])


def test_read_sample_reads_a_column_that_stands_on_every_event(make: Make) -> None:
    # ann's first event of the day has no arm yet.
    _, sample = make(
        """
ann view 24h
ann view 30h arm=new
ann save 29h
bob save 40h arm=old
""",
        assignment="{column: arm}",
    )
    assert (sample.arm.tolist(), numerators(sample)[0]) == ([1, 0], [0, 1])
    assert sample.entered is not None
    assert pd.to_datetime(sample.entered, unit="us").hour.tolist() == [6, 16]


def test_read_sample_reads_arms_written_as_numbers(make: Make) -> None:
    rows = write_rows("ann seen 24h arm=1\nbob seen 25h arm=0\nzoe view 144h").astype({"arm": "Int64"})
    _, sample = make(rows, arms="arms: [0, 1]")
    assert (sample.arms, sample.arm.tolist()) == (("0", "1"), [1, 0])


def test_read_sample_measures_what_was_before_the_experiment(make: Make) -> None:
    # From the start of the first day to the last microsecond before the second.
    _, sample = make(
        """
ann save 0h
ann buy 23.999h value=4 currency=EUR
ann seen 25h arm=new
bob save 24h
bob seen 26h arm=old
""",
        "pre_period: 1D",
    )
    assert [np.asarray(each.before).tolist() for each in sample.measurements] == [[1, 0], [1, 0], [4, 0]]


def test_read_sample_has_a_denominator_where_not_every_unit_counts_once(make: Make) -> None:
    _, sample = make(
        """
ann seen 24h arm=new
ann view 25h
ann save 26h
bob seen 24h arm=old
cat seen 24h arm=old
cat view 30h
cat save 31h
cat save 33h
dan seen 24h arm=old
dan save 31h
""",
        "metrics: [{conversion: save, metric: {type: rate, over: view}}, {conversion: save, metric: per_unit}, "
        "{conversion: save, metric: {type: time_between, from: view}}, {conversion: buy, metric: mean}]",
    )
    share, often, time, mean = sample.measurements[3:]
    assert (share.numerator.tolist(), np.asarray(share.denominator).tolist()) == ([1, 0, 1, 0], [1, 0, 1, 0])
    assert (often.numerator.tolist(), often.denominator) == ([1, 0, 2, 1], None)
    assert (time.numerator.tolist(), np.asarray(time.denominator).tolist()) == ([3600, 0, 3600, 0], [1, 0, 1, 0])
    assert (mean.numerator.tolist(), np.asarray(mean.denominator).tolist()) == ([0] * 4, [0] * 4)
    assert [each.direction for each in (share, often, time, mean)] == ["up", "up", "down", "up"]
    assert time.name == "Save: time from view"


def test_read_sample_counts_visits_from_the_assignment_on(make: Make) -> None:
    # The visit of the assignment began the day before: what it did by then is no outcome, nor what the last does later.
    _, sample = make(
        """
ann save 23h session_id=a0
ann save 23.9h session_id=a1
ann seen 24.1h session_id=a1 arm=new
ann save 40h session_id=a2
ann view 72h session_id=a3
ann save 72.2h session_id=a3
ann save 80h session_id=a4
bob seen 30h session_id=b1 arm=old
""",
        "metrics: [{conversion: save, metric: {type: rate, unit: session}}]",
    )
    visits = sample.measurements[3]
    assert (visits.numerator.tolist(), np.asarray(visits.denominator).tolist()) == ([1, 0], [3, 1])


def test_read_sample_cuts_visits_at_the_beginning_of_the_experiment(make: Make) -> None:
    # The visit began before midnight; what it did after it is no part of the time before.
    _, sample = make(
        """
ann view 23.9h session_id=a1
ann seen 24.1h session_id=a1 arm=new
ann save 24.2h session_id=a1
bob save 20h session_id=b0
bob seen 30h session_id=b1 arm=old
""",
        "metrics: [{conversion: save, metric: {type: rate, unit: session}}]\n    pre_period: 1D",
    )
    visits = sample.measurements[3]
    assert (np.asarray(visits.before).tolist(), visits.numerator.tolist()) == ([0, 1], [1, 0])


def test_read_sample_counts_units_in_arms_that_the_plan_does_not_name(make: Make) -> None:
    _, sample = make("""
ann seen 24h arm=new
bob seen 25h arm=old
cat seen 26h arm=third
dan seen 26h arm=third
dan seen 27h arm=old
eve seen 26h arm=fourth
""")
    assert sample.others == (3, ["third", "fourth"])
    assert sample.assigned.tolist() == [2, 1]


def test_read_sample_sees_units_that_come_into_another_arm_after_the_last_day(make: Make) -> None:
    _, sample = make("ann seen 24h arm=new\nann seen 60h arm=old\nbob seen 25h arm=old\n")
    assert (sample.crossed, sample.arm.tolist()) == (1, [1, 0])


def test_read_sample_reads_whole_numbers_of_a_column_with_gaps(make: Make) -> None:
    rows = write_rows("ann seen 24h arm=1\nbob seen 25h arm=0\nzoe view 144h")
    assert rows["arm"].dtype == float
    _, sample = make(rows, arms="arms: [0, 1]")
    assert (sample.arms, sample.arm.tolist()) == (("0", "1"), [1, 0])


def test_read_sample_reads_a_column_and_arms_of_any_name(make: Make) -> None:
    rows = write_rows("ann seen 24h arm=n\nbob seen 25h arm=o\nzoe view 144h")
    rows = rows.rename(columns={"arm": 'test.arm "x'}).replace({"n": "ne'w", "o": 'o"ld'})
    _, sample = make(rows, assignment="{column: 'test.arm \"x'}", arms="arms: ['o\"ld', \"ne'w\"]")
    assert (sample.arms, sample.arm.tolist()) == (('o"ld', "ne'w"), [1, 0])


def test_read_sample_assigns_visits_when_they_are_the_unit(make: Make) -> None:
    _, sample = make(
        """
ann seen 24h session_id=a1 arm=new
ann save 25h session_id=a1
ann seen 30h session_id=a2 arm=old
bob seen 26h session_id=b1 arm=old
bob save 26h session_id=b1
""",
        "unit: session",
    )
    assert (sample.crossed, sorted(zip(sample.arm.tolist(), numerators(sample)[0], strict=True))) == (
        0,
        [(0, 0.0), (0, 1.0), (1, 1.0)],
    )


def test_read_sample_divides_the_window(make: Make) -> None:
    # Two days from 24h: the first day ends at 48h, the window at 72h.
    _, sample = make("""
ann seen 24h arm=new
ann save 24h
ann save 48h
bob seen 24h arm=old
bob save 48.001h
cat seen 24h arm=old
cat save 72h
""")
    assert sample.starts == (0, 1, 2)
    assert np.asarray(sample.days).tolist() == [[1, 1], [0, 1], [0, 1]]
    assert np.asarray(sample.early).tolist() == [1, 0, 0]
    assert np.asarray(sample.late).tolist() == [0, 1, 1]


def test_read_sample_divides_a_long_window_into_fourteen_parts(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, plan_text().replace("window: 2D", "window: 56D"))
    rows = "ann seen 24h arm=new\nann save 1344h\nbob seen 24h arm=old\nbob save 120h\nzoe view 2400h\n"
    sample = read_sample(make_log(rows, plan), plan, plan.experiments[0])
    assert sample.starts == tuple(range(0, 57, 4))
    days = np.asarray(sample.days)
    # 1344h is 55 days after 24h; 120h is four days after it, where the second part begins.
    assert [np.flatnonzero(unit).tolist() for unit in days] == [[13], [1]]


def test_read_sample_counts_who_saw_the_change_before(make: Make) -> None:
    rows = (
        "ann view 24h\nann seen 25h arm=new\nbob view 23h\nbob seen 25h arm=old\ncat view 25h\ncat seen 25h arm=old\n"
    )
    _, sample = make(rows, "exposure: view")
    assert sample.exposed_early == 1
    _, sample = make(rows)
    assert sample.exposed_early is None


def test_read_sample_reads_segments_at_the_assignment(make: Make) -> None:
    _, sample = make(
        """
ann view 20h device_type=desktop
ann seen 24h arm=new device_type=mobile
ann save 25h device_type=tablet
bob seen 24h arm=old
""",
        "segments: [device_type]",
    )
    assert sample.segments["device_type"].tolist() == ["mobile", "(none)"]


def test_read_sample_crosses_factors(make: Make) -> None:
    _, sample = make(
        """
ann seen 24h form=short button=grey
bob seen 24h form=long button=green
cat seen 24h form=long button=grey
dan seen 24h form=short button=green
eve seen 24h form=short
""",
        assignment="{match: {event_name: seen}}",
        arms="factors: {form: [long, short], button: [grey, green]}",
    )
    assert sample.arms == ("long + grey", "long + green", "short + grey", "short + green")
    assert sample.arm.tolist() == [2, 1, 0, 3]


def test_read_sample_counts_the_units_of_the_segment(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, plan_text())
    rows = """
ann view 24h device_type=mobile
ann seen 25h arm=new device_type=desktop
bob seen 24h arm=old device_type=mobile
cat seen 24h arm=old device_type=desktop
zoe view 144h
"""
    log = make_log(rows, plan)
    sample = read_sample(log.segment({"device_type": "mobile"}), plan, plan.experiments[0])
    assert sample.assigned.tolist() == [1, 1]
    # The log's own period is no matter.
    assert read_sample(log.between("2024-01-05"), plan, plan.experiments[0]).assigned.tolist() == [2, 1]


def test_read_sample_takes_the_days_of_the_logs_zone(tmp_path: Path) -> None:
    # In New York the second day begins at 05:00 UTC.
    plan = make_plan(tmp_path, plan_text())
    rows = "ann seen 28.9h arm=new\nbob seen 29h arm=new\ncat seen 52.9h arm=old\ndan seen 53h arm=old\nzoe view 144h\n"
    log = make_log(rows, plan).between(timezone="America/New_York")
    assert read_sample(log, plan, plan.experiments[0]).assigned.tolist() == [1, 1]


def test_read_sample_refuses_an_arm_that_nobody_entered(make: Make) -> None:
    with pytest.raises(EventDataError) as error:
        make("ann seen 24h arm=old\nbob seen 25h arm=old\ncat seen 26h arm=New\n")
    assert str(error.value) == (
        "Nobody entered the arm `new` of 'Form' (old 2, new 0). Check how the log names it, and its days. The log also "
        "has 'New'."
    )


PAID = "ann seen 24h arm=new\nann buy 25h {}\nbob seen 24h arm=old\nbob buy 25h value=9 currency=EUR\n"
#: How each refusal of unequal times ends.
UNEQUAL = "Arms are only alike at equal times: take the days on which all of them ran (in a plan `start` and `end`)."


def test_read_sample_refuses_arms_of_unequal_times(make: Make) -> None:
    # 20 of `old` before the first of `new`: by chance once in 1,048,576; 19 of them are not yet too rare.
    old = [f"o{number} seen {24 + number / 10}h arm=old\n" for number in range(20)]
    new = "ann seen 47h arm=new\nbob seen 47.5h arm=new\n"
    with pytest.raises(EventDataError) as error:
        make("".join(old) + new)
    assert str(error.value) == (
        "The arm `new` of 'Form' has units from 2024-01-02 23:00 UTC to 2024-01-02 23:30 UTC, and the others from "
        f"2024-01-02 00:00 UTC to 2024-01-02 23:30 UTC: 20 of their units entered when it had none. {UNEQUAL}"
    )
    _, sample = make("".join(old[1:]) + new)
    assert sample.assigned.tolist() == [19, 2]


def test_check_arms_names_an_arm_that_ended_early() -> None:
    day = np.array([1, 1, *[2] * 20]) * 86_400_000_000
    with pytest.raises(EventDataError) as error:
        check_arms(("a", "b"), (0.5, 0.5), np.array([1, 0, *[0] * 20]), day, what="Test")
    assert str(error.value) == (
        "The arm `b` of 'Test' has units from 1970-01-02 00:00 UTC to 1970-01-02 00:00 UTC, and the others from "
        f"1970-01-02 00:00 UTC to 1970-01-03 00:00 UTC: 20 of their units entered when it had none. {UNEQUAL}"
    )


def test_read_sample_refuses_negative_values(make: Make) -> None:
    rows = PAID.format("value=-3 currency=EUR")
    with pytest.raises(EventDataError) as error:
        make(rows)
    assert str(error.value) == (
        "'Buy: value per unit' of 'Form' is negative for 1 of 2 units (the lowest: -3). Refunds may be of purchases "
        "from before the experiment: leave them out (in a plan by `match`, such as `value: {gte: 0}`), and count them "
        "on their own."
    )


def test_check_measurements_lists_every_negative_metric(make: Make) -> None:
    _, sample = make("ann seen 24h arm=new\nann buy 25h value=3 currency=EUR\nbob seen 24h arm=old\n")
    turned = [
        type(each)(
            **{**{name: getattr(each, name) for name in each.__dataclass_fields__}, "numerator": -each.numerator}
        )
        for each in sample.measurements
    ]
    with pytest.raises(EventDataError) as error:
        check_measurements(turned, what="Form")
    assert [problem.split(" of ")[0] for problem in error.value.problems] == ["'Buy'", "'Buy: value per unit'"]


def test_read_sample_refuses_another_currency(make: Make) -> None:
    rows = PAID.format("value=3 currency=USD")
    with pytest.raises(EventDataError) as error:
        make(rows)
    assert str(error.value) == (
        "'Buy: value per unit' has amounts in EUR and USD, and the plan says EUR: they can't be added up. Convert them "
        "to one currency in the source, or match the rows of one alone."
    )


def test_read_sample_refuses_days_outside_the_log(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, plan_text())
    with pytest.raises(
        ParamError, match="No event lies from `start` 2024-01-02 to `end` 2024-01-02: the log has events"
    ):
        read_sample(make_log("ann view 0h\n", plan), plan, plan.experiments[0])


def test_outcomes_have_names_and_directions(tmp_path: Path) -> None:
    visits = "{conversion: buy, metric: {type: rate, unit: session}}"
    plan = make_plan(tmp_path, plan_text(f"metrics: [leave, {{conversion: save, metric: abandonment}}, {visits}]"))
    outcomes = plan.experiments[0].metrics
    assert [name_outcome(plan, each) for each in outcomes] == ["Leave", "Save: abandonment", "Buy: rate per visit"]
    assert [find_direction(plan[each.conversion], each.metric) for each in outcomes] == ["down", "down", "up"]


def test_read_sample_of_many_units_agrees_with_pandas(make: Make) -> None:
    rng = np.random.default_rng(5)
    lines = [
        f"u{unit} {event} {hour:.3f}h value={value:.2f} currency=EUR arm={'new' if unit % 3 else 'old'}"
        for unit in range(200)
        for event, hour, value in zip(
            rng.choice(["view", "save", "buy"], 12), rng.uniform(0, 120, 12), rng.gamma(2, 9, 12), strict=True
        )
    ]
    frame = write_rows("\n".join(lines) + "\n" + END)
    _, sample = make(frame, "pre_period: 1D", assignment="{column: arm}")
    day = pd.Timedelta("1D")
    inside = frame[frame["timestamp"].between("2024-01-02", "2024-01-02 23:59:59.999999") & frame["arm"].notna()]
    entry = inside.groupby("user_id")["timestamp"].min().rename("entry")
    joined = frame.merge(entry, on="user_id")
    after = joined[(joined["timestamp"] >= joined["entry"]) & (joined["timestamp"] <= joined["entry"] + 2 * day)]
    before = joined[joined["timestamp"] < "2024-01-02"]
    bought = [part[part["event_name"] == "buy"].groupby("user_id")["value"].sum() for part in (after, before)]
    wanted = [each.reindex(entry.index).fillna(0) for each in bought]
    value = sample.measurements[2]
    # Units come in the order of their codes, whatever that is.
    np.testing.assert_allclose(np.sort(value.numerator), np.sort(wanted[0]), atol=1e-9)
    np.testing.assert_allclose(np.sort(np.asarray(value.before)), np.sort(wanted[1]), atol=1e-9)
    pairs = sorted(zip(value.numerator.round(2), np.asarray(value.before).round(2), strict=True))
    assert pairs == sorted(zip(wanted[0].round(2), wanted[1].round(2), strict=True))
