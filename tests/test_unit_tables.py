"""Tables of units: rows typed in the test, and everything that can be wrong with one."""

import re
from typing import Any

import numpy as np
import pandas as pd
import pytest

from convlib.errors import EventDataError, ParamError
from convlib.experiment import Experiment
from convlib.plan_experiments import Margin
from convlib.samples import Sample
from convlib.unit_tables import UnitTable

UNITS = pd.DataFrame(
    {
        "arm": ["old", "new", "new", "old"],
        "signup": [1, 0, 1, 0],
        "revenue": [9.5, 0, 20, 0],
        "clicks": [3, 0, 2, 4],
        "views": [4, 1, 6, 8],
        "before": [1, 2, 3, 4],
        "device": ["mobile", "tablet", None, "mobile"],
        "user": ["a", "b", "c", "d"],
        "day": pd.to_datetime(["2026-06-01", "2026-06-02", "2026-06-02", "2026-06-03"]),
    }
)
COLUMNS = "arm, signup, revenue, clicks, views, before, device, user, day"


def read(units: pd.DataFrame = UNITS, **known: Any) -> Sample:
    fields: dict[str, Any] = {
        "arm": "arm",
        "control": "old",
        "primary": "signup",
        "guardrails": {"revenue": 0.02},
        "metrics": (),
        "covariates": {},
        "directions": {},
        "shares": None,
        "unit": None,
        "entered": None,
        "segments": (),
        "name": "Form test",
    }
    return UnitTable(units=units, **{**fields, **known}).read()


def find_problems(units: pd.DataFrame = UNITS, **known: Any) -> list[str]:
    with pytest.raises(ParamError) as error:
        read(units, **known)
    return list(error.value.problems)


def test_read_gives_arms_and_metrics() -> None:
    given = UNITS.copy()
    sample = read(
        given,
        guardrails={"revenue": 0.02, ("clicks", "views"): Margin(absolute=0.1)},
        metrics=("clicks",),
        covariates={"clicks": "before"},
        directions={"clicks": "down"},
        segments=("device",),
    )
    pd.testing.assert_frame_equal(given, UNITS)
    assert (sample.arms, sample.shares, sample.arm.tolist()) == (("old", "new"), (0.5, 0.5), [0, 1, 1, 0])
    assert (sample.assigned.tolist(), sample.pending.tolist()) == ([2, 2], [0, 0])
    assert (sample.crossed, sample.exposed_early, sample.entered) == (None, None, None)
    assert sample.segments["device"].tolist() == ["mobile", "tablet", "(none)", "mobile"]
    found = [(each.role, each.conversion, each.metric, each.name, each.direction) for each in sample.measurements]
    assert found == [
        ("primary", "signup", "rate", "signup", "up"),
        ("guardrail", "revenue", "per_unit", "revenue", "up"),
        ("guardrail", "clicks", "per_unit over views", "clicks / views", "down"),
        ("metric", "clicks", "per_unit", "clicks", "down"),
    ]
    signup, revenue, ratio, clicks = sample.measurements
    assert [each.numerator.tolist() for each in (signup, revenue)] == [[1, 0, 1, 0], [9.5, 0, 20, 0]]
    assert ratio.denominator is not None
    assert ratio.denominator.tolist() == [4, 1, 6, 8]
    assert (signup.before, clicks.denominator, ratio.before_denominator) == (None, None, None)
    assert clicks.before is not None
    assert clicks.before.tolist() == [1, 2, 3, 4]
    assert [each.margin for each in sample.measurements] == [None, Margin(relative=0.02), Margin(absolute=0.1), None]


