"""What is noise in rates: control limits, changes against the period before, their parts, and targets ahead."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import scipy
from numpy.typing import ArrayLike, NDArray

from convlib import stats
from convlib.plan_entries import is_share
from convlib.stats import Floats

#: The chance that any series of a period lies outside its limits when nothing happens: its part of the alerts' 5%.
LIMIT_LEVEL = 0.0125
#: Periods that limits look back on: fewer say too little of the dispersion, older ones are another product.
LEAST_HISTORY, LONGEST_HISTORY = 8, 26
#: Mean distance of two draws from one normal distribution, in standard deviations.
RANGE_DEVIATIONS = 1.128
#: Degrees of freedom of a mean moving range, for each range (Wheeler 1995, Advanced Topics in SPC, table A.1).
RANGE_FREEDOM = 0.62
#: Metrics besides shares whose total is the average of the groups, each counted as often as it has units.
AVERAGES = ("per_unit", "depth interactions", "depth next_actions", "depth seconds_after")
TREND_PERIODS, LEAST_TREND = 12, 4
LENGTHS = {"D": pd.DateOffset(days=1), "W": pd.DateOffset(weeks=1), "M": pd.DateOffset(months=1)}
LIMIT_COLUMNS = (
    "expected",
    "limit_low",
    "limit_high",
    "dispersion",
    "dispersion_df",
    "sampling_error",
    "history",
    "p_value",
    "q_value",
    "limit_note",
)
#: What one total is of.
SERIES = ["conversion", "metric"]
SPLIT_COLUMNS = {
    **dict.fromkeys(("conversion", "metric"), "str"),
    **dict.fromkeys(("period", "compared_with"), "datetime64[us]"),
    **dict.fromkeys(("before", "after", "change", "change_q_value", "from_mix", "from_rate"), "float"),
    **dict.fromkeys(("weight_before", "weight_after", "value_before", "value_after"), "float"),
    **dict.fromkeys(("group_from_mix", "group_from_rate"), "float"),
    "note": "str",
}
FORECAST_COLUMNS = {
    "distance": "float",
    "due": "datetime64[us]",
    **dict.fromkeys(("periods_left", "expected", "probability"), "float"),
    "forecast_note": "str",
}
#: Limits of amounts end at so many times what is expected: e to this power.
WIDEST = 5


def find_limits(
    table: pd.DataFrame, *, by: Sequence[str], every: str, confidence: float = stats.CONFIDENCE
) -> pd.DataFrame:
    """Say between which limits each value lies when nothing happens, judged by the usable periods before it alone.

    Args:
        table: Rows of `Rates.table`, one for each group, period, conversion and metric.
        by: Breakdown columns.
        every: Length of a period; a day is judged by the same weekdays.
        confidence: Level of the table's intervals.

    Returns:
        For each row of the table: `expected`, `limit_low` and `limit_high`, `dispersion` (how much more the values vary
        than their sampling error, with `dispersion_df` degrees of freedom), the `sampling_error` of a value of its size
        by their variance, the `history` it is judged by, in periods, `p_value`, and `q_value` over all series of the
        period. The chance that any series of a period lies outside is `LIMIT_LEVEL` (Bonferroni). NaN, and the reason
        in `limit_note`, with fewer than `LEAST_HISTORY` periods, or if nothing varied in any of them.

    Source: Laney (2002), Quality Engineering 14:531: a share's sampling error, times the mean moving range of the
        earlier periods' z-scores over 1.128. A dispersion below 1 is chance, since units vary at least as much as
        chance makes them, so 1 is the least. Few periods tell little of it, so series of one kind are shrunk to each
        other (Smyth 2004, Statistical Applications in Genetics 3:3) and limits are those of a t distribution. Shares of
        visits count as many as are worth independent ones (Rao and Scott 1992, Biometrics 48:577). Means and sums of
        amounts are skewed, so away from zero the distance is that of the logarithms.
    """
    rows = _usable(table, by, every, confidence)
    rows = rows.join(_look_back(rows))
    judged = rows[rows["unit_variance"].notna()]
    judged = judged.assign(**_shrink_dispersions(judged, stats.number_groups(judged[["period", "kind"]])))
    limits = judged[["centre", "history"]].rename(columns={"centre": "expected"}).assign(**_judge(judged))
    found = rows[["history"]].join(limits.drop(columns="history")).reindex(table.index)
    counts = found["history"].fillna(0).astype(int)
    few = counts.astype(str) + f" earlier periods, needs {LEAST_HISTORY}"
    usable = table.index.isin(rows.index)
    note = np.where(usable & (counts < LEAST_HISTORY), few, "")
    note = np.where(usable & (counts >= LEAST_HISTORY) & found["expected"].isna(), "it never varied", note)
    return found.assign(history=counts, limit_note=note)[list(LIMIT_COLUMNS)]


def find_effects(table: pd.DataFrame, *, confidence: float) -> "pd.Series[float]":
    """Say how many visits tell as much as one independent visit: 1 for a share of units, NaN for what is no share.

    It is what Wilson's interval says of the number of trials. Where all or none did it, nothing varied that could tell.
    """
    share = table["metric"].map(is_share).astype(bool)
    square = stats.normal_quantile(confidence) ** 2
    variance = (table["ci_upper"] - table["ci_lower"]) ** 2 / (4 * square)
    spread = table["value"] * (1 - table["value"])
    half = stats.divide(spread, 2 * variance) - square
    trials = half + np.sqrt(np.maximum(half**2 + stats.divide(square, 4 * variance) - square**2, 0))
    effect = pd.Series(np.maximum(stats.divide(table["exposed"], trials), 1), index=table.index)
    by_visit = table["metric"].str.endswith(" by session").astype(bool)
    return effect.where(spread > 0).where(by_visit, 1.0).where(share)


def find_usable(table: pd.DataFrame) -> "pd.Series[bool]":
    """Say which rows can be judged: those without a note, and totals of enough units of whom too few have an amount.

    Such a total has no interval, but its history has: revenue that falls to zero is no gap in the data.
    """
    total = table["metric"].str.match(r"sum\b|follow_up of ").astype(bool)
    few = table["note"].str.startswith("n = ").astype(bool) & (table["exposed"] >= stats.FEW_UNITS)
    return ((table["note"] == "") | (total & few)) & table["value"].notna() & (table["exposed"] > 0)


def _usable(table: pd.DataFrame, by: Sequence[str], every: str, confidence: float) -> pd.DataFrame:
    """Give the rows that can be compared, by series and period.

    `spread` is what a period knows of the variance of one unit: of shares the design effect; NaN where nothing varied.
    """
    share = table["metric"].map(is_share).astype(bool)
    kind = table["metric"].str.split().str[0].where(~share, "share")
    # The intervals of amounts are cut at 0.
    half = ((table["ci_upper"] - table["ci_lower"]) / 2).where(
        table["ci_lower"] > 0, table["ci_upper"] - table["value"]
    )
    variance = (half / stats.normal_quantile(confidence)).where(half > 0) ** 2
    weight = table["exposed"].astype(float).where(kind != "sum", 1.0)
    names = [*by, "conversion", "metric"]
    keys = table[names].assign(**({"(weekday)": table["period"].dt.day_of_week} if every == "D" else {}))
    spread = (variance * weight).where(~share, find_effects(table, confidence=confidence))
    frame = pd.DataFrame(
        {
            "period": table["period"],
            "value": table["value"].astype(float),
            "units": table["units"].astype(float),
            "exposed": table["exposed"].astype(float),
            "n": weight,
            "share": share,
            "kind": kind,
            "spread": spread.astype(float),
        }
    )
    known = find_usable(table)
    frame = frame[known].assign(series=stats.number_groups(keys[known]))
    frame = frame.sort_values(["series", "period"], kind="stable")
    return frame.assign(place=frame.groupby("series").cumcount())


def _look_back(rows: pd.DataFrame) -> pd.DataFrame:
    """Give each row what the periods before it say: their number, centre, weight, variance of a unit and dispersion."""
    series, place = rows["series"].to_numpy(), rows["place"].to_numpy()
    names = ["centre", "total", "effect", "unit_variance", "dispersion", "dispersion_df"]
    result = np.full((len(rows), len(names)), np.nan)
    shape = (series.max(initial=-1) + 1, place.max(initial=-1) + 1)
    value, weight, spread = (np.full(shape, np.nan) for _ in range(3))
    row_of = np.zeros(shape, np.int64)
    value[series, place], weight[series, place] = rows["value"], rows["n"]
    spread[series, place], row_of[series, place] = rows["spread"], np.arange(len(rows))
    for now in range(LEAST_HISTORY, shape[1]):
        listed = np.flatnonzero(~np.isnan(value[:, now]))
        window = (listed, slice(max(0, now - LONGEST_HISTORY), now))
        at = row_of[listed, now]
        past = value[window], weight[window], spread[window]
        result[at] = _summarise(*past, share=rows["share"].to_numpy()[at])
    history = np.minimum(place, LONGEST_HISTORY)
    return pd.DataFrame(result, columns=names, index=rows.index).assign(history=history)


def _summarise(value: Floats, weight: Floats, spread: Floats, *, share: Floats) -> Floats:
    total = weight.sum(axis=1)
    centre = (weight * value).sum(axis=1) / total
    average = _average(spread, weight)
    effect = np.where(share, average, 1.0)
    unit = np.where(share, centre * (1 - centre) * effect, average)
    scores = (value - centre[:, None]) * np.sqrt(stats.divide(weight, unit[:, None]))
    ranges = np.abs(np.diff(scores, axis=1))
    freedom = np.full(len(value), RANGE_FREEDOM * ranges.shape[1])
    return np.column_stack([centre, total, effect, unit, ranges.mean(axis=1) / RANGE_DEVIATIONS, freedom])


def _average(spread: Floats, weight: Floats) -> Floats:
    """Average what is known of the variance of a unit; NaN where nothing varied in any period."""
    known = np.where(np.isnan(spread), 0.0, weight)
    return stats.divide((known * np.nan_to_num(spread)).sum(axis=-1), known.sum(axis=-1))


def _shrink_dispersions(judged: pd.DataFrame, groups: NDArray[np.int64]) -> dict[str, Floats]:
    """Draw the dispersions of one period's series of one kind together; none is below 1."""
    squares = judged["dispersion"].to_numpy(float) ** 2
    freedom = judged["dispersion_df"].to_numpy(float, copy=True)
    for group in np.unique(groups):
        rows = np.flatnonzero((groups == group) & (squares > stats.TINY))
        prior, prior_freedom = _find_prior(squares[rows], freedom[rows])
        # The prior is itself found in these ranges, so no series knows more than all of them do.
        together = np.minimum(freedom[rows] + prior_freedom, freedom[rows].sum())
        part = stats.divide(together - freedom[rows], together)
        squares[rows] = part * prior + (1 - part) * squares[rows]
        freedom[rows] = together
    return {"dispersion": np.sqrt(np.maximum(np.nan_to_num(squares, nan=1.0), 1.0)), "dispersion_df": freedom}


