"""A workbook of one's own: made from the templates and a log, brought up to date without losing its owner's changes."""

import contextlib
import functools
import json
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from convlib.datasets.files import workbook_folder
from convlib.documents import quote_names
from convlib.errors import EventDataError, RunError
from convlib.events import read_events
from convlib.files import write_text
from convlib.first_run import choose_columns, name_path, write_clock, write_run_file, write_segments
from convlib.mapping import read_mapping
from convlib.merging import compare, fill_parameters, join, list_keys, merge, read_pieces, split
from convlib.plan import read_plan
from convlib.reports.notebooks import FOLDER, read_templates
from convlib.reports.preparation import prepare_run
from convlib.reports.run_file import read_run_file
from convlib.reports.schedule import RECORD, write_schedule
from convlib.suggest import suggest_plan

PLAN, SEGMENTS, RUN_FILE = "params/plan.yaml", "params/segments.yaml", "params/weekly.yaml"
WORKFLOW = ".github/workflows/reports.yml"
WORKFLOW_HEAD = (
    f"# Made by `convlib schedule {RUN_FILE} --as github`; the secrets are set in the repository's settings.\n"
)
#: A wheel beside, so that nothing that only has the name is installed and given the secrets.
REQUIREMENTS = f"./wheels/convlib-{version('convlib')}-py3-none-any.whl\n"
#: What a file of the workbook is called among the package's own.
TEXTS = {"README.md": "README.md", ".gitignore": "gitignore"}
#: The newer form of a file that both sides changed.
NEWER = ".new"


@dataclass(frozen=True)
class Upgrade:
    """What a newer convlib would change in a workbook, not yet done.

    Attributes:
        folder: The workbook.
        files: The new text of each file to write, by its path in the workbook.
        conflicts: The files that both sides changed in one place; `files` has the newer form, under another name.
        diff: The changes as a unified diff; of a notebook, of its cells' texts.
        record: What the workbook's record becomes.
    """

    folder: Path
    files: Mapping[str, str]
    conflicts: tuple[str, ...]
    diff: str
    record: str

    def accept(self) -> None:
        """Write the changes. Cut off, it can be repeated: what is written already is no change any more.

        Raises:
            RunError: A file can't be written.
        """
        try:
            for name, text in {**self.files, RECORD: self.record}.items():
                write_text(self.folder / name, text)
        except OSError as error:
            raise RunError(f"The workbook {str(self.folder)!r} can't be written: {error}. Free the place.") from None


def make_workbook(folder: str | Path, *, events: str = "", mapping: str = "", macro: str = "") -> tuple[str, ...]:
    """Make a workbook: notebooks, plan, segments, run file, README, `.gitignore` and a workflow for scheduled runs.

    It is made in a folder beside and moved to its place when it is whole and its run file has been checked.

    Args:
        folder: Where; it may exist, but hold none of the workbook's files.
        events: The log that plan, segments and run file are suggested from; it stays where it is. Empty takes the
            commented examples, which run on the simulated shop.
        mapping: How its columns are to be read: a preset or a file.
        macro: The event that pays; empty chooses it.

    Returns:
        The files, by their paths in the folder.

    Raises:
        RunError: The folder can't be written or holds such a file, or the log doesn't fit the run file that was made.
        EventDataError: The log can't be read, or no event in it looks like an outcome.
        ParamError: The log has no event `macro`.
    """
    target = Path(folder).resolve()
    try:
        _check_free(target, [RECORD, *TEXTS, PLAN, RUN_FILE])  # before the log is read, which may take minutes
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".convlib-", dir=target.parent) as scratch:
            made = Path(scratch) / "workbook"
            _write_params(made, target, events=events, mapping=mapping, macro=macro)
            _write_rest(made)
            files = sorted(path.relative_to(made).as_posix() for path in made.rglob("*") if path.is_file())
            _check_free(target, files)
            _move(made, target, files)
    except OSError as error:
        raise RunError(f"No workbook was made in {str(folder)!r}: {error}. Name a folder that you may write.") from None
    return tuple(files)


