from pathlib import Path

import pandas as pd
import pytest

from convlib.reports.manifest import Report
from convlib.reports.withheld import find_withheld

NAN = float("nan")
OUT = "Left out: beside the other reports it would reveal numbers of fewer than 10 units."


def write_report(folder: Path, segment: str, notebook: str, **tables: pd.DataFrame) -> Report:
    place = f"{segment}/tables/{notebook}"
    (folder / place).mkdir(parents=True)
    for stem, table in tables.items():
        table.to_parquet(folder / place / f"{stem}.parquet")
    return Report(segment, notebook, "", "", {}, "", "", place, status="made")


def rates(*units: float, exposed: float = NAN, **more: object) -> pd.DataFrame:
    """Write one week a number: so many did it."""
    weeks = pd.date_range("2024-01-01", periods=len(units), freq="7D")
    known = {"period": weeks, "conversion": "buy", "units": units, "exposed": exposed, "value": 0.5}
    return pd.DataFrame(known | more)


@pytest.mark.parametrize(
    ("total", "parts", "withheld"),
    [
        pytest.param([60, 70], {"a": [30, 40], "b": [20, 20], "c": [10, 10]}, [], id="nothing is hidden"),
        pytest.param([60, 54], {"a": [30, 30], "b": [20, 20], "c": [10, NAN]}, ["c", "b"], id="the smallest hid four"),
        pytest.param([64, 65], {"a": [30, 30], "b": [NAN, 25], "c": [10, 10]}, ["c"], id="with the smallest 34"),
        pytest.param([17, 65], {"a": [NAN, 30], "b": [NAN, 25], "c": [10, 10]}, ["c"], id="seven of both"),
        pytest.param([75, 60], {"a": [NAN, 30], "b": [NAN, 20], "c": [10, 10]}, [], id="two hid many"),
        pytest.param([NAN, 60], {"a": [30, 30], "b": [NAN, 20], "c": [10, 10]}, [], id="the whole is hidden"),
        pytest.param([33, 60], {"a": [30, 30], "b": [0, 20], "c": [NAN, 10]}, ["c", "b", "a"], id="all but one"),
    ],
)
def test_find_withheld_takes_out_the_smallest_until_nothing_small_is_left(
    tmp_path: Path, total: list[float], parts: dict[str, list[float]], withheld: list[str]
) -> None:
    reports = [write_report(tmp_path, "all", "overview", rates=rates(*total))]
    reports += [write_report(tmp_path, f"x={name}", "overview", rates=rates(*part)) for name, part in parts.items()]
    found = find_withheld(tmp_path, reports, {"x": "device"}, fewest=10)
    assert found == {(f"x={name}", "overview"): OUT for name in withheld}


def test_find_withheld_knows_what_the_whole_breaks_down_itself(tmp_path: Path) -> None:
    groups = pd.concat([rates(30, 40, device="a"), rates(20, NAN, device="b"), rates(10, NAN, device="c")])
    own = {"rates": rates(60, 64), "groups": groups}
    reports = [write_report(tmp_path, "all", "overview", **own)]
    # Without the breakdown, b's report would leave 44 others in week two; with it, c's four.
    reports += [write_report(tmp_path, "x=b", "overview", rates=rates(20, 20))]
    assert list(find_withheld(tmp_path, reports, {}, fewest=10)) == []
    assert list(find_withheld(tmp_path, reports, {"x": "device"}, fewest=10)) == [("x=b", "overview")]
    reports += [write_report(tmp_path, "x=c", "overview", rates=rates(10, NAN))]
    assert list(find_withheld(tmp_path, reports, {"x": "device"}, fewest=10)) == [
        ("x=c", "overview"),
        ("x=b", "overview"),
    ]


def test_find_withheld_counts_who_did_not_too(tmp_path: Path) -> None:
    reports = [
        write_report(tmp_path, "all", "overview", rates=rates(60, exposed=100)),
        write_report(tmp_path, "new", "overview", rates=rates(20, exposed=55)),  # five of the others did not
    ]
    assert list(find_withheld(tmp_path, reports, {}, fewest=10)) == [("new", "overview")]
    assert find_withheld(tmp_path, reports, {}, fewest=5) == {}


def test_find_withheld_leaves_other_notebooks_and_runs_without_the_whole_alone(tmp_path: Path) -> None:
    reports = [
        write_report(tmp_path, "all", "funnel", funnel=pd.DataFrame({"name": ["buy"], "units": [50]})),
        write_report(tmp_path, "new", "funnel", funnel=pd.DataFrame({"name": ["buy"], "units": [20]})),
        write_report(tmp_path, "new", "overview", rates=rates(4)),
    ]
    assert find_withheld(tmp_path, reports, {}, fewest=10) == {}
