"""What a log's rows hold, reduced in few scans to the small frames that the event map and the quality rules judge."""

import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import duckdb
import numpy as np
import pandas as pd
from duckdb import CaseExpression, ColumnExpression, ConstantExpression, Expression, FunctionExpression, SQLExpression
from numpy.typing import NDArray

from convlib.engine import compile_rule, connect, quote
from convlib.plan import Plan, Rule

if TYPE_CHECKING:
    from convlib.events import EventLog

#: A column of at most this many values is described by them.
FEW_VALUES = 12
#: So many event names are told apart, besides those of the plan: more are no names but texts, and no person reads them.
MOST_NAMES = 500
#: So many different values of a column are searched for telephone and card numbers; e-mail addresses in all.
MOST_SEARCHED = 5_000
#: Columns whose values are ids: never shown, and numbers in them are no telephone or card numbers.
IDS = ("user_id", "session_id", "anonymous_id", "product_id")
#: Columns that every used row holds.
REQUIRED = ("event_name", "timestamp", "user_id")
#: A column of this name says when the row arrived.
RECEIVED = ("received_at", "ingested_at", "server_timestamp")
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
#: Bits of a mask, below the sign.
BITS = 62
EMAIL = re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)*\.(?!png|jpe?g|gif|svg|webp)[a-zA-Z]{2,}", re.ASCII)
#: With a country's code or brackets, as people write it: bare digits are more often ids.
PHONE = re.compile(r"(?<![\w+])(?:\+\d{1,3}[\s./-]?|\(\+?\d{1,5}\)\s?)(?:\d[\s./()-]?){6,12}\d(?!\w)")
CARD = re.compile(r"(?<![\w.-])[3-6]\d{3}(?:[ -]?\d){9,15}(?![\w.-])")


@dataclasses.dataclass(frozen=True)
class Profile:
    """Counts of the rows of a segment in a period; no value of a user stands in them.

    Attributes:
        users: How many users have any event.
        platform: The column that tells platforms apart, or "".
        received: The column that says when a row arrived, or "".
        daily: `day`, `event_name`, `platform`, `rows`, `first`, `last`, `negative` values, `late` rows by the
            received column. Names beyond the 500 most frequent are null.
        filled: For each row of `daily`, how many of its rows hold a value of each column.
        matched: For each row of `daily`, whether it is each conversion of the plan.
        hourly: `hour`, `platform`, `rows`.
        names: `event_name`, `rows`, `users`, `mapped`: whether any of its rows is a conversion.
        conversions: `conversion`, `event_name`, `events`, `users`, `first`, `last`.
        covered: Users of each conversion.
        currencies: `conversion` ("" for all), `currency`, `rows` with a value.
        values: `column`, `value`, `rows`, `shared` (at least two users have it), for columns of few values in the whole log.
        personal: `column`, `kind`, `values`: what looks like personal data in the whole log.
        repeats: `day`, `event_name`, `platform`, `copies` (rows equal to another), `near` (within a second of another).
        sessions: How many there are; `shared`, how many of them have several users, and `shared_day`, the first's.
        busiest: `day` and `events` of each user with very many; `usual`, what one in a thousand of the others has.
        timed: Whether times carry seconds, so that equal rows are copies and not several events of a day.
        order: `day`, `rows`, `backwards` (earlier than the row before it), `late`, over the whole file; `ordered`, its
            share of neighbours in order, and `first_backwards`, the first row out of order.
    """

    users: int
    platform: str
    received: str
    daily: pd.DataFrame
    filled: pd.DataFrame
    matched: pd.DataFrame
    hourly: pd.DataFrame
    names: pd.DataFrame
    conversions: pd.DataFrame
    covered: dict[str, int]
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
    first_backwards: int

    @property
    def rows(self) -> int:
        """Count the rows."""
        return int(self.daily["rows"].sum())


