"""Controls in a notebook cell that choose segment, window, steps and days of a funnel, beside what they choose."""

import asyncio
import base64
import dataclasses
import functools
import html
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ipywidgets as widgets  # type: ignore[import-untyped]
import itables
import itables.javascript
import itables.options
import pandas as pd
from IPython.core.getipython import get_ipython

from convlib import plots
from convlib.choices import Choice
from convlib.errors import ConvlibError
from convlib.events import EventLog, check_log
from convlib.funnel import Funnel
from convlib.plan import Plan
from convlib.segment_edits import add_segment

#: A move that another follows sooner than this is not counted.
SETTLE_SECONDS = 0.1
#: A table of more rows can be sorted and searched.
LONG_TABLE = 20
WINDOWS = ("1h", "1D", "7D", "14D", "30D", "90D")
NOTHING = "(none)"
CONTROL = {"width": "min(100%, 340px)", "margin": "2px 0"}
RESULT = {"flex": "3 1 480px", "min_width": "0", "max_width": "100%"}
STYLE = (Path(__file__).parent / "explorer.css").read_text(encoding="utf-8")


class Explorer:
    """A funnel with controls; where nobody can move them, the funnel as it is.

    Attributes:
        log: The log that the controls look at.
        plan: Its plan.
        choice: What the controls say.
        result: The funnel of the last choice that could be measured.
        steps: The controls of the steps, the last of them empty.
    """

    def __init__(self, log: EventLog, plan: Plan, choice: Choice) -> None:
        self.log, self.plan, self.choice = log, plan, choice
        self.result = choice.measure(log)
        self._waiting: asyncio.TimerHandle | None = None
        self._arranging = False
        self.steps: list[Any] = []

    @property
    def code(self) -> str:
        """Give the calls that make what is chosen."""
        return self.choice.write_code(self.log)

    @functools.cached_property
    def controls(self) -> dict[str, Any]:
        """Give the controls by name: those of `make_controls`, and `save_as` and `save`."""
        controls = make_controls(self.log, self.choice)
        for control in controls.values():
            control.observe(self._move, "value")
        controls["save_as"] = widgets.Text(description="Save as", placeholder="a name for the segment", layout=CONTROL)
        controls["save"] = widgets.Button(description="Save segment", layout=CONTROL)
        controls["save"].on_click(lambda _: self.save_segment(controls["save_as"].value))
        return controls

    @functools.cached_property
    def widget(self) -> Any:
        """Give all of it as one widget: the controls, beside them what they choose."""
        self._page, self._long, self._library = widgets.HTML(), widgets.Output(), widgets.Output()
        self._column = widgets.VBox(layout={"flex": "1 1 300px", "min_width": "0"})
        self._arrange()
        self._show("")
        box = widgets.Box([self._column, widgets.VBox([self._page, self._library, self._long], layout=RESULT)])
        box.layout = {"display": "flex", "flex_flow": "row wrap", "align_items": "flex-start"}
        box.add_class("convlib-explore")
        return box

    def save_segment(self, name: str) -> None:
        """Write the chosen segment into the log's segments file; what is wrong stands in the widget."""
        path = next((each.path for each in self.log.segments.values() if each.path), "")
        try:
            segments = add_segment(path, name.strip(), self.choice.describe_segment(self.log))
        except ConvlibError as error:
            self._show(_word_problems(error))
            return
        self.log = dataclasses.replace(self.log, segments=segments)
        self._arranging = True
        for control in (self.controls["segment"], self.controls["also"]):
            kept = control.value
            control.options = _list_segments(self.log)
            control.value = kept
        self._arranging = False
        text = f"`{name.strip()}` is saved in {path}. Other cells know it once they have read the log again."
        self._show(f'<p role="status" class="done">{html.escape(text)}</p>')

    def _move(self, _: object) -> None:
        """Count again when the controls have come to rest; a newer move takes the place of an older one."""
        if self._arranging:
            return
        self._arrange()
        self.choice = self._read()
        if self._waiting:
            self._waiting.cancel()
        try:
            self._waiting = asyncio.get_running_loop().call_later(SETTLE_SECONDS, self._update)
        except RuntimeError:
            self._update()

    def _read(self) -> Choice:
        values = {name: self.controls[name].value for name in ("segment", "also", "window", "by")}
        days = [self.controls[name].value for name in ("start", "end")]
        # A day that the log has anyhow needs no call in the code.
        given = zip(days, self.log.period, (self.log.start, self.log.end), strict=True)
        start, end = (known if day == bound else day for day, bound, known in given)
        return Choice(**values, steps=tuple(self._list_steps()), start=start, end=end)

    def _list_steps(self) -> list[str]:
        return [each.value for each in self.steps if each.value != NOTHING]

    def _arrange(self) -> None:
        """Close gaps among the steps, and have an empty one at the end."""
        self._arranging = True
        steps = self._list_steps() if self.steps else self.choice.steps
        del self.steps[len(steps) + 1 :]
        while len(self.steps) <= len(steps):
            number = len(self.steps) + 1
            self.steps.append(widgets.Dropdown(description=f"Step {number}", options=self._events, layout=CONTROL))
            self.steps[-1].observe(self._move, "value")
        for control, value in zip(self.steps, [*steps, NOTHING], strict=True):
            control.value = value
        *chosen, save_as, save = self.controls.values()
        self._column.children = [*chosen[:2], *self.steps, *chosen[2:], save_as, save]
        self._arranging = False

    @functools.cached_property
    def _events(self) -> list[tuple[str, str]]:
        """List what may be a step: the plan's conversions by name, then the other events."""
        known = {each.id: each.name for each in self.plan.conversions}
        events = sorted(self.log.engine.log.event_names) if self.log.engine else self.log.whole().values("event_name")
        others = [(name, name) for name in events if name not in known]
        return [(NOTHING, NOTHING), *((name, each) for each, name in known.items()), *others]

    def _update(self) -> None:
        try:
            self.result = self.choice.measure(self.log)
        except ConvlibError as error:
            self._show(_word_problems(error))
            return
        self._show("")

    def _show(self, message: str) -> None:
        """Show the result, greyed if the controls ask for something that there is not."""
        stale = ' class="stale"' if 'role="alert"' in message else ""
        page = f"<div{stale}>{self._show_result(table=not self._is_long)}</div>"
        self._page.value = f"<style>{STYLE}</style>{message}{page}{_show_code(self.code) if not stale else ''}"
        if self._is_long and not self._library.outputs:
            self._library.outputs = _write_output(
                itables.javascript.generate_init_offline_itables_html(itables.options.dt_bundle)
            )
        self._long.outputs = _write_output(_tabulate(self.result)) if self._is_long else ()

    @property
    def _is_long(self) -> bool:
        return len(self.result.table) > LONG_TABLE

    def _show_result(self, *, table: bool) -> str:
        result = self.result
        picture = base64.b64encode(plots.render(result.plot)).decode("ascii")
        alt = html.escape(" ".join(result.takeaways.first(1)), quote=True)
        figure = f'<img class="figure" alt="{alt}" src="data:image/png;base64,{picture}">'
        return f"{result.takeaways._repr_html_()}{figure}{result._repr_html_() if table else ''}"

    def _repr_html_(self) -> str:
        return self._show_result(table=True)

    def _repr_mimebundle_(self, **_: object) -> dict[str, Any]:
        """Give the widget where somebody can move it."""
        return dict(self.widget._repr_mimebundle_()) if has_front_end() else {}


