"""Every sentence of the reports, worded once, with its numbers computed."""

import datetime as dt
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from convlib.results import MISSING, Takeaways, find_kind, format_number, format_seconds, format_value
from convlib.stats import FEW_UNITS, SIGNIFICANCE

MOST = 5
#: Days of assignment beyond which a test is long.
LONG_TEST = 56
WHEN = {"D": "on {:%-d %B %Y}", "W": "in the week from {:%-d %B %Y}", "M": "in {:%B %Y}"}
SEVERITIES = {"error": "error", "warning": "warning", "info": "note"}
#: How what follows a stop is called when nothing does.
NOTHING = "(nothing)"
JUDGED = ("positive", "negative", "no evidence")
#: How the models of attribution are called.
MODEL_NAMES = {
    "first": "First touch",
    "last": "Last touch",
    "linear": "Linear",
    "time_decay": "Time decay",
    "position": "Position (40/20/40)",
    "markov": "Markov",
    "shapley": "Shapley",
}
#: An experiment's decision, as its page begins.
DECISIONS = {
    "ship": "Ship {arms}.",
    "roll back": "Roll back {arms}.",
    "keep running": "Keep running.",
    "no effect": "No effect shown.",
    "invalid": "Not valid: no winner.",
}
#: The page has one word for a guardrail's margin.
STATUSES = {"within margin": "keeps its limit", "no evidence": "not shown"}
FACTORS = "Each factor over all levels of the others; of two (x), how much one changes the other's effect"
UNDECIDED = "Not decided: the test is over, and it can't tell."
#: How it begins that one model of all bears a verdict out, with far less of an effect.
ONLY = "only "
#: What opportunities count where the plan gives no value.
CONVERSIONS = "conversions"
#: A test of more days of entries is out of reach: how many years it takes says no more.
MOST_DAYS = 3_650
#: What a micro is to reach: the plan's target, or without one a tenth.
TARGET, TENTH = "its target", "a tenth {}"


def word_funnel(
    table: pd.DataFrame,
    leaks: pd.DataFrame,
    *,
    by: Sequence[str],
    window: str,
    segment: str,
    counted: str = "units",
    seconds_to_most: float = np.nan,
    worth: str | None = None,
    compared: bool = True,
) -> Takeaways:
    """Say how many get through, where most are lost, how long it takes, and which groups leave more often."""
    if by:
        return _word_groups(table, leaks, by, window, segment, counted, compared=compared)
    first, last = table.iloc[0], table.iloc[-1]
    if not first["units"]:
        return Takeaways(
            (
                f"No {counted.removesuffix('s')} of segment {segment} has a complete window of {word_duration(window)} "
                f"after {first['name']}; {first['pending']:,} are pending.",
            )
        )
    sentences = [
        f"{_share(last, 'rate_from_start')} of the {first['units']:,} {counted} that entered at "
        f"{first['name']} reached {last['name']} within {word_duration(window)}.",
        *_word_choke_points(leaks, counted, worth, last=last["name"]),
    ]
    slow = table.iloc[1:].dropna(subset="seconds_from_previous_p50")
    if len(slow):
        step = slow.sort_values("seconds_from_previous_p50").iloc[-1]
        sentences.append(
            f"The slowest step is {step['name']}: half of those who reach it take longer than "
            f"{format_seconds(step['seconds_from_previous_p50'])}."
        )
    if not np.isnan(last["seconds_from_start_p50"]):
        most = "" if np.isnan(seconds_to_most) else f", and 90% within {format_seconds(seconds_to_most)}"
        sentences.append(
            f"Of the {last['units']:,} that reached {last['name']}, half did within "
            f"{format_seconds(last['seconds_from_start_p50'])} of the first step{most}."
        )
    if first["pending"]:
        sentences.append(
            f"{first['pending']:,} more {counted} are pending: their {word_duration(window)} are not over, so they are "
            "in no rate."
        )
    return Takeaways(sentences)


def _word_choke_points(leaks: pd.DataFrame, counted: str, worth: str | None, *, last: str) -> list[str]:
    """Name the step that loses most, and the one that loses most value, if it is another."""
    lost = _records(leaks[leaks["lost"] > 0])
    if not lost:
        return []
    most, dearest = lost[0], min(lost, key=lambda leak: leak["value_rank"] if leak["value"] > 0 else np.inf)
    # Whoever is lost at the last step is one conversion: the number lost need not be told twice.
    is_same = worth == CONVERSIONS and most["name"] == last
    value = "" if is_same else _word_worth(most, worth, start=", worth at most about ")
    sentences = [f"Most leave {_word_leak(most, counted)}{value}."]
    if dearest is not most and dearest["value"] > 0:
        value = _word_worth(dearest, worth, start="at most about ")
        sentences.append(f"The most value is lost {_word_leak(dearest, counted)}, worth {value}.")
    return sentences


def _word_leak(leak: Mapping[str, Any], counted: str) -> str:
    return (
        f"between {leak['previous']} and {leak['name']}: {leak['lost']:,} of {leak['units_before']:,} {counted} "
        f"({leak['lost_rate']:.1%})"
    )


def _word_worth(leak: Mapping[str, Any], worth: str | None, *, start: str) -> str:
    if not leak["value"] > 0:
        return ""
    low, high = leak["value_ci_lower"], leak["value_ci_upper"]
    value, *ends = _write_amounts(worth, [leak["value"], *([low, high] if low > 0 else [])])
    known = f" ({' to '.join(ends)})" if ends else ""
    return f"{start}{value}{known} {worth or 'in value'}"


def _write_amounts(worth: str | None, amounts: Sequence[float]) -> list[str]:
    """Write an amount and its interval; conversions, of one or more, as whole ones."""
    write = "{:z,.0f}".format if worth == CONVERSIONS and abs(amounts[0]) >= 1 else format_number
    return [write(each) for each in amounts]


def word_next(table: pd.DataFrame, *, counted: str, window: str, segment: str) -> Takeaways:
    """Say what those did next that stopped where most do."""
    if not len(table):
        return Takeaways((f"None of the {counted} of segment {segment} stopped on the way.",))
    stops = table.groupby("step")["units"].sum()
    rows = _records(table[table["step"] == stops.idxmax()])
    nothing = [row for row in rows if row["next"] == NOTHING]
    silent = (
        f"{_share(nothing[0], 'share')} did nothing more within {word_duration(window)} of the first step"
        if nothing
        else f"all did something more within {word_duration(window)} of the first step"
    )
    first = rows[0]
    then = (
        f"; most often {first['next']} came next: {_share(first, 'share')}, half of the time within "
        f"{format_seconds(first['median_seconds'])} of the stop"
        if first["next"] != NOTHING
        else ""
    )
    return Takeaways((f"Of the {stops.max():,} {counted} that stopped at {first['name']}, {silent}{then}.",))


def _word_groups(
    table: pd.DataFrame,
    leaks: pd.DataFrame,
    by: Sequence[str],
    window: str,
    segment: str,
    counted: str,
    *,
    compared: bool,
) -> Takeaways:
    if not compared:
        sentence = (
            f"Groups by {' and '.join(by)} at a later step depend on who stays until then: they are not compared."
        )
        return Takeaways((sentence, *_word_leaking_groups(leaks, by, counted)))
    last = table[table["step"] == table["step"].max()]
    started = table.loc[table["step"] == 1, [*by, "units"]].rename(columns={"units": "started"})
    last = last.merge(started, on=list(by))
    large = last[last["started"] >= FEW_UNITS].dropna(subset="rate_from_start")
    if len(large) < 2:
        return Takeaways(
            (f"Segment {segment} has too few groups of {FEW_UNITS} {counted} or more to compare by {', '.join(by)}.",)
        )
    ranked = large.sort_values("rate_from_start", kind="stable")
    best, worst = ranked.iloc[-1], ranked.iloc[0]
    label = " and ".join(by)
    if best["rate_from_start"] == worst["rate_from_start"]:
        same = f"By {label}, no group gets through more often than another: {best['rate_from_start']:.1%} of each"
        return Takeaways((f"{same} within {word_duration(window)}.", *_word_leaking_groups(leaks, by, counted)))
    apart = best["rate_from_start_ci_lower"] > worst["rate_from_start_ci_upper"]
    doubt = "their intervals do not overlap" if apart else "their intervals overlap, so the order may be chance"
    sentence = (
        f"By {label}, {_group(best, by)} gets through most often ({_share(best, 'rate_from_start')}, n = "
        f"{best['started']:,}) and "
        f"{_group(worst, by)} least ({_share(worst, 'rate_from_start')}, n = {worst['started']:,}) "
        f"within {word_duration(window)}; {doubt}."
    )
    return Takeaways((sentence, *_word_leaking_groups(leaks, by, counted)))


def _word_leaking_groups(leaks: pd.DataFrame, by: Sequence[str], counted: str) -> list[str]:
    """Name the groups that leave more often than all others, those with the most extra losses first."""
    tested = int(leaks["q_value"].notna().sum())
    if not tested:
        return []
    everyone = leaks.groupby("step")["units_before"].transform("sum")
    extra = (leaks["leak_difference"] * leaks["units_before"]).sort_values(ascending=False, kind="stable")
    found = leaks.assign(others=everyone - leaks["units_before"]).loc[extra.index]
    rows = _records(found[found["verdict"] == "leaks more"])
    if not rows:
        return [f"No group leaves more often than the others at any step beyond chance ({tested:,} comparisons)."]
    sentences = [
        f"Being in {_describe_group(row, by)} is associated with leaving more often between {row['previous']} and "
        f"{row['name']}: {row['lost_rate']:.1%} of {row['units_before']:,} {counted} leave, "
        f"{_points(row['leak_difference'])} percentage points against the other {row['others']:,} "
        f"({_points(row['leak_difference_ci_lower'])} to {_points(row['leak_difference_ci_upper'])}; "
        f"{_word_q(row['q_value'])})."
        for row in rows[:2]
    ]
    if len(rows) > len(sentences):
        more = len(rows) - len(sentences)
        told = "difference stands" if more == 1 else "differences stand"
        sentences.append(f"{more} more such {told} in the table of leaks.")
    return sentences


def _group(row: Mapping[str, Any] | pd.Series, by: Sequence[str]) -> str:
    return ", ".join(str(row[name]) for name in by)


def _describe_group(row: Mapping[str, Any], by: Sequence[str]) -> str:
    return " and ".join(f"{name.replace('_', ' ')} {row[name]}" for name in by)


