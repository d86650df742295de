"""What starts a run file at its times: a line for cron, units for systemd, a GitHub workflow, a Windows task."""

import datetime as dt
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any
from xml.etree import ElementTree

import yaml

from convlib.documents import find_wrong_choice
from convlib.errors import RunError
from convlib.reports.run_file import RunFile, Schedule, read_run_file

#: Environment variables for a scheduler, which starts without those of a shell; beside nothing that is shared.
ENVIRONMENT = "convlib.env"
#: From the checkout, with the packages that it pins: whatever has this name elsewhere would run with all secrets.
INSTALL = "pip install --require-hashes -r requirements.txt\npip install --no-deps --no-build-isolation -e .\n"
#: What `convlib new` leaves in a workbook, which is no checkout and names convlib in its own list.
RECORD = ".convlib.json"
INSTALL_IN_WORKBOOK = "pip install -r requirements.txt"
#: The months in which a quarter begins.
QUARTERS = (1, 4, 7, 10)
DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
TASKS = "http://schemas.microsoft.com/windows/2004/02/mit/task"


def write_schedule(path: str | Path, *, kind: str = "cron") -> str:
    """Write what a scheduler needs to start a run file at the times that it names.

    Args:
        path: The run file.
        kind: `cron`, `systemd`, `github` or `windows`.

    Returns:
        The text, which says in its first lines where it belongs. Paths are whole: the working folder, in which
        `reports` lies, and the Python that runs now.

    Raises:
        RunError: The run file is wrong or has no `schedule`, or a path holds a line break.
    """
    if problems := find_wrong_choice("--as", kind, KINDS):
        raise RunError(*problems)
    run_file = read_run_file(path)
    if run_file.schedule is None:
        example = 'schedule: {every: week, on: monday, at: "06:00"}'
        raise RunError(f"{run_file.path}: the file has no `schedule`. Add one, such as `{example}`.")
    command = [sys.executable, *_list_arguments(run_file, Path(path).resolve())]
    if any(not part.isprintable() for part in [*command, str(Path.cwd())]):
        raise RunError(f"{run_file.path}: a path with a line break or another such sign can't be scheduled. Rename it.")
    return KINDS[kind](run_file, run_file.schedule, command)


def _list_arguments(run_file: RunFile, path: Path) -> list[str]:
    # Complete periods have names of their own, so a machine that was off makes the ones it missed.
    return ["-m", "convlib", "run", str(path), "--resume", *(["--catch-up"] if run_file.period.unit else [])]


def list_variables(run_file: RunFile) -> tuple[str, ...]:
    """List the environment variables that a run file names: addresses to tell and to send to."""
    audiences = run_file.audiences.values()
    named = [*run_file.alerts.notify, *(name for each in audiences for name in (*each.recipients, *each.upload))]
    return tuple(dict.fromkeys(named))


def _word_cron(schedule: Schedule) -> str:
    hour, minute = map(int, schedule.at.split(":"))
    days = {
        "day": "* * *",
        "week": f"* * {(schedule.weekday + 1) % 7}",
        "month": f"{schedule.month_day} * *",
        "quarter": f"{schedule.month_day} {','.join(map(str, QUARTERS))} *",
    }
    return f"{minute} {hour} {days[schedule.every]}"


def _word_days(run_file: RunFile) -> str:
    """Say what comes of a missed run, and how a run of all days is named."""
    period = run_file.period
    missed = "; the next one makes what was missed" if period.unit else ""
    named = (
        "# `period` has no `last`: each run covers all days to the end of the data, and its folder is named by them.\n"
        "# With `period: last 11 complete weeks`, say, a run that was missed is made later.\n"
    )
    skips = f"# A machine that is off at the time skips the run{missed}. Cron mails what the run prints.\n"
    return skips + ("" if period.last or period.end else named)


def _write_cron(run_file: RunFile, schedule: Schedule, command: Sequence[str]) -> str:
    read = f"set -a; [ ! -e {ENVIRONMENT} ] || . ./{ENVIRONMENT}; set +a"
    line = f"cd {shlex.quote(str(Path.cwd()))} && {{ {read}; {shlex.join(command)}; }}"
    # Cron takes a bare % as the end of the line.
    line = line.replace("%", r"\%")
    return f"""\
# Add with `crontab -e`. Where cron knows CRON_TZ (cronie) the time is that of {schedule.timezone}, else the machine's.
{_word_days(run_file)}CRON_TZ={schedule.timezone}
{_word_cron(schedule)} {line}
"""


def _write_systemd(run_file: RunFile, schedule: Schedule, command: Sequence[str]) -> str:
    days = {
        "day": "*-*-*",
        "week": f"{DAYS[schedule.weekday]} *-*-*",
        "month": f"*-*-{schedule.month_day:02}",
        "quarter": f"*-{','.join(f'{month:02}' for month in QUARTERS)}-{schedule.month_day:02}",
    }
    name, folder = f"convlib-{run_file.run}", str(Path.cwd()).replace("%", "%%")
    return f"""\
# ~/.config/systemd/user/{name}.service
# Then: systemctl --user daemon-reload && systemctl --user enable --now {name}.timer && loginctl enable-linger
[Unit]
Description=convlib report run {run_file.run}

[Service]
Type=oneshot
WorkingDirectory={folder}
EnvironmentFile=-{folder}/{ENVIRONMENT}
ExecStart={" ".join(map(_quote_systemd, command))}
TimeoutStopSec=60

# ~/.config/systemd/user/{name}.timer
[Unit]
Description=convlib report run {run_file.run}, every {schedule.every}

[Timer]
OnCalendar={days[schedule.every]} {schedule.at}:00 {schedule.timezone}
Persistent=true

[Install]
WantedBy=timers.target
"""


