"""Times other packages' Markov removal effects, in a Python that has them.

python -m benchmarks.markov_peers PACKAGE:PATH

The file has paths with their counts of conversions and of none; reading it is not timed.
"""

import functools
import sys
from collections.abc import Callable

from benchmarks.measure import print_measured


def run_channel_attribution(path: str, *, walks: float = 1e5) -> Callable[[], dict[str, float]]:
    """Make ready for ChannelAttribution, which simulates walks through the chain: at least so many."""
    import pandas as pd  # not where this file is only read
    from ChannelAttribution import markov_model  # type: ignore[import-not-found]

    rows = pd.read_csv(path)

    def credit() -> dict[str, float]:
        found = markov_model(
            rows, "path", "conversions", var_null="nulls", nsim_start=walks, verbose=False, flg_pro=False
        )
        return dict(zip(found["channel_name"], found["total_conversions"].astype(float), strict=True))

    return credit


def run_marketing_attribution_models(path: str) -> Callable[[], dict[str, float]]:
    """Make ready for marketing-attribution-models, which inverts a matrix for each channel."""
    import polars as pl
    from mam.models.markov import MarkovModel  # type: ignore[import-not-found]

    rows = pl.read_csv(path).with_columns(channels=pl.col("path").str.split(" > "))
    won = rows.select("channels", weight=pl.col("conversions"), has_conversion=pl.lit(value=True))
    lost = rows.select("channels", weight=pl.col("nulls"), has_conversion=pl.lit(value=False))
    both = pl.concat([won, lost]).filter(pl.col("weight") > 0)

    def credit() -> dict[str, float]:
        shares = MarkovModel()._compute_markov(both)
        return {channel: share * won["weight"].sum() for channel, share in shares.items()}

    return credit


PACKAGES: dict[str, Callable[[str], Callable[[], dict[str, float]]]] = {
    "ChannelAttribution": run_channel_attribution,
    "ChannelAttribution, 10 million walks": functools.partial(run_channel_attribution, walks=1e7),
    "marketing-attribution-models": run_marketing_attribution_models,
}

if __name__ == "__main__":
    package, _, file = sys.argv[1].partition(":")
    print_measured(functools.partial(PACKAGES[package], file))
