"""Samples of an experiment's units, written by hand."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from convlib.samples import Measurement, Sample


def make_rate(numerator: Any, **known: Any) -> Measurement:
    values = np.asarray(numerator, float)
    fields = {"role": "primary", "conversion": "signup", "metric": "rate", "name": "Signup", "direction": "up"}
    return Measurement(**{**fields, "margin": None, "numerator": values, **known})


def make_revenue(numerator: Any, **known: Any) -> Measurement:
    known = {"role": "guardrail", "metric": "sum of value", "name": "Purchase: value per unit", **known}
    return make_rate(numerator, **known)


def make_sample(arm: Sequence[int] | np.ndarray, *measurements: Measurement, **known: Any) -> Sample:
    codes = np.asarray(arm, np.int64)
    names = ("control", "short", "long")[: max(2, codes.max(initial=0) + 1)]
    fields: dict[str, Any] = {
        "arms": names,
        "shares": (1 / len(names),) * len(names),
        "arm": codes,
        "entered": None,
        "segments": pd.DataFrame(index=range(len(codes))),
        "measurements": measurements or (make_rate(np.zeros(len(codes))),),
        "assigned": np.bincount(codes, minlength=len(names)),
        "pending": np.zeros(len(names), np.int64),
    }
    return Sample(**{**fields, **known})
