"""Runs: notebooks executed for each segment and period, written as report pages."""

import sys


def skip_slow_imports() -> None:
    """Leave out what jsonschema takes a second to import for a check of addresses that no notebook's format asks for.

    Only for processes that are convlib's own: the package counts as absent afterwards.
    """
    sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]  # what Python itself notes as absent
