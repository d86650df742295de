"""The quality rules: what each tries, what counts as failed, and what a failure means."""

import dataclasses
import difflib
import functools
import math
from collections.abc import Callable, Iterable
from typing import Literal

import pandas as pd
from babel.numbers import list_currencies

from convlib import drift
from convlib.canonical import GARBLED
from convlib.event_names import name_action
from convlib.events import EventLog
from convlib.oddities import BUSY, MOSTLY_ORDERED
from convlib.plan import Plan
from convlib.profile import MOST_SEARCHED, Profile

Severity = Literal["error", "warning", "info"]
#: A fault of fewer rows moves no rate by more than a thousandth.
FEW = 0.001
#: Beyond this, numbers by session leave too much out.
FEW_WITHOUT_SESSION = 0.01
#: Neighbours a little out of order are normal where several servers write one file.
FEW_BACKWARDS = 0.01
#: An unmapped event is frequent from this share of the rows or of the users.
FREQUENT = 0.01
#: How many of two names' words must be the same, in order, for one to be suggested for the other.
ALIKE = 0.6
#: How many things a note names.
NAMED = 5


@dataclasses.dataclass(frozen=True)
class Facts:
    """What a rule may look at."""

    log: EventLog
    plan: Plan
    profile: Profile

    @functools.cached_property
    def days(self) -> pd.DataFrame:
        """Each event's days against what is expected of them."""
        return drift.find_unusual_days(self.profile.daily)


@dataclasses.dataclass(frozen=True)
class Finding:
    """What a rule found: how much it tried, how much of that failed, where to look, and on which days.

    A `severity` takes the place of the rule's, and `what` that of its remedy.
    """

    tried: int
    failed: int
    example: str = ""
    what: str = ""
    owner: str = ""
    daily: pd.DataFrame | None = None
    severity: Severity | None = None


@dataclasses.dataclass(frozen=True)
class QualityRule:
    """One rule: `judge` gives what it found, or why it can't be judged; `remedy` says what a failure means."""

    name: str
    severity: Severity
    threshold: float
    judge: Callable[[Facts], Finding | str]
    remedy: str


def _rejected(*reasons: str, column: str = "") -> Callable[[Facts], Finding | str]:
    """Judge the rows that reading rejected for one of these reasons."""

    def judge(facts: Facts) -> Finding | str:
        if column and column not in facts.log.prepared.given:
            return f"The log has no column `{column}`."
        counts = facts.log.rejected_because
        failed = sum(count for reason, count in counts.items() if reason.startswith(reasons))
        if not failed:
            return Finding(facts.log.rows_read, 0)
        rejects = facts.log.rejects
        first = rejects[rejects["reason"].str.startswith(reasons)].iloc[0]
        return Finding(facts.log.rows_read, failed, f"{first['source']}, row {first['row']}")

    return judge


def _count_daily(frame: pd.DataFrame, tried: pd.Series, failed: pd.Series) -> pd.DataFrame:
    return pd.DataFrame({"day": frame["day"], "tried": tried, "failed": failed}).groupby("day", as_index=False).sum()


def _judge_rows(frame: pd.DataFrame, tried: pd.Series, failed: pd.Series, what: str = "") -> Finding:
    """Judge groups of rows, each with its day, event name and platform; the worst group is the example."""
    tried, failed = tried.astype("int64"), failed.astype("int64")
    example = _place(_worst(frame, failed)) if len(failed) and failed.max() > 0 else ""
    return Finding(int(tried.sum()), int(failed.sum()), example, what, daily=_count_daily(frame, tried, failed))


def _worst(frame: pd.DataFrame, size: pd.Series) -> pd.Series:
    return frame.iloc[int(size.to_numpy(float).argmax())]


def _place(row: pd.Series) -> str:
    """Say where to look: event name, platform, day."""
    parts = [row.get(name) for name in ("event_name", "column", "platform")]
    day = row.get("day")
    return ", ".join(
        [str(part) for part in parts if isinstance(part, str) and part]
        + ([f"{day:%Y-%m-%d}"] if day is not None else [])
    )


def _list(names: Iterable[str]) -> str:
    listed = list(dict.fromkeys(names))
    more = f" and {len(listed) - NAMED} more" if len(listed) > NAMED else ""
    return ", ".join(listed[:NAMED]) + more


