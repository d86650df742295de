"""What somebody has to look at now: rates beyond noise, missed targets, broken data, late actions; each raised once."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pandas as pd
import scipy

from convlib import plots, stats, takeaways
from convlib.alert_files import KEY, RULES, SEVERITIES, complete_alerts, list_rows, merge_alerts, read_alerts
from convlib.control import LIMIT_LEVEL, find_effects, find_usable, measure_distance
from convlib.documents import did_you_mean, quote_names
from convlib.errors import ParamError, check_made, list_problems
from convlib.plan_entries import is_share
from convlib.quality import Quality
from convlib.rates import Rates
from convlib.results import Kind, Result, show_table
from convlib.upkeep import Actions

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: The chance that a period raises any alert of a rate when nothing happens, divided among the four rules that test;
#: `macro_down` needs two of their findings, and so has no chance of its own.
FALSE_ALARMS = 0.05
LEVELS = {
    "control_limit": LIMIT_LEVEL,
    "change": 0.0125,
    "target_missed": 0.0125,
    "outside_benchmark": 0.0125,
}
RATE_RULES = (*LEVELS, "macro_down", "no_data")
#: So many periods in a row had units enough before one without any is missed.
STEADY_PERIODS = 3
#: Before there are periods enough to measure by how much a rate varies more than chance, this is taken.
ASSUMED_DISPERSION = 2.0


@dataclasses.dataclass(frozen=True)
class Alerts(Result):
    """One row an alert, worst first: what is open, and what was open until now."""

    SHOWN: ClassVar[tuple[tuple[str, str, Kind], ...]] = (
        ("severity", "Severity", "text"),
        ("evidence", "What was seen", "text"),
        ("owner", "Owner", "text"),
        ("since", "First seen", "text"),
        ("state", "State", "text"),
    )

    def _repr_html_(self) -> str:
        state = np.select([self.table["is_new"], self.table["still_open"]], ["new", "open"], "over")
        since = self.table["first_seen"].dt.strftime("%Y-%m-%d")
        return show_table(self.table.assign(since=since, state=state), self.SHOWN)

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Draw since when each open alert is seen."""
        rows = self.table[self.table["still_open"]]
        return plots.draw_alerts(rows.assign(conversion=self.named["conversion"]), segment=self.segment, ax=ax)


def find_alerts(
    rates: Rates,
    *,
    quality: Quality | None = None,
    actions: Actions | None = None,
    history: pd.DataFrame | Path | str | None = None,
    rules: Sequence[str] | None = None,
) -> Alerts:
    """Say what somebody has to look at in the latest closed period, and which of it is new.

    Args:
        rates: The rates, with their limits.
        quality: The quality of their log.
        actions: What owners have promised.
        history: Earlier alerts, or the `alerts.json` that holds them; None, empty, or no such file, for none.
        rules: Which rules to apply, of `RULES`; None, or an empty list, for all.

    Returns:
        One row an alert, worst first: `rule`, `severity`, `segment`, `group` (of a breakdown), `conversion`, `metric`,
        `period`, `evidence` in words, `owner`, `first_seen` and `last_seen` (the end of the data), `still_open` and
        `is_new`. An alert that was open before keeps its `id` and `first_seen`; one that is no longer found has
        `still_open` False once. Alerts of other segments and groups, or of rules not applied, are left alone.

    Raises:
        ParamError: An argument is of another kind, unknown rules, or a history that can't be read.
    """
    problems = list_problems(
        lambda: check_made("rates", rates, Rates, maker="measure_rates"),
        lambda: check_made("quality", quality, Quality | None, maker="check_quality"),
        lambda: check_made("actions", actions, Actions | None, maker="list_actions"),
        lambda: check_made("history", history, pd.DataFrame | Path | str | None, maker="find_alerts"),
    )
    if problems:
        raise ParamError(*problems)
    applied = _check_rules(rules)
    earlier = _read_history(history)
    rows = _judge_rates(rates)
    groups = {*_name_groups(rates.table, rates.by)}
    of_rates = ~earlier["rule"].isin(RATE_RULES) | earlier["group"].isin(groups)
    earlier = earlier[(earlier["segment"] == rates.segment) & of_rates]
    found = [each for name in applied if name in (*LEVELS, "macro_down") for each in _find(name, rows, rates)]
    if "no_data" in applied:
        found += _find_gaps(
            rows, rates, {*earlier.loc[(earlier["rule"] == "no_data") & earlier["still_open"], "group"]}
        )
    day = rows["period"].max() if len(rows) else rates.end.normalize()
    if quality is not None and "quality" in applied:
        found += _find_quality(quality, day)
    if actions is not None and "action_overdue" in applied:
        found += _find_overdue(actions, day)
    looked = {*applied} - {"quality" if quality is None else "", "action_overdue" if actions is None else ""}
    looked -= set() if len(rows) else set(RATE_RULES)
    earlier = earlier[earlier["rule"].isin(looked)]
    raised = pd.DataFrame(found, columns=["rule", "severity", "group", "conversion", "metric", *REST])
    table = merge_alerts(raised.assign(segment=rates.segment), earlier, rates.end)
    if rates.fewest:  # what is over was worded by an earlier run, with all its numbers
        table = table[table["still_open"]].reset_index(drop=True)
    usable = rows[rows["usable"]]
    unlimited = usable.loc[usable["limit_low"].isna(), "limit_note"]
    return Alerts(
        table=table,
        takeaways=takeaways.word_alerts(table, segment=rates.segment, unlimited=unlimited, judged=len(usable)),
        segment=rates.segment,
        names=rates.names,
        fewest=rates.fewest,
    )


