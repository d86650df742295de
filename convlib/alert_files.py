"""Alerts from one run to the next: which are new, open or over, and the file that keeps them."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pandas as pd

from convlib.errors import ParamError
from convlib.files import write_text

RULES = (
    "control_limit", "change", "target_missed", "outside_benchmark", "macro_down", "no_data", "quality",
    "action_overdue",
)  # fmt: skip
SEVERITIES = ("critical", "warning", "info")
KEY = ("rule", "segment", "group", "conversion", "metric")
COLUMNS = {
    **dict.fromkeys(("id", "rule", "severity", "segment", "group", "conversion", "metric"), "str"),
    "period": "datetime64[us]",
    **dict.fromkeys(("evidence", "owner"), "str"),
    **dict.fromkeys(("first_seen", "last_seen"), "datetime64[us]"),
    **dict.fromkeys(("still_open", "is_new"), "bool"),
}
NONE = pd.DataFrame({name: pd.Series(dtype=dtype) for name, dtype in COLUMNS.items()})
TIMES = [name for name, dtype in COLUMNS.items() if dtype.startswith("datetime")]


def merge_alerts(found: pd.DataFrame, history: pd.DataFrame, now: pd.Timestamp) -> pd.DataFrame:
    """Join what was found with what was open before, so that nothing is raised twice and nothing forgotten.

    Args:
        found: What is found now: `rule`, `severity`, `segment`, `group`, `conversion`, `metric`, `period`, `evidence`,
            `owner`; what is missing is empty.
        history: Earlier alerts of the same segments and rules.
        now: The end of the data.

    Returns:
        Everything found, still open, and what was open and is no longer found, worst first. An alert keeps its `id` and
        `first_seen` for as long as it stays open; the id comes from what it is about and the period that it began in.
    """
    found = complete_alerts(found).drop_duplicates(list(KEY))
    earlier = complete_alerts(history)
    if found.empty and earlier.empty:
        return earlier
    was_open = earlier[earlier["still_open"]].drop_duplicates(list(KEY), keep="last")
    known = found[list(KEY)].merge(was_open[[*KEY, "id", "first_seen"]], on=list(KEY), how="left")
    fresh = pd.Series([_identify(row) for row in list_rows(found)], index=known.index, dtype="str")
    ids = known["id"].fillna(fresh)
    # What was over and shows again in the period that it began in is the alert of then.
    seen = earlier.drop_duplicates("id").set_index("id")["first_seen"]
    first = known["first_seen"].fillna(seen.reindex(ids).set_axis(known.index)).astype("datetime64[us]")
    merged = found.reset_index(drop=True).assign(
        id=ids, first_seen=first.fillna(now), last_seen=now, still_open=True, is_new=first.isna()
    )
    gone = was_open[~was_open["id"].isin(ids)].assign(still_open=False, is_new=False)
    table = pd.concat([merged, gone], ignore_index=True).astype(COLUMNS)
    order = table.assign(over=~table["still_open"], rank=table["severity"].map(SEVERITIES.index), old=~table["is_new"])
    return table.loc[order.sort_values(["over", "rank", "old"], kind="stable").index].reset_index(drop=True)


def list_rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Give the rows as dictionaries."""
    return [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]


def _identify(row: dict[str, Any]) -> str:
    begun = pd.Timestamp(row["period"])
    words = [*(str(row[name]) for name in KEY), "" if pd.isna(begun) else begun.isoformat()]
    return hashlib.sha256(json.dumps(words).encode()).hexdigest()[:16]


def complete_alerts(table: pd.DataFrame) -> pd.DataFrame:
    """Give a table of alerts all its columns."""
    if table.empty:
        return NONE.copy()
    known = table.reindex(columns=list(COLUMNS))
    texts = {
        name: known[name].astype(object).where(known[name].notna(), "")
        for name, dtype in COLUMNS.items()
        if dtype == "str"
    }
    flags = {name: known[name].eq(True) for name, dtype in COLUMNS.items() if dtype == "bool"}
    return known.assign(**texts, **flags).astype(COLUMNS)


def read_alerts(path: Path | str) -> pd.DataFrame:
    """Read earlier alerts, none where there is no file.

    Args:
        path: A file that `write_alerts` wrote.

    Returns:
        The table of alerts.

    Raises:
        ParamError: The file is damaged or something else.
    """
    path = Path(path)
    if path.is_dir():
        msg = f"{str(path)!r} is a folder; give the path of the file of alerts, such as {str(path / 'alerts.json')!r}."
        raise ParamError(msg)
    if not path.exists():
        return complete_alerts(pd.DataFrame())
    try:
        records = json.loads(path.read_text(encoding="utf-8"))["alerts"]
        return complete_alerts(pd.DataFrame(records, columns=list(COLUMNS)))
    except (OSError, ValueError, KeyError, TypeError) as error:
        msg = (
            f"{str(path)!r} can't be read as alerts ({type(error).__name__}: {error}). Restore it from the run before, "
            "or delete it: then every alert that is open counts as new."
        )
        raise ParamError(msg) from None


def write_alerts(path: Path | str, table: pd.DataFrame) -> None:
    """Write alerts to a file, whole or not at all, one alert a line.

    Args:
        path: The file; its folder is made.
        table: The table of alerts.
    """
    path = Path(path)
    known = complete_alerts(table)
    times = {name: known[name].map(lambda time: None if pd.isna(time) else time.isoformat()) for name in TIMES}
    records = known.astype(object).assign(**times).to_dict("records")
    lines = ",\n".join(json.dumps(record, ensure_ascii=False, default=str) for record in records)
    write_text(path, f'{{"alerts": [\n{lines}\n]}}\n' if records else '{"alerts": []}\n')
