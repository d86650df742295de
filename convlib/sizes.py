"""How many units show a change of a metric, or that it keeps within its margin, and what so many units would show."""

import dataclasses
import functools
import math
from collections.abc import Iterable

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from convlib import stats
from convlib.arms import FEW_CONVERSIONS, Contrast, find_detectable, find_power, size_arms
from convlib.samples import Role

Floats = NDArray[np.float64]
WEEK = 7
MANY = 1_000_000
NO_CHANGE = "no change to find"
#: Weeks of assignment of which the table says what they would show.
WEEKS = (1, 2, 4, 8)
DETECTABLE = tuple(f"detectable_{weeks}_week{'s' if weeks > 1 else ''}" for weeks in WEEKS)
COLUMNS = (
    *("role", "conversion", "metric", "units_measured", "value", "effect", "margin", "units_needed", "days_needed"),
    *DETECTABLE,
    "note",
)
CURVE_COLUMNS = ("role", "conversion", "metric", "weeks", "units", "power", "detectable")


@dataclasses.dataclass(frozen=True)
class Baseline:
    """What a metric is now, and which change of it the test is to show.

    Attributes:
        role: What the metric is for.
        conversion: The conversion's id.
        metric: The metric in words.
        name: The metric's name for people.
        units: How many units it was measured on.
        value: The metric.
        variance: Of the metric, for one unit.
        is_share: Whether it is a share of units, whose variance follows from its value.
        change: The change as a share of the value: the one to find, or the worsening that a guardrail is to exclude.
        is_margin_relative: Whether that is a margin as a share of the control's value, not in the metric's own unit.
        note: Why nothing can be planned; else empty.
    """

    role: Role
    conversion: str
    metric: str
    name: str
    units: int
    value: float
    variance: float
    is_share: bool
    change: float
    is_margin_relative: bool = False
    note: str = ""

    @property
    def effect(self) -> float:
        """The difference to show."""
        return abs(self.value * self.change)

    def find_variance(self, arm: float) -> float:
        """Give the variance that both arms have together, when the arm's share of the units is known.

        Amounts that change are taken to change alike, so that their spread does too; of a relative margin it is the
        control's spread, since what is judged is the arm less the tolerated part of the control.
        """
        if self.role == "guardrail":
            control = (1 + self.change) ** 2 if self.is_margin_relative else 1.0
            return (arm * control + 1 - arm) * self.variance
        moved = self.value * (1 + self.change)
        changed = moved * (1 - moved) if self.is_share else (1 + self.change) ** 2 * self.variance
        return (1 - arm) * changed + arm * self.variance

    def find_change(self, deviations: float, arm: float) -> float:
        """Give the change that is so many standard deviations of a unit, in the direction of the one to find."""
        square, sign = deviations**2, math.copysign(1, self.change)
        if self.role == "guardrail" and not self.is_margin_relative:
            return sign * deviations * math.sqrt(self.variance) / abs(self.value)
        if self.role != "guardrail" and self.is_share:
            return self._move_share(square, arm, sign)
        # The change's square is the part times (fixed + scaled (1 + change)^2).
        part = square * self.variance / self.value**2
        scaled = part * (arm if self.role == "guardrail" else 1 - arm)
        if scaled >= 1:
            return np.nan
        found = (scaled + sign * math.sqrt(scaled**2 + (1 - scaled) * part)) / (1 - scaled)
        return found if found > -1 else np.nan

    def _move_share(self, square: float, arm: float, sign: float) -> float:
        """Solve for the other rate, on which the variance depends: a quadratic."""
        now, then = square * arm * self.variance, square * (1 - arm)
        whole, half = 1 + then, self.value + then / 2
        root = math.sqrt(half**2 - whole * (self.value**2 - now))
        moved = (half + sign * root) / whole
        return moved / self.value - 1 if 0 <= moved <= 1 else np.nan


@dataclasses.dataclass(frozen=True)
class Layout:
    """How a test is laid out: what divides its units and judges its numbers.

    Attributes:
        shares: The share of the units in each arm, the control's first.
        per_day: How many units enter a day.
        follow_up: For how long each is followed.
        power: With which the changes are to be shown.
        confidence: Level of the intervals that judge them.
    """

    shares: tuple[float, ...]
    per_day: float
    follow_up: str
    power: float = stats.POWER
    confidence: float = stats.CONFIDENCE

    @property
    def compared(self) -> float:
        """The share of the units in the control and the smallest other arm, whose comparison has the least power."""
        return self.shares[0] + min(self.shares[1:])

    @property
    def arm(self) -> float:
        """The smallest arm's share of these."""
        return min(self.shares[1:]) / self.compared

    @functools.cached_property
    def level(self) -> float:
        """The level of each comparison at which the intervals of all arms hold together."""
        shared = [share / (self.shares[0] + share) for share in self.shares[1:]]
        return 1 - stats.simultaneous_level(shared, confidence=self.confidence)

    def contrast(self, role: Role) -> Contrast:
        """Say how these two are compared; a guardrail's interval has to clear its margin on one side."""
        is_guardrail = role == "guardrail"
        return Contrast(self.level / 2 if is_guardrail else self.level, is_guardrail, self.arm)


#: A test as `stats.POWER` and `stats.SIGNIFICANCE` have it, of a traffic that does not matter.
PAIR = Layout((0.5, 0.5), np.nan, "")