REST = ("period", "evidence", "owner")
Found = tuple[object, ...]


def _check_rules(rules: Sequence[str] | None) -> list[str]:
    if isinstance(rules, str) or not isinstance(rules, Sequence | None):
        msg = f"`rules` is {rules!r}; it must be a list, such as ['change', 'no_data']."
        raise ParamError(msg)
    rules = rules or RULES
    problems = [
        f"`rules` has {name!r}; it must be one of {quote_names(RULES)}.{did_you_mean(name, RULES)}"
        for name in rules
        if not isinstance(name, str) or name not in RULES
    ]
    if problems:
        raise ParamError(*problems)
    return [name for name in RULES if name in rules]


def _name_groups(table: pd.DataFrame, by: Sequence[str]) -> pd.Series:
    """Write each row's group as `device_type=phone, source=mail`; empty without a breakdown."""
    parts = [name + "=" + table[name].astype("str") for name in by]
    return pd.Series(
        [", ".join(each) for each in zip(*parts, strict=True)] if by else "", index=table.index, dtype="str"
    )


def _judge_rates(rates: Rates) -> pd.DataFrame:
    """Give the rows of the latest closed period with what is known of each, and which way it moved beyond noise."""
    closed = rates.table[~rates.table["note"].str.startswith("partial")]
    rows = closed[closed["period"] == closed["period"].max()]
    rows = rows.join(rates.limits[[name for name in rates.limits if name not in rows]])
    goals = rates.goals.set_index(["conversion", "metric"])
    places = pd.MultiIndex.from_frame(rows[["conversion", "metric"]])
    goal = goals.reindex(places).set_axis(rows.index)
    sign = np.where(goal["direction"] == "down", -1, 1)
    group = _name_groups(rows, rates.by)
    rows = rows.assign(usable=find_usable(rows), sign=sign, group=group, title=goal["title"], macro=goal["macro"])
    judged: pd.DataFrame = rows.assign(**_test_moves(rows), **_test_goals(rows, rates.confidence))
    return judged


def _test_moves(rows: pd.DataFrame) -> dict[str, "pd.Series[float]"]:
    """Give the move of each value that left its limits, or else changed beyond noise, by the stronger of the two."""
    outside = (rows["value"] < rows["limit_low"]) | (rows["value"] > rows["limit_high"])
    left = rows["q_value"].where(outside & (rows["q_value"] < LEVELS["control_limit"]) & rows["usable"])
    known = rows["usable"] & rows["dispersion"].notna()
    changed = rows["change_q_value"].where(known & (rows["change_q_value"] < LEVELS["change"]))
    by_limit = left.notna() & ~(changed < left)
    by_change = changed.notna() & ~by_limit
    return {
        "control_limit": (rows["value"] - rows["expected"]).where(by_limit),
        "change_found": rows["change"].where(by_change),
        "moved": (rows["sign"] * (rows["value"] - rows["expected"]))
        .where(by_limit)
        .fillna((rows["sign"] * rows["change"]).where(by_change)),
    }


def _test_goals(rows: pd.DataFrame, confidence: float) -> dict[str, "pd.Series[float]"]:
    """Give the q-value of each value that is on the wrong side of its target, or outside its benchmark."""
    value, low, high = rows["value"], rows["benchmark_low"], rows["benchmark_high"]
    bound = low.where(value < low, high.where(value > high))
    inside = bound.isna() & (low.notna() | high.notna())
    above = pd.Series(np.where(value > high, -1, 1), index=rows.index)
    # A few large amounts move a value and its own error together: the history's error does not follow.
    own = (rows["ci_upper"] - value) / stats.normal_quantile(confidence)
    error = rows["sampling_error"].fillna(own.where((own > 0) & (rows["note"] == "")))
    rows = rows.assign(effect=find_effects(rows, confidence=confidence), error=error)
    target = _test_beyond(rows, rows["target"], rows["sign"])
    beyond = _test_beyond(rows, bound, above).mask(inside, 1.0)
    return {
        "target_missed": _control(target.where(rows["usable"]), "target_missed"),
        "outside_benchmark": _control(beyond.where(rows["usable"]), "outside_benchmark"),
    }


def _control(p_values: "pd.Series[float]", rule: str) -> "pd.Series[float]":
    q_values = stats.control_false_discoveries(p_values)
    return pd.Series(np.where(q_values < LEVELS[rule], q_values, np.nan), index=p_values.index)


