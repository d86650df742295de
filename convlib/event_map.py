"""What is tracked, set against the plan: what it covers, what it misses and what never fires."""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

import pandas as pd

from convlib import plots, takeaways
from convlib.events import EventLog, check_log
from convlib.plan import Plan
from convlib.profile import Profile
from convlib.redaction import blank, find_hidden, find_small, split_counts
from convlib.results import Kind, Result, Shown, Takeaways, find_kind, format_value
from convlib.stats import divide

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLUMNS = (
    "tier",
    "macro",
    "stage",
    "conversion",
    "name",
    "event_name",
    "events",
    "units",
    "share_of_units",
    "first",
    "last",
    "status",
    "owner",
    "target",
    "note",
)


@dataclasses.dataclass(frozen=True)
class EventMap(Result):
    """One row for each conversion and event name that it is, then one for each event that nobody mapped.

    Attributes:
        rows: How many rows were `read`, `used`, `rejected` and `left_out` by rule.
        coverage: One row for each conversion: `tier`, `conversion`, `name`, `where` (its stage), `owner`, `goal` (its
            target), `units` that did it, `share_of_units`.
        fill: What each column holds: `column`, `filled` rows, `share`, `distinct` values (NA when more than 12) and
            `most_frequent`: those that at least two users have, with their rows.
        volume: Events by day and tier (`macro`, `micro`, `loss`, `not in the plan`).
        gaps: What the plan leaves open: `conversion`, `missing`.
    """

    SHOWN: ClassVar[tuple[tuple[str, str, Kind], ...]] = (
        ("name", "Conversion", "text"),
        ("event_name", "Event", "text"),
        ("status", "Status", "text"),
        ("events", "Events", "count"),
        ("units", "Users", "count"),
        ("share_of_units", "Of all users", "percent"),
        ("tier", "Tier", "text"),
        ("stage", "Stage", "text"),
        ("owner", "Owner", "text"),
        ("note", "Note", "text"),
    )

    rows: dict[str, int]
    coverage: pd.DataFrame
    fill: pd.DataFrame
    volume: pd.DataFrame
    gaps: pd.DataFrame

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Draw how many users did each conversion."""
        return plots.draw_coverage(self.coverage, segment=self.segment, ax=ax)

    def plot_plan(self, ax: "Axes | None" = None) -> "Axes":
        """Draw the measurement plan as a map: each macro with its micros by stage, their owners and targets."""
        return plots.draw_plan(self.coverage, segment=self.segment, ax=ax)

    def plot_volume(self, ax: "Axes | None" = None) -> "Axes":
        """Draw events a day by tier."""
        return plots.draw_volume(self.volume, segment=self.segment, ax=ax)

    def show_fill(self) -> Shown:
        """Show how often each column holds a value, and which: the canonical ones first, also those that are empty."""
        columns: tuple[tuple[str, str, Kind], ...] = (
            ("column", "Column", "text"),
            ("filled", "Filled rows", "count"),
            ("share", "Of all rows", "percent"),
            ("most_frequent", "Rows of each value", "text"),
        )
        return Shown(self.fill, columns)

    def show_gaps(self) -> Shown:
        """Show what the plan leaves open."""
        return Shown(self.gaps, (("conversion", "Conversion", "text"), ("missing", "Missing in the plan", "text")))


def map_events(log: EventLog, plan: Plan) -> EventMap:
    """Say what the log tracks of the plan, what of the log the plan misses, and what never fires.

    Args:
        log: The log, seen through a segment and a period; rows of the segment's units in the period are counted.
        plan: The measurement plan with which the log was read.

    Returns:
        One row for each conversion and event name, in the plan's order, then the unmapped events, most frequent first.
        `events` rows and `units` users have it; `share_of_units` is over all users with any event; `status` is
        `tracked`, `not seen here` (but elsewhere in the log), `never fires`, `entry` (an event that is no conversion,
        with which the clock of the plan's correlation starts) or `not in the plan`; `note` says how many rows only
        repeat the one before (`dedupe`), and count once in every rate, or how many the whole log has.

    Raises:
        ParamError: The log was read with another plan.
    """
    check_log(log)
    log.check_plan(plan)
    profile = log.profile
    known = plan.table.rename(columns={"id": "conversion"})
    table = known[["tier", "macro", "stage", "conversion", "name", "owner", "target"]].merge(
        profile.conversions.rename(columns={"users": "units"}), on="conversion", how="left"
    )
    table = pd.concat([table, _list_unmapped(profile).assign(tier="", name="")], ignore_index=True)
    repeated = table["conversion"].map(log.double_fired).where(~table["conversion"].duplicated())
    unseen = profile.unseen[profile.unseen["rows"] > 0]
    elsewhere = {
        each: "" if log.fewest else takeaways.word_elsewhere(rows, last)
        for each, rows, last in zip(unseen["conversion"], unseen["rows"], unseen["last"], strict=True)
    }
    entries = {macro.correlation.entry for macro in plan.macros if macro.correlation}
    table = table.assign(
        events=table["events"].fillna(0).astype("int64"),
        units=table["units"].fillna(0).astype("int64"),
        status=table.apply(_status, axis=1, elsewhere=elsewhere, entries=entries),
        note=[
            f"rows that only repeat the one before: {rows:,.0f} (whole log)" if rows > 0 else elsewhere.get(each, "")
            for each, rows in zip(table["conversion"], repeated, strict=True)
        ],
    )
    table["share_of_units"] = divide(table["units"], profile.users)
    listed = pd.DataFrame(plan.gaps, columns=["conversion", "missing"])
    gaps = listed.groupby("conversion", sort=False)["missing"].agg(", ".join).reset_index()
    table = table[list(COLUMNS)]
    event_map = EventMap(
        table=table,
        takeaways=takeaways.word_event_map(
            table, units=profile.users, rows=log.row_counts, gaps=gaps, segment=log.segment_name
        ),
        segment=log.segment_name,
        names={c.id: c.name for c in plan.conversions},
        rows=log.row_counts,
        coverage=_cover(profile, known, plan, elsewhere),
        fill=_describe_columns(profile, log.derived),
        volume=_count_volume(profile, plan),
        gaps=gaps,
        fewest=log.fewest,
    )
    return _leave_out(event_map, log, profile.users) if log.fewest else event_map


def _leave_out(event_map: EventMap, log: EventLog, users: int) -> EventMap:
    """Leave out conversions and events of few users, and what counts rows, of which one user may have all."""
    fewest, table, coverage = log.fewest, event_map.table, event_map.coverage
    # Users may be in several rows of a conversion; that its rows add up is the worst case.
    families = [table["conversion"].fillna(table["event_name"])]
    hidden = find_hidden(split_counts(table["units"], users), fewest=fewest, families=families)
    few = find_hidden(split_counts(coverage["units"], users), fewest=fewest)
    in_few = table["conversion"].isin(coverage.loc[few, "conversion"])
    hidden |= in_few.to_numpy()
    few |= coverage["conversion"].isin(table.loc[hidden, "conversion"]).to_numpy()
    numbers = ["events", "units", "share_of_units"]
    table = table.assign(
        **blank(table, numbers, hidden),
        **{name: table[name].mask(hidden | True) for name in ("first", "last")},  # the moments of single events
        note=table["note"].mask(hidden, takeaways.word_left_out(fewest)),
    )[~(hidden & table["conversion"].isna())]
    said = takeaways.word_nothing_left(fewest, what="The event map", segment=event_map.segment)
    if not find_small(users, fewest=fewest):
        said = takeaways.word_event_map(
            table.dropna(subset="events"),
            units=users,
            rows={"used": event_map.rows["used"]},  # the others may be few, and of few
            gaps=event_map.gaps,
            segment=event_map.segment,
        )[0]
    counts = ["units", "share_of_units"]
    return dataclasses.replace(
        event_map,
        table=table.reset_index(drop=True),
        takeaways=Takeaways((said,)),
        coverage=coverage.assign(**blank(coverage, counts, few)),
        fill=event_map.fill.head(0),
        volume=event_map.volume.head(0),
    )


def _cover(profile: Profile, known: pd.DataFrame, plan: Plan, elsewhere: Mapping[str, str]) -> pd.DataFrame:
    """Count the users of each conversion once, whichever of its events they had; a macro's micros by stage."""
    units = known["conversion"].map(profile.covered).astype("int64")
    owner = known["owner"].replace("", "nobody").where(known["tier"] != "loss", "")
    goal = [
        format_value(*_goal(target, metric)) for target, metric in zip(known["target"], known["metric"], strict=True)
    ]
    coverage = known[["tier", "conversion", "name"]].assign(
        where=known["stage"]
        .fillna("")
        .where(units > 0, [_say_silent(each, elsewhere) for each in known["conversion"]]),
        owner=owner.fillna("nobody"),
        goal=goal,
        units=units,
    )
    order = known.assign(
        macro=known["macro"].map({macro.id: place for place, macro in enumerate(plan.macros)}),
        tier=known["tier"].map({"macro": 0, "micro": 1, "loss": 2}),
        stage=known["stage"].map({stage: place for place, stage in enumerate(plan.stages)}),
    )
    coverage = coverage.loc[order.sort_values(["macro", "tier", "stage"], kind="stable").index]
    return coverage.assign(share_of_units=divide(coverage["units"], profile.users)).reset_index(drop=True)


def _goal(target: float, metric: object) -> tuple[float, Kind]:
    return target, find_kind(str(metric))


def _list_unmapped(profile: Profile) -> pd.DataFrame:
    """List the event names of which no row is a conversion."""
    names = profile.names[profile.names["mapped"] == 0]
    return names.rename(columns={"rows": "events", "users": "units"}).drop(columns="mapped")


def _status(row: pd.Series, elsewhere: Mapping[str, str], entries: Collection[str | None]) -> str:
    if pd.isna(row["conversion"]):
        return "entry" if row["event_name"] in entries else "not in the plan"
    return "tracked" if row["events"] > 0 else _say_silent(row["conversion"], elsewhere)


def _say_silent(conversion: str, elsewhere: Mapping[str, str]) -> str:
    return "not seen here" if conversion in elsewhere else "never fires"


def _describe_columns(profile: Profile, derived: Sequence[str]) -> pd.DataFrame:
    """Say what each column of the source holds; a value that one user alone has could name that user: not listed."""
    filled = profile.filled.sum()
    filled[list(derived)] = 0
    shown = profile.values[profile.values["shared"].astype(bool)]
    texts = (
        (shown["value"] + " (" + shown["rows"].map("{:,}".format).astype("str") + ")")
        .groupby(shown["column"])
        .agg(", ".join)
    )
    counts = profile.values.groupby("column").size().reindex(filled.index).astype("Int64")
    return pd.DataFrame(
        {
            "column": filled.index,
            "filled": filled.to_numpy("int64"),
            "share": divide(filled, profile.rows),
            "distinct": counts.where(filled > 0, 0).array,
            "most_frequent": texts.reindex(filled.index).fillna("").where(~filled.index.isin(derived), "derived").array,
        }
    )


def _count_volume(profile: Profile, plan: Plan) -> pd.DataFrame:
    """Count events a day by tier; an event that is several conversions counts in each."""
    daily, matched = profile.daily, profile.matched
    tiers = dict(zip(plan.table["id"], plan.table["tier"], strict=True))
    parts = [daily.loc[hit, ["day", "rows"]].assign(tier=tiers[str(name)]) for name, hit in matched.items()]
    other = daily.loc[~matched.any(axis=1).astype(bool), ["day", "rows"]].assign(tier="not in the plan")
    counted = pd.concat([*parts, other], ignore_index=True)
    return counted.groupby(["day", "tier"], as_index=False).agg(events=("rows", "sum"))
