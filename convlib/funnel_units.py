"""What a funnel's single attempts tell: how long they take, what follows when they stop, and whose they are."""

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from convlib import stats
from convlib.conversions import Ints
from convlib.documents import did_you_mean, find_wrong_choice
from convlib.engine import connect
from convlib.errors import ParamError
from convlib.events import EventLog, Unit
from convlib.funnel_results import Counted
from convlib.redaction import OTHER, find_hidden, find_small, hide_quantiles, merge_bins
from convlib.stats import Floats
from convlib.takeaways import NOTHING

QUANTILES = (10, 25, 50, 75, 90)
TIME_COLUMNS = (
    *("step", "name", "seconds_low", "seconds_high", "units", "share"),
    *(f"seconds_p{q}" for q in QUANTILES),
)
CURVE_COLUMNS = ("seconds", "at_risk", "converted", "share", "share_ci_lower", "share_ci_upper")
NEXT_COLUMNS = ("step", "name", "next", "units", "share", "share_ci_lower", "share_ci_upper", "median_seconds")
State = Literal["reached", "lost", "converted", "pending"]
#: So many bins hold the seconds to a step, each as many times as long as the one before.
BINS = 24
#: An event without a conversion may bear the id of one.
EVENT = " (event)"


def bin_times(counted: Counted) -> pd.DataFrame:
    """Say how the seconds from the last required step to each step are spread, over the mature attempts.

    Returns:
        For each group and step bins that grow in proportion, the same for all; the first one begins at 0. `units` of
        the bin are a `share` of all that reached the step; the quantiles are the step's.
    """
    labels, groups = counted.split()
    times, previous, mature = counted.times, counted.previous, counted.mature
    since = times - times[previous]
    # The longest and the shortest time are those of one unit.
    widest = np.array([1.0, counted.window])
    edges = _space_bins(widest if counted.fewest else since[1:, mature])
    parts = [
        _bin_step(since[step, rows[mature[rows]]], edges, counted.fewest).assign(
            step=step + 1, name=counted.names[step], **(labels.iloc[number] if counted.by else {})
        )
        for number, rows in enumerate(groups)
        for step in range(1, len(times))
    ]
    columns = [*counted.by, *TIME_COLUMNS]
    return pd.concat(parts, ignore_index=True)[columns] if parts else pd.DataFrame(columns=columns)


def _space_bins(seconds: Floats) -> Floats:
    longest = max(float(np.nanmax(seconds, initial=0)), 2.0)
    shortest = max(float(np.nanmin(np.where(seconds > 0, seconds, np.nan), initial=longest / 2)), 1.0)
    return np.append(0.0, np.geomspace(shortest, longest, BINS + 1)[1:])


def _bin_step(seconds: Floats, edges: Floats, fewest: int = 0) -> pd.DataFrame:
    known = seconds[~np.isnan(seconds)]
    units = np.histogram(known, edges)[0]
    if fewest:
        first = np.unique(merge_bins(units, fewest=fewest), return_index=True)[1]
        units, edges = np.add.reduceat(units, first), np.append(edges[first], edges[-1])
    points = np.quantile(known, np.array(QUANTILES) / 100) if len(known) else [np.nan] * len(QUANTILES)
    bins = pd.DataFrame(
        {"seconds_low": edges[:-1], "seconds_high": edges[1:], "units": units, "share": stats.divide(units, len(known))}
    ).assign(**{f"seconds_p{q}": point for q, point in zip(QUANTILES, points, strict=True)})
    if not fewest:
        return bins
    return hide_quantiles(bins.assign(of=len(known)), "of", fewest=fewest).drop(columns="of")


