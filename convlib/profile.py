"""What a log's rows hold, reduced in few scans to the small frames that the event map and the quality rules judge."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import duckdb
import numpy as np
import pandas as pd
from duckdb import CaseExpression, ColumnExpression, ConstantExpression, Expression, FunctionExpression, SQLExpression

from convlib import identity
from convlib.canonical import REQUIRED
from convlib.engine import compile_rule, connect, quote, text
from convlib.oddities import LATE, check_keys, check_order, find_busiest, has_seconds
from convlib.personal import count_personal
from convlib.plan import Plan, Rule

if TYPE_CHECKING:
    from convlib.events import EventLog

#: A column of at most this many values is described by them.
FEW_VALUES = 12
#: So many event names are told apart, besides those of the plan: more are no names but texts, and no person reads them.
MOST_NAMES = 500
#: What stands for the other names.
OTHER = "(other names)"
#: So many different values of a column are searched for telephone and card numbers; e-mail addresses in all.
MOST_SEARCHED = 5_000
#: Columns whose values are ids: never shown, and numbers in them are no telephone or card numbers.
IDS = (*identity.IDS, "product_id")
#: Columns that every used row holds.
#: A column of this name says when the row arrived.
RECEIVED = ("received_at", "ingested_at", "server_timestamp")
#: Bits of a mask, below the sign.
BITS = 62


@dataclasses.dataclass(frozen=True)
class Profile:
    """Counts of the rows of a segment in a period; no value of a user stands in them.

    Attributes:
        users: How many users have any event.
        platform: The column that tells platforms apart, or "".
        received: The column that says when a row arrived, or "".
        daily: `day`, `event_name`, `platform`, `rows`, `first`, `last`, `negative` values, `arrived` and `late` rows by
            the received column. Names beyond the 500 most frequent stand together.
        filled: For each row of `daily`, how many of its rows hold a value of each column.
        matched: For each row of `daily`, whether it is each conversion of the plan.
        hourly: `hour`, `platform`, `rows`.
        future: `day` and `rows` after now, in the whole log.
        names: `event_name`, `rows`, `users`, `mapped`: how many of its rows are a conversion.
        conversions: `conversion`, `event_name`, `events`, `users`, `first`, `last`.
        covered: Users of each conversion.
        unseen: `conversion`, `rows` and `last` in the whole log, of those without a row here.
        currencies: `conversion` ("" for all), `currency`, `rows` with a value.
        values: `column`, `value`, `rows`, `shared` (at least two users have it), for columns of few values
            in the whole log.
        personal: `column`, `kind`, `values`: what looks like personal data in the whole log.
        repeats: `day`, `event_name`, `platform`, `copies` (rows equal to another), `near` (within a second of another).
        sessions: How many there are; `shared`, how many of them have several users, and `shared_day`, the first's.
        busiest: `day` and `events` of each user with very many; `usual`, what one in a thousand of the others has.
        timed: Whether times carry seconds, so that equal rows are copies and not several events of a day.
        order: `day`, `rows`, `backwards` (earlier than the row before it), `late`, over the whole file; empty when all
            its rows are in order. `file_rows` is their number, `ordered` the share of neighbours in order, and
            `first_backwards` the first row out of order.
    """

    users: int
    platform: str
    received: str
    daily: pd.DataFrame
    filled: pd.DataFrame
    matched: pd.DataFrame
    hourly: pd.DataFrame
    future: pd.DataFrame
    names: pd.DataFrame
    conversions: pd.DataFrame
    covered: dict[str, int]
    unseen: pd.DataFrame
    currencies: pd.DataFrame
    values: pd.DataFrame
    personal: pd.DataFrame
    repeats: pd.DataFrame
    sessions: int
    shared: int
    shared_day: pd.Timestamp | None
    busiest: pd.DataFrame
    usual: float
    timed: bool
    order: pd.DataFrame
    ordered: float
    file_rows: int
    first_backwards: int

    @property
    def rows(self) -> int:
        """Count the rows."""
        return int(self.daily["rows"].sum())


@dataclasses.dataclass(frozen=True)
class _Rows:
    """The rows under names that no column of a log can clash with.

    Attributes:
        relation: Each row's `day`, `name` of its event, `platform`, whether it fits `match0`, `match1`, ..., and the
            columns as `c0`, `c1`, ...
        columns: The short name of each column.
        names: The event names that are told apart.
        rules: The conversions whose rules read more than the event's name, each with its `match` column.
        keys: What rows are grouped by, so that a group is of a conversion as a whole or not at all.
    """

    relation: duckdb.DuckDBPyRelation
    columns: dict[str, str]
    names: list[str]
    rules: dict[str, str]
    keys: list[str]
    platform: str


@dataclasses.dataclass(frozen=True)
class _Users:
    """All users, how many have how many events, those of `(conversion or "", name or "")`, and personal ids."""

    count: int
    totals: pd.DataFrame
    found: dict[tuple[str, str], int]
    personal: dict[str, int]


def profile_rows(log: "EventLog") -> Profile:
    """Reduce a log to what the event map and the quality rules need to know of it.

    Args:
        log: The log, seen through a segment and a period; the order of rows and the contents of columns are those of
            the whole log.

    Returns:
        Counts; times are UTC.
    """
    whole, columns = log.whole().scan(), log.columns
    platform = _find_platform(whole, log.prepared.given)
    received = next((name for name in columns if name.lower() in RECEIVED), "")
    rows = _name_columns(log.scan(), log.plan, platform)
    daily, filled, hourly = _count_days(rows, received)
    matched = _match(daily, rows, log.plan)
    few, personal = _describe(whole, columns)
    users = _count_users(rows, daily, matched)
    personal += [("user_id", kind, count) for kind, count in users.personal.items()]
    seen = (rows.relation, rows.columns)
    timed = has_seconds(*seen)
    return Profile(
        users=users.count,
        platform=platform,
        received=received,
        daily=daily.drop(columns=rows.keys[3:]),
        filled=filled,
        matched=matched,
        hourly=hourly,
        future=_find_future(log.prepared.open(), log.last),
        names=_tabulate_names(daily, matched, users.found),
        conversions=_tabulate(daily, matched, users.found),
        covered={each: users.found[each, ""] for each in map(str, matched)},
        unseen=_find_unseen(whole, log.plan, matched),
        currencies=_count_currencies(rows, log.plan),
        values=_count_values(rows, few, users.totals),
        personal=pd.DataFrame(personal, columns=["column", "kind", "values"]),
        timed=timed,
        **check_keys(*seen, timed=timed),
        **find_busiest(*seen, users.totals),
        **check_order(log.prepared.open()),
    )


def _find_future(whole: duckdb.DuckDBPyRelation, last: pd.Timestamp) -> pd.DataFrame:
    """Count the rows of days to come: they move the end of the data, whatever period is looked at."""
    now = pd.Timestamp.now("UTC").tz_localize(None)
    rows = whole.filter(f"timestamp > '{now}'") if last > now else whole.limit(0)
    return rows.aggregate("CAST(date_trunc('day', timestamp) AS TIMESTAMP) AS day, count(*) AS rows").order("day").df()


def _find_unseen(whole: duckdb.DuckDBPyRelation, plan: Plan | None, matched: pd.DataFrame) -> pd.DataFrame:
    """Count in the whole log the conversions that no row here is: what a period lacks may be tracked all the same."""
    rules = {c.id: compile_rule(c.match) for c in (plan.conversions if plan else ()) if not matched[c.id].any()}
    found = pd.DataFrame({"conversion": list(rules), "rows": 0, "last": pd.NaT})
    if rules:
        times = [
            CaseExpression(rule, ColumnExpression("timestamp")).alias(f"t{n}") for n, rule in enumerate(rules.values())
        ]
        made = ", ".join(f"count(t{n}), max(t{n})" for n in range(len(rules)))
        counted = whole.select(*times).aggregate(made).fetchall()[0]
        found = found.assign(rows=counted[::2], last=pd.to_datetime(list(counted[1::2])))
    return found


def _find_platform(whole: duckdb.DuckDBPyRelation, given: Sequence[str]) -> str:
    """Choose the column that names platforms; one of many values names something else."""
    for name in ("platform", "device_type"):
        if name in given and 1 <= len(_distinct(whole, name, FEW_VALUES + 1)) <= FEW_VALUES:
            return name
    return ""


def _distinct(rows: duckdb.DuckDBPyRelation, column: str, most: int, *, holding: str = "") -> list[str]:
    texts = rows.project(f"CAST({quote(column)} AS VARCHAR) AS v").filter("v IS NOT NULL")
    texts = texts.filter(f"regexp_matches(v, {text(holding)})") if holding else texts
    return [value for (value,) in texts.distinct().limit(most).fetchall()]


def _contains(column: str, text: str) -> Expression:
    return FunctionExpression("contains", ColumnExpression(column), ConstantExpression(text))


def _name_columns(rows: duckdb.DuckDBPyRelation, plan: Plan | None, platform: str) -> _Rows:
    """Give the columns safe names, and each row its keys."""
    conversions = plan.conversions if plan else ()
    names, name = _choose_names(rows, [c.match for c in conversions])
    whole = OTHER not in names  # else a name does not tell which rules it matches
    rules = {c.id: f"match{n}" for n, c in enumerate(conversions) if c.match.columns != {"event_name"} or not whole}
    matches = {rules[c.id]: c.match for c in conversions if c.id in rules}
    columns = {column: f"c{number}" for number, column in enumerate(rows.columns)}
    relation = rows.select(
        SQLExpression("date_trunc('day', timestamp)::TIMESTAMP").alias("day"),
        name.alias("name"),
        (ColumnExpression(platform) if platform else ConstantExpression(None)).cast("VARCHAR").alias("platform"),
        *[compile_rule(rule).alias(short) for short, rule in matches.items()],
        *[SQLExpression(quote(column)).alias(short) for column, short in columns.items()],
    )
    # Rules that read no more than name and platform are asked of each group instead of each row.
    own = [short for short, rule in matches.items() if not (whole and rule.columns <= {"event_name", platform})]
    return _Rows(relation, columns, names, rules, ["day", "name", "platform", *own], platform)


def _choose_names(rows: duckdb.DuckDBPyRelation, rules: Sequence[Rule]) -> tuple[list[str], Expression]:
    """List the event names, and write the expression that puts those beyond the most frequent together."""
    counted = rows.aggregate("event_name, count(*) AS n").order("n DESC, event_name")
    names = [name for (name,) in counted.project("event_name").fetchall()]
    telling = {name for name in names if count_personal([name], numbers=False)}
    if len(names) <= MOST_NAMES and not telling:
        return names, ColumnExpression("event_name")
    mapped = [rows.filter(compile_rule(rule)).project("event_name").distinct().fetchall() for rule in rules]
    frequent = {*names[:MOST_NAMES], *(name for found in mapped for (name,) in found)}
    kept = [name for name in names if name in frequent - telling]
    is_kept = ColumnExpression("event_name").isin(*map(ConstantExpression, kept))
    return [*kept, OTHER], CaseExpression(is_kept, ColumnExpression("event_name")).otherwise(ConstantExpression(OTHER))


def _count_days(rows: _Rows, received: str) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Count by day, event name, platform and rule in the one scan of all columns; and rows alone by hour."""
    short, keys = rows.columns, ", ".join(rows.keys)
    time = short["timestamp"]
    arrived = f"TRY_CAST(CAST({short[received]} AS VARCHAR) AS TIMESTAMP)" if received else ""
    counts = {
        "rows": "count(*)",
        "first": f"min({time})",
        "last": f"max({time})",
        "negative": f"count(*) FILTER ({short['value']} < 0)",
        "arrived": f"count({arrived})" if received else "0",
        "late": f"count(*) FILTER ({arrived} - {time} > INTERVAL '{LATE}')" if received else "0",
        **{f"filled_{each}": "count(*)" if name in REQUIRED else f"count({each})" for name, each in short.items()},
    }
    made = ", ".join(f"{expression} AS {name}" for name, expression in counts.items())
    frame = rows.relation.aggregate(f"{keys}, {made}", keys).order(keys).df().rename(columns={"name": "event_name"})
    hours = rows.relation.project(f"date_trunc('hour', {time}) AS hour, platform")
    hourly = hours.aggregate("hour, platform, count(*) AS rows", "hour, platform").order("hour, platform").df()
    filled = frame[[f"filled_{each}" for each in short.values()]].set_axis(list(short), axis=1)
    return frame.drop(columns=[f"filled_{each}" for each in short.values()]), filled, hourly


