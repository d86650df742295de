import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from test_cli import call

from convlib import scaffold
from convlib.datasets.files import workbook_folder
from convlib.errors import EventDataError, RunError
from convlib.merging import list_keys, split
from convlib.parameters import check_parameters
from convlib.plan import read_plan
from convlib.reports.notebooks import read_templates
from convlib.reports.preparation import prepare_run
from convlib.reports.run_file import read_run_file
from convlib.scaffold import make_workbook, upgrade_workbook

LOG = """\
event_name,timestamp,user_id
visit,2024-03-01 10:00,ann
purchase,2024-03-02 10:00,ann
visit,2024-03-03 10:00,ben
search,2024-03-03 10:05,ben
visit,2024-03-31 10:00,leo
search,2024-03-31 11:00,leo
purchase,2024-03-31 12:00,leo
"""
FILES = (
    ".convlib.json",
    ".github/workflows/reports.yml",
    ".gitignore",
    "README.md",
    "notebooks/00_overview.ipynb",
    "notebooks/01_event_map.ipynb",
    "notebooks/02_funnel.ipynb",
    "notebooks/03_correlation.ipynb",
    "notebooks/04_impact.ipynb",
    "notebooks/05_experiments.ipynb",
    "params/plan.yaml",
    "params/segments.yaml",
    "params/weekly.yaml",
    "reports/.gitkeep",
    "requirements.txt",
)
EXPORT = Path(__file__).parent / "fixtures/exports/ga4.jsonl"
FUNNEL = "notebooks/02_funnel.ipynb"


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")
    Path("log.csv").write_text(LOG)


@pytest.fixture
def older() -> Path:
    """A workbook from a convlib whose README had another first line and whose funnel had another second cell."""
    make_workbook("own")
    rewrite_readme("Old", "# A convlib workbook")
    rewrite_cell(2, "Old text.")
    record = json.loads(Path("own/.convlib.json").read_text())
    for name in ("README.md", FUNNEL):
        record["files"][name] = list_keys(split(name, Path("own", name).read_text()))
    Path("own/.convlib.json").write_text(json.dumps(record))
    return Path("own")


def rewrite_readme(new: str, old: str) -> None:
    path = Path("own/README.md")
    path.write_text(path.read_text().replace(old, new, 1))


def rewrite_cell(number: int, source: str, **more: object) -> None:
    path = Path("own", FUNNEL)
    notebook = json.loads(path.read_text())
    notebook["cells"][number] |= {"source": source, **more}
    path.write_text(json.dumps(notebook))


def read_cell(number: int, folder: Path | None = None) -> str:
    """Reads a cell of the funnel's notebook, of the package's own without a folder."""
    folder = folder or workbook_folder()
    return "".join(json.loads((folder / FUNNEL).read_text("utf-8"))["cells"][number]["source"])


def list_files(folder: str) -> tuple[str, ...]:
    return tuple(sorted(path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if path.is_file()))


def test_make_workbook_writes_every_file_and_leaves_nothing_beside() -> None:
    assert make_workbook("own", events="log.csv") == FILES == list_files("own")
    assert sorted(map(str, Path().iterdir())) == ["log.csv", "own"]


def test_make_workbook_names_the_log_where_it_is_and_fits_it() -> None:
    make_workbook("deep/own", events="log.csv")
    preparation = prepare_run("deep/own/params/weekly.yaml")
    assert preparation.run_file.events == "../../../log.csv"
    assert preparation.log.rows_used == 7
    assert [macro.id for macro in preparation.plan.macros] == ["purchase"]


def test_make_workbook_reads_an_export_with_its_mapping() -> None:
    make_workbook("own", events=str(EXPORT), mapping="ga4")
    preparation = prepare_run("own/params/weekly.yaml")
    assert (preparation.run_file.events, preparation.run_file.mapping) == (str(EXPORT), "ga4")
    assert list(preparation.segments) == ["all", "device_type=desktop", "device_type=mobile"]


