"""What changed since the last run of the same kind, and what chance alone may have done."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from convlib import stats
from convlib.errors import ParamError
from convlib.files import write_bytes
from convlib.reports.measures import MEASURES, complete_measures
from convlib.reports.measures import extract_measures as extract_measures
from convlib.spreadsheets import neutralise_table
from convlib.stats import FEW_EXPECTED, FEW_UNITS, SIGNIFICANCE, Floats, divide
from convlib.takeaways import word_compared

if TYPE_CHECKING:
    from convlib.events import EventLog

COLUMNS = (
    *("kind", "id", "name", "unit", "before", "now", "units_before", "units", "difference", "ci_lower", "ci_upper"),
    *("p_value", "q_value", "verdict", "better", "note", "restated"),
)
KINDS = ("rate", "leak", "rank", "score")
#: So many ranks are worth to be told when they change.
FIRST = 3
SAME_UNITS, REDEFINED = "the same units in both runs", "defined in another way than in the last run"


@dataclass(frozen=True)
class Before:
    """An earlier run's measures of one report.

    Attributes:
        period: Its first and its last day of entries.
        measures: The rows of `extract_measures`.
        shared_now: The share of this run's units that both periods hold.
        shared_before: The share of the earlier run's units that both periods hold.
        redacted: Whether small numbers were left out, so that what one run lacks may be hidden there and not new.
    """

    period: tuple[str, str]
    measures: tuple[Mapping[str, Any], ...]
    shared_now: float = 0.0
    shared_before: float = 0.0
    redacted: bool = False


@dataclass(frozen=True)
class Changes:
    """What changed between two runs: a row for each measure (`COLUMNS`), and what the rows say."""

    table: pd.DataFrame
    sentences: tuple[str, ...]


def compare_report(tables: Path, before: Before | None) -> tuple[str, ...]:
    """Say what changed in one report since the last run of the same kind.

    Writes `measures.parquet`, `changes.csv` and `changes.parquet` beside the report's tables.

    Args:
        tables: The report's folder of tables.
        before: The earlier run; None when there is none, and then only the measures are written.

    Returns:
        The sentences, none for a report that has no measures.
    """
    now = extract_measures(tables)
    if now.empty:
        return ()
    write_bytes(tables / "measures.parquet", now.to_parquet(index=False))
    if before is None or not before.measures:
        return ()
    changes = compare_measures(now, before)
    write_bytes(tables / "changes.parquet", changes.table.to_parquet(index=False))
    write_bytes(tables / "changes.csv", neutralise_table(changes.table).to_csv(index=False).encode())
    return changes.sentences


def compare_measures(now: pd.DataFrame, before: Before) -> Changes:
    """Separate what changed between two runs from what chance alone may have done.

    Two runs over periods that overlap share units, and what the shared ones did is the same in both: only the others
    can make a difference. A share over n1 units and one over n2, of which s are the same, have the covariance
    s p (1 - p) / (n1 n2), so their difference has the variance p (1 - p) (1/n1 + 1/n2 - 2 s / (n1 n2)): the two-sample
    z-test without overlap, zero for the same units. Estimates with standard errors have the correlation
    s / sqrt(n1 n2). `s` is the smaller of what both runs' shares say. False discoveries are controlled over the report
    (Benjamini and Hochberg 1995).

    Args:
        now: This run's `extract_measures`.
        before: The earlier run.

    Returns:
        A row for each measure, changes first: `before`, `now` with their units, `difference` with its 95% interval,
        `verdict` (`up`, `down`, `within chance`, `new`, `gone`, `too few`), whether that is `better` (`improved`,
        `worsened` or ""), a `note`, and whether an experiment says something else (`restated`). A rank's verdict is
        `up` or `down` (towards the first or away) only where the micro moved into or out of the first three and its
        score changed beyond chance. A measure that is defined in another way than before is `new`.

    Source: Kish (1965), Survey Sampling, chapter 12 (overlapping samples); the interval is that of Zou and
        Donner (2008), Statistics in Medicine 27:1693, which is Newcombe's (1998) for shares without overlap.
    """
    earlier = complete_measures(pd.DataFrame(list(before.measures)))
    pairs = complete_measures(now).merge(
        earlier, on=["kind", "id"], how="outer", suffixes=("", "_before"), indicator="side"
    )
    # What neither run could tell, such as the rank of a step that all converters take, is no comparison.
    pairs = pairs.dropna(subset=["value", "value_before"], how="any" if before.redacted else "all")
    pairs = _order(
        pairs, [*zip(now["kind"], now["id"], strict=True), *zip(earlier["kind"], earlier["id"], strict=True)]
    )
    pairs = _separate(pairs)
    tested = _test(pairs, _count_shared(pairs, before))
    table = _judge(pairs.assign(**tested))
    changed = table["verdict"].isin(["up", "down"])
    order = pd.DataFrame({"kept": ~changed, "kind": table["kind"].map(KINDS.index)}).sort_values(
        ["kept", "kind"], kind="stable"
    )
    table = table.loc[order.index, list(COLUMNS)].reset_index(drop=True)
    return Changes(table, word_compared(table, period=before.period))


def _order(pairs: pd.DataFrame, wanted: list[tuple[str, str]]) -> pd.DataFrame:
    """Put rows in the reports' own order: a merge sorts them by their ids."""
    place = {pair: number for number, pair in reversed(list(enumerate(wanted)))}
    order = [place[pair] for pair in zip(pairs["kind"], pairs["id"], strict=True)]
    return pairs.iloc[np.argsort(order)].reset_index(drop=True)


