"""Every figure: takes a finished table, draws it with n and interval, returns the Axes."""

from __future__ import annotations

import datetime as dt
import io
import textwrap
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from convlib.lazy import LazyModule
from convlib.periods import PERIODS
from convlib.plan_entries import is_share
from convlib.results import Kind, cut_text, find_kind, format_seconds, format_value
from convlib.stats import FEW_UNITS, SIGNIFICANCE

if TYPE_CHECKING:
    import matplotlib.pyplot as plt
    import seaborn as sns
    from matplotlib import dates as mdates
    from matplotlib import patches, patheffects, ticker
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

    from convlib import figures
else:
    plt, sns = LazyModule("matplotlib.pyplot"), LazyModule("seaborn")
    mdates, patches, patheffects, ticker = (
        LazyModule(f"matplotlib.{name}") for name in ("dates", "patches", "patheffects", "ticker")
    )
    figures = LazyModule("convlib.figures")

#: Okabe and Ito's palette, safe for colour-blind readers.
BLUE, ORANGE, GREEN, RED, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#6B7280"
CYCLE = (BLUE, ORANGE, GREEN, "#CC79A7", "#56B4E9", RED, "#000000")
#: With the colours of `CYCLE`, so that nothing is told apart by its colour alone.
MARKERS = "osD^vPX"
DASHES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 3)))
DPI = 130
#: Inches; narrow, so that the text is still readable when a phone shows the whole figure.
WIDTH = 6.0
LABEL_LENGTH = 32
VERDICT_COLOURS = {"positive": GREEN, "negative": RED}
VERDICT_MARKS = {"positive": ">", "negative": "<"}
STATUS_COLOURS = {"met": GREEN, "missed": RED, "outside benchmark": ORANGE}
STATUS_MARKS = {"met": "o", "missed": "X", "outside benchmark": "D"}
SEVERITY_COLOURS = {"critical": RED, "error": RED, "warning": ORANGE, "info": BLUE}
SEVERITY_MARKS = {"critical": "X", "error": "X", "warning": "^", "info": "o"}
TIER_COLOURS = {"macro": ORANGE, "micro": BLUE, "loss": RED, "not in the plan": "#9CA3AF"}
TIER_DASHES = {"macro": "-", "micro": "-", "loss": "--", "not in the plan": ":"}
#: Light enough for the value on them; the sign says the same without colour.
STATUS_CELLS = {
    "met": ("#A7E3CF", "✓ "),
    "missed": ("#F6C29B", "✗ "),
    "outside benchmark": ("#F9E1A0", "! "),
}
LEAK_COLOURS = {"leaks more": RED, "leaks less": GREEN}
EFFECT_COLOURS = {"better": GREEN, "within margin": GREEN, "worse": RED}
#: Why a figure of an experiment has nothing to draw.
TOO_FEW = "Too few units or conversions to show a change."
NOT_VALID = "The test is not valid: its effects are not shown."
MOST_ROWS, MOST_GROUPS, MOST_LEAKS, MOST_TICKS = 25, 8, 12, 7
#: Intervals so many times as wide as the narrowest are not shown to their ends.
WIDEST = 5
#: Times that axes are marked at: seconds, minutes, hours, days, weeks, months, years.
ROUND_SECONDS = (
    *(1, 10, 60, 600, 3_600, 6 * 3_600),
    *(86_400 * days for days in (1, 2, 7, 14, 30, 60, 90, 180, 365, 730, 1_825)),
)
#: Times that an even axis is marked at every so many of.
EVEN_SECONDS = (
    *(1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1_800, 3_600, 7_200, 10_800, 21_600, 43_200),
    *(86_400 * days for days in (1, 2, 7, 14, 30, 60, 90, 180, 365, 730, 1_825)),
)
#: Distances of dates that an axis is marked at, as pandas calls them, with their days.
DATE_STEPS = (
    *(("1D", 1), ("2D", 2), ("7D", 7), ("14D", 14), ("MS", 31), ("2MS", 62)),
    *(("QS", 92), ("6MS", 184), ("YS", 366), ("2YS", 731), ("5YS", 1_827)),
)
#: A flow shows so many places of the paths, and at each so many conversions, if they have this share of the units.
FLOW_PLACES, FLOW_NODES, FLOW_SMALLEST = 5, 6, 0.02
#: Width of a node, of the distance between places; height of a line of its label, of all units.
FLOW_BAR, FLOW_LINE = 0.05, 0.03
#: Letters of a label that fit between two places.
FLOW_LETTERS = 17
FLOW_COLOURS = {"converted": ORANGE, "lost": "#9CA3AF"}
FLOW_OTHER = "other: "
#: How the nodes that are no conversion are called.
FLOW_MARKERS = {"(start)": "nothing before", "(end)": "nothing more", "(more)": "more"}


def draw_funnel(
    table: pd.DataFrame, *, by: Sequence[str], window: str, segment: str, counted: str = "units", ax: Axes | None = None
) -> Axes:
    """Draw the share of the first step's units at each step, one bar a step (and group)."""
    steps = list(dict.fromkeys(table["name"]))
    groups = list(table.groupby(list(by), sort=True)) if by else [(segment, table)]
    ax = _axes(ax, height=1.2 + 0.42 * len(steps) * max(1, 0.6 * min(len(groups), 6)))
    shown = _choose_groups(groups, len(CYCLE) - 1)
    size = 0.8 / max(1, len(shown))
    for number, (key, rows) in enumerate(shown):
        place = np.arange(len(steps)) + (number - (len(shown) - 1) / 2) * size
        label = f"{_key(key)} (n = {rows['units'].iloc[0]:,})"
        rate = rows["rate_from_start"].to_numpy(float)
        error = _errors(rows, "rate_from_start")
        ax.barh(place, np.nan_to_num(rate), size * 0.92, color=CYCLE[number], label=label)
        ax.errorbar(rate, place, xerr=error, fmt="none", ecolor="#111827", elinewidth=1, capsize=2)
        if len(shown) == 1:
            beside = (rows["rate_from_start_ci_upper"].fillna(0) + 0.02).clip(upper=1.02)
            for y, x, units in zip(place, beside, rows["units"], strict=True):
                ax.text(x, y, f"{units:,}", va="center", fontsize=9, color="#374151")
    ax.set_yticks(np.arange(len(steps)), [_label(step) for step in steps])
    ax.invert_yaxis()
    ax.set_xlim(0, 1.12)
    _write_ticks(ax.xaxis, "percent")
    out = f"; {len(shown)} of {len(groups)} groups" if len(shown) < len(groups) else ""
    _xlabel(ax, f"of the {counted} at the first step, within {window}; 95% intervals{out}")
    _title(ax, f"Where do {counted} leave? ({segment})" if not by else f"How far does each group get? ({segment})")
    if len(shown) > 1:
        _legend(ax)
    return ax


def _choose_groups(groups: Sequence[tuple[Any, pd.DataFrame]], most: int) -> list[tuple[Any, pd.DataFrame]]:
    """Choose the groups that get through most and least often, for takeaways name them, then the largest."""
    rates = {key: rows["rate_from_start"].iloc[-1] for key, rows in groups if rows["units"].max() >= FEW_UNITS}
    ranked = sorted((key for key, rate in rates.items() if rate == rate), key=lambda key: rates[key])
    named = {*ranked[:1], *ranked[-1:]}
    largest = sorted(groups, key=lambda item: -item[1]["units"].max())
    chosen = sorted(largest, key=lambda item: item[0] not in named)[:most]
    return [group for group in largest if group[0] in {key for key, _ in chosen}]


def draw_leaks(leaks: pd.DataFrame, *, by: Sequence[str], segment: str, ax: Axes | None = None) -> Axes:
    """Draw how much more or less often each group leaves than all others, where that could be tested."""
    tested = leaks[leaks["q_value"].notna()]
    # First those that leave more often, with the most extra losses, as takeaways do; in the order of the steps.
    extra = (tested["leak_difference"] * tested["units_before"]).abs()
    ranked = tested.assign(more=tested["verdict"] == "leaks more", extra=extra).sort_values(
        ["more", "extra"], ascending=False, kind="stable"
    )
    rows = ranked.head(MOST_LEAKS).sort_values(["step", "leak_difference"], ascending=[True, False])
    ax = _axes(ax, height=1.4 + 0.46 * max(1, len(rows)))
    colours = rows["verdict"].map(LEAK_COLOURS).fillna(GREY)
    for place, (colour, (_, row)) in enumerate(zip(colours, rows.iterrows(), strict=True)):
        bounds = row["leak_difference_ci_lower"], row["leak_difference_ci_upper"]
        ax.plot(bounds, [place, place], color=colour, linewidth=2)
        ax.plot(row["leak_difference"], place, "o", color=colour, markersize=6)
    ax.axvline(0, color="#111827", linewidth=1)
    groups = rows[list(by)].agg(", ".join, axis=1) if len(rows) else pd.Series(dtype="str")
    _label_rows(ax, groups + ", before " + rows["name"], rows["units_before"])
    ax.xaxis.set_major_locator(ticker.MaxNLocator(6, steps=[1, 2, 5, 10]))
    ax.xaxis.set_major_formatter(ticker.FuncFormatter(lambda share, _: _write_sign(100 * share)))
    _xlabel(ax, "points of the share lost against all other groups, with 95% interval; dark orange more, green less")
    _title(ax, f"Which groups leave more often than the others? ({segment})")
    return ax