def test_make_workbook_takes_macro_entry_and_time_zone() -> None:
    events = [(f"u{n}", *each) for n in range(40) for each in (("enrolled", 1), ("worked", 2), ("Zeugnis", 3))]
    rows = [f"{user},{name},2024-0{1 + int(user[1:]) % 6}-0{day}" for user, name, day in events]
    Path("own.csv").write_text("\n".join(["user_id,event_name,timestamp", *rows[:-1]]))
    Path("own.yaml").write_text("timezone: Europe/London\n")
    make_workbook("own", events="own.csv", mapping="own.yaml", macro="Zeugnis")
    clock = read_plan("own/params/plan.yaml").macros[0].correlation
    assert clock is not None
    assert (clock.entry, clock.horizon) == ("enrolled", "7D")
    assert read_run_file("own/params/weekly.yaml").period.timezone == "Europe/London"
    templates = read_templates(Path("own/notebooks"))
    assert templates["00_overview"].parameters["entry"] == "enrolled"
    assert templates["03_correlation"].parameters["timezone"] == "Europe/London"


def test_make_workbook_without_a_log_has_the_commented_examples() -> None:
    make_workbook("own")
    for name in ("plan", "segments", "weekly"):
        example = workbook_folder() / "params" / f"{name}.yaml"
        assert Path(f"own/params/{name}.yaml").read_text() == example.read_text("utf-8")


def test_make_workbook_gives_notebooks_that_begin_on_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    make_workbook("own", events="log.csv")
    monkeypatch.chdir("own/notebooks")
    templates = read_templates(Path())
    for template in templates.values():
        assert check_parameters(**template.parameters).log.rows_used == 7
    assert templates["02_funnel"].parameters["steps"] == ["visit", "purchase"]
    assert templates["05_experiments"].parameters["experiment"] == ""


def test_make_workbook_goes_into_a_folder_that_is_there_beside_what_it_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("own/params").mkdir(parents=True)
    Path("own/params/mine.yaml").write_text("mine")
    shutil.move("log.csv", "own/log.csv")
    monkeypatch.chdir("own")
    make_workbook(".", events="log.csv")
    assert list_files(".") == tuple(sorted({*FILES, "log.csv", "params/mine.yaml"}))
    assert prepare_run("params/weekly.yaml").run_file.events == "../log.csv"


def test_make_workbook_writes_over_nothing() -> None:
    Path("own").mkdir()
    Path("own/README.md").write_text("mine")
    with pytest.raises(RunError) as error:
        make_workbook("own")
    assert str(error.value) == (
        f"`FOLDER` is {str(Path('own').resolve())!r}, which has 'README.md' already, and nothing is written over. Name "
        "another folder, or move them away."
    )
    assert list_files("own") == ("README.md",)


def test_make_workbook_refuses_a_workbook_and_a_file() -> None:
    make_workbook("own")
    with pytest.raises(RunError) as again:
        make_workbook("own")
    whole = str(Path("own").resolve())
    assert str(again.value) == f"{whole!r} is a workbook already. `convlib new --upgrade` brings it up to date."
    with pytest.raises(RunError) as file:
        make_workbook("log.csv")
    assert str(file.value) == f"`FOLDER` is {str(Path('log.csv').resolve())!r}, which is a file. Name a folder."


@pytest.mark.parametrize("text", ["user_id,event_name\na,b\n", "event_name,timestamp,user_id\nvisit,2024-03-01,a\n"])
def test_make_workbook_leaves_nothing_when_the_log_is_bad(text: str) -> None:
    Path("bad.csv").write_text(text)
    with pytest.raises(EventDataError):
        make_workbook("own", events="bad.csv")
    assert sorted(map(str, Path().iterdir())) == ["bad.csv", "log.csv"]


def test_make_workbook_says_how_to_map_columns() -> None:
    Path("bad.csv").write_text("user_id,event_name\na,b\n")
    with pytest.raises(EventDataError) as caught:
        make_workbook("own", events="bad.csv")
    advice = "`--mapping` takes a mapping; docs/how-to/add-a-source.md tells how to write it."
    assert str(caught.value).endswith(advice)
    assert (workbook_folder() / "docs/how-to/add-a-source.md").exists()


