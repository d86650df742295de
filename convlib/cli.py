"""The command line: run reports, check a run without running it, show or suggest a plan, list the example datasets."""

import contextlib
import inspect
import json
import re
import shlex
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from convlib.errors import ConvlibError, ParamError, StoppedError

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table

    from convlib.events import EventLog
    from convlib.plan import Loss, Macro, Micro, Plan
    from convlib.reports.preparation import Preparation
    from convlib.reports.run import Run
    from convlib.scaffold import Upgrade
    from convlib.upkeep import PlanReview, Recalibration

BAD_INPUT, INTERRUPTED, TERMINATED = 2, 130, 143
EXIT_CODES = """\
Exit codes:

[bold]0[/bold] all reports were made

[bold]1[/bold] at least one notebook failed, or the disk is full; the others were made

[bold]2[/bold] the input is wrong, or another run writes there; nothing was made

[bold]130[/bold] interrupted, [bold]143[/bold] ended from outside; continue with --resume
"""


class Kernel(StrEnum):
    """How the notebooks' processes are started."""

    WARM = "warm"
    COLD = "cold"


#: Letters of a table that other programs may read: no terminal is so wide, and none cuts it.
WIDEST = 1_000
PLAN_EXIT_CODES = "Exit codes: [bold]0[/bold] done; [bold]2[/bold] the input is wrong, nothing was written"

app = typer.Typer(
    name="convlib",
    help="Which small steps lead to the goals that pay? Reports from an event log and a measurement plan.\n\n"
    "Begin with a workbook of your own: [bold]convlib new own --from EVENTS[/bold], or in a checkout with an example: "
    "[bold]convlib run params/oulad/weekly.yaml[/bold]",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_show_locals=False,
)
plans = typer.Typer(help="Show a measurement plan, or suggest a first one from a log.", no_args_is_help=True)
app.add_typer(plans, name="plan")


def _list_run_files(incomplete: str) -> list[str]:
    """List the run files that begin so, for the shell's completion: beside, in `params/`, and where it points."""
    folders = {Path(), *Path().glob("params"), *Path().glob("params/*/"), Path(f"{incomplete}x").parent}
    paths = {path.as_posix(): path for folder in folders for path in folder.glob("*.yaml")}
    return sorted(name for name, path in paths.items() if name.startswith(incomplete) and _is_run_file(path))


def _is_run_file(path: Path) -> bool:
    try:
        return re.search("^run:", path.read_text("utf-8"), re.MULTILINE) is not None
    except (OSError, UnicodeDecodeError):
        return False


def _list_nothing() -> list[str]:
    """Complete nothing, where the shell would offer files."""
    return []


RunFile = Annotated[
    Path,
    typer.Argument(
        metavar="FILE", help="The run file, such as params/oulad/weekly.yaml.", autocompletion=_list_run_files
    ),
]


@app.callback(invoke_without_command=True)
def _main(
    version: Annotated[bool, typer.Option("--version", help="Show the version and stop.")] = False,
) -> None:
    if version:
        from importlib.metadata import version as read_version

        print(f"convlib {read_version('convlib')}")
        raise typer.Exit


@app.command(epilog=PLAN_EXIT_CODES)
def new(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where.", show_default="here")] = Path(),
    *,
    events: Annotated[
        str, typer.Option("--from", metavar="EVENTS", help="Your log: a file, folder or glob, or dataset:NAME.")
    ] = "",
    mapping: Annotated[
        str, typer.Option(metavar="NAME|FILE", help="How its columns are to be read: a preset or a YAML file.")
    ] = "",
    macro: Annotated[
        str, typer.Option(metavar="EVENT", help="The event that pays, if it is not found by its name.")
    ] = "",
    upgrade: Annotated[bool, typer.Option("--upgrade", help="Show what a newer convlib would change there.")] = False,
    accept: Annotated[bool, typer.Option("--accept", help="Change it; what you changed stays.")] = False,
) -> None:
    """Make a workbook of your own: notebooks, a plan suggested from your log, a run file that fits it.

    Example: [bold]convlib new own --from events.csv[/bold]

    With a newer convlib: [bold]convlib new own --upgrade[/bold], then [bold]convlib new own --upgrade --accept[/bold]
    """
    from convlib import scaffold

    with _end_with_problems():
        if upgrade and (events or mapping or macro):
            beside = "--from, --mapping or --macro, which are for a new workbook"
            raise ParamError(f"--upgrade stands beside {beside}. Remove one.")
        if accept and not upgrade:
            raise ParamError("--accept needs --upgrade. Add it.")
        if (mapping or macro) and not events:
            raise ParamError(f"{'--mapping' if mapping else '--macro'} needs --from. Add the log.")
        if upgrade:
            _show_upgrade(scaffold.upgrade_workbook(folder), accept=accept)
            return
        files = scaffold.make_workbook(folder, events=events, mapping=mapping, macro=macro)
    there = "" if folder.resolve() == Path.cwd() else f"cd {shlex.quote(str(folder))} && "
    print(f"Made {len(files)} files in {folder}. Next:")
    print(f"1. Look into {folder / scaffold.PLAN}: is its macro the outcome that pays? README.md there says more.")
    print(f"2. {there}convlib check {scaffold.RUN_FILE}")
    print(f"3. convlib run {scaffold.RUN_FILE}, which ends with the path of an index page to open")


