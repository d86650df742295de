"""What the study measures: false discoveries, coverage, power and order, each with its simulation error."""

import numpy as np
import pandas as pd
from scipy.stats import kendalltau

FOUND = ("positive", "negative")
#: A criterion is failed when it is so by more than so many simulation errors.
REACH = 2.0


def measure_false_discoveries(scored: pd.DataFrame) -> pd.DataFrame:
    """Count the calls on logs without any effect that report a finding."""
    found = scored.assign(found=scored["verdict"].isin(FOUND)).groupby(["scenario", "seed"], sort=False)["found"].any()
    return _describe(found, ["scenario"])


def measure_coverage(scored: pd.DataFrame, name: str) -> pd.DataFrame:
    """Count how often each micro's interval holds the truth.

    Args:
        scored: The scored logs.
        name: Which lift: `lift` or `adjusted_lift`.
    """
    low, high = f"{name}_ci_lower", f"{name}_ci_upper"
    known = scored[scored["truth"].notna() & scored[low].notna()].set_index(["scenario", "truth"])
    truth = known.index.get_level_values("truth")
    bias = (known[name] - truth).groupby(["scenario", "truth"], sort=False).mean()
    return _describe((known[low] <= truth) & (truth <= known[high]), ["scenario", "truth"]).assign(bias=bias)


def measure_power(scored: pd.DataFrame) -> pd.DataFrame:
    """Count how often each effect is found, with its sign."""
    known = scored[scored["truth"].notna()]
    sign = np.where(known["truth"] > 0, "positive", "negative")
    found = known["verdict"].isin(FOUND) & ((known["verdict"] == sign) | (known["truth"] == 0))
    return found.groupby([known["scenario"], known["truth"]], sort=False).mean().unstack("scenario")


def measure_order(scored: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    """Give each log's rank agreement between the truth and each score (Kendall's tau-b); one row a log."""
    known = scored[scored["truth"].notna()].fillna(dict.fromkeys(names, 0.0))
    logs = known.groupby(["scenario", "seed"], sort=False)
    return pd.DataFrame({name: logs[["truth", name]].apply(_agree) for name in names})


def summarise_order(order: pd.DataFrame) -> pd.DataFrame:
    """Give the mean agreement of each score, and convlib's lead over it, with simulation errors.

    Returns:
        One row a scenario and score: `mean`, `error`, `lead`, `lead_error`; the lead is paired by log.
    """
    logs = order.groupby("scenario", sort=False)
    leads = order.rsub(order["convlib"], axis=0).groupby("scenario", sort=False)
    parts = {"mean": logs.mean(), "error": logs.sem(), "lead": leads.mean(), "lead_error": leads.sem()}
    return pd.concat({name: part.stack() for name, part in parts.items()}, axis=1).rename_axis(["scenario", "score"])


def _describe(hits: "pd.Series[bool]", keys: list[str]) -> pd.DataFrame:
    groups = hits.groupby(keys, sort=False)
    share, count = groups.mean(), groups.count()
    return pd.DataFrame({"share": share, "error": np.sqrt(share * (1 - share) / count), "logs": count})


def _agree(log: pd.DataFrame) -> float:
    return float(kendalltau(log.iloc[:, 0], log.iloc[:, 1]).statistic)
