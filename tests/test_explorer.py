"""What the controls choose, the code they give, the segment they save, and what stands where nobody can move them."""

import datetime as dt
from pathlib import Path

import nbformat
import papermill
import pytest
from small_logs import make_log, make_plan, write_rows

import convlib as cv
from convlib import explorer
from convlib.errors import ParamError

PLAN = """\
macros:
  - id: buy
    name: Bought
    match: {event_name: buy}
    micros:
      - {id: visit, name: Visited, match: {event_name: visit}, stage: awareness, kind: process_milestone}
      - {id: cart, name: Put in cart, match: {event_name: add}, stage: decision, kind: process_milestone}
      - {id: wish, name: Wished, match: {event_name: wish}, stage: decision, kind: secondary_action}
"""
SEGMENTS = "# who comes how\ndevice: {by: device}  # each\npaid: {medium: cpc}\nbots: {medium: bot, scope: event}\n"
#: ann and bob come on phones, ann and eve by an advertisement; ann, bob and eve buy, eve after 3 days.
ROWS = """\
ann visit 0h device=phone medium=cpc
ann add 1h device=phone medium=cpc
ann buy 2h device=phone medium=cpc
bob visit 24h device=phone medium=mail
bob add 25h device=phone medium=mail
bob wish 26h device=phone medium=mail
bob buy 27h device=phone medium=mail
eve visit 48h device=desk medium=cpc
eve add 49h device=desk medium=cpc
eve buy 120h device=desk medium=cpc
dan visit 48h device=desk medium=mail
zoe leave 720h device=desk medium=mail
"""


@pytest.fixture
def log(tmp_path: Path) -> cv.EventLog:
    (tmp_path / "segments.yaml").write_text(SEGMENTS, encoding="utf-8")
    return cv.read_events(write_rows(ROWS), plan=make_plan(tmp_path, PLAN), segments=tmp_path / "segments.yaml")


@pytest.fixture
def shown(log: cv.EventLog) -> cv.Explorer:
    assert log.plan
    found = cv.explore(log, log.plan)
    assert found.widget
    return found


def count(shown: cv.Explorer) -> list[int]:
    return [int(units) for units in shown.result.table["units"]]


def page(shown: cv.Explorer) -> str:
    return str(shown._page.value).split("</style>")[1]


def test_explore_begins_with_the_milestones_of_the_first_macro(shown: cv.Explorer) -> None:
    assert shown.choice.steps == ("visit", "cart", "buy")
    assert count(shown) == [4, 3, 3]


def test_explore_refuses_a_log_read_without_the_plan(log: cv.EventLog, tmp_path: Path) -> None:
    with pytest.raises(ParamError, match="The log was read with another plan"):
        cv.explore(log, make_plan(tmp_path, PLAN.replace("Bought", "Sold")))


@pytest.mark.parametrize(
    ("moves", "units"),
    [
        ({"segment": "device=phone"}, [2, 2, 2]),
        ({"segment": "paid"}, [2, 2, 2]),
        ({"segment": "device=phone", "also": "paid"}, [1, 1, 1]),
        ({"also": "device=desk"}, [2, 1, 1]),
        ({"window": "1D"}, [4, 3, 2]),
        ({"start": dt.date(2024, 1, 2)}, [3, 2, 2]),
        ({"end": dt.date(2024, 1, 2)}, [2, 2, 2]),
        ({"start": None}, [4, 3, 3]),
        ({"segment": "bots"}, [0, 0, 0]),
        ({"by": "device"}, [2, 1, 1, 2, 2, 2]),
        ({"segment": "paid", "window": "14D", "start": dt.date(2024, 1, 2), "end": dt.date(2024, 1, 9)}, [1, 1, 1]),
    ],
    ids=str,
)
def test_code_makes_the_table_that_a_move_shows(
    log: cv.EventLog, shown: cv.Explorer, moves: dict[str, object], units: list[int]
) -> None:
    for name, value in moves.items():
        shown.controls[name].value = value
    assert count(shown) == units
    known: dict[str, object] = {"log": log, "cv": cv}
    exec(shown.code, known)
    assert isinstance(known["funnel"], cv.Funnel)
    assert known["funnel"].table.equals(shown.result.table)


def test_code_of_a_log_seen_through_a_rule_and_days_goes_on_from_there(log: cv.EventLog) -> None:
    assert log.plan
    seen = log.segment({"medium": "mail"}).between("2024-01-02", "2024-01-05")
    shown = cv.explore(seen, log.plan)
    assert shown.widget
    assert count(shown) == [2, 1, 1]
    assert shown.controls["segment"].value == "custom"
    assert shown.code.startswith("chosen = log\n")
    shown.controls["end"].value = None
    assert shown.code.startswith("chosen = log.between('2024-01-02', None)\n")


def test_steps_close_gaps_and_keep_an_empty_one(shown: cv.Explorer) -> None:
    assert [each.value for each in shown.steps] == ["visit", "cart", "buy", "(none)"]
    shown.steps[3].value = "leave"
    assert [each.value for each in shown.steps] == ["visit", "cart", "buy", "leave", "(none)"]
    assert count(shown) == [4, 3, 3, 0]
    shown.steps[1].value = "(none)"
    assert [each.value for each in shown.steps] == ["visit", "buy", "leave", "(none)"]
    assert [each.description for each in shown.steps] == ["Step 1", "Step 2", "Step 3", "Step 4"]
    assert shown.choice.steps == ("visit", "buy", "leave")