def word_rates(latest: pd.DataFrame, *, every: str, segment: str) -> Takeaways:
    """Say where the macro stands, what changed beyond noise, and which targets are missed by most."""
    if not len(latest):
        return Takeaways((f"No period of segment {segment} is complete and has units yet.",))
    when = word_period(latest["period"].iloc[0], every)
    texts = word_values(latest, "value", with_interval=True)
    rows = _records(latest.assign(text=texts, name=latest["conversion"]))
    macros = [row for row in rows if row["tier"] == "macro" and row["metric"] == "rate"]
    sentences = [
        f"{row['name']}: {row['text']} {when}, n = {row['exposed']:,}{_against_target(row)}{_status(row)}."
        for row in macros[:1]
    ]
    sentences.append(_word_changes(rows, latest, every))
    missed = [row for row in rows if row["status"] == "missed" and row["tier"] == "micro"]
    judged = [row for row in rows if row["status"] in ("met", "missed") and row["tier"] == "micro"]
    if judged:
        far = sorted(missed, key=_nearness)
        named = (
            "; furthest from it: "
            + ", ".join(f"{row['name']} ({row['text']}{_against_target(row)})" for row in far[:2])
            if far
            else ""
        )
        sentences.append(f"{len(judged) - len(missed)} of {len(judged)} targets of micro-conversions are met{named}.")
    return Takeaways(sentences)


def word_open(opened: pd.Index, until: pd.Timestamp, *, every: str, window: str | None) -> str:
    """Say which periods with entries are too new to be judged, and until when."""
    first, day = word_period(opened.min(), every), f"{until:%-d %B %Y}"
    if len(opened) == 1:
        over = "its window is over" if window else "late events are in"
        return f"The newest period with entries, those {first}, is left out until {over} ({day})."
    over = "their windows are over" if window else "late events are in"
    return (
        f"The {len(opened):,} newest periods with entries, the first {first}, are left out until {over} "
        f"(of the first on {day})."
    )


def _nearness(row: Mapping[str, Any]) -> float:
    """Say how near a value is to its target, as the smaller over the larger: 1 is there, whatever the direction."""
    low, high = sorted((row["value"], row["target"]))
    return float(low / high) if high else 1.0


def _status(row: Mapping[str, Any]) -> str:
    return f" ({row['status']})" if row["status"] in ("met", "missed") else ""


def _against_target(row: Mapping[str, Any]) -> str:
    if np.isnan(row["target"]):
        return ""
    return f", target {_value(row['target'], str(row['metric']))}"


def _word_changes(rows: list[dict[str, Any]], latest: pd.DataFrame, every: str) -> str:
    compared = int(latest["change_q_value"].notna().sum())
    if not compared:
        return "There is no complete period before it to compare with."
    before = f"the numbers {word_period(latest['compared_with'].max(), every)}"
    changed = [
        (row, text)
        for row, text in zip(rows, word_values(latest, "change", signed=True), strict=True)
        if row["change_q_value"] < SIGNIFICANCE
    ]
    if not changed:
        return f"None of the {compared} metrics changed beyond noise against {before}."
    # The macro first, then what moved most for its size.
    changed.sort(key=lambda item: (item[0]["tier"] != "macro", -abs(item[0]["change"] / (item[0]["value"] or 1))))
    named = ", ".join(f"{row['name']} {text}" for row, text in changed[:3])
    return f"{len(changed)} of {compared} metrics changed beyond noise against {before}: {named}."


def word_correlation(
    table: pd.DataFrame,
    *,
    macro: str,
    names: Mapping[str, str],
    segment: str,
    exposure: Sequence[str],
    horizon: str,
    units: int,
    pending: int,
    groups: pd.DataFrame,
    worth: str,
) -> Takeaways:
    """Say which micros go with the macro, where segments disagree, and what the numbers leave out."""
    found = table[table["verdict"].isin(["positive", "negative"])]
    found = found.reindex(found["adjusted_lift"].abs().sort_values(ascending=False, kind="stable").index)
    unit = f"{worth} per unit" if worth else f"percentage points of {macro}"
    write = _signed if worth else _points
    stacked = " unit-landmarks" if len(exposure) > 1 else ""
    sentences = [
        f"{names[row['micro']]} is associated with {write(row['adjusted_lift'])} {unit} "
        f"({write(row['adjusted_lift_ci_lower'])} to {write(row['adjusted_lift_ci_upper'])}) after adjustment; "
        f"raw {write(row['lift'])}; n = {row['units_with']:,}{stacked} with and {row['units_without']:,} without."
        for row in _records(found.head(MOST - 2))
    ]
    more = [f"{names[row['micro']]} ({write(row['adjusted_lift'])})" for row in _records(found.iloc[MOST - 2 :])]
    if more:
        sentences.append(f"Also associated with it: {', '.join(more)}.")
    if pending and pending == units:
        sentences.append(f"All {units:,} units of segment {segment} are pending: their follow-up is not over.")
    elif not table["verdict"].isin(JUDGED).any():
        if (table["verdict"] == "too few").all():
            sentences.append(f"Segment {segment} has too few units or conversions to judge any micro-conversion.")
    elif not len(found):
        sentences.append(f"No micro-conversion of segment {segment} is associated with {macro} beyond chance.")
    silent = [names[m] for m in table.loc[table["verdict"] == "no evidence", "micro"]]
    if silent:
        sentences.append(f"No evidence of an association, at this size, for {', '.join(silent)}.")
    for verdict, words in (
        ("precondition", "Steps that nobody converts without, so not ranked"),
        ("follows the macro", "Mostly done after converting, so not ranked"),
    ):
        unranked = [names[micro] for micro in table.loc[table["verdict"] == verdict, "micro"]]
        if unranked:
            sentences.append(f"{words}: {', '.join(unranked)}.")
    sentences += _word_differing(groups, names, write, "" if worth else " points")
    tail = f" {pending:,} units are pending." if pending else ""
    sides = (
        " A unit counts once at each of these times, and may do so on both sides: without it first, with it later."
        if stacked
        else ""
    )
    sentences.append(
        f"Done within {_list([word_duration(text) for text in exposure])} of entry, {macro} counted for "
        f"{word_duration(horizon)} after that, among units that had neither converted nor left for good by then."
        f"{sides}{tail}"
    )
    return Takeaways(sentences)


def word_unfollowed(pending: int, units: int) -> str:
    """Say how many units are too new for the last landmark."""
    return (
        f"{pending:,} of {units:,} units are pending at the last landmark: their follow-up is not over, and they are "
        "not counted there."
    )


def word_early(early: int, converters: int, *, macro: str, landmark: str) -> str:
    """Say that many convert before there is anything to compare."""
    return (
        f"{early:,} of {converters:,} units that got to {macro} did so within {word_duration(landmark)} of entry, "
        "before the first landmark, and are not compared; an earlier landmark would count more of them."
    )


def word_late(late: int, converters: int, *, macro: str, landmark: str, horizon: str, enough: str) -> str:
    """Say that many convert too late to count, and how long a horizon would be long enough."""
    return (
        f"{late:,} of {converters:,} units that got to {macro} later than {word_duration(landmark)} after entry did so "
        f"after the horizon of {word_duration(horizon)}, and count as not converted; a horizon of "
        f"{word_duration(enough)} would count 90% of them."
    )


def word_empty(column: str, empty: int, units: int) -> str:
    """Say that a column which is adjusted for holds nothing."""
    so = "nothing" if empty == units else "next to nothing"
    return f"Adjusted by {column}, which is empty at entry for {empty:,} of {units:,} units: it adjusts for {so}."


def _signed(value: float) -> str:
    return f"{'-' if value < 0 else '+'}{format_number(abs(value))}"


def _word_differing(
    groups: pd.DataFrame, names: Mapping[str, str], write: Callable[[float], str], unit: str
) -> list[str]:
    """Name, for the two micros whose groups are furthest apart, the two groups that are."""
    widest: dict[str, tuple[float, str]] = {}
    ordered = groups[groups["differs"].astype(bool)].sort_values("lift", kind="stable")
    for _, rows in ordered.groupby(["micro", "column"], sort=False):
        low, *_, high = _records(rows)
        micro = low["micro"]
        ends = " and ".join(f"{write(row['lift'])}{unit} for {row['column']} {row['value']}" for row in (high, low))
        sentence = f"{names[micro]} does not go with it alike everywhere: {ends}."
        widest[micro] = max(widest.get(micro, (0.0, "")), (high["lift"] - low["lift"], sentence))
    return [sentence for _, sentence in sorted(widest.values(), reverse=True)[:2]]


def word_models(models: pd.DataFrame, names: Mapping[str, str], *, in_value: bool) -> Takeaways:
    """Say for which micros looking at all together gives another verdict, or far less, than looking at each alone."""
    apart = models[~models["agree"].astype(bool)]
    if models.empty:
        return Takeaways()
    faded = _word_faded(models[models["agree"].astype(bool)], names, in_value=in_value)
    if apart.empty:
        but = f", but {faded}" if faded else ""
        kept = "Looked at all together, every micro-conversion keeps the verdict that it has alone"
        return Takeaways([f"{kept}{but}."])
    listed = "; ".join(
        f"{names[row['micro']]} ({row['strata_verdict']} alone, {row['regression_verdict']} together)"
        for row in _records(apart)
    )
    return Takeaways(
        [
            f"All micro-conversions in one model give another verdict for {listed}. There, what comes with others "
            "shows only what it adds to them, and what can't be told from them is not judged.",
            *([f"With the same verdict, {faded}."] if faded else []),
        ]
    )


def _word_faded(models: pd.DataFrame, names: Mapping[str, str], *, in_value: bool) -> str:
    """Name the micros of which less than half of the effect is left when all are looked at together."""
    found = models[models["strata_verdict"].isin(["positive", "negative"])]
    rows = _records(found[found["regression_lift"].abs() < found["strata_lift"].abs() / 2])
    listed = [
        f"{names[row['micro']]} ({_write_lift(row['strata_lift'], in_value=in_value)} alone, "
        f"{_write_lift(row['regression_lift'], in_value=in_value)} together)"
        for row in rows
    ]
    return f"less than half of the effect is left for {_list(listed)}" if listed else ""


