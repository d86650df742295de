"""Rows that stand out beside others: out of order or late in the file, repeated, of a shared session or a busy user."""

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import duckdb
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from convlib.engine import connect

#: A user with fewer events in all can't have had impossibly many in a day: one in 17 seconds, round the clock.
BUSY = 5_000
#: A row is late when it comes so long after those around it.
LATE = pd.Timedelta("24h")
#: In a file less in time order than this, order says nothing.
MOSTLY_ORDERED = 0.95
#: Rows whose median time stands for "now" at a place of the file, so that one wrong time makes no other row late.
BLOCK = 200
#: Sorted numbers compared at a time.
PART = 250_000
#: What rows that repeat one another have in common.
SAME = ("user_id", "event_name", "product_id", "page_path")
REPEATS = {"day": "datetime64[us]", "event_name": "str", "platform": "str", "copies": "int64", "near": "int64"}

Rows = duckdb.DuckDBPyRelation


def check_order(whole: Rows) -> dict[str, Any]:
    """Compare each row with the one before it in the file and, where some are earlier, with the time around them.

    Returns:
        `order`, `file_rows`, `ordered` and `first_backwards` of a profile.
    """
    pairs = whole.project("timestamp AS t, timestamp < lag(timestamp) OVER () AS back")
    total, backwards = pairs.aggregate("count(*), count(*) FILTER (back)").fetchall()[0]
    ordered = 1 - backwards / max(1, total - 1)
    known = {"file_rows": total, "ordered": ordered}
    if ordered < MOSTLY_ORDERED or not backwards:
        return {**known, "order": pd.DataFrame(columns=["day", "rows", "backwards", "late"]), "first_backwards": 0}
    times = np.asarray(whole.project("epoch_us(timestamp) AS t").fetchnumpy()["t"], "int64")
    days = times // 86_400_000_000
    first = int(days.min())
    back = np.flatnonzero(np.diff(times) < 0) + 1
    chosen = {"rows": days, "backwards": days[back], "late": days[_find_late(times)]}
    counts = {name: np.bincount(found - first, minlength=days.max() - first + 1) for name, found in chosen.items()}
    starts = pd.to_datetime((first + np.arange(len(counts["rows"]))) * 86_400, unit="s").astype("datetime64[us]")
    order = pd.DataFrame({"day": starts, **counts})
    return {**known, "order": order[order["rows"] > 0].reset_index(drop=True), "first_backwards": int(back[0]) + 1}