def _match(groups: pd.DataFrame, rows: _Rows, plan: Plan | None) -> pd.DataFrame:
    """Say of each group of rows which conversions it is."""
    named = connect().from_df(
        groups[["event_name", "platform"]].rename(columns={"platform": rows.platform or "platform"})
    )
    matched = {}
    for conversion in plan.conversions if plan else ():
        short = rows.rules.get(conversion.id, "")
        is_it = (
            groups[short]
            if short in rows.keys
            else named.select(compile_rule(conversion.match).alias("hit")).df()["hit"]
        )
        matched[conversion.id] = is_it.fillna(False).to_numpy(bool)
    return pd.DataFrame(matched, index=groups.index)


def _describe(whole: duckdb.DuckDBPyRelation, columns: Sequence[str]) -> tuple[list[str], list[tuple[str, str, int]]]:
    """Find the columns of few values, and what looks like personal data.

    Both by the whole log: in a segment of five users every column has few values, and each may be somebody's.
    """
    kinds = dict(zip(whole.columns, map(str, whole.types), strict=True))
    few: list[str] = []
    found: list[tuple[str, str, int]] = []
    for column in columns:
        kind = kinds[column]
        if column in ("user_id", "session_id") or kind.startswith(("TIME", "DATE")):
            continue
        sample, hits = _distinct(whole, column, MOST_SEARCHED), {}
        if kind not in ("DOUBLE", "FLOAT", "BOOLEAN"):
            hits = count_personal(sample, numbers=column not in IDS)
            if len(sample) == MOST_SEARCHED:
                hits |= count_personal(_distinct(whole, column, MOST_SEARCHED, holding="@|%40"), numbers=False)
        found += [(column, named, count) for named, count in hits.items()]
        few += [column] if 0 < len(sample) <= FEW_VALUES and column not in IDS and not hits else []
    return few, found


