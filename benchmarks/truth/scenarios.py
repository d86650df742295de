"""Logs with planted effects: in each scenario one thing is in the way, and the truth stays known in closed form.

A micro done before a landmark adds its effect, in points, to the probability of converting within the horizon after it,
for whoever is at risk at the landmark, whatever their segment, activity or other micros. So the counterfactual risk
difference at every landmark is the planted effect itself: an average over any mix of people changes nothing.
"""

import dataclasses
import zlib
from functools import cached_property

import numpy as np
import pandas as pd

from convlib.conversions import Ints
from convlib.landmarks import NEVER, Design, Followed
from convlib.stats import Floats

HOUR = 3_600_000_000
DAY = 24 * HOUR
#: The first landmark's window, from day 1 to 8, and the second's, from 3 to 10, overlap.
LANDMARKS, HORIZON = (DAY, 3 * DAY), 7 * DAY
FOLLOW_UP = LANDMARKS[-1] + HORIZON
#: Units enter over 33 days; the data end on day 40, so the last of them are pending.
START, ENTRIES, END = 1_704_067_200_000_000, 33 * DAY, 40 * DAY
EFFECTS = (0.12, 0.09, 0.06, 0.04, 0.02, 0.0, -0.02, -0.05)
#: Other events on the first day, on average; few units have many of them. So many give half of the pull.
MEAN_LEVEL = 8.0


@dataclasses.dataclass(frozen=True)
class Scenario:
    """What is planted, and what is in the way.

    Attributes:
        name: What is in the way.
        effects: Of each micro, in points of probability.
        base: Probability of converting between the landmarks, from there to the end of the first window, and after it.
        prevalence: Least and most probable micro on the first day; drawn anew in each log.
        late: Share of the others who do a micro between the landmarks.
        spread: Micros happen at any time, each at its own pace, instead of on the first day.
        early: Share that converts before the first landmark, whatever they did; nobody does anything after converting.
        leaving: Share that leaves for good before the first landmark.
        risks: Probability of converting that each segment adds.
        shares: Of the segments.
        tilt: How much more or less probable the last segment makes a micro than the first; drawn anew in each log.
        reversed_order: The micros that help most are the most common where conversion is rare.
        pull: Probability of converting that activity adds at most. A micro is drawn anew at each event of a unit.
        counted: The log counts what drives them exactly; else the count is a noisy measure of it.
        pairs: Pairs (follower, leader): who does the leader nearly always does the follower, others hardly ever.
        precondition: A further micro without which nobody converts.
        landmarks: How many landmarks the design has.
        null_share: Effects are drawn anew in each log, small ones likelier; so many are none.
        units: In a log of the study of false discoveries, power and order.
    """

    name: str
    effects: tuple[float, ...] = EFFECTS
    base: tuple[float, float, float] = (0.04, 0.16, 0.10)
    prevalence: tuple[float, float] = (0.3, 0.3)
    late: float = 0.0
    spread: bool = False
    early: float = 0.0
    leaving: float = 0.0
    risks: tuple[float, ...] = (0.0,)
    shares: tuple[float, ...] = (1.0,)
    tilt: float = 0.0
    reversed_order: bool = False
    pull: float = 0.0
    counted: bool = True
    pairs: tuple[tuple[int, int], ...] = ()
    precondition: bool = False
    landmarks: int = 2
    null_share: float | None = None
    units: int = 10_000

    @property
    def design(self) -> Design:
        """Give the clock of the analysis."""
        return Design(landmarks=LANDMARKS[: self.landmarks], horizon=HORIZON)

    @property
    def raw_is_fair(self) -> bool:
        """Say whether nothing but chance stands between the raw lift and the truth."""
        return len(self.risks) == 1 and not self.pull and not self.pairs