@app.command(epilog=EXIT_CODES)
def run(
    file: RunFile,
    *,
    resume: Annotated[bool, typer.Option("--resume", help="Keep reports whose input has not changed.")] = False,
    workers: Annotated[int | None, typer.Option(help="Notebooks at a time.", show_default="one a processor")] = None,
    kernel: Annotated[
        Kernel, typer.Option(help="How notebooks start: forked from a warm process, or each anew.")
    ] = Kernel.WARM,
    reports: Annotated[Path, typer.Option(metavar="DIR", help="The folder to write to.")] = Path("reports"),
    period: Annotated[
        str | None, typer.Option(metavar="START_END", help="Days of entries.", show_default="the run file's")
    ] = None,
    catch_up: Annotated[bool, typer.Option("--catch-up", help="Make missed periods too, oldest first.")] = False,
    only: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SEGMENT/NOTEBOOK", help="Make just this report; may be repeated.", autocompletion=_list_nothing
        ),
    ] = None,
    list_only: Annotated[bool, typer.Option("--list", help="Print the reports as JSON lines; make nothing.")] = False,
) -> None:
    """Make the reports of a run file: each notebook for each segment, and an index page.

    Example: [bold]convlib run params/oulad/weekly.yaml[/bold]

    After an interruption: [bold]convlib run params/oulad/weekly.yaml --resume[/bold]
    """
    from convlib.reports import skip_slow_imports

    skip_slow_imports()
    from convlib.reports import run as runner
    from convlib.reports.workers import listen

    tell = None if only or list_only else file
    given: dict[str, Any] = {"resume": resume, "workers": workers, "kernel": kernel.value, "reports": reports}
    days = period.split("_") if period else None
    try:
        with listen(), _end_with_problems(tell):
            if catch_up and (period or only or list_only):
                raise ParamError("--catch-up stands beside --period, --only or --list; give one or the other.")
            if list_only:
                for row in runner.list_reports(file, reports=reports, period=days):
                    print(json.dumps(row, ensure_ascii=False))
                return
            made = (
                runner.catch_up(file, **given)
                if catch_up
                else [runner.run_reports(file, only=only or (), period=days, **given)]
            )
    except KeyboardInterrupt as error:
        is_terminated = isinstance(error, runner.Terminated)
        said = f"{'Ended' if is_terminated else 'Interrupted'}. Continue with --resume."
        print(said, file=sys.stderr)
        _tell_failure(tell, StoppedError(said))
        raise typer.Exit(TERMINATED if is_terminated else INTERRUPTED) from None
    for each in made:
        for note in each.notes:
            print(note, file=sys.stderr)
        _show_failures(each)
        print(each.index)
    raise typer.Exit(0 if all(each.status == "complete" for each in made) else 1)


@app.command(epilog="Exit codes: [bold]0[/bold] done; [bold]2[/bold] the history can't be read")
def runs(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Only the runs of this name.")] = "",
    *,
    reports: Annotated[Path, typer.Option(metavar="DIR", help="The folder of reports.")] = Path("reports"),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON lines.")] = False,
) -> None:
    """List the runs so far: period, when, how long, how they ended, reports made, and alerts.

    Example: [bold]convlib runs weekly[/bold]
    """
    from convlib.documents import did_you_mean, quote_names
    from convlib.reports.history import list_runs

    with _end_with_problems():
        found = list_runs(reports)
        names = list(dict.fromkeys(found["run"]))
        if run and run not in names:
            there = f"there are {quote_names(names)}.{did_you_mean(run, names)}" if names else "there is none yet."
            raise ParamError(f"There is no run {run!r} in {str(reports)!r}; {there}")
        found = found[found["run"] == run] if run else found
    if as_json:
        print(found.to_json(orient="records", lines=True, force_ascii=False), end="")
    else:
        _show_runs(found)


