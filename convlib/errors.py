"""What can be wrong with what a user gives, as few exception classes, each listing every problem at once."""

from collections.abc import Callable
from types import UnionType


class ConvlibError(ValueError):
    """Bad input, with every problem found in it.

    Args:
        *problems: One message each: what is wrong with which value, where, and what to do.
    """

    def __init__(self, *problems: str) -> None:
        self.problems = problems
        super().__init__("\n".join(problems) if len(problems) == 1 else self._number(problems))

    @staticmethod
    def _number(problems: tuple[str, ...]) -> str:
        lines = [f"{i}. {problem}" for i, problem in enumerate(problems, start=1)]
        return "\n".join([f"{len(problems)} problems:", *lines])


class ParamError(ConvlibError):
    """A parameter of a function, a notebook or a run file is wrong."""


class PlanError(ConvlibError):
    """The measurement plan or the segments file is wrong."""


class EventDataError(ConvlibError):
    """The event log can't be read or holds nothing usable."""


class RunError(ConvlibError):
    """A report run can't start or can't finish."""


class StoppedError(RunError):
    """A report run could not go on; what it had made is kept."""


def check_made(name: str, given: object, kind: type | UnionType, *, maker: str) -> None:
    """Refuse what is not the result that another function gives.

    Raises:
        ParamError: It is of another type.
    """
    if not isinstance(given, kind):
        raise ParamError(f"`{name}` is of type {type(given).__name__}; it must be what `{maker}` gives.")


def list_problems(*checks: Callable[[], object]) -> list[str]:
    """List what several checks refuse, so that all of it can be said at once."""
    problems: list[str] = []
    for check in checks:
        try:
            check()
        except ConvlibError as error:
            problems += error.problems
    return problems
