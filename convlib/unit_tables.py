"""An experiment given as a table with one row a unit, checked as a whole."""

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, get_args

import numpy as np
import pandas as pd

from convlib.canonical import NO_VALUE
from convlib.documents import did_you_mean, quote_names, word_columns
from convlib.errors import ParamError
from convlib.plan_entries import Direction
from convlib.plan_experiments import SHARE_TOLERANCE, Margin, find_margin_problems
from convlib.samples import Floats, Measurement, Role, Sample, check_arms, check_measurements

Column = str | tuple[str, ...]
#: So many values are listed in a message at most.
MOST_SHOWN = 10
EXAMPLE = '{"revenue": 0.02}'


@dataclasses.dataclass(frozen=True)
class UnitTable:
    """A table of units, with what its columns mean; see `Experiment.from_units`."""

    units: pd.DataFrame
    arm: str
    control: object
    primary: Column
    guardrails: Mapping[Any, float | Margin]
    metrics: tuple[Column, ...]
    covariates: Mapping[str, str]
    directions: Mapping[str, Direction]
    shares: Mapping[Any, float] | None
    unit: str | None
    entered: str | None
    segments: tuple[str, ...]
    name: str

    def read(self) -> Sample:
        """Read the units.

        Raises:
            ParamError: Columns or arguments are wrong; every problem.
            EventDataError: An arm ran at another time, or values are negative.
        """
        given: object = self.units
        if not isinstance(given, pd.DataFrame):
            msg = f"`units` is of type {type(given).__name__}; it must be a pandas DataFrame with one row a unit."
            raise ParamError(msg)
        problems = [*self._find_missing()]
        problems = problems or [*self._find_problems()]
        if problems:
            raise ParamError(*problems)
        rows, crossed = self._list_units()
        arms = self._list_arms()
        planned = {_write(name): share for name, share in (self.shares or {}).items()}
        shares = tuple(planned.get(each, 1 / len(arms)) for each in arms)
        arm = pd.Categorical(_write_all(rows[self.arm]), list(arms)).codes.astype(np.int64)
        entered = None
        if self.entered is not None:
            entered = _read_times(rows[self.entered]).to_numpy().astype(np.int64)
        check_arms(arms, shares, arm, entered, what=self.name)
        return Sample(
            arms=arms,
            shares=shares,
            arm=arm,
            entered=entered,
            segments=pd.DataFrame({name: _write_all(rows[name]) for name in self.segments}, index=range(len(rows))),
            measurements=check_measurements(self._measure(rows), what=self.name),
            assigned=np.bincount(arm, minlength=len(arms)),
            pending=np.zeros(len(arms), np.int64),
            dates=None if entered is None else (int(entered.min()), int(entered.max())),
            crossed=crossed,
        )

    @property
    def _columns(self) -> list[tuple[Role, Column]]:
        """The columns that are measured, with their roles."""
        others: list[tuple[Role, Column]] = [("metric", each) for each in self.metrics]
        return [("primary", self.primary), *(("guardrail", each) for each in self.guardrails), *others]

    @property
    def _numbers(self) -> list[str]:
        """The columns that must hold numbers."""
        measured = [name for _, each in self._columns for name in ([each] if isinstance(each, str) else each)]
        return list(dict.fromkeys([*measured, *self.covariates.values()]))

    def _find_missing(self) -> Iterator[str]:
        if not hasattr(self.guardrails, "items"):
            text = "it must say of each column how much worse it may be"
            yield f"`guardrails` is {self.guardrails!r}; {text}, such as {EXAMPLE}."
            return
        for _, each in self._columns:
            if not isinstance(each, str) and (not isinstance(each, tuple | list) or len(each) != 2):
                yield f"{each!r} must be the name of a column, or a pair of them such as ('clicks', 'views')."
                return
        columns = list(self.units.columns)
        named = [self.arm, *self._numbers, *self.covariates, *self.directions, *self.segments]
        named += [each for each in (self.unit, self.entered) if each is not None]
        for name in dict.fromkeys(named):
            if name not in columns:
                yield f"The table has no column `{name}`.{word_columns(name, map(str, columns))}"
            elif columns.count(name) > 1:
                yield f"The table has {columns.count(name)} columns {name!r}. Rename them."

    def _find_problems(self) -> Iterator[str]:
        bases = {each[1] for _, each in self._columns if not isinstance(each, str)}
        yield from self._find_arm_problems()
        for name in self._numbers:
            yield from self._find_number_problems(name, is_base=name in bases)
        if not self.guardrails:
            yield (
                "`guardrails` names none; an experiment without a guardrail can win while the outcome that pays falls. "
                f"Give its column and how much worse it may be, such as {EXAMPLE}."
            )
        for each, margin in self.guardrails.items():
            yield from (f"The margin of {each!r} {text}" for text in _check_margin(margin))
        for name, direction in self.directions.items():
            if direction not in get_args(Direction):
                yield f"The direction of {name!r} is {direction!r}; it must be 'up' or 'down'."
        for each, times in Counter(column for _, column in self._columns).items():
            if times > 1:
                yield f"{each!r} stands {times} times among `primary`, `guardrails` and `metrics`; name it once."
        yield from self._find_unmeasured()
        if self.entered is not None:
            yield from _check_times(self.units[self.entered])
        if self.unit is not None:
            yield from self._find_repeated(self.unit)

    def _find_unmeasured(self) -> Iterator[str]:
        """Find what is said of columns that are no metric: it would be passed over."""
        parts = [(each,) if isinstance(each, str) else each for _, each in self._columns]
        leading, measured = [each[0] for each in parts], [name for each in parts for name in each]
        for what, named, known in (("directions", self.directions, leading), ("covariates", self.covariates, measured)):
            for name in named:
                if name not in known:
                    near = did_you_mean(name, known)
                    yield f"`{what}` names {name!r}, which is no metric here; these are: {quote_names(known)}.{near}"
        for name, before in self.covariates.items():
            if before in measured:
                yield (
                    f"The covariate of {name!r} is {before!r}, which is measured itself. Name a column with what units "
                    "did before the experiment."
                )

    def _find_arm_problems(self) -> Iterator[str]:
        values = self.units[self.arm]
        if values.isna().any():
            yield f"{values.isna().sum():,} of {len(values):,} rows have no {self.arm!r}. Leave them out."
        found = sorted(set(_write_all(values.dropna())))
        control = _write(self.control)
        if control not in found:
            listed = quote_names(found[:MOST_SHOWN]) if found else "no value"
            yield f"`control` is {self.control!r}; {self.arm!r} holds {listed}.{did_you_mean(control, found)}"
        elif len(found) < 2:
            yield f"{self.arm!r} holds the control {control!r} alone; a comparison needs at least two arms."
        if self.shares is None:
            return
        named = sorted(map(_write, self.shares))
        if named != found:
            yield f"`shares` names {quote_names(named)}, and {self.arm!r} holds {quote_names(found[:MOST_SHOWN])}."
        if not all(share > 0 for share in self.shares.values()) or abs(sum(self.shares.values()) - 1) > SHARE_TOLERANCE:
            yield f"`shares` are {dict(self.shares)}; they must be above 0 and sum to 1."

    def _find_number_problems(self, name: str, *, is_base: bool) -> Iterator[str]:
        column = self.units[name]
        if not pd.api.types.is_numeric_dtype(column):
            example = next(iter(column.dropna()), None)
            yield f"The column {name!r} must hold numbers; it holds {example!r}. Convert it."
            return
        is_wrong = ~np.isfinite(column.astype(float))
        if is_wrong.any():
            first = self.units.index[is_wrong][0]
            yield (
                f"The column {name!r} has no number in {is_wrong.sum():,} of {len(column):,} rows (such as row "
                f"{first!r}). Write 0 for units that did nothing."
            )
        elif is_base and (column < 0).any():
            yield f"The column {name!r} is what others are divided by, and below 0 in {(column < 0).sum():,} rows."

    def _find_repeated(self, unit: str) -> Iterator[str]:
        unnamed = self.units[unit].isna().sum()
        if unnamed:
            yield f"{unnamed:,} of {len(self.units):,} rows have no {unit!r}. Leave them out."
            return
        twice = self.units.duplicated([unit, self.arm])
        if twice.any():
            example = next(iter(self.units.loc[twice, unit]))
            yield (
                f"{twice.sum():,} rows repeat a unit in one arm (such as {example!r}); each unit may stand once. First "
                "add up what it did."
            )

    def _list_arms(self) -> tuple[str, ...]:
        control = _write(self.control)
        return control, *sorted(set(_write_all(self.units[self.arm])) - {control})

    def _list_units(self) -> tuple[pd.DataFrame, int | None]:
        """Give one row a unit, that of its first arm, and how many were in several."""
        if self.unit is None:
            return self.units, None
        rows = self.units
        if self.entered is not None:
            rows = rows.sort_values(self.entered, key=_read_times, kind="stable")
        crossed = rows.loc[rows.duplicated(self.unit), self.unit].nunique()
        return rows.drop_duplicates(self.unit), int(crossed)

    def _measure(self, rows: pd.DataFrame) -> Iterator[Measurement]:
        for role, each in self._columns:
            numerator, denominator = (each, None) if isinstance(each, str) else each
            margin = self.guardrails[each] if role == "guardrail" else None
            is_rate = denominator is None and bool(rows[numerator].isin((0, 1)).all())
            yield Measurement(
                role=role,
                conversion=numerator,
                metric="rate" if is_rate else "per_unit" if denominator is None else f"per_unit over {denominator}",
                name=numerator if denominator is None else f"{numerator} / {denominator}",
                direction=self.directions.get(numerator, "up"),
                margin=margin if margin is None or isinstance(margin, Margin) else Margin(relative=margin),
                numerator=_read(rows, numerator),
                denominator=None if denominator is None else _read(rows, denominator),
                before=_read(rows, self.covariates[numerator]) if numerator in self.covariates else None,
                before_denominator=_read(rows, self.covariates[denominator])
                if denominator is not None and denominator in self.covariates
                else None,
            )