@app.command(epilog="Exit codes: [bold]0[/bold] stopped; [bold]2[/bold] the input is wrong; [bold]130[/bold] Ctrl+C")
def watch(
    file: RunFile,
    *,
    interval: Annotated[
        str | None, typer.Option(metavar="TIME", help="Time between two looks.", show_default="the run file's, or 60s")
    ] = None,
    port: Annotated[int, typer.Option(help="Port of the dashboard, on this machine alone.")] = 8866,
    reports: Annotated[Path, typer.Option(metavar="DIR", help="The folder to write to.")] = Path("reports"),
    dashboard: Annotated[bool, typer.Option("--dashboard/--no-dashboard", help="Serve the live dashboard.")] = True,
) -> None:
    """Look again and again at a growing source: counts, alerts within one interval, and a live dashboard.

    Example: [bold]convlib watch params/own.yaml --interval 30s[/bold], whose `events` are a folder that grows
    """
    import signal
    import threading

    from convlib.reports.watcher import watch_source

    stop, interrupted = threading.Event(), threading.Event()

    def end(number: int, _: object) -> None:
        stop.set()
        if number == signal.SIGINT:
            interrupted.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    with _end_with_problems():
        where = port if dashboard else None
        watch_source(file, stop=stop, reports=reports, interval=interval, port=where, say=_say)
    _say("Stopped; what was counted is kept.")
    raise typer.Exit(INTERRUPTED if interrupted.is_set() else 0)


def _say(line: str) -> None:
    print(line, flush=True)


@app.command(epilog=EXIT_CODES)
def check(file: RunFile) -> None:
    """Find everything that is wrong with a run file, its plan, segments, data and parameters; no notebook runs.

    Example: [bold]convlib check params/oulad/weekly.yaml[/bold]
    """
    from convlib.reports.checking import find_warnings
    from convlib.reports.preparation import prepare_run

    with _end_with_problems():
        preparation = prepare_run(file)
        warnings = [*find_warnings(preparation), *_list_warnings(preparation.plan)]
    _show_preparation(preparation, warnings)


@app.command(epilog="Exit codes: [bold]0[/bold] done; [bold]2[/bold] the input is wrong")
def schedule(
    file: RunFile,
    *,
    kind: Annotated[str, typer.Option("--as", metavar="KIND", help="cron, systemd, github or windows.")] = "cron",
) -> None:
    """Print what starts a run file at the times of its `schedule`, for cron, systemd, GitHub or Windows.

    Example: [bold]convlib schedule params/weekly.yaml --as systemd[/bold]
    """
    from convlib.reports.schedule import write_schedule

    with _end_with_problems():
        print(write_schedule(file, kind=kind), end="")


@plans.command(epilog=PLAN_EXIT_CODES)
def show(
    file: Annotated[Path, typer.Argument(metavar="PLAN", help="The plan file, such as params/shop/plan.yaml.")],
) -> None:
    """Show a plan as a table, with what is unwise in it and how much is still open.

    Example: [bold]convlib plan show params/shop/plan.yaml[/bold]
    """
    from convlib.plan import read_plan

    with _end_with_problems():
        plan = read_plan(file)
    _show_plan(plan)


@plans.command(epilog=PLAN_EXIT_CODES)
def suggest(
    events: Annotated[str, typer.Argument(metavar="EVENTS", help="A file, folder or glob, or dataset:NAME.")],
    *,
    mapping: Annotated[
        str | None, typer.Option(metavar="NAME|FILE", help="How its columns are to be read: a preset or a YAML file.")
    ] = None,
    macro: Annotated[
        str, typer.Option(metavar="EVENT", help="The event that pays, if it is not found by its name.")
    ] = "",
    output: Annotated[Path | None, typer.Option(metavar="FILE", help="The plan file to write.")] = None,
) -> None:
    """Write a first plan from a log of events, with the evidence for each entry, for you to edit.

    Example: [bold]convlib plan suggest dataset:shop --output plan.yaml[/bold]
    """
    from convlib.events import read_events
    from convlib.suggest import suggest_plan

    with _end_with_problems():
        if output and output.exists():
            raise ParamError(f"`--output` is {str(output)!r}, which exists already. Name another file, or delete it.")
        text = suggest_plan(read_events(events, mapping=mapping), macro=macro)
        if output:
            _write(output, text)
    print(output or text, end="\n" if output else "")