def _find_prior(squares: Floats, freedom: Floats) -> tuple[float, float]:
    """Give the usual squared dispersion and how many degrees of freedom it is worth (Smyth 2004, section 6.2)."""
    if len(squares) < 2:
        return 1.0, 0.0
    logs = np.log(squares) - scipy.special.digamma(freedom / 2) + np.log(freedom / 2)
    spread = float(np.var(logs, ddof=1) - np.mean(scipy.special.polygamma(1, freedom / 2)))
    if spread <= float(scipy.special.polygamma(1, 1e4)):
        return float(np.exp(logs.mean())), np.inf
    if spread >= 1e5:
        return 1.0, 0.0
    half = float(scipy.optimize.brentq(lambda half: scipy.special.polygamma(1, half) - spread, 1e-3, 1e4))
    return float(np.exp(logs.mean() + scipy.special.digamma(half) - np.log(half))), 2 * half


def _judge(judged: pd.DataFrame) -> dict[str, Floats | pd.Series]:
    """Test each value against its history, and find the limits that one of the period's series needs."""
    names = ("value", "units", "n", "centre", "total", "effect", "unit_variance", "dispersion", "dispersion_df")
    value, units, n, centre, total, effect, unit, dispersion, freedom = (judged[name].to_numpy(float) for name in names)
    share = judged["share"].to_numpy()
    sides = tuple(side / effect for side in (units, n, centre * total, total))
    error = np.where(share, stats.pooled_error(*sides), np.sqrt(unit * (1 / n + 1 / total)))
    distance = np.where(share, value - centre, measure_distance(value, centre, error))
    p_values = _test(distance, error * dispersion, freedom)
    # Shares of few conversions are not normal: there the exact test has to agree.
    few = share & (stats.smallest_expected(*sides) < stats.FEW_EXPECTED)
    p_values[few] = np.maximum(p_values[few], stats.compare_shares(*(side[few].round() for side in sides)))
    period = judged["period"]
    tests = period.groupby(period).transform("size").to_numpy(float)
    reach = scipy.stats.t.isf(LIMIT_LEVEL / tests / 2, freedom) * dispersion
    low, high = _limit_shares(centre, sides[1], sides[3], reach)
    plain_low, plain_high = _limit_amounts(centre, error, reach)
    return {
        "limit_low": np.where(share, low, plain_low),
        "limit_high": np.where(share, high, plain_high),
        "dispersion": dispersion,
        "dispersion_df": freedom,
        "sampling_error": np.sqrt(unit / n),
        "p_value": p_values,
        "q_value": _control(pd.Series(p_values, index=judged.index), period),
    }