@dataclasses.dataclass(frozen=True)
class _Rows:
    """The rows under names that no column of a log can clash with: `c0`, `c1`, ... and the keys they are grouped by."""

    relation: duckdb.DuckDBPyRelation
    columns: dict[str, str]
    names: list[str]
    rules: dict[str, Rule]
    hits: list[str]


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
    daily["event_name"] = daily["position"].map(dict(enumerate(rows.names, 1)))
    few, personal = _describe(whole, columns)
    users, totals, found = _count_users(rows, daily, matched)
    order, ordered, first_backwards = _check_order(whole)
    sessions, shared, shared_day = _check_sessions(rows)
    busiest, usual = _find_busiest(rows, totals)
    pairs = _tabulate(daily, matched, found)
    timed = _has_seconds(rows)
    return Profile(
        users=users,
        platform=platform,
        received=received,
        daily=daily.drop(columns=["position", *rows.hits]),
        filled=filled,
        matched=matched,
        hourly=hourly,
        names=_tabulate_names(daily, matched, found),
        conversions=pairs,
        covered={conversion: found[conversion, ""] for conversion in matched},
        currencies=_count_currencies(rows, log.plan),
        values=_count_values(rows, few, totals),
        personal=personal,
        repeats=_find_repeats(rows) if timed else _no_repeats(),
        sessions=sessions,
        shared=shared,
        shared_day=shared_day,
        busiest=busiest,
        usual=usual,
        timed=timed,
        order=order,
        ordered=ordered,
        first_backwards=first_backwards,
    )


def _find_platform(whole: duckdb.DuckDBPyRelation, given: Sequence[str]) -> str:
    """Choose the column that names platforms; one of many values names something else."""
    for name in ("platform", "device_type"):
        if name in given and 1 <= len(_distinct(whole, name, FEW_VALUES + 1)) <= FEW_VALUES:
            return name
    return ""


def _distinct(rows: duckdb.DuckDBPyRelation, column: str, most: int, *, holding: str = "") -> list[str]:
    texts = rows.project(f"CAST({quote(column)} AS VARCHAR) AS v").filter("v IS NOT NULL")
    texts = texts.filter(ColumnExpression("v").isnotnull() & _contains("v", holding)) if holding else texts
    return [value for (value,) in texts.distinct().limit(most).fetchall()]


def _contains(column: str, text: str) -> Expression:
    return FunctionExpression("contains", ColumnExpression(column), ConstantExpression(text))


def _name_columns(rows: duckdb.DuckDBPyRelation, plan: Plan | None, platform: str) -> _Rows:
    """Give the columns safe names, and each row its keys: day, event name, platform and the rules that it matches."""
    every = [
        str(name)
        for (name,) in rows.aggregate("event_name, count(*) AS n")
        .order("n DESC, event_name")
        .project("event_name")
        .fetchall()
    ]
    conversions = plan.conversions if plan else ()
    # What a rule that reads nothing else says of a name is asked of each name once, not of each row.
    rules = {c.id: c.match for c in conversions if c.match.columns != {"event_name"}}
    named = pd.DataFrame({"event_name": pd.Series(every, dtype="str")})
    simple = [c.match for c in conversions if c.id not in rules]
    mapped = set(every) if len(every) <= MOST_NAMES else _matching(named, simple)
    names = [name for place, name in enumerate(every) if place < MOST_NAMES or name in mapped]
    columns = {name: f"c{number}" for number, name in enumerate(rows.columns)}
    packed = _pack([compile_rule(rule) for rule in rules.values()])
    hits = [f"hits{number}" for number in range(len(packed))]
    keys = [
        SQLExpression("date_trunc('day', timestamp)::TIMESTAMP").alias("day"),
        _position(names, "event_name").alias("position"),
        (ColumnExpression(platform).cast("VARCHAR") if platform else ConstantExpression(None).cast("VARCHAR")).alias(
            "platform"
        ),
        *[expression.alias(name) for expression, name in zip(packed, hits, strict=True)],
    ]
    own = [SQLExpression(quote(name)).alias(short) for name, short in columns.items()]
    return _Rows(rows.select(*keys, *own), columns, names, rules, hits)


def _matching(named: pd.DataFrame, rules: Iterable[Rule]) -> set[str]:
    relation = connect().from_df(named)
    return {name for rule in rules for (name,) in relation.filter(compile_rule(rule)).fetchall()}


def _position(values: Sequence[str], column: str) -> Expression:
    """Say the how-manieth of the values a column holds (the first is 1); a dictionary lookup, so almost free."""
    text = SQLExpression(quote(column)).cast("VARCHAR")
    return FunctionExpression("list_position", ConstantExpression(list(values)).cast("VARCHAR[]"), text)


