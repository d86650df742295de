import numpy as np
import pytest

from convlib.errors import ParamError
from convlib.measured import MeasuredEffect, check_measured

CLEAR = MeasuredEffect("save", 0.05, 0.01, 0.02, 0.006, covariance=0.00002, name="save_button")


def test_measured_effect_gives_the_macros_effect_for_each_unit_of_the_micros() -> None:
    assert CLEAR.ratio == pytest.approx(0.4)
    low, high = CLEAR.bound_ratio(0.95)
    assert low < 0.4 < high
    assert np.isnan(MeasuredEffect("save", 0.01, 0.01, 0.02, 0.006).bound_ratio(0.95)).all()


def test_measured_effect_draws_as_its_interval_says() -> None:
    draws = CLEAR.draw_ratio(np.random.default_rng(1), 200_000)
    np.testing.assert_allclose(np.quantile(draws, [0.025, 0.975]), CLEAR.bound_ratio(0.95), rtol=0.02)


def test_check_measured_takes_what_makes_sense() -> None:
    read = MeasuredEffect("read", -0.01, 0.02, 0, np.float32(0.01))  # type: ignore[arg-type]
    assert check_measured([CLEAR, read], ["save", "read"], macro="buy") == [CLEAR, read]
    assert check_measured(CLEAR, ["save"], macro="buy") == [CLEAR]


def test_check_measured_names_every_problem() -> None:
    effects = [
        CLEAR,
        CLEAR,
        MeasuredEffect("raed", np.nan, 0.01, 0.02, 0.0),
        MeasuredEffect("read", 0.05, 0.01, 0.02, 0.006, covariance=-0.1),
        MeasuredEffect("form", 3.0, True, "0.4", 0.2),  # type: ignore[arg-type]
        0.03,
    ]
    with pytest.raises(ParamError) as caught:
        check_measured(effects, ["save", "read", "form"], macro="buy")  # type: ignore[arg-type]
    shares = "effects and their errors are shares, 0.03 is three points."
    assert caught.value.problems == (
        "`measured` holds 0.03; it must hold `MeasuredEffect`s alone.",
        "`raed` is no micro-conversion of `buy`; its micro-conversions are 'save', 'read', 'form'. Did you mean "
        "'read'?",
        "`measured` has 2 effects of `save`; give one, that of the experiment to go by.",
        f"`micro_effect` of `raed` is nan; it must be a number between -1 and 1: {shares}",
        f"`macro_error` of `raed` is 0.0; it must be a number between 0 and 1: {shares}",
        "`covariance` of `read` is -0.1; it can't be larger than the product of the two standard errors, 6e-05.",
        f"`micro_effect` of `form` is 3.0; it must be a number between -1 and 1: {shares}",
        f"`micro_error` of `form` is True; it must be a number between 0 and 1: {shares}",
        f"`macro_effect` of `form` is '0.4'; it must be a number between -1 and 1: {shares}",
    )