def upgrade_workbook(folder: str | Path) -> Upgrade:
    """Tell what a newer convlib would change in a workbook, without losing what its owner changed.

    Files that the owner never changed are replaced, and new ones added. Where both changed different cells (of
    notebooks) or lines, both changes are kept. Where both changed the same, the file stays and the newer form gets the
    name `NAME.new`. Outputs of notebooks and values of parameters are the owner's and no change; deleted files stay
    deleted; `params/` is never touched.

    Args:
        folder: The workbook.

    Returns:
        The changes, to look at and to accept.

    Raises:
        RunError: The folder is no workbook, or a notebook or the run file in it can't be read.
    """
    place = Path(folder)
    bases = _read_record(place)
    record, files = {**bases}, {}
    conflicts: list[str] = []
    diffs: list[str] = []
    for name, text in _read_newest(place).items():
        theirs = split(name, text)
        record[name] = list_keys(theirs)
        exists = (place / name).exists()
        ours = read_pieces(place / name) if exists else []
        merged = merge(bases.get(name, []), ours, theirs) if exists else theirs
        if list_keys(ours) == list_keys(merged or []) or (name in bases and not exists):
            continue
        new, after = (name, merged) if merged is not None else (name + NEWER, theirs)
        conflicts += [name] * (merged is None)
        files[new] = join(name, text, after)
        diffs += compare(ours, after, f"a/{name}", f"b/{new}")
    return Upgrade(place, files, tuple(conflicts), "".join(diffs), _write_record(record))


def _check_free(folder: Path, files: Sequence[str]) -> None:
    if folder.is_file():
        raise RunError(f"`FOLDER` is {str(folder)!r}, which is a file. Name a folder.")
    if (folder / RECORD).exists():
        raise RunError(f"{str(folder)!r} is a workbook already. `convlib new --upgrade` brings it up to date.")
    if taken := [name for name in files if (folder / name).exists()]:
        raise RunError(
            f"`FOLDER` is {str(folder)!r}, which has {quote_names(taken)} already, and nothing is written over. "
            "Name another folder, or move them away."
        )


def _write_params(made: Path, target: Path, *, events: str, mapping: str, macro: str) -> None:
    """Write plan, segments and run file: suggested from the log, else those to start from."""
    if not events:
        for name in (PLAN, SEGMENTS, RUN_FILE):
            write_text(made / name, (workbook_folder() / name).read_text("utf-8"))
        return
    try:
        suggested = suggest_plan(read_events(events, mapping=mapping or None), macro=macro)
    except EventDataError as error:
        advice = " `--mapping` takes a mapping; docs/how-to/add-a-source.md tells how to write it."
        said = [f"{each}{advice if 'which every log needs' in each else ''}" for each in error.problems]
        raise EventDataError(*said) from None
    write_text(made / PLAN, suggested)
    plan = read_plan(made / PLAN)
    log = read_events(events, plan=plan, mapping=mapping or None)
    # In the plan, where it holds for every notebook.
    clock = f"    {write_clock(log, plan.macros[0])}\n"
    place = r"(?m)^    correlation: .*\n|^(?=    micros:$)"
    write_text(made / PLAN, re.sub(place, lambda _: clock, suggested, count=1))
    plan = read_plan(made / PLAN)
    columns, zone = choose_columns(log), read_mapping(mapping).timezone if mapping else "UTC"
    write_text(made / SEGMENTS, write_segments(columns))
    write = functools.partial(write_run_file, log, plan, columns=columns, timezone=zone)
    whole, final = (
        write(events=name_path(events, base), mapping=name_path(mapping, base)) for base in (None, target / "params")
    )
    # Paths from the final folder are wrong in this one, so what is checked has whole ones.
    write_text(made / RUN_FILE, whole)
    shutil.copytree(workbook_folder() / FOLDER, made / FOLDER, ignore=shutil.ignore_patterns(".*"))
    prepare_run(made / RUN_FILE)
    write_text(made / RUN_FILE, final)