def _read(rows: pd.DataFrame, name: str) -> Floats:
    return rows[name].to_numpy(float)


def _write(value: object) -> str:
    """Write a value as text; whole numbers alike, since a column with a gap once held turns 1 into 1.0."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _write_all(values: pd.Series) -> list[str]:
    codes, known = pd.factorize(values)
    names = [*map(_write, known), NO_VALUE]
    return [names[code] for code in codes]


def _check_margin(margin: object) -> Iterator[str]:
    if isinstance(margin, Margin):
        return
    if isinstance(margin, bool) or not isinstance(margin, int | float) or np.isnan(margin):
        yield f"is {margin!r}; it must be a share of the control's value such as 0.02, or Margin(absolute=0.005)."
    else:
        yield from find_margin_problems("relative", margin)


def _check_times(values: pd.Series) -> Iterator[str]:
    if values.isna().any():
        yield f"{values.isna().sum():,} of {len(values):,} rows have no {values.name!r}. Leave them out."
    known = values.dropna()
    if pd.api.types.is_numeric_dtype(values) or _read_times(known).isna().any():
        example = next(iter(known if pd.api.types.is_numeric_dtype(values) else known[_read_times(known).isna()]), None)
        yield f"The column {values.name!r} must hold times; it holds {example!r}. Convert it with pandas.to_datetime."


def _read_times(values: pd.Series) -> pd.Series:
    """Read times, those without a zone as UTC; NaT where there is none."""
    return (
        pd.to_datetime(values, utc=True, errors="coerce", format="ISO8601")
        .dt.tz_localize(None)
        .astype("datetime64[us]")
    )
