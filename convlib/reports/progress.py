"""How far a run is: a bar on a terminal, one plain line a notebook elsewhere."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

Tick = Callable[[str], None]


@contextmanager
def show_progress(total: int) -> Iterator[Tick]:
    """Show how far a run is on standard error.

    Args:
        total: How many notebooks there are.

    Yields:
        A function to call with one line for each finished notebook.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _print_lines(total)
        return
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    with Progress(*columns, TextColumn("{task.description}"), console=console) as progress:
        task = progress.add_task("starting", total=total)
        yield lambda line: progress.update(task, advance=1, description=escape(line))


def _print_lines(total: int) -> Tick:
    done = 0

    def tick(line: str) -> None:
        nonlocal done
        done += 1
        print(f"[{done}/{total}] {line}", file=sys.stderr, flush=True)

    return tick