def _write_rest(made: Path) -> None:
    """Write what params don't say: notebooks with the run file's parameters, texts, the workflow, and the record."""
    run_file, plan = read_run_file(made / RUN_FILE), read_plan(made / PLAN)
    shared = {
        **{"events": run_file.events, "mapping": run_file.mapping, "plan": f"../{PLAN}", "segments": f"../{SEGMENTS}"},
        **{"experiment": plan.experiments[0].id if plan.experiments else ""},
        **(run_file.period.calendar | run_file.parameters),
    }
    own = run_file.notebooks or {}
    write_text(made / "reports/.gitkeep", "")
    write_text(made / RECORD, "{}")
    newest = _list_newest(made, {name: shared | (parameters or {}) for name, parameters in own.items()}, shared)
    for name, text in newest.items():
        write_text(made / name, text)
    write_text(made / RECORD, _write_record({name: list_keys(split(name, text)) for name, text in newest.items()}))


def _list_newest(folder: Path, values: Mapping[str, Mapping[str, Any]], shared: Mapping[str, Any]) -> dict[str, str]:
    """Give the files of a workbook as this convlib would write them, but for `params/`.

    Args:
        folder: The workbook, whose run file the workflow is made from.
        values: The parameters of each notebook.
        shared: Those of a notebook that is not among them.
    """
    texts = Path(__file__).parent / "scaffold_files"
    files = {name: (texts / plain).read_text("utf-8") for name, plain in TEXTS.items()}
    files["requirements.txt"] = REQUIREMENTS
    for path in sorted((workbook_folder() / FOLDER).glob("[!._]*.ipynb")):
        given = values.get(path.stem, shared)
        files[f"{FOLDER}/{path.name}"] = fill_parameters(path.read_text("utf-8"), given)
    if (folder / RUN_FILE).exists() and read_run_file(folder / RUN_FILE).schedule:
        with contextlib.chdir(folder):
            _, _, workflow = write_schedule(RUN_FILE, kind="github").partition("\n")
        files[WORKFLOW] = WORKFLOW_HEAD + workflow
    return files


def _read_newest(folder: Path) -> dict[str, str]:
    """Give the newest files with the parameters' values that the owner's notebooks have."""
    values = {name: template.parameters for name, template in read_templates(folder / FOLDER).items()}
    own = ("events", "mapping", "engine", "plan", "segments", "macro", "timezone")
    shared = {name: value for given in values.values() for name, value in given.items() if name in own}
    return _list_newest(folder, values, shared)


def _move(made: Path, target: Path, files: Sequence[str]) -> None:
    if not target.exists():
        made.rename(target)
        return
    moved: list[Path] = []
    try:
        for name in files:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            moved.append((made / name).rename(target / name))
    except BaseException:
        for path in moved:
            path.unlink(missing_ok=True)
        raise


def _read_record(folder: Path) -> dict[str, list[str]]:
    try:
        found = json.loads((folder / RECORD).read_text("utf-8"))["files"]
        return {name: list(keys) for name, keys in found.items()}
    except FileNotFoundError:
        text = f"{str(folder)!r} is no workbook that `convlib new` made: it has no {RECORD}."
        raise RunError(f"{text} Name its folder, or make one: `convlib new FOLDER`.") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        text = f"{folder / RECORD} is not as `convlib new` wrote it, so what you changed can't be told."
        raise RunError(f"{text} Restore it from an earlier version.") from None


def _write_record(files: Mapping[str, Sequence[str]]) -> str:
    listed = ",\n".join(f"  {json.dumps(name)}: {json.dumps(list(keys))}" for name, keys in sorted(files.items()))
    return f'{{"convlib": "{version("convlib")}", "files": {{\n{listed}\n}}}}\n'