def word_gap(naive: pd.DataFrame, table: pd.DataFrame, *, macro: str, names: Mapping[str, str]) -> Takeaways:
    """Explain, for the micro where they are furthest apart, the usual score against the lift at the landmark."""
    both = naive.merge(table[["micro", "lift", "verdict"]], on="micro", suffixes=("_naive", ""))
    both = both[both["verdict"].isin(JUDGED) & both["lift_naive"].notna()]
    if both.empty:
        return Takeaways()
    apart = (both["lift_naive"] - both["lift"]).abs()
    row = _records(both[apart == apart.max()])[0]
    parts = (
        ("gone_without", "units_without", "units of the rest", "had converted or left for good"),
        ("late_with", "units_with", "units that did it", "did so only later"),
    )
    told = [
        f"{row[some]:,} of the {row[whole]:,} {who} ({row[some] / row[whole]:.0%}) {what}"
        for some, whole, who, what in parts
        if row[some]
    ]
    sentences = [
        f"Counted as most products do (done before converting, or ever without converting, against the rest), "
        f"{names[row['micro']]} goes with {_points(row['lift_naive'])} percentage points of {macro}; by what units "
        f"still at risk had done by the landmark, with {_points(row['lift'])}."
    ]
    if told:
        sentences.append(
            f"By the last landmark {', and '.join(told)}. Who is gone can't do it any more, and who does it late has "
            "stayed so long already: the first number takes both for the micro-conversion's doing."
        )
    return Takeaways(sentences)


def word_attribution(
    table: pd.DataFrame,
    comparison: pd.DataFrame,
    *,
    macro: str,
    window: str,
    counts: Mapping[str, int],
    segment: str,
) -> Takeaways:
    """Say which touches get most credit, how far the models agree, and how many conversions came without a touch."""
    if not counts["conversions"]:
        return Takeaways((f"No {macro} of segment {segment} to credit.",))
    touches, bare, model = table.iloc[:-1], table.iloc[-1], MODEL_NAMES[table["model"].iloc[0]]
    sentences = [
        f"{model} credits {row['touch']} with {format_number(row['conversions'])}{_word_credit(row)} of "
        f"{counts['conversions']:,} conversions ({row['share']:.1%}); half of its touches before one came in the last "
        f"{format_seconds(row['seconds_to_conversion_p50'])}."
        for row in _records(touches[touches["touches"] > 0].head(2))
    ]
    if bare["conversions"]:
        sentences.append(
            f"{bare['conversions']:,.0f} of {counts['conversions']:,} conversions ({bare['share']:.1%}) came without "
            f"any touch in the {word_duration(window)} before."
        )
    negative = touches.loc[(touches["share"] < 0) & (model == MODEL_NAMES["shapley"]), "touch"]
    if len(negative):
        sentences.append(
            f"Where a share is below zero ({', '.join(negative)}), paths with the touch convert less often than those "
            "without; what it lacks goes to the other touches, so that one may have more than 100%."
        )
    credits = comparison.iloc[:-1].set_index("touch")
    if counts["converting"]:
        spread = credits.max(axis=1) - credits.min(axis=1)
        row = credits.loc[[spread.idxmax()]].iloc[0]
        ends = [str(name) for name in (row.idxmin(), row.idxmax())]
        low, high = (f"{format_number(row[name])} ({MODEL_NAMES[name]})" for name in ends)
        sentences.append(f"The models differ most on {row.name}: from {low} to {high}.")
    pending = f" Pending paths, in neither: {counts['pending']:,}." if counts["pending"] else ""
    sentences.append(
        f"Credit shares out what happened on {counts['converting']:,} paths to {macro} and {counts['unconverted']:,} "
        f"paths without it; it does not say what would happen without a touch.{pending}"
    )
    return Takeaways(sentences)


def _word_credit(row: Mapping[str, Any]) -> str:
    low, high = row["conversions_ci_lower"], row["conversions_ci_upper"]
    return f" ({format_number(low)} to {format_number(high)})" if np.isfinite(low) else ""


def word_scorecard(
    table: pd.DataFrame,
    validation: pd.DataFrame,
    scores: pd.DataFrame,
    *,
    macro: str,
    segment: str,
    until: dt.date,
    fitted: int,
    area: tuple[float, float, float],
    note: str,
) -> Takeaways:
    """Say how well a score told who converts later, whether its probabilities held, and what gives most points."""
    day, later = f"{until:%-d %B %Y}", int(validation["units"].sum())
    sentences = []
    if np.isfinite(area[0]):
        low, high = area[1:]
        best, rate = _records(validation)[0], validation["converted"].sum() / later
        times = [format_number(best[f"observed{end}"] / rate) for end in ("", "_ci_lower", "_ci_upper")]
        sentences = [
            f"Of the {later:,} units that entered after {day}, one that reached {macro} had the higher score than one "
            f"that did not in {area[0]:.1%} of the pairs ({low:.1%} to {high:.1%}; 50% is chance).",
            f"The {best['units']:,} with the highest scores did so {times[0]} times as often as all ({times[1]} to "
            f"{times[2]}): {_share(best, 'observed')}.",
            _word_calibration(validation),
        ]
    elif note:
        sentences = [f"The score of segment {segment} can't be judged: {note}."]
    top = table[table["log_odds_ci_lower"] > 0].sort_values("points", ascending=False, kind="stable")
    if len(top):
        listed = _list([f"{row['micro']} ({row['points']:+,})" for row in _records(top.head(3))])
        sentences.append(
            f"Among {fitted:,} units fitted on, until {day}, the most points go to {listed}: doing it is associated "
            f"with {macro}, which does not say that it brings it about."
        )
    waiting = scores[scores["pending"] & (scores["decile"] == 1)]
    if len(waiting):
        sentences.append(
            f"{scores['pending'].sum():,} units are still open, {len(waiting):,} of them in the highest decile."
        )
    return Takeaways(sentences)


def _word_calibration(validation: pd.DataFrame) -> str:
    """Say whether predicted rates held on units that the score was not fitted on."""
    units, hits = validation["units"].sum(), validation["converted"].sum()
    predicted = (validation["predicted"] * validation["units"]).sum() / units
    inside = validation["predicted"].between(validation["observed_ci_lower"], validation["observed_ci_upper"]).sum()
    sizes = " to ".join(dict.fromkeys(f"{size:,}" for size in (validation["units"].min(), validation["units"].max())))
    return (
        f"By their scores {predicted:.1%} of them would, and {hits / units:.1%} did; in {inside} of {len(validation)} "
        f"groups by score, of {sizes} units each, the prediction lies within the interval of what they did."
    )


def word_paths(
    table: pd.DataFrame,
    paths: pd.DataFrame,
    *,
    macro: str,
    start: str | None,
    end: str | None,
    window: str,
    counts: Mapping[str, int],
    segment: str,
) -> Takeaways:
    """Say how many convert, which path is the most common, and where converted and lost units part."""
    length, units, backwards = word_duration(window), counts["units"], bool(end and not start)
    whom = f"units that came to {start or end}" if start or end else "units"
    waiting = f"Pending, as their {length} reach past the data, and in no share: {counts['pending']:,}."
    if not units:
        return Takeaways((f"None of the {whom} of segment {segment} has all its {length} in the data. {waiting}",))
    sentences = [_word_reached(counts, whom, macro, length)]
    if backwards and end == macro:
        sentences = [f"{units:,} {whom} are traced back over {length}."]
    empty, listed = paths[paths["path"] == "(no conversion)"], paths[~paths["path"].str.startswith("(")]
    if len(listed):
        first = listed.iloc[0]
        rest = f"; {_share(empty.iloc[0], 'share')} have no conversion in that time" if len(empty) else ""
        found = f"{_share(first, 'share')}, n = {first['units']:,}"
        sentences.append(f"The most common path is {_shorten_path(first['path'])}: {found}{rest}.")
    sentences += [_word_parting(row) for row in _records(_heaviest(table[table["q_value"] < SIGNIFICANCE]).head(2))]
    return Takeaways([*sentences, waiting] if counts["pending"] else sentences)


def _shorten_path(path: str) -> str:
    nodes = path.split(" → ")
    return " → ".join([*nodes[:3], "…", *nodes[-2:]] if len(nodes) > MOST + 1 else nodes)


def _word_reached(counts: Mapping[str, int], whom: str, macro: str, length: str) -> str:
    converted, units = counts["converted"], counts["units"]
    return f"{converted:,} of {units:,} {whom} ({converted / units:.1%}) reached {macro} within {length}."


def _heaviest(found: pd.DataFrame) -> pd.DataFrame:
    """Put first the transitions that set most units apart: a large difference of few units says less."""
    weights = (found["difference"].abs() * found["units"]).sort_values(ascending=False, kind="stable")
    return found.reindex(weights.index)


def _word_parting(row: Mapping[str, Any]) -> str:
    outcome = "converting" if row["difference"] > 0 else "not converting"
    return (
        f"Going on from {row['source']} to {row['target']} is associated with {outcome}: {row['share_converted']:.1%} "
        f"of the converted units at {row['source']} did, {row['share_lost']:.1%} of the lost "
        f"({_points(row['difference'])} points, {_points(row['difference_ci_lower'])} to "
        f"{_points(row['difference_ci_upper'])})."
    )


def word_goal(goal: float | None, *, target: bool, up: bool) -> str:
    """Name what a micro is to reach: a what-if goal, the plan's target, else a tenth more (or fewer) units."""
    if goal is not None:
        return f"{goal:.1%}"
    return TARGET if target else TENTH.format("more" if up else "fewer")


def word_together(other: Mapping[str, Any] | pd.Series, *, verdict: str, alone: float, in_value: bool) -> str:
    """Say what becomes of a micro's verdict in one model of all, or of most of its size; nothing where both stay."""
    lift, together = other["adjusted_lift"], "when all micro-conversions are looked at together"
    if other["verdict"] == verdict:
        faded = verdict in ("positive", "negative") and abs(lift) < abs(alone) / 2
        known, before = _write_lift(lift, in_value=in_value), _write_lift(alone, in_value=in_value)
        return f"{ONLY}{known} {together} ({before} alone)" if faded else ""
    size = f" ({_write_lift(lift, in_value=in_value)})" if np.isfinite(lift) else ""
    said = other["verdict"] if other["verdict"] in JUDGED else other["note"]
    return f"{said} {together}{size}"


def _write_lift(lift: float, *, in_value: bool) -> str:
    return _signed(lift) if in_value else f"{_points(lift)} pts"


def word_probability(probability: float) -> str:
    """Write a probability that is not certain as what it is."""
    if 0.995 <= probability < 1:
        return ">99%"
    return "<1%" if 0 < probability <= 0.005 else f"{probability:.0%}"


def word_experiment(name: str, macro: str) -> str:
    """Say what stands in the place of an association, and what that assumes."""
    which = f" in {name}" if name else ""
    return f"measured{which}, assuming that the change acts on {macro} only through it"