def _pack(tests: Sequence[Expression]) -> list[Expression]:
    """Pack yes-or-no answers into whole numbers, a bit each."""
    numbers = []
    for start in range(0, len(tests), BITS):
        number = ConstantExpression(0).cast("BIGINT")
        for bit, test in enumerate(tests[start : start + BITS]):
            number += CaseExpression(test, ConstantExpression(1 << bit).cast("BIGINT")).otherwise(ConstantExpression(0))
        numbers.append(number)
    return numbers


def _count_days(rows: _Rows, received: str) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Count by day, event name, platform and rule in the one scan of all columns; and rows alone by hour."""
    short, keys = rows.columns, ", ".join(["day", "position", "platform", *rows.hits])
    time = short["timestamp"]
    arrived = f"TRY_CAST(CAST({short[received]} AS VARCHAR) AS TIMESTAMP)" if received else ""
    counts = {
        "rows": "count(*)",
        "first": f"min({time})",
        "last": f"max({time})",
        "negative": f"count(*) FILTER ({short['value']} < 0)",
        "late": f"count(*) FILTER ({arrived} - {time} > INTERVAL '{LATE}')" if received else "0",
        **{f"filled_{each}": "count(*)" if name in REQUIRED else f"count({each})" for name, each in short.items()},
    }
    made = ", ".join(f"{expression} AS {name}" for name, expression in counts.items())
    frame = rows.relation.aggregate(f"{keys}, {made}", keys).order(keys).df()
    hours = rows.relation.project(f"date_trunc('hour', {time}) AS hour, platform")
    hourly = hours.aggregate("hour, platform, count(*) AS rows", "hour, platform").order("hour, platform").df()
    filled = frame[[f"filled_{each}" for each in short.values()]].set_axis(list(short), axis=1)
    return frame.drop(columns=[f"filled_{each}" for each in short.values()]), filled, hourly


def _match(daily: pd.DataFrame, rows: _Rows, plan: Plan | None) -> pd.DataFrame:
    """Say of each group of rows which conversions it is."""
    answers: dict[str, NDArray[np.bool_]] = {}
    named = pd.DataFrame({"event_name": pd.Series(rows.names, dtype="str")})
    complex_rules = list(rows.rules)
    for conversion in plan.conversions if plan else ():
        if conversion.id in rows.rules:
            number = complex_rules.index(conversion.id)
            hits = daily[f"hits{number // BITS}"].to_numpy("int64")
            answers[conversion.id] = (hits >> (number % BITS)) & 1 == 1
        else:
            names = _matching(named, [conversion.match])
            wanted = [place for place, name in enumerate(rows.names, 1) if name in names]
            answers[conversion.id] = daily["position"].isin(wanted).to_numpy()
    return pd.DataFrame(answers, index=daily.index)


def _describe(whole: duckdb.DuckDBPyRelation, columns: Sequence[str]) -> tuple[list[str], pd.DataFrame]:
    """Find the columns of few values, and what looks like personal data; by the whole log, for a segment of five users
    has few values of anything."""
    kinds = dict(zip(whole.columns, map(str, whole.types), strict=True))
    few: list[str] = []
    found: list[tuple[str, str, int]] = []
    for column in columns:
        if column == "session_id" or kinds[column].startswith(("TIMESTAMP", "DATE", "TIME")):
            continue
        sample = [] if column in IDS else _distinct(whole, column, MOST_SEARCHED)
        hits = _find_personal(whole, column, sample) if kinds[column] not in ("DOUBLE", "FLOAT", "BOOLEAN") else {}
        found += [(column, kind, count) for kind, count in hits.items() if count]
        if 0 < len(sample) <= FEW_VALUES and column not in IDS and not any(hits.values()):
            few.append(column)
    return few, pd.DataFrame(found, columns=["column", "kind", "values"]).astype({"column": "str", "kind": "str"})


def _find_personal(whole: duckdb.DuckDBPyRelation, column: str, sample: Sequence[str]) -> dict[str, int]:
    is_all = 0 < len(sample) < MOST_SEARCHED
    addresses = sample if is_all else _distinct(whole, column, MOST_SEARCHED, holding="@")
    found = {"e-mail addresses": sum(EMAIL.search(text) is not None for text in addresses)}
    if column in IDS:
        return found
    found["telephone numbers"] = sum(PHONE.search(text) is not None for text in sample)
    long = [re.sub(r"\D", "", hit[0]) for text in sample for hit in CARD.finditer(text)]
    valid = [number for number in long if _is_card(number)]
    # One in ten numbers passes the check digit by chance: a column of long ids is none of cards.
    return found | {"card numbers": len(valid) if len(valid) > 0.3 * len(long) else 0}


def _is_card(number: str) -> bool:
    """Check the last digit, by Luhn's formula (ISO/IEC 7812-1)."""
    doubled = [int(digit) * (2 - (place % 2 == 0)) for place, digit in enumerate(reversed(number))]
    return len(set(number)) > 1 and sum(sum(divmod(digit, 10)) for digit in doubled) % 10 == 0


