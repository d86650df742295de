"""Times retentioneering's funnel, in a Python that has it: python -m benchmarks.retentioneering_funnel PATH."""

import functools
import os
import sys

from benchmarks.measure import print_measured

STEPS = ["page_view", "view_item", "add_to_cart", "begin_checkout", "purchase"]


def count(path: str) -> None:
    """Count the steps: no window and no groups, which it does not have."""
    import pandas as pd  # not where this file is only read
    from retentioneering import Eventstream

    columns = ["event_name", "timestamp", "user_id"]
    rows = pd.read_parquet(path, columns=columns, filters=[("event_name", "in", STEPS)])
    Eventstream(rows, schema={"path_cols": ["user_id"], "event_col": "event_name"}).funnel_data(STEPS)


if __name__ == "__main__":
    os.environ["RETENTIONEERING_NO_TRACK"] = "1"
    print_measured(functools.partial(count, sys.argv[1]))