def describe_share(
    role: Role, conversion: str, name: str, *, did: int, units: int, change: float, metric: str = "rate"
) -> Baseline:
    """Describe a share of units; a guardrail's change is its margin as a share of it.

    Args:
        role: What it is for.
        conversion: The conversion's id.
        name: Its name for people.
        did: How many units did it.
        units: Out of how many.
        change: The change of the share, as a share of it.
        metric: The metric in words.
    """
    value = float(stats.divide(did, units))
    return find_obstacle(
        Baseline(
            role=role,
            conversion=conversion,
            metric=metric,
            name=name,
            units=int(units),
            value=value,
            variance=value * (1 - value),
            is_share=True,
            change=change,
            is_margin_relative=role == "guardrail",
        ),
        did=int(did),
    )


def find_obstacle(each: Baseline, *, did: int) -> Baseline:
    """Note why a test of a metric that so many units added to can't be planned, if it can't."""
    others = each.units - did if each.is_share else FEW_CONVERSIONS
    moved = each.value * (1 + each.change) if each.is_share and each.role != "guardrail" else 0.0
    cases = (
        (each.units < stats.FEW_UNITS, f"n = {each.units:,}, needs {stats.FEW_UNITS}"),
        (did == 0, "nobody did it"),
        (did < FEW_CONVERSIONS, f"{did} did it, needs {FEW_CONVERSIONS}"),
        (others < FEW_CONVERSIONS, f"{others} did not do it, needs {FEW_CONVERSIONS}"),
        (not (each.value > 0 and each.variance > 0), "is not above zero, or does not vary"),
        (not abs(each.change) > 0, NO_CHANGE),
        (moved > 1, f"{each.change:.0%} more than {each.value:.1%} is more than all"),
        (each.is_margin_relative and each.change <= -1, "its margin is more than all of it"),
    )
    return dataclasses.replace(each, note=next((note for holds, note in cases if holds), ""))


def plan_metrics(baselines: Iterable[Baseline], layout: Layout) -> pd.DataFrame:
    """Say of each metric how many units and days it needs, and what other lengths would show (`COLUMNS`)."""
    return pd.DataFrame([_plan_metric(each, layout) for each in baselines], columns=list(COLUMNS))


def draw_out(baselines: Iterable[Baseline], layout: Layout, *, weeks: int) -> pd.DataFrame:
    """Give the power of each metric, and what would be shown, after each number of weeks (`CURVE_COLUMNS`)."""
    rows = [_plan_week(each, layout, week) for each in baselines if not each.note for week in range(1, weeks + 1)]
    return pd.DataFrame(rows, columns=list(CURVE_COLUMNS))


def count_days(units: float, layout: Layout) -> float:
    """Count the days on which so many units enter, at least a week; NaN when either is not known."""
    return float(np.maximum(np.ceil(stats.divide(units, layout.per_day)), WEEK))


def size_rates(now: ArrayLike, then: ArrayLike) -> Floats:
    """Say how many units two equal arms need to tell two rates apart, at `POWER` and `SIGNIFICANCE`, two-sided.

    NaN where the first is not between 0 and 1, or the two are equal.
    """
    moves = zip(np.asarray(now, float), np.asarray(then, float), strict=True)
    return np.array([_count_units(_move_rate(*move), PAIR) for move in moves], float)


def least_moves(now: ArrayLike, towards: ArrayLike, units: ArrayLike) -> Floats:
    """Give the least move of a rate in a direction that two equal arms of so many units together find.

    NaN where there is no direction, or not even a rate of 0 or 1 would be found.
    """
    asked = zip(*(np.asarray(column, float) for column in (now, towards, units)), strict=True)
    return np.array([rate * _detect(_move_rate(rate, goal), PAIR, count) for rate, goal, count in asked], float)


def _move_rate(now: float, then: float) -> Baseline:
    """Describe a rate that is to become another, however few units it was measured on."""
    change = float(stats.divide(then, now)) - 1
    note = "" if 0 < now < 1 and 0 <= then <= 1 and change else NO_CHANGE
    return Baseline("primary", "", "rate", "", 0, now, now * (1 - now), is_share=True, change=change, note=note)


def _plan_metric(each: Baseline, layout: Layout) -> tuple[object, ...]:
    units = _count_units(each, layout)
    is_guardrail = each.role == "guardrail"
    sizes = np.nan if is_guardrail else each.change, abs(each.change) if is_guardrail else np.nan
    known = each.role, each.conversion, each.metric, each.units, each.value, *sizes
    shown = [_detect(each, layout, weeks * WEEK * layout.per_day) for weeks in WEEKS]
    return *known, units, count_days(units, layout), *shown, each.note


def _plan_week(each: Baseline, layout: Layout, week: int) -> tuple[object, ...]:
    units = week * WEEK * layout.per_day
    compared, variance = int(units * layout.compared), each.find_variance(layout.arm)
    chance = find_power(each.effect, variance, compared, layout.contrast(each.role)) if compared > 1 else np.nan
    return each.role, each.conversion, each.metric, week, int(units), chance, _detect(each, layout, units)


def _count_units(each: Baseline, layout: Layout) -> float:
    """Count the units that all arms need together, a whole number of them each."""
    if each.note:
        return np.nan
    variance = each.find_variance(layout.arm)
    found = size_arms(each.effect, variance, layout.contrast(each.role), power=layout.power)
    arms = len(layout.shares)
    # What is left of rounding must not ask for one more of each.
    return float(arms * math.ceil(found / layout.compared / arms - stats.TINY))


def _detect(each: Baseline, layout: Layout, units: float) -> float:
    """Give the relative change that so many units in all arms show; of a guardrail, the margin."""
    compared = int(units * layout.compared) if np.isfinite(units) else 0
    if each.note or compared < 2:
        return np.nan
    # What is shown shrinks with the root of the units, so that it is solved for once.
    once = find_detectable(MANY, layout.contrast(each.role), power=layout.power)
    change = each.find_change(once * math.sqrt(MANY / compared), layout.arm)
    return abs(change) if each.role == "guardrail" else change
