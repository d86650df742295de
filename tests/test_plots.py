import inspect
import re
from collections.abc import Iterator
from functools import partial
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.colors import to_hex, to_rgb
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox
from small_logs import make_log, make_plan

import convlib as cv
from convlib import plots
from convlib.figures import WholeFigure
from convlib.results import Result

ROOT = Path(__file__).parent.parent
STEPS = ["view_item", "add_to_cart", "begin_checkout", "purchase"]


class Results(NamedTuple):
    funnel: cv.Funnel
    groups: cv.Funnel
    rates: cv.Rates
    correlation: cv.Correlation
    impact: cv.Impact
    event_map: cv.EventMap
    quality: cv.Quality


@pytest.fixture(autouse=True)
def nothing_stands_out() -> Iterator[None]:
    """A figure is printed as it is, so what stands out of it would be cut."""
    yield
    for number in plt.get_fignums():
        figure = plt.figure(number)
        if isinstance(figure, WholeFigure):
            figure.draw_without_rendering()
            width, height = figure.get_size_inches()
            own = Figure.get_tightbbox(figure)
            assert [*Bbox.union([own, Bbox([[0, 0], [width, height]])]).extents] == [0, 0, width, height]


@pytest.fixture(scope="module")
def results() -> Results:
    log, plan, _ = cv.simulate_shop(units=4_000, seed=3)
    correlation = cv.correlate(log, plan, macro="purchase", adjust=["device_type", "medium"])
    return Results(
        cv.measure_funnel(log, STEPS, window="7D"),
        cv.measure_funnel(log, STEPS, window="7D", by="device_type"),
        cv.measure_rates(log, plan, entry="first_visit", window="14D"),
        correlation,
        cv.score_impact(correlation, plan),
        cv.map_events(log, plan),
        cv.check_quality(log, plan),
    )


def flatten(text: str) -> str:
    """Undo the line breaks and no-break spaces that fit a label into a figure."""
    return " ".join(text.replace("\N{NO-BREAK SPACE}", " ").split())


def read_ticks(ax: Axes) -> list[str]:
    return [flatten(label.get_text()) for label in ax.get_yticklabels()]


def read_errors(ax: Axes, number: int = 0, *, vertical: bool = False) -> np.ndarray:
    """Read both ends of each error bar of the n-th `errorbar` call."""
    bars = [each for each in ax.containers if isinstance(each, ErrorbarContainer)][number]
    segments = bars.lines[2][0].get_segments()
    return np.array([segment[:, int(vertical)] for segment in segments])


def read_title(ax: Axes) -> str:
    return flatten(ax.get_title(loc="left"))


def read_legend(ax: Axes) -> set[str]:
    legends = filter(None, [*ax.figure.legends, ax.get_legend()])
    return {flatten(text.get_text()) for legend in legends for text in legend.get_texts()}


def read_bars(ax: Axes) -> list[Any]:
    """Give the bars; matplotlib's types call them patches."""
    return list(ax.patches)


def read_numbers(values: Any) -> np.ndarray:
    return np.asarray(values, float)


def interval(rows: pd.DataFrame, column: str) -> np.ndarray:
    return rows[[f"{column}_ci_lower", f"{column}_ci_upper"]].to_numpy(float)


def test_draw_funnel_shows_the_tables_shares_intervals_and_counts(results: Results) -> None:
    table = results.funnel.table
    ax = results.funnel.plot()
    np.testing.assert_allclose([bar.get_width() for bar in read_bars(ax)], table["rate_from_start"])
    np.testing.assert_allclose(read_errors(ax), interval(table, "rate_from_start"), atol=1e-12)
    assert [text.get_text() for text in ax.texts] == [f"{n:,}" for n in table["units"]]
    assert read_ticks(ax) == ["Product viewed", "Added to cart", "Checkout begun", "Purchase completed"]
    assert read_title(ax) == "Where do units leave? (all)"
    assert "within 7 days" in flatten(ax.get_xlabel())
    assert "95% interval" in flatten(ax.get_xlabel())
    assert ax.yaxis_inverted()


def test_draw_funnel_by_groups_has_a_bar_for_each_and_their_n(results: Results) -> None:
    table = results.groups.table
    ax = results.groups.plot()
    assert sorted(bar.get_width() for bar in read_bars(ax)) == pytest.approx(sorted(table["rate_from_start"]))
    first = table[table["step"] == 1]
    assert read_legend(ax) == {
        f"{device} (n = {n:,})" for device, n in zip(first["device_type"], first["units"], strict=True)
    }


def test_draw_funnel_keeps_the_groups_that_get_through_most_and_least_often() -> None:
    rows = [("Seen", f"g{k}", 1_000 - k, 1.0) for k in range(12)] + [("Bought", f"g{k}", 500, 0.5) for k in range(12)]
    table = pd.DataFrame(rows, columns=["name", "device", "units", "rate_from_start"])
    ends = {("Bought", "g9"): 0.9, ("Bought", "g11"): 0.1}
    rates = [ends.get((name, device), rate) for name, device, _, rate in rows]
    table = table.assign(rate_from_start=rates, rate_from_start_ci_lower=rates, rate_from_start_ci_upper=rates)
    ax = plots.draw_funnel(table, by=["device"], window="7D", segment="all")
    assert sorted(label.split()[0] for label in read_legend(ax)) == ["g0", "g1", "g11", "g2", "g3", "g9"]
    assert flatten(ax.get_xlabel()).endswith("6 of 12 groups")


def test_draw_trend_shows_the_weeks_with_enough_units(results: Results) -> None:
    trend = results.funnel.trend
    rows = trend[trend["note"] == ""]
    ax = results.funnel.plot_trend()
    np.testing.assert_allclose(read_numbers(ax.lines[0].get_ydata()), rows["rate"])
    np.testing.assert_allclose(read_errors(ax, vertical=True), interval(rows, "rate"), atol=1e-12)
    assert f"n = {rows['units'].sum():,}" in flatten(ax.get_xlabel())
    assert read_title(ax) == "Does completion change from week to week? (all)"
    assert ax.get_ylabel() == "reached the last step"