@dataclasses.dataclass(frozen=True)
class Log:
    """What the units of one log did; times in microseconds since entry, NEVER for what they did not.

    Attributes:
        start: Entry, microseconds since 1970.
        macro: Of the conversion.
        micros: Units x micros, of the first of each.
        losses: Of leaving for good.
        activity: Units x landmarks: events other than conversions and losses before each, the entry included.
        segment: Number of each unit's segment.
        truth: The effect of each micro; NaN for the precondition.
        seed: What the log was drawn with.
    """

    start: Ints
    macro: Ints
    micros: Ints
    losses: Ints
    activity: Ints
    segment: Ints
    truth: Floats
    seed: int

    @cached_property
    def names(self) -> list[str]:
        """Name the micros."""
        return [f"micro_{number}" for number in range(1, self.micros.shape[1] + 1)]

    def follow(self, scenario: Scenario) -> Followed:
        """Give the log as the arrays that convlib's analyses start from."""
        count = scenario.landmarks
        return Followed(
            start=self.start,
            macro=self.macro,
            micros=self.micros,
            losses=self.losses,
            activity=self.activity[:, :count],
            values=np.zeros((len(self.start), count)),
            spent=np.zeros((len(self.start), 2)),
            end=START + END,
        )

    @property
    def covariates(self) -> pd.DataFrame:
        """Give what the entry event says of each unit."""
        return pd.DataFrame({"segment": self.segment})

    def to_events(self) -> pd.DataFrame:
        """Write the log as events: a visit on entry, other visits, micros, conversions and losses."""
        rng = np.random.default_rng(self.seed)
        everyone = np.arange(len(self.start))
        parts = [("visit", everyone, everyone * 0)]
        bounds = zip((1, *LANDMARKS), LANDMARKS, np.diff(self.activity - 1, axis=1, prepend=0).T, strict=False)
        parts += [("visit", everyone.repeat(more), rng.integers(low, high, more.sum())) for low, high, more in bounds]
        columns = zip(["buy", "leave", *self.names], [self.macro, self.losses, *self.micros.T], strict=True)
        parts += [(name, np.flatnonzero(times < NEVER), times[times < NEVER]) for name, times in columns]
        frames = [
            pd.DataFrame(
                {"event_name": name, "unit": unit, "segment": self.segment[unit], "time": self.start[unit] + since}
            )
            for name, unit, since in parts
        ]
        # The data end with an event of somebody who is pending.
        last = pd.DataFrame({"event_name": ["visit"], "unit": [-1], "segment": [0], "time": [START + END]})
        events = pd.concat([*frames, last], ignore_index=True)
        events = events[events["time"] <= START + END]
        return pd.DataFrame(
            {
                "event_name": events["event_name"],
                "timestamp": pd.to_datetime(events["time"], unit="us", utc=True),
                "user_id": "u" + events["unit"].astype("str"),
                "segment": "s" + events["segment"].astype("str"),
            }
        )

    def write_plan(self) -> str:
        """Write the measurement plan of the log."""
        micros = "".join(
            f"      - {{id: {name}, match: {{event_name: {name}}}, stage: decision, kind: secondary_action}}\n"
            for name in self.names
        )
        macro = "macros:\n  - id: buy\n    match: {event_name: buy}\n"
        return f"{macro}    losses: [{{id: leave, match: {{event_name: leave}}}}]\n    micros:\n{micros}"


def simulate(scenario: Scenario, seed: int, *, units: int = 0) -> Log:
    """Draw one log.

    Args:
        scenario: What is planted.
        seed: Each log has its own.
        units: How many; without it as many as the scenario says.
    """
    count = units or scenario.units
    rng = np.random.default_rng([seed, zlib.crc32(scenario.name.encode())])
    segment = rng.choice(len(scenario.shares), count, p=scenario.shares)
    level = rng.poisson(rng.exponential(MEAN_LEVEL, count))
    drive = level / (level + MEAN_LEVEL)
    micros = _draw_micros(scenario, segment, level, rng)
    masses = divide_risk(
        np.add.outer(np.asarray(scenario.risks)[segment] + scenario.pull * drive, np.zeros(3)) * [0, 1, 0]
        + scenario.base,
        _add_effects(scenario, micros, LANDMARKS[0]),
        _add_effects(scenario, micros, LANDMARKS[1]),
    )
    macro = _draw_times(masses, rng)
    early = rng.random(count)
    first_day = rng.integers(HOUR, DAY, count)
    macro = np.where(early < scenario.early, first_day, macro)
    losses = np.where(early > 1 - scenario.leaving, first_day, NEVER)
    macro = np.where(losses < NEVER, NEVER, macro)
    if scenario.precondition:
        able = np.where(macro < NEVER, rng.integers(1, np.minimum(macro, FOLLOW_UP), count), NEVER)
        others = np.where(rng.random(count) < 0.3, rng.integers(1, FOLLOW_UP, count), NEVER)
        micros = np.column_stack([micros, np.where(macro < NEVER, able, others)])
    start = START + np.sort(rng.integers(0, ENTRIES, count))
    seen = START + END - start
    macro, losses = (np.where(times < seen, times, NEVER) for times in (macro, losses))
    micros = np.where(micros < np.minimum(np.minimum(macro, losses), seen)[:, None], micros, NEVER)
    return Log(
        start=start,
        macro=macro,
        micros=micros,
        losses=losses,
        activity=1 + _count_activity(scenario, level, rng),
        segment=segment,
        truth=np.array([*scenario.effects, *[np.nan] * scenario.precondition]),
        seed=seed,
    )


def divide_risk(base: Floats, effect: Floats, later_effect: Floats) -> Floats:
    """Divide the probability of converting over the three intervals that the landmarks' windows are made of.

    Between the landmarks nothing helps yet. What was done before the first landmark counts from the second on; what was
    done between them, after the first window. The last interval is set so that at either landmark those at risk
    convert within the horizon with a probability of their own plus the effects of what they did before it.

    Args:
        base: Units x 3: probability of converting in each interval without any micro.
        effect: Of the micros done before the first landmark, summed for each unit.
        later_effect: Of the micros done before the second.

    Raises:
        ValueError: A probability is below 0 or their sum above 1: the truth would not be the planted effect.
    """
    first, second, third = base.T
    masses = np.column_stack(
        [first, second + effect, third - first * effect + (1 - first) * (later_effect - effect)],
    )
    if masses.min() < 0 or masses.sum(axis=1).max() > 1:
        msg = f"The effects lead to probabilities from {masses.min():.3f} to {masses.sum(axis=1).max():.3f}."
        raise ValueError(msg)
    return masses