def estimate_conversion(counted: Counted) -> pd.DataFrame:
    """Estimate which share has reached the last step some time after entry, with the pending for as long as is known.

    The clock starts at the entry, the first opening in the period, and not at the counted attempt's: which attempt
    counts is known only later, so its clock would leave out what the pending may still do.

    Returns:
        For each group one row at 0, one for each time at which some converted, and one where the watch ends.
    """
    labels, groups = counted.split()
    entered = counted.attempts["entered"].to_numpy(float)
    taken = counted.taken
    watched = np.round(np.minimum(counted.end - entered, counted.window), 6)
    converted = taken <= watched
    seconds, clusters = np.where(converted, taken, watched), counted.clusters
    parts = [
        _trace_curve(
            seconds[rows], converted[rows], None if clusters is None else clusters[rows], counted.confidence
        ).assign(**(labels.iloc[number] if counted.by else {}))
        for number, rows in enumerate(groups)
        if len(rows)
    ]
    parts = [_thin_curve(part, counted.fewest) for part in parts] if counted.fewest else parts
    columns = [*counted.by, *CURVE_COLUMNS]
    return pd.concat(parts, ignore_index=True)[columns] if parts else pd.DataFrame(columns=columns)


def _trace_curve(
    seconds: Floats, converted: NDArray[np.bool_], clusters: Ints | None, confidence: float
) -> pd.DataFrame:
    effect = 1.0
    if clusters is not None:
        number = pd.factorize(clusters)[0]
        effect = stats.design_effect(np.bincount(number, converted), np.bincount(number))
    curve = stats.estimate_curve(seconds, converted, effect=effect, confidence=confidence)
    last = seconds.max()
    ends = pd.DataFrame({"seconds": [0.0, last], "at_risk": [len(seconds), (seconds == last).sum()], "converted": 0})
    ends = ends.drop_duplicates("seconds")
    # Where nobody converts at the moment of an end, what was known before holds.
    around = pd.concat([curve, ends[~ends["seconds"].isin(curve["seconds"])]]).sort_values("seconds", kind="stable")
    around[["share", *CURVE_COLUMNS[-2:]]] = around[["share", *CURVE_COLUMNS[-2:]]].ffill()
    return around.fillna({"share": 0.0})


def _thin_curve(curve: pd.DataFrame, fewest: int) -> pd.DataFrame:
    """Keep of a curve the times between which enough converted; how many were watched until when is left out."""
    number = merge_bins(curve["converted"], fewest=fewest)
    together = curve.assign(converted=curve["converted"].groupby(number).transform("sum"))
    ends = np.append(number[1:] != number[:-1], False)
    start = curve.head(1).assign(converted=0)
    kept = pd.concat([start, together[ends & (curve["seconds"] > 0).to_numpy()]], ignore_index=True)
    return kept.assign(at_risk=kept["at_risk"].where(kept.index == 0, np.nan))


def list_units(
    counted: Counted, log: EventLog, unit: Unit, *, step: int | str, state: State, names: Sequence[tuple[str, ...]]
) -> pd.DataFrame:
    """List the attempts that a number of the step table counts.

    Raises:
        ParamError: There is no such step or state.
    """
    place = _find_step(step, state, names)
    reached, mature = ~np.isnan(counted.times), counted.mature
    chosen = {
        "reached": mature & reached[place],
        "lost": mature & reached[counted.previous[place]] & ~reached[place] & counted.required[place],
        "converted": mature & reached[place] & reached[-1],
        "pending": ~mature & reached[place],
    }[state]
    attempts = counted.attempts[chosen].reset_index(drop=True)
    known = name_units(log, unit, attempts["unit"])
    moments = {"entered": attempts["entered"]}
    moments |= {f"time_{k + 1}": attempts[f"time_{k}"] for k in range(len(counted.names))}
    dated = {name: _date(seconds) for name, seconds in moments.items()}
    groups = attempts[list(counted.by)].astype("str")
    listed = pd.concat([known, groups, pd.DataFrame(dated), attempts[["value"]]], axis=1)
    ordered: pd.DataFrame = listed.sort_values(["entered", *known.columns, "time_1"], ignore_index=True)
    return ordered


def _find_step(step: int | str, state: str, names: Sequence[tuple[str, ...]]) -> int:
    """Find a step by its number, from 1, or its name."""
    problems = []
    known = ", ".join(f"{number} {name[0]!r}" for number, name in enumerate(names, start=1))
    found = [k for k, each in enumerate(names) if step in (k + 1, *each)]
    if not found:
        near = did_you_mean(step, [each[0] for each in names]) if isinstance(step, str) else ""
        problems.append(f"`step` is {step!r}; the steps are {known}.{near}")
    problems += find_wrong_choice("state", state, get_args(State))
    if found == [0] and state == "lost":
        problems.append("Nobody is lost at the first step, with which attempts begin; `step` must name a later one.")
    if problems:
        raise ParamError(*problems)
    return found[0]


