"""What of a report can be compared between runs: its rates, leaks, ranks and scores, with the error of each."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from convlib import stats
from convlib.results import find_kind
from convlib.stats import FEW_UNITS, divide

#: What `extract_measures` gives, with what a column without values is.
MEASURES = {
    **{"kind": "str", "id": "str", "name": "str"},
    **{"units": "float64", "count": "float64", "value": "float64"},
    **{"error": "float64", "lower": "float64", "upper": "float64"},
    **{"better": "str", "unit": "str", "sample": "str", "status": "str", "definition": "str"},
}
#: The sample of an experiment: everyone since it began, so a later run holds all units of an earlier one.
GROWING = "since the start"
#: Parameters that change what is shown, not what is measured.
NEUTRAL = {"by", "rules", "history", "fewest"}


@dataclass(frozen=True)
class _About:
    """What `Parameters.save` wrote about how the tables were measured; empty for a notebook that says nothing."""

    parameters: Mapping[str, Any] = field(default_factory=dict)
    entries: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def name(self, entry: str) -> str:
        return str(self.entries.get(entry, {}).get("name", entry))

    def measure(self, entry: str, metric: str) -> tuple[str, str]:
        """Give a metric's name for people, and whether more of it is better."""
        known = self.entries.get(entry, {}).get("metrics", {}).get(metric, {})
        plain = self.name(entry) if metric == "rate" else f"{self.name(entry)}: {metric}"
        return str(known.get("name", plain)), str(known.get("direction", ""))

    def digest(self, entry: str) -> str:
        """Fingerprint how an entry of the plan is measured; "" where that is not known."""
        if not self.parameters:
            return ""
        given = {name: value for name, value in self.parameters.items() if name not in NEUTRAL}
        named = [each for value in given.values() for each in (value if isinstance(value, list) else [value])]
        used = [each for each in (entry, *named) if isinstance(each, str) and each in self.entries]
        content = json.dumps([given, [self.entries[each].get("definition") for each in used]], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:16]


def extract_measures(tables: Path) -> pd.DataFrame:
    """Give what can be compared between runs of a report: its rates, leaks, ranks and scores.

    Args:
        tables: The folder with the tables that the notebook saved; those of another name or form are passed over.

    Returns:
        A row for each measure: `kind`, `id`, `name` for people, the `units` it is known from, of them `count` (of rates
        and leaks), `value`, `error` (standard error), `lower` and `upper` (95%), `better` (`up`, `down` or ""), `unit`
        (how the value is written), `sample` (which units: "" those of the report, a day those of that period of entry),
        `status` (what an experiment says), and `definition`, a fingerprint of how it is measured.
    """
    about = _read_about(tables)
    parts = [read(frame, about) for name, read in _READERS.items() if (frame := _read_table(tables, name)) is not None]
    parts = [part.dropna(axis=1, how="all") for part in parts if len(part)]
    found = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()
    found = complete_measures(found)
    # A table with groups has a conversion several times, and no row of it is the report's.
    return found[~found.duplicated(["kind", "id"], keep=False)].reset_index(drop=True)


def complete_measures(rows: pd.DataFrame) -> pd.DataFrame:
    """Give rows all columns, in order, also where an older run knew fewer of them."""
    frame = rows.reindex(columns=list(MEASURES))
    texts = {name: frame[name].astype("object").fillna("") for name, kind in MEASURES.items() if kind == "str"}
    return frame.assign(**texts).astype(MEASURES)


def _read_about(tables: Path) -> _About:
    try:
        raw = json.loads((tables / "takeaways.json").read_text("utf-8"))
        return _About(dict(raw["parameters"]), dict(raw["entries"]))
    except (OSError, ValueError, KeyError, TypeError):
        return _About()


def _read_table(tables: Path, name: str) -> pd.DataFrame | None:
    """Read a table that has the columns of the one that this package's notebooks save under its name."""
    path = tables / f"{name}.parquet"
    try:
        frame = pd.read_parquet(path) if path.exists() else pd.DataFrame()
    except (OSError, ValueError):
        return None
    numbers, texts = _NEEDED[name]
    if frame.empty or not {*numbers, *texts} <= set(frame.columns):
        return None
    kinds = {each: pd.to_numeric(frame[each], errors="coerce").astype("float64") for each in numbers}
    return frame.assign(**kinds, **{each: frame[each].astype("str") for each in texts})


def _extract_rates(table: pd.DataFrame, about: _About) -> pd.DataFrame:
    """Take the latest complete period, as the report's own sentences do."""
    whole = table[(table["exposed"] > 0) & ~table["note"].str.startswith("partial")]
    enough = whole[(whole["tier"] == "macro") & (whole["exposed"] >= FEW_UNITS)]
    rows = whole[whole["period"] == (enough if len(enough) else whole)["period"].max()]
    shares = rows["metric"].map(find_kind) == "percent"
    named = [about.measure(*pair) for pair in zip(rows["conversion"], rows["metric"], strict=True)]
    frame = pd.DataFrame(
        {
            "kind": np.where(shares, "rate", "score"),
            "id": rows["conversion"] + ": " + rows["metric"],
            "name": [name for name, _ in named],
            "units": rows["exposed"],
            "count": rows["units"].where(shares),
            **_bound(rows["value"], rows["ci_lower"], rows["ci_upper"]),
            "better": [better for _, better in named],
            "unit": rows["metric"].map(find_kind),
            "sample": rows["period"],
            "definition": rows["conversion"].map(about.digest),
        }
    )
    return frame.assign(error=frame["error"].where(~shares, _share_errors(frame)))