def word_experiment_result(
    table: pd.DataFrame,
    decisions: pd.DataFrame,
    validity: pd.DataFrame,
    assigned: pd.DataFrame,
    *,
    name: str,
    decision: str,
    arm: str,
    rule: str,
    reading: str,
    arms: Sequence[str],
    dates: tuple[dt.date, dt.date] | None,
    window: str,
    segment: str,
    confidence: float,
    factors: pd.DataFrame | None = None,
) -> Takeaways:
    """Say what to do and by which rule, what the change caused, and how the numbers are to be read.

    The table's metrics have their names for people in `conversion`, those of the factors' effects too.
    """
    chosen = _deciding(decisions, decision, rule, arm)
    what = UNDECIDED if (decision, reading) == ("keep running", "final") else DECISIONS[decision]
    # The rule of one of several arms says whose it is, unless the decision has named it.
    is_open = len(arms) > 2 and "{arms}" not in what and decision != "invalid"
    whose = f", {_name_arms(chosen, counted=True)}" if is_open else ""
    where = "" if segment == "all" else f" (segment {segment})"
    head = f"{what.format(arms=_name_arms(chosen))} {name}{where}{whose}: {rule}"
    units = _word_assigned(assigned, dates, window)
    if decision == "invalid":
        return Takeaways((head, f"{units}. Its effects are not shown."))
    # Two arms are enough for one minute; the others are told in one sentence.
    told = chosen[:2]
    rows = {arm: _records(table[table["arm"] == arm]) for arm in dict.fromkeys([*told, *arms[1:]])}
    early = bool((validity["status"] == "waiting").any())
    said = [_word_caused(row, early=early) for arm in told for row in rows[arm] if row["role"] == "primary"]
    said += [_word_guardrails(rows[arm]) for arm in told if any(row["role"] == "guardrail" for row in rows[arm])]
    said += _word_others({arm: own for arm, own in rows.items() if arm not in told}, decisions)
    said += _word_factors(factors) if factors is not None else []
    doubts = [f"A doubt: {each}" for each in _word_checks(validity, "warning")[:1]]
    return Takeaways((head, *said, *doubts, f"{units}. {_word_reading(reading, confidence)}"))


def _deciding(decisions: pd.DataFrame, decision: str, rule: str, arm: str) -> list[str]:
    """Give the arms that an experiment's decision is about: the one to ship, or those with its decision and rule."""
    same = (decisions["decision"] == decision) & (decisions["rule"] == rule)
    return [arm] if arm else list(decisions.loc[same, "arm"])


def _name_arms(arms: Sequence[str], *, counted: bool = False) -> str:
    which = f"arm{'' if len(arms) == 1 else 's'} " if counted else ""
    return which + _list([_quote(arm) for arm in arms])


def word_rule(reason: str, rows: pd.DataFrame) -> str:
    """Say which rule decided about an arm, from the checks or metrics (named for people) that it rests on."""
    if reason in {"invalid", "waiting"}:
        return " ".join(rows["evidence"])
    each = _records(rows)
    # What few people did is judged, and its numbers are not shown.
    effects = [word_effect(row) if np.isfinite(row["effect"]) else "(its numbers are left out)" for row in each]
    changes = [f"{row['conversion']} {effect}" for row, effect in zip(each, effects, strict=True)]
    primary = each[0]["conversion"]
    keep = "keeps its limit" if len(each) == 1 else "keep their limits"
    said = {
        "worse": f"Shown worse than no change: {'; '.join(changes)}.",
        "better": f"{primary} is shown better, and every guardrail keeps its limit.",
        "open": f"It is not shown that {_list([row['conversion'] for row in each])} {keep}.",
        "too few": f"Too few units or conversions to compare {primary}.",
        "running": f"No difference in {primary} is shown yet, and there is time left.",
        "nothing": f"No difference in {primary} is shown.",
    }
    return said[reason]


def word_experiment_steps(
    table: pd.DataFrame,
    validity: pd.DataFrame,
    decisions: pd.DataFrame,
    *,
    decision: str,
    arm: str,
    rule: str,
    control: str,
    reading: str,
    until: dt.date | None,
    in_groups: bool,
) -> Takeaways:
    """Say what follows from a decision: what to switch on or off, what to watch, how long to go on."""
    chosen = _deciding(decisions, decision, rule, arm)
    own = _records(table[table["arm"].isin(chosen[:1])])
    hurt = list(decisions.loc[(decisions["decision"] == "roll back") & ~decisions["arm"].isin(chosen), "arm"])
    if decision == "ship":
        rest = [control, *(each for each in decisions["arm"] if each not in chosen)]
        guarded = _list([row["conversion"] for row in own if row["role"] == "guardrail"] or ["the macro"])
        return Takeaways(
            (
                f"Give {_quote(arm)} to everybody and retire {_name_arms(rest)}.",
                f"Go on watching {guarded} by week: a guardrail that keeps its limit may still get a little worse.",
            )
        )
    if decision == "roll back":
        where = ["See in the groups below where it hurt, before another try."] if in_groups else []
        return Takeaways((f"Switch {_name_arms(chosen)} off: everybody gets {_quote(control)}.", *where))
    if decision == "invalid":
        failed = _list(list(validity.loc[validity["status"] == "failed", "check"]) or ["a check"])
        return Takeaways((f"Find out why this failed: {failed}.", "Then start again, with units that were in no arm."))
    stop = [f"Shown to hurt: give {_quote(control)} to those in {_name_arms(hurt)}."] if hurt else []
    if decision == "keep running":
        waiting = validity.loc[validity["status"] == "waiting", "evidence"]
        return Takeaways((*waiting, *_word_going_on(reading, until), *stop))
    return Takeaways((f"Keep {_quote(control)}, the simpler choice.", *_word_ruled_out(own), *stop))


def _word_going_on(reading: str, until: dt.date | None) -> list[str]:
    if reading == "final":
        return ["Extend the test, or plan a longer one: cv.plan_experiment says how many units it takes."]
    end = _word_date(until) if until else "the primary metric and every guardrail are decided"
    return [f"Go on until {end}.", "Meanwhile leave the arms, their shares and the metrics as they are."]


def _word_checks(validity: pd.DataFrame, status: str) -> list[str]:
    rows = _records(validity[validity["status"] == status])
    return [f"{row['check'].capitalize()}: {row['evidence']}" for row in rows]


