"""A scorecard of micro-actions: points for each, a score for each unit, tried on units that entered later."""

import contextlib
import dataclasses
import datetime as dt
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
from scipy.optimize import brentq
from scipy.special import expit

from convlib import plots, stats, takeaways
from convlib.errors import ParamError, list_problems
from convlib.events import EventLog, Unit, check_log, list_columns
from convlib.funnel_units import name_units
from convlib.identity import HASH_KEY, hash_frame
from convlib.joint import fit_model
from convlib.landmarks import (
    DEFAULT_HORIZON,
    NEVER,
    Design,
    Followed,
    Risk,
    check_followed,
    find_risk,
    follow,
    read_design,
)
from convlib.periods import read_day
from convlib.plan import Plan
from convlib.plan_entries import Clock, Macro
from convlib.redaction import check_shared
from convlib.results import Kind, Result, Takeaways
from convlib.stats import Floats

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLUMNS = ("micro", "stage", "units_with", "log_odds", "log_odds_ci_lower", "log_odds_ci_upper", "points", "note")
#: The landmark where neither the call nor the plan names one.
DEFAULT_EXPOSURE = "7D"
#: Of the units that can be fitted or validated on, this share is fitted on, as nearly as a day allows.
FITTED_SHARE = 0.7
FEWEST_FITTED, FEWEST_VALIDATED = 30, 5
#: A unit with no points converts once in about a thousand: so many doublings of the odds below evens.
DOUBLINGS = 10
DAY, EPOCH = 86_400_000_000, dt.date(1970, 1, 1)
#: No log-odds of a whole population lie beyond.
BEYOND = 100.0
SCORES = ("unit_id", "score", "probability", "decile", "pending")