def measure_distance(value: ArrayLike, centre: ArrayLike, error: ArrayLike) -> Floats:
    """Give how far amounts lie from where they should: away from zero, where their long tail is, by the logarithm.

    Where the error is larger than the amount itself, amounts of either sign are mixed, and the distance is plain.
    """
    amount, middle, size = np.broadcast_arrays(*(np.asarray(each, float) for each in (value, centre, error)))
    ratio = stats.divide(amount, middle)
    tail = (ratio > 1) & (np.abs(middle) > size)
    return np.where(tail, middle * np.log(np.where(tail, ratio, 1.0)), amount - middle)


def _limit_amounts(centre: Floats, error: Floats, reach: Floats) -> tuple[Floats, Floats]:
    """Give the amounts that lie `reach` errors from the history's."""
    plain = reach * error
    part = np.minimum(np.nan_to_num(stats.divide(plain, np.abs(centre))), WIDEST)
    far = np.where(np.abs(centre) > error, centre * np.exp(part), centre)
    return np.minimum(centre - plain, far), np.maximum(centre + plain, far)


def _test(difference: Floats, error: Floats, freedom: Floats) -> Floats:
    p_values = 2 * scipy.stats.t.sf(np.abs(stats.divide(difference, error)), freedom)
    return np.where((difference == 0) & ~np.isnan(error), 1.0, p_values)