def _word_ruled_out(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Say which effects on the primary metric a test without an effect leaves open."""
    return [
        f"Changes of {row['conversion']} beyond {row['relative_effect_ci_lower']:+z.1%} to "
        f"{row['relative_effect_ci_upper']:+z.1%} are unlikely; if a smaller one pays, plan a larger test."
        for row in rows
        if row["role"] == "primary" and np.isfinite(row["relative_effect"])
    ]


def _word_caused(row: Mapping[str, Any], *, early: bool) -> str:
    """Say what an arm did to the primary metric; before there are enough days and units only what is seen so far."""
    label, arm = row["conversion"], _quote(row["arm"])
    if not np.isfinite(row["effect"]):
        why = f": {row['note']}" if row["note"] else ""
        return f"{label}: too little to compare {arm} (n = {row['units']:,}) with the control{why}."
    value, control = (_value(row[name], row["metric"]) for name in ("value", "value_control"))
    against = f"{value} (n = {row['units']:,}) against {control} (n = {row['units_control']:,})"
    if row["status"] not in ("better", "worse"):
        return f"No effect of {arm} on {label} is shown: {word_effect(row)}; {against}."
    if early:
        side = "higher" if row["effect"] > 0 else "lower"
        return f"So far {label} is {side} with {arm}: {word_effect(row)}; {against}."
    verb = "rise" if row["effect"] > 0 else "fall"
    return f"{arm} caused {label} to {verb}: {word_effect(row)}; {against}."


def _word_others(rows: Mapping[str, Sequence[Mapping[str, Any]]], decisions: pd.DataFrame) -> list[str]:
    """Name the arms that nothing else is said about, each with its decision."""
    decided = dict(zip(decisions["arm"], decisions["decision"], strict=True))
    primary = [(arm, row) for arm, own in rows.items() for row in own if row["role"] == "primary"]
    parts = [f"{_quote(arm)} {word_effect(row)}, {decided[arm]}" for arm, row in primary]
    return [f"{primary[0][1]['conversion']} in the other arms: {'; '.join(parts)}."] if parts else []


def _word_guardrails(rows: Sequence[Mapping[str, Any]]) -> str:
    counts = f"n = {rows[0]['units']:,} against {rows[0]['units_control']:,}"
    said = "; ".join(_word_guardrail(row) for row in rows if row["role"] == "guardrail")
    return f"Guardrails of {_quote(rows[0]['arm'])} ({counts}): {said}."


def _word_guardrail(row: Mapping[str, Any]) -> str:
    label, effect = row["conversion"], word_effect(row)
    if not np.isfinite(row["effect"]):
        return f"{label} has too little to tell"
    if row["status"] == "worse":
        return f"{label} is shown worse than no change, {effect}"
    limit = word_limit(row)
    sides = ("above", "below") if limit.startswith("-") else ("below", "above")
    if row["status"] == "within margin":
        return f"{label} changed by {effect}, safely {sides[0]} its limit of {limit}"
    return f"{label} changed by {effect}, and may be {sides[1]} its limit of {limit}"


def _word_factors(factors: pd.DataFrame) -> list[str]:
    """Say what each factor does to the primary metric, and whether one changes another's effect."""
    rows = _records(factors[(factors["role"] == "primary") & factors["effect"].notna()])
    single, joint = ([row for row in rows if _is_interaction(row["effect_of"]) == kind] for kind in (False, True))
    if not single:
        return []
    shown = [row for row in joint if row["p_value"] < SIGNIFICANCE]
    said = f"{single[0]['conversion']}, by factor: {_word_parts(single)}."
    if shown:
        return [f"{said} They change one another's effect: {_word_parts(shown)}."]
    return [f"{said} No change of one another's effect is shown: {_word_parts(joint)}."]


def _is_interaction(effect_of: str) -> bool:
    """Say whether a row of the factors' effects is that of two together."""
    parts = effect_of.split(" x ")
    return len(parts) > 1 and all(": " in part for part in parts)


def _word_parts(rows: Sequence[Mapping[str, Any]]) -> str:
    return "; ".join(f"{_quote(row['effect_of'])} {word_effect(row)}" for row in rows)


def word_variance(saved: float) -> str:
    """Say what knowing the time before the test was worth."""
    return f"Values are adjusted by what units did before, which saved up to {max(0, saved):.1%} of the variance"


def word_effect(row: Mapping[str, Any] | pd.Series) -> str:
    """Write the relative change with its interval; the difference where a limit is one, or nothing else is known."""
    if np.isfinite(row.get("relative_effect", np.nan)) and not np.isfinite(row.get("margin_absolute", np.nan)):
        return _word_relative(row)
    if not np.isfinite(row["effect"]):
        return MISSING
    value, low, high = (
        _value(row[f"effect{end}"], row["metric"], signed=True) for end in ("", "_ci_lower", "_ci_upper")
    )
    return f"{value} ({low} to {high})"


def word_limit(row: Mapping[str, Any] | pd.Series) -> str:
    """Write the change that a guardrail may show; empty for other metrics."""
    if np.isfinite(row["margin"]):
        return f"{row['margin']:+.1%}"
    absolute = row["margin_absolute"]
    return _value(absolute, row["metric"], signed=True) if np.isfinite(absolute) else ""


def _word_assigned(assigned: pd.DataFrame, dates: tuple[dt.date, dt.date] | None, window: str) -> str:
    total, pending = int(assigned["assigned"].sum()), int(assigned["pending"].sum())
    when = f" from {_word_date(dates[0])} to {_word_date(dates[1])}" if dates else ""
    followed = f", each followed for {word_duration(window)}" if window else ""
    waiting = f"; {pending:,} of them are still being followed and in no number" if pending else ""
    return f"{total:,} units were assigned{when}{followed}{waiting}"


def _word_reading(reading: str, confidence: float) -> str:
    often = f"in {confidence:.0%} of such tests"
    if reading == "running":
        return f"Still running. The ranges in brackets hold the true change {often}, however often you look."
    return f"Final: to be read once. The ranges in brackets hold the true change {often}."


def _word_date(day: dt.date) -> str:
    return f"{day.day} {day:%B %Y}"


def word_impact(
    table: pd.DataFrame,
    *,
    macro: str,
    names: Mapping[str, str],
    worth: str,
    followed: int,
    days: int,
    segment: str,
    tests: pd.DataFrame,
) -> Takeaways:
    """Say what to work on first, how sure that is, and how to find out."""
    rows = table[(table["opportunity"] > 0) & (table["verdict"].isin(["positive", "negative", "measured"]))]
    among = f"among the {followed:,} units followed, who entered over {days:,} {'day' if days == 1 else 'days'}"
    sentences = [_word_opportunity(row, names[row["micro"]], worth, among) for row in _records(rows.head(3))]
    sentences += _word_unlike_goals(table[table["verdict"].isin([*JUDGED, "measured"])], names) if len(rows) else []
    untested = rows[(rows["verdict"] != "measured") & np.isfinite(rows["days_to_test"])]
    if not table["verdict"].isin([*JUDGED, "measured"]).any():
        sentences.append(f"Segment {segment} has too few units or conversions to judge any micro-conversion.")
    elif not len(rows):
        sentences.append(f"No micro-conversion of segment {segment} shows an opportunity beyond chance for {macro}.")
    # Where one model of all says something else of a rank, the next that both bear out is the better test.
    borne_out = untested[(untested["together"] == "") | untested["together"].str.startswith(ONLY)]
    for first in _records((untested if borne_out.empty else borne_out).head(1)):
        is_first = first["micro"] == untested["micro"].iloc[0]
        lower = "" if is_first else ", the highest rank that one model of all micro-conversions bears out"
        doubt = f"; but {first['together']}" if first["together"] else ""
        sentences.append(
            f"Test {names[first['micro']]} first{lower}: {first['sample_size_to_test']:,.0f} units in two arms would "
            f"show it move, {_word_entry_days(first['days_to_test'])} of entries at this traffic{doubt}."
        )
        same = tests[(tests["micro"] == first["micro"]) & tests["macro_days"].notna()]
        sentences += [
            f"To show {macro} itself move by the {_points(row['macro_effect'])} points that this predicts would take "
            f"{row['macro_sample_size']:,.0f} units, {_word_entry_days(row['macro_days'])} of entries."
            for row in _records(same)
        ]
    if len(rows) and table.loc[table["rank"].notna(), "effort"].isna().all():
        sentences.append("The plan gives no efforts, so what is to gain is not set against what it takes.")
    but = "Apart from what experiments measured, these" if (rows["verdict"] == "measured").any() else "These"
    sentences.append(
        f"{but} are associations in observed events; only a randomised test can show what a change causes."
    )
    return Takeaways(sentences)


def _word_opportunity(row: Mapping[str, Any], name: str, worth: str, among: str) -> str:
    reached = f"reaching {row['goal']}" if not row["goal"].startswith("a tenth") else f"{row['goal']} units doing it"
    verb, condition = "would go with", "if the association held"
    if row["verdict"] == "measured":
        verb, condition = "would bring", "by the effect that an experiment caused, if that came only through it"
    ends = ("opportunity", "opportunity_ci_lower", "opportunity_ci_upper")
    value, low, high = _write_amounts(worth, [row[each] for each in ends])
    doubt = row["together"]
    # The opposite sign comes first: who reads on must not take the rank for settled.
    is_opposite = doubt.startswith(("positive", "negative"))
    head = f"{doubt}, so in doubt; alone, " if is_opposite else ""
    return (
        f"Rank {row['rank']}, {name}: {head}{reached} {verb} {value} more {worth} ({low} to {high}) "
        f"{among}, {condition}; in the top 3 with probability {word_probability(row['probability_top_3'])}"
        f"{f'; {doubt}' if doubt and not is_opposite else ''}."
    )


def _word_unlike_goals(ranked: pd.DataFrame, names: Mapping[str, str]) -> list[str]:
    """Say which micros have no target to be ranked by, where others have one."""
    tenth = ranked["goal"].str.startswith(TENTH.format(""))
    if not tenth.any() or not (ranked["goal"] == TARGET).any():
        return []
    without = _list([names[micro] for micro in ranked.loc[tenth, "micro"]])
    return [
        f"The ranks compare unlike goals: the plan's target, which may be near, or without one "
        f"{_list(list(dict.fromkeys(ranked.loc[tenth, 'goal'])))} units ({without})."
    ]


def _word_entry_days(days: float) -> str:
    return f"about {days:,.0f} days" if days <= MOST_DAYS else f"more than {MOST_DAYS // 365} years"


def word_plan(
    table: pd.DataFrame,
    *,
    units: float,
    days: float,
    per_day: float,
    follow_up: str,
    arms: int,
    power: float,
    is_assigned: bool,
    planned_days: int | None = None,
) -> Takeaways:
    """Say how long a test takes at the log's traffic, what decides that, and what other lengths would show."""
    rows = _records(table)
    primary, known = rows[0], [row for row in rows if np.isfinite(row["units_needed"])]
    sentences = []
    if np.isfinite(units):
        sentences.append(
            f"At {per_day:,.0f} units a day, the test needs {units:,.0f} units in {arms} arms: {days:,.0f} days of "
            f"assignment and {word_duration(follow_up)} to follow the last of them."
        )
        weeks = int(np.ceil(days / 7))
        rounded = f"{weeks:,} week{'' if weeks == 1 else 's'}"
        sentences.append(f"Rounded up to whole weeks, so that each weekday counts alike: {rounded} of assignment.")
        most_first = sorted(known, key=lambda row: -float(row["units_needed"]))
        if too_short := planned_days is not None and planned_days < days:
            sentences.append(
                f"The plan has {planned_days:,} days of assignment (`start` to `end`), {days - planned_days:,.0f} too "
                "few: move `end`, or ask for less."
            )
        if too_short or days > LONG_TEST:
            sentences.append(_word_shorter(most_first[0], arms))
        sentences += [_word_planned(row, power) for row in most_first]
    if np.isfinite(primary["detectable_2_weeks"]):
        shown = ", ".join(f"{primary[f'detectable_{weeks}_weeks']:+.1%} in {weeks} weeks" for weeks in (2, 4, 8))
        sentences.append(f"Change of {primary['conversion']} that would be found by time of assignment: {shown}.")
    sentences += [f"{row['conversion']} can't be planned: {row['note']}." for row in rows if row not in known]
    if not is_assigned:
        sentences.append("Nobody has been assigned yet, so these are numbers of all who entered.")
    return Takeaways(sentences)


def _word_shorter(largest: Mapping[str, Any], arms: int) -> str:
    """Say what makes a test shorter: it is as long as its largest metric needs."""
    change = "a wider margin of this guardrail" if largest["role"] == "guardrail" else "a larger change to find"
    fewer = " or fewer arms" if arms > 2 else ""
    return f"{largest['conversion']} needs the most units: {change}{fewer} would take less."


def _word_planned(row: Mapping[str, Any], power: float) -> str:
    now = f"{row['conversion']}, now {row['shown_value']} (n = {row['units_measured']:,})"
    wanted = f"to find a change of {row['effect']:+.1%} of {now}"
    if row["role"] == "guardrail":
        wanted = f"to show that {now}, gets no worse by {row['margin']:.1%}, if nothing changes"
    return f"{row['units_needed']:,.0f} units are needed {wanted}, with {power:.0%} power."


def word_threshold(
    best: pd.Series | None,
    found: Mapping[str, Any],
    *,
    macro: str,
    micro: str,
    landmark: str,
    horizon: str,
    segment: str,
) -> Takeaways:
    """Say how many times and how soon goes best with the macro, and how much of that is left on other units."""
    waiting = f" {found['pending']:,} units are pending." if found["pending"] else ""
    design = (
        f"Counted among the {found['units']:,} units that had not converted {word_duration(landmark)} after entry; "
        f"{macro} counted for {word_duration(horizon)} after that.{waiting} Nothing is adjusted for: who is more "
        "active does more of everything."
    )
    if best is None:
        few = f"Segment {segment} has too few units or conversions to judge any number of {micro}."
        return Takeaways((few, design))
    times = "at least once" if best["count"] == 1 else f"{best['count']} times or more"
    rule = f"{micro} {times} within {word_duration(best['within'])} of entry"
    numbers = (
        f"{best['rate_with']:.1%} of {best['units_with']:,} units against {best['rate_without']:.1%} of "
        f"{best['units_without']:,}, {_points(best['lift'])} points in sample"
    )
    if not np.isfinite(found["lift"]):
        return Takeaways((f"Best in sample: {rule}, {numbers}; too few other units to judge it on.", design))
    interval = f"({_points(found['lift_ci_lower'])} to {_points(found['lift_ci_upper'])})"
    numbers += f"; {_points(found['lift'])} {interval} on {found['held_out']:,} units that had no part in the choice"
    if found["lift_ci_lower"] > 0:
        return Takeaways((f"{rule} is associated most with {macro}: {numbers}.", design))
    none = f"No number of {micro} goes with more of {macro} beyond chance. Best: {rule}, {numbers}."
    return Takeaways((none, design))


def word_no_friction() -> Takeaways:
    """Say that nothing was looked for."""
    return Takeaways(("The plan names no signals of friction, such as slow pages or errors: none are looked for.",))


def word_friction(
    table: pd.DataFrame,
    *,
    names: Mapping[str, str],
    units: Mapping[str, str],
    adjust: Sequence[str],
    running: int,
    segment: str,
) -> Takeaways:
    """Say where slowness, long forms and errors go with leaving, worst first, and how much was looked at."""
    worse = table[table["verdict"] == "leaves more"]
    within = f" adjusted for {_list(list(adjust))}" if adjust else ""
    sentences = [_word_friction(row, names, units, within) for row in _records(worse.head(MOST))]
    judged = table["q_value"].notna().sum()
    if not len(worse) and judged:
        sentences.append("None of the signals is associated with leaving a page more often beyond chance.")
    silent = [name for each, name in names.items() if each not in set(table["signal"])]
    looked = f"{judged} of {len(table)} pairs of signal and page could be judged in segment {segment}"
    rest = f"; {running:,} page visits that may still go on are left out" if running else ""
    sentences.append(f"{looked}{rest}.")
    if silent:
        sentences.append(f"No page has enough visits to show {_list(silent)}.")
    return Takeaways(sentences)


def _word_friction(row: Mapping[str, Any], names: Mapping[str, str], units: Mapping[str, str], within: str) -> str:
    unit = f" {units[row['signal']]}" if units[row["signal"]] else ""
    least = f" ({row['threshold']:.4g}{unit} or more)" if row["threshold"] != 1 else ""
    lift, extra = (
        [row[f"{name}{end}"] for end in ("", "_ci_lower", "_ci_upper")] for name in ("adjusted_lift", "extra_exits")
    )
    return (
        f"{names[row['signal']]} on {row['page']}{least} is associated with leaving: {row['leave_rate_with']:.1%} of "
        f"{row['visits_with']:,} visits with it end there against {row['leave_rate_without']:.1%} of "
        f"{row['visits_without']:,} others, {_points(lift[0])} points ({_points(lift[1])} to {_points(lift[2])})"
        f"{within}; that is {extra[0]:,.0f} exits more ({extra[1]:,.0f} to {extra[2]:,.0f})."
    )


#: What stands before the next steps on the page of one segment.
DECIDE_BY_ALL = (
    "Decide by the page of all units. This one is of a segment: fewer units, where differences come by chance more "
    "easily."
)
#: Why a check of an experiment's validity could not be made.
NOT_CHECKED = {
    "invalid": "The test is not valid, so no effect is read.",
    "others": "Every arm of the table is compared.",
    "crossed": "Not known: each unit of the table has one arm.",
    "unnamed exposure": "No event is named with which a unit first sees the change.",
    "exposure": "Not known when units first saw the change.",
    "no pre-period": "Not known what units did before the test: no time before it, and no column of it, is named.",
    "nobody before": "Before the test no unit did what the primary metric and the guardrails count.",
    "halves": "Not known when in their window units did it.",
    "few in a half": "Too few units did it in a half of the window: each arm needs 5.",
    "values": "No metric adds up values, so no single unit can pull it.",
    "entered": "Not known when units were assigned.",
}


def word_sample_ratio(arms: Sequence[str], assigned: Sequence[int], shares: Sequence[float], p_value: float) -> str:
    """Say how many units each arm has, and how many it was to have."""
    total = sum(assigned)
    if not total:
        return "No unit was assigned."
    parts = [
        f"{_quote(arm)} {count:,} ({count / total:.2%}, planned {share / sum(shares):.2%})"
        for arm, count, share in zip(arms, assigned, shares, strict=True)
    ]
    return f"Assigned units: {_list(parts)}; {_word_p(p_value)}."


def word_misplaced(units: int, assigned: int, what: str) -> str:
    """Say how many of the assigned units were not where they should be."""
    share = f" ({units / assigned:.2%})" if units else ""
    return f"{units:,} of {assigned:,} assigned units{share} {what}."


def word_other_arms(units: int, names: Sequence[str]) -> str:
    """Say how many units were in what is no arm of the plan."""
    if not units:
        return "Every unit that was assigned is in an arm of the plan."
    shown = [_quote(name) for name in names[:MOST]]
    more = [f"{len(names) - MOST:,} more"] if len(names) > MOST else []
    which = "which is no arm" if len(names) == 1 else "which are no arms"
    verbs = ("was", "it is") if units == 1 else ("were", "they are")
    counted = "1 unit" if units == 1 else f"{units:,} units"
    return f"{counted} {verbs[0]} in {_list([*shown, *more])}, {which} of the plan; {verbs[1]} left out."


def word_before(
    name: str, arms: Sequence[str], compared: Mapping[str, Any], did: Sequence[int], *, p_value: float, tests: int
) -> str:
    """Say which metric differed most between an arm and the control before the test, when none should."""
    change = f" {_word_relative(compared)}," if np.isfinite(compared["relative_effect"]) else ""
    counts = zip(did, (compared["units"], compared["units_control"]), arms, strict=True)
    parts = [f"{count:,} of {units:,} units in {_quote(arm)}" for count, units, arm in counts]
    among = f" (the smallest of {tests} p-values, times {tests})" if tests > 1 else ""
    return f"Before the test, {name}:{change} done by {_list(parts)}; {_word_p(p_value)}{among}."


def word_novelty(arm: str, early: float, late: float, *, half: str, p_value: float) -> str:
    """Say how large the primary metric's relative effect is in the first half of the window, and in the second."""
    length = word_duration(half).removeprefix("1 ") if half else "half"
    first, last = (f"{which} {length}" for which in ("first", "last"))
    return f"{_quote(arm)}: {early:+z.1%} in the {first}, {late:+z.1%} in the {last}; {_word_p(p_value)}."


def word_outliers(
    name: str, arm: str, effects: Sequence[Mapping[str, Any]], *, largest: int, units: int, held: float
) -> str:
    """Say how much the largest units hold, and what the effect is when they are capped."""
    known = [
        f"{format_number(each['effect'])} "
        f"({format_number(each['effect_ci_lower'])} to {format_number(each['effect_ci_upper'])})"
        for each in effects
    ]
    who = "The largest unit holds" if largest == 1 else f"The largest {largest:,} units hold"
    effect = f"Effect in {_quote(arm)}: {known[0]}; with the largest capped {known[1]}."
    return f"{who} {held:.1%} of {name} (n = {units:,}). {effect}"


def word_days(days: int, minimum: int) -> str:
    """Say over how many days units were assigned."""
    over = f"Units followed to the end were assigned over {word_duration(f'{days}D')}"
    if days < minimum:
        return f"{over}; at least {minimum} are needed."
    partial = "" if days % 7 == 0 else ", which are not whole weeks: some weekdays count more than others"
    return f"{over}{partial}."


def word_sample_size(units: int, pending: int, minimum: int | None) -> str:
    """Say how many units were followed to the end, and how many must be."""
    more = f", {pending:,} more are pending" if pending else ""
    needed = "the minimum is for all of them together" if minimum is None else f"at least {minimum:,} are needed"
    whose = " of this segment" if minimum is None else ""
    return f"{units:,} units{whose} were followed to the end{more}; {needed}."


def _word_relative(compared: Mapping[str, Any] | pd.Series) -> str:
    low, high = compared["relative_effect_ci_lower"], compared["relative_effect_ci_upper"]
    return f"{compared['relative_effect']:+z.1%} ({low:+z.1%} to {high:+z.1%})"


def _word_p(p_value: float) -> str:
    return f"p = {format_value(p_value, 'p_value')}".replace("= <", "< ")


def word_event_map(
    table: pd.DataFrame, *, units: int, rows: Mapping[str, int], gaps: pd.DataFrame, segment: str
) -> Takeaways:
    """Say what the log covers, what never fires, and what nobody mapped."""
    fates = word_rows(rows, rejected_because={}, left_out_because={})
    planned = table[table["status"] != "not in the plan"]
    silent = planned.loc[planned["status"] == "never fires", "name"]
    away = [
        f"{row['name']} ({row['note']})" if row["note"] else row["name"]
        for row in _records(planned[planned["status"] == "not seen here"])
    ]
    total = planned["conversion"].nunique()
    period = "period" if segment == "all" else "segment and period"
    absent = f"; not in this {period}: {', '.join(away)}" if away else ""
    sentences = [
        f"{units:,} users of segment {segment}; {fates} (whole log).",
        f"{total - len(silent) - len(away)} of the plan's {total} conversions are tracked{absent}"
        + (f"; never seen: {', '.join(silent)}." if len(silent) else "."),
    ]
    other = table[table["status"] == "not in the plan"]
    if len(other):
        top = ", ".join(f"{row['event_name']} ({row['events']:,})" for row in _records(other.head(3)))
        named = "1 event name match" if len(other) == 1 else f"{len(other)} event names match"
        sentences.append(f"Rows of {named} no conversion of the plan; the most frequent: {top}.")
    owned = table[table["tier"].isin(["macro", "micro"])].drop_duplicates("conversion")
    orphans = owned.loc[owned["owner"].isna() | (owned["owner"] == ""), "name"]
    if len(orphans):
        sentences.append(f"Nobody owns {', '.join(orphans)}.")
    if len(gaps):
        sentences.append(
            f"The plan leaves something open for {len(gaps)} conversions, such as {gaps['missing'].iloc[0]} "
            f"of {planned.loc[planned['conversion'] == gaps['conversion'].iloc[0], 'name'].iloc[0]}."
        )
    return Takeaways(sentences)


def word_elsewhere(rows: int, last: pd.Timestamp) -> str:
    """Say how many rows of a conversion the whole log has, where a part of it has none."""
    return f"{rows:,} in the whole log, last on {last:%Y-%m-%d}"


def word_quality(table: pd.DataFrame, *, segment: str) -> Takeaways:
    """Say what to fix first, where to look, and who owns it."""
    tried, failed = table[table["status"] != "not applicable"], table[table["status"] == "failed"]
    untried = len(table) - len(tried)
    rest = f" {untried} could not be tried; the table says why." if untried else ""
    if not len(failed):
        return Takeaways((f"All {len(tried)} quality rules that apply to segment {segment} passed.{rest}",))
    counts = failed["severity"].value_counts()
    kinds = _list(
        [
            f"{counts[kind]} {word}{'s' if counts[kind] > 1 else ''}"
            for kind, word in SEVERITIES.items()
            if kind in counts
        ]
    )
    sentences = [f"{len(failed)} of {len(tried)} quality rules failed in segment {segment}: {kinds}.{rest}"]
    for row in _records(failed.head(MOST - 2)):
        where = f", such as {row['example']}" if row["example"] else ""
        owner = f" Owner: {row['owner']}." if row["owner"] else ""
        start = "Fix first" if len(sentences) == 1 else "Then"
        sentences.append(
            f"{start}: {row['name'].lower()}, {row['failed']:,} of {row['tried']:,} ({_small(row['share'])}){where}."
            f"{owner}"
        )
    return Takeaways(sentences)


def _small(share: float) -> str:
    return f"{share:.1%}" if share >= 0.001 else "less than 0.1%"


def word_failed_rules(table: pd.DataFrame) -> list[str]:
    """Say of each quality rule that failed how much did, what that means, where to look, and whose it is."""
    sentences = []
    for row in _records(table[table["status"] == "failed"]):
        share = format_value(row["share"], "percent")
        note, *rest = (format_value(row[name], "text") for name in ("note", "example", "owner"))
        example = f" For example: {rest[0]}." if row["example"] else ""
        owner = f" Owner: {rest[1]}." if row["owner"] else ""
        count = f"{row['failed']:,} of {row['tried']:,} ({share})"
        sentences.append(f"{row['name']} ({row['severity']}): {count}. {note}{example}{owner}")
    return sentences


def word_other_rules(table: pd.DataFrame) -> list[str]:
    """Name the quality rules that passed, and say why the others could not be tried."""
    passed = table.loc[table["status"] == "passed", "name"]
    idle = _records(table[table["status"] == "not applicable"])
    sentences = [f"{len(passed)} rules passed: {'; '.join(passed)}."] if len(passed) else []
    if idle:
        reasons = {row["note"]: [each["name"] for each in idle if each["note"] == row["note"]] for row in idle}
        told = "; ".join(f"{', '.join(names)} ({note.rstrip('.')})" for note, names in reasons.items())
        sentences.append(f"{len(idle)} rule{'s' if len(idle) > 1 else ''} not tried: {told}.")
    return sentences


def word_actions(table: pd.DataFrame, *, names: Mapping[str, str], on: dt.date) -> Takeaways:
    """Say how many of the open actions are overdue, the oldest first, and what is due next."""
    left = table[~table["done"]]
    if left.empty:
        return Takeaways(("The plan lists no open action.",))
    late, ahead = left[left["overdue_days"] > 0], left[left["due"] >= pd.Timestamp(on)]
    named = "; ".join(_word_action(row, names) for row in _records(late.head(MOST)))
    verb, open_ones = ("is" if len(late) == 1 else "are"), f"open action{'s' if len(left) > 1 else ''}"
    sentences = [f"{len(late)} of {len(left)} {open_ones} {verb} overdue on {on}{f': {named}' if named else ''}."]
    if len(ahead):
        sentences.append(f"Due next: {_word_action(_records(ahead)[0], names)}.")
    return Takeaways(sentences)


def _word_action(row: Mapping[str, Any], names: Mapping[str, str]) -> str:
    owner = row["owner"] or "no owner"
    return f"{row['text']}, for {names[row['conversion']]} ({owner}, due {row['due']:%Y-%m-%d})"


def word_recalibration(table: pd.DataFrame, *, every: str, needed: int) -> Takeaways:
    """Say how many targets should change, which and why, and how many have too little data to tell."""
    shown = table.assign(old=word_values(table, "current"), new=word_values(table, "proposed"))
    moved, dated = shown[shown["proposed"].notna()], int(table["proposed_by"].notna().sum())
    named = "; ".join(
        f"{row['title']} from {'none' if row['old'] == MISSING else row['old']} to {row['new']} ({row['reason']})"
        for row in _records(moved.head(MOST))
    )
    sentences = [f"{len(moved)} of {len(table)} targets get a new number{f': {named}' if named else ''}."]
    if dated:
        sentences.append(f"{dated} {'has a date that has' if dated == 1 else 'have dates that have'} passed.")
    short = int((table["periods"] < needed).sum())
    if short:
        sentences.append(f"{short} {'has' if short == 1 else 'have'} fewer than {needed} usable {every}s to judge by.")
    return Takeaways(sentences)


def word_review(table: pd.DataFrame, *, names: Mapping[str, str], on: dt.date) -> Takeaways:
    """Say how much in the plan needs care, and what most."""
    if table.empty:
        return Takeaways((f"Nothing in the plan has gone stale or is missing on {on}.",))
    counts = table["severity"].value_counts(sort=False)
    words = {"critical": "critical", "warning": "to see to", "info": "to know"}
    listed = _list([f"{count} {words[str(severity)]}" for severity, count in counts.items()])
    kinds = table["finding"].value_counts()
    most = ", ".join(f"{finding} ({count})" for finding, count in kinds.head(MOST).items())
    sentences = [f"{len(table)} finding{'s' if len(table) > 1 else ''} on {on}: {listed}; most often {most}."]
    worst = table[table["severity"] == "critical"].head(MOST)
    sentences += [
        f"{names[row['conversion']]} {row['finding']}: {row['evidence']}. {row['advice']}" for row in _records(worst)
    ]
    return Takeaways(sentences)


def word_no_association(row: Mapping[str, Any] | pd.Series, *, in_value: bool) -> str:
    """Say that none was found, with the interval and the units of both sides."""
    lifts = [row[f"adjusted_lift{end}"] for end in ("", "_ci_lower", "_ci_upper")]
    lift, low, high = (format_number(each) if in_value else _points(each) for each in lifts)
    return (
        f"no association was found: adjusted lift {lift}{'' if in_value else ' points'} ({low} to {high}), "
        f"{row['units_with']:,.0f} units with it and {row['units_without']:,.0f} without"
    )


def word_alerts(table: pd.DataFrame, *, segment: str, unlimited: "pd.Series[str]", judged: int) -> Takeaways:
    """Say how many alerts are open, name the worst, and of how many metrics nothing could be raised, and why."""
    is_open = table[table["still_open"]]
    sentences = [f"No alert is open in segment {segment}."]
    if len(is_open):
        counts = is_open["severity"].value_counts(sort=False)
        kinds = _list([f"{count} {kind}" for kind, count in counts.items()])
        count = f"{len(is_open)} alert{' is' if len(is_open) == 1 else 's are'} open in segment {segment}"
        new = int(is_open["is_new"].sum())
        if len(is_open) == 1:
            sentences = [f"{count}{', and new' if new else ''}: {kinds}."]
        else:
            sentences = [f"{count}, {new or 'none'} of them new: {kinds}."]
    sentences += list(is_open["evidence"].head(MOST - 2))
    over = len(table) - len(is_open)
    if over:
        sentences.append(f"{over} that {'was open before is' if over == 1 else 'were open before are'} over.")
    short = int(unlimited.str.contains("needs").sum())
    sentences += _word_unlimited(short, judged, " yet: too few earlier periods")
    sentences += _word_unlimited(len(unlimited) - short, judged, ": nothing ever varied")
    return Takeaways(sentences)


def _word_unlimited(count: int, judged: int, why: str) -> list[str]:
    if not count:
        return []
    whose = "The only metric" if judged == 1 else f"{count} of {judged} metrics"
    return [f"{whose} {'has' if count == 1 else 'have'} no control limits{why}."]


def word_evidence(rule: str, rows: pd.DataFrame, *, every: str) -> list[str]:
    """Say of each rate what was seen, with its n and interval, and against what."""
    texts = {
        f"{name}_text": word_values(rows[[name, "metric"]], name)
        for name in ("limit_low", "limit_high", "expected", "target", "previous")
    }
    values = word_values(rows[["value", "ci_lower", "ci_upper", "metric"]], "value", with_interval=True)
    changes = word_values(rows[["change", "metric"]], "change", signed=True)
    rows = rows.assign(**texts, value_text=values, change_text=changes, benchmark_text=word_benchmarks(rows))
    return [_word_seen(row, every) + _word_against(rule, row) for row in _records(rows)]


def _word_seen(row: Mapping[str, Any], every: str) -> str:
    group = f" ({row['group']})" if row["group"] else ""
    return f"{row['title']}{group}: {row['value_text']}, n = {row['exposed']:,.0f}, {word_period(row['period'], every)}"


def _word_against(rule: str, row: Mapping[str, Any]) -> str:
    if rule == "target_missed":
        return f", misses its target of {row['target_text']} beyond noise ({_word_q(row[rule])})."
    if rule == "outside_benchmark":
        return f", outside its benchmark ({row['benchmark_text']}) beyond noise."
    if rule == "change":
        q_value = _word_q(row["change_q_value"])
        return f", {row['change_text']} against {row['previous_text']} in the period before ({q_value})."
    side = "above" if row["value"] > row["limit_high"] else "below"
    return (
        f", {side} its control limits of {row['limit_low_text']} to {row['limit_high_text']}, where "
        f"{row['expected_text']} was expected from {row['history']} periods."
    )


def word_macro_down(macro: Mapping[str, Any], micros: pd.DataFrame, *, every: str) -> str:
    """Say that a macro got worse while micros that lead to it got better."""
    macro_row = pd.DataFrame([macro])
    macro_row = macro_row.assign(value_text=word_values(macro_row, "value", with_interval=True))
    values = word_values(micros, "value", with_interval=True)
    named = [
        f"{row['title']} ({text}, n = {row['exposed']:,.0f})"
        for row, text in zip(_records(micros), values, strict=True)
    ]
    seen = _word_seen(_records(macro_row)[0], every)
    return f"{seen}, got worse while {_list(named[:3])} got better, all beyond noise: the micros may not lead to it."


def word_gap_in_data(group: str, period: pd.Timestamp, last: pd.Timestamp, *, every: str) -> str:
    """Say that nothing came in a period, and when something last did."""
    of = f" of {group}" if group else ""
    return f"Nothing came{of} {word_period(period, every)} (n = 0); the last data are {word_period(last, every)}."


def word_overdue(action: Mapping[str, Any]) -> str:
    """Say how late a promised action is."""
    days = action["overdue_days"]
    return f"{action['text']}: was due on {action['due']:%Y-%m-%d}, {days} day{'' if days == 1 else 's'} ago."


def word_stopped(
    event: str, usual: Sequence[int], *, silence: str, since: pd.Timestamp, window: str, odds: float
) -> str:
    """Say since when an event has not come, and how odd that is after windows with these counts."""
    number = sum(usual)
    chance = f"1 in {1 / odds:,.0f}" if odds > 1e-9 else "less than 1 in 1,000,000,000"
    return (
        f"`{event}` has not come for {silence}, since {_word_moment(since)}; at its usual {number / len(usual):,.1f} "
        f"in {window} (n = {number:,} in {len(usual)} windows) such a silence has a probability of {chance}."
    )


def word_volume(
    count: int, usual: Sequence[int], *, begin: pd.Timestamp, window: str, mean: float, likely: tuple[float, float]
) -> str:
    """Say how many events came in a window, and how many usually do."""
    side = "below" if count < mean else "above"
    return (
        f"{count:,} events in the {window} from {_word_moment(begin)}, {side} the usual {mean:,.0f} (95% of windows "
        f"{likely[0]:,.0f} to {likely[1]:,.0f}; n = {sum(usual):,} in {len(usual)} windows)."
    )


def word_errors(
    errors: int,
    events: int,
    *,
    begin: pd.Timestamp,
    window: str,
    interval: tuple[float, float],
    usual: float,
    among: int,
) -> str:
    """Say what share of a window's events are errors, and what share usually is."""
    low, high = interval
    return (
        f"{errors / events:.1%} of {events:,} events in the {window} from {_word_moment(begin)} are errors "
        f"({errors:,}; 95% interval {low:.1%} to {high:.1%}), above the usual {usual:.1%} (n = {among:,})."
    )


def word_quiet_source(since: pd.Timestamp, *, longest: float, looks: int) -> str:
    """Say since when a source has brought no rows, and how long its pauses were before."""
    return (
        f"No new rows have come since {_word_moment(since)} by the clock; before, they came at least every "
        f"{longest:.0f} s (n = {looks} looks with rows)."
    )


def _word_moment(moment: pd.Timestamp) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"


def word_split(split: pd.DataFrame, *, by: Sequence[str], every: str) -> Takeaways:
    """Say of each change beyond noise how much is mix and how much rates, and which group does most."""
    sentences = []
    noticed = split[split["change_q_value"] < SIGNIFICANCE]
    for _, rows in noticed.groupby(["conversion", "metric"], sort=False):
        first = _records(rows)[0]
        metric = first["metric"]
        change = _value(first["change"], metric, signed=True)
        mix = f"a different mix by {_list([name.replace('_', ' ') for name in by])}"
        within = f"{'higher' if first['from_rate'] > 0 else 'lower'} values within the groups"
        parts = sorted([(mix, first["from_mix"]), (within, first["from_rate"])], key=lambda part: -abs(part[1]))
        # Parts that pull in opposite directions are no shares of the whole.
        alike = first["from_mix"] * first["from_rate"] >= 0
        sizes = [f"{part / first['change']:.0%}" if alike else _value(part, metric, signed=True) for _, part in parts]
        shares = " and ".join(f"{size} from {name}" for size, (name, _) in zip(sizes, parts, strict=True))
        most = _group(first, by) + (f" ({first['note']})" if first["note"] else "")
        own = _value(first["group_from_mix"] + first["group_from_rate"], metric, signed=True)
        fell = "fall" if first["change"] < 0 else "rise"
        sentences.append(
            f"{first['conversion']} {word_period(first['period'], every)}: a {fell} of {change.lstrip('+-')}, "
            f"{shares}; {most} contributes most ({own})."
        )
    names = _list([name.replace("_", " ") for name in by])
    return Takeaways(sentences or [f"By {names} there is no change beyond noise to explain."])


def word_compared(table: pd.DataFrame, *, period: tuple[str, str]) -> tuple[str, ...]:
    """Say what changed since the last run beyond chance, what is new or gone, and how much is within chance."""
    rows = _records(table)
    # An experiment's verdict controls chance by itself, whether or not the size of its effect changed.
    real = [row for row in rows if row["restated"] or row["verdict"] in ("up", "down")]
    sentences = [_word_compared(row) for row in real[:MOST]]
    if len(real) > MOST:
        sentences.append(f"{len(real) - MOST} more changes beyond chance stand in the table of changes.")
    again = [row["name"] for row in rows if row["verdict"] == "new" and row["note"]]
    fresh = [row["name"] for row in rows if row["verdict"] == "new" and not row["note"]]
    gone = [row["name"] for row in rows if row["verdict"] == "gone"]
    told = ((fresh, "New in this report"), (gone, "No longer in it"), (again, "Not compared, as defined otherwise now"))
    sentences += [f"{text}: {_list_some(names)}." for names, text in told if names]
    # A rank has no test of its own: its score has.
    chance = sum(row["verdict"] == "within chance" and row["kind"] != "rank" for row in rows)
    few = sum(row["verdict"] == "too few" for row in rows)
    days = [_word_date(dt.date.fromisoformat(day)) for day in period]
    doubt = f"; {few} {'has' if few == 1 else 'have'} too little data" if few else ""
    counted = f"{chance} {'other ' if real else ''}comparison{'' if chance == 1 else 's'}"
    last = f"with the last run ({days[0]} to {days[1]})"
    return (*sentences, f"{counted} {last} {'is' if chance == 1 else 'are'} within chance{doubt}.")


def _word_compared(row: Mapping[str, Any]) -> str:
    note = f"; {row['note']}" if row["note"] else ""
    now, before = (format_value(row[side], row["unit"]) for side in ("now", "before"))
    if row["kind"] == "rank":
        return f"{row['name']}: rank {now} after {before}{note}."
    counted = f" (n = {row['units']:,.0f})" if row["units"] > 0 else ""
    if row["verdict"] not in ("up", "down"):
        return f"{row['name']}: {now}{counted}{note}."
    unit = "points" if row["unit"] in ("percent", "points") else row["unit"]
    change, low, high = (_word_change(row[name], unit) for name in ("difference", "ci_lower", "ci_upper"))
    size = f"{change.lstrip('+-')}{' points' if unit == 'points' else ''}"
    return f"{row['name']}: {now}{counted} after {before}, {row['verdict']} {size} (95% CI {low} to {high}){note}."


def _word_change(value: float, unit: Any) -> str:
    if unit == "points":
        return _points(value)
    return ("-" if value < 0 else "+") + format_value(abs(value), unit)


def _list_some(names: Sequence[str]) -> str:
    left = len(names) - MOST
    return _list([*names[:MOST], f"{left} more"] if left > 0 else names)


def word_provenance(
    source: str,
    *,
    segment: str,
    period: tuple[object, object],
    rows: str,
    identities: int,
    fingerprint: str,
    end: pd.Timestamp,
    timezone: str = "UTC",
) -> str:
    """Say where a report's numbers come from."""
    days = "" if timezone == "UTC" else f" (days of {timezone})"
    joined = f"; {identities:,} anonymous ids joined to users" if identities else ""
    return (
        f"Segment {segment}, entries from {period[0]} to {period[1]}{days}. {source}: {rows}{joined}; data end on "
        f"{end:%Y-%m-%d %H:%M} UTC; fingerprint {fingerprint[:12]}."
    )


def word_rows(
    counts: Mapping[str, int], *, rejected_because: Mapping[str, int], left_out_because: Mapping[str, int]
) -> str:
    """Say what became of a source's rows: those read are those used, rejected and left out; or how many are `used`."""
    if "read" not in counts:
        return f"{counts['used']:,} rows used"
    sentence = (
        f"{counts['read']:,} rows read = {counts['used']:,} used + {counts['rejected']:,} "
        f"rejected{word_reasons(rejected_because)}"
    )
    if not counts["left_out"]:
        return sentence
    return f"{sentence} + {counts['left_out']:,} left out by rule{word_reasons(left_out_because)}"


def word_reasons(reasons: Mapping[str, int]) -> str:
    """Say why rows were rejected, as ` (153: user_id is missing; ...)`, or nothing when none was."""
    listed = "; ".join(f"{count:,}: {reason}" for reason, count in reasons.items())
    return f" ({listed})" if listed else ""


def word_left_out(fewest: int) -> str:
    """Say in a row why it has no numbers."""
    return f"left out: fewer than {fewest} units, or would reveal so few"


def word_check(check: str, status: str) -> str:
    """Say how a check came out, without what it counted."""
    return f"{check[:1].upper()}{check[1:]}: {status}."


def word_missing_rows(fewest: int) -> str:
    """Say that a table lacks rows."""
    return f"without rows of fewer than {fewest} units, or that would reveal so few"


def word_nothing_left(fewest: int, *, what: str, segment: str) -> str:
    """Say that a result has nothing that may be shown."""
    return f"{what} of segment {segment} can't be shown without numbers of fewer than {fewest} units: left out."


def word_fewest(fewest: int) -> str:
    """Say what a report for many readers leaves out."""
    return (
        f"Numbers of fewer than {fewest} units are left out, with those that would reveal one; small groups are put "
        f"together as (other)."
    )


def word_duration(text: str) -> str:
    """Write a duration for people: `7D` as `7 days`."""
    found = re.fullmatch(r"([0-9.]+)([a-zA-Z]+)", text)
    names = {"s": "second", "min": "minute", "h": "hour", "D": "day", "W": "week"}
    if not found or found[2] not in names:
        return text
    return f"{found[1]} {names[found[2]]}{'' if found[1] == '1' else 's'}"


def word_period(period: pd.Timestamp, every: str) -> str:
    """Name a period: `in the week from 3 March 2026`."""
    return WHEN[every].format(period).replace("  ", " ")


def word_values(rows: pd.DataFrame, column: str, *, with_interval: bool = False, signed: bool = False) -> list[str]:
    """Write a column of metric values, each in its metric's unit, with its interval when asked."""
    texts = []
    for row in _records(rows):
        text = _value(row[column], row["metric"], signed=signed)
        if with_interval and text != MISSING and np.isfinite(row["ci_lower"]):
            text += f" ({_value(row['ci_lower'], row['metric'])} to {_value(row['ci_upper'], row['metric'])})"
        texts.append(text)
    return texts


def word_benchmarks(rows: pd.DataFrame) -> list[str]:
    """Write each benchmark as `6.0% to 12.0%`."""
    return [_benchmark(row["benchmark_low"], row["benchmark_high"], row["metric"]) for row in _records(rows)]


def _benchmark(low: float, high: float, metric: str) -> str:
    if np.isnan(low) and np.isnan(high):
        return MISSING
    if np.isnan(low) or np.isnan(high):
        return f"at most {_value(high, metric)}" if np.isnan(low) else f"at least {_value(low, metric)}"
    return f"{_value(low, metric)} to {_value(high, metric)}"


def _value(value: float, metric: str, *, signed: bool = False) -> str:
    unit = find_kind(metric)
    if signed and unit == "percent":
        unit = "points"
    text = format_value(abs(value) if signed and unit != "points" else value, unit)
    if signed and unit != "points" and text != MISSING:
        text = ("+" if value >= 0 else "-") + text
    return text


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(name): value for name, value in row.items()} for row in frame.to_dict("records")]


def _share(row: Mapping[str, Any] | pd.Series, column: str) -> str:
    return f"{row[column]:.1%} ({row[column + '_ci_lower']:.1%} to {row[column + '_ci_upper']:.1%})"


def _word_q(q_value: float) -> str:
    return f"q = {format_value(q_value, 'p_value')}".replace("= <", "< ")


def _points(share: float) -> str:
    return f"{100 * share:+.1f}"


def _quote(name: str) -> str:
    """Set an arm's name off from the words of a sentence."""
    return f"“{name}”"


def _list(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