def _count_users(
    rows: _Rows, daily: pd.DataFrame, matched: pd.DataFrame
) -> tuple[int, pd.DataFrame, dict[tuple[str, str], int]]:
    """Count the users of every name and conversion in one scan: a user is one mask of what they have.

    Returns:
        All users; how many have how many `events`; and the users of `(conversion or "", name or "")`.
    """
    sources: list[tuple[str, str, list[str]]] = [("", "position", rows.names)]
    for number, conversion in enumerate(rows.rules):
        at = sorted(daily.loc[matched[conversion], "position"].dropna().astype("int64").unique().tolist())
        test = f"(hits{number // BITS} & {1 << number % BITS}) <> 0"
        sources.append(
            (
                conversion,
                f"CASE WHEN {test} THEN coalesce(list_position({at}::BIGINT[], position), {len(at) + 1}) END",
                [*[rows.names[p - 1] for p in at], ""],
            )
        )
    masks = _mask([(position, len(names)) for _, position, names in sources])
    made = ", ".join(["count(*) AS events", *[f"bit_or({mask}) AS m{n}" for n, mask in enumerate(masks)]])
    users = connect().from_arrow(rows.relation.aggregate(made, rows.columns["user_id"]).to_arrow_table())
    names = [f"m{n}" for n in range(len(masks))]
    kinds = users.aggregate(", ".join([*names, "count(*) AS users"]), ", ".join(names)).df()
    totals = users.aggregate("events, count(*) AS users", "events").order("events").df()
    bits = [(source, name) for source, _, listed in sources for name in listed]
    held = {key: (kinds[f"m{n // BITS}"].to_numpy("int64") >> (n % BITS)) & 1 == 1 for n, key in enumerate(bits)}
    weights = kinds["users"].to_numpy("int64")
    found = {key: int(weights[hit].sum()) for key, hit in held.items()}
    for conversion in matched:
        if conversion in rows.rules:
            parts = [hit for (source, _), hit in held.items() if source == conversion]
        else:
            its = daily.loc[matched[conversion], "event_name"].unique()
            parts = [held["", name] for name in its]
            found |= {(conversion, name): found["", name] for name in its}
        found[conversion, ""] = int(weights[np.logical_or.reduce(parts)].sum()) if parts else 0
    return int(weights.sum()), totals, found


def _mask(sources: Sequence[tuple[str, int]]) -> list[str]:
    """Write the masks in which the bit of each source's value is set, all bits in a row over as many as are needed."""
    total = sum(size for _, size in sources)
    masks = []
    for low in range(0, total, BITS):
        parts, offset = ["0::BIGINT"], 0
        for position, size in sources:
            bits = [1 << (n - low) if 0 <= n - low < BITS else 0 for n in range(offset, offset + size)]
            if any(bits):
                # Looked up, for the engine does so once for each entry of a column's dictionary.
                parts.append(f"coalesce(list_extract({bits}::BIGINT[], {position}), 0)")
            offset += size
        masks.append(" | ".join(parts))
    return masks


def _find_busiest(rows: _Rows, totals: pd.DataFrame) -> tuple[pd.DataFrame, float]:
    """Look at the days of those users alone who have very many events."""
    others = totals[totals["events"] < BUSY]
    place = np.searchsorted(others["users"].cumsum(), 0.999 * others["users"].sum())
    usual = float(others["events"].iloc[place]) if len(others) else np.nan
    empty = pd.DataFrame({"day": pd.Series(dtype="datetime64[us]"), "events": pd.Series(dtype="int64")})
    if len(others) == len(totals):
        return empty, usual
    user = rows.columns["user_id"]
    heavy = rows.relation.aggregate(f"{user} AS heavy_user, count(*) AS n", user).filter(f"n >= {BUSY}")
    days = rows.relation.project(f"{user} AS who").set_alias("days")
    days = days.join(heavy.set_alias("heavy"), "who = heavy_user", how="semi").aggregate("who, day, count(*) AS events")
    return days.aggregate("who, arg_max(day, events) AS day, max(events) AS events", "who").project(
        "day, events"
    ).order("events DESC, day").df(), usual


