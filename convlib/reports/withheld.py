"""Which of a stakeholder's reports stay out: those that would reveal small numbers beside the others."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from convlib.redaction import find_small
from convlib.reports.manifest import Report

EVERYTHING = "all"
REASON = "Left out: beside the other reports it would reveal numbers of fewer than {fewest} units."
#: Beside a stakeholder's reports as they were made: which of them it did not get.
WITHHELD = "withheld.json"
Counts = dict[str, pd.DataFrame]
#: What counts units or visits, and which column counts those of them that did something.
COUNTS = {
    "units": "",
    "exposed": "units",
    "converted": "",
    "lost": "",
    "pending": "",
    "events": "",
    "reach": "",
    "units_with": "converted_with",
    "units_without": "converted_without",
    "converted_with": "",
    "converted_without": "",
    "units_control": "",
    "visits": "",
    "visits_with": "left_with",
    "visits_without": "left_without",
    "left_with": "",
    "left_without": "",
}
#: Texts and moments that may differ between a segment and the whole: they don't tell what a row is about.
REMARKS = {"note", "status", "verdict", "first", "last", "role"}
#: Tables that count nothing, or that nobody is shown.
OTHERS = {"alerts", "changes", "measures"}


def find_withheld(
    folder: Path, reports: Sequence[Report], columns: Mapping[str, str], *, fewest: int
) -> dict[tuple[str, str], str]:
    """Find the reports on segments that, taken from the one on all units, would leave few units or one hidden number.

    The segments of one column are taken together, a named segment alone. The smallest is withheld first, until what is
    left of each number is 0 or of `fewest` units, and no number that one report alone hides follows from the others
    (Hundepool et al. 2012, Statistical Disclosure Control, section 4.4).

    Args:
        folder: The folder that the reports' paths start at.
        reports: A stakeholder's reports.
        columns: For each segment that is made by the values of a column, its column.
        fewest: So many units a shown number has at least.

    Returns:
        For each withheld segment and notebook a sentence that says why.
    """
    withheld = {}
    for notebook in dict.fromkeys(report.notebook for report in reports):
        own = {each.segment: each for each in reports if each.notebook == notebook and each.status == "made"}
        total = _read_tables(folder / own[EVERYTHING].tables) if EVERYTHING in own else {}
        for family in dict.fromkeys(name.partition("=")[0] for name in own if name != EVERYTHING):
            members = {name: own[name] for name in own if name.partition("=")[0] == family}
            shown = {name: _count_all(_read_tables(folder / each.tables)) for name, each in members.items()}
            broken = _break_down(total, family, columns.get(family, ""), shown)
            for name in _withhold(_count_all(total), shown, broken, fewest=fewest):
                withheld[name, notebook] = REASON.format(fewest=fewest)
    return withheld


def _read_tables(folder: Path) -> dict[str, pd.DataFrame]:
    return {path.stem: pd.read_parquet(path) for path in sorted(folder.glob("*.parquet")) if path.stem not in OTHERS}


def _count_all(tables: Mapping[str, pd.DataFrame]) -> Counts:
    return {stem: _count(table) for stem, table in tables.items() if set(COUNTS) & set(table)}


def _count(table: pd.DataFrame) -> pd.DataFrame:
    """Give a table's counts, and those who did not, by what its rows are about; a sum that lacks a part is NaN."""
    names = [name for name in table if name in COUNTS]
    others = table.drop(columns=[*names, *REMARKS & {*table}])
    texts = others.select_dtypes(["str", "object", "datetime"]).astype("str").fillna("")
    labels = texts.agg("\n".join, axis=1) if len(texts) and len(texts.columns) else pd.Series("", index=table.index)
    counts = table[names].astype(float)
    less = {f"{name} less": counts[name] - counts[COUNTS[name]] for name in names if COUNTS[name] in counts}
    found: pd.DataFrame = counts.assign(**less).groupby(labels.to_numpy(str)).sum(skipna=False)
    return found


def _break_down(
    total: Mapping[str, pd.DataFrame], family: str, column: str, members: Mapping[str, Counts]
) -> dict[str, Counts]:
    """Give what the report on all units itself shows of each segment, in a table that is broken down by its column.

    Where units change the column's value, a breakdown counts others than the segments, and neither completes the other.
    """
    broken: dict[str, Counts] = {}
    for table in total.values():
        if column not in table:
            continue
        parts = {value: _count(rows.drop(columns=column)) for value, rows in table.groupby(table[column].astype("str"))}
        own = {name.partition("=")[2]: counts for name, counts in members.items()}
        for stem in {stem for counts in members.values() for stem in counts}:
            known = [value for value in parts if stem in own.get(value, {})]
            pairs = [parts[value].align(own[value][stem], join="inner") for value in known]
            if all(not ((one != other) & one.notna() & other.notna()).any(axis=None) for one, other in pairs):
                for value in parts:
                    broken.setdefault(f"{family}={value}", {})[stem] = parts[value]
    return broken


def _withhold(total: Counts, members: Mapping[str, Counts], broken: Mapping[str, Counts], *, fewest: int) -> list[str]:
    """List the members of one family that stay out, the smallest first."""
    size = {name: sum(float(table.sum().sum()) for table in counts.values()) for name, counts in members.items()}
    order = sorted(members, key=lambda name: (size[name], name))
    for number in range(len(order)):
        shown = {name: {} if name in order[:number] else members[name] for name in members}
        known = (_gather(stem, table, shown, broken) for stem, table in total.items())
        if not any(_is_leaking(table, parts, fewest) for table, parts in zip(total.values(), known, strict=True)):
            return order[:number]
    return order


def _gather(
    stem: str, whole: pd.DataFrame, members: Mapping[str, Counts], broken: Mapping[str, Counts]
) -> list[tuple[pd.DataFrame, bool]]:
    """Give each member's known part of a table, and whether its report is shown."""
    none = whole.head(0)
    parts = []
    for name in {**members, **broken}:
        tables = members.get(name, {})
        own, other = (
            each.get(stem, none).reindex(index=whole.index, columns=whole.columns)
            for each in (tables, broken.get(name, {}))
        )
        parts.append((own.fillna(other), stem in tables))
    return parts


def _is_leaking(whole: pd.DataFrame, parts: Sequence[tuple[pd.DataFrame, bool]], fewest: int) -> bool:
    """Say whether the whole less its known parts gives few units away, or the number that one shown report hides."""
    rest = whole - np.sum([part.fillna(0.0) for part, _ in parts], axis=0)
    unknown = np.sum([part.isna() for part, _ in parts], axis=0)
    hidden = np.sum([part.isna() & is_shown for part, is_shown in parts], axis=0)
    alone = (unknown == 1) & (hidden == 1) & (rest > 0)
    return bool((find_small(rest, fewest=fewest) | alone).any(axis=None))