def explore(log: EventLog, plan: Plan, *, steps: Sequence[str] = (), window: str = "7D") -> Explorer:
    """Try out a funnel's segment, window, steps and days, and see at once where units leave.

    Args:
        log: The log, as it was read with the plan; its segments are those that can be chosen.
        plan: The plan, whose conversions can be chosen as steps.
        steps: The steps to begin with; none for the first macro and its process milestones.
        window: The window to begin with.

    Returns:
        An object that a notebook shows as controls, takeaways, figure and table. `.result` is the funnel shown, for the
        next cell, and `.code` the calls that make it.

    Raises:
        ParamError: The log was read without the plan, or the steps or the window are wrong.
    """
    check_log(log)
    log.check_plan(plan)
    macro = plan.macros[0]
    milestones = [each.id for each in macro.micros if each.kind == "process_milestone"]
    first = milestones or [each.id for each in macro.micros[:1]]
    chosen = tuple(steps) or (*first, macro.id)
    return Explorer(log, plan, Choice(log.segment_name, "all", window, chosen, "", log.start, log.end))


def make_controls(log: EventLog, choice: Choice) -> dict[str, Any]:
    """Make the controls of a log's segments and days, of the window and of groups set side by side."""
    names = _list_segments(log)
    first, last = log.whole().period
    columns = dict.fromkeys(each.by for each in log.segments.values() if each.by)
    known: Callable[..., dict[str, Any]] = functools.partial(dict, layout=CONTROL)
    day = functools.partial(known, min=first, max=last)
    windows = known(options=WINDOWS, continuous_update=False)
    groups = [(NOTHING, ""), *((name, name) for name in columns)]
    return {
        "segment": widgets.Dropdown(description="Segment", value=choice.segment, **known(options=names)),
        "also": widgets.Dropdown(description="and also", value=choice.also, **known(options=log.expand_segments())),
        "window": widgets.Combobox(description="Window", value=choice.window, **windows),
        "by": widgets.Dropdown(description="Compare by", value=choice.by, **known(options=groups)),
        "start": widgets.DatePicker(description="First day", value=log.period[0], **day()),
        "end": widgets.DatePicker(description="Last day", value=log.period[1], **day()),
    }


