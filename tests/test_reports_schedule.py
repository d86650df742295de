import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml
from typer.testing import CliRunner

from convlib.cli import app
from convlib.errors import RunError
from convlib.reports.run_file import read_run_file
from convlib.reports.schedule import list_variables, write_schedule

RUN = "run: weekly\nevents: e.csv\nplan: plan.yaml\n"
WEEKLY = 'schedule: {every: week, on: monday, at: "06:05", timezone: Europe/Berlin}\n'
ODD = "a b'c %d"
NAMESPACE = {"t": "http://schemas.microsoft.com/windows/2004/02/mit/task"}


def write(folder: Path, text: str = WEEKLY) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "weekly.yaml"
    path.write_text(RUN + text)
    return path


def schedule(folder: Path, kind: str, text: str = WEEKLY) -> str:
    return write_schedule(write(folder, text), kind=kind)


TIMES = {
    "day": ("schedule: {every: day}\n", "0 6 * * *", "*-*-* 06:00:00 UTC"),
    "week": (WEEKLY, "5 6 * * 1", "Mon *-*-* 06:05:00 Europe/Berlin"),
    "sunday": ("schedule: {every: week, on: sunday}\n", "0 6 * * 0", "Sun *-*-* 06:00:00 UTC"),
    "month": ("schedule: {every: month, on: 28}\n", "0 6 28 * *", "*-*-28 06:00:00 UTC"),
    "quarter": ("schedule: {every: quarter}\n", "0 6 1 1,4,7,10 *", "*-01,04,07,10-01 06:00:00 UTC"),
}


@pytest.mark.parametrize(("text", "cron", "calendar"), TIMES.values(), ids=TIMES)
def test_write_schedule_says_when(tmp_path: Path, text: str, cron: str, calendar: str) -> None:
    line = schedule(tmp_path, "cron", text).splitlines()[-1]
    assert line.startswith(f"{cron} cd ")
    assert f"OnCalendar={calendar}" in schedule(tmp_path, "systemd", text).splitlines()