def _judge_sessions_given(facts: Facts) -> Finding | str:
    if "session_id" not in facts.log.prepared.given:
        return "The log has no column `session_id`."
    daily = facts.profile.daily.assign(held=facts.profile.filled["session_id"])
    sums = daily.groupby("event_name")[["rows", "held"]].transform("sum")
    # What a server sends by itself, such as an e-mail, belongs to no visit.
    daily = daily[sums["held"] > 0.5 * sums["rows"]]
    return _judge_rows(daily, daily["rows"], daily["rows"] - daily["held"])


def _judge_future(facts: Facts) -> Finding:
    future = facts.profile.future
    example = "" if future.empty else f"{future['day'].iloc[0]:%Y-%m-%d}, in the whole log"
    return Finding(facts.log.rows_used, int(future["rows"].sum()), example)


def _judge_shifted_hours(facts: Facts) -> Finding | str:
    found = drift.find_shifted_hours(facts.profile.hourly)
    if isinstance(found, str):
        return found
    off = found[found["hours"] != 0]
    daily = found.assign(day=found["week"], one=1, off=found["hours"] != 0)
    worst = _worst(off, off["rows"]) if len(off) else None
    example = "" if worst is None else f"{worst['platform'] or 'all'}, week from {worst['week']:%Y-%m-%d}"
    what = (
        ""
        if worst is None
        else f"The daily curve lies {abs(worst['hours'])} hours {'late' if worst['hours'] > 0 else 'early'}."
    )
    return Finding(len(found), len(off), example, what, daily=_count_daily(daily, daily["one"], daily["off"]))


def _judge_order(facts: Facts) -> Finding | str:
    profile = facts.profile
    if profile.ordered < MOSTLY_ORDERED:
        return (
            f"The file is not in order of time: {profile.ordered:.0%} of neighbours are; from {MOSTLY_ORDERED:.0%} on, "
            "order means something."
        )
    return dataclasses.replace(
        _judge_file(profile, "backwards"), example=f"row {profile.first_backwards:,} of those used"
    )


def _judge_late(facts: Facts) -> Finding | str:
    profile = facts.profile
    if profile.received:
        tried = profile.daily["arrived"]
        if not tried.any():
            return f"No time in `{profile.received}` can be read; write them as those of `timestamp`."
        return _judge_rows(profile.daily, tried, profile.daily["late"], f"By `{profile.received}`.")
    if profile.ordered < MOSTLY_ORDERED:
        return "The log has no column such as `received_at`, and its rows are not in order of time."
    return _judge_file(profile, "late")


def _judge_file(profile: Profile, column: str) -> Finding:
    order = profile.order
    return _judge_rows(order, order["rows"], order[column]) if len(order) else Finding(profile.file_rows, 0)


def _repeats(column: str) -> Callable[[Facts], Finding | str]:
    def judge(facts: Facts) -> Finding | str:
        if not facts.profile.timed:
            return "Times are whole minutes or days, so that equal rows may be several events."
        found = facts.profile.repeats
        days = facts.profile.daily.groupby("day", as_index=False)["rows"].sum()
        frame = pd.concat([days.assign(**{column: 0}), found.assign(rows=0)], ignore_index=True)
        return _judge_rows(frame, frame["rows"], frame[column])

    return judge


def _judge_unknown_currencies(facts: Facts) -> Finding | str:
    every = facts.profile.currencies.query("conversion == ''")
    if every.empty:
        return "No row has a currency."
    unknown = ~every["currency"].isin(list_currencies())
    # A longer text is in the wrong column, and may be anything.
    names = every["currency"].where(every["currency"].str.len() <= 5, "(longer texts)")[unknown]
    what = f"Not in ISO 4217: {_list(names)}." if len(names) else ""
    return _judge_rows(every, every["rows"], every["rows"].where(unknown, 0), what)


def _judge_mixed_currencies(facts: Facts) -> Finding | str:
    found = facts.profile.currencies.query("conversion != ''")
    found = found[found["currency"].isin(list_currencies())]
    if found.empty:
        return "No conversion has a value with a currency."
    sums = found.groupby(["conversion", "currency"])["rows"].sum()
    main = dict(sums.groupby("conversion").idxmax())
    odd = pd.Series(
        [main[c] != (c, money) for c, money in zip(found["conversion"], found["currency"], strict=True)], found.index
    )
    finding = _judge_rows(found, found["rows"], found["rows"].where(odd, 0))
    mixed = found.loc[odd, "conversion"].unique().tolist()
    if not mixed:
        return finding
    names = [
        f"{facts.plan[each].name} ({', '.join(sums[each].sort_values(ascending=False).index[:NAMED])})"
        for each in mixed
    ]
    return dataclasses.replace(finding, what=f"{_list(names)}.", owner=_own(facts, mixed))