def test_draw_funnel_names_what_is_counted_and_asks_of_groups_how_far_they_get(results: Results) -> None:
    assert read_title(results.groups.plot()) == "How far does each group get? (all)"
    ax = plots.draw_funnel(results.funnel.table, by=(), window="7D", segment="mobile", counted="attempts")
    assert read_title(ax) == "Where do attempts leave? (mobile)"
    assert flatten(ax.get_xlabel()).startswith("of the attempts at the first step")


def test_draw_leaks_shows_each_tested_difference_with_interval_n_and_verdict(results: Results) -> None:
    leaks = results.groups.leaks.sort_values(["step", "leak_difference"], ascending=[True, False])
    ax = results.groups.plot_leaks()
    *differences, zero = ax.lines
    assert set(read_numbers(zero.get_xdata())) == {0}
    bounds, points = differences[::2], differences[1::2]
    np.testing.assert_allclose([read_numbers(line.get_xdata()) for line in bounds], interval(leaks, "leak_difference"))
    np.testing.assert_allclose([read_numbers(line.get_xdata())[0] for line in points], leaks["leak_difference"])
    colours = {"leaks more": plots.RED, "leaks less": plots.GREEN, "no evidence": plots.GREY}
    assert [line.get_color() for line in points] == [colours[verdict] for verdict in leaks["verdict"]]
    first = leaks.iloc[0]
    assert read_ticks(ax)[0] == f"{first['device_type']}, before Added to cart (n = {first['units_before']:,})"
    assert read_title(ax) == "Which groups leave more often than the others? (all)"
    assert "95% interval" in flatten(ax.get_xlabel())


def test_draw_leaks_shows_the_largest_differences_when_there_are_many() -> None:
    rows = pd.DataFrame({"step": 2, "name": "Bought", "device": [f"d{k}" for k in range(30)], "units_before": 99})
    rows = rows.assign(leak_difference=np.linspace(-0.3, 0.2, 30), q_value=0.5, verdict="no evidence")
    rows = rows.assign(leak_difference_ci_lower=-0.5, leak_difference_ci_upper=0.5)
    ax = plots.draw_leaks(rows, by=["device"], segment="all")
    shown = [float(read_numbers(line.get_xdata())[0]) for line in list(ax.lines)[1:-1:2]]
    assert len(shown) == plots.MOST_LEAKS
    assert min(np.abs(shown)) > sorted(np.abs(rows["leak_difference"]))[-plots.MOST_LEAKS - 1]
    # What takeaways name is there, however small.
    found = rows.assign(verdict=rows["verdict"].mask(rows["device"] == "d19", "leaks more"))
    labels = read_ticks(plots.draw_leaks(found, by=["device"], segment="all"))
    assert "d19, before Bought (n = 99)" in labels


def test_draw_times_has_a_panel_for_each_step_with_n_its_histogram_and_its_median(results: Results) -> None:
    times = results.funnel.times
    first = results.funnel.plot_times()
    panels = first.figure.axes
    assert flatten(first.figure.get_suptitle()) == "How long does each step take? (all)"
    assert len(panels) == 3
    for step, ax in zip((2, 3, 4), panels, strict=True):
        rows = times[times["step"] == step]
        values, edges, _ = read_bars(ax)[0].get_data()
        np.testing.assert_allclose(values, rows["share"])
        np.testing.assert_allclose(edges[1:], rows["seconds_high"])
        assert set(read_numbers(ax.lines[0].get_xdata())) == set(rows["seconds_p50"])
        assert read_title(ax).endswith(f"(n = {rows['units'].sum():,})")
        assert ax.get_xscale() == "log"
    assert "1 min" in [label.get_text() for label in panels[-1].get_xticklabels()]


def test_draw_times_by_groups_has_an_outline_for_each(results: Results) -> None:
    ax = results.groups.plot_times()
    assert read_legend(ax) == set(results.groups.table["device_type"])
    assert not any(bar.get_fill() for bar in read_bars(ax))


def test_draw_curve_shows_the_share_by_time_with_its_interval_and_n(results: Results) -> None:
    curve = results.funnel.time_to_convert
    ax = results.funnel.plot_time_to_convert()
    np.testing.assert_allclose(read_numbers(ax.lines[0].get_ydata()), curve["share"])
    np.testing.assert_allclose(read_numbers(ax.lines[0].get_xdata()), curve["seconds"])
    band = read_numbers(ax.collections[0].get_paths()[0].vertices)[:, 1]
    assert band.max() == pytest.approx(curve["share_ci_upper"].max())
    assert read_legend(ax) == {f"all (n = {curve['at_risk'].max():,})"}
    assert read_title(ax) == "How long until units convert? (all)"
    assert "pending units count for as long as they were watched" in flatten(ax.get_xlabel())
    assert [label.get_text() for label in ax.get_xticklabels()][:3] == ["0 s", "1 d", "2 d"]


def test_draw_curve_takes_a_logarithmic_axis_where_most_convert_early(results: Results) -> None:
    early = pd.DataFrame({"seconds": [0, 60, 120, 864_000], "at_risk": [9, 9, 6, 3], "converted": [0, 3, 3, 0]})
    early = early.assign(share=[0, 0.3, 0.6, 0.6], share_ci_lower=0.1, share_ci_upper=0.7)
    ax = plots.draw_curve(early, by=(), segment="all")
    assert ax.get_xscale() == "log"
    assert [label.get_text() for label in ax.get_xticklabels()][:3] == ["1 s", "1 min", "1 h"]
    by_device = results.groups.plot_time_to_convert()
    sizes = results.groups.time_to_convert.groupby("device_type")["at_risk"].max()
    assert read_legend(by_device) == {f"{device} (n = {n:,})" for device, n in sizes.items()}


def test_draw_next_shows_the_shares_at_the_step_at_which_most_stop(results: Results) -> None:
    found = results.funnel.next_events(top=4)
    step = found.table.groupby("step")["units"].sum().idxmax()
    rows = found.named[found.table["step"] == step]
    ax = found.plot()
    np.testing.assert_allclose([bar.get_width() for bar in read_bars(ax)], rows["share"])
    np.testing.assert_allclose(read_errors(ax), interval(rows, "share"), atol=1e-12)
    assert read_ticks(ax) == [f"{name} (n = {n:,})" for name, n in zip(rows["next"], rows["units"], strict=True)]
    greys = [to_hex(bar.get_facecolor()).upper() == plots.GREY for bar in read_bars(ax)]
    assert greys == list(rows["next"].isin(["(other)", "(nothing)"]))
    assert read_title(ax) == f"What did those do next that stopped at {rows['name'].iloc[0]}? (all)"
    assert flatten(ax.get_xlabel()).startswith(f"of the {rows['units'].sum():,} units that stopped there")