def test_write_schedule_gives_cron_a_line_that_runs_in_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / ODD
    path = write(folder)
    monkeypatch.chdir(folder)
    *_, zone, line = write_schedule(path).splitlines()
    assert zone == "CRON_TZ=Europe/Berlin"
    command = line.removeprefix("5 6 * * 1 ")
    # Cron ends a command at a bare % and takes the backslash away from any other.
    assert command.count("%") == command.count(r"\%") > 0
    command = command.replace(r"\%", "%")
    assert shlex.split(command)[:2] == ["cd", str(folder)]
    # What the line hands to the shell: the variables of convlib.env, and the run file as one argument.
    (folder / "convlib.env").write_text("CONVLIB_X='a b'\n")
    shown = command.replace(f"{shlex.quote(sys.executable)} -m convlib", "printf '%s|' \"$CONVLIB_X\"")
    done = subprocess.run(["sh", "-c", shown], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout == f"a b|run|{path}|--resume|"


def test_write_schedule_catches_up_where_periods_have_names(tmp_path: Path) -> None:
    text = f"{WEEKLY}period: last complete week\n"
    complete, days, whole = (
        schedule(tmp_path, "cron", each) for each in (text, f"{WEEKLY}period: {{last: 7D}}\n", WEEKLY)
    )
    assert complete.rstrip().endswith(" --resume --catch-up; }")
    assert days.rstrip().endswith(whole.splitlines()[-1])
    assert whole.rstrip().endswith(" --resume; }")
    assert ["the next one makes what was missed" in each for each in (complete, days, whole)] == [True, False, False]
    assert ["its folder is named by them" in each for each in (complete, days, whole)] == [False, False, True]


def split_units(text: str, folder: Path) -> list[Path]:
    """Write each unit into a file of the name that its first line gives."""
    paths = []
    for part in text.split("# ~/.config/systemd/user/")[1:]:
        name, _, unit = part.partition("\n")
        paths.append(folder / name)
        paths[-1].write_text(unit)
    return paths


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not installed")
@pytest.mark.parametrize("text", [text for text, *_ in TIMES.values()], ids=TIMES)
def test_write_schedule_gives_systemd_units_that_it_takes(
    tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / ODD
    path = write(folder, text)
    monkeypatch.chdir(folder)
    units = split_units(write_schedule(path, kind="systemd"), tmp_path)
    assert [unit.name for unit in units] == ["convlib-weekly.service", "convlib-weekly.timer"]
    verify = ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", *map(str, units)]
    done = subprocess.run(verify, capture_output=True, text=True)
    own = [line for line in (done.stdout + done.stderr).splitlines() if "convlib-weekly" in line]
    assert (done.returncode, own) == (0, [])
    [calendar] = [line for line in units[1].read_text().splitlines() if line.startswith("OnCalendar=")]
    subprocess.run(["systemd-analyze", "calendar", calendar.partition("=")[2]], check=True, capture_output=True)


def test_write_schedule_quotes_paths_for_systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / 'a "b" $c %d'
    path = write(folder)
    monkeypatch.chdir(folder)
    lines = write_schedule(path, kind="systemd").splitlines()
    shown = str(tmp_path)
    assert f'WorkingDirectory={shown}/a "b" $c %%d' in lines
    assert f'EnvironmentFile=-{shown}/a "b" $c %%d/convlib.env' in lines
    command = f'ExecStart="{sys.executable}" "-m" "convlib" "run" "{shown}/a \\"b\\" $$c %%d/weekly.yaml" "--resume"'
    assert command in lines
    assert "Persistent=true" in lines


def test_write_schedule_gives_github_a_workflow_with_the_secrets_it_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = (
        "alerts: {notify: [HOOK]}\naudiences: {analyst: {formats: [pdf], recipients: [BOARD, HOOK], upload: [SHARE]}}\n"
    )
    path = write(tmp_path / "params", WEEKLY + told)
    monkeypatch.chdir(tmp_path)
    workflow = yaml.safe_load(write_schedule(path, kind="github"))
    assert workflow["on"]["schedule"] == [{"cron": "5 6 * * 1", "timezone": "Europe/Berlin"}]
    assert workflow["permissions"] == {"contents": "read", "actions": "read"}
    steps = {step.get("name", step.get("uses")): step for step in workflow["jobs"]["report"]["steps"]}
    # From the checkout: what a public index has under this name would run with all secrets.
    assert steps["Install"]["run"].splitlines() == [
        "pip install --require-hashes -r requirements.txt",
        "pip install --no-deps --no-build-isolation -e .",
    ]
    assert steps["Make the reports"] == {
        "name": "Make the reports",
        "env": {name: f"${{{{ secrets.{name} }}}}" for name in ("HOOK", "BOARD", "SHARE")},
        "run": "python -m convlib run params/weekly.yaml --resume",
    }
    # The reports are kept when some failed, and the next run begins with them.
    assert steps["Keep the reports"]["if"] == "always()"
    assert steps["Keep the reports"]["with"]["name"] == "convlib-weekly"
    assert "--name convlib-weekly --dir reports" in steps["Fetch the earlier reports"]["run"]


def test_write_schedule_needs_no_secrets_where_nobody_is_told(tmp_path: Path) -> None:
    workflow = yaml.safe_load(schedule(tmp_path, "github"))
    assert [step.get("env") for step in workflow["jobs"]["report"]["steps"]].count(None) == 5


@pytest.mark.parametrize(
    ("text", "where", "days"),
    [
        (TIMES["day"][0], "ScheduleByDay", ["DaysInterval"]),
        (TIMES["sunday"][0], "ScheduleByWeek/t:DaysOfWeek", ["Sunday"]),
        (TIMES["quarter"][0], "ScheduleByMonth/t:Months", ["January", "April", "July", "October"]),
        (TIMES["month"][0], "ScheduleByMonth/t:DaysOfMonth", ["Day"]),
    ],
)
def test_write_schedule_gives_windows_a_task(tmp_path: Path, text: str, where: str, days: list[str]) -> None:
    task = ElementTree.fromstring(schedule(tmp_path, "windows", text))
    found = task.find(f"t:Triggers/t:CalendarTrigger/t:{where}", NAMESPACE)
    assert found is not None
    assert [each.tag.partition("}")[2] for each in found] == days
    assert task.findtext("t:Settings/t:StartWhenAvailable", namespaces=NAMESPACE) == "true"
    assert task.findtext("t:Triggers/t:CalendarTrigger/t:StartBoundary", namespaces=NAMESPACE) == "2026-01-01T06:00:00"


def test_write_schedule_quotes_paths_for_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a b & <c>")
    monkeypatch.chdir(tmp_path)
    action = ElementTree.fromstring(write_schedule(path, kind="windows")).find("t:Actions/t:Exec", NAMESPACE)
    assert action is not None
    assert [each.text for each in action] == [sys.executable, f'-m convlib run "{path}" --resume', str(tmp_path)]


def test_write_schedule_says_that_the_file_has_none(tmp_path: Path) -> None:
    with pytest.raises(RunError) as caught:
        schedule(tmp_path, "cron", "")
    assert str(caught.value) == (
        f"{tmp_path}/weekly.yaml: the file has no `schedule`. Add one, such as `schedule: {{every: week, on: monday, "
        'at: "06:00"}`.'
    )


def test_write_schedule_knows_four_schedulers(tmp_path: Path) -> None:
    with pytest.raises(RunError) as caught:
        schedule(tmp_path, "system")
    assert str(caught.value) == (
        "`--as` is 'system'; it must be one of 'cron', 'systemd', 'github', 'windows'. Did you mean 'systemd'?"
    )


def test_write_schedule_refuses_a_path_that_would_end_the_line(tmp_path: Path) -> None:
    with pytest.raises(RunError) as caught:
        schedule(tmp_path / "a\nb", "cron")
    assert str(caught.value) == (
        f"{tmp_path}/a\nb/weekly.yaml: a path with a line break or another such sign can't be scheduled. Rename it."
    )


def test_list_variables_names_each_once(tmp_path: Path) -> None:
    told = "alerts: {notify: [A]}\naudiences: {analyst: {recipients: [B, A], upload: [C]}}\n"
    assert list_variables(read_run_file(write(tmp_path, told))) == ("A", "B", "C")


def test_convlib_schedule_prints_what_was_asked_for(tmp_path: Path) -> None:
    path = write(tmp_path)
    done = CliRunner().invoke(app, ["schedule", str(path), "--as", "systemd"])
    assert (done.exit_code, done.stdout) == (0, write_schedule(path, kind="systemd"))
    assert CliRunner().invoke(app, ["schedule", str(path), "--as", "at"]).exit_code == 2