def _own(facts: Facts, conversions: list[str]) -> str:
    """Name the owner when one conversion, or one owner's, is concerned."""
    owners = {getattr(facts.plan[each], "owner", None) or "" for each in conversions}
    return owners.pop() if len(owners) == 1 else ""


def _own_event(facts: Facts, names: Iterable[str]) -> str:
    known = facts.profile.conversions
    return _own(facts, known.loc[known["event_name"].isin(list(names)), "conversion"].unique().tolist())


def _judge_negative(facts: Facts) -> Finding | str:
    daily, filled = facts.profile.daily, facts.profile.filled["value"]
    return _judge_rows(daily, filled, daily["negative"]) if filled.sum() else "No row has a value."


def _judge_days(column: Literal["gap", "jump"]) -> Callable[[Facts], Finding | str]:
    def judge(facts: Facts) -> Finding | str:
        days = facts.days
        if days.empty:
            alike = f"most days within {math.expm1(drift.IRREGULAR):.0%} of what is expected"
            return (
                f"In this period no event comes {drift.SURE} times on a usual day, {alike}, over {drift.FEWEST_DAYS} "
                "whole days or more."
            )
        resting = column == "gap" and days["pause"].any() and not days["gap"].any()
        named = "pause" if resting else column
        failed = days[days[named].astype(bool)]
        finding = _judge_rows(days, days["rows"] * 0 + 1, days[named])
        if failed.empty:
            return finding
        if resting:
            what = (
                f"All events pause together on {failed['day'].nunique():,} days, as on such days before: a holiday or "
                "a calendar, if you know it; else an outage."
            )
            return dataclasses.replace(finding, what=what, severity="info")
        # The whole log's worst day comes first.
        worst = _worst(failed, (failed["expected"] - failed["rows"]).abs())
        what = (
            f"{worst['rows']:,} events, about {worst['expected']:,.0f} expected; in all: {_list(failed['event_name'])}."
        )
        return dataclasses.replace(
            finding, example=_place(worst), what=what, owner=_own_event(facts, failed["event_name"])
        )

    return judge


def _judge_lost_properties(facts: Facts) -> Finding | str:
    # The arms of an experiment come and go with it.
    passing = {name for each in facts.plan.experiments for name in each.arm_columns}
    lasting = facts.profile.filled.drop(columns=list(passing), errors="ignore")
    days = drift.find_lost_properties(facts.profile.daily, lasting)
    if days.empty:
        alike = f"with days alike, over {drift.FEWEST_DAYS} whole days or more."
        return f"No property is filled in {drift.FEWEST_ROWS} rows a day, {alike}"
    low = days[days["low"]]
    finding = _judge_rows(days, days["low"] | True, days["low"])
    if low.empty:
        return finding
    first = low.iloc[0]
    share = f"Filled in {first['filled'] / first['rows']:.0%} of {first['rows']:,} rows, {first['usual']:.0%} before"
    what = f"{share}; in all: {_list(low['column'])}."
    return dataclasses.replace(finding, example=_place(first), what=what, owner=_own_event(facts, low["event_name"]))


def _judge_stopped(facts: Facts) -> Finding | str:
    names = facts.profile.names
    mapped = set(names.loc[names["mapped"] > 0, "event_name"])
    actions = _name_actions(facts)
    daily = facts.profile.daily.assign(event_name=facts.profile.daily["event_name"].replace(actions))
    found = drift.find_stopped_events(daily, {actions.get(name, name) for name in mapped})
    if found.empty:
        return "No event comes steadily, day by day, on any platform for two weeks."
    gone = found[found["stopped"].astype(bool)]
    if gone.empty:
        return Finding(len(found), 0)
    places = [
        ", ".join(filter(None, [str(row["event_name"]), row["platform"]])) + f" (last on {row['last']:%Y-%m-%d})"
        for row in gone.sort_values("expected", ascending=False).to_dict("records")
    ]
    what = f"{_list(places)}. About {gone['expected'].sum():,.0f} events were expected since."
    events = [name for name in names["event_name"] if actions.get(name, name) in set(gone["event_name"])]
    return Finding(len(found), len(gone), places[0], what, _own_event(facts, pd.Series(events, dtype="str")))