def test_make_workbook_takes_back_what_it_moved_when_it_fails_halfway(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("own").mkdir()
    rename = Path.rename

    def fail(path: Path, target: Path) -> Path:
        if path.name == "README.md":
            raise OSError(28, "No space left on device")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(RunError) as error:
        make_workbook("own")
    assert str(error.value) == (
        "No workbook was made in 'own': [Errno 28] No space left on device. Name a folder that you may write."
    )
    assert list_files("own") == ()


def test_make_workbook_schedules_what_its_requirements_install() -> None:
    make_workbook("own")
    workflow = yaml.safe_load(Path("own/.github/workflows/reports.yml").read_text())
    commands = [step["run"] for step in workflow["jobs"]["report"]["steps"] if "run" in step]
    assert commands[0] == "pip install -r requirements.txt"
    assert commands[2] == "python -m convlib run params/weekly.yaml --resume --catch-up"
    assert Path("own/requirements.txt").read_text() == "./wheels/convlib-0.1.0-py3-none-any.whl\n"


def test_upgrade_workbook_has_nothing_to_do_at_first_nor_after_a_run_by_hand() -> None:
    make_workbook("own")
    assert upgrade_workbook("own").files == {}
    rewrite_cell(3, read_cell(3), outputs=[{"output_type": "stream", "name": "stdout", "text": "x"}], execution_count=1)
    rewrite_cell(1, read_cell(1, Path("own")).replace('"7D"', '"3D"'))
    assert upgrade_workbook("own").files == {}


def test_upgrade_workbook_replaces_what_was_not_changed(older: Path) -> None:
    found = upgrade_workbook(older)
    assert (sorted(found.files), found.conflicts) == (["README.md", FUNNEL], ())
    assert "-Old\n+# A convlib workbook\n" in found.diff
    assert "-Old text.\n+## Data\n" in found.diff
    found.accept()
    assert Path("own/README.md").read_text().startswith("# A convlib workbook\n")
    assert read_cell(2, older) == read_cell(2)
    assert upgrade_workbook(older).files == {}


def test_upgrade_workbook_keeps_both_changes(older: Path) -> None:
    rewrite_cell(4, "My text.")
    rewrite_cell(1, read_cell(1, older).replace('"7D"', '"3D"'))
    upgrade_workbook(older).accept()
    assert (read_cell(2, older), read_cell(4, older)) == (read_cell(2), "My text.")
    assert read_templates(older / "notebooks")["02_funnel"].parameters["window"] == "3D"
    assert upgrade_workbook(older).files == {}


def test_upgrade_workbook_leaves_what_both_changed_and_writes_the_newer_beside(older: Path) -> None:
    rewrite_cell(2, "My text.")
    found = upgrade_workbook(older)
    assert (sorted(found.files), found.conflicts) == (["README.md", f"{FUNNEL}.new"], (FUNNEL,))
    found.accept()
    assert read_cell(2, older) == "My text."
    assert read_cell(2) in "".join(json.loads(Path(f"own/{FUNNEL}.new").read_text())["cells"][2]["source"])
    assert upgrade_workbook(older).files == {}


def test_upgrade_workbook_leaves_deleted_files_deleted_and_adds_new_ones(older: Path) -> None:
    Path("own", FUNNEL).unlink()
    record = json.loads(Path("own/.convlib.json").read_text())
    del record["files"]["notebooks/04_impact.ipynb"]
    Path("own/.convlib.json").write_text(json.dumps(record))
    Path("own/notebooks/04_impact.ipynb").unlink()
    upgrade_workbook(older).accept()
    templates = read_templates(older / "notebooks")
    assert "02_funnel" not in templates
    assert templates["04_impact"].parameters["plan"] == "../params/plan.yaml"


def test_upgrade_workbook_never_touches_params(older: Path) -> None:
    Path("own/params/weekly.yaml").write_text("run: mine\nevents: dataset:shop\nplan: plan.yaml\n")
    Path("own/params/plan.yaml").unlink()
    assert sorted(upgrade_workbook(older).files) == ["README.md", FUNNEL]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            None,
            "'own' is no workbook that `convlib new` made: it has no .convlib.json. Name its folder, or make one: "
            "`convlib new FOLDER`.",
        ),
        (
            "[1]",
            "own/.convlib.json is not as `convlib new` wrote it, so what you changed can't be told. Restore it from an "
            "earlier version.",
        ),
    ],
)
def test_upgrade_workbook_refuses_what_has_no_record(text: str | None, message: str) -> None:
    Path("own").mkdir()
    if text:
        Path("own/.convlib.json").write_text(text)
    with pytest.raises(RunError) as error:
        upgrade_workbook("own")
    assert str(error.value) == message


