import datetime as dt
from pathlib import Path

import pytest
from reports_project import (
    PARAMETERS,
    PLAN,
    RUN,
    TAKEAWAYS,
    write_experiments,
    write_notebook,
    write_project,
)

from convlib.errors import RunError
from convlib.reports.checking import find_warnings
from convlib.reports.manifest import Report
from convlib.reports.preparation import name_folders, prepare_run


def problems(run_file: Path) -> list[str]:
    with pytest.raises(RunError) as caught:
        prepare_run(run_file)
    return [problem.replace(f"{run_file.parent}/", "") for problem in caught.value.problems]


def test_prepare_run_tells_what_will_be_made(tmp_path: Path) -> None:
    run = RUN + "parameters: {limit: 5}\nnotebooks: {b: {window: 14D}, a: }\n"
    preparation = prepare_run(write_project(tmp_path, run=run, a="1", b="2", c="3"))
    assert [template.name for template in preparation.notebooks.templates] == ["b", "a"]
    assert preparation.notebooks.parameters == {"b": {"limit": 5, "window": "14D"}, "a": {"limit": 5}}
    folders = {"all": "all", "device=desktop": "device-desktop", "device=mobile": "device-mobile"}
    assert preparation.segments == folders
    assert preparation.period == (dt.date(2024, 3, 1), dt.date(2024, 3, 10))
    assert preparation.folder == Path("shop/2024-03-01_2024-03-10")
    assert (preparation.log.rows_read, preparation.log.rows_used, preparation.log.rows_rejected) == (6, 5, 1)


def test_prepare_run_takes_all_notebooks_and_the_whole_log_when_none_are_named(tmp_path: Path) -> None:
    run = "run: shop\nevents: ../data/events.csv\nplan: plan.yaml\n"
    preparation = prepare_run(write_project(tmp_path, run=run, b="1", a="2"))
    assert [template.name for template in preparation.notebooks.templates] == ["a", "b"]
    assert preparation.segments == {"all": "all"}
    assert preparation.period == (dt.date(2024, 3, 1), dt.date(2024, 3, 31))


def test_fill_gives_paths_as_the_notebooks_see_them(tmp_path: Path) -> None:
    preparation = prepare_run(write_project(tmp_path, run=RUN + "parameters: {limit: 5}\n"))
    template = preparation.notebooks.templates[0]
    assert preparation.fill(template, segment="device=mobile", tables=tmp_path / "reports" / "x") == {
        "events": "../data/events.csv",
        "mapping": "",
        "engine": "duckdb",
        "plan": "../params/plan.yaml",
        "segments": "../params/segments.yaml",
        "segment": "device=mobile",
        "start": "2024-03-01",
        "end": "2024-03-10",
        "output": "../reports/x",
        "limit": 5,
        "fewest": 0,
    }


