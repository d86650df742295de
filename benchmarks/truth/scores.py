"""What products show for the same log: one number a micro, the larger the better, as their documents define it."""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from benchmarks.truth.scenarios import DAY, FOLLOW_UP, Log
from convlib import stats
from convlib.landmarks import NEVER
from convlib.stats import Floats

Bools = NDArray[np.bool_]

#: Amplitude's example: "within the first seven days of becoming a new user".
FIRST_DAYS = 7
#: PostHog adds so much to every cell.
PRIOR = 1


def score_phi(log: Log) -> Floats:
    """Correlate having done the micro with converting: before the conversion, or in the whole follow-up without one.

    Source: Mixpanel's Signal report (docs.mixpanel.com/docs/reports/apps/signal): "the phi coefficient".
    """
    return _correlate(_count(_until_conversion(log), log))


def score_odds_ratio(log: Log) -> Floats:
    """Give PostHog's odds ratio of its funnel correlation, from entry to conversion within the follow-up.

    Events count from the first step to the last, or to the end of the window for those who don't get there; 1 is
    added to each cell. (PostHog drops events of fewer than 25 persons, or 2%; here they keep their place.)

    Source: posthog/hogql_queries/insights/funnels/funnel_correlation_query_runner.py, `get_entity_odds_ratio`.
    """
    both, only_micro, only_macro, neither = _count(_until_conversion(log), log) + PRIOR
    return stats.divide(both * neither, only_macro * only_micro)


def score_first_days(log: Log) -> Floats:
    """Correlate having done the micro in the first seven days, before or after converting, with converting at all.

    Source: Amplitude's Compass chart (amplitude.com/docs/analytics/charts/compass): the correlation of two yes/no
        variables, "whether the user triggered the event in question at least a certain number of times", within the
        first N days, and whether they came to be in the target cohort. Here: once, seven days, those who converted.
    """
    return _correlate(_count(log.micros < FIRST_DAYS * DAY, log))


def score_last_touch(log: Log) -> Floats:
    """Give each micro's share of the conversions that it was the last touch of.

    Source: Google Analytics' last-click model (support.google.com/analytics/answer/10596866): all credit goes to the
        last touch before the conversion.
    """
    before = np.where(_until_conversion(log), log.micros, -1)[log.macro < FOLLOW_UP]
    touched = before[before.max(axis=1) >= 0]
    credits = np.bincount(touched.argmax(axis=1), minlength=log.micros.shape[1])
    return stats.divide(credits, len(touched))


SCORES: Mapping[str, Callable[[Log], Floats]] = {
    "phi": score_phi,
    "PostHog odds ratio": score_odds_ratio,
    "Amplitude first days": score_first_days,
    "last-touch share": score_last_touch,
}


def _until_conversion(log: Log) -> Bools:
    """Say who did what before converting, or before the end of the follow-up."""
    done: Bools = log.micros < np.minimum(log.macro, FOLLOW_UP)[:, None]
    return done


def _count(done: Bools, log: Log) -> Floats:
    """Count, for each micro, the units with both, with the micro only, with the macro only, and with neither."""
    converted = log.macro < NEVER
    with_macro, without = done[converted].sum(axis=0), done[~converted].sum(axis=0)
    return np.array([with_macro, without, converted.sum() - with_macro, (~converted).sum() - without], np.float64)


def _correlate(cells: Floats) -> Floats:
    both, only_micro, only_macro, neither = cells
    margins = (both + only_micro) * (only_macro + neither) * (both + only_macro) * (only_micro + neither)
    return stats.divide(both * neither - only_micro * only_macro, np.sqrt(margins))