def _name_actions(facts: Facts) -> dict[str, str]:
    """Name events that are one conversion together: one that goes on under another name has not stopped."""
    named = facts.profile.conversions.groupby("conversion")["event_name"].agg(list)
    return {name: " / ".join(sorted(names)) for names in named if len(names) > 1 for name in names}


def _judge_busiest(facts: Facts) -> Finding:
    profile = facts.profile
    limit = max(BUSY, 3 * profile.usual) if profile.usual == profile.usual else BUSY
    found = profile.busiest[profile.busiest["events"] > limit]
    if found.empty:
        return Finding(profile.users, 0)
    first = found.iloc[0]
    what = f"{first['events']:,} events in a day; one in a thousand of the others has {profile.usual:,.0f} in all."
    return Finding(profile.users, len(found), f"{first['day']:%Y-%m-%d}", what)


def _judge_never(facts: Facts) -> Finding:
    unseen = facts.profile.unseen
    silent = unseen.loc[unseen["rows"] == 0, "conversion"].tolist()  # a tag that works may rest for a period
    names = [facts.plan[each].name for each in silent]
    what = f"Never seen: {_list(names)}." if silent else ""
    return Finding(
        len(facts.profile.covered), len(silent), names[0] if names else "", what, _own(facts, silent) if silent else ""
    )


def _judge_unmapped(facts: Facts) -> Finding:
    names, profile = facts.profile.names, facts.profile
    frequent = (names["rows"] >= FREQUENT * profile.rows) | (names["users"] >= FREQUENT * profile.users)
    entries = {macro.correlation.entry for macro in facts.plan.macros if macro.correlation}
    free = names[frequent & (names["mapped"] == 0) & ~names["event_name"].isin(entries)]
    said = [
        f"{name} ({rows:,}{_suggest(name, facts)})" for name, rows in zip(free["event_name"], free["rows"], strict=True)
    ]
    first = free["event_name"].iloc[0] if len(free) else ""
    return Finding(len(names), len(free), first, f"{_list(said)}." if said else "")


def _suggest(name: str, facts: Facts) -> str:
    """Name the conversion that an event might be, by its name and those of the events already mapped."""
    known = facts.profile.conversions
    names = {c.id: c.name for c in facts.plan.conversions}
    spelled = {
        name_action(text): names[each]
        for each, text in [*names.items(), *zip(known["conversion"], known["event_name"], strict=True)]
    }
    own = name_action(name)
    scores = {each: difflib.SequenceMatcher(None, own.split(), each.split()).ratio() for each in spelled}
    scores |= {each: 1.0 for each in spelled if each.replace(" ", "") == own.replace(" ", "")}
    best = max(scores, key=lambda each: scores[each])
    return f"; perhaps {spelled[best]}" if scores[best] >= ALIKE else ""


def _judge_sessions(facts: Facts) -> Finding | str:
    profile = facts.profile
    if not profile.sessions:
        return "No row has a session."
    example = "" if profile.shared_day is None else f"{profile.shared_day:%Y-%m-%d}"
    return Finding(profile.sessions, profile.shared, example)


def _judge_personal(facts: Facts) -> Finding:
    found = facts.profile.personal
    said = [f"{row['values']:,} {row['kind']} in `{row['column']}`" for row in found.to_dict("records")]
    looked = f"E-mail addresses are looked for in all values, telephone and card numbers in {MOST_SEARCHED:,} a column."
    columns = found["column"].unique()
    what = f"{_list(said)}." if said else looked
    return Finding(len(facts.log.columns), len(columns), f"column `{columns[0]}`" if len(columns) else "", what)