@dataclasses.dataclass(frozen=True)
class Scorecard(Result):
    """Points for each micro, and how well their sum tells who converts among units that entered later.

    Attributes:
        macro: The macro-conversion.
        exposure: The landmark: a micro counts when done before it.
        horizon: How long after the landmark the macro counts.
        until: Last day of what the points are fitted on.
        fitted: Units that the points are fitted on.
        base_points: Points of a unit that did none of the micros; NaN without a fit.
        points_to_double: How many points double the odds.
        validation: For each decile of the later units, 1 the highest scores: `units`, `converted`, the mean `predicted`
            probability, and the `observed` one with Wilson's interval.
        auc: How often a later unit that converted has the higher score than one that did not, ties counted half.
        auc_ci_lower: Its interval, by DeLong.
        auc_ci_upper: Its other end.
        lift: Conversion rate of the first decile of the later units over that of all of them.
        note: Why something is NaN; empty where nothing is.
        confidence: Level of the intervals.
        hashed: Whether the log's ids were hashed on reading.
        ranked: The units' scores, with their ids as they are in the log.
    """

    SHOWN: ClassVar[tuple[tuple[str, str, Kind], ...]] = (
        ("micro", "Micro-conversion", "text"),
        ("points", "Points", "count"),
        ("log_odds", "Log-odds", "number"),
        ("units_with", "Did it", "count"),
        ("note", "Note", "text"),
    )

    macro: str
    exposure: str
    horizon: str
    until: dt.date
    fitted: int
    base_points: float
    points_to_double: float
    validation: pd.DataFrame
    auc: float
    auc_ci_lower: float
    auc_ci_upper: float
    lift: float
    note: str
    confidence: float
    hashed: bool
    ranked: pd.DataFrame = dataclasses.field(repr=False)

    @property
    def scores(self) -> pd.DataFrame:
        """List the units that were at risk at their landmark: pending ones first, then by score, the highest first.

        Returns:
            `unit_id`, the hexadecimal HMAC-SHA-256 of the id's UTF-8 with the key in the environment variable
            `CONVLIB_HASH_KEY` (missing without one; ids that were hashed on reading stay); `score`; the `probability`
            that it stands for; its `decile` among all listed, 1 the highest, units of one score in the same; and
            `pending`: the outcome is still open.
        """
        if self.hashed:
            return self.ranked
        with contextlib.suppress(ParamError):
            return hash_frame(self.ranked, ["unit_id"])
        return self.ranked.assign(unit_id=pd.Series(pd.NA, index=self.ranked.index, dtype="str"))

    def export(self, path: str | Path) -> None:
        """Write the scores as CSV, with hashed ids.

        Raises:
            ParamError: The path is not one of a CSV file in a folder that is there, or the ids are not hashed and there
                is no key to do so.
        """
        scores, path, problems = self.scores, Path(path), []
        if path.suffix.lower() != ".csv":
            problems += [f"`path` is {str(path)!r}; it must end in .csv, which is what `export` writes."]
        if path.is_dir():
            problems += [f"`path` is {str(path)!r}, a folder; name a file."]
        if not path.parent.is_dir():
            problems += [f"`path` is {str(path)!r}, in a folder that is not there; make {str(path.parent)!r} first."]
        if scores["unit_id"].isna().any():
            problems += [
                "`export` writes hashed ids, and there is no key to hash them with. Put one of at least 16 bytes into "
                f"the environment variable {HASH_KEY}; whoever has it can join the scores to the users."
            ]
        if problems:
            raise ParamError(*problems)
        # Written beside the place and moved there, so that nobody reads half a table.
        scratch = path.with_name(f".{path.name}.part")
        scores.to_csv(scratch, index=False)
        scratch.replace(path)

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Draw the points of each micro with their intervals."""
        rows = self.named.dropna(subset="log_odds")
        scale = self.points_to_double / np.log(2)
        ends = {f"points_ci_{end}": rows[f"log_odds_ci_{end}"] * scale for end in ("lower", "upper")}
        rows = rows.assign(points=rows["points"].astype(float), **ends)
        macro = self.names[self.macro]
        return plots.draw_points(rows, double=self.points_to_double, macro=macro, segment=self.segment, ax=ax)

    def plot_calibration(self, ax: "Axes | None" = None) -> "Axes":
        """Draw the predicted against the observed conversion rate, decile by decile of the later units."""
        return plots.draw_calibration(self.validation, segment=self.segment, ax=ax)

    def plot_lift(self, ax: "Axes | None" = None) -> "Axes":
        """Draw how much more often than all the later units each decile of them converts."""
        return plots.draw_decile_lift(self.validation, segment=self.segment, ax=ax)


def score_units(
    log: EventLog,
    plan: Plan,
    *,
    macro: str,
    until: dt.date | str | None = None,
    exposure: str = "",
    horizon: str = "",
    entry: str | None = None,
    adjust: str | Sequence[str] = (),
    unit: Unit = "user",
    points_to_double: float = 20,
    confidence: float = stats.CONFIDENCE,
) -> Scorecard:
    """Say how many points each micro is worth, who has how many, and how well that tells who converts.

    The design is that of `correlate` with one landmark. The points are fitted as on the evening of `until`: on units
    whose outcome window was over by then, so that nothing that happened later is in them. They are tried on units
    that entered after `until` and whose window is over by the end of the data. Units that entered before, with a window
    that was not over, are in neither.

    Args:
        log: The log, seen through a segment and a period of entries.
        plan: The plan whose micros get points.
        macro: Id of the macro-conversion.
        until: Last day of what is fitted on, from the first day of entries to the last of the data; None takes the one
            that puts 70% of the usable units before it.
        exposure: Landmark after entry; empty takes the plan's last, else 7 days.
        horizon: How long after the landmark the macro counts; empty takes the plan's, else 14 days.
        entry: Conversion or event that starts the clock; None takes the plan's, else the first event in the period.
        adjust: Columns of the entry event that the log-odds are adjusted for, beside activity.
        unit: What is counted.
        points_to_double: How many points double the odds.
        confidence: Level of the intervals.

    Returns:
        One row a micro, in the plan's order: `units_with` it among those fitted on; its `log_odds` in the joint model
        of all micros, activity and `adjust`, with interval; its `points`, whole; and a `note` where they are missing. A
        unit's score is the sum of its points and `.base_points`, which is set so that the scores reproduce the number
        of conversions fitted on; a score of 0 means odds of 1:1,024. With fewer than 30 units of either outcome to fit
        on there are no points, with fewer than 5 to try them on neither AUC nor lift, and a `.note` says so.

    Raises:
        ParamError: An unknown macro, entry or column, or a date, duration or number that makes no sense.
        EventDataError: Nobody in the period has a complete window.

    Source: Siddiqi (2006), Credit Risk Scorecards, chapter 6, for the scaling.
    """
    check_log(log)
    check_shared(log.fewest, "Scores are those of single units")
    log.check_plan(plan)
    goal, day = _check_arguments(log, plan, macro, until, points_to_double, confidence)
    clock, adjust = goal.correlation or Clock(), list_columns(adjust)
    entry, exposure = entry or clock.entry, exposure or [DEFAULT_EXPOSURE, *clock.exposure][-1]
    horizon = horizon or clock.horizon or DEFAULT_HORIZON
    design = read_design([exposure], horizon)
    entries, followed = follow(log, goal, design, entry=entry, unit=unit, columns=adjust)
    if not followed.is_mature(design, design.landmarks[0]).any():
        check_followed(log, design, entry=entry, unit=unit)
    split = _choose_split(followed, design) if day is None else ((day - EPOCH).days + 1) * DAY
    risk = find_risk(dataclasses.replace(followed, end=min(split, followed.end)), design, entries[adjust])
    points = _fit_points(risk, goal, points_to_double, confidence)
    base = _find_base(risk, points["points"], points_to_double)
    ranked = _rank(followed, design, points["points"], base, points_to_double)
    later = ranked["mature"] & (followed.start[ranked["place"]] >= split)
    tried = _try_out(ranked[later], confidence)
    ids = name_units(log, unit, pd.Series(entries.index.to_numpy(np.int64)[ranked["place"]])).iloc[:, -1]
    card = Scorecard(
        table=points,
        takeaways=Takeaways(),
        segment=log.segment_name,
        names={c.id: c.name for c in (goal, *goal.micros)},
        macro=goal.id,
        exposure=exposure,
        horizon=horizon,
        until=EPOCH + dt.timedelta(days=split // DAY - 1),
        fitted=len(risk.unit),
        base_points=base,
        points_to_double=points_to_double,
        confidence=confidence,
        hashed=log.prepared.hashed,
        ranked=ranked.assign(unit_id=ids.astype("str"))[list(SCORES)],
        **{**tried, "note": _find_few(risk) or tried["note"]},
    )
    return dataclasses.replace(card, takeaways=_word(card))


def _word(card: Scorecard) -> Takeaways:
    return takeaways.word_scorecard(
        card.named,
        card.validation,
        card.ranked,
        macro=card.names[card.macro],
        segment=card.segment,
        until=card.until,
        fitted=card.fitted,
        area=(card.auc, card.auc_ci_lower, card.auc_ci_upper),
        note=card.note,
    )


def _check_arguments(
    log: EventLog, plan: Plan, macro: str, until: dt.date | str | None, points_to_double: float, confidence: float
) -> tuple[Macro, dt.date | None]:
    problems = list_problems(
        lambda: plan.find_macro(macro),
        lambda: stats.check_confidence(confidence),
        lambda: until is None or read_day(until, name="until"),
    )
    day = None if until is None or problems else read_day(until, name="until")
    first, last = max(log.period[0], log.first.date()), log.last.date()
    if day and not first <= day <= last:
        known = f"from {first}, the first day of entries, to {last}, the last of the data"
        problems += [f"`until` is {until!s}; it must be a day {known}."]
    number = isinstance(points_to_double, int | float) and not isinstance(points_to_double, bool)
    if not number or not 0 < points_to_double < np.inf:
        problems += [f"`points_to_double` is {points_to_double!r}; it must be above 0, such as 20."]
    if problems:
        raise ParamError(*problems)
    return plan.find_macro(macro), day


def _choose_split(followed: Followed, design: Design) -> int:
    """Choose the midnight with 70% of the units before it, of those whose window is over by it or that enter later."""
    start = np.sort(followed.start[followed.is_mature(design, design.landmarks[0])])
    if not len(start):
        return followed.end
    midnights = DAY * np.arange(start[0] // DAY + 1, (start[-1] + design.follow_up) // DAY + 2)
    before = np.searchsorted(start + design.follow_up, midnights, side="right")
    after = len(start) - np.searchsorted(start, midnights)
    share = np.nan_to_num(stats.divide(before, before + after))
    return int(midnights[np.argmin(np.abs(share - FITTED_SHARE))])


def _find_few(risk: Risk) -> str:
    """Say why there are no points at all."""
    converted = int(risk.outcome.sum())
    for units, words in ((converted, "converted"), (len(risk.outcome) - converted, "did not convert")):
        if units < FEWEST_FITTED:
            return f"{units:,} of the units to fit on {words}, needs {FEWEST_FITTED}"
    return ""


def _fit_points(risk: Risk, goal: Macro, points_to_double: float, confidence: float) -> pd.DataFrame:
    """Turn the log-odds of the joint model into points."""
    model, few = fit_model(risk, names=[micro.name for micro in goal.micros]), _find_few(risk)
    log_odds = np.where(few != "", np.nan, model.coefficients)
    reach = stats.normal_quantile(confidence) * np.sqrt(np.diag(model.covariance))
    low, high = log_odds - reach, log_odds + reach
    doubts = np.where((low <= 0) & (high >= 0), "may be 0", "")
    rows = {
        "micro": [micro.id for micro in goal.micros],
        "stage": [micro.stage for micro in goal.micros],
        "units_with": risk.exposed.sum(axis=0),
        "log_odds": log_odds,
        "log_odds_ci_lower": low,
        "log_odds_ci_upper": high,
        "points": np.round(log_odds * points_to_double / np.log(2)),
        "note": [few or note or str(doubt) for note, doubt in zip(model.notes, doubts, strict=True)],
    }
    texts = dict.fromkeys(("micro", "stage", "note"), "str")
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype({**texts, "points": "Int64"})


def _find_base(risk: Risk, points: pd.Series, points_to_double: float) -> float:
    """Find the points of a unit that did nothing, with which the probabilities add up to the conversions."""
    if _find_few(risk):
        return np.nan
    log_odds = risk.exposed @ points.fillna(0).to_numpy(float) * np.log(2) / points_to_double
    wanted = risk.outcome.sum()
    level = brentq(lambda base: float(expit(base + log_odds).sum() - wanted), -BEYOND, BEYOND)
    return float(np.round(points_to_double * (level / np.log(2) + DOUBLINGS)))


def _rank(followed: Followed, design: Design, points: pd.Series, base: float, points_to_double: float) -> pd.DataFrame:
    """Score the units that were at risk at their landmark, also those whose window is not over."""
    (landmark,) = design.landmarks
    left = np.minimum(followed.macro, followed.losses)
    place = np.flatnonzero((followed.start + landmark <= followed.end) & (left >= landmark))
    score = base + (followed.micros[place] < landmark) @ points.fillna(0).to_numpy(float)
    mature = followed.is_mature(design, landmark)[place]
    frame = pd.DataFrame(
        {
            "place": place,
            "score": pd.Series(score, dtype="Int64"),
            "probability": expit(np.log(2) * (score / points_to_double - DOUBLINGS)),
            "decile": _number_deciles(score),
            "pending": ~mature & (left[place] == NEVER),
            "mature": mature,
            "converted": followed.macro[place] < design.follow_up,
        }
    )
    return frame.sort_values(["pending", "score"], ascending=False, ignore_index=True)


def _number_deciles(score: Floats) -> "pd.api.extensions.ExtensionArray":
    """Number tenths from the highest scores down; units of one score are all in the highest that it reaches."""
    above = len(score) - np.searchsorted(np.sort(score), score, side="right")
    decile = np.where(np.isnan(score), np.nan, 10 * above // max(len(score), 1) + 1)
    return pd.array(decile, dtype="Int64")


def _try_out(later: pd.DataFrame, confidence: float) -> dict[str, Any]:
    """Compare the scores of units that entered later with what these did."""
    known = later.dropna(subset="score")
    known = known.assign(decile=_number_deciles(known["score"].to_numpy(float)))
    groups = known.groupby("decile")
    table = groups.agg(units=("converted", "size"), converted=("converted", "sum"), predicted=("probability", "mean"))
    low, high = stats.wilson_interval(table["converted"], table["units"], confidence=confidence)
    observed = stats.divide(table["converted"], table["units"])
    table = table.assign(observed=observed, observed_ci_lower=low, observed_ci_upper=high).reset_index()
    area, lift, hits = (np.nan,) * 3, np.nan, int(later["converted"].sum())
    fewest = min(hits, len(later) - hits)
    if fewest >= FEWEST_VALIDATED:
        area = stats.measure_area(known["score"], known["converted"], confidence=confidence)
        lift = float(observed[0] * len(later) / hits) if len(known) else np.nan
    words = "converted" if fewest == hits else "did not convert"
    note = f"{fewest:,} of the units to try it on {words}, needs {FEWEST_VALIDATED}"
    return {
        "validation": table,
        **dict(zip(("auc", "auc_ci_lower", "auc_ci_upper"), area, strict=True)),
        "lift": lift,
        "note": "" if fewest >= FEWEST_VALIDATED else note,
    }