def has_front_end() -> bool:
    """Say whether the cell was run by somebody who can move a control: an editor names the cell, Voilà itself."""
    kernel = getattr(get_ipython(), "kernel", None)
    parent = kernel.get_parent() if kernel else {}
    return "cellId" in parent.get("metadata", {}) or os.environ.get("SERVER_SOFTWARE", "").startswith("voila")


def _list_segments(log: EventLog) -> list[str]:
    """List the segments, that of the log first if it has no name of its own."""
    names = log.expand_segments()
    return names if log.segment_name in names else [log.segment_name, *names]


def _word_problems(error: ConvlibError) -> str:
    return f'<div role="alert">{"<br>".join(map(html.escape, error.problems))}</div>'


def _show_code(code: str) -> str:
    copy = "const t = this.parentNode.querySelector('textarea'); t.select(); document.execCommand('copy')"
    return (
        '<div><label>Copy as code<textarea readonly rows="4" onclick="this.select()">'
        f'{html.escape(code)}</textarea></label><button type="button" onclick="{copy}">Copy</button></div>'
    )


def _write_output(page: str) -> tuple[dict[str, Any], ...]:
    return ({"output_type": "display_data", "data": {"text/html": page, "text/plain": ""}, "metadata": {}},)


def _tabulate(result: Funnel) -> str:
    """Make a table that can be sorted and searched, and loads nothing: shares in percent, times in seconds."""
    shown = [(name, name.replace("_", " ").capitalize(), "text") for name in result.by]
    columns = {}
    for name, heading, kind in (*shown, *result.SHOWN):
        values = result.named[name]
        unit = {"percent": ", %", "seconds": ", s"}.get(kind, "")
        columns[heading + unit] = (100 * values).round(1) if kind == "percent" else values
    table = pd.DataFrame(columns).reset_index(drop=True)
    return itables.to_html_datatable(table, connected=False, showIndex=False, display_logo_when_loading=False)