def test_read_keeps_units_in_their_first_arm_and_counts_those_in_two() -> None:
    # b enters new on the 2nd and old on the 3rd; written in the order of the days, or the other way round.
    units = UNITS.assign(user=["a", "b", "c", "b"])
    for rows in (units, units[::-1]):
        sample = read(rows, unit="user", entered="day")
        assert (sample.crossed, sample.assigned.tolist(), sorted(sample.primary.numerator)) == (1, [1, 2], [0, 1, 1])
        assert sample.entered is not None
        first = pd.Timestamp("2026-06-01").value // 1_000
        assert ((sample.entered - first) // 86_400_000_000).tolist() == [0, 1, 1]
    # Without times the first row is the first arm.
    assert read(units[::-1], unit="user").assigned.tolist() == [2, 1]
    assert read(unit="user").crossed == 0


@pytest.mark.parametrize(
    ("values", "control", "arms"),
    [
        ([0, 1, 1, 0], "0", ("0", "1")),
        ([0, 1, 1, 0], 0, ("0", "1")),
        ([0.0, 1.0, 1.0, 0.0], 0, ("0", "1")),
        ([0, 1, 1, 0], np.float64(0), ("0", "1")),
        ([False, True, True, False], False, ("False", "True")),
        (pd.Categorical(["old", "new", "new", "old"], ["new", "old", "gone"]), "old", ("old", "new")),
        (pd.array(["old", "new", "new", "old"], dtype="string"), "old", ("old", "new")),
    ],
    ids=["0 as text", "0", "floats", "numpy", "booleans", "categories", "strings"],
)
def test_read_finds_arms_however_they_are_written(values: Any, control: object, arms: tuple[str, str]) -> None:
    sample = read(UNITS.assign(arm=values), control=control)
    assert (sample.arms, sample.arm.tolist()) == (arms, [0, 1, 1, 0])


def test_read_takes_shares_by_the_arms_values() -> None:
    assert read(shares={"new": 0.25, "old": 0.75}).shares == (0.75, 0.25)
    assert read(UNITS.assign(arm=[0, 1, 1, 0]), control=0, shares={0: 0.75, 1: 0.25}).shares == (0.75, 0.25)


@pytest.mark.parametrize("dtype", ["bool", "boolean", "Int8", "float32", "int64[pyarrow]"])
def test_read_takes_every_type_of_numbers(dtype: Any) -> None:
    sample = read(UNITS.assign(signup=UNITS["signup"].astype(dtype)))
    assert sample.primary.numerator.tolist() == [1, 0, 1, 0]
    assert (str(sample.primary.numerator.dtype), sample.primary.metric) == ("float64", "rate")


@pytest.mark.parametrize(
    "times",
    [
        UNITS["day"].dt.date,
        UNITS["day"].astype(str),
        UNITS["day"].dt.tz_localize("UTC"),
        (UNITS["day"].dt.tz_localize("UTC")).dt.tz_convert("Asia/Tokyo"),
        UNITS["day"].astype("timestamp[ns][pyarrow]"),
    ],
    ids=["dates", "text", "UTC", "Tokyo", "arrow"],
)
def test_read_takes_every_type_of_times(times: pd.Series) -> None:
    expected = read(entered="day").entered
    np.testing.assert_array_equal(read(UNITS.assign(day=times), entered="day").entered, expected)


def test_read_does_not_mind_the_index() -> None:
    sample = read(UNITS.set_index(pd.Index([7, 7, 7, 7], name="arm")), segments=("device",))
    assert (sample.arm.tolist(), sample.segments.index.tolist()) == ([0, 1, 1, 0], [0, 1, 2, 3])


def test_read_names_all_unknown_columns_at_once() -> None:
    assert find_problems(
        primary=("click", "views"), guardrails={"sales": 0.02}, covariates={"x": "past"}, unit="User", segments=("age",)
    ) == [
        f"The table has no column `click`. Did you mean 'clicks'? Its columns are {COLUMNS}.",
        f"The table has no column `sales`. Its columns are {COLUMNS}.",
        f"The table has no column `past`. Its columns are {COLUMNS}.",
        f"The table has no column `x`. Its columns are {COLUMNS}.",
        f"The table has no column `age`. Its columns are {COLUMNS}.",
        f"The table has no column `User`. Did you mean 'user'? Its columns are {COLUMNS}.",
    ]


NO_GUARDRAIL = (
    "`guardrails` names none; an experiment without a guardrail can win while the outcome that pays falls. Give its "
    'column and how much worse it may be, such as {"revenue": 0.02}.'
)
POSITIVE = "write the tolerated worsening as a positive share; which way is worse comes from the direction."
MARGIN = "it must be a share of the control's value such as 0.02, or Margin(absolute=0.005)."
NOT_IN_BOTH = "`shares` names 'a', 'old', and 'arm' holds 'new', 'old'."


@pytest.mark.parametrize(
    ("known", "problem"),
    [
        ({"control": "odd"}, "`control` is 'odd'; 'arm' holds 'new', 'old'. Did you mean 'old'?"),
        ({"control": 0}, "`control` is 0; 'arm' holds 'new', 'old'."),
        ({"control": None}, "`control` is None; 'arm' holds 'new', 'old'."),
        ({"guardrails": {}}, NO_GUARDRAIL),
        (
            {"guardrails": ["revenue"]},
            "`guardrails` is ['revenue']; it must say of each column how much worse it may be, such as "
            '{"revenue": 0.02}.',
        ),
        ({"guardrails": {"revenue": -0.02}}, f"The margin of 'revenue' is -0.02; {POSITIVE} Did you mean 0.02?"),
        ({"guardrails": {"revenue": 0}}, f"The margin of 'revenue' is 0; {POSITIVE}"),
        (
            {"guardrails": {"revenue": 2}},
            "The margin of 'revenue' is 2; a share of the control's value lies between 0 and 1. Did you mean 0.02?",
        ),
        ({"guardrails": {"revenue": "2%"}}, f"The margin of 'revenue' is '2%'; {MARGIN}"),
        ({"guardrails": {"revenue": np.nan}}, f"The margin of 'revenue' is nan; {MARGIN}"),
        ({"guardrails": {"revenue": {"absolute": 1}}}, f"The margin of 'revenue' is {{'absolute': 1}}; {MARGIN}"),
        ({"directions": {"revenue": "less"}}, "The direction of 'revenue' is 'less'; it must be 'up' or 'down'."),
        (
            {"directions": {"views": "down"}},
            "`directions` names 'views', which is no metric here; these are: 'signup', 'revenue'.",
        ),
        (
            {"covariates": {"before": "views"}},
            "`covariates` names 'before', which is no metric here; these are: 'signup', 'revenue'.",
        ),
        (
            {"covariates": {"revenue": "signup"}},
            "The covariate of 'revenue' is 'signup', which is measured itself. Name a column with what units did "
            "before the experiment.",
        ),
        ({"shares": {"old": 0.5, "a": 0.5}}, NOT_IN_BOTH),
        (
            {"shares": {"old": 50, "new": 50}},
            "`shares` are {'old': 50, 'new': 50}; they must be above 0 and sum to 1.",
        ),
        (
            {"shares": {"old": 1.5, "new": -0.5}},
            "`shares` are {'old': 1.5, 'new': -0.5}; they must be above 0 and sum to 1.",
        ),
        (
            {"primary": ("clicks", "views", "day")},
            "('clicks', 'views', 'day') must be the name of a column, or a pair of them such as ('clicks', 'views').",
        ),
        ({"primary": 3}, "3 must be the name of a column, or a pair of them such as ('clicks', 'views')."),
        ({"primary": "device"}, "The column 'device' must hold numbers; it holds 'mobile'. Convert it."),
        (
            {"entered": "views"},
            "The column 'views' must hold times; it holds 4. Convert it with pandas.to_datetime.",
        ),
        (
            {"entered": "device", "segments": ()},
            "1 of 4 rows have no 'device'. Leave them out.|"
            "The column 'device' must hold times; it holds 'mobile'. Convert it with pandas.to_datetime.",
        ),
        (
            {"unit": "arm"},
            "2 rows repeat a unit in one arm (such as 'new'); each unit may stand once. First add up what it did.",
        ),
        ({"unit": "device"}, "1 of 4 rows have no 'device'. Leave them out."),
    ],
)
def test_read_refuses_arguments_that_do_not_fit(known: dict[str, Any], problem: str) -> None:
    assert find_problems(**known) == problem.split("|")


@pytest.mark.parametrize(
    ("columns", "known", "problem"),
    [
        ({"arm": "old"}, {}, "'arm' holds the control 'old' alone; a comparison needs at least two arms."),
        ({"arm": ["old", None, "new", "old"]}, {}, "1 of 4 rows have no 'arm'. Leave them out."),
        (
            {"arm": np.nan},
            {},
            "4 of 4 rows have no 'arm'. Leave them out.|`control` is 'old'; 'arm' holds no value.",
        ),
        (
            {"revenue": [1, np.nan, 2, np.inf]},
            {},
            "The column 'revenue' has no number in 2 of 4 rows (such as row 1). Write 0 for units that did nothing.",
        ),
        (
            {"signup": pd.array([1, None, 1, 0], dtype="Int64")},
            {},
            "The column 'signup' has no number in 1 of 4 rows (such as row 1). Write 0 for units that did nothing.",
        ),
        (
            {"views": [4, -1, 6, 8]},
            {"primary": ("clicks", "views")},
            "The column 'views' is what others are divided by, and below 0 in 1 rows.",
        ),
        (
            {"day": [pd.NaT, *UNITS["day"][1:]]},
            {"entered": "day"},
            "1 of 4 rows have no 'day'. Leave them out.",
        ),
        (
            {"day": ["2026-06-01", "soon", "2026-06-02", "2026-06-03"]},
            {"entered": "day"},
            "The column 'day' must hold times; it holds 'soon'. Convert it with pandas.to_datetime.",
        ),
    ],
)
def test_read_refuses_rows_that_say_nothing(columns: dict[str, Any], known: dict[str, Any], problem: str) -> None:
    assert find_problems(UNITS.assign(**columns), **known) == problem.split("|")


def test_read_refuses_two_columns_of_one_name() -> None:
    units = pd.concat([UNITS, UNITS[["revenue"]]], axis=1)
    assert find_problems(units) == ["The table has 2 columns 'revenue'. Rename them."]


def test_read_refuses_a_table_without_rows() -> None:
    assert find_problems(UNITS.head(0)) == ["`control` is 'old'; 'arm' holds no value."]


def test_read_says_everything_that_is_wrong_at_once() -> None:
    units = UNITS.assign(signup=[1, 0, np.nan, 0])
    assert find_problems(units, control="none", guardrails={}, shares={"old": 0.4, "new": 0.4}) == [
        "`control` is 'none'; 'arm' holds 'new', 'old'.",
        "`shares` are {'old': 0.4, 'new': 0.4}; they must be above 0 and sum to 1.",
        "The column 'signup' has no number in 1 of 4 rows (such as row 2). Write 0 for units that did nothing.",
        NO_GUARDRAIL,
    ]


def test_read_refuses_negative_values() -> None:
    with pytest.raises(EventDataError, match=re.escape("'revenue' of 'Form test' is negative for 1 of 4 units")):
        read(UNITS.assign(revenue=[-3, 0, 1, 2]))


def test_read_refuses_arms_of_unequal_periods() -> None:
    # The new arm starts on the 21st day.
    days = pd.date_range("2026-06-01", periods=40)
    units = pd.DataFrame({"arm": np.where(np.arange(40) < 20, "old", "new"), "signup": 1, "revenue": 1, "day": days})
    units = pd.concat([units, units.assign(arm="old")])
    with pytest.raises(EventDataError) as error:
        read(units, entered="day")
    assert len(error.value.problems) == 1
    assert error.value.problems[0].startswith(
        "The arm `new` of 'Form test' has units from 2026-06-21 00:00 UTC to 2026-07-10 00:00 UTC, and the others from "
        "2026-06-01 00:00 UTC to 2026-07-10 00:00 UTC: 40 of their units entered when it had none."
    )


def test_from_units_refuses_what_is_no_table_and_columns_named_twice() -> None:
    with pytest.raises(ParamError) as error:
        Experiment.from_units({"a": [1]}, arm="a", control="1", primary="b", guardrails={"c": 0.1})  # type: ignore[arg-type]
    assert str(error.value) == "`units` is of type dict; it must be a pandas DataFrame with one row a unit."
    units = pd.DataFrame({"arm": ["a", "b"] * 50, "bought": [0, 1, 1, 0] * 25})
    with pytest.raises(ParamError) as error:
        Experiment.from_units(units, arm="arm", control="a", primary="bought", guardrails={"bought": 0.1})
    assert str(error.value) == ("'bought' stands 2 times among `primary`, `guardrails` and `metrics`; name it once.")
