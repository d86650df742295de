"""What an experiment changed, in the form in which it takes an association's place."""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from convlib import stats
from convlib.documents import did_you_mean, quote_names
from convlib.errors import ParamError

#: The fields that are numbers, and what they must be above; all must be below 1.
BOUNDS = {"micro_effect": -1, "micro_error": 0, "macro_effect": -1, "macro_error": 0, "covariance": -1}


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
        """Say what is wrong with the fields."""
        wrong = [name for name, low in BOUNDS.items() if not _is_number(getattr(self, name), above=low)]
        for name in wrong:
            yield (
                f"`{name}` of `{self.micro}` is {getattr(self, name)!r}; it must be a number between {BOUNDS[name]} "
                "and 1: effects and their errors are shares, 0.03 is three points."
            )
        if not wrong and abs(self.covariance) > (most := self.micro_error * self.macro_error):
            yield (
                f"`covariance` of `{self.micro}` is {self.covariance!r}; it can't be larger than the product of the "
                f"two standard errors, {most:g}."
            )


def check_measured(
    measured: MeasuredEffect | Sequence[MeasuredEffect], micros: Sequence[str], *, macro: str
) -> list[MeasuredEffect]:
    """List the effects, of which there may be one alone, and refuse those that can't replace an association.

    Raises:
        ParamError: Every unknown micro, micro with two effects, and field that makes no sense.
    """
    listed = list(measured) if isinstance(measured, list | tuple) else [measured]
    effects = [each for each in listed if isinstance(each, MeasuredEffect)]
    problems = [
        f"`measured` holds {each!r}; it must hold `MeasuredEffect`s alone."
        for each in listed
        if not isinstance(each, MeasuredEffect)
    ]
    named = [str(each.micro) for each in effects]
    problems += [unknown_micro(name, micros, macro=macro) for name in dict.fromkeys(named) if name not in micros]
    problems += [
        f"`measured` has {named.count(name)} effects of `{name}`; give one, that of the experiment to go by."
        for name in dict.fromkeys(named)
        if named.count(name) > 1
    ]
    problems += [problem for each in effects for problem in each.find_problems()]
    if problems:
        raise ParamError(*problems)
    return effects


def _is_number(value: object, *, above: float) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool) and bool(above < value < 1)


def unknown_micro(name: str, micros: Sequence[str], *, macro: str) -> str:
    """Say that a name is no micro of a macro, and which are."""
    return (
        f"`{name}` is no micro-conversion of `{macro}`; its micro-conversions are "
        f"{quote_names(micros)}.{did_you_mean(name, micros)}"
    )