def draw_times(times: pd.DataFrame, *, by: Sequence[str], segment: str, ax: Axes | None = None) -> Axes:
    """Draw how the time to each step is spread, as small multiples; the line is the median."""
    steps = list(dict.fromkeys(times["step"]))
    if ax is not None or not steps:
        return _draw_time(times[times["step"].isin(steps[:1])], by, _axes(ax, height=2.4))
    size = (WIDTH, 0.9 + 1.25 * len(steps))
    figure, grid = _subplots(len(steps), 1, figsize=size, squeeze=False, sharex=True)
    for step, cell in zip(steps, grid.flat, strict=True):
        _draw_time(times[times["step"] == step], by, _style(cell))
    figure.suptitle(
        _wrap(f"How long does each step take? ({segment})", 50), fontsize=11, fontweight="bold", x=0.02, ha="left"
    )
    grid.flat[-1].set_xlabel("time since the step before; upright line: median", fontsize=9)
    if by:
        figure.legend(
            *grid.flat[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=9, frameon=False
        )
    first: Axes = grid.flat[0]
    return first


def _draw_time(rows: pd.DataFrame, by: Sequence[str], ax: Axes) -> Axes:
    groups = list(rows.groupby(list(by), sort=True)) if by else [("", rows)]
    largest = sorted(groups, key=lambda item: -item[1]["units"].sum())[: len(CYCLE) - 1]
    for number, (key, group) in enumerate(largest):
        # The first bin begins at 0, which has no place on the axis: it is drawn as wide as the next.
        edges = np.append(group["seconds_low"], group["seconds_high"].tail(1))
        edges[0] = edges[1] ** 2 / edges[2] if len(edges) > 2 else edges[1] / 2
        colour = CYCLE[number] if by else BLUE
        look: dict[str, Any] = {"linestyle": DASHES[number] if by else "-", "color": colour}
        ax.stairs(group["share"].fillna(0), edges, fill=not by, label=_key(key), linewidth=1.6, **look)
        if np.isfinite(group["seconds_p50"].iloc[0]):
            look["color"] = colour if by else "#111827"
            ax.axvline(max(group["seconds_p50"].iloc[0], edges[0]), linewidth=1.4, **look)
    if len(rows):
        name = textwrap.shorten(rows["name"].iloc[0], LABEL_LENGTH + 16, placeholder="…")
        ax.set_title(f"{name} (n = {rows['units'].sum():,})", fontsize=9, loc="left")
        lowest = rows["seconds_low"].iloc[1] if len(rows) > 1 else rows["seconds_high"].iloc[0] / 2
        _time_axis(ax, lowest, rows["seconds_high"].max(), log=True)
    _write_ticks(ax.yaxis, "percent")
    ax.yaxis.set_major_locator(ticker.MaxNLocator(3))
    ax.set_ylim(0, None)
    ax.tick_params(labelsize=8)
    return ax


def draw_curve(
    curve: pd.DataFrame, *, by: Sequence[str], segment: str, counted: str = "units", ax: Axes | None = None
) -> Axes:
    """Draw the share converted by time since entry, with its interval."""
    ax = _axes(ax, height=3.8)
    groups = list(curve.groupby(list(by), sort=True)) if by else [(segment, curve)]
    shown = sorted(groups, key=lambda item: -item[1]["at_risk"].max())[: len(CYCLE) - 1] if len(curve) else []
    for number, (key, rows) in enumerate(shown):
        label = f"{_key(key)} (n = {rows['at_risk'].max():,.0f})"
        look: dict[str, Any] = {"color": CYCLE[number], "linestyle": DASHES[number]}
        ax.step(rows["seconds"], rows["share"], where="post", linewidth=1.6, label=label, **look)
        bounds = rows["share_ci_lower"], rows["share_ci_upper"]
        ax.fill_between(rows["seconds"], *bounds, step="post", color=CYCLE[number], alpha=0.2, linewidth=0)
    if len(shown):
        # Where most convert early, an even axis would show a wall and then nothing.
        converted = curve[curve["converted"] > 0]
        longest, soon = curve["seconds"].max(), _weighted_median(converted["seconds"], converted["converted"])
        _time_axis(ax, max(soon / 100, 1.0), longest, log=soon < longest / 20)
    ax.set_ylim(0, None)
    _percent_axis(ax.yaxis)
    ax.set_ylabel("converted by then")
    _xlabel(ax, f"time since entry; pending {counted} count for as long as they were watched; band: 95% interval")
    _title(ax, f"How long until {counted} convert? ({segment})")
    _legend(ax)
    return ax


def _weighted_median(values: pd.Series, weights: pd.Series) -> float:
    return float(np.median(np.repeat(values, weights))) if len(values) else 0.0


def _time_axis(ax: Axes, low: float, high: float, *, log: bool) -> None:
    """Put ticks at round times: 1 min, 10 min, 1 h, ..."""
    if log:
        ax.set_xscale("log")
        ticks = [float(each) for each in ROUND_SECONDS if low <= each <= high]
        ticks = ticks[:: -(-len(ticks) // MOST_TICKS) or 1]
    else:
        ticks = _list_seconds(high, most=MOST_TICKS)
    ax.xaxis.set_major_locator(ticker.FixedLocator(ticks))
    ax.xaxis.set_minor_locator(ticker.NullLocator())
    _write_ticks(ax.xaxis, "seconds")


def _list_seconds(high: float, *, most: int) -> list[float]:
    """List at most so many round times up to a highest, from 0."""
    step = next((each for each in EVEN_SECONDS if each * most >= high), high)
    return [float(each) for each in np.arange(0, high * 1.001, step or 1)]


def _mark_dates(ax: Axes, dates: pd.Series, *, most: int = 6) -> None:
    """Put ticks at the first days of round periods; the year stands where it begins.

    Matplotlib's own search for round dates takes longer than all else in a figure of many panels.
    """
    low, high = dates.min(), dates.max()
    if pd.isna(low):
        return
    step, days = next(filter(lambda each: each[1] * most >= (high - low).days, DATE_STEPS), DATE_STEPS[-1])
    ticks = pd.date_range(low.normalize(), high, freq=step)
    written = [f"{tick:%Y}" if days > 365 else f"{tick:%b}" if days > 14 else f"{tick.day} {tick:%b}" for tick in ticks]
    if days <= 365:
        begins = [number == 0 or tick.year > ticks[number - 1].year for number, tick in enumerate(ticks)]
        pairs = zip(written, ticks, begins, strict=True)
        written = [f"{text}\n{tick:%Y}" if begin else text for text, tick, begin in pairs]
    ax.set_xticks(mdates.date2num(ticks.to_pydatetime()), written)  # type: ignore[no-untyped-call]


def draw_next(table: pd.DataFrame, *, segment: str, counted: str = "units", ax: Axes | None = None) -> Axes:
    """Draw what came next at the step at which most stopped; grey is nothing or anything else."""
    stops = table.groupby("step")["units"].sum()
    rows = table[table["step"] == stops.idxmax()] if len(table) else table
    ax = _axes(ax, height=1.4 + 0.36 * max(1, len(rows)))
    place = np.arange(len(rows))
    colours = [GREY if name.startswith("(") else BLUE for name in rows["next"]]
    ax.barh(place, rows["share"], 0.7, color=colours)
    ax.errorbar(
        rows["share"], place, xerr=_errors(rows, "share"), fmt="none", ecolor="#111827", elinewidth=1, capsize=2
    )
    _label_rows(ax, rows["next"], rows["units"])
    ax.set_xlim(0, None)
    _percent_axis(ax.xaxis)
    where = rows["name"].iloc[0] if len(rows) else "a step"
    _xlabel(ax, f"of the {rows['units'].sum():,} {counted} that stopped there; 95% intervals")
    _title(ax, f"What did those do next that stopped at {where}? ({segment})")
    return ax


def draw_trend(trend: pd.DataFrame, *, segment: str, ax: Axes | None = None) -> Axes:
    """Draw the completion rate by week of entry."""
    ax = _axes(ax, height=3.2)
    rows = trend[trend["note"] == ""]
    ax.errorbar(
        rows["period"],
        rows["rate"],
        yerr=_errors(rows, "rate"),
        fmt="o-",
        color=BLUE,
        ecolor="#93C5FD",
        capsize=2,
        markersize=4,
    )
    ax.set_ylim(0, None)
    _percent_axis(ax.yaxis)
    _mark_dates(ax, rows["period"])
    ax.set_ylabel("reached the last step")
    _xlabel(ax, f"week of entry; n = {int(rows['units'].sum()):,}; small and partial weeks left out; 95% intervals")
    _title(ax, f"Does completion change from week to week? ({segment})")
    return ax


def draw_rates(
    table: pd.DataFrame,
    limits: pd.DataFrame,
    *,
    by: Sequence[str],
    every: str,
    segment: str,
    ax: Axes | None = None,
) -> Axes:
    """Draw both tiers period by period as small multiples, each with interval, target, benchmark and n."""
    rows = table.join(limits[["limit_low", "limit_high"]])
    # A period without data, or with too few units, is a gap in the line.
    rows = rows[~rows["note"].str.startswith("partial")]
    rows[["value", "ci_lower", "ci_upper"]] = rows[["value", "ci_lower", "ci_upper"]].where(rows["note"] == "")
    keys = list(dict.fromkeys(rows.sort_values("tier", kind="stable")["conversion"]))[:MOST_ROWS]
    if ax is not None or not keys:
        ax = _draw_rate(rows[rows["conversion"].isin(keys[:1])], by, _axes(ax, height=3))
        _mark_dates(ax, rows["period"])
        return ax
    figure, cells = _lay_panels(len(keys), legend=bool(by))
    for key, cell in zip(keys, cells, strict=True):
        _draw_rate(rows[rows["conversion"] == key], by, _style(cell))
    _mark_dates(cells[0], rows["period"], most=4)
    title = f"How does each metric do from {PERIODS[every]} to {PERIODS[every]}? ({segment})"
    figure.suptitle(
        _wrap(cut_text(title, 100), 56), fontsize=11, fontweight="bold", x=0.02, y=0.995, ha="left", va="top"
    )
    said = f"{PERIODS[every]} of entry; n: units in the last; band: 95% interval; dashed: target; grey: benchmark"
    out = "" if by else "; ring: outside its control limits"
    figure.supxlabel(_wrap(said + out, 80), fontsize=8, y=0.3 / figure.get_figheight() if by else 0.005)
    if by:
        figure.legend(*cells[0].get_legend_handles_labels(), loc="lower center", ncols=4, fontsize=8, frameon=False)
    return cells[0]


def _lay_panels(count: int, *, legend: bool) -> tuple[Figure, list[Axes]]:
    """Lay small panels out in two columns over the same dates, with room for two lines of text above each.

    At distances of their own: to measure the texts of so many panels takes longer than to draw them.
    """
    lines = -(-count // 2)
    high, between, above, below = 0.78, 0.46, 0.68, 1.0 if legend else 0.78
    height = above + lines * high + (lines - 1) * between + below
    size = WIDTH, height
    figure, grid = _subplots(lines, 2, figsize=size, squeeze=False, sharex=True, layout=figures.Fixed())
    figure.subplots_adjust(0.1, below / height, 0.985, 1 - above / height, wspace=0.28, hspace=between / high)
    for cell in grid.flat[count:]:
        cell.set_axis_off()
    for cell in grid.flat[max(0, count - 2) : count]:
        cell.tick_params(labelbottom=True)
    return figure, list(grid.flat[:count])


def _draw_rate(rows: pd.DataFrame, by: Sequence[str], ax: Axes) -> Axes:
    for number, (key, group) in enumerate(rows.groupby(list(by), sort=True) if by else [("", rows)]):
        colour = CYCLE[number % len(CYCLE)] if by else ORANGE if (rows["tier"] == "macro").any() else BLUE
        low, high = group["ci_lower"].astype(float), group["ci_upper"].astype(float)
        mark = MARKERS[number % len(MARKERS)]
        look: dict[str, Any] = {"color": colour, "marker": mark, "markersize": 3, "linewidth": 1.4, "label": _key(key)}
        ax.plot(group["period"], group["value"], **look)
        ax.fill_between(group["period"], low, high, color=colour, alpha=0.2, linewidth=0)
        known = group[group["value"].notna()]
        if len(known) < len(group):
            # Over a gap the line is dotted; a period between two gaps has an interval and no band.
            ax.plot(known["period"], known["value"], ":", color=colour, linewidth=0.8)
            ax.vlines(group["period"].to_numpy(), low, high, color=colour, alpha=0.4, linewidth=1)
        out = known[(known["value"] < known["limit_low"]) | (known["value"] > known["limit_high"])]
        if len(out):
            ax.plot(out["period"], out["value"], "o", color=RED, markersize=8, fillstyle="none", linestyle="none")
    if len(rows):
        ends = rows[["value", "ci_upper", "target", "benchmark_high"]].to_numpy(float)
        ax.set_ylim(0, 1.12 * np.nanmax(ends, initial=0) or 1)
        _draw_goals(rows.iloc[-1], ax)
        shown = rows[rows["value"].notna()]
        last = shown[shown["period"] == shown["period"].max()]["exposed"].sum()
        name = textwrap.shorten(rows["conversion"].iloc[0], 64, placeholder="…")
        ax.set_title(_label(name, int(last), width=42), fontsize=8, loc="left")
        kind = find_kind(rows["metric"].iloc[0])
        _write_ticks(ax.yaxis, kind)
        if kind == "seconds":
            ax.yaxis.set_major_locator(ticker.FixedLocator(_list_seconds(ax.get_ylim()[1], most=3)))
        else:
            ax.yaxis.set_major_locator(ticker.MaxNLocator(3, steps=[1, 2, 5, 10]))
    ax.tick_params(labelsize=7)
    return ax


def _draw_goals(row: pd.Series, ax: Axes) -> None:
    """Draw a metric's benchmark as a band and its target as a line; an open end reaches the edge of the axes."""
    ends = (row["benchmark_low"], row["benchmark_high"])
    if np.isfinite(ends).any():
        low, high = (edge if np.isnan(end) else end for end, edge in zip(ends, (0, ax.get_ylim()[1]), strict=True))
        ax.axhspan(low, high, color="#E5E7EB", zorder=0)
    if np.isfinite(row["target"]):
        ax.axhline(row["target"], color=GREY, linestyle="--", linewidth=1)


def draw_status(latest: pd.DataFrame, *, by: Sequence[str], segment: str, ax: Axes | None = None) -> Axes:
    """Draw each metric of each group as a cell: its value, coloured by how it stands."""
    names = list(dict.fromkeys(latest["conversion"]))[:MOST_ROWS]
    groups = pd.Series("all", index=latest.index)
    if by and len(latest):
        groups = latest[list(by)].astype(str).agg(", ".join, axis="columns")
    columns = list(dict.fromkeys(groups))[:MOST_GROUPS]
    ax = _axes(ax, height=1.3 + 0.3 * max(1, len(names)))
    for (_, row), group in zip(latest.iterrows(), groups, strict=True):
        if row["conversion"] not in names or group not in columns:
            continue
        x, y = columns.index(group), names.index(row["conversion"])
        colour, mark = STATUS_CELLS.get(row["status"], ("#F3F4F6", ""))
        ax.add_patch(patches.Rectangle((x, y), 1, 1, facecolor=colour, edgecolor="white", linewidth=2))
        text = f"{mark}{format_value(row['value'], find_kind(row['metric']))}"
        ax.text(x + 0.5, y + 0.5, text, ha="center", va="center", fontsize=8, color="#111827")
    ax.set(xlim=(0, max(1, len(columns))), ylim=(max(1, len(names)), 0))
    ax.set_xticks(np.arange(len(columns)) + 0.5, [_label(column, width=14) for column in columns], fontsize=8)
    ax.set_yticks(np.arange(len(names)) + 0.5, [_label(name) for name in names], fontsize=8)
    ax.grid(visible=False)
    ax.tick_params(length=0)
    named = f"{', '.join(by).replace('_', ' ')}; latest complete period: " if by else ""
    _xlabel(ax, f"{named}✓ meets its target, ✗ misses it, ! outside its benchmark, grey: no goal or too few")
    more = "" if len(set(groups)) <= MOST_GROUPS else f" (the first {MOST_GROUPS})"
    _title(ax, f"Which groups meet their targets? ({segment}){more}")
    return ax


def draw_targets(latest: pd.DataFrame, *, segment: str, ax: Axes | None = None) -> Axes:
    """Draw each rate of the latest period with its interval, beside its target (bar) and benchmark (band)."""
    goals = latest[["target", "benchmark_low", "benchmark_high"]].notna().any(axis="columns")
    rows = latest[goals & latest["metric"].map(is_share).astype(bool)].head(MOST_ROWS)
    ax = _axes(ax, height=1.2 + 0.36 * max(1, len(rows)))
    place = np.arange(len(rows))
    colours = rows["status"].map(STATUS_COLOURS).fillna(GREY)
    # An open end reaches to the edge of what a share can be; no benchmark at all is a band of no width.
    given = rows["benchmark_low"].notna() | rows["benchmark_high"].notna()
    low, high = rows["benchmark_low"].fillna(0), rows["benchmark_high"].fillna(1).where(given, 0)
    ax.barh(
        place,
        high - low,
        0.62,
        left=low,
        color="#E5E7EB",
        label="benchmark",
    )
    ends = zip(rows["ci_lower"], rows["value"], rows["ci_upper"], strict=True)
    for y, (lower, value, upper), colour, status in zip(place, ends, colours, rows["status"], strict=True):
        ax.plot([lower, upper], [y, y], color=colour, linewidth=2)
        face = colour if status in STATUS_MARKS else "white"
        ax.plot(value, y, STATUS_MARKS.get(status, "o"), color=colour, markerfacecolor=face, markersize=6)
    ax.plot(
        rows["target"], place, "|", color="#111827", markersize=16, markeredgewidth=2, linestyle="none", label="target"
    )
    _label_rows(ax, rows["conversion"], rows["exposed"])
    ax.set_xlim(0, None)
    _write_ticks(ax.xaxis, "percent")
    _xlabel(
        ax,
        "latest complete period, with 95% interval; green dot: met, dark orange cross: missed, "
        "orange diamond: outside its benchmark; hollow: no verdict",
    )
    _title(ax, f"Which targets are met? ({segment})")
    _legend(ax)
    return ax


def draw_lifts(table: pd.DataFrame, *, macro: str, segment: str, worth: bool = False, ax: Axes | None = None) -> Axes:
    """Draw raw and adjusted lift of each micro with their intervals; in points, or in what a unit is worth."""
    # The interval of a handful of units would squeeze all the others; those rows stand in the table.
    rows = table[table["lift"].notna() & (table["verdict"] != "too few")].head(MOST_ROWS)
    ax = _axes(ax, height=1.4 + 0.42 * max(1, len(rows)))
    place = np.arange(len(rows))
    named: set[str] = set()
    ax.errorbar(
        rows["lift"],
        place - 0.15,
        xerr=_errors(rows, "lift"),
        fmt="o",
        color="#9CA3AF",
        markersize=4,
        elinewidth=1,
        label="raw",
    )
    for number, (y, verdict) in enumerate(zip(place + 0.12, rows["verdict"], strict=True)):
        row, judged = rows.iloc[[number]], verdict in (*VERDICT_COLOURS, "no evidence")
        kind = verdict if judged else "not judged"
        ax.errorbar(
            row["adjusted_lift"],
            [y],
            xerr=_errors(row, "adjusted_lift"),
            fmt=VERDICT_MARKS.get(verdict, "s" if judged else "x"),
            color=VERDICT_COLOURS.get(verdict, GREY),
            markerfacecolor=None if verdict in VERDICT_MARKS else "white",
            markersize=6,
            elinewidth=2,
            label=None if kind in named else f"adjusted: {kind}",
        )
        named.add(kind)
    ax.axvline(0, color="#111827", linewidth=1)
    _label_rows(ax, rows["micro"], rows["units_with"])
    ax.xaxis.set_major_formatter(ticker.FuncFormatter(lambda lift, _: _write_sign(lift if worth else 100 * lift)))
    kind = "value per unit" if worth else "percentage points"
    _xlabel(ax, f"{kind}, with 95% interval; n: how many did it; those with too few units left out")
    _title(ax, f"What goes with {macro}? ({segment})")
    _legend(ax)
    return ax


def draw_friction(table: pd.DataFrame, *, name: str, unit: str, segment: str, ax: Axes | None = None) -> Axes:
    """Draw how a signal is spread on the worst pages, and the share of visits that end there with and without it."""
    rows = table.head(MOST_LEAKS)
    title = f"{name}: do more visits end there? ({segment})"
    if ax is None:
        size = (WIDTH, 2.4 + 0.75 * max(1, len(rows)))
        figure, (spread, ax) = _subplots(2, 1, figsize=size)
        place = np.arange(len(rows))
        _style(spread).hlines(place, rows["p50"], rows["p95"], color=BLUE, linewidth=2)
        spread.plot(rows["p50"], place, "o", color=BLUE, markersize=6)
        spread.plot(rows["p75"], place, "|", color=BLUE, markersize=12)
        spread.set_xlim(left=0)
        _label_rows(spread, rows["page"], rows["visits"])
        unit = {"s": "seconds", "ms": "milliseconds"}.get(unit, unit)
        _xlabel(
            spread,
            f"{unit or 'a visit'}: median (dot), 75% (tick), 95% (end of the line); n visits",
        )
        figure.suptitle(_wrap(title, 50), fontsize=11, fontweight="bold", x=0.02, ha="left")
        _style(ax)
    else:
        _title(ax, title)
    place = np.arange(len(rows))
    without = rows["leave_rate_without"].to_numpy(float)
    lift, reach = rows["adjusted_lift"].to_numpy(float), _errors(rows, "adjusted_lift")
    colours = rows["verdict"].map({"leaves more": RED, "leaves less": GREEN}).fillna(GREY)
    ax.hlines(place, without + lift - reach[0], without + lift + reach[1], color=colours, linewidth=2)
    ax.scatter(without + lift, place, color=colours, s=36, zorder=3, label="with it, others alike")
    ax.scatter(without, place, color="white", edgecolor="#111827", s=30, zorder=4, label="visits without it")
    _label_rows(ax, rows["page"], rows["visits_with"])
    _percent_axis(ax.xaxis)
    ax.set_xlim(left=0)
    _xlabel(ax, "of the visits end there, with 95% interval; orange more, green less, grey unclear; n visits with it")
    _legend(ax)
    return ax


def draw_groups(groups: pd.DataFrame, *, none: str, segment: str, worth: bool = False, ax: Axes | None = None) -> Axes:
    """Draw lifts by group, one colour a micro, in the order of the rows; or say why there are `none`."""
    rows = groups.reset_index(drop=True)
    ax = _axes(ax, height=1.4 + 0.34 * max(1, len(rows)))
    _title(ax, f"For whom does the lift differ? ({segment})")
    if rows.empty:
        ax.text(0.0, 0.5, none, transform=ax.transAxes)
        ax.set_axis_off()
        return ax
    for number, micro in enumerate(dict.fromkeys(rows["micro"])):
        mine = (rows["micro"] == micro).to_numpy()
        ax.errorbar(
            rows["lift"][mine],
            np.flatnonzero(mine),
            xerr=_errors(rows[mine], "lift"),
            fmt=MARKERS[number],
            color=CYCLE[number],
            markersize=5,
            elinewidth=1.5,
            label=str(micro),
        )
    ax.axvline(0, color="#111827", linewidth=1)
    _label_rows(ax, rows["column"] + " " + rows["value"].astype(str), rows["units_with"])
    ax.xaxis.set_major_formatter(ticker.FuncFormatter(lambda lift, _: _write_sign(lift if worth else 100 * lift)))
    _xlabel(ax, f"lift in {'value per unit' if worth else 'percentage points'}, with 95% interval; n: how many did it")
    _legend(ax)
    return ax


def draw_credit(table: pd.DataFrame, *, macro: str, model: str, segment: str, ax: Axes | None = None) -> Axes:
    """Draw the conversions credited to each touch with their intervals; grey is no touch."""
    rows = pd.concat([table.iloc[:-1].head(MOST_ROWS), table.tail(1)])
    ax = _axes(ax, height=1.4 + 0.4 * len(rows))
    place = np.arange(len(rows))
    ax.barh(place, rows["conversions"], 0.6, color=[*[BLUE] * (len(rows) - 1), GREY])
    error = _errors(rows, "conversions")
    ax.errorbar(rows["conversions"], place, xerr=error, fmt="none", ecolor="#111827", elinewidth=1, capsize=2)
    _label_rows(ax, rows["touch"], rows["units"])
    ax.xaxis.set_major_locator(ticker.MaxNLocator(6, steps=[1, 2, 5, 10]))
    _write_ticks(ax.xaxis)
    _xlabel(ax, f"{macro}: credited of {table['conversions'].sum():,.0f}, with 95% interval; n units had the touch")
    _title(ax, f"Which touches get the credit for {macro}? ({model}; {segment})")
    return ax


def draw_models(comparison: pd.DataFrame, *, macro: str, segment: str, ax: Axes | None = None) -> Axes:
    """Draw the conversions that each model (a column) credits to each touch (a row)."""
    rows = comparison.iloc[:-1].head(MOST_ROWS)
    ax = _axes(ax, height=2.2 + 0.36 * len(rows))
    models, place = [name for name in rows if name != "touch"], np.arange(len(rows))
    ax.hlines(place, rows[models].min(axis=1), rows[models].max(axis=1), color="#D1D5DB", linewidth=4, zorder=1)
    for name, colour, marker in zip(models, CYCLE, MARKERS, strict=True):
        ax.scatter(rows[name], place, color=colour, marker=marker, s=30, label=name, zorder=2)
    ax.set_yticks(place, [_label(name) for name in rows["touch"]], fontsize=9)
    ax.invert_yaxis()
    ax.xaxis.set_major_locator(ticker.MaxNLocator(6, steps=[1, 2, 5, 10]))
    _write_ticks(ax.xaxis)
    total = comparison[models[0]].sum()
    _xlabel(ax, f"credited by each model, of {total:,.0f} {macro}")
    _title(ax, f"How far do the models agree? ({segment})")
    _legend(ax)
    return ax


def draw_matrix(matrix: pd.DataFrame, *, segment: str, ax: Axes | None = None) -> Axes:
    """Draw which micros come together."""
    ax = _axes(ax, height=1.2 + 0.32 * max(1, len(matrix)))
    _title(ax, f"Which micro-conversions come together? ({segment})")
    if matrix.empty:
        return ax
    others = matrix.where(~np.eye(len(matrix), dtype=bool))
    sns.heatmap(
        others,
        vmin=-1,
        vmax=1,
        cmap="RdBu_r",
        # Without the leading zero thirteen columns still fit a phone's width.
        annot=others.map(lambda phi: "" if np.isnan(phi) else f"{phi:z.2f}".replace("0.", ".", 1)),
        fmt="",
        annot_kws={"size": 7},
        linewidths=0.5,
        linecolor="white",
        cbar=False,
        ax=ax,
    )
    ax.set_ylabel("")
    _xlabel(ax, "phi: 1 the same people did both, 0 no more of them than by chance, below 0 fewer")
    numbers = [str(n) for n in range(1, len(matrix) + 1)]
    ax.set_xticks(np.arange(len(matrix)) + 0.5, numbers, fontsize=8, rotation=0)
    ax.set_yticks(
        np.arange(len(matrix)) + 0.5,
        [_label(f"{n} {name}", width=24) for n, name in zip(numbers, matrix.index, strict=True)],
    )
    ax.tick_params(axis="y", labelsize=8, rotation=0)
    return ax


def draw_opportunities(table: pd.DataFrame, *, worth: str, segment: str, ax: Axes | None = None) -> Axes:
    """Draw the opportunity of each ranked micro with its interval."""
    rows = table[table["rank"].notna()].head(MOST_ROWS)
    ax = _axes(ax, height=1.2 + 0.44 * max(1, len(rows)))
    place = np.arange(len(rows))
    colours = _worth_colours(rows)
    hatch = ["///" if colour == GREY else "" for colour in colours]
    ax.barh(place, rows["opportunity"], 0.6, color=colours, hatch=hatch, edgecolor="white", linewidth=0)
    ax.errorbar(
        rows["opportunity"],
        place,
        xerr=_errors(rows, "opportunity"),
        fmt="none",
        ecolor="#111827",
        elinewidth=1,
        capsize=2,
    )
    _label_rows(ax, rows["rank"].astype("str") + ". " + rows["micro"], rows["units_with"])
    ax.axvline(0, color="#111827", linewidth=1)
    tested = "; green: measured in an experiment" if (rows["verdict"] == "measured").any() else ""
    ax.xaxis.set_major_locator(ticker.MaxNLocator(5))
    _write_ticks(ax.xaxis)
    _xlabel(ax, f"{worth} at its goal, with 95% interval; grey, hatched: no evidence{tested}")
    _title(ax, f"What would each be worth, if the association held? ({segment})")
    return ax


def draw_effort(table: pd.DataFrame, *, worth: str, segment: str, ax: Axes | None = None) -> Axes:
    """Draw opportunity against effort, so that the upper left is where to begin."""
    rows = table[table["rank"].notna() & table["effort"].notna()]
    ax = _axes(ax, height=4)
    colours = _worth_colours(rows)
    ax.errorbar(
        rows["effort"], rows["opportunity"], yerr=_errors(rows, "opportunity"), fmt="none", ecolor="#D1D5DB", zorder=1
    )
    faces = ["white" if colour == GREY else colour for colour in colours]
    ax.scatter(rows["effort"], rows["opportunity"], c=faces, edgecolors=colours, s=40, zorder=2)
    sides = rows.groupby("effort").cumcount() % 2  # so that two of about the same value can both be read
    for row, left in zip(rows.to_dict("records"), sides, strict=True):
        ax.annotate(
            f"{row['rank']}",  # names would cover one another, and stand in the table by rank
            (row["effort"], row["opportunity"]),
            xytext=(-6 if left else 6, 3),
            textcoords="offset points",
            fontsize=8,
            ha="right" if left else "left",
        )
    ax.axhline(0, color="#111827", linewidth=1)
    ax.margins(x=0.25)
    _xlabel(
        ax, f"effort, as the plan says; n = {len(rows)} micro-conversions, by rank; hollow: no evidence; 95% intervals"
    )
    ax.set_ylabel(f"{worth} at its goal")
    _write_ticks(ax.yaxis)
    ax.xaxis.set_major_locator(ticker.MaxNLocator(6, integer=True))
    _title(ax, f"Where is most to gain for the effort? ({segment})")
    return ax


def draw_power(curve: pd.DataFrame, *, power: float, segment: str, ax: Axes | None = None) -> Axes:
    """Draw the chance that each metric shows what it is to show, by weeks of assignment."""
    ax = _axes(ax, height=3.8)
    groups = list(curve.groupby("name", sort=False))
    for number, (name, rows) in enumerate(groups[: len(CYCLE)]):
        style = "--" if rows["role"].iloc[0] == "guardrail" else "-"
        style += MARKERS[number]
        ax.plot(
            rows["weeks"],
            rows["power"],
            style,
            markevery=4,
            markersize=5,
            color=CYCLE[number],
            linewidth=1.8,
            label=_label(str(name)),
        )
    ax.axhline(power, color=GREY, linewidth=1)
    ax.text(1, power + 0.01, f"{power:.0%}", transform=ax.get_yaxis_transform(), ha="right", fontsize=9, color=GREY)
    ax.set_ylim(0, 1.02)
    _write_ticks(ax.yaxis, "percent")
    ax.xaxis.set_major_locator(ticker.MaxNLocator(8, integer=True))
    ax.set_ylabel("chance that the test shows it")
    traffic = f"; {curve['units'].iloc[0]:,} units a week" if len(curve) else ""
    _xlabel(ax, f"weeks of assignment{traffic}; solid: its change, dashed: that its margin is kept")
    _title(ax, f"How long does the test take? ({segment})" if len(curve) else f"Too little data to plan ({segment})")
    _legend(ax)
    return ax


def draw_values(table: pd.DataFrame, *, beyond: float, worth: str, segment: str, ax: Axes | None = None) -> Axes:
    """Draw what each micro's rate would be worth, from now over its goal to `beyond` times the way, one panel each."""
    rows = table.to_dict("records")
    if ax is not None or not rows:
        return _draw_value(table.head(1), beyond, worth, segment, _axes(ax, height=2.4))
    size = (WIDTH, 0.9 + 1.45 * -(-len(rows) // 2))
    shape = (-(-len(rows) // 2), 2)
    figure, grid = _subplots(*shape, figsize=size, squeeze=False, sharey=True)
    for number, cell in enumerate(grid.flat):
        if number < len(rows):
            _draw_value(table.iloc[[number]], beyond, "", segment, _style(cell))
        else:
            cell.set_axis_off()
    figure.suptitle(
        _wrap(f"What would each rate be worth, if the association held? ({segment})", 50),
        fontsize=11,
        fontweight="bold",
        x=0.02,
        ha="left",
    )
    figure.supxlabel("share that does it; dot: goal; band: 95% interval", fontsize=9)
    figure.supylabel(worth, fontsize=9)
    first: Axes = grid.flat[0]
    return first


def _draw_value(table: pd.DataFrame, beyond: float, worth: str, segment: str, ax: Axes) -> Axes:
    for (_, row), colour in zip(table.iterrows(), _worth_colours(table), strict=True):
        way = np.array([0, 1, beyond])
        rate = np.clip(row["baseline_rate"] + way * (row["goal_rate"] - row["baseline_rate"]), 0, 1)
        way = (rate - rate[0]) / (rate[1] - rate[0])
        low, high = (row[f"opportunity_ci_{end}"] * way for end in ("lower", "upper"))
        ax.fill_between(rate, low, high, color=colour, alpha=0.2, linewidth=0)
        ax.plot(rate, row["opportunity"] * way, color=colour, linewidth=1.8)
        ax.plot(rate[1], row["opportunity"], "o", color=colour, markersize=6)
        ax.set_title(_label(f"{row['rank']}. {row['micro']}", row["units_with"]), fontsize=9, loc="left")
        _percent_axis(ax.xaxis)
    ax.axhline(0, color="#111827", linewidth=1)
    ax.xaxis.set_major_locator(ticker.MaxNLocator(4, steps=[1, 2, 5, 10]))
    _write_ticks(ax.yaxis)
    ax.set_ylabel(worth)
    ax.tick_params(labelsize=8)
    if table.empty:
        _title(ax, f"No micro-conversion has a goal still to reach ({segment})")
    return ax


def draw_points(rows: pd.DataFrame, *, double: float, macro: str, segment: str, ax: Axes | None = None) -> Axes:
    """Draw how many points each micro is worth, with its interval."""
    rows = rows.sort_values("points", ascending=False, kind="stable").head(MOST_ROWS)
    ax = _axes(ax, height=1.4 + 0.4 * max(1, len(rows)))
    place = np.arange(len(rows))
    known = (rows["points_ci_lower"] > 0) | (rows["points_ci_upper"] < 0)
    colours = np.where(known, np.where(rows["points"] < 0, RED, BLUE), GREY).tolist()
    ax.barh(place, rows["points"], 0.62, color=colours)
    ax.errorbar(
        rows["points"], place, xerr=_errors(rows, "points"), fmt="none", ecolor="#111827", elinewidth=1, capsize=2
    )
    _label_rows(ax, rows["micro"], rows["units_with"])
    ax.axvline(0, color="#111827", linewidth=1)
    _xlabel(ax, f"points, with 95% interval; {double:g} double the odds; n: how many did it; grey: may be none")
    _title(ax, f"What counts towards {macro}? ({segment})")
    return ax


def draw_calibration(validation: pd.DataFrame, *, segment: str, ax: Axes | None = None) -> Axes:
    """Draw the observed against the predicted conversion rate of later units, decile by decile."""
    ax = _axes(ax, height=4.2)
    largest = max(validation["observed_ci_upper"].max(), validation["predicted"].max()) if len(validation) else 1.0
    ax.plot([0, largest], [0, largest], color=GREY, linewidth=1, linestyle="--", label="as predicted")
    ax.errorbar(
        validation["predicted"],
        validation["observed"],
        yerr=_errors(validation, "observed"),
        fmt="o",
        color=BLUE,
        markersize=5,
        elinewidth=1.4,
        capsize=2,
        label="a decile of the scores",
    )
    for axis in (ax.xaxis, ax.yaxis):
        _percent_axis(axis)
    ax.set(xlim=(0, None), ylim=(0, None), ylabel="observed")
    _xlabel(ax, f"predicted; n = {int(validation['units'].sum()):,} units that entered later; 95% intervals")
    _title(ax, f"Do the probabilities hold later on? ({segment})")
    _legend(ax)
    return ax


def draw_decile_lift(validation: pd.DataFrame, *, segment: str, ax: Axes | None = None) -> Axes:
    """Draw how many times as often as all later units each decile of them converts."""
    rate = validation["converted"].sum() / max(validation["units"].sum(), 1) or np.nan
    names = ["observed", "observed_ci_lower", "observed_ci_upper"]
    rows = validation.assign(**{name: validation[name] / rate for name in names})
    ax = _axes(ax, height=1.6 + 0.34 * max(1, len(rows)))
    place = np.arange(len(rows))
    ax.barh(place, rows["observed"].fillna(0), 0.7, color=BLUE)
    ax.errorbar(
        rows["observed"], place, xerr=_errors(rows, "observed"), fmt="none", ecolor="#111827", elinewidth=1, capsize=2
    )
    ax.axvline(1, color="#111827", linewidth=1, linestyle="--")
    _label_rows(ax, "decile " + rows["decile"].astype("str"), rows["units"])
    ax.set_xlim(0, None)
    _xlabel(ax, f"times as often as all later units ({rate:.1%}); decile 1: highest scores; 95% intervals")
    _title(ax, f"How much more often do high scores convert? ({segment})")
    return ax


def draw_thresholds(
    table: pd.DataFrame, chosen: tuple[int, str], *, macro: str, micro: str, segment: str, ax: Axes | None = None
) -> Axes:
    """Draw the lift of each number of times and each time, with the units that reach it; the chosen rule in bold."""
    ax = _axes(ax, height=1.6 + 0.42 * table["count"].nunique())
    counts, times = (list(dict.fromkeys(table[name])) for name in ("count", "within"))
    judged = table.assign(lift=table["lift"].where(table["note"] == ""))
    lifts = judged.pivot(index="count", columns="within", values="lift").reindex(index=counts, columns=times)
    pairs = zip(table["lift"], table["units_with"], strict=True)
    written = [f"{format_value(lift, 'points')}\nn = {n:,}" for lift, n in pairs]
    texts = table.assign(text=written).pivot(index="count", columns="within", values="text")
    texts = texts.reindex(index=counts, columns=times)
    reach = 1.4 * float(np.nanmax(np.abs(lifts.to_numpy()), initial=0.01))
    look = {"cmap": "RdBu_r", "vmin": -reach, "vmax": reach, "linewidths": 0.5, "linecolor": "white", "cbar": False}
    sns.heatmap(lifts, annot=texts, fmt="", annot_kws={"size": 8}, ax=ax, **look)
    for text, rule in zip(ax.texts, lifts.stack().dropna().index, strict=True):
        text.set_fontweight("bold" if rule == chosen else "normal")
    ax.set_yticks(np.arange(len(lifts)) + 0.5, [f"{count} or more" for count in lifts.index], rotation=0)
    spans = [_write_tick(pd.Timedelta(each).total_seconds(), "seconds") for each in times]
    ax.set_xticks(np.arange(len(times)) + 0.5, spans)
    ax.set_ylabel("times")
    _xlabel(
        ax,
        "within, from entry; lift in sample over all others at risk; n: how many did it; bold: chosen; blank: too few",
    )
    _title(ax, f"How often and how soon does {micro} go with {macro}? ({segment})")
    return ax


def draw_coverage(coverage: pd.DataFrame, *, segment: str, ax: Axes | None = None) -> Axes:
    """Draw how many users did each conversion of the plan."""
    rows = coverage.head(MOST_ROWS)
    ax = _axes(ax, height=1.2 + 0.32 * max(1, len(rows)))
    hatch = ["///" if tier == "loss" else "" for tier in rows["tier"]]
    look: dict[str, Any] = {"edgecolor": "white", "linewidth": 0, "hatch": hatch}
    place = np.arange(len(rows))
    ax.barh(place, rows["units"].fillna(0), 0.7, color=rows["tier"].map(TIER_COLOURS).tolist(), **look)
    for y, units, share in zip(place, rows["units"], rows["share_of_units"], strict=True):
        text = f" {units:,.0f} ({share:.0%})" if units == units else " left out: too few"
        ax.text(units if units == units else 0, float(y), text, va="center", fontsize=8, color="#374151")
    ax.set_yticks(place, [_label(name) for name in rows["name"]], fontsize=9)
    ax.invert_yaxis()
    ax.margins(x=0.18)
    _write_ticks(ax.xaxis)
    _xlabel(ax, "users (share of all users); orange macro, blue micro, hatched loss")
    _title(ax, f"How many do what the plan counts? ({segment})")
    return ax


def draw_effects(
    table: pd.DataFrame,
    *,
    title: str = "What changed against the control?",
    segment: str,
    confidence: float = 0.95,
    valid: bool = True,
    ax: Axes | None = None,
) -> Axes:
    """Draw the relative change of each metric in each arm with its interval, and how much worse it may get at most."""
    labels = table["conversion"] + (": " + table["arm"] if table["arm"].nunique() > 1 else "")
    known = table["relative_effect"].notna() & valid
    rows = table[known]
    ax = _axes(ax, height=1.6 + 0.5 * len(rows))
    _title(ax, f"{title} ({segment})")
    if rows.empty:
        return _say(ax, TOO_FEW if valid else NOT_VALID)
    _draw_changes(ax, rows, [EFFECT_COLOURS.get(each, GREY) for each in rows["status"]])
    ax.axvline(0, color="#111827", linewidth=1)
    _draw_margins(ax, rows["margin"].to_numpy(float))
    _label_rows(ax, labels[known], rows["units"] + rows["units_control"])
    _finish_changes(ax, rows)
    said = "green better, dark orange worse, grey not shown"
    if rows["margin"].notna().any():
        said = "dashed: its limit, shaded: too bad; green safe, dark orange worse, grey undecided"
    _xlabel(ax, f"change against the control, with {confidence:.0%} interval; {said}")
    return ax


def draw_effect_days(
    days: pd.DataFrame,
    *,
    name: str,
    kind: Kind,
    segment: str,
    confidence: float = 0.95,
    valid: bool = True,
    ax: Axes | None = None,
) -> Axes:
    """Draw the effect on the primary metric by days since a unit was assigned, one line an arm."""
    is_empty = not valid or days["effect"].isna().all()
    ax = _axes(ax, height=1.6 if is_empty else 3.4)
    _title(ax, f"When does the effect on {name} come? ({segment})")
    if is_empty:
        why = TOO_FEW if len(days) else "It is not known when units did it."
        return _say(ax, why if valid else NOT_VALID)
    arms = list(dict.fromkeys(days["arm"]))
    for number, (arm, colour) in enumerate(zip(arms, CYCLE, strict=False)):
        rows = days[days["arm"] == arm]
        at = rows["day"] + 0.15 * (number - (len(arms) - 1) / 2)
        error = _errors(rows, "effect")
        label = f"{arm} (n = {rows['units'].max():,})"
        ax.errorbar(
            at,
            rows["effect"],
            yerr=error,
            fmt=f"{MARKERS[number % 7]}-",
            color=colour,
            markersize=4,
            capsize=2,
            label=label,
        )
    ax.axhline(0, color="#111827", linewidth=1)
    unit: Kind = "points" if kind == "percent" else kind
    ax.yaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: _write_change(value, unit)))
    # The whole window, also when later days have too few to be drawn.
    ax.set_xlim(-0.5, days["day"].max() + 0.5)
    ax.xaxis.set_major_locator(ticker.MaxNLocator(8, integer=True))
    _xlabel(ax, f"days since assignment; above 0: more than the control; {confidence:.0%} intervals")
    _legend(ax)
    return ax


def draw_effect_segments(
    segments: pd.DataFrame,
    *,
    name: str,
    segment: str,
    confidence: float = 0.95,
    valid: bool = True,
    ax: Axes | None = None,
) -> Axes:
    """Draw the relative change of the primary metric in each group, in blue where it is beyond chance."""
    known = (segments["role"] == "primary") & segments["relative_effect"].notna() & valid
    rows = segments[known].head(MOST_ROWS)
    ax = _axes(ax, height=1.6 + 0.44 * len(rows))
    _title(ax, f"Is the effect on {name} the same for all? ({segment})")
    if rows.empty:
        why = TOO_FEW if len(segments) else "No columns are named to compare groups by."
        return _say(ax, why if valid else NOT_VALID)
    _draw_changes(ax, rows, [BLUE if q_value < SIGNIFICANCE else GREY for q_value in rows["q_value"]])
    ax.axvline(0, color="#111827", linewidth=1)
    arms = ": " + rows["arm"] if rows["arm"].nunique() > 1 else ""
    labels = rows["column"].str.replace("_", " ") + " " + rows["group"].astype("str") + arms
    _label_rows(ax, labels, rows["units"] + rows["units_control"])
    _fit_changes(ax, rows)
    _finish_changes(ax, rows)
    _xlabel(ax, f"change against the control, with {confidence:.0%} interval; blue: beyond chance (q below 0.05)")
    return ax


def _say(ax: Axes, why: str) -> Axes:
    """Say why there is nothing to draw."""
    ax.text(0.0, 0.5, why, transform=ax.transAxes, fontsize=9)
    ax.set_axis_off()
    return ax


def _draw_changes(ax: Axes, rows: pd.DataFrame, colours: Sequence[str]) -> None:
    """Draw one relative change a row; a hollow mark has an interval that holds no change."""
    for y, (colour, (_, row)) in enumerate(zip(colours, rows.iterrows(), strict=True)):
        low, high = (row[f"relative_effect_ci_{end}"] for end in ("lower", "upper"))
        ax.plot([low, high], [y, y], color=colour, linewidth=2)
        face = "white" if low <= 0 <= high else colour
        ax.plot(row["relative_effect"], y, "o", color=colour, markerfacecolor=face, markersize=7)


def _fit_changes(ax: Axes, rows: pd.DataFrame) -> None:
    """Let the intervals of small groups run off the figure, so that they do not squeeze the others."""
    low, high = (rows[f"relative_effect_ci_{end}"] for end in ("lower", "upper"))
    usual = (high - low) <= WIDEST * (high - low).min()
    if usual.any():
        known = [0, *low[usual], *high[usual], *rows["relative_effect"]]
        room = 0.05 * np.ptp(known)
        ax.set_xlim(min(known) - room, max(known) + room)


def _draw_margins(ax: Axes, margins: NDArray[np.float64]) -> None:
    """Shade in each row what lies beyond its margin, on the side on which that is."""
    known = margins[np.isfinite(margins)]
    low, high = ax.get_xlim()
    low, high = min([low, *1.2 * known]), max([high, *1.2 * known])
    for y, margin in enumerate(margins):
        if np.isfinite(margin):
            edge = low if margin < 0 else high
            ax.add_patch(
                patches.Rectangle((margin, y - 0.4), edge - margin, 0.8, facecolor="#F6C29B", alpha=0.5, zorder=0)
            )
            ax.plot([margin, margin], [y - 0.4, y + 0.4], color="#111827", linewidth=1.6, linestyle="--")
    ax.set_xlim(low, high)


def _finish_changes(ax: Axes, rows: pd.DataFrame) -> None:
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.xaxis.set_major_locator(ticker.MaxNLocator(6, steps=[1, 2, 5, 10]))
    ax.xaxis.set_major_formatter(ticker.FuncFormatter(lambda share, _: _write_sign(100 * share, "%")))


def _write_change(value: float, kind: Kind) -> str:
    text = format_value(float(value), kind) if value else "0"
    return f"+{text}" if value > 0 and not text.startswith("+") else text


def draw_quality(table: pd.DataFrame, daily: pd.DataFrame, *, segment: str, ax: Axes | None = None) -> Axes:
    """Draw on which days each failed rule failed, and how much of what it tried."""
    daily = daily[daily["failed"] > 0]
    failed = table[(table["status"] == "failed") & table["rule"].isin(daily["rule"])].head(MOST_ROWS)
    ax = _axes(ax, height=1.6 + 0.42 * max(2, len(failed)) if len(failed) else 1.2)
    for place, row in enumerate(failed.to_dict("records")):
        days = daily[daily["rule"] == row["rule"]]
        sizes = 8 + 80 * days["failed"] / days["tried"]
        ax.scatter(days["day"], [place] * len(days), s=sizes, alpha=0.7, **_mark_severity(row["severity"]))
    _title(ax, f"On which days did rules fail? ({segment})")
    if failed.empty:
        ax.text(0.5, 0.5, "No failed rule points to particular days.", transform=ax.transAxes, ha="center")
        ax.set_axis_off()
        return ax
    _label_rows(ax, failed["name"], failed["failed"])
    ax.set_ylim(len(failed) - 0.5, -0.5)
    _mark_dates(ax, daily.loc[daily["rule"].isin(failed["rule"]), "day"])
    _xlabel(
        ax,
        "larger: more of that day; dark orange cross: error, orange triangle: warning, blue dot: note; n failed in all",
    )
    return ax


def draw_alerts(table: pd.DataFrame, *, segment: str, ax: Axes | None = None) -> Axes:
    """Draw since when each open alert is seen, the worst on top."""
    rows = table.head(MOST_ROWS)
    ax = _axes(ax, height=1.2 + 0.32 * max(1, len(rows)))
    place = np.arange(len(rows))
    colours = rows["severity"].map(SEVERITY_COLOURS).tolist()
    ax.hlines(place, rows["first_seen"], rows["last_seen"], color=colours, linewidth=4)
    for y, (severity, seen) in enumerate(zip(rows["severity"], rows["first_seen"], strict=True)):
        ax.scatter(seen, y, s=36, **_mark_severity(severity))
    names = rows["conversion"].where(rows["conversion"] != "", rows["metric"].str.replace("_", " "))
    texts = (rows["rule"].str.replace("_", " ") + ": " + names).str.removesuffix(": ")
    ax.set_yticks(place, [_label(text) for text in texts], fontsize=9)
    ax.invert_yaxis()
    _mark_dates(ax, pd.concat([rows["first_seen"], rows["last_seen"]]))
    _xlabel(
        ax,
        "first and last seen; dark orange cross: critical, orange triangle: warning, blue dot: note; "
        f"n = {len(table)} alerts",
    )
    _title(ax, f"What is open, and since when? ({segment})")
    return ax


def _mark_severity(severity: str) -> dict[str, Any]:
    return {"color": SEVERITY_COLOURS[severity], "marker": SEVERITY_MARKS[severity]}


def draw_plan(coverage: pd.DataFrame, *, segment: str, ax: Axes | None = None) -> Axes:
    """Draw the plan as a map: each macro, below it its micros by stage, with owner and target."""
    ax = _axes(ax, height=0.8 + 0.3 * max(1, len(coverage)))
    marks = {"macro": "s", "micro": "o", "loss": "X"}
    for y, row in enumerate(coverage.to_dict("records")):
        inset = {"macro": 0.0, "micro": 0.05, "loss": 0.05}[row["tier"]]
        faded = 0.45 if row["units"] == 0 else 1.0
        tier = row["tier"]
        ax.plot([inset], [y], marks[tier], color=TIER_COLOURS[tier], alpha=faded, clip_on=False)
        name = textwrap.shorten(row["name"], LABEL_LENGTH + 12, placeholder="…")
        weight = "bold" if row["tier"] == "macro" else "normal"
        for x, text in ((inset + 0.03, name), (0.57, row["where"]), (0.75, row["owner"]), (0.98, row["goal"])):
            colour = RED if text in ("nobody", "never fires") else "#374151"
            ax.text(
                x,
                y,
                text,
                va="center",
                ha="right" if x > 0.9 else "left",
                fontsize=8,
                color=colour,
                fontweight=weight if text == name else "normal",
            )
    for x, heading in ((0.57, "stage"), (0.75, "owner"), (0.98, "target")):
        ax.text(x, -1, heading, va="center", ha="right" if x > 0.9 else "left", fontsize=8, color=GREY)
    ax.set(xlim=(-0.02, 1), ylim=(len(coverage) - 0.5, -1.6))
    ax.set_axis_off()
    _title(ax, f"What does the plan count, and who owns it? ({segment}; {len(coverage)} conversions)")
    return ax


def draw_flow(
    flow: pd.DataFrame, *, macro: str, window: str, backwards: bool, segment: str, ax: Axes | None = None
) -> Axes:
    """Draw units from place to place of their paths: bands as wide as their units, the converted apart."""
    ax = _axes(ax, height=6.4)
    places = np.arange(FLOW_PLACES) + (1 - FLOW_PLACES if backwards else 1)
    total = int(flow.loc[flow["place"] == (0 if backwards else 1), "units"].sum())
    links, nodes = _lay_flow(flow, places, macro=macro, total=total)
    for side, colour in FLOW_COLOURS.items():
        for link in links[(links[side] > 0) & links["place"].isin(places[1:])].to_dict("records"):
            x = np.linspace(link["place"] - 1 + FLOW_BAR, link["place"], 40)
            rise = (3 - 2 * np.linspace(0, 1, 40)) * np.linspace(0, 1, 40) ** 2
            top = link[f"{side}_from"] + (link[f"{side}_to"] - link[f"{side}_from"]) * rise
            ax.fill_between(x, top, top + link[side] / total, color=colour, alpha=0.35, linewidth=0)
    for _, node in nodes.iterrows():
        _draw_node(ax, node, total, bold=node["name"] == macro)
    for place in places.tolist() if total else []:
        heading = f"{place}." if place > 0 else f"{-place} before" if place else "end"
        ax.text(place, -0.025, heading, fontsize=8, color=GREY)
    ax.set(xlim=(places[0], places[-1] + 0.95), ylim=(nodes["below"].max() if total else 1, -0.06))
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    _xlabel(ax, f"orange: reached {macro} within {window}; grey: did not; % of all n = {total:,}")
    _title(ax, f"Which ways do they take? ({segment})")
    return ax


def _lay_flow(
    flow: pd.DataFrame, places: NDArray[np.int64], *, macro: str, total: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Say where each node and both ends of each band lie, from the top down, with all units one high."""
    links = flow.assign(lost=flow["units"] - flow["converted"])
    names = _fold_nodes(links, total)
    for end, shift in (("source", 1), ("target", 0)):
        keys = zip(links["place"] - shift, links[end], strict=True)
        links[end] = pd.Series([names[key] for key in keys], index=links.index, dtype="str")
    links = links.groupby(["place", "source", "target"], as_index=False)[[*FLOW_COLOURS]].sum()
    nodes = _count_ends(links)
    nodes = nodes[nodes["place"].isin(places)]
    last = nodes["name"].isin(FLOW_MARKERS) * 2 + nodes["name"].str.startswith(FLOW_OTHER)
    nodes = nodes.assign(units=nodes[[*FLOW_COLOURS]].sum(axis=1), last=last, first=nodes["name"] != macro)
    nodes = nodes.sort_values(["place", "last", "first", "units"], ascending=[True, True, True, False])
    listed = zip(nodes["place"], nodes["name"], nodes["units"], strict=True)
    labels = [_label_node(place, name, units, total) for place, name, units in listed]
    nodes = nodes.assign(label=pd.Series(labels, index=nodes.index, dtype="str"))
    height = nodes["units"] / max(total, 1)
    room = height.clip(lower=FLOW_LINE * (1 + nodes["label"].str.count("\n"))) + FLOW_LINE / 2
    below = room.groupby(nodes["place"]).cumsum()
    nodes = nodes.assign(below=below, top=below - room + (room - FLOW_LINE / 2 - height) / 2, height=height)
    return _lay_bands(links, nodes, total), nodes


def _fold_nodes(links: pd.DataFrame, total: int) -> dict[tuple[int, str], str]:
    """Name the node that each conversion stands in at each place: its own, or one for all the small ones."""
    nodes = _count_ends(links)
    nodes = nodes.assign(units=nodes[[*FLOW_COLOURS]].sum(axis=1)).sort_values(
        ["units", "name"], ascending=[False, True]
    )
    own = nodes["name"].isin([*FLOW_MARKERS])
    rank = (~own).groupby(nodes["place"]).cumsum()
    small = ~own & ((rank > FLOW_NODES) | (nodes["units"] < FLOW_SMALLEST * total))
    counts = small.groupby(nodes["place"]).transform("sum")
    shown = np.where(small & (counts > 1), FLOW_OTHER + counts.astype("str"), nodes["name"])
    return dict(zip(zip(nodes["place"], nodes["name"], strict=True), shown, strict=True))


def _count_ends(links: pd.DataFrame) -> pd.DataFrame:
    """Count the units in each node; a path that starts or ends there is in only one of the two sums."""
    sides = [*FLOW_COLOURS]
    arrived = links.groupby(["place", "target"])[sides].sum().rename_axis(["place", "name"])
    left = (
        links.assign(place=links["place"] - 1).groupby(["place", "source"])[sides].sum().rename_axis(["place", "name"])
    )
    return pd.concat([arrived, left]).groupby(["place", "name"]).max().reset_index()


def _lay_bands(links: pd.DataFrame, nodes: pd.DataFrame, total: int) -> pd.DataFrame:
    """Stack the bands at both their nodes, the converted above the lost, in the order of the nodes across."""
    known = nodes[["place", "name", "top"]].assign(split=nodes["top"] + nodes["converted"] / max(total, 1))
    left = known.assign(place=known["place"] + 1).rename(columns={"name": "source"})
    right = known.rename(columns={"name": "target"})
    links = links.merge(left, on=["place", "source"], how="left")
    links = links.merge(right, on=["place", "target"], how="left", suffixes=("_from", "_to"))
    for end, other, name in (("from", "to", "source"), ("to", "from", "target")):
        links = links.sort_values(["place", f"top_{end}", f"top_{other}"])
        stacked = links.groupby(["place", name])[[*FLOW_COLOURS]].cumsum() - links[[*FLOW_COLOURS]]
        links[f"converted_{end}"] = links[f"top_{end}"] + stacked["converted"] / max(total, 1)
        links[f"lost_{end}"] = links[f"split_{end}"] + stacked["lost"] / max(total, 1)
    return links


def _draw_node(ax: Axes, node: pd.Series, total: int, *, bold: bool) -> None:
    top = node["top"]
    for side, colour in FLOW_COLOURS.items():
        ax.bar(node["place"], node[side] / total, FLOW_BAR, bottom=top, align="edge", color=colour)
        top += node[side] / total
    ax.text(
        node["place"] + FLOW_BAR * 1.5,
        node["top"] + node["height"] / 2,
        node["label"],
        va="center",
        fontsize=6.5,
        linespacing=1.1,
        fontweight="bold" if bold else "normal",
        color="#111827",
        path_effects=[patheffects.withStroke(linewidth=1.8, foreground="white", alpha=0.8)],
    )


def _label_node(place: int, name: str, units: int, total: int) -> str:
    shown = "no conversion" if name == "(end)" and place == 1 else FLOW_MARKERS.get(name, name)
    lines = textwrap.wrap(shown, FLOW_LETTERS, max_lines=3, placeholder="…")
    return "\n".join([*lines, f"{units:,} ({units / total:.0%})"])


def draw_actions(table: pd.DataFrame, *, on: dt.date, ax: Axes | None = None) -> Axes:
    """Draw when each open action is due against the day on which it is judged; orange ones are overdue."""
    rows = table[~table["done"] & table["due"].notna()].head(MOST_ROWS)
    ax = _axes(ax, height=1.2 + 0.36 * max(1, len(rows)))
    place = np.arange(len(rows))
    colours = np.where(rows["overdue_days"] > 0, RED, BLUE).tolist()
    today = pd.Timestamp(on)
    ax.hlines(place, today, rows["due"], colors=colours, linewidth=2)  # type: ignore[arg-type]  # dates are drawn, too
    for mark, late in (("o", rows["overdue_days"] <= 0), ("X", rows["overdue_days"] > 0)):
        ax.scatter(rows["due"][late], place[late], color=BLUE if mark == "o" else RED, marker=mark, s=36, zorder=3)
    ax.axvline(today, color=GREY, linewidth=1)  # type: ignore[arg-type]
    names = [f"{text} ({owner or 'no owner'})" for text, owner in zip(rows["text"], rows["owner"], strict=True)]
    ax.set_yticks(place, [_label(name) for name in names])
    ax.invert_yaxis()
    _mark_dates(ax, pd.concat([rows["due"], pd.Series([today])]))
    _xlabel(ax, f"due date; the upright line is {on}; dark orange cross: overdue")
    _title(ax, f"What is due, and when? (n = {len(rows)})")
    return ax


def draw_volume(volume: pd.DataFrame, *, segment: str, ax: Axes | None = None) -> Axes:
    """Draw events a day by tier."""
    ax = _axes(ax, height=3.4)
    for tier, colour in TIER_COLOURS.items():
        rows = volume[volume["tier"] == tier].set_index("day")["events"].sort_index()
        if len(rows):
            daily = rows.asfreq("D", fill_value=0)
            look: dict[str, Any] = {
                "color": colour,
                "linestyle": TIER_DASHES[tier],
                "linewidth": 2 if tier == "macro" else 1,
            }
            ax.plot(daily.index, daily, label=f"{tier} (n = {int(rows.sum()):,})", **look)
    _mark_dates(ax, volume["day"])
    ax.set_ylim(0, None)
    _write_ticks(ax.yaxis)
    ax.set_ylabel("events a day")
    _title(ax, f"How many events come in each day? ({segment})")
    _legend(ax)
    return ax


def render(draw: Callable[[], Axes]) -> bytes:
    """Draw a figure as a PNG picture, and leave nothing open that a notebook would show again."""
    picture = io.BytesIO()
    figure = draw().get_figure(root=True)
    if figure is not None:
        figure.savefig(picture, format="png")
        plt.close(figure)
    return picture.getvalue()


def _axes(ax: Axes | None, *, height: float) -> Axes:
    if ax is not None:
        return ax
    return _style(_subplots(figsize=(WIDTH, height))[1])


def _subplots(*shape: int, layout: Any = "constrained", **options: Any) -> Any:
    return plt.subplots(*shape, dpi=DPI, layout=layout, FigureClass=figures.WholeFigure, **options)


def _style(ax: Axes) -> Axes:
    # Set on the axes and not by `rc_context`: that would also restore the notebook's interactive mode, from before its
    # backend was loaded, and no later figure would be shown.
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color("#9CA3AF")
    ax.tick_params(colors="#374151")
    return ax


def _errors(rows: pd.DataFrame, column: str) -> NDArray[np.float64]:
    """Give the distances to both ends of the interval, as matplotlib wants them."""
    middle = rows[column].to_numpy(float)
    low, high = (rows[f"{column}_ci_{end}"].to_numpy(float) for end in ("lower", "upper"))
    distances: NDArray[np.float64] = np.nan_to_num(np.clip(np.stack([middle - low, high - middle]), 0, None))
    return distances


def _worth_colours(rows: pd.DataFrame) -> list[str]:
    found = rows["verdict"].isin([*VERDICT_COLOURS, "measured"])
    sure = np.where(rows["verdict"] == "measured", GREEN, BLUE)
    worth = np.where(rows["opportunity"] < 0, RED, sure)
    return [str(colour) for colour in np.where(found, worth, GREY)]


def _label_rows(ax: Axes, names: pd.Series, counts: pd.Series) -> None:
    """Name the rows of a horizontal figure from the top down, each with its n."""
    labels = [_label(name, n) for name, n in zip(names, counts, strict=True)]
    ax.set_yticks(np.arange(len(labels)), labels, fontsize=9)
    ax.invert_yaxis()


def _write_ticks(axis: Axis, kind: Kind = "number") -> None:
    axis.set_major_formatter(ticker.FuncFormatter(lambda value, _: _write_tick(float(value), kind)))


def _write_tick(value: float, kind: Kind) -> str:
    """Write a round value with no more digits than it has."""
    if kind == "seconds":
        return format_seconds(value)
    if kind == "percent":
        return f"{100 * value:,.6g}%"
    return f"{value / 1e6:,.6g} M" if abs(value) >= 1e6 else f"{value:,.10g}"


def _write_sign(value: float, unit: str = "") -> str:
    return f"{value:+,.6g}{unit}" if value else "0"


def _percent_axis(axis: Axis) -> None:
    """Mark shares at round percentages."""
    axis.set_major_locator(ticker.MaxNLocator(6, steps=[1, 2, 5, 10]))
    _write_ticks(axis, "percent")


def _key(key: object) -> str:
    return cut_text(", ".join(map(str, key)) if isinstance(key, tuple) else str(key), LABEL_LENGTH * 4)


def _legend(ax: Axes) -> None:
    """Put the legend below, where it hides nothing."""
    if not ax.get_legend_handles_labels()[0]:
        return
    figure = ax.get_figure(root=True)
    if figure is not None and figure.get_layout_engine() is not None:
        figure.legend(loc="outside lower center", ncols=2, fontsize=9, frameon=False)
    else:
        ax.legend(fontsize=9, frameon=False)


def _title(ax: Axes, text: str) -> None:
    ax.set_title(_wrap(cut_text(text, 38 * 4), 38), loc="left", fontsize=11, fontweight="bold")


def _xlabel(ax: Axes, text: str) -> None:
    ax.set_xlabel(_wrap(text, 50), fontsize=9)


def _wrap(text: str, most: int) -> str:
    """Break a text into as few lines as fit, all about as long."""
    lines = textwrap.wrap(text, most)
    for width in range(len(text) // max(1, len(lines)), most):
        even = textwrap.wrap(text, width)
        if len(even) == len(lines):
            return "\n".join(even)
    return "\n".join(lines)


def _label(name: str, n: int | None = None, *, width: int = LABEL_LENGTH) -> str:
    name = cut_text(name, width * 4)
    counted = f"{name} (n\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}{n:,})" if n is not None else name
    return "\n".join(textwrap.wrap(counted, width, break_on_hyphens=False))
