"""The command line: run reports, check a run without running it, list the example datasets."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from convlib.errors import ConvlibError

if TYPE_CHECKING:
    from convlib.reports.preparation import Preparation
    from convlib.reports.run import Run

BAD_INPUT, INTERRUPTED = 2, 130
EXIT_CODES = """\
Exit codes:

[bold]0[/bold] all reports were made

[bold]1[/bold] at least one notebook failed; the others were made

[bold]2[/bold] the input is wrong; nothing was made

[bold]130[/bold] interrupted; continue with --resume
"""

app = typer.Typer(
    name="convlib",
    help="Which small steps lead to the goals that pay? Reports from an event log and a measurement plan.\n\n"
    "Begin with an example: [bold]convlib run params/oulad/weekly.yaml[/bold]",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_show_locals=False,
)
RunFile = Annotated[Path, typer.Argument(metavar="FILE", help="The run file, such as params/oulad/weekly.yaml.")]


@app.callback(invoke_without_command=True)
def _main(
    version: Annotated[bool, typer.Option("--version", help="Show the version and stop.")] = False,
) -> None:
    if version:
        from importlib.metadata import version as read_version

        print(f"convlib {read_version('convlib')}")
        raise typer.Exit


@app.command(epilog=EXIT_CODES)
def run(
    file: RunFile,
    *,
    resume: Annotated[bool, typer.Option("--resume", help="Keep reports whose input has not changed.")] = False,
    workers: Annotated[int | None, typer.Option(help="Notebooks at a time.", show_default="one a processor")] = None,
    reports: Annotated[Path, typer.Option(metavar="DIR", help="The folder to write to.")] = Path("reports"),
) -> None:
    """Make the reports of a run file: each notebook for each segment, and an index page.

    Example: [bold]convlib run params/oulad/weekly.yaml[/bold]

    After an interruption: [bold]convlib run params/oulad/weekly.yaml --resume[/bold]
    """
    from convlib.reports.run import run_reports

    try:
        made = run_reports(file, resume=resume, workers=workers, reports=reports)
    except ConvlibError as error:
        _show_problems(error)
        raise typer.Exit(BAD_INPUT) from None
    except KeyboardInterrupt:
        print("Interrupted. Continue with --resume.", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None
    _show_failures(made)
    print(made.index)
    raise typer.Exit(0 if made.status == "complete" else 1)


@app.command(epilog=EXIT_CODES)
def check(file: RunFile) -> None:
    """Find everything that is wrong with a run file, its plan, segments, data and parameters; no notebook runs.

    Example: [bold]convlib check params/oulad/weekly.yaml[/bold]
    """
    from convlib.reports.preparation import prepare_run

    try:
        preparation = prepare_run(file)
    except ConvlibError as error:
        _show_problems(error)
        raise typer.Exit(BAD_INPUT) from None
    _show_preparation(preparation)


@app.command()
def datasets() -> None:
    """List the example logs that come with convlib; a run file names one as `events: dataset:NAME`."""
    from rich.table import Table

    from convlib.datasets.load import list_datasets

    table = Table("Name", "Rows", "Units", "Licence", "Try", box=None, pad_edge=False)
    for row in list_datasets().itertuples():
        command = f"convlib run params/{row.name}/weekly.yaml"
        table.add_row(str(row.name), f"{row.rows:,}", f"{row.units:,}", escape(str(row.licence)), command)
    Console(highlight=False, soft_wrap=True).print(table)


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


def _show_preparation(preparation: "Preparation") -> None:
    from rich.table import Table

    from convlib.takeaways import word_reasons

    log, (start, end) = preparation.log, preparation.period
    console = Console(highlight=False, soft_wrap=True)
    for warning in preparation.plan.warnings:
        console.print(f"[yellow]Warning:[/] {escape(warning)}")
    console.print(
        f"{log.rows_read:,} rows read = {log.rows_used:,} used + {log.rows_rejected:,} rejected"
        f"{escape(word_reasons(log.rejected_because))}. Entries from {start} to {end}, data to {log.last.date()}."
    )
    segments, notebooks = preparation.segments, preparation.notebooks
    console.print(f"{len(segments)} segments: {escape(', '.join(segments))}.")
    table = Table("Notebook", "Title", "Parameters", title_justify="left", box=None, pad_edge=False)
    for template in notebooks.templates:
        given = ", ".join(f"{name}={value!r}" for name, value in notebooks.parameters[template.name].items())
        table.add_row(template.name, escape(template.title), escape(given) or "-")
    console.print(table)
    total = len(segments) * len(notebooks.templates)
    console.print(f"Nothing is wrong. `convlib run` makes {total} reports.")
