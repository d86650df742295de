from pathlib import Path

from reports_project import EVENTS, PARAMETERS, PLAN, RUN, write_notebook, write_project

from convlib.reports.checking import find_warnings
from convlib.reports.preparation import prepare_run

CLOCK = PARAMETERS + "macro: str = 'purchase'\nentry: str = ''\nexposure: list = ['1h']\nhorizon: str = ''\n"


def warnings(run_file: Path) -> list[str]:
    return [each.replace(f"{run_file.parent}/", "") for each in find_warnings(prepare_run(run_file))]


def test_find_warnings_names_what_the_log_does_not_hold(tmp_path: Path) -> None:
    run_file = write_project(tmp_path, run=RUN + "run_segments: [all]\n")
    assert warnings(run_file) == []
    run_file.with_name("plan.yaml").write_text(PLAN.replace("event_name: visit", "event_name: visits"))
    segments = "m: {device_type: [mobil, desktop]}\nn: {any: [{device_type: mobile}, {geo: NO}]}\ng: {by: device}\n"
    run_file.with_name("segments.yaml").write_text(segments)
    columns = "Its columns are event_name, timestamp, user_id, device_type."
    lacks = "which the log does not have."
    assert warnings(run_file) == [
        "segments.yaml:1: the segment `m`: `device_type` is never 'mobil'. Did you mean 'mobile'?",
        f"segments.yaml:2: the segment `n` reads the column `geo`, {lacks} {columns}",
        f"segments.yaml:3: the segment `g` reads the column `device`, {lacks} Did you mean 'device_type'? {columns}",
        "plan.yaml:6: `visit` matches no event of the log. `event_name` is never 'visits'. Did you mean 'visit'?",
    ]


def test_find_warnings_counts_whom_a_clock_leaves(tmp_path: Path) -> None:
    """80 users enter on the first day, 20 of whom buy on the second; the data end after 30 days."""
    run_file = write_project(tmp_path, run=RUN + "parameters: {horizon: 60D}\n")
    write_notebook(tmp_path / "notebooks" / "overview.ipynb", "1", parameters=CLOCK)
    rows = [f"visit,2024-03-01 10:00,u{number},mobile" for number in range(80)]
    rows += [f"purchase,2024-03-02 10:00,u{number},mobile" for number in range(20)] + ["visit,2024-03-31,x,mobile"]
    (tmp_path / "data/events.csv").write_text("\n".join([EVENTS.partition("\n")[0], *rows]))
    assert warnings(run_file) == [
        "plan.yaml:2: of 80 units that enter from 2024-03-01 to 2024-03-10, 0 can still convert 1h after entry and "
        "have 60D of follow-up from there; 0 of them do `purchase`. To compare doers with others takes at least 60 "
        "and 10. A horizon of 28D would leave 80 and 20."
    ]
    run_file.write_text(RUN + "parameters: {horizon: 20D}\n")
    assert warnings(run_file) == []


def test_find_warnings_says_when_nobody_enters_in_the_period(tmp_path: Path) -> None:
    """Ann alone buys, on the second."""
    run_file = write_project(tmp_path, run=RUN.replace("2024-03-01", "2024-03-03"))
    clock = CLOCK.replace("entry: str = ''", "entry: str = 'purchase'")
    write_notebook(tmp_path / "notebooks" / "overview.ipynb", "1", parameters=clock)
    assert warnings(run_file) == [
        "weekly.yaml:6: no unit enters from 2024-03-03 to 2024-03-10 with `purchase`, so reports have nobody to "
        "follow. The log has entries from 2024-03-02 to 2024-03-02, nearest on 2024-03-02. Choose a "
        "`period` with such days."
    ]


def test_find_warnings_compares_what_notebooks_adjust_for(tmp_path: Path) -> None:
    run_file = write_project(tmp_path, run=RUN + "run_segments: [all]\n")
    for name, adjust in (("impact", "['device_type']"), ("overview", "'device_type'"), ("other", "[]")):
        more = f"macro: str = 'purchase'\nadjust: list = {adjust}\n"
        write_notebook(tmp_path / "notebooks" / f"{name}.ipynb", "1", parameters=PARAMETERS + more)
    assert warnings(run_file) == [
        "weekly.yaml:1: other adjusts for no column, impact for `device_type`: they may rank the same "
        "micro-conversions differently. Give both one `adjust`."
    ]