def test_draw_rates_has_a_panel_for_each_conversions_own_metric(results: Results) -> None:
    table = results.rates.table
    first = results.rates.plot()
    panels = [ax for ax in first.figure.axes if ax.axison]
    # The macro has a panel for its value, too.
    assert len(panels) == results.rates.goals["leads"].sum() == table["conversion"].nunique() + 1
    macro = table[(table["conversion"] == "purchase") & (table["metric"] == "rate") & (table["note"] == "")]
    line, target = first.lines
    np.testing.assert_allclose(read_numbers(line.get_ydata()), macro["value"])
    assert set(read_numbers(target.get_ydata())) == {0.14}
    bench = first.patches[0].get_extents().transformed(first.transData.inverted())
    np.testing.assert_allclose([bench.y0, bench.y1], [0.08, 0.16])
    assert read_title(first) == f"Purchase completed (n = {macro['exposed'].iloc[-1]:,})"
    assert flatten(first.figure.get_suptitle()) == "How does each metric do from week to week? (all)"
    assert "dashed: target" in flatten(first.figure.get_supxlabel())
    band = read_numbers(first.collections[0].get_paths()[0].vertices)[:, 1]
    assert band.max() == pytest.approx(macro["ci_upper"].max())
    # Nothing touches the top, or is beyond it.
    assert all(ax.dataLim.y1 < 0.95 * ax.get_ylim()[1] for ax in panels)


def test_draw_rates_by_groups_has_a_line_for_each() -> None:
    log, plan, _ = cv.simulate_shop(units=4_000, seed=3)
    rates = cv.measure_rates(log, plan, by="device_type", entry="first_visit", window="14D", every="M")
    ax = rates.plot()
    shown = rates.table[(rates.table["conversion"] == "purchase") & (rates.table["metric"] == "rate")]
    shown = shown[shown["note"] == ""]
    drawn = {str(line.get_label()): read_numbers(line.get_ydata()) for line in ax.lines}
    lines = {label: values for label, values in drawn.items() if not label.startswith("_")}
    assert set(lines) == set(shown["device_type"])
    for device, values in lines.items():
        np.testing.assert_allclose(values, shown.loc[shown["device_type"] == device, "value"])
    assert set(lines) <= read_legend(ax)


def test_draw_targets_sets_each_rate_beside_target_and_benchmark(results: Results) -> None:
    latest = results.rates.latest
    rows = latest[latest["metric"].str.match("rate|follow_up|abandonment")]
    rows = rows[rows[["target", "benchmark_low", "benchmark_high"]].notna().any(axis="columns")]
    ax = results.rates.plot_targets()
    left = [bar.get_x() for bar in read_bars(ax)]
    right = [bar.get_x() + bar.get_width() for bar in read_bars(ax)]
    # Without a benchmark a band of no width.
    np.testing.assert_allclose(left, rows["benchmark_low"].fillna(0))
    np.testing.assert_allclose(right, rows["benchmark_high"].fillna(0))
    intervals, dots = ax.lines[:-1][::2], ax.lines[:-1][1::2]
    np.testing.assert_allclose([read_numbers(line.get_xdata()) for line in intervals], rows[["ci_lower", "ci_upper"]])
    np.testing.assert_allclose([read_numbers(dot.get_xdata())[0] for dot in dots], rows["value"])
    np.testing.assert_allclose(read_numbers(ax.lines[-1].get_xdata()), rows["target"])
    goals = results.rates.goals.set_index(["conversion", "metric"])["title"]
    titles = [goals[each] for each in zip(rows["conversion"], rows["metric"], strict=True)]
    expected = [f"{title} (n = {n:,})" for title, n in zip(titles, rows["exposed"], strict=True)]
    assert read_ticks(ax) == expected
    colours = {"met": plots.GREEN, "missed": plots.RED, "too few": plots.GREY, "": plots.GREY}
    assert [to_hex(dot.get_color()).upper() for dot in dots] == [colours[status].upper() for status in rows["status"]]
    assert read_legend(ax) == {"benchmark", "target"}


def test_draw_targets_shows_a_benchmark_that_is_open_at_one_end(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, "macros: [{id: buy, match: {event_name: buy}, benchmark: {low: 0.4}}]")
    rows = (
        "".join(f"u{n} visit {n}h\nu{n} {'buy' if n < 20 else 'visit'} {n + 1}h\n" for n in range(40)) + "z visit 167h"
    )
    rates = cv.measure_rates(make_log(rows, plan), plan)
    ax = rates.plot_targets()
    assert [bar.get_x() for bar in read_bars(ax)] == [0.4]
    assert all(bar.get_width() > 0 for bar in read_bars(ax))


def test_draw_lifts_shows_raw_and_adjusted_with_intervals(results: Results) -> None:
    table = results.correlation.table
    ax = results.correlation.plot()
    raw, *adjusted = [each for each in ax.containers if isinstance(each, ErrorbarContainer)]
    np.testing.assert_allclose(read_numbers(raw.lines[0].get_xdata()), table["lift"])
    np.testing.assert_allclose(read_errors(ax), interval(table, "lift"), atol=1e-12)
    np.testing.assert_allclose(
        [read_numbers(each.lines[0].get_xdata())[0] for each in adjusted], table["adjusted_lift"]
    )
    ends = np.concatenate([read_errors(ax, n + 1) for n in range(len(table))])
    np.testing.assert_allclose(ends, interval(table, "adjusted_lift"), atol=1e-12)
    found = [to_hex(each.lines[0].get_color()).upper() for each in adjusted]
    colours = {"positive": plots.GREEN, "negative": plots.RED}
    assert found == [colours.get(verdict, plots.GREY).upper() for verdict in table["verdict"]]
    names = results.correlation.names
    assert read_ticks(ax) == [
        f"{names[micro]} (n = {n:,})" for micro, n in zip(table["micro"], table["units_with"], strict=True)
    ]
    assert read_title(ax) == "What goes with Purchase completed? (all)"
    kinds = {"positive", "negative", "no evidence"}
    known = {verdict if verdict in kinds else "not judged" for verdict in table["verdict"]}
    assert read_legend(ax) == {"raw", *(f"adjusted: {kind}" for kind in known)}