@plans.command(epilog=PLAN_EXIT_CODES)
def recalibrate(
    file: RunFile,
    *,
    output: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the diff to this file.")] = None,
    accept: Annotated[bool, typer.Option("--accept", help="Change the plan's file.")] = False,
) -> None:
    """Propose new targets from what the last four periods reached, as a diff of the plan's file, to accept or not.

    Example: [bold]convlib plan recalibrate params/monthly.yaml[/bold]
    """
    from convlib.rates import measure_rates
    from convlib.reports.preparation import prepare_run
    from convlib.upkeep import recalibrate as propose

    with _end_with_problems():
        if output and output.exists():
            raise ParamError(f"`--output` is {str(output)!r}, which exists already. Name another file, or delete it.")
        preparation = prepare_run(file)
        log, given = _find_inputs(preparation, "00_overview", measure_rates)
        found = propose(measure_rates(log, preparation.plan, **given), preparation.plan)
        _show_proposals(found)
        if output and found.diff:
            _write(output, found.diff)
        if accept and found.diff:
            found.accept()
            print(f"{found.path} is changed.")


@plans.command(epilog=PLAN_EXIT_CODES)
def review(file: RunFile) -> None:
    """Find what in a plan has gone stale: micros that never fire or go with nothing, gaps, old benchmarks and dates.

    Example: [bold]convlib plan review params/quarterly.yaml[/bold]
    """
    from convlib.correlation import correlate
    from convlib.reports.preparation import prepare_run
    from convlib.upkeep import review_plan

    with _end_with_problems():
        preparation = prepare_run(file)
        plan = preparation.plan
        log, given = _find_inputs(preparation, "03_correlation", correlate)
        correlation = correlate(log, plan, **{"macro": plan.macros[0].id, **given})
        found = review_plan(plan, log=log, correlation=correlation, on=log.last.date())
    _show_review(found)


@app.command()
def datasets() -> None:
    """List the example logs that come with convlib; a run file names one as `events: dataset:NAME`."""
    from rich.table import Column, Table

    from convlib.datasets.load import list_datasets

    table = Table("Name", "Rows", "Units", "Licence", Column("Try", no_wrap=True), box=None, pad_edge=False)
    for row in list_datasets().itertuples():
        ready = Path("params", str(row.name), "weekly.yaml")
        # Only a checkout has the run file.
        command = f"run {ready.as_posix()}" if ready.exists() else f"new {row.name} --from dataset:{row.name}"
        cells = (str(row.name), f"{row.rows:,}", f"{row.units:,}", escape(str(row.licence)), f"convlib {command}")
        table.add_row(*cells)
    Console(highlight=False, soft_wrap=True).print(table)


@contextlib.contextmanager
def _end_with_problems(tell: Path | None = None) -> Iterator[None]:
    try:
        yield
    except ConvlibError as error:
        _show_problems(error)
        _tell_failure(tell, error)
        raise typer.Exit(1 if isinstance(error, StoppedError) else BAD_INPUT) from None


def _tell_failure(file: Path | None, error: ConvlibError) -> None:
    """Tell those who get the run file's alerts, where nobody sees the terminal."""
    if file and not sys.stderr.isatty():
        from convlib.reports.delivery import report_failure

        for note in report_failure(file, error):
            print(note, file=sys.stderr)


def _write(file: Path, text: str) -> None:
    try:
        with file.open("x", encoding="utf-8") as stream:
            stream.write(text)
    except OSError as error:
        raise ParamError(f"`--output` is {str(file)!r}, which can't be written: {error.strerror}.") from None


def _show_problems(error: ConvlibError) -> None:
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    count = len(error.problems)
    console.print(f"[bold red]{count} problem{'s' if count != 1 else ''}:[/]")
    for number, problem in enumerate(error.problems, start=1):
        console.print(f"{number:>3}. {escape(problem)}")