def test_steps_are_conversions_by_name_and_other_events(shown: cv.Explorer) -> None:
    names = [("(none)", "(none)"), ("Bought", "buy"), ("Visited", "visit"), ("Put in cart", "cart"), ("Wished", "wish")]
    assert list(shown.steps[0].options) == [*names, ("add", "add"), ("leave", "leave")]


def test_an_error_stands_beside_the_last_result(shown: cv.Explorer) -> None:
    before = shown.result
    shown.controls["window"].value = "soon"
    assert shown.result is before
    assert page(shown).startswith(
        '<div role="alert">`window` is &#x27;soon&#x27;; it must be a number and one of the units s, min, h, D, W, '
        'such as &#x27;30min&#x27; or &#x27;7D&#x27;.</div><div class="stale">'
    )
    shown.controls["window"].value = "1D"
    assert "alert" not in page(shown)


def test_a_segment_of_rows_is_not_joined_with_another(shown: cv.Explorer) -> None:
    shown.controls["segment"].value = "paid"
    shown.controls["also"].value = "bots"
    assert (
        "`bots` keeps rows (`scope: event`), so it can&#x27;t be joined with another segment. Choose it alone."
        in page(shown)
    )


def test_every_control_has_a_name(shown: cv.Explorer) -> None:
    assert [each.description for each in shown.widget.children[0].children] == [
        *("Segment", "and also", "Step 1", "Step 2", "Step 3", "Step 4", "Window", "Compare by", "First day"),
        *("Last day", "Save as", "Save segment"),
    ]


def test_the_picture_has_words(shown: cv.Explorer) -> None:
    assert f'alt="{shown.result.takeaways[0]}"' in page(shown)


def test_a_long_table_can_be_sorted_and_loads_nothing(shown: cv.Explorer, monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown._long.outputs == ()
    monkeypatch.setattr(explorer, "LONG_TABLE", 5)
    shown.controls["by"].value = "device"
    (table,), (library,) = shown._long.outputs, shown._library.outputs
    assert "Of the first step, %" in table["data"]["text/html"]
    assert "https://www.unpkg.com" not in table["data"]["text/html"] + library["data"]["text/html"]
    shown.controls["by"].value = ""
    assert shown._long.outputs == ()


def test_save_segment_adds_what_is_chosen_to_the_file(shown: cv.Explorer, tmp_path: Path) -> None:
    shown.controls["segment"].value, shown.controls["also"].value = "device=phone", "paid"
    shown.controls["save_as"].value = "phone paid "
    shown.controls["save"].click()
    path = tmp_path / "segments.yaml"
    assert path.read_text() == f"{SEGMENTS}phone paid: {{device: phone, medium: cpc}}\n"
    assert f"`phone paid` is saved in {path}. Other cells know it once they have read the log again." in page(shown)
    assert shown.controls["segment"].value == "device=phone"
    shown.controls["also"].value = "all"
    shown.controls["segment"].value = "phone paid"
    assert count(shown) == [1, 1, 1]


def test_save_segment_says_why_not(shown: cv.Explorer) -> None:
    shown.save_segment("everyone")
    assert "The segment in use is `all`, which is there already. Choose another one first." in page(shown)
    shown.controls["segment"].value = "paid"
    shown.save_segment("device")
    assert "segments.yaml already. Choose another name." in page(shown)


def test_save_segment_keeps_the_scope(shown: cv.Explorer, tmp_path: Path) -> None:
    shown.controls["segment"].value = "bots"
    shown.save_segment("robots")
    assert (tmp_path / "segments.yaml").read_text().endswith("\nrobots: {medium: bot, scope: event}\n")


def test_without_a_front_end_only_what_can_be_read_is_shown(tmp_path: Path) -> None:
    make_plan(tmp_path, PLAN)
    (tmp_path / "segments.yaml").write_text(SEGMENTS, encoding="utf-8")
    write_rows(ROWS).to_parquet(tmp_path / "events.parquet")
    code = (
        "import convlib as cv\n"
        'plan = cv.read_plan("plan.yaml")\n'
        'cv.explore(cv.read_events("events.parquet", plan=plan, segments="segments.yaml"), plan)'
    )
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, tmp_path / "in.ipynb")
    papermill.execute_notebook(
        tmp_path / "in.ipynb", tmp_path / "out.ipynb", cwd=str(tmp_path), progress_bar=False, log_output=False
    )
    done = nbformat.read(tmp_path / "out.ipynb", as_version=4)
    (output,) = done.cells[0].outputs
    assert sorted(output.data) == ["text/html", "text/plain"]
    assert "<img " in output.data["text/html"]
    assert "takeaways" in output.data["text/html"]
    assert "<table" in output.data["text/html"]
    assert "widgets" not in done.metadata


def test_explore_of_a_plan_without_micros_asks_for_steps(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, "macros: [{id: buy, match: {event_name: buy}}]")
    with pytest.raises(ParamError, match="`steps`"):
        cv.explore(make_log(ROWS, plan), plan)
    assert cv.explore(make_log(ROWS, plan), plan, steps=["visit", "buy"]).result.table["units"].tolist() == [4, 3]