def _count_users(rows: _Rows, daily: pd.DataFrame, matched: pd.DataFrame) -> _Users:
    """Count the users of every name and conversion in one scan: a user is a mask of what they have, a bit each."""
    bits = [("", name) for name in rows.names or [OTHER]]
    for conversion in rows.rules:
        bits += [(conversion, name) for name in daily.loc[matched[conversion], "event_name"].unique()]
    masks = {f"m{low}": _write_mask(rows, bits[low : low + BITS]) for low in range(0, len(bits), BITS)}
    user, names = rows.columns["user_id"], ", ".join(masks)
    made = ", ".join(f"bit_or({mask}) AS {name}" for name, mask in masks.items())
    each = rows.relation.aggregate(f"{user} AS who, count(*) AS events, {made}", user).to_arrow_table()
    users = connect().from_arrow(each)
    kinds = users.aggregate(f"{names}, count(*) AS users", names).df()
    counts = kinds["users"].to_numpy("int64")
    has = {key: (kinds[f"m{n - n % BITS}"].to_numpy("int64") >> (n % BITS)) & 1 == 1 for n, key in enumerate(bits)}
    for conversion in map(str, matched):
        its = daily.loc[matched[conversion], "event_name"].unique()
        has |= {(conversion, name): has.get((conversion, name), has["", name]) for name in its}
        has[conversion, ""] = np.logical_or.reduce([has[conversion, name] for name in its] or [counts < 0])
    addresses = users.filter(_contains("who", "@")).project("who").limit(MOST_SEARCHED).fetchall()
    return _Users(
        int(counts.sum()),
        users.aggregate("events, count(*) AS users", "events").order("events").df(),
        {key: int(counts[hit].sum()) for key, hit in has.items()},
        count_personal([who for (who,) in addresses], numbers=False),
    )


