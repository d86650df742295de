"""What is broken in the log: every rule with its severity and threshold, judged on the log's profile."""

import dataclasses
import html
from typing import TYPE_CHECKING

import pandas as pd

from convlib import plots, takeaways
from convlib.events import EventLog, check_log
from convlib.plan import Plan
from convlib.quality_rules import RULES, Facts, Finding, QualityRule
from convlib.results import Result, Takeaways
from convlib.stats import divide

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SEVERITIES = ("error", "warning", "info")
STATUSES = ("failed", "passed", "not applicable")
COLUMNS = ("rule", "name", "severity", "status", "tried", "failed", "share", "threshold", "example", "owner", "note")


@dataclasses.dataclass(frozen=True)
class Quality(Result):
    """One row for each rule, worst first.

    Attributes:
        daily: What the rules that look at days found: `rule`, `day`, `tried`, `failed`.
    """

    daily: pd.DataFrame

    def _repr_html_(self) -> str:
        """Show what failed in full, and of the other rules the names; as a list, which a phone shows whole."""
        items = "".join(f"<li>{html.escape(text)}</li>" for text in takeaways.word_failed_rules(self.table))
        others = "".join(f"<p>{html.escape(text)}</p>" for text in takeaways.word_other_rules(self.table))
        return (f"<ul>{items}</ul>" if items else "") + others

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Draw on which days the failed rules failed."""
        return plots.draw_quality(self.table, self.daily, segment=self.segment, ax=ax)


def check_quality(log: EventLog, plan: Plan) -> Quality:
    """Say what is broken in the log, worst first, before any other number of it is believed.

    Args:
        log: The log, seen through a segment and a period. Rejected rows, the order of the rows, sessions' and columns'
            contents are judged on what `Profile` says of them.
        plan: The measurement plan with which the log was read.

    Returns:
        One row for each rule: `tried` things (rows, days, names, values: as the rule's name says), of which `failed`
        did; it fails when `share` is above `threshold`. `example` says where to look, never whose data; `owner` is that
        of the conversion concerned, if it is one. Too little data is `not applicable`, with the reason in `note`.

    Raises:
        ParamError: The log was read with another plan.
    """
    check_log(log)
    log.check_plan(plan)
    if log.fewest:
        return _leave_out(log, plan)
    facts = Facts(log, plan, log.profile)
    found = {name: rule.judge(facts) for name, rule in RULES.items()}
    rows = [_tabulate(name, RULES[name], finding) for name, finding in found.items()]
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    rank = {"status": STATUSES.index, "severity": SEVERITIES.index, "share": lambda share: -share}
    order = table.assign(**{name: table[name].map(key) for name, key in rank.items()})
    table = table.loc[order.sort_values(list(rank), kind="stable").index].reset_index(drop=True)
    days = [f.daily.assign(rule=name) for name, f in found.items() if isinstance(f, Finding) and f.daily is not None]
    none = pd.DataFrame({"rule": "", "day": pd.NaT, "tried": 0, "failed": 0}, index=[])
    daily = pd.concat(days, ignore_index=True)[list(none)] if days else none
    return Quality(
        table=table,
        takeaways=takeaways.word_quality(table, segment=log.segment_name),
        segment=log.segment_name,
        names={c.id: c.name for c in plan.conversions},
        daily=daily,
    )


def _leave_out(log: EventLog, plan: Plan) -> Quality:
    """Show no rule: what fails are often single rows of single units."""
    said = takeaways.word_nothing_left(log.fewest, what="What is broken in the rows", segment=log.segment_name)
    table = pd.DataFrame(columns=list(COLUMNS)).astype(dict.fromkeys(("tried", "failed", "share", "threshold"), float))
    return Quality(
        table=table.astype({name: "str" for name in COLUMNS if table[name].dtype == object}),
        takeaways=Takeaways((said,)),
        segment=log.segment_name,
        names={c.id: c.name for c in plan.conversions},
        daily=pd.DataFrame({"rule": "", "day": pd.NaT, "tried": 0, "failed": 0}, index=[]),
        fewest=log.fewest,
    )


def _tabulate(name: str, rule: QualityRule, finding: Finding | str) -> dict[str, object]:
    known = {"rule": name, "name": rule.name, "severity": rule.severity, "threshold": rule.threshold}
    if isinstance(finding, str) or not finding.tried:
        reason = finding if isinstance(finding, str) else "There is nothing to try it on."
        empty = {"tried": 0, "failed": 0, "share": float("nan"), "example": "", "owner": ""}
        return {**known, **empty, "status": "not applicable", "note": reason}
    share = float(divide(finding.failed, finding.tried))
    failed = share > rule.threshold
    found = {
        "status": "failed" if failed else "passed",
        "tried": finding.tried,
        "failed": finding.failed,
        "share": share,
    }
    note = " ".join(filter(None, [finding.what, rule.remedy])) if failed and not finding.severity else finding.what
    return {
        **known,
        "severity": finding.severity or rule.severity,
        **found,
        "example": finding.example if failed else "",
        "owner": finding.owner if failed else "",
        "note": note,
    }