def test_draw_lifts_leaves_out_what_has_too_few_units(results: Results) -> None:
    table = results.correlation.table.head(3).assign(verdict=["positive", "too few", "no evidence"])
    ax = plots.draw_lifts(table, macro="Purchase", segment="all")
    drawn = table.iloc[[0, 2]]
    assert read_ticks(ax) == [f"{m} (n = {n:,})" for m, n in zip(drawn["micro"], drawn["units_with"], strict=True)]


def test_draw_groups_shows_each_group_or_says_why_there_is_none() -> None:
    rows = pd.DataFrame(
        [("Save", "device", "mobile", 0.3, 0.2, 0.4, 100), ("Save", "device", "desktop", -0.2, -0.3, -0.1, 80)],
        columns=["micro", "column", "value", "lift", "lift_ci_lower", "lift_ci_upper", "units_with"],
    )
    ax = plots.draw_groups(rows, none="", segment="all")
    (bars,) = [each for each in ax.containers if isinstance(each, ErrorbarContainer)]
    np.testing.assert_allclose(read_numbers(bars.lines[0].get_xdata()), [0.3, -0.2])
    assert read_ticks(ax) == ["device mobile (n = 100)", "device desktop (n = 80)"]
    assert read_legend(ax) == {"Save"}
    empty = plots.draw_groups(rows.iloc[:0], none="only one group", segment="all")
    assert [text.get_text() for text in empty.texts] == ["only one group"]
    assert not empty.axison


def test_draw_matrix_shows_phi_between_different_micros(results: Results) -> None:
    matrix = results.correlation.matrix
    ax = results.correlation.plot_matrix()
    shown = np.asarray(ax.collections[0].get_array(), float).reshape(matrix.shape)
    off = ~np.eye(len(matrix), dtype=bool)
    np.testing.assert_allclose(shown[off], matrix.to_numpy()[off])
    assert read_ticks(ax) == [f"{n} {results.correlation.names[m]}" for n, m in enumerate(matrix.index, start=1)]
    assert read_title(ax) == "Which micro-conversions come together? (all)"


def test_draw_matrix_writes_numbers_as_they_are() -> None:
    matrix = pd.DataFrame([[1, -0.25], [0.5, 1]], index=["a", "b"], columns=["a", "b"])
    assert [text.get_text() for text in plots.draw_matrix(matrix, segment="all").texts] == ["-.25", ".50"]


def test_draw_matrix_of_no_micro_draws_an_empty_figure() -> None:
    ax = plots.draw_matrix(pd.DataFrame(np.empty((0, 0))), segment="all")
    assert read_title(ax) == "Which micro-conversions come together? (all)"


def test_draw_opportunities_shows_the_ranked_with_intervals(results: Results) -> None:
    rows = results.impact.table[results.impact.table["rank"].notna()]
    ax = results.impact.plot()
    np.testing.assert_allclose([bar.get_width() for bar in read_bars(ax)], rows["opportunity"])
    expected = interval(rows, "opportunity")
    # An interval that leaves its own mean out, as skewed draws may, is drawn up to the mean.
    expected[:, 0] = np.minimum(expected[:, 0], rows["opportunity"])
    expected[:, 1] = np.maximum(expected[:, 1], rows["opportunity"])
    np.testing.assert_allclose(read_errors(ax), expected, atol=1e-9)
    assert read_ticks(ax) == [
        f"{rank}. {results.impact.names[micro]} (n = {n:,})"
        for rank, micro, n in zip(rows["rank"], rows["micro"], rows["units_with"], strict=True)
    ]
    assert flatten(ax.get_xlabel()).startswith("USD ")


def test_draw_effort_sets_opportunity_against_effort(results: Results) -> None:
    rows = results.impact.table[results.impact.table["rank"].notna()]
    ax = results.impact.plot_effort()
    dots = ax.collections[-1].get_offsets()
    np.testing.assert_allclose(np.asarray(dots), rows[["effort", "opportunity"]].to_numpy(float))
    assert ax.get_ylabel() == "USD at its goal"
    said = f"effort, as the plan says; n = {len(rows)} micro-conversions, by rank; hollow: no evidence; 95% intervals"
    assert flatten(ax.get_xlabel()) == said
    assert len(ax.texts) == len(rows)


def test_draw_coverage_shows_users_of_each_conversion(results: Results) -> None:
    coverage = results.event_map.coverage
    ax = results.event_map.plot()
    assert [bar.get_width() for bar in read_bars(ax)] == coverage["units"].tolist()
    assert read_ticks(ax) == coverage["name"].tolist()
    shares = zip(coverage["units"], coverage["share_of_units"], strict=True)
    assert [text.get_text().strip() for text in ax.texts] == [f"{n:,} ({share:.0%})" for n, share in shares]


def test_draw_volume_fills_days_without_events_with_zero() -> None:
    days = pd.to_datetime(["2024-01-01", "2024-01-03", "2024-01-02"])
    volume = pd.DataFrame({"day": days, "tier": ["macro", "macro", "micro"], "events": [5, 1_000, 7]})
    ax = plots.draw_volume(volume, segment="mobile")
    assert read_numbers(ax.lines[0].get_ydata()).tolist() == [5, 0, 1_000]
    assert read_numbers(ax.lines[1].get_ydata()).tolist() == [7]
    assert read_legend(ax) == {"macro (n = 1,005)", "micro (n = 7)"}
    assert read_title(ax) == "How many events come in each day? (mobile)"
    assert ax.get_ylabel() == "events a day"


def test_draw_quality_shows_the_days_of_each_failed_rule() -> None:
    table = pd.DataFrame(
        {
            "rule": ["negative", "silent", "fine"],
            "name": ["Negative values", "Conversions that never fire", "Fine"],
            "severity": ["warning", "error", "error"],
            "status": ["failed", "failed", "passed"],
            "tried": [300, 4, 10],
            "failed": [60, 1, 0],
        }
    )
    days = pd.to_datetime(["2024-01-01", "2024-01-02", "2024-01-03"])
    daily = pd.DataFrame({"rule": "negative", "day": days, "tried": 100, "failed": [50, 0, 10]})
    ax = plots.draw_quality(table, daily, segment="mobile")
    assert read_ticks(ax) == ["Negative values (n = 60)"]  # the other has no days
    dots = ax.collections[0]
    assert isinstance(dots, PathCollection)
    assert read_numbers(dots.get_offsets())[:, 1].tolist() == [0, 0]
    assert read_numbers(dots.get_sizes()).tolist() == [48, 16]  # half and a tenth of the day's
    assert read_title(ax) == "On which days did rules fail? (mobile)"


