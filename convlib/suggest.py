"""A first measurement plan, suggested from what a log holds, for a person to edit."""

import itertools
import re
import sys
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import pandas as pd
import yaml

from convlib.canonical import CANONICAL
from convlib.documents import did_you_mean, quote_names
from convlib.errors import EventDataError, ParamError
from convlib.event_names import (
    CAPITALS,
    DONE_TO_USERS,
    LEAVING,
    NAVIGATION,
    NO_OUTCOME,
    OUTCOMES,
    PROBLEMS,
    SUCCESS,
    find_outcome,
    find_touchpoint,
    is_loss,
    list_terms,
    name_action,
    spell,
)
from convlib.events import EventLog, check_log
from convlib.plan import MOST_MICROS, STAGES
from convlib.stats import FEW_EXPECTED, FEW_UNITS
from convlib.takeaways import word_reasons

#: How a suggested plan begins.
HEAD = "# A first measurement plan to make your own, suggested from"
#: How much is looked at; more would change little in a plan that a person edits.
MOST_NAMES, MOST_USERS = 200, 200_000
#: A micro is done by at least the one share of all users and at most the other.
FEWEST_SHARE, MOST_SHARE = 0.01, 0.95
#: An outcome that more users than this reach tells nobody apart.
MOST_OUTCOME = 0.9
#: The entry: most users have it, at most so many times each, and for this share of them it is on their first day.
MOST_TIMES, FIRST_SHARE = 1.1, 0.9
ENTRY = "nearly everyone begins with it, so it is the entry, where the clock starts"
#: An event's page says where it happens when this share of its rows stand on pages of one folder.
CLEAR = 0.9
#: How many values a column may have that says how something ended.
FEW_VALUES = 12
MOST_LISTED = 20


@dataclass(frozen=True)
class _Action:
    """What users did by one name or several: how often, how late, and where the plan puts it.

    Attributes:
        key: The names' words.
        names: The event names, the most frequent first.
        events: Rows.
        valued: Rows with a value.
        users: Users who did it.
        share: Their share of all users.
        late: Mean place of its first time among a user's actions, up to 1.
        role: `macro`, `micro`, `loss`, or why it is left out.
        why: Why it is the macro.
        match: The rule's columns and values.
        later: Share of its users who reached the macro later.
        prior: Share of the macro's users who had done it before.
        after: Share of the users with both who did it first after the macro.
        place: Mean place of its first time among what was done before the macro, up to 1.
    """

    key: str
    names: tuple[str, ...]
    events: int
    valued: int
    users: int
    share: float
    late: float
    id: str = ""
    touchpoint: str | None = None
    role: str = ""
    why: str = ""
    match: Mapping[str, Sequence[str]] = field(default_factory=dict)
    later: float = 0
    prior: float = 0
    after: float = 0
    place: float = 1

    @property
    def count(self) -> str:
        """Say how often it happens."""
        events, users = ("" if number == 1 else "s" for number in (self.events, self.users))
        return f"{self.events:,} event{events} by {self.users:,} user{users} ({self.share:.1%})"

    @property
    def outcome(self) -> str | None:
        """Say why it could be the macro, if it could."""
        carries = not list_terms(self.names) & NO_OUTCOME and self.valued >= self.events / 2
        return None if self.is_loss else find_outcome(self.names) or (list(OUTCOMES)[-1] if carries else None)

    @property
    def sounds_lost(self) -> bool:
        """Say whether its name is that of a failure or of leaving, which is a loss if nothing comes of it any more."""
        return bool(list_terms(self.names) & (PROBLEMS | LEAVING))

    @property
    def is_loss(self) -> bool:
        """Say whether it means leaving for good."""
        return any(map(is_loss, self.names))


@dataclass(frozen=True)
class _Found:
    """What was looked at: the actions, and when each user did each of them first (`user`, `key`, `first`)."""

    log: EventLog
    users: int
    sample: str
    remarks: tuple[str, ...]
    actions: tuple[_Action, ...]
    firsts: pd.DataFrame


