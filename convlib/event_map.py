"""What is tracked, set against the plan: what it covers, what it misses and what never fires."""

import dataclasses
from typing import TYPE_CHECKING, ClassVar

import pandas as pd

from convlib import plots, takeaways
from convlib.events import EventLog
from convlib.plan import Plan
from convlib.results import Kind, Result, Shown
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
        rows: How many rows were read, used and rejected.
        coverage: One row for each conversion: `tier`, `conversion`, `name`, `units` that did it, `share_of_units`.
        fill: What each column holds: `column`, `filled` rows, `distinct` values, `share`, `most_frequent` values.
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

    def plot_volume(self, ax: "Axes | None" = None) -> "Axes":
        """Draw events a day by tier."""
        return plots.draw_volume(self.volume, segment=self.segment, ax=ax)

    def show_fill(self) -> Shown:
        """Show how often each column that is not empty holds a value, and which."""
        columns: tuple[tuple[str, str, Kind], ...] = (
            ("column", "Column", "text"),
            ("filled", "Filled rows", "count"),
            ("share", "Of all rows", "percent"),
            ("distinct", "Values", "count"),
            ("most_frequent", "Rows of each value", "text"),
        )
        return Shown(self.fill[self.fill["filled"] > 0], columns)

    def show_gaps(self) -> Shown:
        """Show what the plan leaves open."""
        return Shown(self.gaps, (("conversion", "Conversion", "text"), ("missing", "Missing in the plan", "text")))


def map_events(log: EventLog, plan: Plan) -> EventMap:
    """Say what the log tracks of the plan, what of the log the plan misses, and what never fires.

    Args:
        log: The log, seen through a segment and a period; rows of the segment's units in the period are counted.
        plan: The measurement plan.

    Returns:
        One row for each conversion and event name, in the plan's order, then the unmapped events, most frequent first.
        `events` rows and `units` users have it; `share_of_units` is over all users with any event; `status` is
        `tracked`, `never fires` or `not in the plan`.
    """
    everyone = log.count("events")
    mapped = log.count("conversions", "conversion", "event_name")
    known = plan.table.rename(columns={"id": "conversion"})
    table = known[["tier", "macro", "stage", "conversion", "name", "owner", "target"]].merge(
        mapped, on="conversion", how="left"
    )
    unmapped = log.count("unmapped", "event_name")
    table = pd.concat([table, unmapped.assign(tier="", name="")], ignore_index=True)
    total = int(everyone["units"].iloc[0])
    table = table.assign(
        events=table["events"].fillna(0).astype("int64"),
        units=table["units"].fillna(0).astype("int64"),
        status=table.apply(_status, axis=1),
        note="",
    )
    table["share_of_units"] = divide(table["units"], total)
    listed = pd.DataFrame(plan.gaps, columns=["conversion", "missing"])
    gaps = listed.groupby("conversion", sort=False)["missing"].agg(", ".join).reset_index()
    rows = {"read": log.prepared.rows_read, "used": log.prepared.rows_used, "rejected": log.prepared.rows_rejected}
    table = table[list(COLUMNS)]
    return EventMap(
        table=table,
        takeaways=takeaways.word_event_map(table, units=total, rows=rows, gaps=gaps, segment=log.segment_name),
        segment=log.segment_name,
        names={c.id: c.name for c in plan.conversions},
        rows=rows,
        coverage=_cover(log, known[["tier", "conversion", "name"]], total),
        fill=log.describe_columns(),
        volume=_volume(log, known[["conversion", "tier"]]),
        gaps=gaps,
    )


def _cover(log: EventLog, known: pd.DataFrame, total: int) -> pd.DataFrame:
    """Count the users of each conversion once, whichever of its events they had."""
    counts = log.count("conversions", "conversion")[["conversion", "units"]]
    coverage = known.merge(counts, on="conversion", how="left").fillna({"units": 0}).astype({"units": "int64"})
    return coverage.assign(share_of_units=divide(coverage["units"], total))


def _status(row: pd.Series) -> str:
    if pd.isna(row["conversion"]):
        return "not in the plan"
    return "tracked" if row["events"] > 0 else "never fires"


def _volume(log: EventLog, tiers: pd.DataFrame) -> pd.DataFrame:
    """Count events a day by tier; an event that is several conversions counts in each."""
    daily = log.count("conversions", "day", "conversion").merge(tiers, on="conversion")
    mapped = daily.groupby(["day", "tier"])[["events"]].sum().reset_index()
    other = log.count("unmapped", "day").assign(tier="not in the plan")
    return pd.concat([mapped, other[["day", "tier", "events"]]], ignore_index=True)