def _draw_micros(scenario: Scenario, segment: Ints, level: Ints, rng: np.random.Generator) -> Ints:
    """Draw when each unit first does each micro, if nothing stops it."""
    shape = (len(segment), len(scenario.effects))
    if scenario.spread:
        # In days: who is quick and who is slow changes from log to log.
        pace = rng.permutation(np.geomspace(0.5, 8, shape[1]))
        times = 1 + (DAY * pace * rng.exponential(size=shape)).astype(np.int64)
        return np.where(times < FOLLOW_UP, times, NEVER)
    chance = rng.uniform(*scenario.prevalence, shape[1]) + np.zeros(shape)
    place = segment / max(1, len(scenario.shares) - 1) - 0.5
    chance += np.outer(place, rng.uniform(-scenario.tilt, scenario.tilt, shape[1]))
    if scenario.reversed_order:
        chance += np.outer(place, np.linspace(-0.5, 0.5, shape[1]))
    if scenario.pull:
        chance = -np.expm1(np.outer(-level / MEAN_LEVEL, rng.permutation(np.geomspace(0.05, 1, shape[1]))))
    draws = rng.random(shape)
    done = draws < chance
    for follower, leader in scenario.pairs:
        done[:, follower] = draws[:, follower] < np.where(done[:, leader], 0.9, 0.03)
    later = rng.random(shape) < scenario.late
    times = np.where(done, rng.integers(1, DAY, shape), rng.integers(LANDMARKS[0], LANDMARKS[1], shape))
    return np.where(done | later, times, NEVER)


def _add_effects(scenario: Scenario, micros: Ints, landmark: int) -> Floats:
    return np.asarray((micros < landmark) @ np.asarray(scenario.effects), np.float64)


def _draw_times(masses: Floats, rng: np.random.Generator) -> Ints:
    edges = np.array([LANDMARKS[0], LANDMARKS[1], LANDMARKS[0] + HORIZON, FOLLOW_UP])
    interval = (rng.random(len(masses))[:, None] >= masses.cumsum(axis=1)).sum(axis=1)
    converts = interval < 3
    interval = np.minimum(interval, 2)
    return np.where(converts, rng.integers(edges[interval], edges[interval + 1]), NEVER)


def _count_activity(scenario: Scenario, level: Ints, rng: np.random.Generator) -> Ints:
    """Count the other events before each landmark."""
    if scenario.counted:
        return np.column_stack([level, 2 * level])
    return np.column_stack([rng.poisson(level), rng.poisson(2 * level)]).cumsum(axis=1)


CLEAN = Scenario("clean", landmarks=1)
STACKED = Scenario("two landmarks", prevalence=(0.1, 0.4), late=0.2)
IMMORTAL = Scenario("immortal time", spread=True, early=0.3)
SEGMENTS = Scenario(
    "confounding by segment", prevalence=(0.2, 0.4), tilt=0.4, risks=(0, 0.08, 0.16, 0.3), shares=(0.4, 0.3, 0.2, 0.1)
)
ACTIVITY = Scenario("activity bias", pull=0.3, counted=False)
COUNTED = dataclasses.replace(ACTIVITY, name="activity, counted exactly", counted=True)
PRECONDITION = Scenario("precondition", prevalence=(0.2, 0.4), precondition=True)
SIMPSON = Scenario("Simpson reversal", prevalence=(0.35, 0.35), risks=(0, 0.3), shares=(0.5, 0.5), reversed_order=True)
RARE = Scenario(
    "rare events",
    effects=(0.10, 0.07, 0.05, 0.035, 0.02, 0.01, 0.0, -0.004),
    base=(0.001, 0.007, 0.002),
    prevalence=(0.01, 0.03),
    units=50_000,
)
COLLINEAR = Scenario(
    "collinear micros",
    effects=(0.14, 0.0, 0.09, -0.03, 0.05, 0.02, -0.05),
    pairs=((1, 0), (3, 2)),
)
LEAVING = Scenario("leaving for good", spread=True, leaving=0.4)
#: Half of the conversions come without any micro, so that whatever is drawn keeps probabilities between 0 and 1.
DRAWN = tuple(
    Scenario(name, base=(0.05, 0.4, 0.1), prevalence=(0.1, 0.4), landmarks=1, null_share=share)
    for name, share in (("effects drawn anew, half of them none", 0.5), ("effects drawn anew, none of them none", 0.0))
)
SCENARIOS = (CLEAN, STACKED, IMMORTAL, SEGMENTS, ACTIVITY, COUNTED, PRECONDITION, SIMPSON, RARE, COLLINEAR, LEAVING)