def suggest_plan(log: EventLog, *, macro: str = "") -> str:
    """Say what a log's first measurement plan could be: its outcome, the steps and signals on the way, its losses.

    The macro is chosen by its name and by how late users reach it; micros are what at least 1% of users do. A micro
    that most of the macro's users did before is a milestone, and micros are spread over the stages by their mean place
    on the way to the macro. Names of the same words are one action, and so are those that the e-commerce events of GA4
    and Segment have for the same.

    Args:
        log: The log, read with or without a plan; the whole of it is looked at, or the events of some 200,000 users.
        macro: The event that pays; empty chooses it.

    Returns:
        A plan file as YAML, with the evidence for each entry in comments. Owners and targets are left open.

    Raises:
        EventDataError: No event looks like an outcome.
        ParamError: The log has no event `macro`; the message has the nearest.
    """
    check_log(log)
    found = _look(log.whole(), macro)
    candidates = _list_outcomes(found, macro)
    if not candidates:
        raise EventDataError(_miss_outcome(found))
    chosen, *others = candidates
    actions = _relate(found, chosen)
    return "".join(f"{line}\n" for line in _write_plan(found, actions, others))


def _look(log: EventLog, macro: str) -> _Found:
    counted = log.count("events", "event_name")
    every = -(-int(log.count("events")["units"].iloc[0]) // MOST_USERS)
    sample = f"user % {every} = 0"
    rows = log.rows().filter(sample)
    users = int(rows.aggregate("count(DISTINCT user)").fetchall()[0][0])
    # The names of one action stand in the order of their events.
    kept = counted.index.isin(counted.nlargest(MOST_NAMES, "units").index) | (counted["event_name"] == macro)
    names = counted[kept].sort_values("events", ascending=False, kind="stable")["event_name"]
    keys = {str(name): name_action(str(name)) for name in names}
    columns = "user, event_name, count(*) AS events, count(*) FILTER (value > 0) AS valued, min(event) AS first"
    named = rows.aggregate(columns, "user, event_name").df()
    grouped = named.assign(key=named["event_name"].map(keys)).dropna(subset=["key"]).groupby(["user", "key"])
    firsts = grouped.agg({"events": "sum", "valued": "sum", "first": "min"}).reset_index()
    if macro and macro not in set(named["event_name"]):
        listed = [str(name) for name in names]
        near = f"{did_you_mean(macro, listed)} The events are {_list_names(listed)}."
        raise ParamError(f"`macro` is {macro!r}, which none of the {users:,} users looked at has.{near}")
    remarks = [f"One user in {every} was looked at"] if every > 1 else []
    if log.rows_rejected:
        remarks.append(f"{log.rows_rejected:,} rows could not be used{word_reasons(log.rejected_because)}")
    if len(counted) > MOST_NAMES:
        remarks.append(f"Only the {MOST_NAMES} event names that most users have were looked at, of {len(counted):,}")
    return _Found(log, users, sample, tuple(remarks), _describe(firsts, keys, users), firsts)


def _describe(firsts: pd.DataFrame, keys: Mapping[str, str], users: int) -> tuple[_Action, ...]:
    """Count each action; what most users do comes first."""
    late = firsts.assign(late=firsts.groupby("user")["first"].rank(pct=True)).groupby("key")
    totals = late.agg({"events": "sum", "valued": "sum", "user": "size", "late": "mean"})
    totals = totals.sort_values(["user", "late"], ascending=False)
    actions = []
    for key, events, valued, units, place in totals.itertuples(name=None):
        names = tuple(name for name in keys if keys[name] == key)
        actions.append(_Action(key, names, int(events), int(valued), int(units), units / users, place))
    return tuple(actions)


def _list_outcomes(found: _Found, macro: str) -> list[_Action]:
    """List what could be the macro: the one named, what pays most, and of one kind what users come to last."""
    kinds = {kind: order for order, kind in enumerate(OUTCOMES)}
    named = [
        replace(each, role="macro", why="you named it" if macro in each.names else each.outcome or "")
        for each in found.actions
    ]
    outcomes = []
    for each in sorted(named, key=lambda action: (kinds.get(action.why, -1), -action.late)):
        success = _find_success(found.log, each.names) if each.why and each.share > MOST_OUTCOME else {}
        if each.why and (success or each.share <= MOST_OUTCOME or macro in each.names):
            outcomes.append(replace(each, match={"event_name": each.names, **success}))
    return outcomes


def _find_success(log: EventLog, names: Sequence[str]) -> dict[str, list[str]]:
    """Find a column that says how the event ended, well or not, as everybody comes to it."""
    rows = log.where(event_name=list(names))
    for column in log.columns:
        if column in CANONICAL or column in {"all", "any", "self"}:  # those are no columns to a rule
            continue
        values = rows.count("events", column)[column].dropna()
        good = [value for value in values if isinstance(value, str) and list_terms([value]) & SUCCESS]
        if good and len(good) < len(values) <= FEW_VALUES:
            return {column: good}
    return {}


def _miss_outcome(found: _Found) -> str:
    names = [name for each in found.actions for name in each.names]
    lost = f" {found.log.rows_rejected:,} rows could not be used{word_reasons(found.log.rejected_because)}."
    return (
        f"No plan can be suggested for `{found.log.prepared.source}`: no event that at most {MOST_OUTCOME:.0%} of "
        "users have is named like a purchase, a subscription, an enquiry, joining or an end reached, or carries a "
        f"`value`. The events are {_list_names(names)}.{lost if found.log.rows_rejected else ''} "
        "Name the event that pays: `--macro EVENT` (in Python `macro=`)."
    )


def _list_names(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST_LISTED} more" if len(names) > MOST_LISTED else ""
    return f"{quote_names(names[:MOST_LISTED])}{more}"


def _name_role(action: _Action) -> str:
    if action.is_loss:
        return "loss"
    if action.key in NAVIGATION:
        return "moving about"
    if list_terms(action.names) & DONE_TO_USERS:
        return "done to users, not by them"
    if action.share > MOST_SHARE:
        return "nearly everyone does it"
    return "micro" if action.share >= FEWEST_SHARE else f"fewer than {FEWEST_SHARE:.0%} of users do it"


def _relate(found: _Found, macro: _Action) -> list[_Action]:
    """Set each action against the macro: its role, who did it before, and where on the way."""
    rows = found.log.where(**macro.match).rows().filter(found.sample)
    reached = rows.aggregate("user, min(event) AS reached, max(event) AS last, count(*) AS events", "user").df()
    macro = replace(macro, events=int(reached["events"].sum()), users=len(reached), share=len(reached) / found.users)
    roles = {each.key: _name_role(each) for each in found.actions} | {macro.key: "macro"}
    paths = found.firsts[found.firsts["key"].map(roles) == "micro"].merge(reached, on="user")
    paths = paths.assign(before=paths["first"] < paths["reached"])
    # As nothing done before the macro comes later than the macro, ranks among a user's actions before it are whole.
    paths["place"] = paths["first"].groupby(paths["user"].where(paths["before"])).rank(pct=True)
    way = paths.groupby("key").agg(did=("before", "sum"), both=("before", "size"), place=("place", "mean"))
    numbers = {str(key): values for key, *values in way.itertuples(name=None)}
    followed = set(paths.loc[paths["first"] < paths["last"], "key"])
    for each in found.actions:
        # So many that by chance alone some would have come to the macro.
        enough = each.users * macro.share >= FEW_EXPECTED
        if roles[each.key] == "micro" and each.key not in followed and each.sounds_lost and enough:
            roles[each.key] = "loss"
    places = _find_places(found)
    entry = _find_entry(found, macro)
    if entry:
        roles[entry] = ENTRY
    related = []
    for each, name in zip(found.actions, _make_ids(found.actions), strict=True):
        did, both, place = numbers.get(each.key, (0, 0, 1.0))
        related.append(
            replace(
                macro if each.key == macro.key else each,
                id=name,
                role=roles[each.key],
                touchpoint=places.get(each.key),
                later=did / each.users,
                prior=did / max(len(reached), 1),
                after=1 - did / both if both else 0,
                place=place if did > both / 2 else 1,
            )
        )
    return related


def _find_entry(found: _Found, macro: _Action) -> str | None:
    """Find what nearly everyone has once, and first of all or on the first day; of several what comes first."""
    rows = found.log.rows().filter(found.sample)
    began = rows.aggregate("user, min(timestamp) AS began", "user").df()
    for each in sorted(found.actions, key=lambda action: action.late):
        # An event name is all that an entry can be.
        usable = len(each.names) == 1 and each.key != macro.key and each.users >= FEW_UNITS
        if usable and each.share >= MOST_SHARE and each.events <= MOST_TIMES * each.users:
            names = found.log.where(event_name=each.names).rows().filter(found.sample)
            entered = names.aggregate("user, min(timestamp) AS entered", "user").df().merge(began, on="user")
            if (entered["entered"] - entered["began"] < pd.Timedelta("1D")).mean() >= FIRST_SHARE:
                return each.key
    return None


def _find_places(found: _Found) -> dict[str, str | None]:
    """Name the touchpoint of each action by its name, and by the folder that nearly all its pages are in."""
    keys = {name: each.key for each in found.actions for name in each.names}
    folder = r"regexp_extract(page_path, '^(?:[a-z]+://[^/]*)?/?([^/?#]*)', 1) AS folder"
    rows = found.log.rows().filter(found.sample).filter("page_path IS NOT NULL").project(f"event_name, {folder}")
    pages = rows.aggregate("event_name, folder, count(*) AS rows", "event_name, folder").df()
    counts = pages.groupby([pages["event_name"].map(keys), "folder"])["rows"].sum()
    clear = dict(counts[counts >= CLEAR * counts.groupby("event_name").transform("sum")].index)
    return {each.key: find_touchpoint(each.names[0], clear.get(each.key)) for each in found.actions}


def _make_ids(actions: Sequence[_Action]) -> list[str]:
    """Make an id of each action's most frequent name; those that would be equal are numbered."""
    ids: list[str] = []
    for each in actions:
        plain = unicodedata.normalize("NFKD", CAPITALS.sub("_", each.names[0])).encode("ascii", "ignore").decode()
        words = re.sub("[^a-z0-9]+", "_", plain.casefold()).strip("_")
        usable = words[:1].isalpha() and words not in {"null", "true", "false"}  # which YAML takes for no text
        first = words if usable else f"event_{words}".rstrip("_")
        numbered = (f"{first}_{number}" for number in itertools.count(2))
        ids.append(next(name for name in itertools.chain([first], numbered) if name not in ids))
    return ids


def _write_plan(found: _Found, actions: Sequence[_Action], others: Sequence[_Action]) -> Iterator[str]:
    log = found.log
    macro = next(each for each in actions if each.role == "macro")
    micros = [each for each in actions if each.role == "micro"]
    listed = sorted(micros, key=lambda each: -each.prior)[: MOST_MICROS * len(STAGES)]
    losses = [each for each in actions if each.role == "loss"]
    yield f"{HEAD} {_quote(log.prepared.source)}:"
    yield f"# {log.rows_used:,} events from {log.first.date()} to {log.last.date()}, {found.users:,} users looked at."
    yield from (f"# {remark}." for remark in found.remarks)
    yield "# Names, counts and order chose the entries: check what each event means. The shares say what went with"
    yield "# what, not what leads to what. Owners and targets are left open: `convlib plan show` counts what is."
    if others:
        yield f"# It could also be the macro: {', '.join(_quote(each.names[0]) for each in others)}."
    yield "macros:"
    entry = next((each for each in actions if each.role == ENTRY), None)
    yield from _indent(2, _write_macro(log, macro, entry))
    yield from _write_list("micros", [_write_micro(each, macro, stage) for each, stage in _place_in_stages(listed)])
    yield from _write_list("losses", [_write_loss(each, macro) for each in losses])
    for each in actions:
        if each not in listed and each.role not in {"macro", "loss"}:
            reason = "others went more often with the macro" if each.role == "micro" else each.role
            yield f"# Left out: {', '.join(map(_quote, each.names))}, {each.count}: {reason}."


def _place_in_stages(micros: Sequence[_Action]) -> list[tuple[_Action, str]]:
    """Spread micros evenly over the stages, in the order in which they stand on the way."""
    ordered = sorted(micros, key=lambda each: each.place)
    return [(each, STAGES[-(-i * len(STAGES) // len(ordered)) - 1]) for i, each in enumerate(ordered, start=1)]


def _write_list(key: str, entries: Sequence[Sequence[str]]) -> list[str]:
    return [f"    {key}:", *_indent(6, list(itertools.chain(*entries)))] if entries else []


def _write_macro(log: EventLog, macro: _Action, entry: _Action | None) -> list[str]:
    columns = [_quote(column) for column in macro.match if column != "event_name"]
    narrowed = [
        f"Nearly everyone has the event; {column} says how it ended: check its other values." for column in columns
    ]
    fields = ["# owner:", "# target:"]
    if macro.valued >= macro.events / 2:
        currencies = log.where(**macro.match).count("events", "currency")["currency"].dropna()
        known = len(currencies) == 1 and re.fullmatch("[A-Z]{3}", currencies.iloc[0])
        fields = ["value: {column: value}", *([f"currency: {currencies.iloc[0]}"] if known else []), *fields]
    if entry:
        fields.append(f"correlation: {{entry: {_quote(entry.names[0])}}}")
    return _write_entry(macro, [f"Chosen because {macro.why}.", *narrowed, f"{macro.count}."], fields)


def _write_micro(micro: _Action, macro: _Action, stage: str) -> list[str]:
    comments = [
        f"{micro.count}; {micro.later:.1%} of them reached {macro.id} later.",
        f"Of those who reached {macro.id}, {micro.prior:.1%} had done it before.",
    ]
    if micro.after > 0.5:
        comments.append(f"Of those with both, {micro.after:.1%} did it first after {macro.id}: it may only follow.")
    fields = [
        f"stage: {stage}",
        f"kind: {'process_milestone' if micro.prior > 0.5 else 'secondary_action'}",
        *([f"touchpoint: {micro.touchpoint}"] if micro.touchpoint else []),
        *(["direction: down"] if list_terms(micro.names) & PROBLEMS else []),
        "# owner:",
        "# target:",
    ]
    return _write_entry(micro, comments, fields)


def _write_loss(loss: _Action, macro: _Action) -> list[str]:
    found = [] if loss.is_loss else [f"It sounds like failing or leaving, and nobody reached {macro.id} after it."]
    return _write_entry(loss, [f"{loss.count}.", *found], [])


def _write_entry(entry: _Action, comments: Sequence[str], fields: Sequence[str]) -> list[str]:
    """Write one entry: the evidence as comments, then its fields."""
    first, *others = entry.names
    for name in others:
        why = (
            "the same words"
            if spell(name) == spell(first)
            else "the same action in the e-commerce events of GA4 and Segment"
        )
        comments = [*comments, f"{_quote(name)} is counted as {_quote(first)}: {why}."]
    tests = ", ".join(_write_test(*test) for test in (entry.match or {"event_name": entry.names}).items())
    named = [] if spell(entry.id) == spell(first) else [f"name: {_quote(first)}"]
    lines = [*named, f"match: {{{tests}}}", *fields]
    return [*(f"# {text}" for text in comments), f"- id: {entry.id}", *_indent(2, lines)]


def _write_test(column: str, values: Sequence[str]) -> str:
    name = column if column == "event_name" else _quote(column)
    listed = ", ".join(map(_quote, values))
    return f"{name}: {listed}" if len(values) == 1 else f"{name}: [{listed}]"


def _indent(width: int, lines: Sequence[str]) -> list[str]:
    return [" " * width + line for line in lines]


def _quote(text: str) -> str:
    """Write a text as YAML that stays a text, on one line and as it is."""
    return yaml.safe_dump(text, default_style='"', allow_unicode=True, width=sys.maxsize).rstrip("\n")
