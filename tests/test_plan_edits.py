import datetime as dt
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from small_logs import make_plan

from convlib.errors import PlanError
from convlib.plan import Plan, read_plan
from convlib.plan_edits import PlanEdit, TargetChange, edit_targets
from convlib.plan_entries import Loss

PLAN = """\
macros:
  - id: buy               # what pays
    match: {event_name: buy}
    target: 0.20
    micros:
      - id: cart
        match: {event_name: cart}
        stage: decision
        kind: process_milestone
        target: {value: 0.50, by: 2026-09-30}   # asked for by sales
"""
LAST = dt.date(2027, 3, 31)


def change(
    plan: Plan,
    conversion: str = "buy",
    *,
    place: int | None = None,
    value: float | None = None,
    by: dt.date | None = None,
    reason: str = "met in each of the last 4 months",
) -> TargetChange:
    entry = plan[conversion]
    assert not isinstance(entry, Loss)
    holder = entry if place is None else entry.metrics[place]
    return TargetChange(conversion, place, holder.name, holder.target, value, by, reason)


def raise_target(folder: Path, text: str, value: float) -> PlanEdit:
    plan = make_plan(folder, text)
    return edit_targets(plan, [change(plan, value=value)])


def test_edit_targets_changes_only_the_number_and_says_why(tmp_path: Path) -> None:
    edit = raise_target(tmp_path, PLAN, 0.44)
    assert edit.after == PLAN.replace("0.20\n", "0.44  # was 0.2: met in each of the last 4 months\n")
    assert (edit.before, edit.by_hand) == (PLAN, ())
    assert Path(edit.path).read_text("utf-8") == PLAN
    edit.write()
    assert Path(edit.path).read_text("utf-8") == edit.after


def test_edit_targets_changes_number_and_date_and_keeps_comments(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, PLAN)
    assert edit_targets(plan, [change(plan, "cart", value=0.6, by=LAST, reason="why")]).after == PLAN.replace(
        "{value: 0.50, by: 2026-09-30}   # asked for by sales\n",
        "{value: 0.6, by: 2027-03-31}   # asked for by sales; was 0.5 by 2026-09-30: why\n",
    )
    assert edit_targets(plan, [change(plan, "cart", by=LAST, reason="why")]).after == PLAN.replace(
        "by: 2026-09-30}   # asked for by sales\n",
        "by: 2027-03-31}   # asked for by sales; was by 2026-09-30: why\n",
    )


def test_edit_targets_replaces_what_it_said_before(tmp_path: Path) -> None:
    raise_target(tmp_path, PLAN, 0.44).write()
    plan = read_plan(tmp_path / "plan.yaml")
    assert edit_targets(plan, [change(plan, value=0.66, reason="again")]).after == PLAN.replace(
        "    target: 0.20\n", "    target: 0.66  # was 0.44: again\n"
    )


def test_edit_targets_adds_a_line_where_there_was_no_target(tmp_path: Path) -> None:
    text = PLAN.replace("    target: 0.20\n", "    owner: shop  # and nobody else\n")
    assert raise_target(tmp_path, text, 0.44).after == text.replace(
        "nobody else\n", "nobody else\n    target: 0.44  # proposed: met in each of the last 4 months\n"
    )


def test_edit_targets_fills_an_empty_target_and_those_of_further_metrics(tmp_path: Path) -> None:
    text = """\
macros:
  - id: buy
    match: {event_name: buy}
    target:
    metrics:
      - name: Value
        metric: {type: mean, column: value}
"""
    plan = make_plan(tmp_path, text)
    changes = [change(plan, value=0.44, reason="one"), change(plan, place=0, value=140, reason="two")]
    assert (
        edit_targets(plan, changes).after
        == """\
macros:
  - id: buy
    match: {event_name: buy}
    target: 0.44  # proposed: one
    metrics:
      - name: Value
        metric: {type: mean, column: value}
        target: 140  # proposed: two
"""
    )


def test_edit_targets_keeps_windows_line_ends_and_a_missing_last_one(tmp_path: Path) -> None:
    text = "\ufeffmacros:\r\n- id: buy\r\n  match: {event_name: buy}\r\n  target: 0.20"
    file = tmp_path / "plan.yaml"
    file.write_bytes(text.encode("utf-8"))
    plan = read_plan(file)
    edit_targets(plan, [change(plan, value=0.44, reason="why")]).write()
    assert file.read_bytes().decode("utf-8") == text.replace("0.20", "0.44  # was 0.2: why")