def _control(p_values: pd.Series, period: pd.Series) -> pd.Series:
    q_values: pd.Series = p_values.groupby(period).transform(stats.control_false_discoveries)
    return q_values


def _limit_shares(centre: Floats, n: Floats, total: Floats, reach: Floats) -> tuple[Floats, Floats]:
    """Solve for the shares that lie `reach` pooled errors from the history's share (a quadratic in the difference)."""
    part = n / (n + total)
    factor = reach**2 * (1 / n + 1 / total)
    linear = factor * part * (1 - 2 * centre)
    square = 1 + factor * part**2
    root = np.sqrt(np.maximum(linear**2 + 4 * square * factor * centre * (1 - centre), 0))
    low, high = (np.clip(centre + (linear + sign * root) / (2 * square), 0, 1) for sign in (-1, 1))
    return low, high


def compare_periods(
    table: pd.DataFrame,
    limits: pd.DataFrame,
    *,
    by: Sequence[str],
    every: str = "W",
    confidence: float = stats.CONFIDENCE,
) -> pd.DataFrame:
    """Say how each value changed against the usable period before it, and whether that is more than noise.

    Args:
        table: Rows of `Rates.table`.
        limits: Their limits, whose dispersion is part of the error where it is known.
        by: Breakdown columns.
        every: Length of a period; a day is compared with the same weekday before it.
        confidence: Level of the table's intervals.

    Returns:
        For each row of the table: `previous`, `change`, `change_q_value` (Benjamini-Hochberg over the period's series)
        and `compared_with`, the period, which is not always the one next to it. NaN where there is none.
    """
    rows = _usable(table, by, every, confidence)
    before = rows.groupby("series")[["period", "value", "units", "exposed", "n", "spread"]].shift()
    change = rows["value"] - before["value"]
    # Where nothing varied in one of the two, the other tells how much a unit varies.
    pair = tuple(pd.concat([rows[name], before[name]], axis=1).to_numpy(float) for name in ("spread", "n"))
    spread = _average(*pair)
    # Two shares are tested with their pooled error: each share's own is zero at 0% and at 100%.
    pooled = stats.pooled_error(rows["units"], rows["exposed"], before["units"], before["exposed"])
    own = np.where(np.isnan(pair[0]), spread[:, None], pair[0])
    error = np.where(rows["share"], pooled * np.sqrt(spread), np.sqrt((own / pair[1]).sum(axis=1)))
    known = limits.loc[rows.index]
    p_values = 2 * scipy.stats.t.sf(
        np.abs(stats.divide(change, error * known["dispersion"].fillna(1.0).to_numpy(float))),
        known["dispersion_df"].fillna(np.inf).to_numpy(float),
    )
    compared = pd.DataFrame(
        {
            "previous": before["value"],
            "change": change,
            "change_q_value": _control(pd.Series(p_values, index=rows.index), rows["period"]),
            "compared_with": before["period"],
        }
    )
    return compared.reindex(table.index)


