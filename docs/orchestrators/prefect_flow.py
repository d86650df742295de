"""A Prefect flow that maps over the reports of a run file, one task a report, and then writes the index and sends.

Set CONVLIB_RUN_FILE, and CONVLIB to the command where it is not on the path. Tried with Prefect 3.7.2
(fastapi 0.115) and 3.8.8 (fastapi 0.150; with fastapi 0.165 its server does not start): one call of the flow made all
four reports of a run file and the index, and `--resume` kept the reports.
"""
# ruff: noqa: S603  # the commands are those that convlib lists

import json
import os
import subprocess

from prefect import flow, task
from prefect.futures import wait
from prefect.schedules import Cron
from prefect.task_runners import ThreadPoolTaskRunner

CONVLIB = os.environ.get("CONVLIB", "convlib")
RUN_FILE = os.environ.get("CONVLIB_RUN_FILE", "params/weekly.yaml")


@task
def list_reports() -> list[list[str]]:
    """List what is to be made."""
    listed = subprocess.run([CONVLIB, "run", RUN_FILE, "--list"], check=True, stdout=subprocess.PIPE, text=True)
    return [json.loads(line)["command"][1:] for line in listed.stdout.splitlines()]


@task
def make_report(arguments: list[str]) -> None:
    """Make one report."""
    subprocess.run([CONVLIB, *arguments], check=True)


@task
def collect() -> None:
    """Write the index, tell and send."""
    subprocess.run([CONVLIB, "run", RUN_FILE, "--resume"], check=True)


@flow(task_runner=ThreadPoolTaskRunner(max_workers=4))
def convlib_weekly() -> None:
    """Make the weekly reports; one that fails is on the index as missing, and the others are collected all the same."""
    wait(make_report.map(list_reports()))
    collect()


if __name__ == "__main__":
    convlib_weekly.serve(name="weekly", schedule=Cron("0 6 * * 1", timezone="Europe/Berlin"))