def _date(seconds: pd.Series) -> pd.Series:
    known = seconds.notna()
    moments = (seconds.where(known, 0.0) * 1e6).round().astype("int64").astype("datetime64[us]")
    return moments.where(known)


def name_units(log: EventLog, unit: Unit, keys: "pd.Series") -> pd.DataFrame:
    """Give the ids of units by the keys that attempts have.

    A key is the unit's code; or the hash of its ids, where the rows came straight from the source; or these ids
    themselves, with a tab between, where another engine counted.
    """
    ids = ["user_id"] if unit == "user" else ["user_id", "session_id"]
    if not pd.api.types.is_integer_dtype(keys):
        split = keys.astype("str").str.split("\t", n=len(ids) - 1, expand=True).reindex(columns=range(len(ids)))
        return split.set_axis(ids, axis=1).reset_index(drop=True).astype("str")
    if not log.is_ordered:
        rows = next(log.slices(log.rows_read)).filter(" AND ".join(f"{name} IS NOT NULL" for name in ids))
        known = rows.project(", ".join([*ids, f"hash({', '.join(ids)}) AS key"])).distinct().df().set_index("key")
        return known.loc[keys.astype("uint64")].reset_index(drop=True)
    known = _list_units(log, unit, ids)
    return _find_units(known, keys)[ids]


def _list_units(log: EventLog, unit: Unit, ids: Sequence[str]) -> pd.DataFrame:
    named = ", ".join(ids)
    rows = log.rows().filter(f"{unit} IS NOT NULL")
    return rows.project(f"{unit} AS code, {named}, hash({named}) AS hashed").distinct().df()


def _find_units(known: pd.DataFrame, keys: "pd.Series") -> pd.DataFrame:
    wanted = keys.astype("uint64")
    by_code = known.set_index(known["code"].astype("uint64"))
    found = by_code if wanted.isin(by_code.index).all() else known.set_index("hashed")
    return found.loc[wanted].reset_index(drop=True)


def _find_codes(log: EventLog, unit: Unit, keys: "pd.Series") -> pd.Series:
    """Find the codes of units in the log's rows."""
    ids = ["user_id"] if unit == "user" else ["user_id", "session_id"]
    known = _list_units(log, unit, ids)
    if pd.api.types.is_integer_dtype(keys):
        return _find_units(known, keys)["code"]
    return name_units(log, unit, keys).merge(known, how="left", on=ids)["code"]


def find_next(counted: Counted, log: EventLog, unit: Unit, *, top: int) -> pd.DataFrame:
    """Find what the attempts that stopped at a step did next: the unit's first later event within the window.

    Args:
        counted: The attempts; only mature ones are looked at.
        log: The log.
        unit: Whose events.
        top: How many events are listed for each step; the others are counted together.

    Returns:
        `NEXT_COLUMNS`; `share` of those that stopped at the step, with Wilson's interval, and the median of the seconds
        from the step to the event.
    """
    times = counted.times[:, counted.mature]
    last = len(times) - 1 - (~np.isnan(times))[::-1].argmax(axis=0)
    stopped = np.flatnonzero(last < len(times) - 1)
    attempts = counted.attempts[counted.mature].iloc[stopped]
    moments = pd.DataFrame(
        {
            "number": np.arange(len(stopped)),
            "unit": _find_codes(log, unit, attempts["unit"]).to_numpy(),
            "last": _round(times[last[stopped], stopped]),
            "until": _round(times[0, stopped] + counted.window),
        }
    )
    found = _look_after(log, unit, moments).set_index("number").reindex(moments["number"])
    stops = pd.DataFrame(
        {
            "step": last[stopped] + 1,
            "next": found["next"].fillna(NOTHING).astype("str").to_numpy(),
            "seconds": (found["time"].to_numpy() - moments["last"].to_numpy()) / 1e6,
            "cluster": moments["number"] if counted.clusters is None else attempts["cluster"].to_numpy(),
        }
    )
    return _count_next(stops, counted, top)


def _round(seconds: Floats) -> Ints:
    return np.round(seconds * 1e6).astype(np.int64)