def _tabulate(daily: pd.DataFrame, matched: pd.DataFrame, found: Mapping[tuple[str, str], int]) -> pd.DataFrame:
    """Count the rows of each conversion and event name that it is."""
    parts = [
        daily[matched[conversion]]
        .groupby("event_name")
        .agg(events=("rows", "sum"), first=("first", "min"), last=("last", "max"))
        .reset_index()
        .assign(conversion=conversion)
        for conversion in matched
    ]
    columns = ["conversion", "event_name", "events", "users", "first", "last"]
    if not parts:
        return pd.DataFrame(columns=columns)
    pairs = pd.concat(parts, ignore_index=True)
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
    currency, value, name = (rows.columns[each] for each in ("currency", "value", "event_name"))
    given = rows.relation.filter(f"{currency} IS NOT NULL")
    keys = ", ".join(["day", "event_name", "position", "currency", "valued", *rows.hits])
    made = f"*, day, {name} AS event_name, {currency} AS currency, {value} IS NOT NULL AS valued"
    frame = given.project(made).aggregate(f"{keys}, count(*) AS rows", keys).order(keys).df()
    matched = _match(frame, rows, plan)
    parts = [frame.assign(conversion=""), *[frame[matched[c] & frame["valued"]].assign(conversion=c) for c in matched]]
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


def _check_order(whole: duckdb.DuckDBPyRelation) -> tuple[pd.DataFrame, float, int]:
    """Compare each row with the one before it in the file and, where some are earlier, with the time around them."""
    columns = ["day", "rows", "backwards", "late"]
    pairs = whole.project("timestamp AS t, timestamp < lag(timestamp) OVER () AS back")
    total, backwards = pairs.aggregate("count(*), count(*) FILTER (back)").fetchall()[0]
    ordered = 1 - backwards / max(1, total - 1)
    if ordered < MOSTLY_ORDERED:
        return pd.DataFrame(columns=columns), ordered, 0
    if not backwards:
        by_day = whole.project("date_trunc('day', timestamp)::TIMESTAMP AS day")
        frame = by_day.aggregate("day, count(*) AS rows, 0 AS backwards, 0 AS late", "day").order("day").df()
        return frame, ordered, 0
    times = whole.project("epoch_us(timestamp) AS t").fetchnumpy()["t"]
    days = times // 86_400_000_000
    first = int(days.min())
    back, late = np.flatnonzero(np.diff(times) < 0) + 1, _find_late(times)
    frame = pd.DataFrame(
        {
            name: np.bincount(days[rows] - first, minlength=days.max() - first + 1)
            for name, rows in (("rows", slice(None)), ("backwards", back), ("late", late))
        }
    )
    frame.insert(0, "day", pd.to_datetime((first + np.arange(len(frame))) * 86_400, unit="s").astype("datetime64[us]"))
    return frame[frame["rows"] > 0].reset_index(drop=True), ordered, int(back[0]) + 1 if len(back) else 0