def _quote_systemd(part: str) -> str:
    part = part.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{part}"'


def _write_github(run_file: RunFile, schedule: Schedule, command: Sequence[str]) -> str:
    path, folder = Path(command[4]), Path.cwd()
    inside = path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.as_posix()
    artifact = f"convlib-{run_file.run}"
    # The newest artifact of that name, whichever run left it: the last run may have failed before it had one.
    listed = f"repos/$GITHUB_REPOSITORY/actions/artifacts?name={artifact}&per_page=1"
    number = f'"$(gh api "{listed}" --jq ".artifacts[0].workflow_run.id")"'
    secrets = {name: f"${{{{ secrets.{name} }}}}" for name in list_variables(run_file)}
    make: dict[str, Any] = {"name": "Make the reports", "env": secrets} if secrets else {"name": "Make the reports"}
    steps = [
        {"uses": "actions/checkout@v4"},
        {"uses": "actions/setup-python@v5", "with": {"python-version": f"3.{sys.version_info.minor}"}},
        {"name": "Install", "run": INSTALL_IN_WORKBOOK if Path(RECORD).exists() else INSTALL},
        {
            "name": "Fetch the earlier reports",
            "env": {"GH_TOKEN": "${{ github.token }}"},
            "run": f'gh run download {number} --name {artifact} --dir reports || echo "There are no earlier reports."',
        },
        make | {"run": shlex.join(["python", *command[1:4], inside, *command[5:]])},
        {
            "name": "Keep the reports",
            "if": "always()",
            "uses": "actions/upload-artifact@v4",
            "with": {"name": artifact, "path": "reports", "include-hidden-files": True, "retention-days": 90},
        },
    ]
    workflow = {
        "name": artifact,
        "on": {
            "schedule": [{"cron": _word_cron(schedule), "timezone": schedule.timezone}],
            "workflow_dispatch": {},
        },
        "permissions": {"contents": "read", "actions": "read"},
        "concurrency": {"group": artifact},
        "jobs": {"report": {"runs-on": "ubuntu-latest", "steps": steps}},
    }
    where = f"# .github/workflows/{artifact}.yml; the secrets are set in the repository's settings.\n"
    return where + yaml.safe_dump(workflow, sort_keys=False, width=1000)


def _write_windows(run_file: RunFile, schedule: Schedule, command: Sequence[str]) -> str:
    task = ElementTree.Element("Task", {"version": "1.2", "xmlns": TASKS})
    about = ElementTree.SubElement(task, "RegistrationInfo")
    _add(about, "Description", f"convlib report run {run_file.run}")
    _add(about, "URI", f"\\convlib-{run_file.run}")
    trigger = _add(task, "Triggers/CalendarTrigger")
    _add(trigger, "StartBoundary", f"2026-01-01T{schedule.at}:00")
    if schedule.every == "day":
        _add(trigger, "ScheduleByDay/DaysInterval", "1")
    elif schedule.every == "week":
        weekly = _add(trigger, "ScheduleByWeek")
        _add(weekly, "DaysOfWeek/" + f"{dt.date(2024, 1, 1 + schedule.weekday):%A}")
        _add(weekly, "WeeksInterval", "1")
    else:
        monthly = _add(trigger, "ScheduleByMonth")
        _add(monthly, "DaysOfMonth/Day", str(schedule.month_day))
        months = _add(monthly, "Months")
        for month in range(1, 13) if schedule.every == "month" else QUARTERS:
            _add(months, f"{dt.date(2024, month, 1):%B}")
    settings = _add(task, "Settings")
    for key, value in {
        "MultipleInstancesPolicy": "IgnoreNew",
        "DisallowStartIfOnBatteries": "false",
        "StopIfGoingOnBatteries": "false",
        "StartWhenAvailable": "true",
        "ExecutionTimeLimit": "PT0S",
    }.items():
        _add(settings, key, value)
    action = _add(task, "Actions/Exec")
    _add(action, "Command", command[0])
    _add(action, "Arguments", subprocess.list2cmdline(command[1:]))
    _add(action, "WorkingDirectory", str(Path.cwd()))
    ElementTree.indent(task)
    return f"""\
<!-- Save it under the name in URI, as an .xml file; then, in PowerShell, with that NAME:
     Register-ScheduledTask -TaskName NAME -Xml (Get-Content -Raw NAME.xml)
     Times are of the machine's time zone; the run file names {schedule.timezone}. -->
{ElementTree.tostring(task, encoding="unicode")}
"""


def _add(parent: ElementTree.Element, path: str, text: str | None = None) -> ElementTree.Element:
    for tag in path.split("/"):
        parent = ElementTree.SubElement(parent, tag)
    parent.text = text
    return parent


#: The schedulers, and what writes for each.
KINDS: Mapping[str, Callable[[RunFile, Schedule, Sequence[str]], str]] = MappingProxyType(
    {"cron": _write_cron, "systemd": _write_systemd, "github": _write_github, "windows": _write_windows}
)
