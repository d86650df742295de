"""Gives the example logs with their plans, ready for an analysis."""

import pandas as pd

from convlib.datasets.files import NAMES, dataset_path, params_folder
from convlib.datasets.shop import shop_events
from convlib.events import EventLog, read_events
from convlib.plan import Plan, read_plan

COLUMNS = ["name", "rows", "units", "licence", "path"]
LICENCES = {"oulad": "CC BY 4.0 (see ATTRIBUTION.md beside the file)", "shop": "BSD-3-Clause (simulated)"}


def load_dataset(name: str) -> tuple[EventLog, Plan]:
    """Read an example log with its measurement plan and segments.

    Args:
        name: `oulad` (real: enrolments in 22 university courses) or `shop` (simulated, with planted effects).

    Returns:
        The log and its plan.

    Raises:
        ParamError: There is no such example.
    """
    folder = params_folder(name)
    plan = read_plan(folder / "plan.yaml")
    return read_events(dataset_path(name), plan=plan, segments=folder / "segments.yaml"), plan


def simulate_shop(units: int = 20_000, seed: int = 1) -> tuple[EventLog, Plan, pd.DataFrame]:
    """Simulate a shop's log in which it is known what each micro-conversion adds to the chance of a purchase.

    Args:
        units: How many users enter, at least 1.
        seed: Same units and seed, same log.

    Returns:
        The log, its plan, and the truth: a row a micro, with `micro`, `planted` (positive, null, negative,
        precondition, follows) and `true_lift`, the difference in the chance of a purchase in the 14 days after the
        first day (NaN where it is not defined).

    Raises:
        ParamError: `units` is less than 1, or `seed` is negative.
    """
    folder = params_folder("shop")
    events, truth = shop_events(units, seed)
    plan = read_plan(folder / "plan.yaml")
    return read_events(events, plan=plan, segments=folder / "segments.yaml"), plan, truth


def list_datasets() -> pd.DataFrame:
    """List the example logs.

    Returns:
        One row an example: `name`, `rows`, `units`, `licence`, `path`.
    """
    rows = []
    for name in NAMES:
        path = dataset_path(name)
        units = pd.read_parquet(path, columns=["user_id"])["user_id"]
        rows.append((name, len(units), units.nunique(), LICENCES[name], str(path)))
    return pd.DataFrame(rows, columns=COLUMNS)