def _write_mask(rows: _Rows, bits: Sequence[tuple[str, str]]) -> str:
    """Write the whole number in which the bits of a row's name and of the conversions that it is are set."""
    parts = []
    for source in dict.fromkeys(each for each, _ in bits):
        own = {text(name): 1 << place for place, (each, name) in enumerate(bits) if each == source}
        # Looked up, for the engine does so once for each entry of a column's dictionary.
        bit = f"coalesce(list_extract({[*own.values()]}::BIGINT[], list_position([{', '.join(own)}], name)), 0)"
        parts.append(f"CASE WHEN {rows.rules[source]} THEN {bit} ELSE 0 END" if source else bit)
    return " | ".join(parts)


def _tabulate(daily: pd.DataFrame, matched: pd.DataFrame, found: Mapping[tuple[str, str], int]) -> pd.DataFrame:
    """Count the rows of each conversion and event name that it is."""
    columns = ["conversion", "event_name", "events", "users", "first", "last"]
    if matched.columns.empty:
        return pd.DataFrame(columns=columns)
    parts = pd.concat([daily[matched[conversion]].assign(conversion=str(conversion)) for conversion in matched])
    groups = parts.groupby(["conversion", "event_name"])
    pairs = groups.agg(events=("rows", "sum"), first=("first", "min"), last=("last", "max")).reset_index()
    pairs["users"] = [found[key] for key in zip(pairs["conversion"], pairs["event_name"], strict=True)]
    return pairs[columns].sort_values(
        ["events", "conversion", "event_name"], ascending=[False, True, True], ignore_index=True
    )