def _extract_leaks(table: pd.DataFrame, about: _About) -> pd.DataFrame:
    """Take the share that gets through a funnel, and the share lost before each required step."""
    before = table["lost"] + table["units"]
    # Nothing is lost at an optional step, whatever share passes it.
    required = np.isclose(table["units"], table["rate_from_previous"] * before) & (table["step"] > 1)
    kept = table[required | (table["step"] == 1)]
    previous, steps = kept["name"].shift().iloc[1:], kept.iloc[1:]
    leaks = pd.DataFrame(
        {
            "kind": "leak",
            "id": previous + " > " + steps["name"],
            "name": "Lost between " + previous.map(about.name) + " and " + steps["name"].map(about.name),
            "units": before[steps.index],
            "count": steps["lost"],
            **_bound(
                1 - steps["rate_from_previous"],
                1 - steps["rate_from_previous_ci_upper"],
                1 - steps["rate_from_previous_ci_lower"],
            ),
            "better": "down",
            "definition": steps["name"].map(about.digest),
        }
    )
    first, last = str(table["name"].iloc[0]), table.iloc[-1:]
    through = pd.DataFrame(
        {
            "kind": "rate",
            "id": f"{first} ... " + last["name"],
            "name": f"{about.name(first)} to " + last["name"].map(about.name),
            "units": table["units"].iloc[0],
            "count": last["units"],
            **_bound(last["rate_from_start"], last["rate_from_start_ci_lower"], last["rate_from_start_ci_upper"]),
            "better": "up",
            "definition": last["name"].map(about.digest),
        }
    )
    frame = pd.concat([through, leaks], ignore_index=True).assign(unit="percent")
    return frame.assign(error=_share_errors(frame))


def _extract_lifts(table: pd.DataFrame, about: _About) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "kind": "score",
            "id": "lift: " + table["micro"],
            "name": "Adjusted lift associated with " + table["micro"].map(about.name),
            "units": table["units_with"] + table["units_without"],
            **_bound(table["adjusted_lift"], table["adjusted_lift_ci_lower"], table["adjusted_lift_ci_upper"]),
            "unit": "points",
            "definition": table["micro"].map(about.digest),
        }
    )


def _extract_scores(table: pd.DataFrame, about: _About) -> pd.DataFrame:
    """Take each micro's rank, and the value of one more unit, which no more or fewer visitors change."""
    known = {"units": table["units_with"] + table["reach"], "definition": table["micro"].map(about.digest)}
    names = table["micro"].map(about.name)
    ranks = {"kind": "rank", "id": table["micro"], "name": names, "value": table["rank"], "unit": "count"}
    scores = {
        "kind": "score",
        "id": "score: " + table["micro"],
        "name": "Estimated value of one more unit that does " + names + ", if the association holds",
        **_bound(table["score"], table["score_ci_lower"], table["score_ci_upper"]),
        "unit": "number",
    }
    return pd.concat([pd.DataFrame(ranks | known), pd.DataFrame(scores | known)])


def _extract_effects(table: pd.DataFrame, about: _About) -> pd.DataFrame:
    named = [about.measure(*pair)[0] for pair in zip(table["conversion"], table["metric"], strict=True)]
    return pd.DataFrame(
        {
            "kind": "score",
            "id": table["arm"] + ": " + table["conversion"] + ": " + table["metric"],
            "name": "Effect of “" + table["arm"] + "” on " + pd.Series(named, index=table.index, dtype="str"),
            "units": table["units"] + table["units_control"],
            **_bound(table["effect"], table["effect_ci_lower"], table["effect_ci_upper"]),
            "unit": ["points" if find_kind(metric) == "percent" else find_kind(metric) for metric in table["metric"]],
            "sample": GROWING,
            "status": table["status"],
            "definition": table["conversion"].map(about.digest),
        }
    )


def _bound(value: pd.Series, lower: pd.Series, upper: pd.Series) -> dict[str, pd.Series]:
    """Give an estimate with its interval, and the standard error that a normal interval so long comes from."""
    error = (upper - lower) / (2 * stats.normal_quantile(stats.CONFIDENCE))
    return {"value": value, "error": error, "lower": lower, "upper": upper}


def _share_errors(rows: pd.DataFrame) -> "pd.Series[float]":
    """Give the standard error of shares, larger where their interval is longer than independent units make it."""
    low, high = stats.wilson_interval(rows["count"], rows["units"])
    longer = np.fmax(1.0, divide(rows["upper"] - rows["lower"], high - low))
    share = divide(rows["count"], rows["units"])
    return pd.Series(longer * np.sqrt(divide(share * (1 - share), rows["units"])), index=rows.index)


_NEEDED: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "rates": (
        ("units", "exposed", "value", "ci_lower", "ci_upper"),
        ("period", "tier", "conversion", "metric", "note"),
    ),
    "funnel": (
        (
            *("step", "units", "lost", "rate_from_previous", "rate_from_previous_ci_lower"),
            *("rate_from_previous_ci_upper", "rate_from_start", "rate_from_start_ci_lower", "rate_from_start_ci_upper"),
        ),
        ("name",),
    ),
    "correlation": (
        ("units_with", "units_without", "adjusted_lift", "adjusted_lift_ci_lower", "adjusted_lift_ci_upper"),
        ("micro",),
    ),
    "impact": (("rank", "units_with", "reach", "score", "score_ci_lower", "score_ci_upper"), ("micro",)),
    "experiment": (
        ("units", "units_control", "effect", "effect_ci_lower", "effect_ci_upper"),
        ("arm", "conversion", "metric", "status"),
    ),
}
_READERS: Mapping[str, Callable[[pd.DataFrame, _About], pd.DataFrame]] = {
    "rates": _extract_rates,
    "funnel": _extract_leaks,
    "correlation": _extract_lifts,
    "impact": _extract_scores,
    "experiment": _extract_effects,
}