def _show_failures(made: "Run") -> None:
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    failed = made.table[~made.table["status"].isin(["made", "kept"])]
    if failed.empty:
        return
    console.print(f"[bold red]{len(failed)} of {len(made.table)} reports are incomplete:[/]")
    for row in failed.itertuples():
        console.print(f"  {escape(f'{row.segment} · {row.notebook}: {str(row.error).splitlines()[-1]}')}")


def _show_runs(found: "pd.DataFrame") -> None:
    from rich.table import Table

    if found.empty:
        print("No run yet. Begin with `convlib run FILE`.")
        return
    headings = ("Run", "Period", "Started", "Seconds", "Status", "Reports", "Failed", "Alerts")
    table = Table(*headings, box=None, pad_edge=False)
    for row, has_alerts in zip(found.itertuples(), found["alerts"].notna(), strict=True):
        period = f"{row.period_start} to {row.period_end}"
        # A run without a report that looks for alerts has no number of them.
        alerts = f"{row.alerts} open, {row.new_alerts} new" if has_alerts else "-"
        counts = (f"{row.made} of {row.reports}", str(row.failed), alerts)
        table.add_row(escape(str(row.run)), period, str(row.started), f"{row.seconds:,.0f}", str(row.status), *counts)
    # As wide as its longest row: a terminal wraps what a cut would lose.
    Console(highlight=False, soft_wrap=True, width=WIDEST).print(table)


def _list_warnings(plan: "Plan") -> tuple[str, ...]:
    """List what is unwise in a plan; one that was suggested is for its owner to shorten, as it says itself."""
    from convlib.suggest import HEAD

    return () if Path(plan.path).read_text("utf-8-sig").startswith(HEAD) else plan.warnings


def _show_preparation(preparation: "Preparation", warnings: Sequence[str]) -> None:
    from rich.table import Table

    from convlib.takeaways import word_rows

    log, (start, end) = preparation.log, preparation.period
    rows = word_rows(log.row_counts, rejected_because=log.rejected_because, left_out_because=log.left_out_because)
    console = Console(highlight=False, soft_wrap=True)
    for warning in warnings:
        console.print(f"[yellow]Warning:[/] {escape(warning)}")
    console.print(f"{escape(rows)}. Entries from {start} to {end}, data to {log.last.date()}.")
    segments, notebooks = preparation.segments, preparation.notebooks
    console.print(f"{len(segments)} segment{'s' * (len(segments) != 1)}: {escape(', '.join(segments))}.")
    table = Table("Notebook", "Title", "Parameters", title_justify="left", box=None, pad_edge=False)
    for template in notebooks.templates:
        given = ", ".join(f"{name}={value!r}" for name, value in notebooks.parameters[template.name].items())
        table.add_row(template.name, escape(template.title), escape(given) or "-")
    if notebooks.templates:
        console.print(table)
    for note in preparation.notes:
        console.print(f"[yellow]Note:[/] {escape(note)}")
    total = len(segments) * len(notebooks.templates)
    fits = "can be run, with the warnings above" if warnings else "fits plan and log"
    console.print(f"The run file {fits}; the event map judges the log. `convlib run` makes {total} reports.")


def _find_inputs(
    preparation: "Preparation", notebook: str, analysis: Callable[..., object]
) -> tuple["EventLog", dict[str, Any]]:
    """Give the log of all units as a notebook of the run sees it, and what the notebook hands to an analysis."""
    from convlib.errors import RunError

    templates = {template.name: template for template in preparation.notebooks.templates}
    if notebook not in templates:
        place = preparation.run_file.locate("notebooks")
        msg = f"{place}: there is no {notebook!r}, whose parameters say how to measure. Add it to `notebooks`."
        raise RunError(msg)
    given = {**templates[notebook].parameters, **preparation.notebooks.parameters[notebook]}
    log = preparation.log.between(*preparation.period, timezone=str(given.get("timezone") or "UTC"))
    taken = inspect.signature(analysis).parameters.keys() - {"log", "plan", "by"}
    return log, {name: value for name, value in given.items() if name in taken and value not in ("", [])}


def _show_upgrade(found: "Upgrade", *, accept: bool) -> None:
    print(found.diff, end="")
    for name in found.conflicts:
        print(f"{name}: you and the newer convlib changed the same place. Yours stays; the newer goes to {name}.new.")
    if not found.files:
        print("Nothing to change.")
    if accept:
        found.accept()
        print(f"{len(found.files)} files are written.")
    elif found.files:
        print("Nothing is written yet: add --accept.")