def _look_after(log: EventLog, unit: Unit, moments: pd.DataFrame) -> pd.DataFrame:
    """Find each unit's first event after a moment: `number` of the moment, `time`, and `next`, its name."""
    rows = log.rows().filter(f"{unit} IS NOT NULL")
    happened = rows.project(f"{unit} AS unit, epoch_us(timestamp) AS time, event, event_name")
    connect().from_df(moments).create_view("moments", replace=True)
    # At one instant the first in the prepared order, which is that of the events' content.
    query = """
        WITH nearest AS (
            SELECT moments.number, moments.unit, happened.time
            FROM moments ASOF JOIN happened ON moments.unit = happened.unit AND moments.last < happened.time
            WHERE happened.time <= moments.until)
        SELECT number, time, min(event) AS event, arg_min(event_name, event) AS next
        FROM nearest JOIN happened USING (unit, time) GROUP BY number, time"""
    found = happened.query("happened", query).df()
    planned = [each.id for each in (log.plan.conversions if log.plan else ())]
    chosen = connect().from_df(found[["event"]]).set_alias("chosen")
    known = (
        log.rows("conversions").project("event, conversion").set_alias("known").join(chosen, "event", how="semi").df()
    )
    known = known.assign(place=known["conversion"].map(planned.index)).sort_values("place").drop_duplicates("event")
    named = found.merge(known[["event", "conversion"]].astype({"conversion": "str"}), on="event", how="left")
    plain = named["next"].mask(named["next"].isin(planned), named["next"] + EVENT)
    return named.assign(next=named["conversion"].fillna(plain))


def _count_next(stops: pd.DataFrame, counted: Counted, top: int) -> pd.DataFrame:
    """Count what came next at each step, the most frequent first, then all others, then nothing."""
    sizes = stops.groupby(["step", "next"]).size().rename("units").reset_index()
    # Of optional steps as few may have stopped as of no other.
    of_step = sizes.groupby("step")["units"].transform("sum")
    sizes = sizes[~find_small(of_step, fewest=counted.fewest)].reset_index(drop=True)
    sizes["rank"] = sizes["next"].eq(NOTHING).astype("int64") * 2
    sizes = sizes.sort_values(["step", "rank", "units", "next"], ascending=[True, True, False, True])
    beyond = (sizes["rank"] == 0) & (sizes.groupby(["step", "rank"]).cumcount() >= top)
    beyond |= find_hidden(sizes["units"], fewest=counted.fewest, families=[sizes["step"]])
    sizes["shown"], sizes["rank"] = sizes["next"].mask(beyond, OTHER), sizes["rank"].mask(beyond, 1)
    stops = stops.merge(sizes[["step", "next", "shown", "rank"]], on=["step", "next"])
    groups = stops.groupby(["step", "rank", "shown"])
    table = groups.agg(units=("next", "size"), median_seconds=("seconds", "median")).reset_index()
    all_units = table.groupby("step")["units"].transform("sum").to_numpy(float)
    effects = np.ones(len(table))
    if counted.clusters is not None:
        stopped = [stops.loc[stops["step"] == step, "cluster"] for step in table["step"]]
        pairs = zip(stopped, groups, strict=True)
        effects = np.array([_share_effect(trials, rows["cluster"]) for trials, (_, rows) in pairs])
    low, high = stats.wilson_interval(table["units"] / effects, all_units / effects, confidence=counted.confidence)
    table = table.assign(
        name=np.array(counted.names, dtype=object)[table["step"] - 1],
        next=table["shown"],
        share=stats.divide(table["units"], all_units),
        share_ci_lower=low,
        share_ci_upper=high,
    ).sort_values(["step", "rank", "units", "next"], ascending=[True, True, False, True], ignore_index=True)
    if counted.fewest:
        enough = table["units"] >= 2 * counted.fewest  # half of them lie on each side of a median
        table["median_seconds"] = table["median_seconds"].where(enough)
    return table[list(NEXT_COLUMNS)].astype({"name": "str", "next": "str"})


def _share_effect(trials: pd.Series, hits: pd.Series) -> float:
    tried = trials.value_counts()
    return stats.design_effect(hits.value_counts().reindex(tried.index, fill_value=0), tried)