def _tabulate_names(daily: pd.DataFrame, matched: pd.DataFrame, found: Mapping[tuple[str, str], int]) -> pd.DataFrame:
    """Count each event name, and of it what is no conversion."""
    frame = daily.assign(mapped=matched.any(axis=1) * daily["rows"] if len(matched.columns) else 0)
    names = (
        frame.groupby("event_name")
        .agg(rows=("rows", "sum"), mapped=("mapped", "sum"), first=("first", "min"), last=("last", "max"))
        .reset_index()
    )
    names.insert(2, "users", [found["", name] for name in names["event_name"]])
    return names.sort_values(["rows", "event_name"], ascending=[False, True], ignore_index=True)


def _count_currencies(rows: _Rows, plan: Plan | None) -> pd.DataFrame:
    """Count the currencies of rows with one, and of each conversion's values."""
    currency, value = rows.columns["currency"], rows.columns["value"]
    given = rows.relation.filter(f"{currency} IS NOT NULL")
    keys = ", ".join([*rows.keys, "currency", "valued"])
    made = given.project(f"*, {currency} AS currency, {value} IS NOT NULL AS valued")
    frame = made.aggregate(f"{keys}, count(*) AS rows", keys).order(keys).df().rename(columns={"name": "event_name"})
    matched = _match(frame, rows, plan)
    parts = [
        frame.assign(conversion=""),
        *[frame[matched[c] & frame["valued"]].assign(conversion=c) for c in map(str, matched)],
    ]
    return pd.concat(parts, ignore_index=True)[["conversion", "day", "event_name", "currency", "rows"]]


def _count_values(rows: _Rows, few: Sequence[str], totals: pd.DataFrame) -> pd.DataFrame:
    """Count the rows of each value, and say whether it is one user's own: more rows than any user has are several's."""
    most = int(totals["events"].max()) if len(totals) else 0
    parts = []
    for column in few:
        texts = rows.relation.project(
            f"CAST({rows.columns[column]} AS VARCHAR) AS value, {rows.columns['user_id']} AS who"
        )
        given = texts.filter("value IS NOT NULL")
        frame = given.aggregate("value, count(*) AS rows", "value").order("rows DESC, value").df()
        rare = frame.loc[frame["rows"] <= most, "value"]
        chosen = (
            given.filter(ColumnExpression("value").isin(*map(ConstantExpression, rare)))
            if len(rare)
            else given.limit(0)
        )
        users = dict(chosen.aggregate("value, count(DISTINCT who)", "value").fetchall())
        frame.insert(0, "column", column)
        parts.append(frame.assign(shared=frame["value"].map(users).fillna(2) > 1))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=["column", "value", "rows", "shared"])