def test_fill_gives_paths_of_a_run_file_in_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_project(tmp_path, run=RUN)
    (tmp_path / "run.yaml").write_text("run: shop\nevents: data/events.csv\nplan: params/plan.yaml\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    preparation = prepare_run("run.yaml")
    filled = preparation.fill(preparation.notebooks.templates[0], segment="all", tables=tmp_path / "x")
    assert (filled["events"], filled["plan"], filled["segments"]) == ("../data/events.csv", "../params/plan.yaml", "")


def test_prepare_run_lists_the_problems_of_every_file_at_once(tmp_path: Path) -> None:
    run = RUN + "parameters: {limt: 5, window: 7}\nnotebooks: {a: {by: x, segment: all}, z: {}}\n"
    run_file = write_project(tmp_path, run=run, a="1")
    (tmp_path / "params" / "segments.yaml").write_text("device: {by: 7}\n")
    (tmp_path / "params" / "plan.yaml").write_text("macros: []\n")
    assert problems(run_file) == [
        "weekly.yaml:8: notebooks/ has no notebook 'z'.",
        "weekly.yaml:7: the notebooks have no parameter `limt`; the parameters are 'window', 'limit', 'by'. "
        "Did you mean 'limit'?",
        "weekly.yaml:7: parameter `window` is 7; it must be text, such as '7D'.",
        "weekly.yaml:8: parameter `segment` is set by the run itself. Remove it here.",
        "weekly.yaml:8: parameter `by` of a is 'x'; it must be a list, such as ['x'].",
        "plan.yaml:1: macros is []; it must list at least one macro-conversion.",
        "segments.yaml:1: device.by is 7; it must be the name of one column.",
    ]


def test_prepare_run_checks_what_the_analyses_take(tmp_path: Path) -> None:
    run_file = write_project(tmp_path, run=RUN + "parameters: {window: 7 days}\n")
    assert problems(run_file) == [
        "weekly.yaml:7: `window` is '7 days'; it must be a number and one of the units s, min, h, D, W, such as "
        "'30min' or '7D'. Did you mean '7D'?"
    ]


def test_fill_gives_rules_and_history_to_a_notebook_that_raises_alerts(tmp_path: Path) -> None:
    run_file = write_project(tmp_path, run=RUN + "alerts: {rules: [quality]}\n")
    of_alerts = PARAMETERS + "rules: list = []\nhistory: str = ''\n"
    write_notebook(tmp_path / "notebooks" / "overview.ipynb", "1", parameters=of_alerts)
    preparation = prepare_run(run_file)
    [template] = preparation.notebooks.templates
    history = tmp_path / "reports" / "shop" / "alerts.json"
    filled = preparation.fill(template, segment="all", tables=tmp_path / "reports" / "x", history=history)
    assert (filled["rules"], filled["history"]) == (["quality"], "../reports/shop/alerts.json")


def test_prepare_run_finds_who_cannot_be_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOK", "json://user:secret@127.0.0.1/x")
    monkeypatch.delenv("UNSET", raising=False)
    notify = "alerts:\n  notify:\n    - HOOK\n    - UNSET\nparameters: {windw: 7D}\n"
    assert problems(write_project(tmp_path / "wrong", run=RUN + notify)) == [
        "weekly.yaml:11: the notebooks have no parameter `windw`; the parameters are 'window', 'limit', 'by'. "
        "Did you mean 'window'?",
        "weekly.yaml:10: the environment variable UNSET is not set. Set it to an apprise address, or remove it from "
        "`notify`.",
    ]
    told = write_project(tmp_path / "right", run=RUN + "alerts: {notify: [HOOK]}\n")
    assert [channel.name for channel in prepare_run(told).channels] == ["HOOK"]


def test_prepare_run_refuses_an_unknown_segment(tmp_path: Path) -> None:
    run_file = write_project(tmp_path, run=RUN + "run_segments: [all, devise]\n")
    assert problems(run_file) == [
        "weekly.yaml:7: There is no segment `devise`. Did you mean 'device'? The segments are 'all', 'device'."
    ]


def test_prepare_run_finds_the_columns_of_segments_where_they_stand(tmp_path: Path) -> None:
    run_file = write_project(tmp_path)
    (tmp_path / "params" / "segments.yaml").write_text("a: {by: devicetype}\nb: {by: user_id}\nc:\n  by: gendr\n")
    lacks, columns = "which the log does not have.", "Its columns are event_name, timestamp, user_id, device_type."
    near = "Did you mean 'device_type'?"
    assert problems(run_file) == [
        f"segments.yaml:1: the segment `a` reads the column `devicetype`, {lacks} {near} {columns}",
        "segments.yaml:2: `by: user_id` can't make segments: it names users. Choose a column of few values, or map it "
        "to one.",
        f"segments.yaml:4: the segment `c` reads the column `gendr`, {lacks} {columns}",
    ]


def test_prepare_run_accepts_a_parameter_of_a_notebook_that_does_not_run(tmp_path: Path) -> None:
    run_file = write_project(tmp_path, run=RUN + "parameters: {macro: purchase}\nnotebooks: [a]\n", a="1", b="2")
    write_notebook(tmp_path / "notebooks" / "b.ipynb", "1", parameters=PARAMETERS + "macro: str = ''\n")
    assert prepare_run(run_file).notebooks.parameters == {"a": {}}


def test_prepare_run_places_a_wrong_value_where_it_was_given(tmp_path: Path) -> None:
    run = RUN + "parameters: {window: 7d}\nnotebooks:\n  a:\n    by: [devicetype]\n  b: {window: 7x}\n"
    run_file = write_project(tmp_path, run=run, a="1", b="2")
    assert [problem.partition(" is ")[0] for problem in problems(run_file)] == [
        "weekly.yaml:7: `window`",
        "weekly.yaml:11: in b, `window`",
    ]
    run_file.write_text(run.replace("7d", "7D").replace("7x", "7D"))
    assert [problem.partition(",")[0] for problem in problems(run_file)] == ["weekly.yaml:10: in a"]


CLOCK = PARAMETERS + "macro: str = 'purchase'\nentry: str = ''\nexposure: list = ['1h']\nhorizon: str = ''\n"


def test_prepare_run_refuses_an_entry_that_is_no_event(tmp_path: Path) -> None:
    run_file = write_project(tmp_path)
    write_notebook(tmp_path / "notebooks" / "overview.ipynb", "1", parameters=CLOCK)
    plan = run_file.with_name("plan.yaml")
    plan.write_text(PLAN.replace("    micros:", "    correlation: {entry: vist}\n    micros:"))
    (problem,) = problems(run_file)
    assert problem.startswith("plan.yaml:5: the `entry` of `purchase`: `vist` is neither a conversion of the plan nor")
    assert "Did you mean 'visit'?" in problem
    # It is no fault of a run that starts no such clock.
    write_notebook(tmp_path / "notebooks" / "overview.ipynb", "1")
    assert [warning.partition(" is ")[0] for warning in find_warnings(prepare_run(run_file))] == [
        f"{run_file.parent}/{problem.partition(' is ')[0]}"
    ]


def test_prepare_run_refuses_a_period_without_events(tmp_path: Path) -> None:
    run_file = write_project(tmp_path, run=RUN.replace("2024", "2023"))
    assert problems(run_file) == [
        "weekly.yaml:6: `period` is 2023-03-01 to 2023-03-10, in which the log has no event; it has events from "
        "2024-03-01 to 2024-03-31. Choose days among these."
    ]


def test_prepare_run_says_that_the_events_are_missing(tmp_path: Path) -> None:
    run_file = write_project(tmp_path, overview=TAKEAWAYS)
    (tmp_path / "data" / "events.csv").unlink()
    (problem,) = problems(run_file)
    assert "data/events.csv" in problem


@pytest.mark.parametrize("run", ["", "notebooks: {tests: {experiment: [form, page, form]}, visits: }\n"])
def test_prepare_run_makes_a_report_for_each_experiment(tmp_path: Path, run: str) -> None:
    preparation = prepare_run(write_experiments(tmp_path, run))
    titles = {each.name: each.title for each in preparation.notebooks.templates}
    assert titles == {"tests_form": "Tests: Shorter form", "tests_page": "Tests: Page", "visits": "Visits"}
    assert preparation.notebooks.parameters == {
        "tests_form": {"experiment": "form"},
        "tests_page": {"experiment": "page"},
        "visits": {},
    }
    template = preparation.notebooks.templates[1]
    assert preparation.fill(template, segment="all", tables=tmp_path)["experiment"] == "page"


def test_prepare_run_makes_one_report_for_an_experiment_named_for_all(tmp_path: Path) -> None:
    preparation = prepare_run(write_experiments(tmp_path, "parameters: {experiment: page}\n"))
    assert [each.name for each in preparation.notebooks.templates] == ["tests_page", "visits"]


def test_prepare_run_names_every_unknown_experiment(tmp_path: Path) -> None:
    run_file = write_experiments(tmp_path, "notebooks: {tests: {experiment: [fom, pge]}}\n")
    known = "the plan's experiments are 'form', 'page'"
    assert problems(run_file) == [
        f"weekly.yaml:7: `experiment` is 'fom'; {known}. Did you mean 'form'?",
        f"weekly.yaml:7: `experiment` is 'pge'; {known}. Did you mean 'page'?",
    ]


def test_prepare_run_refuses_an_experiment_that_is_no_text(tmp_path: Path) -> None:
    run_file = write_experiments(tmp_path, "notebooks: {tests: {experiment: [form, 7]}}\n")
    assert problems(run_file) == ["weekly.yaml:7: parameter `experiment` of tests is 7; it must be text, such as 'x'."]


def test_prepare_run_leaves_the_notebook_out_of_a_plan_without_experiments(tmp_path: Path) -> None:
    run_file = write_experiments(tmp_path, "")
    plan = tmp_path / "params" / "plan.yaml"
    plan.write_text(PLAN)
    assert [each.name for each in prepare_run(run_file).notebooks.templates] == ["visits"]
    run_file.write_text(RUN + "notebooks: [tests]\n")
    assert problems(run_file) == ["weekly.yaml:7: the plan has no `experiments` to report on. Add one."]


def test_prepare_run_finds_every_column_that_an_experiment_lacks(tmp_path: Path) -> None:
    run_file = write_experiments(tmp_path, "notebooks: {tests: {experiment: [form, page]}}\nrun_segments: [none]\n")
    plan = tmp_path / "params" / "plan.yaml"
    plan.write_text(plan.read_text().replace("device_type", "form_test", 1).replace("device_type", "devic_type"))
    first, second, third = problems(run_file)
    columns = "Its columns are event_name, timestamp, user_id, session_id, land, device_type."
    lacks = "which the log does not have."
    assert first == f"plan.yaml:8: the experiment 'form' reads the column `form_test`, {lacks} {columns}"
    assert second == (
        f"plan.yaml:9: the experiment 'page' reads the column `devic_type`, {lacks} Did you mean 'device_type'? "
        f"{columns}"
    )
    assert third.startswith("weekly.yaml:8: There is no segment `none`.")
    run_file.write_text(RUN + "notebooks: [visits]\n")
    assert prepare_run(run_file).notes == ()


def test_prepare_run_leaves_out_an_experiment_that_has_not_begun(tmp_path: Path) -> None:
    run_file = write_experiments(tmp_path, "", second="2024-04-01")
    plan = tmp_path / "params" / "plan.yaml"
    before, _, after = plan.read_text().rpartition("device_type")
    plan.write_text(f"{before}page_test{after}")  # a column that nobody could write yet
    preparation = prepare_run(run_file)
    assert [each.name for each in preparation.notebooks.templates] == ["tests_form", "visits"]
    assert preparation.notes == (
        "tests_page is left out: the experiment begins on 2024-04-01, after the end of the data.",
    )


def test_prepare_run_takes_the_end_of_the_data_in_the_zone_of_the_notebook(tmp_path: Path) -> None:
    zone = "notebooks: {tests: {experiment: page, timezone: %s}}\n"
    run_file = write_experiments(tmp_path, zone % "Pacific/Kiritimati", second="2024-04-01")
    # The last event, on 31 March at 10:00 UTC, is on 1 April there.
    assert prepare_run(run_file).notes == ()
    run_file.write_text(RUN + zone % "UTC")
    assert prepare_run(run_file).notes == (
        "tests_page is left out: the experiment begins on 2024-04-01, after the end of the data.",
        "No notebook is left, so the run makes no report.",
    )
    run_file.write_text(RUN + zone % "Pacific/Kiritimat")
    (problem,) = problems(run_file)
    assert problem.startswith("weekly.yaml: `timezone` is 'Pacific/Kiritimat'")


def test_name_folders_are_safe_and_distinct() -> None:
    folders = name_folders(["all", "geo=São Paulo", "geo=são paulo", "source=../../x", "source=<b>", "geo=…"])
    assert list(folders.values())[:2] == ["all", "geo-São-Paulo"]
    assert folders["geo=são paulo"].startswith("geo-são-paulo-")
    assert folders["source=../../x"] == "source-..-..-x"
    assert folders["source=<b>"] == "source-b"
    assert len({folder.casefold() for folder in folders.values()}) == 6


def test_name_folders_leaves_those_of_audiences_and_of_what_is_private() -> None:
    folders = name_folders(["audiences", "Private", "index"])
    assert folders["audiences"].startswith("audiences-")
    assert folders["Private"].startswith("Private-")
    assert folders["index"] == "index"


def test_prepare_run_takes_another_period(tmp_path: Path) -> None:
    days = (dt.date(2024, 3, 2), dt.date(2024, 3, 3))
    assert prepare_run(write_project(tmp_path), period=days).period == days
    with pytest.raises(RunError) as caught:
        prepare_run(tmp_path / "params" / "weekly.yaml", period=(dt.date(2025, 1, 1), dt.date(2025, 1, 7)))
    assert str(caught.value) == (
        "--period: `period` is 2025-01-01 to 2025-01-07, in which the log has no event; it has events from 2024-03-01 "
        "to 2024-03-31. Choose days among these."
    )


def test_prepare_run_refuses_data_that_end_too_long_ago(tmp_path: Path) -> None:
    run_file = write_project(tmp_path, run=RUN + "fresh: 3D\n")
    prepare_run(run_file, now=dt.datetime(2024, 4, 3, 10, tzinfo=dt.UTC))
    with pytest.raises(RunError, match=r"weekly.yaml:7: the data end on 2024-03-31 10:00 UTC, 3.1 days ago"):
        prepare_run(run_file, now=dt.datetime(2024, 4, 3, 12, tzinfo=dt.UTC))


def test_prepare_run_refuses_an_audience_that_the_plan_does_not_know(tmp_path: Path) -> None:
    run = RUN + "audiences: {'owner:growth': {}}\n"
    assert problems(write_project(tmp_path, run=run)) == [
        "weekly.yaml:7: 'growth' owns nothing in the plan. The plan names no `owner`."
    ]


def test_list_audiences_gives_a_stakeholder_its_own_segments_and_notebooks(tmp_path: Path) -> None:
    run = RUN + "audiences: {stakeholder: {segments: [all], notebooks: [b], fewest: 2}}\n"
    preparation = prepare_run(write_project(tmp_path, run=run, a="1", b="1"))
    listed = [
        (audience, segments, [template.name for template in templates])
        for audience, segments, templates in preparation.list_audiences()
    ]
    assert listed == [("", ["all", "device=desktop", "device=mobile"], ["a", "b"]), ("stakeholder", ["all"], ["b"])]
    template = preparation.notebooks.templates[1]
    for audience, fewest in (("", 0), ("stakeholder", 2)):
        filled = preparation.fill(template, segment="all", tables=tmp_path, audience=audience)
        assert filled["fewest"] == fewest


def test_list_audiences_leaves_out_segments_that_are_too_small(tmp_path: Path) -> None:
    preparation = prepare_run(write_project(tmp_path, run=RUN + "audiences: {stakeholder: {fewest: 3}}\n"))
    assert preparation.list_audiences()[1][1] == ["all"]


def test_prepare_run_refuses_a_notebook_that_would_show_stakeholders_small_numbers(tmp_path: Path) -> None:
    run_file = write_project(tmp_path, run=RUN + "audiences: {analyst: {}}\n", a="1", b="1")
    write_notebook(tmp_path / "notebooks" / "b.ipynb", "1", parameters=PARAMETERS.replace("fewest: int = 0\n", ""))
    preparation = prepare_run(run_file)
    template = preparation.notebooks.templates[1]
    assert "fewest" not in preparation.fill(template, segment="all", tables=tmp_path)
    run_file.write_text(RUN + "audiences: {analyst: {}, stakeholder: {}}\n")
    assert problems(run_file) == [
        "weekly.yaml:7: the stakeholder gets the notebook notebooks/b.ipynb, which would show small numbers: its "
        "parameters cell lacks `fewest`. Add `fewest: int = 0` there and give it to check_parameters, or name the "
        "stakeholder's `notebooks` without it."
    ]
    run_file.write_text(RUN + "audiences: {stakeholder: {notebooks: [a]}}\n")
    prepare_run(run_file)


def test_prepare_run_refuses_an_audiences_value_that_no_segment_has(tmp_path: Path) -> None:
    audiences = "audiences:\n  analyst:\n    segments:\n      - all\n      - device=mobil\n      - device=desktop\n"
    run_file = write_project(tmp_path, run=RUN + audiences)
    assert problems(run_file) == [
        "weekly.yaml:11: the run has no segment 'device=mobil'. Did you mean 'device=mobile'?"
    ]
    run_file.write_text(RUN + audiences.replace("mobil", "mobile"))
    prepare_run(run_file)
    # A value without any unit in this period is one of the run all the same.
    days = (dt.date(2024, 3, 4), dt.date(2024, 3, 4))
    assert prepare_run(run_file, period=days).segments == {"all": "all", "device=mobile": "device-mobile"}


def test_choose_reports_gives_an_audience_its_own_and_no_other_of_a_like_name(tmp_path: Path) -> None:
    analyst, stakeholder = "segments: [device], notebooks: [a]", "segments: [device=mobile], fewest: 1"
    audiences = f"audiences: {{analyst: {{{analyst}}}, stakeholder: {{{stakeholder}}}}}\n"
    preparation = prepare_run(write_project(tmp_path, run=RUN + audiences, a="1", a_b2b="1"))
    reports = [
        Report(segment, notebook, "", "", {}, "", "", "", audience=audience)
        for audience in ("", "stakeholder")
        for segment in ("all", "device=mobile")
        for notebook in ("a", "a_b2b")
    ]
    chosen = {
        name: [(each.audience, each.segment, each.notebook) for each in preparation.choose_reports(name, reports)]
        for name in ("analyst", "stakeholder")
    }
    assert chosen == {
        "analyst": [("", "device=mobile", "a")],
        "stakeholder": [("stakeholder", "device=mobile", "a"), ("stakeholder", "device=mobile", "a_b2b")],
    }