def _show_proposals(found: "Recalibration") -> None:
    from rich.table import Table

    from convlib.results import format_value

    console = Console(highlight=False, soft_wrap=True)
    for sentence in found.takeaways:
        console.print(escape(sentence))
    rows = found.proposals
    if rows.empty:
        console.print("Nothing to propose.")
        return
    shown = [(name, heading) for name, heading, _ in found.SHOWN if name != "periods"]
    table = Table(*(heading for _, heading in shown), box=None, pad_edge=False)
    for _, row in rows.iterrows():
        table.add_row(*(escape(format_value(row[name], "text")) for name, _ in shown))
    console.print(table)
    for text in found.by_hand:
        console.print(f"By hand: {escape(text)}")
    print(found.diff, end="")


def _show_review(found: "PlanReview") -> None:
    from rich.table import Table

    console = Console(highlight=False, soft_wrap=True)
    for sentence in found.takeaways:
        console.print(escape(sentence))
    table = Table("Conversion", "Finding", "Evidence", "Advice", box=None, pad_edge=False)
    for severity, rows in found.named.groupby("severity", sort=False):
        table.add_row(f"[bold]{severity}[/]")
        for _, row in rows.iterrows():
            table.add_row(*(escape(row[name]) for name in ("conversion", "finding", "evidence", "advice")))
    console.print(table)


def _show_plan(plan: "Plan") -> None:
    from rich.table import Table

    console = Console(highlight=False)
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, expand=True)
    widths = {"Conversion": 14, "Match": 19, "Metric": 13, "Owner": 12, "Target": 8, "Benchmark": 9}  # of 80 columns
    for heading, width in widths.items():
        table.add_column(heading, ratio=width, overflow="fold")
    for macro in plan.macros:
        _add_conversion(table, macro)
        for stage in plan.stages:
            _add_group(table, stage, [micro for micro in macro.micros if micro.stage == stage])
        _add_group(table, "losses", macro.losses)
    for each in plan.leave_out:
        whose = "; every row of the user" if each.scope == "user" else ""
        table.add_row(escape(each.name), escape(f"{each.match}{whose}"), "left out")
    console.print(table)
    for warning in _list_warnings(plan):
        console.print(f"[yellow]Warning:[/] {escape(warning)}", soft_wrap=True)
    counts = Counter(field for _, field in plan.gaps)
    listed = ", ".join(f"{field} {count}" for field, count in counts.most_common())
    console.print(f"Gaps: {counts.total()} fields left open{f' ({listed})' if listed else ''}.", soft_wrap=True)


def _add_group(table: "Table", heading: str, conversions: Sequence["Micro | Loss"]) -> None:
    if conversions:
        table.add_row(f" [italic]{escape(heading)}[/]")
    for each in conversions:
        _add_conversion(table, each, indent=2)


def _add_conversion(table: "Table", conversion: "Macro | Micro | Loss", *, indent: int = 0) -> None:
    from rich.padding import Padding
    from rich.text import Text

    name = Text(conversion.name, style="" if indent else "bold")
    table.add_row(Padding(name, (0, 0, 0, indent)), *map(Text, _word_conversion(conversion)))


def _word_conversion(conversion: "Macro | Micro | Loss") -> list[str]:
    """Word what a conversion matches and, where it has them, its metric, owner, target and benchmark."""
    from convlib.plan import Loss, Macro, Range

    match, dedupe = str(conversion.match), conversion.dedupe
    if dedupe:
        match += f"; once in {dedupe.within}" + (f" for the same {', '.join(dedupe.same)}" if dedupe.same else "")
    if isinstance(conversion, Loss):
        return [match]
    metric = "rate" if isinstance(conversion, Macro) else str(conversion.metric)
    target = _word_number(conversion.target.value if conversion.target else None, metric)
    usual = conversion.benchmark or Range()
    low, high = _word_number(usual.low, metric), _word_number(usual.high, metric)
    benchmark = {(True, False): f"at least {low}", (False, True): f"at most {high}", (False, False): "-"}
    filled = (usual.low is not None, usual.high is not None)
    return [match, metric, conversion.owner or "-", target, benchmark.get(filled, f"{low} to {high}")]


def _word_number(number: float | None, metric: str) -> str:
    from convlib.results import find_kind, format_value

    return format_value(number, find_kind(metric))
