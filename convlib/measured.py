"""What an experiment changed, in the form in which it takes an association's place."""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from convlib import stats
from convlib.documents import did_you_mean, quote_names
from convlib.errors import ParamError


@dataclasses.dataclass(frozen=True)
class MeasuredEffect:
    """What an experiment changed: the share of units that do a micro, and of those that do the macro.

    Args:
        micro: The micro-conversion that the experiment was to move.
        micro_effect: Difference of its rate between the arms, as a share: 0.02 is two points.
        micro_error: Standard error of that.
        macro_effect: Difference of the macro's rate.
        macro_error: Standard error of that.
        covariance: Of the two differences.
        name: Name of the experiment.
    """

    micro: str
    micro_effect: float
    micro_error: float
    macro_effect: float
    macro_error: float
    covariance: float = 0.0
    name: str = ""

    @property
    def ratio(self) -> float:
        """Give the macro's effect for each unit that the experiment brought to do the micro."""
        return self.macro_effect / self.micro_effect

    def bound_ratio(self, confidence: float) -> tuple[float, float]:
        """Give Fieller's interval of the ratio; NaN where the micro did not clearly move, so that it has no bounds."""
        top, bottom = (self.macro_effect, self.macro_error), (self.micro_effect, self.micro_error)
        return stats.fieller_interval(top, bottom, covariance=self.covariance, confidence=confidence)

    def draw_ratio(self, rng: np.random.Generator, draws: int) -> NDArray[np.float64]:
        """Draw the ratio with its uncertainty."""
        spread = [[self.micro_error**2, self.covariance], [self.covariance, self.macro_error**2]]
        micro, macro = rng.multivariate_normal([self.micro_effect, self.macro_effect], spread, draws).T
        return stats.divide(macro, micro)

    def find_problems(self) -> Iterator[str]:
        """Say what is wrong with the numbers."""
        for field in ("micro_effect", "macro_effect", "covariance"):
            if not np.isfinite(getattr(self, field)):
                yield f"`{field}` of `{self.micro}` is {getattr(self, field)!r}; it must be a finite number."
        for field in ("micro_error", "macro_error"):
            if not 0 < getattr(self, field) < np.inf:
                yield f"`{field}` of `{self.micro}` is {getattr(self, field)!r}; it must be above 0."
        most = self.micro_error * self.macro_error
        if 0 < most < abs(self.covariance):
            yield (
                f"`covariance` of `{self.micro}` is {self.covariance!r}; it can't be larger than the product of the "
                f"two standard errors, {most:g}."
            )


def check_measured(measured: Sequence[MeasuredEffect], micros: Sequence[str], *, macro: str) -> None:
    """Refuse effects that can't stand in the place of an association.

    Raises:
        ParamError: Every unknown micro, micro with two effects, and number that makes no sense.
    """
    named = [each.micro for each in measured]
    problems = [unknown_micro(name, micros, macro=macro) for name in dict.fromkeys(named) if name not in micros]
    problems += [
        f"`measured` has {named.count(name)} effects of `{name}`; give one, that of the experiment to go by."
        for name in dict.fromkeys(named)
        if named.count(name) > 1
    ]
    problems += [problem for each in measured for problem in each.find_problems()]
    if problems:
        raise ParamError(*problems)


def unknown_micro(name: str, micros: Sequence[str], *, macro: str) -> str:
    """Say that a name is no micro of a macro, and which are."""
    return (
        f"`{name}` is no micro-conversion of `{macro}`; its micro-conversions are "
        f"{quote_names(micros)}.{did_you_mean(name, micros)}"
    )