def _separate(pairs: pd.DataFrame) -> pd.DataFrame:
    """Fill in the names of what is gone, and take apart what is defined in another way."""
    known, own, earlier = pairs["side"] == "both", pairs["definition"], pairs["definition_before"]
    other = known & (own != earlier) & (own != "") & (earlier != "")
    numbers = [f"{name}_before" for name, kind in MEASURES.items() if kind == "float64"]
    pairs.loc[other, numbers] = np.nan
    gone = pairs["side"] == "right_only"
    for name in ("name", "unit", "better"):
        pairs.loc[gone, name] = pairs.loc[gone, f"{name}_before"]
    side = pairs["side"].astype("str").mask(other, "left_only")
    return pairs.assign(side=side, note=np.where(other, REDEFINED, ""))


def _count_shared(pairs: pd.DataFrame, before: Before) -> Floats:
    """Count the units that both estimates of a row are from, the smaller of what both sides say."""
    now, then = pairs["units"].to_numpy(float), pairs["units_before"].to_numpy(float)
    of_report = np.minimum(before.shared_now * now, before.shared_before * then)
    same = (pairs["sample"] == pairs["sample_before"]).to_numpy()
    return np.where(pairs["sample"] == "", of_report, np.where(same, np.minimum(now, then), 0.0))


def _test(pairs: pd.DataFrame, shared: Floats) -> dict[str, Any]:
    """Test each difference, with its interval."""
    now, then = pairs["units"].to_numpy(float), pairs["units_before"].to_numpy(float)
    alike = np.nan_to_num(divide(shared, np.sqrt(now * then)))
    value, error, low, high = (pairs[name].to_numpy(float) for name in ("value", "error", "lower", "upper"))
    old, old_error, old_low, old_high = (
        pairs[f"{name}_before"].to_numpy(float) for name in ("value", "error", "lower", "upper")
    )
    difference = value - old
    spread = _join(error, old_error, alike)
    shares = pairs["kind"].isin(["rate", "leak"]).to_numpy()
    pooled, expected = _pool(pairs, shared, alike)
    p_values = stats.compare_normal(difference, np.where(shares, pooled, spread))
    known = shared < np.maximum(now, then)
    few = (np.fmin(now, then) < FEW_UNITS) | (shares & (expected < FEW_EXPECTED))
    return {
        "difference": difference,
        "ci_lower": difference - _join(value - low, old_high - old, alike),
        "ci_upper": difference + _join(high - value, old - old_low, alike),
        "p_value": np.where(few | ~known, np.nan, p_values),
        "same": ~known,
    }


def _join(one: Floats, other: Floats, alike: Floats) -> Floats:
    """Give the error of a difference from the errors of both sides and their correlation."""
    joined: Floats = np.sqrt(np.maximum(one**2 + other**2 - 2 * alike * one * other, 0.0))
    return joined


def _pool(pairs: pd.DataFrame, shared: Floats, alike: Floats) -> tuple[Floats, Floats]:
    """Give the standard error of the difference of equal shares, and the least count expected of units not shared."""
    sizes = []
    for side in ("", "_before"):
        count, units, error = (pairs[f"{name}{side}"].to_numpy(float) for name in ("count", "units", "error"))
        share = divide(count, units)
        # So many independent units would make the same error (Kish's design effect).
        effect = np.fmax(1.0, divide(error**2 * units, share * (1 - share)))
        sizes.append((count / effect, units / effect, units))
    (made, size, units), (old_made, old_size, old_units) = sizes
    share = divide(made + old_made, size + old_size)
    spread = np.sqrt(np.maximum(share * (1 - share), 0.0))
    fresh, stale = units - shared, old_units - shared
    # Of nested samples only one has units of its own.
    own = np.where(np.fmin(fresh, stale) > 0, np.fmin(fresh, stale), np.fmax(fresh, stale))
    return spread * _join(divide(1, np.sqrt(size)), divide(1, np.sqrt(old_size)), alike), own * np.fmin(
        share, 1 - share
    )