def test_accept_says_what_it_could_not_write(older: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    found = upgrade_workbook(older)
    monkeypatch.setattr(scaffold, "write_text", fail)
    with pytest.raises(RunError) as error:
        found.accept()
    assert str(error.value) == (
        "The workbook 'own' can't be written: [Errno 28] No space left on device. Free the place."
    )


def test_new_tells_what_to_do_next() -> None:
    shown = call("new", "own", "--from", "log.csv")
    assert shown.stdout == (
        "Made 15 files in own. Next:\n"
        "1. Look into own/params/plan.yaml: is its macro the outcome that pays? README.md there says more.\n"
        "2. cd own && convlib check params/weekly.yaml\n"
        "3. convlib run params/weekly.yaml, which ends with the path of an index page to open\n"
    )
    assert call("check", "own/params/weekly.yaml").exit_code == 0


def test_new_makes_the_workbook_here_without_a_folder() -> None:
    assert "2. convlib check params/weekly.yaml\n" in call("new").stdout
    assert read_plan("params/plan.yaml").macros[0].id == "purchase"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            ["--upgrade", "--from", "log.csv"],
            "--upgrade stands beside --from, --mapping or --macro, which are for a new workbook. Remove one.",
        ),
        (["--accept"], "--accept needs --upgrade. Add it."),
        (["--mapping", "ga4"], "--mapping needs --from. Add the log."),
        (["--macro", "buy"], "--macro needs --from. Add the log."),
    ],
)
def test_new_refuses_options_that_do_not_go_together(options: list[str], said: str) -> None:
    shown = call("new", "own", *options)
    assert (shown.exit_code, shown.stderr) == (2, f"1 problem:\n  1. {said}\n")
    assert not Path("own").exists()


def test_new_upgrade_shows_a_diff_and_accept_applies_it(older: Path) -> None:
    rewrite_cell(2, "My text.")
    shown = call("new", older, "--upgrade").stdout
    assert "-Old\n+# A convlib workbook\n" in shown
    assert shown.endswith(
        "notebooks/02_funnel.ipynb: you and the newer convlib changed the same place. Yours stays; the newer goes to "
        "notebooks/02_funnel.ipynb.new.\nNothing is written yet: add --accept.\n"
    )
    assert call("new", older, "--upgrade", "--accept").stdout.endswith("2 files are written.\n")
    assert call("new", older, "--upgrade").stdout == "Nothing to change.\n"


def complete(*words: str) -> list[str]:
    known = {"_CONVLIB_COMPLETE": "complete_bash", "COMP_WORDS": " ".join(words), "COMP_CWORD": str(len(words) - 1)}
    command = [sys.executable, "-m", "convlib"]
    done = subprocess.run(command, env=os.environ | known, capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_completion_lists_run_files_and_nothing_for_only() -> None:
    make_workbook("own")
    Path("params").mkdir()
    Path("params/broken.yaml").write_bytes(b"run: \xff")
    shutil.copy("own/params/weekly.yaml", "params/weekly.yaml")
    assert complete("convlib", "run", "") == ["params/weekly.yaml"]
    assert complete("convlib", "check", "own/params/") == ["own/params/weekly.yaml"]
    assert complete("convlib", "run", "--only", "") == []
    assert complete("convlib", "ne") == ["new"]


def test_help_takes_little_time() -> None:
    """Processor time, as a busy machine makes any process wait: 300 ms is the aim on an idle one."""
    code = (
        "import resource, subprocess, sys\n"
        "subprocess.run([sys.executable, '-m', 'convlib', '--help'], check=True, stdout=subprocess.DEVNULL)\n"
        "used = resource.getrusage(resource.RUSAGE_CHILDREN)\n"
        "print(used.ru_utime + used.ru_stime)\n"
    )
    command = [sys.executable, "-c", code]
    seconds = [float(subprocess.run(command, capture_output=True, text=True, check=True).stdout) for _ in range(5)]
    assert min(seconds) < 0.3