#: Every rule, with its severity, the largest share that still passes, and what to do when it fails.
RULES: dict[str, QualityRule] = {
    "unreadable_row": QualityRule(
        "Rows that can't be read", "error", FEW, _rejected("line can't be split", GARBLED),
        "They are rejected: separators or quotation marks are missing, or the export broke off."),
    "missing_user_id": QualityRule(
        "Rows without a user", "error", FEW, _rejected("user_id is missing"),
        "They can't be counted for anybody, and are rejected: find the source that sends no id."),
    "missing_event_name": QualityRule(
        "Rows without an event name", "error", FEW, _rejected("event_name is missing"),
        "They are rejected: find the call that sends no name."),
    "missing_session_id": QualityRule(
        "Rows without a session that should have one", "warning", FEW_WITHOUT_SESSION, _judge_sessions_given,
        "Numbers by session leave these rows out."),
    "unreadable_timestamp": QualityRule(
        "Times that can't be read", "error", FEW, _rejected("timestamp is missing", "timestamp is not a date and time"),
        "They are rejected: send ISO 8601, or name the format in a mapping."),
    "timestamp_out_of_range": QualityRule(
        "Times far from now", "error", FEW, _rejected("timestamp is out of range"),
        "They are rejected: a clock that is not set, or seconds read as milliseconds."),
    "future_timestamp": QualityRule(
        "Times in the future", "error", 0, _judge_future,
        "A clock or a time zone is wrong. They move the end of the data, and so every window: correct or drop them."),
    "shifted_hours": QualityRule(
        "Weeks with shifted hours", "error", 0, _judge_shifted_hours,
        "Probably local times written as UTC, or the reverse: state the zone where the log is read or written."),
    "out_of_order": QualityRule(
        "Rows out of order", "info", FEW_BACKWARDS, _judge_order,
        "Results do not change, since events are sorted; the pipeline may be mixing sources."),
    "late_rows": QualityRule(
        "Rows that came more than a day late", "warning", FEW, _judge_late,
        "Recent days are incomplete until they have come: report older ones."),
    "exact_duplicates": QualityRule(
        "Rows equal to another", "error", FEW, _repeats("copies"),
        "The same event was delivered twice: drop copies where the log is written, or state `dedupe` in the plan."),
    "near_duplicates": QualityRule(
        "Rows within a second of the same event", "warning", FEW, _repeats("near"),
        "A tag that fires twice, or a double click: state `dedupe` in the plan for what must count once."),
    "unknown_currency": QualityRule(
        "Rows with an unknown currency", "error", 0, _judge_unknown_currencies,
        "Values in them can't be added up: send the three capital letters of ISO 4217."),
    "mixed_currencies": QualityRule(
        "Values in several currencies", "error", 0, _judge_mixed_currencies,
        "Rates leave such amounts out, other analyses add them up: convert them, or give each its own conversion."),
    "negative_value": QualityRule(
        "Negative values", "warning", 0, _judge_negative,
        "Refunds need an event of their own, or they lower the mean value of a conversion."),
    "value_not_a_number": QualityRule(
        "Values that are no numbers", "error", FEW, _rejected("value is not a number", column="value"),
        "They are rejected: send plain numbers, and the currency in its own column."),
    "volume_gap": QualityRule(
        "Days of an event with nothing", "error", 0, _judge_days("gap"),
        "A tag or a load was down on these days, or all rested on a holiday: reload them, or leave them out of "
        "comparisons."),
    "volume_jump": QualityRule(
        "Days of an event with far more or fewer", "warning", 0, _judge_days("jump"),
        "Ask what was released or run on that day before believing the number."),
    "lost_property": QualityRule(
        "Days on which a property was lost", "error", 0, _judge_lost_properties,
        "Segments and breakdowns by this column lose these rows: look at what was released."),
    "stopped_event": QualityRule(
        "Events that stopped, on a platform or everywhere", "error", 0, _judge_stopped,
        "Its tag was probably lost in a release of that platform."),
    "busy_user": QualityRule(
        "Users with impossibly many events", "warning", 0, _judge_busiest,
        "A bot, a test or a shared id: leave it out by a rule in the plan."),
    "never_fires": QualityRule(
        "Conversions that never fire", "error", 0, _judge_never,
        "The tag is missing, or the plan's rule matches nothing."),
    "unmapped_event": QualityRule(
        "Frequent events that nobody mapped", "info", 0, _judge_unmapped,
        "Add them to the plan, or leave them out knowingly."),
    "shared_session": QualityRule(
        "Sessions of several users", "warning", FEW, _judge_sessions,
        "Visitors who sign in get a second id: join the ids with an identity table."),
    "personal_data": QualityRule(
        "Columns with personal data", "error", 0, _judge_personal,
        "Remove it where it is collected; ids can be hashed on reading (`hash_ids`). No value is shown here."),
}  # fmt: skip