def _judge(pairs: pd.DataFrame) -> pd.DataFrame:
    q_values = stats.control_false_discoveries(pairs["p_value"])
    missing = pairs["p_value"].isna() & ~(pairs["same"] & pairs["difference"].notna())
    verdict = np.select(
        [
            pairs["side"] == "left_only",
            pairs["side"] == "right_only",
            missing,
            (q_values < SIGNIFICANCE) & (pairs["difference"] > 0),
            q_values < SIGNIFICANCE,
        ],
        ["new", "gone", "too few", "up", "down"],
        "within chance",
    )
    judged = pairs.rename(columns={"value": "now", "value_before": "before"}).assign(q_value=q_values, verdict=verdict)
    judged["note"] = judged["note"].mask(judged["same"] & (judged["verdict"] == "within chance"), SAME_UNITS)
    judged = _note_largest_leak(_judge_ranks(_note_statuses(judged)))
    good = judged["verdict"].isin(["up", "down"]) & (judged["kind"] != "rank") & judged["better"].isin(["up", "down"])
    sense = np.where(judged["verdict"] == judged["better"], "improved", "worsened")
    return judged.assign(better=np.where(good, sense, ""))


def _note_statuses(table: pd.DataFrame) -> pd.DataFrame:
    """Say what experiments said before and say now: with their own control of chance, whatever the change of effect."""
    other = (table["side"] == "both") & (table["status"] != table["status_before"])
    note = table["note"].mask(other, table["status"] + ", was " + table["status_before"])
    return table.assign(note=note, restated=other)


def _judge_ranks(table: pd.DataFrame) -> pd.DataFrame:
    """Call a change of rank one where it is into or out of the first, and the micro's score changed beyond chance."""
    ranks = (table["kind"] == "rank") & (table["side"] == "both")
    moved = set(table.loc[table["id"].str.startswith("score: ") & table["verdict"].isin(["up", "down"]), "id"])
    crossed = (table["now"] <= FIRST) != (table["before"] <= FIRST)
    real = crossed & ("score: " + table["id"]).isin(moved)
    unranked = table["now"].isna() | table["before"].isna()
    verdict = np.select(
        [unranked, real & (table["now"] < table["before"]), real], ["too few", "up", "down"], "within chance"
    )
    note = np.select(
        [table["now"].isna(), table["before"].isna(), real & (table["now"] <= FIRST), real],
        ["not ranked now", "not ranked before", f"now among the first {FIRST}", f"no longer among the first {FIRST}"],
        "",
    )
    return table.assign(verdict=np.where(ranks, verdict, table["verdict"]), note=np.where(ranks, note, table["note"]))


def _note_largest_leak(table: pd.DataFrame) -> pd.DataFrame:
    """Say that another step loses most units, and whether that is more than chance."""
    leaks = table[(table["kind"] == "leak") & (table["side"] == "both")]
    if leaks[["now", "before"]].isna().any(axis=None) or len(leaks) < 2:
        return table
    largest, was = int(leaks["count"].argmax()), int(leaks["count_before"].argmax())
    if largest == was:
        return table
    real = leaks["verdict"].iloc[[largest, was]].isin(["up", "down"]).any()
    note = f"the largest leak now (was: {leaks['name'].iloc[was]}){'' if real else ', within chance'}"
    return table.assign(note=table["note"].mask(table.index == leaks.index[largest], note))


def measure_overlap(log: "EventLog", period: tuple[Any, Any], before: tuple[Any, Any]) -> tuple[float, float]:
    """Say which share of this and of an earlier period's units entered with the same event in both periods.

    Args:
        log: The log, seen through the segment.
        period: This run's first and last day of entries.
        before: The earlier run's.

    Returns:
        The share of this period's units, and of the earlier one's; 0 where the periods do not overlap. A unit that
        entered both periods with different events counts as two, which makes changes harder to show, not easier.
    """
    if max(str(period[0]), str(before[0])) > min(str(period[1]), str(before[1])):
        return 0.0, 0.0
    try:
        now, then = (log.between(*days).entries()["time"] for days in (period, before))
    except ParamError:  # the log no longer has the earlier days
        return 0.0, 0.0
    shared = int((then.reindex(now.index) == now).sum())
    return shared / max(len(now), 1), shared / max(len(then), 1)