def test_edit_targets_puts_no_comment_into_a_text_that_goes_on(tmp_path: Path) -> None:
    text = "macros: [{id: buy, match: {event_name: buy}, target: 0.20, notes: one\n  two}]\n"
    assert raise_target(tmp_path, text, 0.44).after == text.replace("0.20", "0.44")


def test_edit_targets_joins_the_reasons_of_one_line_and_keeps_other_comments(tmp_path: Path) -> None:
    text = """\
macros:
  - {id: buy, match: {event_name: buy}, target: {value: 0.20, per: {device_type: {mobile: 0.1}}}, \
metrics: [{name: Times, metric: per_unit, target: 2}]}  # was agreed: with sales
"""
    plan = make_plan(tmp_path, text)
    changes = [change(plan, value=0.44, reason="one"), change(plan, place=0, value=1.1, reason="two")]
    assert edit_targets(plan, changes).after == text.replace("0.20", "0.44").replace(
        "target: 2", "target: 1.1"
    ).replace("with sales", "with sales; was 0.2: one; was 2: two")


def test_edit_targets_asks_for_a_hand_where_there_is_no_line(tmp_path: Path) -> None:
    edit = raise_target(tmp_path, "macros: [{id: buy, name: Bought, match: {event_name: buy}}]\n", 0.44)
    assert edit.diff == ""
    assert edit.by_hand == (f"{edit.path}:1: `target: 0.44` for Bought",)


@pytest.mark.parametrize("program", [("patch", "-p1", "-i"), ("git", "apply")], ids=["patch", "git apply"])
@pytest.mark.parametrize("end", ["\n", ""], ids=["a last line end", "none"])
def test_plan_edit_diff_is_one_that_programs_apply(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: tuple[str, ...], end: str
) -> None:
    if not shutil.which(program[0]):
        pytest.skip(f"{program[0]} is not installed")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params").mkdir()
    file = Path("params", "plan.yaml")
    file.write_text(PLAN.replace("    target: 0.20\n", "").rstrip() + end, encoding="utf-8")
    plan = read_plan(file)
    edit = edit_targets(plan, [change(plan, value=0.44), change(plan, "cart", value=0.88)])
    (tmp_path / "new.patch").write_text(edit.diff, encoding="utf-8")
    subprocess.run([*program, "new.patch"], check=True, capture_output=True, cwd=tmp_path)
    assert file.read_text("utf-8") == edit.after
    new = read_plan(file)
    assert [new["buy"].target.value, new["cart"].target.value] == [0.44, 0.88]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "{id: buy, match: {event_name: buy}, target: &t 0.20, notes: x}",
            ":1: macros[buy].target is written with a YAML anchor or tag, so it can't be changed safely. Write the "
            "plain value.",
        ),
        (
            "{id: buy, match: {event_name: buy}, value: &t 0.20, target: *t}",
            ":1: macros[buy].target stands under a YAML anchor that is used elsewhere too; changing it would change "
            "both. Write it out.",
        ),
    ],
)
def test_edit_targets_refuses_anchors(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(PlanError) as caught:
        raise_target(tmp_path, f"macros: [{text}]\n", 0.44)
    assert str(caught.value) == f"{tmp_path}/plan.yaml{problem}"


def test_edit_targets_and_write_refuse_a_plan_that_has_changed(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, PLAN)
    edit = edit_targets(plan, [change(plan, value=0.44)])
    make_plan(tmp_path, PLAN.replace("0.20", "0.30"))
    with pytest.raises(PlanError) as since_read:
        edit_targets(plan, [])
    with pytest.raises(PlanError) as since_made:
        edit.write()
    assert str(since_read.value) == f"{plan.path} has changed since it was read. Read it again."
    assert str(since_made.value) == f"{plan.path} has changed since the proposals were made. Make them again."
    assert "target: 0.30" in Path(plan.path).read_text("utf-8")


def test_write_refuses_a_read_only_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    edit = raise_target(tmp_path, PLAN, 0.44)
    monkeypatch.setattr(os, "access", lambda *_: False)  # the superuser may write any file
    with pytest.raises(PlanError) as caught:
        edit.write()
    assert str(caught.value) == f"{edit.path} can't be written: it is read-only. Apply the diff where it can be."
    assert Path(edit.path).read_text("utf-8") == PLAN