def _find_late(times: NDArray[np.int64]) -> NDArray[np.int64]:
    """Find the rows that lie more than a day before what an earlier place of the file had reached."""
    size = min(BLOCK, max(1, len(times) // 20))
    blocks = np.array_split(times, max(1, len(times) // size))
    # A block is held against those before it: in a quiet month its own rows lie days apart.
    reached = np.maximum.accumulate([times.min(), *(np.median(block) for block in blocks[:-1])])
    level = np.repeat(reached, [len(block) for block in blocks])
    return np.flatnonzero(times < level - LATE / pd.Timedelta("1us"))


def _sort(relation: duckdb.DuckDBPyRelation, key: str) -> NDArray[np.uint64]:
    """Fetch one number a row and sort these: several times as fast as grouping by them."""
    keys: NDArray[np.uint64] = np.ma.getdata(relation.project(f"{key} AS key").fetchnumpy()["key"])
    keys.sort()
    return keys


def _pair(keys: NDArray[np.uint64]) -> Iterator[NDArray[np.uint64]]:
    """Set each number beside the next, a part at a time: arrays as long as the log cost more than the sorting."""
    for start in range(0, len(keys) - 1, PART):
        stop = min(start + PART, len(keys) - 1)
        yield np.stack([keys[start:stop], keys[start + 1 : stop + 1]])


def _restrict(relation: duckdb.DuckDBPyRelation, key: str, keys: NDArray[np.uint64]) -> duckdb.DuckDBPyRelation:
    wanted = connect().from_df(pd.DataFrame({"wanted": np.unique(keys)})).set_alias("chosen")
    return relation.project(f"*, {key} AS key").set_alias("every").join(wanted, "key = wanted", how="semi")


def _find_repeats(rows: _Rows) -> pd.DataFrame:
    """Find rows of the same user, event, product and page within a second: those with equal contents are copies.

    A number of 34 bits of hash and 30 bits of time, in half seconds, stands for each row; those whose sorted numbers
    are neighbours are then compared themselves.
    """
    user, event, product, page, time = (
        rows.columns[name] for name in ("user_id", "event_name", "product_id", "page_path", "timestamp")
    )
    same = f"{user}, {event}, {product}, {page}"
    key = f"(hash({same}) & {(1 << 64) - (1 << 30)}::UBIGINT) | (epoch_us({time}) // 500000 & {(1 << 30) - 1})::UBIGINT"
    keys = _sort(rows.relation, key)
    close = [ends[[0, -1]][:, ends[1] - ends[0] <= 2].ravel() for ends in _pair(keys)]
    close = np.concatenate(close) if close else keys[:0]
    if not len(close):
        return _no_repeats()
    listed = f"day, platform, {same}, {time}, hash({', '.join(rows.columns.values())}) AS content"
    found = _restrict(rows.relation, key, close).project(listed)
    by = f"day, platform, {same}, {time}, content"
    apart = f"{time} - lag({time}) OVER (PARTITION BY {same} ORDER BY {time}, content) <= INTERVAL 1 SECOND"
    pairs = found.aggregate(f"{by}, count(*) - 1 AS more", by).project(f"*, coalesce({apart}, false) AS close")
    counts = "CAST(sum(more) AS BIGINT) AS copies, count(*) FILTER (close) AS near"
    by = f"day, {event}, platform"
    frame = (
        pairs.aggregate(f"day, {event} AS event_name, platform, {counts}", by).order("day, event_name, platform").df()
    )
    return frame[(frame["copies"] > 0) | (frame["near"] > 0)].reset_index(drop=True)


def _has_seconds(rows: _Rows) -> bool:
    """Say whether most rows stand beside the whole minute, by the first hundred thousand."""
    time = rows.columns["timestamp"]
    some = rows.relation.limit(100_000).aggregate(
        f"count(*) FILTER (epoch_us({time}) % 60000000 <> 0) > 0.5 * count(*)"
    )
    return bool(some.fetchall()[0][0])


def _no_repeats() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "day": pd.Series(dtype="datetime64[us]"),
            "event_name": pd.Series(dtype="str"),
            "platform": pd.Series(dtype="str"),
            "copies": pd.Series(dtype="int64"),
            "near": pd.Series(dtype="int64"),
        }
    )


def _check_sessions(rows: _Rows) -> tuple[int, int, pd.Timestamp | None]:
    """Count the sessions, and those of several users, by sorted numbers of 48 bits of session and 16 of user."""
    session, user = rows.columns["session_id"], rows.columns["user_id"]
    given = rows.relation.filter(f"{session} IS NOT NULL")
    keys = _sort(
        given, f"(hash({session}) & {(1 << 64) - (1 << 16)}::UBIGINT) | (hash({user}) & {(1 << 16) - 1})::UBIGINT"
    )
    if not len(keys):
        return 0, 0, None
    total, found = 1, []
    for ends in _pair(keys):
        sessions = ends >> np.uint64(16)
        apart = sessions[0] != sessions[1]
        total += int(apart.sum())
        found.append(sessions[0][~apart & (ends[0] != ends[1])])
    twice = np.concatenate(found) if found else keys[:0]
    if not len(twice):
        return total, 0, None
    several = _restrict(given, f"hash({session}) >> 16", twice)
    shared = several.aggregate(f"{session}, min(day) AS day, min({user}) <> max({user}) AS shared", session).filter(
        "shared"
    )
    count, first = shared.aggregate("count(*), min(day)").fetchall()[0]
    return total, int(count), None if first is None else pd.Timestamp(first)