def test_draw_quality_says_when_no_day_stands_out() -> None:
    table = pd.DataFrame({"rule": ["fine"], "name": "Fine", "status": "passed", "failed": 0, "tried": 9})
    ax = plots.draw_quality(table, pd.DataFrame(columns=["rule", "day", "tried", "failed"]), segment="all")
    assert [text.get_text() for text in ax.texts] == ["No failed rule points to particular days."]


def test_draw_plan_shows_what_nobody_owns_and_what_never_fires() -> None:
    coverage = pd.DataFrame(
        {
            "tier": ["macro", "micro"],
            "name": ["Bought", "Chat begun"],
            "where": ["", "never fires"],
            "owner": ["shop", "nobody"],
            "goal": ["30.0%", "-"],
            "units": [9, 0],
        }
    )
    ax = plots.draw_plan(coverage, segment="mobile")
    red = {text.get_text() for text in ax.texts if text.get_color() == plots.RED}
    assert red == {"never fires", "nobody"}
    assert [line.get_alpha() for line in ax.lines] == [1, 0.45]
    assert read_title(ax) == "What does the plan count, and who owns it? (mobile; 2 conversions)"


def test_every_plot_takes_an_axes_and_gives_it_back(results: Results) -> None:
    draws = [
        results.funnel.plot,
        results.groups.plot,
        results.funnel.plot_trend,
        results.funnel.plot_times,
        results.funnel.plot_time_to_convert,
        results.funnel.next_events().plot,
        results.groups.plot_leaks,
        results.groups.plot_times,
        results.rates.plot,
        results.rates.plot_targets,
        results.correlation.plot,
        results.correlation.plot_matrix,
        results.impact.plot,
        results.impact.plot_effort,
        results.event_map.plot,
        results.event_map.plot_volume,
        results.event_map.plot_plan,
        results.quality.plot,
    ]
    for draw in draws:
        figure, ax = plt.subplots()
        assert draw(ax=ax) is ax
        assert ax.get_title(loc="left")
        figure.canvas.draw()
        plt.close(figure)


#: What is seen of each primary when one kind of cone is missing (Machado, Oliveira and Fernandes 2009, severity 1).
SIGHT = {
    "all cones": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}
TOGETHER = {
    "groups": plots.CYCLE,
    "verdicts": (*plots.VERDICT_COLOURS.values(), plots.GREY),
    "targets": (*plots.STATUS_COLOURS.values(), plots.GREY),
    "leaks": (*plots.LEAK_COLOURS.values(), plots.GREY),
    "worth": (plots.BLUE, plots.GREEN, plots.RED, plots.GREY),
    "tiers": tuple(plots.TIER_COLOURS.values()),
    "severities": tuple(set(plots.SEVERITY_COLOURS.values())),
    "flow": tuple(plots.FLOW_COLOURS.values()),
}


