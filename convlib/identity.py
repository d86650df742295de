"""Who is who: anonymous ids joined to the user they turned out to be, and ids made unreadable with a keyed hash."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import duckdb
import pandas as pd

from convlib.documents import word_columns
from convlib.engine import connect, quote
from convlib.errors import EventDataError, ParamError
from convlib.sources import find_source

COLUMNS = ("anonymous_id", "user_id")
#: Columns that name a person, hashed when asked.
IDS = ("user_id", "session_id", "anonymous_id")
HASH_KEY = "CONVLIB_HASH_KEY"
BLOCK = 64  # bytes, of SHA-256


def read_identities(table: pd.DataFrame | str | Path | None) -> pd.DataFrame | None:
    """Read which anonymous id is which user, with chains (a leads to b, b to c) followed to their end.

    Args:
        table: A frame or file with `anonymous_id` and `user_id`; rows that lack one of them say nothing.

    Raises:
        EventDataError: A column is missing, an anonymous id leads to several users, or ids lead to each other in a
            circle.
    """
    if table is None:
        return None
    label = "identity" if isinstance(table, pd.DataFrame) else str(table)
    frame = table if isinstance(table, pd.DataFrame) else _read_table(table)
    missing = [name for name in COLUMNS if name not in frame.columns]
    if missing:
        found = [name for name in frame.columns if not str(name).startswith("convlib ")]
        raise EventDataError(*(f"`{label}` has no column `{name}`.{word_columns(name, found)}" for name in missing))
    pairs = frame[list(COLUMNS)].dropna().astype("str").drop_duplicates()
    pairs = pairs[pairs["anonymous_id"] != pairs["user_id"]]
    twice = pairs["anonymous_id"].duplicated(keep=False)
    if twice.any():
        ids = pairs.loc[twice, "anonymous_id"]
        users = pairs.loc[pairs["anonymous_id"] == ids.iloc[0], "user_id"]
        msg = (
            f"`{label}`: {ids.nunique():,} anonymous ids lead to several users, such as {ids.iloc[0]!r} to "
            f"{', '.join(map(repr, users.head(3)))}. Keep one row for each."
        )
        raise EventDataError(msg)
    return _follow(pairs.reset_index(drop=True), label)


def add_identities(pairs: pd.DataFrame | None, learned: pd.DataFrame) -> pd.DataFrame:
    """Put what a log teaches after what a table says, and follow chains through both.

    Learned ids that lead to each other in a circle say nothing, as those of shared devices: they stay themselves.
    """
    known = pd.concat([pairs, learned], ignore_index=True).drop_duplicates("anonymous_id")
    stated = 0 if pairs is None else len(pairs)
    while True:
        followed, caught = _chase(known)
        if caught.empty:
            return followed
        known = known[~known["anonymous_id"].isin(caught) | (known.index < stated)]


def _read_table(path: str | Path) -> pd.DataFrame:
    source = find_source(path)
    source.check()
    frame = source.open().df()
    broken = source.list_bad_lines()
    if len(broken):
        raise EventDataError(*(f"`{path}`: line {row.row}: {row.reason}." for row in broken.itertuples()))
    return frame


def _follow(pairs: pd.DataFrame, label: str) -> pd.DataFrame:
    followed, caught = _chase(pairs)
    if caught.empty:
        return followed
    msg = f"`{label}`: ids lead to each other in a circle, such as {caught.iloc[0]!r}. Remove one of the rows."
    raise EventDataError(msg)


def _chase(pairs: pd.DataFrame) -> tuple[pd.DataFrame, pd.Series]:
    """Follow every id to its end, or to itself: the ids of the first circles found are given too."""
    leads = pairs.set_index("anonymous_id")["user_id"]
    for _ in range(len(pairs)):
        further = pairs["user_id"].map(leads)
        if further.isna().all():
            break
        pairs = pairs.assign(user_id=further.fillna(pairs["user_id"]))
        if (pairs["user_id"] == pairs["anonymous_id"]).any():
            break
    return pairs, pairs.loc[pairs["user_id"] == pairs["anonymous_id"], "anonymous_id"]


def learn_identities(rows: duckdb.DuckDBPyRelation) -> pd.DataFrame:
    """Learn from rows that have both ids which anonymous id is which user; one that was several users stays itself."""
    both = rows.filter("anonymous_id IS NOT NULL AND user_id IS NOT NULL AND CAST(anonymous_id AS VARCHAR) <> user_id")
    pairs = both.project("CAST(anonymous_id AS VARCHAR) AS anonymous_id, user_id").distinct().df().astype("str")
    return pairs[~pairs["anonymous_id"].duplicated(keep=False)].sort_values("anonymous_id", ignore_index=True)


def join_identities(rows: duckdb.DuckDBPyRelation, pairs: pd.DataFrame) -> duckdb.DuckDBPyRelation:
    """Give every row of a known anonymous id that user's id."""
    known = connect().from_df(pairs).set_alias("known")
    joined = rows.set_alias("log").join(known, "log.user_id = known.anonymous_id", how="left")
    others = [f"log.{quote(name)}" for name in rows.columns if name != "user_id"]
    return joined.project(", ".join(["coalesce(known.user_id, log.user_id) AS user_id", *others]))


def hash_ids(rows: duckdb.DuckDBPyRelation) -> duckdb.DuckDBPyRelation:
    """Replace ids by their HMAC-SHA-256 (RFC 2104) under the key in the environment variable `HASH_KEY`.

    The same id and key always give the same 64 hexadecimal digits, so joins and counts stay; without the key nobody can
    try ids out.
    """
    ids = [name for name in IDS if name in rows.columns]
    hashed = [f"{_write_hmac(name, read_hash_key())} AS {name}" for name in ids]
    return rows.project(", ".join([f"* EXCLUDE ({', '.join(ids)})", *hashed]))


def hash_frame(frame: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Do as `hash_ids` for some columns of a frame."""
    chosen = [name for name in frame.columns.map(str) if name.lower() in columns]
    if not chosen:
        return frame
    hashes = [f"{_write_hmac(quote(name), read_hash_key())} AS {quote(name)}" for name in chosen]
    return frame.assign(**connect().from_df(frame[chosen]).project(", ".join(hashes)).df())


def read_hash_key() -> bytes:
    """Read the key from the environment.

    Raises:
        ParamError: There is none, or it is too short to keep ids from being tried out.
    """
    key = os.environ.get(HASH_KEY, "").encode()
    if len(key) < 16:
        found = f"holds {len(key)} bytes" if key else "is not set"
        msg = f"`hash_ids` needs a key of at least 16 bytes in the environment variable {HASH_KEY}, which {found}."
        raise ParamError(msg)
    return key


def _write_hmac(column: str, key: bytes) -> str:
    """Write HMAC as an engine expression: the engine has SHA-256 only."""
    block = (key if len(key) <= BLOCK else hashlib.sha256(key).digest()).ljust(BLOCK, b"\0")
    inner, outer = (bytes(byte ^ pad for byte in block).hex() for pad in (0x36, 0x5C))
    message = f"unhex('{inner}') || encode(CAST({column} AS VARCHAR))"
    return f"sha256(unhex('{outer}') || unhex(sha256({message})))"