def split_change(table: pd.DataFrame, *, by: Sequence[str], every: str = "W") -> pd.DataFrame:
    """Say how much of a change comes from which groups' units came (mix), and how much from their rates.

    Args:
        table: Rows of `Rates.table`, broken down by columns.
        by: These columns; each unit is in one group.
        every: Length of a period.

    Returns:
        One row for each share or average a unit (`AVERAGES`) and group: the total `before` and `after` in the latest
        two usable periods, its `change` with `change_q_value`, and the parts `from_mix` and `from_rate`, which add up
        to it; the group's `weight` and `value` in both, and what it contributes to each part, largest first. A group
        that is new or gone has one value only, so all that it does is mix, and `note` says so.

    Source: Kitagawa (1955), Journal of the American Statistical Association 50:1168, the symmetric form; a group's part
        of the mix is taken against the average of all.
    """
    rows = table[(table["exposed"] > 0) & ~table["note"].str.startswith("partial") & table["value"].notna()]
    rows = rows[rows["metric"].map(lambda metric: is_share(metric) or metric.startswith(AVERAGES)).astype(bool)]
    totals = _add_up(rows)
    compared = compare_periods(totals, find_limits(totals, by=(), every=every), by=(), every=every)
    columns = ["period", "compared_with", "before", "after", "change", "change_q_value"]
    latest = totals.assign(**compared).rename(columns={"previous": "before", "value": "after"})
    latest = latest.drop_duplicates(SERIES, keep="last").dropna(subset="change")[[*SERIES, *columns]]
    split = _split(rows, latest, by)
    return split.reset_index(drop=True)[[*SERIES, *by, *list(SPLIT_COLUMNS)[2:]]]