def _find_late(times: NDArray[np.int64]) -> NDArray[np.int64]:
    """Find the rows that lie more than a day before what an earlier place of the file had reached."""
    size = min(BLOCK, max(1, len(times) // 20))
    blocks = np.array_split(times, max(1, len(times) // size))
    # A block is held against those before it: in a quiet month its own rows lie days apart.
    reached = np.maximum.accumulate([times.min(), *(np.median(block) for block in blocks[:-1])])
    level = np.repeat(reached, [len(block) for block in blocks])
    return np.flatnonzero(times < level - LATE / pd.Timedelta("1us"))


def find_busiest(rows: Rows, columns: Mapping[str, str], totals: pd.DataFrame) -> dict[str, Any]:
    """Look at the days of those users alone who have very many events.

    Returns:
        `busiest` and `usual` of a profile.
    """
    others = totals[totals["events"] < BUSY]
    place = np.searchsorted(others["users"].cumsum(), 0.999 * others["users"].sum())
    usual = float(others["events"].iloc[place]) if len(others) else np.nan
    if len(others) == len(totals):
        return {"busiest": pd.DataFrame(columns=["day", "events"]), "usual": usual}
    user = columns["user_id"]
    heavy = rows.aggregate(f"{user} AS heavy_user, count(*) AS n", user).filter(f"n >= {BUSY}").set_alias("heavy")
    days = rows.project(f"{user} AS who, day").set_alias("days").join(heavy, "who = heavy_user", how="semi")
    most = days.aggregate("who, day, count(*) AS events").aggregate(
        "who, arg_max(day, events) AS day, max(events) AS events", "who"
    )
    return {"busiest": most.project("day, events").order("events DESC, day").df(), "usual": usual}


def has_seconds(rows: Rows, columns: Mapping[str, str]) -> bool:
    """Say whether most rows stand beside the whole minute, by the first hundred thousand."""
    time = columns["timestamp"]
    some = rows.limit(100_000).aggregate(f"count(*) FILTER (epoch_us({time}) % 60000000 <> 0) > 0.5 * count(*)")
    return bool(some.fetchall()[0][0])


def check_keys(rows: Rows, columns: Mapping[str, str], *, timed: bool) -> dict[str, Any]:
    """Find repeated rows, unless times are whole minutes, and sessions of several users.

    Returns:
        `repeats`, `sessions`, `shared` and `shared_day` of a profile.
    """
    repeat, visit = _write_repeat(columns), _write_session(columns)
    keys = _sort(rows, **({"repeats": repeat} if timed else {}), sessions=visit)
    none = pd.DataFrame({name: pd.Series(dtype=kind) for name, kind in REPEATS.items()})
    repeats = _find_repeats(rows, columns, keys["repeats"]) if timed else none
    return {"repeats": repeats, **_check_sessions(rows, columns, keys["sessions"])}


def _write_repeat(columns: Mapping[str, str]) -> str:
    """Write the number of 34 bits of hash and 30 bits of time, in half seconds, that stands for a row."""
    same = ", ".join(columns[name] for name in SAME)
    time = f"epoch_us({columns['timestamp']}) // 500000"
    return f"(hash({same}) & {(1 << 64) - (1 << 30)}::UBIGINT) | ({time} & {(1 << 30) - 1})::UBIGINT"


def _write_session(columns: Mapping[str, str]) -> str:
    """Write the number of 48 bits of session and 16 of user that stands for a row; null without a session."""
    session, user = columns["session_id"], columns["user_id"]
    key = f"(hash({session}) & {(1 << 64) - (1 << 16)}::UBIGINT) | (hash({user}) & {(1 << 16) - 1})::UBIGINT"
    return f"CASE WHEN {session} IS NOT NULL THEN {key} END"


def _find_repeats(rows: Rows, columns: Mapping[str, str], keys: NDArray[np.uint64]) -> pd.DataFrame:
    """Find rows of the same user, event, product and page within a second: those with equal contents are copies.

    Rows whose sorted numbers are neighbours are compared themselves.
    """
    time, event, key = columns["timestamp"], columns["event_name"], _write_repeat(columns)
    same = ", ".join(columns[name] for name in SAME)
    close = np.concatenate([keys[:0], *(ends[:, ends[1] - ends[0] <= 2].ravel() for ends in _pair(keys))])
    if not len(close):
        return pd.DataFrame({name: pd.Series(dtype=kind) for name, kind in REPEATS.items()})
    listed = f"day, platform, {same}, {time}, hash({', '.join(columns.values())}) AS content"
    found = _restrict(rows, key, close).project(listed)
    by = f"day, platform, {same}, {time}, content"
    apart = f"{time} - lag({time}) OVER (PARTITION BY {same} ORDER BY {time}, content) <= INTERVAL 1 SECOND"
    pairs = found.aggregate(f"{by}, count(*) - 1 AS more", by).project(f"*, coalesce({apart}, false) AS close")
    counts = "CAST(sum(more) AS BIGINT) AS copies, count(*) FILTER (close) AS near"
    by = f"day, {event}, platform"
    frame = (
        pairs.aggregate(f"day, {event} AS event_name, platform, {counts}", by).order("day, event_name, platform").df()
    )
    return frame[(frame["copies"] > 0) | (frame["near"] > 0)].reset_index(drop=True)


def _check_sessions(rows: Rows, columns: Mapping[str, str], keys: NDArray[np.uint64]) -> dict[str, Any]:
    """Count the sessions, and those of several users."""
    session, user = columns["session_id"], columns["user_id"]
    if not len(keys):
        return {"sessions": 0, "shared": 0, "shared_day": None}
    total, found = 1, [keys[:0]]
    for ends in _pair(keys):
        sessions = ends >> np.uint64(16)
        apart = sessions[0] != sessions[1]
        total += int(apart.sum())
        found.append(sessions[0][~apart & (ends[0] != ends[1])])
    twice = np.concatenate(found)
    if not len(twice):
        return {"sessions": total, "shared": 0, "shared_day": None}
    several = _restrict(rows.filter(f"{session} IS NOT NULL"), f"hash({session}) >> 16", twice)
    shared = several.aggregate(f"{session}, min(day) AS day, min({user}) <> max({user}) AS shared", session).filter(
        "shared"
    )
    count, first = shared.aggregate("count(*), min(day)").fetchall()[0]
    return {"sessions": total, "shared": int(count), "shared_day": None if first is None else pd.Timestamp(first)}


def _sort(relation: Rows, **keys: str) -> dict[str, NDArray[np.uint64]]:
    """Fetch some numbers a row and sort each of them: several times as fast as grouping by them."""
    fetched = relation.project(", ".join(f"{key} AS {name}" for name, key in keys.items())).fetchnumpy()
    found = {
        name: np.ma.compressed(key) if np.ma.is_masked(key) else np.ma.getdata(key) for name, key in fetched.items()
    }
    with ThreadPoolExecutor() as pool:
        list(pool.map(np.ndarray.sort, found.values()))
    return found


def _pair(keys: NDArray[np.uint64]) -> Iterator[NDArray[np.uint64]]:
    """Set each number beside the next, a part at a time: arrays as long as the log cost more than the sorting."""
    for start in range(0, len(keys) - 1, PART):
        stop = min(start + PART, len(keys) - 1)
        yield np.stack([keys[start:stop], keys[start + 1 : stop + 1]])


def _restrict(relation: Rows, key: str, keys: NDArray[np.uint64]) -> Rows:
    wanted = connect().from_df(pd.DataFrame({"wanted": np.unique(keys)})).set_alias("chosen")
    return relation.project(f"*, {key} AS key").set_alias("every").join(wanted, "key = wanted", how="semi")
