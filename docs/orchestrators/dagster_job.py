"""A Dagster job that maps over the reports of a run file, one op a report, and then writes the index and sends.

Set CONVLIB_RUN_FILE, and CONVLIB to the command where it is not on the path. Tried with Dagster 1.13.29:
`dagster job execute` made all four reports of a run file and the index, and `--resume` kept the reports.
"""
# ruff: noqa: S603  # the commands are those that convlib lists

import json
import os
import subprocess
from collections.abc import Iterator

import dagster as dg

CONVLIB = os.environ.get("CONVLIB", "convlib")
RUN_FILE = os.environ.get("CONVLIB_RUN_FILE", "params/weekly.yaml")


@dg.op(out=dg.DynamicOut(list))
def list_reports() -> Iterator[dg.DynamicOutput]:
    """List what is to be made."""
    listed = subprocess.run([CONVLIB, "run", RUN_FILE, "--list"], check=True, stdout=subprocess.PIPE, text=True)
    for number, line in enumerate(listed.stdout.splitlines()):
        yield dg.DynamicOutput(json.loads(line)["command"][1:], mapping_key=f"report_{number}")


@dg.op
def make_report(arguments: list) -> bool:
    """Make one report; one that fails is on the index as missing, and the others are collected all the same."""
    return subprocess.run([CONVLIB, *arguments], check=False).returncode == 0


@dg.op
def collect(made: list) -> None:
    """Write the index, tell and send."""
    print(f"{sum(made)} of {len(made)} reports made")
    subprocess.run([CONVLIB, "run", RUN_FILE, "--resume"], check=True)


@dg.job(executor_def=dg.multiprocess_executor.configured({"max_concurrent": 4}))
def convlib_weekly() -> None:
    """Make the weekly reports."""
    collect(list_reports().map(make_report).collect())


weekly = dg.ScheduleDefinition(job=convlib_weekly, cron_schedule="0 6 * * 1", execution_timezone="Europe/Berlin")
defs = dg.Definitions(jobs=[convlib_weekly], schedules=[weekly])