def see(colour: str, sight: Any) -> np.ndarray:
    """Give a colour as seen, in CIELAB (D65), by the definitions of sRGB and CIE 1976."""
    rgb = np.array(to_rgb(colour))
    light = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    primaries = [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.072175], [0.0193339, 0.119192, 0.9503041]]
    xyz = np.array(primaries) @ np.clip(np.array(sight) @ light, 0, 1) / [0.95047, 1, 1.08883]
    x, y, z = np.where(xyz > 216 / 24_389, np.cbrt(xyz), (24_389 / 27 * xyz + 16) / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("sight", SIGHT)
@pytest.mark.parametrize("together", TOGETHER)
def test_colours_of_one_figure_differ_for_everybody(together: str, sight: str) -> None:
    seen = [see(colour, SIGHT[sight]) for colour in TOGETHER[together]]
    # About 2.3 can just be told apart side by side; small marks far from one another need several times that.
    assert min(float(np.linalg.norm(one - other)) for one, other in combinations(seen, 2)) > 15


def test_marks_of_one_figure_differ_without_colour() -> None:
    for marks in (plots.MARKERS, plots.DASHES, plots.STATUS_MARKS.values(), plots.VERDICT_MARKS.values()):
        assert len(set(marks)) == len(list(marks))
    assert len(plots.MARKERS) == len(plots.DASHES) == len(plots.CYCLE)
    pairs = {(plots.SEVERITY_COLOURS[each], plots.SEVERITY_MARKS[each]) for each in plots.SEVERITY_COLOURS}
    assert len(pairs) == len(set(plots.SEVERITY_MARKS.values())) == 3


NAME = "Delivery address form completed"


@pytest.mark.parametrize("count", [1, 40])
def test_figures_of_long_names_and_of_one_or_many_rows_are_not_clipped(results: Results, count: int) -> None:
    some = results.correlation.table.iloc[np.arange(count) % len(results.correlation.table)]
    worth = results.impact.table.iloc[np.arange(count) % 3].assign(micro=NAME, rank=np.arange(count) + 1)
    rates = results.rates.latest.query("metric == 'rate'")
    latest = rates.iloc[np.arange(count) % 3].assign(conversion=NAME, target=0.5)
    draws = [
        plots.draw_lifts(some.assign(micro=NAME, verdict="positive"), macro=NAME, segment=NAME),
        plots.draw_opportunities(worth, worth="USD", segment=NAME),
        plots.draw_targets(latest, segment=NAME),
        plots.draw_coverage(results.event_map.coverage.iloc[np.arange(count) % 5].assign(name=NAME), segment=NAME),
    ]
    for ax in draws:
        ax.figure.canvas.draw()
        labels = [label.get_window_extent() for label in ax.get_yticklabels()]
        assert len(labels) == min(count, plots.MOST_ROWS)
        assert all(upper.y0 >= lower.y1 - 1 for upper, lower in pairwise(labels))
        page = ax.figure.bbox
        for box in (*labels, ax.xaxis.label.get_window_extent(), ax._left_title.get_window_extent()):  # type: ignore[attr-defined]
            assert page.x0 <= box.x0
            assert box.x1 <= page.x1
            assert page.y0 <= box.y0
            assert box.y1 <= page.y1


def test_titles_ask_a_question_and_name_the_segment(results: Results) -> None:
    draws = [results.funnel.plot, results.groups.plot_leaks, results.rates.plot_targets, results.rates.plot_status]
    draws += [results.correlation.plot, results.correlation.plot_matrix, results.correlation.plot_groups]
    draws += [results.impact.plot, results.impact.plot_effort, results.event_map.plot, results.event_map.plot_volume]
    for draw in (*draws, results.quality.plot):
        assert read_title(draw()).endswith("? (all)")


@pytest.mark.parametrize(
    ("first", "last", "labels"),
    [
        ("2026-06-01", "2026-06-01", ["1 Jun\n2026"]),
        ("2026-12-30", "2027-01-02", ["30 Dec\n2026", "31 Dec", "1 Jan\n2027", "2 Jan"]),
        ("2026-06-01", "2026-07-02", ["1 Jun\n2026", "8 Jun", "15 Jun", "22 Jun", "29 Jun"]),
        ("2025-11-10", "2026-02-20", ["Dec\n2025", "Jan\n2026", "Feb"]),
        ("2014-05-01", "2026-02-20", ["2015", "2017", "2019", "2021", "2023", "2025"]),
    ],
)
def test_dates_are_marked_at_round_ones_with_the_year_once(first: str, last: str, labels: list[str]) -> None:
    days = pd.to_datetime([first, last]).unique()
    ax = plots.draw_volume(pd.DataFrame({"day": days, "tier": "macro", "events": 1}), segment="all")
    assert [label.get_text() for label in ax.get_xticklabels()] == labels


@pytest.mark.parametrize(
    ("metric", "high", "labels"),
    [
        ("rate", 0.2, ["0%", "10%", "20%"]),
        ("rate", 0.02, ["0%", "1%", "2%"]),
        ("how often", 12_000, ["0", "5,000", "10,000"]),
        ("how often", 3_000_000, ["0", "2 M"]),
        ("time_between from cart", 100, ["0 s", "1 min"]),
    ],
)
def test_ticks_are_written_for_people(results: Results, metric: str, high: float, labels: list[str]) -> None:
    rows = results.rates.leading.head(3).assign(metric=metric, value=high, ci_lower=0.0, ci_upper=high, note="")
    goals = dict.fromkeys(["target", "benchmark_low", "benchmark_high"], np.nan)
    ax = plots.draw_rates(
        rows.assign(**goals), results.rates.limits, by=(), every="W", segment="all", ax=plt.subplots()[1]
    )
    ax.figure.canvas.draw()
    shown = [label.get_text() for label in ax.get_yticklabels()]
    assert shown[: len(labels)] == labels


def test_plots_leave_matplotlibs_settings_alone(results: Results) -> None:
    before = dict(plt.rcParams)
    results.impact.plot()
    assert dict(plt.rcParams) == before


def test_plots_draw_an_empty_segment(tmp_path: Path) -> None:
    text = """
macros:
  - id: buy
    match: {event_name: buy}
    micros: [{id: save, match: {event_name: save}, stage: decision, kind: secondary_action}]
"""
    plan = make_plan(tmp_path, text)
    log = make_log("ann visit 0h\nann save 1h\nann buy 30h\nann visit 10D", plan)
    nobody = log.segment({"user_id": "nobody"})
    correlation = cv.correlate(log, plan, macro="buy", exposure="1D", horizon="2D")
    funnel = cv.measure_funnel(nobody, ["save", "buy"])
    impact = cv.score_impact(correlation, plan)
    groups = cv.measure_funnel(nobody, ["save", "buy"], by="device_type")
    draws = [funnel.plot, funnel.plot_trend, correlation.plot, impact.plot, impact.plot_effort, correlation.plot_matrix]
    for each in (funnel, groups):
        draws += [each.plot_leaks, each.plot_times, each.plot_time_to_convert, each.next_events().plot]
    for draw in draws:
        draw().figure.canvas.draw()


FLOW_PLAN = """\
macros:
  - id: buy
    name: Bought
    match: {event_name: buy}
    micros:
      - {id: view, name: Viewed, match: {event_name: view}, stage: awareness, kind: process_milestone}
      - {id: cart, name: Added to cart, match: {event_name: cart}, stage: decision, kind: process_milestone}
"""
#: Of ten units six view, of whom three go on to the cart and two of these buy; four do nothing of the plan.
FLOW_ROWS = (
    [("buyer", n, e, m) for n in range(2) for e, m in (("view", 1), ("cart", 2), ("buy", 3))]
    + [("cart", 0, e, m) for e, m in (("view", 1), ("cart", 2))]
    + [("view", n, "view", 1) for n in range(3)]
    + [("none", n, "visit", 1) for n in range(4)]
    + [("end", 0, "visit", 20_000)]
)


def trace_small(tmp_path: Path, **options: Any) -> cv.Paths:
    start = pd.Timestamp("2026-01-05")
    rows = [(f"{kind}{n}", event, start + pd.Timedelta(minute, "min")) for kind, n, event, minute in FLOW_ROWS]
    log = make_log(pd.DataFrame(rows, columns=["user_id", "event_name", "timestamp"]), make_plan(tmp_path, FLOW_PLAN))
    return cv.trace_paths(log, **options)


def read_nodes(ax: Axes) -> dict[str, int]:
    """Give the place of each node, by its label."""
    labels = [text for text in ax.texts if "(" in text.get_text()]
    return {flatten(text.get_text()): round(text.get_position()[0]) for text in labels}


def test_draw_flow_labels_each_node_with_units_and_share(tmp_path: Path) -> None:
    ax = trace_small(tmp_path).plot()
    assert read_nodes(ax) == {
        "Viewed 6 (60%)": 1,
        "no conversion 4 (40%)": 1,
        "Added to cart 3 (30%)": 2,
        "nothing more 3 (30%)": 2,
        "Bought 2 (20%)": 3,
        "nothing more 1 (10%)": 3,
    }
    assert read_title(ax) == "Which ways do they take? (all)"
    assert flatten(ax.get_xlabel()) == "orange: reached Bought within 7 days; grey: did not; % of all n = 10"


def test_draw_flow_makes_nodes_and_bands_as_high_as_their_units(tmp_path: Path) -> None:
    ax = trace_small(tmp_path).plot()
    bars: dict[int, dict[str, list[float]]] = {}
    for bar in read_bars(ax):
        bars.setdefault(round(bar.get_x()), {}).setdefault(to_hex(bar.get_facecolor()), []).append(bar.get_height())
    orange, grey = to_hex(plots.ORANGE), plots.FLOW_COLOURS["lost"].lower()
    heights = {place: (sum(each[orange]), sum(each[grey])) for place, each in bars.items()}
    for place, expected in {1: (0.2, 0.8), 2: (0.2, 0.4), 3: (0.2, 0.1)}.items():
        np.testing.assert_allclose(heights[place], expected)
    widths = []
    for band in ax.collections:
        path = read_numbers(band.get_paths()[0].vertices)
        left = path[path[:, 0] < path[:, 0].min() + 1e-9]
        widths.append(round(float(np.ptp(left[:, 1])), 6))
    assert sorted(widths) == [0.1, 0.1, 0.2, 0.2, 0.3]


def test_draw_flow_backwards_ends_where_the_paths_end(tmp_path: Path) -> None:
    ax = trace_small(tmp_path, end="cart", window="1min").plot()
    headings = [text.get_text() for text in ax.texts if "(" not in text.get_text()]
    assert headings == ["4 before", "3 before", "2 before", "1 before", "end"]
    assert read_nodes(ax)["Added to cart 3 (100%)"] == 0


def test_draw_flow_puts_small_nodes_of_a_place_in_one_and_stays_readable() -> None:
    log, _, _ = cv.simulate_shop(units=1_500, seed=3)
    ax = cv.trace_paths(log, events="all").plot()
    figure = ax.figure
    figure.canvas.draw()
    labels = [text for text in ax.texts if "(" in text.get_text()]
    boxes = [label.get_window_extent() for label in labels]
    columns = {round(label.get_position()[0]) for label in labels}
    for column in columns:
        inside = sorted(
            (box for label, box in zip(labels, boxes, strict=True) if round(label.get_position()[0]) == column),
            key=lambda box: box.y0,
        )
        assert len(inside) <= plots.FLOW_NODES + 3
        assert all(low.y1 <= high.y0 + 1 for low, high in pairwise(inside))
    assert any(flatten(label.get_text()).startswith("other: ") for label in labels)
    assert max(box.x1 for box in boxes) <= figure.bbox.x1


def test_draw_flow_of_nobody_is_an_empty_figure(tmp_path: Path) -> None:
    ax = trace_small(tmp_path, window="90D").plot()
    assert (len(ax.texts), len(read_bars(ax))) == (0, 0)
    assert flatten(ax.get_xlabel()).endswith("% of all n = 0")


def test_draw_status_colours_each_group_by_how_it_stands() -> None:
    rows = pd.DataFrame(
        [
            ("mobile", "Bought", "rate", 0.1, "met"),
            ("mobile", "Filled in", "time_between from cart", 90.0, "missed"),
            ("desktop", "Bought", "rate", 0.02, "too few"),
        ],
        columns=["device_type", "conversion", "metric", "value", "status"],
    )
    ax = plots.draw_status(rows, by=["device_type"], segment="all")
    texts = {(text.get_position()): text.get_text() for text in ax.texts}
    assert texts == {(0.5, 0.5): "✓ 10.0%", (0.5, 1.5): "✗ 1.5 min", (1.5, 0.5): "2.0%"}
    assert [label.get_text() for label in ax.get_xticklabels()] == ["mobile", "desktop"]


CHANGES = pd.DataFrame(
    {
        "arm": "short",
        "role": ["primary", "guardrail", "guardrail", "metric"],
        "conversion": ["Form", "Bought", "Left", "Cart"],
        "units": [1_000, 1_000, 1_000, 10],
        "units_control": [900, 900, 900, 9],
        "relative_effect": [0.08, 0.01, 0.06, np.nan],
        "relative_effect_ci_lower": [0.03, -0.04, 0.02, np.nan],
        "relative_effect_ci_upper": [0.13, 0.06, 0.10, np.nan],
        "margin": [np.nan, -0.1, 0.05, np.nan],
        "status": ["better", "within margin", "worse", "too few"],
    }
)
ENDS = ["relative_effect_ci_lower", "relative_effect_ci_upper"]


def read_changes(ax: Axes) -> tuple[list[list[float]], list[str]]:
    """Give the ends and the colour of each row's interval: the lines that are as thick as these alone are."""
    lines = [line for line in ax.lines if line.get_linewidth() == 2]
    return [list(read_numbers(line.get_xdata())) for line in lines], [str(line.get_color()) for line in lines]


def test_draw_effects_shows_changes_with_their_intervals_and_limits() -> None:
    ax = plots.draw_effects(CHANGES, segment="mobile")
    ends, colours = read_changes(ax)
    assert ends == CHANGES[ENDS].head(3).to_numpy().tolist()
    assert colours == [plots.GREEN, plots.GREEN, plots.RED]
    assert read_ticks(ax) == ["Form (n = 1,900)", "Bought (n = 1,900)", "Left (n = 1,900)"]
    # What lies beyond a limit reaches to the end of the figure, on the side on which less or more is worse.
    low, high = ax.get_xlim()
    shaded = [(bar.get_x(), bar.get_x() + bar.get_width()) for bar in read_bars(ax)]
    np.testing.assert_allclose(shaded, [(-0.1, low), (0.05, high)])
    assert low < -0.1
    assert high > 0.13
    assert read_title(ax) == "What changed against the control? (mobile)"
    assert flatten(ax.get_xlabel()) == (
        "change against the control, with 95% interval; dashed: its limit, shaded: too bad; green safe, dark orange "
        "worse, grey undecided"
    )


def test_draw_effects_fills_a_mark_whose_interval_leaves_no_change_out() -> None:
    ax = plots.draw_effects(CHANGES.head(2), segment="all")
    assert [str(line.get_markerfacecolor()) for line in ax.lines if line.get_marker() == "o"] == [plots.GREEN, "white"]


NOT_VALID = "The test is not valid: its effects are not shown."


def test_draw_effects_shows_nothing_of_an_invalid_test() -> None:
    ax = plots.draw_effects(CHANGES, segment="all", valid=False)
    assert [text.get_text() for text in ax.texts] == [NOT_VALID]
    assert not ax.lines


def test_draw_effects_names_the_arms_when_there_are_several() -> None:
    both = pd.concat([CHANGES.head(1), CHANGES.head(1).assign(arm="long")])
    assert read_ticks(plots.draw_effects(both, segment="all")) == ["Form: short (n = 1,900)", "Form: long (n = 1,900)"]


def test_draw_effects_says_that_there_is_nothing_to_show() -> None:
    ax = plots.draw_effects(CHANGES.tail(1), segment="all")
    assert [text.get_text() for text in ax.texts] == ["Too few units or conversions to show a change."]
    assert read_title(ax) == "What changed against the control? (all)"


def test_draw_effect_days_shows_each_arm_by_day() -> None:
    days = pd.DataFrame(
        {
            "arm": ["short", "short", "long", "long"],
            "day": [0, 1, 0, 1],
            "units": [900, 900, 800, 800],
            "effect": [0.02, 0.01, 0.0, 0.01],
            "effect_ci_lower": [0.01, 0.0, -0.01, 0.0],
            "effect_ci_upper": [0.03, 0.02, 0.01, 0.02],
        }
    )
    ax = plots.draw_effect_days(days, name="Form", kind="percent", segment="all")
    assert read_legend(ax) == {"short (n = 900)", "long (n = 800)"}
    np.testing.assert_allclose(read_errors(ax, 1, vertical=True), interval(days, "effect")[2:], atol=1e-12)
    assert ax.yaxis.get_major_formatter()(0.02) == "+2.0 pts"
    assert read_title(ax) == "When does the effect on Form come? (all)"
    ax = plots.draw_effect_days(days, name="Form", kind="number", segment="all")
    assert [ax.yaxis.get_major_formatter()(each) for each in (0.02, -0.02)] == ["+0.0200", "-0.0200"]
    # The whole window is there, also when its later days have too few.
    early = days.assign(effect=[0.02, np.nan, 0.0, np.nan], day=[0, 13, 0, 13])
    assert plots.draw_effect_days(early, name="Form", kind="percent", segment="all").get_xlim() == (-0.5, 13.5)


@pytest.mark.parametrize(
    ("rows", "valid", "said"),
    [
        (0, True, "It is not known when units did it."),
        (1, True, "Too few units or conversions to show a change."),
        (0, False, NOT_VALID),
    ],
)
def test_draw_effect_days_says_why_there_is_nothing_to_show(rows: int, valid: bool, said: str) -> None:
    days = pd.DataFrame({"arm": "short", "day": [0], "units": 9, "effect": np.nan}).head(rows)
    ax = plots.draw_effect_days(days, name="Form", kind="number", segment="all", valid=valid)
    assert [text.get_text() for text in ax.texts] == [said]


def test_draw_effect_segments_shows_the_primary_metric_of_each_group() -> None:
    groups = CHANGES.assign(
        role="primary",
        column="device_type",
        group=["mobile", "desktop", "tablet", "tv"],
        q_value=[0.01, 0.2, 0.05, np.nan],
    )
    wide = groups.iloc[[1]].assign(group="watch", relative_effect_ci_lower=-0.9, relative_effect_ci_upper=3.0)
    rows = pd.concat([groups, wide, groups.head(1).assign(role="guardrail")])
    ax = plots.draw_effect_segments(rows, name="Form", segment="all")
    assert read_ticks(ax) == [f"device type {each} (n = 1,900)" for each in ("mobile", "desktop", "tablet", "watch")]
    assert read_changes(ax)[1] == [plots.BLUE, plots.GREY, plots.GREY, plots.GREY]
    # A group of few units does not squeeze the others.
    assert ax.get_xlim() == pytest.approx((-0.04 - 0.0085, 0.13 + 0.0085))
    several = pd.concat([groups.head(1), groups.head(1).assign(arm="long")])
    ticks = read_ticks(plots.draw_effect_segments(several, name="Form", segment="all"))
    assert ticks == ["device type mobile: short (n = 1,900)", "device type mobile: long (n = 1,900)"]
    few = groups.assign(relative_effect=np.nan)
    for found, valid, said in (
        (groups.head(0), True, "No columns are named to compare groups by."),
        (few, True, "Too few units or conversions to show a change."),
        (groups.head(0), False, NOT_VALID),
    ):
        ax = plots.draw_effect_segments(found, name="Form", segment="all", valid=valid)
        assert [text.get_text() for text in ax.texts] == [said]


def find_result_classes() -> set[type[Result]]:
    """Give every kind of result that the package's public functions can give."""
    list(map(partial(getattr, cv), cv.__all__))  # their modules are read when they are asked for
    classes, new = set[type[Result]](), {Result}
    while new:
        new = {child for parent in new for child in parent.__subclasses__() if child.__module__.startswith("convlib.")}
        classes |= new
    return classes


def read_gallery() -> set[tuple[str, str]]:
    """Give the class and the method of each figure that the gallery draws, by what its calls say they return."""
    page = (ROOT / "docs" / "gallery.md").read_text("utf-8")
    calls = re.findall(r"^(\w+) = (\w+)\.(\w+)\(", page, re.MULTILINE)
    known = {"cv": cv} | {each.__name__: each for each in find_result_classes()}
    of: dict[str, str] = {"cv": "cv"}
    for name, owner, function in calls:
        given = inspect.get_annotations(getattr(known[of[owner]], function))["return"]
        of[name] = str(getattr(given, "__name__", given))
    return {(of[name], method) for name, method in re.findall(r"^(\w+)\.(plot\w*)\(\);?$", page, re.MULTILINE)}


def test_gallery_has_every_figure_with_a_picture_and_what_it_cannot_show() -> None:
    methods = {
        (each.__name__, name) for each in find_result_classes() for name in vars(each) if name.startswith("plot")
    }
    assert read_gallery() == methods
    page = (ROOT / "docs" / "gallery.md").read_text("utf-8")
    pictures = re.findall(r"!\[[^\]]+\]\((images/gallery/\w+\.png)\)", page)
    assert len(pictures) == page.count("\n### ") == page.count("**Can't show**: ") == page.count("?\n\n![")
    files = {f"images/gallery/{path.name}": path for path in (ROOT / "docs" / "images" / "gallery").iterdir()}
    assert set(files) == set(pictures)
    assert max(path.stat().st_size for path in files.values()) < 80 * 1_024
