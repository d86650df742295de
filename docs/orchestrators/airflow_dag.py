"""An Airflow DAG that maps over the reports of a run file, one task a report, and then writes the index and sends.

Set CONVLIB_RUN_FILE, and CONVLIB to the command where it is not on the workers' path. Tried with Airflow 3.3.2:
`airflow dags test` and a scheduled run of `airflow standalone`, both started in the working folder, made all four
reports of a run file and the index, and `--resume` kept the reports.
"""
# ruff: noqa: S603  # the commands are those that convlib lists

import json
import os
import subprocess

import pendulum
from airflow.sdk import dag, task

CONVLIB = os.environ.get("CONVLIB", "convlib")
RUN_FILE = os.environ.get("CONVLIB_RUN_FILE", "params/weekly.yaml")


@dag(
    schedule="0 6 * * 1", start_date=pendulum.datetime(2026, 1, 5, tz="Europe/Berlin"), catchup=False, max_active_runs=1
)
def convlib_weekly() -> None:
    """Make the weekly reports."""

    @task
    def list_reports() -> list[list[str]]:
        listed = subprocess.run([CONVLIB, "run", RUN_FILE, "--list"], check=True, stdout=subprocess.PIPE, text=True)
        return [json.loads(line)["command"][1:] for line in listed.stdout.splitlines()]

    @task(max_active_tis_per_dag=4)
    def make_report(arguments: list[str]) -> None:
        subprocess.run([CONVLIB, *arguments], check=True)

    # A report that failed is on the index as missing: the others are to be collected and sent all the same.
    @task(trigger_rule="all_done")
    def collect() -> None:
        subprocess.run([CONVLIB, "run", RUN_FILE, "--resume"], check=True)

    make_report.expand(arguments=list_reports()) >> collect()


convlib_weekly()
