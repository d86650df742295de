"""The live page's top: what the watcher knows. Only the standard library is read, so that a page shows it at once."""

import dataclasses
import html
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

LIVE = "live.json"
#: The page is made anew so often, or at every look at the source when that is rarer: it takes seconds to make.
REFRESH_SECONDS = 300
STYLE = """\
.live {font: 15px/1.45 system-ui, sans-serif; max-width: 60rem}
.live h2 {font-size: 1.15rem; margin: 1.2em 0 .4em}
.live nav button, .live nav b {display: inline-block; margin: 0 .6em .4em 0; padding: .3em .7em; border: 1px solid #bbb;
  border-radius: 1em; font: inherit; background: none; color: #0b5394}
.live nav b {background: #0b5394; color: #fff}
.live table {border-collapse: collapse; width: 100%}
.live table td, .live table th {text-align: left !important; padding: .3em .8em .3em 0; border-bottom: 1px solid #ddd;
  vertical-align: top}
.live table td.n, .live table th.n {text-align: right !important; font-variant-numeric: tabular-nums}
.live .critical {border-left: 4px solid #b00020; padding-left: .7em; margin: .6em 0}
.live .warning {border-left: 4px solid #c77700; padding-left: .7em; margin: .6em 0}
.live .info {border-left: 4px solid #777; padding-left: .7em; margin: .6em 0}
.live small {color: #555}
body, .jp-Notebook, .jp-Cell, #rendered_cells {max-width: 100vw; box-sizing: border-box}
.jp-RenderedHTMLCommon, .jp-OutputArea-output {overflow-x: auto; max-width: 100%}
.jp-RenderedHTMLCommon img, .jp-OutputArea-output img {max-width: 100%; height: auto}
.jp-InputPrompt, .jp-OutputPrompt {display: none !important}
"""


@dataclasses.dataclass(frozen=True)
class Live:
    """What the watcher last wrote, seen for one segment."""

    facts: Mapping[str, Any]
    segment: str
    segments: tuple[str, ...]

    def _repr_html_(self) -> str:
        return (
            f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style>'
            f'<section class="live" aria-label="Live">{self._word_state()}{self._link_segments()}{self._list_alerts()}'
            f"{self._tabulate()}</section><script>{self._write_script()}</script>"
        )

    def _word_state(self) -> str:
        facts = self.facts
        if not facts:
            return "<p>The watcher has not looked at the source yet; this page reloads itself.</p>"
        warned = "".join(f"<p class='warning'>{html.escape(text)}</p>" for text in facts["warnings"])
        return (
            f"<p><b>As of {html.escape(facts['looked'])}</b>: events to {html.escape(facts['clock'])}. "
            f"{facts['in_window']:,} events in the last {html.escape(facts['window'])}; {facts['rows']:,} rows used "
            f"since the watcher's first look, {facts['rejected']:,} rejected.</p>{warned}"
        )

    def _link_segments(self) -> str:
        links = [
            f"<b>{html.escape(name)}</b>"
            if name == self.segment
            else f'<button name="segment" value="{html.escape(name)}">{html.escape(name)}</button>'
            for name in self.segments
        ]
        # A form, because the page's own scripts take links over.
        return f'<nav aria-label="Segments"><form>{"".join(links)}</form></nav>'

    def _list_alerts(self) -> str:
        alerts = [each for each in self.facts.get("alerts", []) if each["segment"] in ("all", self.segment)]
        items = [
            f"<div class='{html.escape(each['severity'])}'><b>{html.escape(each['severity'])}</b> "
            f"{html.escape(each['evidence'])}<br><small>since {html.escape(each['first_seen'])}"
            f"{html.escape(' · ' + each['owner'] if each['owner'] else '')} · {html.escape(each['id'])}</small></div>"
            for each in alerts
        ]
        return f"<h2>Open alerts: {len(items)}</h2>{''.join(items)}"

    def _tabulate(self) -> str:
        if not self.facts:
            return ""
        known = self.facts["progress"].get(self.segment)
        if known is None:
            return "<p>This segment is one of rows: its numbers are in the overview below.</p>"
        entered = known.get("", 0)
        rows = [
            f"<tr><td>{html.escape(name)}</td><td class='n'>{known.get(key, 0):,}</td>"
            f"<td class='n'>{_word_share(known.get(key, 0), entered)}</td></tr>"
            for key, name in self.facts["conversions"].items()
        ]
        return (
            f"<h2>{html.escape(self.facts['period'])} so far</h2>"
            f"<p>{entered:,} units entered, with an event of any kind.</p>"
            "<table><thead><tr><th>Conversion</th><th class='n'>Units</th><th class='n'>of entered</th></tr></thead>"
            f"<tbody>{''.join(rows)}</tbody></table>"
        )

    def _write_script(self) -> str:
        seconds = max(REFRESH_SECONDS, float(self.facts.get("interval", 0))) if self.facts else 10
        # A page whose controls somebody moves stays until they rest.
        return (
            f"const rest = {seconds * 1000:.0f}; let moved = 0;"
            "addEventListener('input', () => moved = Date.now(), true);"
            "setInterval(() => Date.now() - moved >= rest && location.reload(), rest)"
        )


def show_live(folder: str | Path, *, segment: str, segments: Sequence[str]) -> Live:
    """Show what the watcher last wrote: as of when, events in the window, open alerts, the period so far."""
    path = Path(folder) / LIVE
    facts = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return Live(facts, segment, tuple(segments))


def choose_segment(segments: Sequence[str], *, query: str | None = None) -> str:
    """Give the segment that the page's address names, if the run has it; else the run's first.

    Args:
        segments: The run's segments.
        query: What follows `?` in the address; None for what Voilà says of the page being made.
    """
    asked = parse_qs(os.environ.get("QUERY_STRING", "") if query is None else query).get("segment", [""])[0]
    return asked if asked in segments else segments[0]


def _word_share(units: int, entered: int) -> str:
    return f"{units / entered:.1%}" if entered else "-"