def _split(rows: pd.DataFrame, latest: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Give each group's part in the change of each total, in the totals' order and the largest part first."""
    names = [*SERIES, *by]
    sides = [
        latest[[*SERIES, period]].rename(columns={period: "period"}).merge(rows, on=[*SERIES, "period"])
        for period in ("compared_with", "period")
    ]
    old, new = (side.set_index(names)[["exposed", "value"]] for side in sides)
    both = old.merge(new, how="outer", left_index=True, right_index=True, suffixes=("_before", "_after")).reset_index()
    both = latest.merge(both, on=SERIES)
    for side in ("before", "after"):
        exposed = both[f"exposed_{side}"].fillna(0)
        both[f"weight_{side}"] = exposed / exposed.groupby([both[name] for name in SERIES]).transform("sum")
    known_old = both["value_before"].fillna(both["value_after"])
    known_new = both["value_after"].fillna(both["value_before"])
    average = (both["before"] + both["after"]) / 2
    mix = (both["weight_after"] - both["weight_before"]) * ((known_old + known_new) / 2 - average)
    rate = (known_new - known_old) * (both["weight_after"] + both["weight_before"]) / 2
    note = np.select([both["weight_before"] == 0, both["weight_after"] == 0], ["new group", "no units any more"], "")
    total = both.assign(from_mix=mix, from_rate=rate).groupby(SERIES)[["from_mix", "from_rate"]].transform("sum")
    both = both.assign(group_from_mix=mix, group_from_rate=rate, note=note, **total)
    order = pd.DataFrame({"series": stats.number_groups(both[SERIES]), "size": -(mix + rate).abs()})
    return both.loc[order.sort_values(["series", "size"], kind="stable").index]


def _add_up(rows: pd.DataFrame) -> pd.DataFrame:
    """Add the groups of each metric up, period by period; a total of too few units can't be compared."""
    amount = rows["value"] * rows["exposed"]
    reach = (rows["ci_upper"] - rows["ci_lower"]) / 2 * rows["exposed"]
    parts = rows.assign(amount=amount, square=reach**2, series=stats.number_groups(rows[SERIES]))
    groups = parts.groupby(["series", *SERIES, "period"])
    sums = groups[["units", "exposed", "amount", "square"]].sum().reset_index().drop(columns="series")
    value, half = sums["amount"] / sums["exposed"], np.sqrt(sums["square"]) / sums["exposed"]
    enough = sums["exposed"] >= stats.FEW_UNITS
    return sums.assign(value=value, ci_lower=value - half, ci_upper=value + half, note="")[enough]


def forecast_targets(
    table: pd.DataFrame, *, by: Sequence[str], every: str, goals: pd.DataFrame, confidence: float = stats.CONFIDENCE
) -> pd.DataFrame:
    """Say how far each metric is from its target, and how probable it is that the trend reaches it by its date.

    Args:
        table: Rows of `Rates.table`.
        by: Breakdown columns.
        every: Length of a period.
        goals: `conversion`, `metric`, `direction` (`up` or `down`), and `due`, the date of the target, NaT for none.
        confidence: Level of the table's intervals.

    Returns:
        One row for each series with a target, in its latest usable period, under that row's index: `distance` (below 0:
        not there yet), `due`, `periods_left` until the last whole period that ends by then, what is `expected` in it,
        and the `probability` that it reaches the target. NaN with the reason in `forecast_note` for fewer than
        `LEAST_TREND` periods, no date, or a date that has passed.

    Source: a straight line through at most `TREND_PERIODS` periods, weighted least squares (statsmodels `WLS`), with
        the predictive t distribution; its dispersion is at least the sampling error.
    """
    rows = _usable(table, by, every if every != "D" else "", confidence)
    keys = ["conversion", "metric"]
    rows = rows.join(table[[*keys, "target"]]).reset_index(names="row")
    rows = rows.merge(goals[[*keys, "direction", "due"]], on=keys, how="left")
    last = rows.groupby("series")["target"].transform("last")
    rows = rows.assign(target=last, sign=np.where(rows["direction"] == "down", -1, 1))[last.notna()]
    found = [_forecast(group, every) for _, group in rows.groupby("series")]
    frame = pd.DataFrame(found, columns=["row", *FORECAST_COLUMNS]).astype({"row": table.index.dtype})
    frame = frame.set_index("row").rename_axis(None).sort_index().astype(FORECAST_COLUMNS)
    return table.loc[frame.index, [*by, *keys, "period", "value", "target"]].join(frame)


def _forecast(group: pd.DataFrame, every: str) -> dict[str, object]:
    last = group.iloc[-1]
    due, target, sign = last["due"], float(last["target"]), int(last["sign"])
    known: dict[str, object] = {
        "row": last["row"],
        "distance": sign * (last["value"] - target),
        "due": due,
        "periods_left": np.nan,
        "expected": np.nan,
        "probability": np.nan,
        "forecast_note": "no date",
    }
    if pd.isna(due):
        return known
    left = _count_periods(last["period"], every, due)
    known["periods_left"] = max(left, 0)
    if left <= 0:
        return {**known, "forecast_note": _look_back_on(group, every, due)}
    recent = group.tail(TREND_PERIODS)
    if len(recent) < LEAST_TREND:
        return {**known, "forecast_note": f"{len(recent)} periods, needs {LEAST_TREND}"}
    expected, error = _extrapolate(recent, every, left)
    if not error > 0:
        return {**known, "expected": expected, "forecast_note": "it never varied"}
    probability = float(scipy.stats.t.cdf(sign * (expected - target) / error, len(recent) - 2))
    return {**known, "expected": expected, "probability": probability, "forecast_note": ""}


def _count_periods(period: pd.Timestamp, every: str, due: pd.Timestamp) -> int:
    """Count the whole periods after one that end by the end of a day."""
    after = due + pd.Timedelta(days=1)
    if every == "M":
        return (after.year - period.year) * 12 + after.month - period.month - 1
    return (after - period).days // (7 if every == "W" else 1) - 1


def _look_back_on(group: pd.DataFrame, every: str, due: pd.Timestamp) -> str:
    """Say whether the target was met in the last usable period that ended by its date."""
    ends = group["period"] + LENGTHS[every]
    in_time = group[ends <= due + pd.Timedelta(days=1)]
    start = f"{'was' if due < ends.iloc[-1] else 'is'} due on {due:%Y-%m-%d}"
    if in_time.empty:
        return f"{start}: no data by then"
    met = (in_time["value"].iloc[-1] - group["target"].iloc[-1]) * group["sign"].iloc[-1] >= 0
    return f"{start}: {'met' if met else 'missed'}"


def _extrapolate(recent: pd.DataFrame, every: str, ahead: int) -> tuple[float, float]:
    """Give the trend's value some periods after the last, and the standard error of what will be measured then."""
    period, n = recent["period"], recent["n"].to_numpy(float)
    steps = (period - period.iloc[-1]).dt.days / (7 if every == "W" else 1)
    if every == "M":
        steps = 12.0 * period.dt.year + period.dt.month
        steps -= steps.iloc[-1]
    centre = np.average(recent["value"], weights=n)
    spread = float(_average(recent["spread"].to_numpy(float), n))
    unit = centre * (1 - centre) * spread if recent["share"].iloc[0] else spread
    # Weights in units of the sampling variance, so that a scale of 1 is sampling error alone.
    weight, value, at = n / np.fmax(unit, stats.TINY), recent["value"].to_numpy(float), steps.to_numpy(float)
    line, covariance = np.polyfit(at, value, 1, w=np.sqrt(weight), cov="unscaled")
    scale = float(weight @ (value - np.polyval(line, at)) ** 2) / (len(recent) - 2)
    point = np.array([ahead, 1.0])
    leverage = float(point @ covariance @ point)
    error = np.sqrt(max(scale, 1.0) * (leverage + unit / n.mean())) if unit > 0 else np.nan
    return float(point @ line), float(error)