def _test_beyond(rows: pd.DataFrame, goal: "pd.Series[float]", sign: pd.Series) -> "pd.Series[float]":
    """Give the p-value of each value that should reach a goal (sign 1), or stay below it (-1)."""
    at_goal = ((goal * (1 - goal)).clip(lower=0) * rows["effect"] / rows["exposed"]) ** 0.5
    error = at_goal.where(at_goal > 0, rows["error"])
    plain = rows["value"] - goal
    distance = plain.where(rows["metric"].map(is_share).astype(bool), measure_distance(rows["value"], goal, error))
    spread = error * rows["dispersion"].fillna(ASSUMED_DISPERSION)
    score = stats.divide(sign * distance, spread)
    return pd.Series(scipy.stats.t.cdf(score, rows["dispersion_df"].fillna(np.inf)), index=rows.index)


def _find(rule: str, rows: pd.DataFrame, rates: Rates) -> list[Found]:
    if rule == "macro_down":
        return _find_macros_down(rows, rates.every)
    column = "change_found" if rule == "change" else rule
    found = rows[rows[column].notna()]
    if found.empty:
        return []
    worse = (found["sign"] * found[column] < 0) if rule in ("control_limit", "change") else _is_wrong_side(rule, found)
    severities = np.select(
        [worse & (found["tier"] == "macro") & (rule in ("control_limit", "change")), worse], SEVERITIES[:2], "info"
    )
    return [
        (rule, severity, row["group"], row["conversion"], row["metric"], row["period"], evidence, row["owner"])
        for severity, evidence, row in zip(
            severities, takeaways.word_evidence(rule, found, every=rates.every), found.to_dict("records"), strict=True
        )
    ]


def _is_wrong_side(rule: str, found: pd.DataFrame) -> "pd.Series[bool]":
    """Say which missed a target, or left a benchmark on the side that the plan does not want."""
    if rule == "target_missed":
        return found["value"].notna()
    return (found["sign"] > 0) == (found["value"] < found["benchmark_low"])


def _find_macros_down(rows: pd.DataFrame, every: str) -> list[Found]:
    found: list[Found] = []
    for row in list_rows(rows[(rows["tier"] == "macro") & (rows["moved"] < 0)]):
        own = (rows["macro"] == row["conversion"]) & (rows["group"] == row["group"]) & (rows["tier"] == "micro")
        up = rows[own & (rows["moved"] > 0)]
        if len(up):
            evidence = takeaways.word_macro_down(row, up, every=every)
            place = row["group"], row["conversion"], row["metric"], row["period"]
            found.append(("macro_down", "critical", *place, evidence, row["owner"]))
    return found


def _find_gaps(rows: pd.DataFrame, rates: Rates, is_open: set[str]) -> list[Found]:
    """Find the groups of which nothing came, though the periods before had units enough, or still nothing comes."""
    table = rates.table.assign(group=_name_groups(rates.table, rates.by))
    table = table[~table["note"].str.startswith("partial")]
    counts = table.groupby(["group", "period"])["exposed"].max()
    found: list[Found] = []
    for group, by_period in counts.groupby(level="group"):
        sizes, period = by_period.droplevel("group"), rows["period"].iloc[0]
        before = sizes[sizes.index < period]
        if sizes.get(period) != 0 or not (before > 0).any():
            continue
        # What comes in seasons only, as courses do, is not missed between them.
        if (before.tail(STEADY_PERIODS) >= stats.FEW_UNITS).all() or group in is_open:
            last = before.index[before > 0][-1]
            evidence = takeaways.word_gap_in_data(str(group), period, last, every=rates.every)
            found.append(("no_data", "critical", group, "", "", period, evidence, ""))
    return found


def _find_quality(quality: Quality, day: pd.Timestamp) -> list[Found]:
    table = quality.table
    failed = table[(table["status"] == "failed") & (table["severity"] == "error")]
    return [
        ("quality", "warning", "", "", row["rule"], day, evidence, row["owner"])
        for row, evidence in zip(failed.to_dict("records"), takeaways.word_failed_rules(failed), strict=True)
    ]


def _find_overdue(actions: Actions, day: pd.Timestamp) -> list[Found]:
    late = actions.table[actions.table["overdue_days"] > 0]
    return [
        ("action_overdue", "info", "", row["conversion"], row["text"], day, takeaways.word_overdue(row), row["owner"])
        for row in list_rows(late)
    ]


def _read_history(history: pd.DataFrame | Path | str | None) -> pd.DataFrame:
    if history is None or (isinstance(history, str) and not history):
        return complete_alerts(pd.DataFrame())
    if not isinstance(history, pd.DataFrame):
        return read_alerts(history)
    missing = [name for name in (*KEY, "id", "still_open") if name not in history and name != "group"]
    if missing:
        msg = f"`history` has no {quote_names(missing)}. Give the table of earlier alerts, or the file that holds them."
        raise ParamError(msg)
    return complete_alerts(history)
