import pytest

from convlib.errors import ConvlibError, EventDataError, ParamError, PlanError, RunError


def test_convlib_error_with_one_problem_is_that_sentence() -> None:
    assert str(PlanError("params/plan.yaml:3: id is missing.")) == "params/plan.yaml:3: id is missing."


def test_convlib_error_with_several_problems_numbers_them() -> None:
    error = RunError("No such segment: 'mobil'.", "No such notebook: '05_x'.")
    assert str(error) == "2 problems:\n1. No such segment: 'mobil'.\n2. No such notebook: '05_x'."
    assert error.problems == ("No such segment: 'mobil'.", "No such notebook: '05_x'.")


@pytest.mark.parametrize("kind", [ParamError, PlanError, EventDataError, RunError])
def test_convlib_error_catches_every_kind_and_is_a_value_error(kind: type[ConvlibError]) -> None:
    assert issubclass(kind, ConvlibError)
    assert issubclass(kind, ValueError)
